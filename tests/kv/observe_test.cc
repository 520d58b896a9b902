#include "kv/observe.h"

#include <random>

#include "tests/kv/support.h"

using namespace edge;      // NOLINT
using namespace edge::kv;  // NOLINT

TEST_CASE("the keys that are read most are found", "[kv][observe]") {
  World world;
  for (int i = 0; i < 500; ++i) REQUIRE(world.kv->Put("key" + std::to_string(i), "v").ok());
  std::mt19937 rng(1);
  std::string value;
  for (int i = 0; i < 300'000; ++i) {
    const uint64_t k = rng() % 4 == 0 ? rng() % 500 : rng() % 2;
    REQUIRE(world.kv->GetInto("key" + std::to_string(k), &value).value());
  }
  const Insight insight = world.kv->insight();
  REQUIRE(insight.top_keys.size() >= 2);
  REQUIRE(insight.top_keys[0].name.size() == 4);
  REQUIRE(insight.top_keys[1].name.size() == 4);
  REQUIRE(insight.top_keys[0].reads > 60'000);
  const Stats stats = world.kv->stats();
  REQUIRE(stats.hot.hits == 300'000);
  REQUIRE(stats.hot.bytes == 300'000);
  REQUIRE(stats.hot.latency_ns_p50 > 0);
  REQUIRE(stats.hot.latency_ns_p999 >= stats.hot.latency_ns_p50);
}

TEST_CASE("the miss ratio curve is that of an LRU cache", "[kv][observe]") {
  // 64 sampled keys in turn: an LRU cache of fewer of them misses all, one of more only once.
  Shadow shadow;
  for (int round = 0; round < 100; ++round) {
    for (uint64_t key = 1; key <= 64; ++key) shadow.Add(&key, 1);
  }
  for (const Insight::Point& point : shadow.Curve()) {
    if (point.entries < 64 * Shadow::kSampling) {
      REQUIRE(point.miss_ratio == 1);
    } else {
      REQUIRE(point.miss_ratio == Approx(0.01));
    }
  }
}

TEST_CASE("the pages name every tier", "[kv][observe]") {
  World world;
  REQUIRE(world.kv->Put("a\"b", "v").ok());
  REQUIRE(world.kv->Get("a\"b").ok());
  REQUIRE(!world.kv->Get("none").value());
  const std::string page = world.kv->StatsText();
  const std::string json = world.kv->StatsJson();
  for (const char* tier : {"hot", "disk", "origin"}) {
    REQUIRE(page.find(tier) != std::string::npos);
    REQUIRE(json.find("\"" + std::string(tier) + "\": {") != std::string::npos);
  }
  REQUIRE(json.find("\"misses\": 1") != std::string::npos);
}
