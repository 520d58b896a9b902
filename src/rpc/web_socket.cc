#include "edge/rpc/web_socket.h"

#include <boost/asio/ip/address.hpp>
#include <boost/beast/http.hpp>
#include <charconv>
#include <chrono>

#include "edge/base/errors.h"
#include "src/rpc/io_rep.h"
#include "src/rpc/web_socket_link.h"

namespace edge::rpc {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace websocket = boost::beast::websocket;
using tcp = asio::ip::tcp;

struct ServerAddress {
  std::string host;  // as in the URL, with the port: for the Host header
  tcp::endpoint endpoint;
  std::string path;
};

// "ws://127.0.0.1:8787/path". Names are not looked up: that would need a thread.
StatusOr<ServerAddress> ParseUrl(std::string_view url) {
  constexpr std::string_view kScheme = "ws://";
  if (url.starts_with("wss://")) return Unimplemented("{}: wss is not supported yet", url);
  if (!url.starts_with(kScheme)) return InvalidArgument("{}: expected ws://", url);
  const std::string_view rest = url.substr(kScheme.size());
  const size_t slash = std::min(rest.find('/'), rest.size());
  const std::string_view authority = rest.substr(0, slash);
  ServerAddress target;
  target.host = authority;
  target.path = slash == rest.size() ? "/" : rest.substr(slash);
  const size_t colon = authority.rfind(':');
  uint16_t port = 80;
  std::string name(authority);
  if (colon != std::string_view::npos && authority.find(']', colon) == std::string_view::npos) {
    const std::string_view digits = authority.substr(colon + 1);
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), port);
    if (error != std::errc() || end != digits.data() + digits.size())
      return InvalidArgument("{}: bad port", url);
    name = authority.substr(0, colon);
  }
  if (name == "localhost") name = "127.0.0.1";
  if (name.size() > 2 && name.front() == '[') name = name.substr(1, name.size() - 2);
  boost::system::error_code error;
  const auto address = asio::ip::make_address(name, error);
  if (error) return InvalidArgument("{}: the host must be an IP address or localhost", url);
  target.endpoint = tcp::endpoint(address, port);
  return target;
}

class Client final : public WebSocketSession {
 public:
  explicit Client(std::shared_ptr<WebSocketLink> link) : link_(std::move(link)) {}
  ~Client() override { link_->Close(Cancelled("the session was closed")); }
  AnyStub main() const override { return link_->session().main(); }
  const Session& session() const override { return link_->session(); }

 private:
  std::shared_ptr<WebSocketLink> link_;
};

// One attempt to connect; its pending operation owns it.
class Attempt : public std::enable_shared_from_this<Attempt> {
 public:
  Attempt(Io& io, std::string url, ServerAddress target, WebSocketSession::Options options,
          WebSocketSession::Connected done)
      : url_(std::move(url)),
        target_(std::move(target)),
        options_(std::move(options)),
        done_(std::move(done)),
        link_(std::make_shared<WebSocketLink>(io.loop(), beast::tcp_stream(io.rep().context),
                                              options_.limits, beast::role_type::client)) {}

  void Run() {
    auto& socket = beast::get_lowest_layer(link_->stream());
    socket.expires_after(std::chrono::milliseconds(options_.connect_timeout_ms));
    socket.async_connect(target_.endpoint,
                         [self = shared_from_this()](const boost::system::error_code& error) {
                           if (error) return self->Fail("connect", error);
                           self->Handshake();
                         });
  }

 private:
  void Handshake() {
    beast::get_lowest_layer(link_->stream()).expires_never();
    auto timeout = websocket::stream_base::timeout::suggested(beast::role_type::client);
    timeout.handshake_timeout = std::chrono::milliseconds(options_.connect_timeout_ms);
    link_->stream().set_option(timeout);
    link_->stream().async_handshake(
        response_, target_.host, target_.path,
        [self = shared_from_this()](const boost::system::error_code& error) {
          if (error == websocket::error::upgrade_declined) return self->Declined();
          if (error) return self->Fail("handshake", error);
          self->link_->Start(std::move(self->options_.main), std::move(self->options_.on_closed));
          self->done_(std::make_unique<Client>(self->link_));
        });
  }

  void Declined() {
    std::string text = response_.body();
    while (text.ends_with('\n')) text.pop_back();
    link_->Kill();
    done_(
        Status(CodeForHttp(response_.result_int()),
               text.empty() ? Format("{}: HTTP status {}", {url_, response_.result_int()}) : text));
  }

  void Fail(std::string_view step, const boost::system::error_code& error) {
    link_->Kill();
    if (error == beast::error::timeout)
      return done_(
          DeadlineExceeded("{}: no {} within {} ms", url_, step, options_.connect_timeout_ms));
    done_(Unavailable("{}: {}: {}", url_, step, error.message()));
  }

  const std::string url_;
  const ServerAddress target_;
  WebSocketSession::Options options_;
  WebSocketSession::Connected done_;
  std::shared_ptr<WebSocketLink> link_;
  websocket::response_type response_;
};

}  // namespace

void WebSocketSession::Connect(Io& io, std::string url, Options options, Connected done) {
  StatusOr<ServerAddress> target = ParseUrl(url);
  if (!target.ok()) {
    io.loop().Defer([status = target.status(), done = std::move(done)]() mutable { done(status); });
    return;
  }
  std::make_shared<Attempt>(io, std::move(url), std::move(*target), std::move(options),
                            std::move(done))
      ->Run();
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
