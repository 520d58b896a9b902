#include "edge/base/simulation.h"

#include <algorithm>
#include <array>

#include "edge/base/check.h"
#include "edge/base/checksum.h"
#include "edge/base/errors.h"
#include "src/base/current_loop.h"
#include "src/base/simulation_core.h"

namespace edge {
namespace internal {

constexpr size_t kQueueEntriesMax = 65536;    // as a real loop's, by default
constexpr uint64_t kPostDelayNsMax = 20'000;  // until a posted task gets its turn
constexpr uint64_t kTaskNsMax = 2'000;        // what one task takes

void SimulationCore::RunNext() {
  const auto first = events_.begin();
  const auto [at_ns, id] = first->first;
  Event event = std::move(first->second);
  events_.erase(first);
  AdvanceTo(at_ns);
  ++event_count_;
  const std::array<uint64_t, 3> what = {static_cast<uint64_t>(now_ns()), id,
                                        static_cast<uint64_t>(event.host)};
  Trace(0, std::as_bytes(std::span(what)));
  event.task();
  clock_.now_ns += static_cast<int64_t>(1 + random_.Below(kTaskNsMax));
}

void SimulationCore::Trace(uint64_t what, ByteView bytes) {
  trace_hash_ = HashBytes(bytes, trace_hash_ * 0x9e3779b97f4a7c15 + what);
}

SimulatedLoop::~SimulatedLoop() {
  SwitchOff();
}

void SimulatedLoop::Turn(LoopTask task) {
  EDGE_CHECK(!in_turn_);
  {
    const CurrentLoopScope scope(this);
    struct InTurn {  // also ends when a test's assertion throws
      explicit InTurn(bool* flag) : flag_(flag) { *flag_ = true; }
      ~InTurn() { *flag_ = false; }
      bool* flag_;
    } const in_turn(&in_turn_);
    task();
    RunDeferred();
    task = nullptr;
  }
  // What the deferred tasks deferred: the next turn, before any waiting.
  if (!deferred_.empty()) {
    core_.Schedule(core_.now_ns(), host_, [this] { Turn([] {}); });
  }
}

void SimulatedLoop::RunDeferred() {
  for (LoopTask& task : std::exchange(deferred_, {})) {
    task();
    task = nullptr;
  }
}

void SimulatedLoop::SwitchOff() {
  EDGE_CHECK(!in_turn_);
  off_ = true;
  core_.DropEventsOf(host_);
  std::exchange(deferred_, {}).clear();
  timers_.clear();
  posted_count_ = 0;
}

void SimulatedLoop::Enqueue(LoopTask task) {
  // A queue: a later task may not overtake, however its delay falls.
  last_post_ns_ = std::max(
      last_post_ns_, core_.now_ns() + static_cast<int64_t>(core_.random().Below(kPostDelayNsMax)));
  core_.Schedule(last_post_ns_, host_, [this, held = std::move(task)]() mutable {
    --posted_count_;
    Turn(std::move(held));
  });
  ++posted_count_;
}
Status SimulatedLoop::Post(LoopTask task) {
  if (off_) return FailedPrecondition("the loop has stopped");
  if (posted_count_ >= kQueueEntriesMax) return ResourceExhausted("the loop's queue is full");
  Enqueue(std::move(task));
  return OkStatus();
}
void SimulatedLoop::PostUrgent(LoopTask task) {
  if (!off_) Enqueue(std::move(task));
}
void SimulatedLoop::Defer(LoopTask task) {
  if (off_) return;
  deferred_.push_back(std::move(task));
  if (!in_turn_ && deferred_.size() == 1) {
    core_.Schedule(core_.now_ns(), host_, [this] { Turn([] {}); });
  }
}

Loop::TimerId SimulatedLoop::At(int64_t at_ns, LoopTask task) {
  if (off_) return UINT64_MAX;
  // The task finds its id in its own capture, which exists before the id does.
  auto id = std::make_unique<TimerId>();
  TimerId* const slot = id.get();
  *slot =
      core_.Schedule(at_ns, host_, [this, mine = std::move(id), held = std::move(task)]() mutable {
        timers_.erase(*mine);
        Turn(std::move(held));
      });
  timers_[*slot] = at_ns;
  return *slot;
}
bool SimulatedLoop::CancelTimer(TimerId timer) {
  const auto found = timers_.find(timer);
  if (found == timers_.end()) return false;
  const int64_t at_ns = found->second;
  timers_.erase(found);
  return core_.Cancel(at_ns, timer);
}

Status SimulatedLoop::WatchFd(int fd, uint32_t, Callback<void(uint32_t)>) {
  return FailedPrecondition("descriptor {}: a simulation has none", fd);
}
Status SimulatedLoop::ChangeFd(int fd, uint32_t) {
  return FailedPrecondition("descriptor {}: a simulation has none", fd);
}
Status SimulatedLoop::SetWaiter(Waiter*) {
  return FailedPrecondition("a simulation does its own waiting");
}

}  // namespace internal

namespace {

class SimulatedHost final : public Simulation::Host {
 public:
  SimulatedHost(internal::SimulationCore& core, internal::SimulatedNetwork& network,
                std::string name, int number)
      : core_(core),
        network_(network),
        name_(std::move(name)),
        loop_(core, number),
        random_(core.random().Next()),
        own_network_(network.AddHost(name_, loop_)) {}

  const std::string& name() const override { return name_; }
  Loop& loop() override { return loop_; }
  MemoryFileSystem& files() override { return *files_; }
  Network& network() override { return own_network_; }
  Random& random() override { return random_; }
  void Run(LoopTask task) override {
    core_.Trace(2, AsBytes(name_));
    loop_.Turn(std::move(task));
  }
  void Crash(LoopTask destroy_process) override {
    core_.Trace(1, AsBytes(name_));
    loop_.SwitchOff();
    network_.Crash(loop_.host());
    files_->SetOffline(true);
    files_->Crash(core_.random());
    if (destroy_process) {
      const internal::CurrentLoopScope scope(&loop_);
      destroy_process();
    }
    files_->SetOffline(false);
    loop_.SwitchOn();
  }
  int number() const { return loop_.host(); }

 private:
  internal::SimulationCore& core_;
  internal::SimulatedNetwork& network_;
  const std::string name_;
  internal::SimulatedLoop loop_;
  const std::unique_ptr<MemoryFileSystem> files_ = MemoryFileSystem::Create();
  SeededRandom random_;
  Network& own_network_;
};

class OneThreadSimulation final : public Simulation {
 public:
  explicit OneThreadSimulation(const SimulationOptions& options)
      : core_(options),
        random_(core_.random().Next()),
        network_(internal::SimulatedNetwork::Create(core_)) {}
  ~OneThreadSimulation() override {
    for (const auto& host : hosts_) network_->Crash(host->number());
  }

  Host& AddHost(std::string name) override {
    EDGE_CHECK(!name.empty() && name.find(':') == std::string::npos);
    for (const auto& host : hosts_) EDGE_CHECK(host->name() != name);
    hosts_.push_back(std::make_unique<SimulatedHost>(core_, *network_, std::move(name),
                                                     static_cast<int>(hosts_.size())));
    return *hosts_.back();
  }
  Clock& clock() override { return core_.clock(); }
  Random& random() override { return random_; }
  void SetPartitioned(const Host& from, const Host& to, bool partitioned) override {
    const int one = static_cast<const SimulatedHost&>(from).number();
    const int two = static_cast<const SimulatedHost&>(to).number();
    core_.Trace(partitioned ? 3 : 4, AsBytes(from.name() + ">" + to.name()));
    network_->SetPartitioned(one, two, partitioned);
  }

  bool Step() override {
    if (core_.empty()) return false;
    core_.RunNext();
    return true;
  }
  bool RunUntil(Callback<bool()> done, int64_t limit_ns) override {
    const int64_t end_ns = core_.now_ns() + limit_ns;
    while (!done()) {
      if (core_.empty() || core_.next_ns() > end_ns || core_.now_ns() > end_ns) {
        core_.AdvanceTo(end_ns);
        return false;
      }
      core_.RunNext();
    }
    return true;
  }
  uint64_t event_count() const override { return core_.event_count(); }
  uint64_t trace_hash() const override { return core_.trace_hash(); }

 private:
  internal::SimulationCore core_;
  SeededRandom random_;
  std::unique_ptr<internal::SimulatedNetwork> network_;
  std::vector<std::unique_ptr<SimulatedHost>> hosts_;
};

}  // namespace

std::unique_ptr<Simulation> Simulation::Create(const SimulationOptions& options) {
  EDGE_CHECK(options.network_delay_ns_min >= 0 &&
             options.network_delay_ns_max >= options.network_delay_ns_min);
  return std::make_unique<OneThreadSimulation>(options);
}

}  // namespace edge
