// A connection and whoever uses it now: first an HTTP exchange, then perhaps a WebSocket.
#pragma once
#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include "edge/base/network.h"
#include "edge/base/status.h"
#include "edge/rpc/io.h"

namespace edge::rpc {

// Single-threaded. Destroying it closes at once.
class Socket {
 public:
  class User {
   public:
    virtual ~User() = default;
    virtual void OnData(std::string_view bytes) = 0;  // borrowed
    virtual void OnClosed(Status reason) = 0;         // OK: by the peer; the last call
    virtual void OnDrained() {}                       // backlog_bytes() is 0 again
  };

  explicit Socket(std::unique_ptr<edge::Connection> connection);
  // The user is kept alive by others; once it is gone, nobody is called.
  void SetUser(std::weak_ptr<User> user);

  // Takes any amount; what the connection has no room for waits here.
  void Write(std::string_view bytes) { Write(bytes, {}); }
  void Write(std::string_view head, std::string_view body);
  size_t backlog_bytes() const { return connection_->buffered_bytes() + backlog_.size(); }
  void Pause(bool paused) { connection_->PauseReading(paused); }
  // Sends what waits, then closes; the user's OnClosed follows.
  void Close();
  const std::string& peer_address() const { return connection_->peer_address(); }
  edge::Connection& connection() { return *connection_; }

 private:
  void Drained();
  std::weak_ptr<User> user_;
  std::unique_ptr<edge::Connection> connection_;
  std::string backlog_;
  bool started_ = false;
  bool close_when_drained_ = false;
};

// Closes a socket that nobody has any use for: the Io holds it until what waits is sent, for
// five seconds at most.
void CloseWhenSent(Io& io, std::unique_ptr<Socket> socket);

}  // namespace edge::rpc
