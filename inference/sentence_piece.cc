// inference/sentence_piece.cc - SentencePiece's BPE as Llama models use it: spaces become
// U+2581, one is put in front, and the neighbouring pair whose joint text has the highest
// score is joined until none is left (Kudo and Richardson, EMNLP 2018; Sennrich et al., ACL
// 2016). Characters without a token fall back to byte tokens.
#include <algorithm>
#include <array>
#include <queue>

#include "edge/base/errors.h"
#include "inference/unicode.h"
#include "inference/vocabulary.h"

namespace edge::inference {
namespace {

constexpr std::string_view kSpaceMark = "\xE2\x96\x81";  // U+2581

// "<0x0A>" -> 10; -1 if it is nothing of the kind.
int ByteOf(std::string_view text) {
  if (text.size() != 6 || !text.starts_with("<0x") || text[5] != '>') return -1;
  int value = 0;
  for (const char c : text.substr(3, 2)) {
    value *= 16;
    if (c >= '0' && c <= '9') {
      value += c - '0';
    } else if (c >= 'A' && c <= 'F') {
      value += c - 'A' + 10;
    } else {
      return -1;
    }
  }
  return value;
}

std::string MarkSpaces(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == ' ') {
      out += kSpaceMark;
    } else {
      out += c;
    }
  }
  return out;
}

std::string UnmarkSpaces(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const bool mark = text.starts_with(kSpaceMark);
    out += mark ? ' ' : text[0];
    text.remove_prefix(mark ? kSpaceMark.size() : 1);
  }
  return out;
}

class SentencePiece final : public VocabularyTokenizer {
 public:
  SentencePiece(Vocabulary vocabulary, std::vector<float> scores)
      : VocabularyTokenizer(std::move(vocabulary)),
        scores_(std::move(scores)),
        splitter_(vocabulary_) {
    adds_bos_ = vocabulary_.adds_bos.value_or(true) && bos_.has_value();
    adds_space_ = vocabulary_.adds_space.value_or(true);
    bytes_.fill(-1);
    for (size_t i = 0; i < pieces_.size(); ++i) {
      const std::string& text = vocabulary_.texts[i];
      const TokenKind kind = vocabulary_.kinds[i];
      if (kind == TokenKind::kByte) {
        const int byte = ByteOf(text);
        if (byte < 0) continue;
        bytes_[static_cast<size_t>(byte)] = static_cast<TokenId>(i);
        pieces_[i] = static_cast<char>(byte);
      } else if (kind != TokenKind::kControl && kind != TokenKind::kUnknown) {
        pieces_[i] = UnmarkSpaces(text);
      }
    }
  }

  std::vector<TokenId> Encode(std::string_view text, ControlText control) const override {
    std::vector<TokenId> ids;
    bool after_control = true;  // the start of text counts
    splitter_.Split(
        text, control,
        [&](std::string_view part) {
          std::string marked = adds_space_ && after_control ? std::string(kSpaceMark) : "";
          marked += MarkSpaces(part);
          EncodePart(marked, &ids);
          after_control = false;
        },
        [&](TokenId id) {
          ids.push_back(id);
          after_control = true;
        });
    return ids;
  }

 private:
  // A stretch of the text in a doubly linked list; joined into its left neighbour it keeps
  // its place with no bytes.
  struct Symbol {
    uint32_t begin, bytes;
    int32_t previous, next;
  };
  struct Pair {
    float score;
    int32_t left, right;
    uint32_t bytes;  // of both when found: tells a stale entry
    bool operator<(const Pair& other) const {
      return score < other.score || (score == other.score && left > other.left);
    }
  };

  // The token for `text` that ordinary text may become.
  TokenId FindPlain(std::string_view text) const {
    const auto found = vocabulary_.ids.find(text);
    if (found == vocabulary_.ids.end()) return -1;
    const TokenKind kind = vocabulary_.kinds[static_cast<size_t>(found->second)];
    const bool plain = kind == TokenKind::kNormal || kind == TokenKind::kUserDefined ||
                       kind == TokenKind::kUndefined;
    return plain ? found->second : -1;
  }

  void EncodePart(std::string_view text, std::vector<TokenId>* ids) const {
    std::vector<Symbol> symbols;
    for (size_t at = 0; at < text.size();) {
      const uint32_t bytes = DecodeUtf8(text.substr(at)).bytes;
      const auto i = static_cast<int32_t>(symbols.size());
      symbols.push_back({static_cast<uint32_t>(at), bytes, i - 1, i + 1});
      at += bytes;
    }
    symbols.back().next = -1;
    std::priority_queue<Pair> pairs;
    auto add = [&](int32_t left, int32_t right) {
      if (left < 0 || right < 0) return;
      const Symbol& a = symbols[static_cast<size_t>(left)];
      const uint32_t bytes = a.bytes + symbols[static_cast<size_t>(right)].bytes;
      const TokenId id = FindPlain(text.substr(a.begin, bytes));
      if (id >= 0) pairs.push({scores_[static_cast<size_t>(id)], left, right, bytes});
    };
    for (size_t i = 1; i < symbols.size(); ++i) {
      add(static_cast<int32_t>(i) - 1, static_cast<int32_t>(i));
    }
    while (!pairs.empty()) {
      const Pair pair = pairs.top();
      pairs.pop();
      Symbol& left = symbols[static_cast<size_t>(pair.left)];
      Symbol& right = symbols[static_cast<size_t>(pair.right)];
      if (left.bytes == 0 || right.bytes == 0 || left.bytes + right.bytes != pair.bytes) continue;
      left.bytes = pair.bytes;
      left.next = right.next;
      right.bytes = 0;
      if (left.next >= 0) symbols[static_cast<size_t>(left.next)].previous = pair.left;
      add(left.previous, pair.left);
      add(pair.left, left.next);
    }
    for (int32_t i = 0; i >= 0; i = symbols[static_cast<size_t>(i)].next) {
      const Symbol& symbol = symbols[static_cast<size_t>(i)];
      Emit(text.substr(symbol.begin, symbol.bytes), ids);
    }
  }

  void Emit(std::string_view text, std::vector<TokenId>* ids) const {
    if (const TokenId id = FindPlain(text); id >= 0) {
      ids->push_back(id);
      return;
    }
    for (const char c : text) {
      const TokenId id = bytes_[static_cast<uint8_t>(c)];
      if (id >= 0) {
        ids->push_back(id);
      } else if (vocabulary_.unknown) {
        ids->push_back(*vocabulary_.unknown);
        return;  // one unknown token for the whole character
      }
    }
  }

  std::vector<float> scores_;
  ControlSplitter splitter_;
  std::array<TokenId, 256> bytes_;
};

}  // namespace

StatusOr<std::unique_ptr<Tokenizer>> MakeSentencePiece(const GgufFile& file,
                                                       Vocabulary vocabulary) {
  EDGE_ASSIGN_OR_RETURN(auto scores, file.Floats("tokenizer.ggml.scores"));
  if (!scores || scores->size() != vocabulary.texts.size()) {
    return InvalidArgument("{}: {} token scores for {} tokens", file.name(),
                           scores ? scores->size() : 0, vocabulary.texts.size());
  }
  // A NaN would break the order that the queue relies on.
  for (float& score : *scores) {
    if (!(score == score)) score = 0;
  }
  return std::unique_ptr<Tokenizer>(
      std::make_unique<SentencePiece>(std::move(vocabulary), std::move(*scores)));
}

}  // namespace edge::inference
