#include "edge/base/callback.h"

#include <array>
#include <random>
#include <stdexcept>
#include <vector>

using namespace edge;  // NOLINT

namespace {

// Counts its living and throws a fit if it is used after it was moved from.
template <size_t kPadding>
struct Body {
  Body(int* alive_count, int result) : alive(alive_count), value(result) { ++*alive; }
  Body(Body&& other) noexcept : alive(other.alive), value(std::exchange(other.value, -1)) {
    ++*alive;
  }
  Body(const Body& other) = delete;
  ~Body() { --*alive; }
  int operator()(int x) {
    if (value < 0) throw std::logic_error("called after the move");
    return value++ + x;
  }
  int* alive;
  int value;
  std::array<char, kPadding> padding{};
};

template <size_t kPadding>
Callback<int(int)> Make(int* alive, int value) {
  return Body<kPadding>(alive, value);
}

}  // namespace

TEST_CASE("a callback calls, keeps state and is empty when moved from", "[base][callback]") {
  int alive = 0;
  {
    Callback<int(int)> empty;
    REQUIRE_FALSE(empty);
    Callback<int(int)> small = Make<1>(&alive, 10);
    Callback<int(int)> large = Make<200>(&alive, 100);
    REQUIRE(small(1) == 11);
    REQUIRE(small(1) == 12);
    REQUIRE(large(1) == 101);
    Callback<int(int)> moved = std::move(small);
    REQUIRE_FALSE(small);  // NOLINT(bugprone-use-after-move): that is the question
    REQUIRE(moved(0) == 12);
    moved = std::move(large);
    REQUIRE(moved(0) == 101);
    REQUIRE(alive == 1);
    moved = nullptr;
    REQUIRE(alive == 0);
    REQUIRE_FALSE(moved);
  }
  REQUIRE(alive == 0);
}

TEST_CASE("captures that cannot be copied, aligned strictly or may throw are held",
          "[base][callback]") {
  auto owned = std::make_unique<int>(5);
  Callback<int()> holder = [owned = std::move(owned)] { return *owned; };
  REQUIRE(holder() == 5);
  struct alignas(64) Strict {
    int operator()() const { return static_cast<int>(reinterpret_cast<uintptr_t>(this) % 64); }
  };
  Callback<int()> strict = Strict();
  Callback<int()> moved = std::move(strict);
  REQUIRE(moved() == 0);
  Callback<void(std::unique_ptr<int>)> taker = [](std::unique_ptr<int> p) { REQUIRE(*p == 3); };
  taker(std::make_unique<int>(3));
  int target = 0;
  Callback<int&()> reference = [&target]() -> int& { return target; };
  reference() = 9;
  REQUIRE(target == 9);
  Callback<void()> discards = [] { return 7; };  // a result nobody asked for
  discards();
}

TEST_CASE("callbacks agree with plain integers through any moves", "[base][callback][property]") {
  const auto seed = GENERATE(range(1u, 17u));
  CAPTURE(seed);
  std::mt19937 rng(seed);
  int alive = 0;
  {
    std::vector<Callback<int(int)>> callbacks(6);
    std::vector<int> model(6, -1);  // what the next call returns; -1: empty
    for (int step = 0; step < 2000; ++step) {
      const size_t i = rng() % 6;
      const size_t j = rng() % 6;
      switch (rng() % 5) {
        case 0:
          callbacks[i] = rng() % 2 != 0 ? Make<1>(&alive, step) : Make<99>(&alive, step);
          model[i] = step;
          break;
        case 1:
          callbacks[i] = std::move(callbacks[j]);
          if (i != j) model[i] = std::exchange(model[j], -1);
          break;
        case 2:
          std::swap(callbacks[i], callbacks[j]);
          std::swap(model[i], model[j]);
          break;
        case 3:
          callbacks[i] = nullptr;
          model[i] = -1;
          break;
        default:
          REQUIRE(static_cast<bool>(callbacks[i]) == (model[i] >= 0));
          if (model[i] >= 0) REQUIRE(callbacks[i](0) == model[i]++);
      }
    }
    int expected = 0;
    for (const int value : model) expected += value >= 0;
    REQUIRE(alive == expected);
  }
  REQUIRE(alive == 0);
}
