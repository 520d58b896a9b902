#include "inference/thread_pool.h"

#include <chrono>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace edge::inference {
namespace {

constexpr int64_t kSpinNs = 20'000;

void Pause() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

// True as soon as `ready`, false after kSpinNs.
template <typename Ready>
bool SpinUntil(Ready ready) {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  for (;;) {
    for (int i = 0; i < 64; ++i) {
      if (ready()) return true;
      Pause();
    }
    if (Clock::now() - start > std::chrono::nanoseconds(kSpinNs)) return false;
  }
}

}  // namespace

ThreadPool::ThreadPool(uint32_t threads) {
  for (uint32_t worker = 1; worker < threads; ++worker) {
    workers_.emplace_back([this, worker] { Work(worker); });
  }
}

ThreadPool::~ThreadPool() {
  stop_.store(true);
  announced_.fetch_add(1);
  announced_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

uint32_t ThreadPool::TakeTasks(uint32_t number, const Job& job, uint32_t worker) {
  uint32_t count = 0;
  uint64_t next = next_.load();
  while (static_cast<uint32_t>(next >> 32) == number && static_cast<uint32_t>(next) < job.tasks) {
    if (!next_.compare_exchange_weak(next, next + 1)) continue;
    job.call(job.context, static_cast<uint32_t>(next), worker);
    ++count;
    next = next_.load();
  }
  return count;
}

void ThreadPool::RunShared(uint32_t tasks, void* context, Call call) {
  // Close the last job: a worker that looks from now on finds a number that has not been
  // announced, and stays away from job_. Those who looked before have found no task left
  // and are about to leave: a few instructions, unless they were descheduled in them.
  const uint32_t number = announced_.load() + 1;
  next_.store(static_cast<uint64_t>(number) << 32 | 0xFFFFFFFFu);
  while (readers_.load() != 0) {
    if (!SpinUntil([&] { return readers_.load() == 0; })) std::this_thread::yield();
  }
  job_ = {call, context, tasks};
  done_.store(0);
  next_.store(static_cast<uint64_t>(number) << 32);
  announced_.store(number);
  announced_.notify_all();
  const uint32_t mine = TakeTasks(number, job_, 0);
  uint32_t done = done_.fetch_add(mine) + mine;
  while (done != tasks) {
    if (!SpinUntil([&] { return done_.load() == tasks; })) done_.wait(done);
    done = done_.load();
  }
}

void ThreadPool::Work(uint32_t worker) {
  uint32_t seen = 0;
  for (;;) {
    if (!SpinUntil([&] { return announced_.load() != seen; })) announced_.wait(seen);
    if (stop_.load()) return;
    readers_.fetch_add(1);
    // If the job is open now, after we have entered, it cannot be replaced until we leave.
    const uint32_t number = announced_.load();
    seen = number;
    const uint64_t next = next_.load();
    uint32_t count = 0;
    if (static_cast<uint32_t>(next >> 32) == number) {
      const Job job = job_;
      count = TakeTasks(number, job, worker);
    }
    readers_.fetch_sub(1);
    if (count > 0) {
      done_.fetch_add(count);
      done_.notify_one();
    }
  }
}

}  // namespace edge::inference
