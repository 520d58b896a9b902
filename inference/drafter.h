// inference/drafter.h - guesses the next tokens of a text from its own past.
//
// An index of every three tokens in a row, chained from the latest occurrence to earlier
// ones as LZ77 coders do it, finds where the longest end of the text occurred before; what
// came after it there is the draft (prompt lookup: Saxena 2023; Yang et al. 2023, "LLMA").
// Every guess is scored against what came, also those that nobody used: so the share of good
// guesses is known for each length of match without paying for trials.
#pragma once
#include <array>
#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "edge/inference/tokenizer.h"

namespace edge::inference {

// Single-threaded.
class Drafter {
 public:
  static constexpr uint32_t kDraftMax = 16;

  // The next token of the text. O(1), about 16 bytes each. Scores the last guess.
  void Add(TokenId token);
  // The guess for what comes now; empty if the end of the text is new. Until the next Add().
  std::span<const TokenId> guess() const { return {guess_.data(), guess_size_}; }
  // The chance that the first token of guess() is right, and each next one after right ones.
  double acceptance() const { return acceptance_[bucket_]; }

 private:
  static constexpr uint32_t kGram = 3;
  static constexpr uint32_t kCandidatesMax = 16;
  static constexpr uint32_t kMatchMax = 64;
  uint64_t GramAt(size_t end) const;  // the key of the kGram tokens before `end`
  void Guess();

  std::vector<TokenId> text_;
  std::vector<uint32_t> earlier_;  // per end of a gram: the one before, 0 if none
  std::unordered_map<uint64_t, uint32_t> latest_;
  std::array<TokenId, kDraftMax> guess_{};
  uint32_t guess_size_ = 0;
  uint32_t bucket_ = 0;  // of the length of the match: 3, 4-7, 8-15, more
  std::array<double, 4> acceptance_ = {0.3, 0.5, 0.7, 0.85};
};

// How long a forward pass takes by its number of tokens, from those that were measured.
// Single-threaded.
class PassCosts {
 public:
  void Add(uint32_t tokens, int64_t ns);
  // In any unit; rises with `tokens`.
  double Of(uint32_t tokens) const;

 private:
  static constexpr uint32_t kTokensMax = 256;
  // Until there is more to go by: a pass costs this much more with each further token.
  static constexpr double kSlope = 0.12;
  std::array<double, kTokensMax + 1> ns_{};  // 0: never measured
};

// How many tokens of a guess to try in a pass that has `tokens` without it and gives as many
// (one per sequence): the number with the most expected tokens per time. 0 if none gains 3%.
uint32_t DraftLength(double acceptance, uint32_t guess, uint32_t tokens, const PassCosts& costs);

}  // namespace edge::inference
