#include "edge/base/random.h"

#include <array>
#include <cmath>
#include <set>

using namespace edge;  // NOLINT

TEST_CASE("a seeded generator gives the same numbers everywhere", "[base][random]") {
  // xoshiro256** seeded by splitmix64: computed from the authors' definitions.
  SeededRandom random(0);
  REQUIRE(random.Next() == 0x99ec5f36cb75f2b4);
  REQUIRE(random.Next() == 0xbf6e1f784956452a);
  REQUIRE(random.Next() == 0x1a5f849d4933e6e0);
  SeededRandom one(42);
  SeededRandom two(42);
  SeededRandom three(43);
  bool differs = false;
  for (int i = 0; i < 100; ++i) {
    const uint64_t value = one.Next();
    REQUIRE(value == two.Next());
    differs = differs || value != three.Next();
  }
  REQUIRE(differs);
}

TEST_CASE("Below stays below and is even", "[base][random][property]") {
  SeededRandom random(5);
  for (const uint64_t bound : {uint64_t{1}, uint64_t{2}, uint64_t{3}, uint64_t{10},
                               uint64_t{1} << 33, (uint64_t{1} << 63) + 1, UINT64_MAX}) {
    for (int i = 0; i < 1000; ++i) REQUIRE(random.Below(bound) < bound);
  }
  std::array<int, 7> counts{};
  constexpr int kDraws = 70'000;
  for (int i = 0; i < kDraws; ++i) ++counts[random.Below(7)];
  double chi_squared = 0;
  for (const int count : counts) chi_squared += std::pow(count - kDraws / 7.0, 2) / (kDraws / 7.0);
  REQUIRE(chi_squared < 22.5);  // 6 degrees of freedom: one in a thousand is above
}

TEST_CASE("Unit stays at or above 0 and below 1, and Fill fills every byte", "[base][random]") {
  SeededRandom random(6);
  double sum = 0;
  for (int i = 0; i < 10'000; ++i) {
    const double value = random.Unit();
    REQUIRE((value >= 0 && value < 1));
    sum += value;
  }
  REQUIRE(sum / 10'000 == Approx(0.5).margin(0.02));
  for (size_t size = 0; size < 20; ++size) {
    Bytes seen(size);  // or-ed together, no byte stays zero
    for (int i = 0; i < 40; ++i) {
      Bytes bytes(size + 1, std::byte{0x5a});
      random.Fill(MutableByteView(bytes).first(size));
      REQUIRE(bytes[size] == std::byte{0x5a});
      for (size_t k = 0; k < size; ++k) seen[k] |= bytes[k];
    }
    for (const std::byte byte : seen) REQUIRE(byte != std::byte{0});
  }
}

TEST_CASE("the system's source does not repeat itself", "[base][random]") {
  std::set<uint64_t> seen;
  for (int i = 0; i < 100; ++i) seen.insert(SystemRandom().Next());
  REQUIRE(seen.size() == 100);
}
