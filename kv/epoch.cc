#include "kv/epoch.h"

#include <linux/membarrier.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

namespace edge::kv {
namespace internal {

constinit std::atomic<uint64_t> global_epoch{1};
// On until PrepareEpochs has found membarrier: the safe default.
constinit std::atomic<bool> readers_fence{true};
constinit thread_local Reader* this_reader = nullptr;

namespace {

// A list that only grows, up to the most threads that ever read at one time.
constinit std::atomic<Reader*> readers{nullptr};
constinit std::atomic<uint32_t> reader_count{0};

// Gives the word back when the thread ends.
struct Departure {
  Reader* reader = nullptr;
  ~Departure() {
    if (reader == nullptr) return;
    this_reader = nullptr;
    reader->taken.store(false, std::memory_order_release);
  }
};

Reader* AdoptOrMake() {
  for (Reader* r = readers.load(std::memory_order_acquire); r != nullptr; r = r->next) {
    bool taken = false;
    if (!r->taken.load(std::memory_order_relaxed) &&
        r->taken.compare_exchange_strong(taken, true, std::memory_order_acq_rel)) {
      return r;
    }
  }
  auto* made = new Reader;  // lives for ever: OldestEpochInUse walks the list at any time
  made->index = reader_count.fetch_add(1, std::memory_order_relaxed);
  made->next = readers.load(std::memory_order_relaxed);
  while (!readers.compare_exchange_weak(made->next, made, std::memory_order_acq_rel)) {
  }
  return made;
}

long Membarrier(int command) {
  return syscall(SYS_membarrier, command, 0, 0);
}

}  // namespace

Reader* RegisterReader() {
  thread_local Departure departure;
  this_reader = AdoptOrMake();
  departure.reader = this_reader;
  return this_reader;
}

}  // namespace internal

void PrepareEpochs() {
  if (internal::Membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED) == 0) {
    internal::readers_fence.store(false, std::memory_order_relaxed);
  }
}

uint64_t OldestEpochInUse() {
  uint64_t oldest = internal::global_epoch.load(std::memory_order_acquire);
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (!internal::readers_fence.load(std::memory_order_relaxed) &&
      internal::Membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED) != 0) {
    return 0;  // cannot tell: nothing may be reused
  }
  for (Reader* r = internal::readers.load(std::memory_order_acquire); r != nullptr; r = r->next) {
    const uint64_t epoch = r->epoch.load(std::memory_order_acquire);
    if (epoch != 0) oldest = std::min(oldest, epoch);
  }
  return oldest;
}

}  // namespace edge::kv
