// inference/pretokenizer.cc - the scanners.
#include "inference/pretokenizer.h"

#include "inference/unicode.h"

namespace edge::inference {
namespace {

using enum CharacterKind;

struct Character {
  char32_t code;
  CharacterKind kind;
  size_t offset;  // in the text
};

// Characters of one text, and a sentinel at the end whose kind matches nothing asked for.
class Scanner {
 public:
  explicit Scanner(std::string_view text) : text_(text) {
    characters_.reserve(text.size());
    for (size_t at = 0; at < text.size();) {
      const Decoded decoded = DecodeUtf8(text.substr(at));
      characters_.push_back({decoded.character, KindOf(decoded.character), at});
      at += decoded.bytes;
    }
  }
  size_t size() const { return characters_.size(); }
  bool Is(size_t i, CharacterKind kind) const { return i < size() && characters_[i].kind == kind; }
  bool IsChar(size_t i, char32_t code) const { return i < size() && characters_[i].code == code; }
  bool IsLineEnd(size_t i) const { return IsChar(i, '\r') || IsChar(i, '\n'); }
  size_t SkipKind(size_t i, CharacterKind kind) const {
    while (Is(i, kind)) ++i;
    return i;
  }
  char32_t code(size_t i) const { return i < size() ? characters_[i].code : 0; }
  std::string_view Slice(size_t from, size_t to) const {
    const size_t begin = characters_[from].offset;
    const size_t end = to < size() ? characters_[to].offset : text_.size();
    return text_.substr(begin, end - begin);
  }

 private:
  std::string_view text_;
  std::vector<Character> characters_;
};

char32_t Lower(char32_t c) {
  if (c >= 'A' && c <= 'Z') return c + 32;
  return c == 0x17F ? U's' : c;  // the long s folds to s, and the published (?i:'s) takes it
}

// The end of an English contraction at `i` ('s, 're, ...), or `i` if there is none.
size_t Contraction(const Scanner& in, size_t i, bool fold_case) {
  if (!in.IsChar(i, '\'')) return i;
  const char32_t a = fold_case ? Lower(in.code(i + 1)) : in.code(i + 1);
  const char32_t b = fold_case ? Lower(in.code(i + 2)) : in.code(i + 2);
  if (a == 's' || a == 't' || a == 'm' || a == 'd') return i + 2;
  const bool two = (a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l');
  return two ? i + 3 : i;
}

// `\s+(?!\S)|\s+` at a space: a run before a word leaves its last space to the word.
size_t Spaces(const Scanner& in, size_t i) {
  const size_t end = in.SkipKind(i, kSpace);
  return end < in.size() && end - i > 1 ? end - 1 : end;
}

size_t Gpt2WordEnd(const Scanner& in, size_t i) {
  if (const size_t end = Contraction(in, i, false); end > i) return end;
  const size_t start = in.IsChar(i, ' ') ? i + 1 : i;
  for (const CharacterKind kind : {kLetter, kNumber, kOther}) {
    if (in.Is(start, kind)) return in.SkipKind(start, kind);
  }
  return Spaces(in, i);
}

size_t Llama3WordEnd(const Scanner& in, size_t i, size_t digits_max) {
  if (const size_t end = Contraction(in, i, true); end > i) return end;
  if (in.Is(i, kLetter)) return in.SkipKind(i, kLetter);
  if (!in.IsLineEnd(i) && !in.Is(i, kNumber) && in.Is(i + 1, kLetter)) {
    return in.SkipKind(i + 1, kLetter);
  }
  if (in.Is(i, kNumber)) {
    size_t end = i;
    while (in.Is(end, kNumber) && end - i < digits_max) ++end;
    return end;
  }
  if (const size_t start = in.IsChar(i, ' ') ? i + 1 : i; in.Is(start, kOther)) {
    size_t end = in.SkipKind(start, kOther);
    while (in.IsLineEnd(end)) ++end;
    return end;
  }
  // `\s*[\r\n]+`: through the last line end of this run of white space, if there is one.
  const size_t end = in.SkipKind(i, kSpace);
  for (size_t last = end; last > i; --last) {
    if (in.IsLineEnd(last - 1)) return last;
  }
  return Spaces(in, i);
}

void SplitGpt2(std::string_view text, std::vector<std::string_view>* words) {
  if (text.empty()) return;
  const Scanner in(text);
  for (size_t i = 0; i < in.size();) {
    const size_t end = Gpt2WordEnd(in, i);
    words->push_back(in.Slice(i, end));
    i = end;
  }
}

void SplitSmol(std::string_view text, std::vector<std::string_view>* words) {
  size_t start = 0;  // of what has not been given out yet
  for (size_t at = 0; at < text.size();) {
    const Decoded decoded = DecodeUtf8(text.substr(at));
    if (KindOf(decoded.character) == kNumber) {
      SplitGpt2(text.substr(start, at - start), words);
      words->push_back(text.substr(at, decoded.bytes));
      start = at + decoded.bytes;
    }
    at += decoded.bytes;
  }
  SplitGpt2(text.substr(start), words);
}

}  // namespace

std::optional<PreTokenizer> FindPreTokenizer(std::string_view name) {
  if (name == "gpt-2" || name == "phi-2") return PreTokenizer::kGpt2;
  if (name == "smollm" || name == "starcoder" || name == "refact" || name == "codeshell") {
    return PreTokenizer::kSmol;
  }
  if (name == "llama-bpe" || name == "llama-v3" || name == "llama3") return PreTokenizer::kLlama3;
  if (name == "qwen2") return PreTokenizer::kQwen2;
  return std::nullopt;
}

std::vector<std::string_view> SplitWords(PreTokenizer kind, std::string_view text) {
  std::vector<std::string_view> words;
  if (kind == PreTokenizer::kGpt2) {
    SplitGpt2(text, &words);
  } else if (kind == PreTokenizer::kSmol) {
    SplitSmol(text, &words);
  } else if (!text.empty()) {
    const Scanner in(text);
    const size_t digits_max = kind == PreTokenizer::kQwen2 ? 1 : 3;
    for (size_t i = 0; i < in.size();) {
      const size_t end = Llama3WordEnd(in, i, digits_max);
      words.push_back(in.Slice(i, end));
      i = end;
    }
  }
  return words;
}

}  // namespace edge::inference
