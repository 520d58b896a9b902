// edge/kv/namespace.h - a key-value store with the semantics of Workers KV, in your process.
//
//   auto kv = kv::Namespace::Open(std::make_shared<kv::MemoryOrigin>()).value();
//   kv.Put("greeting", "hello", {.expiration_ttl_s = 3600, .metadata = R"({"v":3})"});
//   StatusOr<std::optional<std::string>> v = kv.Get("greeting");
//
// A hot tier of bounded size stands in front of an Origin, with a tier on disk between them
// if Options ask for it. A hit takes no lock, makes no system call and executes no atomic
// read-modify-write: a hash, one line of the index, the entry. A miss asks the origin, once
// for however many callers want the key.
//
// What holds:
// - A Put or Delete that returned OK is seen by every later call through this Namespace, and
//   is as durable as the origin promises. The last write wins; there is no compare-and-swap.
// - If a Put or Delete fails, the key holds the old or the new entry, now or a little later:
//   the next Get asks the origin.
// - Writes of others are seen when the origin tells of them (Origin::Watch), and at the
//   latest within `fresh_for_s` (Options) or the `cache_ttl_s` of the read, whichever is
//   shorter: a lost message is bounded by freshness, in each tier that is passed. So with
//   tiers in between the bound is the sum of theirs.
// - Writes are ordered by a hybrid logical clock at the origin: one that began after another
//   had returned, anywhere, is never overtaken by it, however late its messages are and
//   however wrong the clocks.
// - Through one Namespace, the Gets and writes of a key are linearizable as long as nobody
//   else writes it; a Namespace behind others (a regional tier) gives that to each of them.
// - An entry is gone at its expiration; nothing stale outlives it. With the system clock, its
//   coarse form is read, so that a Get may be late by one tick (4 ms).
//
// Errors. Texts are those of Workers KV. InvalidArgument: a bad key, value, metadata,
// expiration, limit, cursor or option. DeadlineExceeded and Cancelled: see GetOptions.
// Everything else is what the origin returned.
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

#include "edge/base/bytes.h"
#include "edge/base/callback.h"
#include "edge/base/clock.h"
#include "edge/base/file_system.h"
#include "edge/base/status.h"
#include "edge/kv/origin.h"

namespace edge {
class Loop;
}

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
  // is under way. Without a loop, and if the origin blocks, the first caller to find it so
  // does that fetch, and waits.
  int64_t stale_for_s = 0;
  // A hit on an entry that will be fresh for less than this starts a fetch of it, so that it
  // never stops being fresh while it is read. Each key takes between half and all of it, so
  // that keys loaded together are not fetched together. Needs `loop` or an async origin.
  int64_t refresh_ahead_s = 0;
  // For so long after it was fresh an entry is served if the origin fails; the origin is then
  // left alone for 1 s, doubling up to 64 s, for that key. Neither window passes an entry's
  // expiration, nor the cache_ttl_s of a read.
  int64_t stale_if_error_s = 0;
  // Longest value accepted; Workers KV has 25 MiB, and so have we at most.
  uint64_t value_bytes_max = 26'214'400;
  Clock* clock = nullptr;  // null: the system's, in its coarse form. Outlives the Namespace.
  // Where fetches in the background, deadlines of asynchronous calls, and their questions to
  // an origin that blocks run. Null: such an origin is asked on the caller's thread. Outlives
  // the Namespace.
  Loop* loop = nullptr;

  // A folder for the disk tier, made if missing; empty: none. It keeps what was read from,
  // or written to, the origin, also over restarts, at about 9 bytes of memory an entry.
  std::string disk_directory = {};
  uint64_t disk_bytes_max = uint64_t{1} << 30;  // of files
  uint64_t disk_segment_bytes = 0;              // 0: a 64th of that, within [64 KiB, 64 MiB]
  FileSystem* files = nullptr;                  // null: the machine's
};

// Makes calls that wait give up: copies share it, and any thread may Cancel. Thread-safe.
class Cancellation {
 public:
  Cancellation();
  // Every call that was given it and still waits, now or later, ends with Cancelled.
  void Cancel();
  bool cancelled() const;

 private:
  friend class Namespace;
  struct State;
  std::shared_ptr<State> state_;  // owners: the copies and the calls that wait
};

// What a value is read as. kText and kBytes are the same bytes.
enum class ValueType : uint8_t { kText, kJson, kBytes, kStream };

// From "text", "json", "arrayBuffer" and "stream"; InvalidArgument in the words of Workers KV.
StatusOr<ValueType> ValueTypeNamed(std::string_view name);

struct GetOptions {
  // Do not take an entry that was read or written longer ago than this. At least 30.
  std::optional<int64_t> cache_ttl_s = {};
  // kJson: a value that is no JSON is InvalidArgument. Bulk reads take kText and kJson only.
  ValueType type = ValueType::kText;
  // Wait no longer for an answer: DeadlineExceeded. The fetch goes on, and its answer is kept.
  // 0: no limit. An origin that blocks on the caller's own thread cannot be left: give a loop.
  int64_t timeout_ms = 0;
  const Cancellation* cancellation = nullptr;  // borrowed for the call
};
inline constexpr GetOptions kDefaultGet;  // one for all calls, so that none has to make it

struct PutOptions {
  std::optional<int64_t> expiration_ttl_s = {};  // seconds from now, >= 60; wins over the other
  std::optional<int64_t> expiration_s = {};      // seconds since 1970, >= now + 60
  std::string_view metadata = {};                // JSON text, <= 1024 bytes; empty or null: none
};

// One of many; see PutMany.
struct PutItem {
  std::string_view key;
  std::string_view value;
  PutOptions options = {};
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

// kOrigin: whatever is behind, a tier in another place perhaps.
enum class Source : uint8_t { kHot, kDisk, kOrigin };

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
  // Copies the next bytes of the value, as from a stream; 0 at its end.
  size_t Read(MutableByteView out);

 private:
  friend class Namespace;
  void* block_ = nullptr;  // of the hot tier, pinned; or null
  std::unique_ptr<const Entry> copy_;
  std::string_view value_;
  std::string_view metadata_;
  size_t read_ = 0;
};

// One tier's part in the reads. Latencies are of whole calls that it answered, in ns: of the
// hot tier one in 1024 is timed, of blocking questions to the origin one in 8, of the rest all.
struct TierStats {
  uint64_t hits = 0;
  uint64_t misses = 0;
  uint64_t stale = 0;  // hits that were no longer fresh
  uint64_t bytes = 0;  // of values
  uint64_t latency_ns_p50 = 0, latency_ns_p90 = 0, latency_ns_p99 = 0, latency_ns_p999 = 0;
};

// Counts since Open. Hits are counted per thread and summed here, so a snapshot taken beside
// running calls may be a moment behind.
struct Stats {
  TierStats hot, disk, origin;  // a miss of the origin: a key that it lacks
  uint64_t hits = 0;            // answered from memory, absence included
  uint64_t misses = 0;          // had to look further or wait for somebody who did
  uint64_t origin_reads = 0;    // keys asked of the origin; below misses when calls coalesce
  uint64_t origin_writes = 0;
  uint64_t stale = 0;      // misses that were answered with what is no longer fresh
  uint64_t refreshes = 0;  // fetches in the background
  uint64_t changes = 0;    // writes of others that the origin told of
  uint64_t evictions = 0;  // entries dropped for room
  uint64_t entries = 0;    // in the hot tier now, known absences included
  uint64_t bytes = 0;      // allocated by the hot tier now, <= hot_bytes_max
  uint64_t bytes_max = 0;
  uint64_t disk_entries = 0, disk_bytes = 0, disk_memory_bytes = 0, disk_reads = 0;
  double hit_ratio() const {
    return hits + misses == 0 ? 0 : static_cast<double>(hits) / static_cast<double>(hits + misses);
  }
};

// What a sample of the reads shows.
struct Insight {
  struct Key {
    std::string name;
    uint64_t reads = 0;  // an estimate
  };
  struct Point {
    uint64_t entries = 0;   // were the hot tier an LRU cache of so many ...
    double miss_ratio = 0;  // ... so many reads would miss it
  };
  std::vector<Key> top_keys;            // most read first, up to 16
  std::vector<Point> miss_ratio_curve;  // by powers of two; empty until there are samples
};

// A handle: copies name the same store, which closes with the last of them. Thread-safe.
class Namespace {
 public:
  // `origin` is shared with the store and released with it. InvalidArgument for options out
  // of range.
  static StatusOr<Namespace> Open(std::shared_ptr<Origin> origin, const Options& options = {});

  // The value, or nothing if the key is absent or expired. A hit allocates only the result,
  // an absence that is known allocates nothing.
  StatusOr<std::optional<std::string>> Get(std::string_view key,
                                           const GetOptions& options = kDefaultGet);
  // The same into a string that is reused: a hit that fits its capacity allocates nothing.
  // False, and `*value` untouched, if absent.
  StatusOr<bool> GetInto(std::string_view key, std::string* value,
                         const GetOptions& options = kDefaultGet);
  StatusOr<std::optional<ValueWithMetadata>> GetWithMetadata(
      std::string_view key, const GetOptions& options = kDefaultGet);
  // The value without a copy, if it is hot.
  StatusOr<std::optional<PinnedValue>> Pin(std::string_view key,
                                           const GetOptions& options = kDefaultGet);

  // For code on a loop, which must not wait: `done` runs once, here and now if the answer is
  // in memory, else on whichever thread brings it. Reads from the disk tier happen in the call.
  using GetDone = Callback<void(StatusOr<std::optional<ValueWithMetadata>>)>;
  void GetAsync(std::string_view key, const GetOptions& options, GetDone done);
  void PutAsync(std::string_view key, std::string_view value, const PutOptions& options,
                Callback<void(Status)> done);
  void DeleteAsync(std::string_view key, Callback<void(Status)> done);

  // 1 to 100 keys and at most 25 MiB of values; one answer per key, in their order. Misses
  // go to the origin together.
  StatusOr<std::vector<std::optional<std::string>>> GetMany(
      std::span<const std::string_view> keys, const GetOptions& options = kDefaultGet);
  StatusOr<std::vector<std::optional<std::string>>> GetMany(
      std::initializer_list<std::string_view> keys, const GetOptions& options = kDefaultGet) {
    return GetMany(std::span(keys.begin(), keys.size()), options);
  }
  // The same into strings that are reused, so that hits need no allocation.
  Status GetManyInto(std::span<const std::string_view> keys,
                     std::vector<std::optional<std::string>>* values,
                     const GetOptions& options = kDefaultGet);
  StatusOr<std::vector<std::optional<ValueWithMetadata>>> GetManyWithMetadata(
      std::span<const std::string_view> keys, const GetOptions& options = kDefaultGet);

  // Replaces value, metadata and expiration: what is not given is cleared. Waits for the
  // origin, and for a running write to the same key.
  Status Put(std::string_view key, std::string_view value, const PutOptions& options = {});
  // The same with the value in pieces: `read` fills what it is given and returns how much,
  // 0 at the end. A value that is too long is read to its end, for its length is in the error.
  Status PutStream(std::string_view key, Callback<StatusOr<size_t>(MutableByteView)> read,
                   const PutOptions& options = {});
  // Up to 10,000 items of 100 MB in all. All are checked before the first is written; then
  // they are written in order, up to the first error.
  Status PutMany(std::span<const PutItem> items);
  // OK whether or not the key was there.
  Status Delete(std::string_view key);
  // Up to 10,000 keys, checked and deleted as by PutMany.
  Status DeleteMany(std::span<const std::string_view> keys);

  // Always asks the origin. Keys put after the cursor's position appear in later pages.
  StatusOr<ListPage> List(const ListOptions& options = {});

  // This store as the origin of others in the process: a tier between them and its own
  // origin. A call is a function call. It reports writes through it, and those that its own
  // origin reports.
  std::shared_ptr<Origin> AsOrigin() const;

  Stats stats() const;
  Insight insight() const;
  // Both as a page of text, or as one JSON object, for a person or a tool.
  std::string StatsText() const;
  std::string StatsJson() const;

 private:
  struct Rep;
  class Tier;
  StatusOr<bool> GetWithOptions(std::string_view key, std::string* value,
                                const GetOptions& options);
  StatusOr<bool> FetchInto(uint64_t hash, std::string_view key, std::string* value,
                           const GetOptions& options);
  explicit Namespace(std::shared_ptr<Rep> rep);
  std::shared_ptr<Rep> rep_;  // owners: the copies of this handle
};

}  // namespace edge::kv
