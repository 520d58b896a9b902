#include "srs/replicator.h"

#include <algorithm>
#include <set>
#include <utility>

#include "edge/base/check.h"
#include "edge/base/errors.h"
#include "srs/group_tail.h"
#include "srs/planted.h"

namespace edge::srs {
namespace {

constexpr int64_t kNsPerMs = 1'000'000;
constexpr size_t kWindowBytes = 8 << 20;          // sent to one follower and not acknowledged
constexpr size_t kHeldBytesMax = 32 << 20;        // payloads in memory; older are read back
constexpr int64_t kSilenceNs = 5'000 * kNsPerMs;  // then the connection is given up
constexpr int64_t kRetryMsMax = 2'000;
constexpr int kSwapTries = 3;

}  // namespace

Replicator::Replicator(Loop& loop, Network& network, ReplicatorOptions options)
    : loop_(loop), network_(network), options_(std::move(options)), clock_(*options_.clock) {
  if (options_.metrics != nullptr) {
    confirmed_metric_ = &options_.metrics->counter("edge_srs_confirmed_entries");
    sent_metric_ = &options_.metrics->counter("edge_srs_replicated_bytes");
  }
}

Replicator::~Replicator() {
  *alive_ = false;
  if (deadline_ != 0) loop_.CancelTimer(deadline_);
  if (beat_timer_ != 0) loop_.CancelTimer(beat_timer_);
  for (const auto& peer : peers_) {
    if (peer->retry_timer != 0) loop_.CancelTimer(peer->retry_timer);
  }
}

// --- Taking over ---

// A swap that timed out may have happened: then the register says so.
StatusOr<std::string> Replicator::SwapRegister(const EpochRecord& record, const std::string& etag) {
  Status failure;
  for (int i = 0; i < kSwapTries; ++i) {
    auto swapped = options_.epoch_register->Swap(record, etag);
    if (swapped.ok()) return swapped;
    failure = swapped.status();
    const auto now = options_.epoch_register->Read();
    if (!now.ok()) continue;
    if (*now && EncodeEpochRecord((*now)->record) == EncodeEpochRecord(record)) {
      return (*now)->etag;
    }
    if (failure.code() == StatusCode::kAborted) break;
  }
  return failure;
}

Status Replicator::Claim(uint64_t own_host) {
  std::optional<EpochRegister::Versioned> found;
  Status failure;
  for (int i = 0; i < kSwapTries; ++i) {
    auto read = options_.epoch_register->Read();
    failure = read.status();
    if (!read.ok()) continue;
    found = *std::move(read);
    break;
  }
  EDGE_RETURN_IF_ERROR(Annotate(failure, "the epoch register"));
  if (found) {
    old_ = found->record;
    etag_ = found->etag;
  }
  record_ = old_;
  record_.epoch = old_.epoch + 1;
  record_.is_active = false;
  record_.host = own_host;
  record_.host_name = options_.replication.host_name;
  if (old_.active_epoch == 0) {  // nobody has ever served: the set is ours to say
    record_.quorum = static_cast<uint32_t>(options_.replication.quorum);
    record_.followers.clear();
    for (const std::string& address : options_.replication.followers) {
      record_.followers.push_back({address, 0});
    }
  }
  EDGE_ASSIGN_OR_RETURN(etag_, SwapRegister(record_, etag_));
  epoch_ = record_.epoch;
  host_ = own_host;
  return OkStatus();
}

void Replicator::TakeOver(uint64_t own_host, std::vector<Journal::Placed> own,
                          Callback<void(StatusOr<Adoption>)> done) {
  EDGE_CHECK(phase_ == Phase::kIdle);
  own_ = std::move(own);
  on_adopted_ = std::move(done);
  phase_ = Phase::kSealing;
  const Status claimed = Claim(own_host);
  if (!claimed.ok()) return FailTakeover(claimed);
  std::map<std::string, Peer*> by_address;
  const auto peer_of = [&](const std::string& address) -> Peer& {
    Peer*& peer = by_address[address];
    if (peer == nullptr) {
      peers_.push_back(std::make_unique<Peer>());
      peer = peers_.back().get();
      peer->address = address;
    }
    return *peer;
  };
  for (const FollowerSlot& slot : record_.followers) {
    Peer& peer = peer_of(slot.address);
    peer.in_old = true;
    peer.old_id = slot.id;
  }
  for (const std::string& address : options_.replication.followers) {
    peer_of(address).in_new = true;
  }
  deadline_ = loop_.After(options_.replication.takeover_timeout_ms * kNsPerMs, [this] {
    deadline_ = 0;
    FailTakeover(Unavailable("{}", Troubles()));
  });
  Beat();
  for (const auto& peer : peers_) Connect(*peer);
}

std::string Replicator::Troubles() const {
  const size_t needed =
      phase_ == Phase::kConfirming ? record_.quorum : record_.followers.size() + 1 - record_.quorum;
  size_t good = 0;
  std::string why;
  for (const auto& peer : peers_) {
    const bool matters = phase_ == Phase::kConfirming ? peer->in_new : peer->in_old;
    if (!matters) continue;
    if (peer->welcomed && peer->trouble.ok()) {
      ++good;
    } else {
      why += Format("; {}: {}", {peer->address, peer->trouble.ok() ? std::string_view("no answer")
                                                                   : Message(peer->trouble)});
    }
  }
  return Format("group \"{}\", epoch {}: {} of {} followers {}, {} needed{}",
                {options_.replication.group, epoch_, good, peers_.size(),
                 phase_ == Phase::kConfirming ? "follow" : "are sealed", needed, why});
}

void Replicator::FailTakeover(const Status& status) {
  if (phase_ == Phase::kEnded) return;
  phase_ = Phase::kEnded;
  if (deadline_ != 0) loop_.CancelTimer(std::exchange(deadline_, 0));
  if (on_adopted_) {
    auto done = std::exchange(on_adopted_, nullptr);
    done(status);
  } else if (on_active_) {
    auto done = std::exchange(on_active_, nullptr);
    done(status);
  }
}

void Replicator::TryChoose() {
  if (phase_ != Phase::kSealing) return;
  size_t needed = record_.followers.size() + 1 - record_.quorum;
  if (Planted(Bug::kSealOneShort)) --needed;
  size_t sealed = 0;
  Peer* best = nullptr;
  for (const auto& peer : peers_) {
    const bool member = Planted(Bug::kSealedByNewSet) ? peer->in_new : peer->in_old;
    if (member && old_.active_epoch != 0 && peer->old_id == 0) {
      ++sealed;  // it was never counted, and cannot be any more: the register has gone on
      continue;
    }
    if (!peer->welcomed || !member) continue;
    // With another disk it has forgotten what it promised and held.
    if (old_.active_epoch != 0 && peer->old_id != peer->welcome.follower &&
        !Planted(Bug::kUnknownFollowerCounts)) {
      peer->trouble = FailedPrecondition("has lost its disk: it is follower {:016x}, not {:016x}",
                                         peer->welcome.follower, peer->old_id);
      continue;
    }
    ++sealed;
    const LogPlace& mine = peer->welcome.last;
    if (best == nullptr) {
      best = peer.get();
    } else if (Planted(Bug::kLongestLogChosen)) {
      if (mine.index > best->welcome.last.index) best = peer.get();
    } else if (!Planted(Bug::kFirstLogChosen) &&
               std::pair(mine.epoch, mine.index) >
                   std::pair(best->welcome.last.epoch, best->welcome.last.index)) {
      best = peer.get();
    }
  }
  if (sealed < needed || best == nullptr) return;
  if (old_.active_epoch == 0 && best->welcome.last.index != 0 && old_.epoch == 0) {
    return FailTakeover(FailedPrecondition(
        "{}: it holds {} entries of group \"{}\", and the store has no register of that group",
        best->address, best->welcome.last.index, options_.replication.group));
  }
  chosen_ = best;
  const WelcomeMessage& w = best->welcome;
  adoption_.epoch = epoch_;
  adoption_.is_first = old_.active_epoch == 0;
  // Our own journal can serve if nobody else has served since, and it has what is left.
  const LogPlace mine = own_.empty() ? LogPlace{} : own_.back().place;
  adoption_.keep_own =
      old_.active_epoch == 0 || (old_.active_host == host_ && mine.index >= w.base.index &&
                                 (own_.empty() || own_.front().place.index <= w.base.index + 1));
  if (Planted(Bug::kStaleCacheKept)) adoption_.keep_own = mine.index >= w.base.index;
  phase_ = Phase::kFetching;
  if (adoption_.keep_own &&
      std::pair(mine.epoch, mine.index) >= std::pair(w.last.epoch, w.last.index)) {
    fetched_ = mine;  // ours is the best log
    return FinishFetch();
  }
  if (mine.index == w.base.index && mine.chain != w.base.chain) adoption_.keep_own = false;
  if (mine.index >= w.last.index && !Planted(Bug::kConflictingLogKept)) {
    adoption_.keep_own = false;  // what it has there instead is of an older epoch
  }
  fetched_ = adoption_.keep_own ? mine : w.base;
  if (Planted(Bug::kTailDropped)) return FinishFetch();
  Fetch();
}

void Replicator::Fetch() {
  if (fetched_.index >= chosen_->welcome.last.index) return FinishFetch();
  chosen_->channel->Send(Encode(FetchMessage{epoch_, fetched_.index + 1}));
}

Status Replicator::OnEntries(Peer& peer, const EntriesMessage& m) {
  if (phase_ != Phase::kFetching || &peer != chosen_) return OkStatus();
  if (m.payloads.empty())
    return DataLoss("{}: entry {} is missing", peer.address, fetched_.index + 1);
  for (const ByteView payload : m.payloads) {
    Hash128 before;
    EDGE_ASSIGN_OR_RETURN(const LogPlace place, ReadPlace(payload, &before));
    if (place.index != fetched_.index + 1) {
      return DataLoss("{}: entry {} came after entry {}", peer.address, place.index,
                      fetched_.index);
    }
    if (before != fetched_.chain) {
      if (!adoption_.entries.empty() || !adoption_.keep_own) {
        return DataLoss("{}: entry {} does not follow the one before it", peer.address,
                        place.index);
      }
      // Our own journal went on with something that was never confirmed.
      if (Planted(Bug::kConflictingLogKept)) {
        return OkStatus();
      }
      adoption_.keep_own = false;
      fetched_ = chosen_->welcome.base;
      Fetch();
      return OkStatus();
    }
    EntryVisitor no_visit = [](const JournalEntry&) { return OkStatus(); };
    EDGE_RETURN_IF_ERROR(VisitEntries(payload, no_visit));
    adoption_.entries.emplace_back(payload.begin(), payload.end());
    fetched_ = place;
  }
  Fetch();
  return OkStatus();
}

void Replicator::FinishFetch() {
  if (options_.store != nullptr && old_.active_epoch != 0) {
    // A follower that is gone may have stored more than those that are left hold.
    StatusOr<std::vector<Bytes>> tail =
        FindTail(*options_.store, options_.replication.group, fetched_);
    if (!tail.ok()) return FailTakeover(tail.status());
    for (Bytes& payload : *tail) {
      Hash128 before;
      fetched_ = ReadPlace(payload, &before).value();  // FindTail has read it too
      adoption_.entries.push_back(std::move(payload));
    }
  }
  adoption_.last = fetched_;
  auto done = std::exchange(on_adopted_, nullptr);
  done(std::move(adoption_));
}

void Replicator::Activate(uint64_t host, std::vector<Journal::Placed> log, Handlers handlers,
                          Callback<void(Status)> done) {
  handlers_ = std::move(handlers);
  on_active_ = std::move(done);
  if (phase_ == Phase::kEnded) return FailTakeover(Aborted("the take-over has ended"));
  EDGE_CHECK(phase_ == Phase::kFetching && !log.empty());
  serving_as_ = host;
  record_.quorum = static_cast<uint32_t>(options_.replication.quorum);
  persisted_ = chosen_->welcome.base.index;
  const uint64_t first = log.front().place.index;
  base_ = {0, first - 1, {}};
  if (first > 1) {
    const StatusOr<Bytes> payload = handlers_.read(log.front().position);
    if (!payload.ok()) return FailTakeover(payload.status());
    Hash128 before;
    const StatusOr<LogPlace> place = ReadPlace(*payload, &before);
    if (!place.ok()) return FailTakeover(place.status());
    base_.chain = before;
  }
  for (const Journal::Placed& placed : log)
    log_.push_back({placed.place, placed.position, nullptr});
  first_own_ = last().index;
  payloads_from_ = last().index + 1;
  phase_ = Phase::kConfirming;
  for (const auto& peer : peers_) {
    if (peer->welcomed) StartSending(*peer);
  }
  if (Planted(Bug::kServeBeforeReconfirm)) {
    confirmed_ = first_own_;
    TryActivate();
  }
}

void Replicator::TryActivate() {
  if (phase_ != Phase::kConfirming || confirmed_ < first_own_) return;
  record_.is_active = true;
  record_.host = record_.active_host = serving_as_;
  record_.active_epoch = epoch_;
  std::map<std::string, uint64_t> ids;
  for (const FollowerSlot& slot : record_.followers) ids[slot.address] = slot.id;
  record_.followers.clear();
  for (const std::string& address : options_.replication.followers) {
    for (const auto& peer : peers_) {
      if (peer->address != address) continue;
      if (peer->welcomed) peer->id = peer->welcome.follower;
      if (peer->id == 0) peer->id = ids[address];
      record_.followers.push_back({address, peer->id});
    }
  }
  if (!Planted(Bug::kActivatedWithoutRegister)) {
    auto swapped = SwapRegister(record_, etag_);
    if (!swapped.ok()) {
      return FailTakeover(Annotate(swapped.status(), "the epoch register"));
    }
    etag_ = *std::move(swapped);
  }
  phase_ = Phase::kServing;
  if (deadline_ != 0) loop_.CancelTimer(std::exchange(deadline_, 0));
  // Those that are left of an older set are no business of ours any more.
  for (const auto& peer : peers_) {
    if (peer->in_new || peer->channel == nullptr) continue;
    closed_.push_back(std::move(peer->channel));
    peer->welcomed = false;
  }
  auto done = std::exchange(on_active_, nullptr);
  const std::weak_ptr<bool> alive = alive_;
  done(OkStatus());
  if (!alive.expired()) Confirm();
}

// --- Followers ---

void Replicator::Connect(Peer& peer) {
  if (phase_ == Phase::kEnded || peer.connecting || peer.channel != nullptr) return;
  if (phase_ == Phase::kServing && !peer.in_new) return;
  peer.connecting = true;
  network_.Connect(
      loop_, peer.address,
      [this, p = &peer, alive = alive_](StatusOr<std::unique_ptr<Connection>> connection) {
        if (!*alive) return;
        p->connecting = false;
        if (phase_ == Phase::kEnded) return;
        if (!connection.ok()) {
          p->trouble = connection.status();
          return RetryLater(*p);
        }
        p->heard_ns = loop_.clock().monotonic_ns();
        p->channel = std::make_unique<FrameChannel>(
            *std::move(connection),
            FrameChannel::Handlers{
                .on_message = [this, p](WireType type,
                                        ByteView body) { return OnMessage(*p, type, body); },
                .on_close = [this, p](const Status& status) { OnClosed(*p, status); }});
        p->channel->Send(Encode(HelloMessage{options_.replication.group, epoch_, host_}));
      });
}

void Replicator::RetryLater(Peer& peer) {
  if (phase_ == Phase::kEnded || peer.retry_timer != 0) return;
  peer.retry_timer = loop_.After(peer.retry_ms * kNsPerMs, [this, p = &peer] {
    p->retry_timer = 0;
    Connect(*p);
  });
  peer.retry_ms = std::min(peer.retry_ms * 2, kRetryMsMax);
}

void Replicator::OnClosed(Peer& peer, const Status& status) {
  if (!status.ok()) {
    peer.trouble = status;
  } else if (peer.trouble.ok()) {
    peer.trouble = Unavailable("the connection was closed");
  }
  if (peer.channel != nullptr) {
    closed_.push_back(std::move(peer.channel));  // it is on the stack
    loop_.Defer([this, alive = alive_] {
      if (*alive) closed_.clear();
    });
  }
  peer.welcomed = false;
  peer.unacked.clear();
  peer.sent_bytes = 0;
  if (!Planted(Bug::kAcksSurviveReconnect)) peer.matched = 0;
  peer.lease_until_ns = 0;
  if (phase_ == Phase::kFetching && &peer == chosen_ && on_adopted_) {
    // Choose again among those that are left.
    phase_ = Phase::kSealing;
    chosen_ = nullptr;
    adoption_ = {};
    loop_.Defer([this, alive = alive_] {
      if (*alive) TryChoose();
    });
  }
  RetryLater(peer);
}

Status Replicator::OnMessage(Peer& peer, WireType type, ByteView body) {
  if (phase_ == Phase::kEnded) return Unavailable("closed");
  peer.heard_ns = loop_.clock().monotonic_ns();
  switch (type) {
    case WireType::kWelcome: {
      WelcomeMessage m;
      EDGE_RETURN_IF_ERROR(Decode(body, &m));
      return OnWelcome(peer, m);
    }
    case WireType::kAck: {
      AckMessage m;
      EDGE_RETURN_IF_ERROR(Decode(body, &m));
      if (m.epoch == epoch_) OnAck(peer, m.index);
      return OkStatus();
    }
    case WireType::kBeatReply: {
      BeatReplyMessage m;
      EDGE_RETURN_IF_ERROR(Decode(body, &m));
      if (m.epoch != epoch_) return OkStatus();
      peer.beat_answered = std::max(peer.beat_answered, m.sequence);
      for (const auto& [sequence, sent_ns] : beats_) {
        if (sequence != m.sequence) continue;
        // From when we asked, by our clock, and less what the two clocks may differ by.
        const int64_t from =
            Planted(Bug::kLeaseFromReply) ? clock_.monotonic_ns() + m.lease_ms * kNsPerMs : sent_ns;
        peer.lease_until_ns =
            std::max(peer.lease_until_ns, from + m.lease_ms * kNsPerMs / 100 * 98);
      }
      SettleBarriers();
      return OkStatus();
    }
    case WireType::kEntries: {
      EntriesMessage m;
      EDGE_RETURN_IF_ERROR(Decode(body, &m));
      return OnEntries(peer, m);
    }
    case WireType::kReject: {
      RejectMessage m;
      EDGE_RETURN_IF_ERROR(Decode(body, &m));
      return OnReject(peer, m);
    }
    default:
      return InvalidArgument("unknown message {}", static_cast<int>(type));
  }
}

Status Replicator::OnWelcome(Peer& peer, const WelcomeMessage& m) {
  if (m.epoch != epoch_) return OkStatus();
  peer.welcome = m;
  peer.welcomed = true;
  peer.trouble = OkStatus();
  peer.retry_ms = 100;
  if (phase_ == Phase::kSealing) {
    TryChoose();
    return OkStatus();
  }
  if (phase_ == Phase::kConfirming || phase_ == Phase::kServing) StartSending(peer);
  return OkStatus();
}

Status Replicator::OnReject(Peer& peer, const RejectMessage& m) {
  if (m.reason == RejectReason::kFenced) {
    peer.trouble = Aborted("has promised epoch {}", m.promised);
    if (m.promised > epoch_ && !Planted(Bug::kFencedHostGoesOn)) {
      // After this call: the channel is on the stack.
      loop_.Defer([this, alive = alive_, promised = m.promised] {
        if (*alive) {
          Fence(Aborted("group \"{}\": epoch {} has ended, another host has begun epoch {}",
                        options_.replication.group, epoch_, promised));
        }
      });
    }
    return OkStatus();
  }
  // Anew from its welcome, after a while.
  return Unavailable("{}: {}", peer.address, m.text);
}

void Replicator::LearnId(Peer& peer) {
  for (FollowerSlot& slot : record_.followers) {
    if (slot.address == peer.address) slot.id = peer.welcome.follower;
  }
  auto swapped = SwapRegister(record_, etag_);
  if (swapped.ok()) {
    etag_ = *std::move(swapped);
    peer.id = peer.welcome.follower;
  } else {
    peer.trouble = swapped.status();
  }
}

void Replicator::StartSending(Peer& peer) {
  if (!peer.in_new) return;
  if (phase_ == Phase::kServing) {
    // What it says counts only under the id that a later take-over will look for.
    if (peer.id == 0) LearnId(peer);
    if (peer.id == 0) return;
    if (peer.id != peer.welcome.follower && !Planted(Bug::kUnknownFollowerCounts)) {
      peer.trouble = FailedPrecondition(
          "has lost its disk: it is follower {:016x}, not {:016x}; it counts again from the next "
          "epoch",
          peer.welcome.follower, peer.id);
      peer.welcomed = false;
      return;
    }
  } else {
    peer.id = peer.welcome.follower;
  }
  const WelcomeMessage& w = peer.welcome;
  const Item* there = At(w.last.index);
  if ((there != nullptr && there->place.chain == w.last.chain) ||
      (w.last.index == base_.index && w.last.chain == base_.chain)) {
    peer.next = w.last.index + 1;
    OnAck(peer, w.last.index);
  } else {
    // It holds something else, or less than we have: from where both must agree.
    peer.next = std::min(std::max(w.confirmed, w.base.index), last().index) + 1;
  }
  if (peer.next <= base_.index) {
    // We no longer have what it lacks; the store has it.
    peer.channel->Send(Encode(ResetMessage{epoch_, base_}));
    peer.next = base_.index + 1;
  }
  SendBeat(peer);
  Pump(peer);
}

StatusOr<std::shared_ptr<const Bytes>> Replicator::PayloadOf(Item& item) {
  if (item.payload != nullptr) return item.payload;
  EDGE_ASSIGN_OR_RETURN(Bytes payload, handlers_.read(item.position));
  return std::make_shared<const Bytes>(std::move(payload));
}

void Replicator::Pump(Peer& peer) {
  while (peer.channel != nullptr && peer.welcomed && peer.next <= last().index &&
         peer.sent_bytes < kWindowBytes) {
    Item* item = At(peer.next);
    if (item == nullptr) return;
    auto payload = PayloadOf(*item);
    if (!payload.ok()) {
      peer.trouble = payload.status();
      return;
    }
    peer.channel->Send(Encode(AppendMessage{epoch_, confirmed_, **payload}));
    if (sent_metric_ != nullptr) sent_metric_->Add((*payload)->size());
    peer.sent_bytes += (*payload)->size();
    peer.unacked.emplace_back(peer.next, (*payload)->size());
    ++peer.next;
  }
}

void Replicator::OnAck(Peer& peer, uint64_t index) {
  peer.matched = std::max(peer.matched, std::min(index, last().index));
  while (!peer.unacked.empty() && peer.unacked.front().first <= index) {
    peer.sent_bytes -= peer.unacked.front().second;
    peer.unacked.pop_front();
  }
  Confirm();
  Pump(peer);
}

// The n-th greatest value among the followers that count.
uint64_t Replicator::QuorumOf(Callback<uint64_t(const Peer&)> value) const {
  std::vector<uint64_t> values;
  for (const auto& peer : peers_) {
    if (peer->in_new && (peer->id != 0) && (peer->welcomed || peer->matched != 0)) {
      values.push_back(value(*peer));
    }
  }
  size_t needed = record_.quorum;
  if (Planted(Bug::kQuorumOneShort)) --needed;
  if (values.size() < needed) return 0;
  std::ranges::sort(values, std::greater<>());
  return values[needed - 1];
}

void Replicator::Confirm() {
  if (phase_ != Phase::kConfirming && phase_ != Phase::kServing) return;
  const uint64_t confirmed = QuorumOf([](const Peer& peer) { return peer.matched; });
  // Entries of older epochs count only with one of ours behind them.
  if (confirmed < first_own_ || confirmed <= confirmed_) return;
  if (confirmed_metric_ != nullptr) confirmed_metric_->Add(confirmed - confirmed_);
  confirmed_ = confirmed;
  if (phase_ == Phase::kConfirming) return TryActivate();
  handlers_.on_confirmed(confirmed_);
}

// --- Serving ---

void Replicator::OnBlock(const LogPlace& place, std::shared_ptr<const Bytes> payload) {
  if (phase_ != Phase::kServing) return;
  EDGE_CHECK(place.index == last().index + 1);
  held_bytes_ += payload->size();
  log_.push_back({place, {}, std::move(payload)});
  for (const auto& peer : peers_) {
    if (peer->welcomed && peer->in_new) Pump(*peer);
  }
}

void Replicator::OnPlaced(const LogPlace& place, JournalPosition position) {
  Item* item = At(place.index);
  if (item != nullptr) item->position = position;
  // Payloads that everybody has, or that are too many, go; they can be read back.
  while (payloads_from_ <= last().index) {
    Item* oldest = At(payloads_from_);
    if (oldest != nullptr) {
      if (oldest->position.file == 0) return;
      const bool wanted = std::ranges::any_of(peers_, [&](const auto& peer) {
        return peer->welcomed && peer->in_new && peer->next <= payloads_from_;
      });
      if (wanted && held_bytes_ <= kHeldBytesMax) return;
      if (oldest->payload != nullptr) held_bytes_ -= oldest->payload->size();
      oldest->payload = nullptr;
    }
    ++payloads_from_;
  }
}

void Replicator::SetPersisted(uint64_t index) {
  if (index <= persisted_) return;
  persisted_ = index;
  Forget();
}

void Replicator::Forget() {
  // A follower that is behind is still sent what it lacks, as long as it answers.
  uint64_t keep = persisted_;
  for (const auto& peer : peers_) {
    if (peer->in_new && peer->welcomed) keep = std::min(keep, peer->matched);
  }
  while (base_.index < keep && log_.size() > 1) {
    if (log_.front().position.file == 0) return;
    if (log_.front().payload != nullptr) held_bytes_ -= log_.front().payload->size();
    base_ = log_.front().place;
    log_.pop_front();
  }
}

void Replicator::SendBeat(Peer& peer) {
  peer.channel->Send(Encode(
      BeatMessage{epoch_, beat_sequence_, confirmed_, persisted_, options_.replication.lease_ms}));
}

void Replicator::Beat() {
  if (beat_timer_ != 0) loop_.CancelTimer(beat_timer_);
  beat_timer_ = loop_.After(options_.replication.beat_interval_ms * kNsPerMs, [this] {
    beat_timer_ = 0;
    Beat();
  });
  if (phase_ == Phase::kEnded) return;
  beats_.emplace_back(++beat_sequence_, clock_.monotonic_ns());
  if (beats_.size() > 64) beats_.pop_front();
  const int64_t now = loop_.clock().monotonic_ns();
  for (const auto& peer : peers_) {
    if (peer->channel == nullptr) continue;
    if (phase_ == Phase::kServing && now - peer->heard_ns > kSilenceNs) {
      OnClosed(*peer, Unavailable("silent for {} ms", kSilenceNs / kNsPerMs));
      continue;
    }
    if (peer->welcomed && peer->in_new &&
        (phase_ == Phase::kServing || phase_ == Phase::kConfirming)) {
      SendBeat(*peer);
    }
  }
  Forget();
}

bool Replicator::HasLease() const {
  if (phase_ != Phase::kServing) return false;
  const uint64_t until =
      QuorumOf([](const Peer& peer) { return static_cast<uint64_t>(peer.lease_until_ns); });
  return static_cast<int64_t>(until) > clock_.monotonic_ns();
}

void Replicator::OnReadable(ReadMode mode, Callback<void(Status)> done) {
  if (phase_ != Phase::kServing) return done(Aborted("this host does not own the group"));
  if (mode == ReadMode::kLocal || (mode == ReadMode::kLease && HasLease())) return done(OkStatus());
  if (mode == ReadMode::kLease && options_.replication.lease_ms == 0) {
    return done(FailedPrecondition("ReplicationOptions::lease_ms is 0: there are no leases"));
  }
  if (mode == ReadMode::kLease) {
    return done(Unavailable("no lease: fewer than {} followers answer", record_.quorum));
  }
  // One round for all that ask in this turn of the loop.
  const bool is_first = barriers_.empty() || barriers_.back().sequence <= beat_sequence_;
  const uint64_t sequence = Planted(Bug::kBarrierOfOldBeat) ? beat_sequence_ : beat_sequence_ + 1;
  barriers_.push_back({sequence, std::move(done)});
  if (is_first) {
    loop_.Defer([this, alive = alive_] {
      if (*alive) Beat();
    });
  }
}

void Replicator::SettleBarriers() {
  if (barriers_.empty()) return;
  uint64_t answered = QuorumOf([](const Peer& peer) { return peer.beat_answered; });
  if (Planted(Bug::kBarrierOneShort)) {
    for (const auto& peer : peers_) answered = std::max(answered, peer->beat_answered);
  }
  std::vector<Barrier> ready;
  std::erase_if(barriers_, [&](Barrier& barrier) {
    if (barrier.sequence > answered) return false;
    ready.push_back(std::move(barrier));
    return true;
  });
  for (Barrier& barrier : ready) barrier.done(OkStatus());
}

void Replicator::Fence(const Status& why) {
  if (phase_ == Phase::kEnded) return;
  const bool was_serving = phase_ == Phase::kServing;
  if (!was_serving) return FailTakeover(why);
  phase_ = Phase::kEnded;
  for (Barrier& barrier : std::exchange(barriers_, {})) barrier.done(why);
  for (const auto& peer : peers_) {
    if (peer->channel != nullptr) closed_.push_back(std::move(peer->channel));
  }
  if (handlers_.on_fenced) handlers_.on_fenced(why);
}

}  // namespace edge::srs
