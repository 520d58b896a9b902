#include <cstdio>

#include "edge/base/errors.h"
#include "edge/inference/engine.h"
#include "edge/inference/gguf.h"

int main() {
  const auto file = edge::inference::GgufFile::Parse(edge::AsBytes("GGUF but short"), "model");
  const auto engine = edge::inference::Engine::Open("/nowhere/model.gguf");
  std::printf("%s\n%s\n", file.status().ToString().c_str(), engine.status().ToString().c_str());
  return !file.ok() && engine.status().code() == edge::StatusCode::kNotFound ? 0 : 1;
}
