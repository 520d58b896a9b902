// srs/pack.h - the one kind of object in the store: log and pages of many databases.
//
// A pack is a header, compressed sections, a directory of them and a footer. Each section is
// a run of one database's records, a part of a snapshot of one (in groups of pages that can
// be read one by one), or the note that it was deleted or forked. Every byte is under a checksum,
// sections lie gapless: any flipped byte or lost end is found before a page is restored. Byte
// tables: docs/formats/pack.md, snapshot.md.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "edge/base/bytes.h"
#include "edge/base/callback.h"
#include "edge/base/status.h"
#include "srs/journal.h"
#include "srs/record.h"

namespace edge::srs {

inline constexpr size_t kPackHeaderBytes = 80;
inline constexpr size_t kPackFooterBytes = 32;
inline constexpr size_t kSectionLogBytes = 4 << 20;  // a log section is closed above this
inline constexpr uint32_t kSectionPages = 4096;      // pages in a part of a snapshot
inline constexpr uint32_t kGroupPages = 64;          // pages that are compressed together
inline constexpr uint64_t kSectionRawBytesMax = 256 << 20;

struct PackHeader {
  uint64_t journal_id = 0;
  uint64_t seq = 0;
  JournalPosition from;  // what of the journal is in it
  JournalPosition to;
  int64_t wall_ms = 0;
};

enum class SectionKind : uint8_t { kLog = 1, kPages = 2, kDelete = 3, kFork = 4 };

struct Section {
  SectionKind kind = SectionKind::kLog;
  std::string name;
  uint64_t offset = 0;  // in the pack
  uint64_t bytes = 0;   // compressed
  uint64_t raw_bytes = 0;
  uint32_t crc = 0;  // of the compressed bytes
  // kLog: after its last record. kPages: of the snapshot. kDelete: epoch and lsn. kFork: of
  // the new database, which is the parent's at that commit.
  State state;
  // kLog:
  Lsn first_lsn = 0;
  int64_t first_wall_ms = 0;
  Hash128 chain_before;
  // kPages: which part of how many.
  uint32_t part = 0;
  uint32_t part_count = 0;
  // kFork:
  std::string parent;
  uint32_t parent_epoch = 0;
};

// Single-threaded.
class PackWriter {
 public:
  explicit PackWriter(const PackHeader& header);
  void SetHeader(const PackHeader& header);
  // Takes the section's other fields as they are; compresses `raw`. ResourceExhausted.
  Status Add(Section section, ByteView raw);
  // A section compressed before, with bytes, raw_bytes and crc set.
  void AddCompressed(Section section, ByteView compressed);
  size_t section_count() const { return sections_.size(); }
  uint64_t bytes() const { return bytes_.size(); }
  // The whole object; the writer is done.
  Bytes Finish();
  const std::vector<Section>& sections() const { return sections_; }

 private:
  Bytes bytes_;
  std::vector<Section> sections_;
};

struct CompressedSection {
  Bytes bytes;
  uint32_t crc;
};
StatusOr<CompressedSection> CompressSection(ByteView raw);

// Makes a part of a snapshot. Single-threaded.
class PagesWriter {
 public:
  // The part's pages in order, each once.
  Status Add(uint32_t pgno, const std::byte* page);
  bool empty() const { return page_count_ == 0; }
  // The part is complete. Fills in raw_bytes, bytes and crc of `section`. Starts anew.
  StatusOr<CompressedSection> Finish(Section* section);

 private:
  Status FinishGroup();
  uint32_t page_count_ = 0;
  Bytes group_;
  uint64_t raw_bytes_ = 0;
  Bytes out_;
  Bytes index_;
};

// Where the groups of a pages section are: its last bytes.
struct GroupPlace {
  uint64_t offset = 0;  // in the section
  uint32_t bytes = 0;   // compressed
  uint32_t raw_bytes = 0;
  uint32_t crc = 0;  // of the compressed bytes
};
uint64_t GroupIndexBytes(const Section& section);

// All of these: DataLoss if the bytes are not what was written.
StatusOr<PackHeader> DecodePackHeader(ByteView object_start);
struct PackFooter {
  uint64_t directory_offset;
  uint64_t directory_bytes;
  uint32_t directory_crc;
};
StatusOr<PackFooter> DecodePackFooter(ByteView object_end, uint64_t object_bytes);
StatusOr<std::vector<Section>> DecodePackDirectory(ByteView directory, const PackFooter& footer);
StatusOr<Bytes> DecompressSection(const Section& section, ByteView compressed);
StatusOr<std::vector<GroupPlace>> DecodeGroupIndex(const Section& section, ByteView index);
StatusOr<Bytes> DecompressGroup(const Section& section, const GroupPlace& group,
                                ByteView compressed);
// One entry as it stands in a directory. DataLoss.
void EncodeSection(const Section& section, Bytes* out);
StatusOr<Section> DecodeSection(ByteReader* in);

// The raw bytes of a log section: records, each behind its length.
void AppendToLog(ByteView record, Bytes* raw);
Status VisitLog(const Section& section, ByteView raw, Callback<Status(const RecordView&)> visit);
// The raw bytes of a pages section: page number and page, ascending; zero pages left out.
void AppendPage(uint32_t pgno, const std::byte* page, Bytes* raw);
Status VisitPages(const Section& section, ByteView raw,
                  Callback<Status(uint32_t pgno, const std::byte* page)> visit);

}  // namespace edge::srs
