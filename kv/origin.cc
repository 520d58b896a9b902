// The defaults of edge::kv::Origin, the blocking forms of AsyncOrigin, and Watchers.
#include "edge/kv/origin.h"

#include <atomic>
#include <utility>

#include "edge/base/errors.h"
#include "edge/base/executor.h"
#include "edge/base/mutex.h"

namespace edge::kv {

StatusOr<std::vector<std::optional<Entry>>> Origin::GetMany(
    std::span<const std::string_view> keys) {
  std::vector<std::optional<Entry>> entries;
  entries.reserve(keys.size());
  for (const std::string_view key : keys) {
    EDGE_ASSIGN_OR_RETURN(std::optional<Entry> entry, Get(key));
    entries.push_back(std::move(entry));
  }
  return entries;
}

StatusOr<size_t> Origin::RemoveExpired(int64_t, size_t) {
  return size_t{0};
}

StatusOr<std::unique_ptr<Subscription>> Origin::Watch(OnChange) {
  return Unimplemented("kv: this origin cannot be watched");
}

void Origin::StartGetMany(std::vector<std::string> keys, GetManyDone done) {
  const std::vector<std::string_view> views(keys.begin(), keys.end());
  done(GetMany(views));
}

void Origin::StartPut(std::string key, Entry entry, WriteDone done) {
  done(Put(key, {entry.value, entry.metadata, entry.expiration_s, entry.version}));
}

void Origin::StartDelete(std::string key, Version version, WriteDone done) {
  done(Delete(key, version));
}

void Origin::StartList(OriginListQuery query, ListDone done) {
  done(List(query));
}

namespace {

// Starts a call and waits for its answer.
template <typename T, typename Start>
StatusOr<T> AwaitAnswer(Start start) {
  if (Loop::Current() != nullptr) {
    return FailedPrecondition("kv: this origin answers later and a loop must not wait for it");
  }
  struct Wait {
    Mutex mutex;
    CondVar answered;
    std::optional<StatusOr<T>> answer ABSL_GUARDED_BY(mutex);
  };
  const auto wait = std::make_shared<Wait>();  // owners: this call and the callback
  start([wait](StatusOr<T> answer) {
    MutexLock lock(&wait->mutex);
    wait->answer = std::move(answer);
    wait->answered.SignalAll();
  });
  MutexLock lock(&wait->mutex);
  while (!wait->answer) wait->answered.Wait(&wait->mutex);
  return *std::move(wait->answer);
}

}  // namespace

StatusOr<std::optional<Entry>> AsyncOrigin::Get(std::string_view key) {
  EDGE_ASSIGN_OR_RETURN(auto entries, GetMany({&key, 1}));
  if (entries.size() != 1) return Internal("kv: {} answers to one key", entries.size());
  return std::move(entries[0]);
}

StatusOr<std::vector<std::optional<Entry>>> AsyncOrigin::GetMany(
    std::span<const std::string_view> keys) {
  return AwaitAnswer<std::vector<std::optional<Entry>>>([&](GetManyDone done) {
    StartGetMany({keys.begin(), keys.end()}, std::move(done));
  });
}

StatusOr<Version> AsyncOrigin::Put(std::string_view key, const EntryView& entry) {
  return AwaitAnswer<Version>([&](WriteDone done) {
    Entry owned{std::string(entry.value), std::string(entry.metadata), entry.expiration_s,
                entry.version};
    StartPut(std::string(key), std::move(owned), std::move(done));
  });
}

StatusOr<Version> AsyncOrigin::Delete(std::string_view key, Version version) {
  return AwaitAnswer<Version>(
      [&](WriteDone done) { StartDelete(std::string(key), version, std::move(done)); });
}

StatusOr<OriginListPage> AsyncOrigin::List(const OriginListQuery& query) {
  return AwaitAnswer<OriginListPage>([&](ListDone done) { StartList(query, std::move(done)); });
}

// A watcher is called under its own lock, so that its end waits for a running call.
struct Watchers::State {
  struct Watcher {
    Mutex mutex;
    OnChange on_change ABSL_GUARDED_BY(mutex);
  };
  Mutex mutex;
  std::vector<std::shared_ptr<Watcher>> watchers ABSL_GUARDED_BY(mutex);
  std::atomic<size_t> count{0};
};

Watchers::Watchers() : state_(std::make_shared<State>()) {}
Watchers::~Watchers() = default;

std::unique_ptr<Subscription> Watchers::Add(OnChange on_change) {
  class Registration final : public Subscription {
   public:
    Registration(std::shared_ptr<State> state, std::shared_ptr<State::Watcher> watcher)
        : state_(std::move(state)), watcher_(std::move(watcher)) {}
    ~Registration() override {
      {
        MutexLock lock(&state_->mutex);
        std::erase(state_->watchers, watcher_);
        state_->count = state_->watchers.size();
      }
      MutexLock lock(&watcher_->mutex);
      watcher_->on_change = nullptr;
    }

   private:
    std::shared_ptr<State> state_;
    std::shared_ptr<State::Watcher> watcher_;
  };
  auto watcher = std::make_shared<State::Watcher>();
  {
    MutexLock lock(&watcher->mutex);
    watcher->on_change = std::move(on_change);
  }
  MutexLock lock(&state_->mutex);
  state_->watchers.push_back(watcher);
  state_->count = state_->watchers.size();
  return std::make_unique<Registration>(state_, std::move(watcher));
}

void Watchers::Notify(std::string_view key, Version version) {
  if (state_->count.load(std::memory_order_acquire) == 0) return;
  std::vector<std::shared_ptr<State::Watcher>> watchers;
  {
    MutexLock lock(&state_->mutex);
    watchers = state_->watchers;
  }
  for (const auto& watcher : watchers) {
    MutexLock lock(&watcher->mutex);
    if (watcher->on_change) watcher->on_change(key, version);
  }
}

}  // namespace edge::kv
