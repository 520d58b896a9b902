// edge/rpc/promise.h - Promise<T>: the answer of a call, perhaps still on its way.
//
//   int n = co_await counter.Call<&Counter::Increment>(5);          // throws edge::Error
//   StatusOr<int> m = co_await counter.Call<&Counter::Increment>(5).Try();
//   StatusOr<int> k = counter.Call<&Counter::Increment>(5).Wait();  // in main functions
//
// A promise of a stub can be called before it is kept: the calls follow the first one to the
// peer and no round trip is spent (pipelining). Dropping a promise does not stop the call.
#pragma once
#include <coroutine>
#include <memory>
#include <optional>
#include <string_view>
#include <type_traits>
#include <utility>

#include "edge/base/callback.h"
#include "edge/base/errors.h"
#include "edge/base/status.h"
#include "edge/base/task.h"
#include "edge/rpc/convert.h"
#include "edge/rpc/hook.h"
#include "edge/rpc/target.h"
#include "edge/rpc/value.h"

namespace edge::rpc {

// What a Promise<T> becomes: StatusOr<T>, or Status for void.
template <typename T>
using Result = typename internal::ResultType<T>::type;

namespace internal {

// Blocks the thread. FailedPrecondition on a loop's thread, where it could wait for itself.
StatusOr<Value> WaitFor(const HookPtr& hook);

// Suspends a coroutine until a hook settles; taken back by its destructor.
class PullAwaiter {
 public:
  explicit PullAwaiter(HookPtr hook);
  PullAwaiter(PullAwaiter&&) noexcept = default;
  ~PullAwaiter();
  bool await_ready() const { return false; }
  bool await_suspend(std::coroutine_handle<> caller);
  StatusOr<Value> Take();

 private:
  struct State;
  HookPtr hook_;
  std::shared_ptr<State> state_;  // owners: this and the callback in the hook
};
// Runs `done` through the CallContext that is current now.
void PullInContext(const HookPtr& hook, Settled done);

template <typename T>
typename ResultType<T>::type ResultFrom(StatusOr<Value> outcome) {
  if constexpr (std::is_same_v<T, Value>) {
    return outcome;
  } else if (!outcome.ok()) {
    return std::move(outcome).status();
  } else if constexpr (std::is_void_v<T>) {
    return OkStatus();
  } else {
    T value{};
    if (Status status = Convert<T>::Read(*outcome, value); !status.ok()) return status;
    return value;
  }
}

}  // namespace internal

// Single-threaded; a promise kept by a direct call holds its value and costs no memory.
template <typename T>
class [[nodiscard]] Promise : public Calls<Promise<T>> {
 public:
  using value_type = T;

  explicit Promise(HookPtr hook) : hook_(std::move(hook)) {}
  explicit Promise(Result<T> ready) : ready_(std::move(ready)) {}

  // The outcome, once; blocks. For main functions and tests: see internal::WaitFor.
  Result<T> Wait() {
    if (ready_) return std::move(*ready_);
    return internal::ResultFrom<T>(internal::WaitFor(hook_));
  }

  // Runs `done` with the outcome on this loop: now, if it is there.
  void Then(Callback<void(Result<T>)> done) {
    if (ready_) return done(std::move(*ready_));
    internal::PullInContext(hook_, [done = std::move(done)](StatusOr<Value> outcome) mutable {
      done(internal::ResultFrom<T>(std::move(outcome)));
    });
  }

  // Lets the call go its way; for calls whose outcome does not matter.
  void Ignore() {}

  template <bool kThrows>
  class Awaiter {
   public:
    explicit Awaiter(Promise& promise)
        : ready_(std::move(promise.ready_)), pull_(std::move(promise.hook_)) {}
    bool await_ready() const { return ready_.has_value(); }
    bool await_suspend(std::coroutine_handle<> caller) { return pull_.await_suspend(caller); }
    auto await_resume() {
      Result<T> result = ready_ ? std::move(*ready_) : internal::ResultFrom<T>(pull_.Take());
      if constexpr (!kThrows) {
        return result;
      } else if constexpr (std::is_void_v<T>) {
        if (!result.ok()) throw Error(std::move(result));
      } else {
        if (!result.ok()) throw Error(std::move(result).status());
        return std::move(*result);
      }
    }

   private:
    std::optional<Result<T>> ready_;
    internal::PullAwaiter pull_;
  };
  // T, or throws edge::Error. At most once.
  Awaiter<true> operator co_await() { return Awaiter<true>(*this); }
  // As co_await, but Result<T> and never throws: `co_await promise.Try()`.
  Awaiter<false> Try() { return Awaiter<false>(*this); }

  // The promise as a hook, to send or to call; a kept one is wrapped.
  const HookPtr& hook() const {
    if (ready_) {
      if (!ready_->ok()) {
        hook_ = FailedHook(internal::StatusOf(*ready_));
      } else if constexpr (std::is_void_v<T>) {
        hook_ = ValueHook(Value());
      } else {
        hook_ = ValueHook(ToValue(**ready_));
      }
      ready_.reset();
    }
    return hook_;
  }

  // Promise<Stub<U>> only: the stub to be, at once.
  T stub() const
    requires internal::kIsStub<T>
  {
    if (ready_ && ready_->ok()) return **ready_;
    return T(hook());
  }

 private:
  mutable std::optional<Result<T>> ready_;
  mutable HookPtr hook_;
};

template <typename T>
struct Convert<Promise<T>> {  // sent as a promise: the receiver's method gets its value
  static Value Write(const Promise<T>& promise) { return Value(PromiseRef{promise.hook()}); }
};

}  // namespace edge::rpc
