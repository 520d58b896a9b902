// srs/archive.h - what a relay puts into the object store.
//
// One thread turns the journal into packs, at most one per batch for all databases, and adds
// snapshots where a database's log has outgrown the database or would take long to replay. A
// pack's header says which stretch of the journal it holds, so after a restart the store
// itself tells where to go on.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "edge/base/clock.h"
#include "edge/base/file_system.h"
#include "edge/base/metrics.h"
#include "edge/base/mutex.h"
#include "edge/srs/object_store.h"
#include "edge/srs/relay.h"
#include "srs/catalog.h"
#include "srs/database.h"
#include "srs/journal.h"
#include "srs/pack.h"

namespace edge::srs {

struct ArchiveOptions {
  std::shared_ptr<ObjectStore> store;
  Journal* journal;
  FileSystem* files;
  Clock* clock;
  std::string spool_folder;  // for snapshots that are too large for memory
  int64_t batch_interval_ms;
  uint64_t batch_bytes_max;
  bool threads;
  MetricsRegistry* metrics;
  // The database of that name, if this process has it.
  Callback<std::shared_ptr<DatabaseCore>(const std::string&)> find;
};

// Thread-safe.
class Archive {
 public:
  explicit Archive(ArchiveOptions options);
  ~Archive();  // after Stop()

  // Reads the catalog if that has not been done. FailedPrecondition: the store has more of
  // this journal than the journal itself, an old copy of the directory is in use.
  Status EnsureLoaded();
  void Start();  // the thread
  // Ends it and uploads what waits, once. Databases may still be asked for their pages, and
  // those may ask the archive: it must still be there for them.
  void Stop();

  // The newest commit of a database that is in the store; nothing if it has none.
  StatusOr<std::optional<State>> Newest(const std::string& name);
  StatusOr<std::vector<std::string>> Names();
  // The last epoch that was deleted, 0 if none.
  StatusOr<uint32_t> DeletedEpoch(const std::string& name);

  // Puts the newest state at or before commit `target` that the store has of it into the
  // empty `image`. Its state has lsn 0 if the store knows nothing of use.
  StatusOr<State> Restore(const std::string& name, uint32_t epoch, Lsn target, PageImage* image,
                          RestoreReport* report);
  // DataLoss if packs that may hold something of the database could not be read.
  Status CheckDamage(const std::string& name) { return catalog_.CheckDamage(name); }
  // Loaded by EnsureLoaded().
  Catalog& catalog() { return catalog_; }

  // Makes `child` (which the store does not have) begin as `parent` at its commit `at`.
  Status Fork(const std::string& child, uint32_t child_epoch, const std::string& parent,
              const State& at);

  void OnWritten(uint64_t bytes);  // by the journal
  void RequestSnapshot(const std::string& name);
  // Uploads everything durable now.
  Status Flush();
  bool StepIfDue();  // without threads

 private:
  struct LogDraft {
    Section section;
    Bytes raw;
  };
  Status UploadAll();
  StatusOr<bool> UploadBatch(std::set<std::string>* snapshots)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(upload_mu_);
  Status AddLog(const JournalEntry& entry, std::vector<LogDraft>* drafts,
                std::map<std::string, size_t, std::less<>>* open, PackWriter* pack);
  std::set<std::string> OutgrownBy(const std::vector<Section>& sections);
  Status AddSnapshot(const std::string& name, PackWriter* pack)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(upload_mu_);
  Status UploadSpooled() ABSL_EXCLUSIVE_LOCKS_REQUIRED(upload_mu_);
  PackHeader NextHeader(JournalPosition from, JournalPosition to)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(upload_mu_);
  Status PutPack(const PackHeader& header, PackWriter* pack)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(upload_mu_);
  void SaveCatalogIfDue() ABSL_EXCLUSIVE_LOCKS_REQUIRED(upload_mu_);
  void Run();

  ArchiveOptions options_;
  const std::shared_ptr<ObjectStore> store_;
  Catalog catalog_;

  Mutex mu_;  // held around the first reading of the catalog, else briefly
  bool is_loaded_ ABSL_GUARDED_BY(mu_) = false;
  uint64_t next_seq_ ABSL_GUARDED_BY(mu_) = 1;
  JournalPosition uploaded_ ABSL_GUARDED_BY(mu_);
  std::set<std::string> wanted_snapshots_ ABSL_GUARDED_BY(mu_);

  Mutex upload_mu_;  // one upload at a time; held around I/O, before mu_
  struct Spooled {
    std::string path;
    std::vector<Section> parts;  // offsets are those in the file
  };
  std::vector<Spooled> spooled_ ABSL_GUARDED_BY(upload_mu_);
  size_t packs_since_save_ ABSL_GUARDED_BY(upload_mu_) = 0;

  Mutex wake_mu_;
  CondVar wake_;
  CondVar done_;
  uint64_t waiting_bytes_ ABSL_GUARDED_BY(wake_mu_) = 0;
  int64_t waiting_since_ns_ ABSL_GUARDED_BY(wake_mu_) = 0;
  int64_t retry_at_ns_ ABSL_GUARDED_BY(wake_mu_) = 0;
  int failures_ ABSL_GUARDED_BY(wake_mu_) = 0;
  bool stopping_ ABSL_GUARDED_BY(wake_mu_) = false;
  Counter* packs_metric_ = nullptr;
  Counter* bytes_metric_ = nullptr;
  Counter* failures_metric_ = nullptr;
  std::thread thread_;
};

}  // namespace edge::srs
