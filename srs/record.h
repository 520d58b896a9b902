// srs/record.h - one commit of one database as bytes: what the journal and the packs carry.
//
// A record holds, for each page that the commit changed, the whole page, the byte runs in
// which it differs from the version before, or "all zero". Its `post` is the hash of the
// whole database after the commit: the exclusive or of the hashes of all pages, so it is
// kept up to date from the changed pages alone. Its `chain` also covers everything before.
// Byte table: docs/formats/journal.md, "record".
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "edge/base/bytes.h"
#include "edge/base/checksum.h"
#include "edge/base/status.h"
#include "edge/srs/relay.h"

namespace edge::srs {

inline constexpr size_t kPageBytes = 4096;
// The largest database: SQLite's own limit on page numbers.
inline constexpr uint32_t kPagesMax = 0xfffffffe;

struct alignas(16) Page {
  std::byte bytes[kPageBytes];
};
inline ByteView View(const Page& page) {
  return {page.bytes, kPageBytes};
}

// A page of zeros counts as absent: its hash is zero. SQLite may grow a database by pages
// that it never writes; they read as zeros.
bool IsZero(const std::byte* page);
Hash128 PageHash(uint32_t pgno, const std::byte* page);

// Everything that identifies a moment of a database.
struct State {
  uint32_t epoch = 1;  // grows when a deleted name is used again
  Lsn lsn = 0;
  uint32_t pages = 0;
  int64_t wall_ms = 0;
  Hash128 chain;
  Hash128 post;
};

// Page 1 of a new database: an empty schema in WAL mode. State before the first commit.
const Page& EmptyDatabasePage();
State EmptyState(std::string_view name, uint32_t epoch);

// epoch-lsn_high-lsn_low-chain in hex digits 8-8-8-32: sorts in order of commits.
std::string FormatBookmark(const State& state);
struct Bookmark {
  uint32_t epoch = 0;
  Lsn lsn = 0;
  Hash128 chain;
};
StatusOr<Bookmark> ParseBookmark(std::string_view text);  // InvalidArgument

// Appends records to a reused buffer: no allocation once that has grown.
class RecordBuilder {
 public:
  void Begin(Lsn lsn, int64_t wall_ms, uint32_t pages, uint32_t frame_count);
  // In ascending order of pgno. `before` null: the version before was all zero.
  void Add(uint32_t pgno, const std::byte* before, const std::byte* after);
  // `*chain` is the chain before, then after this record.
  void Finish(const Hash128& post, Hash128* chain);
  ByteView bytes() const { return out_; }

 private:
  Bytes out_;
  uint32_t last_pgno_ = 0;
};

enum class FrameKind : uint8_t { kZero = 0, kFull = 1, kDiff = 2 };

struct FrameView {
  uint32_t pgno;
  FrameKind kind;
  ByteView content;  // the page; or runs of {gap, length, bytes}
  // Turns the page before into the page after, in place.
  void ApplyTo(std::byte* page) const;
};

// Borrows the bytes that it was parsed from.
struct RecordView {
  Lsn lsn = 0;
  int64_t wall_ms = 0;
  uint32_t pages = 0;
  std::vector<FrameView> frames;
  Hash128 post;
  Hash128 chain;  // computed from the chain before
};

// Checks all lengths and ranges, and the stored chain against `chain_before`: DataLoss.
StatusOr<RecordView> ParseRecord(ByteView bytes, const Hash128& chain_before);

// Where records are replayed: pages of a database at one moment. Single-threaded.
class PageImage {
 public:
  virtual ~PageImage() = default;
  // Zeros where nothing was written.
  virtual Status ReadPage(uint32_t pgno, std::byte* out) = 0;
  virtual Status WritePage(uint32_t pgno, const std::byte* page, const Hash128& hash) = 0;
  // Pages above `pages` become zero.
  virtual Status Resize(uint32_t pages) = 0;
};

// Replays one record on `image` and `state`, checking that it is the next and that the hash
// of the database is then what the record says: DataLoss (the image is then of no use).
Status ApplyRecord(const RecordView& record, PageImage* image, State* state);

}  // namespace edge::srs
