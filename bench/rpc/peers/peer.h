// What the peers of the rpc rows have in common: `PROGRAM MODE CALLS` prints one line,
// "<figure> <sum of results>", the figure in ns per call (local) or calls per second (wire).
#pragma once
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace peer {

constexpr int kWarmUp = 3000;
constexpr int kOutstanding = 64;

inline int64_t Argument(int call) {
  return call % 1000;
}

inline double SecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

inline void Print(double figure, int64_t sum) {
  std::printf("%.9g %lld\n", figure, static_cast<long long>(sum));
  std::fflush(stdout);
}

}  // namespace peer
