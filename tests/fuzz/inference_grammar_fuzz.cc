// Any bytes as a GBNF grammar or as a JSON schema; where it is one, random text is walked
// under its masks and must end as the automaton says.
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "edge/inference/grammar.h"

namespace edge::inference {
namespace {

// Every byte is a token, then a few longer ones; the last is the end.
class SmallVocabulary final : public Tokenizer {
 public:
  SmallVocabulary() {
    for (int byte = 0; byte < 256; ++byte)
      pieces_.push_back(std::string(1, static_cast<char>(byte)));
    for (const char* word : {"{\"", "\": ", ", \"", "true", "ab", "\"}", "\xE2\x82", ""}) {
      pieces_.push_back(word);
    }
    size_ = pieces_.size();
    ends_ = {static_cast<TokenId>(size_ - 1)};
  }
  std::vector<TokenId> Encode(std::string_view text, ControlText) const override {
    std::vector<TokenId> ids;
    for (const char c : text) ids.push_back(static_cast<uint8_t>(c));
    return ids;
  }
  std::string_view Piece(TokenId id) const override { return pieces_[static_cast<size_t>(id)]; }
  std::optional<TokenId> Find(std::string_view) const override { return std::nullopt; }
  std::string_view VocabularyText(TokenId id) const override { return Piece(id); }

 private:
  std::vector<std::string> pieces_;
};

void Walk(const std::shared_ptr<const Grammar>& grammar, uint32_t seed) {
  GrammarState state(grammar);
  for (int step = 0; step < 64 && !state.finished(); ++step) {
    const TokenMask mask = state.Mask();
    seed = seed * 1664525 + 1013904223;
    const TokenId tokens = static_cast<TokenId>(grammar->tokens().tokenizer().size());
    bool moved = false;
    for (TokenId i = 0; i < tokens && !moved; ++i) {
      const TokenId id = (i + static_cast<TokenId>(seed >> 16)) % tokens;
      if ((mask[static_cast<size_t>(id) / 64] >> (id % 64) & 1) == 0) continue;
      if (grammar->tokens().tokenizer().IsEnd(id)) continue;
      if (!state.Accept(id)) __builtin_trap();  // the mask allowed it
      moved = true;
    }
    if (!moved) {
      if (!state.complete() && state.status().ok()) __builtin_trap();  // a dead end
      return;
    }
  }
  (void)state.ForcedTokens();
}

}  // namespace
}  // namespace edge::inference

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace edge::inference;
  static const auto* tokenizer = new SmallVocabulary;
  static const auto* trie = new std::shared_ptr<const TokenTrie>(TokenTrie::Create(*tokenizer));
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  GrammarLimits limits;
  limits.automaton_states_max = 1 << 12;
  limits.configurations_max = 256;
  limits.depth_max = 64;
  const uint32_t seed = size > 0 ? data[size - 1] : 0;
  if (auto grammar = Grammar::FromGbnf(text, *trie, limits); grammar.ok()) Walk(*grammar, seed);
  if (auto grammar = Grammar::FromJsonSchema(text, *trie, limits); grammar.ok()) {
    Walk(*grammar, seed);
  }
  return 0;
}
