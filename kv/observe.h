// kv/observe.h - what the reads look like, from a sample: the keys that are read most, and how
// many reads a tier of another size would miss.
#pragma once
#include <array>
#include <atomic>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "edge/base/mutex.h"
#include "edge/kv/namespace.h"

namespace edge::kv {

// The keys that come most often in a stream: Space-Saving (Metwally, Agrawal, El Abbadi, ICDT
// 2005, section 3) over 64 counters. Thread-safe; a sample that meets another is dropped.
class TopKeys {
 public:
  void Add(std::string_view key, uint64_t weight);
  std::vector<Insight::Key> Take16() const;

 private:
  static constexpr size_t kCounters = 64;
  struct Counter {
    std::string key;
    uint64_t count = 0;
  };
  mutable Mutex mutex_;
  std::vector<Counter> counters_ ABSL_GUARDED_BY(mutex_);
};

// The miss ratio of an LRU cache of any size, from the reads of one key in 1024, chosen by
// hash (SHARDS: Waldspurger et al., FAST 2015, section 3): a distance in the stack of sampled
// keys, times 1024, is the distance in that of all. Thread-safe; a batch that meets another is
// dropped.
class Shadow {
 public:
  static constexpr uint64_t kSampling = 1024;
  static bool IsSampled(uint64_t hash) { return ((hash >> 20) & (kSampling - 1)) == 0; }
  void Add(const uint64_t* hashes, size_t count);
  std::vector<Insight::Point> Curve() const;

 private:
  static constexpr size_t kKeysMax = 2048;
  static constexpr size_t kBuckets = 13;  // distances below 1, 2, 4 ... 2048, and beyond
  mutable Mutex mutex_;
  std::vector<uint64_t> stack_ ABSL_GUARDED_BY(mutex_);  // most recent first
  std::array<uint64_t, kBuckets> distances_ ABSL_GUARDED_BY(mutex_) = {};
};

}  // namespace edge::kv
