// An ordered map behind one lock: the plainest Origin, and the model the others are tested
// against. std::string compares as unsigned bytes, which is the list order.
#include "edge/kv/memory_origin.h"

#include <algorithm>

namespace edge::kv {

StatusOr<std::optional<Entry>> MemoryOrigin::Get(std::string_view key) {
  MutexLock lock(&mutex_);
  const auto it = entries_.find(key);
  if (it == entries_.end() || it->second.deleted) return std::nullopt;
  return std::optional<Entry>(it->second);
}

StatusOr<Version> MemoryOrigin::Write(std::string_view key, Held held) {
  const Version version = held.version;
  {
    MutexLock lock(&mutex_);
    const auto [it, is_new] = entries_.try_emplace(std::string(key));
    Held& at = it->second;
    if (!is_new) {
      if (version != 0 && at.version >= version) return std::max(at.version, version + 1);
      expiring_.erase({at.expiration_s, it->first});
      if (at.deleted) --deleted_;
    }
    at = std::move(held);
    if (at.deleted) ++deleted_;
    if (at.expiration_s != 0) expiring_.emplace(at.expiration_s, it->first);
    if (at.deleted && version == 0) Remove(it);
  }
  watchers_.Notify(key, version);
  return version;
}

StatusOr<Version> MemoryOrigin::Put(std::string_view key, const EntryView& entry) {
  return Write(key, {{std::string(entry.value), std::string(entry.metadata), entry.expiration_s,
                      entry.version}});
}

StatusOr<Version> MemoryOrigin::Delete(std::string_view key, Version version) {
  return Write(key, {{"", "", ForgetDeletionAt(version), version}, /*deleted=*/true});
}

void MemoryOrigin::Remove(Entries::iterator it) {
  if (it->second.deleted) --deleted_;
  expiring_.erase({it->second.expiration_s, it->first});
  entries_.erase(it);
}

StatusOr<OriginListPage> MemoryOrigin::List(const OriginListQuery& query) {
  OriginListPage page;
  MutexLock lock(&mutex_);
  auto it = entries_.lower_bound(query.prefix);
  if (query.after && *query.after >= query.prefix) it = entries_.upper_bound(*query.after);
  for (; it != entries_.end() && it->first.starts_with(query.prefix); ++it) {
    const Held& entry = it->second;
    if (entry.deleted) continue;
    if (entry.expiration_s != 0 && entry.expiration_s <= query.now_s) continue;
    if (page.keys.size() == query.count_max) {
      page.complete = false;
      break;
    }
    page.keys.push_back({it->first, entry.expiration_s, entry.metadata});
  }
  return page;
}

StatusOr<size_t> MemoryOrigin::RemoveExpired(int64_t now_s, size_t count_max) {
  MutexLock lock(&mutex_);
  size_t removed = 0;
  for (; removed < count_max && !expiring_.empty(); ++removed) {
    const auto& [expiration_s, key] = *expiring_.begin();
    if (expiration_s > now_s) break;
    Remove(entries_.find(key));
  }
  return removed;
}

StatusOr<std::unique_ptr<Subscription>> MemoryOrigin::Watch(OnChange on_change) {
  return watchers_.Add(std::move(on_change));
}

size_t MemoryOrigin::size() const {
  MutexLock lock(&mutex_);
  return entries_.size() - deleted_;
}

}  // namespace edge::kv
