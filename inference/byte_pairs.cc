// inference/byte_pairs.cc - byte-level BPE as GPT-2 introduced it (Radford et al. 2019).
//
// The vocabulary writes bytes as printable characters; we translate it back to bytes once,
// and then join by token id: a table maps (left id, right id) to the joint id and its rank.
#include <array>
#include <queue>

#include "absl/container/flat_hash_map.h"
#include "edge/base/errors.h"
#include "inference/pretokenizer.h"
#include "inference/unicode.h"
#include "inference/vocabulary.h"

namespace edge::inference {
namespace {

// GPT-2 writes the bytes of printable Latin-1 characters as themselves and numbers the other
// 68 from U+0100 on.
std::array<char32_t, 256> ByteCharacters() {
  std::array<char32_t, 256> characters{};
  char32_t next = 0x100;
  for (uint32_t byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) ||
                           (byte >= 0xAE && byte <= 0xFF);
    characters[byte] = printable ? byte : next++;
  }
  return characters;
}

class BytePairs final : public VocabularyTokenizer {
 public:
  BytePairs(Vocabulary vocabulary, PreTokenizer pre)
      : VocabularyTokenizer(std::move(vocabulary)), splitter_(vocabulary_), pre_(pre) {
    whole_words_ = pre == PreTokenizer::kLlama3;
    adds_bos_ = vocabulary_.adds_bos.value_or(pre == PreTokenizer::kLlama3) && bos_.has_value();
    const auto characters = ByteCharacters();
    for (uint32_t byte = 0; byte < 256; ++byte) {
      std::string& text = byte_texts_[byte];
      AppendUtf8(characters[byte], &text);
      byte_of_[characters[byte]] = static_cast<uint8_t>(byte);
      const auto found = vocabulary_.ids.find(text);
      bytes_[byte] = found == vocabulary_.ids.end() ? -1 : found->second;
    }
    for (size_t i = 0; i < pieces_.size(); ++i) {
      const TokenKind kind = vocabulary_.kinds[i];
      if (kind == TokenKind::kUserDefined) {
        pieces_[i] = vocabulary_.texts[i];
      } else if (kind != TokenKind::kControl && kind != TokenKind::kUnknown) {
        pieces_[i] = ToBytes(vocabulary_.texts[i]);
      }
    }
  }

  // Each merge is "left right". False if its parts or their sum are not in the vocabulary.
  bool AddMerge(std::string_view text, uint32_t rank) {
    // The first byte of a merge may itself be a space in no published vocabulary: bytes are
    // written as printable characters, so the only space is the separator.
    const size_t space = text.find(' ', 1);
    if (space == std::string_view::npos) return false;
    const auto left = vocabulary_.ids.find(text.substr(0, space));
    const auto right = vocabulary_.ids.find(text.substr(space + 1));
    std::string joint(text);
    joint.erase(space, 1);
    const auto both = vocabulary_.ids.find(joint);
    const auto end = vocabulary_.ids.end();
    if (left == end || right == end || both == end) return false;
    merges_.try_emplace(Key(left->second, right->second), Merge{rank, both->second});
    return true;
  }
  void ReserveMerges(size_t count) { merges_.reserve(count); }

  std::vector<TokenId> Encode(std::string_view text, ControlText control) const override {
    std::vector<TokenId> ids;
    Scratch scratch;
    splitter_.Split(
        text, control,
        [&](std::string_view part) {
          for (const std::string_view word : SplitWords(pre_, part))
            EncodeWord(word, &scratch, &ids);
        },
        [&](TokenId id) { ids.push_back(id); });
    return ids;
  }

 private:
  struct Merge {
    uint32_t rank;
    TokenId joint;
  };
  struct Symbol {
    TokenId id;  // -1: joined into its left neighbour
    int32_t previous, next;
  };
  struct Pair {
    uint32_t rank;
    int32_t left, right;
    TokenId left_id, right_id;  // when found: tells a stale entry
    TokenId joint;
    bool operator<(const Pair& other) const {  // the queue's top is its greatest
      return rank > other.rank || (rank == other.rank && left > other.left);
    }
  };
  struct Scratch {
    std::vector<Symbol> symbols;
    std::priority_queue<Pair> pairs;
    std::string text;
  };

  static uint64_t Key(TokenId left, TokenId right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }

  // Characters that stand for no byte (a vocabulary that is not byte-level) stay themselves.
  std::string ToBytes(std::string_view text) const {
    std::string out;
    while (!text.empty()) {
      const Decoded decoded = DecodeUtf8(text);
      const auto byte = byte_of_.find(decoded.character);
      if (byte != byte_of_.end()) {
        out.push_back(static_cast<char>(byte->second));
      } else {
        out.append(text.substr(0, decoded.bytes));
      }
      text.remove_prefix(decoded.bytes);
    }
    return out;
  }

  // A word that is itself a token, for the models that look before they join.
  TokenId FindWhole(std::string_view word, Scratch* scratch) const {
    scratch->text.clear();
    for (const char c : word) scratch->text += byte_texts_[static_cast<uint8_t>(c)];
    const auto found = vocabulary_.ids.find(scratch->text);
    if (found == vocabulary_.ids.end()) return -1;
    const TokenKind kind = vocabulary_.kinds[static_cast<size_t>(found->second)];
    return kind == TokenKind::kNormal ? found->second : -1;
  }

  void EncodeWord(std::string_view word, Scratch* scratch, std::vector<TokenId>* ids) const {
    if (whole_words_) {
      if (const TokenId id = FindWhole(word, scratch); id >= 0) {
        ids->push_back(id);
        return;
      }
    }
    auto& symbols = scratch->symbols;
    symbols.clear();
    for (const char c : word) {
      TokenId id = bytes_[static_cast<uint8_t>(c)];
      if (id < 0) {
        if (!vocabulary_.unknown) continue;  // the model has nothing for this byte
        id = *vocabulary_.unknown;
      }
      const auto i = static_cast<int32_t>(symbols.size());
      symbols.push_back({id, i - 1, i + 1});
    }
    if (symbols.empty()) return;
    symbols.back().next = -1;
    Join(scratch);
    for (int32_t i = 0; i >= 0; i = symbols[static_cast<size_t>(i)].next) {
      ids->push_back(symbols[static_cast<size_t>(i)].id);
    }
  }

  void Join(Scratch* scratch) const {
    auto& symbols = scratch->symbols;
    auto& pairs = scratch->pairs;
    auto add = [&](int32_t left, int32_t right) {
      if (left < 0 || right < 0) return;
      const TokenId a = symbols[static_cast<size_t>(left)].id;
      const TokenId b = symbols[static_cast<size_t>(right)].id;
      const auto merge = merges_.find(Key(a, b));
      if (merge == merges_.end()) return;
      pairs.push({merge->second.rank, left, right, a, b, merge->second.joint});
    };
    for (size_t i = 1; i < symbols.size(); ++i) {
      add(static_cast<int32_t>(i) - 1, static_cast<int32_t>(i));
    }
    while (!pairs.empty()) {
      const Pair pair = pairs.top();
      pairs.pop();
      Symbol& left = symbols[static_cast<size_t>(pair.left)];
      Symbol& right = symbols[static_cast<size_t>(pair.right)];
      if (left.id != pair.left_id || right.id != pair.right_id || left.next != pair.right) continue;
      left.id = pair.joint;
      left.next = right.next;
      right.id = -1;
      if (left.next >= 0) symbols[static_cast<size_t>(left.next)].previous = pair.left;
      add(left.previous, pair.left);
      add(pair.left, left.next);
    }
  }

  ControlSplitter splitter_;
  PreTokenizer pre_;
  bool whole_words_;
  std::array<std::string, 256> byte_texts_;
  std::unordered_map<char32_t, uint8_t> byte_of_;
  std::array<TokenId, 256> bytes_;
  absl::flat_hash_map<uint64_t, Merge> merges_;
};

}  // namespace

StatusOr<std::unique_ptr<Tokenizer>> MakeBytePairs(const GgufFile& file, Vocabulary vocabulary) {
  EDGE_ASSIGN_OR_RETURN(const auto name, file.Text("tokenizer.ggml.pre"));
  const auto pre = FindPreTokenizer(name.value_or("gpt-2"));
  if (!pre) {
    return Unimplemented("{}: pre-tokenizer \"{}\"; known: gpt-2, smollm, llama-bpe, qwen2",
                         file.name(), *name);
  }
  EDGE_ASSIGN_OR_RETURN(const auto merges, file.Texts("tokenizer.ggml.merges"));
  if (!merges) return InvalidArgument("{}: no tokenizer.ggml.merges", file.name());
  auto tokenizer = std::make_unique<BytePairs>(std::move(vocabulary), *pre);
  tokenizer->ReserveMerges(merges->size());
  for (size_t i = 0; i < merges->size(); ++i) {
    if (!tokenizer->AddMerge((*merges)[i], static_cast<uint32_t>(i))) {
      return InvalidArgument("{}: tokenizer.ggml.merges[{}] does not join two tokens to a third",
                             file.name(), i);
    }
  }
  return std::unique_ptr<Tokenizer>(std::move(tokenizer));
}

}  // namespace edge::inference
