// kv/hybrid_clock.h - stamps for writes: close to the wall clock, never going back.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstdint>

#include "edge/kv/origin.h"

namespace edge::kv {

// Kulkarni et al., "Logical Physical Clocks", OPODIS 2014, with both parts in one word.
// Thread-safe.
class HybridClock {
 public:
  // Greater than every version returned or observed before.
  Version Next(int64_t wall_ms) {
    const Version wall = static_cast<Version>(std::max<int64_t>(wall_ms, 0)) << 16;
    Version last = last_.load(std::memory_order_relaxed);
    Version next = 0;
    do {
      next = std::max(last + 1, wall);
    } while (!last_.compare_exchange_weak(last, next, std::memory_order_relaxed));
    return next;
  }
  void Observe(Version seen) {
    Version last = last_.load(std::memory_order_relaxed);
    while (last < seen && !last_.compare_exchange_weak(last, seen, std::memory_order_relaxed)) {
    }
  }

 private:
  std::atomic<Version> last_{0};
};

}  // namespace edge::kv
