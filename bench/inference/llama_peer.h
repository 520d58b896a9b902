// bench/inference/llama_peer.h - llama.cpp as a child process that keeps its model loaded.
#pragma once
#include <sys/types.h>

#include <cstdio>
#include <string>
#include <vector>

#include "bench/bench.h"
#include "edge/inference/tokenizer.h"

namespace edge::bench {

// Greedy texts of two engines that round inputs differently part at the first near-tie, so
// only the first few tokens are compared.
inline constexpr size_t kTokensCompared = 6;

struct LlamaOptions {
  int threads = 1;
  int context = 2048;
  int sequences = 1;
  bool flash = true;  // its fused attention kernel
};

// One llama_peer.mjs. Ends with its standard input.
class LlamaPeer {
 public:
  LlamaPeer(const std::string& modules, const std::string& model, const LlamaOptions& options);
  ~LlamaPeer();
  LlamaPeer(const LlamaPeer&) = delete;
  LlamaPeer& operator=(const LlamaPeer&) = delete;

  const std::string& name() const { return name_; }  // empty: it did not start
  // `request` is one of those in llama_peer.mjs.
  Sample Ask(const std::string& request, const std::vector<inference::TokenId>& prompt);

 private:
  std::string ReadLine();
  pid_t pid_ = -1;
  FILE* in_ = nullptr;
  FILE* out_ = nullptr;
  std::string name_;
};

}  // namespace edge::bench
