#include "edge/rpc/hook.h"

#include <algorithm>
#include <charconv>
#include <optional>

#include "absl/strings/cord.h"
#include "edge/base/check.h"
#include "edge/base/errors.h"
#include "edge/base/mutex.h"
#include "edge/rpc/map.h"
#include "edge/rpc/promise.h"
#include "src/rpc/hooks.h"

namespace edge::rpc {

// ---- counting

void internal::AddRef(const Hook* hook) {
  hook->references_.fetch_add(1, std::memory_order_relaxed);
}

void internal::Release(const Hook* hook) {
  if (hook->references_.fetch_sub(1, std::memory_order_acq_rel) == 1) Hook::Destroy(hook);
}

void Hook::Destroy(const Hook* hook) {
  if (hook->OnHome()) {
    delete hook;
    return;
  }
  // If the loop has stopped, the task is destroyed unrun and the hook with it.
  struct Deleter {
    void operator()(const Hook* dead) const { delete dead; }
  };
  hook->home_->PostUrgent(
      [owned = std::unique_ptr<const Hook, Deleter>(hook)]() mutable { owned.reset(); });
}

HookPtr Hook::TrySelf() {
  uint32_t count = references_.load(std::memory_order_relaxed);
  while (count != 0) {
    if (references_.compare_exchange_weak(count, count + 1, std::memory_order_acq_rel)) {
      HookPtr self;
      self.hook_ = this;
      return self;
    }
  }
  return nullptr;
}

void* Hook::LocalTarget(const void*) const {
  return nullptr;
}

bool Hook::CallNow(std::string_view, std::span<Value>, StatusOr<Value>*) {
  return false;
}

// ---- where a call runs

namespace {

Path Own(PathView path) {
  return {path.begin(), path.end()};
}

// A borrowed view of an owned path.
class PathViewOf {
 public:
  explicit PathViewOf(const Path& path) : names_(path.begin(), path.end()) {}
  operator PathView() const { return names_; }  // NOLINT(google-explicit-constructor)

 private:
  std::vector<std::string_view> names_;
};

// A copy that shares nothing with `status`. Copies of a Status share one counted block, which
// is sound; but the counting of the packaged Abseil is invisible to ThreadSanitizer, which
// then takes the last owner's freeing for a race. Only failures pay for it.
Status Unshared(const Status& status) {
  Status copy(status.code(), status.message());
  status.ForEachPayload([&copy](absl::string_view url, const absl::Cord& payload) {
    copy.SetPayload(url, absl::Cord(std::string(payload)));
  });
  return copy;
}

// An outcome on its way back to the thread that asked; told of its loss if dropped. One piece
// of memory for the whole way, so that every task on it fits into a Callback.
class WayBack {
 public:
  WayBack(Settled done, Loop* loop) : trip_(new Trip{std::move(done), loop, Value()}) {}
  WayBack(WayBack&&) noexcept = default;
  WayBack& operator=(WayBack&&) = delete;
  ~WayBack() {
    if (trip_) Settle(Cancelled("the loop of the called object has stopped"));
  }
  void Settle(StatusOr<Value> outcome) {
    std::unique_ptr<Trip> trip = std::move(trip_);
    trip->outcome = outcome.ok() ? std::move(outcome) : Unshared(outcome.status());
    if (trip->loop == nullptr) return trip->done(std::move(trip->outcome));
    Loop* const loop = trip->loop;
    loop->PostUrgent([trip = std::move(trip)] { trip->done(std::move(trip->outcome)); });
  }

 private:
  struct Trip {
    Settled done;
    Loop* loop;
    StatusOr<Value> outcome;
  };
  std::unique_ptr<Trip> trip_;
};

}  // namespace

HookPtr Hook::Call(PathView path, Array args) {
  return Start(path, std::move(args), false);
}

HookPtr Hook::Get(PathView path) {
  if (path.empty()) return Self();
  return Start(path, {}, true);
}

HookPtr Hook::Start(PathView path, Array args, bool is_get) {
  if (CallContext::Current() != nullptr) {
    if (HookPtr recorded = internal::RecordCall(Self(), path, args, is_get)) return recorded;
    return StartHeld(path, std::move(args), is_get, *CallContext::Current());
  }
  if (!OnHome()) return StartQueued(path, std::move(args), is_get);
  return is_get ? DoGet(path) : DoCall(path, std::move(args));
}

HookPtr Hook::StartHeld(PathView path, Array args, bool is_get, CallContext& context) {
  Pending pending = MakePromise();
  auto send = [self = Self(), path = Own(path), args = std::move(args), is_get,
               resolver = std::move(pending.resolver)](Status may_leave) mutable {
    if (!may_leave.ok()) return resolver.Settle(std::move(may_leave));
    CallContext::Scope outside(nullptr);  // the callee is not part of the caller's context
    resolver.Follow(self->Start(PathViewOf(path), std::move(args), is_get));
  };
  if (WaitsAtGate()) {
    context.BeforeSend(std::move(send));
  } else {
    context.BeforeSendInside(std::move(send));
  }
  return std::move(pending.promise);
}

HookPtr Hook::Map(PathView path, MapProgram program) {
  if (CallContext::Current() != nullptr) {
    Pending pending = MakePromise();
    CallContext::Current()->BeforeSend(
        [self = Self(), path = Own(path), program = std::move(program),
         resolver = std::move(pending.resolver)](Status may_leave) mutable {
          if (!may_leave.ok()) return resolver.Settle(std::move(may_leave));
          CallContext::Scope outside(nullptr);
          resolver.Follow(self->Map(PathViewOf(path), std::move(program)));
        });
    return std::move(pending.promise);
  }
  if (OnHome()) return DoMap(path, std::move(program));
  Pending pending = MakePromise(home_);
  Status posted = home_->Post([self = Self(), path = Own(path), program = std::move(program),
                               resolver = std::move(pending.resolver)]() mutable {
    resolver.Follow(self->DoMap(PathViewOf(path), std::move(program)));
  });
  if (!posted.ok()) return FailedHook(Annotate(posted, "the call could not be queued"));
  return std::move(pending.promise);
}

HookPtr Hook::DoMap(PathView path, MapProgram program) {
  return RunMap(path.empty() ? Self() : DoGet(path), std::move(program));
}

void Hook::OnBroken(Callback<void(Status)> broken) {
  if (OnHome()) return DoOnBroken(std::move(broken));
  home_->PostUrgent([self = Self(), broken = std::move(broken), back = Loop::Current()]() mutable {
    self->DoOnBroken([broken = std::move(broken), back](Status why) mutable {
      why = Unshared(why);
      if (back == nullptr) return broken(std::move(why));
      back->PostUrgent(
          [broken = std::move(broken), why = std::move(why)]() mutable { broken(std::move(why)); });
    });
  });
}

void Hook::DoOnBroken(Callback<void(Status)>) {}

void Hook::Pull(Settled done) {
  if (OnHome()) return DoPull(std::move(done));
  home_->PostUrgent([self = Self(), back = WayBack(std::move(done), Loop::Current())]() mutable {
    self->DoPull([back = std::move(back)](StatusOr<Value> outcome) mutable {
      back.Settle(std::move(outcome));
    });
  });
}

// ---- promises already kept or broken

namespace {

Status NotAFunction(std::string_view name) {
  return InvalidArgument("'{}' is not a function.", name);
}

std::optional<size_t> AsIndex(std::string_view name) {
  size_t index = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), index);
  if (error != std::errc() || end != name.data() + name.size()) return std::nullopt;
  return index;
}

constexpr char kKeptTag = 0;

class KeptPromise : public Hook {
 public:
  explicit KeptPromise(Value value) : Hook(nullptr), value_(std::move(value)) {}
  const void* kind_tag() const override { return &kKeptTag; }
  // Null if `hook` is of another kind.
  static const Value* ValueOf(const HookPtr& hook) {
    return hook->kind_tag() == &kKeptTag ? &static_cast<KeptPromise*>(hook.get())->value_ : nullptr;
  }

 protected:
  HookPtr DoCall(PathView path, Array args) override {
    const Value* at = &value_;
    for (size_t i = 0;; ++i) {
      if (const StubRef* stub = at->As<StubRef>())
        return stub->hook->Call(path.subspan(i), std::move(args));
      if (const PromiseRef* promise = at->As<PromiseRef>())
        return promise->hook->Call(path.subspan(i), std::move(args));
      if (i == path.size()) return FailedHook(NotAFunction(path.empty() ? "" : path.back()));
      if (at = Step(*at, path[i]); at == nullptr) return FailedHook(NotAFunction(path.back()));
    }
  }

  HookPtr DoGet(PathView path) override {
    const Value* at = &value_;
    for (size_t i = 0;; ++i) {
      if (const StubRef* stub = at->As<StubRef>()) return stub->hook->Get(path.subspan(i));
      if (const PromiseRef* promise = at->As<PromiseRef>())
        return promise->hook->Get(path.subspan(i));
      if (i == path.size()) return ValueHook(*at);
      if (at->is_nullish())
        return FailedHook(
            InvalidArgument("'{}' of {} cannot be read", path[i], KindName(at->kind())));
      if (at = Step(*at, path[i]); at == nullptr) return DoGetMissing(path.subspan(i + 1));
    }
  }

  void DoPull(Settled done) override { done(value_); }

 private:
  static const Value* Step(const Value& from, std::string_view name) {
    if (const Object* object = from.object()) return object->Find(name);
    if (const Array* array = from.array()) {
      const std::optional<size_t> index = AsIndex(name);
      return index && *index < array->size() ? &(*array)[*index] : nullptr;
    }
    if (const ErrorValue* error = from.As<ErrorValue>()) return error->properties.Find(name);
    return nullptr;
  }
  static HookPtr DoGetMissing(PathView rest) {
    if (rest.empty()) return ValueHook(Value());
    return FailedHook(InvalidArgument("'{}' of undefined cannot be read", rest[0]));
  }

  const Value value_;
};

class BrokenPromise : public Hook {
 public:
  explicit BrokenPromise(Status status) : Hook(nullptr), status_(std::move(status)) {}

 protected:
  HookPtr DoCall(PathView, Array) override { return Self(); }
  HookPtr DoGet(PathView) override { return Self(); }
  void DoPull(Settled done) override { done(status_); }
  HookPtr DoMap(PathView, MapProgram) override { return Self(); }
  void DoOnBroken(Callback<void(Status)> broken) override { broken(status_); }

 private:
  const Status status_;
};

}  // namespace

HookPtr ValueHook(Value value) {
  if (StubRef* stub = value.As<StubRef>()) return std::move(stub->hook);
  if (PromiseRef* promise = value.As<PromiseRef>()) return std::move(promise->hook);
  return MakeHook<KeptPromise>(std::move(value));
}

HookPtr FailedHook(Status status) {
  EDGE_DCHECK(!status.ok());
  return MakeHook<BrokenPromise>(std::move(status));
}

// ---- promises

namespace {

// What has to run for promises that were just settled. Flat, however long the chain of
// promises that wait for each other: a peer may build chains that no stack would bear.
struct Trampoline {
  std::vector<HookPtr> ready;
  bool running = false;
};
thread_local Trampoline* trampoline = nullptr;

constexpr char kPromiseTag = 0;

}  // namespace

class PromiseHook : public Hook {
 public:
  explicit PromiseHook(Loop* home) : Hook(home) {}
  const void* kind_tag() const override { return &kPromiseTag; }

  void Become(HookPtr target) {
    EDGE_CHECK(!target_);
    if (target.get() == this) target = FailedHook(Internal("a promise that waits for itself"));
    target_ = std::move(target);
    if (!waiting_.empty()) Schedule(Self());
  }
  const HookPtr& target() const { return target_; }

 protected:
  HookPtr DoCall(PathView path, Array args) override {
    if (target_ && waiting_.empty()) return target_->Call(path, std::move(args));
    Pending pending = MakePromise(home());
    waiting_.push_back([path = Own(path), args = std::move(args),
                        resolver = std::move(pending.resolver)](Hook& target) mutable {
      resolver.Follow(target.Call(PathViewOf(path), std::move(args)));
    });
    return std::move(pending.promise);
  }

  HookPtr DoGet(PathView path) override {
    if (target_ && waiting_.empty()) return target_->Get(path);
    Pending pending = MakePromise(home());
    waiting_.push_back(
        [path = Own(path), resolver = std::move(pending.resolver)](Hook& target) mutable {
          resolver.Follow(target.Get(PathViewOf(path)));
        });
    return std::move(pending.promise);
  }

  void DoPull(Settled done) override {
    if (target_ && waiting_.empty()) return target_->Pull(std::move(done));
    waiting_.push_back(
        [done = std::move(done)](Hook& target) mutable { target.Pull(std::move(done)); });
  }

  // What it becomes runs the program: the peer, if it is an object or a call of a peer.
  HookPtr DoMap(PathView path, MapProgram program) override {
    if (target_ && waiting_.empty()) return target_->Map(path, std::move(program));
    Pending pending = MakePromise(home());
    waiting_.push_back([path = Own(path), program = std::move(program),
                        resolver = std::move(pending.resolver)](Hook& target) mutable {
      resolver.Follow(target.Map(PathViewOf(path), std::move(program)));
    });
    return std::move(pending.promise);
  }

  void DoOnBroken(Callback<void(Status)> broken) override {
    if (target_ && waiting_.empty()) return target_->OnBroken(std::move(broken));
    waiting_.push_back(
        [broken = std::move(broken)](Hook& target) mutable { target.OnBroken(std::move(broken)); });
  }

 private:
  static void Schedule(HookPtr promise) {
    if (trampoline != nullptr) return trampoline->ready.push_back(std::move(promise));
    Trampoline here;
    trampoline = &here;
    static_cast<PromiseHook*>(promise.get())->RunWaiting();
    for (size_t i = 0; i < here.ready.size(); ++i) {
      const HookPtr next = std::move(here.ready[i]);
      static_cast<PromiseHook*>(next.get())->RunWaiting();
    }
    trampoline = nullptr;
  }

  // What arrives meanwhile joins the end of the queue: calls keep their order.
  void RunWaiting() {
    for (size_t i = 0; i < waiting_.size(); ++i) {
      auto next = std::move(waiting_[i]);
      next(*target_);
    }
    waiting_.clear();
  }

  HookPtr target_;  // what it became
  std::vector<Callback<void(Hook&)>> waiting_;
};

// A call on its way to the callee's loop, and the promise of its result, in one.
class Hook::QueuedCall final : public PromiseHook {
 public:
  QueuedCall(HookPtr callee, PathView path, Array args, bool is_get)
      : PromiseHook(callee->home()),
        callee_(std::move(callee)),
        path_(Own(path)),
        args_(std::move(args)),
        is_get_(is_get) {}
  void Run() {
    const HookPtr callee = std::move(callee_);
    const Path path = std::move(path_);
    std::string_view one;
    if (path.size() == 1) one = path[0];
    const PathViewOf many(path.size() == 1 ? Path() : path);
    const PathView view = path.size() == 1 ? PathView(&one, 1) : PathView(many);
    Become(is_get_ ? callee->DoGet(view) : callee->DoCall(view, std::move(args_)));
  }
  // The task was never run: its loop has stopped.
  void Drop() {
    if (std::exchange(callee_, nullptr))
      Become(FailedHook(Cancelled("the call ended without an answer")));
  }

 private:
  HookPtr callee_;
  Path path_;
  Array args_;
  const bool is_get_;
};

HookPtr Hook::StartQueued(PathView path, Array args, bool is_get) {
  struct Task {
    explicit Task(HookPtr to_run) : call(std::move(to_run)) {}
    Task(Task&&) noexcept = default;
    ~Task() {
      if (call) static_cast<QueuedCall*>(call.get())->Drop();
    }
    void operator()() {
      const HookPtr running = std::move(call);
      static_cast<QueuedCall*>(running.get())->Run();
    }
    HookPtr call;
  };
  HookPtr call = MakeHook<QueuedCall>(Self(), path, std::move(args), is_get);
  Status posted = home_->Post(Task(call));
  if (!posted.ok()) return FailedHook(Annotate(posted, "the call could not be queued"));
  return call;
}

Pending MakePromise(Loop* home) {
  HookPtr promise = MakeHook<PromiseHook>(home);
  return {promise, Resolver(promise)};
}

Resolver& Resolver::operator=(Resolver&& other) noexcept {
  Resolver dropped(std::move(*this));
  promise_ = std::move(other.promise_);
  return *this;
}

Resolver::~Resolver() {
  if (promise_) Settle(Cancelled("the call ended without an answer"));
}

void Resolver::Settle(StatusOr<Value> outcome) {
  Follow(outcome.ok() ? ValueHook(std::move(*outcome)) : FailedHook(outcome.status()));
}

void Resolver::Follow(HookPtr other) {
  EDGE_CHECK(promise_);
  const HookPtr promise = std::move(promise_);
  static_cast<PromiseHook*>(promise.get())->Become(std::move(other));
}

// ---- promises inside values

namespace {

void FindPromises(Value& value, std::vector<Value*>* found) {
  if (Array* array = value.As<Array>()) {
    for (Value& item : *array) FindPromises(item, found);
  } else if (Object* object = value.As<Object>()) {
    for (Member& member : object->members()) FindPromises(member.value, found);
  } else if (value.As<PromiseRef>() != nullptr) {
    found->push_back(&value);
  }
}

// Waits for all promises of a tree. What they bring is searched as well. The owners are the
// callbacks in the promises, so nothing remains once they have all settled.
struct Gathering {
  Array args;
  Callback<void(StatusOr<Array>)> done;
  size_t missing = 0;

  static void Wait(const std::shared_ptr<Gathering>& self, std::vector<Value*> promises) {
    self->missing += promises.size();
    for (Value* place : promises) {
      const HookPtr hook = place->As<PromiseRef>()->hook;
      hook->Pull([self, place](StatusOr<Value> outcome) {
        if (!self->done) return;  // another one failed
        if (!outcome.ok()) return std::exchange(self->done, nullptr)(outcome.status());
        *place = std::move(*outcome);
        std::vector<Value*> more;
        FindPromises(*place, &more);
        Wait(self, std::move(more));
        if (--self->missing == 0 && self->done)
          std::exchange(self->done, nullptr)(std::move(self->args));
      });
    }
  }
};

}  // namespace

bool HoldsPromises(std::span<const Value> args) {
  const auto holds = [](const auto& self, const Value& value) -> bool {
    if (const Array* array = value.array())
      return std::ranges::any_of(*array, [&](const Value& item) { return self(self, item); });
    if (const Object* object = value.object())
      return std::ranges::any_of(object->members(),
                                 [&](const Member& member) { return self(self, member.value); });
    return value.As<PromiseRef>() != nullptr;
  };
  return std::ranges::any_of(args, [&](const Value& arg) { return holds(holds, arg); });
}

bool IsSettled(const HookPtr& hook) {
  const Hook* at = hook.get();
  while (at != nullptr && at->kind_tag() == &kPromiseTag)
    at = static_cast<const PromiseHook*>(at)->target().get();
  return at != nullptr;
}

const Value* KeptValue(const HookPtr& hook) {
  const HookPtr* at = &hook;
  while (*at && (*at)->kind_tag() == &kPromiseTag)
    at = &static_cast<const PromiseHook*>(at->get())->target();
  return *at ? KeptPromise::ValueOf(*at) : nullptr;
}

size_t SettledBytes(const HookPtr& hook) {
  const Value* kept = KeptValue(hook);
  return kept == nullptr ? 0 : ApproximateBytes(*kept);
}

void ResolvePromises(Array args, Callback<void(StatusOr<Array>)> done) {
  if (!HoldsPromises(args)) return done(std::move(args));
  auto gathering = std::make_shared<Gathering>();
  gathering->args = std::move(args);
  gathering->done = std::move(done);
  std::vector<Value*> promises;
  for (Value& arg : gathering->args) FindPromises(arg, &promises);
  // One extra until all pulls are made: those that settle at once must not finish early.
  gathering->missing = 1;
  Gathering::Wait(gathering, std::move(promises));
  if (--gathering->missing == 0 && gathering->done)
    std::exchange(gathering->done, nullptr)(std::move(gathering->args));
}

void PullResolved(const HookPtr& hook, Settled done) {
  // The common case, results of calls at home: there already, and nothing to look for inside.
  if (const Value* kept = KeptPromise::ValueOf(hook);
      kept != nullptr && kept->array() == nullptr && kept->object() == nullptr)
    return done(*kept);
  hook->Pull([done = std::move(done)](StatusOr<Value> outcome) mutable {
    if (!outcome.ok() || (outcome->array() == nullptr && outcome->object() == nullptr))
      return done(std::move(outcome));
    Array one;
    one.push_back(std::move(*outcome));
    ResolvePromises(std::move(one), [done = std::move(done)](StatusOr<Array> whole) mutable {
      if (!whole.ok()) return done(whole.status());
      done(std::move((*whole)[0]));
    });
  });
}

// ---- hooks with named methods

void MethodHook::OnGet(std::string_view, Resolver done) {
  done.Settle(Value());
}

HookPtr MethodHook::DoCall(PathView path, Array args) {
  if (path.size() > 1) return DoGet(path.first(1))->Call(path.subspan(1), std::move(args));
  Pending pending = MakePromise(home());
  ResolvePromises(std::move(args), [self = Self(),
                                    method = std::string(path.empty() ? "" : path[0]),
                                    resolver = std::move(pending.resolver)](
                                       StatusOr<Array> ready) mutable {
    if (!ready.ok()) return resolver.Settle(ready.status());
    static_cast<MethodHook*>(self.get())->OnCall(method, std::move(*ready), std::move(resolver));
  });
  return std::move(pending.promise);
}

HookPtr MethodHook::DoGet(PathView path) {
  if (path.empty()) return Self();
  Pending pending = MakePromise(home());
  OnGet(path[0], std::move(pending.resolver));
  return path.size() == 1 ? pending.promise : pending.promise->Get(path.subspan(1));
}

void MethodHook::DoPull(Settled done) {
  done(Value(StubRef{Self()}));
}

// ---- contexts

namespace {
thread_local const std::shared_ptr<CallContext>* current_context = nullptr;
thread_local const std::shared_ptr<CallBaggage>* current_baggage = nullptr;
}  // namespace

const std::shared_ptr<CallContext>& CallContext::Current() {
  static const std::shared_ptr<CallContext> kNone;
  return current_context == nullptr ? kNone : *current_context;
}

CallContext::Scope::Scope(std::shared_ptr<CallContext> context)
    : context_(std::move(context)), previous_(std::exchange(current_context, &context_)) {}

CallContext::Scope::~Scope() {
  current_context = previous_;
}

const std::shared_ptr<CallBaggage>& CallBaggage::Current() {
  static const std::shared_ptr<CallBaggage> kNone;
  return current_baggage != nullptr ? *current_baggage : kNone;
}

CallBaggage::Scope::Scope(std::shared_ptr<CallBaggage> baggage)
    : baggage_(std::move(baggage)), previous_(std::exchange(current_baggage, &baggage_)) {}
CallBaggage::Scope::~Scope() {
  current_baggage = previous_;
}

// ---- waiting

StatusOr<Value> internal::WaitFor(const HookPtr& hook) {
  if (const Value* kept = KeptPromise::ValueOf(hook);
      kept != nullptr && kept->array() == nullptr && kept->object() == nullptr)
    return *kept;
  struct State {
    Mutex mu;
    CondVar settled;
    std::optional<StatusOr<Value>> outcome ABSL_GUARDED_BY(mu);
  };
  const auto state = std::make_shared<State>();
  PullResolved(hook, [state](StatusOr<Value> outcome) {
    MutexLock lock(&state->mu);
    state->outcome = std::move(outcome);
    state->settled.Signal();
  });
  MutexLock lock(&state->mu);
  if (!state->outcome && Loop::Current() != nullptr)
    return FailedPrecondition("Wait() on a loop's thread would wait for itself: co_await instead");
  while (!state->outcome) state->settled.Wait(&state->mu);
  return std::move(*state->outcome);
}

void internal::PullInContext(const HookPtr& hook, Settled done) {
  std::shared_ptr<CallContext> context = CallContext::Current();
  if (context == nullptr) return PullResolved(hook, std::move(done));
  PullResolved(hook, [context = std::move(context),
                      done = std::move(done)](StatusOr<Value> outcome) mutable {
    context->Resume([done = std::move(done), outcome = std::move(outcome)]() mutable {
      done(std::move(outcome));
    });
  });
}

struct internal::PullAwaiter::State {
  std::optional<StatusOr<Value>> outcome;
  std::coroutine_handle<> waiter;
};

internal::PullAwaiter::PullAwaiter(HookPtr hook) : hook_(std::move(hook)) {}

internal::PullAwaiter::~PullAwaiter() {
  if (state_ != nullptr) state_->waiter = nullptr;
}

bool internal::PullAwaiter::await_suspend(std::coroutine_handle<> caller) {
  state_ = std::make_shared<State>();
  PullInContext(hook_, [state = state_](StatusOr<Value> outcome) {
    state->outcome = std::move(outcome);
    if (const auto waiter = std::exchange(state->waiter, nullptr)) waiter.resume();
  });
  if (state_->outcome) return false;
  state_->waiter = caller;
  return true;
}

StatusOr<Value> internal::PullAwaiter::Take() {
  return std::move(*state_->outcome);
}

}  // namespace edge::rpc
