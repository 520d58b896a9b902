#include "edge/rpc/target.h"

#include <coroutine>
#include <exception>

#include "absl/strings/cord.h"
#include "edge/base/errors.h"
#include "edge/rpc/stub.h"
#include "src/rpc/hooks.h"

namespace edge::rpc {

const MethodEntry* MethodTable::Find(std::string_view name) const {
  const MethodEntry* const end = entries + count;
  const MethodEntry* found =
      std::lower_bound(entries, end, name,
                       [](const MethodEntry& entry, std::string_view n) { return entry.name < n; });
  return found != end && found->name == name ? found : nullptr;
}

namespace {

constexpr char kPrivateUrl[] = "edge.rpc/private";

// What a foreign exception says may hold paths, queries or secrets: it stays in the process.
Status Private(Status status) {
  status.SetPayload(kPrivateUrl, absl::Cord());
  return status;
}

}  // namespace

bool IsPrivate(const Status& status) {
  return status.GetPayload(kPrivateUrl).has_value();
}

Status internal::StatusFromException() noexcept {
  try {
    throw;
  } catch (const Error& error) {
    if (!error.status().ok()) return error.status();
    return Internal("an Error without an error was thrown");
  } catch (const std::exception& exception) {
    return Private(Internal("{}", exception.what()));
  } catch (...) {
    return Private(Internal("an exception of unknown type"));
  }
}

Status internal::AtArgument(const Status& status, size_t index) {
  return Annotate(status, "argument " + std::to_string(index + 1));
}

Answer InvokeMethod(const MethodTable& table, void* target, std::string_view method, Array args) {
  const MethodEntry* entry = table.Find(method);
  if (entry == nullptr || entry->is_property)
    return StatusOr<Value>(InvalidArgument("'{}' is not a function.", method));
  try {
    return entry->invoke(target, std::move(args));
  } catch (...) {
    return StatusOr<Value>(internal::StatusFromException());
  }
}

Answer ReadProperty(const MethodTable& table, void* target, std::string_view property) {
  const MethodEntry* entry = table.Find(property);
  if (entry == nullptr) return StatusOr<Value>(Value());
  if (!entry->is_property)
    return StatusOr<Value>(Unimplemented("the method '{}' cannot be passed on its own", property));
  try {
    return entry->invoke(target, {});
  } catch (...) {
    return StatusOr<Value>(internal::StatusFromException());
  }
}

namespace {

// Owns itself until its task has ended.
struct Detached {
  struct promise_type {
    Detached get_return_object() { return {}; }
    std::suspend_never initial_suspend() noexcept { return {}; }
    std::suspend_never final_suspend() noexcept { return {}; }
    void return_void() {}
    void unhandled_exception() noexcept { std::terminate(); }
  };
};

Detached Drive(Task<StatusOr<Value>> task, Settled done) {
  StatusOr<Value> outcome = Internal("the task gave nothing");
  try {
    outcome = co_await task;
  } catch (...) {
    outcome = internal::StatusFromException();
  }
  task.Cancel();  // what it holds goes before the answer is seen
  done(std::move(outcome));
}

}  // namespace

void Answer::Finish(Settled done) && {
  if (StatusOr<Value>* outcome = std::get_if<StatusOr<Value>>(&rep_)) {
    done(std::move(*outcome));
  } else if (HookPtr* promise = std::get_if<HookPtr>(&rep_)) {
    (*promise)->Pull(std::move(done));
  } else {
    Drive(std::move(std::get<Task<StatusOr<Value>>>(rep_)), std::move(done));
  }
}

class TargetHook : public Hook {
 public:
  TargetHook(std::shared_ptr<void> target, const MethodTable& table, Loop* home)
      : Hook(home), target_(std::move(target)), table_(table) {}
  void* LocalTarget(const void* type_id) const override {
    return type_id == table_.type_id ? target_.get() : nullptr;
  }

 protected:
  HookPtr DoCall(PathView path, Array args) override {
    if (path.size() > 1) return DoGet(path.first(1))->Call(path.subspan(1), std::move(args));
    const std::string_view method = path.empty() ? std::string_view() : path[0];
    const HookPtr self = Self();  // the method may drop the last stub
    if (!HoldsPromises(args))
      return ToHook(InvokeMethod(table_, target_.get(), method, std::move(args)));
    Pending pending = MakePromise(home());
    ResolvePromises(
        std::move(args), [self, method = std::string(method),
                          resolver = std::move(pending.resolver)](StatusOr<Array> ready) mutable {
          if (!ready.ok()) return resolver.Settle(ready.status());
          auto* hook = static_cast<TargetHook*>(self.get());
          resolver.Follow(hook->ToHook(
              InvokeMethod(hook->table_, hook->target_.get(), method, std::move(*ready))));
        });
    return std::move(pending.promise);
  }

  HookPtr DoGet(PathView path) override {
    if (path.empty()) return Self();
    const HookPtr self = Self();
    const HookPtr property = ToHook(ReadProperty(table_, target_.get(), path[0]));
    return path.size() == 1 ? property : property->Get(path.subspan(1));
  }

  void DoPull(Settled done) override { done(Value(StubRef{Self()})); }

 private:
  HookPtr ToHook(Answer answer) {
    if (StatusOr<Value>* outcome = answer.outcome())
      return outcome->ok() ? ValueHook(std::move(**outcome)) : FailedHook(outcome->status());
    if (HookPtr* promise = std::get_if<HookPtr>(&answer.rep_)) return std::move(*promise);
    Pending pending = MakePromise(home());
    std::move(answer).Finish(
        [self = Self(), resolver = std::move(pending.resolver)](StatusOr<Value> outcome) mutable {
          resolver.Settle(std::move(outcome));
        });
    return std::move(pending.promise);
  }

  const std::shared_ptr<void> target_;  // with the method's own copies while it runs
  const MethodTable& table_;
};

HookPtr internal::MakeTargetHook(std::shared_ptr<void> target, const MethodTable& table,
                                 Loop* home) {
  if (target == nullptr) return nullptr;
  return MakeHook<TargetHook>(std::move(target), table, home);
}

const HookPtr& internal::EmptyStubHook() {
  // Never destroyed: stubs may be used by other static objects' destructors.
  static const HookPtr& kHook = *new HookPtr(FailedHook(FailedPrecondition("an empty stub")));
  return kHook;
}

}  // namespace edge::rpc
