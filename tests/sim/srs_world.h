// tests/sim/srs_world.h - one seed of srs in a simulated world: real relays with SQLite in
// them, real followers, a store, disks; a plan of commits, reads and faults made from the
// seed; and checkers that look at everything that is ever confirmed or answered.
//
// What must hold: a commit that was confirmed is in every database that is opened later; no
// (database, lsn) is confirmed with two contents; a read that was confirmed by lease or
// barrier shows everything confirmed before it was asked for. When the plan is over all
// faults heal, and a new host must then take over, find it all, and commit: in bounded time.
#pragma once
#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "srs/planted.h"

namespace edge::srs {

enum class ActionKind : uint8_t {
  kCommit,
  kWork,
  kOpen,
  kCrashHost,
  kCloseHost,
  kLoseHostDisk,
  kCrashFollower,
  kStartFollower,
  kLoseFollowerDisk,
  kPartition,
  kHeal,
  kDiskFaults,
  kStoreFaults,
  kRead,
  kFlush,
  kCount,
};

struct Action {
  ActionKind kind;
  uint64_t a = 0;
  uint64_t b = 0;
  uint64_t c = 0;
  int64_t wait_ns = 0;  // before it
  std::string ToString() const;
  bool is_fault() const;
};

struct Plan {
  uint64_t seed = 0;
  int followers = 5;
  int quorum = 3;
  int hosts = 2;
  int64_t lease_ms = 0;
  int64_t beat_interval_ms = 100;
  int64_t batch_interval_ms = 1000;
  int64_t delay_ns_max = 2'000'000;
  double cut_chance = 0;
  double clock_drift = 0;  // of each machine, at most
  std::vector<Action> actions;
  std::string ToString() const;
};
Plan MakePlan(uint64_t seed);

struct Outcome {
  std::string violation;  // empty: all held
  uint64_t faults = 0;
  uint64_t confirmed = 0;
  uint64_t takeovers = 0;
  uint64_t reads = 0;
  int64_t virtual_ns = 0;
  uint64_t trace_hash = 0;
};
// Runs `plan` without the actions in `skipped`, with `bug` planted.
Outcome RunPlan(const Plan& plan, const std::set<size_t>& skipped = {}, Bug bug = Bug::kNone);

// A small set of fault actions of `plan` that still makes it fail.
std::vector<size_t> Minimise(const Plan& plan, Bug bug = Bug::kNone);

}  // namespace edge::srs
