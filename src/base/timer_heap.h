// Timers of one loop: a binary heap with back pointers, so that cancelling removes at once
// and frees what the task holds. O(log n) each. Single-threaded.
#pragma once
#include <cstdint>
#include <utility>
#include <vector>

#include "edge/base/executor.h"

namespace edge::internal {

class TimerHeap {
 public:
  Loop::TimerId Add(int64_t at_ns, LoopTask task) {
    if (free_.empty()) {
      free_.push_back(static_cast<uint32_t>(slots_.size()));
      slots_.emplace_back();
    }
    const uint32_t index = free_.back();
    free_.pop_back();
    Slot& slot = slots_[index];
    slot.task = std::move(task);
    slot.position = heap_.size();
    heap_.push_back({at_ns, next_sequence_++, index});
    SiftUp(slot.position);
    return Loop::TimerId{slot.generation} << 32 | index;
  }

  bool Cancel(Loop::TimerId timer) {
    const auto index = static_cast<uint32_t>(timer);
    if (index >= slots_.size() || slots_[index].generation != timer >> 32 ||
        slots_[index].position == kNowhere) {
      return false;
    }
    const LoopTask dropped = RemoveAt(slots_[index].position);  // destroyed last: may call us
    return true;
  }

  bool empty() const { return heap_.empty(); }
  size_t size() const { return heap_.size(); }
  // INT64_MAX if empty.
  int64_t next_ns() const { return heap_.empty() ? INT64_MAX : heap_[0].at_ns; }
  // The first task; not empty.
  LoopTask PopFirst() { return RemoveAt(0); }

 private:
  static constexpr size_t kNowhere = SIZE_MAX;
  struct Entry {
    int64_t at_ns;
    uint64_t sequence;  // ties in order of the calls
    uint32_t slot;
    bool operator<(const Entry& other) const {
      return at_ns != other.at_ns ? at_ns < other.at_ns : sequence < other.sequence;
    }
  };
  struct Slot {
    LoopTask task;
    size_t position = kNowhere;
    uint32_t generation = 1;  // tells this timer's id from those of the slot's past; never 0
  };

  LoopTask RemoveAt(size_t position) {
    const uint32_t index = heap_[position].slot;
    const Entry last = heap_.back();
    heap_.pop_back();
    if (position < heap_.size()) {
      Place(position, last);
      SiftUp(position);
      SiftDown(slots_[last.slot].position);
    }
    Slot& slot = slots_[index];
    slot.position = kNowhere;
    if (++slot.generation == 0) slot.generation = 1;
    free_.push_back(index);
    return std::move(slot.task);
  }

  void Place(size_t position, const Entry& entry) {
    heap_[position] = entry;
    slots_[entry.slot].position = position;
  }
  void SiftUp(size_t position) {
    const Entry entry = heap_[position];
    while (position > 0 && entry < heap_[(position - 1) / 2]) {
      Place(position, heap_[(position - 1) / 2]);
      position = (position - 1) / 2;
    }
    Place(position, entry);
  }
  void SiftDown(size_t position) {
    const Entry entry = heap_[position];
    for (;;) {
      size_t child = 2 * position + 1;
      if (child >= heap_.size()) break;
      if (child + 1 < heap_.size() && heap_[child + 1] < heap_[child]) ++child;
      if (!(heap_[child] < entry)) break;
      Place(position, heap_[child]);
      position = child;
    }
    Place(position, entry);
  }

  std::vector<Entry> heap_;
  std::vector<Slot> slots_;
  std::vector<uint32_t> free_;
  uint64_t next_sequence_ = 0;
};

}  // namespace edge::internal
