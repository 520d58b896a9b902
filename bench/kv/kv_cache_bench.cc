// Hit ratios on recorded requests, the disk tier, misses that meet, and the tail.
#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>
#include <random>
#include <string>
#include <unordered_set>
#include <vector>

#include "bench/bench.h"
#include "bench/kv/policies.h"
#include "edge/kv/memory_origin.h"
#include "edge/kv/namespace.h"

namespace {

using edge::bench::Better;
using edge::bench::Sample;

// Big-endian numbers of 32 bits; empty if the file is not there.
std::vector<uint32_t> ReadTrace(const std::string& name) {
  const std::string path = std::string(EDGE_SOURCE_DIR) + "/../shared/data/traces/" + name;
  std::vector<uint32_t> keys;
  if (!std::filesystem::exists(path)) return keys;
  FILE* in = popen(("xz -dc '" + path + "'").c_str(), "r");
  if (in == nullptr) return keys;
  unsigned char bytes[4];
  while (std::fread(bytes, 1, 4, in) == 4) {
    keys.push_back(static_cast<uint32_t>(bytes[0]) << 24 | static_cast<uint32_t>(bytes[1]) << 16 |
                   static_cast<uint32_t>(bytes[2]) << 8 | bytes[3]);
  }
  pclose(in);
  return keys;
}

// Every key is there, with a value of one size.
class FullOrigin final : public edge::kv::Origin {
 public:
  explicit FullOrigin(size_t value_bytes) : value_(value_bytes, 'v') {}
  edge::StatusOr<std::optional<edge::kv::Entry>> Get(std::string_view) override {
    return std::optional<edge::kv::Entry>(edge::kv::Entry{value_, "", 0, 0});
  }
  edge::StatusOr<edge::kv::Version> Put(std::string_view, const edge::kv::EntryView& e) override {
    return e.version;
  }
  edge::StatusOr<edge::kv::Version> Delete(std::string_view, edge::kv::Version v) override {
    return v;
  }
  edge::StatusOr<edge::kv::OriginListPage> List(const edge::kv::OriginListQuery&) override {
    return edge::kv::OriginListPage{};
  }

 private:
  std::string value_;
};

struct Ratio {
  double percent = 0;
  double entries = 0;  // resident, on average over the second half
};

Ratio Replay(const std::vector<uint32_t>& trace, size_t value_bytes, uint64_t hot_bytes) {
  auto kv = edge::kv::Namespace::Open(std::make_shared<FullOrigin>(value_bytes),
                                      {.hot_bytes_max = hot_bytes, .shard_count = 1})
                .value();
  std::string value;
  Ratio ratio;
  size_t samples = 0;
  for (size_t i = 0; i < trace.size(); ++i) {
    char key[9];
    std::snprintf(key, sizeof(key), "%08x", trace[i]);
    if (!kv.GetInto({key, 8}, &value).value()) std::abort();
    if (i * 2 > trace.size() && i % 1024 == 0) {
      ratio.entries += static_cast<double>(kv.stats().entries);
      ++samples;
    }
  }
  ratio.percent = 100 * kv.stats().hit_ratio();
  ratio.entries /= static_cast<double>(std::max<size_t>(samples, 1));
  return ratio;
}

// As many bytes as hold `entries` on average, no more.
Ratio ReplayWithRoomFor(const std::vector<uint32_t>& trace, size_t entries) {
  // The smallest tier has 256 KiB: few entries must be large ones, each in a page of its own.
  const size_t value_bytes = entries < 400 ? 3900 : 560;
  const size_t each = entries < 400 ? 4200 : 605;
  auto hot_bytes = static_cast<double>(std::max<uint64_t>(entries * each, 256 << 10));
  const auto wanted = static_cast<double>(entries);
  Ratio best;
  for (int attempt = 0; attempt < 8; ++attempt) {
    const Ratio ratio = Replay(trace, value_bytes, static_cast<uint64_t>(hot_bytes));
    if (ratio.entries <= wanted && ratio.percent > best.percent) best = ratio;
    if (ratio.entries <= wanted && ratio.entries > 0.99 * wanted) break;
    hot_bytes = std::max(hot_bytes + (0.996 * wanted - ratio.entries) * static_cast<double>(each),
                         262144.0);
  }
  return best;
}

void HitRatios(edge::bench::Suite& suite) {
  if (!suite.Wants("kv/hit_ratio/web12/1") && !suite.Wants("kv/hit_ratio/orm-busy/1")) return;
  for (const char* name : {"web12", "orm-busy"}) {
    const std::vector<uint32_t> trace = ReadTrace(std::string(name) + ".trace.xz");
    if (trace.empty()) {
      std::fprintf(stderr, "kv/hit_ratio: no trace %s\n", name);
      continue;
    }
    const size_t unique = std::unordered_set<uint32_t>(trace.begin(), trace.end()).size();
    for (const size_t percent : {1, 5, 10}) {
      const std::string row = std::string("kv/hit_ratio/") + name + "/" + std::to_string(percent);
      if (!suite.Wants(row)) continue;
      const size_t entries = unique * percent / 100;
      double best = 0;
      std::string best_name;
      for (auto& [policy_name, policy] : edge::bench::AllPolicies(entries)) {
        size_t hits = 0;
        for (const uint32_t key : trace) hits += policy->Access(key) ? 1 : 0;
        const double ratio = 100 * static_cast<double>(hits) / static_cast<double>(trace.size());
        std::fprintf(stderr, "  %s %.2f", policy_name.c_str(), ratio);
        if (ratio > best) {
          best = ratio;
          best_name = policy_name;
        }
      }
      const Ratio ours = ReplayWithRoomFor(trace, entries);
      std::fprintf(stderr, "\n  ours %.2f with %.0f of %zu entries: %+.2f points\n", ours.percent,
                   ours.entries, entries, ours.percent - best);
      suite.Row(
          {.name = row,
           .peer_name = "best of 7: " + best_name,
           .unit = "%",
           .better = Better::kHigher,
           .repetitions = 1},
          [&] {
            return Sample{ours.percent, 0};
          },
          [&] {
            return Sample{best, 0};
          });
    }
  }
}

double NowNs() {
  timespec time{};
  clock_gettime(CLOCK_MONOTONIC, &time);
  return static_cast<double>(time.tv_sec) * 1e9 + static_cast<double>(time.tv_nsec);
}

// 40,000 values of 4 KiB, hot room for a few of them. The peer knows where each record lies.
void DiskHits(edge::bench::Suite& suite) {
  if (!suite.Wants("kv/disk_hit")) return;
  constexpr int kEntries = 40'000;
  constexpr size_t kValueBytes = 4096;
  std::string folder = (std::filesystem::temp_directory_path() / "edge-bench-XXXXXX").string();
  if (mkdtemp(folder.data()) == nullptr) std::abort();
  {
    auto kv =
        edge::kv::Namespace::Open(std::make_shared<FullOrigin>(kValueBytes),
                                  {.hot_bytes_max = 8 << 20, .disk_directory = folder + "/cache"})
            .value();
    std::string value;
    const auto key_of = [](uint32_t i) { return "some-key-" + std::to_string(1'000'000 + i); };
    std::vector<std::string> keys;
    for (uint32_t i = 0; i < kEntries; ++i) keys.push_back(key_of(i));
    for (const std::string& key : keys) {
      if (!kv.GetInto(key, &value).value()) std::abort();
    }
    // The peer's file: the same records, as long as ours.
    const size_t record = (32 + keys[0].size() + kValueBytes + 15) / 16 * 16;
    const int file = open((folder + "/peer").c_str(), O_RDWR | O_CREAT, 0600);
    for (int i = 0; i < kEntries; ++i) {
      if (pwrite(file, std::string(record, 'v').data(), record, i * static_cast<off_t>(record)) <
          0) {
        std::abort();
      }
    }
    std::mt19937 rng(1);
    std::vector<uint32_t> order(20'000);
    for (uint32_t& i : order) i = static_cast<uint32_t>(rng() % kEntries);
    const uint64_t before = kv.stats().origin_reads;
    suite.Row(
        {.name = "kv/disk_hit", .peer_name = "one pread of the record", .unit = "ns"},
        [&] {
          Sample sample;
          const double start = NowNs();
          for (const uint32_t i : order) {
            if (!kv.GetInto(keys[i], &value).value()) std::abort();
            sample.answer += static_cast<unsigned char>(value[kValueBytes / 2]);
          }
          sample.figure = (NowNs() - start) / static_cast<double>(order.size());
          return sample;
        },
        [&] {
          Sample sample;
          std::string bytes(record, '\0');
          const double start = NowNs();
          for (const uint32_t i : order) {
            if (pread(file, bytes.data(), record, i * static_cast<off_t>(record)) < 0) std::abort();
            value.assign(bytes.data() + 32, kValueBytes);
            sample.answer += static_cast<unsigned char>(value[kValueBytes / 2]);
          }
          sample.figure = (NowNs() - start) / static_cast<double>(order.size());
          return sample;
        });
    const edge::kv::Stats stats = kv.stats();
    std::fprintf(
        stderr, "%-28s %llu origin reads meanwhile, %.1f bytes of memory an entry\n", "",
        static_cast<unsigned long long>(stats.origin_reads - before),
        static_cast<double>(stats.disk_memory_bytes) / static_cast<double>(stats.disk_entries));
    close(file);
  }
  std::filesystem::remove_all(folder);
}

// Ten thousand callers want one key before the origin has answered any.
void Coalesce(edge::bench::Suite& suite) {
  class Late final : public edge::kv::AsyncOrigin {
   public:
    void StartGetMany(std::vector<std::string>, GetManyDone done) override {
      waiting.push_back(std::move(done));
    }
    void StartPut(std::string, edge::kv::Entry entry, WriteDone done) override {
      done(entry.version);
    }
    void StartDelete(std::string, edge::kv::Version version, WriteDone done) override {
      done(version);
    }
    void StartList(edge::kv::OriginListQuery, ListDone done) override {
      done(edge::kv::OriginListPage{});
    }
    std::vector<GetManyDone> waiting;
  };
  constexpr int kCallers = 10'000;
  suite.Row(
      {.name = "kv/coalesce",
       .peer_name = "a fetch for each miss",
       .unit = "fetches",
       .repetitions = 5},
      [] {
        const auto origin = std::make_shared<Late>();
        auto kv = edge::kv::Namespace::Open(origin, {.hot_bytes_max = 256 << 10}).value();
        Sample sample;
        for (int i = 0; i < kCallers; ++i) {
          kv.GetAsync("key", {}, [&sample](auto got) {
            if ((*got)->value == "v") ++sample.answer;
          });
        }
        sample.figure = static_cast<double>(origin->waiting.size());
        for (auto& done : origin->waiting) {
          std::vector<std::optional<edge::kv::Entry>> entries(1);
          entries[0] = edge::kv::Entry{"v", "", 0, 0};
          done(std::move(entries));
        }
        return sample;
      },
      [] {
        return Sample{kCallers, kCallers};
      });
}

// One thread; 10 % puts; keys of which a tenth fits, so that each miss and put evicts.
void Tail(edge::bench::Suite& suite) {
  if (!suite.Wants("kv/tail")) return;
  constexpr uint32_t kKeys = 200'000;
  auto kv = edge::kv::Namespace::Open(std::make_shared<FullOrigin>(100), {.hot_bytes_max = 4 << 20})
                .value();
  std::vector<std::string> keys;
  for (uint32_t i = 0; i < kKeys; ++i) keys.push_back("some-key-" + std::to_string(1'000'000 + i));
  std::mt19937 rng(1);
  const std::string text(100, 'w');
  std::string value;
  double p50 = 0;
  const auto run = [&] {
    std::vector<float> took;
    took.reserve(500'000);
    while (took.size() < 500'000) {
      // Squared: some keys come much more often than others.
      const double u = static_cast<double>(rng()) / 4294967296.0;
      const auto k = static_cast<size_t>(u * u * u * kKeys);
      if (rng() % 10 == 0) {
        if (!kv.Put(keys[k], text).ok()) std::abort();
        continue;
      }
      const double start = NowNs();
      if (!kv.GetInto(keys[k], &value).value()) std::abort();
      took.push_back(static_cast<float>(NowNs() - start));
    }
    std::ranges::sort(took);
    p50 = took[took.size() / 2];
    return Sample{took[took.size() * 999 / 1000], 0};
  };
  suite.Row({.name = "kv/tail", .peer_name = "6 x own p50 (ours: p99.9)", .unit = "ns"}, run, [&] {
    return Sample{6 * p50, 0};
  });
  std::fprintf(stderr, "%-28s hit ratio %.3f\n", "", kv.stats().hit_ratio());
}

}  // namespace

int main(int argc, char** argv) {
  edge::bench::Suite suite(argc, argv);
  HitRatios(suite);
  DiskHits(suite);
  Coalesce(suite);
  Tail(suite);
  return 0;
}
