// srs/journal.h - one log for the commits of all databases of the process.
//
// Committing threads append to the newest batch under a short lock; one writer takes the
// oldest batch, writes it as one checksummed block with O_DIRECT | O_DSYNC and reports the
// streams in it durable. There is no timer: while a write is under way the next batch fills,
// so the batch size follows the load by itself. Files are allocated ahead and recycled.
// Byte tables: docs/formats/journal.md.
#pragma once
#include <atomic>
#include <compare>
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
#include "srs/record.h"

namespace edge::srs {

inline constexpr size_t kJournalBlockAlign = 4096;
inline constexpr size_t kBatchBytes = 512 << 10;      // a batch is closed at this size
inline constexpr size_t kPendingBytesMax = 64 << 20;  // committers wait above this
inline constexpr size_t kRecordBytesMax = size_t{1} << 30;

// A place between two blocks. Ordered as the log is.
struct JournalPosition {
  uint64_t file = 0;
  uint64_t offset = 0;
  friend auto operator<=>(const JournalPosition&, const JournalPosition&) = default;
};

// One database as the journal sees it. Shared by its owner and the batches that mention it.
class JournalStream {
 public:
  virtual ~JournalStream() = default;
  virtual const std::string& name() const = 0;
  // From the writer, with no lock held.
  virtual void OnJournalled(Lsn lsn) = 0;
  // Is everything up to `lsn` also in the database's own files? Thread-safe.
  virtual bool IsCached(uint32_t epoch, Lsn lsn) const = 0;

 private:
  friend class Journal;
  uint64_t batch_id_ = 0;  // of the batch that has this stream's newest entry, and
  size_t slot_ = 0;        // which of its streams it is: guarded by the journal's lock
};

enum class EntryKind : uint8_t { kBind = 1, kCommit = 2, kDelete = 3 };

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

  uint64_t id() const { return id_; }

  // Appends the record that takes `stream` from the state (epoch, lsn - 1, chain_before) to
  // `lsn`. Blocks while too much is pending. Never fails: see status().
  void Append(const std::shared_ptr<JournalStream>& stream, uint32_t epoch, Lsn lsn,
              const Hash128& chain_before, ByteView record);
  void AppendDelete(const std::shared_ptr<JournalStream>& stream, uint32_t epoch, Lsn lsn);

  // Writes one batch; false if there was none. For use without threads.
  bool WriteStep();
  // Waits until all that was appended before is written, or the journal is broken: status().
  Status Drain();
  // OK until a batch could not be written anywhere; then for good why.
  Status status() const;
  // Called once, from the writer, when status() becomes an error.
  void SetOnBroken(Callback<void(const Status&)> on_broken);
  // Called by the writer after each batch with the bytes that it added, before its streams
  // are told.
  void SetOnWritten(Callback<void(uint64_t bytes)> on_written);

  // The end of what is durable.
  JournalPosition end() const;
  JournalPosition begin() const;
  // Hands out the entries of whole blocks from `from` until `until` or until `bytes_max` of
  // blocks have been read (at least one). Returns where it stopped.
  StatusOr<JournalPosition> Read(JournalPosition from, JournalPosition until, uint64_t bytes_max,
                                 EntryVisitor visit);
  // The entries of the one block at `block`.
  Status ReadBlock(JournalPosition block, EntryVisitor visit);
  uint64_t BytesBetween(JournalPosition from, JournalPosition to) const;

  // Everything before is in the store.
  void SetUploaded(JournalPosition position);
  // Frees the oldest files that are uploaded and cached.
  void Recycle();
  // Streams with records in the oldest file that are not cached, if more than `files_max`
  // files are in use.
  std::vector<std::shared_ptr<JournalStream>> Laggards(size_t files_max) const;
  // Recovery found entries of `stream` up to lsn in that file; it must not be recycled before.
  void NoteRecovered(uint64_t file, const std::shared_ptr<JournalStream>& stream, uint32_t epoch,
                     Lsn lsn);
  size_t file_count() const;

 private:
  struct Buffer;
  struct Batch;
  struct LogFile;
  struct Scan;
  struct Found;
  StatusOr<std::vector<Found>> FindFiles();
  explicit Journal(JournalOptions options);

  Status Recover(RecoveryVisitor& recovered);
  Status RecoverFile(Scan* scan, uint64_t seq, uint64_t end, RecoveryVisitor& recovered);
  Status StartFile();
  Status WriteBatch(Batch* batch);
  Batch* BatchForEntry(size_t bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Bind(Batch* batch, const std::shared_ptr<JournalStream>& stream, uint32_t epoch, Lsn lsn,
            const Hash128& chain_before) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void WakeWriter() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Run();
  std::string PathOf(uint64_t file) const;

  const JournalOptions options_;
  uint64_t id_ = 0;

  mutable Mutex mu_;
  CondVar work_;
  CondVar room_;
  CondVar drained_;
  int draining_ ABSL_GUARDED_BY(mu_) = 0;
  uint64_t batches_written_ ABSL_GUARDED_BY(mu_) = 0;
  std::deque<std::unique_ptr<Batch>> pending_ ABSL_GUARDED_BY(mu_);
  std::vector<std::unique_ptr<Batch>> idle_ ABSL_GUARDED_BY(mu_);
  size_t pending_bytes_ ABSL_GUARDED_BY(mu_) = 0;
  uint64_t next_batch_id_ ABSL_GUARDED_BY(mu_) = 1;
  bool writer_sleeps_ ABSL_GUARDED_BY(mu_) = false;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  Status status_ ABSL_GUARDED_BY(mu_);
  std::map<uint64_t, LogFile> files_ ABSL_GUARDED_BY(mu_);
  JournalPosition end_ ABSL_GUARDED_BY(mu_);
  JournalPosition uploaded_ ABSL_GUARDED_BY(mu_);
  std::vector<std::string> spares_ ABSL_GUARDED_BY(mu_);

  // The writer's own.
  std::unique_ptr<File> file_;
  uint64_t file_seq_ = 0;
  uint64_t newest_file_ = 0;  // numbers up to here have been used, if only by an attempt
  uint64_t file_bytes_ = 0;
  uint64_t offset_ = 0;
  uint64_t next_block_ = 1;
  uint32_t last_crc_ = 0;
  Callback<void(const Status&)> on_broken_;
  Callback<void(uint64_t)> on_written_;
  Counter* blocks_metric_ = nullptr;
  Counter* bytes_metric_ = nullptr;
  Counter* record_bytes_metric_ = nullptr;
  Histogram* latency_metric_ = nullptr;
  std::thread writer_;
};

}  // namespace edge::srs
