// edge/edge.h - one configuration, all the libraries, a clean stop.
//
//   auto app = edge::App::Open("edge.json").value();
//   auto config = app->Kv("CONFIG").value();
//   auto flights = app->Durable<FlightSeating>("FLIGHTS").value();
//   app->HandleRpc("/flights/", [&](const rpc::HttpRequest& request) { ... });
//   app->Listen();
//
// The facade holds no logic of its own: it makes the executor, the relay and the bindings
// that the file names, passes adapters between them, and takes everything down in the right
// order. Whatever it does can be done by hand with the libraries.
#pragma once
#include <memory>
#include <string>
#include <string_view>

#include "edge/base/executor.h"
#include "edge/base/metrics.h"
#include "edge/base/status.h"
#include "edge/config.h"
#include "edge/durable/host.h"
#include "edge/inference/engine.h"
#include "edge/kv/namespace.h"
#include "edge/rpc/http_server.h"
#include "edge/srs/relay.h"

namespace edge {

// Thread-safe. Must be destroyed by a thread that is none of its loops.
class App {
 public:
  // Reads the file (edge/config.h) and builds everything but the listener. The errors are
  // those of the parts, with the path in the configuration before the text.
  static StatusOr<std::unique_ptr<App>> Open(const std::string& config_path);
  static StatusOr<std::unique_ptr<App>> Open(AppConfig config);
  // Stops listening, lets running turns and their gates finish, uploads what waits.
  ~App();

  // The binding of that name. NotFound if the configuration has none. Durable() gives a class
  // to a binding: once, AlreadyExists after that; keep and copy the result.
  StatusOr<kv::Namespace> Kv(std::string_view binding);
  template <typename T>
  StatusOr<durable::Namespace<T>> Durable(std::string_view binding) {
    EDGE_RETURN_IF_ERROR(CheckDurable(binding));
    return host().template AddNamespace<T>(std::string(binding));
  }
  // NotFound if the configuration has no "ai".
  StatusOr<inference::Engine*> Ai();

  // Routes, see rpc::HttpServer. Before Listen(); handlers run on loop 0.
  Status Handle(std::string path, rpc::HttpServer::Handler handler);
  Status HandleRpc(std::string path, rpc::HttpServer::RpcFactory factory);
  // Listens at listen.http; returns the address with its real port. The metrics page is at
  // /metrics unless that path is taken. FailedPrecondition if the configuration names none.
  StatusOr<std::string> Listen();

  Executor& executor();
  srs::Relay& relay();
  durable::Host& host();
  MetricsRegistry& metrics();

 private:
  struct Rep;
  explicit App(std::unique_ptr<Rep> rep);
  Status CheckDurable(std::string_view binding) const;
  std::unique_ptr<Rep> rep_;
};

}  // namespace edge
