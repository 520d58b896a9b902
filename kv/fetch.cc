// The slow half of reading: the disk tier, the origin, and everybody who waits for them.
#include "edge/base/errors.h"
#include "edge/base/executor.h"
#include "kv/limits.h"
#include "kv/store.h"

namespace edge::kv {
namespace {

constexpr size_t kTroubledMax = 256;  // in one stripe
constexpr int kBackoffDoublingsMax = 6;

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

Status StatusOfException() {
  try {
    throw;
  } catch (const Error& error) {
    return error.status();
  } catch (const std::exception& error) {
    return Unknown("kv: the origin threw: {}", error.what());
  } catch (...) {
    return Unknown("kv: the origin threw");
  }
}

int64_t Namespace::Rep::WallMs() const {
  return clock != nullptr ? clock->wall_ms() : SystemClock().wall_ms();
}

Age Namespace::Rep::AgeOf(int64_t expires_s, int64_t loaded_s, bool absent, const GetOptions& get,
                          int64_t now_s) const {
  if (expires_s != 0 && expires_s <= now_s) return Age::kUseless;
  const int64_t age_s = now_s - loaded_s;
  if (get.cache_ttl_s && age_s >= *get.cache_ttl_s) return Age::kUseless;
  int64_t fresh_for_s = absent ? options.absent_fresh_for_s : options.fresh_for_s;
  const int64_t missed_s = missed_until_s.load(std::memory_order_relaxed);
  if (missed_s != 0 && loaded_s <= missed_s) {
    // It may have changed since: as if it had stopped being fresh then.
    fresh_for_s = std::min(fresh_for_s == kForever ? INT64_MAX : fresh_for_s,
                           std::max<int64_t>(missed_s - loaded_s, 0));
    if (age_s >= fresh_for_s) {
      if (age_s - fresh_for_s < options.stale_for_s) return Age::kStale;
      return age_s - fresh_for_s < options.stale_if_error_s ? Age::kLastHope : Age::kUseless;
    }
  }
  if (fresh_for_s == kForever || age_s < fresh_for_s) return Age::kFresh;
  if (age_s - fresh_for_s < options.stale_for_s) return Age::kStale;
  if (age_s - fresh_for_s < options.stale_if_error_s) return Age::kLastHope;
  return Age::kUseless;
}

bool Namespace::Rep::IsFresh(const Record& record, const GetOptions& get, bool* refresh) const {
  const int64_t now_s = NowSeconds();
  if (AgeOf(record.expires_s, record.loaded_s, record.absent, get, now_s) != Age::kFresh) {
    return false;
  }
  const int64_t fresh_for_s = record.absent ? options.absent_fresh_for_s : options.fresh_for_s;
  if (options.refresh_ahead_s != 0 && fresh_for_s != kForever && in_background) {
    // Between half and all of the time, by the key.
    const int64_t half = options.refresh_ahead_s / 2;
    const auto spread = static_cast<int64_t>(HashKey(record.key()) >> 40) % (half + 1);
    *refresh = now_s - record.loaded_s >= fresh_for_s - (options.refresh_ahead_s - spread);
  }
  return true;
}

void Namespace::Rep::Sample(Lane* lane, uint64_t hash, std::string_view key,
                            uint64_t start_ns) const {
  if (start_ns != 0) {
    hot_counts.latency_ns.Record(NowNs() - start_ns);
    top_keys.Add(key, kTimedEvery);
  }
  if (!Shadow::IsSampled(hash)) return;
  lane->samples[lane->sampled++] = hash;
  if (lane->sampled == lane->samples.size()) {
    shadow.Add(lane->samples.data(), lane->sampled);
    lane->sampled = 0;
  }
}

void Namespace::Rep::CountMiss(uint64_t hash, std::string_view key) const {
  Lane& lane = LaneOf(ThisReader().index);
  const uint64_t misses = lane.misses.fetch_add(1, std::memory_order_relaxed);
  if (misses % kTimedEvery == kTimedEvery - 1) top_keys.Add(key, kTimedEvery);
  if (Shadow::IsSampled(hash)) shadow.Add(&hash, 1);
}

// With `callback`, it is taken if somebody else's flight is to be waited for.
void Namespace::Rep::Join(uint64_t hash, std::string_view key, const GetOptions& get,
                          AnswerDone* callback, Joined* joined) {
  Stripe& stripe = StripeOf(hash);
  Age age = Age::kUseless;
  MutexLock lock(&stripe.mutex);
  const int64_t now_s = NowSeconds();
  {
    const ReadSection section;
    const Record* record = hot->Find(hash, key);
    if (record != nullptr) {
      age = AgeOf(record->expires_s, record->loaded_s, record->absent, get, now_s);
    }
    if (age != Age::kUseless) {
      joined->held.emplace();
      if (!record->absent) joined->held->entry = ToEntry(*record);
      joined->held->loaded_s = record->loaded_s;
      joined->held->stale = age != Age::kFresh;
    }
  }
  if (age == Age::kFresh) return;  // somebody has fetched it meanwhile
  const auto under_way = stripe.flights.find(key);
  if (joined->held) {
    const auto trouble = stripe.troubled.find(key);
    if (trouble != stripe.troubled.end() && now_s < trouble->second.retry_s) return;
    if (age == Age::kStale && under_way != stripe.flights.end()) return;
  }
  if (under_way != stripe.flights.end()) {
    joined->flight = under_way->second;
    if (callback != nullptr) {
      joined->flight->callbacks.push_back(std::move(*callback));
    } else {
      ++joined->flight->waiters;
    }
    return;
  }
  joined->flight = std::make_shared<Flight>();
  joined->ours = true;
  stripe.flights.emplace(key, joined->flight);
}

// The answer of a flight, or what the tier holds if there was no flight or it failed.
StatusOr<Answer> Namespace::Rep::Conclude(uint64_t hash, std::string_view key, Joined* joined,
                                          StatusOr<Answer> answer) {
  if (joined->flight != nullptr && (answer.ok() || !joined->held)) return answer;
  if (joined->held->stale) {
    stale.fetch_add(1, std::memory_order_relaxed);
    hot_counts.stale.fetch_add(1, std::memory_order_relaxed);
  }
  if (joined->ours) BackOff(hash, key);
  return *std::move(joined->held);
}

void Namespace::Rep::BackOff(uint64_t hash, std::string_view key) {
  Stripe& stripe = StripeOf(hash);
  MutexLock lock(&stripe.mutex);
  if (stripe.troubled.size() >= kTroubledMax) stripe.troubled.clear();
  Trouble& trouble = stripe.troubled[std::string(key)];
  const int doublings = std::min(trouble.failures++, kBackoffDoublingsMax);
  trouble.retry_s = NowSeconds() + (int64_t{1} << doublings);
}

StatusOr<Answer> Namespace::Rep::Land(uint64_t hash, std::string_view key, Flight* flight,
                                      StatusOr<std::optional<Entry>> result, uint64_t start_ns) {
  const int64_t now_s = NowSeconds();
  result = Vet(std::move(result), now_s);
  if (start_ns != 0) origin_counts.latency_ns.Record(NowNs() - start_ns);
  if (!result.ok()) return LandAnswer(hash, key, flight, result.status());
  (*result ? origin_counts.hits : origin_counts.misses).fetch_add(1, std::memory_order_relaxed);
  if (*result) origin_counts.bytes.fetch_add((*result)->value.size(), std::memory_order_relaxed);
  return LandAnswer(hash, key, flight, Answer{*std::move(result), Source::kOrigin, now_s});
}

// Ends a flight of ours: keeps the answer unless a write has overtaken it, tells everybody.
StatusOr<Answer> Namespace::Rep::LandAnswer(uint64_t hash, std::string_view key, Flight* flight,
                                            StatusOr<Answer> answer) {
  Stripe& stripe = StripeOf(hash);
  std::vector<AnswerDone> callbacks;
  {
    MutexLock lock(&stripe.mutex);
    if (!flight->detached) {
      stripe.flights.erase(stripe.flights.find(key));
      // Not beside a write, which has voided what the disk held and must not find it again.
      const bool to_disk = answer.ok() && answer->source == Source::kOrigin &&
                           (disk == nullptr || !stripe.writing.contains(key));
      if (answer.ok() && answer->entry) {
        const Entry& entry = *answer->entry;
        const EntryView view{entry.value, entry.metadata, entry.expiration_s};
        Keep(hash, key, &view, answer->loaded_s, to_disk);
      } else if (answer.ok()) {
        Keep(hash, key, nullptr, answer->loaded_s, to_disk);
      }
    }
    if (answer.ok() && !stripe.troubled.empty()) {
      if (const auto it = stripe.troubled.find(key); it != stripe.troubled.end()) {
        stripe.troubled.erase(it);
      }
    }
    flight->done = true;
    callbacks.swap(flight->callbacks);
    if (flight->waiters > 0) {
      flight->result = answer;
      flight->landed.SignalAll();
    }
  }
  for (AnswerDone& callback : callbacks) callback(answer);
  return answer;
}

std::optional<StatusOr<Answer>> Namespace::Rep::LandFromDisk(uint64_t hash, std::string_view key,
                                                             const std::shared_ptr<Flight>& flight,
                                                             const GetOptions& get) {
  if (disk == nullptr) return std::nullopt;
  const uint64_t start_ns = NowNs();
  auto found = disk->Get(key);
  if (!found.ok() || !*found ||
      AgeOf((*found)->expires_s, (*found)->loaded_s, false, get, NowSeconds()) != Age::kFresh) {
    disk_counts.misses.fetch_add(1, std::memory_order_relaxed);
    return std::nullopt;
  }
  disk_counts.latency_ns.Record(NowNs() - start_ns);
  disk_counts.hits.fetch_add(1, std::memory_order_relaxed);
  disk_counts.bytes.fetch_add((*found)->value.size(), std::memory_order_relaxed);
  Answer answer;
  answer.source = Source::kDisk;
  answer.loaded_s = (*found)->loaded_s;
  answer.entry =
      Entry{std::move((*found)->value), std::move((*found)->metadata), (*found)->expires_s};
  return LandAnswer(hash, key, flight.get(), std::move(answer));
}

StatusOr<Answer> Namespace::Rep::Await(uint64_t hash, Flight* flight) {
  Stripe& stripe = StripeOf(hash);
  MutexLock lock(&stripe.mutex);
  while (!flight->done) flight->landed.Wait(&stripe.mutex);
  return flight->result;
}

// The slow half of a Get: the key is checked here, because a bad one is never hot.
StatusOr<Answer> Namespace::Rep::Fetch(uint64_t hash, std::string_view key, const GetOptions& get) {
  EDGE_RETURN_IF_ERROR(CheckKey("GET", key));
  if (get.timeout_ms != 0 || get.cancellation != nullptr) return FetchWithLimit(hash, key, get);
  CountMiss(hash, key);
  Joined joined;
  Join(hash, key, get, nullptr, &joined);
  if (joined.flight == nullptr) return Conclude(hash, key, &joined, Answer());
  if (!joined.ours) return Conclude(hash, key, &joined, Await(hash, joined.flight.get()));
  if (auto landed = LandFromDisk(hash, key, joined.flight, get)) return *std::move(landed);
  if (LeaveToBackground(hash, key, &joined)) return Conclude(hash, key, &joined, Answer());
  // An origin may take less time than two readings of the clock.
  const uint64_t reads = origin_reads.fetch_add(1, std::memory_order_relaxed);
  const uint64_t start_ns = reads % 8 == 0 ? NowNs() : 0;
  auto answer =
      Land(hash, key, joined.flight.get(), Guarded([&] { return origin->Get(key); }), start_ns);
  return Conclude(hash, key, &joined, std::move(answer));
}

void Namespace::Rep::Launch(uint64_t hash, std::string key, std::shared_ptr<Flight> flight,
                            AnswerDone done) {
  origin_reads.fetch_add(1, std::memory_order_relaxed);
  const uint64_t start_ns = NowNs();
  const auto self = shared_from_this();
  if (origin->is_async()) {
    std::vector<std::string> keys{key};
    origin->StartGetMany(
        std::move(keys),
        [self, hash, key = std::move(key), flight, start_ns,
         done = std::move(done)](StatusOr<std::vector<std::optional<Entry>>> results) mutable {
          StatusOr<std::optional<Entry>> result = Internal(
              "kv: the origin gave {} answers to 1 key", results.ok() ? results->size() : 0);
          if (!results.ok()) {
            result = results.status();
          } else if (results->size() == 1) {
            result = std::move((*results)[0]);
          }
          done(self->Land(hash, key, flight.get(), std::move(result), start_ns));
        });
    return;
  }
  const auto shared_done = std::make_shared<AnswerDone>(std::move(done));
  const auto ask = [self, hash, key = std::move(key), flight, start_ns, shared_done] {
    auto result = Guarded([&] { return self->origin->Get(key); });
    (*shared_done)(self->Land(hash, key, flight.get(), std::move(result), start_ns));
  };
  // A loop whose queue is full: then the caller does the work.
  if (options.loop == nullptr || !options.loop->Post(ask).ok()) ask();
}

void Namespace::Rep::StartRefresh(uint64_t hash, std::string_view key) const {
  auto* self = const_cast<Rep*>(this);  // reading is const to its callers only
  auto flight = std::make_shared<Flight>();
  {
    Stripe& stripe = self->StripeOf(hash);
    MutexLock lock(&stripe.mutex);
    if (stripe.flights.contains(key)) return;
    const auto trouble = stripe.troubled.find(key);
    if (trouble != stripe.troubled.end() && NowSeconds() < trouble->second.retry_s) return;
    stripe.flights.emplace(key, flight);
  }
  self->LaunchInBackground(hash, key, std::move(flight));
}

void Namespace::Rep::LaunchInBackground(uint64_t hash, std::string_view key,
                                        std::shared_ptr<Flight> flight) {
  refreshes.fetch_add(1, std::memory_order_relaxed);
  Launch(hash, std::string(key), std::move(flight),
         [self = shared_from_this(), hash, owned = std::string(key)](StatusOr<Answer> answer) {
           if (!answer.ok()) self->BackOff(hash, owned);
         });
}

// If what is held may be served while somebody fetches it: starts that and leaves what is held.
bool Namespace::Rep::LeaveToBackground(uint64_t hash, std::string_view key, Joined* joined) {
  if (!joined->held || !in_background) return false;
  const Answer& held = *joined->held;
  const int64_t expires_s = held.entry ? held.entry->expiration_s : 0;
  if (AgeOf(expires_s, held.loaded_s, !held.entry, {}, NowSeconds()) != Age::kStale) return false;
  LaunchInBackground(hash, key, std::exchange(joined->flight, nullptr));
  joined->ours = false;
  return true;
}

// A call that gives up when its time or its caller's patience ends; its flight goes on.
void Namespace::Rep::FetchAsync(uint64_t hash, std::string_view key, const GetOptions& get,
                                AnswerDone done) {
  struct Call {
    std::atomic<bool> settled{false};
    AnswerDone done;
    std::shared_ptr<Cancellation::State> cancellation;
    std::atomic<uint64_t> cancel_id{0};
    Loop* loop = nullptr;
    std::atomic<Loop::TimerId> timer{0};

    void Settle(StatusOr<Answer> answer) {
      if (settled.exchange(true)) return;
      if (cancellation != nullptr) {
        MutexLock lock(&cancellation->mutex);
        cancellation->waiting.erase(cancel_id.load());
      }
      done(std::move(answer));
      done = nullptr;
    }
  };
  if (Status status = CheckKey("GET", key); !status.ok()) return done(status);
  const auto call = std::make_shared<Call>();  // owners: the callbacks below
  call->done = std::move(done);
  const auto self = shared_from_this();
  CountMiss(hash, key);
  if (get.cancellation != nullptr) {
    bool cancelled = false;
    call->cancellation = get.cancellation->state_;
    {
      MutexLock lock(&call->cancellation->mutex);
      cancelled = call->cancellation->cancelled;
      if (!cancelled) {
        call->cancel_id = call->cancellation->next_id++;
        call->cancellation->waiting.emplace(call->cancel_id.load(), [call] {
          call->Settle(Cancelled("kv: the read was cancelled"));
        });
      }
    }
    if (cancelled) return call->Settle(Cancelled("kv: the read was cancelled"));
  }
  const std::string owned(key);
  const auto joined = std::make_shared<Joined>();  // owners: the callbacks below
  const auto conclude = [self, hash, owned, joined, call](StatusOr<Answer> answer) {
    call->Settle(self->Conclude(hash, owned, joined.get(), std::move(answer)));
  };
  AnswerDone joiner = conclude;
  Join(hash, key, get, &joiner, joined.get());
  if (joined->flight == nullptr) return conclude(Answer());
  if (get.timeout_ms > 0 && options.loop != nullptr) {
    Loop* loop = options.loop;
    const int64_t timeout_ms = get.timeout_ms;
    loop->PostUrgent([call, loop, timeout_ms] {
      if (call->settled.load()) return;
      loop->After(timeout_ms * 1'000'000, [call, timeout_ms] {
        call->Settle(DeadlineExceeded("kv: no answer within {} ms", timeout_ms));
      });
    });
  }
  if (!joined->ours) return;
  if (auto landed = LandFromDisk(hash, key, joined->flight, get)) return conclude(*landed);
  if (LeaveToBackground(hash, key, joined.get())) return conclude(Answer());
  Launch(hash, owned, joined->flight, conclude);
}

// The same, waited for.
StatusOr<Answer> Namespace::Rep::FetchWithLimit(uint64_t hash, std::string_view key,
                                                const GetOptions& get) {
  struct Wait {
    Mutex mutex;
    CondVar settled;
    std::optional<StatusOr<Answer>> answer ABSL_GUARDED_BY(mutex);
  };
  const auto wait = std::make_shared<Wait>();  // owners: this call and the callback
  GetOptions unlimited = get;
  unlimited.timeout_ms = 0;  // it is this thread that counts the time
  const uint64_t deadline_ns = NowNs() + static_cast<uint64_t>(get.timeout_ms) * 1'000'000;
  FetchAsync(hash, key, unlimited, [wait](StatusOr<Answer> answer) {
    MutexLock lock(&wait->mutex);
    if (!wait->answer) wait->answer = std::move(answer);
    wait->settled.SignalAll();
  });
  MutexLock lock(&wait->mutex);
  while (!wait->answer) {
    if (get.timeout_ms == 0) {
      wait->settled.Wait(&wait->mutex);
      continue;
    }
    const uint64_t now_ns = NowNs();
    if (now_ns >= deadline_ns) {
      wait->answer = DeadlineExceeded("kv: no answer within {} ms", get.timeout_ms);
      break;
    }
    wait->settled.WaitForMs(&wait->mutex,
                            static_cast<int64_t>((deadline_ns - now_ns) / 1'000'000) + 1);
  }
  return *std::move(wait->answer);
}

void Namespace::Rep::Keep(uint64_t hash, std::string_view key, const EntryView* entry,
                          int64_t loaded_s, bool to_disk) {
  NewRecord record{.key = key, .loaded_s = loaded_s, .absent = entry == nullptr};
  if (entry != nullptr) {
    record.value = entry->value;
    record.metadata = entry->metadata;
    record.expires_s = entry->expiration_s;
  }
  hot->Insert(hash, record);
  // What the disk tier cannot keep costs a fetch some day.
  if (to_disk && disk != nullptr) disk->Insert(record).IgnoreError();
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
  std::vector<StatusOr<Answer>> outcomes(missing.size(), Answer());
  for (const size_t i : missing) {
    CountMiss(hashes[i], keys[i]);
    Join(hashes[i], keys[i], get, nullptr, &joined.emplace_back());
    if (!joined.back().ours) continue;
    if (auto landed = LandFromDisk(hashes[i], keys[i], joined.back().flight, get)) {
      outcomes[joined.size() - 1] = *std::move(landed);
      continue;
    }
    asked.push_back(joined.size() - 1);
    questions.push_back(keys[i]);
  }
  if (!asked.empty()) {
    origin_reads.fetch_add(asked.size(), std::memory_order_relaxed);
    const uint64_t start_ns = NowNs();
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
          Land(hashes[i], keys[i], joined[asked[q]].flight.get(), std::move(result), start_ns);
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

Cancellation::Cancellation() : state_(std::make_shared<State>()) {}

void Cancellation::Cancel() {
  std::map<uint64_t, Callback<void()>> waiting;
  {
    MutexLock lock(&state_->mutex);
    state_->cancelled = true;
    waiting.swap(state_->waiting);
  }
  for (auto& [id, give_up] : waiting) give_up();
}

bool Cancellation::cancelled() const {
  MutexLock lock(&state_->mutex);
  return state_->cancelled;
}

}  // namespace edge::kv
