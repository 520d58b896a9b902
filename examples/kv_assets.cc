// Static assets over HTTP from a kv namespace: the ETag is in the metadata, so a browser that
// has the file is answered 304 without the value being looked at.
#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdio>
#include <string>

#include "edge/base/checksum.h"
#include "edge/base/executor.h"
#include "edge/kv/memory_origin.h"
#include "edge/kv/namespace.h"
#include "edge/rpc/http_server.h"

namespace kv = edge::kv;
namespace rpc = edge::rpc;

namespace {

edge::Status Publish(kv::Namespace& assets, std::string_view path, std::string_view content) {
  const std::string tag = edge::HashBytes128(edge::AsBytes(content)).ToHex();
  return assets.Put(path, content, {.metadata = "{\"etag\":\"" + tag + "\"}"});
}

// Answers when the value is there: from memory at once, else without holding up the loop.
void Serve(kv::Namespace& assets, const rpc::HttpRequest& request, rpc::HttpReply reply) {
  auto shared = std::make_shared<rpc::HttpReply>(std::move(reply));
  assets.GetAsync(request.path, {},
                  [shared, path = request.path,
                   wanted = std::string(request.Header("if-none-match"))](auto asset) {
                    if (!asset.ok()) return shared->Send({.status = 503});
                    if (!*asset) return shared->Send({.status = 404, .body = "no such file"});
                    const std::string tag = '"' + (*asset)->metadata.substr(9, 32) + '"';
                    rpc::HttpResponse response;
                    response.headers = {{"etag", tag}, {"cache-control", "max-age=60"}};
                    response.content_type = rpc::ContentTypeFor(path);
                    if (wanted == tag) {
                      response.status = 304;
                    } else {
                      response.body = std::move((*asset)->value);
                    }
                    shared->Send(std::move(response));
                  });
}

// The whole answer to one GET, by hand: there is no client in this example's libraries.
std::string Fetch(const std::string& address, const std::string& path, const std::string& header) {
  const size_t colon = address.rfind(':');
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(static_cast<uint16_t>(std::stoi(address.substr(colon + 1))));
  inet_pton(AF_INET, address.substr(0, colon).c_str(), &to.sin_addr);
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  std::string answer;
  if (connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof(to)) == 0) {
    const std::string request = "GET " + path + " HTTP/1.1\r\nHost: " + address + "\r\n" + header +
                                "Connection: close\r\n\r\n";
    if (write(fd, request.data(), request.size()) > 0) {
      char bytes[4096];
      for (ssize_t got = 0; (got = read(fd, bytes, sizeof(bytes))) > 0;) {
        answer.append(bytes, static_cast<size_t>(got));
      }
    }
  }
  close(fd);
  return answer;
}

edge::Status Run() {
  EDGE_ASSIGN_OR_RETURN(kv::Namespace assets,
                        kv::Namespace::Open(std::make_shared<kv::MemoryOrigin>()));
  EDGE_RETURN_IF_ERROR(Publish(assets, "/index.html", "<h1>Hello</h1>"));
  EDGE_RETURN_IF_ERROR(Publish(assets, "/style.css", "h1 { color: teal }"));
  EDGE_ASSIGN_OR_RETURN(const auto executor, edge::Executor::Create({.threads = 1}));
  edge::Loop& loop = executor->loop(0);
  std::unique_ptr<rpc::Io> io;
  std::unique_ptr<rpc::HttpServer> server;
  const edge::Status started = edge::RunOn(loop, [&]() -> edge::Status {
    EDGE_ASSIGN_OR_RETURN(io, rpc::Io::Create(loop));
    EDGE_ASSIGN_OR_RETURN(server, rpc::HttpServer::Create(*io, {}));
    return server->Handle("/", [&assets](const rpc::HttpRequest& request, rpc::HttpReply reply) {
      Serve(assets, request, std::move(reply));
    });
  });
  EDGE_RETURN_IF_ERROR(started);
  const std::string first = Fetch(server->address(), "/style.css", "");
  const size_t at = first.find("\"");
  const std::string tag = at == std::string::npos ? "" : first.substr(at, 34);
  const std::string again =
      Fetch(server->address(), "/style.css", "If-None-Match: " + tag + "\r\n");
  const std::string missing = Fetch(server->address(), "/none", "");
  edge::RunOn(loop, [&] {
    server.reset();
    io.reset();
  });
  if (!first.ends_with("h1 { color: teal }") || first.find("text/css") == std::string::npos ||
      again.find(" 304 ") == std::string::npos || again.find("teal") != std::string::npos ||
      missing.find(" 404 ") == std::string::npos) {
    return edge::Status(edge::StatusCode::kInternal, first + "\n" + again + "\n" + missing);
  }
  std::printf(
      "200 with the file and its ETag, then 304 without the file; 404 for what is absent.\n");
  return edge::OkStatus();
}

}  // namespace

int main() {
  const edge::Status status = Run();
  if (!status.ok()) std::printf("%s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
