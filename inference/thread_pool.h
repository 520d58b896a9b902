// inference/thread_pool.h - a few threads that share out the tasks of one small job at a
// time, and sleep when there is none.
//
// A decode step is some hundred jobs of tens of microseconds, so a worker looks for the next
// one for a moment (kSpinNs) before it sleeps. The caller always works too and takes tasks
// from the same counter: a worker that the machine has descheduled delays nothing but the
// task that it holds. A spinning barrier, by contrast, loses whole time slices.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

namespace edge::inference {

// Single-threaded: one Run() at a time.
class ThreadPool {
 public:
  explicit ThreadPool(uint32_t threads);  // the caller's included: 1 starts none
  ~ThreadPool();
  uint32_t threads() const { return static_cast<uint32_t>(workers_.size()) + 1; }

  // Calls work(task, worker) for each task in [0, tasks), each exactly once, on any thread;
  // `worker` < threads() tells which one. Returns when all are done. Must not throw.
  template <typename F>
  void Run(uint32_t tasks, F&& work) {
    if (workers_.empty() || tasks <= 1) {
      for (uint32_t task = 0; task < tasks; ++task) work(task, 0u);
      return;
    }
    RunShared(tasks, &work, [](void* f, uint32_t task, uint32_t worker) {
      (*static_cast<std::remove_reference_t<F>*>(f))(task, worker);
    });
  }

 private:
  using Call = void (*)(void*, uint32_t task, uint32_t worker);
  struct Job {
    Call call;
    void* context;
    uint32_t tasks;
  };
  void RunShared(uint32_t tasks, void* context, Call call);
  void Work(uint32_t worker);
  // Takes tasks of job `number` until there is none left; returns how many it did.
  uint32_t TakeTasks(uint32_t number, const Job& job, uint32_t worker);

  std::vector<std::thread> workers_;
  Job job_{};
  // High half: number of the job; low half: its next task. One word, so that a worker that
  // comes late can never take a task of a job that it has not seen.
  std::atomic<uint64_t> next_{0};
  std::atomic<uint32_t> done_{0};       // tasks finished
  std::atomic<uint32_t> announced_{0};  // number of the newest job; workers sleep on it
  std::atomic<uint32_t> readers_{0};    // workers that may be looking at job_
  std::atomic<bool> stop_{false};
};

}  // namespace edge::inference
