// The client's side of HTTP: one request on one connection.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "edge/base/callback.h"
#include "edge/base/status.h"
#include "edge/rpc/io.h"
#include "edge/rpc/tls.h"
#include "src/rpc/http_message.h"
#include "src/rpc/socket.h"

namespace edge::rpc {

struct ServerUrl {
  bool is_tls = false;
  std::string address;  // for Network::Connect
  std::string host;     // for the Host header
  std::string name;     // of the server, for its certificate
  std::string path;
};

// "ws://127.0.0.1:8787/path", also wss, http and https; "ws+unix:/run/edge.sock:/path" and
// "http+unix:". Names other than localhost are not looked up (that would need a thread): the
// network gets them as they are.
StatusOr<ServerUrl> ParseUrl(std::string_view url);

// InvalidArgument for a header that would end its line.
Status CheckHeaders(const std::vector<std::pair<std::string, std::string>>& headers);

struct HttpRequestOptions {
  std::string head_lines;  // "Name: value\r\n" ...
  std::string method = "GET";
  std::string body;
  int64_t timeout_ms = 10000;  // until the answer is there
  size_t answer_bytes_max = 1 << 20;
  TlsClientOptions tls;
};
struct HttpAnswer {
  HttpMessage message;
  std::unique_ptr<Socket> socket;  // after 101 (Switching Protocols); else null
  std::string early;               // what came behind the answer
};
// Calls `done` once, on the loop: the answer, or Unavailable, DeadlineExceeded,
// InvalidArgument (the URL, a certificate) or PermissionDenied (the TLS handshake).
void SendHttp(Io& io, const std::string& url, HttpRequestOptions options,
              Callback<void(StatusOr<HttpAnswer>)> done);

}  // namespace edge::rpc
