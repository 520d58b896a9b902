// durable/output_gate.h - holds back what an object says until what it wrote is durable.
//
// A queue in order of commits. While anything waits, one OnDurable() for the newest entry is
// outstanding; when it fires, all entries up to the durable commit leave together.
#pragma once
#include <cstdint>
#include <deque>
#include <memory>
#include <set>

#include "durable/dependency.h"
#include "edge/base/callback.h"
#include "edge/base/executor.h"
#include "edge/base/status.h"
#include "edge/srs/relay.h"

namespace edge::durable::internal {

// Single-threaded: the loop's. Kept by a shared_ptr; owners: the session and durability
// callbacks on their way.
class OutputGate : public std::enable_shared_from_this<OutputGate> {
 public:
  // `database` must live until Close(). `on_event` runs after entries have left or, with the
  // error, when commits turn out to be lost.
  OutputGate(Loop& loop, srs::Database& database, Callback<void(Status)> on_event)
      : loop_(loop), database_(&database), on_event_(std::move(on_event)) {}

  // Runs `leave` with OK once the commit `lsn` is durable: at once, if it is and nobody is
  // ahead. In order.
  void Wait(srs::Lsn lsn, Callback<void(Status)> leave);
  // Whatever waits from now on waits for `dependency` too; its failure is an event.
  void Depend(Dependency& dependency);
  // Is there nothing to wait for, were something said now?
  bool IsOpen(srs::Lsn lsn) const {
    return waiting_.empty() && !releasing_ && unsettled_.empty() && failed_.ok() &&
           database_->durable_lsn() >= lsn;
  }
  // Runs `then` when the commit `lsn` is durable; nobody else waits for it. A commit that is
  // lost is an event.
  void Watch(srs::Lsn lsn, Callback<void(Status)> then);
  // Everything that waits leaves with `status` instead, and so does all that comes later.
  void Fail(const Status& status);
  void Close() {
    database_ = nullptr;
    on_event_ = nullptr;
  }
  bool idle() const { return waiting_.empty() && watches_ == 0 && unsettled_.empty(); }

 private:
  struct Entry {
    srs::Lsn lsn;
    uint64_t dependencies;  // those up to this number
    Callback<void(Status)> leave;
  };
  bool CanLeave(const Entry& entry) const {
    return entry.lsn <= database_->durable_lsn() &&
           (unsettled_.empty() || *unsettled_.begin() > entry.dependencies);
  }
  void Release();
  void Arm();
  void OnDurable(const Status& status);

  Loop& loop_;
  srs::Database* database_;
  Callback<void(Status)> on_event_;
  std::deque<Entry> waiting_;
  uint64_t dependencies_ = 0;     // numbers given out
  std::set<uint64_t> unsettled_;  // of dependencies
  size_t watches_ = 0;
  bool armed_ = false;
  bool releasing_ = false;
  Status failed_;
};

}  // namespace edge::durable::internal
