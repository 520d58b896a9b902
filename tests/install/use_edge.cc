#include <cstdio>

#include "edge/edge.h"

int main() {
  const auto app = edge::App::Open("/nowhere/edge.json");
  std::puts(app.status().ToString().c_str());
  return app.ok() ? 1 : 0;
}
