// srs/wal_buffer.h - SQLite's write-ahead log of one database, in memory.
//
// SQLite writes frames of 24 + 4096 bytes behind a header of 32 and reads them back by
// offset; frames of one transaction may be written again in place (cache spill, savepoints).
// The first frames live in memory, those of a huge transaction in a temporary file.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "edge/base/file_system.h"
#include "srs/record.h"

namespace edge::srs {

inline constexpr size_t kWalHeaderBytes = 32;
inline constexpr size_t kFrameHeaderBytes = 24;
inline constexpr size_t kFrameBytes = kFrameHeaderBytes + kPageBytes;

// Single-threaded, but ReadPage() of frames that no Write() touches at the time.
class WalBuffer {
 public:
  // Frames from `memory_frames_max` on go to a file at `spill_path`.
  WalBuffer(FileSystem* files, std::string spill_path, size_t memory_frames_max)
      : files_(files), spill_path_(std::move(spill_path)), memory_frames_max_(memory_frames_max) {
    chunks_.resize((memory_frames_max + kChunkFrames - 1) / kChunkFrames);
  }

  ~WalBuffer() { Clear(); }

  Status Write(uint64_t offset, ByteView bytes);
  // Short at the end of the log.
  StatusOr<size_t> Read(uint64_t offset, MutableByteView out);
  uint64_t bytes() const { return bytes_; }
  void Truncate(uint64_t bytes) { bytes_ = bytes; }
  // Gives the memory back.
  void Clear();

  // The frame's page where it lies, or null if it is in the file.
  const std::byte* PageInMemory(uint32_t frame) const;
  // Of a frame that has been written.
  Status ReadPage(uint32_t frame, std::byte* out);
  StatusOr<uint32_t> PageNumber(uint32_t frame);

 private:
  static constexpr size_t kChunkFrames = 8;
  std::byte* At(uint32_t frame, bool make);

  FileSystem* const files_;
  const std::string spill_path_;
  const size_t memory_frames_max_;
  std::byte header_[kWalHeaderBytes] = {};
  std::vector<std::unique_ptr<std::byte[]>> chunks_;  // never moves
  std::unique_ptr<File> spill_;
  uint64_t bytes_ = 0;
};

}  // namespace edge::srs
