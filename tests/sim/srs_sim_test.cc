// A slice of the simulated seeds, and a sample of the planted mistakes: found, each.
#include <catch2/catch.hpp>

#include "tests/sim/srs_world.h"

namespace edge::srs {
namespace {

TEST_CASE("nothing confirmed is lost in three hundred simulated worlds", "[sim][srs]") {
  uint64_t faults = 0;
  uint64_t confirmed = 0;
  for (uint64_t seed = 1; seed <= 300; ++seed) {
    const Outcome outcome = RunPlan(MakePlan(seed));
    INFO("scripts/sim --seeds 1 --first " << seed);
    REQUIRE(outcome.violation == "");
    faults += outcome.faults;
    confirmed += outcome.confirmed;
  }
  CHECK(faults > 1000);
  CHECK(confirmed > 3000);
}

TEST_CASE("a seed gives the same world every time", "[sim][srs]") {
  for (uint64_t seed = 1; seed <= 5; ++seed) {
    CHECK(RunPlan(MakePlan(seed)).trace_hash == RunPlan(MakePlan(seed)).trace_hash);
  }
}

TEST_CASE("planted mistakes are found", "[sim][srs]") {
  const Bug bug = GENERATE(Bug::kOldestWinsAtRecovery, Bug::kTrimConfirmed, Bug::kLiveFileRecycled,
                           Bug::kCheckpointForgotten, Bug::kFetchSkipsOne);
  CAPTURE(static_cast<int>(bug));
  uint64_t seed = 1;
  while (seed <= 2000 && RunPlan(MakePlan(seed), {}, bug).violation.empty()) ++seed;
  CHECK(seed <= 2000);
}

}  // namespace
}  // namespace edge::srs
