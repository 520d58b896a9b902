// Random operations against a std::map, with time moving by hand and a tier far too small.
#include <map>
#include <random>

#include "tests/kv/support.h"

using namespace edge;      // NOLINT
using namespace edge::kv;  // NOLINT

namespace {

struct ModelEntry {
  std::string value;
  std::string metadata;
  int64_t expiration_s = 0;
};

class Model {
 public:
  explicit Model(const FakeClock& clock) : clock_(clock) {}
  std::map<std::string, ModelEntry> entries;
  const ModelEntry* Find(const std::string& key) const {
    const auto it = entries.find(key);
    return it == entries.end() || IsExpired(it->second) ? nullptr : &it->second;
  }
  bool IsExpired(const ModelEntry& entry) const {
    return entry.expiration_s != 0 && entry.expiration_s * 1000 <= clock_.wall_ms();
  }

 private:
  const FakeClock& clock_;
};

void CheckList(World& world, const Model& model, const std::string& prefix, int64_t limit) {
  std::vector<ListedKey> listed;
  std::string cursor;
  for (;;) {
    const ListPage page =
        world.kv->List({.prefix = prefix, .limit = limit, .cursor = cursor}).value();
    listed.insert(listed.end(), page.keys.begin(), page.keys.end());
    if (page.list_complete) break;
    cursor = page.cursor;
  }
  size_t at = 0;
  for (const auto& [key, entry] : model.entries) {
    if (!key.starts_with(prefix) || model.IsExpired(entry)) continue;
    REQUIRE(at < listed.size());
    REQUIRE(listed[at].name == key);
    REQUIRE(listed[at].expiration_s == entry.expiration_s);
    REQUIRE(listed[at].metadata == entry.metadata);
    ++at;
  }
  REQUIRE(at == listed.size());
}

}  // namespace

TEST_CASE("a namespace agrees with a plain map", "[kv][property]") {
  const auto seed = GENERATE(range(1u, 25u));
  CAPTURE(seed);
  std::mt19937 rng(seed);
  // Room for a fraction of the values: evictions, ghosts and promotions all the time.
  World world({.hot_bytes_max = 512 << 10, .shard_count = seed % 2 == 0 ? 1u : 2u});
  Model model(world.clock);
  std::string buffer;
  for (int step = 0; step < 6000; ++step) {
    const std::string key = "k" + std::to_string(rng() % 97) + ":" + std::to_string(rng() % 40);
    switch (rng() % 16) {
      case 0:
      case 1:
      case 2: {
        size_t size = rng() % 300;
        if (rng() % 64 == 0) size = rng() % 60'000;  // large records and ones never kept
        ModelEntry entry{std::string(size, static_cast<char>('a' + rng() % 26)), "", 0};
        PutOptions options;
        if (rng() % 4 == 0) {
          entry.metadata = std::to_string(rng() % 1000);
          options.metadata = entry.metadata;
        }
        if (rng() % 4 == 0) {
          options.expiration_ttl_s = 60 + static_cast<int64_t>(rng() % 60);
          entry.expiration_s = world.clock.wall_ms() / 1000 + *options.expiration_ttl_s;
        }
        REQUIRE(world.kv->Put(key, entry.value, options).ok());
        model.entries[key] = entry;
        break;
      }
      case 3:
        REQUIRE(world.kv->Delete(key).ok());
        model.entries.erase(key);
        break;
      case 4:
        world.clock.Advance(rng() % 2000);
        break;
      case 5:
        if (rng() % 20 == 0) {
          const std::string prefix = rng() % 2 == 0 ? "" : "k" + std::to_string(rng() % 10);
          CheckList(world, model, prefix, static_cast<int64_t>(1 + rng() % 200));
        }
        break;
      case 6: {
        std::vector<std::string> names;
        for (size_t i = 0, n = 1 + rng() % 20; i < n; ++i) {
          names.push_back("k" + std::to_string(rng() % 97) + ":" + std::to_string(rng() % 40));
        }
        const std::vector<std::string_view> keys(names.begin(), names.end());
        const auto values = world.kv->GetMany(keys).value();
        for (size_t i = 0; i < names.size(); ++i) {
          const ModelEntry* entry = model.Find(names[i]);
          REQUIRE(values[i].has_value() == (entry != nullptr));
          if (entry != nullptr) REQUIRE(*values[i] == entry->value);
        }
        break;
      }
      case 7: {
        const auto pinned = world.kv->Pin(key).value();
        const ModelEntry* entry = model.Find(key);
        REQUIRE(pinned.has_value() == (entry != nullptr));
        if (entry != nullptr) {
          REQUIRE(pinned->value() == entry->value);
          REQUIRE(pinned->metadata() == entry->metadata);
        }
        break;
      }
      case 8: {
        const auto rich = world.kv->GetWithMetadata(key).value();
        const ModelEntry* entry = model.Find(key);
        REQUIRE(rich.has_value() == (entry != nullptr));
        if (entry != nullptr) REQUIRE(rich->metadata == entry->metadata);
        break;
      }
      default: {
        const ModelEntry* entry = model.Find(key);
        const bool found = world.kv->GetInto(key, &buffer).value();
        REQUIRE(found == (entry != nullptr));
        if (found) REQUIRE(buffer == entry->value);
      }
    }
    const Stats stats = world.kv->stats();
    REQUIRE(stats.bytes <= stats.bytes_max);
  }
  REQUIRE(world.kv->stats().evictions > 0);
}
