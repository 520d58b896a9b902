// Writing: one at a time for each key, through to the origin, then into the tiers.
#include "edge/base/errors.h"
#include "edge/base/executor.h"
#include "kv/store.h"

namespace edge::kv {
namespace {

constexpr uint64_t kWritesPerSweep = 256;
constexpr size_t kSweepCountMax = 64;

EntryView ViewOf(const Entry& entry) {
  return {entry.value, entry.metadata, entry.expiration_s, entry.version};
}

}  // namespace

bool Namespace::Rep::TakeTurn(uint64_t hash, std::string_view key, Callback<void()> go_on) {
  Stripe& stripe = StripeOf(hash);
  MutexLock lock(&stripe.mutex);
  const auto it = stripe.writing.find(key);
  if (it == stripe.writing.end()) {
    stripe.writing.emplace(key, Turn());
    return true;
  }
  it->second.next.push_back(std::move(go_on));
  return false;
}

// The version for this attempt; remembered before the origin can tell of it.
Version Namespace::Rep::Stamp(uint64_t hash, Version version) {
  if (version == 0) {
    version = versions.Next(WallMs());
  } else {
    versions.Observe(version);
  }
  Stripe& stripe = StripeOf(hash);
  MutexLock lock(&stripe.mutex);
  stripe.own[hash % kSeenMax] = {hash, version};
  return version;
}

void Namespace::Rep::FinishWrite(uint64_t hash, std::string_view key, const EntryView* entry,
                                 Version version, const StatusOr<Version>& result) {
  Stripe& stripe = StripeOf(hash);
  Callback<void()> next;
  const int64_t now_s = NowSeconds();
  {
    MutexLock lock(&stripe.mutex);
    const auto turn = stripe.writing.find(key);
    // A greater version: another write came after this one.
    const bool is_last = result.ok() && *result <= version && turn->second.seen <= version;
    if (is_last) {
      Keep(hash, key, entry, now_s, /*to_disk=*/true);
    } else {
      hot->Erase(hash, key);  // either entry may be in the origin now
      if (Seen& own = stripe.own[hash % kSeenMax]; own.hash == hash) own = {};
    }
    if (const auto it = stripe.flights.find(key); it != stripe.flights.end()) {
      it->second->detached = true;
      stripe.flights.erase(it);
    }
    if (turn->second.next.empty()) {
      stripe.writing.erase(turn);
    } else {
      next = std::move(turn->second.next.front());
      turn->second.next.pop_front();
      turn->second.seen = 0;
    }
  }
  if (next) next();
  watchers.Notify(key, result.ok() ? std::max(*result, version) : version);
  if (origin_writes.fetch_add(1, std::memory_order_relaxed) % kWritesPerSweep ==
      kWritesPerSweep - 1) {
    // Only frees space. A failure is not this write's, and the next sweep tries again.
    Guarded([&] { return origin->RemoveExpired(now_s, kSweepCountMax).status(); }).IgnoreError();
  }
}

StatusOr<Version> Namespace::Rep::Write(std::string_view key, const EntryView* entry,
                                        Version version) {
  const uint64_t hash = HashKey(key);
  {
    struct Wait {
      Mutex mutex;
      CondVar changed;
      bool ready ABSL_GUARDED_BY(mutex) = false;
    } wait;
    const bool ready = TakeTurn(hash, key, [&wait] {
      MutexLock lock(&wait.mutex);
      wait.ready = true;
      wait.changed.SignalAll();
    });
    MutexLock lock(&wait.mutex);
    while (!ready && !wait.ready) wait.changed.Wait(&wait.mutex);
  }
  // Twice at most: the second stamp is above all that had been written when this began, so
  // who is still above it wrote meanwhile, and this write was just before.
  Version stamp = 0;
  StatusOr<Version> result = Version{0};
  for (int attempt = 0; attempt < 2; ++attempt) {
    stamp = Stamp(hash, version);
    if (disk != nullptr) {
      // What a crash must not bring back once the origin has the new entry.
      if (Status status = disk->Void(key); !status.ok()) {
        result = Annotate(status, "kv: disk tier");
        break;
      }
    }
    EntryView stamped = entry != nullptr ? *entry : EntryView();
    stamped.version = stamp;
    result = Guarded(
        [&] { return entry != nullptr ? origin->Put(key, stamped) : origin->Delete(key, stamp); });
    if (!result.ok()) break;
    versions.Observe(*result);
    if (*result <= stamp || version != 0) break;
  }
  FinishWrite(hash, key, entry, stamp, result);
  return result;
}

struct Namespace::Rep::Attempt {
  uint64_t hash = 0;
  std::string key;
  std::optional<Entry> entry;
  Version version = 0;
  Version stamp = 0;
  int count = 0;
  Origin::WriteDone done;
};

void Namespace::Rep::WriteAsync(std::string key, std::optional<Entry> entry, Version version,
                                Origin::WriteDone done) {
  auto attempt = std::make_shared<Attempt>();  // owners: whoever carries it on
  attempt->hash = HashKey(key);
  attempt->key = std::move(key);
  attempt->entry = std::move(entry);
  attempt->version = version;
  attempt->done = std::move(done);
  const auto self = shared_from_this();
  if (TakeTurn(attempt->hash, attempt->key, [self, attempt] { self->StartAttempt(attempt); })) {
    StartAttempt(std::move(attempt));
  }
}

// The steps of Write, each started by the end of the one before.
void Namespace::Rep::StartAttempt(std::shared_ptr<Attempt> attempt) {
  const auto self = shared_from_this();
  Attempt& at = *attempt;
  at.stamp = Stamp(at.hash, at.version);
  auto finish = [self, attempt](StatusOr<Version> result) {
    Attempt& ended = *attempt;
    if (result.ok()) {
      self->versions.Observe(*result);
      if (*result > ended.stamp && ended.version == 0 && ++ended.count < 2) {
        return self->StartAttempt(attempt);
      }
    }
    std::optional<EntryView> view;
    if (ended.entry) view = ViewOf(*ended.entry);
    self->FinishWrite(ended.hash, ended.key, view ? &*view : nullptr, ended.stamp, result);
    ended.done(std::move(result));
    ended.done = nullptr;
  };
  if (disk != nullptr) {
    if (Status status = disk->Void(at.key); !status.ok()) {
      return finish(Annotate(status, "kv: disk tier"));
    }
  }
  if (at.entry) at.entry->version = at.stamp;
  if (origin->is_async()) {
    if (at.entry) {
      origin->StartPut(at.key, *at.entry, finish);
    } else {
      origin->StartDelete(at.key, at.stamp, finish);
    }
    return;
  }
  const auto ask = [self, attempt, finish] {
    finish(Guarded([&] {
      return attempt->entry ? self->origin->Put(attempt->key, ViewOf(*attempt->entry))
                            : self->origin->Delete(attempt->key, attempt->stamp);
    }));
  };
  if (options.loop == nullptr || !options.loop->Post(ask).ok()) ask();
}

void Namespace::Rep::OnChanged(std::string_view key, Version version) {
  versions.Observe(version);
  changes.fetch_add(1, std::memory_order_relaxed);
  if (key.empty()) {
    missed_until_s.store(NowSeconds(), std::memory_order_relaxed);
    ages.store(true, std::memory_order_relaxed);
    for (Stripe& stripe : stripes) {
      MutexLock lock(&stripe.mutex);
      for (auto& [name, flight] : stripe.flights) flight->detached = true;
      stripe.flights.clear();
    }
    return watchers.Notify(key, version);
  }
  const uint64_t hash = HashKey(key);
  Stripe& stripe = StripeOf(hash);
  {
    MutexLock lock(&stripe.mutex);
    if (const Seen& own = stripe.own[hash % kSeenMax];
        own.hash == hash && version != 0 && version <= own.version) {
      return;  // the echo of a write through here, or one that it has overtaken
    }
    if (const auto turn = stripe.writing.find(key); turn != stripe.writing.end()) {
      turn->second.seen = std::max(turn->second.seen, version);
    }
    hot->Erase(hash, key);
    if (disk != nullptr) disk->Forget(key).IgnoreError();
    if (const auto it = stripe.flights.find(key); it != stripe.flights.end()) {
      it->second->detached = true;
      stripe.flights.erase(it);
    }
  }
  watchers.Notify(key, version);
}

}  // namespace edge::kv
