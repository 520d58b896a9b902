// edge/inference/sampler.h - from logits to the next token.
//
// The same logits, options and seed give the same token on every machine.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "edge/base/random.h"
#include "edge/base/status.h"
#include "edge/inference/tokenizer.h"

namespace edge::inference {

struct SamplingOptions {
  float temperature = 0;  // 0: greedy, the most likely token (the lowest id of equals)
  uint32_t top_k = 0;     // keep the k most likely; 0: all
  float top_p = 1;        // keep the fewest most likely tokens with this share; in (0, 1]
  uint64_t seed = 0;
};

// InvalidArgument unless 0 <= temperature <= 100 and 0 < top_p <= 1.
Status Validate(const SamplingOptions& options);

// Single-threaded.
class Sampler {
 public:
  explicit Sampler(const SamplingOptions& options);  // must have passed Validate()
  // `logits` one per token, at least one. O(n), and O(k log k) for the k tokens kept.
  TokenId Sample(std::span<const float> logits);

 private:
  struct Candidate {
    float logit;
    TokenId id;
  };
  SamplingOptions options_;
  SeededRandom random_;
  std::vector<Candidate> candidates_;
  std::vector<double> weights_;
};

}  // namespace edge::inference
