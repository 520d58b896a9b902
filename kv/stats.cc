// What a Namespace has counted, as numbers, a page and JSON.
#include <cstdarg>
#include <cstdio>

#include "edge/kv/namespace.h"
#include "kv/store.h"

namespace edge::kv {
namespace {

template <typename Counts>
TierStats StatsOf(const Counts& counts) {
  TierStats stats;
  stats.hits = counts.hits.load(std::memory_order_relaxed);
  stats.misses = counts.misses.load(std::memory_order_relaxed);
  stats.stale = counts.stale.load(std::memory_order_relaxed);
  stats.bytes = counts.bytes.load(std::memory_order_relaxed);
  stats.latency_ns_p50 = counts.latency_ns.Quantile(0.5);
  stats.latency_ns_p90 = counts.latency_ns.Quantile(0.9);
  stats.latency_ns_p99 = counts.latency_ns.Quantile(0.99);
  stats.latency_ns_p999 = counts.latency_ns.Quantile(0.999);
  return stats;
}

[[gnu::format(printf, 2, 3)]] void Add(std::string* out, const char* format, ...) {
  char line[512];
  va_list args;
  va_start(args, format);
  std::vsnprintf(line, sizeof(line), format, args);
  va_end(args);
  *out += line;
}

using ULL = unsigned long long;

// A key as the inside of a JSON string.
std::string Escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      Add(&out, "\\u%04x", static_cast<unsigned>(c));
    } else {
      out += c;
    }
  }
  return out;
}

constexpr std::pair<const char*, TierStats Stats::*> kTiers[] = {
    {"hot", &Stats::hot}, {"disk", &Stats::disk}, {"origin", &Stats::origin}};

}  // namespace

Stats Namespace::stats() const {
  Stats stats;
  uint64_t hot_bytes = 0;
  for (const Rep::Lane& lane : rep_->lanes) {
    stats.hits += lane.hits.load(std::memory_order_relaxed);
    hot_bytes += lane.bytes.load(std::memory_order_relaxed);
    stats.misses += lane.misses.load(std::memory_order_relaxed);
  }
  stats.hot = StatsOf(rep_->hot_counts);
  stats.hot.hits = stats.hits;
  stats.hot.misses = stats.misses;
  stats.hot.bytes = hot_bytes;
  stats.disk = StatsOf(rep_->disk_counts);
  stats.origin = StatsOf(rep_->origin_counts);
  stats.origin_reads = rep_->origin_reads.load(std::memory_order_relaxed);
  stats.stale = rep_->stale.load(std::memory_order_relaxed);
  stats.refreshes = rep_->refreshes.load(std::memory_order_relaxed);
  stats.changes = rep_->changes.load(std::memory_order_relaxed);
  stats.origin_writes = rep_->origin_writes.load(std::memory_order_relaxed);
  const HotTier::Usage usage = rep_->hot->usage();
  stats.evictions = usage.evictions;
  stats.entries = usage.entries;
  stats.bytes = usage.bytes;
  stats.bytes_max = rep_->hot->bytes_max();
  if (rep_->disk != nullptr) {
    const DiskTier::Usage disk = rep_->disk->usage();
    stats.disk_entries = disk.entries;
    stats.disk_bytes = disk.bytes;
    stats.disk_memory_bytes = disk.memory_bytes;
    stats.disk_reads = disk.reads;
  }
  return stats;
}

Insight Namespace::insight() const {
  return {rep_->top_keys.Take16(), rep_->shadow.Curve()};
}

std::string Namespace::StatsText() const {
  const Stats stats = this->stats();
  std::string page;
  Add(&page, "%-8s %12s %12s %10s %14s %9s %9s %9s %9s\n", "tier", "hits", "misses", "stale",
      "bytes", "p50 us", "p90 us", "p99 us", "p999 us");
  for (const auto& [name, member] : kTiers) {
    const TierStats& tier = stats.*member;
    Add(&page, "%-8s %12llu %12llu %10llu %14llu %9.2f %9.2f %9.2f %9.2f\n", name, ULL{tier.hits},
        ULL{tier.misses}, ULL{tier.stale}, ULL{tier.bytes},
        static_cast<double>(tier.latency_ns_p50) / 1e3,
        static_cast<double>(tier.latency_ns_p90) / 1e3,
        static_cast<double>(tier.latency_ns_p99) / 1e3,
        static_cast<double>(tier.latency_ns_p999) / 1e3);
  }
  Add(&page,
      "\nin memory %llu entries, %llu of %llu bytes, %llu evicted; on disk %llu entries, %llu "
      "bytes\n",
      ULL{stats.entries}, ULL{stats.bytes}, ULL{stats.bytes_max}, ULL{stats.evictions},
      ULL{stats.disk_entries}, ULL{stats.disk_bytes});
  Add(&page, "origin: %llu keys read, %llu written, %llu refreshes, %llu changes by others\n",
      ULL{stats.origin_reads}, ULL{stats.origin_writes}, ULL{stats.refreshes}, ULL{stats.changes});
  const Insight insight = this->insight();
  if (!insight.top_keys.empty()) page += "\nmost read (estimates)\n";
  for (const Insight::Key& key : insight.top_keys) {
    Add(&page, "%12llu  %.256s\n", ULL{key.reads}, key.name.c_str());
  }
  if (!insight.miss_ratio_curve.empty()) page += "\nmisses, if the hot tier held (as LRU)\n";
  for (const Insight::Point& point : insight.miss_ratio_curve) {
    Add(&page, "%12llu entries %6.2f %%\n", ULL{point.entries}, 100 * point.miss_ratio);
  }
  return page;
}

std::string Namespace::StatsJson() const {
  const Stats stats = this->stats();
  std::string json = "{\"tiers\": {";
  for (const auto& [name, member] : kTiers) {
    const TierStats& tier = stats.*member;
    if (json.back() == '}') json += ", ";
    Add(&json,
        "\"%s\": {\"hits\": %llu, \"misses\": %llu, \"stale\": %llu, \"bytes\": %llu, "
        "\"latency_ns\": {\"p50\": %llu, \"p90\": %llu, \"p99\": %llu, \"p999\": %llu}}",
        name, ULL{tier.hits}, ULL{tier.misses}, ULL{tier.stale}, ULL{tier.bytes},
        ULL{tier.latency_ns_p50}, ULL{tier.latency_ns_p90}, ULL{tier.latency_ns_p99},
        ULL{tier.latency_ns_p999});
  }
  Add(&json,
      "}, \"entries\": %llu, \"bytes\": %llu, \"bytes_max\": %llu, \"evictions\": %llu, "
      "\"disk_entries\": %llu, \"disk_bytes\": %llu, \"disk_reads\": %llu, ",
      ULL{stats.entries}, ULL{stats.bytes}, ULL{stats.bytes_max}, ULL{stats.evictions},
      ULL{stats.disk_entries}, ULL{stats.disk_bytes}, ULL{stats.disk_reads});
  Add(&json,
      "\"origin_reads\": %llu, \"origin_writes\": %llu, \"refreshes\": %llu, \"changes\": %llu, "
      "\"top_keys\": [",
      ULL{stats.origin_reads}, ULL{stats.origin_writes}, ULL{stats.refreshes}, ULL{stats.changes});
  const Insight insight = this->insight();
  for (const Insight::Key& key : insight.top_keys) {
    if (json.back() == '}') json += ", ";
    json += "{\"key\": \"" + Escaped(key.name) + "\", ";
    Add(&json, "\"reads\": %llu}", ULL{key.reads});
  }
  json += "], \"miss_ratio_curve\": [";
  for (const Insight::Point& point : insight.miss_ratio_curve) {
    if (json.back() == '}') json += ", ";
    Add(&json, "{\"entries\": %llu, \"miss_ratio\": %.6f}", ULL{point.entries}, point.miss_ratio);
  }
  return json + "]}";
}

}  // namespace edge::kv
