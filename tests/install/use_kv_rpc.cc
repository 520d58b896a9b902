#include <cstdio>
#include <memory>

#include "edge/base/executor.h"
#include "edge/kv/memory_origin.h"
#include "edge/kv/namespace.h"
#include "edge/kv/remote.h"

int main() {
  auto executor = edge::Executor::Create({.threads = 1});
  if (!executor.ok()) return 1;
  edge::Loop& loop = (*executor)->loop(0);
  std::string answer = "nothing";
  {
    auto remote = edge::kv::RemoteOrigin::Create(loop);
    edge::RunOn(loop, [&] {
      auto origin = std::make_shared<edge::kv::MemoryOrigin>();
      remote->SetPeer(edge::rpc::AnyStub(edge::kv::ServeTier(origin, loop)));
    });
    {
      auto kv = edge::kv::Namespace::Open(remote);
      if (!kv.ok() || !kv->Put("greeting", "hello").ok()) return 1;
      const auto value = kv->Get("greeting");
      if (value.ok() && value->has_value()) answer = **value;
    }
    edge::RunOn(loop, [&remote] { remote->SetPeer({}); });
  }
  std::puts(answer.c_str());
  return answer == "hello" ? 0 : 1;
}
