#include "durable/actor.h"

#include <algorithm>
#include <utility>

#include "durable/metadata.h"
#include "edge/base/check.h"
#include "edge/base/errors.h"

namespace edge::durable::internal {

Actor::Actor(Shard& shard, std::shared_ptr<NamespaceCore> name_space, ObjectId id)
    : shard_(shard),
      namespace_(std::move(name_space)),
      id_(std::move(id)),
      database_name_(namespace_->name() + "/" + id_.ToString()) {}

void Actor::Call(std::string_view method, rpc::Array args, rpc::Resolver done,
                 std::shared_ptr<Dependency> dependency) {
  if (!shard_.closed().ok()) return done.Settle(shard_.closed());
  const auto self = shared_from_this();
  if (session_ != nullptr && !session_->busy()) session_->FinishOpenTurn();
  Queued call{.method = std::string(method),
              .args = std::move(args),
              .done = std::move(done),
              .dependency = std::move(dependency)};
  if (queue_.empty() && admits(nullptr)) {
    CallNow(std::move(call));
    return Drain();
  }
  if (queue_.size() >= shard_.options().queued_calls_max) {
    return call.done.Settle(
        ResourceExhausted("Durable Object is overloaded. {} calls wait for it.", queue_.size()));
  }
  queue_.push_back(std::move(call));
  Drain();
}

void Actor::Wake(const AlarmTry& attempt) {
  const auto self = shared_from_this();
  if (session_ != nullptr && !session_->busy()) session_->FinishOpenTurn();
  queue_.push_back({.alarm = attempt});
  Drain();
}

void Actor::WakeLater(const AlarmTry& attempt) {
  shard_.loop().Defer([self = shared_from_this(), attempt] {
    if (self->shard_.closed().ok()) self->Wake(attempt);
  });
}

void Actor::WakeNow(const AlarmTry& attempt) {
  if (!EnsureSession().ok()) {
    return namespace_->alarms()->Report(database_name_, AlarmScheduler::Outcome::kUnavailable);
  }
  if (!admits(nullptr)) {
    queue_.push_front({.alarm = attempt});
    return;
  }
  shard_.Touch(*this);
  const auto session = session_;
  session->Run([&] { session->RunAlarm(attempt); });
}

void Actor::CallNow(Queued call) {
  if (Status status = EnsureSession(); !status.ok()) return call.done.Settle(std::move(status));
  if (!admits(nullptr)) {  // the constructor has opened a section
    queue_.push_front(std::move(call));
    return;
  }
  shard_.Touch(*this);
  const auto session = session_;
  if (call.dependency != nullptr) session->DependOn(*call.dependency);
  session->NoteStubs(call.args);
  session->Run([&] { session->Invoke(call.method, std::move(call.args), std::move(call.done)); });
}

void Actor::Enter(const std::shared_ptr<Session>& session, Callback<void()> turn,
                  std::shared_ptr<Section> section) {
  if (session != session_) return;
  const auto self = shared_from_this();
  if (!session->busy()) session->FinishOpenTurn();
  if (queue_.empty() && admits(section)) {
    session->Run(std::move(turn), std::move(section));
    return Drain();
  }
  queue_.push_back({.turn = std::move(turn), .session = session, .section = std::move(section)});
  Drain();
}

void Actor::Drain() {
  if (draining_) return;
  draining_ = true;
  while (!queue_.empty()) {
    if (session_ != nullptr && !session_->busy()) session_->FinishOpenTurn();
    // The first that may come in: while a section is open, what belongs to it.
    const auto found = std::find_if(queue_.begin(), queue_.end(),
                                    [this](const Queued& next) { return admits(next.section); });
    if (found == queue_.end()) break;
    Queued next = std::move(*found);
    queue_.erase(found);
    if (next.alarm) {
      WakeNow(*next.alarm);
    } else if (!next.turn) {
      CallNow(std::move(next));
    } else if (const auto session = next.session.lock();
               session != nullptr && session == session_) {
      session->Run(std::move(next.turn), std::move(next.section));
    }
  }
  draining_ = false;
  if (idle()) shard_.Forget(*this);
}

Status Actor::EnsureSession() {
  if (session_ != nullptr) return OkStatus();
  if (shard_.running() >= shard_.options().objects_max && !shard_.EvictOne()) {
    return ResourceExhausted("{} Durable Objects are running on this loop already.",
                             shard_.running());
  }
  EDGE_ASSIGN_OR_RETURN(auto database, OpenDatabase());
  EDGE_ASSIGN_OR_RETURN(auto engine, SqlEngine::Create(database->handle()));
  session_ = std::make_shared<Session>(*this, std::move(database), std::move(engine));
  shard_.AddRunning(*this);
  Status status = session_->Start();
  if (status.ok()) status = session_->SyncAlarm();
  if (status.ok()) return status;
  session_->End(status, Session::Gate::kDrains);  // destroyed when its gate is empty
  return status;
}

// An object that was to go back in time does so now, before its database is used.
StatusOr<std::unique_ptr<srs::Database>> Actor::OpenDatabase() {
  EDGE_ASSIGN_OR_RETURN(auto database, shard_.relay().OpenDatabase(database_name_));
  EDGE_ASSIGN_OR_RETURN(const std::string bookmark, TakeRestoreBookmark(*database));
  if (bookmark.empty()) return database;
  database.reset();
  const auto report = shard_.relay().Restore(database_name_, {.bookmark = bookmark, .wall_ms = 0});
  if (!report.ok()) {
    return Annotate(report.status(),
                    Format("Durable Object could not go back to bookmark {}", {bookmark}));
  }
  return shard_.relay().OpenDatabase(database_name_);
}

void Actor::OnSessionEvent() {
  if (session_ == nullptr || session_->ended().ok() || !session_->drained() || destroy_posted_) {
    return;
  }
  destroy_posted_ = true;
  // Not here: code of the session may be on the stack.
  shard_.loop().Defer([self = shared_from_this()] {
    self->destroy_posted_ = false;
    const auto session = std::exchange(self->session_, nullptr);
    session->Destroy();
    self->shard_.RemoveRunning(*self);
    if (session->fails_queue()) self->FailCalls(session->ended());
    self->Drain();
  });
}

void Actor::Close(const Status& reason) {
  const auto self = shared_from_this();
  std::deque<Queued> queue = std::exchange(queue_, {});
  for (Queued& next : queue) {
    if (next.done) next.done.Settle(reason);
  }
  if (session_ != nullptr) {
    session_->FinishOpenTurn();
    if (session_ != nullptr) session_->End(reason, Session::Gate::kDrains);
  } else if (idle()) {
    shard_.Forget(*this);
  }
}

void Actor::Discard() {
  queue_.clear();
  if (const auto session = std::exchange(session_, nullptr)) {
    session->Destroy();
    shard_.RemoveRunning(*this);
  }
}

bool Actor::Evict() {
  if (!queue_.empty() || session_ == nullptr || !session_->idle()) return false;
  if (session_.use_count() > 1) return false;  // a callback of its own calls is yet to come
  // Who has stubs of ours, or has given us some, may count on this very instance.
  if (session_->gave_stubs() || (session_->took_stubs() && clients_ > 0)) return false;
  const auto self = shared_from_this();
  std::exchange(session_, nullptr)->Destroy();
  shard_.RemoveRunning(*this);
  shard_.Forget(*this);
  return true;
}

void Shard::AddRunning(Actor& actor) {
  running_.fetch_add(1, std::memory_order_relaxed);
  actor.last_used_tick_ = tick_;
  actor.running_at_ = running_actors_.insert(running_actors_.end(), &actor);
  if (sweep_timer_ == 0 && options_.idle_ms_max > 0) {
    sweep_timer_ = loop_.After(options_.idle_ms_max * 500'000, [this] { Sweep(); });
  }
}

void Shard::RemoveRunning(Actor& actor) {
  running_.fetch_sub(1, std::memory_order_relaxed);
  running_actors_.erase(actor.running_at_);
}

void Shard::Touch(Actor& actor) {
  actor.last_used_tick_ = tick_;
  running_actors_.splice(running_actors_.end(), running_actors_, actor.running_at_);
}

bool Shard::EvictOne() {
  int looks = 16;
  for (auto at = running_actors_.begin(); at != running_actors_.end() && looks > 0; --looks) {
    Actor& actor = **at++;
    if (actor.Evict()) return true;
  }
  return false;
}

// Twice in idle_ms_max: who was not used during the last two intervals goes.
void Shard::Sweep() {
  sweep_timer_ = 0;
  if (!closed_.ok()) return;
  ++tick_;
  for (auto at = running_actors_.begin(); at != running_actors_.end();) {
    Actor& actor = **at++;
    if (actor.last_used_tick_ + 3 > tick_) break;
    actor.Evict();
  }
  if (!running_actors_.empty()) {
    sweep_timer_ = loop_.After(options_.idle_ms_max * 500'000, [this] { Sweep(); });
  }
}

void Shard::Discard() {
  const auto actors = std::exchange(actors_, {});
  for (const auto& [name, actor] : actors) actor->Discard();
}

void Actor::FailCalls(const Status& reason) {
  for (Queued& next : std::exchange(queue_, {})) {
    if (next.done) next.done.Settle(reason);
    if (next.alarm) {
      namespace_->alarms()->Report(database_name_, AlarmScheduler::Outcome::kUnavailable);
    }
  }
}

std::shared_ptr<Actor> Shard::Find(const std::shared_ptr<NamespaceCore>& name_space,
                                   const ObjectId& id) {
  auto actor = std::make_shared<Actor>(*this, name_space, id);
  return actors_.try_emplace(actor->database_name(), actor).first->second;
}

void Shard::Forget(const Actor& actor) {
  actors_.erase(actor.database_name());
  if (!closed_.ok() && actors_.empty() && on_closed_) std::exchange(on_closed_, nullptr)();
}

void Shard::Close(Callback<void()> done) {
  if (sweep_timer_ != 0) loop_.CancelTimer(std::exchange(sweep_timer_, 0));
  closed_ = Unavailable("The host of this Durable Object is shutting down.");
  on_closed_ = std::move(done);
  std::vector<std::shared_ptr<Actor>> actors;
  for (const auto& [name, actor] : actors_) actors.push_back(actor);
  for (const auto& actor : actors) actor->Close(closed_);
  if (actors_.empty() && on_closed_) std::exchange(on_closed_, nullptr)();
}

}  // namespace edge::durable::internal
