// edge/rpc/http_server.h - one listener for pages, Cap'n Web over WebSocket, and batches.
//
//   HttpServer::Options options{.address = "127.0.0.1:8787"};
//   auto server = HttpServer::Create(io, std::move(options)).value();
//   server->Handle("/", [](const HttpRequest& request, HttpReply reply) { reply.Send({...}); });
//   server->HandleRpc("/flights/", [](const HttpRequest& request) -> StatusOr<HookPtr> {...});
//
// Everything runs on the loop of `io`. Only loopback addresses are accepted for now: others
// need TLS, which is not there yet.
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

namespace edge::rpc {

// Borrowed by a handler until it returns.
struct HttpRequest {
  std::string method;  // "GET"
  std::string path;    // decoded, without the query: "/flights/UA17"
  std::string query;   // after '?', as it came
  std::vector<std::pair<std::string, std::string>> headers;  // names in lower case
  std::string body;
  std::string peer_address;
  std::string_view Header(std::string_view lower_case_name) const;  // "" if absent
};

struct HttpResponse {
  int status = 200;
  std::string content_type = "text/plain; charset=utf-8";
  std::string body = {};
  std::vector<std::pair<std::string, std::string>> headers = {};
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

 private:
  std::shared_ptr<Sink> sink_;
};

// Single-threaded: the loop's. Destroying it closes the listener and all connections.
class HttpServer {
 public:
  struct Options {
    std::string address = "127.0.0.1:0";  // or "[::1]:8787"; port 0 takes a free one
    size_t header_bytes_max = 16 << 10;
    size_t body_bytes_max = 16 << 20;
    size_t connections_max = 1024;       // more are closed at once
    int64_t request_timeout_ms = 30000;  // for a request to arrive, and idle keep-alive
    int64_t batch_timeout_ms = 30000;    // for the answers of an HTTP batch
    SessionLimits session = {};
    // Origins of browsers whose pages may open rpc sessions, such as "http://localhost:3000",
    // beside the server's own; "*": any. Requests without an Origin are not from a browser.
    std::vector<std::string> allowed_origins = {};
  };
  using Handler = Callback<void(const HttpRequest&, HttpReply)>;
  // The main object of a new session, or why there is none (NotFound: 404,
  // PermissionDenied and Unauthenticated: 403, ResourceExhausted and Unavailable: 503, others:
  // 400).
  using RpcFactory = Callback<StatusOr<HookPtr>(const HttpRequest&)>;

  // Call on io.loop(). InvalidArgument: a bad address; FailedPrecondition: not loopback;
  // Unavailable: the port is in use; PermissionDenied.
  static StatusOr<std::unique_ptr<HttpServer>> Create(Io& io, Options options);
  virtual ~HttpServer() = default;

  // A path that ends in '/' covers everything below it; the longest match counts. GET, HEAD
  // and POST reach the handler. FailedPrecondition if the path is taken.
  virtual Status Handle(std::string path, Handler handler) = 0;
  // WebSocket sessions and HTTP batches (POST) at `path`; other requests there fall through
  // to Handle()'s, if any covers the path.
  virtual Status HandleRpc(std::string path, RpcFactory factory) = 0;

  virtual const std::string& address() const = 0;  // "127.0.0.1:8787", with the real port
  virtual size_t connections() const = 0;
};

// The content type for a file name: "text/html; charset=utf-8" ...
std::string_view ContentTypeFor(std::string_view file_name);

}  // namespace edge::rpc
