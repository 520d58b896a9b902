// A host on real loops and a relay whose durability is in the test's hands.
#pragma once
#include <catch2/catch.hpp>
#include <future>
#include <memory>
#include <optional>
#include <utility>

#include "edge/durable/host.h"
#include "tests/durable/fake_relay.h"

namespace edge::durable::testing {

struct World {
  explicit World(int threads = 1, HostOptions options = {})
      : executor(Executor::Create({.threads = threads}).value()),
        host(Host::Create(*executor, relay, std::move(options)).value()) {}
  std::unique_ptr<Executor> executor;
  FakeRelay relay;
  std::unique_ptr<Host> host;
  ~World() {
    relay.HoldNoCommits();  // for a test that failed half-way
    host.reset();
  }
  Loop& loop() { return executor->loop(0); }
  // Everything that was posted so far has run.
  void Flush() {
    for (int i = 0; i < 4; ++i) {
      std::promise<void> ran;
      loop().PostUrgent([&ran] { ran.set_value(); });
      ran.get_future().wait();
      RunOn(loop(), [] {});
    }
  }
};

// The answer of a call that was made on the world's loop, looked at from the test.
template <typename R>
class Pending {
 public:
  template <typename F>
  Pending(World& world, F call) : world_(world) {
    RunOn(world.loop(), [&] {
      call().Then([answer = answer_](rpc::Result<R> result) { *answer = std::move(result); });
    });
  }
  std::optional<rpc::Result<R>> Now() {
    world_.Flush();
    return RunOn(world_.loop(), [this] { return *answer_; });
  }
  bool there() { return Now().has_value(); }
  rpc::Result<R> Value() {
    REQUIRE(there());
    return *Now();
  }

 private:
  World& world_;
  std::shared_ptr<std::optional<rpc::Result<R>>> answer_ =
      std::make_shared<std::optional<rpc::Result<R>>>();
};

}  // namespace edge::durable::testing
