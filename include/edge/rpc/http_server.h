// edge/rpc/http_server.h - one listener for pages, Cap'n Web over WebSocket, and batches.
//
//   HttpServer::Options options{.address = "127.0.0.1:8787"};
//   auto server = HttpServer::Create(io, std::move(options)).value();
//   server->Handle("/", [](const HttpRequest& request, HttpReply reply) { reply.Send({...}); });
//   server->HandleRpc("/flights/", [](const HttpRequest& request) -> StatusOr<HookPtr> {...});
//   server->HandleRpc("/admin", BearerTokens({{"s3cret", "ada"}}),  // edge/rpc/authenticator.h
//                     [](const Identity& who, const HttpRequest&) -> StatusOr<HookPtr> {...});
//
// Everything runs on the loop of `io`. What a peer may reach is what the factory of its path
// returns, and nothing else. Beyond loopback only with TLS, or when told so plainly.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "edge/base/callback.h"
#include "edge/base/status.h"
#include "edge/rpc/hook.h"
#include "edge/rpc/io.h"
#include "edge/rpc/session.h"
#include "edge/rpc/tls.h"

namespace edge::rpc {

// Borrowed by a handler until it returns.
struct HttpRequest {
  std::string method;  // "GET"
  std::string path;    // decoded, without the query: "/flights/UA17"
  std::string query;   // after '?', as it came
  std::vector<std::pair<std::string, std::string>> headers;  // names in lower case
  std::string body;
  std::string peer_address;
  bool is_tls = false;
  PeerCertificate certificate;  // of a client that proved to own it; else empty
  std::string_view Header(std::string_view lower_case_name) const;  // "" if absent
  std::string_view Cookie(std::string_view name) const;             // "" if absent
};

// Who a request comes from, as an authenticator found (edge/rpc/authenticator.h).
struct Identity {
  std::string name;
  std::string means;  // "token", "cookie", "certificate"
};
using Authenticator = Callback<StatusOr<Identity>(const HttpRequest&)>;

// How fast one peer may talk in a session; 0: no limit. One that is faster is read more slowly,
// so its own sends block. A second's worth may come at once.
struct TrafficLimits {
  int64_t messages_per_s_max = 0;
  int64_t bytes_per_s_max = 0;
};

struct HttpResponse {
  int status = 200;
  std::string content_type = "text/plain; charset=utf-8";
  std::string body = {};
  std::vector<std::pair<std::string, std::string>> headers = {};
};

// An answer whose body is sent in pieces as they come (chunked). Its end is the destructor's.
// On the loop only.
class HttpStream {
 public:
  class Sink;  // private to edge::rpc
  explicit HttpStream(std::shared_ptr<Sink> sink) : sink_(std::move(sink)) {}
  HttpStream(HttpStream&&) noexcept = default;
  HttpStream& operator=(HttpStream&&) = delete;
  ~HttpStream();
  // False once the peer is gone: nothing more needs to be made. What it does not take waits in
  // memory until the request's timeout, so a source without end must be a slow one.
  bool Write(std::string_view piece);

 private:
  std::shared_ptr<Sink> sink_;
};

// The right to answer one request: now or later, once, on the loop. Dropped unused: 500.
class HttpReply {
 public:
  class Sink;  // private to edge::rpc
  explicit HttpReply(std::shared_ptr<Sink> sink) : sink_(std::move(sink)) {}
  HttpReply(HttpReply&&) noexcept = default;
  HttpReply& operator=(HttpReply&&) noexcept = default;
  ~HttpReply();
  void Send(HttpResponse response);
  // Sends all but a body; what `response.body` holds is its first piece.
  HttpStream Stream(HttpResponse response);

 private:
  std::shared_ptr<Sink> sink_;
};

// Single-threaded: the loop's. Destroying it closes the listener and all connections.
class HttpServer {
 public:
  struct Options {
    std::string address = "127.0.0.1:0";  // or "[::1]:8787", "unix:/run/edge.sock"; port 0: any
    TlsServerOptions tls = {};            // with a certificate: https and wss only
    // Without TLS, listen where other machines can connect: whoever is on the way can read
    // and change everything.
    bool plaintext_beyond_loopback = false;
    size_t header_bytes_max = 16 << 10;
    size_t body_bytes_max = 16 << 20;
    size_t connections_max = 1024;              // more are closed at once
    size_t connections_per_address_max = 0;     // of one IP address; 0: no limit of its own
    int64_t request_timeout_ms = 30000;         // for a whole request to come, idle keep-alive,
                                                // and for an answer to be taken
    int64_t batch_timeout_ms = 30000;           // for the answers of an HTTP batch
    int64_t session_idle_timeout_ms = 120'000;  // a peer that answers no ping; 0: none
    TrafficLimits traffic = {};
    SessionLimits session = {};
    // Origins of browsers whose pages may open rpc sessions, such as "http://localhost:3000",
    // beside the server's own; "*": any. Requests without an Origin are not from a browser.
    std::vector<std::string> allowed_origins = {};
  };
  using Handler = Callback<void(const HttpRequest&, HttpReply)>;
  // The main object of a new session, or why there is none (NotFound: 404,
  // Unauthenticated: 401, PermissionDenied: 403, ResourceExhausted and Unavailable: 503, others:
  // 400).
  using RpcFactory = Callback<StatusOr<HookPtr>(const HttpRequest&)>;

  // As an RpcFactory, for a peer whom an authenticator knows.
  using EntrypointFactory = Callback<StatusOr<HookPtr>(const Identity&, const HttpRequest&)>;

  // Call on io.loop(). InvalidArgument: a bad address or certificate; FailedPrecondition: not
  // loopback and neither TLS nor plaintext_beyond_loopback; Unavailable: the port is in use;
  // PermissionDenied.
  static StatusOr<std::unique_ptr<HttpServer>> Create(Io& io, Options options);
  virtual ~HttpServer() = default;

  // A path that ends in '/' covers everything below it; the longest match counts. GET, HEAD
  // and POST reach the handler. FailedPrecondition if the path is taken.
  virtual Status Handle(std::string path, Handler handler) = 0;
  // WebSocket sessions and HTTP batches (POST) at `path`; other requests there fall through
  // to Handle()'s, if any covers the path.
  virtual Status HandleRpc(std::string path, RpcFactory factory) = 0;
  // The same behind an authenticator: it says who the peer is, the factory what such a one gets.
  Status HandleRpc(std::string path, Authenticator authenticator, EntrypointFactory factory);

  virtual const std::string& address() const = 0;  // "127.0.0.1:8787", with the real port
  virtual size_t connections() const = 0;
};

// The content type for a file name: "text/html; charset=utf-8" ...
std::string_view ContentTypeFor(std::string_view file_name);

}  // namespace edge::rpc
