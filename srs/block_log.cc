#include "srs/block_log.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

#include "edge/base/checksum.h"
#include "edge/base/errors.h"
#include "srs/planted.h"

namespace edge::srs {
namespace {

constexpr char kFileMagic[8] = {'E', 'D', 'G', 'E', 'J', 'N', 'L', '1'};
constexpr uint32_t kFileVersion = 1;
constexpr uint32_t kBlockMagic = 0x314b4245;  // "EBK1"
constexpr uint32_t kRecycledFlag = 1;
constexpr size_t kSparesMax = 2;
constexpr size_t kSectorBytes = 512;  // what a disk writes whole or not at all
// A new file starts with this much and doubles, at most by the second figure: a short run
// writes few zeroes, and no single step holds the writer up for long.
constexpr uint64_t kFirstStepBytes = 1 << 20;
constexpr uint64_t kStepBytesMax = 8 << 20;

size_t RoundUp(size_t bytes) {
  return (bytes + kJournalBlockAlign - 1) / kJournalBlockAlign * kJournalBlockAlign;
}

struct BlockHeader {
  uint32_t crc = 0;
  uint64_t file = 0;
  uint64_t seq = 0;
  uint32_t prev_crc = 0;
  uint32_t payload_bytes = 0;
  size_t padded() const { return RoundUp(kBlockHeaderBytes + payload_bytes); }
};

bool DecodeBlockHeader(ByteView in, BlockHeader* header) {
  ByteReader reader(in.first(kBlockHeaderBytes));
  if (reader.U32() != kBlockMagic) return false;
  header->crc = reader.U32();
  header->file = reader.U64();
  header->seq = reader.U64();
  header->prev_crc = reader.U32();
  header->payload_bytes = reader.U32();
  return reader.U64() == 0;  // reserved
}

uint32_t BlockCrc(ByteView block) {
  return Crc32c(block.subspan(8));
}

bool IsAllZero(ByteView bytes) {
  return std::ranges::all_of(bytes, [](std::byte b) { return b == std::byte{0}; });
}

bool ParseFileName(std::string_view name, std::string_view prefix, uint64_t* seq) {
  constexpr std::string_view kSuffix = ".log";
  if (name.size() != prefix.size() + 16 + kSuffix.size() || !name.starts_with(prefix) ||
      !name.ends_with(kSuffix)) {
    return false;
  }
  std::byte raw[8];
  if (!FromHex(name.substr(prefix.size(), 16), raw)) return false;
  *seq = 0;
  for (const std::byte b : raw) *seq = *seq << 8 | std::to_integer<uint64_t>(b);
  return true;
}

}  // namespace

BlockBuffer::~BlockBuffer() {
  std::free(data_);
}

void BlockBuffer::Grow(size_t needed) {
  const size_t bytes = RoundUp(std::max(needed, std::max(size_t{16} << 10, capacity_ * 2)));
  auto* grown = static_cast<std::byte*>(std::aligned_alloc(kJournalBlockAlign, bytes));
  if (grown == nullptr) throw std::bad_alloc();
  if (data_ != nullptr) std::memcpy(grown, data_, size_);
  std::free(data_);
  data_ = grown;
  capacity_ = bytes;
}

void BlockLog::FileHeader::Encode(MutableByteView out) const {
  std::memset(out.data(), 0, out.size());
  Bytes bytes;
  ByteWriter writer(&bytes);
  writer.Raw(AsBytes({kFileMagic, 8}));
  writer.U32(kFileVersion);
  writer.U32(0);  // the checksum
  writer.U64(journal_id);
  writer.U64(seq);
  writer.U64(allocated_bytes);
  writer.U64(prev_seq);
  writer.U64(prev_end);
  writer.U64(first_block);
  writer.U32(prev_crc);
  writer.U64(static_cast<uint64_t>(wall_ms));
  writer.U32(is_recycled ? kRecycledFlag : 0);
  std::memcpy(out.data(), bytes.data(), bytes.size());
  StoreLittle(out.data() + 12, Crc32c(out));
}

bool BlockLog::FileHeader::Decode(MutableByteView in) {
  if (in.size() != kJournalBlockAlign || std::memcmp(in.data(), kFileMagic, 8) != 0) return false;
  const auto crc = LoadLittle<uint32_t>(in.data() + 12);
  StoreLittle(in.data() + 12, uint32_t{0});
  if (Crc32c(in) != crc) return false;
  ByteReader reader(in.subspan(8));
  if (reader.U32() != kFileVersion) return false;
  reader.U32();
  journal_id = reader.U64();
  seq = reader.U64();
  allocated_bytes = reader.U64();
  prev_seq = reader.U64();
  prev_end = reader.U64();
  first_block = reader.U64();
  prev_crc = reader.U32();
  wall_ms = static_cast<int64_t>(reader.U64());
  is_recycled = (reader.U32() & kRecycledFlag) != 0;
  return true;
}

std::string BlockLog::PathOf(uint64_t file) const {
  return Format("{}/{:016x}.log", {options_.directory, file});
}

BlockLog::~BlockLog() = default;

StatusOr<std::unique_ptr<BlockLog>> BlockLog::Open(BlockLogOptions options, Visitor recovered) {
  std::unique_ptr<BlockLog> log(new BlockLog(std::move(options)));
  EDGE_RETURN_IF_ERROR(log->Recover(recovered));
  EDGE_RETURN_IF_ERROR(log->StartFile(0));
  return log;
}

// --- Recovery ---

// Reads the blocks of one file in order.
struct BlockLog::Scan {
  Scan(File* f, std::string p, uint64_t s) : file(f), path(std::move(p)), size(s) {}
  File* file;
  std::string path;
  uint64_t size;
  uint64_t at = kJournalBlockAlign;
  Bytes block;
  BlockHeader header;

  // False: no good block at `offset`.
  StatusOr<bool> Load(uint64_t offset, uint64_t file_seq) {
    if (offset + kJournalBlockAlign > size) return false;
    block.resize(kJournalBlockAlign);
    EDGE_ASSIGN_OR_RETURN(size_t got, file->ReadAt(offset, block));
    if (got != block.size() || !DecodeBlockHeader(block, &header) || header.file != file_seq ||
        header.padded() > size - offset) {
      return false;
    }
    if (header.padded() > kJournalBlockAlign) {
      block.resize(header.padded());
      const auto rest = MutableByteView(block).subspan(kJournalBlockAlign);
      EDGE_ASSIGN_OR_RETURN(got, file->ReadAt(offset + kJournalBlockAlign, rest));
      if (got != rest.size()) return false;
    }
    return BlockCrc(block) == header.crc || Planted(Bug::kChecksumIgnored);
  }
  ByteView payload() const {
    return ByteView(block).subspan(kBlockHeaderBytes, header.payload_bytes);
  }
};

struct BlockLog::Found {
  std::string path;
  uint64_t seq = 0;
  std::unique_ptr<File> file;
  uint64_t size = 0;
  FileHeader header;
};

// The files that make up the log, oldest first.
StatusOr<std::vector<BlockLog::Found>> BlockLog::FindFiles() {
  FileSystem& files = *options_.files;
  EDGE_ASSIGN_OR_RETURN(const auto entries, files.List(options_.directory));
  std::vector<Found> found;
  for (const DirectoryEntry& entry : entries) {
    const std::string path = options_.directory + "/" + entry.name;
    uint64_t seq = 0;
    if (ParseFileName(entry.name, "spare-", &seq)) {
      MutexLock lock(&mu_);
      spares_.push_back(path);
    } else if (ParseFileName(entry.name, "", &seq)) {
      found.push_back({path, seq, nullptr, 0, {}});
      newest_file_ = seq;
    }
  }
  std::vector<Found> log;
  for (uint64_t wanted = 0; !found.empty(); found.pop_back()) {
    Found& f = found.back();
    if (wanted != 0 && f.seq > wanted) {  // an attempt that its successor passed over
      EDGE_RETURN_IF_ERROR(files.Remove(f.path));
      is_unsynced_ = true;
      continue;
    }
    if (wanted != 0 && f.seq < wanted) {
      return DataLoss("{}: follows {}, which is missing", log.back().path, PathOf(wanted));
    }
    EDGE_ASSIGN_OR_RETURN(f.file, files.Open(f.path, OpenMode::kRead));
    EDGE_ASSIGN_OR_RETURN(f.size, f.file->Size());
    Bytes raw(kJournalBlockAlign);
    EDGE_ASSIGN_OR_RETURN(const size_t got, f.file->ReadAt(0, raw));
    raw.resize(got);
    if (!f.header.Decode(raw) || f.header.seq != f.seq) {
      // A crash while the newest file was being made leaves it without header and blocks.
      Scan scan(f.file.get(), f.path, f.size);
      bool has_blocks = !log.empty();
      for (uint64_t at = kJournalBlockAlign; at < f.size && !has_blocks; at += kJournalBlockAlign) {
        EDGE_ASSIGN_OR_RETURN(has_blocks, scan.Load(at, f.seq));
      }
      if (has_blocks) return DataLoss("{}: the header at offset 0 is damaged", f.path);
      EDGE_RETURN_IF_ERROR(files.Remove(f.path));
      is_unsynced_ = true;
      continue;
    }
    if (f.size < f.header.allocated_bytes) {
      return DataLoss("{}: cut off at offset {}, should have {} bytes", f.path, f.size,
                      f.header.allocated_bytes);
    }
    if (!log.empty() && f.header.journal_id != log.back().header.journal_id) {
      return DataLoss("{}: belongs to another journal than {}", f.path, log.back().path);
    }
    wanted = f.header.prev_seq;
    log.push_back(std::move(f));
    if (wanted == 0) wanted = UINT64_MAX - 1;  // nothing came before; older files are strays
    if (wanted == UINT64_MAX - 1) break;
  }
  std::ranges::reverse(log);
  return log;
}

// Visits the blocks from scan->at to `end`; stops early, without error, at a bad one.
Status BlockLog::RecoverFile(Scan* scan, uint64_t seq, uint64_t end, Visitor& recovered) {
  while (scan->at < end) {
    EDGE_ASSIGN_OR_RETURN(const bool good, scan->Load(scan->at, seq));
    if (!good || scan->header.seq != next_block_ || scan->header.prev_crc != last_crc_) break;
    const Status visited = recovered(scan->payload(), {seq, scan->at});
    if (!visited.ok()) return Annotate(visited, Format("{} offset {}", {scan->path, scan->at}));
    next_block_ = scan->header.seq + 1;
    last_crc_ = scan->header.crc;
    scan->at += scan->header.padded();
  }
  return OkStatus();
}

// What stands at the end of the log must be what a torn write leaves: nothing good behind it
// (each block was durable before the next began) and, in a file that held only zeroes
// before, no sector that is neither zero nor as it was written.
Status BlockLog::CheckTail(Scan* scan, const Found& last) {
  const uint64_t log_end = scan->at;
  for (uint64_t at = log_end + kJournalBlockAlign; at < last.size; at += kJournalBlockAlign) {
    EDGE_ASSIGN_OR_RETURN(const bool good, scan->Load(at, last.seq));
    if (good && scan->header.seq >= next_block_) {
      return DataLoss("{}: the block at offset {} is damaged; a good one follows at {}", last.path,
                      log_end, at);
    }
  }
  if (last.header.is_recycled || log_end + kJournalBlockAlign > last.size) return OkStatus();
  EDGE_ASSIGN_OR_RETURN(const bool whole, scan->Load(log_end, last.seq));
  const ByteView block(scan->block);
  if (IsAllZero(block.first(kSectorBytes))) return OkStatus();
  BlockHeader header;
  const bool is_next = DecodeBlockHeader(block, &header) && header.file == last.seq &&
                       header.seq == next_block_ && header.prev_crc == last_crc_ &&
                       header.padded() <= last.size - log_end;
  if (is_next && !whole) {
    const size_t used = kBlockHeaderBytes + header.payload_bytes;
    for (size_t at = 0; at < used; at += kSectorBytes) {
      if (IsAllZero(block.subspan(at, kSectorBytes))) return OkStatus();
    }
  }
  return DataLoss("{}: the last block, at offset {}, is damaged: all of it was written", last.path,
                  log_end);
}

Status BlockLog::Recover(Visitor& recovered) {
  EDGE_ASSIGN_OR_RETURN(const std::vector<Found> found, FindFiles());
  if (found.empty()) {
    id_ = options_.random->Next() | 1;
    return OkStatus();
  }
  id_ = found[0].header.journal_id;
  next_block_ = found[0].header.first_block;
  last_crc_ = found[0].header.prev_crc;
  for (size_t i = 0; i < found.size(); ++i) {
    const Found& f = found[i];
    const bool is_last = i + 1 == found.size();
    const uint64_t end = is_last ? f.size : found[i + 1].header.prev_end;
    Scan scan(f.file.get(), f.path, f.size);
    EDGE_RETURN_IF_ERROR(RecoverFile(&scan, f.seq, end, recovered));
    const uint64_t log_end = scan.at;
    if (!is_last && log_end != end) {
      return DataLoss("{}: the block at offset {} is damaged; the log goes on to {}", f.path,
                      log_end, end);
    }
    if (is_last) {
      EDGE_RETURN_IF_ERROR(CheckTail(&scan, f));
      // What was read may still be in the page cache only.
      EDGE_ASSIGN_OR_RETURN(auto writable, options_.files->Open(f.path, OpenMode::kReadWrite));
      EDGE_RETURN_IF_ERROR(writable->Sync());
    }
    MutexLock lock(&mu_);
    LogFile& log = files_[f.seq];
    log.path = f.path;
    log.end = log_end;
    end_ = {f.seq, log_end};
  }
  MutexLock lock(&mu_);
  file_seq_ = end_.file;
  offset_ = end_.offset;
  return OkStatus();
}

// --- Writing ---

Status BlockLog::WriteHeader() {
  BlockBuffer raw;
  raw.Grow(kJournalBlockAlign);
  header_.Encode({raw.data_, kJournalBlockAlign});
  return file_->WriteAt(0, {raw.data_, kJournalBlockAlign});
}

Status BlockLog::StartFile(size_t block_bytes) {
  const std::string path = PathOf(++newest_file_);  // what a failed attempt used is not used again
  const Status made = MakeFile(path, block_bytes);
  if (!made.ok()) {
    file_.reset();
    // Only now: FreeOldest, on another thread, removes what it finds here.
    MutexLock lock(&mu_);
    attempts_.push_back(path);
  }
  return made;
}

Status BlockLog::MakeFile(const std::string& path, size_t block_bytes) {
  FileSystem& files = *options_.files;
  header_ = {};
  header_.journal_id = id_;
  header_.prev_seq = file_seq_;
  header_.prev_end = offset_;
  header_.first_block = next_block_;
  header_.prev_crc = last_crc_;
  header_.wall_ms = options_.clock->wall_ms();
  header_.seq = newest_file_;
  const uint64_t needed = kJournalBlockAlign + block_bytes;
  file_limit_ = RoundUp(std::max<uint64_t>(options_.file_bytes, needed));
  header_.allocated_bytes = std::min(file_limit_, std::max(kFirstStepBytes, RoundUp(needed)));
  std::string spare;
  {
    MutexLock lock(&mu_);
    if (!spares_.empty()) {
      spare = spares_.back();
      spares_.pop_back();
    }
  }
  if (!spare.empty()) {
    EDGE_RETURN_IF_ERROR(files.Rename(spare, path));
    header_.is_recycled = true;
  }
  {
    EDGE_ASSIGN_OR_RETURN(auto plain, files.Open(path, OpenMode::kCreate));
    EDGE_ASSIGN_OR_RETURN(const uint64_t present, plain->Size());
    header_.allocated_bytes =
        std::max(header_.allocated_bytes,
                 std::min(file_limit_, present / kJournalBlockAlign * kJournalBlockAlign));
    EDGE_RETURN_IF_ERROR(plain->Allocate(header_.allocated_bytes));
    EDGE_RETURN_IF_ERROR(plain->Sync());
  }
  EDGE_ASSIGN_OR_RETURN(file_, files.Open(path, OpenMode::kReadWrite, Caching::kDirectSync));
  EDGE_RETURN_IF_ERROR(WriteHeader());
  EDGE_RETURN_IF_ERROR(files.SyncDirectory(options_.directory));
  file_seq_ = header_.seq;
  offset_ = kJournalBlockAlign;
  MutexLock lock(&mu_);
  files_[file_seq_].path = path;
  end_ = {file_seq_, offset_};
  return OkStatus();
}

// The new size is durable before the header, one sector, speaks of it.
Status BlockLog::GrowFile(uint64_t needed) {
  const uint64_t step = std::min(header_.allocated_bytes, kStepBytesMax);
  const uint64_t bytes =
      std::min(file_limit_, RoundUp(std::max(header_.allocated_bytes + step, needed)));
  {
    EDGE_ASSIGN_OR_RETURN(auto plain,
                          options_.files->Open(PathOf(file_seq_), OpenMode::kReadWrite));
    EDGE_RETURN_IF_ERROR(plain->Allocate(bytes));
    EDGE_RETURN_IF_ERROR(plain->Sync());
  }
  header_.allocated_bytes = bytes;
  return WriteHeader();
}

StatusOr<JournalPosition> BlockLog::Write(BlockBuffer* block) {
  const size_t payload_bytes = block->payload_bytes();
  const size_t size = block->size_;
  const size_t padded = RoundUp(size);
  std::memset(block->Extend(padded - size), 0, padded - size);
  block->size_ = size;
  Status failure;
  for (int attempt = 0; attempt < 3; ++attempt) {
    if (file_ == nullptr || offset_ + padded > file_limit_) {
      file_.reset();
      failure = StartFile(padded);
      if (!failure.ok()) continue;
    }
    failure = offset_ + padded > header_.allocated_bytes ? GrowFile(offset_ + padded) : OkStatus();
    if (failure.ok()) {
      std::byte* at = block->data_;
      StoreLittle(at, kBlockMagic);
      StoreLittle(at + 8, file_seq_);
      StoreLittle(at + 16, next_block_);
      StoreLittle(at + 24, last_crc_);
      StoreLittle(at + 28, static_cast<uint32_t>(payload_bytes));
      StoreLittle(at + 32, uint64_t{0});
      const uint32_t crc = BlockCrc({at, padded});
      StoreLittle(at + 4, crc);
      failure = file_->WriteAt(offset_, {at, padded});
      if (failure.ok()) {
        const JournalPosition place{file_seq_, offset_};
        offset_ += padded;
        ++next_block_;
        last_crc_ = crc;
        MutexLock lock(&mu_);
        files_[file_seq_].end = offset_;
        end_ = {file_seq_, offset_};
        return place;
      }
    }
    if (Planted(Bug::kFailedFileReused)) continue;
    // Go on in another file, whose header says that this one ends before the failed block.
    file_.reset();
    MutexLock lock(&mu_);
    files_[file_seq_].abandoned = true;
  }
  return failure;
}

void BlockLog::WriteEnd() {
  if (file_ == nullptr || offset_ == kJournalBlockAlign ||
      offset_ + kJournalBlockAlign > header_.allocated_bytes) {
    return;  // it only helps; a file is not started or grown for it
  }
  BlockBuffer block;
  Write(&block).status().IgnoreError();
}

// --- Reading back, recycling ---

JournalPosition BlockLog::end() const {
  MutexLock lock(&mu_);
  return end_;
}
JournalPosition BlockLog::begin() const {
  MutexLock lock(&mu_);
  if (files_.empty()) return end_;
  return {files_.begin()->first, kJournalBlockAlign};
}

StatusOr<JournalPosition> BlockLog::Read(JournalPosition from, JournalPosition until,
                                         uint64_t bytes_max, Visitor visit) {
  uint64_t read = 0;
  JournalPosition at = from;
  at.offset = std::max<uint64_t>(at.offset, kJournalBlockAlign);
  while (at < until && read < bytes_max) {
    std::string path;
    uint64_t end = 0;
    bool has_next = false;
    {
      MutexLock lock(&mu_);
      const auto it = files_.lower_bound(at.file);
      if (it == files_.end()) break;
      if (it->first != at.file) at = {it->first, kJournalBlockAlign};
      path = it->second.path;
      end = it->second.end;
      has_next = std::next(it) != files_.end();
    }
    if (at.file == until.file) end = std::min(end, until.offset);
    if (at.offset < end) {
      auto file_or = options_.files->Open(path, OpenMode::kRead);
      if (file_or.status().code() == StatusCode::kNotFound && begin().file > at.file) {
        continue;  // it was freed meanwhile: what it held is in the store
      }
      EDGE_ASSIGN_OR_RETURN(const auto file, std::move(file_or));
      Scan scan(file.get(), path, end);
      while (at.offset < end && read < bytes_max) {
        EDGE_ASSIGN_OR_RETURN(const bool good, scan.Load(at.offset, at.file));
        if (!good) return DataLoss("{}: the block at offset {} is damaged", path, at.offset);
        const Status visited = visit(scan.payload(), at);
        if (!visited.ok()) return Annotate(visited, Format("{} offset {}", {path, at.offset}));
        at.offset += scan.header.padded();
        read += scan.header.padded();
      }
    } else if (!has_next) {
      break;
    } else {
      at = {at.file + 1, kJournalBlockAlign};
    }
  }
  return at;
}

uint64_t BlockLog::BytesBetween(JournalPosition from, JournalPosition to) const {
  MutexLock lock(&mu_);
  uint64_t bytes = 0;
  for (auto it = files_.lower_bound(from.file); it != files_.end() && it->first <= to.file; ++it) {
    const uint64_t start = it->first == from.file ? from.offset : kJournalBlockAlign;
    const uint64_t end = it->first == to.file ? to.offset : it->second.end;
    if (end > start) bytes += end - start;
  }
  return bytes;
}

size_t BlockLog::file_count() const {
  MutexLock lock(&mu_);
  return files_.size();
}

std::optional<JournalPosition> BlockLog::OldestFull() const {
  MutexLock lock(&mu_);
  const auto it = files_.begin();
  if (it == files_.end() || it->first >= end_.file) return std::nullopt;
  return JournalPosition{it->first, it->second.end};
}

bool BlockLog::FreeOldest() {
  // Held around the I/O, once per file: nobody may be told of a file that is going.
  MutexLock lock(&mu_);
  FileSystem& files = *options_.files;
  // Files that were begun in vain would be taken for the log's beginning.
  while (!attempts_.empty()) {
    const Status removed = files.Remove(attempts_.back());
    if (!removed.ok() && removed.code() != StatusCode::kNotFound) return false;
    is_unsynced_ = true;
    attempts_.pop_back();
  }
  // In order, and each for good before the next: a crash must not leave a file whose
  // successor is gone.
  if (is_unsynced_ && !files.SyncDirectory(options_.directory).ok()) return false;
  is_unsynced_ = false;
  const auto& [seq, file] = *files_.begin();
  const bool keep = !file.abandoned && spares_.size() < kSparesMax;
  const std::string spare = Format("{}/spare-{:016x}.log", {options_.directory, seq});
  const Status freed = keep ? files.Rename(file.path, spare) : files.Remove(file.path);
  if (!freed.ok()) return false;
  files_.erase(files_.begin());
  is_unsynced_ = !files.SyncDirectory(options_.directory).ok();
  if (is_unsynced_) return false;
  if (keep) spares_.push_back(spare);
  return true;
}

}  // namespace edge::srs
