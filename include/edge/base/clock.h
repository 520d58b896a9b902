// edge/base/clock.h - time as a dependency.
#pragma once
#include <cstdint>

namespace edge {

// Thread-safe.
class Clock {
 public:
  virtual ~Clock() = default;
  // Nanoseconds since some fixed point; never goes back. For durations and deadlines.
  virtual int64_t monotonic_ns() const = 0;
  // Milliseconds since 1970-01-01 UTC; may jump. For what people and files are told.
  virtual int64_t wall_ms() const = 0;
};

// The machine's clocks (CLOCK_MONOTONIC, CLOCK_REALTIME). Lives for ever.
Clock& SystemClock();

}  // namespace edge
