#include "src/rpc/stream_sender.h"

#include <utility>

#include "edge/base/errors.h"

namespace edge::rpc {

StreamSender::StreamSender(Loop* home, std::shared_ptr<StreamCarrier> carrier, HookPtr import,
                           int64_t id)
    : MethodHook(home), carrier_(std::move(carrier)), import_(std::move(import)), id_(id) {
  carrier_->AddSender(this);
}

StreamSender::~StreamSender() {
  carrier_->RemoveSender(this);
}

void StreamSender::OnCall(std::string_view method, Array args, Resolver done) {
  if (method == "write") return Write(args.empty() ? Value() : std::move(args[0]), std::move(done));
  if (method == "close") return Close(std::move(done));
  if (method != "abort") return done.Settle(InvalidArgument("'{}' is not a function.", method));
  Abort(args.empty() || args[0].is_nullish() ? Cancelled("the writer broke the stream off")
                                             : StatusFromError(args[0]));
  done.Settle(Value());
}

void StreamSender::Write(Value chunk, Resolver done) {
  if (!failed_.ok()) return done.Settle(failed_);
  if (closing_) return done.Settle(FailedPrecondition("a write after the end of the stream"));
  Array args;
  args.push_back(std::move(chunk));
  waiting_.push_back({std::move(args), false, std::move(done)});
  Resume();
}

void StreamSender::Close(Resolver done) {
  if (!failed_.ok()) return done.Settle(failed_);
  if (std::exchange(closing_, true))
    return done.Settle(FailedPrecondition("the stream has ended before"));
  waiting_.push_back({{}, true, std::move(done)});
  Resume();
}

void StreamSender::Abort(const Status& reason) {
  if (!failed_.ok() || !import_) return;
  closing_ = true;
  Array args;
  args.push_back(ErrorFromStatus(reason));
  size_t bytes = 0;
  // The peer's end stays named until it has answered.
  carrier_->SendStream(id_, "abort", args, &bytes, [import = import_](const Status&) {})
      .IgnoreError();
  on_broken_ = nullptr;
  Fail(reason);
}

void StreamSender::AbortInOrder(const Status& reason) {
  if (window_.in_flight() == 0) return Abort(reason);
  closing_ = true;
  last_words_ = reason;
}

void StreamSender::Resume() {
  if (std::exchange(running_, true)) return;
  const HookPtr self = Self();
  while (!waiting_.empty() && failed_.ok()) {
    if (!waiting_.front().is_close &&
        (!window_.has_room() || !carrier_->MaySend(window_.in_flight())))
      break;
    Step step = std::move(waiting_.front());
    waiting_.pop_front();
    if (step.is_close) {
      SendClose(std::move(step.done));
    } else {
      SendChunk(std::move(step));
    }
  }
  running_ = false;
}

void StreamSender::SendChunk(Step step) {
  size_t bytes = 0;
  // Filled in below: the answer cannot come before the message has left.
  const auto sent = std::make_shared<FlowWindow::Sent>();
  const Status status = carrier_->SendStream(
      id_, "write", step.args, &bytes, [self = Self(), sent](const Status& answer) {
        auto* sender = static_cast<StreamSender*>(self.get());
        if (!answer.ok()) {
          sender->window_.OnLost(*sent);
          return sender->Fail(answer);
        }
        if (const int64_t now_us = sender->carrier_->now_us(); now_us >= 0) {
          sender->window_.OnAck(*sent, now_us);
        } else {
          sender->window_.OnLost(*sent);
        }
        if (!sender->last_words_.ok() && sender->window_.in_flight() == 0)
          return sender->Abort(sender->last_words_);
        sender->Resume();
      });
  if (!status.ok()) return step.done.Settle(status);
  *sent = window_.OnSend(bytes, carrier_->now_us());
  step.done.Settle(Value());
}

void StreamSender::SendClose(Resolver done) {
  size_t bytes = 0;
  // Owners of `held`: this call and the answer's callback.
  const auto held = std::make_shared<Resolver>(std::move(done));
  const Status status =
      carrier_->SendStream(id_, "close", {}, &bytes, [self = Self(), held](const Status& answer) {
        auto* sender = static_cast<StreamSender*>(self.get());
        sender->import_ = nullptr;
        // What broke it first says more than that it could not be closed.
        const Status& outcome = sender->failed_.ok() ? answer : sender->failed_;
        if (*held) held->Settle(outcome.ok() ? StatusOr<Value>(Value()) : outcome);
      });
  if (!status.ok() && *held) held->Settle(status);
}

void StreamSender::Fail(Status reason) {
  if (!failed_.ok()) return;
  const HookPtr self = Self();
  failed_ = std::move(reason);
  import_ = nullptr;
  for (Step& step : std::exchange(waiting_, {})) step.done.Settle(failed_);
  if (auto on_broken = std::exchange(on_broken_, nullptr)) on_broken(failed_);
}

}  // namespace edge::rpc
