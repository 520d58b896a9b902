// edge/base/metrics.h - counters, gauges and histograms, read out as Prometheus text.
//
// A Registry belongs to whoever made it; there is no global one. Instruments are found once
// by name and labels and then used by reference: recording is one relaxed atomic add
// (about 1 ns uncontended). Reading never stops writers.
#pragma once
#include <array>
#include <atomic>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "edge/base/status.h"

namespace edge {

// Thread-safe.
class Counter {
 public:
  void Add(uint64_t count = 1) { value_.fetch_add(count, std::memory_order_relaxed); }
  uint64_t value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<uint64_t> value_{0};
};

// Thread-safe.
class Gauge {
 public:
  void Set(int64_t value) { value_.store(value, std::memory_order_relaxed); }
  void Add(int64_t delta) { value_.fetch_add(delta, std::memory_order_relaxed); }
  int64_t value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<int64_t> value_{0};
};

// Counts of values in logarithmic buckets with 16 steps per power of two: any quantile of
// any values in [0, 2^63) is off by at most 1/16 of itself. 8 KiB. Thread-safe.
class Histogram {
 public:
  void Record(uint64_t value) {
    buckets_[BucketOf(value)].fetch_add(1, std::memory_order_relaxed);
    sum_.fetch_add(value, std::memory_order_relaxed);
  }
  uint64_t count() const;
  uint64_t sum() const { return sum_.load(std::memory_order_relaxed); }
  // The smallest value not below a share `quantile` in [0, 1] of the recorded ones, rounded up
  // to the end of its bucket; 0 if none. Reads all buckets: about 1 us.
  uint64_t Quantile(double quantile) const;

 private:
  static constexpr size_t kBuckets = 976;
  static size_t BucketOf(uint64_t value);
  static uint64_t UpperBound(size_t bucket);
  std::array<std::atomic<uint64_t>, kBuckets> buckets_{};
  std::atomic<uint64_t> sum_{0};
};

using Labels = std::initializer_list<std::pair<std::string_view, std::string_view>>;

// Thread-safe.
class MetricsRegistry {
 public:
  MetricsRegistry();
  ~MetricsRegistry();
  // The instrument of that name and labels, made on first use; it lives as long as the
  // registry. `name` in Prometheus form, unit last: edge_kv_get_latency_ns. Labels in any
  // order; each different set of values is kept for good, so never label with free text. A
  // malformed name, or one in use for another kind, is a bug of the caller (EDGE_CHECK).
  Counter& counter(std::string_view name, Labels labels = {});
  Gauge& gauge(std::string_view name, Labels labels = {});
  Histogram& histogram(std::string_view name, Labels labels = {});
  // Text exposition format 0.0.4: histograms as summaries with quantiles 0.5, 0.99, 0.999.
  std::string PrometheusText() const;

 private:
  struct Rep;
  std::unique_ptr<Rep> rep_;
};

}  // namespace edge
