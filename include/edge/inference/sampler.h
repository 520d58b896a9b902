// edge/inference/sampler.h - from logits to the next token.
//
// The same logits, history, options and seed give the same token on every machine. In this
// order: bias, penalties, the mask of a grammar, temperature, top-k, top-p, min-p.
#pragma once
#include <cstdint>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "edge/base/random.h"
#include "edge/base/status.h"
#include "edge/inference/tokenizer.h"

namespace edge::inference {

struct SamplingOptions {
  float temperature = 0;  // 0: greedy, the most likely token (the lowest id of equals)
  uint32_t top_k = 0;     // keep the k most likely; 0: all
  float top_p = 1;        // keep the fewest most likely tokens with this share; in (0, 1]
  float min_p = 0;        // drop those less likely than this share of the best; in [0, 1]
  // Logits of tokens among the last `repetition_window` of prompt and reply are divided by
  // it if positive, else multiplied (Keskar et al. 2019). Above 0; 1 does nothing.
  float repetition_penalty = 1;
  uint32_t repetition_window = 64;  // tokens
  // Subtracted for each time that the reply holds the token, and once if it does at all.
  float frequency_penalty = 0, presence_penalty = 0;    // in [-100, 100]
  std::vector<std::pair<TokenId, float>> logit_bias{};  // added; -infinity bans a token
  uint64_t seed = 0;
};

// InvalidArgument, naming the option and its range.
Status Validate(const SamplingOptions& options);

// Tokens that may come next, a bit each: bit `id % 64` of word `id / 64`.
using TokenMask = std::span<const uint64_t>;

// The natural logarithm of a token's share, and the most likely ones beside it.
struct TokenLogprob {
  TokenId id = 0;
  float logprob = 0;
  std::vector<std::pair<TokenId, float>> top{};  // the most likely first
};
// Of the model's own distribution: temperature 1, nothing cut. O(n).
TokenLogprob LogprobOf(std::span<const float> logits, TokenId id, uint32_t top_count);

// Single-threaded.
class Sampler {
 public:
  explicit Sampler(const SamplingOptions& options);  // must have passed Validate()
  // `logits` one per token, at least one; changed by bias, penalties and mask. A mask, if not
  // empty, must allow a token. Draws at most one random number. O(n), and O(k log k) for the
  // k tokens that top_k or top_p keep.
  TokenId Sample(std::span<float> logits, TokenMask mask = {});
  // A token of the prompt or of the reply, for the penalties.
  void AddPrompt(TokenId id);
  void AddReply(TokenId id);

 private:
  struct Candidate {
    float logit;
    TokenId id;
  };
  void Adjust(std::span<float> logits, TokenMask mask) const;
  void Remember(TokenId id);
  void KeepTopP(double best, double* total);

  SamplingOptions options_;
  SeededRandom random_;
  std::vector<TokenId> recent_;  // a ring of repetition_window
  size_t recent_next_ = 0;
  std::unordered_map<TokenId, uint32_t> reply_counts_;
  std::vector<Candidate> candidates_;
};

}  // namespace edge::inference
