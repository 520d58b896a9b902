// edge/kv/memory_origin.h - an Origin in memory: for tests, and for data that may be lost.
#pragma once
#include <functional>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <utility>

#include "edge/base/mutex.h"
#include "edge/kv/origin.h"

namespace edge::kv {

// An ordered map behind a lock; durable as long as the process. Keeps versions and can be
// watched. Thread-safe.
class MemoryOrigin final : public Origin {
 public:
  StatusOr<std::optional<Entry>> Get(std::string_view key) override;
  StatusOr<Version> Put(std::string_view key, const EntryView& entry) override;
  StatusOr<Version> Delete(std::string_view key, Version version) override;
  StatusOr<OriginListPage> List(const OriginListQuery& query) override;
  StatusOr<size_t> RemoveExpired(int64_t now_s, size_t count_max) override;
  StatusOr<std::unique_ptr<Subscription>> Watch(OnChange on_change) override;
  size_t size() const;  // without deletions that are remembered

 private:
  struct Held : Entry {
    bool deleted = false;
  };
  using Entries = std::map<std::string, Held, std::less<>>;
  StatusOr<Version> Write(std::string_view key, Held held);
  void Remove(Entries::iterator it) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  mutable Mutex mutex_;
  Entries entries_ ABSL_GUARDED_BY(mutex_);
  size_t deleted_ ABSL_GUARDED_BY(mutex_) = 0;
  // Expiration and key, the latter a view into entries_.
  std::set<std::pair<int64_t, std::string_view>> expiring_ ABSL_GUARDED_BY(mutex_);
  Watchers watchers_;
};

}  // namespace edge::kv
