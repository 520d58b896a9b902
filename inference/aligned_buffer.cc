#include "inference/aligned_buffer.h"

#include <sys/mman.h>

#include "edge/base/errors.h"

namespace edge::inference {

AlignedBuffer::~AlignedBuffer() {
  if (data_ != nullptr) munmap(data_, size_);
}

StatusOr<AlignedBuffer> AlignedBuffer::Create(size_t bytes, const char* what) {
  AlignedBuffer buffer;
  if (bytes == 0) return buffer;
  void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) return ResourceExhausted("{}: the system has no {} bytes", what, bytes);
  buffer.data_ = static_cast<std::byte*>(at);
  buffer.size_ = bytes;
  if (bytes >= size_t{4} << 20) madvise(at, bytes, MADV_HUGEPAGE);  // a wish, not a need
  return buffer;
}

}  // namespace edge::inference
