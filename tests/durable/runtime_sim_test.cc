// The whole runtime on a simulated machine whose power fails: what callers were told must fit
// one order of events that respects real time (Herlihy and Wing, 1990), and what was confirmed
// is never lost.
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "edge/base/errors.h"
#include "edge/durable/host.h"
#include "tests/durable/simulated_host.h"

using namespace edge;           // NOLINT
using namespace edge::durable;  // NOLINT
using edge::durable::testing::SimulatedHost;

namespace {

class Register : public Object {
 public:
  explicit Register(Context& ctx) : Object(ctx) {
    sql().Exec("CREATE TABLE IF NOT EXISTS r (id INTEGER PRIMARY KEY, n INTEGER)");
    sql().Exec("INSERT OR IGNORE INTO r VALUES (1, 0)");
  }
  int64_t Add() { return sql().Exec<int64_t>("UPDATE r SET n = n + 1 RETURNING n").Value(); }
  void Write(int64_t value) { sql().Exec("UPDATE r SET n = ?", value); }
  int64_t Read() { return sql().Exec<int64_t>("SELECT n FROM r").Value(); }
  using Rpc = rpc::Methods<&Register::Add, &Register::Write, &Register::Read>;
};

class Flight : public Object {
 public:
  explicit Flight(Context& ctx) : Object(ctx) {
    sql().Exec("CREATE TABLE IF NOT EXISTS seats (seat INTEGER PRIMARY KEY, who TEXT)");
    for (int i = 0; i < 8; ++i) sql().Exec("INSERT OR IGNORE INTO seats VALUES (?, NULL)", i);
  }
  void Assign(int64_t seat, std::string_view who) {
    if (sql()
            .Exec<std::optional<std::string>>("SELECT who FROM seats WHERE seat = ?", seat)
            .Value()) {
      throw FailedPrecondition("Seat is occupied: {}", seat);
    }
    sql().Exec("UPDATE seats SET who = ? WHERE seat = ?", who, seat);
  }
  std::vector<std::string> Occupants() {
    std::vector<std::string> all;
    for (auto& [who] :
         sql().Exec<std::string>("SELECT coalesce(who, '') FROM seats ORDER BY seat")) {
      all.push_back(who);
    }
    return all;
  }
  using Rpc = rpc::Methods<&Flight::Assign, &Flight::Occupants>;
};

struct World : SimulatedHost {
  explicit World(uint64_t seed)
      : SimulatedHost(seed,
                      [this](Host& started) {
                        registers.emplace(started.AddNamespace<Register>("R").value());
                        flights.emplace(started.AddNamespace<Flight>("F").value());
                      }),
        random(seed * 7919) {
    Start();
  }
  void Steps(uint64_t most) {
    for (uint64_t n = random.Below(most) + 1; n > 0; --n) simulation().Step();
  }
  std::optional<Namespace<Register>> registers;
  std::optional<Namespace<Flight>> flights;
  SeededRandom random;
};

// One call as its caller saw it. Times are counts of what happened before.
struct Op {
  enum class Kind { kAdd, kWrite, kRead } kind = Kind::kAdd;
  int64_t value = 0;  // written, or answered
  int start = 0;
  int end = INT32_MAX;  // never answered: it may have happened, then or never
  bool answered() const { return end != INT32_MAX; }
};

// Is there an order of `ops` that one register, at first 0, would give these answers in?
// (Wing and Gong, 1993, with the states that were tried already remembered.)
bool Linearizable(const std::vector<Op>& ops, uint64_t done, int64_t value,
                  std::set<std::pair<uint64_t, int64_t>>& tried) {
  if (!tried.emplace(done, value).second) return false;
  int first_end = INT32_MAX;
  bool all_answered_done = true;
  for (size_t i = 0; i < ops.size(); ++i) {
    if ((done >> i & 1) != 0) continue;
    first_end = std::min(first_end, ops[i].end);
    all_answered_done &= !ops[i].answered();
  }
  if (all_answered_done) return true;
  for (size_t i = 0; i < ops.size(); ++i) {
    const Op& op = ops[i];
    if ((done >> i & 1) != 0 || op.start > first_end) continue;
    int64_t next = value;
    if (op.kind == Op::Kind::kRead && op.answered() && op.value != value) continue;
    if (op.kind == Op::Kind::kAdd) {
      next = value + 1;
      if (op.answered() && op.value != next) continue;
    }
    if (op.kind == Op::Kind::kWrite) next = op.value;
    if (Linearizable(ops, done | uint64_t{1} << i, next, tried)) return true;
  }
  return false;
}

void CheckRegister(uint64_t seed) {
  CAPTURE(seed);
  World world(seed);
  const bool counts = seed % 2 == 0;
  std::vector<Op> ops;
  int now = 0;
  int64_t written = 0;
  for (int step = 0; step < 24; ++step) {
    const size_t at = ops.size();
    Op& op = ops.emplace_back();
    op.start = ++now;
    op.kind = world.random.Below(3) == 0 ? Op::Kind::kRead
              : counts                   ? Op::Kind::kAdd
                                         : Op::Kind::kWrite;
    if (op.kind == Op::Kind::kWrite) op.value = ++written;
    const auto answer = [&ops, &now, at](const StatusOr<int64_t>& value) {
      if (!value.ok()) return;  // in doubt
      ops[at].end = ++now;
      if (ops[at].kind != Op::Kind::kWrite) ops[at].value = *value;
    };
    world.machine().Run([&] {
      auto object = world.registers->Get("r");
      if (op.kind == Op::Kind::kAdd) {
        object.Call<&Register::Add>().Then(answer);
      } else if (op.kind == Op::Kind::kRead) {
        object.Call<&Register::Read>().Then(answer);
      } else {
        object.Call<&Register::Write>(op.value).Then([answer](const Status& status) {
          answer(status.ok() ? StatusOr<int64_t>(0) : StatusOr<int64_t>(status));
        });
      }
    });
    if (world.random.Below(2) == 0) world.Steps(12);
    if (world.random.Below(8) == 0) world.Restart();
  }
  world.RunForMs(1000);
  Op& last = ops.emplace_back();
  last = {.kind = Op::Kind::kRead, .value = 0, .start = ++now};
  last.value =
      world.MustAsk([&] { return world.registers->Get("r").Call<&Register::Read>(); }).value();
  last.end = ++now;
  std::set<std::pair<uint64_t, int64_t>> tried;
  REQUIRE(Linearizable(ops, 0, 0, tried));
}

void CheckFlight(uint64_t seed) {
  CAPTURE(seed);
  World world(seed);
  std::map<int64_t, std::string> sold;  // as confirmed
  bool sold_twice = false;
  for (int passenger = 0; passenger < 30; ++passenger) {
    const auto seat = static_cast<int64_t>(world.random.Below(8));
    const std::string who = "p" + std::to_string(passenger);
    world.machine().Run([&] {
      world.flights->Get("UA17").Call<&Flight::Assign>(seat, who).Then(
          [&sold, &sold_twice, seat, who](const Status& status) {
            if (status.ok()) sold_twice |= !sold.emplace(seat, who).second;
          });
    });
    if (world.random.Below(2) == 0) world.Steps(12);
    if (world.random.Below(10) == 0) world.Restart();
  }
  world.RunForMs(1000);
  const auto occupants =
      world.MustAsk([&] { return world.flights->Get("UA17").Call<&Flight::Occupants>(); }).value();
  REQUIRE(!sold_twice);
  for (const auto& [seat, who] : sold) REQUIRE(occupants[static_cast<size_t>(seat)] == who);
}

}  // namespace

TEST_CASE("the check of histories finds what is wrong with them", "[durable][sim]") {
  using Kind = Op::Kind;
  std::set<std::pair<uint64_t, int64_t>> tried;
  const auto fits = [&](const std::vector<Op>& ops) {
    tried.clear();
    return Linearizable(ops, 0, 0, tried);
  };
  REQUIRE(fits({{Kind::kWrite, 5, 1, 2}, {Kind::kRead, 5, 3, 4}}));
  REQUIRE(!fits({{Kind::kWrite, 5, 1, 2}, {Kind::kRead, 0, 3, 4}}));  // stale
  REQUIRE(fits({{Kind::kWrite, 5, 1, 4}, {Kind::kRead, 0, 2, 3}}));   // both at once
  REQUIRE(fits({{Kind::kWrite, 5, 1, INT32_MAX}, {Kind::kRead, 0, 3, 4}}));
  REQUIRE(fits({{Kind::kWrite, 5, 1, INT32_MAX}, {Kind::kRead, 5, 3, 4}}));
  REQUIRE(!fits({{Kind::kWrite, 5, 1, INT32_MAX}, {Kind::kRead, 5, 3, 4}, {Kind::kRead, 0, 5, 6}}));
  REQUIRE(!fits({{Kind::kAdd, 1, 1, 2}, {Kind::kAdd, 1, 3, 4}}));  // lost
  REQUIRE(fits({{Kind::kAdd, 2, 1, 4}, {Kind::kAdd, 1, 2, 3}}));
}

TEST_CASE("counters and registers are linearizable through power cuts", "[durable][sim]") {
  for (uint64_t seed = 1; seed <= 24; ++seed) CheckRegister(seed);
}

TEST_CASE("a seat is never sold twice, and a sold one stays sold", "[durable][sim]") {
  for (uint64_t seed = 1; seed <= 24; ++seed) CheckFlight(seed);
}

TEST_CASE("the same over ten thousand seeds", "[.soak][durable][sim]") {
  for (uint64_t seed = 100; seed < 10'100; ++seed) {
    CheckFlight(seed);
    if (seed % 4 == 0) CheckRegister(seed);
  }
}
