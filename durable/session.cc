#include "durable/session.h"

#include <algorithm>
#include <exception>
#include <utility>

#include "durable/actor.h"
#include "durable/alarm_scheduler.h"
#include "durable/namespace_metrics.h"
#include "edge/base/check.h"
#include "edge/base/errors.h"

namespace edge::durable::internal {

class Session::ContextOf : public Context {
 public:
  explicit ContextOf(Session& session) : session_(session) {}
  const ObjectId& id() const override { return session_.actor_.id(); }
  Storage& storage() override { return session_.storage_; }
  Loop& loop() override { return session_.actor_.shard().loop(); }
  [[noreturn]] void Abort(std::string_view reason) override { session_.Abort(reason); }
  rpc::Promise<void> BlockConcurrencyWhile(Callback<Task<void>()> work) override {
    return session_.Block(std::move(work));
  }

 private:
  Session& session_;
};

Session::Session(Actor& actor, std::unique_ptr<srs::Database> database,
                 std::unique_ptr<SqlEngine> engine)
    : actor_(actor),
      database_(std::move(database)),
      engine_(std::move(engine)),
      storage_(*this),
      context_(std::make_unique<ContextOf>(*this)),
      tasks_(std::make_unique<TaskGroup>()) {
  gate_ = std::make_shared<OutputGate>(actor.shard().loop(), *database_, [this](Status status) {
    if (status.ok()) return actor_.OnSessionEvent();
    End(status, Gate::kFails);
  });
  engine_->OnTransaction([this] { EnsureTurnEnds(); });
  if (const NamespaceMetrics* metrics = actor_.name_space().metrics()) {
    engine_->CountRows();
    metrics->starts.Add();
    metrics->running.Add(1);
  }
  if (actor.shard().options().on_slow_query) {
    engine_->WatchSlow(actor.shard().options().slow_query_ms);
  }
}

Session::~Session() {
  Destroy();
}

void Session::Destroy() {
  if (database_ == nullptr) return;
  if (const NamespaceMetrics* metrics = actor_.name_space().metrics()) {
    if (!ended_.ok()) metrics->resets.Add();
    metrics->running.Add(-1);
  }
  if (ended_.ok()) ended_ = Unavailable("This instance of the Durable Object has ended.");
  tasks_.reset();
  // A section's promise may hold code whose context holds this session.
  sections_.clear();
  syncs_.clear();
  object_.reset();
  context_.reset();
  gate_->Close();
  engine_.reset();
  database_.reset();
}

Status Session::Start() {
  Status status;
  Run([&] {
    try {
      object_ = actor_.name_space().info().make(*context_, &target_);
    } catch (...) {
      status = rpc::internal::StatusFromException();
      turn_failed_ = true;
    }
  });
  return status.ok() ? ended_ : status;
}

void Session::FinishOpenTurn() {
  while (turn_open_) FinishTurn();  // what leaves the gate may open another one
}

void Session::Run(Callback<void()> work, std::shared_ptr<Section> section) {
  EDGE_CHECK(!busy() && !turn_open_ && ended_.ok());
  running_ = true;
  current_section_ = std::move(section);
  try {
    const CallContext::Scope scope(current_section_ != nullptr
                                       ? std::shared_ptr<CallContext>(current_section_)
                                       : shared_from_this());
    work();
  } catch (...) {
    // Methods are caught before; this is a callback of a promise, which nobody waits for.
    turn_failed_ = true;
  }
  running_ = false;
  current_section_.reset();
  FinishTurn();
}

void Session::Invoke(std::string_view method, rpc::Array args, rpc::Resolver done) {
  const int64_t started_ns = MetricsNow();
  rpc::Answer answer =
      rpc::InvokeMethod(*actor_.name_space().info().methods, target_, method, std::move(args));
  if (StatusOr<rpc::Value>* outcome = answer.outcome()) {
    return Reply(std::move(done), std::move(*outcome), started_ns);
  }
  Follow(std::move(answer),
         [this, started_ns, done = std::move(done)](StatusOr<rpc::Value> outcome) mutable {
           if (!ended_.ok()) return done.Settle(std::move(outcome));
           Reply(std::move(done), std::move(outcome), started_ns);
         });
}

void Session::Follow(rpc::Answer answer, Outcome done) {
  if (StatusOr<rpc::Value>* outcome = answer.outcome()) return done(std::move(*outcome));
  const Calls::iterator call = calls_.insert(calls_.end(), std::move(done));
  if (Task<StatusOr<rpc::Value>>* task = answer.task()) {
    return tasks_->Spawn(RunTask(std::move(*task), call));
  }
  std::move(answer).Finish([weak = weak_from_this(), call](StatusOr<rpc::Value> outcome) mutable {
    const auto self = weak.lock();
    if (self == nullptr || !self->ended_.ok()) return;  // End() has settled the call
    Outcome settled = std::move(*call);
    self->calls_.erase(call);
    settled(std::move(outcome));
  });
}

Task<void> Session::RunTask(Task<StatusOr<rpc::Value>> task, Calls::iterator call) {
  StatusOr<rpc::Value> outcome = co_await task;
  if (!ended_.ok()) co_return;  // End() has settled the call
  Outcome done = std::move(*call);
  calls_.erase(call);
  done(std::move(outcome));
}

bool Session::HoldsStubs(const rpc::Value& value) {
  if (const rpc::Array* array = value.array()) {
    return std::any_of(array->begin(), array->end(), HoldsStubs);
  }
  if (const rpc::Object* object = value.object()) {
    return std::any_of(object->members().begin(), object->members().end(),
                       [](const rpc::Member& member) { return HoldsStubs(member.value); });
  }
  // Plain data otherwise; a stream or a promise may lead to anything.
  return value.kind() >= rpc::Value::Kind::kStub;
}

void Session::Reply(rpc::Resolver done, StatusOr<rpc::Value> outcome, int64_t started_ns) {
  const bool is_error = !outcome.ok();
  gave_stubs_ |= !is_error && HoldsStubs(*outcome);
  turn_failed_ |= is_error;
  said_.push_back({[this, done = std::move(done), outcome = std::move(outcome), started_ns,
                    decided_ns = MetricsNow()](Status status) mutable {
                     if (const NamespaceMetrics* metrics = actor_.name_space().metrics()) {
                       const int64_t now_ns = MetricsNow();
                       metrics->calls.Add();
                       if (!status.ok() || !outcome.ok()) metrics->failures.Add();
                       metrics->latency_ns.Record(static_cast<uint64_t>(now_ns - started_ns));
                       metrics->gate_wait_ns.Record(static_cast<uint64_t>(now_ns - decided_ns));
                     }
                     if (status.ok()) {
                       done.Settle(std::move(outcome));
                     } else {
                       done.Settle(std::move(status));
                     }
                   },
                   is_error});
  EnsureTurnEnds();
}

// 0 if nobody measures.
int64_t Session::MetricsNow() {
  if (actor_.name_space().metrics() == nullptr) return 0;
  return actor_.shard().loop().clock().monotonic_ns();
}

void Session::TellMetrics() {
  if (const NamespaceMetrics* metrics = actor_.name_space().metrics()) {
    const SqlEngine::RowCounts rows = engine_->TakeRowCounts();
    if (rows.read > 0) metrics->rows_read.Add(rows.read);
    if (rows.written > 0) metrics->rows_written.Add(rows.written);
  }
  const auto& on_slow_query = actor_.shard().options().on_slow_query;
  if (!on_slow_query) return;
  for (const SqlEngine::SlowStatement& slow : engine_->TakeSlow()) {
    on_slow_query({.name_space = actor_.name_space().name(),
                   .object_id = actor_.id().ToString(),
                   .query = slow.text,
                   .duration_ms = slow.duration_ms,
                   .plan = engine_->Plan(slow.text)});
  }
}

void Session::BeforeSend(Callback<void(Status)> send) {
  if (!ended_.ok()) return send(ended_);
  if (said_.empty() && (!engine_->in_transaction() || transactions_ > 0) && !finishing_) {
    return gate_->Wait(gate_lsn_, std::move(send));  // nothing of this turn to wait for
  }
  said_.push_back({std::move(send), false});
  EnsureTurnEnds();
}

void Session::BeforeSendInside(Callback<void(Status)> send) {
  if (!ended_.ok()) return send(ended_);
  said_.push_back({std::move(send), false, true});
  EnsureTurnEnds();
}

// The callees run at once; what they say waits until all that this object has committed, and
// all that it depends on, is durable.
void Session::LeaveInside(std::vector<Said> said) {
  if (said.empty()) return;
  std::shared_ptr<Dependency> dependency;
  if (!gate_->IsOpen(gate_lsn_)) {
    dependency = std::make_shared<Dependency>();
    gate_->Wait(gate_lsn_, [dependency](const Status& status) { dependency->Settle(status); });
  }
  const rpc::CallBaggage::Scope scope(std::move(dependency));
  for (Said& one : said) one.leave(OkStatus());
}

bool Session::idle() const {
  return ended_.ok() && !busy() && !turn_open_ && calls_.empty() && said_.empty() &&
         syncs_.empty() && sections_.empty() && tasks_->size() == 0 && !alarm_running_ &&
         gate_->idle() && !engine_->in_transaction() &&
         database_->durable_lsn() >= database_->lsn();
}

void Session::Resume(Callback<void()> resume) {
  if (ended_.ok()) actor_.Enter(shared_from_this(), std::move(resume));
}

void Session::EnsureTurnEnds() {
  if (running_ || turn_open_ || !ended_.ok()) return;
  turn_open_ = true;
  actor_.shard().loop().Defer([weak = weak_from_this()] {
    const auto self = weak.lock();
    if (self == nullptr || self->database_ == nullptr || !self->turn_open_) return;
    const auto actor = self->actor_.shared_from_this();
    self->FinishTurn();
    actor->Drain();
  });
}

Status Session::EndTransaction(bool undo) {
  if (!undo) {
    if (transactions_ > 0) return engine_->broken();  // it goes on in another turn
    if (Status told = TellAlarmBefore(); told.ok()) {
      const srs::Lsn before = database_->lsn();
      EDGE_RETURN_IF_ERROR(engine_->Commit());
      TellAlarmAfter();
      if (database_->lsn() == before) return OkStatus();
      if (engine_->wrote_confirmed()) {
        gate_lsn_ = database_->lsn();
      } else {
        WatchUnconfirmed();
      }
      return OkStatus();
    } else if (engine_->broken().ok()) {
      engine_->Break(Annotate(told, "the alarm could not be scheduled"));
    }
  }
  alarm_written_ = false;
  engine_->Rollback();
  return engine_->broken();
}

void Session::FinishTurn() {
  turn_open_ = false;
  const bool failed = std::exchange(turn_failed_, false);
  std::vector<Said> said = std::exchange(said_, {});
  finishing_ = true;
  TellMetrics();
  Status status = EndTransaction(failed || !abort_.ok() || !ended_.ok());
  if (!ended_.ok()) {
    status = ended_;
  } else if (engine_->broken().ok()) {
    if (const Status health = database_->health(); !health.ok()) engine_->Break(health);
  }
  if (ended_.ok() && !engine_->broken().ok()) {
    End(engine_->broken(), Gate::kFails);
    status = engine_->broken();
  }
  // What was said in a turn that was undone must not be heard, but for its errors.
  Status undone = status;
  if (!abort_.ok()) {
    undone = abort_;
  } else if (failed && undone.ok()) {
    undone = Aborted("The turn in which this was sent has failed and was undone.");
  }
  for (rpc::Resolver& sync : std::exchange(syncs_, {})) {
    gate_->Watch(database_->lsn(), [sync = std::move(sync), undone](Status durable) mutable {
      sync.Settle(undone.ok() && durable.ok()
                      ? StatusOr<rpc::Value>(rpc::Value())
                      : StatusOr<rpc::Value>(durable.ok() ? undone : durable));
    });
  }
  std::vector<Said> inside;
  for (Said& one : said) {
    if (one.stays_inside && undone.ok()) {
      inside.push_back(std::move(one));
    } else if (undone.ok() || (one.is_error && ended_.ok())) {
      gate_->Wait(gate_lsn_, std::move(one.leave));
    } else {
      gate_->Wait(gate_lsn_, [leave = std::move(one.leave), undone](Status gate) mutable {
        leave(gate.ok() ? undone : gate);
      });
    }
  }
  LeaveInside(std::move(inside));
  finishing_ = false;
  if (!abort_.ok() && ended_.ok()) End(abort_, Gate::kDrains);
}

void Session::End(const Status& reason, Gate gate) {
  if (ended_.ok()) {
    ended_ = reason;
    Calls calls = std::exchange(calls_, {});
    if (gate == Gate::kFails) gate_->Fail(reason);
    for (Outcome& done : calls) done(reason);
  } else if (gate == Gate::kFails) {
    gate_->Fail(reason);
  }
  actor_.OnSessionEvent();
}

void Session::Abort(std::string_view reason) {
  if (abort_.ok()) abort_ = edge::Aborted("{}", reason);
  EnsureTurnEnds();
  Throw(abort_);
}

Status Session::CommitNow() {
  if (engine_->in_savepoint()) {
    return FailedPrecondition("This cannot be done inside a transaction.");
  }
  return EndTransaction(/*undo=*/false);
}

// ---- sections

namespace {

constexpr int kSectionDepthMax = 64;
constexpr int64_t kSectionNs = 30'000'000'000;

}  // namespace

void Section::BeforeSend(Callback<void(Status)> send) {
  if (const auto session = session_.lock()) return session->BeforeSend(std::move(send));
  send(Aborted("The Durable Object that sent this has ended."));
}

void Section::BeforeSendInside(Callback<void(Status)> send) {
  if (const auto session = session_.lock()) return session->BeforeSendInside(std::move(send));
  send(Aborted("The Durable Object that sent this has ended."));
}

void Section::Resume(Callback<void()> resume) {
  const auto session = session_.lock();
  if (session != nullptr && session->ended().ok()) {
    session->actor().Enter(session, std::move(resume), shared_from_this());
  }
}

rpc::Promise<void> Session::Block(Callback<Task<void>()> work) {
  auto section = std::make_shared<Section>(shared_from_this(), current_section_);
  section->work_ = std::move(work);
  return Enter(std::move(section));
}

rpc::Promise<void> Session::Transaction(Callback<Task<void>(OpenTransaction)> work) {
  if (engine_->in_savepoint() && transactions_ == 0) {
    return rpc::Promise<void>(FailedPrecondition("This cannot be done inside a transaction."));
  }
  auto section = std::make_shared<Section>(shared_from_this(), current_section_);
  section->transaction_ = std::make_shared<OpenTransaction::State>(OpenTransaction::State{this});
  section->work_ = [work = std::move(work), state = section->transaction_]() mutable {
    return work(OpenTransaction(state));
  };
  return Enter(std::move(section));
}

rpc::Promise<void> Session::Enter(std::shared_ptr<Section> section) {
  if (section->depth_ > kSectionDepthMax) {
    return rpc::Promise<void>(
        FailedPrecondition("blockConcurrencyWhile() calls are nested too deeply."));
  }
  auto [promise, done] = rpc::MakePromise();
  section->done_ = std::move(done);
  if (running_ && section->parent_ == open_section()) {
    StartSection(section);
  } else {  // another one is open, or the code runs outside of any turn
    actor_.Enter(
        shared_from_this(), [this, section] { StartSection(section); }, section->parent_);
  }
  return rpc::Promise<void>(std::move(promise));
}

void Session::StartSection(const std::shared_ptr<Section>& section) {
  sections_.push_back(section);
  section->timer_ = actor_.shard().loop().After(
      kSectionNs, [weak = weak_from_this(), open = std::weak_ptr<Section>(section)] {
        const auto self = weak.lock();
        const auto late = open.lock();
        if (self == nullptr || late == nullptr || !self->ended_.ok()) return;
        late->timer_ = 0;
        self->fails_queue_ = true;
        self->FinishOpenTurn();
        self->End(
            edge::Aborted("A call to blockConcurrencyWhile() in a Durable Object waited for too "
                          "long. The call was canceled and the Durable Object was reset."),
            Gate::kDrains);
      });
  const auto outer = std::exchange(current_section_, section);
  {
    const CallContext::Scope scope(section);
    tasks_->Spawn(RunSection(section));
  }
  current_section_ = outer;
}

Task<void> Session::RunSection(std::shared_ptr<Section> section) {
  Status status;
  if (section->transaction_ != nullptr) status = BeginTransaction(*section);
  if (status.ok()) {
    try {
      Task<void> task = section->work_();
      co_await task;
    } catch (...) {
      status = rpc::internal::StatusFromException();
    }
  }
  EndSection(section, std::move(status));
}

void Session::EndSection(const std::shared_ptr<Section>& section, Status status) {
  if (!ended_.ok()) return;
  if (section->timer_ != 0) actor_.shard().loop().CancelTimer(std::exchange(section->timer_, 0));
  std::erase(sections_, section);
  if (section->transaction_ != nullptr) {
    status = EndTransactionOf(*section, std::move(status));
  } else if (!status.ok()) {
    if (abort_.ok()) abort_ = status;
    fails_queue_ = true;
  }
  EnsureTurnEnds();
  if (status.ok()) {
    section->done_.Settle(rpc::Value());
  } else {
    section->done_.Settle(std::move(status));
  }
}

// The outermost transaction starts from a committed state, and no turn commits until it ends.
Status Session::BeginTransaction(Section& section) {
  Status status;
  if (transactions_ == 0) status = CommitNow();
  if (status.ok()) status = engine_->BeginSavepoint();
  if (status.ok()) {
    ++transactions_;
  } else {
    section.transaction_->phase = OpenTransaction::State::Phase::kRolledBack;
    section.transaction_->session = nullptr;
  }
  return status;
}

Status Session::EndTransactionOf(Section& section, Status status) {
  if (section.transaction_->session == nullptr) return status;  // it was never begun
  --transactions_;
  if (section.transaction_->phase == OpenTransaction::State::Phase::kOpen) {
    if (status.ok()) status = engine_->CommitSavepoint();
    if (!status.ok()) engine_->RollbackSavepoint();
  }
  section.transaction_->phase = OpenTransaction::State::Phase::kCommitted;
  section.transaction_->session = nullptr;
  return status;
}

// ---- unconfirmed writes

void Session::WatchUnconfirmed() {
  if (watches_unconfirmed_ || database_->durable_lsn() >= database_->lsn()) return;
  watches_unconfirmed_ = true;
  gate_->Watch(database_->lsn(), [this](const Status& status) {
    watches_unconfirmed_ = false;
    if (status.ok()) WatchUnconfirmed();
  });
}

rpc::Promise<void> Session::Sync() {
  auto [promise, done] = rpc::MakePromise();
  syncs_.push_back(std::move(done));
  EnsureTurnEnds();
  return rpc::Promise<void>(std::move(promise));
}

// ---- the alarm

Status Session::SetAlarm(std::optional<int64_t> at_ms) {
  if (actor_.name_space().alarms() == nullptr) {
    if (!at_ms) return OkStatus();
    return FailedPrecondition(
        "Your Durable Object class must have an alarm() handler in order to call setAlarm()");
  }
  if (at_ms && *at_ms <= 0) {
    return InvalidArgument("setAlarm() cannot be called with an alarm time <= 0");
  }
  if (at_ms) at_ms = std::max(*at_ms, actor_.shard().loop().clock().wall_ms());
  EDGE_RETURN_IF_ERROR(engine_->EnsureTransaction());
  if (!alarm_written_) {
    EDGE_ASSIGN_OR_RETURN(const StoredAlarm before, ReadAlarm(*engine_));
    alarm_before_ = before.at_ms;
    alarm_written_ = true;
  }
  return WriteAlarm(*engine_, at_ms);
}

StatusOr<std::optional<int64_t>> Session::GetAlarm() {
  EDGE_RETURN_IF_ERROR(engine_->EnsureTransaction());
  EDGE_ASSIGN_OR_RETURN(const StoredAlarm stored, ReadAlarm(*engine_));
  if (alarm_running_ && alarm_running_->serial == stored.serial) return std::optional<int64_t>();
  return stored.at_ms;
}

// The scheduler's time is never later than the stored one: earlier times are told before the
// commit, later ones after it.
Status Session::TellAlarmBefore() {
  if (!alarm_written_) return OkStatus();
  EDGE_ASSIGN_OR_RETURN(const StoredAlarm stored, ReadAlarm(*engine_));
  alarm_after_ = stored.at_ms;
  if (!alarm_after_ || (alarm_before_ && *alarm_before_ <= *alarm_after_)) return OkStatus();
  return actor_.name_space().alarms()->Set(actor_.database_name(), *alarm_after_);
}

// Should telling fail, the entry is too early, and the look that it causes puts it right.
void Session::TellAlarmAfter() {
  if (!std::exchange(alarm_written_, false)) return;
  AlarmScheduler& alarms = *actor_.name_space().alarms();
  if (!alarm_after_) {
    alarms.Clear(actor_.database_name()).IgnoreError();
  } else if (alarm_before_ && *alarm_before_ < *alarm_after_) {
    alarms.Set(actor_.database_name(), *alarm_after_).IgnoreError();
  }
}

Status Session::SyncAlarm() {
  AlarmScheduler* const alarms = actor_.name_space().alarms();
  if (alarms == nullptr) return OkStatus();
  EDGE_ASSIGN_OR_RETURN(const StoredAlarm stored, ReadAlarm(*engine_));
  return stored.at_ms ? alarms->Sync(actor_.database_name(), *stored.at_ms) : OkStatus();
}

void Session::RunAlarm(const AlarmTry& attempt) {
  const StatusOr<StoredAlarm> stored = ReadAlarm(*engine_);
  if (!stored.ok()) return ReportAlarm(stored.status());
  if (attempt.abandons_serial) return AbandonAlarm(*stored, *attempt.abandons_serial);
  AlarmScheduler& alarms = *actor_.name_space().alarms();
  if (!stored->at_ms || *stored->at_ms > actor_.shard().loop().clock().wall_ms()) {
    const Status told = stored->at_ms ? alarms.Set(actor_.database_name(), *stored->at_ms)
                                      : alarms.Clear(actor_.database_name());
    return alarms.Report(actor_.database_name(), told.ok() ? AlarmScheduler::Outcome::kDone
                                                           : AlarmScheduler::Outcome::kUnavailable);
  }
  alarm_running_ = *stored;
  const AlarmInfo info{.scheduled_ms = *stored->at_ms, .retry_count = attempt.retries};
  rpc::Answer answer{StatusOr<rpc::Value>(rpc::Value())};
  try {
    answer = actor_.name_space().info().alarm(target_, info);
  } catch (...) {
    answer = rpc::Answer(StatusOr<rpc::Value>(rpc::internal::StatusFromException()));
  }
  Follow(std::move(answer), [this, retries = attempt.retries](StatusOr<rpc::Value> outcome) {
    EndAlarm(retries, outcome.status());
  });
}

// The last turn of the handler: it and the end of its alarm are committed together.
void Session::EndAlarm(int retries, const Status& outcome) {
  if (!ended_.ok()) return ReportAlarm(ended_);
  Status status = outcome;
  if (status.ok()) status = ClearAlarmIfUnchanged();
  turn_failed_ |= !status.ok();
  const bool gives_up = !status.ok() && retries >= kAlarmRetriesMax;
  // The turn, abort and all, decides what became of it: see FinishTurn.
  said_.push_back({[this, status, gives_up](const Status& said) {
                     // An error of the handler is told with OK, as an answer would be; any
                     // other error means that the handler's work could not be kept.
                     if (!said.ok() || status.ok()) return ReportAlarm(said);
                     const int64_t serial = alarm_running_->serial;
                     alarm_running_.reset();
                     if (gives_up) return actor_.WakeLater({.abandons_serial = serial});
                     actor_.name_space().alarms()->Report(actor_.database_name(),
                                                          AlarmScheduler::Outcome::kFailed);
                   },
                   !status.ok()});
  EnsureTurnEnds();
}

void Session::AbandonAlarm(const StoredAlarm& stored, int64_t serial) {
  Status cleared;
  if (stored.serial == serial) cleared = SetAlarm(std::nullopt);
  said_.push_back(
      {[this, cleared](const Status& kept) { ReportAlarm(cleared.ok() ? kept : cleared); }, false});
}

void Session::ReportAlarm(const Status& outcome) {
  alarm_running_.reset();
  actor_.name_space().alarms()->Report(
      actor_.database_name(),
      outcome.ok() ? AlarmScheduler::Outcome::kDone : AlarmScheduler::Outcome::kUnavailable);
}

Status Session::ClearAlarmIfUnchanged() {
  EDGE_ASSIGN_OR_RETURN(const StoredAlarm stored, ReadAlarm(*engine_));
  if (stored.serial != alarm_running_->serial) return OkStatus();
  return SetAlarm(std::nullopt);
}

}  // namespace edge::durable::internal
