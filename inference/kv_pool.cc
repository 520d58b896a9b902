#include "inference/kv_pool.h"

#include <algorithm>
#include <cstring>

#include "edge/base/check.h"
#include "edge/base/errors.h"

namespace edge::inference {

StatusOr<KvPool> KvPool::Create(const KvShape& shape, uint64_t bytes_max) {
  const uint64_t blocks = std::min<uint64_t>(bytes_max / shape.block_bytes(), 0xFFFFFFFEu);
  if (blocks < shape.virtual_sequences()) {
    return ResourceExhausted(
        "kv_bytes_max is {}, but 16 tokens take {} ({} layers x {} KV heads x {} bytes)", bytes_max,
        uint64_t{shape.virtual_sequences()} * shape.block_bytes(), shape.layers, shape.kv_heads,
        shape.block_bytes());
  }
  KvPool pool;
  pool.shape_ = shape;
  pool.blocks_total_ = static_cast<uint32_t>(blocks);
  EDGE_ASSIGN_OR_RETURN(pool.memory_,
                        AlignedBuffer::Create(blocks * shape.block_bytes(), "the key-value cache"));
  return pool;
}

bool KvPool::Allocate(std::span<BlockId> out) {
  if (out.size() > blocks_free()) return false;
  const size_t reused = std::min(out.size(), free_.size());
  std::copy(free_.end() - static_cast<ptrdiff_t>(reused), free_.end(), out.begin());
  free_.resize(free_.size() - reused);
  for (size_t i = reused; i < out.size(); ++i) out[i] = fresh_++;
  if (owners_.size() < fresh_) owners_.resize(fresh_);
  for (const BlockId id : out) owners_[id] = 1;
  return true;
}

void KvPool::Share(std::span<const BlockId> blocks) {
  for (const BlockId id : blocks) ++owners_[id];
}

void KvPool::Free(std::span<const BlockId> blocks) {
  for (const BlockId id : blocks) {
    EDGE_CHECK(owners_[id] > 0);
    if (--owners_[id] == 0) free_.push_back(id);
  }
}

KvSequence::KvSequence(KvPool* pool) : pool_(pool), heads_(pool->shape().virtual_sequences()) {}

bool KvSequence::Reserve(uint32_t count) {
  auto missing = [&](const HeadSequence& head) {
    const size_t needed = (size_t{head.length} + count + kSlotsPerBlock - 1) / kSlotsPerBlock;
    return needed > head.table.size() ? needed - head.table.size() : 0;
  };
  // The last block of a head, if it is part full and not ours alone.
  auto copied = [&](const HeadSequence& head) -> BlockId* {
    if (!adopted_ || head.length % kSlotsPerBlock == 0) return nullptr;
    BlockId* last = const_cast<BlockId*>(&head.table[head.length / kSlotsPerBlock]);
    return pool_->shared(*last) ? last : nullptr;
  };
  size_t total = 0;
  for (const HeadSequence& head : heads_) total += missing(head) + (copied(head) != nullptr);
  if (total == 0) return true;
  scratch_.resize(total);
  if (!pool_->Allocate(scratch_)) return false;
  const BlockId* next = scratch_.data();
  for (HeadSequence& head : heads_) {
    if (BlockId* last = copied(head)) {
      std::memcpy(pool_->block(*next), pool_->block(*last), pool_->shape().block_bytes());
      pool_->Free({last, 1});
      *last = *next;
      head.addresses[head.length / kSlotsPerBlock] = pool_->block(*next);
      ++next;
    }
    for (size_t n = missing(head); n > 0; --n, ++next) {
      head.table.push_back(*next);
      head.addresses.push_back(pool_->block(*next));
    }
  }
  return true;
}

void KvSequence::Commit(uint32_t count) {
  position_ += count;
  for (HeadSequence& head : heads_) {
    head.length += count;
    EDGE_DCHECK(head.length <= head.table.size() * kSlotsPerBlock);
  }
}

void KvSequence::Truncate(uint32_t length) {
  EDGE_CHECK(length <= position_);
  const uint32_t dropped = position_ - length;
  position_ = length;
  for (HeadSequence& head : heads_) {
    EDGE_CHECK(head.length >= dropped);
    head.length -= dropped;
  }
}

void KvSequence::Adopt(std::span<const BlockId> row) {
  EDGE_CHECK(row.size() == heads_.size());
  pool_->Share(row);
  adopted_ = true;
  for (size_t i = 0; i < row.size(); ++i) {
    HeadSequence& head = heads_[i];
    EDGE_CHECK(head.length == head.table.size() * kSlotsPerBlock);
    head.table.push_back(row[i]);
    head.addresses.push_back(pool_->block(row[i]));
    head.length += kSlotsPerBlock;
  }
  position_ += kSlotsPerBlock;
}

void KvSequence::CopyRow(uint32_t row, std::vector<BlockId>* out) const {
  out->clear();
  for (const HeadSequence& head : heads_) out->push_back(head.table[row]);
}

void KvSequence::Clear() {
  position_ = 0;
  adopted_ = false;
  for (HeadSequence& head : heads_) {
    pool_->Free(head.table);
    head = {};
  }
}

}  // namespace edge::inference
