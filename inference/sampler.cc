#include "edge/inference/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "edge/base/errors.h"

namespace edge::inference {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

Status CheckRange(const char* name, float value, float low, float high) {
  if (value >= low && value <= high) return OkStatus();
  return InvalidArgument("{} {} is not in [{}, {}]", name, value, low, high);
}

// The greatest; the first of equals. Four chains, since one would wait for each comparison.
size_t ArgMax(std::span<const float> logits) {
  float best[4] = {kNever, kNever, kNever, kNever};
  size_t i = 0;
  for (; i + 4 <= logits.size(); i += 4) {
    for (size_t j = 0; j < 4; ++j) best[j] = logits[i + j] > best[j] ? logits[i + j] : best[j];
  }
  float most = std::max({best[0], best[1], best[2], best[3]});
  for (; i < logits.size(); ++i) most = logits[i] > most ? logits[i] : most;
  const auto found = std::find(logits.begin(), logits.end(), most);
  return found == logits.end() ? 0 : static_cast<size_t>(found - logits.begin());
}

}  // namespace

Status Validate(const SamplingOptions& options) {
  EDGE_RETURN_IF_ERROR(CheckRange("temperature", options.temperature, 0, 100));
  if (!(options.top_p > 0 && options.top_p <= 1)) {
    return InvalidArgument("top_p {} is not in (0, 1]", options.top_p);
  }
  EDGE_RETURN_IF_ERROR(CheckRange("min_p", options.min_p, 0, 1));
  if (!(options.repetition_penalty > 0 && options.repetition_penalty <= 100)) {
    return InvalidArgument("repetition_penalty {} is not in (0, 100]", options.repetition_penalty);
  }
  if (options.repetition_window > (1u << 20)) {
    return InvalidArgument("repetition_window {} is not in [0, {}]", options.repetition_window,
                           1u << 20);
  }
  EDGE_RETURN_IF_ERROR(CheckRange("frequency_penalty", options.frequency_penalty, -100, 100));
  EDGE_RETURN_IF_ERROR(CheckRange("presence_penalty", options.presence_penalty, -100, 100));
  for (const auto& [id, bias] : options.logit_bias) {
    if (id < 0) return InvalidArgument("logit_bias: token {} is negative", id);
    if (std::isnan(bias) || bias > 1e6f) {
      return InvalidArgument("logit_bias: token {} has {}, not in [-inf, 1e6]", id, bias);
    }
  }
  return OkStatus();
}

TokenLogprob LogprobOf(std::span<const float> logits, TokenId id, uint32_t top_count) {
  const float best = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit - best));
  const double log_sum = std::log(sum) + static_cast<double>(best);
  auto logprob = [&](TokenId token) {
    return static_cast<float>(static_cast<double>(logits[static_cast<size_t>(token)]) - log_sum);
  };
  TokenLogprob out{id, logprob(id), {}};
  std::vector<TokenId> ids(logits.size());
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<TokenId>(i);
  const size_t count = std::min<size_t>(top_count, ids.size());
  std::partial_sort(ids.begin(), ids.begin() + static_cast<ptrdiff_t>(count), ids.end(),
                    [&](TokenId a, TokenId b) {
                      const float x = logits[static_cast<size_t>(a)];
                      const float y = logits[static_cast<size_t>(b)];
                      return x > y || (x == y && a < b);
                    });
  for (size_t i = 0; i < count; ++i) out.top.emplace_back(ids[i], logprob(ids[i]));
  return out;
}

Sampler::Sampler(const SamplingOptions& options) : options_(options), random_(options.seed) {}

void Sampler::Remember(TokenId id) {
  if (options_.repetition_penalty == 1 || options_.repetition_window == 0) return;
  if (recent_.size() < options_.repetition_window) {
    recent_.push_back(id);
    return;
  }
  recent_[recent_next_] = id;
  recent_next_ = (recent_next_ + 1) % recent_.size();
}

void Sampler::AddPrompt(TokenId id) {
  Remember(id);
}

void Sampler::AddReply(TokenId id) {
  Remember(id);
  if (options_.frequency_penalty != 0 || options_.presence_penalty != 0) ++reply_counts_[id];
}

void Sampler::Adjust(std::span<float> logits, TokenMask mask) const {
  for (const auto& [id, bias] : options_.logit_bias) {
    if (static_cast<size_t>(id) < logits.size()) logits[static_cast<size_t>(id)] += bias;
  }
  if (!recent_.empty()) {
    std::vector<TokenId> seen = recent_;
    std::sort(seen.begin(), seen.end());
    seen.erase(std::unique(seen.begin(), seen.end()), seen.end());
    for (const TokenId id : seen) {
      float& logit = logits[static_cast<size_t>(id)];
      logit = logit > 0 ? logit / options_.repetition_penalty : logit * options_.repetition_penalty;
    }
  }
  for (const auto& [id, count] : reply_counts_) {
    logits[static_cast<size_t>(id)] -=
        options_.frequency_penalty * static_cast<float>(count) + options_.presence_penalty;
  }
  for (size_t word = 0; word < mask.size(); ++word) {
    if (mask[word] == ~uint64_t{0}) continue;
    const size_t end = std::min(logits.size(), word * 64 + 64);
    for (size_t i = word * 64; i < end; ++i) {
      if ((mask[word] >> (i % 64) & 1) == 0) logits[i] = kNever;
    }
  }
}

// Keeps the most likely candidates that together reach top_p of `total`, which becomes theirs.
void Sampler::KeepTopP(double best, double* total) {
  auto better = [](const Candidate& a, const Candidate& b) {
    return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
  };
  const double wanted = static_cast<double>(options_.top_p) * *total;
  size_t sorted = 0, count = 0;
  double kept = 0;
  // Most often a few hundred hold the share: sort that many, then four times as many.
  for (size_t step = 256; count < candidates_.size() && kept < wanted; step *= 4) {
    const size_t end = std::min(candidates_.size(), sorted + step);
    std::partial_sort(candidates_.begin() + static_cast<ptrdiff_t>(sorted),
                      candidates_.begin() + static_cast<ptrdiff_t>(end), candidates_.end(), better);
    sorted = end;
    for (; count < sorted && kept < wanted; ++count) {
      kept += std::exp((static_cast<double>(candidates_[count].logit) - best) /
                       static_cast<double>(options_.temperature));
    }
  }
  candidates_.resize(count);
  *total = kept;
}

TokenId Sampler::Sample(std::span<float> logits, TokenMask mask) {
  Adjust(logits, mask);
  if (options_.temperature == 0 || options_.top_k == 1) {
    return static_cast<TokenId>(ArgMax(logits));
  }
  candidates_.clear();
  for (size_t i = 0; i < logits.size(); ++i) {
    // Neither -infinity nor the NaN of a broken model is a candidate.
    if (logits[i] > kNever) candidates_.push_back({logits[i], static_cast<TokenId>(i)});
  }
  if (candidates_.empty()) return 0;
  // The id breaks ties, so the order is total and the same everywhere.
  auto better = [](const Candidate& a, const Candidate& b) {
    return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
  };
  if (options_.top_k > 0 && options_.top_k < candidates_.size()) {
    std::nth_element(candidates_.begin(), candidates_.begin() + options_.top_k, candidates_.end(),
                     better);
    candidates_.resize(options_.top_k);
    std::sort(candidates_.begin(), candidates_.end(), better);
  }
  float most = kNever;
  for (const Candidate& candidate : candidates_) most = std::max(most, candidate.logit);
  const double best = static_cast<double>(most);
  if (!std::isfinite(best)) return static_cast<TokenId>(ArgMax(logits));
  auto weight = [&](const Candidate& candidate) {
    return std::exp((static_cast<double>(candidate.logit) - best) /
                    static_cast<double>(options_.temperature));
  };
  if (options_.min_p > 0) {
    const auto least = static_cast<double>(options_.min_p);
    std::erase_if(candidates_, [&](const Candidate& c) { return weight(c) < least; });
  }
  double total = 0;
  for (const Candidate& candidate : candidates_) total += weight(candidate);
  if (options_.top_p < 1) KeepTopP(best, &total);
  double left = random_.Unit() * total;
  for (const Candidate& candidate : candidates_) {
    left -= weight(candidate);
    if (left < 0) return candidate.id;
  }
  return candidates_.back().id;  // rounding used up the last share
}

}  // namespace edge::inference
