#include "edge/rpc/http_server.h"

#include <algorithm>
#include <boost/asio/ip/address.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http.hpp>
#include <boost/beast/websocket/rfc6455.hpp>
#include <charconv>
#include <chrono>
#include <optional>
#include <unordered_set>

#include "edge/base/check.h"
#include "edge/base/errors.h"
#include "src/rpc/io_rep.h"
#include "src/rpc/web_socket_link.h"

namespace edge::rpc {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using tcp = asio::ip::tcp;

// ---- requests and answers

std::string_view HttpRequest::Header(std::string_view lower_case_name) const {
  for (const auto& [name, value] : headers)
    if (name == lower_case_name) return value;
  return {};
}

class HttpReply::Sink {
 public:
  virtual ~Sink() = default;
  virtual void Send(HttpResponse response) = 0;
};

HttpReply::~HttpReply() {
  if (sink_) Send({.status = 500, .body = "no answer\n", .headers = {}});
}

void HttpReply::Send(HttpResponse response) {
  EDGE_CHECK(sink_ != nullptr);
  std::exchange(sink_, nullptr)->Send(std::move(response));
}

std::string_view ContentTypeFor(std::string_view file_name) {
  constexpr std::pair<std::string_view, std::string_view> kTypes[] = {
      {".html", "text/html; charset=utf-8"},
      {".js", "text/javascript; charset=utf-8"},
      {".mjs", "text/javascript; charset=utf-8"},
      {".css", "text/css; charset=utf-8"},
      {".json", "application/json"},
      {".map", "application/json"},
      {".svg", "image/svg+xml"},
      {".png", "image/png"},
      {".jpg", "image/jpeg"},
      {".ico", "image/x-icon"},
      {".woff2", "font/woff2"},
      {".wasm", "application/wasm"},
      {".txt", "text/plain; charset=utf-8"}};
  for (const auto& [suffix, type] : kTypes)
    if (file_name.ends_with(suffix)) return type;
  return "application/octet-stream";
}

namespace {

bool Decode(std::string_view in, std::string* out) {
  for (size_t i = 0; i < in.size(); ++i) {
    if (in[i] != '%') {
      out->push_back(in[i]);
      continue;
    }
    unsigned code = 0;
    if (i + 2 >= in.size()) return false;
    const auto [end, error] = std::from_chars(in.data() + i + 1, in.data() + i + 3, code, 16);
    if (error != std::errc() || end != in.data() + i + 3 || code == 0) return false;
    out->push_back(static_cast<char>(code));
    i += 2;
  }
  return true;
}

std::string Lower(std::string_view text) {
  std::string lower(text);
  for (char& c : lower)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return lower;
}

// "127.0.0.1:80", "[::1]:80" or "localhost:80".
StatusOr<tcp::endpoint> ParseAddress(std::string_view text) {
  const size_t colon = text.rfind(':');
  if (colon == std::string_view::npos) return InvalidArgument("{}: expected HOST:PORT", text);
  std::string host(text.substr(0, colon));
  const std::string_view digits = text.substr(colon + 1);
  uint16_t port = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), port);
  if (error != std::errc() || end != digits.data() + digits.size())
    return InvalidArgument("{}: bad port", text);
  if (host == "localhost") host = "127.0.0.1";
  if (host.size() > 2 && host.front() == '[' && host.back() == ']')
    host = host.substr(1, host.size() - 2);
  boost::system::error_code bad;
  const auto address = asio::ip::make_address(host, bad);
  if (bad) return InvalidArgument("{}: the host must be an IP address or localhost", text);
  return tcp::endpoint(address, port);
}

std::string TextOf(const tcp::endpoint& endpoint) {
  const std::string host = endpoint.address().to_string();
  return (endpoint.address().is_v6() ? '[' + host + ']' : host) + ':' +
         std::to_string(endpoint.port());
}

// A page of some other site can make its own name point to us; it cannot make it one of these.
bool IsLoopbackName(std::string_view host) {
  if (const size_t colon = host.rfind(':');
      colon != std::string_view::npos && host.find(']', colon) == std::string_view::npos)
    host = host.substr(0, colon);
  return host == "localhost" || host == "127.0.0.1" || host == "[::1]";
}

template <typename T>
struct Route {
  std::string path;
  T handler;
  bool Covers(std::string_view request) const {
    return path.ends_with('/') ? request.starts_with(path) : request == path;
  }
};
template <typename T>
T* FindRoute(std::vector<std::unique_ptr<Route<T>>>& routes, std::string_view path) {
  Route<T>* best = nullptr;
  for (const auto& route : routes)
    if (route->Covers(path) && (best == nullptr || route->path.size() > best->path.size()))
      best = route.get();
  return best == nullptr ? nullptr : &best->handler;
}
template <typename T>
Status AddRoute(std::vector<std::unique_ptr<Route<T>>>& routes, std::string path, T handler) {
  if (!path.starts_with('/')) return InvalidArgument("path {}: must start with /", path);
  for (const auto& route : routes)
    if (route->path == path) return FailedPrecondition("path {} has a handler", path);
  routes.push_back(std::make_unique<Route<T>>(Route<T>{std::move(path), std::move(handler)}));
  return OkStatus();
}

HttpResponse ErrorPage(unsigned status, std::string text) {
  return {.status = static_cast<int>(status), .body = std::move(text) + '\n', .headers = {}};
}

class ServerImpl;

// An HTTP batch: its messages go through a session of their own; the reply is what the
// session has to say once every pull has its answer. The server must not wait for calls to
// the client: it cannot answer.
class Batch : public std::enable_shared_from_this<Batch> {
 public:
  Batch(Loop& loop, HttpReply reply) : loop_(loop), reply_(std::move(reply)) {}

  void Run(HookPtr main, const SessionLimits& limits, std::string_view body, int64_t timeout_ms) {
    session_ = Session::Create(std::move(main), limits);
    while (!body.empty() && !session_->ended()) {
      const size_t end = std::min(body.find('\n'), body.size());
      session_->OnMessage(body.substr(0, end)).IgnoreError();
      body.remove_prefix(std::min(end + 1, body.size()));
    }
    if (session_->ended() || session_->unanswered_pulls() == 0) return Finish();
    const auto self = shared_from_this();  // kept by the timer until Finish
    timer_ = loop_.After(timeout_ms * 1000000, [self] {
      self->timer_ = 0;
      self->session_->Abort(DeadlineExceeded("the batch took too long"));
      self->Finish();
    });
    session_->set_on_idle([weak = weak_from_this()] {
      // Not at once: the session is in the middle of a call.
      if (const auto batch = weak.lock())
        batch->loop_.Defer([batch] {
          if (batch->session_->unanswered_pulls() == 0) batch->Finish();
        });
    });
  }

 private:
  void Finish() {
    if (std::exchange(finished_, true)) return;
    const auto self = weak_from_this().lock();
    if (timer_ != 0) loop_.CancelTimer(timer_);
    session_->set_on_idle(nullptr);
    std::string body;
    for (std::string message; session_->TakeOutput(&message);) {
      if (!body.empty()) body += '\n';
      body += message;
    }
    reply_.Send({.body = std::move(body), .headers = {}});
  }

  Loop& loop_;
  HttpReply reply_;
  std::unique_ptr<Session> session_;
  Loop::TimerId timer_ = 0;
  bool finished_ = false;
};

// One HTTP/1.1 connection, until it closes or becomes a WebSocket. Owners: its pending
// operation and, while a handler thinks, nobody but the reply: the server's set is weak.
class Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(ServerImpl* server, tcp::socket socket, std::string peer)
      : server_(server), stream_(std::move(socket)), peer_(std::move(peer)) {}
  ~Connection();

  void Read();
  void Send(HttpResponse response);
  // The server is going; the last references may go with this call.
  void Kill() {
    const auto self = shared_from_this();
    const auto handling = std::move(self_while_handling_);
    server_ = nullptr;
    if (link_ != nullptr) return link_->Kill();
    stream_.cancel();
    boost::system::error_code ignored;
    stream_.socket().close(ignored);
  }

 private:
  void OnRead(const boost::system::error_code& error);
  void Dispatch();
  void Upgrade(HookPtr main);
  void Close();
  void Linger();

  static constexpr int64_t kLingerMs = 2000;
  static constexpr size_t kLingerBytesMax = 64 << 20;

  size_t lingered_bytes_ = 0;
  ServerImpl* server_;  // null once the server is gone
  beast::tcp_stream stream_;
  const std::string peer_;
  beast::flat_buffer buffer_;
  std::optional<http::request_parser<http::string_body>> parser_;
  HttpRequest request_;
  bool head_only_ = false;
  bool keep_alive_ = false;
  std::string allow_origin_;
  std::shared_ptr<WebSocketLink> link_;
  std::shared_ptr<Connection> self_while_handling_;
};

class ReplySink : public HttpReply::Sink {
 public:
  explicit ReplySink(std::weak_ptr<Connection> connection) : connection_(std::move(connection)) {}
  void Send(HttpResponse response) override {
    if (const auto connection = connection_.lock()) connection->Send(std::move(response));
  }

 private:
  std::weak_ptr<Connection> connection_;
};

class ServerImpl final : public HttpServer {
 public:
  ServerImpl(Io& io, Options options)
      : io_(io), options_(std::move(options)), acceptor_(io.rep().context) {}
  ~ServerImpl() override {
    boost::system::error_code ignored;
    acceptor_.close(ignored);
    *alive_ = false;
    for (Connection* connection : std::exchange(connections_, {})) connection->Kill();
  }

  Status Listen() {
    EDGE_ASSIGN_OR_RETURN(const tcp::endpoint endpoint, ParseAddress(options_.address));
    if (!endpoint.address().is_loopback())
      return FailedPrecondition(
          "listen on {}: only loopback addresses (127.0.0.1, [::1]) until TLS is there",
          options_.address);
    boost::system::error_code error;
    const auto failed = [&error] { return static_cast<bool>(error); };
    acceptor_.open(endpoint.protocol(), error);
    if (!failed()) acceptor_.set_option(tcp::acceptor::reuse_address(true), error);
    if (!failed()) acceptor_.bind(endpoint, error);
    if (!failed()) acceptor_.listen(asio::socket_base::max_listen_connections, error);
    if (error == asio::error::address_in_use)
      return Unavailable("listen on {}: the port is in use", options_.address);
    if (failed()) return ErrnoStatus(error.value(), "listen on " + options_.address);
    address_ = TextOf(acceptor_.local_endpoint());
    Accept();
    return OkStatus();
  }

  Status Handle(std::string path, Handler handler) override {
    return AddRoute(handlers_, std::move(path), std::move(handler));
  }
  Status HandleRpc(std::string path, RpcFactory factory) override {
    return AddRoute(factories_, std::move(path), std::move(factory));
  }
  const std::string& address() const override { return address_; }
  size_t connections() const override { return connections_.size(); }

  Handler* FindHandler(std::string_view path) { return FindRoute(handlers_, path); }
  RpcFactory* FindFactory(std::string_view path) { return FindRoute(factories_, path); }
  const Options& options() const { return options_; }
  Loop& loop() const { return io_.loop(); }
  void Forget(Connection* connection) { connections_.erase(connection); }

  // May a page of this origin talk to us? No origin: not a browser.
  bool AllowsOrigin(std::string_view origin, std::string_view host) const {
    if (origin.empty()) return true;
    for (const std::string& allowed : options_.allowed_origins)
      if (allowed == "*" || allowed == origin) return true;
    const size_t scheme = origin.find("://");
    return scheme != std::string_view::npos && Lower(origin.substr(scheme + 3)) == Lower(host) &&
           IsLoopbackName(Lower(host));
  }

 private:
  void Accept() {
    acceptor_.async_accept([this, alive = alive_](const boost::system::error_code& error,
                                                  tcp::socket socket) {
      if (!*alive) return;
      if (error) {
        if (error == asio::error::operation_aborted) return;
        // Out of descriptors, most likely: not a reason to spin.
        loop().After(10000000, [this, alive] {
          if (*alive) Accept();
        });
        return;
      }
      boost::system::error_code gone;
      const tcp::endpoint peer = socket.remote_endpoint(gone);
      if (!gone && connections_.size() < options_.connections_max) {
        const auto connection = std::make_shared<Connection>(this, std::move(socket), TextOf(peer));
        connections_.insert(connection.get());
        connection->Read();
      }
      Accept();
    });
  }

  Io& io_;
  const Options options_;
  tcp::acceptor acceptor_;
  std::string address_;
  std::vector<std::unique_ptr<Route<Handler>>> handlers_;
  std::vector<std::unique_ptr<Route<RpcFactory>>> factories_;
  std::unordered_set<Connection*> connections_;  // each removes itself when it dies
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

Connection::~Connection() {
  if (server_ != nullptr) server_->Forget(this);
}

// Says that nothing more will come, then reads on for a while: closing while the peer still
// sends would reset the connection, and with it the answer that it has not read yet.
void Connection::Close() {
  boost::system::error_code error;
  stream_.socket().shutdown(tcp::socket::shutdown_send, error);
  if (error) return stream_.close();
  stream_.expires_after(std::chrono::milliseconds(kLingerMs));
  Linger();
}

void Connection::Linger() {
  buffer_.consume(buffer_.size());
  stream_.async_read_some(
      buffer_.prepare(16384),
      [self = shared_from_this()](const boost::system::error_code& error, size_t size) {
        self->lingered_bytes_ += size;
        if (error || self->server_ == nullptr || self->lingered_bytes_ > kLingerBytesMax) {
          self->stream_.close();
        } else {
          self->Linger();
        }
      });
}

void Connection::Read() {
  const auto& options = server_->options();
  parser_.emplace();
  parser_->header_limit(static_cast<uint32_t>(options.header_bytes_max));
  parser_->body_limit(options.body_bytes_max);
  stream_.expires_after(std::chrono::milliseconds(options.request_timeout_ms));
  http::async_read(stream_, buffer_, *parser_,
                   [self = shared_from_this()](const boost::system::error_code& error, size_t) {
                     self->OnRead(error);
                   });
}

void Connection::OnRead(const boost::system::error_code& error) {
  if (server_ == nullptr) return;
  stream_.expires_never();
  if (!error) {
    keep_alive_ = parser_->get().keep_alive();
    return Dispatch();
  }
  keep_alive_ = false;
  head_only_ = false;
  if (error == http::error::end_of_stream || error == http::error::partial_message ||
      error == beast::error::timeout ||
      error.category() != http::make_error_code(http::error::bad_method).category())
    return Close();
  if (error == http::error::body_limit)
    return Send(
        ErrorPage(413, Format("the body may have {} bytes", {server_->options().body_bytes_max})));
  if (error == http::error::header_limit || error == http::error::buffer_overflow)
    return Send(ErrorPage(
        431, Format("the header may have {} bytes", {server_->options().header_bytes_max})));
  Send(ErrorPage(400, "bad request: " + error.message()));
}

void Connection::Dispatch() {
  const auto& message = parser_->get();
  const auto text = [](beast::string_view view) {
    return std::string_view(view.data(), view.size());
  };
  request_ = {};
  request_.method = text(message.method_string());
  request_.peer_address = peer_;
  for (const auto& field : message)
    request_.headers.emplace_back(Lower(text(field.name_string())), text(field.value()));
  const std::string_view target = text(message.target());
  const size_t query = std::min(target.find('?'), target.size());
  request_.query = target.substr(std::min(query + 1, target.size()));
  head_only_ = message.method() == http::verb::head;
  allow_origin_.clear();
  if (!target.starts_with('/') || !Decode(target.substr(0, query), &request_.path))
    return Send(ErrorPage(400, "bad path"));

  const bool is_upgrade = beast::websocket::is_upgrade(message);
  const bool is_post = message.method() == http::verb::post;
  const bool is_read = message.method() == http::verb::get || head_only_;
  const std::string_view origin = request_.Header("origin");
  if ((is_upgrade || !is_read) && !server_->AllowsOrigin(origin, request_.Header("host")))
    return Send(ErrorPage(403, "pages of this origin may not call: " + std::string(origin)));
  if (!is_upgrade) request_.body = std::move(parser_->get().body());

  HttpServer::RpcFactory* factory = server_->FindFactory(request_.path);
  HttpServer::Handler* handler = server_->FindHandler(request_.path);
  if (factory != nullptr && (is_upgrade || is_post)) {
    StatusOr<HookPtr> main = (*factory)(request_);
    if (!main.ok())
      return Send(
          ErrorPage(HttpForCode(main.status().code()), std::string(Message(main.status()))));
    if (is_upgrade) return Upgrade(std::move(*main));
    if (!origin.empty()) allow_origin_ = origin;
    self_while_handling_ = shared_from_this();
    std::make_shared<Batch>(server_->loop(),
                            HttpReply(std::make_shared<ReplySink>(weak_from_this())))
        ->Run(std::move(*main), server_->options().session, request_.body,
              server_->options().batch_timeout_ms);
    return;
  }
  if (is_upgrade || handler == nullptr)
    return Send(ErrorPage(factory != nullptr ? 405 : 404, factory != nullptr
                                                              ? "only POST or a WebSocket here"
                                                              : "nothing at " + request_.path));
  if (!is_read && !is_post) return Send(ErrorPage(405, "GET, HEAD or POST"));
  self_while_handling_ = shared_from_this();
  (*handler)(request_, HttpReply(std::make_shared<ReplySink>(weak_from_this())));
}

void Connection::Send(HttpResponse response) {
  if (server_ == nullptr || !stream_.socket().is_open()) {
    self_while_handling_ = nullptr;
    return;
  }
  auto message = std::make_shared<http::response<http::string_body>>(
      static_cast<http::status>(response.status), 11);
  message->set(http::field::content_type, response.content_type);
  message->set("X-Content-Type-Options", "nosniff");
  if (!allow_origin_.empty()) message->set(http::field::access_control_allow_origin, allow_origin_);
  for (const auto& [name, value] : response.headers) {
    const bool clean = std::ranges::none_of(value, [](char c) { return c == '\r' || c == '\n'; });
    if (clean) message->set(name, value);
  }
  message->keep_alive(keep_alive_);
  message->content_length(response.body.size());
  if (!head_only_) message->body() = std::move(response.body);
  stream_.expires_after(std::chrono::milliseconds(server_->options().request_timeout_ms));
  const auto finish = [self = shared_from_this(), message](const boost::system::error_code& error,
                                                           size_t) {
    if (error || self->server_ == nullptr) return;
    self->stream_.expires_never();
    if (self->keep_alive_) {
      self->Read();
    } else {
      self->Close();
    }
  };
  if (head_only_) {
    // The length is that of the body which GET would give; only the header goes out.
    auto serializer = std::make_shared<http::response_serializer<http::string_body>>(*message);
    http::async_write_header(stream_, *serializer,
                             [finish, serializer](const boost::system::error_code& error,
                                                  size_t size) { finish(error, size); });
  } else {
    http::async_write(stream_, *message, finish);
  }
  self_while_handling_ = nullptr;
}

void Connection::Upgrade(HookPtr main) {
  link_ = std::make_shared<WebSocketLink>(server_->loop(), std::move(stream_),
                                          server_->options().session, beast::role_type::server);
  link_->stream().async_accept(parser_->get(), [self = shared_from_this(), main = std::move(main)](
                                                   const boost::system::error_code& error) mutable {
    if (error || self->server_ == nullptr) return;
    self->parser_.reset();
    // The connection counts until the session has ended.
    self->link_->Start(std::move(main), [self](const Status&) { self->link_ = nullptr; });
  });
}

}  // namespace

StatusOr<std::unique_ptr<HttpServer>> HttpServer::Create(Io& io, Options options) {
  auto server = std::make_unique<ServerImpl>(io, std::move(options));
  EDGE_RETURN_IF_ERROR(server->Listen());
  return std::unique_ptr<HttpServer>(std::move(server));
}

}  // namespace edge::rpc
