#include "kv/disk_tier.h"

#include <algorithm>
#include <bit>
#include <cstdio>
#include <utility>

#include "edge/base/checksum.h"
#include "edge/base/errors.h"

namespace edge::kv {
namespace {

constexpr uint64_t kUnit = 16;
constexpr size_t kSegmentHeaderBytes = 64;
constexpr size_t kHeaderBytes = 32;
constexpr size_t kChecksumAt = 28;  // of the record
constexpr uint32_t kRecordMagic = 0x31726b65;
constexpr uint32_t kVoidMagic = 0x30726b65;  // written over the other: so a record is voided
constexpr uint32_t kSegmentMagic = 0x31736b65;
constexpr uint32_t kManifestMagic = 0x316d6b65;
constexpr size_t kManifestHeaderBytes = 32;
constexpr size_t kPlaceBytes = 16;
constexpr size_t kBufferBytesMax = 256 << 10;
constexpr uint64_t kSegmentBytesMin = 64 << 10;
constexpr uint64_t kSegmentBytesMax = 64 << 20;
constexpr uint64_t kSegmentCountMin = 4;

// A word of the index, from the top: 15 bits of the hash, "was read", the class of the size
// (8 bits), the place in the log (40 bits, in units, modulo). No record lies at place 0 or 1.
constexpr uint64_t kEmpty = 0;
constexpr uint64_t kGrave = 1;
constexpr uint64_t kWasRead = uint64_t{1} << 48;
constexpr unsigned kPlaceBits = 40;
constexpr uint64_t kPlaceMask = (uint64_t{1} << kPlaceBits) - 1;

uint64_t Tag(uint64_t hash) {
  return hash >> 49 << 49;
}

// Eight classes in each power of two; a class stands for its largest size.
unsigned ClassOf(uint64_t units) {
  if (units <= 8) return static_cast<unsigned>(units - 1);
  const auto shift = static_cast<unsigned>(std::bit_width(units - 1)) - 4;
  return 8 * (shift + 1) + static_cast<unsigned>(((units - 1) >> shift) - 8);
}
uint64_t UnitsOf(unsigned size_class) {
  if (size_class < 8) return size_class + 1;
  const unsigned shift = size_class / 8 - 1;
  return (uint64_t{size_class % 8} + 9) << shift;
}

size_t HomeSlot(uint64_t hash, size_t slots) {
  return static_cast<size_t>(((hash & 0xffffffff) * slots) >> 32);
}

struct Header {
  uint32_t value_bytes = 0;
  uint16_t key_bytes = 0;
  uint16_t metadata_bytes = 0;
  uint32_t expires_s = 0;
  uint32_t loaded_s = 0;
  uint32_t checksum = 0;
  bool is_void = false;

  uint64_t bytes() const {
    const uint64_t all = uint64_t{kHeaderBytes} + key_bytes + metadata_bytes + value_bytes;
    return (all + kUnit - 1) / kUnit * kUnit;
  }
};

// Of the header without the two checksums. The id of the segment goes in, so that what a
// file system left from another file is not taken for ours.
uint32_t HeaderChecksum(const std::byte* header, uint64_t segment_id) {
  return Crc32c({header + 8, kChecksumAt - 8}, static_cast<uint32_t>(segment_id * 0x9E3779B1));
}

// False if there is no whole record with an intact header at the start of `bytes`.
bool ParseHeader(ByteView bytes, uint64_t segment_id, Header* header) {
  if (bytes.size() < kHeaderBytes) return false;
  const auto magic = LoadLittle<uint32_t>(bytes.data());
  if (magic != kRecordMagic && magic != kVoidMagic) return false;
  header->is_void = magic == kVoidMagic;
  if (LoadLittle<uint32_t>(bytes.data() + 4) != HeaderChecksum(bytes.data(), segment_id)) {
    return false;
  }
  header->value_bytes = LoadLittle<uint32_t>(bytes.data() + 8);
  header->key_bytes = LoadLittle<uint16_t>(bytes.data() + 12);
  header->metadata_bytes = LoadLittle<uint16_t>(bytes.data() + 14);
  header->expires_s = LoadLittle<uint32_t>(bytes.data() + 16);
  header->loaded_s = LoadLittle<uint32_t>(bytes.data() + 20);
  header->checksum = LoadLittle<uint32_t>(bytes.data() + kChecksumAt);
  return header->bytes() <= bytes.size();
}

// Of all of the record but its last checksum.
uint32_t RecordChecksum(ByteView record) {
  return Crc32c(record.subspan(kHeaderBytes), Crc32c(record.first(kChecksumAt)));
}

void MakeRecord(const NewRecord& from, uint64_t segment_id, Bytes* out) {
  out->clear();
  ByteWriter writer(out);
  writer.U32(kRecordMagic);
  writer.U32(0);
  writer.U32(static_cast<uint32_t>(from.value.size()));
  writer.U16(static_cast<uint16_t>(from.key.size()));
  writer.U16(static_cast<uint16_t>(from.metadata.size()));
  // As in memory: an expiration beyond the year 2106 is none.
  writer.U32(from.expires_s > UINT32_MAX ? 0 : static_cast<uint32_t>(from.expires_s));
  writer.U32(static_cast<uint32_t>(std::clamp<int64_t>(from.loaded_s, 0, UINT32_MAX)));
  writer.U32(0);
  writer.U32(0);
  StoreLittle(out->data() + 4, HeaderChecksum(out->data(), segment_id));
  writer.Raw(AsBytes(from.key));
  writer.Raw(AsBytes(from.value));
  writer.Raw(AsBytes(from.metadata));
  out->resize((out->size() + kUnit - 1) / kUnit * kUnit);
  StoreLittle(out->data() + kChecksumAt, RecordChecksum(*out));
}

Bytes SegmentHeader(uint64_t id) {
  Bytes header;
  ByteWriter writer(&header);
  writer.U32(kSegmentMagic);
  writer.U32(1);  // version
  writer.U64(id);
  writer.U32(Crc32c(header));
  header.resize(kSegmentHeaderBytes);
  return header;
}

}  // namespace

// --- Files --------------------------------------------------------------------------------

StatusOr<std::vector<DiskTier::Place>> DiskTier::ReadManifest(ByteView manifest,
                                                              uint64_t segment_id) {
  ByteReader reader(manifest);
  const uint32_t magic = reader.U32();
  const uint32_t version = reader.U32();
  const uint64_t id = reader.U64();
  const uint64_t count = reader.U64();
  const uint32_t body_checksum = reader.U32();
  const uint32_t header_checksum = reader.U32();
  if (reader.failed() || magic != kManifestMagic || version != 1 || id != segment_id ||
      header_checksum != Crc32c(manifest.first(kManifestHeaderBytes - 4))) {
    return DataLoss("kv: manifest of segment {}: damaged header", segment_id);
  }
  if (count != reader.remaining() / kPlaceBytes || reader.remaining() % kPlaceBytes != 0) {
    return DataLoss("kv: manifest of segment {}: {} bytes for {} records", segment_id,
                    manifest.size(), count);
  }
  if (Crc32c(manifest.subspan(kManifestHeaderBytes)) != body_checksum) {
    return DataLoss("kv: manifest of segment {}: checksum differs", segment_id);
  }
  std::vector<Place> places(count);
  for (Place& place : places) {
    place.hash = reader.U64();
    place.offset = reader.U32();
    place.units = reader.U32();
    if (place.offset < kSegmentHeaderBytes / kUnit || place.units < kHeaderBytes / kUnit) {
      return DataLoss("kv: manifest of segment {}: a record of {} units at {}", segment_id,
                      place.units, place.offset);
    }
  }
  return places;
}

// After damage it goes on at the next 16 bytes that begin an intact record.
StatusOr<std::vector<DiskTier::Place>> DiskTier::ScanSegment(ByteView segment,
                                                             uint64_t segment_id) {
  const Bytes expected = SegmentHeader(segment_id);
  if (segment.size() < kSegmentHeaderBytes ||
      !std::ranges::equal(segment.first(kSegmentHeaderBytes), expected)) {
    return DataLoss("kv: segment {}: damaged header", segment_id);
  }
  std::vector<Place> places;
  for (size_t at = kSegmentHeaderBytes; at < segment.size();) {
    Header header;
    if (!ParseHeader(segment.subspan(at), segment_id, &header)) {
      at += kUnit;
      continue;
    }
    const ByteView record = segment.subspan(at, header.bytes());
    if (!header.is_void) {
      if (RecordChecksum(record) != header.checksum) {
        at += kUnit;  // torn: its length may hide another record
        continue;
      }
      const uint64_t hash = HashBytes(record.subspan(kHeaderBytes, header.key_bytes));
      places.push_back(
          {hash, static_cast<uint32_t>(at / kUnit), static_cast<uint32_t>(record.size() / kUnit)});
    }
    at += record.size();
  }
  return places;
}

std::string DiskTier::PathOf(uint64_t id, std::string_view suffix) const {
  char name[40];
  std::snprintf(name, sizeof(name), "/segment-%016llx", static_cast<unsigned long long>(id));
  return options_.directory + name + std::string(suffix);
}

DiskTier::DiskTier(const DiskTierOptions& options) : options_(options) {
  units_bits_ = static_cast<uint64_t>(std::bit_width(options_.segment_bytes / kUnit - 1));
}

StatusOr<std::unique_ptr<DiskTier>> DiskTier::Open(const DiskTierOptions& wanted) {
  DiskTierOptions options = wanted;
  if (options.files == nullptr) options.files = &PosixFileSystem();
  if (options.segment_bytes == 0) {
    options.segment_bytes =
        std::clamp(options.bytes_max / 64, kSegmentBytesMin, kSegmentBytesMax) / kUnit * kUnit;
  }
  if (options.segment_bytes < kSegmentBytesMin || options.segment_bytes > kSegmentBytesMax ||
      options.segment_bytes % kUnit != 0 ||
      options.bytes_max < kSegmentCountMin * options.segment_bytes) {
    return InvalidArgument(
        "kv: disk_bytes_max is {} and a segment has {} bytes; it must be at least {} of them, of "
        "{} to {} bytes each",
        options.bytes_max, options.segment_bytes, kSegmentCountMin, kSegmentBytesMin,
        kSegmentBytesMax);
  }
  auto tier = std::unique_ptr<DiskTier>(new DiskTier(options));
  EDGE_RETURN_IF_ERROR(options.files->MakeDirectories(options.directory));
  EDGE_ASSIGN_OR_RETURN(tier->lock_file_, options.files->Lock(options.directory + "/lock"));
  MutexLock lock(&tier->mutex_);
  EDGE_RETURN_IF_ERROR(tier->Load());
  return tier;
}

DiskTier::~DiskTier() {
  MutexLock lock(&mutex_);
  if (segments_.empty()) return;
  if (segments_.back()->bytes == kSegmentHeaderBytes) {
    DropFiles(segments_.back()->id).IgnoreError();
    return;
  }
  FlushBuffer().IgnoreError();  // a cached copy less
  Seal(segments_.back().get()).IgnoreError();
}

Status DiskTier::DropFiles(uint64_t id) {
  for (const char* suffix : {".manifest", ".log"}) {
    const Status removed = options_.files->Remove(PathOf(id, suffix));
    if (!removed.ok() && removed.code() != StatusCode::kNotFound) return removed;
  }
  // Before anything that it held is written elsewhere and voided there: a segment that came
  // back would bring it back.
  return options_.files->SyncDirectory(options_.directory);
}

Status DiskTier::Load() {
  EDGE_ASSIGN_OR_RETURN(const auto entries, options_.files->List(options_.directory));
  std::vector<uint64_t> ids;
  for (const DirectoryEntry& entry : entries) {
    unsigned long long id = 0;
    int end = 0;
    if (std::sscanf(entry.name.c_str(), "segment-%16llx.log%n", &id, &end) == 1 &&
        static_cast<size_t>(end) == entry.name.size()) {
      ids.push_back(id);
    }
  }
  std::ranges::sort(ids);
  for (const uint64_t id : ids) EDGE_RETURN_IF_ERROR(LoadSegment(id));
  EDGE_RETURN_IF_ERROR(StartSegment());
  while (LogBytes() + options_.segment_bytes > options_.bytes_max) {
    EDGE_RETURN_IF_ERROR(DropOldest());
  }
  return OkStatus();
}

uint64_t DiskTier::LogBytes() const {
  uint64_t bytes = 0;
  for (const auto& segment : segments_) bytes += segment->bytes;
  return bytes;
}

Status DiskTier::LoadSegment(uint64_t id) {
  auto segment = std::make_shared<Segment>();
  segment->id = id;
  EDGE_ASSIGN_OR_RETURN(segment->file,
                        options_.files->Open(PathOf(id, ".log"), OpenMode::kReadWrite));
  EDGE_ASSIGN_OR_RETURN(segment->bytes, segment->file->Size());
  const bool sane = segment->bytes <= options_.segment_bytes &&
                    (segments_.empty() || id - segments_.back()->id < (1 << 20));
  StatusOr<std::vector<Place>> places = DataLoss("kv: segment {}: too large", id);
  if (sane) {
    const auto manifest = ReadFile(*options_.files, PathOf(id, ".manifest"), 1 << 30);
    if (manifest.ok()) places = ReadManifest(*manifest, id);
    if (!places.ok()) {
      EDGE_ASSIGN_OR_RETURN(const Bytes bytes,
                            ReadFile(*options_.files, PathOf(id, ".log"), segment->bytes));
      places = ScanSegment(bytes, id);
      if (places.ok()) {
        segment->places = *places;
        EDGE_RETURN_IF_ERROR(Seal(segment.get()));
      }
    }
  }
  if (!places.ok()) return DropFiles(id);
  segment->places = *std::move(places);
  segments_.push_back(segment);
  for (const Place& place : segment->places) {
    if (uint64_t{place.offset} * kUnit + uint64_t{place.units} * kUnit > segment->bytes) continue;
    // Older records of the key are replaced, as they were when this was written.
    EDGE_RETURN_IF_ERROR(Enter(place.hash, WordFor(place.hash, id, place)));
  }
  std::vector<Place>().swap(segment->places);
  return OkStatus();
}

Status DiskTier::StartSegment() {
  auto segment = std::make_shared<Segment>();
  segment->id = segments_.empty() ? 1 : segments_.back()->id + 1;
  // A crash may have left the manifest of a segment whose name it took.
  const Status removed = options_.files->Remove(PathOf(segment->id, ".manifest"));
  if (!removed.ok() && removed.code() != StatusCode::kNotFound) return removed;
  EDGE_ASSIGN_OR_RETURN(
      segment->file, options_.files->Open(PathOf(segment->id, ".log"), OpenMode::kCreateTruncate));
  const Bytes header = SegmentHeader(segment->id);
  EDGE_RETURN_IF_ERROR(segment->file->WriteAt(0, header));
  EDGE_RETURN_IF_ERROR(options_.files->SyncDirectory(options_.directory));
  segment->bytes = header.size();
  segments_.push_back(std::move(segment));
  return OkStatus();
}

// The manifest says where the records are, so the next Open need not read them. It is worth
// no sync: one that is lost or torn means a scan.
Status DiskTier::Seal(Segment* segment) {
  Bytes manifest;
  ByteWriter writer(&manifest);
  writer.U32(kManifestMagic);
  writer.U32(1);
  writer.U64(segment->id);
  writer.U64(segment->places.size());
  writer.U32(0);
  writer.U32(0);
  manifest.reserve(kManifestHeaderBytes + segment->places.size() * kPlaceBytes);
  for (const Place& place : segment->places) {
    writer.U64(place.hash);
    writer.U32(place.offset);
    writer.U32(place.units);
  }
  StoreLittle(manifest.data() + 24, Crc32c(ByteView(manifest).subspan(kManifestHeaderBytes)));
  StoreLittle(manifest.data() + 28, Crc32c(ByteView(manifest).first(kManifestHeaderBytes - 4)));
  EDGE_ASSIGN_OR_RETURN(const auto file, options_.files->Open(PathOf(segment->id, ".manifest"),
                                                              OpenMode::kCreateTruncate));
  EDGE_RETURN_IF_ERROR(file->WriteAt(0, manifest));
  segment->places.clear();
  segment->places.shrink_to_fit();
  return OkStatus();
}

StatusOr<std::vector<DiskTier::Place>> DiskTier::PlacesOf(const Segment& segment) {
  if (&segment == segments_.back().get() || !segment.places.empty()) return segment.places;
  EDGE_ASSIGN_OR_RETURN(const Bytes manifest,
                        ReadFile(*options_.files, PathOf(segment.id, ".manifest"), 1 << 30));
  return ReadManifest(manifest, segment.id);
}

Status DiskTier::FlushBuffer() {
  if (buffer_.empty()) return OkStatus();
  Segment& newest = *segments_.back();
  const Status written = newest.file->WriteAt(newest.bytes - buffer_.size(), buffer_);
  buffer_.clear();  // after a failure its records fail their checksums
  return written;
}

// Drops the oldest segment; what was read since it was written goes on at the end of the log,
// up to half a segment.
Status DiskTier::DropOldest() {
  const std::shared_ptr<Segment> oldest = segments_.front();
  const auto places = PlacesOf(*oldest);
  std::vector<std::pair<uint64_t, Bytes>> kept;
  uint64_t kept_bytes = 0;
  const uint64_t kept_bytes_max =
      std::min(options_.segment_bytes / 2, options_.segment_bytes - segments_.back()->bytes);
  if (places.ok()) {
    for (const Place& place : *places) {
      const size_t slot = SlotOf(place.hash, WordFor(place.hash, oldest->id, place));
      if (slot == SIZE_MAX) continue;
      const bool was_read = (index_[slot] & kWasRead) != 0;
      index_[slot] = kGrave;
      --entries_;
      const uint64_t bytes = place.units * kUnit;
      if (!was_read || kept_bytes + bytes > kept_bytes_max) continue;
      Bytes record(bytes);
      const auto read = oldest->file->ReadAt(place.offset * kUnit, record);
      Header header;
      if (!read.ok() || *read != bytes || !ParseHeader(record, oldest->id, &header) ||
          header.bytes() != bytes || RecordChecksum(record) != header.checksum) {
        continue;
      }
      kept_bytes += bytes;
      kept.emplace_back(place.hash, std::move(record));
    }
  } else {
    // Nobody knows which words are its: take out all that point there.
    for (uint64_t& word : index_) {
      if (word <= kGrave || SegmentOf(word) != oldest) continue;
      word = kGrave;
      --entries_;
    }
  }
  segments_.pop_front();
  EDGE_RETURN_IF_ERROR(DropFiles(oldest->id));
  if (segments_.empty()) return OkStatus();
  for (auto& [hash, record] : kept) {
    StoreLittle(record.data() + 4, HeaderChecksum(record.data(), segments_.back()->id));
    StoreLittle(record.data() + kChecksumAt, RecordChecksum(record));
    EDGE_RETURN_IF_ERROR(Append(hash, record));
  }
  return OkStatus();
}

// `record` was made for the newest segment, which has room.
Status DiskTier::Append(uint64_t hash, ByteView record) {
  Segment& newest = *segments_.back();
  const Place place{hash, static_cast<uint32_t>(newest.bytes / kUnit),
                    static_cast<uint32_t>(record.size() / kUnit)};
  EDGE_RETURN_IF_ERROR(Enter(hash, WordFor(hash, newest.id, place)));
  newest.places.push_back(place);
  buffer_.insert(buffer_.end(), record.begin(), record.end());
  newest.bytes += record.size();
  bytes_appended_ += record.size();
  return buffer_.size() >= kBufferBytesMax ? FlushBuffer() : OkStatus();
}

// --- Index --------------------------------------------------------------------------------

uint64_t DiskTier::WordFor(uint64_t hash, uint64_t segment_id, const Place& place) const {
  const uint64_t at = ((segment_id << units_bits_) + place.offset) & kPlaceMask;
  return Tag(hash) | uint64_t{ClassOf(place.units)} << kPlaceBits | at;
}

std::shared_ptr<DiskTier::Segment> DiskTier::SegmentOf(uint64_t word) const {
  const uint64_t id_bits = kPlaceBits - units_bits_;
  const uint64_t low = (word & kPlaceMask) >> units_bits_;
  const uint64_t first = segments_.front()->id;
  const uint64_t id = first + ((low - first) & ((uint64_t{1} << id_bits) - 1));
  // Ids go up by one, but for gaps where damaged segments were dropped.
  const auto it = std::ranges::lower_bound(segments_, id, {}, &Segment::id);
  return it != segments_.end() && (*it)->id == id ? *it : nullptr;
}

uint64_t DiskTier::OffsetOf(uint64_t word) const {
  return (word & ((uint64_t{1} << units_bits_) - 1)) * kUnit;
}

size_t DiskTier::SlotOf(uint64_t hash, uint64_t word) const {
  if (index_.empty()) return SIZE_MAX;
  for (size_t slot = HomeSlot(hash, index_.size()); index_[slot] != kEmpty;) {
    if ((index_[slot] & ~kWasRead) == word) return slot;
    if (++slot == index_.size()) slot = 0;
  }
  return SIZE_MAX;
}

void DiskTier::PlaceWord(std::vector<uint64_t>* index, uint64_t hash, uint64_t word) {
  size_t slot = HomeSlot(hash, index->size());
  while ((*index)[slot] > kGrave) {
    if (++slot == index->size()) slot = 0;
  }
  (*index)[slot] = word;
}

// The words do not hold whole hashes: those are in the manifests.
Status DiskTier::Resize(size_t slots) {
  std::vector<uint64_t> larger(slots);
  uint64_t moved = 0;
  for (size_t s = 0; s < segments_.size();) {
    const std::shared_ptr<Segment>& segment = segments_[s];
    const auto places = PlacesOf(*segment);
    if (!places.ok()) {
      // Its records would be forgotten here but not on the disk.
      EDGE_RETURN_IF_ERROR(DropFiles(segment->id));
      segments_.erase(segments_.begin() + static_cast<std::ptrdiff_t>(s));
      continue;
    }
    for (const Place& place : *places) {
      const size_t slot = SlotOf(place.hash, WordFor(place.hash, segment->id, place));
      if (slot == SIZE_MAX) continue;
      PlaceWord(&larger, place.hash, index_[slot]);
      ++moved;
    }
    ++s;
  }
  index_ = std::move(larger);
  entries_ = used_slots_ = moved;
  return OkStatus();
}

Status DiskTier::Enter(uint64_t hash, uint64_t word) {
  if ((used_slots_ + 1) * 10 > index_.size() * 9) {
    // Up by a seventh: 8.9 to 10.2 bytes an entry. Graves may be all that is in the way.
    const size_t wanted = std::max<size_t>(entries_ + entries_ / 7, 1024) * 10 / 9;
    EDGE_RETURN_IF_ERROR(Resize(wanted));
  }
  EDGE_RETURN_IF_ERROR(VoidTagged(hash));
  PlaceWord(&index_, hash, word);
  ++entries_;
  ++used_slots_;  // if it took a grave's place, one too many: an earlier Resize
  return OkStatus();
}

Status DiskTier::VoidTagged(uint64_t hash) {
  if (index_.empty()) return OkStatus();
  for (size_t slot = HomeSlot(hash, index_.size()); index_[slot] != kEmpty;) {
    const uint64_t word = index_[slot];
    if (word > kGrave && Tag(word) == Tag(hash)) {
      index_[slot] = kGrave;
      --entries_;
      const std::shared_ptr<Segment> segment = SegmentOf(word);
      if (segment != nullptr) {
        const uint64_t at = OffsetOf(word);
        const uint64_t written =
            segment->bytes - (segment == segments_.back() ? buffer_.size() : 0);
        if (at >= written) {  // never on the disk as it was
          StoreLittle(buffer_.data() + (at - written), kVoidMagic);
        } else {
          std::byte magic[4];
          StoreLittle(magic, kVoidMagic);
          segment->has_new_voids = new_voids_ = true;
          EDGE_RETURN_IF_ERROR(segment->file->WriteAt(at, magic));
        }
      }
    }
    if (++slot == index_.size()) slot = 0;
  }
  return OkStatus();
}

// --- Calls --------------------------------------------------------------------------------

StatusOr<std::optional<DiskRecord>> DiskTier::Get(std::string_view key) {
  const uint64_t hash = HashBytes(AsBytes(key));
  struct Candidate {
    uint64_t word = 0;
    std::shared_ptr<Segment> segment;
    std::unique_ptr<std::byte[]> bytes;  // not filled with zeros first
    size_t size = 0;                     // 0: to be read
  };
  std::vector<Candidate> candidates;
  {
    MutexLock lock(&mutex_);
    if (index_.empty()) return std::nullopt;
    for (size_t slot = HomeSlot(hash, index_.size()); index_[slot] != kEmpty;) {
      const uint64_t word = index_[slot];
      if (word > kGrave && Tag(word) == Tag(hash)) {
        Candidate candidate;
        candidate.word = word & ~kWasRead;
        candidate.segment = SegmentOf(word);
        index_[slot] |= kWasRead;
        if (candidate.segment != nullptr) {
          const uint64_t wanted = UnitsOf(static_cast<unsigned>(word >> kPlaceBits & 0xff)) * kUnit;
          const uint64_t at = OffsetOf(word);
          const uint64_t written = candidate.segment->bytes -
                                   (candidate.segment == segments_.back() ? buffer_.size() : 0);
          candidate.bytes.reset(new std::byte[wanted]);
          if (at >= written) {
            const uint64_t begin = at - written;
            candidate.size = std::min(wanted, buffer_.size() - begin);
            std::memcpy(candidate.bytes.get(), buffer_.data() + begin, candidate.size);
          } else {
            ++reads_;
          }
          candidates.push_back(std::move(candidate));
        }
      }
      if (++slot == index_.size()) slot = 0;
    }
  }
  for (Candidate& candidate : candidates) {
    if (candidate.size == 0) {
      const uint64_t wanted =
          UnitsOf(static_cast<unsigned>(candidate.word >> kPlaceBits & 0xff)) * kUnit;
      EDGE_ASSIGN_OR_RETURN(candidate.size,
                            candidate.segment->file->ReadAt(OffsetOf(candidate.word),
                                                            {candidate.bytes.get(), wanted}));
    }
    const ByteView bytes(candidate.bytes.get(), candidate.size);
    Header header;
    const bool intact = ParseHeader(bytes, candidate.segment->id, &header) && !header.is_void &&
                        RecordChecksum(bytes.first(header.bytes())) == header.checksum;
    if (!intact) {  // voided in a file whose manifest was older, or damaged
      MutexLock lock(&mutex_);
      if (const size_t slot = SlotOf(hash, candidate.word); slot != SIZE_MAX) {
        index_[slot] = kGrave;
        --entries_;
      }
      continue;
    }
    const std::string_view text = AsText(bytes).substr(kHeaderBytes);
    if (text.substr(0, header.key_bytes) != key) continue;
    DiskRecord record;
    record.value = text.substr(header.key_bytes, header.value_bytes);
    record.metadata =
        text.substr(size_t{header.key_bytes} + header.value_bytes, header.metadata_bytes);
    record.expires_s = header.expires_s;
    record.loaded_s = header.loaded_s;
    return std::optional<DiskRecord>(std::move(record));
  }
  return std::nullopt;
}

Status DiskTier::Insert(const NewRecord& record) {
  const uint64_t hash = HashBytes(AsBytes(record.key));
  const uint64_t size =
      kHeaderBytes + record.key.size() + record.value.size() + record.metadata.size() + kUnit;
  MutexLock lock(&mutex_);
  if (record.absent || size > options_.segment_bytes / 2) return VoidTagged(hash);
  if (segments_.back()->bytes + size > options_.segment_bytes) {
    EDGE_RETURN_IF_ERROR(FlushBuffer());
    EDGE_RETURN_IF_ERROR(Seal(segments_.back().get()));
    EDGE_RETURN_IF_ERROR(StartSegment());
    while (LogBytes() + options_.segment_bytes > options_.bytes_max) {
      EDGE_RETURN_IF_ERROR(DropOldest());
    }
  }
  Bytes bytes;
  MakeRecord(record, segments_.back()->id, &bytes);
  return Append(hash, bytes);
}

Status DiskTier::Forget(std::string_view key) {
  MutexLock lock(&mutex_);
  return VoidTagged(HashBytes(AsBytes(key)));
}

Status DiskTier::Void(std::string_view key) {
  MutexLock lock(&mutex_);
  EDGE_RETURN_IF_ERROR(VoidTagged(HashBytes(AsBytes(key))));
  if (!new_voids_) return OkStatus();
  for (const auto& segment : segments_) {
    if (!segment->has_new_voids) continue;
    EDGE_RETURN_IF_ERROR(segment->file->Sync());
    segment->has_new_voids = false;
  }
  new_voids_ = false;
  return OkStatus();
}

DiskTier::Usage DiskTier::usage() const {
  MutexLock lock(&mutex_);
  Usage usage;
  usage.entries = entries_;
  for (const auto& segment : segments_) usage.bytes += segment->bytes;
  usage.memory_bytes = index_.size() * sizeof(uint64_t);
  usage.reads = reads_;
  usage.bytes_appended = bytes_appended_;
  return usage;
}

}  // namespace edge::kv
