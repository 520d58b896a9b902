// edge/rpc/hook.h - the one interface beneath stubs, promises, targets and sessions.
//
// Whatever can be called is a Hook: a local object, an object of a peer, a promise not yet
// kept (calling it is pipelining), a failure. A Hook has a home loop, and its code runs only
// there: the public calls hop when they come from another thread, and answers hop back. So
// an implementation - a durable object, say - is plain single-threaded code:
//
//   class MyHook : public MethodHook {
//    public:
//     explicit MyHook(Loop* home) : MethodHook(home) {}
//     void OnCall(std::string_view method, Array args, Resolver done) override;
//   };
//   HookPtr hook = MakeHook<MyHook>(loop);
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "edge/base/callback.h"
#include "edge/base/executor.h"
#include "edge/base/status.h"
#include "edge/rpc/value.h"

namespace edge::rpc {

struct MapProgram;  // map.h

// Names from a hook to what is called in it; array indices are decimal text. Borrowed.
using PathView = std::span<const std::string_view>;
using Path = std::vector<std::string>;
// Where a promise's outcome goes.
using Settled = Callback<void(StatusOr<Value>)>;

class CallContext;

// A Hook must not outlive its home loop. Thread-safe as far as Call, Get, Pull and counting
// go; everything protected runs on the home loop, or on the caller's thread without one.
class Hook {
 public:
  Hook(const Hook&) = delete;
  Hook& operator=(const Hook&) = delete;

  // Calls what `path` leads to (empty: the hook itself, a function) and gives the promise of
  // the result. Never fails at once: errors are the promise's. Calls on one hook from one
  // thread arrive in the order made.
  HookPtr Call(PathView path, Array args);
  // The promise of a property. An empty path: the hook itself.
  HookPtr Get(PathView path);
  // `done` gets the outcome, once, on the loop that called Pull (on the home loop if the
  // caller has none); perhaps before Pull returns. A stub is its own outcome.
  void Pull(Settled done);

  // Calls one method at once, if it is one of a local object of this loop, with nothing in the
  // way, that answers before it returns: then true, and `outcome` is its result. False: nothing
  // has happened, use Call.
  virtual bool CallNow(std::string_view method, std::span<Value> args, StatusOr<Value>* outcome);
  // The promise of `program` run over what `path` leads to, where that is: see map.h.
  HookPtr Map(PathView path, MapProgram program);
  // Runs `broken` once, on the caller's loop, if what this hook stands for is lost: the session
  // that it came through has ended, or the promise failed. Never for an object of our own.
  void OnBroken(Callback<void(Status)> broken);

  Loop* home() const { return home_; }
  bool OnHome() const { return home_ == nullptr || home_->IsCurrent(); }

  // The C++ object behind this hook if it is local and of the type with this id (see
  // target.h); null by default. Any thread; use the object on the home loop only.
  virtual void* LocalTarget(const void* type_id) const;
  // For the hook's own kind to recognise it: null by default. Any thread.
  virtual const void* kind_tag() const { return nullptr; }

 protected:
  explicit Hook(Loop* home) : home_(home) {}
  virtual ~Hook() = default;

  virtual HookPtr DoCall(PathView path, Array args) = 0;
  virtual HookPtr DoGet(PathView path) = 0;
  virtual void DoPull(Settled done) = 0;
  virtual HookPtr DoMap(PathView path, MapProgram program);  // pulls, and runs it here
  virtual void DoOnBroken(Callback<void(Status)> broken);    // forgets it
  // Must calls of code inside a CallContext wait for its BeforeSend? False: BeforeSendInside
  // will do, for the callee orders its own effects behind the caller's. Any thread.
  virtual bool WaitsAtGate() const { return true; }

  HookPtr Self() { return HookPtr(this); }
  // A reference for a table that holds bare pointers: null if the count is already zero.
  HookPtr TrySelf();

 private:
  class QueuedCall;
  friend void internal::AddRef(const Hook*);
  friend void internal::Release(const Hook*);
  HookPtr Start(PathView path, Array args, bool is_get);
  HookPtr StartHeld(PathView path, Array args, bool is_get, CallContext& context);
  HookPtr StartQueued(PathView path, Array args, bool is_get);
  static void Destroy(const Hook* hook);

  mutable std::atomic<uint32_t> references_{0};
  Loop* const home_;
};

template <typename T, typename... Args>
HookPtr MakeHook(Args&&... args) {
  return HookPtr(new T(std::forward<Args>(args)...));
}

HookPtr ValueHook(Value value);     // a promise already kept; no home
HookPtr FailedHook(Status status);  // a promise already broken

class PromiseHook;

// The right to settle one promise, once, on the promise's home loop. Dropped unused, it
// settles with Cancelled. Single-threaded.
class Resolver {
 public:
  Resolver() = default;
  explicit Resolver(HookPtr promise) : promise_(std::move(promise)) {}  // a PromiseHook
  Resolver(Resolver&&) noexcept = default;
  Resolver& operator=(Resolver&& other) noexcept;
  ~Resolver();
  void Settle(StatusOr<Value> outcome);
  void Follow(HookPtr other);  // whatever `other` becomes; calls are passed on to it at once
  explicit operator bool() const { return static_cast<bool>(promise_); }

 private:
  HookPtr promise_;
};

struct Pending {
  HookPtr promise;
  Resolver resolver;
};
Pending MakePromise(Loop* home = Loop::Current());

// Replaces the promises inside `args` by their values, then runs `done` (now, if there are
// none); the first failure is the outcome. Home loop of the caller.
void ResolvePromises(Array args, Callback<void(StatusOr<Array>)> done);

// A hook whose methods are found by one name. Promises in arguments are already replaced.
class MethodHook : public Hook {
 protected:
  explicit MethodHook(Loop* home) : Hook(home) {}
  // Settle `done` when the answer may be seen. `method` is borrowed; "" is the hook itself
  // called as a function.
  virtual void OnCall(std::string_view method, Array args, Resolver done) = 0;
  // The default knows no properties: undefined.
  virtual void OnGet(std::string_view property, Resolver done);

  HookPtr DoCall(PathView path, Array args) override;
  HookPtr DoGet(PathView path) override;
  void DoPull(Settled done) override;
};

// What surrounds running code, such as a durable object while one of its methods runs. Code
// that calls out inside a Scope is held at BeforeSend, and what it awaits comes back through
// Resume. Single-threaded; owners: scopes and the calls that wait.
class CallContext {
 public:
  virtual ~CallContext() = default;
  // Runs `send` when everything that the code has done so far may be seen by others: now or
  // later, in the order of the calls. A failure: the message must not leave, and the caller
  // gets that Status.
  virtual void BeforeSend(Callback<void(Status)> send) = 0;
  // As BeforeSend for hooks that need not wait at the gate: `send` may run sooner, in a
  // CallBaggage::Scope that tells the callee what its own effects have to wait for.
  virtual void BeforeSendInside(Callback<void(Status)> send) { BeforeSend(std::move(send)); }
  // Runs `resume`, which continues code that awaited a promise inside this context; it has
  // to set the Scope again around it.
  virtual void Resume(Callback<void()> resume) = 0;

  static const std::shared_ptr<CallContext>& Current();  // may be null

  // Makes `context` the current one of this thread while it lives; null: none.
  class Scope {
   public:
    explicit Scope(std::shared_ptr<CallContext> context);
    Scope(const Scope&) = delete;
    ~Scope();

   private:
    std::shared_ptr<CallContext> context_;
    const std::shared_ptr<CallContext>* previous_;
  };
};

// What goes with calls to the loop of the callee, which finds it as Current() when the call
// arrives at its hook. Immutable to rpc. Owners: calls on their way, and who takes it.
class CallBaggage {
 public:
  virtual ~CallBaggage() = default;
  static const std::shared_ptr<CallBaggage>& Current();  // may be null

  // Calls made on this thread while it lives carry `baggage`; null: nothing.
  class Scope {
   public:
    explicit Scope(std::shared_ptr<CallBaggage> baggage);
    Scope(const Scope&) = delete;
    ~Scope();

   private:
    std::shared_ptr<CallBaggage> baggage_;
    const std::shared_ptr<CallBaggage>* previous_;
  };
};

}  // namespace edge::rpc
