// Objects that end because nobody uses them, and start again as if nothing had been.
#include <optional>
#include <string>
#include <vector>

#include "edge/base/errors.h"
#include "edge/durable/host.h"
#include "tests/durable/simulated_host.h"

using namespace edge;           // NOLINT
using namespace edge::durable;  // NOLINT
using edge::durable::testing::SimulatedHost;

namespace {

class Sleeper : public Object {
 public:
  explicit Sleeper(Context& ctx) : Object(ctx) { ++instances; }
  int64_t Add(int64_t by) {
    sql().Exec("CREATE TABLE IF NOT EXISTS c (id INTEGER PRIMARY KEY, n INTEGER)");
    return sql()
        .Exec<int64_t>(
            "INSERT INTO c VALUES (1, ?) ON CONFLICT DO UPDATE SET n = n + excluded.n "
            "RETURNING n",
            by)
        .Value();
  }
  void Watch(rpc::Stub<void()> listener) { listener_ = std::move(listener); }
  Task<void> Wait() { co_await rpc::Promise<void>(gate); }
  void SetAlarm(int64_t at_ms) { storage().SetAlarm(at_ms); }
  void Alarm() { Add(100); }
  using Rpc = rpc::Methods<&Sleeper::Add, &Sleeper::Watch, &Sleeper::Wait, &Sleeper::SetAlarm>;

  static inline int instances = 0;
  static inline rpc::HookPtr gate;

 private:
  rpc::Stub<void()> listener_;
};

struct World : SimulatedHost {
  explicit World(HostOptions options = {})
      : SimulatedHost(
            1,
            [this](Host& started) { sleepers.emplace(started.AddNamespace<Sleeper>("S").value()); },
            std::move(options)) {
    Sleeper::instances = 0;
    Start();
  }
  int64_t Add(std::string_view name, int64_t by = 1) {
    return MustAsk([&] { return sleepers->Get(name).Call<&Sleeper::Add>(by); }).value();
  }
  size_t running() { return host().objects_running(); }
  std::optional<Namespace<Sleeper>> sleepers;
};

}  // namespace

TEST_CASE("an object that nobody calls ends, and the next call finds its data",
          "[durable][lifecycle][sim]") {
  World world;
  const auto stub = world.sleepers->Get("a");  // held all the time
  const auto add = [&] { return world.MustAsk([&] { return stub.Call<&Sleeper::Add>(1); }); };
  REQUIRE(add().value() == 1);
  world.RunForMs(9'000);
  REQUIRE(world.running() == 1);
  REQUIRE(add().value() == 2);
  world.RunForMs(9'000);
  REQUIRE(world.running() == 1);  // it was used meanwhile
  world.RunForMs(7'000);
  REQUIRE(world.running() == 0);
  REQUIRE(Sleeper::instances == 1);
  REQUIRE(add().value() == 3);
  REQUIRE(Sleeper::instances == 2);
}

TEST_CASE("an object that waits for something stays", "[durable][lifecycle][sim]") {
  World world;
  rpc::Resolver resolver;
  world.machine().Run([&] {
    auto pending = rpc::MakePromise();
    Sleeper::gate = pending.promise;
    resolver = std::move(pending.resolver);
    world.sleepers->Get("a").Call<&Sleeper::Wait>().Ignore();
  });
  world.RunForMs(60'000);
  REQUIRE(world.running() == 1);
  world.machine().Run([&] { resolver.Settle(rpc::Value()); });
  world.RunForMs(20'000);
  REQUIRE(world.running() == 0);
  Sleeper::gate = nullptr;
}

TEST_CASE("an object that was given a stub stays while its callers do",
          "[durable][lifecycle][sim]") {
  World world;
  std::optional<rpc::Stub<Sleeper>> stub = world.sleepers->Get("a");
  REQUIRE(
      world.MustAsk([&] { return stub->Call<&Sleeper::Watch>(rpc::Stub<void()>([] {})); }).ok());
  world.RunForMs(60'000);
  REQUIRE(world.running() == 1);
  world.machine().Run([&] { stub.reset(); });
  world.RunForMs(20'000);
  REQUIRE(world.running() == 0);
}

TEST_CASE("an alarm wakes an object that has ended", "[durable][lifecycle][alarm][sim]") {
  World world;
  const int64_t at = world.now_ms() + 60'000;
  REQUIRE(
      world.MustAsk([&] { return world.sleepers->Get("a").Call<&Sleeper::SetAlarm>(at); }).ok());
  world.RunForMs(30'000);
  REQUIRE(world.running() == 0);
  world.RunForMs(31'000);
  REQUIRE(world.Add("a", 1) == 101);
}

TEST_CASE("beyond objects_max the object not used for longest makes room",
          "[durable][lifecycle][sim]") {
  HostOptions options;
  options.objects_max = 2;
  World world(std::move(options));
  for (int round = 1; round <= 3; ++round) {
    for (const char* name : {"a", "b", "c", "d"}) {
      REQUIRE(world.Add(name) == round);
      REQUIRE(world.running() <= 2);
    }
  }
  // Those that wait cannot make room.
  rpc::Resolver resolver;
  world.machine().Run([&] {
    auto pending = rpc::MakePromise();
    Sleeper::gate = pending.promise;
    resolver = std::move(pending.resolver);
    for (const char* name : {"a", "b"}) world.sleepers->Get(name).Call<&Sleeper::Wait>().Ignore();
  });
  const auto refused =
      world.MustAsk([&] { return world.sleepers->Get("c").Call<&Sleeper::Add>(1); });
  REQUIRE(refused.status().code() == StatusCode::kResourceExhausted);
  REQUIRE(Message(refused.status()) == "2 Durable Objects are running on this loop already.");
  world.machine().Run([&] { resolver.Settle(rpc::Value()); });
  REQUIRE(world.Add("c") == 4);
  Sleeper::gate = nullptr;
}

TEST_CASE("a namespace counts its calls, rows, starts and resets", "[durable][metrics][sim]") {
  MetricsRegistry metrics;
  HostOptions options;
  options.metrics = &metrics;
  World world(std::move(options));
  for (int i = 0; i < 3; ++i) world.Add("a");
  REQUIRE(
      !world.MustAsk([&] { return world.sleepers->Get("a").Call<&Sleeper::SetAlarm>(0); }).ok());
  const auto count = [&](std::string_view name) {
    return metrics.counter(name, {{"namespace", "S"}}).value();
  };
  REQUIRE(count("edge_durable_calls_total") == 4);
  REQUIRE(count("edge_durable_call_failures_total") == 1);
  REQUIRE(count("edge_durable_rows_written_total") == 3);
  REQUIRE(count("edge_durable_starts_total") == 1);
  REQUIRE(metrics.gauge("edge_durable_running_objects", {{"namespace", "S"}}).value() == 1);
  auto& wait = metrics.histogram("edge_durable_gate_wait_ns", {{"namespace", "S"}});
  REQUIRE(wait.count() == 4);
  REQUIRE(wait.sum() > 0);  // three answers waited for the journal
  REQUIRE(metrics.histogram("edge_durable_call_latency_ns", {{"namespace", "S"}}).sum() >=
          wait.sum());
  world.RunForMs(20'000);
  REQUIRE(metrics.gauge("edge_durable_running_objects", {{"namespace", "S"}}).value() == 0);
  REQUIRE(count("edge_durable_resets_total") == 0);
}
