// durable/actor.h - the presence of one id on its loop: starts sessions, queues calls.
#pragma once
#include <atomic>
#include <cstddef>
#include <deque>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "durable/alarm_scheduler.h"
#include "durable/session.h"
#include "edge/base/mutex.h"

namespace edge::durable::internal {

class Shard;

// Single-threaded: the loop's. Owners: the shard while there is anything to do, and hooks.
class Actor : public std::enable_shared_from_this<Actor> {
 public:
  Actor(Shard& shard, std::shared_ptr<NamespaceCore> name_space, ObjectId id);

  // `dependency`: what the caller's writes wait for; null: nothing.
  void Call(std::string_view method, rpc::Array args, rpc::Resolver done,
            std::shared_ptr<Dependency> dependency = nullptr);
  // Hooks that have called us and are still held.
  void AddClient() { ++clients_; }
  void RemoveClient() { --clients_; }
  // Ends the session if nobody would notice. From a clean stack. False if it goes on.
  bool Evict();
  // Runs the alarm's handler when the object is free; the scheduler is told what came of it.
  void Wake(const AlarmTry& attempt);
  void WakeLater(const AlarmTry& attempt);  // from a clean stack
  // Runs `turn` now, or when the object is free. Dropped if the object ends first.
  // `section`: of the session, whose code it is.
  void Enter(const std::shared_ptr<Session>& session, Callback<void()> turn,
             std::shared_ptr<Section> section = nullptr);
  // The session has ended or its gate has moved: see whether it can be destroyed.
  void OnSessionEvent();
  // Runs what waits, as far as the object is free.
  void Drain();
  void Close(const Status& reason);
  // The loop has stopped before Close() was through.
  void Discard();

  Shard& shard() { return shard_; }
  const ObjectId& id() const { return id_; }
  const std::string& database_name() const { return database_name_; }
  NamespaceCore& name_space() { return *namespace_; }
  bool idle() const { return session_ == nullptr && queue_.empty(); }

 private:
  struct Queued {
    std::string method = {};
    rpc::Array args = {};
    rpc::Resolver done = {};     // of a call
    Callback<void()> turn = {};  // or: code that goes on
    std::weak_ptr<Session> session = {};
    std::shared_ptr<Section> section = {};
    std::optional<AlarmTry> alarm = {};  // or: the alarm
    std::shared_ptr<Dependency> dependency = {};
  };
  friend class Shard;
  bool free() const { return session_ == nullptr || (!session_->busy() && session_->ended().ok()); }
  bool admits(const std::shared_ptr<Section>& section) const {
    return free() && (session_ == nullptr || session_->open_section() == section);
  }
  void CallNow(Queued call);
  void FailCalls(const Status& reason);
  void WakeNow(const AlarmTry& attempt);
  Status EnsureSession();
  StatusOr<std::unique_ptr<srs::Database>> OpenDatabase();

  Shard& shard_;
  const std::shared_ptr<NamespaceCore> namespace_;
  const ObjectId id_;
  const std::string database_name_;
  std::shared_ptr<Session> session_;
  std::deque<Queued> queue_;
  size_t clients_ = 0;
  uint64_t last_used_tick_ = 0;
  std::list<Actor*>::iterator running_at_;  // in the shard's list, while there is a session
  bool draining_ = false;
  bool destroy_posted_ = false;
};

// The objects of one loop. Single-threaded but for running().
class Shard {
 public:
  Shard(Loop& loop, srs::Relay& relay, const HostOptions& options)
      : loop_(loop), relay_(relay), options_(options) {}

  // Makes it if there is none.
  std::shared_ptr<Actor> Find(const std::shared_ptr<NamespaceCore>& name_space, const ObjectId& id);
  void Forget(const Actor& actor);
  // Of actors with a session.
  void AddRunning(Actor& actor);
  void RemoveRunning(Actor& actor);
  void Touch(Actor& actor);
  // Ends one object that is idle. False if there is none among those not used for longest.
  bool EvictOne();
  // Ends all actors; `done` runs when the last database is closed.
  void Close(Callback<void()> done);
  // Whatever is left once the loop has stopped.
  void Discard();

  Loop& loop() { return loop_; }
  srs::Relay& relay() { return relay_; }
  const HostOptions& options() const { return options_; }
  const Status& closed() const { return closed_; }
  size_t running() const { return running_.load(std::memory_order_relaxed); }

 private:
  Loop& loop_;
  srs::Relay& relay_;
  const HostOptions& options_;
  std::unordered_map<std::string, std::shared_ptr<Actor>> actors_;  // by database name
  void Sweep();

  std::atomic<size_t> running_{0};
  std::list<Actor*> running_actors_;  // the one not used for longest in front
  uint64_t tick_ = 0;                 // grows with every sweep
  Loop::TimerId sweep_timer_ = 0;
  Status closed_;
  Callback<void()> on_closed_;
};

class HostCore {
 public:
  HostCore(Executor& executor, srs::Relay& relay, HostOptions options);
  Shard& ShardOf(const ObjectId& id);
  Status Add(const std::shared_ptr<NamespaceCore>& name_space);
  std::shared_ptr<NamespaceCore> Find(std::string_view name) const;
  const HostOptions& options() const { return options_; }
  // The scheduler of alarms, made on first use.
  StatusOr<std::shared_ptr<AlarmScheduler>> Alarms();
  void Close();
  bool closed() const { return closed_.load(std::memory_order_acquire); }
  size_t running() const;

 private:
  void WakeObject(const std::string& database_name, int retries);

  const HostOptions options_;
  srs::Relay& relay_;
  std::vector<std::unique_ptr<Shard>> shards_;
  std::atomic<bool> closed_{false};
  mutable Mutex mu_;
  // Each also owns us, through NamespaceCore; Close() takes them apart.
  std::map<std::string, std::shared_ptr<NamespaceCore>, std::less<>> namespaces_
      ABSL_GUARDED_BY(mu_);
  std::shared_ptr<AlarmScheduler> alarms_ ABSL_GUARDED_BY(mu_);
};

}  // namespace edge::durable::internal
