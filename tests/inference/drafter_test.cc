#include "inference/drafter.h"

#include <catch2/catch.hpp>
#include <random>

namespace edge::inference {
namespace {

// The longest end of `text` that occurs before, the latest of equals: by trying everything.
std::vector<TokenId> SlowGuess(const std::vector<TokenId>& text) {
  size_t best = 0, best_length = 2;
  for (size_t at = text.size() - 1; at >= 3; --at) {
    size_t length = 0;
    while (length < at && text[at - 1 - length] == text[text.size() - 1 - length]) ++length;
    if (length > best_length) {
      best = at;
      best_length = length;
    }
  }
  if (best == 0) return {};
  const size_t end = std::min(text.size(), best + Drafter::kDraftMax);
  return {text.begin() + static_cast<ptrdiff_t>(best), text.begin() + static_cast<ptrdiff_t>(end)};
}

TEST_CASE("the guess is what followed the longest match", "[inference][property]") {
  const auto seed = GENERATE(range(1u, 9u));
  CAPTURE(seed);
  std::mt19937 rng(seed);
  Drafter drafter;
  std::vector<TokenId> text;
  // Few enough occurrences of each three tokens that the search sees them all.
  for (int i = 0; i < 200; ++i) {
    text.push_back(static_cast<TokenId>(rng() % 6));
    drafter.Add(text.back());
    if (text.size() < 4) continue;
    const auto guess = drafter.guess();
    REQUIRE(std::vector(guess.begin(), guess.end()) == SlowGuess(text));
  }
}

TEST_CASE("acceptance follows what came true", "[inference]") {
  Drafter drafter;
  for (int i = 0; i < 400; ++i) drafter.Add(i % 10);
  CHECK(drafter.guess().size() == 10);
  CHECK(drafter.acceptance() > 0.95);
  std::mt19937 rng(5);
  Drafter hopeless;
  for (int i = 0; i < 3000; ++i) {  // every guess is wrong three times of four
    hopeless.Add(static_cast<TokenId>(rng() % 4));
  }
  CHECK(hopeless.acceptance() < 0.7);
}

TEST_CASE("a draft is as long as it pays and no longer", "[inference]") {
  PassCosts flat, steep;
  for (uint32_t tokens = 1; tokens <= 64; ++tokens) {
    flat.Add(tokens, 1000);
    steep.Add(tokens, 1000 * tokens);
  }
  CHECK(DraftLength(0.9, 16, 1, flat) == 16);
  CHECK(DraftLength(0.9, 5, 1, flat) == 5);
  CHECK(DraftLength(0.99, 16, 1, steep) == 0);
  CHECK(DraftLength(0.01, 16, 1, flat) == 0);
  PassCosts real;  // as measured on a small model: the first tokens are cheap, later ones not
  for (uint32_t tokens = 1; tokens <= 64; ++tokens) real.Add(tokens, 1000 + 120 * (tokens - 1));
  CHECK(DraftLength(0.9, 16, 1, real) >= 4);
  CHECK(DraftLength(0.05, 16, 1, real) == 0);
}

TEST_CASE("unmeasured costs lie between measured ones", "[inference]") {
  PassCosts costs;
  CHECK(costs.Of(2) > costs.Of(1));
  costs.Add(4, 400);
  costs.Add(8, 800);
  CHECK(costs.Of(6) == Approx(600));
  CHECK(costs.Of(1) < 400);
  CHECK(costs.Of(16) > 800);
  CHECK(costs.Of(100000) > 800);
}

}  // namespace
}  // namespace edge::inference
