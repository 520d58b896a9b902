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
#include <utility>
#include <vector>

#include "edge/base/executor.h"
#include "edge/base/metrics.h"
#include "edge/base/status.h"
#include "edge/config.h"
#include "edge/durable/host.h"
#include "edge/inference/engine.h"
#include "edge/kv/namespace.h"
#include "edge/rpc/http_server.h"
#include "edge/rpc/service.h"
#include "edge/rpc/stub.h"
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

  // Service bindings: one object, in this process or in another, by configuration alone.
  // NotFound if the configuration has no such binding; FailedPrecondition if it is local and
  // nobody has provided it. A remote one connects when it is called; see edge/rpc/service.h for
  // deadlines and for `using Idempotent = rpc::Methods<...>` in T.
  template <typename T>
  StatusOr<rpc::Stub<T>> Service(std::string_view binding) {
    EDGE_ASSIGN_OR_RETURN(rpc::HookPtr hook, FindService(binding, rpc::IdempotentNames<T>()));
    return rpc::Stub<T>(std::move(hook));
  }
  // The local object behind a binding; it runs on loop 0, and is served at `expose` if the
  // configuration says so. Before Listen(). AlreadyExists, NotFound; nothing happens, and it is
  // OK, if the configuration gives a url: then the object is elsewhere.
  template <typename T>
  Status Provide(std::string_view binding, std::shared_ptr<T> object) {
    return ProvideHook(binding, [object = std::move(object)]() mutable {
      return rpc::Stub<T>(std::move(object)).hook();
    });
  }

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
  StatusOr<rpc::HookPtr> FindService(std::string_view binding, std::vector<std::string> idempotent);
  Status ProvideHook(std::string_view binding, Callback<rpc::HookPtr()> make);  // on loop 0
  std::unique_ptr<Rep> rep_;
};

}  // namespace edge
