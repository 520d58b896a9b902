#include <cstdio>

#include "edge/durable/id.h"

int main() {
  const edge::durable::IdKey key("secret", "FLIGHTS");
  const edge::durable::ObjectId id = key.FromName("UA17");
  const auto again = key.FromString(id.ToString());
  std::puts(id.ToString().c_str());
  return again.ok() && *again == id && key.Owns(id) ? 0 : 1;
}
