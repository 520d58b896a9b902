// srs-sim - runs seeds of the simulated world (tests/sim/srs_world.h). See scripts/sim.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include "tests/sim/srs_world.h"

namespace {

constexpr char kUsage[] =
    R"(srs-sim [--seeds N] [--first S] [--bug B] [--trace]

Runs seeds S..S+N-1 (default 1..1000), prints seeds per second and faults injected. On a
violation prints the seed, what happened and the fewest actions that still make it happen,
and ends with 1. --bug B plants mistake B (srs/planted.h) and ends with 0 if it is found.
--trace prints the hash of each seed's events: the same seed gives the same one.
)";

}  // namespace

int main(int argc, char** argv) {
  uint64_t seeds = 1000;
  uint64_t first = 1;
  uint64_t bug = 0;
  bool trace = false;
  for (int i = 1; i < argc; ++i) {
    const std::string_view flag = argv[i];
    if (flag == "--help") {
      std::fputs(kUsage, stdout);
      return 0;
    }
    if (flag == "--trace") {
      trace = true;
      continue;
    }
    uint64_t* const value = flag == "--seeds"   ? &seeds
                            : flag == "--first" ? &first
                            : flag == "--bug"   ? &bug
                                                : nullptr;
    char* end = nullptr;
    if (value == nullptr || i + 1 == argc || (*value = std::strtoull(argv[++i], &end, 10), *end)) {
      std::fprintf(stderr, "srs-sim: bad argument '%s'\n\n%s", argv[i], kUsage);
      return 2;
    }
  }
  if (bug >= static_cast<uint64_t>(edge::srs::Bug::kCount)) {
    std::fprintf(stderr, "srs-sim: --bug %llu: there is no such bug\n",
                 static_cast<unsigned long long>(bug));
    return 2;
  }
  const auto planted = static_cast<edge::srs::Bug>(bug);
  uint64_t faults = 0;
  uint64_t confirmed = 0;
  uint64_t takeovers = 0;
  uint64_t reads = 0;
  double virtual_s = 0;
  const auto start = std::chrono::steady_clock::now();
  const auto seconds = [&start] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  for (uint64_t seed = first; seed < first + seeds; ++seed) {
    const edge::srs::Plan plan = edge::srs::MakePlan(seed);
    const edge::srs::Outcome outcome = edge::srs::RunPlan(plan, {}, planted);
    faults += outcome.faults;
    confirmed += outcome.confirmed;
    takeovers += outcome.takeovers;
    reads += outcome.reads;
    virtual_s += static_cast<double>(outcome.virtual_ns) / 1e9;
    if (trace) {
      std::printf("seed %llu trace %016llx\n", static_cast<unsigned long long>(seed),
                  static_cast<unsigned long long>(outcome.trace_hash));
    }
    if (outcome.violation.empty()) continue;
    std::printf("VIOLATION in seed %llu after %llu seeds: %s\n%s\n",
                static_cast<unsigned long long>(seed),
                static_cast<unsigned long long>(seed - first + 1), outcome.violation.c_str(),
                plan.ToString().c_str());
    if (planted != edge::srs::Bug::kNone) return 0;
    for (const size_t i : edge::srs::Minimise(plan, planted)) {
      std::printf("  action %zu: %s\n", i, plan.actions[i].ToString().c_str());
    }
    std::printf("again: scripts/sim --seeds 1 --first %llu\n",
                static_cast<unsigned long long>(seed));
    return 1;
  }
  std::printf(
      "%llu seeds in %.1f s: %.1f seeds/s, %llu faults injected, %llu commits confirmed, %llu "
      "take-overs, %llu reads checked, %.0f virtual seconds\n",
      static_cast<unsigned long long>(seeds), seconds(), static_cast<double>(seeds) / seconds(),
      static_cast<unsigned long long>(faults), static_cast<unsigned long long>(confirmed),
      static_cast<unsigned long long>(takeovers), static_cast<unsigned long long>(reads),
      virtual_s);
  if (planted != edge::srs::Bug::kNone) {
    std::printf("bug %llu was NOT found\n", static_cast<unsigned long long>(bug));
    return 1;
  }
  return 0;
}
