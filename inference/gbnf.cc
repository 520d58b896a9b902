// inference/gbnf.cc - the parser of GBNF, the notation of llama.cpp's grammars.
#include <algorithm>
#include <unordered_map>

#include "edge/base/errors.h"
#include "inference/grammar_rules.h"
#include "inference/unicode.h"

namespace edge::inference {
namespace {

constexpr uint32_t kRepeatMax = 100'000;

bool IsNameCharacter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
         c == '_';
}

class GbnfParser {
 public:
  explicit GbnfParser(std::string_view text) : text_(text) {}

  StatusOr<RuleSet> Parse() {
    RuleOf("root");
    Skip();
    while (at_ < text_.size()) {
      const std::string name(Name());
      Skip();
      if (name.empty() || !text_.substr(at_).starts_with("::=")) {
        return Bad("expected a rule: name ::= ...");
      }
      at_ += 3;
      const uint32_t rule = RuleOf(name);
      if (defined_[rule]) return Bad("rule " + name + " is there twice");
      defined_[rule] = true;
      EDGE_ASSIGN_OR_RETURN(Expression body, ParseChoice(0));
      rules_.bodies[rule] = std::move(body);
    }
    for (size_t i = 0; i < defined_.size(); ++i) {
      if (!defined_[i]) return Bad("rule " + rules_.names[i] + " is not defined");
    }
    return std::move(rules_);
  }

 private:
  Status Bad(std::string_view what) const {
    const auto line = std::count(text_.begin(), text_.begin() + static_cast<ptrdiff_t>(at_), '\n');
    return InvalidArgument("grammar, line {}: {}", line + 1, what);
  }
  char Peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }

  void Skip() {
    while (at_ < text_.size()) {
      if (text_[at_] == '#') {
        at_ = std::min(text_.find('\n', at_), text_.size());
      } else if (text_[at_] == ' ' || text_[at_] == '\t' || text_[at_] == '\r' ||
                 text_[at_] == '\n') {
        ++at_;
      } else {
        return;
      }
    }
  }
  std::string_view Name() {
    const size_t start = at_;
    while (IsNameCharacter(Peek())) ++at_;
    return text_.substr(start, at_ - start);
  }
  // Whether a name here is the left side of the next rule.
  bool AtRule() {
    const size_t start = at_;
    const bool name = !Name().empty();
    Skip();
    const bool is_rule = name && text_.substr(at_).starts_with("::=");
    at_ = start;
    return is_rule;
  }
  uint32_t RuleOf(const std::string& name) {
    const auto [found, added] = ids_.emplace(name, static_cast<uint32_t>(rules_.names.size()));
    if (added) {
      rules_.names.push_back(name);
      rules_.bodies.emplace_back();
      defined_.push_back(false);
    }
    return found->second;
  }

  StatusOr<Expression> ParseChoice(uint32_t depth) {
    if (depth > kExpressionDepthMax) return Bad("groups are nested too deeply");
    std::vector<Expression> choices;
    while (true) {
      EDGE_ASSIGN_OR_RETURN(Expression sequence, ParseSequence(depth));
      choices.push_back(std::move(sequence));
      if (Peek() != '|') break;
      ++at_;
    }
    return choices.size() == 1 ? std::move(choices[0]) : Expression::Choice(std::move(choices));
  }

  StatusOr<Expression> ParseSequence(uint32_t depth) {
    std::vector<Expression> parts;
    for (Skip(); at_ < text_.size() && Peek() != '|' && Peek() != ')'; Skip()) {
      if (IsNameCharacter(Peek()) && AtRule()) break;
      EDGE_ASSIGN_OR_RETURN(Expression part, ParseItem(depth));
      Skip();
      EDGE_RETURN_IF_ERROR(ParseRepeats(&part));
      parts.push_back(std::move(part));
    }
    return parts.size() == 1 ? std::move(parts[0]) : Expression::Sequence(std::move(parts));
  }

  StatusOr<Expression> ParseItem(uint32_t depth) {
    const char c = Peek();
    if (c == '"') return ParseLiteral();
    if (c == '[') return ParseClass();
    if (c == '.') {
      ++at_;
      return Expression::Class(Complement({}));
    }
    if (c == '(') {
      ++at_;
      EDGE_ASSIGN_OR_RETURN(Expression inner, ParseChoice(depth + 1));
      if (Peek() != ')') return Bad("a group without )");
      ++at_;
      return inner;
    }
    if (IsNameCharacter(c)) return Expression::Rule(RuleOf(std::string(Name())));
    return Bad("unexpected character");
  }

  Status ParseRepeats(Expression* part) {
    for (int count = 0;; ++count) {
      const char c = Peek();
      uint32_t min = 0, max = Expression::kUnbounded;
      if (c == '*' || c == '+' || c == '?') {
        ++at_;
        min = c == '+' ? 1 : 0;
        if (c == '?') max = 1;
      } else if (c == '{') {
        ++at_;
        EDGE_RETURN_IF_ERROR(ParseBounds(&min, &max));
      } else {
        return OkStatus();
      }
      if (count > 8) return Bad("repetitions of repetitions");
      *part = Expression::Repeat(std::move(*part), min, max);
      Skip();
    }
  }

  Status ParseNumber(uint32_t* out) {
    Skip();
    const size_t start = at_;
    uint32_t value = 0;
    for (; Peek() >= '0' && Peek() <= '9'; ++at_) {
      value = value * 10 + static_cast<uint32_t>(Peek() - '0');
      if (value > kRepeatMax) return Bad("a repetition above 100000");
    }
    if (at_ == start) return Bad("expected a number");
    *out = value;
    Skip();
    return OkStatus();
  }

  Status ParseBounds(uint32_t* min, uint32_t* max) {
    EDGE_RETURN_IF_ERROR(ParseNumber(min));
    *max = *min;
    if (Peek() == ',') {
      ++at_;
      Skip();
      *max = Expression::kUnbounded;
      if (Peek() != '}') EDGE_RETURN_IF_ERROR(ParseNumber(max));
    }
    if (Peek() != '}') return Bad("a repetition without }");
    ++at_;
    return *max < *min ? Bad("a repetition whose end is before its start") : OkStatus();
  }

  // One character of a literal or class; bytes that are not UTF-8 are an error.
  Status ParseCharacter(char32_t* out) {
    if (at_ >= text_.size()) return Bad("the text ends inside a literal or class");
    if (Peek() != '\\') {
      const Decoded decoded = DecodeUtf8(text_.substr(at_));
      if (decoded.character == kInvalidCharacter && decoded.bytes == 1) return Bad("not UTF-8");
      at_ += decoded.bytes;
      *out = decoded.character;
      return OkStatus();
    }
    ++at_;
    const char c = Peek();
    ++at_;
    const size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    if (digits > 0) return ParseHex(digits, out);
    *out = c == 'n' ? U'\n' : c == 't' ? U'\t' : c == 'r' ? U'\r' : static_cast<uint8_t>(c);
    if (c == '\0' || (IsNameCharacter(c) && c != 'n' && c != 't' && c != 'r' && c != '-')) {
      return Bad("an unknown escape");
    }
    return *out < 0x80 ? OkStatus() : Bad("an unknown escape");
  }

  Status ParseHex(size_t digits, char32_t* out) {
    char32_t value = 0;
    for (size_t i = 0; i < digits; ++i, ++at_) {
      const char c = Peek();
      const int digit = c >= '0' && c <= '9'   ? c - '0'
                        : c >= 'a' && c <= 'f' ? c - 'a' + 10
                        : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                               : -1;
      if (digit < 0) return Bad("an escape with too few hexadecimal digits");
      value = value * 16 + static_cast<char32_t>(digit);
    }
    if (value > 0x10FFFF || (value >= 0xD800 && value <= 0xDFFF)) {
      return Bad("an escape that is no character");
    }
    *out = value;
    return OkStatus();
  }

  StatusOr<Expression> ParseLiteral() {
    ++at_;
    std::string text;
    while (Peek() != '"' || at_ >= text_.size()) {
      char32_t c = 0;
      EDGE_RETURN_IF_ERROR(ParseCharacter(&c));
      AppendUtf8(c, &text);
    }
    ++at_;
    return Expression::Literal(text);
  }

  StatusOr<Expression> ParseClass() {
    ++at_;
    const bool negated = Peek() == '^';
    if (negated) ++at_;
    std::vector<CharacterRange> ranges;
    while (Peek() != ']' || at_ >= text_.size()) {
      char32_t first = 0;
      EDGE_RETURN_IF_ERROR(ParseCharacter(&first));
      char32_t last = first;
      if (Peek() == '-' && at_ + 1 < text_.size() && text_[at_ + 1] != ']') {
        ++at_;
        EDGE_RETURN_IF_ERROR(ParseCharacter(&last));
      }
      if (last < first) return Bad("a range whose end is before its start");
      ranges.emplace_back(first, last);
    }
    ++at_;
    return Expression::Class(negated ? Complement(std::move(ranges)) : std::move(ranges));
  }

  const std::string_view text_;
  size_t at_ = 0;
  RuleSet rules_;
  std::vector<bool> defined_;
  std::unordered_map<std::string, uint32_t> ids_;
};

}  // namespace

std::vector<CharacterRange> Complement(std::vector<CharacterRange> ranges) {
  ranges.emplace_back(0xD800, 0xDFFF);
  std::sort(ranges.begin(), ranges.end());
  std::vector<CharacterRange> out;
  char32_t next = 0;
  for (const auto& [first, last] : ranges) {
    if (first > next) out.emplace_back(next, first - 1);
    next = std::max<char32_t>(next, last + 1);
  }
  if (next <= 0x10FFFF) out.emplace_back(next, 0x10FFFF);
  return out;
}

StatusOr<RuleSet> ParseGbnf(std::string_view text) {
  return GbnfParser(text).Parse();
}

}  // namespace edge::inference
