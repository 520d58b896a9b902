#include "inference/prefix_cache.h"

#include <algorithm>

namespace edge::inference {

PrefixCache::~PrefixCache() {
  while (EvictOne()) {
  }
}

uint64_t PrefixCache::Hash(uint64_t parent, const Tokens& tokens) {
  uint64_t hash = parent * 0x9E3779B97F4A7C15u;
  for (const TokenId token : tokens) {
    hash = (hash ^ static_cast<uint32_t>(token)) * 0xD6E8FEB86659FD93u;
    hash ^= hash >> 32;
  }
  return hash;
}

PrefixCache::Entries::iterator PrefixCache::Find(uint64_t parent, const Tokens& tokens) {
  const auto [begin, end] = by_hash_.equal_range(Hash(parent, tokens));
  for (auto at = begin; at != end; ++at) {
    if (at->second->parent == parent && at->second->tokens == tokens) return at->second;
  }
  return entries_.end();
}

uint32_t PrefixCache::Match(uint64_t salt, std::span<const TokenId> tokens, KvSequence* sequence) {
  uint64_t parent = salt;
  uint32_t length = 0;
  std::vector<Entries::iterator> found;
  Tokens key;
  for (; length + kSlotsPerBlock <= tokens.size(); length += kSlotsPerBlock) {
    std::copy_n(tokens.begin() + length, kSlotsPerBlock, key.begin());
    const auto entry = Find(parent, key);
    if (entry == entries_.end()) break;
    sequence->Adopt(entry->blocks);
    parent = entry->id;
    found.push_back(entry);
  }
  // From the leaf to the root, so that a child always goes before its parent.
  for (size_t i = found.size(); i > 0; --i) {
    entries_.splice(entries_.begin(), entries_, found[i - 1]);
  }
  return length;
}

void PrefixCache::Insert(uint64_t salt, std::span<const TokenId> tokens,
                         const KvSequence& sequence) {
  uint64_t parent = salt;
  std::vector<Entries::iterator> path;
  Tokens key;
  const size_t known = std::min<size_t>(tokens.size(), sequence.position());
  for (uint32_t at = 0; at + kSlotsPerBlock <= known; at += kSlotsPerBlock) {
    std::copy_n(tokens.begin() + at, kSlotsPerBlock, key.begin());
    auto entry = Find(parent, key);
    if (entry == entries_.end()) {
      entry = entries_.insert(entries_.begin(), {next_id_++, parent, key, {}});
      sequence.CopyRow(at / kSlotsPerBlock, &entry->blocks);
      pool_.Share(entry->blocks);
      by_hash_.emplace(Hash(parent, key), entry);
    }
    parent = entry->id;
    path.push_back(entry);
  }
  for (size_t i = path.size(); i > 0; --i) {
    entries_.splice(entries_.begin(), entries_, path[i - 1]);
  }
}

bool PrefixCache::EvictOne() {
  if (entries_.empty()) return false;
  const auto last = std::prev(entries_.end());
  const auto [begin, end] = by_hash_.equal_range(Hash(last->parent, last->tokens));
  for (auto at = begin; at != end; ++at) {
    if (at->second == last) {
      by_hash_.erase(at);
      break;
    }
  }
  pool_.Free(last->blocks);
  entries_.erase(last);
  return true;
}

}  // namespace edge::inference
