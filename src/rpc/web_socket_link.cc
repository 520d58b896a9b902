#include "src/rpc/web_socket_link.h"

#include <algorithm>
#include <utility>

#include "edge/base/errors.h"
#include "src/rpc/io_rep.h"

namespace edge::rpc {
namespace {

constexpr int64_t kNsPerMs = 1'000'000;
constexpr int64_t kNsPerS = 1'000'000'000;
constexpr int64_t kResumeNs = 20 * kNsPerMs;  // how often a throttled peer gets a turn

}  // namespace

void WebSocketLink::Bucket::Refill(int64_t elapsed_ns) {
  if (per_s == 0) return;
  const double fresh = static_cast<double>(elapsed_ns) / kNsPerS * static_cast<double>(per_s);
  tokens = std::min(
      per_s, tokens + static_cast<int64_t>(std::min(fresh, 2.0 * static_cast<double>(per_s))));
}

bool WebSocketLink::Bucket::Take(int64_t count) {
  tokens -= per_s == 0 ? 0 : count;
  return has_any();
}

WebSocketLink::WebSocketLink(Io& io, Options options)
    : io_(io),
      options_(std::move(options)),
      reader_(options_.is_server, options_.limits.message_bytes_max),
      messages_{options_.traffic.messages_per_s_max, options_.traffic.messages_per_s_max},
      bytes_{options_.traffic.bytes_per_s_max, options_.traffic.bytes_per_s_max} {}

WebSocketLink::~WebSocketLink() {
  if (idle_timer_ != 0) io_.loop().CancelTimer(idle_timer_);
  if (resume_timer_ != 0) io_.loop().CancelTimer(resume_timer_);
}

void WebSocketLink::Start(std::unique_ptr<Socket> socket, std::string_view early, HookPtr main,
                          Callback<void(Status)> on_ended) {
  on_ended_ = std::move(on_ended);
  socket_ = std::move(socket);
  session_ = Session::Create(std::move(main), options_.limits);
  if (options_.binary) session_->UseBinary();
  session_->SendTo([this](std::string_view message) { Send(message); },
                   [this] {
                     io_.loop().Defer([weak = weak_from_this()] {
                       if (const auto self = weak.lock()) self->SessionEnded();
                     });
                   });
  refilled_ns_ = io_.loop().clock().monotonic_ns();
  WatchIdle();
  socket_->SetUser(weak_from_this());
  if (!early.empty()) Feed(early);
}

// ---- in

void WebSocketLink::OnData(std::string_view bytes) {
  if (!finished_) Feed(bytes);
}

void WebSocketLink::Feed(std::string_view bytes) {
  const Status status = reader_.Feed(bytes, *this, io_.rep().scratch);
  if (status.ok()) return;
  const bool too_big = status.code() == StatusCode::kResourceExhausted;
  SendClose(too_big ? CloseCode::kTooBig : CloseCode::kProtocolError, Message(status));
  Finish(status);
}

FrameReader::Next WebSocketLink::OnFrame(Opcode opcode, std::string_view payload) {
  heard_ = true;
  pinged_ = false;
  switch (opcode) {
    case Opcode::kText:
    case Opcode::kBinary:
      break;
    case Opcode::kPing:
      if (!close_sent_) SendFrame(Opcode::kPong, payload);
      return WithinTraffic(payload.size()) ? AfterMessage() : FrameReader::Next::kPause;
    case Opcode::kPong:
      return WithinTraffic(payload.size()) ? AfterMessage() : FrameReader::Next::kPause;
    case Opcode::kClose:
      return OnCloseFrame(payload);
  }
  if ((opcode == Opcode::kBinary) != options_.binary) {
    session_->Abort(InvalidArgument(options_.binary ? "a text frame; messages are binary"
                                                    : "a binary frame; messages are text"));
  } else {
    session_->OnMessage(payload).IgnoreError();
  }
  return WithinTraffic(payload.size()) ? AfterMessage() : FrameReader::Next::kPause;
}

FrameReader::Next WebSocketLink::AfterMessage() {
  return finished_ || session_->ended() ? FrameReader::Next::kStop : FrameReader::Next::kGoOn;
}

FrameReader::Next WebSocketLink::OnCloseFrame(std::string_view payload) {
  uint16_t code = 0;
  std::string_view reason;
  if (!ReadClosePayload(payload, &code, &reason)) {
    SendClose(CloseCode::kProtocolError, "a bad close frame");
  } else {
    SendClose(CloseCode::kNormal, "");
  }
  Finish(Unavailable("the peer closed the connection ({}{}{})", code, reason.empty() ? "" : ": ",
                     reason));
  return FrameReader::Next::kStop;
}

// A peer that says too much is read more slowly: its own sends block, and we hold no more of it
// than one read.
bool WebSocketLink::WithinTraffic(size_t bytes) {
  const bool has_message = messages_.Take(1);
  const bool has_bytes = bytes_.Take(static_cast<int64_t>(bytes));
  if ((has_message && has_bytes) || finished_ || session_->ended() || HasRefilled()) return true;
  socket_->Pause(true);
  if (resume_timer_ == 0)
    resume_timer_ = io_.loop().After(kResumeNs, [this] {
      resume_timer_ = 0;
      Resume();
    });
  return false;
}

bool WebSocketLink::HasRefilled() {
  const int64_t now_ns = io_.loop().clock().monotonic_ns();
  messages_.Refill(now_ns - refilled_ns_);
  bytes_.Refill(now_ns - refilled_ns_);
  refilled_ns_ = now_ns;
  return messages_.has_any() && bytes_.has_any();
}

void WebSocketLink::Resume() {
  const auto self = shared_from_this();
  if (finished_) return;
  if (!HasRefilled()) {
    resume_timer_ = io_.loop().After(kResumeNs, [this] {
      resume_timer_ = 0;
      Resume();
    });
    return;
  }
  socket_->Pause(false);
  Feed("");
}

void WebSocketLink::OnClosed(Status reason) {
  Finish(Unavailable("the connection was lost: {}",
                     reason.ok() ? "closed by the peer" : Message(reason)));
}

// ---- out

void WebSocketLink::Send(std::string_view message) {
  if (close_sent_ || overflowed_) return;
  SendFrame(options_.binary ? Opcode::kBinary : Opcode::kText, message);
  if (socket_->backlog_bytes() <= options_.limits.output_bytes_max) return;
  overflowed_ = true;  // not from here: the session is in the middle of something
  io_.loop().Defer([weak = weak_from_this()] {
    const auto self = weak.lock();
    if (self == nullptr || self->finished_) return;
    const Status reason =
        ResourceExhausted("the peer does not read: more than {} bytes wait for it",
                          self->options_.limits.output_bytes_max);
    self->session_->OnClosed(reason);
    self->socket_ = nullptr;  // it would not read a goodbye either
    self->Finish(reason);
  });
}

void WebSocketLink::SendFrame(Opcode opcode, std::string_view payload) {
  if (options_.is_server) {
    char header[10];
    const size_t size = WriteFrameHeader(opcode, payload.size(), header);
    return socket_->Write({header, size}, payload);
  }
  std::string frame = std::exchange(io_.rep().scratch, {});
  frame.clear();
  AppendFrame(opcode, payload, io_.rep().NextMask(), &frame);
  socket_->Write(frame);
  io_.rep().scratch = std::move(frame);
}

// ---- silence

void WebSocketLink::WatchIdle() {
  if (options_.idle_timeout_ms == 0) return;
  heard_ = false;
  idle_timer_ = io_.loop().After(options_.idle_timeout_ms * kNsPerMs / 2, [this] {
    idle_timer_ = 0;
    const auto self = shared_from_this();
    CheckIdle();
  });
}

// Only whole frames count: one that comes a byte at a time is silence too.
void WebSocketLink::CheckIdle() {
  if (finished_) return;
  if (!heard_ && std::exchange(pinged_, true)) {
    const Status reason = DeadlineExceeded("nothing was heard for {} ms", options_.idle_timeout_ms);
    SendClose(CloseCode::kGoingAway, Message(reason));
    return Finish(reason);
  }
  if (!heard_) SendFrame(Opcode::kPing, "");
  WatchIdle();
}

// ---- the end

void WebSocketLink::SessionEnded() {
  if (finished_) return;
  SendClose(CloseCode::kAborted, Message(session_->end_status()));
  Finish(session_->end_status());
}

void WebSocketLink::SendClose(CloseCode code, std::string_view reason) {
  if (std::exchange(close_sent_, true) || socket_ == nullptr) return;
  SendFrame(Opcode::kClose, ClosePayload(code, reason));
}

// The connection outlives us for as long as it has something to send.
void WebSocketLink::Finish(Status reason) {
  if (std::exchange(finished_, true)) return;
  if (idle_timer_ != 0) io_.loop().CancelTimer(std::exchange(idle_timer_, 0));
  if (resume_timer_ != 0) io_.loop().CancelTimer(std::exchange(resume_timer_, 0));
  session_->OnClosed(std::move(reason));
  if (socket_ != nullptr) CloseWhenSent(io_, std::move(socket_));
  if (!on_ended_) return;
  io_.loop().Defer([on_ended = std::move(on_ended_), status = session_->end_status()]() mutable {
    on_ended(status);
  });
}

void WebSocketLink::Close(Status reason) {
  on_ended_ = nullptr;
  if (session_ == nullptr || finished_) return;
  const bool normal = reason.code() == StatusCode::kCancelled;
  SendClose(normal ? CloseCode::kNormal : CloseCode::kGoingAway, normal ? "" : Message(reason));
  Finish(std::move(reason));
}

StatusCode CodeForHttp(unsigned http_status) {
  switch (http_status) {
    case 400:
      return StatusCode::kInvalidArgument;
    case 401:
      return StatusCode::kUnauthenticated;
    case 403:
      return StatusCode::kPermissionDenied;
    case 404:
      return StatusCode::kNotFound;
    case 503:
      return StatusCode::kUnavailable;
    default:
      return StatusCode::kFailedPrecondition;
  }
}

unsigned HttpForCode(StatusCode code) {
  switch (code) {
    case StatusCode::kNotFound:
      return 404;
    case StatusCode::kUnauthenticated:
      return 401;
    case StatusCode::kPermissionDenied:
      return 403;
    case StatusCode::kResourceExhausted:
    case StatusCode::kUnavailable:
      return 503;
    case StatusCode::kInternal:
    case StatusCode::kUnknown:
    case StatusCode::kDataLoss:
      return 500;
    default:
      return 400;
  }
}

}  // namespace edge::rpc
