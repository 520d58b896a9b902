#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "edge/base/errors.h"
#include "edge/durable/host.h"
#include "tests/durable/simulated_host.h"

using namespace edge;           // NOLINT
using namespace edge::durable;  // NOLINT
using edge::durable::testing::SimulatedHost;

namespace {

constexpr int64_t kSecondMs = 1000;

// What the test wants of the handlers, and what they saw; all on the simulation's thread.
struct Knobs {
  int failures_left = 0;
  int aborts_left = 0;
  int64_t set_again_in_ms = 0;  // the handler sets a new alarm
  bool waits = false;           // the handler awaits `gate`
  rpc::HookPtr gate;
};
Knobs knobs;
struct Ring {
  std::string id;
  int64_t at_ms, scheduled_ms;
  int retries;
  std::optional<int64_t> seen_alarm;
};
std::vector<Ring> rings;

class Clockwork : public Object {
 public:
  using Object::Object;
  void Set(int64_t at_ms) { storage().SetAlarm(at_ms); }
  void SetAndThrow(int64_t at_ms) {
    storage().SetAlarm(at_ms);
    throw InvalidArgument("undone");
  }
  std::optional<int64_t> When() { return storage().GetAlarm(); }
  void Delete() { storage().DeleteAlarm(); }
  int64_t Count() {
    sql().Exec("CREATE TABLE IF NOT EXISTS runs (n INTEGER)");
    return sql().Exec<int64_t>("SELECT count(*) FROM runs").Value();
  }
  std::string Bookmark() { return storage().GetCurrentBookmark(); }
  void Restore(const std::string& bookmark) { storage().OnNextSessionRestore(bookmark); }
  void Abort() { ctx().Abort("again"); }

  Task<void> Alarm(AlarmInfo info) {
    rings.push_back({ctx().id().ToString(), ctx().loop().clock().wall_ms(), info.scheduled_ms,
                     info.retry_count, storage().GetAlarm()});
    Count();
    sql().Exec("INSERT INTO runs VALUES (1)");
    if (knobs.set_again_in_ms != 0) {
      storage().SetAlarm(ctx().loop().clock().wall_ms() + std::exchange(knobs.set_again_in_ms, 0));
    }
    if (knobs.aborts_left > 0) {
      --knobs.aborts_left;
      ctx().Abort("in the handler");
    }
    if (knobs.failures_left > 0) {
      --knobs.failures_left;
      throw Unavailable("not now");
    }
    if (knobs.waits) co_await rpc::Promise<void>(knobs.gate);
  }

  using Rpc =
      rpc::Methods<&Clockwork::Set, &Clockwork::SetAndThrow, &Clockwork::When, &Clockwork::Delete,
                   &Clockwork::Count, &Clockwork::Bookmark, &Clockwork::Restore, &Clockwork::Abort>;
};

class Deaf : public Object {
 public:
  using Object::Object;
  void Set(int64_t at_ms) { storage().SetAlarm(at_ms); }
  using Rpc = rpc::Methods<&Deaf::Set>;
};

struct World : SimulatedHost {
  explicit World(uint64_t seed = 1)
      : SimulatedHost(seed, [this](Host& started) {
          clocks.emplace(started.AddNamespace<Clockwork>("CLOCKS").value());
        }) {
    knobs = {};
    rings.clear();
    Start();
  }
  ~World() {
    machine().Run([] { knobs = {}; });  // the gate is an object of the simulation
  }
  rpc::Stub<Clockwork> Get(std::string_view name = "a") { return clocks->Get(name); }
  Status Set(int64_t at_ms, std::string_view name = "a") {
    return MustAsk([&] { return Get(name).Call<&Clockwork::Set>(at_ms); });
  }
  std::optional<int64_t> When() {
    return MustAsk([&] { return Get().Call<&Clockwork::When>(); }).value();
  }
  int64_t Count() {
    return MustAsk([&] { return Get().Call<&Clockwork::Count>(); }).value();
  }
  std::optional<Namespace<Clockwork>> clocks;
};

}  // namespace

TEST_CASE("an alarm goes off once, at its time and not before", "[durable][alarm][sim]") {
  World world;
  const int64_t at = world.now_ms() + 5 * kSecondMs;
  REQUIRE(world.Set(at).ok());
  REQUIRE(world.When() == at);
  world.RunForMs(4900);
  REQUIRE(rings.empty());
  world.RunForMs(60 * kSecondMs);
  REQUIRE(rings.size() == 1);
  REQUIRE(rings[0].at_ms >= at);
  REQUIRE(rings[0].at_ms <= at + 2);
  REQUIRE(rings[0].scheduled_ms == at);
  REQUIRE(rings[0].retries == 0);
  REQUIRE(!rings[0].seen_alarm);  // inside the handler it is gone
  REQUIRE(!world.When());
  REQUIRE(world.Count() == 1);
}

TEST_CASE("an object has one alarm: the last one set counts", "[durable][alarm][sim]") {
  World world;
  const int64_t now = world.now_ms();
  REQUIRE(world.Set(now + 10 * kSecondMs).ok());
  REQUIRE(world.Set(now + 2 * kSecondMs).ok());  // earlier
  world.RunForMs(3 * kSecondMs);
  REQUIRE(rings.size() == 1);
  REQUIRE(world.Set(now + 5 * kSecondMs).ok());
  REQUIRE(world.Set(now + 20 * kSecondMs).ok());  // later
  world.RunForMs(10 * kSecondMs);
  REQUIRE(rings.size() == 1);
  world.RunForMs(10 * kSecondMs);
  REQUIRE(rings.size() == 2);
  REQUIRE(rings[1].scheduled_ms == now + 20 * kSecondMs);
  REQUIRE(world.Set(world.now_ms() + kSecondMs).ok());
  REQUIRE(world.MustAsk([&] { return world.Get().Call<&Clockwork::Delete>(); }).ok());
  world.RunForMs(60 * kSecondMs);
  REQUIRE(rings.size() == 2);
}

TEST_CASE("a time that has passed means now, and none below 1 is one", "[durable][alarm][sim]") {
  World world;
  REQUIRE(world.Set(1).ok());
  world.RunForMs(10);
  REQUIRE(rings.size() == 1);
  for (const int64_t bad : {int64_t{0}, int64_t{-5}}) {
    const Status status = world.Set(bad);
    REQUIRE(status.code() == StatusCode::kInvalidArgument);
    REQUIRE(Message(status) == "setAlarm() cannot be called with an alarm time <= 0");
  }
}

TEST_CASE("a class without Alarm() cannot set one", "[durable][alarm][sim]") {
  std::optional<Namespace<Deaf>> deaf;
  SimulatedHost world(1,
                      [&](Host& host) { deaf.emplace(host.AddNamespace<Deaf>("DEAF").value()); });
  world.Start();
  const Status status = world.MustAsk([&] { return deaf->Get("a").Call<&Deaf::Set>(5); });
  REQUIRE(status.code() == StatusCode::kFailedPrecondition);
  REQUIRE(Message(status) ==
          "Your Durable Object class must have an alarm() handler in order to call setAlarm()");
}

TEST_CASE("an alarm of a turn that fails was never set", "[durable][alarm][sim]") {
  World world;
  REQUIRE(!world
               .MustAsk([&] {
                 return world.Get().Call<&Clockwork::SetAndThrow>(world.now_ms() + kSecondMs);
               })
               .ok());
  REQUIRE(!world.When());
  // One that was there stays what it was, earlier and later.
  const int64_t at = world.now_ms() + 10 * kSecondMs;
  REQUIRE(world.Set(at).ok());
  for (const int64_t other : {at - 5 * kSecondMs, at + 5 * kSecondMs}) {
    REQUIRE(!world.MustAsk([&] { return world.Get().Call<&Clockwork::SetAndThrow>(other); }).ok());
  }
  world.RunForMs(60 * kSecondMs);
  REQUIRE(rings.size() == 1);
  REQUIRE(rings[0].at_ms >= at);
  REQUIRE(rings[0].at_ms <= at + 2);
}

TEST_CASE("a handler that fails is undone and runs again, later and later, six times",
          "[durable][alarm][sim]") {
  World world;
  knobs.failures_left = 100;
  const int64_t at = world.now_ms() + kSecondMs;
  REQUIRE(world.Set(at).ok());
  world.RunForMs(3600 * kSecondMs);
  REQUIRE(rings.size() == 7);
  for (size_t i = 0; i < rings.size(); ++i) {
    CAPTURE(i);
    REQUIRE(rings[i].retries == static_cast<int>(i));
    REQUIRE(rings[i].scheduled_ms == at);
    if (i == 0) continue;
    const int64_t wait = rings[i].at_ms - rings[i - 1].at_ms;
    const int64_t least = (2 * kSecondMs) << (i - 1);
    REQUIRE(wait >= least);
    REQUIRE(wait <= least + least / 4 + 10);
  }
  REQUIRE(!world.When());  // given up
  REQUIRE(world.Count() == 0);
  // And the next alarm has all its tries again.
  knobs.failures_left = 1;
  REQUIRE(world.Set(world.now_ms() + kSecondMs).ok());
  world.RunForMs(60 * kSecondMs);
  REQUIRE(rings.size() == 9);
  REQUIRE(rings[7].retries == 0);
  REQUIRE(rings[8].retries == 1);
  REQUIRE(world.Count() == 1);
}

TEST_CASE("a handler that aborts its object has failed", "[durable][alarm][sim]") {
  World world;
  knobs.aborts_left = 2;
  REQUIRE(world.Set(world.now_ms() + kSecondMs).ok());
  world.RunForMs(60 * kSecondMs);
  REQUIRE(rings.size() == 3);
  REQUIRE(rings[2].retries == 2);
  REQUIRE(world.Count() == 1);
  REQUIRE(!world.When());
}

TEST_CASE("giving up leaves alone an alarm that was set meanwhile", "[durable][alarm][sim]") {
  World world;
  knobs.aborts_left = 7;  // the last failure ends the instance as well
  REQUIRE(world.Set(world.now_ms() + kSecondMs).ok());
  world.simulation().RunUntil([] { return rings.size() == 6; }, 3600'000'000'000);
  REQUIRE(rings.size() == 6);
  const int64_t next = world.now_ms() + 500 * kSecondMs;
  REQUIRE(world.Set(next).ok());  // it does not wait for the other's retry
  world.RunForMs(499 * kSecondMs);
  REQUIRE(rings.size() == 6);
  world.RunForMs(100 * kSecondMs);
  REQUIRE(rings.size() == 8);  // one more abort, and a success
  REQUIRE(rings[6].retries == 0);
  REQUIRE(rings[6].scheduled_ms == next);
}

TEST_CASE("an alarm that the handler sets is kept when the handler succeeds",
          "[durable][alarm][sim]") {
  World world;
  knobs.set_again_in_ms = 3 * kSecondMs;
  REQUIRE(world.Set(world.now_ms() + kSecondMs).ok());
  world.RunForMs(1100);
  REQUIRE(rings.size() == 1);
  REQUIRE(world.When().has_value());
  world.RunForMs(10 * kSecondMs);
  REQUIRE(rings.size() == 2);
  REQUIRE(rings[1].scheduled_ms >= rings[0].at_ms + 3 * kSecondMs);
  REQUIRE(!world.When());
}

TEST_CASE("an alarm set while a handler waits runs after it, not beside it",
          "[durable][alarm][sim]") {
  World world;
  rpc::Resolver resolver;
  world.machine().Run([&] {
    auto pending = rpc::MakePromise();
    knobs.gate = pending.promise;
    resolver = std::move(pending.resolver);
  });
  knobs.waits = true;
  REQUIRE(world.Set(world.now_ms() + kSecondMs).ok());
  world.RunForMs(2 * kSecondMs);
  REQUIRE(rings.size() == 1);
  REQUIRE(!world.When());
  REQUIRE(world.Set(world.now_ms() + kSecondMs).ok());
  REQUIRE(world.When().has_value());
  world.RunForMs(30 * kSecondMs);
  REQUIRE(rings.size() == 1);
  knobs.waits = false;
  world.machine().Run([&] { resolver.Settle(rpc::Value()); });
  world.RunForMs(kSecondMs);
  REQUIRE(rings.size() == 2);
  REQUIRE(rings[1].retries == 0);
  REQUIRE(!world.When());
}

TEST_CASE("alarms survive a power cut, and overdue ones go off at the start",
          "[durable][alarm][sim]") {
  World world;
  const int64_t now = world.now_ms();
  REQUIRE(world.Set(now + 5 * kSecondMs, "a").ok());
  REQUIRE(world.Set(now + 60 * kSecondMs, "b").ok());
  world.PowerOff();
  world.RunForMs(10 * kSecondMs);
  world.Start();
  world.RunForMs(100);
  REQUIRE(rings.size() == 1);
  REQUIRE(rings[0].id == world.clocks->IdFromName("a").ToString());
  world.RunForMs(100 * kSecondMs);
  REQUIRE(rings.size() == 2);
  REQUIRE(rings[1].at_ms >= now + 60 * kSecondMs);
}

TEST_CASE("going back in time brings the alarm of that time back", "[durable][alarm][sim]") {
  World world;
  const int64_t at = world.now_ms() + 100 * kSecondMs;
  REQUIRE(world.Set(at).ok());
  const std::string before =
      world.MustAsk([&] { return world.Get().Call<&Clockwork::Bookmark>(); }).value();
  REQUIRE(world.MustAsk([&] { return world.Get().Call<&Clockwork::Delete>(); }).ok());
  const Status planned =
      world.MustAsk([&] { return world.Get().Call<&Clockwork::Restore>(before); });
  CAPTURE(planned.ToString());
  REQUIRE(planned.ok());
  REQUIRE(!world.MustAsk([&] { return world.Get().Call<&Clockwork::Abort>(); }).ok());
  REQUIRE(world.When() == at);
  world.RunForMs(200 * kSecondMs);
  REQUIRE(rings.size() == 1);
  REQUIRE(rings[0].at_ms >= at);
}

TEST_CASE("whatever is set, moved, deleted and cut: no alarm is early, none is lost",
          "[durable][alarm][sim][property]") {
  const auto seed = GENERATE(range(1u, 13u));
  CAPTURE(seed);
  World world(seed);
  SeededRandom random(seed);
  // Per object: the time that was confirmed last, and those that a cut left in doubt.
  struct Wish {
    std::optional<int64_t> confirmed;
    std::vector<std::optional<int64_t>> doubtful;
  };
  std::map<std::string, Wish> wishes;
  std::map<std::string, std::vector<int64_t>> ever;  // all times asked for, of an object
  for (int step = 0; step < 60; ++step) {
    const std::string name(1, static_cast<char>('a' + random.Below(3)));
    Wish& wish = wishes[name];
    switch (random.Below(6)) {
      case 0:
        world.RunForMs(static_cast<int64_t>(random.Below(8'000)));
        break;
      case 1: {
        knobs.failures_left = static_cast<int>(random.Below(3));
        break;
      }
      case 2: {  // a cut while something is under way
        std::optional<int64_t> at = world.now_ms() + static_cast<int64_t>(random.Below(9'000)) + 1;
        ever[name].push_back(*at);
        world.machine().Run([&] { world.Get(name).Call<&Clockwork::Set>(*at).Ignore(); });
        for (uint64_t i = random.Below(6); i > 0; --i) world.simulation().Step();
        wish.doubtful.push_back(at);
        world.Restart();
        break;
      }
      case 3: {
        REQUIRE(world.MustAsk([&] { return world.Get(name).Call<&Clockwork::Delete>(); }).ok());
        wish = {};
        break;
      }
      default: {
        const int64_t at = world.now_ms() + static_cast<int64_t>(random.Below(9'000)) + 1;
        ever[name].push_back(at);
        REQUIRE(world.Set(at, name).ok());
        wish = {.confirmed = at, .doubtful = {}};
      }
    }
  }
  knobs.failures_left = 0;
  world.RunForMs(600 * kSecondMs);
  for (const Ring& ring : rings) REQUIRE(ring.at_ms >= ring.scheduled_ms);
  for (const auto& [name, wish] : wishes) {
    CAPTURE(name);
    const std::string id = world.clocks->IdFromName(name).ToString();
    const auto rang = [&](int64_t at) {
      return std::any_of(rings.begin(), rings.end(), [&](const Ring& ring) {
        return ring.id == id && ring.scheduled_ms == at;
      });
    };
    bool told = !wish.confirmed || rang(*wish.confirmed);
    for (const auto& doubtful : wish.doubtful) told |= rang(*doubtful);
    REQUIRE(told);
    for (const Ring& ring : rings) {
      if (ring.id != id) continue;
      const auto& asked = ever[name];
      REQUIRE(std::find(asked.begin(), asked.end(), ring.scheduled_ms) != asked.end());
    }
    REQUIRE(!world.MustAsk([&] { return world.Get(name).Call<&Clockwork::When>(); }).value());
  }
}
