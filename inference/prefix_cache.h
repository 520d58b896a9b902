// inference/prefix_cache.h - keys and values of texts that were seen before, by their tokens.
//
// An entry holds the blocks of 16 tokens and names the entry of the 16 before them, so the
// entries form a tree of prefixes. They are found by a hash of (parent, tokens) and compared
// in full: a collision costs time, never a wrong answer. Entries share their blocks with
// running sequences and give them up, the least recently used first, when the pool is full.
#pragma once
#include <array>
#include <cstdint>
#include <list>
#include <span>
#include <unordered_map>
#include <vector>

#include "edge/inference/tokenizer.h"
#include "inference/kv_pool.h"

namespace edge::inference {

// Single-threaded.
class PrefixCache {
 public:
  explicit PrefixCache(KvPool* pool) : pool_(*pool) {}  // borrowed for life
  ~PrefixCache();
  PrefixCache(const PrefixCache&) = delete;
  PrefixCache& operator=(const PrefixCache&) = delete;

  // Lets the empty `sequence` begin with the longest known prefix of `tokens` under `salt`
  // (whatever else the keys depend on, such as an adapter). Returns its length, a multiple
  // of 16. O(length).
  uint32_t Match(uint64_t salt, std::span<const TokenId> tokens, KvSequence* sequence);
  // Remembers the whole blocks of `sequence`, which holds `tokens`.
  void Insert(uint64_t salt, std::span<const TokenId> tokens, const KvSequence& sequence);
  // Gives up the least recently used entry; false if there is none.
  bool EvictOne();
  size_t size() const { return entries_.size(); }

 private:
  using Tokens = std::array<TokenId, kSlotsPerBlock>;
  struct Entry {
    uint64_t id, parent;
    Tokens tokens;
    std::vector<BlockId> blocks;  // [layer][head]
  };
  using Entries = std::list<Entry>;  // the most recently used first
  static uint64_t Hash(uint64_t parent, const Tokens& tokens);
  Entries::iterator Find(uint64_t parent, const Tokens& tokens);

  KvPool& pool_;
  Entries entries_;
  std::unordered_multimap<uint64_t, Entries::iterator> by_hash_;
  uint64_t next_id_ = 1ull << 32;  // below: salts, the roots of the tree
};

}  // namespace edge::inference
