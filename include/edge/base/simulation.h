// edge/base/simulation.h - a world in one thread and one seed.
//
// Production code sees only Clock, Random, FileSystem, Network and Loop. A Simulation makes
// all five from one seed: virtual time that jumps from event to event, loops whose tasks
// interleave as the seed says, disks that tear and forget on a crash, a network that delays,
// reorders between connections, cuts and partitions. The same seed gives the same run, to
// the byte of its trace. Public, so that an application can test itself in it.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "edge/base/clock.h"
#include "edge/base/executor.h"
#include "edge/base/file_system.h"
#include "edge/base/network.h"
#include "edge/base/random.h"

namespace edge {

struct SimulationOptions {
  uint64_t seed = 1;
  int64_t start_wall_ms = 1'700'000'000'000;
  int64_t network_delay_ns_min = 50'000;
  int64_t network_delay_ns_max = 2'000'000;
  double connection_cut_chance = 0;  // per message written, in [0, 1]
};

// Single-threaded.
class Simulation {
 public:
  // One simulated process: a loop, a disk that survives it, an address on the network.
  class Host {
   public:
    virtual ~Host() = default;
    virtual const std::string& name() const = 0;
    virtual Loop& loop() = 0;
    virtual MemoryFileSystem& files() = 0;
    virtual Network& network() = 0;  // addresses are "host-name:port"
    virtual Random& random() = 0;
    // kill -9 with power loss: pending tasks, timers and connections vanish (destroyed, not
    // run), files() crashes. The host may be used again at once: that is the restart.
    // Objects of the process under test must be destroyed by the caller first.
    virtual void Crash() = 0;
  };

  static std::unique_ptr<Simulation> Create(const SimulationOptions& options);
  virtual ~Simulation() = default;

  virtual Host& AddHost(std::string name) = 0;
  virtual Clock& clock() = 0;
  virtual Random& random() = 0;
  // Nothing passes between the two from now on, in that direction; connections through it
  // stall, and break when their sender gives up.
  virtual void SetPartitioned(const Host& from, const Host& to, bool partitioned) = 0;

  // Runs the next event; false if there is none.
  virtual bool Step() = 0;
  // Runs until `done` is true (checked after each event), no event is left, or virtual time
  // passes `limit_ns` from now. True if `done`.
  virtual bool RunUntil(Callback<bool()> done, int64_t limit_ns) = 0;
  void RunFor(int64_t duration_ns) {
    RunUntil([] { return false; }, duration_ns);
  }
  virtual uint64_t event_count() const = 0;
  // A hash over all events so far: equal for equal seeds.
  virtual uint64_t trace_hash() const = 0;
};

}  // namespace edge
