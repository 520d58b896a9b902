// edge/srs/store_reader.h - what is in an object store, without a relay.
//
//   auto reader = srs::StoreReader::Open({.store = srs::FolderStore("backup")});
//   (*reader)->Restore("orders", {.wall_ms = yesterday}, "orders.db");
//   auto then = (*reader)->OpenReadOnly("orders", {.wall_ms = yesterday});   // reads on demand
//   sqlite3* db = (*then)->handle();
//
// For tools, other machines and looking back. It writes nothing to the store but for
// CollectGarbage(). The program edge-srs is this class on a command line.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "edge/base/callback.h"
#include "edge/base/clock.h"
#include "edge/base/file_system.h"
#include "edge/base/status.h"
#include "edge/srs/object_store.h"
#include "edge/srs/relay.h"

struct sqlite3;

namespace edge::srs {

// One database of the store, from what its packs say of themselves: reads no log.
struct StoredDatabase {
  std::string name = {};
  Lsn lsn = 0;  // newest commit
  int64_t committed_wall_ms = 0;
  uint64_t database_bytes = 0;
  std::string newest_bookmark = {};
  std::string oldest_bookmark = {};  // the earliest commit that can still be restored
  int64_t oldest_wall_ms = 0;        // 0: the beginning
  uint64_t snapshots = 0;
  uint64_t logs = 0;             // sections
  uint64_t stored_bytes = 0;     // compressed, all of it
  uint64_t restore_bytes = 0;    // of these, read to restore the newest commit
  std::string forked_from = {};  // name of the parent, empty if there is none
};

struct VerifyReport {
  uint64_t snapshots = 0;  // whose pages hash to what they should
  uint64_t commits = 0;    // replayed
  uint64_t bytes_read = 0;
  Lsn lsn = 0;  // newest
};

struct GarbageOptions {
  int64_t retention_ms = int64_t{30} * 24 * 3600 * 1000;
  // Packs are deleted by the first run that comes so long after the one that marked them, for
  // the sake of readers that still know them.
  int64_t grace_ms = int64_t{24} * 3600 * 1000;
  bool dry_run = true;  // neither marks nor deletes; proves all the same
};
struct GarbageReport {
  uint64_t packs = 0;       // in the store before
  uint64_t candidates = 0;  // hold nothing that is needed for the time retained
  uint64_t candidate_bytes = 0;
  uint64_t marked = 0;            // by this run
  uint64_t deleted = 0;           // by this run
  uint64_t databases_proven = 0;  // restored from what would be left
};

using ProgressCallback = Callback<void(uint64_t done, uint64_t total)>;  // bytes

// A database as it was at one commit. Pages are fetched when SQLite asks for them, in groups
// of 64, and the log since the last snapshot on opening. Single-threaded, as a connection is.
// Reads fail with SQLITE_IOERR if the store does; failure() has the reason.
class ReadOnlyDatabase {
 public:
  virtual ~ReadOnlyDatabase() = default;
  virtual sqlite3* handle() = 0;  // owned by this; finalize its statements before
  virtual const std::string& bookmark() const = 0;
  virtual int64_t committed_wall_ms() const = 0;
  virtual uint64_t fetches() const = 0;     // range reads so far
  virtual uint64_t bytes_read() const = 0;  // by them
  virtual Status failure() const = 0;
};

struct StoreReaderOptions {
  std::shared_ptr<ObjectStore> store = nullptr;
  FileSystem* files = nullptr;  // null: PosixFileSystem()
  Clock* clock = nullptr;       // null: SystemClock()
};

// Thread-safe. All calls: NotFound for a database or commit that the store has not, DataLoss
// (naming the object) for what does not hash as it should, and the store's own errors.
class StoreReader {
 public:
  // Reads the directories of all packs.
  static StatusOr<std::unique_ptr<StoreReader>> Open(StoreReaderOptions options);
  virtual ~StoreReader() = default;
  // Learns what came and went since.
  virtual Status Refresh() = 0;

  virtual StatusOr<std::vector<StoredDatabase>> ListDatabases() = 0;
  virtual StatusOr<StoredDatabase> Info(const std::string& name) = 0;
  // Packs that cannot be read, and why.
  virtual std::vector<std::string> Damage() = 0;
  virtual StatusOr<std::string> GetBookmarkForTime(const std::string& name, int64_t wall_ms) = 0;

  // Writes the state at `target` as a plain SQLite file, complete or not at all.
  virtual StatusOr<RestoreReport> Restore(const std::string& name, const RestoreTarget& target,
                                          const std::string& path,
                                          ProgressCallback progress = {}) = 0;
  // Reads all that the store has of it: every snapshot, and every commit from the oldest one
  // to the newest, replayed in a scratch file beside `scratch` (gone afterwards).
  virtual StatusOr<VerifyReport> Verify(const std::string& name, const std::string& scratch,
                                        ProgressCallback progress = {}) = 0;
  // Must be destroyed before this.
  virtual StatusOr<std::unique_ptr<ReadOnlyDatabase>> OpenReadOnly(const std::string& name,
                                                                   const RestoreTarget& target) = 0;
  // Writes the state at `target` below `folder` in the layout of Litestream 0.5, for
  // `litestream restore -o out.db file://FOLDER`.
  virtual StatusOr<RestoreReport> ExportLitestream(const std::string& name,
                                                   const RestoreTarget& target,
                                                   const std::string& folder,
                                                   ProgressCallback progress = {}) = 0;

  // Deletes packs that nothing within the retention needs. Before it deletes (and marks) any,
  // it restores each database that loses something, from only what would be left: at the
  // oldest point retained, with its hash compared, and then every commit up to the newest. An
  // error: nothing was deleted.
  virtual StatusOr<GarbageReport> CollectGarbage(const GarbageOptions& options,
                                                 const std::string& scratch,
                                                 ProgressCallback progress = {}) = 0;
};

}  // namespace edge::srs
