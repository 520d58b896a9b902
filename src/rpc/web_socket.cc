#include "edge/rpc/web_socket.h"

#include <array>
#include <span>

#include "edge/base/errors.h"
#include "src/rpc/http_client.h"
#include "src/rpc/io_rep.h"
#include "src/rpc/message.h"
#include "src/rpc/web_socket_link.h"

namespace edge::rpc {
namespace {

class Client final : public WebSocketSession {
 public:
  explicit Client(std::shared_ptr<WebSocketLink> link) : link_(std::move(link)) {}
  ~Client() override { link_->Close(Cancelled("the session was closed")); }
  AnyStub main() const override { return link_->session().main(); }
  const Session& session() const override { return link_->session(); }

 private:
  std::shared_ptr<WebSocketLink> link_;
};

Status Declined(const std::string& url, const HttpMessage& answer) {
  std::string text = answer.body;
  while (text.ends_with('\n')) text.pop_back();
  return Status(CodeForHttp(answer.status),
                text.empty() ? Format("{}: HTTP status {}", {url, answer.status}) : text);
}

}  // namespace

void WebSocketSession::Connect(Io& io, std::string url, Options options, Connected done) {
  std::array<std::byte, 16> nonce;
  io.rep().random.Fill(nonce);
  std::string key;
  AppendBase64(nonce, &key);
  key += "==";
  HttpRequestOptions request;
  request.head_lines =
      "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
      "Sec-WebSocket-Key: " +
      key + "\r\n";
  if (options.offer_binary)
    request.head_lines.append("Sec-WebSocket-Protocol: ").append(kBinaryProtocol).append("\r\n");
  if (Status status = CheckHeaders(options.headers); !status.ok()) {
    io.loop().Defer(
        [done = std::move(done), status = std::move(status)]() mutable { done(status); });
    return;
  }
  for (const auto& [name, value] : options.headers)
    request.head_lines.append(name).append(": ").append(value).append("\r\n");
  request.timeout_ms = options.connect_timeout_ms;
  request.tls = options.tls;
  SendHttp(io, url, std::move(request),
           [&io, url, key, options = std::move(options),
            done = std::move(done)](StatusOr<HttpAnswer> answer) mutable {
             if (!answer.ok()) return done(answer.status());
             const HttpMessage& message = answer->message;
             if (message.status != 101) return done(Declined(url, message));
             const std::string_view protocol = message.Header("sec-websocket-protocol");
             const bool selected = options.offer_binary && protocol == kBinaryProtocol;
             // Some servers select whatever is offered: one that means it says so once more.
             const bool binary = selected && message.Header(kBinaryHeader) == "1";
             if (!message.is_upgrade ||
                 message.Header("sec-websocket-accept") != WebSocketAccept(key) ||
                 (!protocol.empty() && !selected))
               return done(Unavailable("{}: the answer is not a WebSocket handshake", url));
             auto link = std::make_shared<WebSocketLink>(
                 io, WebSocketLink::Options{.is_server = false,
                                            .binary = binary,
                                            .limits = options.limits,
                                            .traffic = {},
                                            .idle_timeout_ms = options.idle_timeout_ms});
             link->Start(std::move(answer->socket), answer->early, std::move(options.main),
                         std::move(options.on_closed));
             done(std::make_unique<Client>(std::move(link)));
           });
}

Task<StatusOr<std::unique_ptr<WebSocketSession>>> WebSocketSession::Open(Io& io, std::string url,
                                                                         Options options) {
  Deferred<StatusOr<std::unique_ptr<WebSocketSession>>> result;
  Connect(io, std::move(url), std::move(options),
          [result](StatusOr<std::unique_ptr<WebSocketSession>> session) mutable {
            result.Set(std::move(session));
          });
  auto session = co_await result;
  co_return session;
}

}  // namespace edge::rpc
