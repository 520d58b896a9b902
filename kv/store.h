// kv/store.h - what a Namespace's handles share: the tiers, and what happens around the origin.
//
// Two rules keep the tiers true to the origin. Writes of one key take turns, so the tiers end
// with the write that the origin took last. And a write, when it is done, and a change that
// the origin tells of, detach the fetch that is under way for the key: what that fetch read
// may be older, so it answers those who waited for it (they began before) but is not kept.
#pragma once
#include <time.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "edge/base/checksum.h"
#include "edge/base/metrics.h"
#include "edge/base/mutex.h"
#include "edge/kv/namespace.h"
#include "kv/disk_tier.h"
#include "kv/hot_tier.h"
#include "kv/hybrid_clock.h"
#include "kv/observe.h"

namespace edge::kv {

// An answer on its way to the caller.
struct Answer {
  std::optional<Entry> entry;
  Source source = Source::kHot;
  int64_t loaded_s = 0;
  bool stale = false;
};
using AnswerDone = Callback<void(StatusOr<Answer>)>;

// May an entry of a tier be the answer?
enum class Age : uint8_t {
  kFresh,
  kStale,     // while somebody fetches it anew
  kLastHope,  // if the origin fails
  kUseless
};

struct Cancellation::State {
  Mutex mutex;
  bool cancelled ABSL_GUARDED_BY(mutex) = false;
  uint64_t next_id ABSL_GUARDED_BY(mutex) = 1;
  std::map<uint64_t, Callback<void()>> waiting ABSL_GUARDED_BY(mutex);
};

struct Namespace::Rep : std::enable_shared_from_this<Namespace::Rep> {
  static constexpr size_t kStripes = 64;
  static constexpr size_t kLanes = 64;
  static constexpr size_t kSeenMax = 64;
  static constexpr uint64_t kTimedEvery = 1024;

  // A key whose fetch failed while a tier had an answer.
  struct Trouble {
    int failures = 0;
    int64_t retry_s = 0;  // not before
  };

  // One question to the origin, and everybody who waits for its answer. Guarded by the
  // stripe's mutex until `done`; then only read.
  struct Flight {
    bool done = false;
    bool detached = false;  // a write has overtaken it: do not keep the answer
    size_t waiters = 0;     // threads
    std::vector<AnswerDone> callbacks;
    StatusOr<Answer> result = Answer();
    CondVar landed;
  };

  // Whose turn it is to write a key, and who comes after.
  struct Turn {
    std::deque<Callback<void()>> next;
    Version seen = 0;  // the greatest that the origin told of meanwhile
  };
  struct Seen {
    uint64_t hash = 0;
    Version version = 0;
  };

  template <typename T>
  using ByKey = std::unordered_map<std::string, T, StringHash, std::equal_to<>>;

  // The keys that are being fetched or written, by hash.
  struct alignas(64) Stripe {
    Mutex mutex;
    // Owners of a flight: this map while it is under way, and everybody who waits.
    ByKey<std::shared_ptr<Flight>> flights ABSL_GUARDED_BY(mutex);
    ByKey<Turn> writing ABSL_GUARDED_BY(mutex);
    ByKey<Trouble> troubled ABSL_GUARDED_BY(mutex);
    // Versions of writes through here, so that their echo does not throw them out: by hash,
    // the last of each place. One that is lost costs a fetch.
    std::array<Seen, kSeenMax> own ABSL_GUARDED_BY(mutex) = {};
  };

  // What a reader who found nothing fresh is to do: with `flight`, land it if it is `ours`,
  // else wait for it; without, take what is held.
  struct Joined {
    std::shared_ptr<Flight> flight;
    bool ours = false;
    std::optional<Answer> held;  // of the hot tier, fresh or not
  };

  // Counts of the threads with one reader index. Only one thread writes to a lane but the
  // last, which all others share.
  struct alignas(64) Lane {
    std::atomic<uint64_t> hits{0};
    std::atomic<uint64_t> bytes{0};
    std::atomic<uint64_t> misses{0};
    uint32_t sampled = 0;
    std::array<uint64_t, 32> samples{};
  };

  struct TierCounts {
    std::atomic<uint64_t> hits{0}, misses{0}, stale{0}, bytes{0};
    Histogram latency_ns;
  };

  Options options;
  std::atomic<bool> ages{false};   // something bounds the age of entries
  bool in_background = false;      // fetches can run without the caller
  std::shared_ptr<Origin> origin;  // owners: this and whoever gave it
  std::unique_ptr<HotTier> hot;
  std::unique_ptr<DiskTier> disk;  // or null
  Clock* clock = nullptr;          // null: the system's coarse clock
  HybridClock versions;
  std::atomic<int64_t> missed_until_s{0};  // what was loaded up to then may have changed
  std::array<Stripe, kStripes> stripes;
  mutable std::array<Lane, kLanes> lanes;
  mutable TierCounts hot_counts, disk_counts, origin_counts;
  std::atomic<uint64_t> origin_reads{0};
  std::atomic<uint64_t> origin_writes{0};
  std::atomic<uint64_t> stale{0};
  std::atomic<uint64_t> refreshes{0};
  std::atomic<uint64_t> changes{0};
  mutable TopKeys top_keys;
  mutable Shadow shadow;
  Watchers watchers;
  std::unique_ptr<Subscription> subscription;  // ends first

  // About 4 ns with the coarse clock, whose ticks are 1 to 4 ms; read only when an entry or
  // the caller sets a limit in time.
  int64_t NowSeconds() const {
    if (clock != nullptr) [[unlikely]]
      return clock->wall_ms() / 1000;
    timespec now{};
    clock_gettime(CLOCK_REALTIME_COARSE, &now);
    return now.tv_sec;
  }
  int64_t WallMs() const;
  static uint64_t NowNs() {
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
  }

  bool IsUsable(const Record& record, const GetOptions& get, bool* refresh) const {
    if (ages.load(std::memory_order_relaxed) || get.cache_ttl_s) [[unlikely]]
      return IsFresh(record, get, refresh);
    return record.expires_s == 0 || record.expires_s > NowSeconds();
  }
  bool IsFresh(const Record& record, const GetOptions& get, bool* refresh) const;
  Age AgeOf(int64_t expires_s, int64_t loaded_s, bool absent, const GetOptions& get,
            int64_t now_s) const;

  Stripe& StripeOf(uint64_t hash) { return stripes[(hash >> 48) % kStripes]; }
  Lane& LaneOf(uint32_t reader_index) const {
    return lanes[std::min<size_t>(reader_index, kLanes - 1)];
  }
  // Now and then also times the read, or samples its key.
  void CountHit(Lane* lane, uint64_t hash, const Record& record, uint64_t start_ns) const {
    if (lane == &lanes.back()) [[unlikely]] {
      lane->hits.fetch_add(1, std::memory_order_relaxed);
      lane->bytes.fetch_add(record.value_bytes, std::memory_order_relaxed);
      return;
    }
    lane->hits.store(lane->hits.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    lane->bytes.store(lane->bytes.load(std::memory_order_relaxed) + record.value_bytes,
                      std::memory_order_relaxed);
    if (Shadow::IsSampled(hash) || start_ns != 0) [[unlikely]]
      Sample(lane, hash, record.key(), start_ns);
  }
  void Sample(Lane* lane, uint64_t hash, std::string_view key, uint64_t start_ns) const;
  void CountMiss(uint64_t hash, std::string_view key) const;

  // Calls use(record) if `key` is hot and usable, within a read section; false if not.
  template <typename Use>
  bool ReadHot(uint64_t hash, std::string_view key, const GetOptions& get, Use&& use) const {
    bool refresh = false;
    {
      const ReadSection section;
      Lane* lane = &LaneOf(section.reader_index());
      const bool timed =
          lane->hits.load(std::memory_order_relaxed) % kTimedEvery == kTimedEvery - 1;
      const uint64_t start_ns = timed ? NowNs() : 0;
      const Record* record = hot->Find(hash, key);
      if (record == nullptr || !IsUsable(*record, get, &refresh)) return false;
      use(*record);
      CountHit(lane, hash, *record, start_ns);
    }
    if (refresh) [[unlikely]]
      StartRefresh(hash, key);
    return true;
  }

  // Reading (fetch.cc).
  StatusOr<Answer> Fetch(uint64_t hash, std::string_view key, const GetOptions& get);
  void FetchAsync(uint64_t hash, std::string_view key, const GetOptions& get, AnswerDone done);
  StatusOr<Answer> FetchWithLimit(uint64_t hash, std::string_view key, const GetOptions& get);
  void Join(uint64_t hash, std::string_view key, const GetOptions& get, AnswerDone* callback,
            Joined* joined);
  StatusOr<Answer> Conclude(uint64_t hash, std::string_view key, Joined* joined,
                            StatusOr<Answer> answer);
  // The answer of the disk tier, if it is one for the flight. Lands it.
  std::optional<StatusOr<Answer>> LandFromDisk(uint64_t hash, std::string_view key,
                                               const std::shared_ptr<Flight>& flight,
                                               const GetOptions& get);
  StatusOr<Answer> Land(uint64_t hash, std::string_view key, Flight* flight,
                        StatusOr<std::optional<Entry>> result, uint64_t start_ns);
  StatusOr<Answer> LandAnswer(uint64_t hash, std::string_view key, Flight* flight,
                              StatusOr<Answer> answer);
  StatusOr<Answer> Await(uint64_t hash, Flight* flight);
  // Asks the origin for the flight of `key` without waiting; then done with the answer.
  void Launch(uint64_t hash, std::string key, std::shared_ptr<Flight> flight, AnswerDone done);
  void BackOff(uint64_t hash, std::string_view key);
  bool LeaveToBackground(uint64_t hash, std::string_view key, Joined* joined);
  void LaunchInBackground(uint64_t hash, std::string_view key, std::shared_ptr<Flight> flight);
  void StartRefresh(uint64_t hash, std::string_view key) const;
  template <typename Hit, typename Miss>
  Status GetMany(std::span<const std::string_view> keys, const GetOptions& get, Hit&& on_hit,
                 Miss&& on_miss);
  Status FetchMany(std::span<const std::string_view> keys, std::span<const uint64_t> hashes,
                   std::span<const size_t> missing, const GetOptions& get,
                   std::vector<Answer>* answers);
  // Makes the tiers say what the origin says; `entry` null for an absent key.
  void Keep(uint64_t hash, std::string_view key, const EntryView* entry, int64_t loaded_s,
            bool to_disk);

  // Writing (write.cc). `entry` null deletes. A version of 0 is stamped here, and anew if the
  // origin had a greater one; else the write is somebody's who does that.
  StatusOr<Version> Write(std::string_view key, const EntryView* entry, Version version);
  void WriteAsync(std::string key, std::optional<Entry> entry, Version version,
                  Origin::WriteDone done);
  struct Attempt;
  void StartAttempt(std::shared_ptr<Attempt> attempt);
  // True if it is the caller's turn now; else `go_on` runs when it is.
  bool TakeTurn(uint64_t hash, std::string_view key, Callback<void()> go_on);
  Version Stamp(uint64_t hash, Version version);
  void FinishWrite(uint64_t hash, std::string_view key, const EntryView* entry, Version version,
                   const StatusOr<Version>& result);
  // The origin says that somebody wrote the key.
  void OnChanged(std::string_view key, Version version);
};

// Runs a call of the origin, which may be the host's code and throw.
Status StatusOfException();
template <typename Call>
auto Guarded(Call call) -> decltype(call()) {
  try {
    return call();
  } catch (...) {
    return StatusOfException();
  }
}

inline Entry ToEntry(const Record& record) {
  return {std::string(record.value()), std::string(record.metadata()), record.expires_s};
}

}  // namespace edge::kv
