// inference/unicode.h - as much of Unicode as pre-tokenizers ask about.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

namespace edge::inference {

// What the classes \p{L}, \p{N} and \s of the published regular expressions tell apart.
enum class CharacterKind : uint8_t { kOther, kLetter, kNumber, kSpace };
CharacterKind KindOf(char32_t character);

inline constexpr char32_t kInvalidCharacter = 0xFFFD;

struct Decoded {
  char32_t character;  // kInvalidCharacter if the bytes are not UTF-8
  uint32_t bytes;      // 1 for bytes that are not UTF-8
};
// The first character of `text`, which must not be empty. Rejects overlong forms,
// surrogates and values above U+10FFFF, as RFC 3629 demands.
Decoded DecodeUtf8(std::string_view text);

// How many bytes the start of a character at `text` still lacks; 0 if it is complete or
// can never become valid.
uint32_t MissingUtf8Bytes(std::string_view text);

void AppendUtf8(char32_t character, std::string* out);

}  // namespace edge::inference
