#include "src/rpc/json.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <unordered_map>
#include <utility>

#include "edge/base/errors.h"

namespace edge::rpc {
namespace {

constexpr int64_t kExactMax = int64_t{1} << 53;

// The length of the UTF-8 sequence at `text`, 0 if it is not one. Surrogates are refused
// unless `wtf8`.
size_t SequenceLength(std::string_view text, bool wtf8) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const auto continues = [&](size_t i) { return i < text.size() && (byte(i) & 0xC0) == 0x80; };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return 1;
  if (lead >= 0xC2 && lead <= 0xDF) return continues(1) ? 2 : 0;
  if (lead >= 0xE0 && lead <= 0xEF) {
    if (!continues(1) || !continues(2)) return 0;
    if (lead == 0xE0 && byte(1) < 0xA0) return 0;
    if (lead == 0xED && byte(1) >= 0xA0 && !wtf8) return 0;
    return 3;
  }
  if (lead >= 0xF0 && lead <= 0xF4) {
    if (!continues(1) || !continues(2) || !continues(3)) return 0;
    if (lead == 0xF0 && byte(1) < 0x90) return 0;
    if (lead == 0xF4 && byte(1) >= 0x90) return 0;
    return 4;
  }
  return 0;
}

void AppendCodePoint(uint32_t code, std::string* out) {
  const auto put = [&](uint32_t byte) { out->push_back(static_cast<char>(byte)); };
  if (code < 0x80) {
    put(code);
  } else if (code < 0x800) {
    put(0xC0 | code >> 6);
    put(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    put(0xE0 | code >> 12);
    put(0x80 | (code >> 6 & 0x3F));
    put(0x80 | (code & 0x3F));
  } else {
    put(0xF0 | code >> 18);
    put(0x80 | (code >> 12 & 0x3F));
    put(0x80 | (code >> 6 & 0x3F));
    put(0x80 | (code & 0x3F));
  }
}

class Parser {
 public:
  Parser(std::string_view text, size_t depth_max) : text_(text), depth_max_(depth_max) {}

  StatusOr<Value> Run() {
    Value value;
    if (!ParseValue(&value, 0)) return failure_;
    SkipSpace();
    if (at_ != text_.size()) {
      Fail("text after the value");
      return failure_;
    }
    return value;
  }

  bool RunAt(size_t* at, size_t depth, Value* out) {
    at_ = *at;
    const bool parsed = ParseValue(out, depth);
    *at = at_;
    return parsed;
  }

 private:
  bool Fail(std::string_view what) {
    if (failure_.ok()) failure_ = InvalidArgument("bad JSON at byte {}: {}", at_, what);
    return false;
  }
  void SkipSpace() {
    while (at_ < text_.size() &&
           (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\r' || text_[at_] == '\t'))
      ++at_;
  }
  bool Take(char c) {
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  bool Word(std::string_view word) {
    if (text_.substr(at_, word.size()) != word) return Fail("unexpected character");
    at_ += word.size();
    return true;
  }

  bool ParseValue(Value* out, size_t depth) {
    SkipSpace();
    if (at_ >= text_.size()) return Fail("unexpected end");
    switch (text_[at_]) {
      case '[':
        return ParseArray(out, depth);
      case '{':
        return ParseObject(out, depth);
      case '"': {
        std::string text;
        if (!ParseString(&text)) return false;
        *out = Value(std::move(text));
        return true;
      }
      case 't':
        *out = Value(true);
        return Word("true");
      case 'f':
        *out = Value(false);
        return Word("false");
      case 'n':
        *out = Value(nullptr);
        return Word("null");
      default:
        return ParseNumber(out);
    }
  }

  bool ParseArray(Value* out, size_t depth) {
    if (depth >= depth_max_) return Fail("nested too deeply");
    ++at_;
    Array items;
    SkipSpace();
    if (!Take(']')) {
      do {
        if (!ParseValue(&items.emplace_back(), depth + 1)) return false;
        SkipSpace();
      } while (Take(','));
      if (!Take(']')) return Fail("expected ',' or ']'");
    }
    *out = Value(std::move(items));
    return true;
  }

  bool ParseObject(Value* out, size_t depth) {
    if (depth >= depth_max_) return Fail("nested too deeply");
    ++at_;
    Object object;
    SkipSpace();
    if (!Take('}')) {
      do {
        Member member;
        SkipSpace();
        if (at_ >= text_.size() || text_[at_] != '"') return Fail("expected a key");
        if (!ParseString(&member.key)) return false;
        SkipSpace();
        if (!Take(':')) return Fail("expected ':'");
        if (!ParseValue(&member.value, depth + 1)) return false;
        object.members().push_back(std::move(member));
        SkipSpace();
      } while (Take(','));
      if (!Take('}')) return Fail("expected ',' or '}'");
    }
    RemoveDuplicates(&object);
    *out = Value(std::move(object));
    return true;
  }

  bool ParseString(std::string* out) {
    ++at_;
    while (true) {
      const size_t run = std::exchange(at_, PlainEnd(text_, at_));
      out->append(text_.substr(run, at_ - run));
      if (at_ >= text_.size()) return Fail("unterminated string");
      if (Take('"')) return true;
      if (text_[at_] == '\\') {
        if (!ParseEscape(out)) return false;
        continue;
      }
      const size_t length = SequenceLength(text_.substr(at_), false);
      if (static_cast<unsigned char>(text_[at_]) < 0x20) return Fail("control character");
      if (length == 0) return Fail("not UTF-8");
      out->append(text_.substr(at_, length));
      at_ += length;
    }
  }

  bool ParseEscape(std::string* out) {
    ++at_;
    if (at_ >= text_.size()) return Fail("unterminated string");
    const char c = text_[at_++];
    switch (c) {
      case '"':
      case '\\':
      case '/':
        out->push_back(c);
        return true;
      case 'b':
        out->push_back('\b');
        return true;
      case 'f':
        out->push_back('\f');
        return true;
      case 'n':
        out->push_back('\n');
        return true;
      case 'r':
        out->push_back('\r');
        return true;
      case 't':
        out->push_back('\t');
        return true;
      case 'u':
        break;
      default:
        return Fail("unknown escape");
    }
    uint32_t code = 0;
    if (!ParseHex4(&code)) return false;
    if (code >= 0xD800 && code < 0xDC00 && text_.substr(at_, 2) == "\\u") {
      const size_t before = at_;
      at_ += 2;
      uint32_t low = 0;
      if (!ParseHex4(&low)) return false;
      if (low >= 0xDC00 && low < 0xE000) {
        code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
      } else {
        at_ = before;  // a lone surrogate, then some other escape
      }
    }
    AppendCodePoint(code, out);
    return true;
  }

  bool ParseHex4(uint32_t* code) {
    if (text_.size() - at_ < 4) return Fail("unterminated escape");
    *code = 0;
    for (int i = 0; i < 4; ++i) {
      const char c = text_[at_++];
      uint32_t digit = 0;
      if (c >= '0' && c <= '9') {
        digit = static_cast<uint32_t>(c - '0');
      } else if (c >= 'a' && c <= 'f') {
        digit = static_cast<uint32_t>(c - 'a' + 10);
      } else if (c >= 'A' && c <= 'F') {
        digit = static_cast<uint32_t>(c - 'A' + 10);
      } else {
        return Fail("bad hexadecimal digit");
      }
      *code = *code << 4 | digit;
    }
    return true;
  }

  size_t Digits() {
    const size_t start = at_;
    while (at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9') ++at_;
    return at_ - start;
  }

  bool ParseNumber(Value* out) {
    const size_t start = at_;
    const bool negative = Take('-');
    const size_t first = at_;
    const size_t whole = Digits();
    if (whole == 0) return Fail("unexpected character");
    if (whole > 1 && text_[first] == '0') return Fail("a number must not start with 0");
    bool integral = true;
    if (Take('.')) {
      integral = false;
      if (Digits() == 0) return Fail("expected a digit");
    }
    if (Take('e') || Take('E')) {
      integral = false;
      if (!Take('+')) Take('-');
      if (Digits() == 0) return Fail("expected a digit");
    }
    const char* begin = text_.data() + start;
    const char* end = text_.data() + at_;
    if (integral && whole <= 16) {
      int64_t value = 0;
      std::from_chars(begin, end, value);
      if (value <= kExactMax && value >= -kExactMax && !(negative && value == 0)) {
        *out = Value(value);
        return true;
      }
    }
    double value = 0;
    if (std::from_chars(begin, end, value).ec == std::errc::result_out_of_range)
      value = std::strtod(std::string(begin, end).c_str(), nullptr);  // infinity or zero
    *out = Value(value);
    return true;
  }

  std::string_view text_;
  size_t depth_max_;
  size_t at_ = 0;
  Status failure_;
};

}  // namespace

bool ParseJsonAt(std::string_view text, size_t* at, size_t depth, size_t depth_max, Value* out) {
  return Parser(text, depth_max).RunAt(at, depth, out);
}

StatusOr<Value> ParseJson(std::string_view text, size_t depth_max) {
  return Parser(text, depth_max).Run();
}

void RemoveDuplicates(Object* object) {
  std::vector<Member>& members = object->members();
  if (members.size() <= 8) {
    for (size_t i = 1; i < members.size(); ++i) {
      for (size_t j = 0; j < i; ++j) {
        if (members[i].key != members[j].key) continue;
        members[j].value = std::move(members[i].value);
        members.erase(members.begin() + static_cast<ptrdiff_t>(i--));
        break;
      }
    }
    return;
  }
  std::unordered_map<std::string_view, size_t> first;
  first.reserve(members.size());
  size_t kept = 0;
  std::vector<Member> result;
  result.reserve(members.size());  // views into `result` stay valid
  for (Member& member : members) {
    const auto found = first.find(member.key);
    if (found != first.end()) {
      result[found->second].value = std::move(member.value);
      continue;
    }
    result.push_back(std::move(member));
    first.emplace(result.back().key, kept++);
  }
  members = std::move(result);
}

// Eight at a time: a byte below 0x20, above 0x7F, or equal to '"' or '\\' sets its highest bit
// (Warren, Hacker's Delight, section 6-1; a false alarm is only looked at again).
size_t PlainEnd(std::string_view text, size_t at) {
  constexpr uint64_t kOnes = 0x0101010101010101;
  constexpr uint64_t kHighs = 0x8080808080808080;
  const auto zero_bytes = [](uint64_t word) { return (word - kOnes) & ~word; };
  while (text.size() - at >= 8) {
    uint64_t word = 0;
    std::memcpy(&word, text.data() + at, 8);
    const uint64_t special = word | (word - kOnes * 0x20) | zero_bytes(word ^ kOnes * '"') |
                             zero_bytes(word ^ kOnes * '\\');
    if ((special & kHighs) != 0) break;
    at += 8;
  }
  while (at < text.size() && text[at] != '"' && text[at] != '\\' &&
         static_cast<unsigned char>(text[at]) >= 0x20 &&
         static_cast<unsigned char>(text[at]) < 0x80)
    ++at;
  return at;
}

bool IsWtf8(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    uint64_t eight = 0;
    if (text.size() - at >= 8) {
      std::memcpy(&eight, text.data() + at, 8);
      if ((eight & 0x8080808080808080) == 0) {
        at += 8;
        continue;
      }
    }
    const size_t length = SequenceLength(text.substr(at), true);
    if (length == 0) return false;
    at += length;
  }
  return true;
}

std::string ToWtf8(std::string_view text) {
  std::string result;
  while (!text.empty()) {
    const size_t length = SequenceLength(text, true);
    result.append(length == 0 ? std::string_view("\xEF\xBF\xBD") : text.substr(0, length));
    text.remove_prefix(std::max<size_t>(length, 1));
  }
  return result;
}

void AppendJsonString(std::string_view text, std::string* out) {
  static constexpr char kHex[] = "0123456789abcdef";
  out->push_back('"');
  for (size_t at = 0; at < text.size();) {
    const size_t run = std::exchange(at, PlainEnd(text, at));
    out->append(text.substr(run, at - run));
    if (at == text.size()) break;
    const auto c = static_cast<unsigned char>(text[at]);
    if (c >= 0x80) {
      const size_t length = SequenceLength(text.substr(at), true);
      if (length == 0) {
        out->append("\xEF\xBF\xBD");
        ++at;
        continue;
      }
      const auto second = static_cast<unsigned char>(length > 1 ? text[at + 1] : 0);
      if (c == 0xED && second >= 0xA0) {
        const uint32_t code =
            0xD000u | (second & 0x3Fu) << 6 | (static_cast<unsigned char>(text[at + 2]) & 0x3Fu);
        out->append("\\u");
        for (int shift = 12; shift >= 0; shift -= 4) out->push_back(kHex[code >> shift & 15]);
      } else {
        out->append(text.substr(at, length));
      }
      at += length;
      continue;
    }
    ++at;
    switch (c) {
      case '"':
        out->append("\\\"");
        break;
      case '\\':
        out->append("\\\\");
        break;
      case '\b':
        out->append("\\b");
        break;
      case '\f':
        out->append("\\f");
        break;
      case '\n':
        out->append("\\n");
        break;
      case '\r':
        out->append("\\r");
        break;
      case '\t':
        out->append("\\t");
        break;
      default:
        out->append("\\u00");
        out->push_back(kHex[c >> 4]);
        out->push_back(kHex[c & 15]);
    }
  }
  out->push_back('"');
}

void AppendJsonNumber(double finite, std::string* out) {
  if (finite == 0) finite = 0;  // JSON of JavaScript has no -0
  char buffer[32];
  const auto end = std::to_chars(buffer, buffer + sizeof(buffer), finite).ptr;
  out->append(buffer, end);
}

void AppendJsonNumber(int64_t value, std::string* out) {
  char buffer[24];
  const auto end = std::to_chars(buffer, buffer + sizeof(buffer), value).ptr;
  out->append(buffer, end);
}

}  // namespace edge::rpc
