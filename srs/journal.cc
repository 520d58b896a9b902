#include "srs/journal.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

#include "edge/base/check.h"
#include "edge/base/errors.h"
#include "srs/planted.h"

namespace edge::srs {
namespace {

constexpr size_t kPlaceBytes = 2 + 8 + 8 + 16;

void PutPlace(std::byte* at, uint64_t epoch, const LogPlace& before) {
  at[0] = std::byte(EntryKind::kPlace);
  at[1] = std::byte{0};
  StoreLittle(at + 2, epoch);
  StoreLittle(at + 10, before.index + 1);
  StoreLittle(at + 18, before.chain.low);
  StoreLittle(at + 26, before.chain.high);
}

}  // namespace

// What a committer hands over; the record follows it in memory.
struct Journal::Node {
  Node* next = nullptr;
  std::shared_ptr<JournalStream> stream;
  EntryKind kind;
  uint32_t epoch;
  Lsn lsn;  // kDelete: the last one
  Hash128 chain_before;
  size_t bytes;

  std::byte* record() { return reinterpret_cast<std::byte*>(this + 1); }
  ByteView view() const { return {reinterpret_cast<const std::byte*>(this + 1), bytes}; }
  size_t cost() const { return bytes + 100; }  // its header's share of the memory
  static void Free(Node* node) {
    node->~Node();
    std::free(node);
  }
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
    const bool is_first = in.offset() == 0;
    const auto kind = static_cast<EntryKind>(in.U8());
    const uint64_t slot = in.Varint();
    if (kind == EntryKind::kPlace) {
      in.Raw(kPlaceBytes - 2);
      if (in.failed() || !is_first || slot != 0) return DataLoss("malformed place entry");
      continue;
    }
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

StatusOr<LogPlace> ReadPlace(ByteView payload, Hash128* chain_before) {
  ByteReader in(payload);
  const auto kind = static_cast<EntryKind>(in.U8());
  const uint8_t slot = in.U8();
  LogPlace place;
  place.epoch = in.U64();
  place.index = in.U64();
  chain_before->low = in.U64();
  chain_before->high = in.U64();
  if (in.failed() || kind != EntryKind::kPlace || slot != 0 || place.index == 0) {
    return DataLoss("an entry of {} bytes does not say its place", payload.size());
  }
  place.chain = HashBytes128(payload);
  return place;
}

Bytes EmptyEntry(uint64_t epoch, const LogPlace& before) {
  Bytes payload(kPlaceBytes);
  PutPlace(payload.data(), epoch, before);
  return payload;
}

Journal::Journal(JournalOptions options) : options_(std::move(options)) {
  if (options_.metrics != nullptr) {
    blocks_metric_ = &options_.metrics->counter("edge_srs_journal_blocks");
    bytes_metric_ = &options_.metrics->counter("edge_srs_journal_bytes");
    record_bytes_metric_ = &options_.metrics->counter("edge_srs_record_bytes");
    latency_metric_ = &options_.metrics->histogram("edge_srs_journal_write_latency_ns");
  }
}

StatusOr<std::unique_ptr<Journal>> Journal::Open(JournalOptions options,
                                                 RecoveryVisitor recovered) {
  std::unique_ptr<Journal> journal(new Journal(std::move(options)));
  const JournalOptions& o = journal->options_;
  const auto visit_block = [&](ByteView payload, const JournalPosition& block) -> Status {
    EntryVisitor visit = [&](const JournalEntry& entry) { return recovered(entry, block); };
    EDGE_RETURN_IF_ERROR(VisitEntries(payload, visit));
    if (payload.empty() || payload[0] != std::byte(EntryKind::kPlace)) return OkStatus();
    Hash128 before;
    EDGE_ASSIGN_OR_RETURN(const LogPlace place, ReadPlace(payload, &before));
    MutexLock lock(&journal->mu_);
    journal->placed_.push_back({place, block});
    return OkStatus();
  };
  EDGE_ASSIGN_OR_RETURN(
      journal->log_,
      BlockLog::Open({o.files, o.clock, o.random, o.directory, o.file_bytes}, visit_block));
  {
    MutexLock lock(&journal->mu_);
    journal->uploaded_ = journal->log_->begin();
  }
  if (o.threads) journal->writer_ = std::thread([j = journal.get()] { j->Run(); });
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
  } else if (log_ != nullptr) {
    while (WriteStep()) {
    }
  }
  DropTaken();
  if (log_ != nullptr && status().ok()) log_->WriteEnd();
}

// --- Submitting ---

Journal::Node* Journal::NewNode(const std::shared_ptr<JournalStream>& stream, EntryKind kind,
                                uint32_t epoch, Lsn lsn, const Hash128& chain_before,
                                ByteView record) {
  void* memory = std::malloc(sizeof(Node) + record.size());
  if (memory == nullptr) throw std::bad_alloc();
  Node* node = ::new (memory) Node{nullptr, stream, kind, epoch, lsn, chain_before, record.size()};
  if (!record.empty()) std::memcpy(node->record(), record.data(), record.size());
  return node;
}

void Journal::Push(Node* node) {
  const size_t pending = pending_bytes_.fetch_add(node->cost(), std::memory_order_relaxed);
  if (pending > kPendingBytesMax && options_.threads) {
    MutexLock lock(&mu_);
    ++waiting_for_room_;
    while (pending_bytes_.load(std::memory_order_relaxed) > kPendingBytesMax + node->cost() &&
           status_.ok()) {
      room_.Wait(&mu_);
    }
    --waiting_for_room_;
  }
  if (is_broken_.load(std::memory_order_acquire)) {
    pending_bytes_.fetch_sub(node->cost(), std::memory_order_relaxed);
    return Node::Free(node);
  }
  pushed_count_.fetch_add(1, std::memory_order_relaxed);
  node->next = pushed_.load(std::memory_order_relaxed);
  while (!pushed_.compare_exchange_weak(node->next, node, std::memory_order_seq_cst,
                                        std::memory_order_relaxed)) {
  }
  // Either the writer sees the node before it sleeps, or we see that it sleeps.
  if (writer_sleeps_.load(std::memory_order_seq_cst)) {
    MutexLock lock(&mu_);
    work_.Signal();
  }
}

void Journal::Append(const std::shared_ptr<JournalStream>& stream, uint32_t epoch, Lsn lsn,
                     const Hash128& chain_before, ByteView record) {
  EDGE_CHECK(record.size() <= kRecordBytesMax);
  if (record_bytes_metric_ != nullptr) record_bytes_metric_->Add(record.size());
  Push(NewNode(stream, EntryKind::kCommit, epoch, lsn, chain_before, record));
}

void Journal::AppendDelete(const std::shared_ptr<JournalStream>& stream, uint32_t epoch, Lsn lsn) {
  Push(NewNode(stream, EntryKind::kDelete, epoch, lsn, {}, {}));
}

// --- The writer ---

// Moves what was pushed to the end of taken_, oldest first.
bool Journal::TakePushed() {
  Node* newest_first = pushed_.exchange(nullptr, std::memory_order_acquire);
  Node* oldest_first = nullptr;
  while (newest_first != nullptr) {
    Node* const next = newest_first->next;
    newest_first->next = oldest_first;
    oldest_first = newest_first;
    newest_first = next;
  }
  Node** end = &taken_;
  while (*end != nullptr) end = &(*end)->next;
  *end = oldest_first;
  return taken_ != nullptr;
}

void Journal::DropTaken() {
  TakePushed();
  while (taken_ != nullptr) {
    Node* const node = std::exchange(taken_, taken_->next);
    pending_bytes_.fetch_sub(node->cost(), std::memory_order_relaxed);
    Node::Free(node);
  }
}

void Journal::Encode(const Node& node) {
  JournalStream& stream = *node.stream;
  BlockBuffer& out = batch_;
  if (stream.batch_id_ != batch_id_ || marks_[stream.slot_].epoch != node.epoch) {
    stream.batch_id_ = batch_id_;
    stream.slot_ = marks_.size();
    marks_.push_back({node.stream, node.epoch, node.lsn});
    out.U8(static_cast<uint8_t>(EntryKind::kBind));
    out.Varint(stream.slot_);
    out.Fixed(node.epoch);
    out.Varint(node.kind == EntryKind::kCommit ? node.lsn - 1 : node.lsn);
    out.Fixed(node.chain_before.low);
    out.Fixed(node.chain_before.high);
    out.Varint(stream.name().size());
    out.Put(AsBytes(stream.name()));
  }
  marks_[stream.slot_].lsn = node.lsn;
  out.U8(static_cast<uint8_t>(node.kind));
  out.Varint(stream.slot_);
  if (node.kind != EntryKind::kCommit) return;
  out.Varint(node.bytes);
  out.Put(node.view());
}

// Makes a block of the oldest nodes; they are freed.
bool Journal::BuildBatch(size_t* taken_bytes) {
  if (taken_ == nullptr && !TakePushed()) return false;
  batch_.Clear();
  marks_.clear();
  ++batch_id_;
  batch_nodes_ = 0;
  *taken_bytes = 0;
  if (group_epoch_ != 0) PutPlace(batch_.Extend(kPlaceBytes), group_epoch_, last_place_);
  while (taken_ != nullptr &&
         (batch_nodes_ == 0 || batch_.payload_bytes() + taken_->bytes + 300 <= kBatchBytes)) {
    Node* const node = std::exchange(taken_, taken_->next);
    Encode(*node);
    *taken_bytes += node->cost();
    ++batch_nodes_;
    Node::Free(node);
  }
  return true;
}

void Journal::Break(const Status& status) {
  {
    MutexLock lock(&mu_);
    if (!status_.ok()) return;
    status_ = status;
    is_broken_.store(true, std::memory_order_release);
    unconfirmed_.clear();
    room_.SignalAll();
    drained_.SignalAll();
    work_.Signal();
  }
  if (on_broken_) on_broken_(status);
}

void Journal::Fail(const Status& why) {
  Break(why);
}

bool Journal::WriteStep() {
  if (is_broken_.load(std::memory_order_acquire)) return false;
  size_t taken_bytes = 0;
  if (!BuildBatch(&taken_bytes)) return false;
  const int64_t start_ns = latency_metric_ != nullptr ? options_.clock->monotonic_ns() : 0;
  const bool in_group = group_epoch_ != 0;
  if (in_group) {
    last_place_ = {group_epoch_, last_place_.index + 1, HashBytes128(batch_.payload())};
    {
      MutexLock lock(&mu_);
      unconfirmed_.push_back({last_place_.index, {}, taken_bytes, marks_});
    }
    on_block_(last_place_, batch_.payload());
  }
  const StatusOr<JournalPosition> written = log_->Write(&batch_);
  if (!written.ok()) {
    Break(Annotate(written.status(), "the journal cannot be written"));
    return false;
  }
  if (latency_metric_ != nullptr) {
    latency_metric_->Record(static_cast<uint64_t>(options_.clock->monotonic_ns() - start_ns));
    blocks_metric_->Add();
    bytes_metric_->Add(batch_.payload_bytes());
  }
  const JournalPosition end = log_->end();
  {
    MutexLock lock(&mu_);
    auto& newest = newest_[written->file];
    for (const Mark& mark : marks_) {
      newest[mark.stream.get()] = {mark.stream, mark.epoch, mark.lsn};
    }
    if (in_group) {
      placed_.push_back({last_place_, *written});
      // It may have been confirmed meanwhile: followers can be faster than our own disk.
      const auto at = std::ranges::find(unconfirmed_, last_place_.index, &Unconfirmed::index);
      if (at != unconfirmed_.end()) {
        at->end = end;
      } else if (status_.ok()) {
        confirmed_end_ = std::max(confirmed_end_, end);
      }
    }
    const size_t pending = pending_bytes_.fetch_sub(in_group ? 0 : taken_bytes);
    written_count_ += batch_nodes_;
    if (draining_ > 0) drained_.SignalAll();
    if (waiting_for_room_ > 0 && pending > taken_bytes) room_.SignalAll();
  }
  if (on_written_) on_written_(batch_.payload_bytes() + kBlockHeaderBytes);
  if (in_group && on_placed_) on_placed_(last_place_, *written);
  for (const Mark& mark : marks_) {
    mark.stream->OnJournalled(mark.epoch, mark.lsn);
    if (Planted(Bug::kConfirmedWhenJournalled)) mark.stream->OnConfirmed(mark.epoch, mark.lsn);
  }
  marks_.clear();
  return true;
}

void Journal::Run() {
  for (;;) {
    while (WriteStep()) {
    }
    writer_sleeps_.store(true, std::memory_order_seq_cst);
    MutexLock lock(&mu_);
    while (pushed_.load(std::memory_order_seq_cst) == nullptr && !stopping_ && status_.ok()) {
      work_.Wait(&mu_);
    }
    writer_sleeps_.store(false, std::memory_order_relaxed);
    if (!status_.ok()) return;
    if (stopping_ && pushed_.load(std::memory_order_seq_cst) == nullptr) return;
  }
}

// --- As part of a group ---

std::vector<Journal::Placed> Journal::places() const {
  MutexLock lock(&mu_);
  return {placed_.begin(), placed_.end()};
}

StatusOr<JournalPosition> Journal::AppendForeign(ByteView payload, RecoveryVisitor& visit) {
  Hash128 before;
  EDGE_ASSIGN_OR_RETURN(const LogPlace place, ReadPlace(payload, &before));
  BlockBuffer block;
  block.Put(payload);
  EDGE_ASSIGN_OR_RETURN(const JournalPosition at, log_->Write(&block));
  EntryVisitor each = [&](const JournalEntry& entry) { return visit(entry, at); };
  EDGE_RETURN_IF_ERROR(VisitEntries(payload, each));
  MutexLock lock(&mu_);
  placed_.push_back({place, at});
  return at;
}

void Journal::StartGroup(uint64_t epoch, const LogPlace& last,
                         Callback<void(const LogPlace&, ByteView)> on_block,
                         Callback<void(const LogPlace&, JournalPosition)> on_placed) {
  group_epoch_ = epoch;
  last_place_ = last;
  on_block_ = std::move(on_block);
  on_placed_ = std::move(on_placed);
  MutexLock lock(&mu_);
  in_group_ = true;
  confirmed_end_ = log_->end();
}

void Journal::Confirm(uint64_t index) {
  std::vector<Mark> marks;
  {
    MutexLock lock(&mu_);
    size_t bytes = 0;
    while (!unconfirmed_.empty() && unconfirmed_.front().index <= index) {
      Unconfirmed& front = unconfirmed_.front();
      bytes += front.bytes;
      confirmed_end_ = std::max(confirmed_end_, front.end);
      for (Mark& mark : front.marks) marks.push_back(std::move(mark));
      unconfirmed_.pop_front();
    }
    pending_bytes_.fetch_sub(bytes);
    if (waiting_for_room_ > 0) room_.SignalAll();
  }
  for (const Mark& mark : marks) mark.stream->OnConfirmed(mark.epoch, mark.lsn);
}

JournalPosition Journal::confirmed_end() const {
  MutexLock lock(&mu_);
  return in_group_ && !Planted(Bug::kUnconfirmedUploaded) ? confirmed_end_ : log_->end();
}

StatusOr<Bytes> Journal::ReadPayload(JournalPosition block) {
  Bytes payload;
  EDGE_RETURN_IF_ERROR(log_->Read(block, {block.file, UINT64_MAX}, 1,
                                  [&payload](ByteView bytes, const JournalPosition&) {
                                    payload.assign(bytes.begin(), bytes.end());
                                    return OkStatus();
                                  })
                           .status());
  return payload;
}

// --- Reading back, recycling ---

Status Journal::Drain() {
  if (!options_.threads) {
    while (WriteStep()) {
    }
    return status();
  }
  const uint64_t wanted = pushed_count_.load(std::memory_order_relaxed);
  MutexLock lock(&mu_);
  ++draining_;
  while (written_count_ < wanted && status_.ok()) drained_.Wait(&mu_);
  --draining_;
  return status_;
}

Status Journal::status() const {
  if (!is_broken_.load(std::memory_order_acquire)) return OkStatus();
  MutexLock lock(&mu_);
  return status_;
}
void Journal::SetOnBroken(Callback<void(const Status&)> on_broken) {
  on_broken_ = std::move(on_broken);
}
void Journal::SetOnWritten(Callback<void(uint64_t)> on_written) {
  on_written_ = std::move(on_written);
}

StatusOr<JournalPosition> Journal::Read(JournalPosition from, JournalPosition until,
                                        uint64_t bytes_max, EntryVisitor visit) {
  return log_->Read(from, until, bytes_max, [&visit](ByteView payload, const JournalPosition&) {
    return VisitEntries(payload, visit);
  });
}

Status Journal::ReadBlock(JournalPosition block, EntryVisitor visit) {
  return Read(block, {block.file, UINT64_MAX}, 1, std::move(visit)).status();
}

void Journal::SetUploaded(JournalPosition position) {
  uint64_t index = 0;
  {
    MutexLock lock(&mu_);
    uploaded_ = std::max(uploaded_, position);
    while (!placed_.empty() && placed_.front().position < position) {
      index = placed_.front().place.index;
      placed_.pop_front();
    }
  }
  if (index != 0 && on_persisted_) on_persisted_(index);
}
void Journal::SetOnPersisted(Callback<void(uint64_t)> on_persisted) {
  on_persisted_ = std::move(on_persisted);
}

void Journal::Recycle() {
  for (;;) {
    // Held around the freeing, once per file: two threads come here.
    MutexLock lock(&mu_);
    const std::optional<JournalPosition> oldest = log_->OldestFull();
    if (!oldest || uploaded_ < *oldest) return;
    const auto it = newest_.find(oldest->file);
    if (it != newest_.end()) {
      for (const auto& [stream, newest] : it->second) {
        if (!stream->IsCached(newest.epoch, newest.lsn)) return;
      }
      newest_.erase(it);
    }
    if (!log_->FreeOldest()) return;
  }
}

std::vector<std::shared_ptr<JournalStream>> Journal::Laggards(size_t files_max) const {
  std::vector<std::shared_ptr<JournalStream>> laggards;
  if (log_->file_count() <= files_max) return laggards;
  const uint64_t oldest = log_->begin().file;
  MutexLock lock(&mu_);
  const auto it = newest_.find(oldest);
  if (it == newest_.end()) return laggards;
  for (const auto& [stream, newest] : it->second) {
    if (!stream->IsCached(newest.epoch, newest.lsn)) laggards.push_back(newest.stream);
  }
  return laggards;
}

void Journal::NoteRecovered(uint64_t file, const std::shared_ptr<JournalStream>& stream,
                            uint32_t epoch, Lsn lsn) {
  MutexLock lock(&mu_);
  newest_[file][stream.get()] = {stream, epoch, lsn};
}

}  // namespace edge::srs
