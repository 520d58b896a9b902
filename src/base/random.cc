#include "edge/base/random.h"

#include <sys/random.h>

#include <algorithm>
#include <bit>
#include <cerrno>

#include "edge/base/check.h"

namespace edge {
namespace {

__extension__ using Uint128 = unsigned __int128;

class KernelRandom final : public Random {
 public:
  uint64_t Next() override {
    uint64_t value = 0;
    // At most 256 bytes are never cut short; EINTR can only come before the pool is ready.
    while (getrandom(&value, sizeof value, 0) != sizeof value) EDGE_CHECK(errno == EINTR);
    return value;
  }
  void Fill(MutableByteView out) override {
    constexpr size_t kUncut = 256;  // as much as one call always gives
    for (size_t at = 0; at < out.size(); at += kUncut) {
      const size_t size = std::min(kUncut, out.size() - at);
      while (getrandom(out.data() + at, size, 0) != static_cast<ssize_t>(size))
        EDGE_CHECK(errno == EINTR);
    }
  }
};

}  // namespace

void Random::Fill(MutableByteView out) {
  for (size_t at = 0; at < out.size(); at += 8) {
    const uint64_t value = Next();
    std::memcpy(out.data() + at, &value, std::min<size_t>(8, out.size() - at));
  }
}

uint64_t Random::Below(uint64_t bound) {
  // Lemire 2019, "Fast random integer generation in an interval", without its bias.
  const uint64_t threshold = (0 - bound) % bound;
  for (;;) {
    const Uint128 product = static_cast<Uint128>(Next()) * bound;
    if (static_cast<uint64_t>(product) >= threshold) return static_cast<uint64_t>(product >> 64);
  }
}

double Random::Unit() {
  return static_cast<double>(Next() >> 11) * 0x1p-53;
}

Random& SystemRandom() {
  static KernelRandom random;
  return random;
}

SeededRandom::SeededRandom(uint64_t seed) {
  for (uint64_t& word : state_) {  // splitmix64, as the generator's authors advise
    seed += 0x9e3779b97f4a7c15;
    uint64_t z = seed;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    word = z ^ (z >> 31);
  }
}

uint64_t SeededRandom::Next() {
  const uint64_t result = std::rotl(state_[1] * 5, 7) * 9;
  const uint64_t t = state_[1] << 17;
  state_[2] ^= state_[0];
  state_[3] ^= state_[1];
  state_[1] ^= state_[2];
  state_[0] ^= state_[3];
  state_[2] ^= t;
  state_[3] = std::rotl(state_[3], 45);
  return result;
}

}  // namespace edge
