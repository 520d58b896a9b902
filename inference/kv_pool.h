// inference/kv_pool.h - keys and values of running sequences, in blocks of 16 slots.
//
// A block holds 16 slots of ONE (sequence, layer, KV head): a "virtual sequence". Every
// virtual sequence has a length and a block table of its own, so heads can come to keep
// different numbers of slots. All blocks come from one pool of a fixed number of bytes.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "edge/base/status.h"
#include "inference/aligned_buffer.h"
#include "inference/kernels.h"

namespace edge::inference {

using BlockId = uint32_t;

struct KvShape {
  uint32_t layers = 0, kv_heads = 0, head_size = 0;
  bool half = true;  // elements are binary16, else binary32

  uint32_t padded_head_size() const { return (head_size + 15) / 16 * 16; }
  size_t element_bytes() const { return half ? 2 : 4; }
  // K as [head_size][16], V as [16][padded_head_size]; a multiple of 64.
  size_t block_bytes() const {
    return (kSlotsPerBlock * (head_size + padded_head_size()) * element_bytes() + 63) / 64 * 64;
  }
  uint32_t virtual_sequences() const { return layers * kv_heads; }
};

// Single-threaded.
class KvPool {
 public:
  // ResourceExhausted if `bytes_max` cannot hold one block for every layer and head.
  static StatusOr<KvPool> Create(const KvShape& shape, uint64_t bytes_max);

  const KvShape& shape() const { return shape_; }
  uint32_t blocks_total() const { return blocks_total_; }
  uint32_t blocks_free() const { return static_cast<uint32_t>(free_.size()) + fresh_left(); }
  uint64_t bytes_used() const {
    return uint64_t{blocks_total_ - blocks_free()} * shape_.block_bytes();
  }
  std::byte* block(BlockId id) const { return memory_.data() + id * shape_.block_bytes(); }

  // Fills all of `out` with blocks of one owner and returns true, or takes nothing and
  // returns false.
  bool Allocate(std::span<BlockId> out);
  // One more owner for each. A block of several owners must not be written.
  void Share(std::span<const BlockId> blocks);
  bool shared(BlockId id) const { return owners_[id] > 1; }
  // One owner less; a block without owners is free.
  void Free(std::span<const BlockId> blocks);

 private:
  uint32_t fresh_left() const { return blocks_total_ - fresh_; }
  KvShape shape_;
  AlignedBuffer memory_;
  std::vector<uint32_t> owners_;  // of each block
  std::vector<BlockId> free_;     // given back; reused first, their pages are warm
  uint32_t fresh_ = 0;            // blocks from here on have never been used
  uint32_t blocks_total_ = 0;
};

// The block tables of one sequence. Gives its blocks back when it dies. Single-threaded.
class KvSequence {
 public:
  explicit KvSequence(KvPool* pool);  // borrowed for life
  ~KvSequence() { Clear(); }
  KvSequence(const KvSequence&) = delete;
  KvSequence& operator=(const KvSequence&) = delete;

  // Makes room for `count` more slots in every virtual sequence; all or nothing. A last
  // block that others share is copied first, if it is about to be written.
  bool Reserve(uint32_t count);
  // The slots reserved have been written.
  void Commit(uint32_t count);
  // Forgets all slots from position `length` on, which must not be above position().
  void Truncate(uint32_t length);
  // Appends 16 slots that another sequence has written: one block of each virtual sequence,
  // [layer][head], shared from now on. Only at a position that is a multiple of 16.
  void Adopt(std::span<const BlockId> row);
  // The blocks of slots 16 * `row` on, [layer][head].
  void CopyRow(uint32_t row, std::vector<BlockId>* out) const;
  void Clear();

  uint32_t position() const { return position_; }  // of the next token
  bool half() const { return pool_->shape().half; }
  uint32_t length(uint32_t layer, uint32_t head) const { return At(layer, head).length; }
  const std::byte* const* blocks(uint32_t layer, uint32_t head) const {
    return At(layer, head).addresses.data();
  }
  // Where slot `slot` of the virtual sequence lies.
  std::byte* block_of(uint32_t layer, uint32_t head, uint32_t slot) const {
    return pool_->block(At(layer, head).table[slot / kSlotsPerBlock]);
  }

 private:
  struct HeadSequence {
    uint32_t length = 0;
    std::vector<BlockId> table;
    std::vector<const std::byte*> addresses;  // of the table's blocks, for the kernels
  };
  const HeadSequence& At(uint32_t layer, uint32_t head) const {
    return heads_[layer * pool_->shape().kv_heads + head];
  }
  KvPool* pool_;
  std::vector<HeadSequence> heads_;
  std::vector<BlockId> scratch_;
  uint32_t position_ = 0;
  bool adopted_ = false;  // some block may have other owners
};

}  // namespace edge::inference
