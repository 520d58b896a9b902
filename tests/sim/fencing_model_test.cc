// Every reachable state of the fencing protocol in a small world: two hosts, three followers,
// a quorum of two, and messages that are lost, delayed and answered in any order, because a
// step of the model is one message received and answered. Breadth first, so that a
// violation comes with the shortest way to it. Five broken variants must be caught.
#include <algorithm>
#include <array>
#include <bit>
#include <catch2/catch.hpp>
#include <cstdint>
#include <deque>
#include <string>
#include <unordered_set>
#include <vector>

#include "edge/base/bytes.h"
#include "edge/base/checksum.h"

namespace edge::srs {
namespace {

constexpr int kHosts = 2;
constexpr int kFollowers = 3;
constexpr int kQuorum = 2;
constexpr int kEpochsMax = 3;
constexpr int kEntriesMax = 3;

enum class Variant {
  kRight,
  kOldEpochAccepted,  // a follower takes entries of an epoch below its promise
  kOneSeal,           // a host goes on after one answer
  kLongestLog,        // ... takes the longest log, not the one of the newest epoch
  kNotReconfirmed,    // ... serves what it took over before a quorum has it
  kPromiseForgotten,  // a follower's promise does not survive its restart
};

// An entry is its epoch: entries of one epoch and index are the same in all logs.
struct Log {
  std::array<uint8_t, kEntriesMax> epochs{};
  uint8_t size = 0;
  uint8_t last_epoch() const { return size == 0 ? 0 : epochs[size - 1]; }
  bool operator==(const Log&) const = default;
};

enum class Phase : uint8_t { kIdle, kSealing, kConfirming, kServing };

struct Host {
  uint8_t epoch = 0;
  Phase phase = Phase::kIdle;
  uint8_t sealed = 0;  // bits of followers
  Log best;
  Log log;
  std::array<uint8_t, kFollowers> matched{};
  uint8_t own_from = 0;  // its first own entry is the one after so many
};

struct World {
  uint8_t register_epoch = 0;  // the last that was claimed
  std::array<Host, kHosts> hosts;
  std::array<uint8_t, kFollowers> promised{};
  std::array<Log, kFollowers> logs;
  Log confirmed;  // by anyone, ever
  uint8_t restarts_left = 1;

  // Hosts that can change nothing any more are all alike.
  void Simplify() {
    for (Host& h : hosts) {
      const auto open = std::ranges::count_if(promised, [&](uint8_t p) { return p <= h.epoch; });
      if (open == 0) h = Host{};
      if (h.phase == Phase::kConfirming && h.epoch != register_epoch) h.matched = {};
    }
    if (hosts[0].epoch < hosts[1].epoch) std::swap(hosts[0], hosts[1]);
  }
  // The same for worlds that differ in the names of followers only.
  Hash128 Key() const {
    std::array<std::string, kFollowers> per_follower;
    for (size_t f = 0; f < kFollowers; ++f) {
      std::string& key = per_follower[f];
      key.push_back(static_cast<char>(promised[f]));
      Put(logs[f], &key);
      for (const Host& h : hosts) {
        key.push_back(static_cast<char>(h.sealed >> f & 1));
        key.push_back(static_cast<char>(h.matched[f]));
      }
    }
    std::ranges::sort(per_follower);
    std::string key = per_follower[0] + per_follower[1] + per_follower[2];
    key.push_back(static_cast<char>(register_epoch));
    key.push_back(static_cast<char>(restarts_left));
    for (const Host& h : hosts) {
      key.push_back(static_cast<char>(h.epoch));
      key.push_back(static_cast<char>(h.phase));
      key.push_back(static_cast<char>(h.own_from));
      Put(h.best, &key);
      Put(h.log, &key);
    }
    Put(confirmed, &key);
    return HashBytes128(AsBytes(key));
  }
  static void Put(const Log& log, std::string* key) {
    key->push_back(static_cast<char>(log.size));
    for (const uint8_t e : log.epochs) key->push_back(static_cast<char>(e));
  }
};

bool Append(Log* log, uint8_t epoch) {
  if (log->size == kEntriesMax) return false;
  log->epochs[log->size++] = epoch;
  return true;
}

struct Explorer {
  Variant variant;
  struct HashOfHash {
    size_t operator()(const Hash128& h) const { return h.low; }
  };
  std::unordered_set<Hash128, HashOfHash> seen;
  std::deque<World> todo;
  std::string violation;
  size_t states = 0;

  void Visit(World w) {
    w.Simplify();
    if (seen.insert(w.Key()).second) todo.push_back(w);
  }

  // The host counts up to `size` as confirmed: it must agree with all that ever was.
  void Confirm(World* w, const Log& log, uint8_t size) {
    for (uint8_t i = 0; i < size; ++i) {
      if (i < w->confirmed.size) {
        if (w->confirmed.epochs[i] != log.epochs[i]) {
          violation = "two entries are confirmed at index " + std::to_string(i + 1);
        }
      } else {
        Append(&w->confirmed, log.epochs[i]);
      }
    }
  }

  // A host serves: everything confirmed must be in its log.
  void CheckServes(const World& w, const Host& h) {
    for (uint8_t i = 0; i < w.confirmed.size; ++i) {
      if (i >= h.log.size || h.log.epochs[i] != w.confirmed.epochs[i]) {
        violation = "a host serves without confirmed entry " + std::to_string(i + 1);
      }
    }
  }

  void CountConfirmed(World* w, Host* h) {
    std::array<uint8_t, kFollowers> sorted = h->matched;
    std::ranges::sort(sorted, std::greater<>());
    const uint8_t size = sorted[kQuorum - 1];
    if (size <= h->own_from) return;  // nothing of its own yet
    if (h->phase == Phase::kConfirming) {
      if (w->register_epoch != h->epoch) {  // the swap to active fails
        h->phase = Phase::kIdle;
        return;
      }
      h->phase = Phase::kServing;
      CheckServes(*w, *h);
    }
    Confirm(w, h->log, size);
  }

  void Step(const World& w) {
    for (size_t i = 0; i < kHosts; ++i) {
      const Host& h = w.hosts[i];
      // Claim the next epoch; a crash and a restart of the host are in it.
      if (w.register_epoch < kEpochsMax) {
        World next = w;
        next.hosts[i] = Host{};
        next.hosts[i].epoch = ++next.register_epoch;
        next.hosts[i].phase = Phase::kSealing;
        Visit(next);
      }
      for (size_t f = 0; f < kFollowers; ++f) {
        if (h.phase == Phase::kSealing && (h.sealed >> f & 1) == 0 && w.promised[f] < h.epoch) {
          World next = w;
          Host& host = next.hosts[i];
          next.promised[f] = h.epoch;
          host.sealed |= static_cast<uint8_t>(1 << f);
          const Log& log = w.logs[f];
          const bool better = variant == Variant::kLongestLog
                                  ? log.size > host.best.size
                                  : std::pair(log.last_epoch(), log.size) >
                                        std::pair(host.best.last_epoch(), host.best.size);
          if (better) host.best = log;
          const int needed = variant == Variant::kOneSeal ? 1 : kFollowers + 1 - kQuorum;
          if (std::popcount(host.sealed) >= needed) {
            host.log = host.best;
            host.own_from = host.log.size;
            if (Append(&host.log, host.epoch)) {
              host.phase = Phase::kConfirming;
              if (variant == Variant::kNotReconfirmed) {
                host.phase = Phase::kServing;
                Confirm(&next, host.log, host.own_from);
                CheckServes(next, host);
              }
            } else {
              host.phase = Phase::kIdle;  // the model's logs are full
            }
          }
          Visit(next);
        }
        // The host sends its log, or a part; the follower takes it and its answer arrives.
        if (h.phase == Phase::kConfirming || h.phase == Phase::kServing) {
          const bool obeys = w.promised[f] <= h.epoch || variant == Variant::kOldEpochAccepted;
          for (uint8_t size = static_cast<uint8_t>(h.matched[f] + 1); obeys && size <= h.log.size;
               ++size) {
            World next = w;
            Host& host = next.hosts[i];
            next.promised[f] = std::max(w.promised[f], h.epoch);
            // What agrees stays, also behind; the first that differs goes with all behind it.
            Log& log = next.logs[f];
            for (uint8_t at = 0; at < size; ++at) {
              if (at < log.size && log.epochs[at] == h.log.epochs[at]) continue;
              log.size = at;
              std::fill(log.epochs.begin() + at, log.epochs.end(), uint8_t{0});
              Append(&log, h.log.epochs[at]);
            }
            World lost = next;  // the answer is lost
            Visit(lost);
            host.matched[f] = size;
            CountConfirmed(&next, &host);
            Visit(next);
          }
        }
      }
      if (h.phase == Phase::kServing && h.log.size < kEntriesMax) {
        World next = w;
        Append(&next.hosts[i].log, h.epoch);
        Visit(next);
      }
    }
    if (variant == Variant::kPromiseForgotten && w.restarts_left > 0) {
      for (size_t f = 0; f < kFollowers; ++f) {
        World next = w;
        --next.restarts_left;
        next.promised[f] = w.logs[f].last_epoch();
        Visit(next);
      }
    }
  }

  void Run() {
    Visit(World{});
    while (!todo.empty() && violation.empty()) {
      const World w = todo.front();
      todo.pop_front();
      ++states;
      Step(w);
    }
  }
};

TEST_CASE("no order of messages confirms two entries or loses one", "[sim][srs][model]") {
  Explorer explorer{Variant::kRight, {}, {}, {}};
  explorer.Run();
  INFO(explorer.states);
  CHECK(explorer.violation == "");
  CHECK(explorer.states > 10'000);
}

TEST_CASE("five broken variants of the protocol are caught", "[sim][srs][model]") {
  const Variant variant =
      GENERATE(Variant::kOldEpochAccepted, Variant::kOneSeal, Variant::kLongestLog,
               Variant::kNotReconfirmed, Variant::kPromiseForgotten);
  CAPTURE(static_cast<int>(variant));
  Explorer explorer{variant, {}, {}, {}};
  explorer.Run();
  CHECK(explorer.violation != "");
}

}  // namespace
}  // namespace edge::srs
