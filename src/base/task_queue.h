// The two queues through which other threads hand work to a loop. Many producers, one
// consumer (the loop's thread), no locks.
#pragma once
#include <atomic>
#include <bit>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <utility>

#include "edge/base/check.h"
#include "edge/base/executor.h"

namespace edge::internal {

// A bounded ring (after D. Vyukov's bounded MPMC queue). A ticket t takes the cell t mod
// capacity, which it may fill when the cell's turn is 2 * (t / capacity) and then sets to one
// more; the consumer sets it to the next even number. All turns start at zero, so the memory
// comes from calloc and is not touched before it is needed.
//
// Closing sets the top bit of the tail: from then on no ticket is given out, and the final
// tail is known. So every Push that said kOk is popped, without a lock or a count.
class TaskRing {
 public:
  enum class Result { kOk, kFull, kClosed };

  // `capacity` is a power of two, at least 2. Aborts when out of memory, as `new` would throw.
  explicit TaskRing(size_t capacity)
      : mask_(capacity - 1),
        shift_(std::countr_zero(capacity)),
        cells_(static_cast<Cell*>(std::calloc(capacity, sizeof(Cell))), std::free) {
    EDGE_CHECK(cells_ != nullptr);
  }
  ~TaskRing() {
    for (LoopTask task; Pop(&task);) task = nullptr;
  }

  // Takes `task` only if the result is kOk. Any thread. Sequentially consistent with
  // HasTask(), on which the sleeping protocol of the loop depends.
  Result Push(LoopTask& task) {
    uint64_t ticket = tail_.load(std::memory_order_relaxed);
    for (;;) {
      if ((ticket & kClosedBit) != 0) return Result::kClosed;
      Cell& cell = cells_.get()[ticket & mask_];
      std::atomic_ref<uint64_t> cell_turn(cell.turn);
      const uint64_t turn = cell_turn.load(std::memory_order_acquire);
      const uint64_t mine = 2 * (ticket >> shift_);
      if (turn == mine) {
        if (tail_.compare_exchange_weak(ticket, ticket + 1, std::memory_order_relaxed)) {
          ::new (static_cast<void*>(cell.space)) LoopTask(std::move(task));
          cell_turn.store(mine + 1, std::memory_order_seq_cst);
          return Result::kOk;
        }
        continue;
      }
      const uint64_t tail = tail_.load(std::memory_order_relaxed);
      if (turn < mine && tail == ticket) return Result::kFull;
      ticket = tail;
    }
  }

  // The rest: consumer only.
  bool HasTask() const {
    return std::atomic_ref<uint64_t>(cells_.get()[head_ & mask_].turn)
               .load(std::memory_order_seq_cst) == 2 * (head_ >> shift_) + 1;
  }
  bool Pop(LoopTask* out) {
    if (!HasTask()) return false;
    Cell& cell = cells_.get()[head_ & mask_];
    auto* task = std::launder(reinterpret_cast<LoopTask*>(cell.space));
    *out = std::move(*task);
    task->~LoopTask();
    std::atomic_ref<uint64_t>(cell.turn).store(2 * ((head_ >> shift_) + 1),
                                               std::memory_order_release);
    ++head_;
    return true;
  }
  void Close() { tail_.fetch_or(kClosedBit, std::memory_order_relaxed); }
  // All tickets given out so far were popped.
  bool drained() const { return head_ == (tail_.load(std::memory_order_relaxed) & ~kClosedBit); }

 private:
  static constexpr uint64_t kClosedBit = uint64_t{1} << 63;
  struct Cell {
    uint64_t turn;
    alignas(LoopTask) std::byte space[sizeof(LoopTask)];
  };
  const uint64_t mask_;
  const int shift_;
  const std::unique_ptr<Cell, void (*)(void*)> cells_;
  alignas(64) std::atomic<uint64_t> tail_{0};
  alignas(64) uint64_t head_ = 0;
};

// An unbounded stack that is taken whole and turned round (Treiber 1986; push and take-all
// only, so there is no ABA problem).
class TaskStack {
 public:
  struct Node {
    Node* next;
    LoopTask task;
  };
  TaskStack() = default;
  TaskStack(const TaskStack&) = delete;
  ~TaskStack() {
    for (Node* node = Close(); node != nullptr;) delete std::exchange(node, node->next);
  }

  // False, and `task` is destroyed, once closed. Any thread.
  bool Push(LoopTask task) {
    auto node = std::make_unique<Node>(Node{nullptr, std::move(task)});
    node->next = top_.load(std::memory_order_relaxed);
    do {
      if (node->next == closed_mark()) return false;
    } while (!top_.compare_exchange_weak(node->next, node.get(), std::memory_order_seq_cst));
    node.release();
    return true;
  }

  // The rest: consumer only. Lists are oldest first; the caller deletes the nodes.
  bool HasTask() const {
    const Node* top = top_.load(std::memory_order_seq_cst);
    return top != nullptr && top != closed_mark();
  }
  Node* TakeAll() { return HasTask() ? Reversed(top_.exchange(nullptr)) : nullptr; }
  Node* Close() {
    Node* top = top_.exchange(closed_mark());
    return top == closed_mark() ? nullptr : Reversed(top);
  }

 private:
  static Node* Reversed(Node* node) {
    Node* first = nullptr;
    while (node != nullptr) {
      Node* const next = std::exchange(node->next, first);
      first = std::exchange(node, next);
    }
    return first;
  }
  Node* closed_mark() const { return const_cast<Node*>(&mark_); }
  Node mark_{};
  std::atomic<Node*> top_{nullptr};
};

}  // namespace edge::internal
