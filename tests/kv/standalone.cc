// Links edge::kv alone: fails to link if it needs SQLite or sockets' libraries.
#include "edge/kv/memory_origin.h"
#include "edge/kv/namespace.h"

int main() {
  auto kv = edge::kv::Namespace::Open(std::make_shared<edge::kv::MemoryOrigin>());
  if (!kv.ok() || !kv->Put("key", "value").ok()) return 1;
  return kv->Get("key").value() == "value" ? 0 : 1;
}
