#include "inference/kv_pool.h"

#include <algorithm>

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
  return true;
}

void KvPool::Free(std::span<const BlockId> blocks) {
  free_.insert(free_.end(), blocks.begin(), blocks.end());
  EDGE_CHECK(free_.size() <= fresh_);
}

KvSequence::KvSequence(KvPool* pool) : pool_(pool), heads_(pool->shape().virtual_sequences()) {}

bool KvSequence::Reserve(uint32_t count) {
  auto missing = [&](const HeadSequence& head) {
    const size_t needed = (size_t{head.length} + count + kSlotsPerBlock - 1) / kSlotsPerBlock;
    return needed > head.table.size() ? needed - head.table.size() : 0;
  };
  size_t total = 0;
  for (const HeadSequence& head : heads_) total += missing(head);
  if (total == 0) return true;
  scratch_.resize(total);
  if (!pool_->Allocate(scratch_)) return false;
  const BlockId* next = scratch_.data();
  for (HeadSequence& head : heads_) {
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

void KvSequence::Clear() {
  position_ = 0;
  for (HeadSequence& head : heads_) {
    pool_->Free(head.table);
    head = {};
  }
}

}  // namespace edge::inference
