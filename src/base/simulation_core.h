// What the parts of a simulation share: one heap of events, one virtual clock, one source
// of chance, and a hash of all that happened.
#pragma once
#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "edge/base/simulation.h"

namespace edge::internal {

class SimulatedNetwork;

// Single-threaded.
class SimulationCore {
 public:
  explicit SimulationCore(const SimulationOptions& options)
      : options_(options), clock_(options.start_wall_ms), random_(options.seed) {}

  using EventId = uint64_t;  // never 0
  static constexpr int kNoHost = -1;

  const SimulationOptions& options() const { return options_; }
  Clock& clock() { return clock_; }
  int64_t now_ns() const { return clock_.now_ns; }
  Random& random() { return random_; }

  // `host` is whose event it is: DropEventsOf() destroys it with the host's others.
  EventId Schedule(int64_t at_ns, int host, LoopTask task) {
    const EventId id = ++last_event_;
    events_.emplace(Key{at_ns, id}, Event{host, std::move(task)});
    return id;
  }
  bool Cancel(int64_t at_ns, EventId id) {
    const auto found = events_.find({at_ns, id});
    if (found == events_.end()) return false;
    const Event dropped = std::move(found->second);
    events_.erase(found);
    return true;
  }
  void DropEventsOf(int host) {
    std::vector<Event> dropped;  // destroyed last: destructors may schedule
    for (auto at = events_.begin(); at != events_.end();) {
      if (at->second.host != host) {
        ++at;
        continue;
      }
      dropped.push_back(std::move(at->second));
      at = events_.erase(at);
    }
  }

  bool empty() const { return events_.empty(); }
  int64_t next_ns() const { return events_.begin()->first.first; }
  void RunNext();
  void AdvanceTo(int64_t at_ns) { clock_.now_ns = std::max(clock_.now_ns, at_ns); }

  // Mixes something that happened into the trace.
  void Trace(uint64_t what, ByteView bytes = {});
  uint64_t event_count() const { return event_count_; }
  uint64_t trace_hash() const { return trace_hash_; }

 private:
  struct VirtualClock final : Clock {
    explicit VirtualClock(int64_t wall) : start_wall_ms(wall) {}
    int64_t monotonic_ns() const override { return now_ns; }
    int64_t wall_ms() const override { return start_wall_ms + (now_ns - kStartNs) / 1'000'000; }
    static constexpr int64_t kStartNs = 1'000'000'000;
    int64_t now_ns = kStartNs;
    const int64_t start_wall_ms;
  };
  using Key = std::pair<int64_t, EventId>;
  struct Event {
    int host;
    LoopTask task;
  };

  const SimulationOptions options_;
  VirtualClock clock_;
  SeededRandom random_;
  std::map<Key, Event> events_;
  EventId last_event_ = 0;
  uint64_t event_count_ = 0;
  uint64_t trace_hash_ = 0;
};

// The loop of one simulated host.
class SimulatedLoop final : public Loop {
 public:
  SimulatedLoop(SimulationCore& core, int host) : core_(core), host_(host) {}
  ~SimulatedLoop() override;

  // Runs `task` now as a turn of this loop. Not from inside another turn of it.
  void Turn(LoopTask task);
  // Drops everything pending; until SwitchOn() nothing can be added.
  void SwitchOff();
  void SwitchOn() { off_ = false; }
  bool off() const { return off_; }
  int host() const { return host_; }

  Status Post(LoopTask task) override;
  void PostUrgent(LoopTask task) override;
  void Defer(LoopTask task) override;
  TimerId At(int64_t at_ns, LoopTask task) override;
  bool CancelTimer(TimerId timer) override;
  Clock& clock() override { return core_.clock(); }
  bool IsCurrent() const override { return Loop::Current() == this; }
  Status WatchFd(int fd, uint32_t events, Callback<void(uint32_t)> ready) override;
  Status ChangeFd(int fd, uint32_t events) override;
  void UnwatchFd(int) override {}
  Status SetWaiter(Waiter* waiter) override;

 private:
  void Enqueue(LoopTask task);
  void RunDeferred();

  SimulationCore& core_;
  const int host_;
  bool off_ = false;
  bool in_turn_ = false;
  size_t posted_count_ = 0;
  int64_t last_post_ns_ = 0;
  std::vector<LoopTask> deferred_;
  std::map<TimerId, int64_t> timers_;  // and when each is due
};

// The network of one simulated world; each host has a Network that is a view of it.
class SimulatedNetwork {
 public:
  static std::unique_ptr<SimulatedNetwork> Create(SimulationCore& core);
  virtual ~SimulatedNetwork() = default;
  // `loop` is the host's; it must outlive this.
  virtual Network& AddHost(const std::string& name, SimulatedLoop& loop) = 0;
  virtual void SetPartitioned(int from, int to, bool partitioned) = 0;
  // Connections, listeners and attempts of the host are gone, without a farewell.
  virtual void Crash(int host) = 0;
};

}  // namespace edge::internal
