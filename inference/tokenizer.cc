// inference/tokenizer.cc - what both families share: the vocabulary of the file, control
// tokens inside text, and turning token streams back into UTF-8.
#include "edge/inference/tokenizer.h"

#include <algorithm>

#include "edge/base/errors.h"
#include "inference/unicode.h"
#include "inference/vocabulary.h"

namespace edge::inference {
namespace {

// Control tokens that end a turn, whatever the file's eos token is.
constexpr std::string_view kEndTexts[] = {"<|im_end|>", "<|eot_id|>",      "<|endoftext|>",
                                          "<|end|>",    "<|end_of_text|>", "<|eom_id|>",
                                          "</s>",       "<end_of_turn>"};

StatusOr<std::optional<TokenId>> ReadId(const GgufFile& file, const std::string& key, size_t size) {
  EDGE_ASSIGN_OR_RETURN(const auto id, file.Uint(key));
  if (!id) return std::optional<TokenId>();
  // Some writers put 2^32 - 1 for "none".
  if (*id == 0xFFFFFFFFu) return std::optional<TokenId>();
  if (*id >= size) {
    return InvalidArgument("{}: {} is {}, but there are {} tokens", file.name(), key, *id, size);
  }
  return std::optional<TokenId>(static_cast<TokenId>(*id));
}

}  // namespace

StatusOr<Vocabulary> Vocabulary::FromGguf(const GgufFile& file) {
  const std::string prefix = "tokenizer.ggml.";
  EDGE_ASSIGN_OR_RETURN(const auto texts, file.Texts(prefix + "tokens"));
  if (!texts || texts->empty()) {
    return InvalidArgument("{}: no vocabulary (tokenizer.ggml.tokens)", file.name());
  }
  if (texts->size() > kTokensMax) {
    return InvalidArgument("{}: a vocabulary of {} tokens, at most {}", file.name(), texts->size(),
                           kTokensMax);
  }
  Vocabulary out;
  out.texts.assign(texts->begin(), texts->end());
  EDGE_ASSIGN_OR_RETURN(const auto kinds, file.Ints(prefix + "token_type"));
  if (kinds && kinds->size() != texts->size()) {
    return InvalidArgument("{}: {} token types for {} tokens", file.name(), kinds->size(),
                           texts->size());
  }
  out.kinds.assign(texts->size(), TokenKind::kNormal);
  for (size_t i = 0; kinds && i < kinds->size(); ++i) {
    const int32_t kind = (*kinds)[i];
    if (kind < 0 || kind > 6) {
      return InvalidArgument("{}: token {} has the unknown type {}", file.name(), i, kind);
    }
    out.kinds[i] = static_cast<TokenKind>(kind);
  }
  // Where two tokens have one text the first is meant.
  out.ids.reserve(out.texts.size());
  for (size_t i = 0; i < out.texts.size(); ++i) {
    out.ids.emplace(out.texts[i], static_cast<TokenId>(i));
  }
  EDGE_ASSIGN_OR_RETURN(out.bos, ReadId(file, prefix + "bos_token_id", out.texts.size()));
  EDGE_ASSIGN_OR_RETURN(out.eos, ReadId(file, prefix + "eos_token_id", out.texts.size()));
  EDGE_ASSIGN_OR_RETURN(out.eot, ReadId(file, prefix + "eot_token_id", out.texts.size()));
  EDGE_ASSIGN_OR_RETURN(out.unknown, ReadId(file, prefix + "unknown_token_id", out.texts.size()));
  EDGE_ASSIGN_OR_RETURN(out.adds_bos, file.Bool(prefix + "add_bos_token"));
  EDGE_ASSIGN_OR_RETURN(out.adds_space, file.Bool(prefix + "add_space_prefix"));
  return out;
}

ControlSplitter::ControlSplitter(const Vocabulary& vocabulary) {
  for (size_t i = 0; i < vocabulary.texts.size(); ++i) {
    const TokenKind kind = vocabulary.kinds[i];
    const std::string& text = vocabulary.texts[i];
    if (text.empty() || (kind != TokenKind::kControl && kind != TokenKind::kUserDefined)) continue;
    entries_[static_cast<uint8_t>(text[0])].push_back(
        {text, static_cast<TokenId>(i), kind == TokenKind::kUserDefined});
  }
  for (auto& entries : entries_) {
    std::stable_sort(entries.begin(), entries.end(),
                     [](const Entry& a, const Entry& b) { return a.text.size() > b.text.size(); });
  }
}

const ControlSplitter::Entry* ControlSplitter::Match(std::string_view text,
                                                     ControlText control) const {
  for (const Entry& entry : entries_[static_cast<uint8_t>(text[0])]) {
    if (control == ControlText::kPlain && !entry.always) continue;
    if (text.starts_with(entry.text)) return &entry;
  }
  return nullptr;
}

StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::FromGguf(const GgufFile& file) {
  EDGE_ASSIGN_OR_RETURN(const auto family, file.Text("tokenizer.ggml.model"));
  if (!family) return InvalidArgument("{}: no tokenizer (tokenizer.ggml.model)", file.name());
  if (*family != "llama" && *family != "gpt2") {
    return Unimplemented("{}: tokenizer family \"{}\"; known: llama, gpt2", file.name(), *family);
  }
  EDGE_ASSIGN_OR_RETURN(Vocabulary vocabulary, Vocabulary::FromGguf(file));
  return *family == "llama" ? MakeSentencePiece(file, std::move(vocabulary))
                            : MakeBytePairs(file, std::move(vocabulary));
}

void Tokenizer::SetCommon(const Vocabulary& vocabulary) {
  size_ = vocabulary.texts.size();
  bos_ = vocabulary.bos;
  eos_ = vocabulary.eos;
  for (const auto& id : {vocabulary.eos, vocabulary.eot}) {
    if (id) ends_.push_back(*id);
  }
  for (const std::string_view text : kEndTexts) {
    const auto found = vocabulary.ids.find(text);
    if (found == vocabulary.ids.end()) continue;
    if (vocabulary.kinds[static_cast<size_t>(found->second)] == TokenKind::kControl) {
      ends_.push_back(found->second);
    }
  }
}

bool Tokenizer::IsEnd(TokenId id) const {
  return std::find(ends_.begin(), ends_.end(), id) != ends_.end();
}

std::string Tokenizer::Decode(std::span<const TokenId> ids) const {
  std::string text;
  for (const TokenId id : ids) text += Piece(id);
  if (adds_space_ && text.starts_with(' ')) text.erase(0, 1);
  return text;
}

std::string_view StreamDecoder::Add(TokenId id) {
  ready_.clear();
  pending_ += tokenizer_.Piece(id);
  std::string_view rest = pending_;
  while (!rest.empty() && MissingUtf8Bytes(rest) == 0) {
    const Decoded decoded = DecodeUtf8(rest);
    AppendUtf8(decoded.character, &ready_);
    rest.remove_prefix(decoded.bytes);
  }
  pending_.erase(0, pending_.size() - rest.size());
  return ready_;
}

std::string_view StreamDecoder::Finish() {
  ready_.clear();
  if (!pending_.empty()) AppendUtf8(kInvalidCharacter, &ready_);
  pending_.clear();
  return ready_;
}

}  // namespace edge::inference
