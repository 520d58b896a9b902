// edge/rpc/service.h - the main object of another process, always at hand.
//
//   auto service = Service::Create(io, {.url = "ws://10.0.0.7:8787/auth", ...});
//   Stub<Auth> auth(service->main());
//   auto name = auth.Call<&Auth::Authenticate>(cookie).Call<&User::GetName>();
//
// It connects at the first call and again after a loss, and gives each call a deadline. Calls
// whose connection is lost fail with Unavailable and may or may not have run; only those to
// methods that are declared idempotent are made again. App::Service makes these from the
// configuration.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "edge/base/trace.h"
#include "edge/rpc/hook.h"
#include "edge/rpc/io.h"
#include "edge/rpc/session.h"
#include "edge/rpc/target.h"
#include "edge/rpc/tls.h"

namespace edge::rpc {

struct ServiceOptions {
  std::string url;               // as for WebSocketSession::Connect
  int64_t deadline_ms = 10'000;  // from the making of a call to its answer; 0: none
  int retries_max = 3;           // of one call to an idempotent method, 50, 100, 200 ms apart
  // Names, on the wire, of methods that may run twice without harm. Such a call's result is
  // data: it cannot be pipelined on before it is there.
  std::vector<std::string> idempotent = {};
  std::vector<std::pair<std::string, std::string>> headers = {};  // "Authorization" ...
  TlsClientOptions tls = {};
  SessionLimits limits = {};
  // Who the work is for: goes with the handshake of each connection as "traceparent".
  TraceContext trace = {};
};

// Single-threaded: the loop of its Io; its stubs are good on any thread. Destroying it fails
// its calls, also later ones, with Unavailable.
class Service {
 public:
  static std::unique_ptr<Service> Create(Io& io, ServiceOptions options);
  virtual ~Service() = default;
  virtual HookPtr main() const = 0;
  virtual bool connected() const = 0;
};

// The names in T::Idempotent, which is a Methods<...> like T::Rpc; none without it.
template <typename T>
std::vector<std::string> IdempotentNames() {
  std::vector<std::string> names;
  if constexpr (requires { typename T::Idempotent; })
    for (const auto& entry : internal::SortedEntries<T>(typename T::Idempotent{}))
      names.emplace_back(entry.name);
  return names;
}

}  // namespace edge::rpc
