// The hot tier beside the plainest things that do less.
//
// 100,000 entries, 16-byte keys, 100-byte values, zipf 0.99. Ours has every feature on: all
// entries expire (so that the clock is read), full keys are compared, hits are counted for
// the policy and for the statistics. The naked map has a key of fixed size, nothing else to
// do, and one thread's protection: none.
#include <malloc.h>
#include <time.h>

#include <array>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <list>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "bench/bench.h"
#include "bench/kv/peers.h"
#include "edge/kv/memory_origin.h"
#include "edge/kv/namespace.h"

namespace {

using edge::bench::Better;
using edge::bench::Sample;

constexpr uint32_t kEntries = 100'000;
constexpr size_t kGets = 1 << 20;
constexpr size_t kValueBytes = 100;

// Sixteen ASCII bytes.
struct Key {
  std::array<uint64_t, 2> words;
  friend bool operator==(const Key&, const Key&) = default;
  template <typename H>
  friend H AbslHashValue(H state, const Key& key) {
    return H::combine(std::move(state), key.words[0], key.words[1]);
  }
  std::string_view view() const { return {reinterpret_cast<const char*>(words.data()), 16}; }
};

// The 8 hexadecimal digits of a scrambled `i` behind a constant: about 2 ns.
inline Key KeyOf(uint32_t i) {
  uint64_t x = i * 0x9E3779B1u;
  x = (x | x << 16) & 0x0000ffff0000ffff;
  x = (x | x << 8) & 0x00ff00ff00ff00ff;
  x = (x | x << 4) & 0x0f0f0f0f0f0f0f0f;
  return {{0x3a79656b3a656764, x + 0x4141414141414141}};
}

std::string ValueOf(uint32_t i) {
  std::string value(kValueBytes, 'v');
  std::memcpy(value.data(), &i, sizeof(i));
  return value;
}

inline uint64_t Digest(const char* value) {
  uint32_t i;
  std::memcpy(&i, value, sizeof(i));
  return i * 0x9E3779B97F4A7C15u >> 7;
}

// Zipf by inversion of the summed weights. The ranks are scattered over the keys.
std::vector<uint32_t> Zipf(uint32_t population, double exponent, size_t count, uint64_t seed) {
  std::vector<double> sums(population);
  double sum = 0;
  for (uint32_t i = 0; i < population; ++i) sums[i] = sum += std::pow(i + 1.0, -exponent);
  std::mt19937_64 random(seed);
  std::uniform_real_distribution<double> uniform(0, sum);
  std::vector<uint32_t> drawn(count);
  for (uint32_t& rank : drawn) {
    rank = static_cast<uint32_t>(std::ranges::lower_bound(sums, uniform(random)) - sums.begin());
    rank = std::min(rank, population - 1);
  }
  return drawn;
}

// What somebody writes in an afternoon: one lock, one list, one map.
class MutexLru {
 public:
  explicit MutexLru(size_t entries_max) : entries_max_(entries_max) { map_.reserve(entries_max); }
  bool Get(const Key& key, std::string* value) {
    const std::scoped_lock lock(mutex_);
    const auto it = map_.find(key);
    if (it == map_.end()) return false;
    list_.splice(list_.begin(), list_, it->second);
    value->assign(it->second->value);
    return true;
  }
  void Put(const Key& key, std::string value) {
    const std::scoped_lock lock(mutex_);
    if (map_.size() == entries_max_) {
      map_.erase(list_.back().key);
      list_.pop_back();
    }
    list_.push_front({key, std::move(value)});
    map_[key] = list_.begin();
  }

 private:
  struct Entry {
    Key key;
    std::string value;
  };
  std::mutex mutex_;
  size_t entries_max_;
  std::list<Entry> list_;
  absl::flat_hash_map<Key, std::list<Entry>::iterator> map_;
};

using NakedMap = absl::flat_hash_map<Key, std::unique_ptr<std::array<char, kValueBytes>>>;

// An origin that makes the value from the key's number, hidden in a table.
class TableOrigin final : public edge::kv::Origin {
 public:
  explicit TableOrigin(uint32_t population) {
    map_.reserve(population);
    for (uint32_t i = 0; i < population; ++i) map_.emplace(KeyOf(i), i);
  }
  edge::StatusOr<std::optional<edge::kv::Entry>> Get(std::string_view key) override {
    return std::optional<edge::kv::Entry>(edge::kv::Entry{Value(ToKey(key)), "", 0});
  }
  edge::StatusOr<edge::kv::Version> Put(std::string_view,
                                        const edge::kv::EntryView& entry) override {
    return entry.version;
  }
  edge::StatusOr<edge::kv::Version> Delete(std::string_view, edge::kv::Version version) override {
    return version;
  }
  edge::StatusOr<edge::kv::OriginListPage> List(const edge::kv::OriginListQuery&) override {
    return edge::kv::OriginListPage{};
  }
  std::string Value(const Key& key) const { return ValueOf(map_.find(key)->second); }

 private:
  static Key ToKey(std::string_view key) {
    Key copy;
    std::memcpy(copy.words.data(), key.data(), 16);
    return copy;
  }
  absl::flat_hash_map<Key, uint32_t> map_;
};

size_t HeapBytes() {
  const struct mallinfo2 info = mallinfo2();
  return info.uordblks + info.hblkhd;
}

edge::kv::Namespace MakeFull(uint32_t entries, uint64_t hot_bytes_max) {
  auto kv = edge::kv::Namespace::Open(std::make_shared<edge::kv::MemoryOrigin>(),
                                      {.hot_bytes_max = hot_bytes_max})
                .value();
  for (uint32_t i = 0; i < entries; ++i) {
    const edge::Status put = kv.Put(KeyOf(i).view(), ValueOf(i), {.expiration_ttl_s = 86'400});
    if (!put.ok()) std::abort();
  }
  return kv;
}

double ThreadNs() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) * 1e9 + static_cast<double>(time.tv_nsec);
}

// Runs work(thread) on each thread at once; the sample is ns per operation and thread, of the
// slower one. In processor time: what else the machine runs does not count, nor does, in the
// peer's favour, waiting for a lock.
template <typename Work>
Sample RunThreads(int threads, size_t operations, Work work) {
  std::vector<uint64_t> answers(static_cast<size_t>(threads));
  std::atomic<int> ready{0};
  std::vector<double> took_ns(static_cast<size_t>(threads));
  std::vector<std::thread> running;
  for (int t = 0; t < threads; ++t) {
    running.emplace_back([&, t] {
      ready.fetch_add(1);
      while (ready.load() < threads) std::this_thread::yield();
      const double start = ThreadNs();
      answers[static_cast<size_t>(t)] = work(t);
      took_ns[static_cast<size_t>(t)] = ThreadNs() - start;
    });
  }
  for (std::thread& thread : running) thread.join();
  Sample sample;
  for (const double ns : took_ns) sample.figure = std::max(sample.figure, ns);
  sample.figure /= static_cast<double>(operations);
  for (const uint64_t answer : answers) sample.answer += answer;
  return sample;
}

// One thread's work, in the same way.
template <typename Work>
Sample Run(size_t operations, Work work) {
  Sample sample;
  const double start = ThreadNs();
  sample.answer = work();
  sample.figure = (ThreadNs() - start) / static_cast<double>(operations);
  return sample;
}

uint64_t GetAll(edge::kv::Namespace& kv, const std::vector<uint32_t>& order) {
  std::string value;
  uint64_t sum = 0;
  for (const uint32_t i : order) {
    if (!kv.GetInto(KeyOf(i).view(), &value).value()) std::abort();
    sum += Digest(value.data());
  }
  return sum;
}

uint64_t GetAll(const NakedMap& map, const std::vector<uint32_t>& order) {
  std::string value;
  uint64_t sum = 0;
  for (const uint32_t i : order) {
    const auto it = map.find(KeyOf(i));
    if (it == map.end()) std::abort();
    value.assign(it->second->data(), kValueBytes);
    sum += Digest(value.data());
  }
  return sum;
}

uint64_t GetAll(edge::bench::PeerCache& cache, const std::vector<uint32_t>& order) {
  std::string value;
  uint64_t sum = 0;
  for (const uint32_t i : order) {
    if (!cache.Get(KeyOf(i).view(), &value)) std::abort();
    sum += Digest(value.data());
  }
  return sum;
}

}  // namespace

int main(int argc, char** argv) {
  edge::bench::Suite suite(argc, argv);
  const std::vector<uint32_t> order = Zipf(kEntries, 0.99, kGets, 1);
  const std::vector<uint32_t> order_2 = Zipf(kEntries, 0.99, kGets, 2);
  const std::vector<uint32_t> one_key(kGets, order[0]);
  auto kv = MakeFull(kEntries, 64 << 20);
  NakedMap naked;
  MutexLru lru(kEntries);
  for (uint32_t i = 0; i < kEntries; ++i) {
    const std::string value = ValueOf(i);
    auto held = std::make_unique<std::array<char, kValueBytes>>();
    std::memcpy(held->data(), value.data(), kValueBytes);
    naked.emplace(KeyOf(i), std::move(held));
    lru.Put(KeyOf(i), value);
  }

  suite.Row(
      {.name = "kv/hit", .peer_name = "absl::flat_hash_map, copying", .unit = "ns"},
      [&] { return Run(kGets, [&] { return GetAll(kv, order); }); },
      [&] { return Run(kGets, [&] { return GetAll(naked, order); }); });

  suite.Row(
      {.name = "kv/hit_owned", .peer_name = "absl::flat_hash_map, new string", .unit = "ns"},
      [&] {
        return Run(kGets, [&] {
          uint64_t sum = 0;
          for (const uint32_t i : order) {
            const auto value = kv.Get(KeyOf(i).view());
            sum += Digest((*value)->data());
          }
          return sum;
        });
      },
      [&] {
        return Run(kGets, [&] {
          uint64_t sum = 0;
          for (const uint32_t i : order) {
            const std::string value(naked.find(KeyOf(i))->second->data(), kValueBytes);
            edge::bench::KeepAlive(value.data());
            sum += Digest(value.data());
          }
          return sum;
        });
      });

  suite.Row(
      {.name = "kv/hit_pinned", .peer_name = "absl::flat_hash_map, copying", .unit = "ns"},
      [&] {
        return Run(kGets, [&] {
          uint64_t sum = 0;
          for (const uint32_t i : order) {
            const auto pin = kv.Pin(KeyOf(i).view());
            sum += Digest((*pin)->value().data());
          }
          return sum;
        });
      },
      [&] { return Run(kGets, [&] { return GetAll(naked, order); }); });

  const auto ours_2t = [&] {
    return RunThreads(2, kGets, [&](int t) { return GetAll(kv, t == 0 ? order : order_2); });
  };
  // Twice the room, so that all of its entries are there: it may evict before it is full.
  if (const auto clock = edge::bench::RocksHyperClock(2 * kEntries); clock != nullptr) {
    for (uint32_t i = 0; i < kEntries; ++i) clock->Put(KeyOf(i).view(), ValueOf(i));
    suite.Row({.name = "kv/hit_2t", .peer_name = "RocksDB HyperClockCache", .unit = "ns"}, ours_2t,
              [&] {
                return RunThreads(2, kGets,
                                  [&](int t) { return GetAll(*clock, t == 0 ? order : order_2); });
              });
  }
  suite.Row(
      {.name = "kv/hit_2t_naked", .peer_name = "absl::flat_hash_map, never written", .unit = "ns"},
      ours_2t, [&] {
        return RunThreads(2, kGets, [&](int t) { return GetAll(naked, t == 0 ? order : order_2); });
      });

  // Both sides are ours, so there is no answer to compare but that every get succeeds.
  suite.Row(
      {.name = "kv/hit_one_key", .peer_name = "own, spread keys", .unit = "ns"},
      [&] {
        Sample sample = RunThreads(2, kGets, [&](int) { return GetAll(kv, one_key); });
        sample.answer = 0;
        return sample;
      },
      [&] {
        Sample sample = ours_2t();
        sample.answer = 0;
        return sample;
      });

  suite.Row(
      {.name = "kv/bulk_100", .peer_name = "absl::flat_hash_map, copying", .unit = "ns/key"},
      [&] {
        std::vector<Key> keys(100);
        std::vector<std::string_view> views(100);
        std::vector<std::optional<std::string>> values;
        for (size_t k = 0; k < 100; ++k) views[k] = keys[k].view();
        return Run(kGets / 100 * 100, [&] {
          uint64_t sum = 0;
          for (size_t at = 0; at + 100 <= order.size(); at += 100) {
            for (size_t k = 0; k < 100; ++k) keys[k] = KeyOf(order[at + k]);
            if (!kv.GetManyInto(views, &values).ok()) std::abort();
            for (const auto& value : values) sum += Digest(value->data());
          }
          return sum;
        });
      },
      [&] {
        const std::vector<uint32_t> whole(order.begin(), order.begin() + kGets / 100 * 100);
        return Run(whole.size(), [&] { return GetAll(naked, whole); });
      });

  // 1 M keys, room for 100,000 entries on both sides.
  if (suite.Wants("kv/read_through")) {
    constexpr uint32_t kPopulation = 1'000'000;
    const std::vector<uint32_t> wide = Zipf(kPopulation, 0.99, kGets, 3);
    const auto origin = std::make_shared<TableOrigin>(kPopulation);
    auto through =
        edge::kv::Namespace::Open(origin, {.hot_bytes_max = kEntries * (16 + kValueBytes + 32)})
            .value();
    MutexLru lru_through(kEntries);
    const auto peer_through = [&](edge::bench::PeerCache& cache) {
      std::string value;
      uint64_t sum = 0;
      for (const uint32_t i : wide) {
        const Key key = KeyOf(i);
        if (!cache.Get(key.view(), &value)) {
          value = origin->Value(key);
          cache.Put(key.view(), value);
        }
        sum += Digest(value.data());
      }
      return sum;
    };
    const auto ours = [&] { return Run(kGets, [&] { return GetAll(through, wide); }); };
    suite.Row({.name = "kv/read_through", .peer_name = "LRU behind a mutex", .unit = "ns"}, ours,
              [&] {
                return Run(kGets, [&] {
                  std::string value;
                  uint64_t sum = 0;
                  for (const uint32_t i : wide) {
                    const Key key = KeyOf(i);
                    if (!lru_through.Get(key, &value)) {
                      value = origin->Value(key);
                      lru_through.Put(key, value);
                    }
                    sum += Digest(value.data());
                  }
                  return sum;
                });
              });
    struct Peer {
      const char* row;
      const char* name;
      std::unique_ptr<edge::bench::PeerCache> cache;
    };
    Peer peers[] = {
        {"kv/read_through_leveldb", "LevelDB ShardedLRUCache", edge::bench::LevelDbLru(kEntries)},
        {"kv/read_through_rocksdb", "RocksDB LRUCache", edge::bench::RocksLru(kEntries)},
        {"kv/read_through_clock", "RocksDB HyperClockCache",
         edge::bench::RocksHyperClock(kEntries)}};
    for (const Peer& peer : peers) {
      if (peer.cache == nullptr) continue;
      suite.Row({.name = peer.row, .peer_name = peer.name, .unit = "ns"}, ours,
                [&] { return Run(kGets, [&] { return peer_through(*peer.cache); }); });
    }
    const edge::kv::Stats stats = through.stats();
    std::fprintf(stderr, "%-28s hit ratio %.4f, %lu entries\n", "", stats.hit_ratio(),
                 static_cast<unsigned long>(stats.entries));
  }

  // Bytes beyond the 116 of key and value.
  suite.Row(
      {.name = "kv/memory",
       .peer_name = "absl::flat_hash_map + unique_ptr",
       .unit = "bytes",
       .repetitions = 5},
      [&] {
        const edge::kv::Namespace full = MakeFull(kEntries, 32 << 20);
        Sample sample;
        sample.figure = static_cast<double>(full.stats().bytes) / kEntries - 116;
        return sample;
      },
      [&] {
        const size_t before = HeapBytes();
        NakedMap map;
        for (uint32_t i = 0; i < kEntries; ++i) {
          map.emplace(KeyOf(i), std::make_unique<std::array<char, kValueBytes>>());
        }
        Sample sample;
        sample.figure = static_cast<double>(HeapBytes() - before) / kEntries - 116;
        return sample;
      });
  return 0;
}
