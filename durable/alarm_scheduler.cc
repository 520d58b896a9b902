#include "durable/alarm_scheduler.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "edge/base/errors.h"

namespace edge::durable::internal {
namespace {

// Namespaces and ids are joined by '/', so no object's database has this name.
constexpr const char* kDatabase = "_alarms";
constexpr size_t kBatch = 64;
constexpr int64_t kSecondNs = 1'000'000'000;
constexpr int64_t kRetryNs = 2 * kSecondNs;
constexpr int kBackoffMax = 9;            // doublings
constexpr int64_t kLookMs = 60 * 60'000;  // the wall clock may jump: look at least this often

}  // namespace

StatusOr<std::shared_ptr<AlarmScheduler>> AlarmScheduler::Open(srs::Relay& relay, Loop& loop,
                                                               Random& random, Wake wake) {
  std::shared_ptr<AlarmScheduler> scheduler(
      new AlarmScheduler(relay, loop, random, std::move(wake)));
  {
    const MutexLock lock(&scheduler->mu_);
    EDGE_RETURN_IF_ERROR(scheduler->Connect());
  }
  scheduler->Kick();
  return scheduler;
}

Status AlarmScheduler::Connect() {
  engine_.reset();
  database_.reset();
  EDGE_ASSIGN_OR_RETURN(database_, relay_.OpenDatabase(kDatabase));
  EDGE_ASSIGN_OR_RETURN(engine_, SqlEngine::Create(database_->handle()));
  EDGE_RETURN_IF_ERROR(
      engine_->RunTrusted("CREATE TABLE IF NOT EXISTS _cf_ALARMS (name TEXT PRIMARY KEY, at_ms "
                          "INTEGER NOT NULL) WITHOUT ROWID"));
  return engine_->RunTrusted(
      "CREATE INDEX IF NOT EXISTS _cf_ALARMS_by_time ON _cf_ALARMS (at_ms, name)");
}

// A database that lost a commit has to be opened again; what is left of it is durable.
Status AlarmScheduler::EnsureConnected() {
  if (database_closed_) return FailedPrecondition("The host is closed.");
  return engine_ == nullptr || !database_->health().ok() ? Connect() : OkStatus();
}

Status AlarmScheduler::Write(std::string_view query, std::span<const Cell> args) {
  EDGE_RETURN_IF_ERROR(EnsureConnected());
  return engine_->RunTrusted(query, args);
}

Status AlarmScheduler::Set(std::string_view name, int64_t at_ms) {
  bool sooner = false;
  {
    const MutexLock lock(&mu_);
    const Cell args[] = {ToCell(name), ToCell(at_ms)};
    EDGE_RETURN_IF_ERROR(Write("INSERT OR REPLACE INTO _cf_ALARMS VALUES (?, ?)", args));
    sooner = at_ms < looks_at_ms_;
  }
  // A new alarm does not wait for the retry of the one before it.
  loop_.PostUrgent([weak = weak_from_this(), name = std::string(name), sooner] {
    const auto self = weak.lock();
    if (self == nullptr || self->closed_) return;
    const auto found = self->running_.find(name);
    const bool waits = found != self->running_.end() && found->second.timer != 0;
    if (waits) {
      self->loop_.CancelTimer(found->second.timer);
      self->running_.erase(found);
    }
    if (sooner || waits) self->Look();
  });
  return OkStatus();
}

Status AlarmScheduler::Clear(std::string_view name) {
  const MutexLock lock(&mu_);
  const Cell args[] = {ToCell(name)};
  return Write("DELETE FROM _cf_ALARMS WHERE name = ?", args);
}

Status AlarmScheduler::Sync(std::string_view name, int64_t at_ms) {
  {
    const MutexLock lock(&mu_);
    const Cell args[] = {ToCell(name)};
    EDGE_RETURN_IF_ERROR(EnsureConnected());
    EDGE_ASSIGN_OR_RETURN(
        Statement * statement,
        engine_->StartTrusted("SELECT at_ms FROM _cf_ALARMS WHERE name = ?", args));
    const bool agrees = statement->has_row() && statement->column(0).integer == at_ms;
    SqlEngine::Release(statement);
    if (agrees) return OkStatus();
  }
  return Set(name, at_ms);
}

StatusOr<std::vector<std::pair<std::string, int64_t>>> AlarmScheduler::First(size_t count) {
  std::vector<std::pair<std::string, int64_t>> entries;
  const MutexLock lock(&mu_);
  looks_at_ms_ = INT64_MAX;
  EDGE_RETURN_IF_ERROR(EnsureConnected());
  const Cell args[] = {ToCell(count)};
  EDGE_ASSIGN_OR_RETURN(
      Statement * statement,
      engine_->StartTrusted("SELECT name, at_ms FROM _cf_ALARMS ORDER BY at_ms, name LIMIT ?",
                            args));
  Status status;
  while (status.ok() && statement->has_row()) {
    entries.emplace_back(statement->column(0).text(), statement->column(1).integer);
    status = statement->Advance();
  }
  SqlEngine::Release(statement);
  if (!status.ok()) return status;
  return entries;
}

void AlarmScheduler::Kick() {
  loop_.PostUrgent([weak = weak_from_this()] {
    if (const auto self = weak.lock()) self->Look();
  });
}

// Tries what is due, and sets the timer for what is due next.
void AlarmScheduler::Look() {
  if (closed_) return;
  if (timer_ != 0) loop_.CancelTimer(std::exchange(timer_, 0));
  const int64_t now_ms = loop_.clock().wall_ms();
  const size_t count = running_.size() + kBatch;
  const auto entries = First(count);
  if (!entries.ok()) return LookAt(now_ms + 1000);
  for (const auto& [name, at_ms] : *entries) {
    if (running_.contains(name)) continue;
    if (at_ms > now_ms) return LookAt(at_ms);
    running_.emplace(name, Running{});
    Try(name);
    if (closed_) return;
  }
  if (entries->size() == count) Kick();
}

void AlarmScheduler::LookAt(int64_t wall_ms) {
  {
    const MutexLock lock(&mu_);
    looks_at_ms_ = wall_ms;
  }
  const int64_t delay_ms = std::clamp<int64_t>(wall_ms - loop_.clock().wall_ms(), 0, kLookMs);
  // At least a millisecond: wall clocks are read in whole ones.
  timer_ = loop_.After(std::max<int64_t>(delay_ms, 1) * 1'000'000, [weak = weak_from_this()] {
    const auto self = weak.lock();
    if (self == nullptr) return;
    self->timer_ = 0;
    self->Look();
  });
}

void AlarmScheduler::Try(const std::string& name) {
  const auto found = running_.find(name);
  found->second.timer = 0;
  wake_(name, found->second.retries);
}

void AlarmScheduler::Report(const std::string& name, Outcome outcome) {
  loop_.PostUrgent([weak = weak_from_this(), name, outcome] {
    const auto self = weak.lock();
    if (self == nullptr || self->closed_) return;
    const auto found = self->running_.find(name);
    if (found == self->running_.end()) return;
    if (outcome == Outcome::kDone) {
      self->running_.erase(found);
      return self->Look();  // the object may have set another one meanwhile
    }
    Running& running = found->second;
    if (outcome == Outcome::kFailed) ++running.retries;
    const int64_t delay_ns = kRetryNs << std::min(running.backoff++, kBackoffMax);
    const auto jitter_ns =
        static_cast<int64_t>(self->random_.Below(static_cast<uint64_t>(delay_ns / 4)));
    running.timer = self->loop_.After(delay_ns + jitter_ns, [weak, name] {
      const auto again = weak.lock();
      if (again != nullptr && !again->closed_) again->Try(name);
    });
  });
}

void AlarmScheduler::Retry(std::string prefix) {
  loop_.PostUrgent([weak = weak_from_this(), prefix = std::move(prefix)] {
    const auto self = weak.lock();
    if (self == nullptr || self->closed_) return;
    std::vector<std::string> waiting;
    for (auto& [name, running] : self->running_) {
      if (running.timer == 0 || !name.starts_with(prefix)) continue;
      self->loop_.CancelTimer(std::exchange(running.timer, 0));
      waiting.push_back(name);
    }
    for (const std::string& name : waiting) self->Try(name);
  });
}

void AlarmScheduler::Close() {
  loop_.PostUrgent([weak = weak_from_this()] {
    const auto self = weak.lock();
    if (self == nullptr) return;
    self->closed_ = true;
    if (self->timer_ != 0) self->loop_.CancelTimer(std::exchange(self->timer_, 0));
    for (auto& [name, running] : self->running_) {
      if (running.timer != 0) self->loop_.CancelTimer(std::exchange(running.timer, 0));
    }
    self->wake_ = nullptr;
  });
}

void AlarmScheduler::CloseDatabase() {
  const MutexLock lock(&mu_);
  database_closed_ = true;
  engine_.reset();
  database_.reset();
}

}  // namespace edge::durable::internal
