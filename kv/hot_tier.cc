#include "kv/hot_tier.h"

#include <sys/mman.h>

#include <algorithm>
#include <deque>
#include <new>
#include <utility>
#include <vector>

#include "edge/base/check.h"
#include "edge/base/checksum.h"
#include "edge/base/mutex.h"

namespace edge::kv {
namespace {

constexpr size_t kBlockBytesMin = 4096;
constexpr size_t kBlockBytesMax = 1 << 20;
constexpr uint64_t kReachMax = 15;      // buckets beyond the home one that a key may lie in
constexpr uint64_t kDisplacedMax = 15;  // counted so far; then the reach stays until the next table
constexpr size_t kStepRecords = 8;      // records moved or dropped after one insert
constexpr size_t kSpareBlocks = 2;      // kept free: one to fill, one to promote into
constexpr unsigned kSmallPercent = 10;  // of the bytes in both queues
constexpr uint32_t kOrphaned = 1u << 31;
constexpr size_t kPage = 4096;
constexpr size_t kHugePage = 2 << 20;
constexpr uint64_t kRecordBytesMax = 1 << 25;  // so that a value's length fits its field

size_t RoundUp(size_t bytes, size_t unit) {
  return (bytes + unit - 1) / unit * unit;
}

uint32_t SaturateSeconds(int64_t seconds) {
  return static_cast<uint32_t>(std::clamp<int64_t>(seconds, 0, UINT32_MAX));
}

// Address space of `bytes` at a multiple of `alignment`, untouched.
char* MapAligned(size_t bytes, size_t alignment) {
  const size_t mapped = bytes + alignment;
  void* at = mmap(nullptr, mapped, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) return nullptr;
  const auto begin = reinterpret_cast<uintptr_t>(at);
  const uintptr_t aligned = RoundUp(begin, alignment);
  if (aligned > begin) munmap(at, aligned - begin);
  if (const size_t tail = begin + mapped - (aligned + bytes); tail > 0) {
    munmap(reinterpret_cast<void*>(aligned + bytes), tail);
  }
  return reinterpret_cast<char*>(aligned);
}

enum class Queue : uint8_t { kSmall, kMain };

// Not as one block of memory: readers may be storing to `hits`.
void CopyRecord(const Record& from, size_t record_bytes, uint8_t hits, Record* to) {
  to->expires_s = from.expires_s;
  to->loaded_s = from.loaded_s;
  to->value_bytes = from.value_bytes;
  to->metadata_high = from.metadata_high;
  to->absent = from.absent;
  to->key_bytes = from.key_bytes;
  to->metadata_low = from.metadata_low;
  to->hits.store(hits, std::memory_order_relaxed);
  std::memcpy(static_cast<void*>(to + 1), from.data(), record_bytes - sizeof(Record));
}

}  // namespace

uint64_t HashOddKey(std::string_view key) {
  return HashBytes(AsBytes(key));
}

// The address space of all blocks. Unmapped when the tier and the last pin are gone.
struct HotTier::Arena {
  char* base = nullptr;
  size_t bytes = 0;
  std::atomic<size_t> used{0};          // blocks below were given to a shard, for good
  std::atomic<uint64_t> references{1};  // the tier, and each block pinned when it closed

  void Unref() {
    if (references.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
    munmap(base, bytes);
    delete this;
  }
};

struct HotTier::Block {
  Arena* arena = nullptr;         // null: a large record's own mapping
  std::atomic<uint32_t> pins{0};  // top bit: the tier is gone, the last Unpin gives it back
  uint32_t dead = 0;              // bytes of records that the index no longer points to
  uint64_t bytes = 0;             // of the whole block with this header
  uint64_t used = 0;              // offset of the first free byte
  uint64_t cursor = 0;            // eviction has come so far
  uint64_t retired_epoch = 0;
  Block* previous = nullptr;  // towards the end of the queue, older
  Block* next = nullptr;      // younger, or the next in a list
  Queue queue = Queue::kSmall;

  char* at(uint64_t offset) { return reinterpret_cast<char*>(this) + offset; }
};

namespace {

constexpr size_t kHeaderBytes = 64 + 16;

}  // namespace

// Everything that only writers touch. `Lock` orders writers of a shard; readers see `front`.
struct alignas(64) HotTier::Shard {
  Mutex mutex;
  Front* front = nullptr;
  Arena* arena = nullptr;
  size_t block_bytes = 0;
  uint64_t budget = 0;

  uint64_t committed ABSL_GUARDED_BY(mutex) = 0;  // blocks, large records, index, ghosts
  size_t fresh ABSL_GUARDED_BY(mutex) = 0;        // blocks that it may yet take from the arena
  std::vector<Block*> free_blocks ABSL_GUARDED_BY(mutex);
  std::vector<char*> decommitted ABSL_GUARDED_BY(mutex);
  std::deque<Block*> retired ABSL_GUARDED_BY(mutex);
  struct RetiredTable {
    Table* table;
    uint64_t epoch;
  };
  std::deque<RetiredTable> retired_tables ABSL_GUARDED_BY(mutex);
  uint64_t retired_bytes ABSL_GUARDED_BY(mutex) = 0;

  struct List {
    Block* oldest = nullptr;
    Block* newest = nullptr;
    Block* head = nullptr;  // the newest, while records may be appended to it
    uint64_t bytes = 0;
  };
  List lists[2] ABSL_GUARDED_BY(mutex);
  uint64_t dead_bytes ABSL_GUARDED_BY(mutex) = 0;
  Block* victim ABSL_GUARDED_BY(mutex) = nullptr;
  bool compacting ABSL_GUARDED_BY(mutex) = false;  // the victim: keep what lives

  Table* table ABSL_GUARDED_BY(mutex) = nullptr;
  std::vector<uint32_t> ghosts ABSL_GUARDED_BY(mutex);  // groups of 8, youngest first

  // Written under the lock, read by usage() without.
  std::atomic<uint64_t> entries{0};
  std::atomic<uint64_t> bytes{0};
  std::atomic<uint64_t> evictions{0};

  struct Slot {
    Bucket* bucket = nullptr;
    unsigned index = 0;
    Bucket* home = nullptr;
    std::atomic<uint64_t>& word() const { return bucket->words[index]; }
    const Record* record() const { return RecordOf(word().load(std::memory_order_relaxed)); }
  };

  List& list(Queue queue) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    return lists[static_cast<size_t>(queue)];
  }
  Block* BlockOf(const Record* record) const {
    return reinterpret_cast<Block*>(reinterpret_cast<uintptr_t>(record) & ~(block_bytes - 1));
  }
  bool is_large(size_t record_bytes) const { return record_bytes > block_bytes / 4; }

  void Insert(uint64_t hash, const NewRecord& record) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  void Erase(uint64_t hash, std::string_view key) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);

  // Index.
  template <typename Matches>
  bool Locate(uint64_t hash, Matches matches, Slot* slot) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  bool LocateKey(uint64_t hash, std::string_view key, Slot* slot)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  bool LocateRecord(uint64_t hash, const Record* record, Slot* slot)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  static Bucket* FindRoom(Table* in, uint64_t hash, uint64_t* distance);
  static bool Place(Table* into, uint64_t hash, uint64_t word);
  bool Grow() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  void Vacate(const Slot& slot) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  void MarkDead(const Record* record) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);

  // Memory.
  Record* Allocate(Queue queue, size_t bytes, bool may_evict) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  Block* TakeBlock(bool may_evict) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  bool Reserve(size_t bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  bool ReclaimRetired() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  size_t usable_blocks() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  size_t spare_blocks() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  void Append(Queue queue, Block* block) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  void Remove(Block* block) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  void Retire(Block* block) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);

  // Policy.
  bool PickVictim() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  bool EvictSome(size_t records) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  bool EvictBlock() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  void Settle(Record* record, bool* moved_block) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  void Remember(uint64_t hash) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  bool TakeGhost(uint64_t hash) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);

  void Close() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
};

// --- Index ------------------------------------------------------------------------------

namespace {

// The number of the first empty slot; kSlots if there is none.
size_t EmptySlot(const HotTier::Bucket& bucket) {
  size_t at = 0;
  while (at < HotTier::kSlots && bucket.words[at].load(std::memory_order_relaxed) != 0) ++at;
  return at;
}

uint64_t DisplacedOf(uint64_t tags) {
  return tags >> 56 & 15;
}

uint64_t WithOverflow(uint64_t tags, uint64_t displaced, uint64_t reach) {
  return (tags & 0x00ff'ffff'ffff'ffff) | displaced << 56 | reach << 60;
}

size_t TableBytes(size_t bucket_count) {
  return sizeof(HotTier::Table) + bucket_count * sizeof(HotTier::Bucket);
}

HotTier::Table* MakeTable(size_t bucket_count) {
  void* at = ::operator new(TableBytes(bucket_count), std::align_val_t{64});
  auto* table = new (at) HotTier::Table{bucket_count};
  for (size_t i = 0; i < bucket_count; ++i) new (table->buckets() + i) HotTier::Bucket;
  return table;
}

void DeleteTable(HotTier::Table* table) {
  ::operator delete(static_cast<void*>(table), std::align_val_t{64});
}

}  // namespace

template <typename Matches>
bool HotTier::Shard::Locate(uint64_t hash, Matches matches, Slot* slot) {
  uint64_t index = table->HomeOf(hash);
  slot->home = &table->buckets()[index];
  uint64_t left = ReachOf(slot->home->tags.load(std::memory_order_relaxed));
  for (;; --left) {
    Bucket& bucket = table->buckets()[index];
    const uint64_t tags = bucket.tags.load(std::memory_order_relaxed);
    for (uint64_t bits = MatchTags(tags, hash); bits != 0; bits &= bits - 1) {
      *slot = {&bucket, SlotOf(bits), slot->home};
      if (const Record* record = slot->record(); record != nullptr && matches(record)) return true;
    }
    if (left == 0) return false;
    if (++index == table->bucket_count) index = 0;
  }
}

bool HotTier::Shard::LocateKey(uint64_t hash, std::string_view key, Slot* slot) {
  return Locate(
      hash, [key](const Record* record) { return record->key() == key; }, slot);
}

bool HotTier::Shard::LocateRecord(uint64_t hash, const Record* record, Slot* slot) {
  return Locate(
      hash, [record](const Record* other) { return other == record; }, slot);
}

// The bucket nearest to home with an empty slot, and how far it is; null if none is in reach.
HotTier::Bucket* HotTier::Shard::FindRoom(Table* in, uint64_t hash, uint64_t* distance) {
  uint64_t index = in->HomeOf(hash);
  const uint64_t steps = std::min<uint64_t>(kReachMax + 1, in->bucket_count);
  for (*distance = 0; *distance < steps; ++*distance) {
    if (EmptySlot(in->buckets()[index]) < kSlots) return &in->buckets()[index];
    if (++index == in->bucket_count) index = 0;
  }
  return nullptr;
}

bool HotTier::Shard::Place(Table* into, uint64_t hash, uint64_t word) {
  uint64_t distance = 0;
  Bucket* bucket = FindRoom(into, hash, &distance);
  if (bucket == nullptr) return false;
  const uint64_t tags = bucket->tags.load(std::memory_order_relaxed);
  const size_t at = EmptySlot(*bucket);
  // First the word, then the tag that leads to it.
  bucket->words[at].store(word, std::memory_order_release);
  bucket->tags.store(tags | TagOf(hash) << (8 * at), std::memory_order_release);
  if (distance > 0) {
    Bucket& home = into->buckets()[into->HomeOf(hash)];
    const uint64_t home_tags = home.tags.load(std::memory_order_relaxed);
    const uint64_t displaced = std::min(DisplacedOf(home_tags) + 1, kDisplacedMax);
    const uint64_t reach = std::max(ReachOf(home_tags), distance);
    home.tags.store(WithOverflow(home_tags, displaced, reach), std::memory_order_release);
  }
  return true;
}

// A quarter more buckets. Readers keep walking the old table until they are done: it only
// lacks what is inserted from now on, which no call that they could follow has returned yet.
bool HotTier::Shard::Grow() {
  size_t bucket_count = table->bucket_count;
  for (;;) {
    bucket_count += std::max<size_t>(bucket_count / 4, 2);
    const size_t bytes_new = TableBytes(bucket_count);
    // The table can grow past what entries of a few bytes need, but not past a quarter.
    if (bytes_new > budget / 4 || !Reserve(bytes_new)) return false;
    Table* larger = MakeTable(bucket_count);
    bool fits = true;
    for (uint64_t b = 0; b < table->bucket_count && fits; ++b) {
      Bucket& bucket = table->buckets()[b];
      for (unsigned at = 0; at < kSlots && fits; ++at) {
        const uint64_t word = bucket.words[at].load(std::memory_order_relaxed);
        if (word == 0) continue;
        fits = Place(larger, HashKey(RecordOf(word)->key()), word);
      }
    }
    if (!fits) {
      DeleteTable(larger);
      continue;
    }
    committed += bytes_new;
    front->table.store(larger, std::memory_order_release);
    retired_tables.push_back({table, RetireEpoch()});
    table = larger;
    ReclaimRetired();
    return true;
  }
}

void HotTier::Shard::MarkDead(const Record* record) {
  const size_t bytes_dead = record->bytes();
  BlockOf(record)->dead += static_cast<uint32_t>(bytes_dead);
  dead_bytes += bytes_dead;
}

void HotTier::Shard::Vacate(const Slot& slot) {
  MarkDead(slot.record());
  // First the tag, then the word.
  const uint64_t tags = slot.bucket->tags.load(std::memory_order_relaxed);
  slot.bucket->tags.store(tags & ~(uint64_t{0xff} << (8 * slot.index)), std::memory_order_release);
  slot.word().store(0, std::memory_order_release);
  if (slot.bucket != slot.home) {
    const uint64_t home_tags = slot.home->tags.load(std::memory_order_relaxed);
    const uint64_t displaced = DisplacedOf(home_tags);
    if (displaced < kDisplacedMax) {  // at the maximum it has lost count
      const uint64_t reach = displaced == 1 ? 0 : ReachOf(home_tags);
      slot.home->tags.store(WithOverflow(home_tags, displaced - 1, reach),
                            std::memory_order_release);
    }
  }
  entries.store(entries.load(std::memory_order_relaxed) - 1, std::memory_order_relaxed);
}

// --- Memory -----------------------------------------------------------------------------

void HotTier::Shard::Append(Queue queue, Block* block) {
  List& to = list(queue);
  block->queue = queue;
  block->previous = to.newest;
  block->next = nullptr;
  (to.newest != nullptr ? to.newest->next : to.oldest) = block;
  to.newest = block;
  to.bytes += block->bytes;
}

void HotTier::Shard::Remove(Block* block) {
  List& from = list(block->queue);
  (block->previous != nullptr ? block->previous->next : from.oldest) = block->next;
  (block->next != nullptr ? block->next->previous : from.newest) = block->previous;
  if (from.head == block) from.head = nullptr;
  from.bytes -= block->bytes;
}

// Takes the block, which the index no longer points into, out of its queue.
void HotTier::Shard::Retire(Block* block) {
  dead_bytes -= block->dead;
  Remove(block);
  block->retired_epoch = RetireEpoch();
  retired.push_back(block);
  retired_bytes += block->bytes;
}

// Makes retired memory usable again as far as readers and pins allow; true if some was.
bool HotTier::Shard::ReclaimRetired() {
  if (retired.empty() && retired_tables.empty()) return false;
  const uint64_t oldest = OldestEpochInUse();
  bool progress = false;
  uint64_t pinned_bytes = 0;
  while (!retired_tables.empty() && retired_tables.front().epoch < oldest) {
    committed -= TableBytes(retired_tables.front().table->bucket_count);
    DeleteTable(retired_tables.front().table);
    retired_tables.pop_front();
    progress = true;
  }
  for (size_t left = retired.size(); left > 0; --left) {
    Block* block = retired.front();
    retired.pop_front();
    // No reader that could pin it is left once its epoch has passed.
    const bool unseen = block->retired_epoch < oldest;
    if (!unseen || block->pins.load(std::memory_order_acquire) != 0) {
      if (unseen) pinned_bytes += block->bytes;
      retired.push_back(block);
      continue;
    }
    retired_bytes -= block->bytes;
    progress = true;
    if (block->arena != nullptr) {
      free_blocks.push_back(block);
    } else {
      committed -= block->bytes;
      munmap(static_cast<void*>(block), block->bytes);
    }
  }
  front->pins_copy.store(pinned_bytes > budget / 8, std::memory_order_relaxed);
  return progress;
}

// Blocks that can be taken now.
size_t HotTier::Shard::usable_blocks() {
  return free_blocks.size() + (budget - committed) / block_bytes;
}

// Blocks that can be taken without evicting anything, once readers let go of them.
size_t HotTier::Shard::spare_blocks() {
  return free_blocks.size() + (budget - committed + retired_bytes) / block_bytes;
}

HotTier::Block* HotTier::Shard::TakeBlock(bool may_evict) {
  for (;;) {
    const bool can_commit =
        committed + block_bytes <= budget && (fresh > 0 || !decommitted.empty());
    // An insert leaves one block for promotions, or the evictions it causes would drop
    // records that deserve to stay.
    const bool enough = !may_evict || spare_blocks() >= kSpareBlocks;
    if (enough) {
      if (!free_blocks.empty()) {
        Block* block = free_blocks.back();
        free_blocks.pop_back();
        return block;
      }
      if (can_commit) {
        char* at = nullptr;
        if (!decommitted.empty()) {
          at = decommitted.back();
          decommitted.pop_back();
        } else {
          --fresh;
          at = arena->base + arena->used.fetch_add(block_bytes, std::memory_order_relaxed);
        }
        committed += block_bytes;
        auto* block = new (at) Block;
        block->arena = arena;
        block->bytes = block_bytes;
        return block;
      }
      if (ReclaimRetired()) continue;
      return nullptr;  // readers hold what is retired: evicting more would not help
    }
    if (retired_bytes > budget / 8 && !ReclaimRetired()) return nullptr;
    if (!EvictBlock()) return nullptr;
  }
}

// Makes room in the budget for memory that is not a block.
bool HotTier::Shard::Reserve(size_t wanted) {
  if (wanted > budget / 2) return false;
  while (committed + wanted > budget) {
    if (!free_blocks.empty()) {
      Block* block = free_blocks.back();
      free_blocks.pop_back();
      auto* at = reinterpret_cast<char*>(block);
      madvise(at, block_bytes, MADV_DONTNEED);
      decommitted.push_back(at);
      committed -= block_bytes;
      continue;
    }
    if (ReclaimRetired()) continue;
    if (retired_bytes > budget / 8 || !EvictBlock()) return false;
  }
  return true;
}

Record* HotTier::Shard::Allocate(Queue queue, size_t record_bytes, bool may_evict) {
  if (is_large(record_bytes)) {
    const size_t bytes_mapped = RoundUp(kHeaderBytes + record_bytes, kPage);
    if (!may_evict || !Reserve(bytes_mapped)) return nullptr;
    char* at = MapAligned(bytes_mapped, block_bytes);
    if (at == nullptr) return nullptr;
    auto* block = new (at) Block;
    block->bytes = bytes_mapped;
    block->used = kHeaderBytes + record_bytes;
    block->cursor = kHeaderBytes;
    committed += bytes_mapped;
    // Older than the head, which is still being filled.
    Append(queue, block);
    List& to = list(queue);
    if (Block* head = to.head; head != nullptr) {
      Remove(head);
      Append(queue, head);
      to.head = head;
    }
    return reinterpret_cast<Record*>(block->at(kHeaderBytes));
  }
  List& to = list(queue);
  if (to.head == nullptr || to.head->used + record_bytes > block_bytes) {
    Block* block = TakeBlock(may_evict);
    // Evicting may have opened a new head meanwhile.
    if (to.head == nullptr || to.head->used + record_bytes > block_bytes) {
      if (block == nullptr) return nullptr;
      block->used = block->cursor = kHeaderBytes;
      block->dead = 0;
      Append(queue, block);
      to.head = block;
    } else if (block != nullptr) {
      free_blocks.push_back(block);
    }
  }
  Block* head = to.head;
  auto* record = reinterpret_cast<Record*>(head->at(head->used));
  head->used += record_bytes;
  return record;
}

// --- Policy -----------------------------------------------------------------------------

// Chooses the block to empty next: the one with the most dead bytes if they add up to a
// quarter of all and half of the block, else the end of a queue by S3-FIFO's rule.
bool HotTier::Shard::PickVictim() {
  List& small = list(Queue::kSmall);
  List& main = list(Queue::kMain);
  const uint64_t all = small.bytes + main.bytes;
  compacting = false;
  if (dead_bytes * 4 > all) {
    double most = 0.5;
    for (const List& from : lists) {
      for (Block* block = from.oldest; block != nullptr; block = block->next) {
        const double share = static_cast<double>(block->dead) / static_cast<double>(block->bytes);
        if (block == from.head || share < most) continue;
        most = share;
        victim = block;
        compacting = true;
      }
    }
    if (compacting) return true;
  }
  const bool from_small = small.oldest != nullptr &&
                          (main.oldest == nullptr || small.bytes * 100 >= all * kSmallPercent);
  List& from = from_small ? small : main;
  if (from.oldest == nullptr) return false;
  if (from.oldest == from.head) from.head = nullptr;  // seal it
  victim = from.oldest;
  return true;
}

// Decides about one record of the victim: dead ones are skipped, others move or leave.
void HotTier::Shard::Settle(Record* record, bool* moved_block) {
  const uint64_t hash = HashKey(record->key());
  Slot slot;
  if (!LocateRecord(hash, record, &slot)) return;
  const Queue from = victim->queue;
  const unsigned hits = record->hits.load(std::memory_order_relaxed);
  if (compacting || hits > 0) {
    const Queue to = compacting ? from : Queue::kMain;
    // S3-FIFO: promotion forgets the hits, a round in the main queue costs one of them.
    const unsigned left = compacting ? hits : (from == Queue::kMain ? hits - 1 : 0);
    if (victim->arena == nullptr) {  // a large record moves with its block
      Remove(victim);
      victim->cursor = kHeaderBytes;
      List& list_to = list(to);
      Block* head = std::exchange(list_to.head, nullptr);
      Append(to, victim);
      if (head != nullptr) {
        Remove(head);
        Append(to, head);
        list_to.head = head;
      }
      record->hits.store(static_cast<uint8_t>(left), std::memory_order_relaxed);
      *moved_block = true;
      return;
    }
    const size_t record_bytes = record->bytes();
    if (Record* copy = Allocate(to, record_bytes, /*may_evict=*/false); copy != nullptr) {
      CopyRecord(*record, record_bytes, static_cast<uint8_t>(left), copy);
      slot.word().store((hash << 48) | reinterpret_cast<uintptr_t>(copy),
                        std::memory_order_release);
      MarkDead(record);
      return;
    }
    // No block to promote into: it leaves after all.
  }
  Vacate(slot);
  evictions.store(evictions.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  if (from == Queue::kSmall) Remember(hash);
}

// Works on `records` records of the victim, choosing one first if need be. False if there is
// nothing to evict.
bool HotTier::Shard::EvictSome(size_t records) {
  if (victim == nullptr && !PickVictim()) return false;
  Block* block = victim;
  for (; records > 0 && block->cursor < block->used; --records) {
    auto* record = reinterpret_cast<Record*>(block->at(block->cursor));
    block->cursor += record->bytes();
    bool moved_block = false;
    Settle(record, &moved_block);
    if (moved_block) {
      victim = nullptr;
      return true;
    }
  }
  if (block->cursor >= block->used) {
    victim = nullptr;
    Retire(block);
  }
  return true;
}

bool HotTier::Shard::EvictBlock() {
  const uint64_t before = retired_bytes;
  // A large record that goes round again retires nothing; its hits run out.
  for (int tries = 0; tries < 1000 && retired_bytes == before; ++tries) {
    if (!EvictSome(SIZE_MAX)) return false;
  }
  return retired_bytes != before;
}

// Ghosts: groups of 8 fingerprints, youngest first. As many as there are entries.
void HotTier::Shard::Remember(uint64_t hash) {
  const uint64_t wanted = std::max<uint64_t>(entries.load(std::memory_order_relaxed), 64);
  if (ghosts.size() < wanted / 2 || ghosts.size() > wanted * 4) {
    const size_t count = RoundUp(wanted, 8);
    const size_t bytes_new = count * sizeof(uint32_t);
    const size_t bytes_old = ghosts.size() * sizeof(uint32_t);
    if (committed + bytes_new <= budget + bytes_old) {
      committed += bytes_new;
      committed -= bytes_old;
      ghosts = std::vector<uint32_t>(count);
    }
  }
  if (ghosts.empty()) return;
  uint32_t* group = &ghosts[(((hash >> 8) & 0xffffffff) * (ghosts.size() / 8) >> 32) * 8];
  std::memmove(group + 1, group, 7 * sizeof(uint32_t));
  group[0] = static_cast<uint32_t>(hash >> 32) | 1;
}

bool HotTier::Shard::TakeGhost(uint64_t hash) {
  if (ghosts.empty()) return false;
  uint32_t* group = &ghosts[(((hash >> 8) & 0xffffffff) * (ghosts.size() / 8) >> 32) * 8];
  for (size_t i = 0; i < 8; ++i) {
    if (group[i] != (static_cast<uint32_t>(hash >> 32) | 1)) continue;
    std::memmove(group + i, group + i + 1, (7 - i) * sizeof(uint32_t));
    group[7] = 0;
    return true;
  }
  return false;
}

void HotTier::Shard::Insert(uint64_t hash, const NewRecord& wanted) {
  const size_t record_bytes =
      Record::BytesFor(wanted.key.size(), wanted.value.size(), wanted.metadata.size());
  Slot slot;
  Queue queue = Queue::kSmall;
  if (LocateKey(hash, wanted.key, &slot)) {
    queue = BlockOf(slot.record())->queue;
  } else {
    // The index first: growing it may evict, which must not meet an unpublished record.
    const uint64_t count = entries.load(std::memory_order_relaxed);
    const bool full = (count + 1) * 100 > table->bucket_count * kSlots * 85;
    uint64_t distance = 0;
    if (full || FindRoom(table, hash, &distance) == nullptr)
      Grow();  // if it cannot, there may be a slot yet
    if (TakeGhost(hash)) queue = Queue::kMain;
  }
  Record* record = nullptr;
  if (record_bytes <= std::min<uint64_t>(budget / 4, kRecordBytesMax))
    record = Allocate(queue, record_bytes, /*may_evict=*/true);
  if (record == nullptr) return Erase(hash, wanted.key);
  record->expires_s = wanted.expires_s > UINT32_MAX
                          ? 0
                          : static_cast<uint32_t>(std::max<int64_t>(wanted.expires_s, 0));
  record->loaded_s = SaturateSeconds(wanted.loaded_s);
  record->value_bytes = static_cast<uint32_t>(wanted.value.size()) & 0x1ff'ffff;
  record->metadata_high = static_cast<uint8_t>(wanted.metadata.size() >> 8 & 0x3f);
  record->metadata_low = static_cast<uint8_t>(wanted.metadata.size());
  record->key_bytes = static_cast<uint16_t>(wanted.key.size());
  record->hits.store(0, std::memory_order_relaxed);
  record->absent = wanted.absent;
  char* data = reinterpret_cast<char*>(record + 1);
  data = std::copy(wanted.key.begin(), wanted.key.end(), data);
  data = std::copy(wanted.value.begin(), wanted.value.end(), data);
  std::copy(wanted.metadata.begin(), wanted.metadata.end(), data);

  const uint64_t word = (hash << 48) | reinterpret_cast<uintptr_t>(record);
  // Again: making room may have moved or evicted it.
  if (LocateKey(hash, wanted.key, &slot)) {
    record->hits.store(slot.record()->hits.load(std::memory_order_relaxed),
                       std::memory_order_relaxed);
    MarkDead(slot.record());
    slot.word().store(word, std::memory_order_release);
  } else {
    if (!Place(table, hash, word)) return MarkDead(record);  // not kept this time
    entries.store(entries.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  }
  if (usable_blocks() >= kSpareBlocks) return;
  // Ahead of need and a little at a time, so that no insert has to empty a whole block.
  if (!retired.empty()) ReclaimRetired();
  for (size_t steps = kStepRecords; steps > 0 && spare_blocks() < kSpareBlocks; --steps) {
    if (!EvictSome(1)) break;
  }
}

void HotTier::Shard::Erase(uint64_t hash, std::string_view key) {
  Slot slot;
  if (LocateKey(hash, key, &slot)) Vacate(slot);
}

// Gives everything back but blocks that are pinned: their last Unpin does.
void HotTier::Shard::Close() {
  std::vector<Block*> blocks(retired.begin(), retired.end());
  for (const List& from : lists) {
    for (Block* block = from.oldest; block != nullptr; block = block->next) blocks.push_back(block);
  }
  for (Block* block : blocks) {
    if (block->arena != nullptr) {
      block->arena->references.fetch_add(1, std::memory_order_relaxed);
      const uint32_t pins = block->pins.fetch_or(kOrphaned, std::memory_order_acq_rel);
      if (pins == 0) block->arena->Unref();
    } else if (block->pins.fetch_or(kOrphaned, std::memory_order_acq_rel) == 0) {
      munmap(static_cast<void*>(block), block->bytes);
    }
  }
  for (const RetiredTable& old : retired_tables) DeleteTable(old.table);
  DeleteTable(table);
}

// --- HotTier ----------------------------------------------------------------------------

std::unique_ptr<HotTier> HotTier::Create(uint64_t bytes_max, unsigned shard_count) {
  PrepareEpochs();
  if (shard_count == 0) {
    const uint64_t wanted = std::clamp<uint64_t>(bytes_max / (4 << 20), 1, 64);
    shard_count = static_cast<unsigned>(std::bit_floor(wanted));
  }
  EDGE_CHECK(std::has_single_bit(shard_count) && shard_count <= 256);
  const auto bits = static_cast<unsigned>(std::countr_zero(shard_count));
  return std::unique_ptr<HotTier>(new HotTier(bytes_max, bits));
}

HotTier::HotTier(uint64_t bytes_max, unsigned shard_bits)
    : bytes_max_(bytes_max),
      shard_bits_(shard_bits),
      shard_shift_(32 - shard_bits),
      fronts_(new Front[size_t{1} << shard_bits]),
      block_bytes_(0),
      shards_(new Shard[size_t{1} << shard_bits]) {
  static_assert(sizeof(Block) <= kHeaderBytes);
  const size_t count = size_t{1} << shard_bits;
  const uint64_t budget = bytes_max / count;
  block_bytes_ = std::clamp<size_t>(std::bit_floor(budget / 64), kBlockBytesMin, kBlockBytesMax);
  const size_t blocks = budget / block_bytes_;  // of each shard
  arena_ = new Arena;
  arena_->bytes = RoundUp(blocks * count * block_bytes_, kHugePage);
  arena_->base = MapAligned(arena_->bytes, kHugePage);
  if (arena_->base == nullptr) throw std::bad_alloc();
  // A look-up goes anywhere, so with small pages it pays for a page walk as well. Shards take
  // blocks from one end, so that a tier which is nearly empty touches few of the large pages.
  // Where the kernel has none to give, small ones do.
  if (arena_->bytes >= 4 * kHugePage) madvise(arena_->base, arena_->bytes, MADV_HUGEPAGE);
  for (size_t i = 0; i < count; ++i) {
    Shard& shard = shards_[i];
    MutexLock lock(&shard.mutex);
    shard.front = &fronts_[i];
    shard.arena = arena_;
    shard.block_bytes = block_bytes_;
    shard.budget = budget;
    shard.fresh = blocks;
    shard.table = MakeTable(8);
    shard.committed = TableBytes(shard.table->bucket_count);
    shard.front->table.store(shard.table, std::memory_order_release);
  }
}

HotTier::~HotTier() {
  for (size_t i = 0; i < shard_count(); ++i) {
    MutexLock lock(&shards_[i].mutex);
    shards_[i].Close();
  }
  arena_->Unref();
}

// All that Find leaves out: further matches, and the buckets after the home one.
const Record* HotTier::FindFurther(const Table& table, uint64_t hash, std::string_view key) const {
  uint64_t index = table.HomeOf(hash);
  uint64_t tags = table.buckets()[index].tags.load(std::memory_order_acquire);
  for (uint64_t left = ReachOf(tags);; --left) {
    const Bucket& bucket = table.buckets()[index];
    for (uint64_t matches = MatchTags(tags, hash); matches != 0; matches &= matches - 1) {
      const uint64_t word = bucket.words[SlotOf(matches)].load(std::memory_order_acquire);
      if (const Record* record = MatchWord(word, hash, key); record != nullptr) return record;
    }
    if (left == 0) return nullptr;
    if (++index == table.bucket_count) index = 0;
    tags = table.buckets()[index].tags.load(std::memory_order_acquire);
  }
}

void HotTier::Insert(uint64_t hash, const NewRecord& record) {
  Shard& shard = shards_[ShardIndex(hash)];
  MutexLock lock(&shard.mutex);
  shard.Insert(hash, record);
  shard.bytes.store(shard.committed, std::memory_order_relaxed);
}

void HotTier::Erase(uint64_t hash, std::string_view key) {
  Shard& shard = shards_[ShardIndex(hash)];
  MutexLock lock(&shard.mutex);
  shard.Erase(hash, key);
}

void* HotTier::Pin(uint64_t hash, const Record* record) const {
  if (fronts_[ShardIndex(hash)].pins_copy.load(std::memory_order_relaxed)) return nullptr;
  auto* block = reinterpret_cast<Block*>(reinterpret_cast<uintptr_t>(record) & ~(block_bytes_ - 1));
  block->pins.fetch_add(1, std::memory_order_relaxed);
  return block;
}

void HotTier::Unpin(void* pinned) {
  auto* block = static_cast<Block*>(pinned);
  Arena* arena = block->arena;
  const uint64_t bytes = block->bytes;
  if (block->pins.fetch_sub(1, std::memory_order_acq_rel) != (kOrphaned | 1)) return;
  if (arena != nullptr) {
    arena->Unref();
  } else {
    munmap(pinned, bytes);
  }
}

size_t HotTier::record_bytes_max() const {
  return bytes_max_ / shard_count() / 4;
}

HotTier::Usage HotTier::usage() const {
  Usage sum;
  for (size_t i = 0; i < shard_count(); ++i) {
    sum.entries += shards_[i].entries.load(std::memory_order_relaxed);
    sum.bytes += shards_[i].bytes.load(std::memory_order_relaxed);
    sum.evictions += shards_[i].evictions.load(std::memory_order_relaxed);
  }
  return sum;
}

}  // namespace edge::kv
