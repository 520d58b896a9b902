#include "src/rpc/web_socket_link.h"

#include <utility>

#include "edge/base/errors.h"

namespace edge::rpc {

namespace beast = boost::beast;
namespace websocket = boost::beast::websocket;

namespace {
// Cap'n Web's close code for a session that was aborted.
constexpr unsigned kAbortedCode = 3000;
constexpr size_t kReasonBytesMax = 123;  // RFC 6455, section 5.5

std::string_view CutReason(std::string_view text) {
  if (text.size() <= kReasonBytesMax) return text;
  size_t size = kReasonBytesMax;
  while (size > 0 && (static_cast<unsigned char>(text[size]) & 0xC0) == 0x80) --size;
  return text.substr(0, size);
}
}  // namespace

WebSocketLink::WebSocketLink(Loop& loop, beast::tcp_stream tcp, const SessionLimits& limits,
                             beast::role_type role)
    : loop_(loop), stream_(std::move(tcp)), limits_(limits) {
  stream_.set_option(websocket::stream_base::timeout::suggested(role));
  stream_.read_message_max(limits.message_bytes_max);
  stream_.auto_fragment(false);
  stream_.text(true);
}

void WebSocketLink::Start(HookPtr main, Callback<void(Status)> on_ended) {
  on_ended_ = std::move(on_ended);
  boost::system::error_code ignored;
  stream_.next_layer().socket().set_option(boost::asio::ip::tcp::no_delay(true), ignored);
  session_ = Session::Create(std::move(main), limits_, [this] { ScheduleFlush(); });
  Read();
}

void WebSocketLink::Read() {
  stream_.async_read(buffer_, [self = shared_from_this()](const boost::system::error_code& error,
                                                          size_t) { self->OnRead(error); });
}

void WebSocketLink::OnRead(const boost::system::error_code& error) {
  if (error) {
    if (error == websocket::error::closed) {
      const auto& reason = stream_.reason();
      return Ended(Unavailable("the peer closed the connection ({}{}{})",
                               static_cast<int>(reason.code), reason.reason.empty() ? "" : ": ",
                               std::string_view(reason.reason.data(), reason.reason.size())));
    }
    return Ended(Unavailable("the connection was lost: {}", error.message()));
  }
  if (!stream_.got_text()) {
    session_->Abort(InvalidArgument("a binary frame; messages are text"));
  } else {
    const auto data = buffer_.cdata();
    session_->OnMessage({static_cast<const char*>(data.data()), data.size()}).IgnoreError();
  }
  buffer_.consume(buffer_.size());
  if (session_->ended()) StartClosing(session_->end_status());
  Read();  // up to the peer's close frame
}

// All messages of one turn of the loop go out after it.
void WebSocketLink::ScheduleFlush() {
  if (std::exchange(flush_scheduled_, true)) return;
  loop_.Defer([weak = weak_from_this()] {
    if (const auto self = weak.lock()) {
      self->flush_scheduled_ = false;
      self->Flush();
    }
  });
}

void WebSocketLink::Flush() {
  if (is_writing_ || close_sent_) return;
  if (session_->ended() && !closing_) StartClosing(session_->end_status());
  if (!session_->TakeOutput(&writing_)) {
    if (closing_ && !std::exchange(close_sent_, true)) {
      const std::string_view text = CutReason(Message(close_reason_));
      websocket::close_reason reason(static_cast<websocket::close_code>(kAbortedCode),
                                     beast::string_view(text.data(), text.size()));
      if (close_reason_.code() == StatusCode::kCancelled)
        reason = websocket::close_reason(websocket::close_code::normal);
      stream_.async_close(reason, [self = shared_from_this()](const boost::system::error_code&) {});
    }
    return;
  }
  is_writing_ = true;
  stream_.async_write(boost::asio::buffer(writing_),
                      [self = shared_from_this()](const boost::system::error_code& error, size_t) {
                        self->is_writing_ = false;
                        if (!error) self->Flush();  // the reader sees any error as well
                      });
}

void WebSocketLink::StartClosing(const Status& reason) {
  if (std::exchange(closing_, true)) return;
  close_reason_ = reason;
  ScheduleFlush();
}

void WebSocketLink::Ended(Status reason) {
  close_sent_ = true;
  session_->OnClosed(reason);
  if (auto on_ended = std::exchange(on_ended_, nullptr)) on_ended(session_->end_status());
}

void WebSocketLink::Close(Status reason) {
  on_ended_ = nullptr;
  if (session_ == nullptr) return Kill();
  session_->OnClosed(reason);
  StartClosing(reason);
}

void WebSocketLink::Kill() {
  on_ended_ = nullptr;
  close_sent_ = true;
  if (session_ != nullptr) session_->OnClosed(Unavailable("the connection was closed"));
  beast::get_lowest_layer(stream_).cancel();
  boost::system::error_code ignored;
  beast::get_lowest_layer(stream_).socket().close(ignored);
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
    case StatusCode::kPermissionDenied:
    case StatusCode::kUnauthenticated:
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
