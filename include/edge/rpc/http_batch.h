// edge/rpc/http_batch.h - a Cap'n Web session that is one HTTP request.
//
//   auto batch = HttpBatch::Create(io, "http://127.0.0.1:8787/desk", {}).value();
//   auto seats = batch->main().Call("available");
//   auto name = batch->main().Call("getUser", 7).Call("getName");   // pipelined
//   // at the end of this turn both go in one POST; the promises settle when it is answered
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "edge/base/status.h"
#include "edge/rpc/io.h"
#include "edge/rpc/session.h"
#include "edge/rpc/tls.h"

namespace edge::rpc {

// Single-threaded: the loop of its Io. The server cannot call back: functions that are passed
// are never called. Objects that it returns are gone with the answer. Destroying it fails what
// waits with Cancelled.
class HttpBatch {
 public:
  struct Options {
    SessionLimits limits = {};
    int64_t timeout_ms = 30'000;
    std::vector<std::pair<std::string, std::string>> headers = {};  // "Authorization" ...
    TlsClientOptions tls = {};                                      // for https
  };
  // InvalidArgument: a bad URL or header. Nothing is sent before the first call. Calls fail with
  // Unavailable (no connection; or made after the batch went), DeadlineExceeded, or what the
  // server answered instead.
  static StatusOr<std::unique_ptr<HttpBatch>> Create(Io& io, std::string url, Options options);
  virtual ~HttpBatch() = default;
  virtual AnyStub main() const = 0;
};

}  // namespace edge::rpc
