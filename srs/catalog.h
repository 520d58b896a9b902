// srs/catalog.h - what is in an object store: which packs, which databases, which commits.
//
// The directories of all packs, read once and kept up to date. A database's history is a line
// of commits; a fork continues the line of its parent, so the line of a database may begin in
// packs that name another one. Catalog objects save reading the directory of every pack: each
// lists all packs up to some time, is never needed, and is believed only about packs that are
// still there. Byte tables: docs/formats/pack.md, catalog.md.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "edge/base/callback.h"
#include "edge/base/mutex.h"
#include "edge/srs/object_store.h"
#include "edge/srs/relay.h"
#include "srs/pack.h"

namespace edge::srs {

struct PackInfo {
  uint64_t bytes = 0;
  PackHeader header;
  std::vector<Section> sections;
};

// A section and where it is.
struct Placed {
  std::string key;
  int64_t pack_wall_ms = 0;
  Section section;
};

// A log of which the commits up to `until` belong to a line.
struct LogPiece {
  Placed placed;
  Lsn until = 0;
};

// All that the store has of one database in one epoch.
struct Entry {
  std::vector<Placed> logs;                      // by first_lsn
  std::map<Lsn, std::vector<Placed>> snapshots;  // parts in any order
  std::optional<Placed> fork;                    // where it began, if not empty
  uint64_t log_bytes = 0;                        // since the newest complete snapshot, raw
  uint64_t log_commits = 0;                      // in them
  std::optional<State> newest;
  int64_t ended_wall_ms = 0;  // when it was deleted, by the pack's clock; 0: it was not
};

// One stretch of a line of commits: those of (name, epoch) up to `until`.
struct Leg {
  std::string name;
  uint32_t epoch = 0;
  Lsn until = 0;
};

using Progress = Callback<void(uint64_t bytes_done, uint64_t bytes_total)>;

// What a restore has to read: a snapshot (none: the empty database) and the logs after it.
struct Plan {
  State base;                  // state of the snapshot, or the empty state
  std::vector<Placed> parts;   // of the snapshot, in order
  std::vector<LogPiece> logs;  // in order
  uint64_t bytes = 0;          // to read
};

// Thread-safe.
class Catalog {
 public:
  explicit Catalog(std::shared_ptr<ObjectStore> store) : store_(std::move(store)) {}

  // Reads what is there, the first time.
  Status EnsureLoaded();
  // Looks for packs that came or went since.
  Status Refresh();
  void Add(const std::string& key, PackInfo pack);
  // The same without `keys`: what would be left after deleting them.
  std::unique_ptr<Catalog> Without(const std::vector<std::string>& keys) const;

  // The newest epoch that was not deleted.
  std::optional<State> Newest(const std::string& name) const;
  std::optional<Entry> Find(const std::string& name, uint32_t epoch) const;
  std::vector<std::string> Names() const;  // of those that were not deleted
  std::vector<std::pair<std::string, uint32_t>> AllEpochs() const;
  uint32_t DeletedEpoch(const std::string& name) const;  // 0: none
  // DataLoss if packs that may hold something of the database could not be read.
  Status CheckDamage(const std::string& name) const;
  std::vector<std::string> Damage() const;
  std::map<std::string, PackInfo> Packs() const;
  size_t pack_count() const;
  // What the packs of this journal cover, and the number of its next one.
  struct JournalSeen {
    uint64_t next_seq = 1;
    JournalPosition to;
  };
  JournalSeen SeenOf(uint64_t journal_id) const;

  // The earliest commit from which every later one can be reached: where a complete snapshot
  // is, or the line begins.
  State OldestState(const std::string& name, uint32_t epoch) const;
  // How to get the newest state at or before commit `target`. Never fails: the plan may end
  // early if something is missing, which replaying it shows.
  Plan PlanRestore(const std::string& name, uint32_t epoch, Lsn target) const;
  // Puts it into the empty `image`, checks all hashes, and returns it. Lsn 0: nothing of use.
  StatusOr<State> Restore(const std::string& name, uint32_t epoch, Lsn target, PageImage* image,
                          RestoreReport* report, Progress progress = {});
  // The newest state at or before that time which is known without reading a log.
  State NewestBefore(const std::string& name, uint32_t epoch, int64_t wall_ms) const;
  // The newest commit at or before that time.
  StatusOr<State> FindTime(const std::string& name, uint32_t epoch, int64_t wall_ms);
  // Hands out the records above `after`, in order, until an error; one of Aborted ends the
  // walk without error.
  Status VisitRecords(const std::string& name, uint32_t epoch, Lsn after, Lsn until,
                      Callback<Status(const RecordView&)> visit, uint64_t* bytes_read);
  // Reads and checks one section. DataLoss names the object.
  StatusOr<Bytes> Fetch(const Placed& placed, uint64_t* bytes_read);
  StatusOr<Bytes> FetchRange(const Placed& placed, uint64_t offset, uint64_t bytes,
                             uint64_t* bytes_read);

  // Writes a catalog object of what is known now, and removes those that it replaces.
  Status Save(int64_t wall_ms);

  static bool IsComplete(const std::vector<Placed>& parts);
  static std::string KeyOf(uint64_t journal_id, uint64_t seq);
  static StatusOr<PackInfo> LoadPack(ObjectStore& store, const ObjectInfo& object);

 private:
  struct Named {
    uint32_t deleted_epoch = 0;
    std::map<uint32_t, Entry> epochs;
  };
  Status RefreshLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void LoadSaved(std::map<std::string, PackInfo>* packs) const;
  void AddLocked(const std::string& key, PackInfo pack) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void AddSection(Placed placed) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void RebuildLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  const Entry* FindLocked(const std::string& name, uint32_t epoch) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  std::vector<Leg> LineLocked(const std::string& name, uint32_t epoch, Lsn target) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  std::vector<LogPiece> LogsLocked(const std::vector<Leg>& line, Lsn after) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const std::shared_ptr<ObjectStore> store_;
  mutable Mutex mu_;  // held around I/O while loading
  bool is_loaded_ ABSL_GUARDED_BY(mu_) = false;
  std::map<std::string, PackInfo> packs_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, Named> names_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, std::string> damaged_ ABSL_GUARDED_BY(mu_);  // key -> why
};

// Catalog objects, apart from the store. DataLoss.
StatusOr<Bytes> EncodeCatalog(const std::map<std::string, PackInfo>& packs, int64_t wall_ms);
StatusOr<std::map<std::string, PackInfo>> DecodeCatalog(ByteView object);

}  // namespace edge::srs
