// srs/journal.h - one log for the commits of all databases of the process.
//
// Committing threads push their records on a lock-free list; one writer takes all that is
// there, makes one block of it (srs/block_log.h), writes that and reports the streams in it
// durable. There is no timer: while a write is under way the next batch gathers, so the
// batch size follows the load by itself. With followers each block is also one entry of the
// replicated log: it begins with its place there, and goes out while it is being written.
// Byte tables: docs/formats/journal.md.
#pragma once
#include <atomic>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "edge/base/bytes.h"
#include "edge/base/callback.h"
#include "edge/base/checksum.h"
#include "edge/base/clock.h"
#include "edge/base/file_system.h"
#include "edge/base/metrics.h"
#include "edge/base/mutex.h"
#include "edge/base/random.h"
#include "edge/base/status.h"
#include "srs/block_log.h"
#include "srs/record.h"

namespace edge::srs {

inline constexpr size_t kBatchBytes = 512 << 10;      // a batch is closed at this size
inline constexpr size_t kPendingBytesMax = 64 << 20;  // committers wait above this
inline constexpr size_t kRecordBytesMax = size_t{1} << 30;

// One database as the journal sees it. Shared by its owner and the batches that mention it.
class JournalStream {
 public:
  virtual ~JournalStream() = default;
  virtual const std::string& name() const = 0;
  // From the writer, with no lock held: in the local journal.
  virtual void OnJournalled(uint32_t epoch, Lsn lsn) = 0;
  // From the thread of Confirm(), with no lock held: held by a quorum of followers.
  virtual void OnConfirmed(uint32_t epoch, Lsn lsn) = 0;
  // Is everything up to `lsn` also in the database's own files? Thread-safe.
  virtual bool IsCached(uint32_t epoch, Lsn lsn) const = 0;

 private:
  friend class Journal;
  uint64_t batch_id_ = 0;  // of the batch that has this stream's newest entry, and
  size_t slot_ = 0;        // which of its streams it is: the writer's own
};

enum class EntryKind : uint8_t { kBind = 1, kCommit = 2, kDelete = 3, kPlace = 4 };

// A block's place in the log that hosts and followers of a group agree on.
struct LogPlace {
  uint64_t epoch = 0;  // of the host that made the block
  uint64_t index = 0;  // 1, 2, 3 ... through all epochs; 0: none
  Hash128 chain;       // after the block: covers it and everything before
};

// What a scan hands out, one database change at a time. Views are valid during the call.
struct JournalEntry {
  EntryKind kind;  // kCommit or kDelete
  std::string_view name;
  uint32_t epoch;
  Lsn lsn;               // of this record; for kDelete the last one
  Hash128 chain_before;  // kCommit
  RecordView record;     // kCommit
  ByteView bytes;        // kCommit: the record as it stands
};
using EntryVisitor = Callback<Status(const JournalEntry&)>;
using RecoveryVisitor = Callback<Status(const JournalEntry&, const JournalPosition& block)>;

// Parses the payload of a block. DataLoss if it is malformed.
Status VisitEntries(ByteView payload, EntryVisitor& visit);
// Where the payload stands in its group's log, and the chain before it. DataLoss if it does
// not say.
StatusOr<LogPlace> ReadPlace(ByteView payload, Hash128* chain_before);
// The payload of an entry with no commits.
Bytes EmptyEntry(uint64_t epoch, const LogPlace& before);

struct JournalOptions {
  FileSystem* files;
  Clock* clock;
  Random* random;
  std::string directory;  // exists
  uint64_t file_bytes;
  bool threads;  // false: WriteStep() is called by hand
  MetricsRegistry* metrics;
};

// Thread-safe.
class Journal {
 public:
  // Reads what is there, handing every entry and the place of its block to `recovered` in
  // order, then starts a new file. DataLoss: damage before a later good block.
  static StatusOr<std::unique_ptr<Journal>> Open(JournalOptions options, RecoveryVisitor recovered);
  ~Journal();  // writes what is pending first

  uint64_t id() const { return log_->id(); }

  // Appends the record that takes `stream` from the state (epoch, lsn - 1, chain_before) to
  // `lsn`. Blocks while too much is pending. Never fails: see status().
  void Append(const std::shared_ptr<JournalStream>& stream, uint32_t epoch, Lsn lsn,
              const Hash128& chain_before, ByteView record);
  void AppendDelete(const std::shared_ptr<JournalStream>& stream, uint32_t epoch, Lsn lsn);

  // Writes one batch; false if there was none. For use without threads.
  bool WriteStep();
  // Waits until all that was appended before is written, or the journal is broken: status().
  Status Drain();
  // OK until a batch could not be written anywhere, or Fail(); then for good why.
  Status status() const;
  // Ends it: nothing is written any more. Called by a host that has lost its epoch.
  void Fail(const Status& why);
  // Called once when status() becomes an error, by the thread on which it does.
  void SetOnBroken(Callback<void(const Status&)> on_broken);
  // Called by the writer after each batch with the bytes that it added, before its streams
  // are told.
  void SetOnWritten(Callback<void(uint64_t bytes)> on_written);

  // --- As part of a group. Before the first Append ---
  // The places of all blocks that have one, oldest first.
  struct Placed {
    LogPlace place;
    JournalPosition position;
  };
  std::vector<Placed> places() const;
  // Writes a block made elsewhere, whose payload says its place, and hands its entries out.
  StatusOr<JournalPosition> AppendForeign(ByteView payload, RecoveryVisitor& visit);
  // From now on blocks get places after `last`. `on_block` gets each from the writer, before
  // it is written; `on_placed` where it came to lie.
  void StartGroup(uint64_t epoch, const LogPlace& last,
                  Callback<void(const LogPlace&, ByteView payload)> on_block,
                  Callback<void(const LogPlace&, JournalPosition)> on_placed);
  // Everything up to entry `index` is confirmed. Tells the streams.
  void Confirm(uint64_t index);
  // The end of what may leave this host: durable and, in a group, confirmed.
  JournalPosition confirmed_end() const;
  // The payload of the block at `block`.
  StatusOr<Bytes> ReadPayload(JournalPosition block);

  // The end of what is durable.
  JournalPosition end() const { return log_->end(); }
  JournalPosition begin() const { return log_->begin(); }
  // Hands out the entries of whole blocks from `from` until `until` or until `bytes_max` of
  // blocks have been read (at least one). Returns where it stopped.
  StatusOr<JournalPosition> Read(JournalPosition from, JournalPosition until, uint64_t bytes_max,
                                 EntryVisitor visit);
  // The entries of the one block at `block`.
  Status ReadBlock(JournalPosition block, EntryVisitor visit);
  uint64_t BytesBetween(JournalPosition from, JournalPosition to) const {
    return log_->BytesBetween(from, to);
  }

  // Everything before is in the store. In a group `on_persisted` gets the last entry of it.
  void SetUploaded(JournalPosition position);
  void SetOnPersisted(Callback<void(uint64_t index)> on_persisted);
  // Frees the oldest files that are uploaded and cached.
  void Recycle();
  // Streams with records in the oldest file that are not cached, if more than `files_max`
  // files are in use.
  std::vector<std::shared_ptr<JournalStream>> Laggards(size_t files_max) const;
  // Recovery found entries of `stream` up to lsn in that file; it must not be recycled before.
  void NoteRecovered(uint64_t file, const std::shared_ptr<JournalStream>& stream, uint32_t epoch,
                     Lsn lsn);
  size_t file_count() const { return log_->file_count(); }

 private:
  struct Node;
  struct Mark {
    std::shared_ptr<JournalStream> stream;
    uint32_t epoch;
    Lsn lsn;  // newest in this batch
  };
  struct Unconfirmed {
    uint64_t index;
    JournalPosition end;  // of the block; {0, 0}: not written yet
    size_t bytes;
    std::vector<Mark> marks;
  };
  struct Newest {
    std::shared_ptr<JournalStream> stream;
    uint32_t epoch;
    Lsn lsn;
  };
  explicit Journal(JournalOptions options);

  Node* NewNode(const std::shared_ptr<JournalStream>& stream, EntryKind kind, uint32_t epoch,
                Lsn lsn, const Hash128& chain_before, ByteView record);
  void Push(Node* node);
  bool TakePushed();
  void Encode(const Node& node);
  bool BuildBatch(size_t* taken_bytes);
  void Break(const Status& status);
  void DropTaken();
  void Run();

  const JournalOptions options_;
  std::unique_ptr<BlockLog> log_;

  // Between committers and writer.
  std::atomic<Node*> pushed_{nullptr};  // newest first
  std::atomic<uint64_t> pushed_count_{0};
  std::atomic<size_t> pending_bytes_{0};
  std::atomic<bool> writer_sleeps_{false};
  std::atomic<bool> is_broken_{false};

  mutable Mutex mu_;
  CondVar work_;
  CondVar room_;
  CondVar drained_;
  int draining_ ABSL_GUARDED_BY(mu_) = 0;
  int waiting_for_room_ ABSL_GUARDED_BY(mu_) = 0;
  uint64_t written_count_ ABSL_GUARDED_BY(mu_) = 0;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  Status status_ ABSL_GUARDED_BY(mu_);
  JournalPosition uploaded_ ABSL_GUARDED_BY(mu_);
  std::map<uint64_t, std::unordered_map<const JournalStream*, Newest>> newest_
      ABSL_GUARDED_BY(mu_);  // by file
  std::deque<Unconfirmed> unconfirmed_ ABSL_GUARDED_BY(mu_);
  std::deque<Placed> placed_ ABSL_GUARDED_BY(mu_);  // not yet uploaded
  JournalPosition confirmed_end_ ABSL_GUARDED_BY(mu_);
  bool in_group_ ABSL_GUARDED_BY(mu_) = false;

  // The writer's own.
  Node* taken_ = nullptr;  // oldest first
  BlockBuffer batch_;
  std::vector<Mark> marks_;
  uint64_t batch_id_ = 0;
  uint64_t batch_nodes_ = 0;
  LogPlace last_place_;
  uint64_t group_epoch_ = 0;  // 0: no group
  Callback<void(const LogPlace&, ByteView)> on_block_;
  Callback<void(const LogPlace&, JournalPosition)> on_placed_;
  Callback<void(const Status&)> on_broken_;
  Callback<void(uint64_t)> on_written_;
  Callback<void(uint64_t)> on_persisted_;  // the uploader's
  Counter* blocks_metric_ = nullptr;
  Counter* bytes_metric_ = nullptr;
  Counter* record_bytes_metric_ = nullptr;
  Histogram* latency_metric_ = nullptr;
  std::thread writer_;
};

}  // namespace edge::srs
