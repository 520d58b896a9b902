// edge/srs/relay.h - SQLite databases whose every commit is journalled and restorable.
//
//   auto relay = srs::Relay::Open({.directory = "data", .store = srs::FolderStore("backup")});
//   auto db = (*relay)->OpenDatabase("orders");
//   sqlite3* raw = (*db)->handle();      // any SQLite wrapper works on it
//   ...                                  // commits never wait by themselves
//   (*db)->WaitDurable();                // or OnDurable() with a callback
//
// A VFS keeps each database's write-ahead log in memory; every commit becomes one record of
// page differences in a journal shared by all databases of the process. The journal is the
// only file that is synced, and many commits share one sync. Database files are caches:
// after a crash they are brought up to date from the journal, or rebuilt from the store.
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "edge/base/callback.h"
#include "edge/base/checksum.h"
#include "edge/base/clock.h"
#include "edge/base/file_system.h"
#include "edge/base/metrics.h"
#include "edge/base/random.h"
#include "edge/base/status.h"
#include "edge/srs/object_store.h"
#include "edge/srs/replication.h"

struct sqlite3;

namespace edge::srs {

// What it takes until a commit counts as durable. Each is set per database and can be asked
// for per commit.
enum class Durability : uint8_t {
  kNone,    // nothing: it is committed
  kLocal,   // in this host's journal, synced: survives kill -9 and power loss
  kQuorum,  // synced by RelayReplication::quorum followers: survives the loss of the host
  kStore,   // in the object store
};

class ReadOnlyDatabase;  // store_reader.h

// The number of a commit within one database: 1, 2, 3 ... without gaps; 0: empty.
using Lsn = uint64_t;

struct RelayOptions {
  std::string directory = {};                    // journal and database files; made if missing
  std::shared_ptr<ObjectStore> store = nullptr;  // null: journal only, nothing can be restored
  int64_t batch_interval_ms = 10'000;            // upload what is waiting at least this often
  uint64_t batch_bytes_max = 16 << 20;           // ... or when this much waits
  uint64_t journal_file_bytes = 64 << 20;
  std::optional<Durability> durability = {};  // of new Databases; kQuorum if there are followers
  // With followers the relay owns its group from the moment it is open; it needs a store.
  ReplicationOptions replication = {};
  FileSystem* files = nullptr;         // null: PosixFileSystem()
  Clock* clock = nullptr;              // null: SystemClock()
  Random* random = nullptr;            // null: SystemRandom()
  MetricsRegistry* metrics = nullptr;  // may be null
  // False: no threads are started; waiting calls do the work themselves, and the host calls
  // RunBackgroundStep(). For simulations.
  bool background_threads = true;
};

// One open database, with one SQLite connection. Single-threaded: all calls and all use of
// handle() by one thread at a time; OnDurable callbacks come from the relay's threads, which
// they hold up: they must not wait, and not close the database. Destroying it finalizes its
// statements, waits until all is journalled and writes the cache; blobs and backups must be
// closed before. A transaction may write 128 MiB of pages (then: SQLITE_FULL).
class Database {
 public:
  virtual ~Database() = default;
  virtual const std::string& name() const = 0;
  // Owned by this object. WAL mode, EXCLUSIVE locking, NOMUTEX. journal_mode, page_size,
  // locking_mode and checkpoints are ours: changing them is refused.
  virtual sqlite3* handle() = 0;

  virtual Lsn lsn() const = 0;  // of the newest commit
  // What the calls below mean if they name no class. At first RelayOptions::durability.
  // FailedPrecondition: kQuorum without followers, kStore without a store.
  virtual Durability durability() const = 0;
  virtual Status SetDurability(Durability durability) = 0;
  // Everything up to here is durable.
  virtual Lsn durable_lsn(Durability durability) const = 0;
  Lsn durable_lsn() const { return durable_lsn(durability()); }
  // Blocks until `lsn` is durable; kStore uploads what waits. The error that broke the
  // journal, for good, if it failed; Aborted: another host has taken over (then nobody knows
  // whether the commit was kept); InvalidArgument for a commit that was not made yet;
  // FailedPrecondition as above, and for kQuorum on the loop that talks to the followers.
  virtual Status WaitDurable(Lsn lsn, Durability durability) = 0;
  Status WaitDurable(Lsn lsn) { return WaitDurable(lsn, durability()); }
  Status WaitDurable() { return WaitDurable(lsn()); }
  // Calls `done` once when `lsn` is durable or can never be: from one of the relay's threads,
  // or before returning if it already is.
  virtual void OnDurable(Lsn lsn, Durability durability, Callback<void(Status)> done) = 0;
  void OnDurable(Lsn lsn, Callback<void(Status)> done) {
    OnDurable(lsn, durability(), std::move(done));
  }
  // A commit was lost or refused; the database must be closed and opened again. OK if not.
  virtual Status health() const = 0;

  // The moment after the newest commit, as text that sorts in order of commits.
  virtual std::string GetCurrentBookmark() = 0;
};

struct RestoreTarget {
  // Exactly one of them; none: the newest commit in the store.
  std::string bookmark = {};
  int64_t wall_ms = 0;
};

struct RestoreReport {
  Lsn lsn = 0;
  int64_t committed_wall_ms = 0;
  uint64_t bytes_read = 0;  // from the store
  uint64_t database_bytes = 0;
};

// Thread-safe, but see Database.
class Relay {
 public:
  // Recovers the journal. FailedPrecondition: the directory is in use by another relay;
  // DataLoss: the journal is damaged before good later records (names file and offset);
  // PermissionDenied, ResourceExhausted: from the file system. With followers also
  // Unavailable: too few of them, or the register, could be reached (says which and why);
  // Aborted: another host took the group over at the same time.
  static StatusOr<std::unique_ptr<Relay>> Open(RelayOptions options);
  // The same for a relay whose ReplicationOptions::loop is set, from a task of that loop,
  // where Open would wait for itself. `done` is called from a later task. Destroying the
  // result gives up; after `done` it is of no more use.
  class Opening {
   public:
    virtual ~Opening() = default;
  };
  static std::unique_ptr<Opening> OpenOnLoop(RelayOptions options,
                                             Callback<void(StatusOr<std::unique_ptr<Relay>>)> done);
  // Uploads what waits, then closes. Databases must be closed before.
  virtual ~Relay() = default;

  // Opens or creates. `name`: 1 to 200 bytes of [A-Za-z0-9._-] and '/', InvalidArgument
  // otherwise. FailedPrecondition if it is open already. If the local file is missing or
  // stale, it is rebuilt from journal and store first.
  virtual StatusOr<std::unique_ptr<Database>> OpenDatabase(const std::string& name) = 0;
  // The SQLite VFS on which any program opens a database by its name, without these classes:
  // sqlite3_open_v2("orders", &db, flags, vfs_name()), one connection per database. Commits
  // are captured all the same. "PRAGMA srs_wait" blocks until the newest commit is durable,
  // "PRAGMA srs_bookmark" answers with its bookmark. To be closed before the relay. (Two
  // things are faster in a Database: it needs no locks, and checkpoints when it suits.)
  virtual const std::string& vfs_name() const = 0;
  virtual StatusOr<bool> DatabaseExists(const std::string& name) = 0;
  virtual StatusOr<std::vector<std::string>> ListDatabases() = 0;
  // Removes the database from this host and, at the next batch, marks it deleted in the store.
  virtual Status DeleteDatabase(const std::string& name) = 0;

  // Puts a closed database back to an earlier commit, or to what the store has if the local
  // files are gone. The present state remains reachable under `*undo_bookmark` (may be null).
  virtual StatusOr<RestoreReport> Restore(const std::string& name, const RestoreTarget& target,
                                          std::string* undo_bookmark = nullptr) = 0;
  // Writes the state at `target` as a plain SQLite file.
  virtual StatusOr<RestoreReport> Export(const std::string& name, const RestoreTarget& target,
                                         const std::string& path) = 0;
  // A database as it was, beside the live one: read-only, its pages fetched from the store as
  // SQLite asks for them. Uploads first what is not there yet. Destroy it before the relay.
  virtual StatusOr<std::unique_ptr<ReadOnlyDatabase>> OpenReadOnly(const std::string& name,
                                                                   const RestoreTarget& target) = 0;
  // Makes the database `fork` as `name` was at `target`. Copies nothing: it reads what its
  // parent has stored until its own first snapshot. AlreadyExists if there is a `fork`.
  virtual Status Fork(const std::string& name, const RestoreTarget& target,
                      const std::string& fork) = 0;
  // Has Restore(name, {.bookmark = bookmark}) done before `name` is opened the next time, by
  // this process or a later one; "" takes that back. Returns the bookmark of now, which
  // undoes it. The database may be open.
  virtual StatusOr<std::string> RestoreAtNextOpen(const std::string& name,
                                                  const std::string& bookmark) = 0;
  // Newest bookmark at or before that time.
  virtual StatusOr<std::string> GetBookmarkForTime(const std::string& name, int64_t wall_ms) = 0;

  // Uploads everything committed so far and waits for it; with followers, what they have
  // confirmed.
  virtual Status Flush() = 0;

  // The epoch in which this host owns its group; 0 without followers.
  virtual uint64_t epoch() const = 0;
  // OK until the journal has failed or another host has taken the group over (Aborted): then
  // for good. Reads are still possible, and may be out of date.
  virtual Status health() const = 0;
  // Calls `done` once what the databases hold is as new as `mode` says: ask, then read, then
  // answer. Aborted as above; Unavailable: no lease at the moment; FailedPrecondition: leases are
  // off. Without followers always OK. From the loop of the links; WaitReadable blocks and must not
  // be called there.
  virtual void OnReadable(ReadMode mode, Callback<void(Status)> done) = 0;
  virtual Status WaitReadable(ReadMode mode) = 0;

  // Without background threads only: does one piece of the work that waits (a batch of the
  // journal, a cache, an upload that is due by the clock). False if there was none.
  virtual bool RunBackgroundStep() = 0;
};

}  // namespace edge::srs
