#include "kv/disk_tier.h"

#include <map>
#include <random>

#include "edge/base/checksum.h"
#include "edge/base/random.h"
#include "tests/base/temp_directory.h"
#include "tests/kv/support.h"

using namespace edge;      // NOLINT
using namespace edge::kv;  // NOLINT

namespace {

constexpr uint64_t kSegment = 64 << 10;

std::unique_ptr<DiskTier> OpenTier(FileSystem& files, uint64_t bytes_max = 8 * kSegment) {
  return DiskTier::Open({&files, "cache", bytes_max, kSegment}).value();
}

std::string Value(std::mt19937& rng, size_t bytes_max) {
  std::string value(rng() % bytes_max, '\0');
  for (char& c : value) c = static_cast<char>(rng());
  return value;
}

}  // namespace

TEST_CASE("the disk tier gives back what it was given, until it was replaced", "[kv][disk]") {
  const auto files = MemoryFileSystem::Create();
  auto tier = OpenTier(*files);
  REQUIRE(!tier->Get("a").value());
  REQUIRE(tier->Insert({"a", "one", "{}", 5000, 100, false}).ok());
  const auto found = tier->Get("a").value();
  REQUIRE(found);
  REQUIRE(found->value == "one");
  REQUIRE(found->metadata == "{}");
  REQUIRE(found->expires_s == 5000);
  REQUIRE(found->loaded_s == 100);
  REQUIRE(tier->Insert({.key = "a", .value = "two"}).ok());
  REQUIRE(tier->Get("a").value()->value == "two");
  REQUIRE(tier->usage().entries == 1);
  REQUIRE(tier->Void("a").ok());
  REQUIRE(!tier->Get("a").value());
  REQUIRE(tier->usage().entries == 0);
}

TEST_CASE("the disk tier agrees with a map but for what left, over restarts",
          "[kv][disk][property]") {
  const auto seed = GENERATE(range(1u, 13u));
  CAPTURE(seed);
  std::mt19937 rng(seed);
  const auto files = MemoryFileSystem::Create();
  auto tier = OpenTier(*files);
  std::map<std::string, std::string> model;
  size_t found = 0;
  for (int step = 0; step < 4000; ++step) {
    const std::string key = "key" + std::to_string(rng() % 900);
    switch (rng() % 8) {
      case 0:
      case 1:
      case 2:
        model[key] = Value(rng, rng() % 100 == 0 ? 40'000 : 1200);
        REQUIRE(tier->Insert({.key = key, .value = model[key]}).ok());
        break;
      case 3:
        model.erase(key);
        REQUIRE((rng() % 2 == 0 ? tier->Void(key) : tier->Forget(key)).ok());
        break;
      default: {
        const auto got = tier->Get(key).value();
        if (!got) break;
        ++found;
        REQUIRE(model.contains(key));
        REQUIRE(got->value == model[key]);
      }
    }
    REQUIRE(tier->usage().bytes <= 8 * kSegment);
    if (rng() % 500 == 0) {
      tier.reset();
      tier = OpenTier(*files);
    }
  }
  REQUIRE(found > 500);
}

TEST_CASE("what is read stays longer than what is not", "[kv][disk]") {
  const auto files = MemoryFileSystem::Create();
  auto tier = OpenTier(*files);
  const std::string value(500, 'v');
  for (int i = 0; i < 20; ++i) {
    REQUIRE(tier->Insert({.key = "read" + std::to_string(i), .value = value}).ok());
    REQUIRE(tier->Insert({.key = "left" + std::to_string(i), .value = value}).ok());
  }
  for (int i = 0; i < 3000; ++i) {
    REQUIRE(tier->Insert({.key = "scan" + std::to_string(i), .value = value}).ok());
    if (i % 10 == 0) {
      for (int k = 0; k < 20; ++k) tier->Get("read" + std::to_string(k)).IgnoreError();
    }
  }
  int stayed = 0;
  int gone = 0;
  for (int i = 0; i < 20; ++i) {
    if (tier->Get("read" + std::to_string(i)).value()) ++stayed;
    if (!tier->Get("left" + std::to_string(i)).value()) ++gone;
  }
  REQUIRE(stayed == 20);
  REQUIRE(gone == 20);
}

TEST_CASE("an entry costs about 8 bytes of memory and a hit one read", "[kv][disk]") {
  const auto files = MemoryFileSystem::Create();
  const auto tier = DiskTier::Open({files.get(), "cache", 64 << 20, 0}).value();
  const int entries = 60'000;
  for (int i = 0; i < entries; ++i) {
    REQUIRE(tier->Insert({.key = "key" + std::to_string(i), .value = "some value"}).ok());
  }
  const DiskTier::Usage usage = tier->usage();
  REQUIRE(usage.entries > entries * 99 / 100);  // equal tags within a run of slots replace
  CAPTURE(usage.memory_bytes, usage.entries);
  REQUIRE(usage.memory_bytes < usage.entries * 11);
  int hits = 0;
  for (int i = 0; i < entries / 2; ++i) {
    if (tier->Get("key" + std::to_string(i)).value()) ++hits;
  }
  REQUIRE(hits > entries / 2 * 99 / 100);
  REQUIRE(tier->usage().reads < static_cast<uint64_t>(hits) * 101 / 100);
}

TEST_CASE("no crash brings back what was voided, tears a value or mixes up keys",
          "[kv][disk][crash]") {
  // A thousand crashes: 25 seeds of 40. Values name their key and their number.
  const auto seed = GENERATE(range(1u, 26u));
  CAPTURE(seed);
  std::mt19937 rng(seed);
  SeededRandom chaos(seed);
  const auto files = MemoryFileSystem::Create();
  std::map<std::string, uint64_t> oldest_allowed;  // voided below that
  std::map<std::string, uint64_t> newest;
  uint64_t number = 0;
  size_t found = 0;
  for (int crash = 0; crash < 40; ++crash) {
    CAPTURE(crash);
    auto tier = OpenTier(*files, 4 * kSegment);
    const auto check = [&](const std::string& key) {
      const auto got = tier->Get(key).value();
      if (!got) return;
      ++found;
      const size_t colon = got->value.find(':');
      REQUIRE(got->value.substr(0, colon) == key);
      const uint64_t at = std::stoull(got->value.substr(colon + 1));
      REQUIRE(at <= newest[key]);
      REQUIRE(at >= oldest_allowed[key]);
      REQUIRE(got->metadata == std::string(at % 100, 'm'));
    };
    for (int k = 0; k < 60; ++k) check("key" + std::to_string(k));
    const int steps = static_cast<int>(rng() % 200);
    for (int step = 0; step < steps; ++step) {
      const std::string key = "key" + std::to_string(rng() % 60);
      if (rng() % 3 == 0) {  // as a Put does: first the void, then the new one
        REQUIRE(tier->Void(key).ok());
        oldest_allowed[key] = number + 1;
        if (rng() % 4 == 0) continue;
      }
      newest[key] = ++number;
      std::string value = key + ":" + std::to_string(number) + " ";
      value.resize(value.size() + rng() % 3000, 'x');
      const std::string metadata(number % 100, 'm');
      REQUIRE(tier->Insert({.key = key, .value = value, .metadata = metadata}).ok());
      if (rng() % 4 == 0) check("key" + std::to_string(rng() % 60));
    }
    if (rng() % 4 == 0) tier.reset();  // sometimes it closed well before
    files->Crash(chaos);
    files->SetOffline(true);  // the dead process writes nothing more
    tier.reset();
    files->SetOffline(false);
  }
  REQUIRE(found > 100);
}

TEST_CASE("damage to any file costs entries, never truth", "[kv][disk]") {
  const auto seed = GENERATE(range(1u, 17u));
  CAPTURE(seed);
  std::mt19937 rng(seed);
  const auto files = MemoryFileSystem::Create();
  {
    auto tier = OpenTier(*files);
    for (int i = 0; i < 400; ++i) {
      const std::string key = "key" + std::to_string(i);
      REQUIRE(tier->Insert({.key = key, .value = key + std::string(300, '.')}).ok());
    }
  }
  const auto entries = files->List("cache").value();
  for (int flips = 0; flips < 20; ++flips) {
    const DirectoryEntry& entry = entries[rng() % entries.size()];
    if (entry.bytes == 0) continue;
    REQUIRE(files->CorruptBit("cache/" + entry.name, rng() % (entry.bytes * 8)).ok());
  }
  auto tier = OpenTier(*files);
  size_t found = 0;
  for (int i = 0; i < 400; ++i) {
    const std::string key = "key" + std::to_string(i);
    const auto got = tier->Get(key).value();
    if (!got) continue;
    ++found;
    REQUIRE(got->value == key + std::string(300, '.'));
  }
  REQUIRE(found > 100);
  REQUIRE(tier->Insert({.key = "new", .value = "value"}).ok());
  REQUIRE(tier->Get("new").value()->value == "value");
}

TEST_CASE("a folder belongs to one tier at a time, and options have bounds", "[kv][disk]") {
  const auto files = MemoryFileSystem::Create();
  const auto tier = OpenTier(*files);
  REQUIRE(DiskTier::Open({files.get(), "cache", 1 << 20, kSegment}).status().code() ==
          StatusCode::kFailedPrecondition);
  REQUIRE(DiskTier::Open({files.get(), "other", 2 * kSegment, kSegment}).status().code() ==
          StatusCode::kInvalidArgument);
  REQUIRE(DiskTier::Open({files.get(), "other", 1 << 30, 1000}).status().code() ==
          StatusCode::kInvalidArgument);
}

TEST_CASE("every failing operation of the files is an error or a miss, never a wrong value",
          "[kv][disk]") {
  uint64_t operations = UINT64_MAX;
  for (uint64_t n = UINT64_MAX; n == UINT64_MAX || n < operations;
       n = (n == UINT64_MAX ? 0 : n + 3)) {
    const auto base = MemoryFileSystem::Create();
    uint64_t count = 0;
    const auto files = FaultyFileSystem::Create(
        *base, FaultyFileSystem::FailFrom(n, Status(StatusCode::kDataLoss, "disk"), &count));
    for (int opened = 0; opened < 2; ++opened) {
      auto tier = DiskTier::Open({files.get(), "cache", 4 * kSegment, kSegment});
      if (!tier.ok()) continue;
      for (int i = 0; i < 150; ++i) {
        const std::string key = "key" + std::to_string(i % 70);
        (*tier)->Insert({.key = key, .value = key + std::string(2000, '.')}).IgnoreError();
        const auto got = (*tier)->Get(key);
        if (got.ok() && *got) REQUIRE((*got)->value == key + std::string(2000, '.'));
        if (i % 5 == 0) (*tier)->Void(key).IgnoreError();
      }
    }
    if (n == UINT64_MAX) operations = count;
  }
  REQUIRE(operations > 20);
}

TEST_CASE("a namespace reads from its disk tier after a restart", "[kv][disk]") {
  const TempDirectory folder;
  FakeClock clock;
  const auto origin = std::make_shared<ProbeOrigin>();
  Options options{.clock = &clock, .disk_directory = folder.File("cache")};
  options.disk_bytes_max = 1 << 20;
  {
    auto kv = Namespace::Open(origin, options).value();
    REQUIRE(kv.Put("a", "one", {.expiration_ttl_s = 100, .metadata = "{}"}).ok());
    REQUIRE(origin->behind.Put("b", {.value = "two"}).ok());
    REQUIRE(kv.Get("b").value() == "two");
    REQUIRE(kv.Put("c", "three").ok());
    REQUIRE(kv.Delete("c").ok());
  }
  origin->gets = 0;
  auto kv = Namespace::Open(origin, options).value();
  const auto a = kv.GetWithMetadata("a").value();
  REQUIRE(a);
  REQUIRE(a->value == "one");
  REQUIRE(a->metadata == "{}");
  REQUIRE(a->source == Source::kDisk);
  REQUIRE(kv.Get("b").value() == "two");
  REQUIRE(origin->gets == 0);
  REQUIRE(!kv.Get("c").value());
  REQUIRE(origin->gets == 1);
  REQUIRE(kv.stats().disk.hits == 2);
  REQUIRE(kv.GetWithMetadata("a").value()->source == Source::kHot);
  clock.Advance(100'000);
  REQUIRE(!kv.Get("a").value());
}

TEST_CASE("after a crash no acknowledged put gives way to what it replaced", "[kv][disk][crash]") {
  const auto seed = GENERATE(range(1u, 41u));
  CAPTURE(seed);
  std::mt19937 rng(seed);
  SeededRandom chaos(seed);
  FakeClock clock;
  const auto files = MemoryFileSystem::Create();
  const auto origin = std::make_shared<ProbeOrigin>();  // survives: it is another machine
  Options options{.hot_bytes_max = 256 << 10, .clock = &clock, .disk_directory = "cache"};
  options.files = files.get();
  options.disk_bytes_max = 4 * kSegment;
  options.disk_segment_bytes = kSegment;
  std::map<std::string, std::string> model;
  for (int crash = 0; crash < 10; ++crash) {
    std::optional<Namespace> opened = Namespace::Open(origin, options).value();
    Namespace& kv = *opened;
    const int steps = static_cast<int>(rng() % 300);
    for (int step = 0; step < steps; ++step) {
      const std::string key = "key" + std::to_string(rng() % 40);
      if (rng() % 4 == 0) {
        model[key] = std::to_string(rng()) + std::string(rng() % 2000, '.');
        REQUIRE(kv.Put(key, model[key]).ok());
      } else if (rng() % 20 == 0) {
        model.erase(key);
        REQUIRE(kv.Delete(key).ok());
      } else {
        const auto got =
            kv.Get(key, rng() % 8 == 0 ? GetOptions{.cache_ttl_s = 30} : GetOptions()).value();
        REQUIRE(got.has_value() == model.contains(key));
        if (got) REQUIRE(*got == model[key]);
      }
      if (rng() % 16 == 0) clock.Advance(10'000);
    }
    files->Crash(chaos);
    files->SetOffline(true);
    opened.reset();
    files->SetOffline(false);
  }
}
