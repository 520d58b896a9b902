#include "edge/base/task.h"

namespace edge {

struct TaskGroup::Node {
  TaskGroup* group = nullptr;
  Node* before = nullptr;
  Node* next = nullptr;
  std::coroutine_handle<> frame;

  void LinkTo(TaskGroup* owner) {
    group = owner;
    next = owner->first_;
    if (next != nullptr) next->before = this;
    owner->first_ = this;
    ++owner->count_;
  }
  void Unlink() {
    (before != nullptr ? before->next : group->first_) = next;
    if (next != nullptr) next->before = before;
    --group->count_;
  }
};

// The coroutine that owns one task of a group: its frame goes when the task is done, or
// with the group.
struct TaskGroupRunner {
  struct promise_type : TaskGroup::Node {
    TaskGroupRunner get_return_object() {
      frame = std::coroutine_handle<promise_type>::from_promise(*this);
      return {this};
    }
    std::suspend_always initial_suspend() noexcept { return {}; }
    auto final_suspend() noexcept {
      struct Final {
        bool await_ready() noexcept { return false; }
        void await_suspend(std::coroutine_handle<promise_type> handle) noexcept {
          handle.promise().Unlink();
          handle.destroy();  // and this object with it
        }
        void await_resume() noexcept {}
      };
      return Final{};
    }
    void return_void() {}
    void unhandled_exception() noexcept {
      CheckFailed("no exception leaves a task given to TaskGroup::Spawn", __FILE__, __LINE__);
    }
  };

  static TaskGroupRunner Run(Task<void> task) { co_await task; }

  promise_type* promise;
};

TaskGroup::~TaskGroup() {
  while (first_ != nullptr) {
    Node* const node = first_;
    node->Unlink();
    node->frame.destroy();
  }
}

void TaskGroup::Spawn(Task<void> task) {
  const TaskGroupRunner runner = TaskGroupRunner::Run(std::move(task));
  runner.promise->LinkTo(this);
  runner.promise->frame.resume();
}

}  // namespace edge
