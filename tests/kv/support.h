// Helpers of the kv tests: a clock set by hand, origins that count, wait and fail.
#pragma once
#include <atomic>
#include <string>

#include "edge/base/clock.h"
#include "edge/base/errors.h"
#include "edge/base/mutex.h"
#include "edge/kv/memory_origin.h"
#include "edge/kv/namespace.h"

namespace edge::kv {

class FakeClock final : public Clock {
 public:
  explicit FakeClock(int64_t wall_s = 1000) : wall_ms_(wall_s * 1000) {}
  int64_t monotonic_ns() const override { return wall_ms() * 1'000'000; }
  int64_t wall_ms() const override { return wall_ms_.load(); }
  void Advance(int64_t ms) { wall_ms_ += ms; }

 private:
  std::atomic<int64_t> wall_ms_;
};

// Passes calls on to a MemoryOrigin; counts them; holds reads back while closed; fails them
// while `failure` is not OK.
class ProbeOrigin final : public Origin {
 public:
  StatusOr<std::optional<Entry>> Get(std::string_view key) override {
    ++gets;
    EDGE_RETURN_IF_ERROR(PassRead());
    return behind.Get(key);
  }
  StatusOr<std::vector<std::optional<Entry>>> GetMany(
      std::span<const std::string_view> keys) override {
    ++get_manys;
    EDGE_RETURN_IF_ERROR(PassRead());
    return behind.GetMany(keys);
  }
  StatusOr<Version> Put(std::string_view key, const EntryView& entry) override {
    ++puts;
    EDGE_RETURN_IF_ERROR(Failure());
    return behind.Put(key, entry);
  }
  StatusOr<Version> Delete(std::string_view key, Version version) override {
    EDGE_RETURN_IF_ERROR(Failure());
    return behind.Delete(key, version);
  }
  StatusOr<OriginListPage> List(const OriginListQuery& query) override {
    EDGE_RETURN_IF_ERROR(Failure());
    return behind.List(query);
  }
  StatusOr<size_t> RemoveExpired(int64_t now_s, size_t count_max) override {
    return behind.RemoveExpired(now_s, count_max);
  }

  // Off unless asked for: most tests are about origins that say nothing.
  StatusOr<std::unique_ptr<Subscription>> Watch(OnChange on_change) override {
    if (!watchable) return Origin::Watch(std::move(on_change));
    return behind.Watch(std::move(on_change));
  }

  void Close() {
    MutexLock lock(&mutex_);
    open_ = false;
  }
  void Open() {
    MutexLock lock(&mutex_);
    open_ = true;
    changed_.SignalAll();
  }
  // Waits until `count` reads are held back.
  void AwaitHeld(int count) {
    MutexLock lock(&mutex_);
    while (held_ < count) changed_.Wait(&mutex_);
  }
  void SetFailure(Status failure) {
    MutexLock lock(&mutex_);
    failure_ = std::move(failure);
  }

  MemoryOrigin behind;
  std::atomic<bool> watchable{false};
  std::atomic<int> gets{0};
  std::atomic<int> get_manys{0};
  std::atomic<int> puts{0};

 private:
  Status PassRead() {
    MutexLock lock(&mutex_);
    ++held_;
    changed_.SignalAll();
    while (!open_) changed_.Wait(&mutex_);
    --held_;
    return failure_;
  }
  Status Failure() {
    MutexLock lock(&mutex_);
    return failure_;
  }

  Mutex mutex_;
  CondVar changed_;
  bool open_ ABSL_GUARDED_BY(mutex_) = true;
  int held_ ABSL_GUARDED_BY(mutex_) = 0;
  Status failure_ ABSL_GUARDED_BY(mutex_);
};

// A namespace at 1000 s over a ProbeOrigin.
struct World {
  explicit World(Options options = {}) {
    options.clock = &clock;
    kv.emplace(Namespace::Open(origin, options).value());
  }
  FakeClock clock;
  std::shared_ptr<ProbeOrigin> origin = std::make_shared<ProbeOrigin>();
  std::optional<Namespace> kv;
};

inline std::string TextOf(const Status& status) {
  return std::string(Message(status));
}

}  // namespace edge::kv
