// edge/base/random.h - chance as a dependency.
#pragma once
#include <cstdint>

#include "edge/base/bytes.h"

namespace edge {

// Thread rule is the implementation's.
class Random {
 public:
  virtual ~Random() = default;
  virtual uint64_t Next() = 0;  // uniform over 64 bits
  virtual void Fill(MutableByteView out);
  uint64_t Below(uint64_t bound);  // uniform in [0, bound); bound > 0
  double Unit();                   // uniform in [0, 1)
};

// The operating system's secure source (getrandom). Thread-safe. Lives for ever. For ids,
// tokens and salts; slow (about 200 ns).
Random& SystemRandom();

// A fast reproducible generator (xoshiro256**, Blackman and Vigna 2018): the same seed
// gives the same numbers on every machine. Thread-compatible; not for secrets.
class SeededRandom final : public Random {
 public:
  explicit SeededRandom(uint64_t seed);
  uint64_t Next() override;

 private:
  uint64_t state_[4];
};

}  // namespace edge
