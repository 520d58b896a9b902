// srs/block_log.h - checksummed blocks in numbered files: what journals are made of.
//
// Each block is one write with O_DIRECT | O_DSYNC and is durable before the next begins, so
// after a crash at most the newest is torn. Files grow in steps up to their size, then the
// next begins; old ones are recycled. A file in which a write has failed is never written
// again: what it holds is unknown for good. Byte tables: docs/formats/journal.md.
#pragma once
#include <compare>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "edge/base/bytes.h"
#include "edge/base/callback.h"
#include "edge/base/clock.h"
#include "edge/base/file_system.h"
#include "edge/base/mutex.h"
#include "edge/base/random.h"
#include "edge/base/status.h"

namespace edge::srs {

inline constexpr size_t kJournalBlockAlign = 4096;
inline constexpr size_t kBlockHeaderBytes = 40;

// A place between two blocks. Ordered as the log is.
struct JournalPosition {
  uint64_t file = 0;
  uint64_t offset = 0;
  friend auto operator<=>(const JournalPosition&, const JournalPosition&) = default;
};

// Page-aligned memory for direct writes, with room for the block header in front of the
// payload. Reused: it keeps what it has grown to. Thread-compatible.
class BlockBuffer {
 public:
  BlockBuffer() = default;
  ~BlockBuffer();
  BlockBuffer(const BlockBuffer&) = delete;
  BlockBuffer& operator=(const BlockBuffer&) = delete;

  size_t payload_bytes() const { return size_ - kBlockHeaderBytes; }
  ByteView payload() const {
    return payload_bytes() == 0 ? ByteView{} : ByteView{data_ + kBlockHeaderBytes, payload_bytes()};
  }
  size_t capacity() const { return capacity_; }
  void Clear() { size_ = kBlockHeaderBytes; }
  std::byte* Extend(size_t count) {
    if (size_ + count > capacity_) Grow(size_ + count);
    size_ += count;
    return data_ + size_ - count;
  }
  void Put(ByteView bytes) {
    if (!bytes.empty()) std::memcpy(Extend(bytes.size()), bytes.data(), bytes.size());
  }
  void U8(uint8_t value) { *Extend(1) = std::byte{value}; }
  void Varint(uint64_t value) {
    for (; value >= 0x80; value >>= 7) *Extend(1) = static_cast<std::byte>(value | 0x80);
    *Extend(1) = static_cast<std::byte>(value);
  }
  template <typename T>
  void Fixed(T value) {
    StoreLittle(Extend(sizeof(T)), value);
  }

 private:
  friend class BlockLog;
  void Grow(size_t needed);
  std::byte* data_ = nullptr;
  size_t size_ = kBlockHeaderBytes;
  size_t capacity_ = 0;
};

struct BlockLogOptions {
  FileSystem* files;
  Clock* clock;
  Random* random;
  std::string directory;  // exists
  uint64_t file_bytes;
};

// Write() by one thread at a time; the rest is thread-safe.
class BlockLog {
 public:
  using Visitor = Callback<Status(ByteView payload, const JournalPosition& block)>;

  // Hands out every block there is, in order, then starts a new file. DataLoss: damage
  // before a later good block, or damage in the last one that no torn write can explain.
  static StatusOr<std::unique_ptr<BlockLog>> Open(BlockLogOptions options, Visitor recovered);
  ~BlockLog();

  uint64_t id() const { return id_; }

  // Durable when OK. Returns where the block is. After an error nothing is known to be
  // written, and the next call may be tried: it goes to another file.
  StatusOr<JournalPosition> Write(BlockBuffer* block);
  // An empty block: with it behind the newest one, any damage there is seen for what it is.
  void WriteEnd();

  JournalPosition begin() const;
  JournalPosition end() const;  // of what is durable
  // Hands out whole blocks from `from` until `until` or until `bytes_max` of blocks have been
  // read (at least one). Returns where it stopped.
  StatusOr<JournalPosition> Read(JournalPosition from, JournalPosition until, uint64_t bytes_max,
                                 Visitor visit);
  uint64_t BytesBetween(JournalPosition from, JournalPosition to) const;

  size_t file_count() const;
  // The oldest file and where it ends; nothing while it is the only one.
  std::optional<JournalPosition> OldestFull() const;
  // Frees the oldest file. False: its name could not be removed for good, try later. By one
  // thread at a time.
  bool FreeOldest();

 private:
  struct LogFile {
    std::string path;
    uint64_t end = kJournalBlockAlign;  // where its log ends, so far
    bool abandoned = false;             // a write into it has failed
  };
  struct Scan;
  struct Found;
  explicit BlockLog(BlockLogOptions options) : options_(std::move(options)) {}
  StatusOr<std::vector<Found>> FindFiles();
  Status Recover(Visitor& recovered);
  Status RecoverFile(Scan* scan, uint64_t seq, uint64_t end, Visitor& recovered);
  Status CheckTail(Scan* scan, const Found& last);
  Status StartFile(size_t block_bytes);
  Status MakeFile(const std::string& path, size_t block_bytes);
  Status GrowFile(uint64_t needed);
  Status WriteHeader();
  std::string PathOf(uint64_t file) const;

  const BlockLogOptions options_;
  uint64_t id_ = 0;

  mutable Mutex mu_;
  std::map<uint64_t, LogFile> files_ ABSL_GUARDED_BY(mu_);
  JournalPosition end_ ABSL_GUARDED_BY(mu_);
  std::vector<std::string> spares_ ABSL_GUARDED_BY(mu_);
  std::vector<std::string> attempts_ ABSL_GUARDED_BY(mu_);  // files that were not begun well

  bool is_unsynced_ = false;  // FreeOldest's own

  // The writer's own.
  struct FileHeader {
    uint64_t journal_id = 0;
    uint64_t seq = 0;
    uint64_t allocated_bytes = 0;
    uint64_t prev_seq = 0;  // 0: the first
    uint64_t prev_end = 0;  // where the log ends in that file
    uint64_t first_block = 0;
    uint32_t prev_crc = 0;  // of the block before
    int64_t wall_ms = 0;
    bool is_recycled = false;
    void Encode(MutableByteView out) const;
    bool Decode(MutableByteView in);
  };
  std::unique_ptr<File> file_;
  FileHeader header_;         // of file_
  uint64_t file_limit_ = 0;   // file_ may grow to this
  uint64_t newest_file_ = 0;  // numbers up to here have been used, if only by an attempt
  uint64_t file_seq_ = 0;
  uint64_t offset_ = 0;
  uint64_t next_block_ = 1;
  uint32_t last_crc_ = 0;
};

}  // namespace edge::srs
