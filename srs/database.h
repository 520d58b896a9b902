// srs/database.h - one database of a relay, open or not.
//
// DatabaseCore outlives the Database that the user holds: the journal and the background
// threads know it. Life: cold (files only) -> materialized (an Image, brought up to date from
// the journal) -> open (a SQLite connection on it) -> cold again, flushed.
#pragma once
#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "edge/base/clock.h"
#include "edge/base/mutex.h"
#include "edge/srs/relay.h"
#include "srs/image.h"
#include "srs/journal.h"
#include "srs/vfs.h"

struct sqlite3;

namespace edge::srs {

class DatabaseCore;

// What a database needs from its relay. Outlives all cores' use of it.
class DatabaseHost {
 public:
  virtual ~DatabaseHost() = default;
  virtual FileSystem& files() = 0;
  virtual Clock& clock() = 0;
  virtual Journal& journal() = 0;
  virtual Vfs& vfs() = 0;
  virtual bool has_threads() const = 0;
  virtual Durability default_durability() const = 0;
  // FailedPrecondition for a class that this relay cannot give.
  virtual Status CheckDurability(Durability durability) const = 0;
  // Uploads what is journalled and confirmed.
  virtual Status FlushStore() = 0;
  // Whether the caller must not wait for followers: it is on the loop that talks to them.
  virtual bool is_replication_loop() const = 0;
  virtual void RequestFlush(std::shared_ptr<DatabaseCore> core) = 0;
  // Builds the newest state of `core` that journal and store know in a file of its own and
  // makes it the local cache. NotFound: they know nothing of it.
  virtual StatusOr<State> Rebuild(DatabaseCore& core) = 0;
  // Whether the store has commits of it above `state`: then the local files are out of date.
  virtual bool IsBehindStore(const std::string& name, const State& state) = 0;
  // The epoch in which a database of that name would be made. Unavailable: the store cannot
  // be asked whether there is one.
  virtual StatusOr<uint32_t> NextEpoch(const std::string& name) = 0;
};

// Thread-safe but for the calls of the open connection's thread.
class DatabaseCore final : public JournalStream,
                           public VfsDatabase,
                           public std::enable_shared_from_this<DatabaseCore> {
 public:
  DatabaseCore(DatabaseHost* host, std::string name, ImagePaths paths);

  // JournalStream
  const std::string& name() const override { return name_; }
  void OnJournalled(uint32_t epoch, Lsn lsn) override { Advance(Durability::kLocal, epoch, lsn); }
  void OnConfirmed(uint32_t epoch, Lsn lsn) override { Advance(Durability::kQuorum, epoch, lsn); }
  bool IsCached(uint32_t epoch, Lsn lsn) const override;

  // VfsDatabase: the connection's thread.
  Image& image() override { return *image_; }
  Status writable() const override;
  bool OnCommit(uint32_t first, uint32_t last, uint32_t pages) override;
  void OnError(const Status& status) override;
  bool is_setting_up() const override { return is_setting_up_; }
  StatusOr<std::optional<std::string>> OnPragma(std::string_view name) override;
  void OnLogRestart() override { FlushIfLarge(); }
  void OnVfsClose() override { Settle(); }

  // Recovery, before anything else: the newest commit (or the end) of the database.
  void NoteRecovered(const JournalEntry& entry, const JournalPosition& block);

  const ImagePaths& paths() const { return paths_; }
  // Durable and newest as far as this process knows; nothing if it knows nothing.
  std::optional<State> known() const;
  uint32_t deleted_epoch() const { return deleted_epoch_.load(std::memory_order_acquire); }

  // Makes it if there is none. FailedPrecondition if it is open already.
  Status Open(sqlite3** connection);
  void Close(sqlite3* connection);
  // For a connection that SQLite makes by itself, and ends with OnVfsClose().
  Status OpenForVfs();
  Durability default_durability() const { return host_->default_durability(); }
  Status CheckDurability(Durability durability) const { return host_->CheckDurability(durability); }
  bool is_open() const { return is_open_.load(std::memory_order_acquire); }

  // Runs `work` with the image of the closed database, up to date; it goes cold afterwards.
  Status WithClosed(Callback<Status(Image&)> work);
  // Journals `record`, already applied to the image, as the commit after `before`.
  Status CommitRecord(const State& before, ByteView record);
  Status Delete();

  // Brings the local files up to date. From any thread, but the connection's uses FlushOpen.
  Status Flush();
  Status FlushOpen();
  // With the image at hand if it is open, else loaded for the purpose.
  Status VisitFlushed(Callback<Status(const State&)> begin,
                      Callback<Status(uint32_t pgno, const std::byte* page)> visit);

  Lsn durable_lsn(Durability durability) const {
    return durable_lsn_[static_cast<size_t>(durability)].load(std::memory_order_acquire);
  }
  Status WaitDurable(Lsn lsn, Durability durability);
  void OnDurable(Lsn lsn, Durability durability, Callback<void(Status)> done);
  // The archive has uploaded commits up to lsn.
  void OnStored(uint32_t epoch, Lsn lsn);
  void Break(const Status& status);
  Status health() const;
  void MaybeCheckpoint(sqlite3* connection, uint32_t frames);

 private:
  struct Waiter {
    Lsn lsn;
    Durability durability;
    Callback<void(Status)> done;
  };
  Status Materialize() ABSL_EXCLUSIVE_LOCKS_REQUIRED(life_mu_);
  Status LoadAndReplay() ABSL_EXCLUSIVE_LOCKS_REQUIRED(life_mu_);
  void GoCold() ABSL_EXCLUSIVE_LOCKS_REQUIRED(life_mu_);
  Status Connect(sqlite3** connection);
  Status Prepare() ABSL_EXCLUSIVE_LOCKS_REQUIRED(life_mu_);
  void Settle();  // the connection is gone
  void FlushIfLarge();
  Callback<Status(Lsn)> DurableWait();
  void Advance(Durability durability, uint32_t epoch, Lsn lsn);
  void SetDurableLsn(Lsn lsn);

  DatabaseHost* const host_;
  const std::string name_;
  const ImagePaths paths_;

  Mutex life_mu_;                 // held around I/O: opening, closing, background flushes
  std::unique_ptr<Image> image_;  // changes under life_mu_; while open it stays
  std::vector<JournalPosition> recovered_ ABSL_GUARDED_BY(life_mu_);
  std::atomic<bool> is_open_{false};
  bool is_setting_up_ = false;
  RecordBuilder builder_;
  uint32_t next_checkpoint_frames_ = 0;

  std::atomic<Lsn> durable_lsn_[4] = {};  // by Durability; kNone is not used
  std::atomic<Lsn> cached_lsn_{0};
  std::atomic<uint32_t> epoch_{1};
  std::atomic<uint32_t> deleted_epoch_{0};
  std::atomic<bool> has_committed_{false};  // in this process
  std::atomic<bool> is_broken_{false};

  mutable Mutex mu_;
  CondVar changed_;
  std::optional<State> known_ ABSL_GUARDED_BY(mu_);
  Status health_ ABSL_GUARDED_BY(mu_);
  std::deque<Waiter> waiters_ ABSL_GUARDED_BY(mu_);  // ascending lsn but for oddities
  int delivering_ ABSL_GUARDED_BY(mu_) = 0;          // threads that call waiters back
};

// The user's handle.
std::unique_ptr<Database> MakeDatabase(std::shared_ptr<DatabaseCore> core, sqlite3* connection);

}  // namespace edge::srs
