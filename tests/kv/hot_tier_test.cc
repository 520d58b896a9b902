#include "kv/hot_tier.h"

#include <atomic>
#include <map>
#include <random>
#include <string>
#include <thread>

using namespace edge::kv;  // NOLINT

namespace {

std::string Name(uint64_t i) {
  return "key:" + std::to_string(i);
}

void Insert(HotTier& tier, const std::string& key, const std::string& value) {
  tier.Insert(HashKey(key), {.key = key, .value = value});
}

// The value, or "-" if the key is not there.
std::string Find(const HotTier& tier, const std::string& key) {
  const ReadSection section;
  const Record* record = tier.Find(HashKey(key), key);
  return record == nullptr ? "-" : std::string(record->value());
}

}  // namespace

TEST_CASE("the tier holds everything while there is room", "[kv]") {
  const auto tier = HotTier::Create(16 << 20, 4);
  for (uint64_t i = 0; i < 50'000; ++i) Insert(*tier, Name(i), "v" + std::to_string(i));
  REQUIRE(tier->usage().entries == 50'000);
  REQUIRE(tier->usage().evictions == 0);
  for (uint64_t i = 0; i < 50'000; ++i) REQUIRE(Find(*tier, Name(i)) == "v" + std::to_string(i));
  for (uint64_t i = 0; i < 50'000; i += 2) tier->Erase(HashKey(Name(i)), Name(i));
  for (uint64_t i = 0; i < 50'000; ++i) {
    REQUIRE(Find(*tier, Name(i)) == (i % 2 == 0 ? "-" : "v" + std::to_string(i)));
  }
  REQUIRE(tier->usage().entries == 25'000);
}

TEST_CASE("the tier never answers with anything but the last insert", "[kv][property]") {
  const auto seed = GENERATE(range(1u, 17u));
  CAPTURE(seed);
  std::mt19937 rng(seed);
  const uint64_t bytes_max = (256u << 10) << (seed % 3);
  const auto tier = HotTier::Create(bytes_max, 1);
  std::map<std::string, std::string> model;
  uint64_t kept = 0;
  for (int step = 0; step < 40'000; ++step) {
    const std::string key = Name(rng() % (1 + rng() % 8000));
    if (rng() % 4 == 0) {
      size_t size = rng() % 200;
      if (rng() % 50 == 0) size = rng() % 40'000;
      model[key] = std::string(size, static_cast<char>('a' + rng() % 26));
      Insert(*tier, key, model[key]);
    } else if (rng() % 16 == 0) {
      tier->Erase(HashKey(key), key);
      model.erase(key);
    } else if (const std::string found = Find(*tier, key); found != "-") {
      REQUIRE(model.contains(key));
      REQUIRE(found == model[key]);
      ++kept;
    }
    REQUIRE(tier->usage().bytes <= bytes_max);
  }
  REQUIRE(kept > 1000);
  REQUIRE(tier->usage().evictions > 0);
}

TEST_CASE("keys that were hit survive a scan of others", "[kv]") {
  const auto tier = HotTier::Create(1 << 20, 1);
  const std::string value(100, 'v');
  for (uint64_t i = 0; i < 1000; ++i) Insert(*tier, Name(i), value);
  for (uint64_t i = 0; i < 1000; ++i) (void)Find(*tier, Name(i));
  for (uint64_t i = 0; i < 100'000; ++i) {
    Insert(*tier, "scan:" + std::to_string(i), value);
    if (i % 5 == 0) (void)Find(*tier, Name(i / 5 % 1000));
  }
  uint64_t kept = 0;
  for (uint64_t i = 0; i < 1000; ++i) kept += Find(*tier, Name(i)) == value ? 1 : 0;
  REQUIRE(kept >= 990);
}

TEST_CASE("a key that comes back soon after it left is let in for longer", "[kv]") {
  const auto tier = HotTier::Create(1 << 20, 1);
  const std::string value(100, 'v');
  uint64_t next = 0;
  const auto scan = [&](uint64_t count) {
    for (const uint64_t end = next + count; next < end; ++next) {
      Insert(*tier, "scan:" + std::to_string(next), value);
    }
  };
  scan(20'000);  // full
  Insert(*tier, "returning", value);
  while (Find(*tier, "returning") != "-" && next < 60'000) {
    // Find counts as a hit, which would promote it: look rarely, and only while it is new.
    scan(8'000);
  }
  Insert(*tier, "returning", value);  // a ghost hit: into the main queue
  scan(2'500);                        // more than the small queue holds
  REQUIRE(Find(*tier, "returning") == value);
}

TEST_CASE("overwriting a few keys for ever evicts nothing else", "[kv]") {
  const auto tier = HotTier::Create(1 << 20, 1);
  const std::string value(100, 'v');
  for (uint64_t i = 0; i < 2000; ++i) {
    Insert(*tier, Name(i), value);
    (void)Find(*tier, Name(i));
  }
  for (uint64_t i = 0; i < 200'000; ++i) Insert(*tier, Name(i % 10), value);
  REQUIRE(tier->usage().entries == 2000);
  REQUIRE(tier->usage().evictions == 0);
}

TEST_CASE("a reader that does not leave costs entries, never memory or truth", "[kv]") {
  constexpr uint64_t kBytesMax = 512 << 10;
  const auto tier = HotTier::Create(kBytesMax, 1);
  const std::string value(100, 'v');
  for (uint64_t i = 0; i < 1000; ++i) Insert(*tier, Name(i), value);
  {
    const ReadSection slow;
    const Record* record = tier->Find(HashKey(Name(7)), Name(7));
    REQUIRE(record != nullptr);
    for (uint64_t i = 0; i < 50'000; ++i) {
      const std::string key = Name(i % 9000);
      tier->Insert(HashKey(key), {.key = key, .value = std::string(100, 'w')});
      REQUIRE(tier->usage().bytes <= kBytesMax);
    }
    REQUIRE(record->key() == Name(7));
    REQUIRE(record->value() == value);
  }
  for (uint64_t i = 0; i < 9000; ++i) {
    const std::string found = Find(*tier, Name(i));
    REQUIRE((found == "-" || found == std::string(100, 'w')));
  }
  Insert(*tier, "after", value);
  REQUIRE(Find(*tier, "after") == value);
}

TEST_CASE("an entry of 16 + 100 bytes costs at most 40 more", "[kv]") {
  const auto tier = HotTier::Create(32 << 20, 8);
  const uint64_t empty = tier->usage().bytes;
  const std::string value(100, 'v');
  constexpr uint64_t kEntries = 100'000;
  for (uint64_t i = 0; i < kEntries; ++i) {
    std::string key = std::to_string(i);
    key.insert(0, 16 - key.size(), '0');
    Insert(*tier, key, value);
  }
  REQUIRE(tier->usage().entries == kEntries);
  REQUIRE((tier->usage().bytes - empty) / kEntries <= 116 + 40);
}

TEST_CASE("where the kernel has no membarrier, readers fence for themselves", "[kv][threads]") {
  const auto tier = HotTier::Create(256 << 10, 1);
  auto& fence = edge::kv::internal::readers_fence;
  const bool before = fence.exchange(true);
  std::atomic<int> wrong{0};
  std::atomic<bool> stop{false};
  std::thread reader([&] {
    for (uint64_t i = 0; !stop; ++i) {
      const std::string found = Find(*tier, Name(i % 3000));
      if (found != "-" && found != std::string(100, static_cast<char>('a' + i % 3000 % 26)))
        ++wrong;
    }
  });
  for (uint64_t i = 0; i < 30'000; ++i) {
    Insert(*tier, Name(i % 3000), std::string(100, static_cast<char>('a' + i % 3000 % 26)));
  }
  stop = true;
  reader.join();
  fence = before;
  REQUIRE(wrong == 0);
  REQUIRE(tier->usage().evictions > 0);
}
