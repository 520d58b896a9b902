#include <cstdio>
#include <memory>

#include "edge/kv/memory_origin.h"
#include "edge/kv/namespace.h"

int main() {
  auto kv = edge::kv::Namespace::Open(std::make_shared<edge::kv::MemoryOrigin>());
  if (!kv.ok() || !kv->Put("greeting", "hello").ok()) return 1;
  const auto value = kv->Get("greeting");
  if (!value.ok() || !value->has_value()) return 1;
  std::printf("%s\n", (*value)->c_str());
  return **value == "hello" ? 0 : 1;
}
