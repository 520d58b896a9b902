// Decoders of journal entries, records, packs, page indexes, catalogs, marks and bookmarks on
// any bytes: no crash, no read
// past the end, no large allocation; what is accepted can be replayed.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>

#include "srs/catalog.h"
#include "srs/garbage.h"
#include "srs/journal.h"
#include "srs/pack.h"
#include "srs/record.h"

namespace {

using namespace edge;
using namespace edge::srs;

class MapImage final : public PageImage {
 public:
  Status ReadPage(uint32_t pgno, std::byte* out) override {
    std::memcpy(out, pages_[pgno].bytes, kPageBytes);
    return OkStatus();
  }
  Status WritePage(uint32_t pgno, const std::byte* page, const Hash128&) override {
    std::memcpy(pages_[pgno].bytes, page, kPageBytes);
    return OkStatus();
  }
  Status Resize(uint32_t) override { return OkStatus(); }

 private:
  std::map<uint32_t, Page> pages_;
};

// Without the checksums that would stop almost every input at once.
void Replay(const RecordView& record) {
  MapImage image;
  State state = EmptyState("t", 1);
  state.lsn = record.lsn - 1;
  state.pages = 1;
  if (record.frames.size() < 64) ApplyRecord(record, &image, &state).IgnoreError();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const ByteView in(reinterpret_cast<const std::byte*>(data + 1), size - 1);
  switch (data[0] % 9) {
    case 0: {
      EntryVisitor visit = [](const JournalEntry&) { return OkStatus(); };
      VisitEntries(in, visit).IgnoreError();
      break;
    }
    case 1: {
      // Make the stored chain right, so that the fields before it are what is tested.
      if (in.size() < 24) break;
      Bytes record(in.begin(), in.end());
      const Hash128 chain = HashBytes128(ByteView(record).first(record.size() - 8));
      StoreLittle(record.data() + record.size() - 8, chain.low);
      const auto parsed = ParseRecord(record, {});
      if (parsed.ok()) Replay(*parsed);
      break;
    }
    case 2: {
      DecodePackHeader(in).IgnoreError();
      const auto footer = DecodePackFooter(in, in.size());
      if (footer.ok()) {
        DecodePackDirectory(in.subspan(footer->directory_offset, footer->directory_bytes), *footer)
            .IgnoreError();
      }
      break;
    }
    case 3: {
      const PackFooter footer{kPackHeaderBytes + 1000, in.size(), Crc32c(in)};
      DecodePackDirectory(in, footer).IgnoreError();
      break;
    }
    case 4: {
      Section section;
      section.name = "t";
      section.first_lsn = 1;
      section.bytes = in.size();
      section.crc = Crc32c(in);
      section.raw_bytes = 4100 * 4;
      section.state.pages = 100;
      const auto raw = DecompressSection(section, in);
      VisitLog(section, raw.ok() ? ByteView(*raw) : in, [](const RecordView&) {
        return OkStatus();
      }).IgnoreError();
      VisitPages(section, raw.ok() ? ByteView(*raw) : in, [](uint32_t, const std::byte*) {
        return OkStatus();
      }).IgnoreError();
      break;
    }
    case 5: {
      Section section;
      section.kind = SectionKind::kPages;
      section.name = "t";
      section.bytes = in.size();
      section.state.pages = 100;
      section.part_count = 1;
      section.raw_bytes = in.empty() ? 0 : std::to_integer<uint64_t>(in[0]) * 1000;
      const uint64_t index_bytes = GroupIndexBytes(section);
      if (in.size() < index_bytes) break;
      const auto groups = DecodeGroupIndex(section, in.last(index_bytes));
      if (groups.ok()) {
        for (const GroupPlace& group : *groups) {
          DecompressGroup(section, group, in.subspan(group.offset, group.bytes)).IgnoreError();
        }
      }
      const GroupPlace whole{0, static_cast<uint32_t>(in.size()), 4100, Crc32c(in)};
      DecompressGroup(section, whole, in).IgnoreError();
      break;
    }
    case 6: {
      DecodeCatalog(in).IgnoreError();
      ByteReader reader(in);
      DecodeSection(&reader).IgnoreError();
      break;
    }
    case 7: {
      DecodeMarks(in).IgnoreError();
      if (in.size() < 28) break;
      Bytes marks(in.begin(), in.end());  // with the right checksum, as above
      StoreLittle(marks.data() + 12, uint32_t{0});
      StoreLittle(marks.data() + 12, Crc32c(marks));
      DecodeMarks(marks).IgnoreError();
      break;
    }
    default:
      ParseBookmark(AsText(in)).IgnoreError();
  }
  return 0;
}
