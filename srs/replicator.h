// srs/replicator.h - a host's side of replication: it takes its group over, then sends every
// block of its journal to the followers and says what they have confirmed.
//
// Safe because (I1) the register gives each epoch to one host; (I2) a follower takes an
// entry only from the host of the epoch that it promised and only behind the entry that the
// host has there too, so logs with one entry in common agree on all before; (I3) a host
// counts nothing as confirmed before n followers hold its own first entry, which stands
// behind everything that it took over; (I4) before that m - n + 1 followers of the set that
// counted promised to obey nobody older, so at least one of them has every confirmed entry,
// and of their logs the one that ends in the newest epoch, and of those the longest, has them
// all. This is Raft's argument (Ongaro and Ousterhout 2014, section 5.4) with the register in
// place of votes. docs/formats/replication.md has the messages.
#pragma once
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "edge/base/callback.h"
#include "edge/base/clock.h"
#include "edge/base/executor.h"
#include "edge/base/metrics.h"
#include "edge/base/network.h"
#include "edge/base/status.h"
#include "edge/srs/replication.h"
#include "srs/journal.h"
#include "srs/wire.h"

namespace edge::srs {

struct ReplicatorOptions {
  ReplicationOptions replication;
  std::shared_ptr<EpochRegister> epoch_register;
  std::shared_ptr<ObjectStore> store;  // for tails
  Clock* clock;                        // of leases
  MetricsRegistry* metrics;            // may be null
};

// What a host finds when it has sealed the followers.
struct Adoption {
  uint64_t epoch = 0;
  bool is_first = false;       // nobody has served the group before
  bool keep_own = false;       // its own journal is a part of the log; else it starts anew
  std::vector<Bytes> entries;  // to append, in order
  LogPlace last;               // the end of the log then
};

// Single-threaded: the loop's. Callbacks come from it.
class Replicator {
 public:
  struct Handlers {
    Callback<void(uint64_t index)> on_confirmed;  // everything up to there
    Callback<void(const Status&)> on_fenced;      // once; Aborted: nothing is confirmed any more
    Callback<StatusOr<Bytes>(JournalPosition)> read;  // a payload of the journal
  };
  Replicator(Loop& loop, Network& network, ReplicatorOptions options);
  ~Replicator();

  // Takes the next epoch and seals. `own`: the places in this host's journal. Unavailable:
  // too few followers answered (says how many and why); Aborted: another host was faster.
  void TakeOver(uint64_t own_host, std::vector<Journal::Placed> own,
                Callback<void(StatusOr<Adoption>)> done);
  // The journal now holds `log`, which ends with an entry of this epoch. Sends it; done when a
  // quorum has all of it and the register says that `host` is active.
  void Activate(uint64_t host, std::vector<Journal::Placed> log, Handlers handlers,
                Callback<void(Status)> done);
  // A block that is being written.
  void OnBlock(const LogPlace& place, std::shared_ptr<const Bytes> payload);
  void OnPlaced(const LogPlace& place, JournalPosition position);
  // Entries up to `index` are in the store.
  void SetPersisted(uint64_t index);

  uint64_t epoch() const { return epoch_; }
  bool HasLease() const;
  void OnReadable(ReadMode mode, Callback<void(Status)> done);

 private:
  enum class Phase : uint8_t { kIdle, kSealing, kFetching, kConfirming, kServing, kEnded };
  struct Item {
    LogPlace place;
    JournalPosition position;              // {0, 0}: not written yet
    std::shared_ptr<const Bytes> payload;  // null: read it from the journal
  };
  struct Peer {
    std::string address;
    bool in_old = false;  // counts for sealing
    bool in_new = false;  // counts for confirming
    uint64_t old_id = 0;  // as the register had it
    uint64_t id = 0;      // that counts; 0: the first that answers
    std::unique_ptr<FrameChannel> channel;
    bool connecting = false;
    bool welcomed = false;
    WelcomeMessage welcome;
    Status trouble;
    uint64_t next = 0;  // index to send
    uint64_t sent_bytes = 0;
    std::deque<std::pair<uint64_t, size_t>> unacked;  // index, bytes
    uint64_t matched = 0;
    uint64_t beat_answered = 0;
    int64_t lease_until_ns = 0;
    int64_t heard_ns = 0;
    int64_t retry_ms = 100;
    Loop::TimerId retry_timer = 0;
  };
  struct Barrier {
    uint64_t sequence;
    Callback<void(Status)> done;
  };

  Status Claim(uint64_t own_host);
  StatusOr<std::string> SwapRegister(const EpochRecord& record, const std::string& etag);
  void Connect(Peer& peer);
  void RetryLater(Peer& peer);
  void OnClosed(Peer& peer, const Status& status);
  Status OnMessage(Peer& peer, WireType type, ByteView body);
  Status OnWelcome(Peer& peer, const WelcomeMessage& m);
  Status OnEntries(Peer& peer, const EntriesMessage& m);
  Status OnReject(Peer& peer, const RejectMessage& m);
  void OnAck(Peer& peer, uint64_t index);
  void TryChoose();
  void Fetch();
  void FinishFetch();
  void StartSending(Peer& peer);
  void Pump(Peer& peer);
  StatusOr<std::shared_ptr<const Bytes>> PayloadOf(Item& item);
  void Confirm();
  void TryActivate();
  bool Counts(const Peer& peer) const { return peer.in_new && peer.welcomed && peer.id != 0; }
  uint64_t QuorumOf(Callback<uint64_t(const Peer&)> value) const;
  void LearnId(Peer& peer);
  void Beat();
  void SendBeat(Peer& peer);
  void SettleBarriers();
  void Forget();
  void FailTakeover(const Status& status);
  void Fence(const Status& why);
  std::string Troubles() const;
  const LogPlace& last() const { return log_.empty() ? base_ : log_.back().place; }
  Item* At(uint64_t index) {
    if (index <= base_.index || index - base_.index > log_.size()) return nullptr;
    return &log_[index - base_.index - 1];
  }

  Loop& loop_;
  Network& network_;
  const ReplicatorOptions options_;
  Clock& clock_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);  // owners: this, its callbacks
  Phase phase_ = Phase::kIdle;
  EpochRecord record_;  // what we last wrote
  EpochRecord old_;     // what we found
  std::string etag_;
  uint64_t epoch_ = 0;
  uint64_t host_ = 0;        // who claimed the epoch: followers know us by it
  uint64_t serving_as_ = 0;  // the journal that goes on, which may be a new one
  std::vector<std::unique_ptr<Peer>> peers_;
  std::vector<std::unique_ptr<FrameChannel>> closed_;  // until the end of the turn
  Loop::TimerId deadline_ = 0;
  Loop::TimerId beat_timer_ = 0;

  // Taking over.
  std::vector<Journal::Placed> own_;
  Callback<void(StatusOr<Adoption>)> on_adopted_;
  Callback<void(Status)> on_active_;
  Peer* chosen_ = nullptr;
  Adoption adoption_;
  LogPlace fetched_;

  // The log: base_.index + 1, + 2 ...
  LogPlace base_;
  std::deque<Item> log_;
  size_t held_bytes_ = 0;       // of payloads in memory
  uint64_t payloads_from_ = 0;  // entries below have none
  uint64_t first_own_ = 0;      // of our epoch
  uint64_t confirmed_ = 0;
  uint64_t persisted_ = 0;
  uint64_t beat_sequence_ = 0;
  std::deque<std::pair<uint64_t, int64_t>> beats_;  // sequence, when it was sent
  std::vector<Barrier> barriers_;
  Handlers handlers_;
  Counter* confirmed_metric_ = nullptr;
  Counter* sent_metric_ = nullptr;
};

}  // namespace edge::srs
