// Namespaces behind namespaces: changes flow down, the last write wins.
#include <map>
#include <random>

#include "edge/base/executor.h"
#include "tests/kv/support.h"

using namespace edge;      // NOLINT
using namespace edge::kv;  // NOLINT

namespace {

// Two regions before one central store, two edges before the first.
struct Regions {
  explicit Regions(Options options = {.fresh_for_s = 60}) {
    options.clock = &clock;
    options.hot_bytes_max = 256 << 10;
    central->watchable = true;
    near_region.emplace(Namespace::Open(central, options).value());
    far_region.emplace(Namespace::Open(central, options).value());
    edge_a.emplace(Namespace::Open(near_region->AsOrigin(), options).value());
    edge_b.emplace(Namespace::Open(near_region->AsOrigin(), options).value());
  }
  FakeClock clock;
  std::shared_ptr<ProbeOrigin> central = std::make_shared<ProbeOrigin>();
  std::optional<Namespace> near_region, far_region, edge_a, edge_b;
};

}  // namespace

TEST_CASE("a miss at the edge is answered by the region", "[kv][tier]") {
  Regions world;
  REQUIRE(world.central->behind.Put("k", {.value = "one", .metadata = "{}"}).ok());
  REQUIRE(world.edge_a->Get("k").value() == "one");
  REQUIRE(world.central->gets == 1);
  const auto got = world.edge_b->GetWithMetadata("k").value();
  REQUIRE(got->value == "one");
  REQUIRE(got->metadata == "{}");
  REQUIRE(world.central->gets == 1);
  REQUIRE(world.near_region->stats().hits == 1);
  const auto many = world.edge_b->GetMany({"k", "none"}).value();
  REQUIRE(many[0] == "one");
  REQUIRE(!many[1]);
}

TEST_CASE("a write anywhere reaches every tier at once when its message does", "[kv][tier]") {
  Regions world({.fresh_for_s = kForever});
  REQUIRE(world.edge_a->Put("k", "one").ok());
  REQUIRE(world.edge_a->Get("k").value() == "one");
  REQUIRE(world.central->gets == 0);  // its own write stayed hot, echo or not
  REQUIRE(world.edge_b->Get("k").value() == "one");
  REQUIRE(world.far_region->Get("k").value() == "one");
  REQUIRE(world.far_region->Put("k", "two").ok());
  for (Namespace* kv : {&*world.edge_a, &*world.edge_b, &*world.near_region, &*world.far_region}) {
    REQUIRE(kv->Get("k").value() == "two");
  }
  REQUIRE(world.edge_b->Delete("k").ok());
  for (Namespace* kv : {&*world.edge_a, &*world.edge_b, &*world.near_region, &*world.far_region}) {
    REQUIRE(!kv->Get("k").value());
  }
}

TEST_CASE("a write after another wins, however wrong the clocks", "[kv][tier]") {
  const auto central = std::make_shared<MemoryOrigin>();
  FakeClock ahead(1'000'000);
  FakeClock behind(1000);
  auto first = Namespace::Open(central, {.hot_bytes_max = 256 << 10, .clock = &ahead}).value();
  REQUIRE(first.Put("k", "one").ok());
  auto second = Namespace::Open(central, {.hot_bytes_max = 256 << 10, .clock = &behind}).value();
  REQUIRE(second.Put("k", "two").ok());
  REQUIRE(second.Get("k").value() == "two");
  REQUIRE(first.Get("k").value() == "two");
  REQUIRE(second.Delete("k").ok());
  REQUIRE(!first.Get("k").value());
  // A message that was long on its way: older than the deletion.
  const Version late = Version{900'000'000} << 16;
  REQUIRE(central->Put("k", {.value = "late", .version = late}).value() > late);
  REQUIRE(!first.Get("k").value());
}

TEST_CASE("an origin that may have missed changes makes everything be asked for again",
          "[kv][tier]") {
  class Gap final : public Origin {
   public:
    StatusOr<std::optional<Entry>> Get(std::string_view key) override { return behind.Get(key); }
    StatusOr<Version> Put(std::string_view key, const EntryView& entry) override {
      return behind.Put(key, entry);
    }
    StatusOr<Version> Delete(std::string_view key, Version version) override {
      return behind.Delete(key, version);
    }
    StatusOr<OriginListPage> List(const OriginListQuery& query) override {
      return behind.List(query);
    }
    StatusOr<std::unique_ptr<Subscription>> Watch(OnChange on_change) override {
      return watchers.Add(std::move(on_change));
    }
    MemoryOrigin behind;
    Watchers watchers;
  };
  FakeClock clock;
  const auto origin = std::make_shared<Gap>();
  auto kv = Namespace::Open(origin, {.hot_bytes_max = 256 << 10, .clock = &clock}).value();
  auto below =
      Namespace::Open(kv.AsOrigin(), {.hot_bytes_max = 256 << 10, .clock = &clock}).value();
  REQUIRE(origin->behind.Put("k", {.value = "one"}).ok());
  REQUIRE(below.Get("k").value() == "one");
  REQUIRE(origin->behind.Put("k", {.value = "two"}).ok());
  REQUIRE(below.Get("k").value() == "one");  // nobody told it
  clock.Advance(1000);
  origin->watchers.Notify("", 0);
  clock.Advance(1000);
  REQUIRE(below.Get("k").value() == "two");
  clock.Advance(1000);
  REQUIRE(origin->behind.Put("k", {.value = "three"}).ok());
  REQUIRE(below.Get("k").value() == "two");  // and fresh again
}

TEST_CASE("tiers agree with a map while every message arrives", "[kv][tier][property]") {
  const auto seed = GENERATE(range(1u, 9u));
  CAPTURE(seed);
  std::mt19937 rng(seed);
  Regions world({.fresh_for_s = kForever});
  Namespace* nodes[] = {&*world.edge_a, &*world.edge_b, &*world.near_region, &*world.far_region};
  std::map<std::string, std::string> model;
  for (int step = 0; step < 5000; ++step) {
    Namespace& kv = *nodes[rng() % 4];
    const std::string key = "k" + std::to_string(rng() % 50);
    switch (rng() % 6) {
      case 0:
        model[key] = std::to_string(step) + std::string(rng() % 5000, '.');
        REQUIRE(kv.Put(key, model[key]).ok());
        break;
      case 1:
        model.erase(key);
        REQUIRE(kv.Delete(key).ok());
        break;
      case 2:
        REQUIRE(kv.List({.limit = 1000}).value().keys.size() == model.size());
        break;
      default: {
        const auto got = kv.Get(key).value();
        REQUIRE(got.has_value() == model.contains(key));
        if (got) REQUIRE(*got == model[key]);
      }
    }
    if (rng() % 100 == 0) world.clock.Advance(static_cast<int64_t>(rng() % 5000));
  }
}
