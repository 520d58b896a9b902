// Any bytes as a GBNF grammar or as a JSON schema; where it is one, random text is walked
// under its masks and must end as the automaton says.
#include <cstddef>
#include <cstdint>
#include <string>

#include "edge/base/bytes.h"
#include "edge/inference/grammar.h"
#include "tests/inference/gguf_builder.h"

namespace edge::inference {
namespace {

struct Vocabulary256 {
  Vocabulary256() : bytes(testing::MakeTinyModel({}).Build()) {
    file = GgufFile::Parse(bytes, "tiny").value();
    tokenizer = Tokenizer::FromGguf(*file).value();
    trie = TokenTrie::Create(*tokenizer);
  }
  Bytes bytes;
  std::unique_ptr<GgufFile> file;
  std::unique_ptr<Tokenizer> tokenizer;
  std::shared_ptr<const TokenTrie> trie;
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
  static const auto* words = new Vocabulary256;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  GrammarLimits limits;
  limits.automaton_states_max = 1 << 12;
  limits.configurations_max = 256;
  limits.depth_max = 64;
  const uint32_t seed = size > 0 ? data[size - 1] : 0;
  if (auto grammar = Grammar::FromGbnf(text, words->trie, limits); grammar.ok())
    Walk(*grammar, seed);
  if (auto grammar = Grammar::FromJsonSchema(text, words->trie, limits); grammar.ok()) {
    Walk(*grammar, seed);
  }
  return 0;
}
