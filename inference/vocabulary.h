// inference/vocabulary.h - the token list of a model file, as both tokenizers use it.
#pragma once
#include <array>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "edge/base/status.h"
#include "edge/inference/tokenizer.h"

namespace edge::inference {

enum class TokenKind : uint8_t {  // the numbers are those of the file
  kUndefined,
  kNormal,
  kUnknown,
  kControl,
  kUserDefined,
  kUnused,
  kByte
};

// Moving it keeps `ids` valid; copying would not.
struct Vocabulary {
  static constexpr size_t kTokensMax = 1 << 24;

  Vocabulary() = default;
  Vocabulary(Vocabulary&&) = default;
  Vocabulary& operator=(Vocabulary&&) = default;
  static StatusOr<Vocabulary> FromGguf(const GgufFile& file);

  std::vector<std::string> texts;
  std::vector<TokenKind> kinds;
  std::unordered_map<std::string_view, TokenId> ids;  // keys point into `texts`
  std::optional<TokenId> bos, eos, eot, unknown;
  std::optional<bool> adds_bos, adds_space;
};

// What every tokenizer answers from its vocabulary alone. Immutable after construction.
class VocabularyTokenizer : public Tokenizer {
 public:
  std::string_view Piece(TokenId id) const final {
    return Known(id) ? std::string_view(pieces_[static_cast<size_t>(id)]) : std::string_view();
  }
  std::optional<TokenId> Find(std::string_view text) const final {
    const auto found = vocabulary_.ids.find(text);
    return found == vocabulary_.ids.end() ? std::nullopt : std::optional(found->second);
  }
  std::string_view VocabularyText(TokenId id) const final {
    return Known(id) ? std::string_view(vocabulary_.texts[static_cast<size_t>(id)])
                     : std::string_view();
  }

 protected:
  explicit VocabularyTokenizer(Vocabulary vocabulary)
      : vocabulary_(std::move(vocabulary)), pieces_(vocabulary_.texts.size()) {
    SetCommon(vocabulary_);
  }

  const Vocabulary vocabulary_;
  std::vector<std::string> pieces_;  // filled by the constructor of the family

 private:
  bool Known(TokenId id) const { return id >= 0 && static_cast<size_t>(id) < pieces_.size(); }
};

// Finds control tokens (when asked for) and user-defined ones (always) inside text: the
// leftmost, and of those that begin at one place the longest.
class ControlSplitter {
 public:
  explicit ControlSplitter(const Vocabulary& vocabulary);

  // Calls `on_text` for each stretch between tokens and `on_token` for each token, in order.
  template <typename OnText, typename OnToken>
  void Split(std::string_view text, ControlText control, OnText on_text, OnToken on_token) const {
    size_t start = 0;
    for (size_t at = 0; at < text.size();) {
      const Entry* entry = Match(text.substr(at), control);
      if (entry == nullptr) {
        ++at;
        continue;
      }
      if (at > start) on_text(text.substr(start, at - start));
      on_token(entry->id);
      at += entry->text.size();
      start = at;
    }
    if (start < text.size()) on_text(text.substr(start));
  }

 private:
  struct Entry {
    std::string text;
    TokenId id;
    bool always;
  };
  const Entry* Match(std::string_view text, ControlText control) const;
  std::array<std::vector<Entry>, 256> entries_;  // by first byte, longest first
};

StatusOr<std::unique_ptr<Tokenizer>> MakeSentencePiece(const GgufFile& file, Vocabulary vocabulary);
StatusOr<std::unique_ptr<Tokenizer>> MakeBytePairs(const GgufFile& file, Vocabulary vocabulary);

}  // namespace edge::inference
