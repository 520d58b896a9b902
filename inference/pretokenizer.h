// inference/pretokenizer.h - how byte-level BPE models cut text into words before joining.
//
// Published models name one of a few regular expressions. Each is written here by hand as a
// scanner over characters: no regex engine, linear time, and any bytes are accepted (those
// that are not UTF-8 count as "other" characters of one byte).
#pragma once
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

namespace edge::inference {

enum class PreTokenizer : uint8_t {
  kGpt2,    // 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
  kSmol,    // every \p{N} alone first, then as kGpt2 within what is between
  kLlama3,  // (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|
            //  ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
  kQwen2,   // as kLlama3 with \p{N} in place of \p{N}{1,3}
};

// `name` is the value of `tokenizer.ggml.pre`. Empty if we do not know it.
std::optional<PreTokenizer> FindPreTokenizer(std::string_view name);

// The words of `text` in order; together they are `text`.
std::vector<std::string_view> SplitWords(PreTokenizer kind, std::string_view text);

}  // namespace edge::inference
