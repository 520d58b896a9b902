// inference/sampler.cc - temperature, top-k, then top-p, in that order.
#include "edge/inference/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "edge/base/errors.h"

namespace edge::inference {

Status Validate(const SamplingOptions& options) {
  if (!(options.temperature >= 0 && options.temperature <= 100)) {
    return InvalidArgument("temperature {} is not in [0, 100]", options.temperature);
  }
  if (!(options.top_p > 0 && options.top_p <= 1)) {
    return InvalidArgument("top_p {} is not in (0, 1]", options.top_p);
  }
  return OkStatus();
}

Sampler::Sampler(const SamplingOptions& options) : options_(options), random_(options.seed) {}

TokenId Sampler::Sample(std::span<const float> logits) {
  if (options_.temperature == 0 || options_.top_k == 1) {
    return static_cast<TokenId>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  }
  candidates_.clear();
  for (size_t i = 0; i < logits.size(); ++i) {
    // A broken model may give NaN, which has no place in an order.
    const bool number = logits[i] == logits[i];
    candidates_.push_back(
        {number ? logits[i] : -std::numeric_limits<float>::infinity(), static_cast<TokenId>(i)});
  }
  // The id breaks ties, so the order is total and the same everywhere.
  auto better = [](const Candidate& a, const Candidate& b) {
    return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
  };
  const bool cut = options_.top_k > 0 && options_.top_k < candidates_.size();
  if (cut) {
    std::nth_element(candidates_.begin(), candidates_.begin() + options_.top_k, candidates_.end(),
                     better);
    candidates_.resize(options_.top_k);
  }
  std::sort(candidates_.begin(), candidates_.end(), better);
  const double best = static_cast<double>(candidates_[0].logit);
  if (!std::isfinite(best)) return candidates_[0].id;
  weights_.clear();
  double total = 0;
  for (const Candidate& candidate : candidates_) {
    weights_.push_back(std::exp((static_cast<double>(candidate.logit) - best) /
                                static_cast<double>(options_.temperature)));
    total += weights_.back();
  }
  if (options_.top_p < 1) {
    double kept = 0;
    size_t count = 0;
    while (count < weights_.size() && kept < static_cast<double>(options_.top_p) * total) {
      kept += weights_[count++];
    }
    total = kept;
    weights_.resize(count);
  }
  double left = random_.Unit() * total;
  for (size_t i = 0; i < weights_.size(); ++i) {
    left -= weights_[i];
    if (left < 0) return candidates_[i].id;
  }
  return candidates_[weights_.size() - 1].id;  // rounding used up the last share
}

}  // namespace edge::inference
