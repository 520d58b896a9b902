// kv/epoch.h - lets readers walk shared memory without a lock or a read-modify-write.
//
// A reader announces the current epoch in a word of its own, reads, and clears the word. A
// writer first makes memory unreachable, then retires it under the current epoch, which ends
// that epoch; the memory may be reused once no reader announces that epoch or an older one.
// (Fraser, "Practical lock-freedom", 2004, section 5.2.3.)
//
// The announcement must be visible before the reader's first load, which would cost a full
// fence per read. Instead the rare side pays: membarrier(2) makes every running thread of the
// process pass a fence (Desnoyers et al., "User-level implementations of RCU", 2012). Where
// the kernel lacks it, readers fence for themselves.
//
// The announcements are the one thing that this library keeps per process and not per object:
// a thread has one word, however many stores it reads. Constant-initialised, no destructors.
#pragma once
#include <atomic>
#include <cstdint>

namespace edge::kv {

struct alignas(64) Reader {
  std::atomic<uint64_t> epoch{0};  // 0: not reading
  std::atomic<bool> taken{true};   // belongs to a living thread
  uint32_t index = 0;              // 0, 1, 2... in order of first use; reused after thread end
  Reader* next = nullptr;
};

namespace internal {
extern constinit std::atomic<uint64_t> global_epoch;
extern constinit std::atomic<bool> readers_fence;
extern constinit thread_local Reader* this_reader;
Reader* RegisterReader();
}  // namespace internal

// This thread's announcement word; made on first use, then one thread-local load.
inline Reader& ThisReader() {
  Reader* reader = internal::this_reader;
  if (reader == nullptr) [[unlikely]]
    reader = internal::RegisterReader();
  return *reader;
}

// While it lives, nothing that this thread reaches is reused. Does not nest. Keep it short:
// it holds back the reuse of memory in every store of the process.
class ReadSection {
 public:
  ReadSection() : reader_(ThisReader()) {
    const uint64_t epoch = internal::global_epoch.load(std::memory_order_acquire);
    // Release, so that a writer that sees this word also sees our reads before it done.
    reader_.epoch.store(epoch, std::memory_order_release);
    if (internal::readers_fence.load(std::memory_order_relaxed)) [[unlikely]] {
      std::atomic_thread_fence(std::memory_order_seq_cst);
    }
    std::atomic_signal_fence(std::memory_order_seq_cst);
  }
  ~ReadSection() { reader_.epoch.store(0, std::memory_order_release); }
  ReadSection(const ReadSection&) = delete;
  ReadSection& operator=(const ReadSection&) = delete;
  uint32_t reader_index() const { return reader_.index; }

 private:
  Reader& reader_;
};

// Asks the kernel for membarrier; call once before the first write. Idempotent, thread-safe.
void PrepareEpochs();

// Ends the current epoch and returns it: the tag of memory that was made unreachable before.
inline uint64_t RetireEpoch() {
  return internal::global_epoch.fetch_add(1, std::memory_order_acq_rel);
}

// Memory whose tag is below the result may be reused. Costs a system call.
uint64_t OldestEpochInUse();

}  // namespace edge::kv
