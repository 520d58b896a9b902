#include "edge/durable/host.h"

#include <algorithm>

#include "durable/actor.h"
#include "durable/namespace_metrics.h"
#include "edge/base/check.h"
#include "edge/base/errors.h"

namespace edge::durable {
namespace internal {
namespace {

// What a stub of an object holds: calls hop to the object's loop and find it there.
class ObjectHook : public rpc::MethodHook {
 public:
  ObjectHook(Shard& shard, std::shared_ptr<NamespaceCore> name_space, const ObjectId& id)
      : MethodHook(&shard.loop()), shard_(shard), namespace_(std::move(name_space)), id_(id) {}

  ~ObjectHook() override {
    if (const auto actor = actor_.lock()) actor->RemoveClient();
  }

 protected:
  // Objects of one host depend on each other instead of waiting.
  bool WaitsAtGate() const override { return false; }

  rpc::HookPtr DoCall(rpc::PathView path, rpc::Array args) override {
    const auto dependency = std::dynamic_pointer_cast<Dependency>(rpc::CallBaggage::Current());
    const rpc::CallBaggage::Scope nothing(nullptr);  // it is for this call only
    if (dependency == nullptr) return MethodHook::DoCall(path, std::move(args));
    // Promises among the arguments are waited for outside of any scope: take them first.
    auto [promise, done] = rpc::MakePromise(home());
    rpc::ResolvePromises(std::move(args),
                         [this, self = Self(), path = rpc::Path(path.begin(), path.end()),
                          dependency, done = std::move(done)](StatusOr<rpc::Array> ready) mutable {
                           if (!ready.ok()) return done.Settle(ready.status());
                           const std::vector<std::string_view> names(path.begin(), path.end());
                           dependency_ = std::move(dependency);
                           done.Follow(MethodHook::DoCall(names, *std::move(ready)));
                           dependency_.reset();
                         });
    return std::move(promise);
  }

  void OnCall(std::string_view method, rpc::Array args, rpc::Resolver done) override {
    const auto dependency = std::exchange(dependency_, nullptr);
    if (!shard_.closed().ok()) return done.Settle(shard_.closed());
    auto actor = actor_.lock();
    if (actor == nullptr) {
      actor_ = actor = shard_.Find(namespace_, id_);
      actor->AddClient();
    }
    actor->Call(method, std::move(args), std::move(done), dependency);
  }

 private:
  Shard& shard_;  // lives as long as namespace_ does
  const std::shared_ptr<NamespaceCore> namespace_;
  const ObjectId id_;
  std::weak_ptr<Actor> actor_;
  std::shared_ptr<Dependency> dependency_;  // of the call that is about to be made
};

bool IsNamespaceName(std::string_view name) {
  return !name.empty() && name.size() <= 64 && std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
           c == '-';
  });
}

// Counts down when the last copy of it is gone, whether or not what held it has run.
class Countdown {
 public:
  explicit Countdown(size_t count) : left_(count) {}
  void Step() {
    const MutexLock lock(&mu_);
    if (--left_ == 0) zero_.SignalAll();
  }
  bool IsZero() {
    const MutexLock lock(&mu_);
    return left_ == 0;
  }
  void Wait() {
    const MutexLock lock(&mu_);
    while (left_ != 0) zero_.Wait(&mu_);
  }

 private:
  Mutex mu_;
  CondVar zero_;
  size_t left_ ABSL_GUARDED_BY(mu_);
};

}  // namespace

rpc::HookPtr NamespaceCore::HookFor(const ObjectId& id) {
  if (!key_.Owns(id)) {
    return rpc::FailedHook(InvalidArgument("Durable Object ID is not valid for this namespace."));
  }
  return rpc::MakeHook<ObjectHook>(host_->ShardOf(id), shared_from_this(), id);
}

Random& NamespaceCore::random() const {
  return host_->options().random != nullptr ? *host_->options().random : SystemRandom();
}

HostCore::HostCore(Executor& executor, srs::Relay& relay, HostOptions options)
    : options_(std::move(options)), relay_(relay) {
  for (size_t i = 0; i < executor.size(); ++i) {
    shards_.push_back(std::make_unique<Shard>(executor.loop(i), relay, options_));
  }
}

Shard& HostCore::ShardOf(const ObjectId& id) {
  return *shards_[LoadLittle<uint64_t>(id.bytes().data()) % shards_.size()];
}

StatusOr<std::shared_ptr<AlarmScheduler>> HostCore::Alarms() {
  const MutexLock lock(&mu_);
  if (closed()) return FailedPrecondition("The host is closed.");
  if (alarms_ == nullptr) {
    // `this` outlives the wakes: Close() ends them.
    EDGE_ASSIGN_OR_RETURN(
        alarms_, AlarmScheduler::Open(
                     relay_, shards_[0]->loop(),
                     options_.random != nullptr ? *options_.random : SystemRandom(),
                     [this](const std::string& name, int retries) { WakeObject(name, retries); }));
  }
  return alarms_;
}

// The name of the object's database is "<namespace>/<id>".
void HostCore::WakeObject(const std::string& database_name, int retries) {
  const size_t slash = database_name.find('/');
  const auto name_space = Find(std::string_view(database_name).substr(0, slash));
  std::shared_ptr<AlarmScheduler> alarms;
  {
    const MutexLock lock(&mu_);
    alarms = alarms_;
  }
  if (alarms == nullptr) return;
  StatusOr<ObjectId> id = InvalidArgument("unknown");
  if (name_space != nullptr) id = name_space->key().FromString(database_name.substr(slash + 1));
  if (!id.ok()) {  // a namespace that may be added yet
    return alarms->Report(database_name, AlarmScheduler::Outcome::kUnavailable);
  }
  Shard& shard = ShardOf(*id);
  shard.loop().PostUrgent([&shard, name_space, id = *id, retries] {
    if (!shard.closed().ok()) return;
    shard.Find(name_space, id)->Wake({.retries = retries, .abandons_serial = {}});
  });
}

Status HostCore::Add(const std::shared_ptr<NamespaceCore>& name_space) {
  const MutexLock lock(&mu_);
  if (closed()) return FailedPrecondition("The host is closed.");
  if (!namespaces_.try_emplace(name_space->name(), name_space).second) {
    return AlreadyExists("The namespace {} exists already.", name_space->name());
  }
  return OkStatus();
}

std::shared_ptr<NamespaceCore> HostCore::Find(std::string_view name) const {
  const MutexLock lock(&mu_);
  const auto found = namespaces_.find(name);
  return found == namespaces_.end() ? nullptr : found->second;
}

size_t HostCore::running() const {
  size_t count = 0;
  for (const auto& shard : shards_) count += shard->running();
  return count;
}

void HostCore::Close() {
  if (closed_.exchange(true)) return;
  std::shared_ptr<AlarmScheduler> alarms;
  {
    const MutexLock lock(&mu_);
    alarms = std::move(alarms_);
  }
  if (alarms != nullptr) alarms->Close();
  Countdown countdown(shards_.size());
  for (const auto& shard : shards_) {
    // Owner: the task, then the shard. Goes down too if the loop drops the task.
    std::shared_ptr<void> done(nullptr, [&countdown](void*) { countdown.Step(); });
    shard->loop().PostUrgent(
        [shard = shard.get(), done = std::move(done)] { shard->Close([done] {}); });
  }
  // On a loop's thread only where there is nothing to wait for: a process that has crashed
  // in a simulation, whose loop drops its tasks.
  EDGE_CHECK(Loop::Current() == nullptr || countdown.IsZero());
  countdown.Wait();
  for (const auto& shard : shards_) shard->Discard();
  if (alarms != nullptr) alarms->CloseDatabase();
  decltype(namespaces_) namespaces;
  const MutexLock lock(&mu_);
  namespaces.swap(namespaces_);
}

}  // namespace internal

Host::Host(std::shared_ptr<internal::HostCore> core) : core_(std::move(core)) {}
Host::~Host() {
  Close();
}

StatusOr<std::unique_ptr<Host>> Host::Create(Executor& executor, srs::Relay& relay,
                                             HostOptions options) {
  return std::unique_ptr<Host>(
      new Host(std::make_shared<internal::HostCore>(executor, relay, std::move(options))));
}

StatusOr<std::shared_ptr<internal::NamespaceCore>> Host::Add(std::string name,
                                                             internal::ClassInfo info) {
  if (!internal::IsNamespaceName(name)) {
    return InvalidArgument("'{}' is no name for a namespace: 1 to 64 of [A-Za-z0-9_-].", name);
  }
  IdKey key(core_->options().id_secret, name);
  std::shared_ptr<internal::AlarmScheduler> alarms;
  if (info.alarm != nullptr) {
    EDGE_ASSIGN_OR_RETURN(alarms, core_->Alarms());
  }
  std::shared_ptr<const internal::NamespaceMetrics> metrics;
  if (MetricsRegistry* const registry = core_->options().metrics) {
    metrics = std::make_shared<const internal::NamespaceMetrics>(*registry, name);
  }
  auto added = std::make_shared<internal::NamespaceCore>(core_, std::move(name), info, key, alarms,
                                                         std::move(metrics));
  EDGE_RETURN_IF_ERROR(core_->Add(added));
  if (alarms != nullptr) alarms->Retry(added->name() + "/");
  return added;
}

StatusOr<rpc::HookPtr> Host::Find(std::string_view name_space, std::string_view object_name) const {
  const auto found = core_->Find(name_space);
  if (found == nullptr) return NotFound("There is no namespace {}.", name_space);
  return found->HookFor(found->key().FromName(object_name));
}

void Host::Close() {
  core_->Close();
}
size_t Host::objects_running() const {
  return core_->running();
}

}  // namespace edge::durable
