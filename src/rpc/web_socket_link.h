// One Cap'n Web session on one WebSocket, either side: text frames in, text frames out.
#pragma once
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/websocket/stream.hpp>
#include <memory>
#include <string>

#include "edge/base/executor.h"
#include "edge/rpc/session.h"

namespace edge::rpc {

// Owners: whoever made it, and its pending operations. Single-threaded.
class WebSocketLink : public std::enable_shared_from_this<WebSocketLink> {
 public:
  using Stream = boost::beast::websocket::stream<boost::beast::tcp_stream>;

  WebSocketLink(Loop& loop, boost::beast::tcp_stream tcp, const SessionLimits& limits,
                boost::beast::role_type role);

  Stream& stream() { return stream_; }
  // The handshake is done: open the session and read. `on_ended` runs once, from a handler.
  void Start(HookPtr main, Callback<void(Status)> on_ended);
  // Ends the session now and the connection soon. Calls nothing back.
  void Close(Status reason);
  // As Close, at once and without a word to the peer.
  void Kill();
  const Session& session() const { return *session_; }

 private:
  void Read();
  void OnRead(const boost::system::error_code& error);
  void ScheduleFlush();
  void Flush();
  void StartClosing(const Status& reason);
  void Ended(Status reason);

  Loop& loop_;
  Stream stream_;
  const SessionLimits limits_;
  std::unique_ptr<Session> session_;
  Callback<void(Status)> on_ended_;
  boost::beast::flat_buffer buffer_;
  std::string writing_;  // the message that is being sent
  bool is_writing_ = false;
  bool flush_scheduled_ = false;
  bool closing_ = false;  // write what is left, then close
  bool close_sent_ = false;
  Status close_reason_;
};

// What an HTTP status of a refused handshake means, and the other way round.
StatusCode CodeForHttp(unsigned http_status);
unsigned HttpForCode(StatusCode code);

}  // namespace edge::rpc
