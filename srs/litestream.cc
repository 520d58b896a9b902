#include "srs/litestream.h"

#include <algorithm>
#include <array>
#include <utility>

#include "edge/base/errors.h"

namespace edge::srs {
namespace {

constexpr uint32_t kNoChecksums = 2;  // of the whole database: we have our own
constexpr uint16_t kHasSize = 1;      // of the page's block
constexpr uint32_t kLockPage = (1u << 30) / kPageBytes + 1;  // SQLite never uses it
constexpr size_t kWriteBytes = 1 << 20;

// CRC-64 of ISO 3309, reflected.
class Crc64 {
 public:
  void Add(ByteView bytes) {
    for (const std::byte b : bytes) {
      value_ = kTable[(value_ ^ std::to_integer<uint64_t>(b)) & 0xff] ^ (value_ >> 8);
    }
  }
  uint64_t value() const { return ~value_; }

 private:
  static constexpr std::array<uint64_t, 256> kTable = [] {
    std::array<uint64_t, 256> table{};
    for (uint64_t i = 0; i < 256; ++i) {
      uint64_t crc = i;
      for (int bit = 0; bit < 8; ++bit) {
        crc = (crc & 1) != 0 ? (crc >> 1) ^ 0xD800000000000000 : crc >> 1;
      }
      table[i] = crc;
    }
    return table;
  }();
  uint64_t value_ = ~uint64_t{0};
};

void PutBig(uint64_t value, int bytes, Bytes* out) {
  for (int i = bytes - 1; i >= 0; --i) out->push_back(std::byte(value >> (8 * i)));
}

// An LZ4 block that is one run of literals.
void PutLiterals(ByteView page, Bytes* out) {
  size_t left = page.size() - 15;
  out->push_back(std::byte{0xf0});
  for (; left >= 255; left -= 255) out->push_back(std::byte{255});
  out->push_back(std::byte(left));
  out->insert(out->end(), page.begin(), page.end());
}

class Writer {
 public:
  explicit Writer(File* file) : file_(file) {}
  // `hashed` is what the checksum covers instead of `bytes`.
  Status Put(ByteView bytes, ByteView hashed) {
    crc_.Add(hashed);
    buffer_.insert(buffer_.end(), bytes.begin(), bytes.end());
    return buffer_.size() >= kWriteBytes ? Flush() : OkStatus();
  }
  Status Put(ByteView bytes) { return Put(bytes, bytes); }
  Status Flush() {
    EDGE_RETURN_IF_ERROR(file_->WriteAt(flushed_, buffer_));
    flushed_ += buffer_.size();
    buffer_.clear();
    return OkStatus();
  }
  uint64_t offset() const { return flushed_ + buffer_.size(); }
  uint64_t checksum() const { return crc_.value() | uint64_t{1} << 63; }

 private:
  File* const file_;
  Crc64 crc_;
  Bytes buffer_;
  uint64_t flushed_ = 0;
};

Status WriteLtx(File* file, const State& state, PageImage* image) {
  Writer out(file);
  Bytes bytes = ToBytes("LTX1");
  PutBig(kNoChecksums, 4, &bytes);
  PutBig(kPageBytes, 4, &bytes);
  PutBig(state.pages, 4, &bytes);
  PutBig(1, 8, &bytes);  // first transaction: a snapshot
  PutBig(std::max<Lsn>(state.lsn, 1), 8, &bytes);
  PutBig(static_cast<uint64_t>(state.wall_ms), 8, &bytes);
  bytes.resize(100);
  EDGE_RETURN_IF_ERROR(out.Put(bytes));
  Bytes index;
  ByteWriter entries(&index);
  Page page;
  for (uint32_t pgno = 1; pgno <= state.pages; ++pgno) {
    if (pgno == kLockPage) continue;
    EDGE_RETURN_IF_ERROR(image->ReadPage(pgno, page.bytes));
    const uint64_t start = out.offset();
    Bytes block;
    PutLiterals(View(page), &block);
    bytes.clear();
    PutBig(pgno, 4, &bytes);
    PutBig(kHasSize, 2, &bytes);
    PutBig(block.size(), 4, &bytes);
    EDGE_RETURN_IF_ERROR(out.Put(bytes));
    EDGE_RETURN_IF_ERROR(out.Put(block, View(page)));
    entries.Varint(pgno);
    entries.Varint(start);
    entries.Varint(out.offset() - start);
  }
  entries.Varint(0);
  EDGE_RETURN_IF_ERROR(out.Put(Bytes(6)));  // no more pages
  EDGE_RETURN_IF_ERROR(out.Put(index));
  bytes.clear();
  PutBig(index.size(), 8, &bytes);
  PutBig(0, 8, &bytes);  // no checksum of the database
  EDGE_RETURN_IF_ERROR(out.Put(bytes));
  bytes.clear();
  PutBig(out.checksum(), 8, &bytes);
  EDGE_RETURN_IF_ERROR(out.Put(bytes));
  EDGE_RETURN_IF_ERROR(out.Flush());
  return file->Sync();
}

}  // namespace

Status WriteLitestream(FileSystem& files, const std::string& folder, const State& state,
                       PageImage* image) {
  const std::string level = folder + "/ltx/9";
  EDGE_RETURN_IF_ERROR(files.MakeDirectories(level));
  const std::string path =
      Format("{}/{:016x}-{:016x}.ltx", {level, 1, std::max<Lsn>(state.lsn, 1)});
  {
    EDGE_ASSIGN_OR_RETURN(auto file, files.Open(path + ".tmp", OpenMode::kCreateTruncate));
    EDGE_RETURN_IF_ERROR(WriteLtx(file.get(), state, image));
  }
  EDGE_RETURN_IF_ERROR(files.Rename(path + ".tmp", path));
  return files.SyncDirectory(level);
}

}  // namespace edge::srs
