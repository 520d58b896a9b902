// edge/rpc/target.h - making the methods of a class callable: a list, and nothing else.
//
//   class Counter : public edge::rpc::Target {
//    public:
//     int Increment(int by);                       // "increment" on the wire
//     StatusOr<std::string> Describe() const;      // fails with a Status
//     Task<int> IncrementLater(int by);            // answers when the task is done
//     using Rpc = edge::rpc::Methods<&Counter::Increment, &Counter::Describe,
//                                    edge::rpc::Named<"later", &Counter::IncrementLater>>;
//   };
//
// What is not in the list cannot be reached. Arguments are checked and converted before the
// method runs (edge/rpc/convert.h); ones of type std::optional may be left out at the end,
// surplus ones are ignored. A method may throw edge::Error: the caller gets its Status. Text
// arguments (std::string_view) live until the method, or its task, has ended.
#pragma once
#include <array>
#include <bit>
#include <cstddef>
#include <iterator>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <variant>

#include "edge/base/callback.h"
#include "edge/base/status.h"
#include "edge/base/task.h"
#include "edge/rpc/convert.h"
#include "edge/rpc/hook.h"
#include "edge/rpc/names.h"
#include "edge/rpc/value.h"

namespace edge::rpc {

template <typename T>
class Promise;
template <typename T>
class Stub;

// Base of objects that are passed by reference. Any class with an Rpc list will do; this
// one adds the virtual destructor, which runs when the last stub is gone, on the loop where
// the first stub was made.
class Target {
 public:
  virtual ~Target() = default;
};

// Entries: pointers to methods, Named<"x", &T::f> and Property<"x", &T::f>.
template <auto... kEntries>
struct Methods {};

template <typename T>
concept HasMethods = requires { typename T::Rpc; };

// What a method answered: an outcome, a task that will have it, or the hook that it becomes.
class Answer {
 public:
  Answer(StatusOr<Value> outcome) : rep_(std::move(outcome)) {}  // NOLINT
  Answer(Task<StatusOr<Value>> task) : rep_(std::move(task)) {}  // NOLINT
  Answer(HookPtr promise) : rep_(std::move(promise)) {}          // NOLINT

  // Null unless it is there already.
  StatusOr<Value>* outcome() { return std::get_if<StatusOr<Value>>(&rep_); }
  // Null unless it is a task, not started yet: to be moved from by who can cancel it.
  Task<StatusOr<Value>>* task() { return std::get_if<Task<StatusOr<Value>>>(&rep_); }
  // Runs `done` with the outcome: now if it is there; else when the task, which starts here
  // and then owns itself, has ended. Loop of the method.
  void Finish(Settled done) &&;

 private:
  friend class TargetHook;
  std::variant<StatusOr<Value>, Task<StatusOr<Value>>, HookPtr> rep_;
};

// The method list of a class at run time: sorted by name, constant.
struct MethodEntry {
  std::string_view name;
  Answer (*invoke)(void* target, std::span<Value> args);  // may throw; uses up the arguments
  bool is_property;
  bool is_plain;  // answers before it returns: neither a Task nor a Promise
};
struct MethodTable {
  const void* type_id;
  const MethodEntry* entries;
  size_t count;
  // A perfect hash over the names: slots[(hash * multiplier) >> shift] is the only entry that
  // may have the name, 0xff: none has. Null if none was found: then the order is searched.
  const uint8_t* slots;
  uint64_t multiplier;
  int shift;
  const MethodEntry* Find(std::string_view name) const {
    if (slots == nullptr) return Search(name);
    const uint8_t index = slots[(Hash(name) * multiplier) >> shift];
    if (index >= count || entries[index].name != name) return nullptr;
    return &entries[index];
  }
  // Of the first and the last eight bytes and the length.
  static constexpr uint64_t Hash(std::string_view name) {
    const size_t head = name.size() < 8 ? name.size() : 8;
    const uint64_t first = Load(name.data(), head);
    const uint64_t last = Load(name.data() + name.size() - head, head);
    return (first ^ (last << 29 | last >> 35)) + name.size() * 0x9e3779b97f4a7c15;
  }

 private:
  static constexpr uint64_t Load(const char* at, size_t size) {
    uint64_t bits = 0;
    for (size_t i = 0; i < size; ++i)
      bits |= static_cast<uint64_t>(static_cast<unsigned char>(at[i])) << (8 * i);
    return bits;
  }
  const MethodEntry* Search(std::string_view name) const;
};
template <HasMethods T>
const MethodTable& MethodsOf();

// Runs `target`'s method of that wire name. Exceptions become Statuses; an unknown name is
// InvalidArgument "'x' is not a function.". The arguments must hold no promises (see
// ResolvePromises, MethodHook). A Task inside the Answer uses `target` until it has ended.
Answer InvokeMethod(const MethodTable& table, void* target, std::string_view method, Array args);
Answer ReadProperty(const MethodTable& table, void* target, std::string_view property);
template <HasMethods T>
Answer InvokeMethod(T& target, std::string_view method, Array args) {
  return InvokeMethod(MethodsOf<T>(), &target, method, std::move(args));
}

namespace internal {

template <typename T>
struct ResultType {
  using type = StatusOr<T>;
};
template <>
struct ResultType<void> {
  using type = Status;
};
template <typename T>
typename ResultType<T>::type ResultFrom(StatusOr<Value> outcome);  // promise.h

// The Status of the exception that is being handled: edge::Error's own, else Internal.
Status StatusFromException() noexcept;
// A hook that owns `target`. `table` lives for ever.
HookPtr MakeTargetHook(std::shared_ptr<void> target, const MethodTable& table, Loop* home);

template <typename T>
inline constexpr char kTypeId = 0;

template <typename F>
struct Signature;
template <typename C, typename R, typename... A>
struct Signature<R (C::*)(A...)> {
  using Return = R;
  using Params = std::tuple<A...>;
};
template <typename C, typename R, typename... A>
struct Signature<R (C::*)(A...) const> : Signature<R (C::*)(A...)> {};
template <typename C, typename R, typename... A>
struct Signature<R (C::*)(A...) noexcept> : Signature<R (C::*)(A...)> {};
template <typename C, typename R, typename... A>
struct Signature<R (C::*)(A...) const noexcept> : Signature<R (C::*)(A...)> {};

// What a caller gets for a declared result type.
template <typename R>
struct Owned {
  using type = std::remove_cvref_t<R>;
};
template <>
struct Owned<Status> {
  using type = void;
};
template <>
struct Owned<std::string_view> {
  using type = std::string;
};
template <>
struct Owned<const char*> {
  using type = std::string;
};
template <typename T>
struct Owned<std::shared_ptr<T>> {
  using type = Stub<T>;
};
template <typename T>
struct Owned<StatusOr<T>> : Owned<T> {};
template <typename T>
struct Owned<Task<T>> : Owned<T> {};
template <typename T>
struct Owned<Promise<T>> : Owned<T> {};

template <typename T>
inline constexpr bool kIsTask = false;
template <typename T>
inline constexpr bool kIsTask<Task<T>> = true;
template <typename T>
inline constexpr bool kIsPromise = false;
template <typename T>
inline constexpr bool kIsPromise<Promise<T>> = true;
template <typename T>
inline constexpr bool kIsStub = false;
template <typename T>
inline constexpr bool kIsStub<Stub<T>> = true;
template <typename T>
inline constexpr bool kIsOptional = false;
template <typename T>
inline constexpr bool kIsOptional<std::optional<T>> = true;
template <typename T>
inline constexpr bool kIsStatusOr = false;
template <typename T>
inline constexpr bool kIsStatusOr<StatusOr<T>> = true;

inline Status StatusOf(const Status& status) {
  return status;
}
template <typename T>
Status StatusOf(const StatusOr<T>& result) {
  return result.status();
}

template <auto kMethod>
using ReturnOf = typename Signature<decltype(kMethod)>::Return;
template <auto kMethod>
using ParamsOf = typename Signature<decltype(kMethod)>::Params;
template <auto kMethod>
using OwnedResultOf = typename Owned<ReturnOf<kMethod>>::type;

// The declared type of parameter kIndex, or a type that nothing converts to.
struct NoParameter {
  NoParameter() = delete;
};
template <typename Params, size_t kIndex, bool = (kIndex < std::tuple_size_v<Params>)>
struct ParameterAt {
  using type = NoParameter;
};
template <typename Params, size_t kIndex>
struct ParameterAt<Params, kIndex, true> : std::tuple_element<kIndex, Params> {};
template <auto kMethod, size_t kIndex>
using Param = typename ParameterAt<ParamsOf<kMethod>, kIndex>::type;

// May a call give `kCount` arguments? All, or all but optional ones at the end.
template <typename Params>
constexpr bool TakesCount(size_t count) {
  return []<size_t... I>(std::index_sequence<I...>, size_t n) {
    return n <= sizeof...(I) &&
           ((I < n || kIsOptional<std::remove_cvref_t<std::tuple_element_t<I, Params>>>)&&...);
  }(std::make_index_sequence<std::tuple_size_v<Params>>{}, count);
}
template <auto kMethod, size_t kCount>
concept Takes = TakesCount<ParamsOf<kMethod>>(kCount);

// Where converted arguments live while the method runs.
template <typename Params>
struct StoredParams;
template <typename... A>
struct StoredParams<std::tuple<A...>> {
  static_assert(((!std::is_lvalue_reference_v<A> ||
                  std::is_const_v<std::remove_reference_t<A>>)&&...),
                "a method cannot be called remotely with a reference that it may change");
  using type = std::tuple<std::remove_cvref_t<A>...>;
};
Status AtArgument(const Status& status, size_t index);

template <typename Stored>
Status ReadArgs(std::span<Value> args, Stored& stored) {
  constexpr size_t kCount = std::tuple_size_v<Stored>;
  [[maybe_unused]] Value missing;  // what is left out is undefined
  return [&]<size_t... I>(std::index_sequence<I...>) {
    Status status;
    (void)((status = Convert<std::tuple_element_t<I, Stored>>::Read(
                I < args.size() ? args[I] : missing, std::get<I>(stored)),
            status.ok() || (status = AtArgument(status, I), false)) &&
           ...);
    return status;
  }(std::make_index_sequence<kCount>{});
}

template <typename R>
StatusOr<Value> OutcomeOf(R&& result) {
  using T = std::remove_cvref_t<R>;
  if constexpr (std::is_same_v<T, Status>) {
    if (!result.ok()) return std::forward<R>(result);
    return Value();
  } else if constexpr (kIsStatusOr<T>) {
    if (!result.ok()) return result.status();
    return ToValue(*std::forward<R>(result));
  } else {
    return ToValue(std::forward<R>(result));
  }
}

// Calls `function(args...)` with arguments read from Values. Inline for plain functions, a
// coroutine that keeps the arguments for those that return a Task.
template <typename Params, typename R, typename F>
  requires(!kIsTask<R>)
Answer CallWithValues(F function, std::span<Value> args) {
  typename StoredParams<Params>::type stored;
  if (Status status = ReadArgs(args, stored); !status.ok()) return StatusOr<Value>(status);
  auto call = [&]<size_t... I>(std::index_sequence<I...>) -> R {
    return function(static_cast<std::tuple_element_t<I, Params>&&>(std::get<I>(stored))...);
  };
  constexpr auto kIndices = std::make_index_sequence<std::tuple_size_v<Params>>{};
  if constexpr (std::is_void_v<R>) {
    call(kIndices);
    return StatusOr<Value>(Value());
  } else if constexpr (kIsPromise<R>) {
    return HookPtr(call(kIndices).hook());
  } else {
    return OutcomeOf(call(kIndices));
  }
}
template <typename Params, typename R, typename F>
Task<StatusOr<Value>> CallLater(F function, Array args) {
  typename StoredParams<Params>::type stored;
  if (Status status = ReadArgs(args, stored); !status.ok()) co_return status;
  Status failure;
  try {
    R task = [&]<size_t... I>(std::index_sequence<I...>) -> R {
      return function(static_cast<std::tuple_element_t<I, Params>&&>(std::get<I>(stored))...);
    }(std::make_index_sequence<std::tuple_size_v<Params>>{});
    if constexpr (std::is_void_v<typename R::value_type>) {
      co_await task;
      co_return Value();
    } else {
      auto result = co_await task;
      co_return OutcomeOf(std::move(result));
    }
  } catch (...) {
    failure = StatusFromException();
  }
  co_return failure;
}

template <typename Params, typename R, typename F>
  requires kIsTask<R>
Answer CallWithValues(F function, std::span<Value> args) {
  return CallLater<Params, R>(std::move(function), Array(std::make_move_iterator(args.begin()),
                                                         std::make_move_iterator(args.end())));
}

template <typename T, auto kMethod>
Answer InvokeThunk(void* target, std::span<Value> args) {
  using R = ReturnOf<kMethod>;
  T* object = static_cast<T*>(target);
  return CallWithValues<ParamsOf<kMethod>, R>(
      [object]<typename... A>(A&&... arguments) -> R {
        return (object->*kMethod)(std::forward<A>(arguments)...);
      },
      args);
}

template <typename R>
inline constexpr bool kIsPlain = !kIsTask<R> && !kIsPromise<R>;

template <typename T, auto... kEntries>
constexpr auto SortedEntries(Methods<kEntries...>) {
  std::array<MethodEntry, sizeof...(kEntries)> entries{
      MethodEntry{MethodName<kEntries>(), &InvokeThunk<T, MemberOf<kEntries>()>,
                  IsProperty<kEntries>(), kIsPlain<ReturnOf<MemberOf<kEntries>()>>}...};
  std::sort(entries.begin(), entries.end(),
            [](const MethodEntry& a, const MethodEntry& b) { return a.name < b.name; });
  return entries;
}
template <typename Entries>
constexpr bool NamesDiffer(const Entries& entries) {
  for (size_t i = 1; i < entries.size(); ++i)
    if (entries[i - 1].name == entries[i].name) return false;
  return true;
}
// The slots of a perfect hash: four or more for each name, so a multiplier is found soon.
template <size_t kCount>
struct NameSlots {
  static constexpr int kBits = std::bit_width(kCount * 4 | 3);
  std::array<uint8_t, size_t{1} << kBits> slots{};
  uint64_t multiplier = 0;
  bool found = false;
};
template <size_t kCount>
constexpr NameSlots<kCount> FindSlots(const std::array<MethodEntry, kCount>& entries) {
  NameSlots<kCount> result;
  if constexpr (kCount < 0xff) {
    uint64_t multiplier = 0x9e3779b97f4a7c15;
    for (int attempt = 0; attempt < 200 && !result.found; ++attempt) {
      result.slots.fill(0xff);
      result.found = true;
      for (size_t i = 0; i < kCount && result.found; ++i) {
        uint8_t& slot = result.slots[(MethodTable::Hash(entries[i].name) * multiplier) >>
                                     (64 - NameSlots<kCount>::kBits)];
        result.found = slot == 0xff;
        slot = static_cast<uint8_t>(i);
      }
      result.multiplier = multiplier;
      multiplier = multiplier * 6364136223846793005 + 1442695040888963406;  // stays odd
    }
  }
  return result;
}
template <typename T>
struct TableOf {
  static constexpr auto kEntries = SortedEntries<T>(typename T::Rpc{});
  static_assert(NamesDiffer(kEntries), "two methods have one wire name: use Named<>");
  static constexpr auto kSlots = FindSlots(kEntries);
  static constexpr MethodTable kTable{
      &kTypeId<T>,       kEntries.data(),
      kEntries.size(),   kSlots.found ? kSlots.slots.data() : nullptr,
      kSlots.multiplier, 64 - NameSlots<kEntries.size()>::kBits};
};

// The wire name under which T lists kMethod.
template <auto kMethod, auto... kEntries>
constexpr std::string_view FindWireName(Methods<kEntries...>) {
  std::string_view name;
  ((SameMember<MemberOf<kEntries>(), kMethod>() ? void(name = MethodName<kEntries>()) : void()),
   ...);
  return name;
}
template <typename T, auto kMethod>
struct WireName {
  static constexpr std::string_view value = FindWireName<kMethod>(typename T::Rpc{});
  static_assert(!value.empty(), "this method is not in the Rpc list of the class");
};

}  // namespace internal

template <HasMethods T>
const MethodTable& MethodsOf() {
  return internal::TableOf<T>::kTable;
}

// The ways to call, shared by Stub<T> and Promise<Stub<T>>. By member pointer the argument
// types are the declared ones, so braces and conversions work: Call<&T::f>({"1A", "1B"}).
template <typename Self>
class Calls {
  template <auto kMethod, size_t kIndex>
  using Param = internal::Param<kMethod, kIndex>;

 public:
  // By name: the arguments are anything with a Convert, stubs, promises and functions too.
  // A result type may be asked for: Call<int>("increment", 5).
  template <typename R = Value, typename... A>
  Promise<R> Call(std::string_view method, A&&... args) const {
    // The extra element: arrays of none are not allowed.
    Value values[sizeof...(A) + 1] = {ToValue(std::forward<A>(args))..., Value()};
    const std::span<Value> given(values, sizeof...(A));
    const HookPtr& hook = self().hook();
    StatusOr<Value> outcome = Value();
    if (hook->CallNow(method, given, &outcome))
      return Promise<R>(internal::ResultFrom<R>(std::move(outcome)));
    return Promise<R>(hook->Call({&method, 1}, Array(std::make_move_iterator(given.begin()),
                                                     std::make_move_iterator(given.end()))));
  }
  template <typename R = Value>
  Promise<R> Get(std::string_view property) const {
    return Promise<R>(self().hook()->Get({&property, 1}));
  }

  // Runs `broken` once if the object is lost: its session has ended, or the promise of it
  // failed. Never for an object of this process.
  void OnBroken(Callback<void(Status)> broken) const { self().hook()->OnBroken(std::move(broken)); }

  // clang-format off
  template <auto kMethod>
    requires internal::Takes<kMethod, 0>
  auto Call() const { return self().stub().template Invoke<kMethod>(); }
  template <auto kMethod>
    requires internal::Takes<kMethod, 1>
  auto Call(Param<kMethod, 0> a) const {
    return self().stub().template Invoke<kMethod>(std::forward<Param<kMethod, 0>>(a));
  }
  template <auto kMethod>
    requires internal::Takes<kMethod, 2>
  auto Call(Param<kMethod, 0> a, Param<kMethod, 1> b) const {
    return self().stub().template Invoke<kMethod>(
        std::forward<Param<kMethod, 0>>(a), std::forward<Param<kMethod, 1>>(b));
  }
  template <auto kMethod>
    requires internal::Takes<kMethod, 3>
  auto Call(Param<kMethod, 0> a, Param<kMethod, 1> b, Param<kMethod, 2> c) const {
    return self().stub().template Invoke<kMethod>(
        std::forward<Param<kMethod, 0>>(a), std::forward<Param<kMethod, 1>>(b),
        std::forward<Param<kMethod, 2>>(c));
  }
  template <auto kMethod>
    requires internal::Takes<kMethod, 4>
  auto Call(Param<kMethod, 0> a, Param<kMethod, 1> b, Param<kMethod, 2> c,
            Param<kMethod, 3> d) const {
    return self().stub().template Invoke<kMethod>(
        std::forward<Param<kMethod, 0>>(a), std::forward<Param<kMethod, 1>>(b),
        std::forward<Param<kMethod, 2>>(c), std::forward<Param<kMethod, 3>>(d));
  }
  template <auto kMethod>
    requires internal::Takes<kMethod, 5>
  auto Call(Param<kMethod, 0> a, Param<kMethod, 1> b, Param<kMethod, 2> c, Param<kMethod, 3> d,
            Param<kMethod, 4> e) const {
    return self().stub().template Invoke<kMethod>(
        std::forward<Param<kMethod, 0>>(a), std::forward<Param<kMethod, 1>>(b),
        std::forward<Param<kMethod, 2>>(c), std::forward<Param<kMethod, 3>>(d),
        std::forward<Param<kMethod, 4>>(e));
  }
  template <auto kMethod>
    requires internal::Takes<kMethod, 6>
  auto Call(Param<kMethod, 0> a, Param<kMethod, 1> b, Param<kMethod, 2> c, Param<kMethod, 3> d,
            Param<kMethod, 4> e, Param<kMethod, 5> f) const {
    return self().stub().template Invoke<kMethod>(
        std::forward<Param<kMethod, 0>>(a), std::forward<Param<kMethod, 1>>(b),
        std::forward<Param<kMethod, 2>>(c), std::forward<Param<kMethod, 3>>(d),
        std::forward<Param<kMethod, 4>>(e), std::forward<Param<kMethod, 5>>(f));
  }
  // clang-format on

 private:
  const Self& self() const { return static_cast<const Self&>(*this); }
};

}  // namespace edge::rpc
