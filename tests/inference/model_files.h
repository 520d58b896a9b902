// tests/inference/model_files.h - finds the real models, which are not part of the project.
#pragma once
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>

namespace edge::inference::testing {

inline bool FileExists(const std::string& path) {
  return std::ifstream(path).good();
}

inline std::string ReadText(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// Where scripts/fetch-model puts SmolLM2; $EDGE_MODEL_DIR overrides it.
inline std::string SmolPath() {
  const char* folder = std::getenv("EDGE_MODEL_DIR");
  return (folder != nullptr ? std::string(folder)
                            : std::string(EDGE_SOURCE_DIR) + "/build/models") +
         "/SmolLM2-135M-Instruct.Q4_1.gguf";
}

inline std::string SharedPath(const std::string& name) {
  std::string path = EDGE_SHARED_DIR;
  return path.append("/").append(name);
}

inline std::string StoriesPath(const std::string& type) {
  return SharedPath("models/stories260K-").append(type).append(".gguf");
}

}  // namespace edge::inference::testing
