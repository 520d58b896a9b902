// edge/base/task.h - Task<T>: a lazy coroutine on a loop.
//
//   Task<StatusOr<int>> Sum(Source& a, Source& b) {
//     EDGE_CO_ASSIGN_OR_RETURN(int x, co_await a.Read());
//     EDGE_CO_ASSIGN_OR_RETURN(int y, co_await b.Read());
//     co_return x + y;
//   }
//
// A Task starts when it is awaited (or given to Spawn) and owns its frame: destroying it at
// a suspension point cancels it and everything it awaits, running the destructors. Symmetric
// transfer, so chains of any length need no stack. Awaiters that register callbacks take
// them back in their destructor: that is what makes cancelling safe.
//
// Single-threaded: a task lives on one loop. An exception leaves through co_await.
#pragma once
#include <coroutine>
#include <exception>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>
#include <variant>

#include "edge/base/callback.h"
#include "edge/base/check.h"
#include "edge/base/executor.h"
#include "edge/base/status.h"

namespace edge {

template <typename T = void>
class Task;

namespace internal {

struct TaskPromiseBase {
  std::coroutine_handle<> continuation = std::noop_coroutine();
  std::exception_ptr exception;

  std::suspend_always initial_suspend() noexcept { return {}; }
  auto final_suspend() noexcept {
    struct Final {
      std::coroutine_handle<> next;
      bool await_ready() noexcept { return false; }
      std::coroutine_handle<> await_suspend(std::coroutine_handle<>) noexcept { return next; }
      void await_resume() noexcept {}
    };
    return Final{continuation};
  }
  void unhandled_exception() noexcept { exception = std::current_exception(); }
  void RethrowIfFailed() {
    if (exception) std::rethrow_exception(std::exchange(exception, nullptr));
  }
};

template <typename T>
struct TaskPromise : TaskPromiseBase {
  std::optional<T> value;
  Task<T> get_return_object();
  template <typename U>
    requires std::is_convertible_v<U&&, T>
  void return_value(U&& result) {
    value.emplace(std::forward<U>(result));
  }
  T Take() {
    RethrowIfFailed();
    return std::move(*value);
  }
};

template <>
struct TaskPromise<void> : TaskPromiseBase {
  Task<void> get_return_object();
  void return_void() {}
  void Take() { RethrowIfFailed(); }
};

}  // namespace internal

template <typename T>
class [[nodiscard]] Task {
 public:
  using promise_type = internal::TaskPromise<T>;
  using value_type = T;

  Task() = default;
  explicit Task(std::coroutine_handle<promise_type> handle) : handle_(handle) {}
  Task(Task&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Task& operator=(Task&& other) noexcept {
    if (this != &other) {
      Cancel();
      handle_ = std::exchange(other.handle_, nullptr);
    }
    return *this;
  }
  ~Task() { Cancel(); }

  // Destroys the frame, and with it what the task is waiting for.
  void Cancel() {
    if (auto handle = std::exchange(handle_, nullptr)) handle.destroy();
  }
  bool done() const { return handle_ && handle_.done(); }
  explicit operator bool() const { return static_cast<bool>(handle_); }

  // Awaits the result; at most once.
  bool await_ready() const noexcept { return false; }
  std::coroutine_handle<> await_suspend(std::coroutine_handle<> caller) noexcept {
    handle_.promise().continuation = caller;
    return handle_;
  }
  T await_resume() { return handle_.promise().Take(); }

 private:
  std::coroutine_handle<promise_type> handle_;
};

template <typename T>
Task<T> internal::TaskPromise<T>::get_return_object() {
  return Task<T>(std::coroutine_handle<TaskPromise<T>>::from_promise(*this));
}
inline Task<void> internal::TaskPromise<void>::get_return_object() {
  return Task<void>(std::coroutine_handle<TaskPromise<void>>::from_promise(*this));
}

// A one-shot value handed from a callback to a coroutine, or to a callback. Copies share it.
// Set() once; one awaiter or one Then(). Single-threaded. If every copy that could Set() is
// gone unset, a waiter waits until it is cancelled: settle it from destructors.
template <typename T>
class Deferred {
 public:
  Deferred() : state_(std::make_shared<State>()) {}

  bool ready() const { return state_->value.has_value(); }
  void Set(T value) {
    EDGE_CHECK(!state_->value.has_value());
    auto state = state_;  // the waiter may drop the last other copy
    state->value.emplace(std::move(value));
    if (state->then) {
      auto then = std::move(state->then);
      then(std::move(*state->value));
    } else if (auto waiter = std::exchange(state->waiter, nullptr)) {
      waiter.resume();
    }
  }
  // Runs `then` with the value: now if it is there, else from Set().
  void Then(Callback<void(T)> then) {
    if (ready()) return then(std::move(*state_->value));
    state_->then = std::move(then);
  }

  auto operator co_await() const {
    struct Awaiter {
      std::shared_ptr<State> state;  // shared with Set(): the frame may die first
      bool waiting = false;
      explicit Awaiter(std::shared_ptr<State> s) : state(std::move(s)) {}
      Awaiter(const Awaiter&) = delete;
      ~Awaiter() {
        if (waiting) state->waiter = nullptr;
      }
      bool await_ready() const { return state->value.has_value(); }
      void await_suspend(std::coroutine_handle<> handle) {
        waiting = true;
        state->waiter = handle;
      }
      T await_resume() {
        waiting = false;
        return std::move(*state->value);
      }
    };
    return Awaiter(state_);
  }

 private:
  // Owners: the copies of the Deferred and the awaiter of a suspended coroutine.
  struct State {
    std::optional<T> value;
    std::coroutine_handle<> waiter;
    Callback<void(T)> then;
  };
  std::shared_ptr<State> state_;
};

// co_await Sleep(loop, ns): resumes on `loop` when the time has passed; cancels its timer
// if the task is destroyed.
class Sleep {
 public:
  Sleep(Loop& loop, int64_t delay_ns) : loop_(loop), delay_ns_(delay_ns) {}
  Sleep(const Sleep&) = delete;
  ~Sleep() {
    if (timer_ != 0) loop_.CancelTimer(timer_);
  }
  bool await_ready() const { return false; }
  void await_suspend(std::coroutine_handle<> handle) {
    timer_ = loop_.After(delay_ns_, [this, handle] {
      timer_ = 0;
      handle.resume();
    });
  }
  void await_resume() const {}

 private:
  Loop& loop_;
  int64_t delay_ns_;
  Loop::TimerId timer_ = 0;
};

// Owns running tasks that nobody awaits; destroying the group cancels those not done. Not
// from inside one of its own tasks. Single-threaded: the loop on which it was made.
class TaskGroup {
 public:
  TaskGroup() = default;
  TaskGroup(const TaskGroup&) = delete;
  TaskGroup& operator=(const TaskGroup&) = delete;
  ~TaskGroup();
  // Starts `task` now; it runs until its first suspension inside this call. It must not let
  // an exception out (EDGE_CHECK).
  void Spawn(Task<void> task);
  size_t size() const { return count_; }

 private:
  struct Node;
  friend struct TaskGroupRunner;
  Node* first_ = nullptr;
  size_t count_ = 0;
};

}  // namespace edge
