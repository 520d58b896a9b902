// edge/base/executor.h - event loops: one thread owns each object.
//
// An Executor runs N loops, each on a thread of its own. A durable object, an rpc session
// and a request live on one loop, so their code needs no locks. Other threads hand work
// over with Post(): a bounded lock-free queue and at most one wake-up per batch. The same
// Loop interface runs on the virtual clock of a simulation (edge/base/simulation.h).
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>

#include "edge/base/callback.h"
#include "edge/base/clock.h"
#include "edge/base/status.h"

namespace edge {

using LoopTask = Callback<void()>;

// Single-threaded but for the calls marked thread-safe: all others on the loop's thread.
class Loop {
 public:
  using TimerId = uint64_t;  // never 0
  virtual ~Loop() = default;

  // Runs `task` on the loop's thread, after all tasks posted before it by the same thread.
  // Never blocks: ResourceExhausted when the queue is full, FailedPrecondition once the
  // loop has stopped; `task` is then destroyed unrun. Thread-safe.
  virtual Status Post(LoopTask task) = 0;
  // As Post, for tasks that must not be lost (completions, releases): unbounded, allocates;
  // dropped only when the loop has stopped. In order among themselves; they may overtake
  // posted tasks. Thread-safe.
  virtual void PostUrgent(LoopTask task) = 0;
  // Runs `task` at the end of this turn of the loop: after the task that is running now,
  // before any waiting for events; what it defers itself, at the end of the next. Loop thread.
  virtual void Defer(LoopTask task) = 0;

  // Runs `task` once, when clock().monotonic_ns() has reached `at_ns`; ties in order of the
  // calls. Loop thread.
  virtual TimerId At(int64_t at_ns, LoopTask task) = 0;
  TimerId After(int64_t delay_ns, LoopTask task) {
    return At(clock().monotonic_ns() + delay_ns, std::move(task));
  }
  // False if it ran, was cancelled or never existed. Loop thread.
  virtual bool CancelTimer(TimerId timer) = 0;

  virtual Clock& clock() = 0;          // Thread-safe.
  virtual bool IsCurrent() const = 0;  // Is the caller this loop's thread? Thread-safe.
  static Loop* Current();              // The caller's loop, or null. Thread-safe.

  // File descriptors, on real loops only (FailedPrecondition in a simulation): `ready` runs
  // with the epoll events (EPOLLIN ...; level-triggered) until UnwatchFd. Loop thread.
  virtual Status WatchFd(int fd, uint32_t events, Callback<void(uint32_t)> ready) = 0;
  virtual Status ChangeFd(int fd, uint32_t events) = 0;
  virtual void UnwatchFd(int fd) = 0;

  // A foreign event source that must do the waiting itself, such as an Asio io_context. Its
  // Wait() replaces the loop's own: it returns when `fd` is readable, at `deadline_ns`
  // (monotonic; INT64_MAX: none; in the past: look for events, do not wait), or after it ran
  // handlers of its own. All on the loop thread; `waiter` is not owned; null puts the loop's
  // own back. A loop that stops does not call it any more.
  class Waiter {
   public:
    virtual ~Waiter() = default;
    virtual void Wait(int fd, int64_t deadline_ns) = 0;
  };
  virtual Status SetWaiter(Waiter* waiter) = 0;
};

struct ExecutorOptions {
  int threads = 2;                   // 1 to 256 loops
  size_t queue_entries_max = 65536;  // per loop, a power of two
  Clock* clock = nullptr;            // null: SystemClock()
};

// Thread-safe.
class Executor {
 public:
  // InvalidArgument for options out of range; ResourceExhausted if a thread cannot start.
  static StatusOr<std::unique_ptr<Executor>> Create(const ExecutorOptions& options = {});
  // Stops: every task whose Post said OK runs, and what those defer or post urgently to any
  // loop of this executor; timers and watches are destroyed unrun, on their loop's thread.
  // Then joins the threads. Must not be called on a loop's thread.
  virtual ~Executor() = default;
  virtual size_t size() const = 0;
  virtual Loop& loop(size_t index) = 0;  // index < size()
};

// Runs `function` on `loop`, after what the caller posted there before, and waits for its
// result; an exception comes back too. EDGE_CHECKs that the caller is not on `loop` itself,
// which would deadlock, and that the loop has not stopped. For main functions and tests;
// on a loop of a simulation use Simulation::Host::Run.
template <typename F>
auto RunOn(Loop& loop, F function) -> decltype(function());

namespace internal {
void RunAndWait(Loop& loop, LoopTask task);
}  // namespace internal

template <typename F>
auto RunOn(Loop& loop, F function) -> decltype(function()) {
  using R = decltype(function());
  if constexpr (std::is_void_v<R>) {
    internal::RunAndWait(loop, [&function] { function(); });
  } else {
    std::optional<R> result;
    internal::RunAndWait(loop, [&function, &result] { result.emplace(function()); });
    return *std::move(result);
  }
}

}  // namespace edge
