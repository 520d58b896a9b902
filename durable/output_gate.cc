#include "durable/output_gate.h"

#include <utility>

#include "edge/base/errors.h"

namespace edge::durable::internal {

void OutputGate::Wait(srs::Lsn lsn, Callback<void(Status)> leave) {
  if (!failed_.ok()) return leave(failed_);
  if (IsOpen(lsn)) return leave(OkStatus());
  waiting_.push_back({lsn, dependencies_, std::move(leave)});
  if (!releasing_) Arm();
}

void OutputGate::Arm() {
  if (armed_ || waiting_.empty() || database_ == nullptr) return;
  if (waiting_.back().lsn <= database_->durable_lsn() && !CanLeave(waiting_.front())) {
    return;  // it waits for a dependency
  }
  armed_ = true;
  database_->OnDurable(waiting_.back().lsn,
                       [weak = weak_from_this(), loop = &loop_](Status status) {
                         // From the relay's thread.
                         loop->PostUrgent([weak, status = std::move(status)] {
                           if (const auto gate = weak.lock()) gate->OnDurable(status);
                         });
                       });
}

void OutputGate::Watch(srs::Lsn lsn, Callback<void(Status)> then) {
  if (!failed_.ok()) return then(failed_);
  if (database_->durable_lsn() >= lsn) return then(OkStatus());
  ++watches_;
  database_->OnDurable(
      lsn, [weak = weak_from_this(), loop = &loop_, then = std::move(then)](Status status) mutable {
        loop->PostUrgent([weak, then = std::move(then), status = std::move(status)]() mutable {
          const auto gate = weak.lock();
          if (gate == nullptr) return;
          --gate->watches_;
          if (gate->database_ == nullptr) return;
          if (!status.ok()) {
            gate->on_event_(
                Annotate(status, "Durable Object was reset: its writes could not be made durable"));
          }
          then(status);
          if (gate->on_event_) gate->on_event_(OkStatus());
        });
      });
}

void OutputGate::OnDurable(const Status& status) {
  armed_ = false;
  if (database_ == nullptr) return;
  if (!status.ok()) {
    on_event_(Annotate(status, "Durable Object was reset: its writes could not be made durable"));
    return;
  }
  Release();
}

void OutputGate::Release() {
  const auto self = shared_from_this();
  releasing_ = true;  // what leaves may make the object say more
  while (!waiting_.empty() && database_ != nullptr && CanLeave(waiting_.front())) {
    auto leave = std::move(waiting_.front().leave);
    waiting_.pop_front();
    leave(OkStatus());
  }
  releasing_ = false;
  Arm();
  if (on_event_) on_event_(OkStatus());
}

void OutputGate::Depend(Dependency& dependency) {
  const uint64_t number = ++dependencies_;
  unsettled_.insert(number);
  dependency.Then([weak = weak_from_this(), loop = &loop_, number](Status status) {
    // From the loop of the caller.
    loop->PostUrgent([weak, number, status = std::move(status)] {
      const auto gate = weak.lock();
      if (gate == nullptr || gate->database_ == nullptr) return;
      gate->unsettled_.erase(number);
      if (status.ok()) return gate->Release();
      gate->on_event_(
          Annotate(status, "Durable Object was reset: it depended on another one's writes"));
    });
  });
}

void OutputGate::Fail(const Status& status) {
  if (failed_.ok()) failed_ = status;
  const auto self = shared_from_this();
  while (!waiting_.empty()) {
    auto leave = std::move(waiting_.front().leave);
    waiting_.pop_front();
    leave(failed_);
  }
}

}  // namespace edge::durable::internal
