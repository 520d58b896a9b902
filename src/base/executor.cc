// Event loops on epoll. A turn of a loop: timers that are due, urgent tasks, a batch of
// posted tasks, deferred tasks, then events of file descriptors, waiting for them only if
// there is nothing else to do.
//
// Sleeping without losing a wake-up (Dekker's pattern): the loop sets sleeping_, then looks
// into its queues once more; a producer fills a cell, then looks at sleeping_. All four are
// sequentially consistent, so one of the two sees the other. The first producer to see a
// sleeping loop clears the flag and wakes it; the rest of the batch costs no system call.
#include "edge/base/executor.h"

#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <exception>
#include <string>
#include <system_error>
#include <thread>
#include <unordered_map>
#include <vector>

#include "edge/base/check.h"
#include "edge/base/errors.h"
#include "edge/base/mutex.h"
#include "src/base/current_loop.h"
#include "src/base/task_queue.h"
#include "src/base/timer_heap.h"

namespace edge {
namespace {

thread_local Loop* current_loop = nullptr;

constexpr int kTasksPerTurn = 256;  // between two looks at timers and descriptors
constexpr size_t kEventsPerTurn = 64;

// epoll_pwait2 has nanoseconds but wants Linux 5.11; without it, round up to milliseconds.
int WaitForEvents(int epoll_fd, epoll_event* events, int64_t timeout_ns) {
  static std::atomic<bool> has_nanoseconds{true};
  constexpr auto kCount = static_cast<int>(kEventsPerTurn);
  if (timeout_ns > 0 && timeout_ns != INT64_MAX && has_nanoseconds.load()) {
    const timespec timeout{timeout_ns / 1'000'000'000, timeout_ns % 1'000'000'000};
    const int count = epoll_pwait2(epoll_fd, events, kCount, &timeout, nullptr);
    if (count >= 0 || errno == EINTR) return count;
    has_nanoseconds = false;
  }
  int timeout_ms = -1;
  if (timeout_ns != INT64_MAX) {
    constexpr int64_t kMostMs = 1 << 30;
    timeout_ms = static_cast<int>(
        std::min(timeout_ns / 1'000'000 + (timeout_ns % 1'000'000 > 0 ? 1 : 0), kMostMs));
  }
  return epoll_wait(epoll_fd, events, kCount, timeout_ms);
}

// How the loops of an executor stop together: each counts itself here when its posted tasks
// are done, and takes urgent ones until all loops have. So what the last tasks of one loop
// release on another still finds it running.
struct StopState {
  std::atomic<bool> requested{false};
  std::atomic<size_t> loops_busy{0};
};

class RealLoop final : public Loop {
 public:
  RealLoop(Clock& clock, size_t queue_entries_max, StopState& stop)
      : clock_(clock), stop_(stop), queue_(queue_entries_max) {}
  ~RealLoop() override {
    if (wake_fd_ >= 0) close(wake_fd_);
    if (epoll_fd_ >= 0) close(epoll_fd_);
  }

  Status OpenFds() {
    epoll_fd_ = epoll_create1(EPOLL_CLOEXEC);
    if (epoll_fd_ < 0) return ErrnoStatus(errno, "make an epoll descriptor");
    wake_fd_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (wake_fd_ < 0) return ErrnoStatus(errno, "make an eventfd");
    epoll_event event{};
    event.events = EPOLLIN | EPOLLET;  // edge-triggered: it never has to be read
    event.data.u64 = kWakeKey;
    if (epoll_ctl(epoll_fd_, EPOLL_CTL_ADD, wake_fd_, &event) != 0) {
      return ErrnoStatus(errno, "watch an eventfd");
    }
    return OkStatus();
  }

  // The body of the loop's thread. `all_drained` wakes the other loops.
  template <typename F>
  void Run(F all_drained) {
    const internal::CurrentLoopScope scope(this);
    while (!stop_.requested.load()) Turn();
    queue_.Close();
    while (!queue_.drained()) {
      RunUrgent(urgent_.TakeAll());
      // A producer that has its ticket may not have filled its cell yet.
      if (!RunPosted()) std::this_thread::yield();
      RunDeferred();
    }
    if (stop_.loops_busy.fetch_sub(1) == 1) all_drained();
    while (stop_.loops_busy.load() != 0) {
      RunUrgent(urgent_.TakeAll());
      RunDeferred();
      Sleep([this] { return stop_.loops_busy.load() == 0; }, INT64_MAX, nullptr);
    }
    RunUrgent(urgent_.Close());
    while (!deferred_.empty()) RunDeferred();
    DropTheRest();
  }

  // Whether it sleeps or not. Any thread.
  void Wake() {
    if (sleeping_.load() && sleeping_.exchange(false)) {
      const uint64_t one = 1;
      // Fails only when the counter is full; then a wake-up is pending anyway.
      [[maybe_unused]] const ssize_t put = write(wake_fd_, &one, sizeof one);
    }
  }

  Status Post(LoopTask task) override {
    switch (queue_.Push(task)) {
      case internal::TaskRing::Result::kOk:
        Wake();
        return OkStatus();
      case internal::TaskRing::Result::kFull:
        return queue_full_;
      case internal::TaskRing::Result::kClosed:
        break;
    }
    return stopped_;
  }
  void PostUrgent(LoopTask task) override {
    if (urgent_.Push(std::move(task))) Wake();
  }
  void Defer(LoopTask task) override {
    EDGE_DCHECK(IsCurrent());
    deferred_.push_back(std::move(task));
  }

  TimerId At(int64_t at_ns, LoopTask task) override {
    EDGE_DCHECK(IsCurrent());
    return timers_.Add(at_ns, std::move(task));
  }
  bool CancelTimer(TimerId timer) override {
    EDGE_DCHECK(IsCurrent());
    return timers_.Cancel(timer);
  }

  Clock& clock() override { return clock_; }
  bool IsCurrent() const override { return current_loop == this; }

  Status WatchFd(int fd, uint32_t events, Callback<void(uint32_t)> ready) override {
    EDGE_DCHECK(IsCurrent());
    if (watches_.contains(fd)) return AlreadyExists("descriptor {} is being watched", fd);
    const uint32_t generation = ++watch_generation_;
    EDGE_RETURN_IF_ERROR(Control(EPOLL_CTL_ADD, fd, events, generation));
    watches_[fd] = std::make_unique<Watch>(Watch{generation, std::move(ready)});
    return OkStatus();
  }
  Status ChangeFd(int fd, uint32_t events) override {
    EDGE_DCHECK(IsCurrent());
    const auto found = watches_.find(fd);
    if (found == watches_.end()) return NotFound("descriptor {} is not being watched", fd);
    return Control(EPOLL_CTL_MOD, fd, events, found->second->generation);
  }
  void UnwatchFd(int fd) override {
    EDGE_DCHECK(IsCurrent());
    const auto found = watches_.find(fd);
    if (found == watches_.end()) return;
    epoll_ctl(epoll_fd_, EPOLL_CTL_DEL, fd, nullptr);  // fails if fd is closed: as good
    std::unique_ptr<Watch> watch = std::move(found->second);
    watches_.erase(found);
    if (watch.get() == running_watch_) retired_watch_ = std::move(watch);  // it is our caller
  }

  Status SetWaiter(Waiter* waiter) override {
    EDGE_DCHECK(IsCurrent());
    waiter_ = waiter;
    return OkStatus();
  }

 private:
  static constexpr uint64_t kWakeKey = UINT64_MAX;
  struct Watch {
    uint32_t generation;  // an event of a watch that is gone must not reach its successor
    Callback<void(uint32_t)> ready;
  };

  void Turn() {
    RunTimers();
    RunUrgent(urgent_.TakeAll());
    RunPosted();
    RunDeferred();
    // Work that a task left behind was posted without a wake-up: look before waiting.
    const bool more = !deferred_.empty();
    Sleep([this, more] { return more || stop_.requested.load(); }, timers_.next_ns(), waiter_);
  }

  void RunTimers() {
    if (timers_.empty()) return;
    // One reading: a timer that sets itself again for now waits for the next turn.
    const int64_t now_ns = clock_.monotonic_ns();
    for (size_t left = timers_.size(); left > 0 && timers_.next_ns() <= now_ns; --left) {
      timers_.PopFirst()();
    }
  }
  void RunUrgent(internal::TaskStack::Node* first) {
    while (first != nullptr) {
      const std::unique_ptr<internal::TaskStack::Node> node(std::exchange(first, first->next));
      node->task();
    }
  }
  bool RunPosted() {
    LoopTask task;
    int count = 0;
    for (; count < kTasksPerTurn && queue_.Pop(&task); ++count) {
      task();
      task = nullptr;  // its captures end here, not when the next one comes
    }
    return count > 0;
  }
  void RunDeferred() {
    if (deferred_.empty()) return;
    deferred_running_.swap(deferred_);
    for (LoopTask& task : deferred_running_) {
      task();
      task = nullptr;
    }
    deferred_running_.clear();
  }

  // Waits for a task, an event, `deadline_ns` or `ready()`, and hands events out.
  template <typename F>
  void Sleep(F ready, int64_t deadline_ns, Waiter* waiter) {
    sleeping_.store(true);
    const bool has_work = ready() || queue_.HasTask() || urgent_.HasTask();
    if (has_work) sleeping_.store(false);
    int64_t timeout_ns = has_work ? 0 : INT64_MAX;
    if (waiter != nullptr) {
      waiter->Wait(epoll_fd_, has_work ? INT64_MIN : deadline_ns);
      timeout_ns = 0;  // what made our descriptor readable is still to be taken
    } else if (has_work && watches_.empty()) {
      return;  // no event could come but a stale wake-up
    } else if (!has_work && deadline_ns != INT64_MAX) {
      timeout_ns = std::max<int64_t>(0, deadline_ns - clock_.monotonic_ns());
    }
    std::array<epoll_event, kEventsPerTurn> events;
    const int count = WaitForEvents(epoll_fd_, events.data(), timeout_ns);
    sleeping_.store(false);
    for (int i = 0; i < count; ++i) Dispatch(events[static_cast<size_t>(i)]);
  }

  void Dispatch(const epoll_event& event) {
    if (event.data.u64 == kWakeKey) return;
    const auto found = watches_.find(static_cast<int>(event.data.u64 & 0xffffffff));
    if (found == watches_.end() || found->second->generation != event.data.u64 >> 32) return;
    running_watch_ = found->second.get();
    running_watch_->ready(event.events);
    running_watch_ = nullptr;
    retired_watch_.reset();
  }

  Status Control(int operation, int fd, uint32_t events, uint32_t generation) {
    epoll_event event{};
    event.events = events;
    event.data.u64 = uint64_t{generation} << 32 | static_cast<uint32_t>(fd);
    if (epoll_ctl(epoll_fd_, operation, fd, &event) == 0) return OkStatus();
    const int error = errno;
    return ErrnoStatus(error, Format("watch descriptor {}", {fd}));
  }

  // Destroys what never ran, on this thread. Destructors may call back into the loop.
  void DropTheRest() {
    while (!timers_.empty() || !watches_.empty() || !deferred_.empty()) {
      if (!timers_.empty()) timers_.PopFirst();
      std::exchange(watches_, {}).clear();
      std::exchange(deferred_, {}).clear();
    }
  }

  Clock& clock_;
  StopState& stop_;
  const Status queue_full_ = ResourceExhausted("the loop's queue is full");
  const Status stopped_ = FailedPrecondition("the loop has stopped");
  int epoll_fd_ = -1;
  int wake_fd_ = -1;
  internal::TaskRing queue_;
  internal::TaskStack urgent_;
  alignas(64) std::atomic<bool> sleeping_{false};

  // The loop thread's own.
  std::vector<LoopTask> deferred_;
  std::vector<LoopTask> deferred_running_;
  internal::TimerHeap timers_;
  std::unordered_map<int, std::unique_ptr<Watch>> watches_;
  uint32_t watch_generation_ = 0;
  Watch* running_watch_ = nullptr;
  std::unique_ptr<Watch> retired_watch_;
  Waiter* waiter_ = nullptr;
};

// The host's signals are not for our threads. Those that tell of a fault in the running
// instruction stay, or the host's crash handler would not see it.
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t blocked;
    sigfillset(&blocked);
    for (const int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS, SIGPROF}) {
      sigdelset(&blocked, fault);
    }
    pthread_sigmask(SIG_SETMASK, &blocked, &before_);
  }
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  sigset_t before_;
};

class ThreadExecutor final : public Executor {
 public:
  ~ThreadExecutor() override {
    for (const auto& loop : loops_) EDGE_CHECK(!loop->IsCurrent());
    stop_.loops_busy = threads_.size();
    stop_.requested = true;
    WakeAll();
    for (std::thread& thread : threads_) thread.join();
  }

  Status Start(const ExecutorOptions& options) {
    Clock& clock = options.clock != nullptr ? *options.clock : SystemClock();
    const auto count = static_cast<size_t>(options.threads);
    for (size_t i = 0; i < count; ++i) {
      loops_.push_back(std::make_unique<RealLoop>(clock, options.queue_entries_max, stop_));
      EDGE_RETURN_IF_ERROR(loops_.back()->OpenFds());
    }
    const SignalsBlocked blocked;
    for (size_t i = 0; i < count; ++i) {
      try {
        threads_.emplace_back([this, i] { loops_[i]->Run([this] { WakeAll(); }); });
      } catch (const std::system_error& error) {
        return ResourceExhausted("start loop thread {} of {}: {}", i, count, error.what());
      }
      pthread_setname_np(threads_.back().native_handle(), Format("edge-loop-{}", {i}).c_str());
    }
    return OkStatus();
  }

  size_t size() const override { return loops_.size(); }
  Loop& loop(size_t index) override {
    EDGE_CHECK(index < loops_.size());
    return *loops_[index];
  }

 private:
  void WakeAll() {
    for (const auto& loop : loops_) loop->Wake();
  }
  StopState stop_;
  std::vector<std::unique_ptr<RealLoop>> loops_;
  std::vector<std::thread> threads_;
};

}  // namespace

Loop* Loop::Current() {
  return current_loop;
}

Loop* internal::ExchangeCurrentLoop(Loop* loop) {
  return std::exchange(current_loop, loop);
}

StatusOr<std::unique_ptr<Executor>> Executor::Create(const ExecutorOptions& options) {
  if (options.threads < 1 || options.threads > 256) {
    return InvalidArgument("threads: {}, must be 1 to 256", options.threads);
  }
  const size_t entries = options.queue_entries_max;
  if (!std::has_single_bit(entries) || entries < 2 || entries > size_t{1} << 24) {
    return InvalidArgument("queue_entries_max: {}, must be a power of two from 2 to 2^24", entries);
  }
  auto executor = std::make_unique<ThreadExecutor>();
  EDGE_RETURN_IF_ERROR(executor->Start(options));
  return executor;
}

void internal::RunAndWait(Loop& loop, LoopTask task) {
  EDGE_CHECK(!loop.IsCurrent());
  struct Outcome {
    Mutex mu;
    CondVar done_changed;
    bool done ABSL_GUARDED_BY(mu) = false;
    std::exception_ptr exception ABSL_GUARDED_BY(mu);
  } outcome;
  const auto run = [&task, &outcome] {
    std::exception_ptr exception;
    try {
      task();
    } catch (...) {
      exception = std::current_exception();
    }
    const MutexLock lock(&outcome.mu);
    outcome.exception = std::move(exception);
    outcome.done = true;
    outcome.done_changed.Signal();  // with the lock held: `outcome` dies when it is free
  };
  for (;;) {
    const Status posted = loop.Post(run);
    if (posted.ok()) break;
    EDGE_CHECK(posted.code() == StatusCode::kResourceExhausted);  // stopped: nobody will run it
    std::this_thread::yield();
  }
  const MutexLock lock(&outcome.mu);
  while (!outcome.done) outcome.done_changed.Wait(&outcome.mu);
  if (outcome.exception) std::rethrow_exception(outcome.exception);
}

}  // namespace edge
