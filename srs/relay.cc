#include "edge/srs/relay.h"

#include <algorithm>
#include <deque>
#include <set>
#include <thread>
#include <unordered_map>
#include <utility>

#include "edge/base/check.h"
#include "edge/base/errors.h"
#include "edge/base/mutex.h"
#include "srs/database.h"
#include "srs/image.h"
#include "srs/journal.h"
#include "srs/vfs.h"

namespace edge::srs {
namespace {

constexpr size_t kNameBytesMax = 200;
constexpr size_t kJournalFilesMax = 3;  // above this, databases that lag behind are flushed

Status CheckName(std::string_view name) {
  const bool good =
      !name.empty() && name.size() <= kNameBytesMax && std::ranges::all_of(name, [](char c) {
        return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
               c == '.' || c == '_' || c == '-' || c == '/';
      });
  if (good) return OkStatus();
  return InvalidArgument("database name \"{}\": 1 to {} of A-Z a-z 0-9 . _ - / allowed", name,
                         kNameBytesMax);
}

class RelayImpl final : public Relay, public DatabaseHost {
 public:
  explicit RelayImpl(RelayOptions options)
      : options_(std::move(options)),
        files_(options_.files != nullptr ? *options_.files : PosixFileSystem()),
        clock_(options_.clock != nullptr ? *options_.clock : SystemClock()),
        random_(options_.random != nullptr ? *options_.random : SystemRandom()) {}

  ~RelayImpl() override {
    if (flusher_.joinable()) {
      {
        MutexLock lock(&flush_mu_);
        stopping_ = true;
        flush_work_.Signal();
      }
      flusher_.join();
    }
    for (const auto& core : AllCores()) EDGE_CHECK(!core->is_open());
  }

  Status Start();

  // Relay
  StatusOr<std::unique_ptr<Database>> OpenDatabase(const std::string& name) override;
  StatusOr<bool> DatabaseExists(const std::string& name) override;
  StatusOr<std::vector<std::string>> ListDatabases() override;
  Status DeleteDatabase(const std::string& name) override;
  StatusOr<RestoreReport> Restore(const std::string& name, const RestoreTarget& target,
                                  std::string* undo_bookmark) override;
  StatusOr<RestoreReport> Export(const std::string& name, const RestoreTarget& target,
                                 const std::string& path) override;
  StatusOr<std::string> GetBookmarkForTime(const std::string& name, int64_t wall_ms) override;
  Status Flush() override;
  bool RunBackgroundStep() override;

  // DatabaseHost
  FileSystem& files() override { return files_; }
  Clock& clock() override { return clock_; }
  Journal& journal() override { return *journal_; }
  Vfs& vfs() override { return vfs_; }
  bool has_threads() const override { return options_.background_threads; }
  void RequestFlush(std::shared_ptr<DatabaseCore> core) override;
  StatusOr<State> Rebuild(DatabaseCore& core) override;
  StatusOr<uint32_t> NextEpoch(const std::string& name) override;

 private:
  std::string Folder(std::string_view part) const {
    return Format("{}/{}", {options_.directory, part});
  }
  ImagePaths PathsOf(const std::string& name) const {
    std::string file = name;  // '~' occurs in no name
    std::ranges::replace(file, '/', '~');
    return {Folder("databases/" + file + ".db"), Folder("databases/" + file + ".flush"),
            Folder("tmp/" + file + ".wal")};
  }
  std::shared_ptr<DatabaseCore> CoreOf(const std::string& name) {
    MutexLock lock(&mu_);
    std::shared_ptr<DatabaseCore>& core = cores_[name];
    if (core == nullptr) core = std::make_shared<DatabaseCore>(this, name, PathsOf(name));
    return core;
  }
  std::vector<std::shared_ptr<DatabaseCore>> AllCores() {
    MutexLock lock(&mu_);
    std::vector<std::shared_ptr<DatabaseCore>> all;
    all.reserve(cores_.size());
    for (const auto& [name, core] : cores_) all.push_back(core);
    return all;
  }
  StatusOr<State> Build(const std::string& name, uint32_t epoch, Lsn target,
                        const std::string& path, RestoreReport* report);
  void RunFlusher();
  bool FlushStep();
  void FlushLaggards();

  const RelayOptions options_;
  FileSystem& files_;
  Clock& clock_;
  Random& random_;
  std::unique_ptr<File> lock_;
  Vfs vfs_;

  Mutex mu_;
  std::unordered_map<std::string, std::shared_ptr<DatabaseCore>> cores_ ABSL_GUARDED_BY(mu_);

  Mutex flush_mu_;
  CondVar flush_work_;
  std::deque<std::shared_ptr<DatabaseCore>> flush_queue_ ABSL_GUARDED_BY(flush_mu_);
  bool check_laggards_ ABSL_GUARDED_BY(flush_mu_) = false;
  bool stopping_ ABSL_GUARDED_BY(flush_mu_) = false;
  size_t journal_files_seen_ = 0;  // the journal writer's own

  std::unique_ptr<Journal> journal_;  // its writer calls the cores: goes before them
  std::thread flusher_;
};

Status RelayImpl::Start() {
  if (options_.directory.empty()) return InvalidArgument("RelayOptions::directory is empty");
  if (options_.journal_file_bytes < (64 << 10) || options_.journal_file_bytes > (1ull << 40)) {
    return InvalidArgument("RelayOptions::journal_file_bytes is {}: 64 KiB to 1 TiB allowed",
                           options_.journal_file_bytes);
  }
  for (const char* part : {"journal", "databases", "tmp"}) {
    EDGE_RETURN_IF_ERROR(files_.MakeDirectories(Folder(part)));
  }
  EDGE_ASSIGN_OR_RETURN(lock_, files_.Lock(Folder("lock")));
  EDGE_ASSIGN_OR_RETURN(const auto leftovers, files_.List(Folder("tmp")));
  for (const DirectoryEntry& entry : leftovers) {
    EDGE_RETURN_IF_ERROR(files_.Remove(Folder("tmp/" + entry.name)));
  }
  struct Newest {
    std::shared_ptr<DatabaseCore> core;
    uint32_t epoch;
    Lsn lsn;
  };
  std::map<uint64_t, std::unordered_map<std::string, Newest>> newest;  // by journal file
  JournalOptions journal{&files_,
                         &clock_,
                         &random_,
                         Folder("journal"),
                         options_.journal_file_bytes,
                         options_.background_threads,
                         options_.metrics};
  EDGE_ASSIGN_OR_RETURN(
      journal_, Journal::Open(journal, [&](const JournalEntry& entry, const JournalPosition& at) {
        const std::string name(entry.name);
        auto core = CoreOf(name);
        core->NoteRecovered(entry, at);
        newest[at.file][name] = {std::move(core), entry.epoch, entry.lsn};
        return OkStatus();
      }));
  for (auto& [file, databases] : newest) {
    for (auto& [name, last] : databases) {
      journal_->NoteRecovered(file, last.core, last.epoch, last.lsn);
    }
  }
  journal_->SetOnBroken([this](const Status& status) {
    for (const auto& core : AllCores()) core->Break(status);
  });
  journal_->SetOnWritten([this](uint64_t) {
    const size_t file_count = journal_->file_count();
    if (std::exchange(journal_files_seen_, file_count) == file_count) return;
    MutexLock lock(&flush_mu_);
    check_laggards_ = true;
    flush_work_.Signal();
  });
  if (options_.background_threads) flusher_ = std::thread([this] { RunFlusher(); });
  return OkStatus();
}

// --- Flushing caches in the background ---

void RelayImpl::RequestFlush(std::shared_ptr<DatabaseCore> core) {
  MutexLock lock(&flush_mu_);
  if (std::ranges::find(flush_queue_, core) != flush_queue_.end()) return;
  flush_queue_.push_back(std::move(core));
  flush_work_.Signal();
}

void RelayImpl::FlushLaggards() {
  for (const auto& stream : journal_->Laggards(kJournalFilesMax)) {
    // A failure leaves the journal file in use, and the next file tries again.
    std::static_pointer_cast<DatabaseCore>(stream)->Flush().IgnoreError();
  }
  journal_->Recycle();
}

bool RelayImpl::FlushStep() {
  std::shared_ptr<DatabaseCore> core;
  {
    MutexLock lock(&flush_mu_);
    if (!flush_queue_.empty()) {
      core = std::move(flush_queue_.front());
      flush_queue_.pop_front();
    } else if (!std::exchange(check_laggards_, false)) {
      return false;
    }
  }
  if (core != nullptr) {
    const Status flushed = core->Flush();
    if (!flushed.ok()) core->Break(flushed);
  }
  FlushLaggards();
  return true;
}

void RelayImpl::RunFlusher() {
  for (;;) {
    while (FlushStep()) {
    }
    MutexLock lock(&flush_mu_);
    while (flush_queue_.empty() && !check_laggards_ && !stopping_) flush_work_.Wait(&flush_mu_);
    if (stopping_) return;
  }
}

bool RelayImpl::RunBackgroundStep() {
  EDGE_CHECK(!options_.background_threads);
  bool worked = journal_->WriteStep();
  worked |= FlushStep();
  return worked;
}

// --- Databases ---

StatusOr<std::unique_ptr<Database>> RelayImpl::OpenDatabase(const std::string& name) {
  EDGE_RETURN_IF_ERROR(CheckName(name));
  const auto core = CoreOf(name);
  sqlite3* connection = nullptr;
  EDGE_RETURN_IF_ERROR(core->Open(&connection));
  return MakeDatabase(core, connection);
}

StatusOr<bool> RelayImpl::DatabaseExists(const std::string& name) {
  EDGE_RETURN_IF_ERROR(CheckName(name));
  const auto core = CoreOf(name);
  if (core->is_open() || core->known()) return true;
  if (core->deleted_epoch() != 0) return false;
  return files_.Exists(core->paths().flush);
}

StatusOr<std::vector<std::string>> RelayImpl::ListDatabases() {
  std::set<std::string> names;
  EDGE_ASSIGN_OR_RETURN(const auto entries, files_.List(Folder("databases")));
  for (const DirectoryEntry& entry : entries) {
    constexpr std::string_view kSuffix = ".flush";
    if (!entry.name.ends_with(kSuffix)) continue;
    std::string name = entry.name.substr(0, entry.name.size() - kSuffix.size());
    std::ranges::replace(name, '~', '/');
    names.insert(std::move(name));
  }
  for (const auto& core : AllCores()) {
    if (core->is_open() || core->known()) {
      names.insert(core->name());
    } else if (core->deleted_epoch() != 0) {
      names.erase(core->name());
    }
  }
  return std::vector<std::string>(names.begin(), names.end());
}

Status RelayImpl::DeleteDatabase(const std::string& name) {
  EDGE_ASSIGN_OR_RETURN(const bool exists, DatabaseExists(name));
  if (!exists) return NotFound("no database \"{}\"", name);
  return CoreOf(name)->Delete();
}

StatusOr<uint32_t> RelayImpl::NextEpoch(const std::string&) {
  return 1;
}

// --- Building a database from what is kept of it ---

StatusOr<State> RelayImpl::Build(const std::string& name, uint32_t epoch, Lsn target,
                                 const std::string& path, RestoreReport*) {
  EDGE_ASSIGN_OR_RETURN(auto file, files_.Open(path, OpenMode::kCreateTruncate));
  FileImage image(std::move(file));
  State state = EmptyState(name, epoch);
  EDGE_RETURN_IF_ERROR(image.WritePage(1, EmptyDatabasePage().bytes, {}));
  EDGE_RETURN_IF_ERROR(
      journal_
          ->Read(journal_->begin(), journal_->end(), UINT64_MAX,
                 [&](const JournalEntry& entry) -> Status {
                   if (entry.kind != EntryKind::kCommit || entry.name != name ||
                       entry.epoch != epoch || entry.lsn <= state.lsn || entry.lsn > target) {
                     return OkStatus();
                   }
                   if (entry.lsn != state.lsn + 1 || entry.chain_before != state.chain) {
                     return DataLoss("{}: the journal begins at commit {}, and nothing else has {}",
                                     name, entry.lsn, state.lsn + 1);
                   }
                   return ApplyRecord(entry.record, &image, &state);
                 })
          .status());
  EDGE_RETURN_IF_ERROR(image.Resize(state.pages));
  EDGE_RETURN_IF_ERROR(image.file().Sync());
  return state;
}

StatusOr<State> RelayImpl::Rebuild(DatabaseCore& core) {
  const std::optional<State> known = core.known();
  if (!known) return NotFound("nothing is known of database \"{}\"", core.name());
  const std::string path = core.paths().spill + ".rebuild";
  EDGE_ASSIGN_OR_RETURN(const State state,
                        Build(core.name(), known->epoch, known->lsn, path, nullptr));
  if (state.lsn != known->lsn || state.chain != known->chain) {
    return DataLoss("{}: only commits up to {} of {} are left", core.name(), state.lsn, known->lsn);
  }
  EDGE_RETURN_IF_ERROR(
      Image::Install(&files_, core.paths(), core.name(), journal_->id(), state, path));
  return state;
}

StatusOr<RestoreReport> RelayImpl::Restore(const std::string&, const RestoreTarget&, std::string*) {
  return FailedPrecondition("this relay has no object store");
}
StatusOr<RestoreReport> RelayImpl::Export(const std::string&, const RestoreTarget&,
                                          const std::string&) {
  return FailedPrecondition("this relay has no object store");
}
StatusOr<std::string> RelayImpl::GetBookmarkForTime(const std::string&, int64_t) {
  return FailedPrecondition("this relay has no object store");
}
Status RelayImpl::Flush() {
  return OkStatus();
}

}  // namespace

StatusOr<std::unique_ptr<Relay>> Relay::Open(RelayOptions options) {
  auto relay = std::make_unique<RelayImpl>(std::move(options));
  EDGE_RETURN_IF_ERROR(relay->Start());
  return relay;
}

}  // namespace edge::srs
