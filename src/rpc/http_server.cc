#include "edge/rpc/http_server.h"

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <optional>
#include <unordered_map>
#include <utility>

#include "edge/base/check.h"
#include "edge/base/errors.h"
#include "src/rpc/http_message.h"
#include "src/rpc/socket.h"
#include "src/rpc/tls_connection.h"
#include "src/rpc/web_socket_link.h"

namespace edge::rpc {

// ---- requests and answers

std::string_view HttpRequest::Header(std::string_view lower_case_name) const {
  for (const auto& [name, value] : headers)
    if (name == lower_case_name) return value;
  return {};
}

std::string_view HttpRequest::Cookie(std::string_view name) const {
  std::string_view rest = Header("cookie");
  while (!rest.empty()) {
    const size_t end = std::min(rest.find(';'), rest.size());
    std::string_view pair = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    while (pair.starts_with(' ')) pair.remove_prefix(1);
    const size_t equals = pair.find('=');
    if (equals != std::string_view::npos && pair.substr(0, equals) == name)
      return pair.substr(equals + 1);
  }
  return {};
}

class HttpStream::Sink {
 public:
  virtual ~Sink() = default;
  virtual bool Write(std::string_view piece) = 0;
  virtual void End() = 0;
};

HttpStream::~HttpStream() {
  if (sink_ != nullptr) sink_->End();
}

bool HttpStream::Write(std::string_view piece) {
  return sink_->Write(piece);
}

class HttpReply::Sink : public HttpStream::Sink {
 public:
  virtual void Send(HttpResponse response) = 0;
  virtual void Begin(HttpResponse response) = 0;
};

HttpReply::~HttpReply() {
  if (sink_) Send({.status = 500, .body = "no answer\n", .headers = {}});
}

void HttpReply::Send(HttpResponse response) {
  EDGE_CHECK(sink_ != nullptr);
  std::exchange(sink_, nullptr)->Send(std::move(response));
}

HttpStream HttpReply::Stream(HttpResponse response) {
  EDGE_CHECK(sink_ != nullptr);
  auto sink = std::exchange(sink_, nullptr);
  sink->Begin(std::move(response));
  return HttpStream(std::move(sink));
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

constexpr int64_t kNsPerMs = 1'000'000;
constexpr size_t kReadAheadMax = 64 << 10;  // of requests behind the one that is being answered

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

// A page of some other site can make its own name point to us; it cannot make it one of these.
bool IsLoopbackName(std::string_view host) {
  if (const size_t colon = host.rfind(':');
      colon != std::string_view::npos && host.find(']', colon) == std::string_view::npos)
    host = host.substr(0, colon);
  return host == "localhost" || host == "127.0.0.1" || host == "[::1]";
}

bool IsLoopbackAddress(std::string_view address) {
  return address.starts_with("unix:") || address.starts_with("127.") ||
         address.starts_with("localhost:") || address.starts_with("[::1]:");
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

// One HTTP/1.1 connection, until it closes or becomes a WebSocket. Owner: the server.
class Exchange final : public Socket::User, public std::enable_shared_from_this<Exchange> {
 public:
  Exchange(ServerImpl& server, std::unique_ptr<Socket> socket)
      : server_(&server), socket_(std::move(socket)) {}
  ~Exchange() override;

  void Start();
  void Send(HttpResponse response);
  void Begin(HttpResponse response);
  bool SendPiece(std::string_view piece);
  void EndPieces();
  void Orphan();  // the server is going

 private:
  void OnData(std::string_view bytes) override;
  void OnClosed(Status) override;
  void Parse();
  bool ParseOne();
  void Refuse(HttpProblem problem);
  void Dispatch(HttpMessage message);
  void DispatchRpc(HttpServer::RpcFactory& factory, bool is_upgrade);
  void Upgrade(HookPtr main);
  void SetDeadline();
  void ClearDeadline();
  HttpReply NewReply();
  std::string HeadOf(const HttpResponse& response, std::optional<size_t> length) const;
  void Answered();

  ServerImpl* server_;  // null once it is gone, though a caller may still hold us
  std::unique_ptr<Socket> socket_;
  std::string input_;
  std::unique_ptr<HttpParser> parser_;  // null between requests
  HttpRequest request_;
  std::string allow_origin_;
  Loop::TimerId deadline_ = 0;
  bool answering_ = false;  // a request is with its handler
  bool head_only_ = false;
  bool keep_alive_ = false;
  bool closing_ = false;
  bool parsing_ = false;
  bool continued_ = false;
};

class ReplySink : public HttpReply::Sink {
 public:
  explicit ReplySink(std::weak_ptr<Exchange> exchange) : exchange_(std::move(exchange)) {}
  void Send(HttpResponse response) override {
    if (const auto exchange = exchange_.lock()) exchange->Send(std::move(response));
  }
  void Begin(HttpResponse response) override {
    if (const auto exchange = exchange_.lock()) exchange->Begin(std::move(response));
  }
  bool Write(std::string_view piece) override {
    const auto exchange = exchange_.lock();
    return exchange != nullptr && exchange->SendPiece(piece);
  }
  void End() override {
    if (const auto exchange = exchange_.lock()) exchange->EndPieces();
  }

 private:
  std::weak_ptr<Exchange> exchange_;
};

std::string HostOf(const std::string& peer_address) {
  return peer_address.substr(0, peer_address.rfind(':'));
}

class ServerImpl final : public HttpServer {
 public:
  ServerImpl(Io& io, Options options) : io_(io), options_(std::move(options)) {}
  ~ServerImpl() override {
    *alive_ = false;
    listener_ = nullptr;
    const auto exchanges = std::exchange(exchanges_, {});
    const auto links = std::exchange(links_, {});
    for (const auto& [key, exchange] : exchanges) exchange->Orphan();
    for (const auto& [key, link] : links) link->Close(Unavailable("the server is going away"));
  }

  Status Listen() {
    if (!options_.tls.certificate.empty()) {
      EDGE_ASSIGN_OR_RETURN(tls_, TlsContext::ForServer(options_.tls));
    } else if (!options_.plaintext_beyond_loopback && !IsLoopbackAddress(options_.address)) {
      // An address that makes no sense is told of as such.
      if (&io_.network() == &PosixNetwork()) {
        const auto probe = io_.network().Listen(io_.loop(), options_.address, [](auto) {});
        if (probe.status().code() == StatusCode::kInvalidArgument) return probe.status();
      }
      return FailedPrecondition(
          "listen on {}: beyond loopback (127.0.0.1, [::1]) only with a certificate, or with "
          "plaintext_beyond_loopback",
          options_.address);
    }
    auto listener =
        io_.network().Listen(io_.loop(), options_.address,
                             [this, alive = alive_](std::unique_ptr<edge::Connection> connection) {
                               if (*alive) Accept(std::move(connection));
                             });
    if (listener.status().code() == StatusCode::kUnavailable)
      return Unavailable("listen on {}: the port is in use", options_.address);
    if (!listener.ok()) return listener.status();
    listener_ = std::move(*listener);
    address_ = listener_->address();
    return OkStatus();
  }

  using HttpServer::HandleRpc;
  Status Handle(std::string path, Handler handler) override {
    return AddRoute(handlers_, std::move(path), std::move(handler));
  }
  Status HandleRpc(std::string path, RpcFactory factory) override {
    return AddRoute(factories_, std::move(path), std::move(factory));
  }
  const std::string& address() const override { return address_; }
  size_t connections() const override { return exchanges_.size() + links_.size(); }

  Handler* FindHandler(std::string_view path) { return FindRoute(handlers_, path); }
  RpcFactory* FindFactory(std::string_view path) { return FindRoute(factories_, path); }
  const Options& options() const { return options_; }
  Io& io() { return io_; }
  Loop& loop() const { return io_.loop(); }
  bool is_tls() const { return tls_ != nullptr; }

  // Its last use of itself.
  void Forget(Exchange* exchange) { exchanges_.erase(exchange); }
  void ForgetAddress(const std::string& peer_address) {
    if (options_.connections_per_address_max == 0) return;
    const auto found = per_address_.find(HostOf(peer_address));
    if (found != per_address_.end() && --found->second == 0) per_address_.erase(found);
  }
  void AddLink(std::shared_ptr<WebSocketLink> link, std::unique_ptr<Socket> socket,
               std::string_view early, HookPtr main) {
    WebSocketLink* const key = link.get();
    links_.emplace(key, link);
    std::string counted = options_.connections_per_address_max == 0 ? "" : socket->peer_address();
    link->Start(std::move(socket), early, std::move(main),
                [this, key, counted = std::move(counted), alive = alive_](const Status&) {
                  if (!*alive) return;
                  ForgetAddress(counted);
                  links_.erase(key);
                });
  }

  // May a page of this origin talk to us? No origin: not a browser.
  bool AllowsOrigin(std::string_view origin, std::string_view host) const {
    if (origin.empty()) return true;
    for (const std::string& allowed : options_.allowed_origins)
      if (allowed == "*" || allowed == origin) return true;
    const size_t scheme = origin.find("://");
    return scheme != std::string_view::npos &&
           ToLowerAscii(origin.substr(scheme + 3)) == ToLowerAscii(host) &&
           IsLoopbackName(ToLowerAscii(host));
  }

 private:
  void Accept(std::unique_ptr<edge::Connection> connection) {
    if (connections() >= options_.connections_max) return;  // closes it
    if (options_.connections_per_address_max != 0) {
      size_t& count = per_address_[HostOf(connection->peer_address())];
      if (count >= options_.connections_per_address_max) return;
      ++count;
    }
    if (tls_ != nullptr) connection = tls_->Wrap(io_.loop(), std::move(connection), "");
    auto exchange =
        std::make_shared<Exchange>(*this, std::make_unique<Socket>(std::move(connection)));
    exchanges_.emplace(exchange.get(), exchange);
    exchange->Start();
  }

  Io& io_;
  const Options options_;
  std::shared_ptr<TlsContext> tls_;
  std::unique_ptr<edge::Listener> listener_;
  std::string address_;
  std::vector<std::unique_ptr<Route<Handler>>> handlers_;
  std::vector<std::unique_ptr<Route<RpcFactory>>> factories_;
  std::unordered_map<std::string, size_t> per_address_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
  std::unordered_map<Exchange*, std::shared_ptr<Exchange>> exchanges_;
  std::unordered_map<WebSocketLink*, std::shared_ptr<WebSocketLink>> links_;
};

// ---- one connection

Exchange::~Exchange() {
  if (server_ == nullptr) return;
  ClearDeadline();
  if (socket_ != nullptr) server_->ForgetAddress(socket_->peer_address());
}

void Exchange::Orphan() {
  ClearDeadline();
  server_ = nullptr;
  socket_ = nullptr;
}

void Exchange::Start() {
  socket_->SetUser(weak_from_this());
  SetDeadline();
}

// For all of what is awaited next, however often a byte of it comes.
void Exchange::SetDeadline() {
  ClearDeadline();
  deadline_ = server_->loop().After(server_->options().request_timeout_ms * kNsPerMs, [this] {
    deadline_ = 0;
    server_->Forget(this);
  });
}

void Exchange::ClearDeadline() {
  if (deadline_ != 0) server_->loop().CancelTimer(std::exchange(deadline_, 0));
}

void Exchange::OnClosed(Status) {
  if (server_ != nullptr) server_->Forget(this);
}

void Exchange::OnData(std::string_view bytes) {
  if (closing_) return;
  input_.append(bytes);
  if (!answering_) return Parse();
  if (input_.size() > kReadAheadMax) socket_->Pause(true);
}

// A loop, not a chain of calls: requests may lie behind each other by the thousand.
void Exchange::Parse() {
  const auto self = shared_from_this();
  if (std::exchange(parsing_, true)) return;
  while (socket_ != nullptr && !answering_ && !closing_ && !input_.empty() && ParseOne()) {
  }
  parsing_ = false;
}

// False if more must come first.
bool Exchange::ParseOne() {
  if (parser_ == nullptr) {
    parser_ = HttpParser::ForRequest(server_->options().header_bytes_max,
                                     server_->options().body_bytes_max);
    continued_ = false;
  }
  HttpProblem problem = HttpProblem::kNone;
  const size_t taken = parser_->Put(input_, &problem);
  input_.erase(0, taken);
  if (problem != HttpProblem::kNone) {
    Refuse(problem);
  } else if (parser_->done()) {
    HttpMessage message = parser_->Take();
    parser_ = nullptr;
    if (input_.empty()) input_.shrink_to_fit();
    ClearDeadline();
    Dispatch(std::move(message));
  } else {
    if (parser_->head_done() && !std::exchange(continued_, true) && parser_->expects_continue())
      socket_->Write("HTTP/1.1 100 Continue\r\n\r\n");
    return taken != 0 && !input_.empty();
  }
  return true;
}

void Exchange::Refuse(HttpProblem problem) {
  const auto& options = server_->options();
  keep_alive_ = false;
  head_only_ = false;
  allow_origin_.clear();
  answering_ = true;
  if (problem == HttpProblem::kBodyTooLarge)
    return Send(ErrorPage(413, Format("the body may have {} bytes", {options.body_bytes_max})));
  if (problem == HttpProblem::kHeadTooLarge)
    return Send(ErrorPage(431, Format("the header may have {} bytes", {options.header_bytes_max})));
  Send(ErrorPage(400, "bad request"));
}

HttpReply Exchange::NewReply() {
  return HttpReply(std::make_shared<ReplySink>(weak_from_this()));
}

void Exchange::Dispatch(HttpMessage message) {
  const auto self = shared_from_this();  // a handler may end the server
  answering_ = true;
  keep_alive_ = message.keep_alive;
  const bool is_upgrade = message.is_upgrade;
  request_ = {};
  request_.method = std::move(message.method);
  request_.headers = std::move(message.headers);
  if (!is_upgrade) request_.body = std::move(message.body);
  request_.peer_address = socket_->peer_address();
  request_.is_tls = server_->is_tls();
  if (const auto* certificate = CertificateOf(socket_->connection()))
    request_.certificate = *certificate;
  const std::string_view target = message.target;
  const size_t query = std::min(target.find('?'), target.size());
  request_.query = target.substr(std::min(query + 1, target.size()));
  head_only_ = request_.method == "HEAD";
  allow_origin_.clear();
  if (!target.starts_with('/') || !Decode(target.substr(0, query), &request_.path))
    return Send(ErrorPage(400, "bad path"));

  const bool is_post = request_.method == "POST";
  const bool is_read = request_.method == "GET" || head_only_;
  const std::string_view origin = request_.Header("origin");
  if ((is_upgrade || !is_read) && !server_->AllowsOrigin(origin, request_.Header("host")))
    return Send(ErrorPage(403, "pages of this origin may not call: " + std::string(origin)));

  HttpServer::RpcFactory* factory = server_->FindFactory(request_.path);
  if (factory != nullptr && (is_upgrade || is_post)) return DispatchRpc(*factory, is_upgrade);
  HttpServer::Handler* handler = server_->FindHandler(request_.path);
  if (is_upgrade || handler == nullptr)
    return Send(ErrorPage(factory != nullptr ? 405 : 404, factory != nullptr
                                                              ? "only POST or a WebSocket here"
                                                              : "nothing at " + request_.path));
  if (!is_read && !is_post) return Send(ErrorPage(405, "GET, HEAD or POST"));
  (*handler)(request_, NewReply());
}

void Exchange::DispatchRpc(HttpServer::RpcFactory& factory, bool is_upgrade) {
  if (is_upgrade && request_.Header("sec-websocket-version") != "13")
    return Send({.status = 426,
                 .body = "WebSocket version 13 is wanted\n",
                 .headers = {{"Sec-WebSocket-Version", "13"}}});
  if (is_upgrade &&
      (request_.Header("sec-websocket-key").empty() || request_.method != "GET" || !keep_alive_))
    return Send(ErrorPage(400, "not a WebSocket handshake"));
  StatusOr<HookPtr> main = factory(request_);
  if (!main.ok())
    return Send(ErrorPage(HttpForCode(main.status().code()), std::string(Message(main.status()))));
  if (is_upgrade) return Upgrade(std::move(*main));
  if (const std::string_view origin = request_.Header("origin"); !origin.empty())
    allow_origin_ = origin;
  std::make_shared<Batch>(server_->loop(), NewReply())
      ->Run(std::move(*main), server_->options().session, request_.body,
            server_->options().batch_timeout_ms);
}

// `length`: of the body, or nothing if it comes in pieces.
std::string Exchange::HeadOf(const HttpResponse& response, std::optional<size_t> length) const {
  std::string head = Format("HTTP/1.1 {} {}\r\n",
                            {response.status, HttpReason(static_cast<unsigned>(response.status))});
  const auto add = [&head](std::string_view name, std::string_view value) {
    const bool clean = std::ranges::none_of(value, [](char c) { return c == '\r' || c == '\n'; });
    if (clean) head.append(name).append(": ").append(value).append("\r\n");
  };
  add("Content-Type", response.content_type);
  add("X-Content-Type-Options", "nosniff");
  if (!allow_origin_.empty()) add("Access-Control-Allow-Origin", allow_origin_);
  for (const auto& [name, value] : response.headers) add(name, value);
  if (!keep_alive_) add("Connection", "close");
  if (length) {
    add("Content-Length", std::to_string(*length));
  } else {
    add("Transfer-Encoding", "chunked");
  }
  return head += "\r\n";
}

void Exchange::Send(HttpResponse response) {
  const auto self = shared_from_this();
  answering_ = false;
  if (closing_ || socket_ == nullptr) return;
  socket_->Write(HeadOf(response, response.body.size()),
                 head_only_ ? std::string_view() : std::string_view(response.body));
  Answered();
}

void Exchange::Begin(HttpResponse response) {
  if (closing_ || socket_ == nullptr) return;
  socket_->Write(HeadOf(response, std::nullopt));
  SendPiece(response.body);
}

bool Exchange::SendPiece(std::string_view piece) {
  if (closing_ || socket_ == nullptr) return false;
  if (head_only_ || piece.empty()) return true;  // an empty piece would be the end
  char size[20];
  std::snprintf(size, sizeof size, "%zx\r\n", piece.size());
  socket_->Write(size, std::string(piece) + "\r\n");
  return true;
}

void Exchange::EndPieces() {
  const auto self = shared_from_this();
  answering_ = false;
  if (closing_ || socket_ == nullptr) return;
  if (!head_only_) socket_->Write("0\r\n\r\n");
  Answered();
}

void Exchange::Answered() {
  request_ = {};
  SetDeadline();
  if (!keep_alive_) {
    closing_ = true;
    return socket_->Close();
  }
  socket_->Pause(false);
  Parse();
}

void Exchange::Upgrade(HookPtr main) {
  const bool binary = HeaderListHas(request_.Header("sec-websocket-protocol"), kBinaryProtocol);
  std::string head =
      "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
      "Sec-WebSocket-Accept: " +
      WebSocketAccept(request_.Header("sec-websocket-key")) + "\r\n";
  if (binary)
    head.append("Sec-WebSocket-Protocol: ")
        .append(kBinaryProtocol)
        .append("\r\n")
        .append(kBinaryHeader)
        .append(": 1\r\n");
  socket_->Write(head, "\r\n");
  const auto& options = server_->options();
  auto link = std::make_shared<WebSocketLink>(
      server_->io(), WebSocketLink::Options{.is_server = true,
                                            .binary = binary,
                                            .limits = options.session,
                                            .traffic = options.traffic,
                                            .idle_timeout_ms = options.session_idle_timeout_ms});
  ServerImpl& server = *server_;
  auto socket = std::move(socket_);
  const std::string early = std::move(input_);
  server.Forget(this);  // the caller's frame still holds us
  server.AddLink(std::move(link), std::move(socket), early, std::move(main));
}

}  // namespace

StatusOr<std::unique_ptr<HttpServer>> HttpServer::Create(Io& io, Options options) {
  auto server = std::make_unique<ServerImpl>(io, std::move(options));
  EDGE_RETURN_IF_ERROR(server->Listen());
  return std::unique_ptr<HttpServer>(std::move(server));
}

}  // namespace edge::rpc
