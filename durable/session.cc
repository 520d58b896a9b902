#include "durable/session.h"

#include <exception>
#include <utility>

#include "durable/actor.h"
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
    End(Annotate(status, "Durable Object was reset: its writes could not be made durable"),
        Gate::kFails);
  });
  engine_->OnTransaction([this] { EnsureTurnEnds(); });
}

Session::~Session() {
  Destroy();
}

void Session::Destroy() {
  if (database_ == nullptr) return;
  tasks_.reset();
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

void Session::Run(Callback<void()> work) {
  EDGE_CHECK(!busy() && !turn_open_ && ended_.ok());
  running_ = true;
  try {
    const CallContext::Scope scope(shared_from_this());
    work();
  } catch (...) {
    // Methods are caught before; this is a callback of a promise, which nobody waits for.
    turn_failed_ = true;
  }
  running_ = false;
  FinishTurn();
}

void Session::Invoke(std::string_view method, rpc::Array args, rpc::Resolver done) {
  rpc::Answer answer =
      rpc::InvokeMethod(*actor_.name_space().info().methods, target_, method, std::move(args));
  if (StatusOr<rpc::Value>* outcome = answer.outcome()) {
    return Reply(std::move(done), std::move(*outcome));
  }
  const Calls::iterator call = calls_.insert(calls_.end(), std::move(done));
  if (Task<StatusOr<rpc::Value>>* task = answer.task()) {
    return tasks_->Spawn(RunTask(std::move(*task), call));
  }
  std::move(answer).Finish([weak = weak_from_this(), call](StatusOr<rpc::Value> outcome) mutable {
    const auto self = weak.lock();
    if (self == nullptr || !self->ended_.ok()) return;  // End() has settled the call
    rpc::Resolver settled = std::move(*call);
    self->calls_.erase(call);
    self->Reply(std::move(settled), std::move(outcome));
  });
}

Task<void> Session::RunTask(Task<StatusOr<rpc::Value>> task, Calls::iterator call) {
  StatusOr<rpc::Value> outcome = co_await task;
  if (!ended_.ok()) co_return;  // End() has settled the call
  rpc::Resolver done = std::move(*call);
  calls_.erase(call);
  Reply(std::move(done), std::move(outcome));
}

void Session::Reply(rpc::Resolver done, StatusOr<rpc::Value> outcome) {
  const bool is_error = !outcome.ok();
  turn_failed_ |= is_error;
  said_.push_back({[done = std::move(done), outcome = std::move(outcome)](Status status) mutable {
                     if (status.ok()) {
                       done.Settle(std::move(outcome));
                     } else {
                       done.Settle(std::move(status));
                     }
                   },
                   is_error});
  EnsureTurnEnds();
}

void Session::BeforeSend(Callback<void(Status)> send) {
  if (!ended_.ok()) return send(ended_);
  if (said_.empty() && !engine_->in_transaction() && !finishing_) {
    return gate_->Wait(database_->lsn(), std::move(send));  // nothing of this turn to wait for
  }
  said_.push_back({std::move(send), false});
  EnsureTurnEnds();
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
  if (!undo) return engine_->Commit();
  engine_->Rollback();
  return engine_->broken();
}

void Session::FinishTurn() {
  turn_open_ = false;
  const bool failed = std::exchange(turn_failed_, false);
  std::vector<Said> said = std::exchange(said_, {});
  finishing_ = true;
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
  const srs::Lsn lsn = database_->lsn();
  for (Said& one : said) {
    if (undone.ok() || (one.is_error && ended_.ok())) {
      gate_->Wait(lsn, std::move(one.leave));
    } else {
      gate_->Wait(lsn, [leave = std::move(one.leave), undone](Status gate) mutable {
        leave(gate.ok() ? undone : gate);
      });
    }
  }
  finishing_ = false;
  if (!abort_.ok() && ended_.ok()) End(abort_, Gate::kDrains);
}

void Session::End(const Status& reason, Gate gate) {
  if (ended_.ok()) {
    ended_ = reason;
    Calls calls = std::exchange(calls_, {});
    if (gate == Gate::kFails) gate_->Fail(reason);
    for (rpc::Resolver& done : calls) done.Settle(reason);
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
    return FailedPrecondition("This cannot be done inside TransactionSync().");
  }
  return engine_->Commit();
}

}  // namespace edge::durable::internal
