#include "edge/srs/follower.h"

#include <algorithm>
#include <deque>
#include <map>
#include <thread>
#include <utility>

#include "edge/base/check.h"
#include "edge/base/errors.h"
#include "srs/block_log.h"
#include "srs/group_tail.h"
#include "srs/link.h"
#include "srs/planted.h"
#include "srs/wire.h"

namespace edge::srs {
namespace {

// What a block of a follower's journal is made of: docs/formats/replication.md.
enum class NoteKind : uint8_t { kAccept = 1, kPromise = 2, kBase = 3 };

constexpr int64_t kNsPerMs = 1'000'000;
constexpr size_t kUploadBytes = 16 << 20;

struct Held {
  LogPlace place;
  JournalPosition position;  // of the block; {0, 0}: not written yet
};

struct Group {
  std::string name;
  uint64_t promised = 0;
  uint64_t promised_host = 0;
  LogPlace base;
  std::deque<Held> held;  // base.index + 1, + 2 ...
  uint64_t confirmed = 0;
  uint64_t lease_epoch = 0;
  int64_t lease_until_ns = 0;
  int64_t lease_ms = 0;        // the longest that was ever granted; noted before it is
  int64_t quiet_since_ns = 0;  // since when nobody said that more is stored
  uint64_t uploaded = 0;
  bool is_uploading = false;
  bool is_floating = false;  // during recovery: entries came whose base has not been seen

  const LogPlace& last() const { return held.empty() ? base : held.back().place; }
  // Null above the last and below the base.
  const LogPlace* At(uint64_t index) const {
    if (index == base.index) return &base;
    if (index < base.index || index - base.index > held.size()) return nullptr;
    return &held[index - base.index - 1].place;
  }
  void TruncateFrom(uint64_t index) { held.resize(index - base.index - 1); }
  void TrimTo(uint64_t index) {
    if (index <= base.index) return;
    const size_t count = std::min<uint64_t>(index - base.index, held.size());
    if (count == 0) return;
    base = held[count - 1].place;
    held.erase(held.begin(), held.begin() + static_cast<ptrdiff_t>(count));
  }
};

struct Session {
  uint64_t id = 0;
  std::unique_ptr<FrameChannel> channel;
  Group* group = nullptr;
  uint64_t epoch = 0;
  uint64_t matched = 0;  // our log is the host's up to here
  bool ack_due = false;
  Loop::TimerId welcome_timer = 0;
};

void PutPlace(BlockBuffer* out, const LogPlace& place) {
  out->Fixed(place.epoch);
  out->Fixed(place.index);
  out->Fixed(place.chain.low);
  out->Fixed(place.chain.high);
}

class FollowerImpl final : public Follower {
 public:
  FollowerImpl(Loop& loop, FollowerOptions options)
      : loop_(loop),
        options_(std::move(options)),
        files_(options_.files != nullptr ? *options_.files : PosixFileSystem()),
        clock_(options_.clock != nullptr ? *options_.clock : loop.clock()),
        random_(options_.random != nullptr ? *options_.random : SystemRandom()) {}
  ~FollowerImpl() override {
    *alive_ = false;
    if (uploader_.joinable()) uploader_.join();
    if (upload_timer_ != 0) loop_.CancelTimer(upload_timer_);
    for (auto& [id, session] : sessions_) {
      if (session.welcome_timer != 0) loop_.CancelTimer(session.welcome_timer);
    }
    sessions_.clear();
    closed_.clear();
    listener_.reset();
    if (log_ != nullptr && health_.ok()) log_->WriteEnd();
  }

  Status Start();
  const std::string& address() const override { return listener_->address(); }
  uint64_t id() const override { return log_->id(); }
  std::vector<FollowerGroup> groups() const override {
    std::vector<FollowerGroup> all;
    for (const auto& [name, g] : groups_) {
      all.push_back({name, g.promised, g.base.index, g.last().index, g.confirmed, g.uploaded});
    }
    return all;
  }
  Status health() const override { return health_; }

 private:
  Status Replay(ByteView payload, const JournalPosition& block);
  void OnAccept(std::unique_ptr<Connection> connection);
  Status OnMessage(uint64_t session, WireType type, ByteView body);
  Status OnHello(Session& s, const HelloMessage& m);
  void Welcome(Session& s);
  Status OnAppend(Session& s, const AppendMessage& m);
  Status OnBeat(Session& s, const BeatMessage& m);
  Status OnFetch(Session& s, const FetchMessage& m);
  Status OnReset(Session& s, const ResetMessage& m);
  Status CheckEpoch(Session& s, uint64_t epoch);
  void Reject(Session& s, RejectReason reason, std::string text);
  void Drop(uint64_t session);
  void Reply(const Session& s, Bytes body) {
    replies_.emplace_back(s.id, std::move(body));
    FlushSoon();
  }
  void NotePromise(const Group& g);
  void NoteBase(const Group& g);
  void FlushSoon();
  void Flush();
  void SendReplies();
  void Recycle();
  StatusOr<Bytes> ReadHeld(const Group& g, const Held& held);
  void UploadIfQuiet();
  void Upload(Group* g);

  Loop& loop_;
  const FollowerOptions options_;
  FileSystem& files_;
  Clock& clock_;
  Random& random_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);  // owners: this, posted tasks
  std::unique_ptr<File> lock_;
  std::unique_ptr<BlockLog> log_;
  std::unique_ptr<Network> secure_;
  std::unique_ptr<Listener> listener_;
  std::map<std::string, Group, std::less<>> groups_;
  std::map<uint64_t, Session> sessions_;
  std::vector<Session> closed_;  // until the end of the turn: they may be on the stack
  uint64_t next_session_ = 1;
  BlockBuffer pending_;
  std::vector<std::pair<uint64_t, Bytes>> replies_;  // after the next write
  bool flush_scheduled_ = false;
  Status health_;
  Loop::TimerId upload_timer_ = 0;
  std::thread uploader_;
};

Status FollowerImpl::Start() {
  if (options_.directory.empty()) return InvalidArgument("FollowerOptions::directory is empty");
  if (options_.lease_ms_max < 0 || options_.lease_ms_max > 60'000) {
    return InvalidArgument("FollowerOptions::lease_ms_max is {}: 0 to 60000 allowed",
                           options_.lease_ms_max);
  }
  EDGE_RETURN_IF_ERROR(files_.MakeDirectories(options_.directory + "/journal"));
  EDGE_ASSIGN_OR_RETURN(lock_, files_.Lock(options_.directory + "/lock"));
  EDGE_ASSIGN_OR_RETURN(
      log_, BlockLog::Open({&files_, &loop_.clock(), &random_, options_.directory + "/journal",
                            options_.journal_file_bytes},
                           [this](ByteView payload, const JournalPosition& at) {
                             return Replay(payload, at);
                           }));
  const int64_t now = clock_.monotonic_ns();
  for (auto& [name, g] : groups_) {
    if (g.is_floating) {
      return DataLoss("{}: group \"{}\" begins at entry {}, and nothing says that this is right",
                      options_.directory, name, g.base.index + 1);
    }
    g.quiet_since_ns = loop_.clock().monotonic_ns();
    // We may have granted a lease just before we died.
    g.lease_epoch = g.promised;
    if (!Planted(Bug::kLeaseForgottenAtRestart)) {
      g.lease_until_ns = now + g.lease_ms * kNsPerMs;
    }
  }
  Network* network = options_.network != nullptr ? options_.network : &PosixNetwork();
  EDGE_ASSIGN_OR_RETURN(secure_, SecureNetwork(*network, options_.secret));
  EDGE_ASSIGN_OR_RETURN(listener_, secure_->Listen(loop_, options_.address,
                                                   [this](std::unique_ptr<Connection> connection) {
                                                     OnAccept(std::move(connection));
                                                   }));
  if (options_.store != nullptr && options_.upload_after_ms > 0) UploadIfQuiet();
  return OkStatus();
}

Status FollowerImpl::Replay(ByteView payload, const JournalPosition& block) {
  ByteReader in(payload);
  while (in.remaining() > 0) {
    const auto kind = static_cast<NoteKind>(in.U8());
    const std::string name(AsText(in.Sized()));
    if (in.failed()) return DataLoss("a note is cut off");
    Group& g = groups_[name];
    g.name = name;
    switch (kind) {
      case NoteKind::kAccept: {
        const ByteView entry = in.Sized();
        if (in.failed()) return DataLoss("an entry is cut off");
        Hash128 before;
        EDGE_ASSIGN_OR_RETURN(const LogPlace place, ReadPlace(entry, &before));
        if (place.index <= g.base.index && !g.is_floating) break;  // trimmed since
        // It was accepted, so it replaces what stood there and all behind it.
        if (place.index > g.base.index && place.index <= g.last().index) {
          if (Planted(Bug::kOldestWinsAtRecovery)) break;
          g.TruncateFrom(place.index);
        }
        if (place.index != g.last().index + 1 || before != g.last().chain) {
          // What came between stood in files that are freed; then a base further on says so.
          g.held.clear();
          g.base = {0, place.index - 1, before};
          g.is_floating = true;
        }
        g.held.push_back({place, block});
        break;
      }
      case NoteKind::kPromise:
        g.promised = in.U64();
        g.promised_host = in.U64();
        g.lease_ms = static_cast<int64_t>(in.U64());
        break;
      case NoteKind::kBase: {
        LogPlace base;
        base.epoch = in.U64();
        base.index = in.U64();
        base.chain.low = in.U64();
        base.chain.high = in.U64();
        if (in.failed()) break;
        // From when entries were here that stood in a freed file; a newer note follows.
        if (g.is_floating && base.index < g.base.index) break;
        g.is_floating = false;
        const LogPlace* there = g.At(base.index);
        if (there != nullptr && there->chain == base.chain) {
          g.TrimTo(base.index);
        } else {
          g.held.clear();
        }
        g.base = base;
        break;
      }
      default:
        return DataLoss("unknown kind of note {}", static_cast<int>(kind));
    }
    if (in.failed()) return DataLoss("a note is cut off");
  }
  return OkStatus();
}

// --- Sessions ---

void FollowerImpl::OnAccept(std::unique_ptr<Connection> connection) {
  if (!health_.ok()) return;  // closes it
  const uint64_t id = next_session_++;
  Session& s = sessions_[id];
  s.id = id;
  s.channel = std::make_unique<FrameChannel>(
      std::move(connection),
      FrameChannel::Handlers{
          .on_message = [this, id](WireType type,
                                   ByteView body) { return OnMessage(id, type, body); },
          .on_close = [this, id](const Status&) { Drop(id); }});
}

void FollowerImpl::Drop(uint64_t session) {
  const auto it = sessions_.find(session);
  if (it == sessions_.end()) return;
  if (it->second.welcome_timer != 0) loop_.CancelTimer(it->second.welcome_timer);
  closed_.push_back(std::move(it->second));
  sessions_.erase(it);
  FlushSoon();
}

Status FollowerImpl::OnMessage(uint64_t session, WireType type, ByteView body) {
  const auto it = sessions_.find(session);
  if (it == sessions_.end() || !health_.ok()) return Unavailable("closed");
  Session& s = it->second;
  if (s.group == nullptr && type != WireType::kHello) {
    return InvalidArgument("message {} before the hello", static_cast<int>(type));
  }
  const auto handle = [&]<typename M>(Status (FollowerImpl::*on)(Session&, const M&)) -> Status {
    M message;
    EDGE_RETURN_IF_ERROR(Decode(body, &message));
    return (this->*on)(s, message);
  };
  switch (type) {
    case WireType::kHello:
      return handle(&FollowerImpl::OnHello);
    case WireType::kAppend:
      return handle(&FollowerImpl::OnAppend);
    case WireType::kBeat:
      return handle(&FollowerImpl::OnBeat);
    case WireType::kFetch:
      return handle(&FollowerImpl::OnFetch);
    case WireType::kReset:
      return handle(&FollowerImpl::OnReset);
    default:
      return InvalidArgument("unknown message {}", static_cast<int>(type));
  }
}

void FollowerImpl::Reject(Session& s, RejectReason reason, std::string text) {
  const uint64_t promised = s.group != nullptr ? s.group->promised : 0;
  Reply(s, Encode(RejectMessage{reason, promised, std::move(text)}));
}

Status FollowerImpl::OnHello(Session& s, const HelloMessage& m) {
  if (m.group.empty() || m.group.size() > 200 || m.epoch == 0) {
    return InvalidArgument("a hello for group \"{}\", epoch {}", m.group, m.epoch);
  }
  Group& g = groups_[m.group];
  g.name = m.group;
  s.group = &g;
  s.epoch = m.epoch;
  s.matched = 0;
  if (m.epoch < g.promised || (m.epoch == g.promised && m.host != g.promised_host)) {
    Reject(s, RejectReason::kFenced, Format("epoch {} is promised", {g.promised}));
    return OkStatus();
  }
  if (m.epoch > g.promised) {
    g.promised = m.epoch;
    g.promised_host = m.host;
    if (!Planted(Bug::kPromiseNotPersisted)) NotePromise(g);
    for (auto& [id, other] : sessions_) {
      if (other.group == &g && other.epoch < m.epoch && !Planted(Bug::kOldSessionServed)) {
        Reject(other, RejectReason::kFenced, Format("epoch {} is promised", {g.promised}));
      }
    }
  }
  // A host of an older epoch may still answer reads on the lease that we gave it.
  const int64_t left = g.lease_until_ns - clock_.monotonic_ns();
  if (g.lease_epoch != m.epoch && left > 0 && !Planted(Bug::kWelcomeDuringLease)) {
    const uint64_t id = s.id;
    s.welcome_timer = loop_.After(left + kNsPerMs, [this, id, m] {
      const auto it = sessions_.find(id);
      if (it == sessions_.end()) return;
      it->second.welcome_timer = 0;
      // By our clock, not the loop's: it may not be over yet.
      OnHello(it->second, m).IgnoreError();
    });
    return OkStatus();
  }
  Welcome(s);
  return OkStatus();
}

void FollowerImpl::Welcome(Session& s) {
  const Group& g = *s.group;
  Reply(s, Encode(WelcomeMessage{s.epoch, id(), g.base, g.last(), g.confirmed}));
}

Status FollowerImpl::CheckEpoch(Session& s, uint64_t epoch) {
  if (epoch != s.epoch) return InvalidArgument("epoch {} after a hello of {}", epoch, s.epoch);
  if (s.epoch >= s.group->promised || Planted(Bug::kPromiseIgnored)) return OkStatus();
  Reject(s, RejectReason::kFenced, Format("epoch {} is promised", {s.group->promised}));
  return Aborted("fenced");
}

Status FollowerImpl::OnAppend(Session& s, const AppendMessage& m) {
  Group& g = *s.group;
  if (!CheckEpoch(s, m.epoch).ok()) return OkStatus();
  Hash128 before;
  EDGE_ASSIGN_OR_RETURN(const LogPlace place, ReadPlace(m.payload, &before));
  if (place.epoch > m.epoch)
    return InvalidArgument("an entry of epoch {} above its host's {}", place.epoch, m.epoch);
  const LogPlace* there = g.At(place.index);
  if (place.index <= g.base.index && there == nullptr) {
    s.matched = std::max(s.matched, place.index);  // trimmed: it is in the store
    s.ack_due = true;
  } else if (there != nullptr && (there->chain == place.chain || Planted(Bug::kConflictKept))) {
    s.matched = std::max(s.matched, place.index);
    s.ack_due = true;
  } else {
    const LogPlace* previous = g.At(place.index - 1);
    if (Planted(Bug::kGapAccepted) && previous == nullptr && place.index > g.last().index) {
      previous = &g.last();
      while (g.last().index + 1 < place.index) {
        g.held.push_back({{place.epoch, g.last().index + 1, before}, {}});
      }
      previous = &g.last();
    }
    if (previous == nullptr || (previous->chain != before && !Planted(Bug::kChainUnchecked))) {
      Reject(s, RejectReason::kGap,
             Format("entry {} does not follow entry {}", {place.index, g.last().index}));
      return OkStatus();
    }
    if (there != nullptr && place.index <= g.confirmed) {
      return DataLoss("group \"{}\": entry {} is confirmed here, and another one came", g.name,
                      place.index);
    }
    if (log_->BytesBetween(log_->begin(), log_->end()) > options_.disk_bytes_max) {
      Reject(s, RejectReason::kFault,
             Format("the journal holds its limit of {} bytes", {options_.disk_bytes_max}));
      return OkStatus();
    }
    // All checksums and the hash chains of the records in it.
    EntryVisitor no_visit = [](const JournalEntry&) { return OkStatus(); };
    EDGE_RETURN_IF_ERROR(VisitEntries(m.payload, no_visit));
    if (there != nullptr) g.TruncateFrom(place.index);
    if (g.held.empty()) g.quiet_since_ns = loop_.clock().monotonic_ns();
    g.held.push_back({place, {}});
    pending_.U8(static_cast<uint8_t>(NoteKind::kAccept));
    pending_.Varint(g.name.size());
    pending_.Put(AsBytes(g.name));
    pending_.Varint(m.payload.size());
    pending_.Put(m.payload);
    s.matched = place.index;
    s.ack_due = true;
  }
  g.confirmed = std::max(g.confirmed, std::min(m.confirmed, s.matched));
  FlushSoon();
  return OkStatus();
}

Status FollowerImpl::OnBeat(Session& s, const BeatMessage& m) {
  Group& g = *s.group;
  if (!CheckEpoch(s, m.epoch).ok()) return OkStatus();
  g.confirmed = std::max(g.confirmed, std::min(m.confirmed, s.matched));
  uint64_t trim = std::min(m.persisted, s.matched);
  if (Planted(Bug::kTrimUnmatched)) trim = m.persisted;
  if (Planted(Bug::kTrimConfirmed)) trim = std::min(m.confirmed, s.matched);
  if (trim > g.base.index) {
    g.TrimTo(trim);
    g.quiet_since_ns = loop_.clock().monotonic_ns();
    NoteBase(g);
  }
  const int64_t lease_ms = std::clamp<int64_t>(m.lease_ms, 0, options_.lease_ms_max);
  if (lease_ms > g.lease_ms) {
    g.lease_ms = lease_ms;
    NotePromise(g);
  }
  g.lease_epoch = m.epoch;
  g.lease_until_ns = std::max(g.lease_until_ns, clock_.monotonic_ns() + lease_ms * kNsPerMs);
  Reply(s, Encode(BeatReplyMessage{m.epoch, m.sequence, lease_ms}));
  return OkStatus();
}

StatusOr<Bytes> FollowerImpl::ReadHeld(const Group& g, const Held& held) {
  Bytes found;
  EDGE_RETURN_IF_ERROR(log_->Read(held.position, {held.position.file, UINT64_MAX}, 1,
                                  [&](ByteView payload, const JournalPosition&) -> Status {
                                    ByteReader in(payload);
                                    while (in.remaining() > 0) {
                                      const auto kind = static_cast<NoteKind>(in.U8());
                                      const std::string_view name = AsText(in.Sized());
                                      if (kind == NoteKind::kPromise) {
                                        in.Raw(24);
                                      } else if (kind == NoteKind::kBase) {
                                        in.Raw(32);
                                      } else {
                                        const ByteView entry = in.Sized();
                                        if (in.failed() || name != g.name) continue;
                                        Hash128 before;
                                        EDGE_ASSIGN_OR_RETURN(const LogPlace place,
                                                              ReadPlace(entry, &before));
                                        if (place.chain != held.place.chain) continue;
                                        found.assign(entry.begin(), entry.end());
                                        return OkStatus();
                                      }
                                    }
                                    return OkStatus();
                                  })
                           .status());
  if (found.empty()) {
    return DataLoss("group \"{}\": entry {} is not where it was written", g.name, held.place.index);
  }
  return found;
}

Status FollowerImpl::OnFetch(Session& s, const FetchMessage& m) {
  Group& g = *s.group;
  if (!CheckEpoch(s, m.epoch).ok()) return OkStatus();
  if (!pending_.payload().empty()) Flush();  // so that all is where it can be read
  if (!health_.ok()) return health_;
  if (m.from <= g.base.index) {
    Reject(s, RejectReason::kGap,
           Format("entry {} is gone, the oldest is {}", {m.from, g.base.index + 1}));
    return OkStatus();
  }
  std::vector<Bytes> entries;
  size_t bytes = 0;
  uint64_t index = m.from + (Planted(Bug::kFetchSkipsOne) && m.from + 1 < g.last().index ? 1 : 0);
  for (; index <= g.last().index && bytes < kFetchBytes; ++index) {
    EDGE_ASSIGN_OR_RETURN(Bytes entry, ReadHeld(g, g.held[index - g.base.index - 1]));
    bytes += entry.size();
    entries.push_back(std::move(entry));
  }
  EntriesMessage reply;
  reply.epoch = s.epoch;
  reply.payloads.assign(entries.begin(), entries.end());
  Reply(s, Encode(reply));
  return OkStatus();
}

Status FollowerImpl::OnReset(Session& s, const ResetMessage& m) {
  Group& g = *s.group;
  if (!CheckEpoch(s, m.epoch).ok()) return OkStatus();
  if (m.base.index < g.confirmed) {
    return DataLoss("group \"{}\": told to begin at entry {}, but {} is confirmed", g.name,
                    m.base.index, g.confirmed);
  }
  g.held.clear();
  g.base = m.base;
  NoteBase(g);
  s.matched = m.base.index;
  s.ack_due = true;
  FlushSoon();
  return OkStatus();
}

// --- The journal ---

void FollowerImpl::NotePromise(const Group& g) {
  pending_.U8(static_cast<uint8_t>(NoteKind::kPromise));
  pending_.Varint(g.name.size());
  pending_.Put(AsBytes(g.name));
  pending_.Fixed(g.promised);
  pending_.Fixed(g.promised_host);
  pending_.Fixed(g.lease_ms);
  FlushSoon();
}

void FollowerImpl::NoteBase(const Group& g) {
  pending_.U8(static_cast<uint8_t>(NoteKind::kBase));
  pending_.Varint(g.name.size());
  pending_.Put(AsBytes(g.name));
  PutPlace(&pending_, g.base);
  FlushSoon();
}

// Everything that came in one turn of the loop shares one write.
void FollowerImpl::FlushSoon() {
  if (std::exchange(flush_scheduled_, true)) return;
  loop_.Defer([this, alive = alive_] {
    if (!*alive) return;
    flush_scheduled_ = false;
    Flush();
    closed_.clear();
  });
}

void FollowerImpl::Flush() {
  if (Planted(Bug::kAckBeforeSync)) SendReplies();
  if (!pending_.payload().empty() && health_.ok()) {
    const StatusOr<JournalPosition> at = log_->Write(&pending_);
    pending_.Clear();
    if (!at.ok()) {
      health_ = Annotate(at.status(), "the follower's journal cannot be written");
      replies_.clear();
      while (!sessions_.empty()) Drop(sessions_.begin()->first);
      return;
    }
    for (auto& [name, g] : groups_) {
      for (auto it = g.held.rbegin(); it != g.held.rend() && it->position.file == 0; ++it) {
        it->position = *at;
      }
    }
  }
  if (!health_.ok()) return;
  SendReplies();
  Recycle();
}

void FollowerImpl::SendReplies() {
  for (auto& [id, session] : sessions_) {
    if (!std::exchange(session.ack_due, false)) continue;
    const bool whole = Planted(Bug::kAckWholeLog);
    replies_.emplace_back(id, Encode(AckMessage{session.epoch, whole ? session.group->last().index
                                                                     : session.matched}));
  }
  for (auto& [id, body] : std::exchange(replies_, {})) {
    const auto it = sessions_.find(id);
    if (it != sessions_.end()) it->second.channel->Send(body);
  }
}

void FollowerImpl::Recycle() {
  for (;;) {
    const std::optional<JournalPosition> oldest = log_->OldestFull();
    if (!oldest) return;
    for (const auto& [name, g] : groups_) {
      if (!g.held.empty() && g.held.front().position < *oldest &&
          !Planted(Bug::kLiveFileRecycled)) {
        return;
      }
    }
    if (!Planted(Bug::kCheckpointForgotten)) {
      // What the old file alone may have said is said again.
      for (const auto& [name, g] : groups_) {
        NotePromise(g);
        NoteBase(g);
      }
      const Status written = log_->Write(&pending_).status();
      pending_.Clear();
      if (!written.ok()) return;  // the old file stays; the next write says what is wrong
    }
    if (!log_->FreeOldest()) return;
  }
}

// --- Uploading what nobody has stored ---

void FollowerImpl::UploadIfQuiet() {
  upload_timer_ = loop_.After(options_.upload_after_ms * kNsPerMs / 4 +
                                  static_cast<int64_t>(random_.Below(static_cast<uint64_t>(
                                      options_.upload_after_ms * kNsPerMs / 8 + 1))),
                              [this] { UploadIfQuiet(); });
  for (auto& [name, g] : groups_) {
    const int64_t quiet_ns = loop_.clock().monotonic_ns() - g.quiet_since_ns;
    if (g.last().index > std::max(g.uploaded, g.base.index) && !g.is_uploading &&
        quiet_ns > options_.upload_after_ms * kNsPerMs && health_.ok()) {
      Upload(&g);
      return;
    }
  }
}

void FollowerImpl::Upload(Group* g) {
  if (!pending_.payload().empty()) Flush();
  GroupTail tail{g->name, id(), {}, {}};
  size_t bytes = 0;
  for (const Held& held : g->held) {
    if (held.place.index <= g->uploaded) continue;
    if (bytes > kUploadBytes) break;
    StatusOr<Bytes> entry = ReadHeld(*g, held);
    if (!entry.ok()) {
      health_ = entry.status();
      return;
    }
    bytes += entry->size();
    tail.last = held.place;
    tail.payloads.push_back(*std::move(entry));
  }
  g->is_uploading = true;
  const auto finish = [this, g, last = tail.last.index](const Status& put) {
    g->is_uploading = false;
    if (put.ok() || put.code() == StatusCode::kAlreadyExists) g->uploaded = last;
  };
  const auto put = [store = options_.store, held = std::move(tail)] {
    return store->Put(TailKey(held), EncodeTail(held), {.if_absent = true}).status();
  };
  if (options_.network != nullptr) return finish(put());  // a world of its own: no threads
  if (uploader_.joinable()) uploader_.join();
  uploader_ = std::thread([this, put, finish, alive = alive_] {
    const Status done = put();
    loop_.PostUrgent([finish, done, alive] {
      if (*alive) finish(done);
    });
  });
}

}  // namespace

StatusOr<std::unique_ptr<Follower>> Follower::Create(Loop& loop, FollowerOptions options) {
  auto follower = std::make_unique<FollowerImpl>(loop, std::move(options));
  EDGE_RETURN_IF_ERROR(follower->Start());
  return follower;
}

}  // namespace edge::srs
