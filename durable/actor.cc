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

void Actor::Call(std::string_view method, rpc::Array args, rpc::Resolver done) {
  if (!shard_.closed().ok()) return done.Settle(shard_.closed());
  const auto self = shared_from_this();
  if (session_ != nullptr && !session_->busy()) session_->FinishOpenTurn();
  if (queue_.empty() && admits(nullptr)) {
    CallNow(method, std::move(args), std::move(done));
    return Drain();
  }
  if (queue_.size() >= shard_.options().queued_calls_max) {
    return done.Settle(
        ResourceExhausted("Durable Object is overloaded. {} calls wait for it.", queue_.size()));
  }
  queue_.push_back({std::string(method), std::move(args), std::move(done), nullptr, {}, {}, {}});
  Drain();
}

void Actor::Wake(const AlarmTry& attempt) {
  const auto self = shared_from_this();
  if (session_ != nullptr && !session_->busy()) session_->FinishOpenTurn();
  queue_.push_back({"", {}, {}, nullptr, {}, {}, attempt});
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
    queue_.push_front({"", {}, {}, nullptr, {}, {}, attempt});
    return;
  }
  const auto session = session_;
  session->Run([&] { session->RunAlarm(attempt); });
}

void Actor::CallNow(std::string_view method, rpc::Array args, rpc::Resolver done) {
  if (Status status = EnsureSession(); !status.ok()) return done.Settle(std::move(status));
  if (!admits(nullptr)) {  // the constructor has opened a section
    queue_.push_front({std::string(method), std::move(args), std::move(done), nullptr, {}, {}, {}});
    return;
  }
  const auto session = session_;
  session->Run([&] { session->Invoke(method, std::move(args), std::move(done)); });
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
  queue_.push_back({"", {}, {}, std::move(turn), session, std::move(section), {}});
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
      CallNow(next.method, std::move(next.args), std::move(next.done));
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
  if (shard_.running() >= shard_.options().objects_max) {
    return ResourceExhausted("{} Durable Objects are running on this loop already.",
                             shard_.running());
  }
  EDGE_ASSIGN_OR_RETURN(auto database, OpenDatabase());
  EDGE_ASSIGN_OR_RETURN(auto engine, SqlEngine::Create(database->handle()));
  session_ = std::make_shared<Session>(*this, std::move(database), std::move(engine));
  shard_.CountRunning(1);
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
    self->shard_.CountRunning(-1);
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
  if (const auto session = std::exchange(session_, nullptr)) session->Destroy();
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
  closed_ = Unavailable("The host of this Durable Object is shutting down.");
  on_closed_ = std::move(done);
  std::vector<std::shared_ptr<Actor>> actors;
  for (const auto& [name, actor] : actors_) actors.push_back(actor);
  for (const auto& actor : actors) actor->Close(closed_);
  if (actors_.empty() && on_closed_) std::exchange(on_closed_, nullptr)();
}

}  // namespace edge::durable::internal
