// edge/kv/remote.h - a tier in another process, over Cap'n Web. Links edge::kv_rpc.
//
//   server->HandleRpc("/kv/CONFIG", [region](const auto&) { return kv::ServeTier(region.AsOrigin(),
//   loop); });
//   ...
//   auto remote = kv::RemoteOrigin::Create(loop).value();
//   remote->SetPeer(session->main());              // and again after each reconnect
//   auto near = kv::Namespace::Open(remote, {.fresh_for_s = 60, .loop = &loop}).value();
#pragma once
#include <cstdint>
#include <memory>

#include "edge/base/executor.h"
#include "edge/kv/origin.h"
#include "edge/rpc/stub.h"

namespace edge::kv {

// The object that answers a RemoteOrigin: get, put, remove, list and watch of `origin`, which
// is asked on `loop` (it blocks it, if it blocks). Use it on `loop`. A peer may do whatever
// `origin` allows; who may be a peer is the server's to decide.
rpc::HookPtr ServeTier(std::shared_ptr<Origin> origin, Loop& loop);

struct RemoteOriginOptions {
  int64_t call_timeout_ms = 5000;  // then DeadlineExceeded; the call may still take effect
};

// An origin in another process. Without a peer, and when the session is lost, calls fail with
// Unavailable. A new peer is watched, and everything may have changed by then. Thread-safe;
// the blocking calls must not be made on a loop.
class RemoteOrigin : public AsyncOrigin {
 public:
  // `loop` runs the calls and outlives the result.
  static std::shared_ptr<RemoteOrigin> Create(Loop& loop, const RemoteOriginOptions& options = {});
  // `peer`: what ServeTier made, there. On the loop. An empty stub: there is none now.
  virtual void SetPeer(rpc::AnyStub peer) = 0;
};

}  // namespace edge::kv
