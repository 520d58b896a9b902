#include "edge/inference/sampler.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <set>

namespace edge::inference {
namespace {

TEST_CASE("greedy sampling takes the lowest id of the best", "[inference]") {
  Sampler sampler({});
  std::vector<float> logits = {1, 3, 2, 3};
  CHECK(sampler.Sample(logits) == 1);
}

TEST_CASE("one seed gives one sequence of tokens", "[inference]") {
  std::vector<float> logits = {1, 2, 3, 2, 1, 0};
  const SamplingOptions options{.temperature = 1, .seed = 7};
  Sampler a(options), b(options);
  std::set<TokenId> seen;
  for (int i = 0; i < 200; ++i) {
    const TokenId token = a.Sample(logits);
    REQUIRE(token == b.Sample(logits));
    seen.insert(token);
  }
  CHECK(seen.size() > 3);
}

TEST_CASE("sampling follows the softmax of the logits", "[inference]") {
  std::vector<float> logits = {0, std::log(2.0f), std::log(5.0f)};
  Sampler sampler({.temperature = 1, .seed = 3});
  std::vector<int> counts(3);
  for (int i = 0; i < 80000; ++i) ++counts[static_cast<size_t>(sampler.Sample(logits))];
  CHECK(counts[0] == Approx(10000).margin(400));
  CHECK(counts[1] == Approx(20000).margin(500));
}

TEST_CASE("top-k and top-p cut the tail", "[inference]") {
  std::vector<float> logits = {std::log(0.1f), std::log(0.4f), std::log(0.2f), std::log(0.3f)};
  auto seen = [&](SamplingOptions options) {
    Sampler sampler(options);
    std::set<TokenId> tokens;
    for (int i = 0; i < 2000; ++i) tokens.insert(sampler.Sample(logits));
    return tokens;
  };
  CHECK(seen({.temperature = 1, .top_k = 2}) == std::set<TokenId>{1, 3});
  CHECK(seen({.temperature = 1, .top_p = 0.69f}) == std::set<TokenId>{1, 3});
  CHECK(seen({.temperature = 1, .top_p = 0.71f}) == std::set<TokenId>{1, 2, 3});
  CHECK(seen({.temperature = 1, .top_k = 1}) == std::set<TokenId>{1});
  CHECK(seen({.temperature = 1, .top_k = 100}).size() == 4);
}

TEST_CASE("min-p, bias and masks drop tokens", "[inference]") {
  const std::vector<float> logits = {std::log(0.1f), std::log(0.4f), std::log(0.2f),
                                     std::log(0.3f)};
  auto seen = [&](SamplingOptions options, TokenMask mask = {}) {
    Sampler sampler(options);
    std::set<TokenId> tokens;
    for (int i = 0; i < 2000; ++i) {
      std::vector<float> copy = logits;
      tokens.insert(sampler.Sample(copy, mask));
    }
    return tokens;
  };
  CHECK(seen({.temperature = 1, .min_p = 0.6f}) == std::set<TokenId>{1, 3});
  CHECK(seen({.temperature = 1, .logit_bias = {{1, -HUGE_VALF}, {0, -HUGE_VALF}}}) ==
        std::set<TokenId>{2, 3});
  CHECK(seen({.logit_bias = {{0, 100}}}) == std::set<TokenId>{0});
  const uint64_t mask = 0b0101;
  CHECK(seen({.temperature = 1}, {&mask, 1}) == std::set<TokenId>{0, 2});
  CHECK(seen({}, {&mask, 1}) == std::set<TokenId>{2});
}

TEST_CASE("penalties count what they say they count", "[inference]") {
  auto best = [](SamplingOptions options, std::vector<TokenId> prompt, std::vector<TokenId> reply) {
    Sampler sampler(options);
    for (const TokenId id : prompt) sampler.AddPrompt(id);
    for (const TokenId id : reply) sampler.AddReply(id);
    std::vector<float> logits = {4, 3, 2, -1};
    return std::pair(sampler.Sample(logits), logits);
  };
  CHECK(best({.repetition_penalty = 2}, {0}, {}).first == 1);
  CHECK(best({.repetition_penalty = 2}, {0, 1}, {3}).second == std::vector<float>{2, 1.5f, 2, -2});
  CHECK(best({.repetition_penalty = 2, .repetition_window = 2}, {0, 1}, {1, 1}).first == 0);
  CHECK(best({.frequency_penalty = 0.75f}, {0, 0, 0}, {0, 0}).second ==
        std::vector<float>{2.5f, 3, 2, -1});
  CHECK(best({.presence_penalty = 1.5f}, {1}, {0, 0}).second == std::vector<float>{2.5f, 3, 2, -1});
}

TEST_CASE("logits that are not numbers give some token, never a crash", "[inference]") {
  const float nan = std::nanf(""), infinity = HUGE_VALF;
  const float kinds[] = {nan, infinity, -infinity, 1, 0};
  for (uint32_t pattern = 0; pattern < 5 * 5 * 5; ++pattern) {
    std::vector<float> logits(40, kinds[pattern % 5]);
    logits[7] = kinds[pattern / 5 % 5];
    logits[20] = kinds[pattern / 25];
    for (const SamplingOptions& options :
         {SamplingOptions{}, SamplingOptions{.temperature = 1},
          SamplingOptions{.temperature = 1, .top_k = 5, .top_p = 0.5f}}) {
      const TokenId token = Sampler(options).Sample(logits);
      REQUIRE(token >= 0);
      REQUIRE(token < 40);
    }
  }
}

TEST_CASE("sampling options out of range are refused", "[inference]") {
  CHECK(Validate({}).ok());
  CHECK_FALSE(Validate({.temperature = -1}).ok());
  CHECK_FALSE(Validate({.temperature = std::nanf("")}).ok());
  CHECK_FALSE(Validate({.top_p = 0}).ok());
  CHECK_FALSE(Validate({.top_p = 1.5f}).ok());
  CHECK_FALSE(Validate({.min_p = -0.1f}).ok());
  CHECK_FALSE(Validate({.repetition_penalty = 0}).ok());
  CHECK_FALSE(Validate({.frequency_penalty = 1000}).ok());
  CHECK_FALSE(Validate({.logit_bias = {{-1, 0}}}).ok());
  CHECK_FALSE(Validate({.logit_bias = {{0, HUGE_VALF}}}).ok());
  CHECK_FALSE(Validate({.logit_bias = {{0, std::nanf("")}}}).ok());
}

}  // namespace
}  // namespace edge::inference
