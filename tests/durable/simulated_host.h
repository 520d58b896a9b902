// Durable objects on one machine of a simulation: virtual time, a disk that forgets what was
// not synced, and power cuts.
#pragma once
#include <functional>
#include <memory>
#include <optional>
#include <utility>

#include "edge/base/check.h"
#include "edge/base/simulation.h"
#include "edge/durable/host.h"
#include "edge/rpc/promise.h"
#include "edge/srs/relay.h"

namespace edge::durable::testing {

// The one loop of a simulated machine as an executor.
class SimulatedExecutor : public Executor {
 public:
  explicit SimulatedExecutor(Loop& loop) : loop_(loop) {}
  size_t size() const override { return 1; }
  Loop& loop(size_t) override { return loop_; }

 private:
  Loop& loop_;
};

class SimulatedHost {
 public:
  // `setup` adds the namespaces, at every Start(); the first is the caller's.
  using Setup = std::function<void(Host&)>;
  SimulatedHost(uint64_t seed, Setup setup, HostOptions options = {})
      : simulation_(Simulation::Create({.seed = seed})),
        machine_(simulation_->AddHost("machine")),
        random_(seed),
        setup_(std::move(setup)),
        options_(std::move(options)),
        executor_(machine_.loop()) {
    options_.random = &random_;
  }
  ~SimulatedHost() { PowerOff(); }

  // kill -9 and power loss, then a new process on the same disk.
  void Restart() {
    PowerOff();
    Start();
  }
  void PowerOff() {
    machine_.Crash([this] {
      host_.reset();
      relay_.reset();
    });
  }
  void Start() {
    machine_.Run([this] {
      auto relay = srs::Relay::Open({.directory = "data",
                                     .store = store_,
                                     .journal_file_bytes = 4 << 20,
                                     .files = &machine_.files(),
                                     .clock = &machine_.loop().clock(),
                                     .random = &random_,
                                     .background_threads = false});
      EDGE_CHECK(relay.ok());
      relay_ = *std::move(relay);
      host_ = Host::Create(executor_, *relay_, options_).value();
      setup_(*host_);
      Pump();
    });
  }

  // Runs `call` as a task and gives the answer when it has come; nothing if it does not
  // within `limit_ns` of virtual time.
  template <typename F>
  auto Ask(F call, int64_t limit_ns = 60'000'000'000) {
    using R = rpc::Result<typename decltype(call())::value_type>;
    auto answer = std::make_shared<std::optional<R>>();
    machine_.Run([&] { call().Then([answer](R result) { *answer = std::move(result); }); });
    simulation_->RunUntil([&] { return answer->has_value(); }, limit_ns);
    return *answer;
  }
  template <typename F>
  auto MustAsk(F call) {
    auto answer = Ask(std::move(call));
    EDGE_CHECK(answer.has_value());
    return *std::move(answer);
  }

  void RunForMs(int64_t ms) { simulation_->RunFor(ms * 1'000'000); }
  int64_t now_ms() { return machine_.loop().clock().wall_ms(); }
  Simulation& simulation() { return *simulation_; }
  Simulation::Host& machine() { return machine_; }
  Host& host() { return *host_; }
  srs::Relay& relay() { return *relay_; }

 private:
  // The relay's background work, now and then.
  void Pump() {
    if (relay_ == nullptr) return;
    while (relay_->RunBackgroundStep()) {
    }
    const auto delay_ns = static_cast<int64_t>(100'000 + random_.Below(900'000));
    machine_.loop().After(delay_ns, [this] { Pump(); });
  }

  std::unique_ptr<Simulation> simulation_;
  Simulation::Host& machine_;
  SeededRandom random_;
  const std::shared_ptr<srs::ObjectStore> store_ = srs::MemoryStore();  // and the relay
  const Setup setup_;
  HostOptions options_;
  SimulatedExecutor executor_;
  std::unique_ptr<srs::Relay> relay_;
  std::unique_ptr<Host> host_;
};

}  // namespace edge::durable::testing
