// edge/durable/host.h - runs the durable objects of this process.
//
//   auto host = durable::Host::Create(*executor, *relay).value();
//   auto flights = host->AddNamespace<FlightSeating>("FLIGHTS").value();
//   auto flight = flights.Get("UA17");                 // an rpc::Stub<FlightSeating>
//   auto free = flight.Call<&FlightSeating::Available>().Wait();
//
// Every object lives on one loop of the executor, chosen by its id; calls from that loop are
// direct, all others are queued there. Its database is "<namespace>/<id>" of the relay. An
// object starts with its first call.
#pragma once
#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "edge/base/executor.h"
#include "edge/base/metrics.h"
#include "edge/base/random.h"
#include "edge/base/status.h"
#include "edge/durable/id.h"
#include "edge/durable/object.h"
#include "edge/rpc/hook.h"
#include "edge/rpc/stub.h"
#include "edge/rpc/target.h"
#include "edge/srs/relay.h"

namespace edge::durable {

class Host;

namespace internal {

struct ClassInfo {
  const rpc::MethodTable* methods;
  // Makes the object; `*target` gets the address that `methods` work on. May throw.
  std::unique_ptr<Object> (*make)(Context& ctx, void** target);
  // Null if the class has no Alarm(). May throw.
  rpc::Answer (*alarm)(void* target, const AlarmInfo& info);
};
template <typename T>
std::unique_ptr<Object> MakeObject(Context& ctx, void** target) {
  auto object = std::make_unique<T>(ctx);
  *target = object.get();
  return object;
}
template <typename T>
concept TakesAlarmInfo = requires(T& object, const AlarmInfo& info) { object.Alarm(info); };
template <typename T>
concept TakesAlarm = TakesAlarmInfo<T> || requires(T& object) { object.Alarm(); };
template <TakesAlarm T>
rpc::Answer InvokeAlarm(void* target, const AlarmInfo& info) {
  auto call = [object = static_cast<T*>(target), info] {
    if constexpr (TakesAlarmInfo<T>) {
      return object->Alarm(info);
    } else {
      (void)info;  // clang would call the capture unused
      return object->Alarm();
    }
  };
  return rpc::internal::CallWithValues<std::tuple<>, decltype(call())>(call, {});
}
template <typename T>
constexpr ClassInfo ClassInfoOf() {
  if constexpr (TakesAlarm<T>) {
    return {&rpc::MethodsOf<T>(), &MakeObject<T>, &InvokeAlarm<T>};
  } else {
    return {&rpc::MethodsOf<T>(), &MakeObject<T>, nullptr};
  }
}
class AlarmScheduler;
class HostCore;
struct NamespaceMetrics;

// What a Namespace<T> does that does not depend on T. Thread-safe.
class NamespaceCore : public std::enable_shared_from_this<NamespaceCore> {
 public:
  NamespaceCore(std::shared_ptr<HostCore> host, std::string name, ClassInfo info, IdKey key,
                std::shared_ptr<AlarmScheduler> alarms,
                std::shared_ptr<const NamespaceMetrics> metrics)
      : host_(std::move(host)),
        name_(std::move(name)),
        info_(info),
        key_(key),
        alarms_(std::move(alarms)),
        metrics_(std::move(metrics)) {}
  rpc::HookPtr HookFor(const ObjectId& id);
  const std::string& name() const { return name_; }
  const ClassInfo& info() const { return info_; }
  const IdKey& key() const { return key_; }
  Random& random() const;
  const NamespaceMetrics* metrics() const { return metrics_.get(); }  // may be null
  AlarmScheduler* alarms() const { return alarms_.get(); }  // null: the class has no Alarm()

 private:
  const std::shared_ptr<HostCore> host_;  // owners: the Host, its namespaces and stubs
  const std::string name_;
  const ClassInfo info_;
  const IdKey key_;
  const std::shared_ptr<AlarmScheduler> alarms_;  // owners: HostCore, namespaces
  const std::shared_ptr<const NamespaceMetrics> metrics_;
};

}  // namespace internal

// The objects of one class. A cheap handle; thread-safe.
//
// A stub names an object, not an instance: if the object is reset, calls under way fail with
// the reason, and the next call starts it again.
template <typename T>
class Namespace {
 public:
  // Of the object with that name; any text. The same name is always the same object.
  rpc::Stub<T> Get(std::string_view object_name) const { return Get(IdFromName(object_name)); }
  // Calls to an id of another namespace fail with InvalidArgument.
  rpc::Stub<T> Get(const ObjectId& id) const { return rpc::Stub<T>(core_->HookFor(id)); }

  ObjectId IdFromName(std::string_view object_name) const {
    return core_->key().FromName(object_name);
  }
  ObjectId NewUniqueId() const { return core_->key().Unique(core_->random()); }
  // InvalidArgument if it is no id, or one of another namespace.
  StatusOr<ObjectId> IdFromString(std::string_view text) const {
    return core_->key().FromString(text);
  }
  const std::string& name() const { return core_->name(); }

 private:
  friend class Host;
  explicit Namespace(std::shared_ptr<internal::NamespaceCore> core) : core_(std::move(core)) {}
  std::shared_ptr<internal::NamespaceCore> core_;  // owners: the handles and the Host
};

// A statement that took long.
struct SlowQuery {
  std::string name_space;
  std::string object_id;
  std::string query;  // its text, without the values of parameters
  int64_t duration_ms = 0;
  std::vector<std::string> plan;  // a line of SQLite's EXPLAIN QUERY PLAN each
};

struct HostOptions {
  std::string id_secret;  // the key of object ids; see IdKey
  // Running at once on each loop. Beyond, the one that was not used for longest makes room if
  // it is idle; else ResourceExhausted.
  size_t objects_max = 100'000;
  // An object that was not called for so long, and not for longer than half as much again,
  // ends, and its next call starts it again; what it kept in memory is gone. Not while it
  // waits for anything, nor if its answers gave away stubs, nor if it was given stubs and
  // somebody who called it still holds his. 0: never.
  int64_t idle_ms_max = 10'000;
  size_t queued_calls_max = 10'000;  // waiting for one object while it runs; ditto
  Random* random = nullptr;          // null: SystemRandom()
  // Counts calls, their latency, their waiting at the gate, rows, starts and resets of each
  // namespace, as edge_durable_*{namespace="..."}; null: nothing.
  MetricsRegistry* metrics = nullptr;
  // Runs, on the object's loop and at the end of the turn, for statements that took so long from
  // their first row to their last; whole milliseconds of the relay's clock. Null: none.
  std::function<void(const SlowQuery&)> on_slow_query = nullptr;
  int64_t slow_query_ms = 100;
};

// Thread-safe, but for its destructor.
class Host {
 public:
  // `executor` and `relay` must outlive the host.
  static StatusOr<std::unique_ptr<Host>> Create(Executor& executor, srs::Relay& relay,
                                                HostOptions options = {});
  ~Host();  // as Close()
  Host(const Host&) = delete;

  // `name`: 1 to 64 bytes of [A-Za-z0-9_-], InvalidArgument otherwise; it is part of where the
  // data lies. AlreadyExists if it is taken. The first class with an Alarm() opens the table
  // of alarms, with the relay's errors; alarms that are due go off at once.
  template <typename T>
  StatusOr<Namespace<T>> AddNamespace(std::string name) {
    EDGE_ASSIGN_OR_RETURN(auto core, Add(std::move(name), internal::ClassInfoOf<T>()));
    return Namespace<T>(std::move(core));
  }
  // By text, for listeners: the object of that name. NotFound if there is no such namespace.
  StatusOr<rpc::HookPtr> Find(std::string_view name_space, std::string_view object_name) const;

  // Ends every object: answers already decided are sent when they are durable, all other
  // calls fail with Unavailable, then the databases are closed. Not on a loop's thread.
  void Close();
  size_t objects_running() const;

 private:
  explicit Host(std::shared_ptr<internal::HostCore> core);
  StatusOr<std::shared_ptr<internal::NamespaceCore>> Add(std::string name,
                                                         internal::ClassInfo info);
  std::shared_ptr<internal::HostCore> core_;  // owners: see NamespaceCore
};

}  // namespace edge::durable
