#include "srs/pack.h"

#include <zstd.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "edge/base/check.h"
#include "edge/base/errors.h"

namespace edge::srs {
namespace {

constexpr char kPackMagic[8] = {'E', 'D', 'G', 'E', 'P', 'A', 'K', '1'};
constexpr char kPackEndMagic[8] = {'E', 'D', 'G', 'E', 'P', 'A', 'K', 'E'};
constexpr uint32_t kPackVersion = 1;
constexpr int kZstdLevel = 3;
constexpr size_t kPageEntryBytes = 4 + kPageBytes;
// zstd's decoder skips a frame with this number, so a section with its index is still one
// stream for it.
constexpr uint32_t kSkippableMagic = 0x184D2A50;
constexpr size_t kGroupEntryBytes = 12;
constexpr size_t kIndexFrameBytes = 8 + 4;  // magic, size; checksum

void PutHash(ByteWriter* out, const Hash128& hash) {
  out->U64(hash.low);
  out->U64(hash.high);
}
Hash128 GetHash(ByteReader* in) {
  Hash128 hash;
  hash.low = in->U64();
  hash.high = in->U64();
  return hash;
}

void PutSection(ByteWriter* out, const Section& s) {
  out->U8(static_cast<uint8_t>(s.kind));
  out->Sized(AsBytes(s.name));
  out->U64(s.offset);
  out->U64(s.bytes);
  out->U64(s.raw_bytes);
  out->U32(s.crc);
  out->U32(s.state.epoch);
  out->U64(s.state.lsn);
  out->U32(s.state.pages);
  out->U64(static_cast<uint64_t>(s.state.wall_ms));
  PutHash(out, s.state.chain);
  PutHash(out, s.state.post);
  if (s.kind == SectionKind::kLog) {
    out->U64(s.first_lsn);
    out->U64(static_cast<uint64_t>(s.first_wall_ms));
    PutHash(out, s.chain_before);
  } else if (s.kind == SectionKind::kPages) {
    out->U32(s.part);
    out->U32(s.part_count);
  } else if (s.kind == SectionKind::kFork) {
    out->Sized(AsBytes(s.parent));
    out->U32(s.parent_epoch);
  }
}

Section GetSection(ByteReader* in) {
  Section s;
  s.kind = static_cast<SectionKind>(in->U8());
  s.name = AsText(in->Sized());
  s.offset = in->U64();
  s.bytes = in->U64();
  s.raw_bytes = in->U64();
  s.crc = in->U32();
  s.state.epoch = in->U32();
  s.state.lsn = in->U64();
  s.state.pages = in->U32();
  s.state.wall_ms = static_cast<int64_t>(in->U64());
  s.state.chain = GetHash(in);
  s.state.post = GetHash(in);
  if (s.kind == SectionKind::kLog) {
    s.first_lsn = in->U64();
    s.first_wall_ms = static_cast<int64_t>(in->U64());
    s.chain_before = GetHash(in);
  } else if (s.kind == SectionKind::kPages) {
    s.part = in->U32();
    s.part_count = in->U32();
  } else if (s.kind == SectionKind::kFork) {
    s.parent = AsText(in->Sized());
    s.parent_epoch = in->U32();
  }
  return s;
}

bool IsSane(const Section& s) {
  if (s.name.empty() || s.raw_bytes > kSectionRawBytesMax) return false;
  switch (s.kind) {
    case SectionKind::kLog:
      return s.first_lsn > 0 && s.first_lsn <= s.state.lsn;
    case SectionKind::kPages:
      return s.part < s.part_count && s.state.pages > 0 && s.bytes >= kIndexFrameBytes &&
             s.part_count == (uint64_t{s.state.pages} + kSectionPages - 1) / kSectionPages;
    case SectionKind::kDelete:
      return s.bytes == 0 && s.raw_bytes == 0;
    case SectionKind::kFork:
      return s.bytes == 0 && s.raw_bytes == 0 && !s.parent.empty() && s.state.pages > 0;
  }
  return false;
}

// Appends one frame.
Status Compress(ByteView raw, Bytes* out) {
  const size_t start = out->size();
  out->resize(start + ZSTD_compressBound(raw.size()));
  const size_t size =
      ZSTD_compress(out->data() + start, out->size() - start, raw.data(), raw.size(), kZstdLevel);
  if (ZSTD_isError(size) != 0) return ResourceExhausted("zstd: {}", ZSTD_getErrorName(size));
  out->resize(start + size);
  return OkStatus();
}

// What the frames in `compressed` say they hold together; UINT64_MAX if they say nothing.
uint64_t RawBytesOf(ByteView compressed) {
  uint64_t total = 0;
  while (!compressed.empty()) {
    const size_t frame = ZSTD_findFrameCompressedSize(compressed.data(), compressed.size());
    const auto raw = ZSTD_getFrameContentSize(compressed.data(), compressed.size());
    if (ZSTD_isError(frame) != 0 || raw > kSectionRawBytesMax) return UINT64_MAX;
    total += raw;
    compressed = compressed.subspan(frame);
  }
  return total;
}

uint32_t PagesInPart(const Section& section) {
  return std::min(kSectionPages, section.state.pages - section.part * kSectionPages);
}

}  // namespace

StatusOr<CompressedSection> CompressSection(ByteView raw) {
  if (raw.size() > kSectionRawBytesMax) {
    return ResourceExhausted("a section of {} bytes; {} allowed", raw.size(), kSectionRawBytesMax);
  }
  CompressedSection section;
  EDGE_RETURN_IF_ERROR(Compress(raw, &section.bytes));
  section.crc = Crc32c(section.bytes);
  return section;
}

// --- Parts of snapshots ---

Status PagesWriter::Add(uint32_t pgno, const std::byte* page) {
  AppendPage(pgno, page, &group_);
  ++page_count_;
  return page_count_ % kGroupPages == 0 ? FinishGroup() : OkStatus();
}

Status PagesWriter::FinishGroup() {
  const size_t start = out_.size();
  EDGE_RETURN_IF_ERROR(Compress(group_, &out_));
  const ByteView frame = ByteView(out_).subspan(start);
  ByteWriter index(&index_);
  index.U32(static_cast<uint32_t>(frame.size()));
  index.U32(static_cast<uint32_t>(group_.size()));
  index.U32(Crc32c(frame));
  raw_bytes_ += group_.size();
  group_.clear();
  return OkStatus();
}

StatusOr<CompressedSection> PagesWriter::Finish(Section* section) {
  EDGE_CHECK(page_count_ == PagesInPart(*section));
  if (page_count_ % kGroupPages != 0) EDGE_RETURN_IF_ERROR(FinishGroup());
  ByteWriter out(&out_);
  out.U32(kSkippableMagic);
  out.U32(static_cast<uint32_t>(index_.size() + 4));
  out.Raw(index_);
  out.U32(Crc32c(index_));
  CompressedSection compressed{std::move(out_), 0};
  compressed.crc = Crc32c(compressed.bytes);
  section->raw_bytes = raw_bytes_;
  section->bytes = compressed.bytes.size();
  section->crc = compressed.crc;
  *this = PagesWriter();
  return compressed;
}

uint64_t GroupIndexBytes(const Section& section) {
  const uint64_t groups = (PagesInPart(section) + kGroupPages - 1) / kGroupPages;
  return kIndexFrameBytes + groups * kGroupEntryBytes;
}

StatusOr<std::vector<GroupPlace>> DecodeGroupIndex(const Section& section, ByteView index) {
  const auto bad = [&](std::string_view what) {
    return DataLoss("page index of \"{}\" at {}: {}", section.name,
                    section.offset + section.bytes - GroupIndexBytes(section), what);
  };
  if (index.size() != GroupIndexBytes(section) || index.size() > section.bytes) {
    return bad("cut off");
  }
  ByteReader in(index);
  const uint32_t magic = in.U32();
  const uint32_t bytes = in.U32();
  const ByteView entries = in.Raw(index.size() - kIndexFrameBytes);
  if (magic != kSkippableMagic || bytes != entries.size() + 4 || in.U32() != Crc32c(entries)) {
    return bad("damaged");
  }
  ByteReader fields(entries);
  std::vector<GroupPlace> groups;
  uint64_t at = 0;
  uint64_t raw_bytes = 0;
  while (fields.remaining() > 0) {
    GroupPlace group{at, fields.U32(), fields.U32(), fields.U32()};
    at += group.bytes;
    raw_bytes += group.raw_bytes;
    if (group.raw_bytes > kGroupPages * kPageEntryBytes) return bad("a group is too large");
    groups.push_back(group);
  }
  if (at != section.bytes - index.size() || raw_bytes != section.raw_bytes) {
    return bad("does not cover the section");
  }
  return groups;
}

StatusOr<Bytes> DecompressGroup(const Section& section, const GroupPlace& group,
                                ByteView compressed) {
  if (compressed.size() != group.bytes || Crc32c(compressed) != group.crc ||
      RawBytesOf(compressed) != group.raw_bytes) {
    return DataLoss("pages of \"{}\" at {} are damaged", section.name,
                    section.offset + group.offset);
  }
  Bytes raw(group.raw_bytes);
  const size_t size = ZSTD_decompress(raw.data(), raw.size(), compressed.data(), compressed.size());
  if (ZSTD_isError(size) != 0 || size != raw.size()) {
    return DataLoss("pages of \"{}\" at {} cannot be decompressed", section.name,
                    section.offset + group.offset);
  }
  return raw;
}

void EncodeSection(const Section& section, Bytes* out) {
  ByteWriter writer(out);
  PutSection(&writer, section);
}

StatusOr<Section> DecodeSection(ByteReader* in) {
  Section section = GetSection(in);
  if (in->failed() || !IsSane(section)) return DataLoss("a section's entry is out of range");
  return section;
}

// --- Packs ---

PackWriter::PackWriter(const PackHeader& header) {
  bytes_.resize(kPackHeaderBytes);
  SetHeader(header);
}

void PackWriter::SetHeader(const PackHeader& header) {
  Bytes bytes;
  ByteWriter out(&bytes);
  out.Raw(AsBytes({kPackMagic, 8}));
  out.U32(kPackVersion);
  out.U32(0);  // the checksum
  out.U64(header.journal_id);
  out.U64(header.seq);
  out.U64(header.from.file);
  out.U64(header.from.offset);
  out.U64(header.to.file);
  out.U64(header.to.offset);
  out.U64(static_cast<uint64_t>(header.wall_ms));
  bytes.resize(kPackHeaderBytes);
  StoreLittle(bytes.data() + 12, Crc32c(bytes));
  std::memcpy(bytes_.data(), bytes.data(), kPackHeaderBytes);
}

Status PackWriter::Add(Section section, ByteView raw) {
  section.raw_bytes = raw.size();
  CompressedSection compressed{{}, Crc32c({})};
  if (!raw.empty()) {
    EDGE_ASSIGN_OR_RETURN(compressed, CompressSection(raw));
  }
  section.bytes = compressed.bytes.size();
  section.crc = compressed.crc;
  AddCompressed(std::move(section), compressed.bytes);
  return OkStatus();
}

void PackWriter::AddCompressed(Section section, ByteView compressed) {
  EDGE_CHECK(section.bytes == compressed.size());
  section.offset = bytes_.size();
  bytes_.insert(bytes_.end(), compressed.begin(), compressed.end());
  EDGE_CHECK(IsSane(section));
  sections_.push_back(std::move(section));
}

Bytes PackWriter::Finish() {
  const size_t directory_offset = bytes_.size();
  ByteWriter out(&bytes_);
  out.U32(static_cast<uint32_t>(sections_.size()));
  for (const Section& section : sections_) PutSection(&out, section);
  const ByteView directory = ByteView(bytes_).subspan(directory_offset);
  Bytes footer;
  ByteWriter end(&footer);
  end.U64(directory_offset);
  end.U64(directory.size());
  end.U32(Crc32c(directory));
  end.U32(0);  // the checksum
  end.Raw(AsBytes({kPackEndMagic, 8}));
  EDGE_CHECK(footer.size() == kPackFooterBytes);
  StoreLittle(footer.data() + 20, Crc32c(footer));
  bytes_.insert(bytes_.end(), footer.begin(), footer.end());
  return std::move(bytes_);
}

StatusOr<PackHeader> DecodePackHeader(ByteView object_start) {
  if (object_start.size() < kPackHeaderBytes) {
    return DataLoss("pack cut off at offset {}, its header has {} bytes", object_start.size(),
                    kPackHeaderBytes);
  }
  Bytes raw(object_start.begin(), object_start.begin() + kPackHeaderBytes);
  const auto crc = LoadLittle<uint32_t>(raw.data() + 12);
  StoreLittle(raw.data() + 12, uint32_t{0});
  if (std::memcmp(raw.data(), kPackMagic, 8) != 0) {
    return DataLoss("not a pack: at offset 0 is {}, expected {}", ToHex(ByteView(raw).first(8)),
                    ToHex(AsBytes({kPackMagic, 8})));
  }
  if (const uint32_t found = Crc32c(raw); found != crc) {
    return DataLoss("pack damaged in its header at offset 0: checksum {:08x}, expected {:08x}",
                    found, crc);
  }
  ByteReader in(ByteView(raw).subspan(8));
  if (const uint32_t version = in.U32(); version != kPackVersion) {
    return FailedPrecondition("pack of format version {}; this program knows {}", version,
                              kPackVersion);
  }
  in.U32();
  PackHeader header;
  header.journal_id = in.U64();
  header.seq = in.U64();
  header.from.file = in.U64();
  header.from.offset = in.U64();
  header.to.file = in.U64();
  header.to.offset = in.U64();
  header.wall_ms = static_cast<int64_t>(in.U64());
  return header;
}

StatusOr<PackFooter> DecodePackFooter(ByteView object_end, uint64_t object_bytes) {
  if (object_end.size() < kPackFooterBytes || object_bytes < kPackHeaderBytes + kPackFooterBytes) {
    return DataLoss("pack cut off at {} bytes", object_bytes);
  }
  const ByteView last = object_end.last(kPackFooterBytes);
  Bytes raw(last.begin(), last.end());
  const auto crc = LoadLittle<uint32_t>(raw.data() + 20);
  StoreLittle(raw.data() + 20, uint32_t{0});
  if (std::memcmp(raw.data() + 24, kPackEndMagic, 8) != 0 || Crc32c(raw) != crc) {
    return DataLoss("pack of {} bytes damaged in its footer at offset {}, or cut off", object_bytes,
                    object_bytes - kPackFooterBytes);
  }
  ByteReader in(raw);
  PackFooter footer{};
  footer.directory_offset = in.U64();
  footer.directory_bytes = in.U64();
  footer.directory_crc = in.U32();
  const uint64_t end = object_bytes - kPackFooterBytes;
  if (footer.directory_offset < kPackHeaderBytes || footer.directory_offset > end ||
      footer.directory_bytes != end - footer.directory_offset) {
    return DataLoss("pack of {} bytes has its directory at {}", object_bytes,
                    footer.directory_offset);
  }
  return footer;
}

StatusOr<std::vector<Section>> DecodePackDirectory(ByteView directory, const PackFooter& footer) {
  if (const uint32_t found = Crc32c(directory); found != footer.directory_crc) {
    return DataLoss("pack damaged in its directory at offset {}: checksum {:08x}, expected {:08x}",
                    footer.directory_offset, found, footer.directory_crc);
  }
  ByteReader in(directory);
  const uint32_t count = in.U32();
  std::vector<Section> sections;
  uint64_t at = kPackHeaderBytes;
  for (uint32_t i = 0; i < count && !in.failed(); ++i) {
    Section section = GetSection(&in);
    if (in.failed() || !IsSane(section) || section.offset != at ||
        section.bytes > footer.directory_offset - at) {
      return DataLoss("pack directory: section {} is out of range", i);
    }
    at += section.bytes;
    sections.push_back(std::move(section));
  }
  if (in.failed() || in.remaining() != 0 || at != footer.directory_offset) {
    return DataLoss("pack directory: does not cover the pack");
  }
  return sections;
}

StatusOr<Bytes> DecompressSection(const Section& section, ByteView compressed) {
  if (compressed.size() != section.bytes) {
    return DataLoss("section of \"{}\" at offset {}: {} bytes, expected {}", section.name,
                    section.offset, compressed.size(), section.bytes);
  }
  if (const uint32_t found = Crc32c(compressed); found != section.crc) {
    return DataLoss("section of \"{}\" at offset {} is damaged: checksum {:08x}, expected {:08x}",
                    section.name, section.offset, found, section.crc);
  }
  if (section.bytes == 0 && section.raw_bytes == 0) return Bytes();
  if (section.raw_bytes > kSectionRawBytesMax || RawBytesOf(compressed) != section.raw_bytes) {
    return DataLoss("section of \"{}\" at {}: wrong size", section.name, section.offset);
  }
  Bytes raw(section.raw_bytes);
  const size_t size = ZSTD_decompress(raw.data(), raw.size(), compressed.data(), compressed.size());
  if (ZSTD_isError(size) != 0 || size != raw.size()) {
    return DataLoss("section of \"{}\" at {} cannot be decompressed", section.name, section.offset);
  }
  return raw;
}

void AppendToLog(ByteView record, Bytes* raw) {
  ByteWriter(raw).Sized(record);
}

Status VisitLog(const Section& section, ByteView raw, Callback<Status(const RecordView&)> visit) {
  ByteReader in(raw);
  Hash128 chain = section.chain_before;
  Lsn lsn = section.first_lsn;
  while (in.remaining() > 0) {
    const ByteView bytes = in.Sized();
    if (in.failed()) break;
    EDGE_ASSIGN_OR_RETURN(const RecordView record, ParseRecord(bytes, chain));
    if (record.lsn != lsn)
      return DataLoss("log of \"{}\": {} where {} was expected", section.name, record.lsn, lsn);
    ++lsn;
    chain = record.chain;
    EDGE_RETURN_IF_ERROR(visit(record));
  }
  if (in.failed() || lsn != section.state.lsn + 1 || chain != section.state.chain) {
    return DataLoss("log of \"{}\" {} to {} ends at {}", section.name, section.first_lsn,
                    section.state.lsn, lsn - 1);
  }
  return OkStatus();
}

void AppendPage(uint32_t pgno, const std::byte* page, Bytes* raw) {
  if (IsZero(page)) return;
  ByteWriter out(raw);
  out.U32(pgno);
  out.Raw({page, kPageBytes});
}

Status VisitPages(const Section& section, ByteView raw,
                  Callback<Status(uint32_t pgno, const std::byte* page)> visit) {
  if (raw.size() % kPageEntryBytes != 0) {
    return DataLoss("snapshot of \"{}\": {} bytes are not whole pages", section.name, raw.size());
  }
  uint32_t last = 0;
  for (size_t at = 0; at < raw.size(); at += kPageEntryBytes) {
    const auto pgno = LoadLittle<uint32_t>(raw.data() + at);
    if (pgno <= last || pgno > section.state.pages) {
      return DataLoss("snapshot of \"{}\": page {} after {}", section.name, pgno, last);
    }
    last = pgno;
    EDGE_RETURN_IF_ERROR(visit(pgno, raw.data() + at + 4));
  }
  return OkStatus();
}

}  // namespace edge::srs
