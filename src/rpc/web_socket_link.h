// One session on one WebSocket, either side: frames in, frames out.
//
// Each message becomes a frame in the connection's buffer as it is made; the connection sends
// what one turn of the loop has gathered in one write.
#pragma once
#include <memory>
#include <string>
#include <string_view>

#include "edge/base/executor.h"
#include "edge/rpc/http_server.h"
#include "edge/rpc/io.h"
#include "edge/rpc/session.h"
#include "src/rpc/frames.h"
#include "src/rpc/socket.h"

namespace edge::rpc {

// What a client offers and a server selects to speak the binary form.
inline constexpr std::string_view kBinaryProtocol = "edge-rpc.1";
inline constexpr std::string_view kBinaryHeader = "edge-rpc";  // "1" in the server's answer

// Owners: whoever made it and, while it says goodbye, the Io. Single-threaded.
class WebSocketLink final : public Socket::User,
                            public FrameReader::Sink,
                            public std::enable_shared_from_this<WebSocketLink> {
 public:
  struct Options {
    bool is_server = false;
    bool binary = false;
    SessionLimits limits;
    TrafficLimits traffic;
    int64_t idle_timeout_ms = 0;  // 0: none
  };
  WebSocketLink(Io& io, Options options);
  ~WebSocketLink() override;

  // The handshake is done and `early` came behind it. `on_ended` runs once, from an event of
  // the loop, when the session has ended by itself; the link may go then.
  void Start(std::unique_ptr<Socket> socket, std::string_view early, HookPtr main,
             Callback<void(Status)> on_ended);
  // Ends the session now and the connection soon, by the Io if need be. Calls nothing back.
  void Close(Status reason);
  const Session& session() const { return *session_; }

 private:
  // Tokens that come at a rate and are kept for one second at most.
  struct Bucket {
    int64_t per_s = 0;  // 0: no limit
    int64_t tokens = 0;
    void Refill(int64_t elapsed_ns);
    bool Take(int64_t count);  // true while there are any: the last one may overdraw
    bool has_any() const { return per_s == 0 || tokens > 0; }
  };

  void OnData(std::string_view bytes) override;
  void OnClosed(Status reason) override;
  FrameReader::Next OnFrame(Opcode opcode, std::string_view payload) override;
  FrameReader::Next OnCloseFrame(std::string_view payload);
  FrameReader::Next AfterMessage();
  void Feed(std::string_view bytes);
  bool WithinTraffic(size_t bytes);
  bool HasRefilled();
  void Resume();
  void Send(std::string_view message);
  void SendFrame(Opcode opcode, std::string_view payload);
  void WatchIdle();
  void CheckIdle();
  void SessionEnded();
  void SendClose(CloseCode code, std::string_view reason);
  void Finish(Status reason);

  Io& io_;
  const Options options_;
  std::unique_ptr<Socket> socket_;
  std::unique_ptr<Session> session_;
  Callback<void(Status)> on_ended_;
  FrameReader reader_;
  Bucket messages_;
  Bucket bytes_;
  int64_t refilled_ns_ = 0;
  Loop::TimerId idle_timer_ = 0;
  Loop::TimerId resume_timer_ = 0;
  bool heard_ = false;  // a whole frame, since the idle timer was set
  bool pinged_ = false;
  bool close_sent_ = false;
  bool overflowed_ = false;
  bool finished_ = false;
};

// What an HTTP status of a refused handshake means, and the other way round.
StatusCode CodeForHttp(unsigned http_status);
unsigned HttpForCode(StatusCode code);

}  // namespace edge::rpc
