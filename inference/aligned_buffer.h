// inference/aligned_buffer.h - zeroed memory from the system, for weights and caches.
//
// Pages are taken on first use, so reserving costs nothing, and large pages are asked for:
// streaming weights through 4 KiB pages spends a good part of the time on page tables.
#pragma once
#include <cstddef>
#include <cstdint>
#include <utility>

#include "edge/base/status.h"

namespace edge::inference {

class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  AlignedBuffer(AlignedBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  AlignedBuffer& operator=(AlignedBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~AlignedBuffer();
  // ResourceExhausted, naming `what`, if the system has not that much.
  static StatusOr<AlignedBuffer> Create(size_t bytes, const char* what);

  std::byte* data() const { return data_; }  // 4096-byte aligned; null if empty
  size_t size() const { return size_; }
  template <typename T>
  T* as(size_t byte_offset = 0) const {
    return reinterpret_cast<T*>(data_ + byte_offset);
  }

 private:
  std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace edge::inference
