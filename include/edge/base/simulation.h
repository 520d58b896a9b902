// edge/base/simulation.h - a world in one thread and one seed.
//
// Production code sees only Clock, Random, FileSystem, Network and Loop. A Simulation makes
// all five from one seed: virtual time that jumps from event to event, loops whose tasks
// interleave as the seed says, disks that tear and forget on a crash, a network that delays,
// splits and joins writes, reorders between connections, cuts and partitions. The same seed
// gives the same run, to the byte of its trace. Public, so that an application can test
// itself in it.
//
// No time passes inside a task; after each, a microsecond or so does. So a task must not
// wait for another one by any other means than returning.
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
    // Runs `task` now as a task of loop(): Loop::Current() is it. For the code of a test,
    // which runs on no loop. Not from inside a task.
    virtual void Run(LoopTask task) = 0;
    // kill -9 with power loss. Pending tasks, timers and connections vanish (destroyed, not
    // run), files() crashes. Then `destroy_process` runs, to destroy the objects of the
    // process under test: their loop has stopped, their files and network fail with
    // Unavailable, so whatever their destructors try has no effect. When Crash() returns
    // the machine is up again and empty but for its disk. Peers see a connection break when
    // they write to it, or after 30 s. Not from inside a task of this host.
    virtual void Crash(LoopTask destroy_process = nullptr) = 0;
  };

  static std::unique_ptr<Simulation> Create(const SimulationOptions& options);
  virtual ~Simulation() = default;

  // `name`: not empty, without ':', not in use. Lives as long as the simulation.
  virtual Host& AddHost(std::string name) = 0;
  virtual Clock& clock() = 0;
  virtual Random& random() = 0;
  // Nothing passes between the two from now on, in that direction; connections through it
  // stall, and break when their sender gives up after 15 s.
  virtual void SetPartitioned(const Host& from, const Host& to, bool partitioned) = 0;

  // Runs the next event; false if there is none.
  virtual bool Step() = 0;
  // Runs until `done` is true (checked before each event), or until virtual time has passed
  // `limit_ns` from now; with no event left it jumps there. True if `done`.
  virtual bool RunUntil(Callback<bool()> done, int64_t limit_ns) = 0;
  void RunFor(int64_t duration_ns) {
    RunUntil([] { return false; }, duration_ns);
  }
  virtual uint64_t event_count() const = 0;
  // A hash over all events so far and the bytes sent: equal for equal seeds.
  virtual uint64_t trace_hash() const = 0;
};

}  // namespace edge
