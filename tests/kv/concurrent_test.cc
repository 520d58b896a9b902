// Threads on one namespace. Meant for ThreadSanitizer, and true without it.
#include <atomic>
#include <random>
#include <thread>

#include "tests/kv/support.h"

using namespace edge;      // NOLINT
using namespace edge::kv;  // NOLINT

namespace {

// A value that names its key and version, and cannot be mistaken if torn.
std::string ValueOf(int key, uint64_t version) {
  std::string value = std::to_string(key) + "/" + std::to_string(version) + "/";
  const size_t size = 20 + (version * 37 + static_cast<uint64_t>(key)) % 300;
  while (value.size() < size) value += static_cast<char>('a' + (version + value.size()) % 26);
  return value;
}

// The version in `value`, or nothing if it is not a value of `key`.
std::optional<uint64_t> VersionOf(int key, const std::string& value) {
  const std::string start = std::to_string(key) + "/";
  if (!value.starts_with(start)) return std::nullopt;
  const uint64_t version = std::strtoull(value.c_str() + start.size(), nullptr, 10);
  if (value != ValueOf(key, version)) return std::nullopt;
  return version;
}

}  // namespace

TEST_CASE("each thread sees versions of a key only go forward", "[kv][threads]") {
  constexpr int kKeys = 2400;
  constexpr int kThreads = 4;
  constexpr int kSteps = 20'000;
  World world({.hot_bytes_max = 256 << 10, .shard_count = 1});
  std::atomic<uint64_t> written[kKeys] = {};  // the newest version whose Put has returned
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937 rng(static_cast<unsigned>(t) + 1);
      std::vector<uint64_t> seen(kKeys, 0);
      std::string buffer;
      std::optional<PinnedValue> pin;
      for (int step = 0; step < kSteps; ++step) {
        const int key = static_cast<int>(rng() % kKeys);
        const std::string name = "key" + std::to_string(key);
        auto& newest = written[key];
        if (key % kThreads == t && rng() % 4 == 0) {  // each key has one writer
          const uint64_t version = newest.load() + 1;
          if (!world.kv->Put(name, ValueOf(key, version)).ok()) ++wrong;
          newest.store(version);
          continue;
        }
        const uint64_t before = newest.load();
        bool found = false;
        if (rng() % 8 == 0) {
          pin = world.kv->Pin(name).value();
          found = pin.has_value();
          if (found) buffer = pin->value();
        } else {
          found = world.kv->GetInto(name, &buffer).value();
        }
        const std::optional<uint64_t> version = found ? VersionOf(key, buffer) : 0;
        auto& last = seen[static_cast<size_t>(key)];
        if (!version || *version < before || *version < last) ++wrong;
        if (version) last = *version;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  REQUIRE(wrong == 0);
  const Stats stats = world.kv->stats();
  REQUIRE(stats.evictions > 0);
  REQUIRE(stats.bytes <= stats.bytes_max);
}

TEST_CASE("writers of one key leave the tier and the origin alike", "[kv][threads]") {
  World world;
  for (int round = 0; round < 200; ++round) {
    std::vector<std::thread> threads;
    for (int t = 0; t < 3; ++t) {
      threads.emplace_back([&, t] {
        if (t == 2) {
          (void)world.kv->Get("key");
        } else if (t == 1 && round % 3 == 0) {
          (void)world.kv->Delete("key");
        } else {
          (void)world.kv->Put("key", std::to_string(round) + "/" + std::to_string(t));
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    const auto behind = world.origin->behind.Get("key").value();
    const auto seen = world.kv->Get("key").value();
    REQUIRE(seen.has_value() == behind.has_value());
    if (seen) REQUIRE(*seen == behind->value);
  }
}

TEST_CASE("however many threads miss a key, the origin is asked once", "[kv][threads]") {
  constexpr int kThreads = 48;
  World world;
  REQUIRE(world.origin->behind.Put("key", {"value"}).ok());
  world.origin->Close();
  std::atomic<int> right{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      if (t % 3 == 0) {
        const auto values = world.kv->GetMany({"key"});
        if (values.ok() && (*values)[0] == "value") ++right;
      } else {
        const auto value = world.kv->Get("key");
        if (value.ok() && *value == "value") ++right;
      }
    });
  }
  world.origin->AwaitHeld(1);
  world.origin->Open();
  for (std::thread& thread : threads) thread.join();
  REQUIRE(right == kThreads);
  REQUIRE(world.origin->gets + world.origin->get_manys == 1);
  REQUIRE(world.kv->stats().origin_reads == 1);
}

TEST_CASE("a put during a fetch is not undone by its answer", "[kv][threads]") {
  World world;
  REQUIRE(world.origin->behind.Put("key", {"old"}).ok());
  world.origin->Close();
  std::thread reader([&] { (void)world.kv->Get("key"); });
  world.origin->AwaitHeld(1);
  REQUIRE(world.kv->Put("key", "new").ok());
  REQUIRE(world.kv->Get("key").value() == std::optional<std::string>("new"));
  world.origin->Open();
  reader.join();
  REQUIRE(world.kv->Get("key").value() == std::optional<std::string>("new"));
  REQUIRE(world.origin->gets == 1);
}

TEST_CASE("an error reaches everybody who waited, and the next one asks again", "[kv][threads]") {
  World world;
  world.origin->Close();
  world.origin->SetFailure(Unavailable("away"));
  std::atomic<int> errors{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&] {
      if (world.kv->Get("key").status().code() == StatusCode::kUnavailable) ++errors;
    });
  }
  world.origin->AwaitHeld(1);
  world.origin->Open();
  for (std::thread& thread : threads) thread.join();
  REQUIRE(errors == 8);
  world.origin->SetFailure(OkStatus());
  REQUIRE(!world.kv->Get("key").value());
}

TEST_CASE("bulk reads that want each other's keys do not wait for ever", "[kv][threads]") {
  World world;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937 rng(static_cast<unsigned>(t));
      for (int round = 0; round < 300; ++round) {
        std::vector<std::string> names;
        for (int i = 0; i < 10; ++i) {
          names.push_back(std::to_string(round) + ":" + std::to_string(rng() % 20));
        }
        const std::vector<std::string_view> keys(names.begin(), names.end());
        (void)world.kv->GetMany(keys);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  REQUIRE(world.kv->stats().misses >= world.kv->stats().origin_reads);
}

TEST_CASE("threads come and go, and their hits stay counted", "[kv][threads]") {
  World world;
  REQUIRE(world.kv->Put("key", "v").ok());
  for (int i = 0; i < 100; ++i) {
    std::thread([&] { (void)world.kv->Get("key"); }).join();
  }
  REQUIRE(world.kv->stats().hits == 100);
}
