// Serves the conformance object: conformance_server PORT. Prints "LISTENING <port>".
#include <cstdio>
#include <cstdlib>
#include <string>

#include "edge/base/executor.h"
#include "edge/rpc/http_server.h"
#include "tests/rpc/conformance.h"

int main(int argc, char** argv) {
  using namespace edge;
  using namespace edge::rpc;
  auto executor = Executor::Create({.threads = 1}).value();
  Loop& loop = executor->loop(0);
  std::unique_ptr<Io> io;
  std::unique_ptr<HttpServer> server;
  const Status started = RunOn(loop, [&]() -> Status {
    EDGE_ASSIGN_OR_RETURN(io, Io::Create(loop));
    HttpServer::Options options;
    options.address = std::string("127.0.0.1:") + (argc > 1 ? argv[1] : "0");
    options.allowed_origins = {"*"};
    EDGE_ASSIGN_OR_RETURN(server, HttpServer::Create(*io, std::move(options)));
    auto world = std::make_shared<ConformanceWorld>();
    return server->HandleRpc("/", [world](const HttpRequest&) -> StatusOr<HookPtr> {
      return Stub<Conformance>(std::make_shared<Conformance>(world)).hook();
    });
  });
  if (!started.ok()) {
    std::fprintf(stderr, "%s\n", std::string(Message(started)).c_str());
    return 1;
  }
  const std::string address = server->address();
  std::printf("LISTENING %s\n", address.substr(address.rfind(':') + 1).c_str());
  std::fflush(stdout);
  while (std::getchar() != EOF) {  // until our standard input ends
  }
  RunOn(loop, [&] {
    server.reset();
    io.reset();
  });
  return 0;
}
