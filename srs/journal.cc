#include "srs/journal.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

#include "edge/base/check.h"
#include "edge/base/errors.h"

namespace edge::srs {
namespace {

constexpr char kFileMagic[8] = {'E', 'D', 'G', 'E', 'J', 'N', 'L', '1'};
constexpr uint32_t kFileVersion = 1;
constexpr uint32_t kBlockMagic = 0x314b4245;  // "EBK1"
constexpr size_t kBlockHeaderBytes = 40;
constexpr size_t kSparesMax = 2;

size_t RoundUp(size_t bytes) {
  return (bytes + kJournalBlockAlign - 1) / kJournalBlockAlign * kJournalBlockAlign;
}

struct FileHeader {
  uint64_t journal_id = 0;
  uint64_t seq = 0;
  uint64_t bytes = 0;     // allocated
  uint64_t prev_seq = 0;  // 0: the first
  uint64_t prev_end = 0;  // where the log ends in that file
  uint64_t first_block = 0;
  uint32_t prev_crc = 0;  // of the block before
  int64_t wall_ms = 0;
};

void EncodeHeader(const FileHeader& header, MutableByteView out) {
  std::memset(out.data(), 0, out.size());
  Bytes bytes;
  ByteWriter writer(&bytes);
  writer.Raw(AsBytes({kFileMagic, 8}));
  writer.U32(kFileVersion);
  writer.U32(0);  // the checksum
  writer.U64(header.journal_id);
  writer.U64(header.seq);
  writer.U64(header.bytes);
  writer.U64(header.prev_seq);
  writer.U64(header.prev_end);
  writer.U64(header.first_block);
  writer.U32(header.prev_crc);
  writer.U64(static_cast<uint64_t>(header.wall_ms));
  std::memcpy(out.data(), bytes.data(), bytes.size());
  StoreLittle(out.data() + 12, Crc32c(out));
}

bool DecodeHeader(MutableByteView in, FileHeader* header) {
  if (in.size() != kJournalBlockAlign || std::memcmp(in.data(), kFileMagic, 8) != 0) return false;
  const auto crc = LoadLittle<uint32_t>(in.data() + 12);
  StoreLittle(in.data() + 12, uint32_t{0});
  if (Crc32c(in) != crc) return false;
  ByteReader reader(in.subspan(8));
  if (reader.U32() != kFileVersion) return false;
  reader.U32();
  header->journal_id = reader.U64();
  header->seq = reader.U64();
  header->bytes = reader.U64();
  header->prev_seq = reader.U64();
  header->prev_end = reader.U64();
  header->first_block = reader.U64();
  header->prev_crc = reader.U32();
  header->wall_ms = static_cast<int64_t>(reader.U64());
  return true;
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

// Page-aligned memory for direct writes, with room for the block header in front.
struct Journal::Buffer {
  std::byte* data = nullptr;
  size_t size = kBlockHeaderBytes;
  size_t capacity = 0;

  Buffer() = default;
  Buffer(const Buffer&) = delete;
  ~Buffer() { std::free(data); }
  std::byte* Extend(size_t count) {
    if (size + count > capacity) Grow(size + count);
    size += count;
    return data + size - count;
  }
  void Grow(size_t needed) {
    const size_t bytes = RoundUp(std::max(needed, std::max(size_t{16} << 10, capacity * 2)));
    auto* grown = static_cast<std::byte*>(std::aligned_alloc(kJournalBlockAlign, bytes));
    if (grown == nullptr) throw std::bad_alloc();
    if (data != nullptr) std::memcpy(grown, data, size);
    std::free(data);
    data = grown;
    capacity = bytes;
  }
  void Put(ByteView bytes) { std::memcpy(Extend(bytes.size()), bytes.data(), bytes.size()); }
  void Varint(uint64_t value) {
    for (; value >= 0x80; value >>= 7) *Extend(1) = static_cast<std::byte>(value | 0x80);
    *Extend(1) = static_cast<std::byte>(value);
  }
  template <typename T>
  void Fixed(T value) {
    StoreLittle(Extend(sizeof(T)), value);
  }
};

struct Journal::Batch {
  uint64_t id = 0;
  Buffer buffer;
  struct Mark {
    std::shared_ptr<JournalStream> stream;
    uint32_t epoch;
    Lsn lsn;  // newest in this batch
  };
  std::vector<Mark> marks;
};

struct Journal::LogFile {
  std::string path;
  uint64_t end = kJournalBlockAlign;  // where its log ends, so far
  struct Newest {
    std::shared_ptr<JournalStream> stream;
    uint32_t epoch;
    Lsn lsn;
  };
  std::unordered_map<const JournalStream*, Newest> newest;
};

Status VisitEntries(ByteView payload, EntryVisitor& visit) {
  struct Bound {
    std::string_view name;
    uint32_t epoch;
    Lsn lsn;
    Hash128 chain;
  };
  std::vector<Bound> bound;
  ByteReader in(payload);
  while (in.remaining() > 0) {
    const auto kind = static_cast<EntryKind>(in.U8());
    const uint64_t slot = in.Varint();
    if (kind == EntryKind::kBind) {
      Bound b;
      b.epoch = in.U32();
      b.lsn = in.Varint();
      b.chain.low = in.U64();
      b.chain.high = in.U64();
      b.name = AsText(in.Sized());
      if (in.failed() || slot != bound.size()) return DataLoss("malformed binding entry");
      bound.push_back(b);
      continue;
    }
    if (in.failed() || slot >= bound.size()) return DataLoss("entry of an unbound database");
    Bound& b = bound[slot];
    JournalEntry entry{kind, b.name, b.epoch, b.lsn, b.chain, {}, {}};
    if (kind == EntryKind::kCommit) {
      entry.bytes = in.Sized();
      if (in.failed()) return DataLoss("entry cut off");
      EDGE_ASSIGN_OR_RETURN(entry.record, ParseRecord(entry.bytes, b.chain));
      if (entry.record.lsn != b.lsn + 1) {
        return DataLoss("{}: record {} after record {}", b.name, entry.record.lsn, b.lsn);
      }
      entry.lsn = b.lsn = entry.record.lsn;
      b.chain = entry.record.chain;
    } else if (kind != EntryKind::kDelete) {
      return DataLoss("unknown kind of entry {}", static_cast<int>(kind));
    }
    EDGE_RETURN_IF_ERROR(visit(entry));
  }
  return in.failed() ? Status(DataLoss("entries cut off")) : OkStatus();
}

Journal::Journal(JournalOptions options) : options_(std::move(options)) {
  if (options_.metrics != nullptr) {
    blocks_metric_ = &options_.metrics->counter("edge_srs_journal_blocks");
    bytes_metric_ = &options_.metrics->counter("edge_srs_journal_bytes");
    record_bytes_metric_ = &options_.metrics->counter("edge_srs_record_bytes");
    latency_metric_ = &options_.metrics->histogram("edge_srs_journal_write_latency_ns");
  }
}

std::string Journal::PathOf(uint64_t file) const {
  return Format("{}/{:016x}.log", {options_.directory, file});
}

StatusOr<std::unique_ptr<Journal>> Journal::Open(JournalOptions options,
                                                 RecoveryVisitor recovered) {
  std::unique_ptr<Journal> journal(new Journal(std::move(options)));
  EDGE_RETURN_IF_ERROR(journal->Recover(recovered));
  EDGE_RETURN_IF_ERROR(journal->StartFile());
  if (journal->options_.threads) journal->writer_ = std::thread([j = journal.get()] { j->Run(); });
  return journal;
}

Journal::~Journal() {
  if (writer_.joinable()) {
    {
      MutexLock lock(&mu_);
      stopping_ = true;
      work_.Signal();
    }
    writer_.join();
  } else if (file_ != nullptr) {
    while (WriteStep()) {
    }
  }
}

// --- Recovery ---

// Reads the blocks of one file in order.
struct Journal::Scan {
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
    return BlockCrc(block) == header.crc;
  }
  ByteView payload() const {
    return ByteView(block).subspan(kBlockHeaderBytes, header.payload_bytes);
  }
};

struct Journal::Found {
  std::string path;
  uint64_t seq = 0;
  std::unique_ptr<File> file;
  uint64_t size = 0;
  FileHeader header;
};

// The files that make up the log, oldest first.
StatusOr<std::vector<Journal::Found>> Journal::FindFiles() {
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
    if (!DecodeHeader(raw, &f.header) || f.header.seq != f.seq) {
      // A crash while the newest file was being made leaves it without header and blocks.
      Scan scan(f.file.get(), f.path, f.size);
      bool has_blocks = !log.empty();
      for (uint64_t at = kJournalBlockAlign; at < f.size && !has_blocks; at += kJournalBlockAlign) {
        EDGE_ASSIGN_OR_RETURN(has_blocks, scan.Load(at, f.seq));
      }
      if (has_blocks) return DataLoss("{}: the header at offset 0 is damaged", f.path);
      EDGE_RETURN_IF_ERROR(files.Remove(f.path));
      continue;
    }
    if (f.size < f.header.bytes) {
      return DataLoss("{}: cut off at offset {}, should have {} bytes", f.path, f.size,
                      f.header.bytes);
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
Status Journal::RecoverFile(Scan* scan, uint64_t seq, uint64_t end, RecoveryVisitor& recovered) {
  while (scan->at < end) {
    EDGE_ASSIGN_OR_RETURN(const bool good, scan->Load(scan->at, seq));
    if (!good || scan->header.seq != next_block_ || scan->header.prev_crc != last_crc_) break;
    const JournalPosition here{seq, scan->at};
    EntryVisitor visit = [&recovered, &here](const JournalEntry& entry) {
      return recovered(entry, here);
    };
    const Status visited = VisitEntries(scan->payload(), visit);
    if (!visited.ok()) return Annotate(visited, Format("{} offset {}", {scan->path, scan->at}));
    next_block_ = scan->header.seq + 1;
    last_crc_ = scan->header.crc;
    scan->at += scan->header.padded();
  }
  return OkStatus();
}

Status Journal::Recover(RecoveryVisitor& recovered) {
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
      // A torn tail has nothing good behind it: each block was durable before the next began.
      for (uint64_t at = log_end + kJournalBlockAlign; at < f.size; at += kJournalBlockAlign) {
        EDGE_ASSIGN_OR_RETURN(const bool good, scan.Load(at, f.seq));
        if (good && scan.header.seq >= next_block_) {
          return DataLoss("{}: the block at offset {} is damaged; a good one follows at {}", f.path,
                          log_end, at);
        }
      }
      // What was read may still be in the page cache only.
      EDGE_ASSIGN_OR_RETURN(auto writable, options_.files->Open(f.path, OpenMode::kReadWrite));
      EDGE_RETURN_IF_ERROR(writable->Sync());
    }
    MutexLock lock(&mu_);
    LogFile& log = files_[f.seq];
    log.path = f.path;
    log.end = log_end;
    end_ = {f.seq, log_end};
    if (i == 0) uploaded_ = {f.seq, kJournalBlockAlign};
  }
  MutexLock lock(&mu_);
  file_seq_ = end_.file;
  offset_ = end_.offset;
  return OkStatus();
}

// --- Writing ---

Status Journal::StartFile() {
  FileSystem& files = *options_.files;
  FileHeader header;
  header.journal_id = id_;
  header.prev_seq = file_seq_;
  header.prev_end = offset_;
  header.first_block = next_block_;
  header.prev_crc = last_crc_;
  header.wall_ms = options_.clock->wall_ms();
  header.seq = ++newest_file_;  // a number that a failed attempt has used is not used again
  size_t needed = kJournalBlockAlign;
  {
    MutexLock lock(&mu_);
    if (!pending_.empty()) needed += RoundUp(pending_.front()->buffer.size);
  }
  header.bytes = RoundUp(std::max<uint64_t>(options_.file_bytes, needed));
  std::string path = PathOf(header.seq);
  std::string spare;
  {
    MutexLock lock(&mu_);
    if (!spares_.empty()) {
      spare = spares_.back();
      spares_.pop_back();
    }
  }
  if (!spare.empty()) EDGE_RETURN_IF_ERROR(files.Rename(spare, path));
  std::unique_ptr<File> file;
  {
    EDGE_ASSIGN_OR_RETURN(auto plain, files.Open(path, OpenMode::kCreate));
    EDGE_RETURN_IF_ERROR(plain->Allocate(header.bytes));
    EDGE_RETURN_IF_ERROR(plain->Sync());
  }
  EDGE_ASSIGN_OR_RETURN(file, files.Open(path, OpenMode::kReadWrite, Caching::kDirectSync));
  Buffer raw;
  raw.Grow(kJournalBlockAlign);
  EncodeHeader(header, {raw.data, kJournalBlockAlign});
  EDGE_RETURN_IF_ERROR(file->WriteAt(0, {raw.data, kJournalBlockAlign}));
  EDGE_RETURN_IF_ERROR(files.SyncDirectory(options_.directory));
  file_ = std::move(file);
  file_seq_ = header.seq;
  file_bytes_ = header.bytes;
  offset_ = kJournalBlockAlign;
  MutexLock lock(&mu_);
  files_[file_seq_].path = path;
  end_ = {file_seq_, offset_};
  if (uploaded_.file == 0) uploaded_ = end_;
  return OkStatus();
}

Status Journal::WriteBatch(Batch* batch) {
  Buffer& buffer = batch->buffer;
  const size_t padded = RoundUp(buffer.size);
  const size_t payload_bytes = buffer.size - kBlockHeaderBytes;
  std::memset(buffer.Extend(padded - buffer.size), 0, padded - kBlockHeaderBytes - payload_bytes);
  Status failure;
  for (int attempt = 0; attempt < 3; ++attempt) {
    if (file_ == nullptr || offset_ + padded > file_bytes_) {
      file_.reset();
      failure = StartFile();
      if (!failure.ok()) continue;
    }
    std::byte* at = buffer.data;
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
      offset_ += padded;
      ++next_block_;
      last_crc_ = crc;
      return failure;
    }
    // What the file now holds is unknown for good. Go on in another, whose header says
    // that this one ends before the failed block.
    file_.reset();
  }
  return failure;
}

bool Journal::WriteStep() {
  Batch* batch = nullptr;
  {
    MutexLock lock(&mu_);
    if (pending_.empty() || !status_.ok()) return false;
    batch = pending_.front().get();
    batch->id = 0;  // nobody may append to it any more
  }
  const size_t batch_bytes = batch->buffer.size;
  const int64_t start_ns = latency_metric_ != nullptr ? options_.clock->monotonic_ns() : 0;
  const Status written = WriteBatch(batch);
  if (!written.ok()) {
    {
      MutexLock lock(&mu_);
      status_ = Annotate(written, "the journal cannot be written");
      pending_.clear();
      pending_bytes_ = 0;
      room_.SignalAll();
      drained_.SignalAll();
    }
    if (on_broken_) on_broken_(status());
    return false;
  }
  if (latency_metric_ != nullptr) {
    latency_metric_->Record(static_cast<uint64_t>(options_.clock->monotonic_ns() - start_ns));
    blocks_metric_->Add();
    bytes_metric_->Add(batch->buffer.size);
  }
  std::unique_ptr<Batch> done;
  {
    MutexLock lock(&mu_);
    end_ = {file_seq_, offset_};
    LogFile& file = files_[file_seq_];
    file.end = offset_;
    for (const Batch::Mark& mark : batch->marks) {
      file.newest[mark.stream.get()] = {mark.stream, mark.epoch, mark.lsn};
    }
    done = std::move(pending_.front());
    pending_.pop_front();
    const bool was_full = pending_bytes_ > kPendingBytesMax;
    pending_bytes_ -= batch_bytes;
    ++batches_written_;
    if (draining_ > 0) drained_.SignalAll();
    if (was_full) room_.SignalAll();
  }
  if (on_written_) on_written_(done->buffer.size);
  for (const Batch::Mark& mark : done->marks) mark.stream->OnJournalled(mark.lsn);
  done->marks.clear();
  done->buffer.size = kBlockHeaderBytes;
  MutexLock lock(&mu_);
  if (idle_.size() < 4 && done->buffer.capacity <= 4 * kBatchBytes)
    idle_.push_back(std::move(done));
  return true;
}

void Journal::Run() {
  for (;;) {
    while (WriteStep()) {
    }
    MutexLock lock(&mu_);
    while (pending_.empty() && !stopping_) {
      writer_sleeps_ = true;
      work_.Wait(&mu_);
      writer_sleeps_ = false;
    }
    if (stopping_ && (pending_.empty() || !status_.ok())) return;
    if (!status_.ok()) pending_.clear();
  }
}

void Journal::WakeWriter() {
  if (writer_sleeps_) {
    writer_sleeps_ = false;
    work_.Signal();
  }
}

Journal::Batch* Journal::BatchForEntry(size_t bytes) {
  while (pending_bytes_ > kPendingBytesMax && status_.ok() && options_.threads) room_.Wait(&mu_);
  if (!pending_.empty()) {
    Batch* last = pending_.back().get();
    if (last->id != 0 && last->buffer.size + bytes <= kBatchBytes) return last;
  }
  std::unique_ptr<Batch> batch;
  if (idle_.empty()) {
    batch = std::make_unique<Batch>();
    batch->buffer.Grow(kBlockHeaderBytes + bytes + 512);
  } else {
    batch = std::move(idle_.back());
    idle_.pop_back();
  }
  batch->id = next_batch_id_++;
  pending_.push_back(std::move(batch));
  return pending_.back().get();
}

void Journal::Bind(Batch* batch, const std::shared_ptr<JournalStream>& stream, uint32_t epoch,
                   Lsn lsn, const Hash128& chain_before) {
  if (stream->batch_id_ == batch->id && batch->marks[stream->slot_].epoch == epoch) {
    batch->marks[stream->slot_].lsn = lsn;
    return;
  }
  stream->batch_id_ = batch->id;
  stream->slot_ = batch->marks.size();
  batch->marks.push_back({stream, epoch, lsn});
  Buffer& out = batch->buffer;
  *out.Extend(1) = std::byte(EntryKind::kBind);
  out.Varint(stream->slot_);
  out.Fixed(epoch);
  out.Varint(lsn);
  out.Fixed(chain_before.low);
  out.Fixed(chain_before.high);
  out.Varint(stream->name().size());
  out.Put(AsBytes(stream->name()));
}

void Journal::Append(const std::shared_ptr<JournalStream>& stream, uint32_t epoch, Lsn lsn,
                     const Hash128& chain_before, ByteView record) {
  EDGE_CHECK(record.size() <= kRecordBytesMax);
  if (record_bytes_metric_ != nullptr) record_bytes_metric_->Add(record.size());
  MutexLock lock(&mu_);
  if (!status_.ok()) return;
  Batch* batch = BatchForEntry(record.size() + 300);
  const size_t size_before = batch->buffer.size == kBlockHeaderBytes ? 0 : batch->buffer.size;
  Bind(batch, stream, epoch, lsn - 1, chain_before);
  batch->marks[stream->slot_].lsn = lsn;
  Buffer& out = batch->buffer;
  *out.Extend(1) = std::byte(EntryKind::kCommit);
  out.Varint(stream->slot_);
  out.Varint(record.size());
  out.Put(record);
  pending_bytes_ += out.size - size_before;
  WakeWriter();
}

void Journal::AppendDelete(const std::shared_ptr<JournalStream>& stream, uint32_t epoch, Lsn lsn) {
  MutexLock lock(&mu_);
  if (!status_.ok()) return;
  Batch* batch = BatchForEntry(300);
  const size_t size_before = batch->buffer.size == kBlockHeaderBytes ? 0 : batch->buffer.size;
  Bind(batch, stream, epoch, lsn, {});
  *batch->buffer.Extend(1) = std::byte(EntryKind::kDelete);
  batch->buffer.Varint(stream->slot_);
  pending_bytes_ += batch->buffer.size - size_before;
  WakeWriter();
}

// --- Reading back, recycling ---

Status Journal::Drain() {
  if (!options_.threads) {
    while (WriteStep()) {
    }
    return status();
  }
  MutexLock lock(&mu_);
  const uint64_t wanted = next_batch_id_ - 1;
  ++draining_;
  while (batches_written_ < wanted && status_.ok()) drained_.Wait(&mu_);
  --draining_;
  return status_;
}

Status Journal::status() const {
  MutexLock lock(&mu_);
  return status_;
}
void Journal::SetOnBroken(Callback<void(const Status&)> on_broken) {
  on_broken_ = std::move(on_broken);
}
void Journal::SetOnWritten(Callback<void(uint64_t)> on_written) {
  on_written_ = std::move(on_written);
}

JournalPosition Journal::end() const {
  MutexLock lock(&mu_);
  return end_;
}
JournalPosition Journal::begin() const {
  MutexLock lock(&mu_);
  if (files_.empty()) return end_;
  return {files_.begin()->first, kJournalBlockAlign};
}

StatusOr<JournalPosition> Journal::Read(JournalPosition from, JournalPosition until,
                                        uint64_t bytes_max, EntryVisitor visit) {
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
      EDGE_ASSIGN_OR_RETURN(auto file, options_.files->Open(path, OpenMode::kRead));
      Scan scan(file.get(), path, end);
      while (at.offset < end && read < bytes_max) {
        EDGE_ASSIGN_OR_RETURN(const bool good, scan.Load(at.offset, at.file));
        if (!good) return DataLoss("{}: the block at offset {} is damaged", path, at.offset);
        const Status visited = VisitEntries(scan.payload(), visit);
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

Status Journal::ReadBlock(JournalPosition block, EntryVisitor visit) {
  return Read(block, {block.file, UINT64_MAX}, 1, std::move(visit)).status();
}

uint64_t Journal::BytesBetween(JournalPosition from, JournalPosition to) const {
  MutexLock lock(&mu_);
  uint64_t bytes = 0;
  for (auto it = files_.lower_bound(from.file); it != files_.end() && it->first <= to.file; ++it) {
    const uint64_t start = it->first == from.file ? from.offset : kJournalBlockAlign;
    const uint64_t end = it->first == to.file ? to.offset : it->second.end;
    if (end > start) bytes += end - start;
  }
  return bytes;
}

void Journal::SetUploaded(JournalPosition position) {
  MutexLock lock(&mu_);
  uploaded_ = std::max(uploaded_, position);
}

void Journal::Recycle() {
  for (;;) {
    std::string path;
    uint64_t seq = 0;
    {
      MutexLock lock(&mu_);
      const auto it = files_.begin();
      if (it == files_.end() || it->first >= end_.file) return;
      if (uploaded_ < JournalPosition{it->first, it->second.end}) return;
      for (const auto& [stream, newest] : it->second.newest) {
        if (!stream->IsCached(newest.epoch, newest.lsn)) return;
      }
      path = it->second.path;
      seq = it->first;
      files_.erase(it);
    }
    // Failing here costs disk space only: a restart finds the file again.
    const std::string spare = Format("{}/spare-{:016x}.log", {options_.directory, seq});
    bool keep = false;
    {
      MutexLock lock(&mu_);
      keep = spares_.size() < kSparesMax;
    }
    if (keep && options_.files->Rename(path, spare).ok()) {
      MutexLock lock(&mu_);
      spares_.push_back(spare);
    } else {
      options_.files->Remove(path).IgnoreError();
    }
    // In order: a crash must not leave a file whose successor is gone.
    if (!options_.files->SyncDirectory(options_.directory).ok()) return;
  }
}

std::vector<std::shared_ptr<JournalStream>> Journal::Laggards(size_t files_max) const {
  std::vector<std::shared_ptr<JournalStream>> laggards;
  MutexLock lock(&mu_);
  if (files_.size() <= files_max) return laggards;
  for (const auto& [stream, newest] : files_.begin()->second.newest) {
    if (!stream->IsCached(newest.epoch, newest.lsn)) laggards.push_back(newest.stream);
  }
  return laggards;
}

void Journal::NoteRecovered(uint64_t file, const std::shared_ptr<JournalStream>& stream,
                            uint32_t epoch, Lsn lsn) {
  MutexLock lock(&mu_);
  files_[file].newest[stream.get()] = {stream, epoch, lsn};
}

size_t Journal::file_count() const {
  MutexLock lock(&mu_);
  return files_.size();
}

}  // namespace edge::srs
