#include "edge/durable/object.h"

#include <algorithm>
#include <atomic>
#include <future>
#include <random>
#include <stdexcept>
#include <thread>

#include "edge/base/errors.h"
#include "edge/durable/host.h"
#include "tests/durable/world.h"

using namespace edge;                   // NOLINT
using namespace edge::durable;          // NOLINT
using edge::durable::testing::Pending;  // NOLINT
using edge::durable::testing::World;    // NOLINT

namespace {

class FlightSeating : public Object {
 public:
  using Object::Object;

  void Initialize(const std::vector<std::string>& seats) {
    sql().Exec("CREATE TABLE seats (seat TEXT PRIMARY KEY, occupant TEXT)");
    for (const auto& seat : seats) sql().Exec("INSERT INTO seats VALUES (?, NULL)", seat);
  }
  std::vector<std::string> Available() {
    std::vector<std::string> seats;
    for (auto& [seat] :
         sql().Exec<std::string>("SELECT seat FROM seats WHERE occupant IS NULL ORDER BY seat"))
      seats.push_back(seat);
    return seats;
  }
  void Assign(std::string_view seat, std::string_view who) {
    auto row =
        sql()
            .Exec<std::optional<std::string>>("SELECT occupant FROM seats WHERE seat = ?", seat)
            .First();
    if (!row) throw NotFound("No such seat: {}", seat);
    if (auto& [occupant] = *row; occupant) throw FailedPrecondition("Seat is occupied: {}", seat);
    sql().Exec("UPDATE seats SET occupant = NULL WHERE occupant = ?", who);
    sql().Exec("UPDATE seats SET occupant = ? WHERE seat = ?", who, seat);
    for (size_t i = 0; i < listeners_.size(); ++i) {
      listeners_[i](std::string(seat), std::string(who)).Then([this, i](Status heard) {
        if (!heard.ok()) gone_.push_back(static_cast<int64_t>(i));
      });
    }
  }
  void Watch(rpc::Stub<void(std::string, std::string)> listener) {
    listeners_.push_back(std::move(listener));
  }
  std::vector<int64_t> Gone() { return {gone_.begin(), gone_.end()}; }
  std::string Bookmark() { return storage().GetCurrentBookmark(); }
  void Ruin() { sql().Exec("UPDATE seats SET occupant = 'oops'"); }
  std::string PlanRestore(const std::string& bookmark) {
    return storage().OnNextSessionRestore(bookmark);
  }
  void Abort() { ctx().Abort("restoring"); }

  using Rpc =
      rpc::Methods<&FlightSeating::Initialize, &FlightSeating::Available, &FlightSeating::Assign,
                   &FlightSeating::Watch, &FlightSeating::Gone, &FlightSeating::Bookmark,
                   &FlightSeating::Ruin, &FlightSeating::PlanRestore, &FlightSeating::Abort>;

 private:
  std::vector<rpc::Stub<void(std::string, std::string)>> listeners_;
  std::vector<int64_t> gone_;
};

// A counter with one odd habit per method.
class Tally : public Object {
 public:
  explicit Tally(Context& ctx) : Object(ctx) {
    sql().Exec("CREATE TABLE IF NOT EXISTS c (id INTEGER PRIMARY KEY, n INTEGER)");
    sql().Exec("INSERT OR IGNORE INTO c VALUES (1, 0)");
  }
  int64_t Add(int64_t by) {
    ++calls_;
    return sql().Exec<int64_t>("UPDATE c SET n = n + ? RETURNING n", by).Value();
  }
  int64_t Get() { return sql().Exec<int64_t>("SELECT n FROM c").Value(); }
  int64_t Calls() { return calls_; }
  std::string Id() { return ctx().id().ToString(); }
  void AddAndThrow(int64_t by) {
    Add(by);
    throw InvalidArgument("thrown after {}", by);
  }
  Status AddAndFail(int64_t by) {
    Add(by);
    return InvalidArgument("failed after {}", by);
  }
  void AddAndThrowStandard(int64_t by) {
    Add(by);
    throw std::runtime_error("standard");
  }
  int64_t AddNested(int64_t by) {
    storage().TransactionSync([&] {
      Add(by);
      try {
        storage().TransactionSync([&] {
          Add(100);
          throw Cancelled("inner");
        });
      } catch (const Error&) {
      }
      const Status undone = storage().TryTransactionSync([&]() -> Status {
        Add(1000);
        return Cancelled("inner");
      });
      if (undone.ok()) throw Internal("not passed on");
    });
    return Get();
  }
  void AddAndAbort(int64_t by) {
    Add(by);
    try {
      ctx().Abort("enough");
    } catch (const Error&) {
    }
    Add(by);
  }
  void BreakConstraint() {
    sql().Exec("CREATE TABLE IF NOT EXISTS d (x REFERENCES c(id) DEFERRABLE INITIALLY DEFERRED)");
    sql().Exec("INSERT INTO d VALUES (77)");
  }
  // Writes, awaits `other`, writes again.
  Task<int64_t> AddAround(rpc::Stub<int64_t()> other) {
    Add(1);
    const int64_t by = co_await other();
    Add(by);
    co_return Get();
  }
  Task<int64_t> AddAroundAndThrow(rpc::Stub<int64_t()> other) {
    Add(1);
    const int64_t by = co_await other();
    Add(by);
    throw InvalidArgument("after the second write");
  }
  // Calls out, and then writes or fails.
  void TellAndAdd(rpc::Stub<void()> listener) {
    listener().Ignore();
    Add(1);
  }
  void TellAndThrow(rpc::Stub<void()> listener) {
    Add(1);
    listener().Then([this](Status heard) { heard_ = heard; });
    throw InvalidArgument("thrown");
  }
  std::string Heard() { return std::string(Message(heard_)); }
  // Calls itself, by its own stub, in the middle of its own method.
  int64_t CallSelf(rpc::Stub<Tally> self) {
    self.Call<&Tally::Add>(10).Ignore();
    Add(1);
    return Get();
  }
  void Put(std::string_view key, std::string_view value) { kv().Put(key, value); }
  std::optional<std::string> GetKey(std::string_view key) { return kv().Get(key); }
  std::vector<std::string> ListKeys() {
    std::vector<std::string> keys;
    for (auto& [key, value] : kv().List()) keys.push_back(key + "=" + value);
    return keys;
  }

  using Rpc =
      rpc::Methods<&Tally::Add, &Tally::Get, &Tally::Calls, &Tally::Id, &Tally::AddAndThrow,
                   &Tally::AddAndFail, &Tally::AddAndThrowStandard, &Tally::AddNested,
                   &Tally::AddAndAbort, &Tally::BreakConstraint, &Tally::AddAround,
                   &Tally::AddAroundAndThrow, &Tally::TellAndAdd, &Tally::TellAndThrow,
                   &Tally::Heard, &Tally::CallSelf, &Tally::Put, &Tally::GetKey, &Tally::ListKeys>;

 private:
  int64_t calls_ = 0;
  Status heard_;
};

class Unwilling : public Object {
 public:
  explicit Unwilling(Context& ctx) : Object(ctx) {
    sql().Exec("CREATE TABLE t (x)");  // undone with the constructor, or it fails the next time
    if (failures_left-- > 0) throw Unavailable("not yet");
  }
  std::string Hello() { return "hello"; }
  using Rpc = rpc::Methods<&Unwilling::Hello>;
  static inline std::atomic<int> failures_left = 0;
};

}  // namespace

TEST_CASE("the flight of the article: seats are assigned once, and passengers move", "[durable]") {
  World world;
  auto flights = world.host->AddNamespace<FlightSeating>("FLIGHTS").value();
  auto flight = flights.Get("UA17");
  REQUIRE(flight.Call<&FlightSeating::Initialize>({"1A", "1B", "1C"}).Wait().ok());
  REQUIRE(flight.Call<&FlightSeating::Assign>("1A", "ada").Wait().ok());
  const Status taken = flight.Call<&FlightSeating::Assign>("1A", "bob").Wait();
  REQUIRE(taken.code() == StatusCode::kFailedPrecondition);
  REQUIRE(Message(taken) == "Seat is occupied: 1A");
  const Status absent = flight.Call<&FlightSeating::Assign>("9Z", "bob").Wait();
  REQUIRE(absent.code() == StatusCode::kNotFound);
  REQUIRE(Message(absent) == "No such seat: 9Z");
  REQUIRE(flight.Call<&FlightSeating::Assign>("1B", "ada").Wait().ok());  // ada moves
  REQUIRE(flight.Call<&FlightSeating::Available>().Wait().value() ==
          std::vector<std::string>{"1A", "1C"});
  // Another flight is another database.
  REQUIRE(flights.Get("UA18").Call<&FlightSeating::Initialize>({"1A"}).Wait().ok());
  REQUIRE(world.host->objects_running() == 2);
}

TEST_CASE("objects are found by name, by id, and by text", "[durable]") {
  World world;
  auto counters = world.host->AddNamespace<Tally>("COUNTERS").value();
  auto others = world.host->AddNamespace<Tally>("OTHERS").value();
  REQUIRE(counters.Get("a").Call<&Tally::Add>(5).Wait().value() == 5);
  const ObjectId id = counters.IdFromName("a");
  REQUIRE(counters.Get(id).Call<&Tally::Get>().Wait().value() == 5);
  REQUIRE(counters.Get(counters.IdFromString(id.ToString()).value())
              .Call<&Tally::Id>()
              .Wait()
              .value() == id.ToString());
  REQUIRE(others.Get("a").Call<&Tally::Get>().Wait().value() == 0);
  REQUIRE(counters.Get(counters.NewUniqueId()).Call<&Tally::Get>().Wait().value() == 0);
  const Status foreign = others.Get(id).Call<&Tally::Get>().Wait().status();
  REQUIRE(Message(foreign) == "Durable Object ID is not valid for this namespace.");
  REQUIRE(!others.IdFromString(id.ToString()).ok());

  const rpc::AnyStub found(world.host->Find("COUNTERS", "a").value());
  REQUIRE(found.Call<int64_t>("add", 1).Wait().value() == 6);
  REQUIRE(world.host->Find("NONE", "a").status().code() == StatusCode::kNotFound);
  REQUIRE(world.host->AddNamespace<Tally>("COUNTERS").status().code() ==
          StatusCode::kAlreadyExists);
  REQUIRE(world.host->AddNamespace<Tally>("../x").status().code() == StatusCode::kInvalidArgument);
}

TEST_CASE("what is not in the method list cannot be reached", "[durable]") {
  World world;
  auto counters = world.host->AddNamespace<Tally>("COUNTERS").value();
  const rpc::AnyStub stub = counters.Get("a");
  REQUIRE(Message(stub.Call("calls_").Wait().status()) == "'calls_' is not a function.");
  REQUIRE(stub.Call("add", "many").Wait().status().code() == StatusCode::kInvalidArgument);
}

TEST_CASE("an answer waits for its write to be durable", "[durable][gate]") {
  World world;
  auto counter = world.host->AddNamespace<Tally>("C").value().Get("a");
  REQUIRE(counter.Call<&Tally::Get>().Wait().value() == 0);
  world.relay.HoldCommits();
  Pending<int64_t> add(world, [&] { return counter.Call<&Tally::Add>(1); });
  world.relay.AwaitWaiting(1);
  REQUIRE(!add.there());
  // A reader has seen the write, so its answer waits as well; the object itself does not.
  Pending<int64_t> get(world, [&] { return counter.Call<&Tally::Get>(); });
  Pending<int64_t> more(world, [&] { return counter.Call<&Tally::Add>(1); });
  REQUIRE(!get.there());
  world.relay.MakeDurable();
  REQUIRE(add.Value().value() == 1);
  REQUIRE(get.Value().value() == 1);
  REQUIRE(more.Value().value() == 2);
}

TEST_CASE("a read of what is durable does not wait", "[durable][gate]") {
  World world;
  auto counter = world.host->AddNamespace<Tally>("C").value().Get("a");
  REQUIRE(counter.Call<&Tally::Add>(3).Wait().value() == 3);
  world.relay.HoldCommits();
  REQUIRE(counter.Call<&Tally::Get>().Wait().value() == 3);
}

TEST_CASE("errors wait at the gate too", "[durable][gate]") {
  World world;
  auto counter = world.host->AddNamespace<Tally>("C").value().Get("a");
  REQUIRE(counter.Call<&Tally::Get>().Wait().ok());
  world.relay.HoldCommits();
  Pending<int64_t> add(world, [&] { return counter.Call<&Tally::Add>(1); });
  world.relay.AwaitWaiting(1);
  Pending<void> fails(world, [&] { return counter.Call<&Tally::AddAndThrow>(1); });
  REQUIRE(!fails.there());
  world.relay.MakeDurable();
  REQUIRE(Message(fails.Value()) == "thrown after 1");
}

TEST_CASE("a lost commit replaces the answers by an error and restarts the object",
          "[durable][gate]") {
  World world;
  auto counter = world.host->AddNamespace<Tally>("C").value().Get("a");
  REQUIRE(counter.Call<&Tally::Add>(5).Wait().value() == 5);
  world.relay.HoldCommits();
  Pending<int64_t> add(world, [&] { return counter.Call<&Tally::Add>(1); });
  Pending<int64_t> get(world, [&] { return counter.Call<&Tally::Get>(); });
  world.relay.AwaitWaiting(1);
  world.relay.LoseCommits(Unavailable("the disk is gone"));
  REQUIRE(add.Value().status().code() == StatusCode::kUnavailable);
  REQUIRE(Message(add.Value().status()) ==
          "Durable Object was reset: its writes could not be made durable: the disk is gone");
  REQUIRE(get.Value().status() == add.Value().status());
  world.relay.HoldNoCommits();
  // The same stub reaches the next instance, which knows what was durable and nothing else.
  REQUIRE(counter.Call<&Tally::Get>().Wait().value() == 5);
  REQUIRE(counter.Call<&Tally::Calls>().Wait().value() == 0);
}

TEST_CASE("a database that does not open fails the call, not the stub", "[durable]") {
  World world;
  auto counter = world.host->AddNamespace<Tally>("C").value().Get("a");
  world.relay.FailOpens(Unavailable("no disk"));
  REQUIRE(Message(counter.Call<&Tally::Get>().Wait().status()) == "no disk");
  world.relay.FailOpens(OkStatus());
  REQUIRE(counter.Call<&Tally::Get>().Wait().value() == 0);
}

TEST_CASE("a method that fails is undone, and the object lives on", "[durable]") {
  World world;
  auto counter = world.host->AddNamespace<Tally>("C").value().Get("a");
  REQUIRE(counter.Call<&Tally::Add>(1).Wait().value() == 1);
  const Status thrown = counter.Call<&Tally::AddAndThrow>(10).Wait();
  REQUIRE(thrown.code() == StatusCode::kInvalidArgument);
  REQUIRE(Message(thrown) == "thrown after 10");
  REQUIRE(Message(counter.Call<&Tally::AddAndFail>(10).Wait()) == "failed after 10");
  REQUIRE(!counter.Call<&Tally::AddAndThrowStandard>(10).Wait().ok());
  REQUIRE(counter.Call<&Tally::Get>().Wait().value() == 1);
  REQUIRE(counter.Call<&Tally::Calls>().Wait().value() == 4);  // in memory nothing is undone
}

TEST_CASE("TransactionSync nests and undoes only what failed", "[durable]") {
  World world;
  auto counter = world.host->AddNamespace<Tally>("C").value().Get("a");
  REQUIRE(counter.Call<&Tally::AddNested>(1).Wait().value() == 1);
  REQUIRE(counter.Call<&Tally::Get>().Wait().value() == 1);
}

TEST_CASE("a constraint broken at the end of the turn resets the object", "[durable]") {
  World world;
  auto counter = world.host->AddNamespace<Tally>("C").value().Get("a");
  REQUIRE(counter.Call<&Tally::Add>(1).Wait().value() == 1);
  const Status status = counter.Call<&Tally::BreakConstraint>().Wait();
  REQUIRE(status.code() == StatusCode::kFailedPrecondition);
  REQUIRE(Message(status).starts_with(
      "Durable Object was reset and rolled back to its last known good state because the "
      "application left the database in a state where constraints were violated: "));
  REQUIRE(counter.Call<&Tally::Calls>().Wait().value() == 0);
  REQUIRE(counter.Call<&Tally::Get>().Wait().value() == 1);
}

TEST_CASE("Abort undoes the turn, even when it is caught, and starts the object anew",
          "[durable]") {
  World world;
  auto counter = world.host->AddNamespace<Tally>("C").value().Get("a");
  REQUIRE(counter.Call<&Tally::Add>(1).Wait().value() == 1);
  const Status status = counter.Call<&Tally::AddAndAbort>(10).Wait();
  REQUIRE(status.code() == StatusCode::kAborted);
  REQUIRE(Message(status) == "enough");
  REQUIRE(counter.Call<&Tally::Calls>().Wait().value() == 0);
  REQUIRE(counter.Call<&Tally::Get>().Wait().value() == 1);
}

TEST_CASE("a constructor that throws fails the call and is tried again", "[durable]") {
  World world;
  auto object = world.host->AddNamespace<Unwilling>("U").value().Get("a");
  Unwilling::failures_left = 2;
  REQUIRE(Message(object.Call<&Unwilling::Hello>().Wait().status()) == "not yet");
  REQUIRE(Message(object.Call<&Unwilling::Hello>().Wait().status()) == "not yet");
  REQUIRE(object.Call<&Unwilling::Hello>().Wait().value() == "hello");
}

TEST_CASE("while a task awaits, its writes are kept and others come in", "[durable]") {
  World world;
  auto counter = world.host->AddNamespace<Tally>("C").value().Get("a");
  // The other side is a promise in our hand.
  auto [promise, resolver] = RunOn(world.loop(), [&] { return rpc::MakePromise(&world.loop()); });
  const rpc::HookPtr later = promise;
  Pending<int64_t> around(world, [&] {
    return counter.Call<&Tally::AddAround>(
        rpc::Stub<int64_t()>([later] { return rpc::Promise<int64_t>(later); }));
  });
  REQUIRE(!around.there());
  REQUIRE(counter.Call<&Tally::Get>().Wait().value() == 1);  // its first stretch is committed
  REQUIRE(counter.Call<&Tally::Add>(10).Wait().value() == 11);
  RunOn(world.loop(), [&resolver = resolver] { resolver.Settle(rpc::Value(100)); });
  REQUIRE(around.Value().value() == 111);
}

TEST_CASE("a task that fails undoes the stretch since its last await", "[durable]") {
  World world;
  auto counter = world.host->AddNamespace<Tally>("C").value().Get("a");
  const Status status =
      counter.Call<&Tally::AddAroundAndThrow>(rpc::Stub<int64_t()>([] { return int64_t{50}; }))
          .Wait()
          .status();
  REQUIRE(Message(status) == "after the second write");
  REQUIRE(counter.Call<&Tally::Get>().Wait().value() == 1);
}

TEST_CASE("a reset cancels tasks that wait, and their callers get the reason", "[durable]") {
  World world;
  auto counter = world.host->AddNamespace<Tally>("C").value().Get("a");
  auto [promise, resolver] = RunOn(world.loop(), [&] { return rpc::MakePromise(&world.loop()); });
  const rpc::HookPtr later = promise;
  Pending<int64_t> around(world, [&] {
    return counter.Call<&Tally::AddAround>(
        rpc::Stub<int64_t()>([later] { return rpc::Promise<int64_t>(later); }));
  });
  REQUIRE(!around.there());
  REQUIRE(!counter.Call<&Tally::AddAndAbort>(1).Wait().ok());
  REQUIRE(Message(around.Value().status()) == "enough");
  RunOn(world.loop(), [&resolver = resolver] { resolver.Settle(rpc::Value(100)); });
  REQUIRE(counter.Call<&Tally::Get>().Wait().value() == 1);
}

TEST_CASE("a call that an object makes leaves after its writes are durable", "[durable][gate]") {
  World world;
  auto counter = world.host->AddNamespace<Tally>("C").value().Get("a");
  REQUIRE(counter.Call<&Tally::Get>().Wait().ok());
  world.relay.HoldCommits();
  int heard = 0;  // on the loop
  Pending<void> tell(world, [&] {
    return counter.Call<&Tally::TellAndAdd>(rpc::Stub<void()>([&heard] { ++heard; }));
  });
  world.relay.AwaitWaiting(1);
  world.Flush();
  // It was said before the write; at that moment nothing stood in its way.
  REQUIRE(RunOn(world.loop(), [&] { return heard; }) == 1);
  Pending<void> again(world, [&] {
    return counter.Call<&Tally::TellAndAdd>(rpc::Stub<void()>([&heard] { ++heard; }));
  });
  world.Flush();
  REQUIRE(RunOn(world.loop(), [&] { return heard; }) == 1);  // now there is a write to wait for
  world.relay.MakeDurable();
  world.Flush();
  REQUIRE(RunOn(world.loop(), [&] { return heard; }) == 2);
  world.relay.MakeDurable();
  REQUIRE(again.Value().ok());
}

TEST_CASE("what an undone turn said is not heard", "[durable][gate]") {
  World world;
  auto counter = world.host->AddNamespace<Tally>("C").value().Get("a");
  int heard = 0;  // on the loop
  auto listener = RunOn(world.loop(), [&] { return rpc::Stub<void()>([&heard] { ++heard; }); });
  REQUIRE(Message(counter.Call<&Tally::TellAndThrow>(listener).Wait()) == "thrown");
  REQUIRE(counter.Call<&Tally::Heard>().Wait().value() ==
          "The turn in which this was sent has failed and was undone.");
  REQUIRE(RunOn(world.loop(), [&] { return heard; }) == 0);
}

TEST_CASE("an object that calls itself hears it when its method has ended", "[durable]") {
  World world;
  auto counter = world.host->AddNamespace<Tally>("C").value().Get("a");
  REQUIRE(counter.Call<&Tally::CallSelf>(counter).Wait().value() == 1);
  REQUIRE(counter.Call<&Tally::Get>().Wait().value() == 11);
}

TEST_CASE("listeners hear of changes once they are durable, and broken ones are noticed",
          "[durable][gate]") {
  World world;
  auto flight = world.host->AddNamespace<FlightSeating>("FLIGHTS").value().Get("UA17");
  REQUIRE(flight.Call<&FlightSeating::Initialize>({"1A", "1B"}).Wait().ok());
  std::vector<std::string> seen;  // on the loop
  using Listener = rpc::Stub<void(std::string, std::string)>;
  auto good = RunOn(world.loop(), [&] {
    return Listener([&seen](std::string seat, std::string who) { seen.push_back(seat + who); });
  });
  REQUIRE(flight.Call<&FlightSeating::Watch>(good).Wait().ok());
  REQUIRE(flight.Call<&FlightSeating::Watch>(Listener(rpc::FailedHook(Unavailable("gone"))))
              .Wait()
              .ok());
  world.relay.HoldCommits();
  Pending<void> assign(world, [&] { return flight.Call<&FlightSeating::Assign>("1A", "ada"); });
  world.relay.AwaitWaiting(1);
  world.Flush();
  REQUIRE(RunOn(world.loop(), [&] { return seen.size(); }) == 0);
  world.relay.MakeDurable();
  REQUIRE(assign.Value().ok());
  REQUIRE(RunOn(world.loop(), [&] { return seen; }) == std::vector<std::string>{"1Aada"});
  REQUIRE(flight.Call<&FlightSeating::Gone>().Wait().value() == std::vector<int64_t>{1});
}

TEST_CASE("a ruined flight goes back to the moment before, and forth again", "[durable]") {
  World world;
  auto flight = world.host->AddNamespace<FlightSeating>("FLIGHTS").value().Get("UA17");
  REQUIRE(flight.Call<&FlightSeating::Initialize>({"1A", "1B"}).Wait().ok());
  const std::string before = flight.Call<&FlightSeating::Bookmark>().Wait().value();
  REQUIRE(flight.Call<&FlightSeating::Ruin>().Wait().ok());
  REQUIRE(flight.Call<&FlightSeating::Bookmark>().Wait().value() > before);
  REQUIRE(flight.Call<&FlightSeating::Available>().Wait()->empty());

  const std::string undo = flight.Call<&FlightSeating::PlanRestore>(before).Wait().value();
  REQUIRE(flight.Call<&FlightSeating::Available>().Wait()->empty());  // not before the restart
  REQUIRE(Message(flight.Call<&FlightSeating::Abort>().Wait()) == "restoring");
  REQUIRE(flight.Call<&FlightSeating::Available>().Wait()->size() == 2);

  REQUIRE(flight.Call<&FlightSeating::PlanRestore>(undo).Wait().ok());
  REQUIRE(!flight.Call<&FlightSeating::Abort>().Wait().ok());
  REQUIRE(flight.Call<&FlightSeating::Available>().Wait()->empty());  // the ruin is back
}

TEST_CASE("a restore that fails is told, and the object goes on as it was", "[durable]") {
  World world;
  auto flight = world.host->AddNamespace<FlightSeating>("FLIGHTS").value().Get("UA17");
  REQUIRE(flight.Call<&FlightSeating::Initialize>({"1A", "1B"}).Wait().ok());
  REQUIRE(flight.Call<&FlightSeating::PlanRestore>("nonsense").Wait().ok());
  REQUIRE(!flight.Call<&FlightSeating::Abort>().Wait().ok());
  const Status failed = flight.Call<&FlightSeating::Available>().Wait().status();
  REQUIRE(failed.code() == StatusCode::kNotFound);
  REQUIRE(Message(failed) ==
          "Durable Object could not go back to bookmark nonsense: no such bookmark: nonsense");
  REQUIRE(flight.Call<&FlightSeating::Available>().Wait()->size() == 2);
}

TEST_CASE("keys and values live in a table that SQL cannot see", "[durable]") {
  World world;
  auto counter = world.host->AddNamespace<Tally>("C").value().Get("a");
  REQUIRE(!counter.Call<&Tally::GetKey>("a").Wait().value());
  REQUIRE(counter.Call<&Tally::ListKeys>().Wait()->empty());
  REQUIRE(counter.Call<&Tally::Put>("b", "2").Wait().ok());
  REQUIRE(counter.Call<&Tally::Put>("a", "1").Wait().ok());
  REQUIRE(counter.Call<&Tally::Put>("b", "3").Wait().ok());
  REQUIRE(counter.Call<&Tally::GetKey>("b").Wait().value() == "3");
  REQUIRE(counter.Call<&Tally::ListKeys>().Wait().value() ==
          std::vector<std::string>{"a=1", "b=3"});
  REQUIRE(counter.Call<&Tally::Put>("", "1").Wait().code() == StatusCode::kInvalidArgument);
}

TEST_CASE("closing the host sends what is decided, refuses the rest, and closes databases",
          "[durable][gate]") {
  World world;
  auto counter = world.host->AddNamespace<Tally>("C").value().Get("a");
  const rpc::Stub<Tally> other(world.host->Find("C", "b").value());
  REQUIRE(counter.Call<&Tally::Get>().Wait().ok());
  REQUIRE(other.Call<&Tally::Get>().Wait().ok());
  world.relay.HoldCommits();
  Pending<int64_t> add(world, [&] { return counter.Call<&Tally::Add>(1); });
  world.relay.AwaitWaiting(1);
  std::thread closing([&] { world.host->Close(); });  // waits for the gate
  while (other.Call<&Tally::Get>().Wait().ok()) {
  }
  world.relay.MakeDurable();
  closing.join();
  REQUIRE(add.Value().value() == 1);
  REQUIRE(world.relay.open_count() == 0);
  REQUIRE(world.host->objects_running() == 0);
  const Status refused = counter.Call<&Tally::Get>().Wait().status();
  REQUIRE(refused.code() == StatusCode::kUnavailable);
  REQUIRE(Message(refused) == "The host of this Durable Object is shutting down.");
  REQUIRE(world.host->Find("C", "a").status().code() == StatusCode::kNotFound);
}

TEST_CASE("a counter hammered from several loops loses nothing", "[durable][threads]") {
  constexpr int kLoops = 4;
  constexpr int kObjects = 3;
  constexpr int kCalls = 300;
  World world(kLoops);
  auto counters = world.host->AddNamespace<Tally>("C").value();
  std::atomic<int> left = kLoops * kCalls;
  Mutex mu;
  CondVar done;
  std::vector<std::vector<int64_t>> seen(kObjects);  // guarded by mu
  for (size_t at = 0; at < kLoops; ++at) {
    world.executor->loop(at).PostUrgent([&, at] {
      for (int i = 0; i < kCalls; ++i) {
        const size_t object = (at + static_cast<size_t>(i)) % kObjects;
        counters.Get(std::to_string(object))
            .Call<&Tally::Add>(1)
            .Then([&, object](StatusOr<int64_t> value) {
              const MutexLock lock(&mu);
              seen[object].push_back(value.value());
              if (--left == 0) done.SignalAll();
            });
      }
    });
  }
  {
    const MutexLock lock(&mu);
    while (left > 0) done.Wait(&mu);
  }
  size_t total = 0;
  for (size_t object = 0; object < kObjects; ++object) {
    // Every value was given out exactly once.
    auto& values = seen[object];
    std::sort(values.begin(), values.end());
    for (size_t i = 0; i < values.size(); ++i) REQUIRE(values[i] == static_cast<int64_t>(i) + 1);
    total += values.size();
    REQUIRE(counters.Get(std::to_string(object)).Call<&Tally::Get>().Wait().value() ==
            static_cast<int64_t>(values.size()));
  }
  REQUIRE(total == kLoops * kCalls);
}

TEST_CASE("answers tell the truth about what survives", "[durable][gate][property]") {
  const auto seed = GENERATE(range(1u, 9u));
  CAPTURE(seed);
  std::mt19937 rng(seed);
  World world;
  auto counter = world.host->AddNamespace<Tally>("C").value().Get("a");
  REQUIRE(counter.Call<&Tally::Get>().Wait().value() == 0);
  world.relay.HoldCommits();
  struct Asked {
    Pending<int64_t> answer;
    int64_t expected;
  };
  std::vector<Asked> asked;
  int64_t value = 0, durable = 0;
  for (int step = 0; step < 60; ++step) {
    switch (rng() % 6) {
      case 0: {  // fails, and leaves nothing behind
        Pending<void> failed(world, [&] { return counter.Call<&Tally::AddAndThrow>(1000); });
        break;
      }
      case 1: {
        asked.push_back(
            {Pending<int64_t>(world, [&] { return counter.Call<&Tally::Get>(); }), value});
        break;
      }
      case 2: {
        world.Flush();
        world.relay.MakeDurable();
        world.Flush();
        world.relay.MakeDurable();  // for a gate that was armed again meanwhile
        for (Asked& one : asked) REQUIRE(one.answer.Value().value() == one.expected);
        asked.clear();
        durable = value;
        break;
      }
      case 3: {
        if (value == durable) break;
        world.Flush();
        world.relay.LoseCommits(Unavailable("lost"));
        world.Flush();
        for (Asked& one : asked) {
          // What was durable already may have been told before.
          const StatusOr<int64_t> answer = one.answer.Value();
          if (answer.ok()) REQUIRE((*answer == one.expected && one.expected == durable));
        }
        asked.clear();
        value = durable;
        // The next instance writes when it starts: let that be durable.
        Pending<int64_t> again(world, [&] { return counter.Call<&Tally::Get>(); });
        world.Flush();
        world.relay.MakeDurable();
        REQUIRE(again.Value().value() == durable);
        break;
      }
      default: {
        const auto by = static_cast<int64_t>(rng() % 9) + 1;
        value += by;
        asked.push_back(
            {Pending<int64_t>(world, [&] { return counter.Call<&Tally::Add>(by); }), value});
      }
    }
  }
}
