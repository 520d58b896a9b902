#include "srs/wal_buffer.h"

#include <algorithm>
#include <cstring>

#include "edge/base/errors.h"

namespace edge::srs {

std::byte* WalBuffer::At(uint32_t frame, bool make) {
  std::unique_ptr<std::byte[]>& chunk = chunks_[frame / kChunkFrames];
  if (chunk == nullptr) {
    if (!make) return nullptr;
    chunk = std::make_unique_for_overwrite<std::byte[]>(kChunkFrames * kFrameBytes);
  }
  return chunk.get() + frame % kChunkFrames * kFrameBytes;
}

Status WalBuffer::Write(uint64_t offset, ByteView bytes) {
  const uint64_t end = offset + bytes.size();
  while (!bytes.empty()) {
    size_t count = 0;
    if (offset < kWalHeaderBytes) {
      count = std::min<size_t>(bytes.size(), kWalHeaderBytes - offset);
      std::memcpy(header_ + offset, bytes.data(), count);
    } else {
      const auto frame = static_cast<uint32_t>((offset - kWalHeaderBytes) / kFrameBytes);
      const size_t within = (offset - kWalHeaderBytes) % kFrameBytes;
      if (frame >= memory_frames_max_) {
        if (spill_ == nullptr) {
          EDGE_ASSIGN_OR_RETURN(spill_, files_->Open(spill_path_, OpenMode::kCreateTruncate));
        }
        EDGE_RETURN_IF_ERROR(spill_->WriteAt(offset, bytes));
        break;
      }
      count = std::min(bytes.size(), kFrameBytes - within);
      std::memcpy(At(frame, true) + within, bytes.data(), count);
    }
    offset += count;
    bytes = bytes.subspan(count);
  }
  bytes_ = std::max(bytes_, end);
  return OkStatus();
}

StatusOr<size_t> WalBuffer::Read(uint64_t offset, MutableByteView out) {
  if (offset >= bytes_) return 0;
  out = out.first(std::min<uint64_t>(out.size(), bytes_ - offset));
  size_t done = 0;
  while (done < out.size()) {
    const uint64_t at = offset + done;
    const size_t left = out.size() - done;
    if (at < kWalHeaderBytes) {
      const size_t count = std::min<size_t>(left, kWalHeaderBytes - at);
      std::memcpy(out.data() + done, header_ + at, count);
      done += count;
      continue;
    }
    const auto frame = static_cast<uint32_t>((at - kWalHeaderBytes) / kFrameBytes);
    const size_t within = (at - kWalHeaderBytes) % kFrameBytes;
    if (frame >= memory_frames_max_) {
      if (spill_ == nullptr) return Internal("frame {} was never written", frame);
      EDGE_ASSIGN_OR_RETURN(const size_t got, spill_->ReadAt(at, out.subspan(done)));
      if (got != left) return DataLoss("{}: read {} of {} bytes", spill_path_, got, left);
      return out.size();
    }
    const size_t count = std::min(left, kFrameBytes - within);
    const std::byte* from = At(frame, false);
    if (from == nullptr) return Internal("frame {} was never written", frame);
    std::memcpy(out.data() + done, from + within, count);
    done += count;
  }
  return done;
}

void WalBuffer::Clear() {
  for (auto& chunk : chunks_) chunk.reset();
  if (spill_ != nullptr) {
    spill_.reset();
    files_->Remove(spill_path_).IgnoreError();  // leftovers go when the relay opens
  }
  bytes_ = 0;
}

const std::byte* WalBuffer::PageInMemory(uint32_t frame) const {
  if (frame >= memory_frames_max_) return nullptr;
  return chunks_[frame / kChunkFrames].get() + frame % kChunkFrames * kFrameBytes +
         kFrameHeaderBytes;
}

Status WalBuffer::ReadPage(uint32_t frame, std::byte* out) {
  if (const std::byte* page = PageInMemory(frame)) {
    std::memcpy(out, page, kPageBytes);
    return OkStatus();
  }
  const uint64_t at = kWalHeaderBytes + uint64_t{frame} * kFrameBytes + kFrameHeaderBytes;
  EDGE_ASSIGN_OR_RETURN(const size_t got, spill_->ReadAt(at, {out, kPageBytes}));
  if (got == kPageBytes) return OkStatus();
  return DataLoss("{}: cut off at {}", spill_path_, at + got);
}

StatusOr<uint32_t> WalBuffer::PageNumber(uint32_t frame) {
  std::byte raw[4];
  EDGE_ASSIGN_OR_RETURN(const size_t got,
                        Read(kWalHeaderBytes + uint64_t{frame} * kFrameBytes, raw));
  if (got != 4) return Internal("frame {} is cut off", frame);
  return std::to_integer<uint32_t>(raw[0]) << 24 | std::to_integer<uint32_t>(raw[1]) << 16 |
         std::to_integer<uint32_t>(raw[2]) << 8 | std::to_integer<uint32_t>(raw[3]);
}

}  // namespace edge::srs
