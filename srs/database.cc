#include "srs/database.h"

#include <sqlite3.h>

#include <algorithm>
#include <utility>

#include "edge/base/check.h"
#include "edge/base/errors.h"

namespace edge::srs {
namespace {

// Frames in the log from which a checkpoint moves it into the overlay: 1 MiB stays in the
// processor's cache while the log is reused.
constexpr uint32_t kCheckpointFrames = 256;

Status SqliteError(sqlite3* connection, std::string_view what) {
  return Internal("{}: {}", what, sqlite3_errmsg(connection));
}

int OnWal(void* core_and_connection, sqlite3* connection, const char* name, int frames) {
  if (std::string_view(name) != "main") {  // attached: one that the VFS opened by name
    if (frames >= static_cast<int>(kCheckpointFrames)) {
      sqlite3_wal_checkpoint_v2(connection, name, SQLITE_CHECKPOINT_PASSIVE, nullptr, nullptr);
    }
    return SQLITE_OK;
  }
  static_cast<DatabaseCore*>(core_and_connection)
      ->MaybeCheckpoint(connection, static_cast<uint32_t>(frames));
  return SQLITE_OK;
}

}  // namespace

DatabaseCore::DatabaseCore(DatabaseHost* host, std::string name, ImagePaths paths)
    : host_(host), name_(std::move(name)), paths_(std::move(paths)) {}

// --- What the journal tells ---

void DatabaseCore::Advance(Durability durability, uint32_t epoch, Lsn lsn) {
  if (epoch != epoch_.load(std::memory_order_acquire)) return;  // it was deleted since
  std::vector<Waiter> ready;
  {
    MutexLock lock(&mu_);
    auto& mark = durable_lsn_[static_cast<size_t>(durability)];
    if (mark.load(std::memory_order_relaxed) >= lsn) return;
    mark.store(lsn, std::memory_order_release);
    if (!waiters_.empty() && waiters_.front().lsn <= lsn) {
      std::deque<Waiter> left;
      for (Waiter& waiter : waiters_) {
        if (waiter.lsn <= lsn && waiter.durability == durability) {
          ready.push_back(std::move(waiter));
        } else {
          left.push_back(std::move(waiter));
        }
      }
      waiters_.swap(left);
    }
    if (!ready.empty()) ++delivering_;
    changed_.SignalAll();
  }
  if (ready.empty()) return;
  for (Waiter& waiter : ready) waiter.done(OkStatus());
  MutexLock lock(&mu_);
  --delivering_;
  changed_.SignalAll();
}

// What is known of a database when it is opened or made: everything there is, is durable here
// and (a host serves only after its followers have confirmed what it found) at the followers.
void DatabaseCore::SetDurableLsn(Lsn lsn) {
  for (const Durability d : {Durability::kLocal, Durability::kQuorum}) {
    durable_lsn_[static_cast<size_t>(d)].store(lsn, std::memory_order_release);
  }
  if (lsn == 0) durable_lsn_[static_cast<size_t>(Durability::kStore)] = 0;
}

void DatabaseCore::OnStored(uint32_t epoch, Lsn lsn) {
  Advance(Durability::kStore, epoch, lsn);
}

bool DatabaseCore::IsCached(uint32_t epoch, Lsn lsn) const {
  if (epoch <= deleted_epoch()) return true;
  return cached_lsn_.load(std::memory_order_acquire) >= lsn;
}

void DatabaseCore::NoteRecovered(const JournalEntry& entry, const JournalPosition& block) {
  MutexLock life(&life_mu_);
  MutexLock lock(&mu_);
  if (entry.kind == EntryKind::kDelete) {
    deleted_epoch_ = entry.epoch;
    known_.reset();
    recovered_.clear();
    SetDurableLsn(0);
    return;
  }
  if (recovered_.empty() || recovered_.back() != block) recovered_.push_back(block);
  State state;
  state.epoch = entry.epoch;
  state.lsn = entry.lsn;
  state.pages = entry.record.pages;
  state.wall_ms = entry.record.wall_ms;
  state.chain = entry.record.chain;
  state.post = entry.record.post;
  known_ = state;
  epoch_ = entry.epoch;
  SetDurableLsn(entry.lsn);
}

std::optional<State> DatabaseCore::known() const {
  MutexLock lock(&mu_);
  return known_;
}

Status DatabaseCore::WaitDurable(Lsn lsn, Durability durability) {
  if (durability == Durability::kNone || durable_lsn(durability) >= lsn) return OkStatus();
  EDGE_RETURN_IF_ERROR(host_->CheckDurability(durability));
  if (!host_->has_threads()) {
    while (durable_lsn(Durability::kLocal) < lsn && host_->journal().WriteStep()) {
    }
  }
  if (durability == Durability::kQuorum && host_->is_replication_loop()) {
    return FailedPrecondition("{}: a wait for followers on the loop that hears them", name_);
  }
  if (durability == Durability::kStore) {
    EDGE_RETURN_IF_ERROR(host_->FlushStore());
    if (durable_lsn(durability) >= lsn) return OkStatus();
  }
  MutexLock lock(&mu_);
  while (durable_lsn(durability) < lsn) {
    // A broken database still waits for what the journal has of it.
    if (!health_.ok() && !host_->journal().status().ok()) return health_;
    if (!host_->has_threads()) return Internal("{}: commit {} was never journalled", name_, lsn);
    changed_.Wait(&mu_);
  }
  return OkStatus();
}

void DatabaseCore::OnDurable(Lsn lsn, Durability durability, Callback<void(Status)> done) {
  Status result;
  if (durability != Durability::kNone) {
    result = host_->CheckDurability(durability);
    MutexLock lock(&mu_);
    if (result.ok() && durable_lsn(durability) < lsn) {
      if (health_.ok()) {
        auto at = waiters_.end();
        while (at != waiters_.begin() && std::prev(at)->lsn > lsn) --at;
        waiters_.insert(at, {lsn, durability, std::move(done)});
        return;
      }
      result = health_;
    }
  }
  done(std::move(result));
}

void DatabaseCore::Break(const Status& status) {
  std::deque<Waiter> lost;
  {
    MutexLock lock(&mu_);
    if (health_.ok()) health_ = status;
    is_broken_ = true;
    // What is in the journal's hands may still become durable, unless that is what broke.
    if (!host_->journal().status().ok()) lost.swap(waiters_);
    if (!lost.empty()) ++delivering_;
    changed_.SignalAll();
  }
  if (lost.empty()) return;
  for (Waiter& waiter : lost) waiter.done(status);
  MutexLock lock(&mu_);
  --delivering_;
  changed_.SignalAll();
}

void DatabaseCore::OnError(const Status& status) {
  Break(Annotate(status, name_));
}

Status DatabaseCore::health() const {
  MutexLock lock(&mu_);
  return health_;
}

StatusOr<std::optional<std::string>> DatabaseCore::OnPragma(std::string_view name) {
  if (name == "srs_bookmark") return std::optional<std::string>(FormatBookmark(image_->state()));
  if (name == "srs_wait") {
    const Lsn newest = image_->state().lsn;
    EDGE_RETURN_IF_ERROR(WaitDurable(newest, default_durability()));
    return std::optional<std::string>(std::to_string(newest));
  }
  return std::optional<std::string>();
}

Status DatabaseCore::writable() const {
  if (!is_broken_.load(std::memory_order_acquire)) return OkStatus();
  return health();
}

Callback<Status(Lsn)> DatabaseCore::DurableWait() {
  return [this](Lsn lsn) { return WaitDurable(lsn, Durability::kLocal); };
}

// --- Commits ---

bool DatabaseCore::OnCommit(uint32_t first, uint32_t last, uint32_t pages) {
  const Hash128 chain_before = image_->state().chain;
  const Status published = image_->Publish(first, last, pages, host_->clock().wall_ms(), &builder_);
  if (!published.ok()) {
    Break(Annotate(published, name_));
    return false;
  }
  const State& now = image_->state();
  has_committed_.store(true, std::memory_order_relaxed);
  host_->journal().Append(shared_from_this(), now.epoch, now.lsn, chain_before, builder_.bytes());
  return true;
}

void DatabaseCore::MaybeCheckpoint(sqlite3* connection, uint32_t frames) {
  if (frames < kCheckpointFrames) {
    next_checkpoint_frames_ = kCheckpointFrames;
    return;
  }
  if (frames < next_checkpoint_frames_) return;
  // Fails while a statement is reading: then the log grows until the next try.
  next_checkpoint_frames_ = frames + kCheckpointFrames;
  is_setting_up_ = true;
  const int result =
      sqlite3_wal_checkpoint_v2(connection, "main", SQLITE_CHECKPOINT_PASSIVE, nullptr, nullptr);
  is_setting_up_ = false;
  if (result == SQLITE_OK) FlushIfLarge();
}

void DatabaseCore::FlushIfLarge() {
  const size_t pages = image_->overlay_pages();
  if (pages > kOverlayPagesMax || (pages > kOverlayPagesMax / 2 && !host_->has_threads())) {
    const Status flushed = FlushOpen();
    if (!flushed.ok()) Break(flushed);
  } else if (pages > kOverlayPagesMax / 2) {
    host_->RequestFlush(shared_from_this());
  }
}

Status DatabaseCore::CommitRecord(const State& before, ByteView record) {
  has_committed_.store(true, std::memory_order_relaxed);
  host_->journal().Append(shared_from_this(), before.epoch, before.lsn + 1, before.chain, record);
  EDGE_RETURN_IF_ERROR(host_->journal().status());
  return WaitDurable(before.lsn + 1, host_->default_durability());
}

// --- Life ---

// Loads the local files and replays what recovery found above them.
Status DatabaseCore::LoadAndReplay() {
  EDGE_ASSIGN_OR_RETURN(auto image,
                        Image::Load(&host_->files(), paths_, name_, host_->journal().id()));
  const std::optional<State> target = known();
  State state = image->state();
  if (state.epoch <= deleted_epoch()) return NotFound("{}: was deleted", name_);
  if (target && target->epoch != state.epoch) {
    return DataLoss("{}: is of epoch {}, the journal is at {}", paths_.cache, state.epoch,
                    target->epoch);
  }
  const auto replay = [&](const JournalEntry& entry) -> Status {
    if (entry.kind != EntryKind::kCommit || entry.name != name_) return OkStatus();
    if (entry.epoch != state.epoch || entry.lsn < state.lsn) return OkStatus();
    if (entry.lsn == state.lsn) {
      if (entry.record.chain == state.chain) return OkStatus();
      return DataLoss("{}: commit {} is not the journal's", paths_.cache, state.lsn);
    }
    if (entry.chain_before != state.chain) {
      return DataLoss("{}: commit {} does not lead to the journal's {}", paths_.cache, state.lsn,
                      entry.lsn);
    }
    EDGE_RETURN_IF_ERROR(ApplyRecord(entry.record, image.get(), &state));
    image->SetState(state);
    if (image->overlay_pages() <= kOverlayPagesMax) return OkStatus();
    return image->Flush([](Lsn) { return OkStatus(); });
  };
  Journal& journal = host_->journal();
  if (recovered_.empty() && target && state.lsn < target->lsn) {
    EDGE_RETURN_IF_ERROR(journal.Read(journal.begin(), journal.end(), UINT64_MAX, replay).status());
  }
  for (const JournalPosition& block : recovered_) {
    EDGE_RETURN_IF_ERROR(journal.ReadBlock(block, replay));
  }
  if (target && state.lsn > target->lsn) {
    // The cache holds only what was durable: the journal has lost its tail. Keep it if it is
    // whole.
    EDGE_RETURN_IF_ERROR(image->Verify());
  }
  if (target && state.lsn < target->lsn) {
    return DataLoss("{}: commit {} is not followed up to {}", paths_.cache, state.lsn, target->lsn);
  }
  if (target && state.lsn == target->lsn && state.chain != target->chain) {
    return DataLoss("{}: commit {} is not the journal's", paths_.cache, state.lsn);
  }
  if (host_->IsBehindStore(name_, state)) {
    return DataLoss("{}: commit {} is older than the store's", paths_.cache, state.lsn);
  }
  image_ = std::move(image);
  return OkStatus();
}

Status DatabaseCore::Materialize() {
  if (image_ != nullptr) return OkStatus();
  Status loaded = LoadAndReplay();
  if (!loaded.ok()) {
    if (loaded.code() != StatusCode::kNotFound && loaded.code() != StatusCode::kDataLoss) {
      return loaded;
    }
    const StatusOr<State> rebuilt = host_->Rebuild(*this);
    if (rebuilt.ok()) {
      EDGE_ASSIGN_OR_RETURN(image_,
                            Image::Load(&host_->files(), paths_, name_, host_->journal().id()));
    } else if (rebuilt.status().code() != StatusCode::kNotFound) {
      return Annotate(rebuilt.status(), Format("local files: {}; rebuilding", {Message(loaded)}));
    } else if (loaded.code() == StatusCode::kDataLoss) {
      return loaded;  // there was a database, and nothing to make it from
    } else {
      EDGE_ASSIGN_OR_RETURN(const uint32_t epoch, host_->NextEpoch(name_));
      EDGE_RETURN_IF_ERROR(Image::RemoveFiles(&host_->files(), paths_));
      image_ = Image::Create(&host_->files(), paths_, name_, host_->journal().id(),
                             std::max(epoch, deleted_epoch() + 1));
    }
  }
  recovered_.clear();
  recovered_.shrink_to_fit();
  const State state = image_->copy_state();
  const bool is_new = epoch_.exchange(state.epoch) != state.epoch;
  cached_lsn_ = image_->cached_lsn();
  MutexLock lock(&mu_);
  known_ = state;
  // Commits of this process are confirmed only when their followers say so.
  if (is_new) has_committed_ = false;
  if (!has_committed_) {
    SetDurableLsn(state.lsn);
  } else {
    durable_lsn_[static_cast<size_t>(Durability::kLocal)] = state.lsn;
  }
  return OkStatus();
}

void DatabaseCore::GoCold() {
  MutexLock lock(&mu_);
  known_ = image_->copy_state();
  image_.reset();
}

Status DatabaseCore::Connect(sqlite3** connection) {
  is_setting_up_ = true;
  host_->vfs().Announce(name_, shared_from_this());
  sqlite3* db = nullptr;
  const int opened = sqlite3_open_v2(
      name_.c_str(), &db,
      SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_PRIVATECACHE,
      host_->vfs().name().c_str());
  Status failure;
  if (opened != SQLITE_OK) {
    failure = SqliteError(db, name_);
  } else {
    sqlite3_extended_result_codes(db, 1);
    sqlite3_db_config(db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, nullptr);
    // EXCLUSIVE before the first access: the index of the log is then plain memory.
    // synchronous=OFF: the journal is what is synced.
    const int set = sqlite3_exec(db,
                                 "PRAGMA locking_mode=EXCLUSIVE; PRAGMA synchronous=OFF;"
                                 "PRAGMA temp_store=MEMORY; SELECT 1 FROM sqlite_schema LIMIT 1",
                                 nullptr, nullptr, nullptr);
    if (set != SQLITE_OK) failure = SqliteError(db, name_);
    sqlite3_wal_hook(db, OnWal, this);  // also switches SQLite's own checkpoints off
  }
  host_->vfs().Withdraw(name_);
  is_setting_up_ = false;
  if (!failure.ok()) {
    sqlite3_close(db);
    return failure;
  }
  *connection = db;
  return OkStatus();
}

Status DatabaseCore::Open(sqlite3** connection) {
  MutexLock life(&life_mu_);
  EDGE_RETURN_IF_ERROR(Prepare());
  const Status connected = Connect(connection);
  if (!connected.ok()) {
    GoCold();
    return connected;
  }
  is_open_ = true;
  return OkStatus();
}

Status DatabaseCore::OpenForVfs() {
  MutexLock life(&life_mu_);
  EDGE_RETURN_IF_ERROR(Prepare());
  is_open_ = true;
  return OkStatus();
}

Status DatabaseCore::Prepare() {
  EDGE_RETURN_IF_ERROR(host_->journal().status());
  if (is_open()) return FailedPrecondition("database \"{}\" is open already", name_);
  {
    MutexLock lock(&mu_);
    health_ = OkStatus();
    is_broken_ = false;
  }
  return Annotate(Materialize(), Format("database \"{}\"", {name_}));
}

void DatabaseCore::Close(sqlite3* connection) {
  while (sqlite3_stmt* statement = sqlite3_next_stmt(connection, nullptr)) {
    sqlite3_finalize(statement);
  }
  const int closed = sqlite3_close(connection);
  EDGE_CHECK(closed == SQLITE_OK);  // a blob handle or a backup of it is still open
  Settle();
}

void DatabaseCore::Settle() {
  const Lsn newest = image_->state().lsn;
  const Status durable = WaitDurable(newest, Durability::kLocal);
  {
    MutexLock lock(&mu_);
    while (delivering_ > 0) changed_.Wait(&mu_);
  }
  if (durable.ok()) Flush().IgnoreError();  // the journal keeps what could not be flushed
  MutexLock life(&life_mu_);
  GoCold();
  is_open_ = false;
}

Status DatabaseCore::WithClosed(Callback<Status(Image&)> work) {
  MutexLock life(&life_mu_);
  if (is_open()) return FailedPrecondition("database \"{}\" is open", name_);
  EDGE_RETURN_IF_ERROR(Annotate(Materialize(), Format("database \"{}\"", {name_})));
  const Status worked = work(*image_);
  if (worked.ok()) {
    FlushOpen().IgnoreError();  // the journal keeps what could not be flushed
    GoCold();
  } else {
    image_.reset();  // it may be half changed; the files and known() are not
  }
  return worked;
}

Status DatabaseCore::Delete() {
  MutexLock life(&life_mu_);
  if (is_open()) return FailedPrecondition("database \"{}\" is open", name_);
  EDGE_RETURN_IF_ERROR(Materialize());
  const State state = image_->copy_state();
  image_.reset();
  // One past the newest commit stands for the deletion while we wait for it.
  host_->journal().AppendDelete(shared_from_this(), state.epoch, state.lsn + 1);
  EDGE_RETURN_IF_ERROR(host_->journal().status());
  EDGE_RETURN_IF_ERROR(WaitDurable(state.lsn + 1, host_->default_durability()));
  deleted_epoch_ = state.epoch;
  {
    MutexLock lock(&mu_);
    known_.reset();
    SetDurableLsn(0);
  }
  cached_lsn_ = 0;
  return Image::RemoveFiles(&host_->files(), paths_);
}

Status DatabaseCore::FlushOpen() {
  const Status flushed = image_->Flush(DurableWait());
  if (flushed.ok()) cached_lsn_.store(image_->cached_lsn(), std::memory_order_release);
  return flushed;
}

Status DatabaseCore::Flush() {
  MutexLock life(&life_mu_);
  if (image_ != nullptr) return FlushOpen();
  if (!known()) return OkStatus();
  EDGE_RETURN_IF_ERROR(Materialize());
  const Status flushed = FlushOpen();
  GoCold();
  return flushed;
}

Status DatabaseCore::VisitFlushed(Callback<Status(const State&)> begin,
                                  Callback<Status(uint32_t pgno, const std::byte* page)> visit) {
  MutexLock life(&life_mu_);
  const bool was_cold = image_ == nullptr;
  EDGE_RETURN_IF_ERROR(Materialize());
  Status visited = FlushOpen();
  if (visited.ok() && host_->CheckDurability(Durability::kQuorum).ok()) {
    // What leaves this host must never be taken back.
    const Lsn cached = image_->cached_lsn();
    if (host_->has_threads()) {
      visited = WaitDurable(cached, Durability::kQuorum);
    } else if (durable_lsn(Durability::kQuorum) < cached) {
      visited = Unavailable("{}: commit {} is not confirmed yet", name_, cached);
    }
  }
  if (visited.ok()) visited = image_->VisitCache(std::move(begin), std::move(visit));
  if (was_cold) GoCold();
  return visited;
}

// --- The user's handle ---

namespace {

class DatabaseHandle final : public Database {
 public:
  DatabaseHandle(std::shared_ptr<DatabaseCore> core, sqlite3* connection, Durability durability)
      : core_(std::move(core)), connection_(connection), durability_(durability) {}
  ~DatabaseHandle() override { core_->Close(connection_); }

  const std::string& name() const override { return core_->name(); }
  sqlite3* handle() override { return connection_; }
  Lsn lsn() const override { return core_->image().state().lsn; }
  Durability durability() const override { return durability_; }
  Status SetDurability(Durability durability) override {
    EDGE_RETURN_IF_ERROR(core_->CheckDurability(durability));
    durability_ = durability;
    return OkStatus();
  }
  Lsn durable_lsn(Durability durability) const override {
    return durability == Durability::kNone ? lsn() : core_->durable_lsn(durability);
  }
  Status WaitDurable(Lsn lsn, Durability durability) override {
    if (lsn > this->lsn()) return NoSuchCommit(lsn);
    return core_->WaitDurable(lsn, durability);
  }
  void OnDurable(Lsn lsn, Durability durability, Callback<void(Status)> done) override {
    if (lsn > this->lsn()) return done(NoSuchCommit(lsn));
    core_->OnDurable(lsn, durability, std::move(done));
  }
  Status health() const override { return core_->health(); }
  std::string GetCurrentBookmark() override { return FormatBookmark(core_->image().state()); }

 private:
  Status NoSuchCommit(Lsn lsn) const {
    return InvalidArgument("{}: commit {} does not exist, {} is the newest", name(), lsn,
                           this->lsn());
  }
  const std::shared_ptr<DatabaseCore> core_;
  sqlite3* const connection_;
  Durability durability_;
};

}  // namespace

std::unique_ptr<Database> MakeDatabase(std::shared_ptr<DatabaseCore> core, sqlite3* connection) {
  const Durability durability = core->default_durability();
  return std::make_unique<DatabaseHandle>(std::move(core), connection, durability);
}

}  // namespace edge::srs
