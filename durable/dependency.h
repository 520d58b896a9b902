// durable/dependency.h - what a call between two objects of a host carries instead of waiting:
// the callee may run at once, but nothing that it says leaves before the caller's writes, as
// they were when it called, are durable. If they are lost, the callee is reset too.
// (Nightingale et al., "Rethink the Sync", OSDI 2006: only what leaves the system waits.)
#pragma once
#include <optional>
#include <utility>
#include <vector>

#include "edge/base/callback.h"
#include "edge/base/mutex.h"
#include "edge/base/status.h"
#include "edge/rpc/hook.h"

namespace edge::durable::internal {

// Thread-safe. Owners: the caller's gate, calls on their way, and callees' gates.
class Dependency : public rpc::CallBaggage {
 public:
  ~Dependency() override { Settle(Unavailable()); }
  void Settle(Status outcome) {
    std::vector<Callback<void(Status)>> waiting;
    {
      const MutexLock lock(&mu_);
      if (outcome_) return;
      outcome_ = outcome;
      waiting.swap(waiting_);
    }
    for (auto& then : waiting) then(outcome);
  }
  // Runs `then` with the outcome: now, or on the thread that settles it.
  void Then(Callback<void(Status)> then) {
    std::optional<Status> outcome;
    {
      const MutexLock lock(&mu_);
      outcome = outcome_;
      if (!outcome) waiting_.push_back(std::move(then));
    }
    if (outcome) then(*outcome);
  }

 private:
  static Status Unavailable() { return Status(StatusCode::kUnavailable, "the caller has ended"); }
  Mutex mu_;
  std::optional<Status> outcome_ ABSL_GUARDED_BY(mu_);
  std::vector<Callback<void(Status)>> waiting_ ABSL_GUARDED_BY(mu_);
};

}  // namespace edge::durable::internal
