#include "inference/drafter.h"

#include <algorithm>

namespace edge::inference {

uint64_t Drafter::GramAt(size_t end) const {
  uint64_t key = 0;
  for (size_t i = end - kGram; i < end; ++i) {
    key = key << 21 ^ static_cast<uint32_t>(text_[i]);
  }
  return key;
}

void Drafter::Add(TokenId token) {
  if (guess_size_ > 0) {
    constexpr double kMemory = 0.9;  // a guess counts half after seven more
    double& share = acceptance_[bucket_];
    share = kMemory * share + (1 - kMemory) * (guess_[0] == token ? 1 : 0);
  }
  text_.push_back(token);
  earlier_.push_back(0);
  Guess();
  if (text_.size() < kGram) return;
  uint32_t& latest = latest_[GramAt(text_.size())];
  earlier_.back() = latest;
  latest = static_cast<uint32_t>(text_.size());
}

void Drafter::Guess() {
  guess_size_ = 0;
  const size_t end = text_.size();
  if (end < kGram) return;
  const auto found = latest_.find(GramAt(end));
  if (found == latest_.end()) return;
  uint32_t best = 0, best_length = 0;
  uint32_t at = found->second;
  for (uint32_t i = 0; i < kCandidatesMax && at != 0; ++i, at = earlier_[at - 1]) {
    uint32_t length = 0;
    while (length < kMatchMax && length < at && text_[at - 1 - length] == text_[end - 1 - length]) {
      ++length;
    }
    if (length > best_length) {  // of equals the latest
      best = at;
      best_length = length;
    }
  }
  if (best_length < kGram) return;  // another gram with the same key
  bucket_ = best_length < 4 ? 0 : best_length < 8 ? 1 : best_length < 16 ? 2 : 3;
  guess_size_ = static_cast<uint32_t>(std::min<size_t>(kDraftMax, end - best));
  std::copy_n(text_.begin() + best, guess_size_, guess_.begin());
}

void PassCosts::Add(uint32_t tokens, int64_t ns) {
  if (tokens == 0 || tokens > kTokensMax || ns <= 0) return;
  double& cost = ns_[tokens];
  cost = cost == 0 ? static_cast<double>(ns) : 0.8 * cost + 0.2 * static_cast<double>(ns);
}

double PassCosts::Of(uint32_t tokens) const {
  tokens = std::clamp(tokens, 1u, kTokensMax);
  if (ns_[tokens] > 0) return ns_[tokens];
  uint32_t below = tokens, above = tokens;
  while (below > 0 && ns_[below] == 0) --below;
  while (above <= kTokensMax && ns_[above] == 0) ++above;
  const bool has_above = above <= kTokensMax;
  auto guess = [](uint32_t known, double ns, uint32_t wanted) {
    return ns * (1 + kSlope * (wanted - 1)) / (1 + kSlope * (known - 1));
  };
  if (below == 0) return has_above ? guess(above, ns_[above], tokens) : guess(1, 1, tokens);
  if (!has_above) return guess(below, ns_[below], tokens);
  const double share = static_cast<double>(tokens - below) / (above - below);
  return ns_[below] + share * (std::max(ns_[above], ns_[below]) - ns_[below]);
}

uint32_t DraftLength(double acceptance, uint32_t guess, uint32_t tokens, const PassCosts& costs) {
  const double plain = static_cast<double>(tokens) / costs.Of(tokens);
  double best_rate = plain * 1.03;
  uint32_t best = 0;
  double expected = tokens, chance = 1;
  for (uint32_t length = 1; length <= guess; ++length) {
    chance *= acceptance;
    expected += chance;
    const double rate = expected / costs.Of(tokens + length);
    if (rate > best_rate) {
      best_rate = rate;
      best = length;
    }
  }
  return best;
}

}  // namespace edge::inference
