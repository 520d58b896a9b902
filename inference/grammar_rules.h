// inference/grammar_rules.h - a grammar as text describes it, before it becomes an automaton.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "edge/base/status.h"

namespace edge::inference {

using CharacterRange = std::pair<char32_t, char32_t>;  // both ends included

struct Expression {
  enum class Kind : uint8_t { kLiteral, kClass, kSequence, kChoice, kRepeat, kRule };
  static constexpr uint32_t kUnbounded = UINT32_MAX;

  Kind kind = Kind::kLiteral;
  std::string text;                    // kLiteral: bytes
  std::vector<CharacterRange> ranges;  // kClass
  std::vector<Expression> parts;       // a choice of none matches nothing
  uint32_t min = 0, max = 0;           // kRepeat, of parts[0]
  uint32_t rule = 0;                   // kRule

  static Expression Literal(std::string_view text) {
    Expression e;
    e.text = text;
    return e;
  }
  static Expression Class(std::vector<CharacterRange> ranges) {
    Expression e;
    e.kind = Kind::kClass;
    e.ranges = std::move(ranges);
    return e;
  }
  static Expression Sequence(std::vector<Expression> parts) {
    Expression e;
    e.kind = Kind::kSequence;
    e.parts = std::move(parts);
    return e;
  }
  static Expression Choice(std::vector<Expression> parts) {
    Expression e;
    e.kind = Kind::kChoice;
    e.parts = std::move(parts);
    return e;
  }
  static Expression Repeat(Expression part, uint32_t min, uint32_t max) {
    Expression e;
    e.kind = Kind::kRepeat;
    e.parts.push_back(std::move(part));
    e.min = min;
    e.max = max;
    return e;
  }
  static Expression Rule(uint32_t rule) {
    Expression e;
    e.kind = Kind::kRule;
    e.rule = rule;
    return e;
  }
};

// Rule 0 is the root.
struct RuleSet {
  std::vector<std::string> names;
  std::vector<Expression> bodies;
};

inline constexpr uint32_t kExpressionDepthMax = 64;

// All code points but those in `ranges` (and surrogates, which are not text).
std::vector<CharacterRange> Complement(std::vector<CharacterRange> ranges);

StatusOr<RuleSet> ParseGbnf(std::string_view text);
StatusOr<RuleSet> RulesOfJsonSchema(std::string_view schema);

}  // namespace edge::inference
