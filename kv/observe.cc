#include "kv/observe.h"

#include <algorithm>
#include <bit>
#include <cstdio>

namespace edge::kv {

void TopKeys::Add(std::string_view key, uint64_t weight) {
  if (!mutex_.TryLock()) return;
  const auto same = std::ranges::find(counters_, key, &Counter::key);
  if (same != counters_.end()) {
    same->count += weight;
  } else if (counters_.size() < kCounters) {
    counters_.push_back({std::string(key), weight});
  } else {
    Counter& least = *std::ranges::min_element(counters_, {}, &Counter::count);
    least.key = key;
    least.count += weight;
  }
  mutex_.Unlock();
}

std::vector<Insight::Key> TopKeys::Take16() const {
  std::vector<Insight::Key> keys;
  {
    MutexLock lock(&mutex_);
    for (const Counter& counter : counters_) keys.push_back({counter.key, counter.count});
  }
  std::ranges::sort(keys, std::greater(), &Insight::Key::reads);
  if (keys.size() > 16) keys.resize(16);
  return keys;
}

void Shadow::Add(const uint64_t* hashes, size_t count) {
  if (!mutex_.TryLock()) return;
  for (size_t i = 0; i < count; ++i) {
    const auto it = std::ranges::find(stack_, hashes[i]);
    if (it == stack_.end()) {
      ++distances_[kBuckets - 1];
      if (stack_.size() == kKeysMax) stack_.pop_back();
      stack_.insert(stack_.begin(), hashes[i]);
      continue;
    }
    const auto distance = static_cast<uint64_t>(it - stack_.begin());
    ++distances_[static_cast<size_t>(std::bit_width(distance))];
    std::rotate(stack_.begin(), it, it + 1);
  }
  mutex_.Unlock();
}

std::vector<Insight::Point> Shadow::Curve() const {
  std::vector<Insight::Point> curve;
  MutexLock lock(&mutex_);
  uint64_t all = 0;
  for (const uint64_t count : distances_) all += count;
  if (all == 0) return curve;
  uint64_t hits = 0;
  for (size_t b = 0; b + 1 < kBuckets; ++b) {
    hits += distances_[b];
    curve.push_back({(uint64_t{1} << b) * kSampling,
                     static_cast<double>(all - hits) / static_cast<double>(all)});
  }
  return curve;
}

}  // namespace edge::kv
