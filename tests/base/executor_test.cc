#include "edge/base/executor.h"

#include <poll.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <atomic>
#include <map>
#include <random>
#include <thread>

#include "edge/base/mutex.h"
#include "src/base/timer_heap.h"

using namespace edge;  // NOLINT

namespace {

std::unique_ptr<Executor> MakeExecutor(int threads, size_t queue_entries_max = 1024) {
  return Executor::Create({.threads = threads, .queue_entries_max = queue_entries_max}).value();
}

// Opens once; many may wait.
class Gate {
 public:
  void Open() {
    const MutexLock lock(&mu_);
    open_ = true;
    changed_.SignalAll();
  }
  void Wait() {
    const MutexLock lock(&mu_);
    while (!open_) changed_.Wait(&mu_);
  }

 private:
  Mutex mu_;
  CondVar changed_;
  bool open_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace

TEST_CASE("an executor refuses options out of range", "[base][executor]") {
  REQUIRE(Executor::Create({.threads = 0}).status().code() == StatusCode::kInvalidArgument);
  REQUIRE(Executor::Create({.threads = 257}).status().code() == StatusCode::kInvalidArgument);
  REQUIRE(Executor::Create({.queue_entries_max = 1000}).status().code() ==
          StatusCode::kInvalidArgument);
  REQUIRE(Executor::Create({.queue_entries_max = 1}).status().code() ==
          StatusCode::kInvalidArgument);
}

TEST_CASE("RunOn runs on the loop's thread and brings the result back", "[base][executor]") {
  auto executor = MakeExecutor(2);
  Loop& first = executor->loop(0);
  Loop& second = executor->loop(1);
  REQUIRE(Loop::Current() == nullptr);
  REQUIRE_FALSE(first.IsCurrent());
  REQUIRE(RunOn(first, [] { return Loop::Current(); }) == &first);
  REQUIRE(RunOn(second, [&first] { return !first.IsCurrent(); }));
  REQUIRE(*RunOn(second, [] { return std::make_unique<int>(7); }) == 7);
  REQUIRE_THROWS_AS(RunOn(first, []() -> int { throw std::runtime_error("no"); }),
                    std::runtime_error);
  REQUIRE(RunOn(first, [] { return 1; }) == 1);  // the loop outlived the exception
}

TEST_CASE("tasks of one poster run in order, from many threads at once", "[base][executor]") {
  auto executor = MakeExecutor(2, 256);
  constexpr int kThreads = 4;
  constexpr int kTasks = 5000;
  for (size_t target = 0; target < 2; ++target) {
    Loop& loop = executor->loop(target);
    std::vector<int> next(kThreads, 0);  // the loop's own
    int disorder = 0;
    std::vector<std::thread> posters;
    for (int t = 0; t < kThreads; ++t) {
      posters.emplace_back([&, t] {
        for (int i = 0; i < kTasks; ++i) {
          const auto task = [&next, &disorder, t, i] {
            disorder += next[static_cast<size_t>(t)]++ != i;
          };
          while (!loop.Post(task).ok()) std::this_thread::yield();  // full: bounded on purpose
        }
      });
    }
    for (std::thread& poster : posters) poster.join();
    RunOn(loop, [] {});
    REQUIRE(disorder == 0);
    for (const int count : next) REQUIRE(count == kTasks);
  }
}

TEST_CASE("urgent tasks are never refused and keep their order", "[base][executor]") {
  auto executor = MakeExecutor(1, 2);
  Loop& loop = executor->loop(0);
  Gate gate;
  REQUIRE(loop.Post([&gate] { gate.Wait(); }).ok());
  std::vector<int> order;
  for (int i = 0; i < 1000; ++i) loop.PostUrgent([&order, i] { order.push_back(i); });
  Gate done;
  loop.PostUrgent([&done] { done.Open(); });
  gate.Open();
  done.Wait();  // ordinary tasks may come between urgent ones
  REQUIRE(order.size() == 1000);
  REQUIRE(std::ranges::is_sorted(order));
}

TEST_CASE("a full queue says ResourceExhausted and destroys the task unrun", "[base][executor]") {
  auto executor = MakeExecutor(1, 8);
  Loop& loop = executor->loop(0);
  Gate started;
  Gate gate;
  REQUIRE(loop.Post([&] {
                started.Open();
                gate.Wait();
              })
              .ok());
  started.Wait();
  int ran = 0;
  for (int i = 0; i < 8; ++i) REQUIRE(loop.Post([&ran] { ++ran; }).ok());
  auto held = std::make_shared<int>(1);
  REQUIRE(loop.Post([&ran, held] { ran += *held; }).code() == StatusCode::kResourceExhausted);
  REQUIRE(held.use_count() == 1);
  gate.Open();
  RunOn(loop, [] {});
  REQUIRE(ran == 8);
  REQUIRE(loop.Post([&ran] { ++ran; }).ok());
  RunOn(loop, [] {});
  REQUIRE(ran == 9);
}

TEST_CASE("stopping runs what was posted, drops timers, and leaks nothing", "[base][executor]") {
  auto held = std::make_shared<int>(0);
  std::atomic<int> ran{0};
  std::atomic<int> timers{0};
  {
    auto executor = MakeExecutor(3);
    Gate gate;
    for (size_t i = 0; i < 3; ++i) {
      Loop& loop = executor->loop(i);
      Loop& next = executor->loop((i + 1) % 3);
      REQUIRE(loop.Post([&gate] { gate.Wait(); }).ok());
      REQUIRE(loop.Post([&, held] {
                    loop.After(int64_t{3600} * 1'000'000'000, [&timers, held] { ++timers; });
                    loop.Defer([&ran, held] { ++ran; });
                    // Released to a loop that is stopping too: still runs.
                    next.PostUrgent([&ran, held] { ++ran; });
                  })
                  .ok());
      for (int k = 0; k < 100; ++k) REQUIRE(loop.Post([&ran, held] { ++ran; }).ok());
    }
    gate.Open();
  }
  REQUIRE(ran == 3 * 102);
  REQUIRE(timers == 0);
  REQUIRE(held.use_count() == 1);
}

TEST_CASE("every accepted task runs even when the loop stops meanwhile", "[base][executor]") {
  const int round = GENERATE(range(0, 20));
  CAPTURE(round);
  std::atomic<int> ran{0};
  int accepted = 0;
  Gate begun;
  Gate refused;
  auto executor = MakeExecutor(2, 64);
  // Holds up loop 1, and with it the end of loop 0, which closes its queue all the same.
  REQUIRE(executor->loop(1).Post([&refused] { refused.Wait(); }).ok());
  std::thread poster([&, target = &executor->loop(0)] {
    for (;;) {
      const Status status = target->Post([&ran] { ++ran; });
      if (status.code() == StatusCode::kFailedPrecondition) break;
      if (status.ok() && ++accepted == 100) begun.Open();
    }
    refused.Open();
  });
  begun.Wait();
  executor.reset();
  poster.join();
  REQUIRE(ran == accepted);
}

TEST_CASE("deferred tasks run after the current one and before any waiting", "[base][executor]") {
  auto executor = MakeExecutor(1);
  Loop& loop = executor->loop(0);
  std::vector<int> order;
  Gate done;
  loop.PostUrgent([&] {
    loop.Defer([&] {
      order.push_back(2);
      loop.Defer([&] {
        order.push_back(3);
        done.Open();
      });
    });
    order.push_back(1);
  });
  done.Wait();  // with no timer and no other post: nothing else would wake the loop
  RunOn(loop, [] {});
  REQUIRE(order == std::vector<int>{1, 2, 3});
}

TEST_CASE("timers fire in time order, ties in order of the calls", "[base][executor]") {
  auto executor = MakeExecutor(1);
  Loop& loop = executor->loop(0);
  std::vector<int> order;
  Gate done;
  RunOn(loop, [&] {
    const int64_t base_ns = loop.clock().monotonic_ns() + 2'000'000;
    loop.At(base_ns + 3'000'000, [&] {
      order.push_back(4);
      done.Open();
    });
    loop.At(base_ns + 1000, [&] { order.push_back(2); });
    loop.At(base_ns + 1000, [&] { order.push_back(3); });
    loop.At(base_ns, [&] { order.push_back(1); });
    const auto cancelled = loop.At(base_ns + 500, [&] { order.push_back(99); });
    REQUIRE(loop.CancelTimer(cancelled));
    REQUIRE_FALSE(loop.CancelTimer(cancelled));
    REQUIRE_FALSE(loop.CancelTimer(0));
  });
  done.Wait();
  REQUIRE(order == std::vector<int>{1, 2, 3, 4});
}

TEST_CASE("a timer never fires early and its id is dead once it ran", "[base][executor]") {
  auto executor = MakeExecutor(1);
  Loop& loop = executor->loop(0);
  Gate done;
  std::atomic<bool> early{false};
  Loop::TimerId id = 0;
  RunOn(loop, [&] {
    const int64_t at_ns = loop.clock().monotonic_ns() + 1'500'000;
    id = loop.At(at_ns, [&, at_ns] {
      early = loop.clock().monotonic_ns() < at_ns;
      done.Open();
    });
  });
  done.Wait();
  REQUIRE_FALSE(early);
  REQUIRE_FALSE(RunOn(loop, [&] { return loop.CancelTimer(id); }));
}

TEST_CASE("the timer heap agrees with a sorted map", "[base][executor][property]") {
  const auto seed = GENERATE(range(1u, 17u));
  CAPTURE(seed);
  std::mt19937 rng(seed);
  internal::TimerHeap heap;
  std::map<std::pair<int64_t, int>, Loop::TimerId> model;  // (time, order of the calls)
  int ran = -1;
  int calls = 0;
  for (int step = 0; step < 3000; ++step) {
    switch (rng() % 4) {
      case 0:
      case 1: {
        const auto at_ns = static_cast<int64_t>(rng() % 50);
        const int call = calls++;
        model[{at_ns, call}] = heap.Add(at_ns, [&ran, call] { ran = call; });
        break;
      }
      case 2:
        if (!model.empty()) {
          auto victim = model.begin();
          std::advance(victim, rng() % model.size());
          REQUIRE(heap.Cancel(victim->second));
          REQUIRE_FALSE(heap.Cancel(victim->second));
          model.erase(victim);
        }
        break;
      default:
        if (!model.empty()) {
          REQUIRE(heap.next_ns() == model.begin()->first.first);
          heap.PopFirst()();
          REQUIRE(ran == model.begin()->first.second);
          model.erase(model.begin());
        }
    }
    REQUIRE(heap.size() == model.size());
  }
}

TEST_CASE("a watched descriptor calls back until it is unwatched", "[base][executor]") {
  int fds[2];
  REQUIRE(pipe(fds) == 0);
  auto executor = MakeExecutor(1);
  Loop& loop = executor->loop(0);
  auto held = std::make_shared<std::string>();
  Gate done;
  RunOn(loop, [&] {
    REQUIRE(loop.WatchFd(fds[0], EPOLLIN,
                         [&, held](uint32_t events) {
                           REQUIRE((events & EPOLLIN) != 0);
                           char c = 0;
                           REQUIRE(read(fds[0], &c, 1) == 1);
                           held->push_back(c);
                           if (c == '!') {
                             loop.UnwatchFd(
                                 fds[0]);  // from inside: the captures must survive the call
                             held->push_back('.');
                             done.Open();
                           }
                         })
                .ok());
    REQUIRE(loop.WatchFd(fds[0], EPOLLIN, [](uint32_t) {}).code() == StatusCode::kAlreadyExists);
    REQUIRE(loop.ChangeFd(fds[1], EPOLLOUT).code() == StatusCode::kNotFound);
  });
  REQUIRE(write(fds[1], "abc!x", 5) == 5);
  done.Wait();
  RunOn(loop, [] {});
  REQUIRE(*held == "abc!.");
  REQUIRE(held.use_count() == 1);
  close(fds[0]);
  close(fds[1]);
}

TEST_CASE("a foreign waiter does the waiting and posts still get through", "[base][executor]") {
  struct Poller : Loop::Waiter {
    void Wait(int fd, int64_t deadline_ns) override {
      ++waits;
      pollfd want{fd, POLLIN, 0};
      int timeout_ms = -1;
      if (deadline_ns != INT64_MAX) {
        const int64_t left_ns =
            deadline_ns == INT64_MIN ? 0 : deadline_ns - SystemClock().monotonic_ns();
        timeout_ms = left_ns <= 0 ? 0 : static_cast<int>(left_ns / 1'000'000 + 1);
      }
      poll(&want, 1, timeout_ms);
    }
    int waits = 0;
  } poller;
  auto executor = MakeExecutor(1);
  Loop& loop = executor->loop(0);
  RunOn(loop, [&] { REQUIRE(loop.SetWaiter(&poller).ok()); });
  int ran = 0;
  for (int i = 0; i < 100; ++i) RunOn(loop, [&ran] { ++ran; });
  REQUIRE(ran == 100);
  Gate fired;
  RunOn(loop, [&] { loop.After(1'000'000, [&fired] { fired.Open(); }); });
  fired.Wait();
  const int waits = RunOn(loop, [&] {
    REQUIRE(loop.SetWaiter(nullptr).ok());
    return poller.waits;
  });
  REQUIRE(waits > 0);
  RunOn(loop, [] {});
  REQUIRE(RunOn(loop, [&] { return poller.waits; }) == waits);
}

TEST_CASE("loops hand work to each other in a ring", "[base][executor]") {
  auto executor = MakeExecutor(3, 64);
  constexpr int kHops = 3000;
  Gate done;
  struct Hop {
    Executor& executor;
    Gate& done;
    void Go(int hop) {
      if (hop == kHops) return done.Open();
      const auto next = static_cast<size_t>(hop + 1) % executor.size();
      REQUIRE(executor.loop(next).Post([this, hop] { Go(hop + 1); }).ok());
    }
  } hop{*executor, done};
  hop.Go(0);
  done.Wait();
}
