#include "edge/base/task.h"

#include "edge/base/errors.h"

using namespace edge;  // NOLINT

namespace {

// Counts how many are alive: what a leak would show.
struct Tracked {
  explicit Tracked(int* alive) : alive_(alive) { ++*alive_; }
  Tracked(const Tracked& other) : alive_(other.alive_) { ++*alive_; }
  ~Tracked() { --*alive_; }
  int* alive_;
};

Task<StatusOr<int>> Half(int x) {
  if (x % 2 != 0) co_return InvalidArgument("{} is odd", x);
  co_return x / 2;
}
Task<StatusOr<int>> Quarter(int x) {
  EDGE_CO_ASSIGN_OR_RETURN(const int half, co_await Half(x));
  EDGE_CO_ASSIGN_OR_RETURN(const int quarter, co_await Half(half));
  co_return quarter;
}

Task<int> WaitFor(Deferred<int> value, Tracked tracked) {
  const Tracked local = tracked;
  co_return co_await value;
}
Task<void> Store(Deferred<int> value, Tracked tracked, int* out) {
  *out = co_await WaitFor(value, tracked) + co_await WaitFor(value, tracked);
}

}  // namespace

TEST_CASE("errors cross co_await through the macros", "[base][task]") {
  TaskGroup group;
  StatusOr<int> good = 0;
  StatusOr<int> bad = 0;
  const auto run = [](int x, StatusOr<int>* out) -> Task<void> { *out = co_await Quarter(x); };
  group.Spawn(run(8, &good));
  group.Spawn(run(6, &bad));
  REQUIRE(good.value() == 2);
  REQUIRE(Message(bad.status()) == "3 is odd");
  REQUIRE(group.size() == 0);
}

TEST_CASE("a task starts when it is awaited, not when it is made", "[base][task]") {
  bool ran = false;
  const auto body = [](bool* flag) -> Task<void> {
    *flag = true;
    co_return;
  };
  { const Task<void> dropped = body(&ran); }
  REQUIRE_FALSE(ran);
  TaskGroup group;
  group.Spawn(body(&ran));
  REQUIRE(ran);
}

TEST_CASE("an exception leaves through co_await", "[base][task]") {
  const auto thrower = []() -> Task<int> {
    throw std::runtime_error("no");
    co_return 1;
  };
  std::string caught;
  const auto catcher = [](auto make, std::string* out) -> Task<void> {
    try {
      co_await make();
    } catch (const std::runtime_error& error) {
      *out = error.what();
    }
  };
  TaskGroup group;
  group.Spawn(catcher(thrower, &caught));
  REQUIRE(caught == "no");
}

TEST_CASE("destroying a group cancels what waits and leaks nothing", "[base][task]") {
  int alive = 0;
  int out = 0;
  Deferred<int> value;
  {
    TaskGroup group;
    for (int i = 0; i < 10; ++i) group.Spawn(Store(value, Tracked(&alive), &out));
    REQUIRE(group.size() == 10);
    REQUIRE(alive > 0);
  }
  REQUIRE(alive == 0);
  value.Set(1);  // nobody waits any more
  REQUIRE(out == 0);
}

TEST_CASE("a task cancelled at each of its suspension points runs its destructors",
          "[base][task]") {
  for (int steps = 0; steps <= 4; ++steps) {
    CAPTURE(steps);
    int alive = 0;
    int passed = 0;
    std::vector<Deferred<int>> gates(4);
    const auto walk = [](std::vector<Deferred<int>> all, Tracked tracked,
                         int* count) -> Task<void> {
      for (Deferred<int>& gate : all) {
        const Tracked local = tracked;
        co_await gate;
        ++*count;
      }
    };
    {
      TaskGroup group;
      group.Spawn(walk(gates, Tracked(&alive), &passed));
      for (int i = 0; i < steps; ++i) gates[static_cast<size_t>(i)].Set(i);
      REQUIRE(passed == steps);
      REQUIRE(group.size() == (steps == 4 ? 0 : 1));
    }
    REQUIRE(alive == 0);
  }
}

TEST_CASE("a deferred value reaches a callback set before or after", "[base][task]") {
  Deferred<std::unique_ptr<int>> early;
  int got = 0;
  early.Then([&got](std::unique_ptr<int> value) { got = *value; });
  early.Set(std::make_unique<int>(3));
  REQUIRE(got == 3);
  Deferred<int> late;
  late.Set(4);
  REQUIRE(late.ready());
  late.Then([&got](int value) { got = value; });
  REQUIRE(got == 4);
}

TEST_CASE("a chain of a hundred thousand tasks needs no stack", "[base][task]") {
  struct Chain {
    static Task<int> Down(int depth, Deferred<int> end) {
      if (depth == 0) co_return co_await end;
      co_return co_await Down(depth - 1, end) + 1;
    }
  };
  Deferred<int> end;
  int out = 0;
  const auto store = [](Task<int> task, int* result) -> Task<void> {
    *result = co_await std::move(task);
  };
  // Unoptimised or instrumented code turns symmetric transfer into calls on g++ 12.
#if defined(__OPTIMIZE__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  constexpr int kDepth = 100'000;
#else
  constexpr int kDepth = 1000;
#endif
  TaskGroup group;
  group.Spawn(store(Chain::Down(kDepth, end), &out));
  end.Set(5);
  REQUIRE(out == kDepth + 5);
}

TEST_CASE("a sleeping task wakes on its loop, and a cancelled one takes its timer back",
          "[base][task]") {
  auto executor = Executor::Create({.threads = 1}).value();
  Loop& loop = executor->loop(0);
  int alive = 0;
  auto group = RunOn(loop, [] { return std::make_unique<TaskGroup>(); });
  const auto nap = [](Loop* on, int64_t ns, Tracked, Deferred<int> done) -> Task<void> {
    co_await Sleep(*on, ns);
    done.Set(1);
  };
  std::atomic<bool> woke{false};
  RunOn(loop, [&] {
    Deferred<int> done;
    done.Then([&woke](int) { woke = true; });
    group->Spawn(nap(&loop, 1'000'000, Tracked(&alive), done));
    group->Spawn(nap(&loop, int64_t{1} << 50, Tracked(&alive), Deferred<int>()));
  });
  while (!woke) RunOn(loop, [] {});
  RunOn(loop, [&] { group.reset(); });
  REQUIRE(alive == 0);
}

TEST_CASE("a task may spawn into its own group and outlives nothing", "[base][task]") {
  TaskGroup group;
  int count = 0;
  struct Spawner {
    static Task<void> Run(TaskGroup* into, int depth, int* total) {
      ++*total;
      if (depth > 0) {
        into->Spawn(Run(into, depth - 1, total));
        into->Spawn(Run(into, depth - 1, total));
      }
      co_return;
    }
  };
  group.Spawn(Spawner::Run(&group, 5, &count));
  REQUIRE(count == 63);
  REQUIRE(group.size() == 0);
}
