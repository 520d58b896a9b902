// kv/hot_tier.h - recent entries in a fixed amount of memory; a hit takes no lock.
//
// Index: per shard, an open table of 64-byte buckets, one cache line each: seven tags of a
// byte, compared at once, and seven words of {16-bit tag, 48-bit address}. Readers look at
// one line of the index and then at the record, whose full key is always compared.
//
// Memory: records are immutable and lie one after another in blocks of a power-of-two size,
// each block in one of two queues. A put appends a record and swaps a word of the index; the
// old record is dead. This is S3-FIFO (Yang et al., SOSP 2023, section 4) over a log, as in
// Segcache (Yang et al., NSDI 2021): new keys enter the small queue; at its end a record that
// was hit is copied to the main queue, others leave, remembered by a fingerprint (ghost) that
// admits them straight to the main queue next time; at the end of the main queue a record
// that was hit goes round again. So order is FIFO, a queue costs no memory per entry, and
// memory is retired by the block. Blocks with many dead records are compacted first.
//
// Reuse waits until no reader can see a block (kv/epoch.h) and no PinnedValue holds it. When
// readers hold back too much, new records are not kept: the budget is never exceeded.
#pragma once
#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string_view>

#include "kv/epoch.h"

namespace edge::kv {

// The key, the value and the metadata follow it. Immutable once published, but for `hits`.
struct Record {
  uint32_t expires_s;  // 0: never, or beyond the year 2106, which a process does not reach
  uint32_t loaded_s;   // when it was read from, or written to, the origin
  uint32_t value_bytes : 25;
  uint32_t metadata_high : 6;
  uint32_t absent : 1;  // the key is known to be missing
  uint16_t key_bytes;
  uint8_t metadata_low;
  // Since it entered its queue, up to 3. Readers store to it, and may lose a hit of another.
  mutable std::atomic<uint8_t> hits;

  size_t metadata_bytes() const { return size_t{metadata_high} << 8 | metadata_low; }
  const char* data() const { return reinterpret_cast<const char*>(this + 1); }
  std::string_view key() const { return {data(), key_bytes}; }
  std::string_view value() const { return {data() + key_bytes, value_bytes}; }
  std::string_view metadata() const { return {data() + key_bytes + value_bytes, metadata_bytes()}; }
  size_t bytes() const { return BytesFor(key_bytes, value_bytes, metadata_bytes()); }
  static size_t BytesFor(size_t key, size_t value, size_t metadata) {
    return (sizeof(Record) + key + value + metadata + 3) & ~size_t{3};
  }
};
static_assert(sizeof(Record) == 16);

// What Insert stores; the views are borrowed for the call.
struct NewRecord {
  std::string_view key = {};
  std::string_view value = {};
  std::string_view metadata = {};
  int64_t expires_s = 0;
  int64_t loaded_s = 0;
  bool absent = false;
};

inline uint64_t LoadWord(const char* at) {
  uint64_t word;
  std::memcpy(&word, at, sizeof(word));
  return word;
}

uint64_t HashOddKey(std::string_view key);  // shorter than 8 bytes, or longer than 16

// Both halves of a 128-bit product are mixed, twice (Wang Yi's wyhash). Only for this
// process: nothing stored depends on it.
inline uint64_t HashKey(std::string_view key) {
  if (key.size() - 8 > 8) [[unlikely]]
    return HashOddKey(key);
  const auto mix = [](uint64_t a, uint64_t b) {
    __extension__ using Product = unsigned __int128;
    const Product product = static_cast<Product>(a) * b;
    return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
  };
  const uint64_t first = LoadWord(key.data());
  const uint64_t last = LoadWord(key.data() + key.size() - 8);
  return mix(mix(first ^ 0x8bb84b93962eacc9, last ^ 0x4b33a62ed433d4a3),
             key.size() ^ 0xa0761d6478bd642f);
}

// memcmp for strings of one length, without the call for the usual ones.
inline bool SameBytes(const char* a, const char* b, size_t size) {
  if (size - 8 > 8) [[unlikely]]
    return std::memcmp(a, b, size) == 0;
  return LoadWord(a) == LoadWord(b) && LoadWord(a + size - 8) == LoadWord(b + size - 8);
}

// Thread-safe. Create with Create(); the destructor must not run beside other calls.
class HotTier {
 public:
  static constexpr size_t kSlots = 7;

  // One cache line, written under the shard's lock.
  struct alignas(64) Bucket {
    // 8 bits of the hash for each slot, 0 where it is empty. The top byte: keys of this
    // bucket that lie in the ones after it, and how far at most (4 bits each).
    std::atomic<uint64_t> tags{0};
    // 16 bits of the hash above 48 of the record's address; 0 if empty.
    std::array<std::atomic<uint64_t>, kSlots> words{};
  };
  static_assert(sizeof(Bucket) == 64);

  // A line of its own, then the buckets. A larger one replaces it.
  struct alignas(64) Table {
    uint64_t bucket_count;
    const Bucket* buckets() const { return reinterpret_cast<const Bucket*>(this + 1); }
    Bucket* buckets() { return reinterpret_cast<Bucket*>(this + 1); }
    // Bits 16 to 47 choose the bucket, the others make tags, the top 8 choose the shard.
    uint64_t HomeOf(uint64_t hash) const {
      return (((hash >> 16) & 0xffffffff) * bucket_count) >> 32;
    }
  };

  struct Usage {
    uint64_t entries = 0;
    uint64_t bytes = 0;
    uint64_t evictions = 0;
  };

  // A block or a large record's own memory, at an address that is a multiple of the block
  // size: so the block of a record is found by masking its address.
  struct Block;

  // `bytes_max` >= 256 KiB; `shard_count` a power of two, 0 for the default of Options.
  static std::unique_ptr<HotTier> Create(uint64_t bytes_max, unsigned shard_count);
  ~HotTier();
  HotTier(const HotTier&) = delete;
  HotTier& operator=(const HotTier&) = delete;

  // The record of `key`, or null, for use within the caller's ReadSection. Counts the hit
  // towards keeping it. Wait-free. Sees every Insert and Erase that happened before.
  const Record* Find(uint64_t hash, std::string_view key) const;
  // Two steps towards Find for many keys at once: the line of the index; then, when that has
  // arrived, the record.
  void PrefetchBucket(uint64_t hash) const;
  void PrefetchRecord(uint64_t hash) const;

  // Replaces what is there. May decide not to keep the record (too large, or no memory may
  // be reused now); then the key is gone from the tier. Amortised O(1).
  void Insert(uint64_t hash, const NewRecord& record);
  void Erase(uint64_t hash, std::string_view key);

  // Holds the block of `record`, which Find returned in the present ReadSection, beyond the
  // section and even beyond the tier; null if too much is held already.
  void* Pin(uint64_t hash, const Record* record) const;
  static void Unpin(void* block);

  Usage usage() const;
  uint64_t bytes_max() const { return bytes_max_; }
  unsigned shard_count() const { return 1u << shard_bits_; }
  size_t record_bytes_max() const;

 private:
  struct Arena;
  struct Shard;  // what writers touch
  HotTier(uint64_t bytes_max, unsigned shard_bits);
  size_t ShardIndex(uint64_t hash) const { return (hash >> 32) >> shard_shift_; }
  const Record* FindFurther(const Table& table, uint64_t hash, std::string_view key) const;

  // What readers of a shard need, on a line of its own.
  struct alignas(64) Front {
    std::atomic<const Table*> table{nullptr};
    std::atomic<bool> pins_copy{false};  // too much is pinned
  };

  uint64_t bytes_max_;
  unsigned shard_bits_;
  unsigned shard_shift_;  // 32 - shard_bits_
  std::unique_ptr<Front[]> fronts_;
  size_t block_bytes_;
  Arena* arena_ = nullptr;
  std::unique_ptr<Shard[]> shards_;
};

inline const Record* RecordOf(uint64_t word) {
  return reinterpret_cast<const Record*>(word & 0xffff'ffff'ffff);
}

inline uint64_t TagOf(uint64_t hash) {
  return (hash >> 48) & 0xff;
}

// The top bit of each byte for a slot whose tag is that of `hash`; sometimes for others too:
// above one that is, or where a slot is empty.
inline uint64_t MatchTags(uint64_t tags, uint64_t hash) {
  const uint64_t difference = tags ^ TagOf(hash) * 0x0101'0101'0101'0101;
  return (difference - 0x0101'0101'0101'0101) & ~difference & 0x0080'8080'8080'8080;
}

inline unsigned SlotOf(uint64_t matches) {
  return static_cast<unsigned>(std::countr_zero(matches)) / 8;
}

// How many buckets after the home one may hold its keys.
inline uint64_t ReachOf(uint64_t tags) {
  return tags >> 60;
}

// `word` leads to `key`: then its record, with the hit counted; else null.
inline const Record* MatchWord(uint64_t word, uint64_t hash, std::string_view key) {
  if ((word ^ hash << 48) >> 48 != 0) return nullptr;
  const Record* record = RecordOf(word);
  if (record == nullptr) return nullptr;
  // The lines of a record do not wait for each other, as they would for its lengths.
  __builtin_prefetch(record->data() + 48);
  __builtin_prefetch(record->data() + 112);
  if (record->key_bytes != key.size()) return nullptr;
  if (!SameBytes(record->data(), key.data(), key.size())) return nullptr;
  const uint8_t hits = record->hits.load(std::memory_order_relaxed);
  if (hits < 3) record->hits.store(static_cast<uint8_t>(hits + 1), std::memory_order_relaxed);
  return record;
}

// The usual case in few instructions, so that a processor has several of them in flight:
// the first match in the home bucket.
inline const Record* HotTier::Find(uint64_t hash, std::string_view key) const {
  const Table& table = *fronts_[ShardIndex(hash)].table.load(std::memory_order_acquire);
  const Bucket& bucket = table.buckets()[table.HomeOf(hash)];
  const uint64_t matches = MatchTags(bucket.tags.load(std::memory_order_acquire), hash);
  if (matches != 0) [[likely]] {
    const uint64_t word = bucket.words[SlotOf(matches)].load(std::memory_order_acquire);
    if (const Record* record = MatchWord(word, hash, key); record != nullptr) [[likely]]
      return record;
  }
  return FindFurther(table, hash, key);
}

inline void HotTier::PrefetchBucket(uint64_t hash) const {
  const Table& table = *fronts_[ShardIndex(hash)].table.load(std::memory_order_acquire);
  __builtin_prefetch(&table.buckets()[table.HomeOf(hash)]);
}

inline void HotTier::PrefetchRecord(uint64_t hash) const {
  const Table& table = *fronts_[ShardIndex(hash)].table.load(std::memory_order_acquire);
  const Bucket& bucket = table.buckets()[table.HomeOf(hash)];
  const uint64_t matches = MatchTags(bucket.tags.load(std::memory_order_relaxed), hash);
  if (matches == 0) return;
  const Record* record = RecordOf(bucket.words[SlotOf(matches)].load(std::memory_order_relaxed));
  const char* line = reinterpret_cast<const char*>(record);
  __builtin_prefetch(line);
  __builtin_prefetch(line + 64);
  __builtin_prefetch(line + 128);
}

}  // namespace edge::kv
