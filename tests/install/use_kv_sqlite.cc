#include <cstdio>
#include <memory>

#include "edge/kv/namespace.h"
#include "edge/kv/sqlite_origin.h"

int main() {
  auto origin = edge::kv::SqliteOrigin::Open(":memory:");
  if (!origin.ok()) return 1;
  auto kv = edge::kv::Namespace::Open(std::move(*origin));
  if (!kv.ok() || !kv->Put("greeting", "hello").ok()) return 1;
  const auto value = kv->Get("greeting");
  std::puts(value.ok() && value->has_value() ? (*value)->c_str() : "nothing");
  return value.ok() && *value == "hello" ? 0 : 1;
}
