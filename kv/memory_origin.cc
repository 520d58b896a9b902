// An ordered map behind one lock: the plainest Origin, and the model the others are tested
// against. std::string compares as unsigned bytes, which is the list order.
#include "edge/kv/memory_origin.h"

namespace edge::kv {

StatusOr<std::optional<Entry>> MemoryOrigin::Get(std::string_view key) {
  MutexLock lock(&mutex_);
  const auto it = entries_.find(key);
  if (it == entries_.end()) return std::nullopt;
  return std::optional<Entry>(it->second);
}

Status MemoryOrigin::Put(std::string_view key, const EntryView& entry) {
  Entry owned{std::string(entry.value), std::string(entry.metadata), entry.expiration_s};
  MutexLock lock(&mutex_);
  const auto [it, is_new] = entries_.try_emplace(std::string(key));
  if (!is_new) expiring_.erase({it->second.expiration_s, it->first});
  it->second = std::move(owned);
  if (it->second.expiration_s != 0) expiring_.emplace(it->second.expiration_s, it->first);
  return OkStatus();
}

Status MemoryOrigin::Delete(std::string_view key) {
  MutexLock lock(&mutex_);
  if (const auto it = entries_.find(key); it != entries_.end()) Remove(it);
  return OkStatus();
}

void MemoryOrigin::Remove(Entries::iterator it) {
  expiring_.erase({it->second.expiration_s, it->first});
  entries_.erase(it);
}

StatusOr<OriginListPage> MemoryOrigin::List(const OriginListQuery& query) {
  OriginListPage page;
  MutexLock lock(&mutex_);
  auto it = entries_.lower_bound(query.prefix);
  if (query.after && *query.after >= query.prefix) it = entries_.upper_bound(*query.after);
  for (; it != entries_.end() && it->first.starts_with(query.prefix); ++it) {
    const Entry& entry = it->second;
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

size_t MemoryOrigin::size() const {
  MutexLock lock(&mutex_);
  return entries_.size();
}

}  // namespace edge::kv
