// edge/inference/grammar.h - lets a model write only what a grammar allows.
//
//   auto tokens = TokenTrie::Create(*tokenizer);
//   auto grammar = Grammar::FromJsonSchema(R"({"type": "object", ...})", tokens);
//   GrammarState state(*grammar);
//   while (...) {
//     for (TokenId id : state.ForcedTokens()) ...     // no model call for these
//     const TokenMask mask = state.Mask();            // sample among the bits set
//     state.Accept(id);
//   }
//
// or, in a request: options.constraint = Constrain(*grammar).
//
// Both kinds of grammar become one pushdown automaton over bytes. Sets of its configurations
// are numbered as they come up, so that stepping is a table look-up, and each set keeps the mask
// of the vocabulary once somebody asked for it; masks are made by one walk over the trie of
// all tokens, which leaves a subtree at the first byte that does not fit (in the spirit of
// XGrammar, Dong et al. 2024). Every state that can be reached can also be completed.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "edge/base/status.h"
#include "edge/inference/constraint.h"
#include "edge/inference/tokenizer.h"

namespace edge::inference {

// All tokens of a vocabulary in the order of their bytes. Immutable. About 12 bytes per byte
// of vocabulary.
class TokenTrie {
 public:
  // Borrows `tokenizer`, which must outlive the result and all grammars over it.
  static std::shared_ptr<const TokenTrie> Create(const Tokenizer& tokenizer);

  const Tokenizer& tokenizer() const { return tokenizer_; }
  const std::vector<TokenId>& ends() const { return ends_; }  // tokens that end a reply

 private:
  friend class GrammarAutomaton;
  struct Node {            // in order of a walk: a node, then its children
    uint32_t after;        // the first node outside of this subtree
    uint32_t tokens_from;  // tokens_[tokens_from, the next node's)
    uint16_t depth;        // bytes from the root, at least 1
    uint8_t byte;
    bool plain;  // the subtree has only what stands for itself inside a JSON string
  };
  explicit TokenTrie(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}

  const Tokenizer& tokenizer_;
  std::vector<Node> nodes_;  // and one at the end that is no node
  std::vector<TokenId> tokens_;
  std::vector<TokenId> ends_;
  uint32_t depth_max_ = 0;
};

struct GrammarLimits {
  size_t text_bytes_max = 1 << 20;          // of the grammar or schema
  uint32_t automaton_states_max = 1 << 18;  // repetitions are written out: {0,1000} costs 1000
  uint32_t depth_max = 256;                 // of nested rules while matching; deeper is not allowed
  uint32_t configurations_max = 4096;       // that an ambiguous grammar may hold at once
  uint32_t cached_sets_max = 8192;          // above it the cache starts anew (about 1 KiB each)
  size_t cached_mask_bytes_max = 16 << 20;
};

class GrammarAutomaton;

// Thread-safe: states of many threads share one grammar and its cache.
class Grammar {
 public:
  // GBNF: `name ::= ...` with "literals", [classes], ., (groups), |, *, +, ?, {n}, {n,}, {n,m}
  // and # comments; matching begins at the rule `root`. InvalidArgument names the line:
  // syntax, an unknown rule, left recursion, or a grammar that no text meets.
  static StatusOr<std::shared_ptr<const Grammar>> FromGbnf(std::string_view text,
                                                           std::shared_ptr<const TokenTrie> tokens,
                                                           const GrammarLimits& limits = {});
  // JSON schema (2020-12 and what older drafts share): type, properties, required,
  // additionalProperties, items, prefixItems, minItems, maxItems, enum, const, anyOf, oneOf (as
  // anyOf), allOf of objects, $ref within the document, minLength, maxLength, bounds of
  // integers, format date, time, date-time and uuid. Members come in the order of
  // `properties`, after "," and ":" stands one space; what the schema merely permits without
  // naming it (members, where `additionalProperties` is absent) is not written. So every text
  // is valid. InvalidArgument: not a schema, or one that no value meets. Unimplemented: a
  // keyword that we cannot enforce; its path is named.
  static StatusOr<std::shared_ptr<const Grammar>> FromJsonSchema(
      std::string_view schema, std::shared_ptr<const TokenTrie> tokens,
      const GrammarLimits& limits = {});
  ~Grammar();

  const TokenTrie& tokens() const { return *tokens_; }

 private:
  friend class GrammarState;
  Grammar(std::shared_ptr<const TokenTrie> tokens, std::shared_ptr<GrammarAutomaton> automaton);
  static StatusOr<std::shared_ptr<const Grammar>> Make(const struct RuleSet& rules,
                                                       std::shared_ptr<const TokenTrie> tokens,
                                                       const GrammarLimits& limits);
  const std::shared_ptr<const TokenTrie> tokens_;
  // Shared with the states, which may be in the middle of a text when the cache starts anew.
  const std::shared_ptr<GrammarAutomaton> automaton_;
};

// How far one text has come. Copying it is cheap: to try tokens, try a copy. Single-threaded.
class GrammarState {
 public:
  explicit GrammarState(std::shared_ptr<const Grammar> grammar);

  // What may come next; tokens that end a reply exactly if complete(). Valid until this
  // state's next change. 0.1 to 1 ms for a set of configurations seen for the first time
  // with 49,000 tokens, less than 1 us later. Where nothing fits (see status()) the end does.
  TokenMask Mask();
  // Takes a token. False, with no change, if it may not come next.
  bool Accept(TokenId id);
  bool AcceptText(std::string_view text);
  // Whether the text so far is a whole one, and whether nothing can follow it.
  bool complete() const;
  bool finished() const;
  // The text that has to come next, in whole characters: up to where there is a choice, or
  // where the text might end. At most 4096 bytes.
  std::string ForcedText() const;
  // The same as tokens, spelt as the tokenizer spells that text. Leaves out the last token where
  // more text follows, for it could become part of a longer one. May be empty.
  std::vector<TokenId> ForcedTokens() const;
  // ResourceExhausted when the grammar is so ambiguous that `configurations_max` was passed;
  // nothing but the end is allowed then.
  Status status() const;

 private:
  std::shared_ptr<const Grammar> grammar_;
  std::shared_ptr<void> generation_;  // of the cache in which `set_` is a number
  uint32_t set_ = 0;
  std::shared_ptr<const std::vector<uint64_t>> mask_;
};

// The grammar for requests to an engine. Begin() is InvalidArgument with another tokenizer than
// the one of the grammar's trie.
std::shared_ptr<const ConstraintFactory> Constrain(std::shared_ptr<const Grammar> grammar);

}  // namespace edge::inference
