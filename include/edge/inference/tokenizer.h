// edge/inference/tokenizer.h - text to token ids and back, as the model's file says.
//
// Two families: SentencePiece (`tokenizer.ggml.model` = "llama"), which joins the pair of
// pieces with the best score, and byte-level BPE ("gpt2"), which first splits the text by
// the model's pre-tokenizer and then joins pairs in the order of the merge list. Text that
// comes from outside never becomes a control token unless asked for (`kParse`).
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "edge/base/status.h"
#include "edge/inference/gguf.h"

namespace edge::inference {

using TokenId = int32_t;  // 0 to size() - 1

struct Vocabulary;

// Whether text such as "<|im_end|>" inside the input stands for the control token.
enum class ControlText : uint8_t { kPlain, kParse };

// Immutable, hence thread-safe.
class Tokenizer {
 public:
  // Copies what it needs from `file`. InvalidArgument: lists missing, of unequal length, or
  // holding ids out of range. Unimplemented: a family or pre-tokenizer that we do not know.
  static StatusOr<std::unique_ptr<Tokenizer>> FromGguf(const GgufFile& file);
  virtual ~Tokenizer() = default;

  // Any bytes are accepted; those that are not UTF-8 survive a round trip if the vocabulary
  // has tokens for them. Adds neither a beginning- nor an end-of-text token. O(n log n).
  virtual std::vector<TokenId> Encode(std::string_view text,
                                      ControlText control = ControlText::kPlain) const = 0;
  // The bytes that `id` stands for: possibly part of a UTF-8 character. Empty for control
  // tokens and for ids out of range.
  virtual std::string_view Piece(TokenId id) const = 0;
  // All pieces together, without the space that a SentencePiece model puts in front.
  std::string Decode(std::span<const TokenId> ids) const;

  // The id whose text in the vocabulary is exactly `text` ("<|im_end|>"), if there is one.
  virtual std::optional<TokenId> Find(std::string_view text) const = 0;
  // As the vocabulary writes it, control tokens included. Empty if out of range.
  virtual std::string_view VocabularyText(TokenId id) const = 0;

  size_t size() const { return size_; }
  std::optional<TokenId> bos() const { return bos_; }  // beginning of text
  std::optional<TokenId> eos() const { return eos_; }  // end of text
  bool adds_bos() const { return adds_bos_; }          // whether a prompt starts with bos()
  // True for every token that ends a reply: eos and end-of-turn tokens.
  bool IsEnd(TokenId id) const;

 protected:
  void SetCommon(const Vocabulary& vocabulary);

  size_t size_ = 0;
  std::optional<TokenId> bos_, eos_;
  bool adds_bos_ = false;
  bool adds_space_ = false;
  std::vector<TokenId> ends_;
};

// Joins the pieces of a token stream into whole UTF-8 characters. Single-threaded.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}
  // The text that became complete with this token; empty while a character is unfinished.
  // Bytes that can never become UTF-8 come out as U+FFFD. Valid until the next call.
  std::string_view Add(TokenId id);
  // What is left at the end: U+FFFD for an unfinished character, or nothing.
  std::string_view Finish();

 private:
  const Tokenizer& tokenizer_;
  std::string pending_;  // at most 3 bytes between calls
  std::string ready_;
};

}  // namespace edge::inference
