// edge/rpc/stub.h - Stub<T>: a reference to an object that may be here or far away.
//
//   Stub<Counter> counter(std::make_shared<Counter>());         // of our own object
//   counter.Call<&Counter::Increment>(5)                        // checked by the compiler
//   counter.Call("increment", 5)                                // by name
//   Stub<void(std::string)> log([](std::string line) { ... });  // a function by reference
//
// A call on an object of the same loop is the member call itself: no Values, no allocation.
// Holding a stub is the permission to call; copying it shares that, and when the last copy
// anywhere is gone, the object is destroyed on its loop.
#pragma once
#include <concepts>
#include <memory>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>

#include "edge/base/executor.h"
#include "edge/base/status.h"
#include "edge/rpc/convert.h"
#include "edge/rpc/hook.h"
#include "edge/rpc/promise.h"
#include "edge/rpc/target.h"
#include "edge/rpc/value.h"

namespace edge::rpc {

namespace internal {

const HookPtr& EmptyStubHook();  // fails every call with FailedPrecondition

template <typename T>
void* LocalObject(const HookPtr& hook) {
  if constexpr (HasMethods<T>) {
    return hook ? hook->LocalTarget(&kTypeId<T>) : nullptr;
  } else {
    return nullptr;
  }
}

template <typename R, typename Raw>
Result<R> AsResult(Raw&& raw) {  // Status, StatusOr<X> or X to what the caller gets
  using T = std::remove_cvref_t<Raw>;
  if constexpr (std::is_same_v<T, Status>) {
    return std::forward<Raw>(raw);
  } else if constexpr (kIsStatusOr<T>) {
    if (!raw.ok()) return std::forward<Raw>(raw).status();
    return R(*std::forward<Raw>(raw));
  } else {
    return R(std::forward<Raw>(raw));
  }
}

}  // namespace internal

// Thread-safe to call and to copy; each call made on the thread of the object's loop is
// direct, any other one is queued there.
template <typename T = void>
class Stub : public Calls<Stub<T>> {
 public:
  Stub() = default;  // empty: every call fails with FailedPrecondition
  explicit Stub(HookPtr hook) : hook_(std::move(hook)), local_(internal::LocalObject<T>(hook_)) {}
  // An object of ours; its home is the loop of the caller. Without one (in a main function)
  // it is called on whichever thread makes the call, and must bear that.
  template <typename U>
    requires std::derived_from<U, T>
  Stub(std::shared_ptr<U> object)  // NOLINT(google-explicit-constructor)
      : Stub(internal::MakeTargetHook(std::shared_ptr<T>(std::move(object)), MethodsOf<T>(),
                                      Loop::Current())) {}
  // The object that the promise will be: pipelining.
  template <std::same_as<Promise<Stub>> P>
  Stub(const P& promise) : Stub(promise.stub()) {}  // NOLINT(google-explicit-constructor)

  const HookPtr& hook() const { return hook_ ? hook_ : internal::EmptyStubHook(); }
  explicit operator bool() const { return static_cast<bool>(hook_); }
  bool operator==(const Stub& other) const { return hook_ == other.hook_; }

  // Calls<>'s way in; use Call.
  const Stub& stub() const { return *this; }
  template <auto kMethod, typename... A>
  Promise<internal::OwnedResultOf<kMethod>> Invoke(A&&... args) const {
    using Raw = internal::ReturnOf<kMethod>;
    using R = internal::OwnedResultOf<kMethod>;
    constexpr std::string_view kName = internal::WireName<T, kMethod>::value;
    if constexpr (!internal::kIsTask<Raw> && !internal::kIsPromise<Raw> &&
                  sizeof...(A) == std::tuple_size_v<internal::ParamsOf<kMethod>>) {
      if (local_ != nullptr && hook_->OnHome() && CallContext::Current() == nullptr) [[likely]] {
        T* object = static_cast<T*>(local_);
        try {
          if constexpr (std::is_void_v<Raw>) {
            (object->*kMethod)(std::forward<A>(args)...);
            return Promise<R>(OkStatus());
          } else {
            return Promise<R>(internal::AsResult<R>((object->*kMethod)(std::forward<A>(args)...)));
          }
        } catch (...) {
          return Promise<R>(Result<R>(internal::StatusFromException()));
        }
      }
    }
    return Promise<R>(hook()->Call({&kName, 1}, ArrayOf(std::forward<A>(args)...)));
  }

 private:
  HookPtr hook_;
  void* local_ = nullptr;  // the object of hook_, if it is of our process and our type
};

// A function by reference.
template <typename R, typename... A>
class Stub<R(A...)> : public Calls<Stub<R(A...)>> {
 public:
  Stub() = default;
  explicit Stub(HookPtr hook) : hook_(std::move(hook)) {}
  template <typename F>
    requires(!std::same_as<std::remove_cvref_t<F>, Stub> &&
             !std::same_as<std::remove_cvref_t<F>, HookPtr> &&
             std::is_invocable_v<std::remove_cvref_t<F>&, A...>)
  Stub(F&& function)  // NOLINT(google-explicit-constructor)
      : hook_(internal::MakeTargetHook(
            std::make_shared<std::remove_cvref_t<F>>(std::forward<F>(function)),
            kTable<std::remove_cvref_t<F>>, Loop::Current())) {}

  Promise<typename internal::Owned<R>::type> operator()(A... args) const {
    return Promise<typename internal::Owned<R>::type>(
        hook()->Call({}, ArrayOf(std::forward<A>(args)...)));
  }
  const HookPtr& hook() const { return hook_ ? hook_ : internal::EmptyStubHook(); }
  explicit operator bool() const { return static_cast<bool>(hook_); }
  bool operator==(const Stub& other) const { return hook_ == other.hook_; }

 private:
  template <typename F>
  static Answer CallFunction(void* function, std::span<Value> args) {
    using Returned = std::invoke_result_t<F&, A...>;
    F* f = static_cast<F*>(function);
    return internal::CallWithValues<std::tuple<A...>, Returned>(
        [f]<typename... B>(B&&... b) -> Returned { return (*f)(std::forward<B>(b)...); }, args);
  }
  template <typename F>
  static constexpr MethodEntry kEntry{"", &CallFunction<F>, false,
                                      internal::kIsPlain<std::invoke_result_t<F&, A...>>};
  template <typename F>
  static constexpr MethodTable kTable{&internal::kTypeId<F>, &kEntry<F>, 1, nullptr, 0, 0};

  HookPtr hook_;
};

// A stub without a type: calls by name only.
template <>
class Stub<void> : public Calls<Stub<void>> {
 public:
  Stub() = default;
  explicit Stub(HookPtr hook) : hook_(std::move(hook)) {}
  template <typename T>
  Stub(const Stub<T>& other) : hook_(other.hook()) {}  // NOLINT(google-explicit-constructor)
  template <typename T>
  Stub<T> As() const {  // trusts the caller; calls are still checked where they arrive
    return Stub<T>(hook());
  }
  const HookPtr& hook() const { return hook_ ? hook_ : internal::EmptyStubHook(); }
  explicit operator bool() const { return static_cast<bool>(hook_); }
  bool operator==(const Stub& other) const { return hook_ == other.hook_; }

 private:
  HookPtr hook_;
};
using AnyStub = Stub<void>;

// Makes an object and the stub that owns it.
template <HasMethods T, typename... Args>
Stub<T> MakeStub(Args&&... args) {
  return Stub<T>(std::make_shared<T>(std::forward<Args>(args)...));
}

template <typename T>
struct Convert<Stub<T>> {
  static Value Write(const Stub<T>& stub) { return Value(StubRef{stub.hook()}); }
  static Status Read(Value& from, Stub<T>& to) {
    if (StubRef* stub = from.As<StubRef>()) {
      to = Stub<T>(std::move(stub->hook));
    } else if (PromiseRef* promise = from.As<PromiseRef>()) {
      to = Stub<T>(std::move(promise->hook));
    } else {
      return internal::Mismatch("a stub", from);
    }
    return OkStatus();
  }
};
template <HasMethods T>
struct Convert<std::shared_ptr<T>> {  // passed by reference
  static Value Write(std::shared_ptr<T> object) {
    return object == nullptr ? Value(nullptr) : Convert<Stub<T>>::Write(Stub<T>(std::move(object)));
  }
};

namespace internal {
template <typename Operator>
struct FunctionOf;
template <typename C, typename R, typename... A>
struct FunctionOf<R (C::*)(A...) const> {
  using type = R(A...);
};
template <typename C, typename R, typename... A>
struct FunctionOf<R (C::*)(A...)> {
  using type = R(A...);
};
}  // namespace internal

// A lambda or std::function given to a call by name goes as a function by reference.
template <typename F>
  requires requires { &F::operator(); }
struct Convert<F> {
  using Function = typename internal::FunctionOf<decltype(&F::operator())>::type;
  static Value Write(F function) {
    return Convert<Stub<Function>>::Write(Stub<Function>(std::move(function)));
  }
};

}  // namespace edge::rpc
