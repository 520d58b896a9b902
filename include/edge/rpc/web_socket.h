// edge/rpc/web_socket.h - a Cap'n Web session to a server, over a WebSocket.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "edge/base/callback.h"
#include "edge/base/status.h"
#include "edge/base/task.h"
#include "edge/rpc/io.h"
#include "edge/rpc/session.h"
#include "edge/rpc/tls.h"

namespace edge::rpc {

// Single-threaded: the loop of its Io. Destroying it closes the connection; calls that wait
// fail with Unavailable.
class WebSocketSession {
 public:
  struct Options {
    Options() {}  // no aggregate: g++ 12 copies those bit by bit when a call is co_awaited
    SessionLimits limits;
    HookPtr main;  // what the server may call; null: nothing
    int64_t connect_timeout_ms = 10000;
    int64_t idle_timeout_ms = 120'000;  // a server that answers no ping; 0: none
    // Speak the compact binary form (docs/formats/edge-rpc.md) with a server that knows it.
    bool offer_binary = true;
    std::vector<std::pair<std::string, std::string>> headers;  // "Authorization", "Cookie" ...
    TlsClientOptions tls;                                      // for wss
    Callback<void(Status)> on_closed;  // once, when the session has ended by itself
  };
  using Connected = Callback<void(StatusOr<std::unique_ptr<WebSocketSession>>)>;

  // "ws://127.0.0.1:8787/flights/UA17", "wss://127.0.0.1:8443/", or, over a unix socket,
  // "ws+unix:/run/edge.sock:/flights/UA17". Calls `done` on the loop: a session, or
  // InvalidArgument (a bad URL or certificate; names but localhost are not looked up),
  // Unavailable (refused, closed), DeadlineExceeded, PermissionDenied (the server is not who
  // it should be), or the Status that the server answered instead.
  static void Connect(Io& io, std::string url, Options options, Connected done);
  // The same to await.
  static Task<StatusOr<std::unique_ptr<WebSocketSession>>> Open(Io& io, std::string url,
                                                                Options options);
  virtual ~WebSocketSession() = default;

  virtual AnyStub main() const = 0;  // the server's object
  virtual const Session& session() const = 0;
};

}  // namespace edge::rpc
