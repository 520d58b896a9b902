// The Namespace: checks, the hot tier, and what happens around the origin.
//
// Two rules keep the tier true to the origin. Writes of one key take turns, so the tier ends
// with the write that the origin took last. And a write, when it is done, detaches the fetch
// that is under way for its key: what that fetch read may be older, so it answers those who
// waited for it (they began before the write ended) but is not kept.
#include "edge/kv/namespace.h"

#include <time.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <exception>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "edge/base/checksum.h"
#include "edge/base/errors.h"
#include "edge/base/mutex.h"
#include "kv/cursor.h"
#include "kv/hot_tier.h"
#include "kv/limits.h"

namespace edge::kv {
namespace {

constexpr size_t kStripes = 64;
constexpr size_t kLanes = 64;
constexpr uint64_t kWritesPerSweep = 256;
constexpr size_t kSweepCountMax = 64;
constexpr uint64_t kHotBytesMin = 256 << 10;
constexpr size_t kTroubledMax = 256;  // in one stripe
constexpr int kBackoffDoublingsMax = 6;

// An answer on its way to the caller.
struct Answer {
  std::optional<Entry> entry;
  Source source = Source::kHot;
  int64_t loaded_s = 0;
  bool stale = false;
};

// May an entry of the tier be the answer?
enum class Age : uint8_t {
  kFresh,
  kStale,     // while somebody fetches it anew
  kLastHope,  // if the origin fails
  kUseless
};

// A key whose fetch failed while the tier had an answer.
struct Trouble {
  int failures = 0;
  int64_t retry_s = 0;  // not before
};

// One question to the origin, and everybody who waits for its answer. Guarded by the
// stripe's mutex until `done`; then only read.
struct Flight {
  bool done = false;
  bool detached = false;  // a write has overtaken it: do not keep the answer
  size_t waiters = 0;
  StatusOr<std::optional<Entry>> result = std::optional<Entry>();
  int64_t loaded_s = 0;
  CondVar landed;
};

// The keys that are being fetched or written, by hash.
struct alignas(64) Stripe {
  Mutex mutex;
  // Owners of a flight: this map while it is under way, and everybody who waits.
  std::unordered_map<std::string, std::shared_ptr<Flight>, StringHash, std::equal_to<>> flights
      ABSL_GUARDED_BY(mutex);
  std::unordered_set<std::string, StringHash, std::equal_to<>> writing ABSL_GUARDED_BY(mutex);
  CondVar written;
  std::unordered_map<std::string, Trouble, StringHash, std::equal_to<>> troubled
      ABSL_GUARDED_BY(mutex);
};

// What a reader who found nothing fresh is to do: with `flight`, land it if it is `ours`,
// else wait for it; without, take what is held.
struct Joined {
  std::shared_ptr<Flight> flight;
  bool ours = false;
  std::optional<Answer> held;  // of the tier, fresh or not
};

// Counts of the threads with one reader index. Only one thread writes to a lane but the
// last, which all others share.
struct alignas(64) Lane {
  std::atomic<uint64_t> hits{0};
  std::atomic<uint64_t> misses{0};
};

Entry ToEntry(const Record& record) {
  return {std::string(record.value()), std::string(record.metadata()), record.expires_s};
}

// Runs a call of the origin, which may be the host's code and throw.
template <typename Call>
auto Guarded(Call call) -> decltype(call()) {
  try {
    return call();
  } catch (const Error& error) {
    return error.status();
  } catch (const std::exception& error) {
    return Unknown("kv: the origin threw: {}", error.what());
  } catch (...) {
    return Unknown("kv: the origin threw");
  }
}

// What an origin returned, made safe: no expired entries, no sizes that cannot be.
StatusOr<std::optional<Entry>> Vet(StatusOr<std::optional<Entry>> result, int64_t now_s) {
  if (!result.ok() || !*result) return result;
  const Entry& entry = **result;
  if (entry.value.size() > kValueBytesMax || entry.metadata.size() > kMetadataBytesMax) {
    return DataLoss(
        "kv: the origin returned a value of {} and metadata of {} bytes, above {} and {}",
        entry.value.size(), entry.metadata.size(), kValueBytesMax, kMetadataBytesMax);
  }
  if (entry.expiration_s != 0 && entry.expiration_s <= now_s) result->reset();
  return result;
}

}  // namespace

struct Namespace::Rep {
  Options options;
  bool ages = false;               // an option bounds the age of entries
  std::shared_ptr<Origin> origin;  // owners: this and whoever gave it
  std::unique_ptr<HotTier> hot;
  Clock* clock = nullptr;  // null: the system's coarse clock
  std::array<Stripe, kStripes> stripes;
  mutable std::array<Lane, kLanes> lanes;
  std::atomic<uint64_t> origin_reads{0};
  std::atomic<uint64_t> origin_writes{0};
  std::atomic<uint64_t> stale{0};

  // About 4 ns with the coarse clock, whose ticks are 1 to 4 ms; read only when an entry or
  // the caller sets a limit in time.
  int64_t NowSeconds() const {
    if (clock != nullptr) return clock->wall_ms() / 1000;
    timespec now{};
    clock_gettime(CLOCK_REALTIME_COARSE, &now);
    return now.tv_sec;
  }

  bool IsUsable(const Record& record, const GetOptions& get) const {
    if (ages || get.cache_ttl_s) [[unlikely]]
      return AgeOf(record, get, NowSeconds()) == Age::kFresh;
    return record.expires_s == 0 || record.expires_s > NowSeconds();
  }

  Age AgeOf(const Record& record, const GetOptions& get, int64_t now_s) const {
    if (record.expires_s != 0 && record.expires_s <= now_s) return Age::kUseless;
    const int64_t age_s = now_s - record.loaded_s;
    if (get.cache_ttl_s && age_s >= *get.cache_ttl_s) return Age::kUseless;
    const int64_t fresh_for_s = record.absent ? options.absent_fresh_for_s : options.fresh_for_s;
    if (fresh_for_s == kForever || age_s < fresh_for_s) return Age::kFresh;
    if (age_s - fresh_for_s < options.stale_for_s) return Age::kStale;
    if (age_s - fresh_for_s < options.stale_if_error_s) return Age::kLastHope;
    return Age::kUseless;
  }

  Stripe& StripeOf(uint64_t hash) { return stripes[(hash >> 48) % kStripes]; }
  void CountHit(uint32_t reader_index) const {
    if (reader_index >= kLanes - 1) [[unlikely]] {
      lanes.back().hits.fetch_add(1, std::memory_order_relaxed);
      return;
    }
    std::atomic<uint64_t>& hits = lanes[reader_index].hits;
    hits.store(hits.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  }
  void CountMiss() const {
    const size_t lane = std::min<size_t>(ThisReader().index, kLanes - 1);
    lanes[lane].misses.fetch_add(1, std::memory_order_relaxed);
  }

  // Calls use(record) if `key` is hot and usable, within a read section; false if not.
  template <typename Use>
  bool ReadHot(uint64_t hash, std::string_view key, const GetOptions& get, Use&& use) const {
    const ReadSection section;
    const Record* record = hot->Find(hash, key);
    if (record == nullptr || !IsUsable(*record, get)) return false;
    CountHit(section.reader_index());
    use(*record);
    return true;
  }

  StatusOr<Answer> Fetch(uint64_t hash, std::string_view key, const GetOptions& get);
  Joined Join(uint64_t hash, std::string_view key, const GetOptions& get);
  StatusOr<Answer> Conclude(uint64_t hash, std::string_view key, Joined* joined,
                            StatusOr<Answer> answer);
  StatusOr<Answer> Land(uint64_t hash, std::string_view key, Flight* flight,
                        StatusOr<std::optional<Entry>> result);
  StatusOr<Answer> Await(uint64_t hash, Flight* flight);
  template <typename Hit, typename Miss>
  Status GetMany(std::span<const std::string_view> keys, const GetOptions& get, Hit&& on_hit,
                 Miss&& on_miss);
  Status FetchMany(std::span<const std::string_view> keys, std::span<const uint64_t> hashes,
                   std::span<const size_t> missing, const GetOptions& get,
                   std::vector<Answer>* answers);
  Status Write(std::string_view key, const EntryView* entry, int64_t now_s);
  void Keep(uint64_t hash, std::string_view key, const EntryView* entry, int64_t loaded_s);
};

// --- Reading ----------------------------------------------------------------------------

Joined Namespace::Rep::Join(uint64_t hash, std::string_view key, const GetOptions& get) {
  Stripe& stripe = StripeOf(hash);
  Joined joined;
  Age age = Age::kUseless;
  MutexLock lock(&stripe.mutex);
  const int64_t now_s = NowSeconds();
  {
    const ReadSection section;
    const Record* record = hot->Find(hash, key);
    if (record != nullptr) age = AgeOf(*record, get, now_s);
    if (age != Age::kUseless) {
      joined.held.emplace();
      if (!record->absent) joined.held->entry = ToEntry(*record);
      joined.held->loaded_s = record->loaded_s;
      joined.held->stale = age != Age::kFresh;
    }
  }
  if (age == Age::kFresh) return joined;  // somebody has fetched it meanwhile
  const auto under_way = stripe.flights.find(key);
  if (joined.held) {
    const auto trouble = stripe.troubled.find(key);
    if (trouble != stripe.troubled.end() && now_s < trouble->second.retry_s) return joined;
    if (age == Age::kStale && under_way != stripe.flights.end()) return joined;
  }
  if (under_way != stripe.flights.end()) {
    joined.flight = under_way->second;
    ++joined.flight->waiters;
    return joined;
  }
  joined.flight = std::make_shared<Flight>();
  joined.ours = true;
  stripe.flights.emplace(key, joined.flight);
  return joined;
}

// The answer of a flight, or what the tier holds if there was no flight or it failed.
StatusOr<Answer> Namespace::Rep::Conclude(uint64_t hash, std::string_view key, Joined* joined,
                                          StatusOr<Answer> answer) {
  if (joined->flight != nullptr && (answer.ok() || !joined->held)) return answer;
  if (joined->held->stale) stale.fetch_add(1, std::memory_order_relaxed);
  if (joined->ours) {
    Stripe& stripe = StripeOf(hash);
    MutexLock lock(&stripe.mutex);
    if (stripe.troubled.size() >= kTroubledMax) stripe.troubled.clear();
    Trouble& trouble = stripe.troubled[std::string(key)];
    const int doublings = std::min(trouble.failures++, kBackoffDoublingsMax);
    trouble.retry_s = NowSeconds() + (int64_t{1} << doublings);
  }
  return *std::move(joined->held);
}

// Ends a flight of ours: keeps the answer unless a write has overtaken it, wakes everybody.
StatusOr<Answer> Namespace::Rep::Land(uint64_t hash, std::string_view key, Flight* flight,
                                      StatusOr<std::optional<Entry>> result) {
  const int64_t now_s = NowSeconds();
  result = Vet(std::move(result), now_s);
  Stripe& stripe = StripeOf(hash);
  {
    MutexLock lock(&stripe.mutex);
    if (!flight->detached) {
      stripe.flights.erase(stripe.flights.find(key));
      if (result.ok() && *result) {
        const Entry& entry = **result;
        const EntryView view{entry.value, entry.metadata, entry.expiration_s};
        Keep(hash, key, &view, now_s);
      } else if (result.ok()) {
        Keep(hash, key, nullptr, now_s);
      }
    }
    if (result.ok() && !stripe.troubled.empty()) {
      if (const auto it = stripe.troubled.find(key); it != stripe.troubled.end()) {
        stripe.troubled.erase(it);
      }
    }
    flight->loaded_s = now_s;
    flight->done = true;
    if (flight->waiters > 0) {
      flight->result = result;
      flight->landed.SignalAll();
    }
  }
  if (!result.ok()) return std::move(result).status();
  return Answer{*std::move(result), Source::kOrigin, now_s};
}

StatusOr<Answer> Namespace::Rep::Await(uint64_t hash, Flight* flight) {
  Stripe& stripe = StripeOf(hash);
  {
    MutexLock lock(&stripe.mutex);
    while (!flight->done) flight->landed.Wait(&stripe.mutex);
  }
  if (!flight->result.ok()) return flight->result.status();
  return Answer{*flight->result, Source::kOrigin, flight->loaded_s};
}

// The slow half of a Get: the key is checked here, because a bad one is never hot.
StatusOr<Answer> Namespace::Rep::Fetch(uint64_t hash, std::string_view key, const GetOptions& get) {
  EDGE_RETURN_IF_ERROR(CheckKey("GET", key));
  CountMiss();
  Joined joined = Join(hash, key, get);
  if (joined.flight == nullptr) return Conclude(hash, key, &joined, Answer());
  if (!joined.ours) return Conclude(hash, key, &joined, Await(hash, joined.flight.get()));
  origin_reads.fetch_add(1, std::memory_order_relaxed);
  auto answer = Land(hash, key, joined.flight.get(), Guarded([&] { return origin->Get(key); }));
  return Conclude(hash, key, &joined, std::move(answer));
}

// Makes the tier say what the origin says; `entry` null for an absent key.
void Namespace::Rep::Keep(uint64_t hash, std::string_view key, const EntryView* entry,
                          int64_t loaded_s) {
  NewRecord record{.key = key, .loaded_s = loaded_s, .absent = entry == nullptr};
  if (entry != nullptr) {
    record.value = entry->value;
    record.metadata = entry->metadata;
    record.expires_s = entry->expiration_s;
  }
  hot->Insert(hash, record);
}

StatusOr<std::optional<std::string>> Namespace::Get(std::string_view key,
                                                    const GetOptions& options) {
  if (options.cache_ttl_s) EDGE_RETURN_IF_ERROR(CheckCacheTtl("GET", options));
  const uint64_t hash = HashKey(key);
  std::optional<std::string> value;
  const bool hit = rep_->ReadHot(hash, key, options, [&](const Record& record) {
    if (!record.absent) value.emplace(record.value());
  });
  if (hit) [[likely]]
    return value;
  EDGE_ASSIGN_OR_RETURN(Answer answer, rep_->Fetch(hash, key, options));
  if (answer.entry) value = std::move(answer.entry->value);
  return value;
}

StatusOr<bool> Namespace::GetInto(std::string_view key, std::string* value,
                                  const GetOptions& options) {
  if (options.cache_ttl_s) EDGE_RETURN_IF_ERROR(CheckCacheTtl("GET", options));
  const uint64_t hash = HashKey(key);
  bool found = false;
  const bool hit = rep_->ReadHot(hash, key, options, [&](const Record& record) {
    found = !record.absent;
    if (found) value->assign(record.value());
  });
  if (hit) [[likely]]
    return found;
  EDGE_ASSIGN_OR_RETURN(Answer answer, rep_->Fetch(hash, key, options));
  if (answer.entry) *value = std::move(answer.entry->value);
  return answer.entry.has_value();
}

StatusOr<std::optional<ValueWithMetadata>> Namespace::GetWithMetadata(std::string_view key,
                                                                      const GetOptions& options) {
  EDGE_RETURN_IF_ERROR(CheckCacheTtl("GET", options));
  const uint64_t hash = HashKey(key);
  Answer answer;
  const bool hit = rep_->ReadHot(hash, key, options, [&](const Record& record) {
    if (!record.absent) answer.entry = ToEntry(record);
    answer.loaded_s = record.loaded_s;
  });
  if (!hit) {
    EDGE_ASSIGN_OR_RETURN(answer, rep_->Fetch(hash, key, options));
  }
  if (!answer.entry) return std::optional<ValueWithMetadata>();
  const int64_t age_s = std::max<int64_t>(rep_->NowSeconds() - answer.loaded_s, 0);
  return std::optional(ValueWithMetadata{std::move(answer.entry->value),
                                         std::move(answer.entry->metadata), answer.source, age_s,
                                         answer.stale});
}

StatusOr<std::optional<PinnedValue>> Namespace::Pin(std::string_view key,
                                                    const GetOptions& options) {
  if (options.cache_ttl_s) EDGE_RETURN_IF_ERROR(CheckCacheTtl("GET", options));
  const uint64_t hash = HashKey(key);
  std::optional<PinnedValue> pinned;
  const auto own = [&pinned](Entry entry) {
    pinned->copy_ = std::make_unique<const Entry>(std::move(entry));
    pinned->value_ = pinned->copy_->value;
    pinned->metadata_ = pinned->copy_->metadata;
  };
  const bool hit = rep_->ReadHot(hash, key, options, [&](const Record& record) {
    if (record.absent) return;
    pinned.emplace();
    pinned->block_ = rep_->hot->Pin(hash, &record);
    if (pinned->block_ == nullptr) return own(ToEntry(record));
    pinned->value_ = record.value();
    pinned->metadata_ = record.metadata();
  });
  if (hit) [[likely]]
    return pinned;
  EDGE_ASSIGN_OR_RETURN(Answer answer, rep_->Fetch(hash, key, options));
  if (answer.entry) {
    pinned.emplace();
    own(*std::move(answer.entry));
  }
  return pinned;
}

PinnedValue::PinnedValue(PinnedValue&& other) noexcept
    : block_(std::exchange(other.block_, nullptr)),
      copy_(std::move(other.copy_)),
      value_(std::exchange(other.value_, {})),
      metadata_(std::exchange(other.metadata_, {})) {}

PinnedValue& PinnedValue::operator=(PinnedValue&& other) noexcept {
  if (this == &other) return *this;
  if (block_ != nullptr) HotTier::Unpin(block_);
  block_ = std::exchange(other.block_, nullptr);
  copy_ = std::move(other.copy_);
  value_ = std::exchange(other.value_, {});
  metadata_ = std::exchange(other.metadata_, {});
  return *this;
}

PinnedValue::~PinnedValue() {
  if (block_ != nullptr) HotTier::Unpin(block_);
}

// --- Reading many -----------------------------------------------------------------------

// on_hit(index, record) for what is hot, within one read section; then on_miss(index, answer).
template <typename Hit, typename Miss>
Status Namespace::Rep::GetMany(std::span<const std::string_view> keys, const GetOptions& get,
                               Hit&& on_hit, Miss&& on_miss) {
  if (keys.size() > kBulkKeysMax) {
    return InvalidArgument("KV GET_BULK failed: 400 You can request a maximum of {} keys",
                           kBulkKeysMax);
  }
  if (keys.empty()) {
    return InvalidArgument("KV GET_BULK failed: 400 You must request a minimum of 1 key");
  }
  EDGE_RETURN_IF_ERROR(CheckCacheTtl("GET_BULK", get));
  std::array<uint64_t, kBulkKeysMax> hashes;
  std::array<size_t, kBulkKeysMax> missing;
  size_t missing_count = 0;
  uint64_t bytes = 0;
  {
    // Three passes, so that the memory accesses of all keys overlap.
    const ReadSection section;
    for (size_t i = 0; i < keys.size(); ++i) {
      hashes[i] = HashKey(keys[i]);
      hot->PrefetchBucket(hashes[i]);
    }
    for (size_t i = 0; i < keys.size(); ++i) hot->PrefetchRecord(hashes[i]);
    for (size_t i = 0; i < keys.size(); ++i) {
      const Record* record = hot->Find(hashes[i], keys[i]);
      if (record == nullptr || !IsUsable(*record, get)) {
        missing[missing_count++] = i;
        continue;
      }
      CountHit(section.reader_index());
      if (record->absent) continue;
      bytes += record->value_bytes;
      if (bytes > kBulkBytesMax) break;
      on_hit(i, *record);
    }
  }
  if (missing_count > 0 && bytes <= kBulkBytesMax) {
    std::vector<Answer> answers(missing_count);
    EDGE_RETURN_IF_ERROR(FetchMany(keys, hashes, {missing.data(), missing_count}, get, &answers));
    for (size_t k = 0; k < missing_count; ++k) {
      if (!answers[k].entry) continue;
      bytes += answers[k].entry->value.size();
      on_miss(missing[k], std::move(answers[k]));
    }
  }
  if (bytes > kBulkBytesMax) {
    return InvalidArgument(
        "KV GET_BULK failed: 413 Total size of request exceeds the limit of 25MB");
  }
  return OkStatus();
}

// Asks the origin once for the keys that nobody is fetching yet, lands those flights, and
// only then waits for the flights of others: so two bulk reads cannot wait for each other.
Status Namespace::Rep::FetchMany(std::span<const std::string_view> keys,
                                 std::span<const uint64_t> hashes, std::span<const size_t> missing,
                                 const GetOptions& get, std::vector<Answer>* answers) {
  for (const size_t i : missing) EDGE_RETURN_IF_ERROR(CheckBulkKey(keys[i]));
  std::vector<Joined> joined;
  std::vector<size_t> asked;  // positions in `missing`
  std::vector<std::string_view> questions;
  for (const size_t i : missing) {
    CountMiss();
    joined.push_back(Join(hashes[i], keys[i], get));
    if (!joined.back().ours) continue;
    asked.push_back(joined.size() - 1);
    questions.push_back(keys[i]);
  }
  std::vector<StatusOr<Answer>> outcomes(missing.size(), Answer());
  if (!asked.empty()) {
    origin_reads.fetch_add(asked.size(), std::memory_order_relaxed);
    auto results = Guarded([&] { return origin->GetMany(questions); });
    if (results.ok() && results->size() != asked.size()) {
      results =
          Internal("kv: the origin gave {} answers to {} keys", results->size(), asked.size());
    }
    for (size_t q = 0; q < asked.size(); ++q) {
      const size_t i = missing[asked[q]];
      auto result = results.ok() ? StatusOr<std::optional<Entry>>(std::move((*results)[q]))
                                 : StatusOr<std::optional<Entry>>(results.status());
      outcomes[asked[q]] =
          Land(hashes[i], keys[i], joined[asked[q]].flight.get(), std::move(result));
    }
  }
  Status status = OkStatus();
  for (size_t k = 0; k < missing.size(); ++k) {
    const uint64_t hash = hashes[missing[k]];
    if (joined[k].flight != nullptr && !joined[k].ours) {
      outcomes[k] = Await(hash, joined[k].flight.get());
    }
    auto answer = Conclude(hash, keys[missing[k]], &joined[k], std::move(outcomes[k]));
    if (answer.ok()) {
      (*answers)[k] = *std::move(answer);
    } else {
      status = answer.status();
    }
  }
  return status;
}

Status Namespace::GetManyInto(std::span<const std::string_view> keys,
                              std::vector<std::optional<std::string>>* values,
                              const GetOptions& options) {
  values->resize(keys.size());
  std::array<bool, kBulkKeysMax> found{};
  EDGE_RETURN_IF_ERROR(rep_->GetMany(
      keys, options,
      [&](size_t i, const Record& record) {
        std::optional<std::string>& value = (*values)[i];
        if (!value) value.emplace();
        value->assign(record.value());
        found[i] = true;
      },
      [&](size_t i, Answer&& answer) {
        (*values)[i] = std::move(answer.entry->value);
        found[i] = true;
      }));
  for (size_t i = 0; i < keys.size(); ++i) {
    if (!found[i]) (*values)[i].reset();
  }
  return OkStatus();
}

StatusOr<std::vector<std::optional<std::string>>> Namespace::GetMany(
    std::span<const std::string_view> keys, const GetOptions& options) {
  std::vector<std::optional<std::string>> values;
  EDGE_RETURN_IF_ERROR(GetManyInto(keys, &values, options));
  return values;
}

StatusOr<std::vector<std::optional<ValueWithMetadata>>> Namespace::GetManyWithMetadata(
    std::span<const std::string_view> keys, const GetOptions& options) {
  std::vector<std::optional<ValueWithMetadata>> values(keys.size());
  const int64_t now_s = rep_->NowSeconds();
  EDGE_RETURN_IF_ERROR(rep_->GetMany(
      keys, options,
      [&](size_t i, const Record& record) {
        values[i].emplace(ValueWithMetadata{
            std::string(record.value()), std::string(record.metadata()), Source::kHot,
            std::max<int64_t>(now_s - record.loaded_s, 0), /*stale=*/false});
      },
      [&](size_t i, Answer&& answer) {
        values[i].emplace(ValueWithMetadata{
            std::move(answer.entry->value), std::move(answer.entry->metadata), answer.source,
            std::max<int64_t>(now_s - answer.loaded_s, 0), answer.stale});
      }));
  return values;
}

// --- Writing ----------------------------------------------------------------------------

// `entry` null deletes. Waits for its turn among the writes of the key.
Status Namespace::Rep::Write(std::string_view key, const EntryView* entry, int64_t now_s) {
  const uint64_t hash = HashKey(key);
  Stripe& stripe = StripeOf(hash);
  {
    MutexLock lock(&stripe.mutex);
    while (stripe.writing.contains(key)) stripe.written.Wait(&stripe.mutex);
    stripe.writing.emplace(key);
  }
  const uint64_t writes = origin_writes.fetch_add(1, std::memory_order_relaxed) + 1;
  const Status status =
      Guarded([&] { return entry != nullptr ? origin->Put(key, *entry) : origin->Delete(key); });
  {
    MutexLock lock(&stripe.mutex);
    if (status.ok()) {
      Keep(hash, key, entry, now_s);
    } else {
      hot->Erase(hash, key);  // either entry may be in the origin now
    }
    if (const auto it = stripe.flights.find(key); it != stripe.flights.end()) {
      it->second->detached = true;
      stripe.flights.erase(it);
    }
    stripe.writing.erase(stripe.writing.find(key));
    stripe.written.SignalAll();
  }
  if (writes % kWritesPerSweep == 0) {
    // Only frees space. A failure is not this write's, and the next sweep tries again.
    Guarded([&] { return origin->RemoveExpired(now_s, kSweepCountMax).status(); }).IgnoreError();
  }
  return status;
}

Status Namespace::Put(std::string_view key, std::string_view value, const PutOptions& options) {
  EDGE_RETURN_IF_ERROR(CheckKey("PUT", key));
  const int64_t now_s = rep_->NowSeconds();
  EDGE_ASSIGN_OR_RETURN(const int64_t expiration_s, CheckExpiration(options, now_s));
  EDGE_ASSIGN_OR_RETURN(const std::string_view metadata, CheckMetadata(options.metadata));
  EDGE_RETURN_IF_ERROR(CheckValueBytes(value.size(), rep_->options.value_bytes_max));
  const EntryView entry{value, metadata, expiration_s};
  return rep_->Write(key, &entry, now_s);
}

Status Namespace::Delete(std::string_view key) {
  EDGE_RETURN_IF_ERROR(CheckKey("DELETE", key));
  return rep_->Write(key, nullptr, rep_->NowSeconds());
}

// --- The rest ---------------------------------------------------------------------------

StatusOr<ListPage> Namespace::List(const ListOptions& options) {
  EDGE_RETURN_IF_ERROR(CheckPrefix(options.prefix));
  EDGE_RETURN_IF_ERROR(CheckListLimit(options.limit));
  OriginListQuery query;
  query.prefix = options.prefix;
  query.count_max = static_cast<size_t>(options.limit > 0 ? options.limit : kListLimitMax);
  query.now_s = rep_->NowSeconds();
  std::string after;
  if (!options.cursor.empty()) {
    EDGE_ASSIGN_OR_RETURN(after, DecodeCursor(options.cursor, options.prefix));
    query.after = after;
  }
  EDGE_ASSIGN_OR_RETURN(OriginListPage page, Guarded([&] { return rep_->origin->List(query); }));
  ListPage result;
  result.list_complete = page.complete;
  if (!page.complete) {
    result.cursor =
        page.keys.empty() ? std::string(options.cursor) : EncodeCursor(page.keys.back().name);
  }
  result.keys = std::move(page.keys);
  return result;
}

Stats Namespace::stats() const {
  Stats stats;
  for (const Lane& lane : rep_->lanes) {
    stats.hits += lane.hits.load(std::memory_order_relaxed);
    stats.misses += lane.misses.load(std::memory_order_relaxed);
  }
  stats.origin_reads = rep_->origin_reads.load(std::memory_order_relaxed);
  stats.stale = rep_->stale.load(std::memory_order_relaxed);
  stats.origin_writes = rep_->origin_writes.load(std::memory_order_relaxed);
  const HotTier::Usage usage = rep_->hot->usage();
  stats.evictions = usage.evictions;
  stats.entries = usage.entries;
  stats.bytes = usage.bytes;
  stats.bytes_max = rep_->hot->bytes_max();
  return stats;
}

Namespace::Namespace(std::shared_ptr<Rep> rep) : rep_(std::move(rep)) {}

StatusOr<Namespace> Namespace::Open(std::shared_ptr<Origin> origin, const Options& options) {
  if (origin == nullptr) return InvalidArgument("kv: Open needs an origin");
  const unsigned shards = options.shard_count;
  if (shards > 256 || (shards & (shards - 1)) != 0) {
    return InvalidArgument("kv: shard_count is {}; it must be a power of two up to 256, or 0",
                           shards);
  }
  const uint64_t bytes_min = kHotBytesMin * std::max(shards, 1u);
  if (options.hot_bytes_max < bytes_min) {
    return InvalidArgument("kv: hot_bytes_max is {}; it must be at least {}", options.hot_bytes_max,
                           bytes_min);
  }
  if (options.value_bytes_max > kValueBytesMax) {
    return InvalidArgument("kv: value_bytes_max is {}; it must be at most {}",
                           options.value_bytes_max, kValueBytesMax);
  }
  if (options.stale_for_s < 0 || options.stale_if_error_s < 0) {
    return InvalidArgument("kv: stale_for_s is {} and stale_if_error_s {}; neither may be negative",
                           options.stale_for_s, options.stale_if_error_s);
  }
  if (options.fresh_for_s < 0 || options.absent_fresh_for_s < 0) {
    return InvalidArgument(
        "kv: fresh_for_s is {} and absent_fresh_for_s {}; neither may be negative",
        options.fresh_for_s, options.absent_fresh_for_s);
  }
  auto rep = std::make_shared<Rep>();
  rep->options = options;
  rep->ages = options.fresh_for_s != kForever || options.absent_fresh_for_s != kForever;
  rep->origin = std::move(origin);
  // The machine's own clock is read in its coarse form; any other is asked each time.
  rep->clock = options.clock == &SystemClock() ? nullptr : options.clock;
  rep->hot = HotTier::Create(options.hot_bytes_max, options.shard_count);
  return Namespace(std::move(rep));
}

}  // namespace edge::kv
