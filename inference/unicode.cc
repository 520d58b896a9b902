// inference/unicode.cc - UTF-8 as in RFC 3629; classes from a generated table.
#include "inference/unicode.h"

#include <algorithm>
#include <iterator>

namespace edge::inference {
namespace {

using enum CharacterKind;
struct Range {
  uint32_t first, last;
  CharacterKind kind;
};
constexpr Range kRanges[] = {
#include "inference/unicode_tables.inc"
};

// The length that a lead byte announces and the range its second byte must lie in (that is
// where overlong forms, surrogates and too large values show). Length 0: not a lead byte.
struct Lead {
  uint32_t bytes;
  uint8_t second_min, second_max;
};
Lead LeadOf(uint8_t byte) {
  if (byte < 0x80) return {1, 0, 0};
  if (byte < 0xC2) return {0, 0, 0};
  if (byte < 0xE0) return {2, 0x80, 0xBF};
  if (byte == 0xE0) return {3, 0xA0, 0xBF};
  if (byte == 0xED) return {3, 0x80, 0x9F};
  if (byte < 0xF0) return {3, 0x80, 0xBF};
  if (byte == 0xF0) return {4, 0x90, 0xBF};
  if (byte < 0xF4) return {4, 0x80, 0xBF};
  if (byte == 0xF4) return {4, 0x80, 0x8F};
  return {0, 0, 0};
}

// How many bytes at the front of `text` fit the character that its lead byte announces.
uint32_t FittingBytes(std::string_view text, const Lead& lead) {
  uint32_t fitting = 1;
  while (fitting < lead.bytes && fitting < text.size()) {
    const auto byte = static_cast<uint8_t>(text[fitting]);
    const uint8_t least = fitting == 1 ? lead.second_min : 0x80;
    const uint8_t most = fitting == 1 ? lead.second_max : 0xBF;
    if (byte < least || byte > most) break;
    ++fitting;
  }
  return fitting;
}

}  // namespace

CharacterKind KindOf(char32_t character) {
  const Range* range =
      std::upper_bound(std::begin(kRanges), std::end(kRanges), character,
                       [](char32_t value, const Range& r) { return value < r.first; });
  if (range == std::begin(kRanges)) return kOther;
  --range;
  return character <= range->last ? range->kind : kOther;
}

Decoded DecodeUtf8(std::string_view text) {
  const auto first = static_cast<uint8_t>(text[0]);
  const Lead lead = LeadOf(first);
  if (lead.bytes == 1) return {first, 1};
  if (lead.bytes == 0 || FittingBytes(text, lead) < lead.bytes) return {kInvalidCharacter, 1};
  uint32_t character = first & (0x7Fu >> lead.bytes);
  for (uint32_t i = 1; i < lead.bytes; ++i) {
    character = character << 6 | (static_cast<uint8_t>(text[i]) & 0x3Fu);
  }
  return {static_cast<char32_t>(character), lead.bytes};
}

uint32_t MissingUtf8Bytes(std::string_view text) {
  const Lead lead = LeadOf(static_cast<uint8_t>(text[0]));
  if (lead.bytes < 2 || text.size() >= lead.bytes) return 0;
  return FittingBytes(text, lead) == text.size() ? lead.bytes - static_cast<uint32_t>(text.size())
                                                 : 0;
}

void AppendUtf8(char32_t character, std::string* out) {
  auto put = [&](uint32_t byte) { out->push_back(static_cast<char>(byte)); };
  const auto c = static_cast<uint32_t>(character);
  if (c < 0x80) {
    put(c);
  } else if (c < 0x800) {
    put(0xC0 | c >> 6);
    put(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    put(0xE0 | c >> 12);
    put(0x80 | (c >> 6 & 0x3F));
    put(0x80 | (c & 0x3F));
  } else {
    put(0xF0 | c >> 18);
    put(0x80 | (c >> 12 & 0x3F));
    put(0x80 | (c >> 6 & 0x3F));
    put(0x80 | (c & 0x3F));
  }
}

}  // namespace edge::inference
