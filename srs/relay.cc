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
#include "srs/archive.h"
#include "srs/database.h"
#include "srs/group_tail.h"
#include "srs/image.h"
#include "srs/journal.h"
#include "srs/lazy_image.h"
#include "srs/link.h"
#include "srs/planted.h"
#include "srs/replicator.h"
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
    if (archive_ != nullptr) archive_->Stop();
    archive_.reset();
    if (link_ != nullptr) {
      // It calls the journal: it goes first.
      const auto close = [this] { link_->replicator.reset(); };
      if (executor_ != nullptr) {
        RunOn(*loop_, close);
      } else {
        close();
      }
    }
  }

  // The parts of opening. With followers the replicator takes over between the first two and
  // sends what was adopted between the last two.
  Status StartLocal();
  Status StartLink();
  void TakeOver(Callback<void(StatusOr<Adoption>)> done);
  Status Adopt(Adoption adoption);
  void Activate(Callback<void(Status)> done);
  Status FinishStart();
  Status StartBlocking();

  // Relay
  StatusOr<std::unique_ptr<Database>> OpenDatabase(const std::string& name) override;
  const std::string& vfs_name() const override { return vfs_.name(); }
  StatusOr<bool> DatabaseExists(const std::string& name) override;
  StatusOr<std::vector<std::string>> ListDatabases() override;
  Status DeleteDatabase(const std::string& name) override;
  StatusOr<RestoreReport> Restore(const std::string& name, const RestoreTarget& target,
                                  std::string* undo_bookmark) override;
  StatusOr<RestoreReport> Export(const std::string& name, const RestoreTarget& target,
                                 const std::string& path) override;
  StatusOr<std::unique_ptr<ReadOnlyDatabase>> OpenReadOnly(const std::string& name,
                                                           const RestoreTarget& target) override;
  Status Fork(const std::string& name, const RestoreTarget& target,
              const std::string& fork) override;
  StatusOr<std::string> RestoreAtNextOpen(const std::string& name,
                                          const std::string& bookmark) override;
  StatusOr<std::string> GetBookmarkForTime(const std::string& name, int64_t wall_ms) override;
  Status Flush() override;
  bool RunBackgroundStep() override;
  uint64_t epoch() const override { return epoch_; }
  Status health() const override { return journal_->status(); }
  void OnReadable(ReadMode mode, Callback<void(Status)> done) override;
  Status WaitReadable(ReadMode mode) override;

  // DatabaseHost
  FileSystem& files() override { return files_; }
  Clock& clock() override { return clock_; }
  Journal& journal() override { return *journal_; }
  Vfs& vfs() override { return vfs_; }
  bool has_threads() const override { return options_.background_threads; }
  Durability default_durability() const override {
    return options_.durability.value_or(has_followers() ? Durability::kQuorum : Durability::kLocal);
  }
  Status CheckDurability(Durability durability) const override {
    if (durability == Durability::kQuorum && !has_followers()) {
      return FailedPrecondition("durability quorum: this relay has no followers");
    }
    if (durability == Durability::kStore && archive_ == nullptr) {
      return FailedPrecondition("durability store: this relay has no object store");
    }
    return OkStatus();
  }
  Status FlushStore() override { return Flush(); }
  bool is_replication_loop() const override {
    return !options_.background_threads || (loop_ != nullptr && loop_->IsCurrent());
  }
  void RequestFlush(std::shared_ptr<DatabaseCore> core) override;
  StatusOr<State> Rebuild(DatabaseCore& core) override;
  StatusOr<uint32_t> NextEpoch(const std::string& name) override;
  bool IsBehindStore(const std::string& name, const State& state) override;

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
  bool has_followers() const { return !options_.replication.followers.empty(); }
  // Where RestoreAtNextOpen() leaves its bookmark.
  std::string PlanPathOf(const std::string& name) const {
    const std::string flush = PathsOf(name).flush;
    return flush.substr(0, flush.rfind('.')) + ".restore";
  }
  Status RunPlannedRestore(const std::string& name);
  StatusOr<std::shared_ptr<VfsDatabase>> OpenByName(const std::string& name, Vfs::Create create);
  // As Resolve(), with what it means in the store, after uploading up to it.
  StatusOr<Bookmark> ResolveStored(const std::string& name, const RestoreTarget& target);
  Status NeedStore() const {
    if (archive_ != nullptr) return OkStatus();
    return FailedPrecondition("this relay has no object store");
  }
  StatusOr<uint32_t> EpochOf(const std::string& name);
  StatusOr<Bookmark> Resolve(const std::string& name, uint32_t epoch, const RestoreTarget& target);
  StatusOr<State> BuildTarget(const std::string& name, const RestoreTarget& target,
                              const std::string& path, RestoreReport* report);
  Status ReplaceBy(Image& image, const State& target, FileImage& wanted, DatabaseCore& core);
  Status OpenJournal();
  void NoteRecovered(const JournalEntry& entry, const JournalPosition& at);
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

  // Recovered or adopted: the newest commits by journal file. Until the start is finished.
  struct Newest {
    std::shared_ptr<DatabaseCore> core;
    uint32_t epoch;
    Lsn lsn;
  };
  std::map<uint64_t, std::unordered_map<std::string, Newest>> newest_;
  bool is_first_owner_ = false;
  uint64_t epoch_ = 0;

  // What tasks posted to the loop hold: the replicator may be gone when they run.
  struct Link {
    std::unique_ptr<Replicator> replicator;  // the loop's
  };
  std::unique_ptr<Executor> executor_;  // null: the loop is the host's
  Loop* loop_ = nullptr;
  std::unique_ptr<Network> network_;
  std::shared_ptr<Link> link_;  // owners: this, posted tasks

  std::unique_ptr<Journal> journal_;  // its writer calls the cores: goes before them
  std::unique_ptr<Archive> archive_;  // null: no store
  std::thread flusher_;
};

void RelayImpl::NoteRecovered(const JournalEntry& entry, const JournalPosition& at) {
  const std::string name(entry.name);
  auto core = CoreOf(name);
  core->NoteRecovered(entry, at);
  newest_[at.file][name] = {std::move(core), entry.epoch, entry.lsn};
}

Status RelayImpl::OpenJournal() {
  JournalOptions journal{&files_,
                         &clock_,
                         &random_,
                         Folder("journal"),
                         options_.journal_file_bytes,
                         options_.background_threads,
                         options_.metrics};
  EDGE_ASSIGN_OR_RETURN(journal_, Journal::Open(journal, [this](const JournalEntry& entry,
                                                                const JournalPosition& at) {
                          NoteRecovered(entry, at);
                          return OkStatus();
                        }));
  return OkStatus();
}

Status RelayImpl::StartLocal() {
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
  return OpenJournal();
}

Status RelayImpl::FinishStart() {
  for (auto& [file, databases] : newest_) {
    for (auto& [name, last] : databases) {
      journal_->NoteRecovered(file, last.core, last.epoch, last.lsn);
    }
  }
  newest_.clear();
  EDGE_RETURN_IF_ERROR(journal_->status());
  journal_->SetOnBroken([this](const Status& status) {
    for (const auto& core : AllCores()) core->Break(status);
  });
  if (options_.store != nullptr) {
    archive_ = std::make_unique<Archive>(ArchiveOptions{
        options_.store, journal_.get(), &files_, &clock_, Folder("tmp"), options_.batch_interval_ms,
        options_.batch_bytes_max, options_.background_threads, options_.metrics,
        [this](const std::string& name) {
          MutexLock lock(&mu_);
          const auto it = cores_.find(name);
          return it == cores_.end() ? nullptr : it->second;
        }});
    const Status loaded = archive_->EnsureLoaded();
    // A store that is out of reach now may come back; an old directory must not go on.
    if (loaded.code() == StatusCode::kFailedPrecondition) return loaded;
    archive_->OnWritten(1);  // what an earlier run left over
    // Commits from before there were followers are in no log of theirs.
    if (is_first_owner_) EDGE_RETURN_IF_ERROR(archive_->Flush());
    if (options_.background_threads) archive_->Start();
  } else {
    journal_->SetUploaded({UINT64_MAX, 0});
  }
  journal_->SetOnWritten([this](uint64_t bytes) {
    if (archive_ != nullptr) archive_->OnWritten(bytes);
    const size_t file_count = journal_->file_count();
    if (std::exchange(journal_files_seen_, file_count) == file_count) return;
    MutexLock lock(&flush_mu_);
    check_laggards_ = true;
    flush_work_.Signal();
  });
  if (options_.background_threads) flusher_ = std::thread([this] { RunFlusher(); });
  vfs_.SetOpener(
      [this](const std::string& name, Vfs::Create create) { return OpenByName(name, create); });
  return OkStatus();
}

// --- With followers ---

Status RelayImpl::StartLink() {
  const ReplicationOptions& r = options_.replication;
  if (options_.store == nullptr) return InvalidArgument("followers need a RelayOptions::store");
  if (r.followers.size() > 15 || r.quorum < 1 ||
      static_cast<size_t>(r.quorum) > r.followers.size()) {
    return InvalidArgument("ReplicationOptions: a quorum of {} of {} followers", r.quorum,
                           r.followers.size());
  }
  if (std::set<std::string>(r.followers.begin(), r.followers.end()).size() != r.followers.size()) {
    return InvalidArgument("ReplicationOptions: a follower is named twice");
  }
  const bool good_group =
      !r.group.empty() && r.group.size() <= 100 && std::ranges::all_of(r.group, [](char c) {
        return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
               c == '.' || c == '_' || c == '-';
      });
  if (!good_group) {
    return InvalidArgument("group name \"{}\": 1 to 100 of A-Z a-z 0-9 . _ - allowed", r.group);
  }
  loop_ = r.loop;
  if (loop_ == nullptr) {
    if (!options_.background_threads) {
      return InvalidArgument("ReplicationOptions::loop is needed without background threads");
    }
    EDGE_ASSIGN_OR_RETURN(executor_, Executor::Create({.threads = 1}));
    loop_ = &executor_->loop(0);
  }
  EDGE_ASSIGN_OR_RETURN(
      network_, SecureNetwork(r.network != nullptr ? *r.network : PosixNetwork(), r.secret));
  link_ = std::make_shared<Link>();
  return OkStatus();
}

// On the loop.
void RelayImpl::TakeOver(Callback<void(StatusOr<Adoption>)> done) {
  link_->replicator = std::make_unique<Replicator>(
      *loop_, *network_,
      ReplicatorOptions{options_.replication,
                        StoreRegister(options_.store, options_.replication.group), options_.store,
                        &clock_, options_.metrics});
  link_->replicator->TakeOver(journal_->id(), journal_->places(), std::move(done));
}

// Makes the journal hold the group's log, up to a first entry of this epoch.
Status RelayImpl::Adopt(Adoption adoption) {
  epoch_ = adoption.epoch;
  is_first_owner_ = adoption.is_first;
  if (!adoption.keep_own) {
    // Another host has served since, or what we had was never confirmed. The store and the
    // followers have all that was.
    journal_.reset();
    newest_.clear();
    {
      MutexLock lock(&mu_);
      cores_.clear();
    }
    for (const char* part : {"databases", "journal"}) {
      if (Planted(Bug::kStaleCacheKept) && part[0] == 'd') continue;
      EDGE_ASSIGN_OR_RETURN(const auto entries, files_.List(Folder(part)));
      for (auto it = entries.rbegin(); it != entries.rend(); ++it) {  // the newest first
        EDGE_RETURN_IF_ERROR(files_.Remove(Format("{}/{}", {Folder(part), it->name})));
      }
      EDGE_RETURN_IF_ERROR(files_.SyncDirectory(Folder(part)));
    }
    EDGE_RETURN_IF_ERROR(OpenJournal());
  }
  RecoveryVisitor visit = [this](const JournalEntry& entry, const JournalPosition& at) {
    NoteRecovered(entry, at);
    return OkStatus();
  };
  for (const Bytes& payload : adoption.entries) {
    EDGE_RETURN_IF_ERROR(journal_->AppendForeign(payload, visit).status());
  }
  const Bytes first = EmptyEntry(adoption.epoch, adoption.last);
  EDGE_RETURN_IF_ERROR(journal_->AppendForeign(first, visit).status());
  const std::vector<Journal::Placed> places = journal_->places();
  for (size_t i = 1; i < places.size(); ++i) {
    if (places[i].place.index == places[i - 1].place.index + 1) continue;
    return DataLoss("the journal has entry {} behind entry {}", places[i].place.index,
                    places[i - 1].place.index);
  }
  journal_->StartGroup(
      adoption.epoch, places.back().place,
      [this](const LogPlace& place, ByteView payload) {
        loop_->PostUrgent([link = link_, place,
                           bytes = std::make_shared<const Bytes>(payload.begin(), payload.end())] {
          if (link->replicator != nullptr) link->replicator->OnBlock(place, bytes);
        });
      },
      [this](const LogPlace& place, JournalPosition position) {
        loop_->PostUrgent([link = link_, place, position] {
          if (link->replicator != nullptr) link->replicator->OnPlaced(place, position);
        });
      });
  journal_->SetOnPersisted([this](uint64_t index) {
    loop_->PostUrgent([link = link_, index] {
      if (link->replicator != nullptr) link->replicator->SetPersisted(index);
    });
  });
  return OkStatus();
}

// On the loop.
void RelayImpl::Activate(Callback<void(Status)> done) {
  Journal* const journal = journal_.get();
  link_->replicator->Activate(
      journal->id(), journal->places(),
      {.on_confirmed = [journal](uint64_t index) { journal->Confirm(index); },
       .on_fenced = [journal](const Status& why) { journal->Fail(why); },
       .read = [journal](JournalPosition at) { return journal->ReadPayload(at); }},
      std::move(done));
}

// A value that another thread sets.
template <typename T>
class Promised {
 public:
  void Set(T value) {
    MutexLock lock(&mu_);
    value_.emplace(std::move(value));
    set_.Signal();
  }
  T Wait() {
    MutexLock lock(&mu_);
    while (!value_) set_.Wait(&mu_);
    return *std::move(value_);
  }

 private:
  Mutex mu_;
  CondVar set_;
  std::optional<T> value_ ABSL_GUARDED_BY(mu_);
};

Status RelayImpl::StartBlocking() {
  EDGE_RETURN_IF_ERROR(StartLocal());
  if (!has_followers()) return FinishStart();
  EDGE_RETURN_IF_ERROR(StartLink());
  if (loop_->IsCurrent()) return FailedPrecondition("Relay::Open on its own loop: OpenOnLoop");
  Promised<StatusOr<Adoption>> adoption;
  loop_->PostUrgent(
      [&] { TakeOver([&](StatusOr<Adoption> found) { adoption.Set(std::move(found)); }); });
  EDGE_ASSIGN_OR_RETURN(Adoption found, adoption.Wait());
  EDGE_RETURN_IF_ERROR(Adopt(std::move(found)));
  Promised<Status> active;
  loop_->PostUrgent([&] { Activate([&](Status status) { active.Set(std::move(status)); }); });
  EDGE_RETURN_IF_ERROR(active.Wait());
  return FinishStart();
}

void RelayImpl::OnReadable(ReadMode mode, Callback<void(Status)> done) {
  if (link_ == nullptr) return done(OkStatus());
  const Status status = health();
  if (!status.ok()) return done(status);
  link_->replicator->OnReadable(mode, std::move(done));
}

Status RelayImpl::WaitReadable(ReadMode mode) {
  if (link_ == nullptr) return OkStatus();
  if (is_replication_loop()) return FailedPrecondition("WaitReadable on the loop of the links");
  Promised<Status> readable;
  loop_->PostUrgent(
      [&] { OnReadable(mode, [&](Status status) { readable.Set(std::move(status)); }); });
  return readable.Wait();
}

class OpeningImpl final : public Relay::Opening {
 public:
  OpeningImpl(RelayOptions options, Callback<void(StatusOr<std::unique_ptr<Relay>>)> done)
      : loop_(options.replication.loop), done_(std::move(done)) {
    EDGE_CHECK(loop_ != nullptr && loop_->IsCurrent());
    relay_ = std::make_unique<RelayImpl>(std::move(options));
    Status started = relay_->StartLocal();
    if (started.ok()) started = relay_->StartLink();
    if (!started.ok()) {
      Finish(started);
      return;
    }
    relay_->TakeOver([this](StatusOr<Adoption> adoption) {
      Status adopted = adoption.status();
      if (adopted.ok()) adopted = relay_->Adopt(*std::move(adoption));
      if (!adopted.ok()) return Finish(adopted);
      relay_->Activate(
          [this](const Status& active) { Finish(active.ok() ? relay_->FinishStart() : active); });
    });
  }
  ~OpeningImpl() override { *alive_ = false; }

 private:
  // Later: the replicator is on the stack.
  void Finish(const Status& status) {
    loop_->Defer([this, status, alive = alive_] {
      if (!*alive) return;
      auto done = std::move(done_);
      if (status.ok()) return done(std::unique_ptr<Relay>(std::move(relay_)));
      relay_.reset();
      done(status);
    });
  }
  Loop* const loop_;
  Callback<void(StatusOr<std::unique_ptr<Relay>>)> done_;
  std::unique_ptr<RelayImpl> relay_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);  // owners: this, its task
};

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
  if (archive_ != nullptr) worked |= archive_->StepIfDue();
  return worked;
}

// --- Databases ---

StatusOr<std::unique_ptr<Database>> RelayImpl::OpenDatabase(const std::string& name) {
  EDGE_RETURN_IF_ERROR(CheckName(name));
  if (archive_ != nullptr) EDGE_RETURN_IF_ERROR(RunPlannedRestore(name));
  const auto core = CoreOf(name);
  sqlite3* connection = nullptr;
  EDGE_RETURN_IF_ERROR(core->Open(&connection));
  auto database = MakeDatabase(core, connection);
  if (archive_ != nullptr && core->image().cached_lsn() > 0) {
    // A database from before there was a store gets its first snapshot.
    const auto newest = archive_->Newest(name);
    if (newest.ok() && !*newest) archive_->RequestSnapshot(name);
  }
  return database;
}

StatusOr<std::shared_ptr<VfsDatabase>> RelayImpl::OpenByName(const std::string& name,
                                                             Vfs::Create create) {
  if (name.starts_with('/')) return InvalidArgument("\"{}\" is a path, not a name", name);
  EDGE_ASSIGN_OR_RETURN(const bool exists, DatabaseExists(name));
  if (!exists && create == Vfs::Create::kNo) return NotFound("no database \"{}\"", name);
  if (archive_ != nullptr) EDGE_RETURN_IF_ERROR(RunPlannedRestore(name));
  auto core = CoreOf(name);
  EDGE_RETURN_IF_ERROR(core->OpenForVfs());
  return core;
}

StatusOr<bool> RelayImpl::DatabaseExists(const std::string& name) {
  EDGE_RETURN_IF_ERROR(CheckName(name));
  const auto core = CoreOf(name);
  if (core->is_open() || core->known()) return true;
  EDGE_ASSIGN_OR_RETURN(const bool has_files, files_.Exists(core->paths().flush));
  if (has_files && core->deleted_epoch() == 0) return true;
  if (archive_ == nullptr) return false;
  EDGE_ASSIGN_OR_RETURN(const std::optional<State> newest, archive_->Newest(name));
  return newest.has_value() && newest->epoch > core->deleted_epoch();
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
  if (archive_ != nullptr) {
    EDGE_ASSIGN_OR_RETURN(const std::vector<std::string> stored, archive_->Names());
    names.insert(stored.begin(), stored.end());
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

StatusOr<uint32_t> RelayImpl::NextEpoch(const std::string& name) {
  if (archive_ == nullptr) return 1;
  EDGE_ASSIGN_OR_RETURN(const uint32_t deleted, archive_->DeletedEpoch(name));
  EDGE_RETURN_IF_ERROR(archive_->CheckDamage(name));
  return deleted + 1;
}

bool RelayImpl::IsBehindStore(const std::string& name, const State& state) {
  if (archive_ == nullptr) return false;
  const auto newest = archive_->Newest(name);
  return newest.ok() && *newest && (*newest)->epoch >= state.epoch && (*newest)->lsn > state.lsn;
}

// --- Building a database from what is kept of it ---

// The state at commit `target`, or the newest before it, in a file of its own at `path`.
StatusOr<State> RelayImpl::Build(const std::string& name, uint32_t epoch, Lsn target,
                                 const std::string& path, RestoreReport* report) {
  EDGE_ASSIGN_OR_RETURN(auto file, files_.Open(path, OpenMode::kCreateTruncate));
  FileImage image(std::move(file));
  State state = EmptyState(name, epoch);
  if (archive_ != nullptr) {
    EDGE_ASSIGN_OR_RETURN(state, archive_->Restore(name, epoch, target, &image, report));
  } else {
    EDGE_RETURN_IF_ERROR(image.WritePage(1, EmptyDatabasePage().bytes, {}));
  }
  const auto replay = [&](const JournalEntry& entry) -> Status {
    if (entry.kind != EntryKind::kCommit || entry.name != name || entry.epoch != epoch ||
        entry.lsn <= state.lsn || entry.lsn > target) {
      return OkStatus();
    }
    if (entry.lsn != state.lsn + 1 || entry.chain_before != state.chain) {
      if (archive_ != nullptr) EDGE_RETURN_IF_ERROR(archive_->CheckDamage(name));
      return DataLoss("database \"{}\": the journal begins at commit {}, and nothing has {}", name,
                      entry.lsn, state.lsn + 1);
    }
    return ApplyRecord(entry.record, &image, &state);
  };
  EDGE_RETURN_IF_ERROR(
      journal_->Read(journal_->begin(), journal_->end(), UINT64_MAX, replay).status());
  EDGE_RETURN_IF_ERROR(image.Resize(state.pages));
  EDGE_RETURN_IF_ERROR(image.Sync());
  report->lsn = state.lsn;
  report->committed_wall_ms = state.wall_ms;
  report->database_bytes = uint64_t{state.pages} * kPageBytes;
  return state;
}

StatusOr<uint32_t> RelayImpl::EpochOf(const std::string& name) {
  const auto core = CoreOf(name);
  if (const std::optional<State> known = core->known()) return known->epoch;
  std::optional<State> newest;
  if (archive_ != nullptr) {
    EDGE_ASSIGN_OR_RETURN(newest, archive_->Newest(name));
    if (!newest) EDGE_RETURN_IF_ERROR(archive_->CheckDamage(name));
  }
  if (newest && newest->epoch > core->deleted_epoch()) return newest->epoch;
  return NotFound("nothing is known of database \"{}\"", name);
}

StatusOr<State> RelayImpl::Rebuild(DatabaseCore& core) {
  EDGE_ASSIGN_OR_RETURN(const uint32_t epoch, EpochOf(core.name()));
  const std::string path = core.paths().spill + ".rebuild";
  RestoreReport report;
  EDGE_ASSIGN_OR_RETURN(const State state, Build(core.name(), epoch, UINT64_MAX, path, &report));
  const std::optional<State> known = core.known();
  if (known &&
      (state.lsn < known->lsn || (state.lsn == known->lsn && state.chain != known->chain))) {
    if (archive_ != nullptr) EDGE_RETURN_IF_ERROR(archive_->CheckDamage(core.name()));
    return DataLoss("database \"{}\": only commits up to {} of {} are left", core.name(), state.lsn,
                    known->lsn);
  }
  if (archive_ != nullptr) {
    EDGE_ASSIGN_OR_RETURN(const std::optional<State> newest, archive_->Newest(core.name()));
    if (newest && newest->epoch == epoch && state.lsn < newest->lsn) {
      EDGE_RETURN_IF_ERROR(archive_->CheckDamage(core.name()));
      return DataLoss("database \"{}\": commit {} is missing in the store", core.name(),
                      state.lsn + 1);
    }
  }
  EDGE_RETURN_IF_ERROR(
      Image::Install(&files_, core.paths(), core.name(), journal_->id(), state, path));
  return state;
}

// --- Going back ---

// The commit that `target` means, with lsn UINT64_MAX for the newest.
StatusOr<Bookmark> RelayImpl::Resolve(const std::string& name, uint32_t epoch,
                                      const RestoreTarget& target) {
  if (!target.bookmark.empty() && target.wall_ms != 0) {
    return InvalidArgument("a restore target has a bookmark or a time, not both");
  }
  Bookmark wanted{epoch, UINT64_MAX, {}};
  std::string text = target.bookmark;
  if (target.wall_ms != 0) {
    EDGE_ASSIGN_OR_RETURN(text, GetBookmarkForTime(name, target.wall_ms));
  }
  if (!text.empty()) {
    EDGE_ASSIGN_OR_RETURN(wanted, ParseBookmark(text));
  }
  if (wanted.epoch != epoch) {
    return NotFound("bookmark {} is of an earlier database \"{}\", which was deleted", text, name);
  }
  return wanted;
}

StatusOr<State> RelayImpl::BuildTarget(const std::string& name, const RestoreTarget& target,
                                       const std::string& path, RestoreReport* report) {
  EDGE_ASSIGN_OR_RETURN(const uint32_t epoch, EpochOf(name));
  EDGE_ASSIGN_OR_RETURN(const Bookmark wanted, Resolve(name, epoch, target));
  EDGE_RETURN_IF_ERROR(journal_->Drain());
  EDGE_ASSIGN_OR_RETURN(const State state, Build(name, epoch, wanted.lsn, path, report));
  if (wanted.lsn != UINT64_MAX && (state.lsn != wanted.lsn || state.chain != wanted.chain)) {
    EDGE_RETURN_IF_ERROR(archive_->CheckDamage(name));
    return NotFound("database \"{}\" has no commit {} with that bookmark; the newest is {}", name,
                    wanted.lsn, state.lsn);
  }
  return state;
}

// Commits the difference between what `image` holds and `wanted`.
Status RelayImpl::ReplaceBy(Image& image, const State& target, FileImage& wanted,
                            DatabaseCore& core) {
  const State before = image.copy_state();
  Page old_page;
  Page new_page;
  std::vector<uint32_t> changed;
  for (uint32_t pgno = 1; pgno <= target.pages; ++pgno) {
    EDGE_RETURN_IF_ERROR(image.ReadPage(pgno, old_page.bytes));
    EDGE_RETURN_IF_ERROR(wanted.ReadPage(pgno, new_page.bytes));
    if (!std::ranges::equal(View(old_page), View(new_page))) changed.push_back(pgno);
  }
  if (changed.empty() && before.pages == target.pages) return OkStatus();
  if (changed.size() > kTransactionFramesMax) {
    return ResourceExhausted("restoring \"{}\" changes {} pages; {} allowed", core.name(),
                             changed.size(), kTransactionFramesMax);
  }
  RecordBuilder builder;
  builder.Begin(before.lsn + 1, std::max(before.wall_ms, clock_.wall_ms()), target.pages,
                static_cast<uint32_t>(changed.size()));
  for (const uint32_t pgno : changed) {
    EDGE_RETURN_IF_ERROR(image.ReadPage(pgno, old_page.bytes));
    EDGE_RETURN_IF_ERROR(wanted.ReadPage(pgno, new_page.bytes));
    builder.Add(pgno, old_page.bytes, new_page.bytes);
  }
  Hash128 chain = before.chain;
  builder.Finish(target.post, &chain);
  EDGE_ASSIGN_OR_RETURN(const RecordView record, ParseRecord(builder.bytes(), before.chain));
  State state = before;
  EDGE_RETURN_IF_ERROR(ApplyRecord(record, &image, &state));
  image.SetState(state);
  return core.CommitRecord(before, builder.bytes());
}

StatusOr<RestoreReport> RelayImpl::Restore(const std::string& name, const RestoreTarget& target,
                                           std::string* undo_bookmark) {
  EDGE_RETURN_IF_ERROR(CheckName(name));
  EDGE_RETURN_IF_ERROR(NeedStore());
  EDGE_ASSIGN_OR_RETURN(const bool exists, DatabaseExists(name));
  if (!exists) {
    EDGE_RETURN_IF_ERROR(archive_->CheckDamage(name));
    return NotFound("no database \"{}\"", name);
  }
  const auto core = CoreOf(name);
  RestoreReport report;
  EDGE_RETURN_IF_ERROR(core->WithClosed([&](Image& image) -> Status {
    const State before = image.copy_state();
    if (undo_bookmark != nullptr) *undo_bookmark = FormatBookmark(before);
    const std::string path = core->paths().spill + ".restore";
    EDGE_ASSIGN_OR_RETURN(const State state, BuildTarget(name, target, path, &report));
    {
      EDGE_ASSIGN_OR_RETURN(auto file, files_.Open(path, OpenMode::kRead));
      FileImage wanted(std::move(file));
      EDGE_RETURN_IF_ERROR(ReplaceBy(image, state, wanted, *core));
    }
    files_.Remove(path).IgnoreError();  // else the next start does it
    return OkStatus();
  }));
  return report;
}

StatusOr<RestoreReport> RelayImpl::Export(const std::string& name, const RestoreTarget& target,
                                          const std::string& path) {
  EDGE_RETURN_IF_ERROR(CheckName(name));
  EDGE_RETURN_IF_ERROR(NeedStore());
  RestoreReport report;
  const std::string temporary = path + ".tmp";
  const auto built = BuildTarget(name, target, temporary, &report);
  if (!built.ok()) {
    files_.Remove(temporary).IgnoreError();
    return built.status();
  }
  EDGE_RETURN_IF_ERROR(InstallPlain(files_, temporary, path));
  return report;
}

StatusOr<Bookmark> RelayImpl::ResolveStored(const std::string& name, const RestoreTarget& target) {
  EDGE_RETURN_IF_ERROR(CheckName(name));
  EDGE_RETURN_IF_ERROR(NeedStore());
  EDGE_ASSIGN_OR_RETURN(const uint32_t epoch, EpochOf(name));
  EDGE_ASSIGN_OR_RETURN(Bookmark wanted, Resolve(name, epoch, target));
  const std::optional<State> stored = archive_->catalog().Newest(name);
  const bool is_stored = stored && stored->epoch == epoch && stored->lsn >= wanted.lsn;
  if (!is_stored) EDGE_RETURN_IF_ERROR(Flush());
  wanted.epoch = epoch;
  return wanted;
}

StatusOr<std::unique_ptr<ReadOnlyDatabase>> RelayImpl::OpenReadOnly(const std::string& name,
                                                                    const RestoreTarget& target) {
  EDGE_ASSIGN_OR_RETURN(const Bookmark wanted, ResolveStored(name, target));
  return OpenView(&archive_->catalog(), name, wanted.epoch, wanted);
}

Status RelayImpl::Fork(const std::string& name, const RestoreTarget& target,
                       const std::string& fork) {
  EDGE_RETURN_IF_ERROR(CheckName(fork));
  EDGE_ASSIGN_OR_RETURN(const Bookmark wanted, ResolveStored(name, target));
  EDGE_ASSIGN_OR_RETURN(const bool exists, DatabaseExists(fork));
  if (exists) return AlreadyExists("database \"{}\"", fork);
  EDGE_ASSIGN_OR_RETURN(auto image,
                        LazyImage::Open(&archive_->catalog(), name, wanted.epoch, wanted.lsn));
  const State& at = image->state();
  if (wanted.lsn != UINT64_MAX && (at.lsn != wanted.lsn || at.chain != wanted.chain)) {
    EDGE_RETURN_IF_ERROR(archive_->CheckDamage(name));
    return NotFound("database \"{}\" has no commit {} with that bookmark; the newest is {}", name,
                    wanted.lsn, at.lsn);
  }
  EDGE_ASSIGN_OR_RETURN(const uint32_t epoch, NextEpoch(fork));
  return archive_->Fork(fork, std::max(epoch, CoreOf(fork)->deleted_epoch() + 1), name, at);
}

StatusOr<std::string> RelayImpl::RestoreAtNextOpen(const std::string& name,
                                                   const std::string& bookmark) {
  EDGE_RETURN_IF_ERROR(CheckName(name));
  EDGE_RETURN_IF_ERROR(NeedStore());
  EDGE_ASSIGN_OR_RETURN(const bool exists, DatabaseExists(name));
  if (!exists) return NotFound("no database \"{}\"", name);
  const auto core = CoreOf(name);
  std::optional<State> now = core->known();
  if (core->is_open()) {
    now = core->image().copy_state();
  } else if (!now) {
    EDGE_ASSIGN_OR_RETURN(now, archive_->Newest(name));
  }
  if (!now) return NotFound("no database \"{}\"", name);
  const std::string path = PlanPathOf(name);
  if (bookmark.empty()) {
    const Status removed = files_.Remove(path);
    if (!removed.ok() && removed.code() != StatusCode::kNotFound) return removed;
  } else {
    EDGE_ASSIGN_OR_RETURN(const Bookmark wanted, ParseBookmark(bookmark));
    if (wanted.epoch != now->epoch || wanted.lsn > now->lsn) {
      return NotFound("database \"{}\" has no bookmark {}; {} is the newest", name, bookmark,
                      FormatBookmark(*now));
    }
    EDGE_RETURN_IF_ERROR(WriteFileAtomic(files_, path, AsBytes(bookmark)));
  }
  return FormatBookmark(*now);
}

Status RelayImpl::RunPlannedRestore(const std::string& name) {
  const std::string path = PlanPathOf(name);
  const auto plan = ReadFile(files_, path, 1024);
  if (plan.status().code() == StatusCode::kNotFound) return OkStatus();
  EDGE_RETURN_IF_ERROR(plan.status());
  const std::string bookmark(AsText(*plan));
  EDGE_RETURN_IF_ERROR(
      Annotate(Restore(name, {.bookmark = bookmark}, nullptr).status(), "planned in " + path));
  EDGE_RETURN_IF_ERROR(files_.Remove(path));
  return files_.SyncDirectory(Folder("databases"));
}

StatusOr<std::string> RelayImpl::GetBookmarkForTime(const std::string& name, int64_t wall_ms) {
  EDGE_RETURN_IF_ERROR(CheckName(name));
  EDGE_RETURN_IF_ERROR(NeedStore());
  EDGE_ASSIGN_OR_RETURN(const uint32_t epoch, EpochOf(name));
  EDGE_RETURN_IF_ERROR(journal_->Drain());
  EDGE_RETURN_IF_ERROR(archive_->EnsureLoaded());
  EDGE_ASSIGN_OR_RETURN(State found, archive_->catalog().FindTime(name, epoch, wall_ms));
  const auto consider = [&](const RecordView& record) {
    if (record.wall_ms > wall_ms || record.lsn <= found.lsn) return;
    found.lsn = record.lsn;
    found.chain = record.chain;
  };
  EDGE_RETURN_IF_ERROR(journal_
                           ->Read(journal_->begin(), journal_->end(), UINT64_MAX,
                                  [&](const JournalEntry& entry) {
                                    if (entry.kind == EntryKind::kCommit && entry.name == name &&
                                        entry.epoch == epoch) {
                                      consider(entry.record);
                                    }
                                    return OkStatus();
                                  })
                           .status());
  return FormatBookmark(found);
}

Status RelayImpl::Flush() {
  EDGE_RETURN_IF_ERROR(journal_->Drain());
  return archive_ != nullptr ? archive_->Flush() : OkStatus();
}

}  // namespace

StatusOr<std::unique_ptr<Relay>> Relay::Open(RelayOptions options) {
  auto relay = std::make_unique<RelayImpl>(std::move(options));
  EDGE_RETURN_IF_ERROR(relay->StartBlocking());
  return relay;
}

std::unique_ptr<Relay::Opening> Relay::OpenOnLoop(
    RelayOptions options, Callback<void(StatusOr<std::unique_ptr<Relay>>)> done) {
  return std::make_unique<OpeningImpl>(std::move(options), std::move(done));
}

}  // namespace edge::srs
