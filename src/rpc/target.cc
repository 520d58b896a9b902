#include "edge/rpc/target.h"

#include <coroutine>
#include <exception>
#include <unordered_map>

#include "absl/strings/cord.h"
#include "edge/base/errors.h"
#include "edge/rpc/stub.h"
#include "src/rpc/hooks.h"

namespace edge::rpc {

const MethodEntry* MethodTable::Search(std::string_view name) const {
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
    return entry->invoke(target, args);
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

// Tasks of methods own themselves until they have ended. Those that have not when their loop
// stops are destroyed by it, on its thread: each loop that has suspended such a task keeps this
// in a timer that never comes, and a loop drops its timers when it stops.
class TasksOfLoop {
 public:
  struct Node {
    Node* previous = nullptr;
    Node* next = nullptr;
    std::coroutine_handle<> handle;
    Node() = default;
    Node(const Node&) = delete;
    ~Node() { Unlink(); }
    void Unlink() {
      if (previous != nullptr) previous->next = next;
      if (next != nullptr) next->previous = previous;
      previous = next = nullptr;
    }
  };

  explicit TasksOfLoop(Loop* loop) : loop_(loop) {}
  ~TasksOfLoop() {
    // What the destructors call may suspend further tasks; those end here too.
    while (Node* node = first_.next) {
      node->Unlink();
      node->handle.destroy();
    }
    All().erase(loop_);
  }

  // `node` belongs to a coroutine that has suspended on `loop`, which is the current one.
  static void Add(Loop* loop, Node* node) {
    TasksOfLoop*& tasks = All()[loop];
    if (tasks == nullptr) {
      auto owned = std::make_unique<TasksOfLoop>(loop);
      tasks = owned.get();
      tasks->Push(node);
      loop->At(INT64_MAX, [owned = std::move(owned)] {});
    } else {
      tasks->Push(node);
    }
  }

 private:
  static std::unordered_map<Loop*, TasksOfLoop*>& All() {
    thread_local std::unordered_map<Loop*, TasksOfLoop*> all;  // one, but in a simulation
    return all;
  }
  void Push(Node* node) {
    node->previous = &first_;
    node->next = first_.next;
    if (node->next != nullptr) node->next->previous = node;
    first_.next = node;
  }

  Loop* const loop_;
  Node first_;  // no coroutine's
};

struct Detached {
  struct promise_type {
    TasksOfLoop::Node node;
    bool* ended;  // the starter's, until it has returned
    promise_type(Task<StatusOr<Value>>&, Settled&, bool* flag) : ended(flag) {}
    ~promise_type() {
      if (ended != nullptr) *ended = true;
    }
    Detached get_return_object() {
      node.handle = std::coroutine_handle<promise_type>::from_promise(*this);
      return {this};
    }
    std::suspend_never initial_suspend() noexcept { return {}; }
    std::suspend_never final_suspend() noexcept { return {}; }
    void return_void() {}
    void unhandled_exception() noexcept { std::terminate(); }
  };
  promise_type* promise;  // of a coroutine that may have ended
};

Detached Drive(Task<StatusOr<Value>> task, Settled done, bool*) {
  StatusOr<Value> outcome = Internal("the task gave nothing");
  try {
    outcome = co_await task;
  } catch (...) {
    outcome = internal::StatusFromException();
  }
  task.Cancel();  // what it holds goes before the answer is seen
  done(std::move(outcome));
}

void Run(Task<StatusOr<Value>> task, Settled done) {
  bool ended = false;
  const Detached detached = Drive(std::move(task), std::move(done), &ended);
  if (ended) return;
  detached.promise->ended = nullptr;
  if (Loop::Current() != nullptr) TasksOfLoop::Add(Loop::Current(), &detached.promise->node);
}

}  // namespace

void Answer::Finish(Settled done) && {
  if (StatusOr<Value>* outcome = std::get_if<StatusOr<Value>>(&rep_)) {
    done(std::move(*outcome));
  } else if (HookPtr* promise = std::get_if<HookPtr>(&rep_)) {
    (*promise)->Pull(std::move(done));
  } else {
    Run(std::move(std::get<Task<StatusOr<Value>>>(rep_)), std::move(done));
  }
}

class TargetHook : public Hook {
 public:
  TargetHook(std::shared_ptr<void> target, const MethodTable& table, Loop* home)
      : Hook(home), target_(std::move(target)), table_(table) {}
  void* LocalTarget(const void* type_id) const override {
    return type_id == table_.type_id ? target_.get() : nullptr;
  }

  bool CallNow(std::string_view method, std::span<Value> args, StatusOr<Value>* outcome) override {
    if (!OnHome() || CallContext::Current() != nullptr) return false;
    const MethodEntry* entry = table_.Find(method);
    if (entry == nullptr || !entry->is_plain || entry->is_property || HoldsPromises(args))
      return false;
    const HookPtr self = Self();  // the method may drop the last stub
    try {
      Answer answer = entry->invoke(target_.get(), args);
      *outcome = std::move(*answer.outcome());
    } catch (...) {
      *outcome = internal::StatusFromException();
    }
    return true;
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
