// edge/kv/namespace.h - a key-value store with the semantics of Workers KV, in your process.
//
//   auto kv = kv::Namespace::Open(std::make_shared<kv::MemoryOrigin>()).value();
//   kv.Put("greeting", "hello", {.expiration_ttl_s = 3600, .metadata = R"({"v":3})"});
//   StatusOr<std::optional<std::string>> v = kv.Get("greeting");
//
// A hot tier of bounded size stands in front of an Origin. A hit takes no lock, makes no
// system call and executes no atomic read-modify-write: a hash, one line of the index, the
// entry. A miss asks the origin, once for however many threads want the key.
//
// What holds:
// - A Put or Delete that returned OK is seen by every later call through this Namespace, and
//   is as durable as the origin promises. The last write wins; there is no compare-and-swap.
// - If a Put or Delete fails, the key holds the old or the new entry: the next Get asks the
//   origin.
// - An entry is gone at its expiration. With the system clock, its coarse form is read, so
//   that a Get may be late by one tick (4 ms).
// - Writes made to the origin by others are seen within `fresh_for_s` (Options) or the
//   `cache_ttl_s` of the read, whichever is shorter.
//
// Errors. Texts are those of Workers KV. InvalidArgument: a bad key, value, metadata,
// expiration, limit or cursor. Everything else is what the origin returned.
#pragma once
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "edge/base/clock.h"
#include "edge/base/status.h"
#include "edge/kv/origin.h"

namespace edge::kv {

inline constexpr int64_t kForever = 0;

struct Options {
  // All memory of the hot tier: entries, index, ghosts, and what waits to be reused. At
  // least 256 KiB. An entry above a quarter of one shard's part is never kept hot.
  uint64_t hot_bytes_max = 64 << 20;
  // Locks for writers and misses; a power of two up to 256. 0: one per 4 MiB, 1 to 64.
  unsigned shard_count = 0;
  // How long an entry from the origin (or its absence) is taken as current. kForever: only
  // this Namespace writes to the origin.
  int64_t fresh_for_s = kForever;
  int64_t absent_fresh_for_s = kForever;
  // For so much longer an entry that is no longer fresh is served at once while a fetch of it
  // is under way. The first caller to find it so does that fetch, and waits.
  int64_t stale_for_s = 0;
  // For so long after it was fresh an entry is served if the origin fails; the origin is then
  // left alone for 1 s, doubling up to 64 s, for that key. Neither window passes an entry's
  // expiration, nor the cache_ttl_s of a read.
  int64_t stale_if_error_s = 0;
  // Longest value accepted; Workers KV has 25 MiB, and so have we at most.
  uint64_t value_bytes_max = 26'214'400;
  Clock* clock = nullptr;  // null: the system's, in its coarse form. Outlives the Namespace.
};

struct GetOptions {
  // Do not take a hot entry that was read or written longer ago than this. At least 30.
  std::optional<int64_t> cache_ttl_s = {};
};

struct PutOptions {
  std::optional<int64_t> expiration_ttl_s = {};  // seconds from now, >= 60; wins over the other
  std::optional<int64_t> expiration_s = {};      // seconds since 1970, >= now + 60
  std::string_view metadata = {};                // JSON text, <= 1024 bytes; empty or null: none
};

struct ListOptions {
  std::string_view prefix = {};
  int64_t limit = 0;             // at most 1000; <= 0: 1000
  std::string_view cursor = {};  // from the page before, with the same prefix; empty: the start
};

struct ListPage {
  std::vector<ListedKey> keys;  // ascending in byte order
  bool list_complete = true;
  std::string cursor;  // for the next page; empty if complete
};

enum class Source : uint8_t { kHot, kOrigin };

struct ValueWithMetadata {
  std::string value;
  std::string metadata;  // JSON text; empty: none
  Source source = Source::kHot;
  int64_t age_s = 0;   // since it was read from, or written to, the origin
  bool stale = false;  // older than the options call fresh
};

// A value that is not copied. While a PinnedValue lives, the block of the hot tier that
// holds it (up to 1 MiB, or the value if it is larger) stays allocated; past an eighth of
// hot_bytes_max in such blocks Pin copies instead. Moves, does not copy; may outlive the
// Namespace and change threads. Thread-compatible.
class PinnedValue {
 public:
  PinnedValue() = default;
  PinnedValue(PinnedValue&& other) noexcept;
  PinnedValue& operator=(PinnedValue&& other) noexcept;
  ~PinnedValue();
  std::string_view value() const { return value_; }
  std::string_view metadata() const { return metadata_; }

 private:
  friend class Namespace;
  void* block_ = nullptr;  // of the hot tier, pinned; or null
  std::unique_ptr<const Entry> copy_;
  std::string_view value_;
  std::string_view metadata_;
};

// Counts since Open. Hits and misses are counted per thread and summed here, so a snapshot
// taken beside running calls may be a moment behind.
struct Stats {
  uint64_t hits = 0;          // answered from memory, absence included
  uint64_t misses = 0;        // had to ask the origin or wait for somebody who did
  uint64_t origin_reads = 0;  // keys asked of the origin; below misses when calls coalesce
  uint64_t origin_writes = 0;
  uint64_t stale = 0;      // misses that were answered with what is no longer fresh
  uint64_t evictions = 0;  // entries dropped for room
  uint64_t entries = 0;    // in the hot tier now, known absences included
  uint64_t bytes = 0;      // allocated by the hot tier now, <= hot_bytes_max
  uint64_t bytes_max = 0;
  double hit_ratio() const {
    return hits + misses == 0 ? 0 : static_cast<double>(hits) / static_cast<double>(hits + misses);
  }
};

// A handle: copies name the same store, which closes with the last of them. Thread-safe.
class Namespace {
 public:
  // `origin` is shared with the store and released with it. InvalidArgument for options out
  // of range.
  static StatusOr<Namespace> Open(std::shared_ptr<Origin> origin, const Options& options = {});

  // The value, or nothing if the key is absent or expired. A hit allocates only the result,
  // an absence that is known allocates nothing.
  StatusOr<std::optional<std::string>> Get(std::string_view key, const GetOptions& options = {});
  // The same into a string that is reused: a hit that fits its capacity allocates nothing.
  // False, and `*value` untouched, if absent.
  StatusOr<bool> GetInto(std::string_view key, std::string* value, const GetOptions& options = {});
  StatusOr<std::optional<ValueWithMetadata>> GetWithMetadata(std::string_view key,
                                                             const GetOptions& options = {});
  // The value without a copy, if it is hot.
  StatusOr<std::optional<PinnedValue>> Pin(std::string_view key, const GetOptions& options = {});

  // 1 to 100 keys and at most 25 MiB of values; one answer per key, in their order. Misses
  // go to the origin together.
  StatusOr<std::vector<std::optional<std::string>>> GetMany(std::span<const std::string_view> keys,
                                                            const GetOptions& options = {});
  StatusOr<std::vector<std::optional<std::string>>> GetMany(
      std::initializer_list<std::string_view> keys, const GetOptions& options = {}) {
    return GetMany(std::span(keys.begin(), keys.size()), options);
  }
  // The same into strings that are reused, so that hits need no allocation.
  Status GetManyInto(std::span<const std::string_view> keys,
                     std::vector<std::optional<std::string>>* values,
                     const GetOptions& options = {});
  StatusOr<std::vector<std::optional<ValueWithMetadata>>> GetManyWithMetadata(
      std::span<const std::string_view> keys, const GetOptions& options = {});

  // Replaces value, metadata and expiration: what is not given is cleared. Waits for the
  // origin, and for a running write to the same key.
  Status Put(std::string_view key, std::string_view value, const PutOptions& options = {});
  // OK whether or not the key was there.
  Status Delete(std::string_view key);

  // Always asks the origin. Keys put after the cursor's position appear in later pages.
  StatusOr<ListPage> List(const ListOptions& options = {});

  Stats stats() const;

 private:
  struct Rep;
  explicit Namespace(std::shared_ptr<Rep> rep);
  std::shared_ptr<Rep> rep_;  // owners: the copies of this handle
};

}  // namespace edge::kv
