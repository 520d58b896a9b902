// The network of a simulation. A connection is a Link with two ends; what one end writes
// waits at that end until a delivery event moves some of it to the other. One delivery is
// under way in each direction, so bytes keep their order, while connections overtake each
// other as their delays fall.
//
// Events of the network belong to no host: they survive a crash, find the end dead, and
// tell the other one, as the network does.
#include <array>
#include <charconv>
#include <deque>
#include <set>

#include "edge/base/check.h"
#include "edge/base/errors.h"
#include "src/base/simulation_core.h"

namespace edge::internal {
namespace {

constexpr size_t kBufferBytesMax = size_t{16} << 20;
constexpr int64_t kConnectTimeoutNs = 10'000'000'000;
constexpr int64_t kGiveUpNs = 15'000'000'000;     // a sender whose bytes do not get through
constexpr int64_t kKeepAliveNs = 30'000'000'000;  // until a silent peer is known to be gone
constexpr int64_t kRetryNs = 200'000'000;
constexpr uint64_t kNextSegmentNsMax = 50'000;
constexpr uint16_t kFirstFreePort = 49152;

enum class EndState : uint8_t {
  kConnecting,  // the client's, before its callback has it
  kOpen,
  kClosing,  // says farewell after what is queued
  kOver
};

// One end of a connection.
struct End {
  int host = 0;
  SimulatedLoop* loop = nullptr;
  EndState state = EndState::kOpen;
  Connection* owner = nullptr;                     // null: destroyed, crashed or not yet made
  std::shared_ptr<Connection::Handlers> handlers;  // shared with a call that is running
  bool started = false;
  bool paused = false;
  Status end_status;  // what on_close is to say, once started
  std::deque<Bytes> out;
  size_t out_bytes = 0;
  bool delivering = false;        // an event is scheduled
  bool blocked = false;           // the other end does not read
  int64_t stalled_since_ns = -1;  // by a partition

  void DropQueue() {
    out.clear();
    out_bytes = 0;
  }
};

// Owners: its two connections and the events that concern it.
struct Link {
  std::array<End, 2> ends;  // [0]: the client's
  std::array<std::string, 2> names;
  bool cut = false;
};

// Owners: the events of the attempt, and its host, which drops it in a crash.
struct Attempt {
  int host;
  Callback<void(StatusOr<std::unique_ptr<Connection>>)> done;
};

class World;

class SimulatedListener final : public Listener {
 public:
  using OnAccept = Callback<void(std::unique_ptr<Connection>)>;
  SimulatedListener(World& world, int host, uint16_t port, std::string address, OnAccept on_accept)
      : world_(&world),
        host_(host),
        port_(port),
        address_(std::move(address)),
        on_accept_(std::make_shared<OnAccept>(std::move(on_accept))) {}
  ~SimulatedListener() override;
  const std::string& address() const override { return address_; }
  void Accept(SimulatedLoop& loop, std::unique_ptr<Connection> connection) {
    loop.Turn([on_accept = on_accept_, held = std::move(connection)]() mutable {
      (*on_accept)(std::move(held));
    });
  }
  void Disown() { world_ = nullptr; }

 private:
  World* world_;
  const int host_;
  const uint16_t port_;
  const std::string address_;
  const std::shared_ptr<OnAccept> on_accept_;
};

struct HostAndPort {
  std::string host;
  uint16_t port;
};

StatusOr<HostAndPort> ParseSimulatedAddress(const std::string& address) {
  const size_t colon = address.find(':');
  HostAndPort where{address.substr(0, colon), 0};
  if (colon != std::string::npos && colon > 0) {
    const char* const end = address.data() + address.size();
    const auto parsed = std::from_chars(address.data() + colon + 1, end, where.port);
    if (parsed.ec == std::errc() && parsed.ptr == end) return where;
  }
  return InvalidArgument("address '{}': want host:port", address);
}

class World final : public SimulatedNetwork {
 public:
  explicit World(SimulationCore& core) : core_(core) {}

  Network& AddHost(const std::string& name, SimulatedLoop& loop) override {
    EDGE_CHECK(loop.host() == static_cast<int>(hosts_.size()));
    hosts_.push_back(std::make_unique<HostView>(*this, name, loop));
    return *hosts_.back();
  }

  void SetPartitioned(int from, int to, bool partitioned) override {
    if (partitioned) {
      partitions_.insert({from, to});
    } else {
      partitions_.erase({from, to});
    }
  }

  void Crash(int host) override {
    HostView& view = *hosts_[static_cast<size_t>(host)];
    for (const auto& [port, listener] : view.listeners) listener->Disown();
    view.listeners.clear();
    const auto attempts = std::exchange(view.attempts, {});
    for (const auto& attempt : attempts) attempt->done = nullptr;
    const std::vector<std::weak_ptr<Link>> links = links_;
    for (const auto& weak : links) {
      const std::shared_ptr<Link> link = weak.lock();
      for (size_t side = 0; link != nullptr && side < 2; ++side) {
        if (link->ends[side].host == host) Die(link, side);
      }
    }
  }

  // What connections and listeners call.
  Status Write(const std::shared_ptr<Link>& link, size_t side, ByteView bytes);
  void Start(const std::shared_ptr<Link>& link, size_t side, Connection::Handlers handlers);
  void Pause(const std::shared_ptr<Link>& link, size_t side, bool paused);
  void Close(const std::shared_ptr<Link>& link, size_t side);
  void Destroy(const std::shared_ptr<Link>& link, size_t side);
  void RemoveListener(int host, uint16_t port) {
    hosts_[static_cast<size_t>(host)]->listeners.erase(port);
  }

 private:
  class HostView final : public Network {
   public:
    HostView(World& world, std::string host_name, SimulatedLoop& host_loop)
        : name(std::move(host_name)), loop(host_loop), world_(world) {}
    StatusOr<std::unique_ptr<Listener>> Listen(Loop& on, const std::string& address,
                                               SimulatedListener::OnAccept on_accept) override {
      EDGE_CHECK(&on == &loop);
      return world_.Listen(*this, address, std::move(on_accept));
    }
    void Connect(Loop& on, const std::string& address,
                 Callback<void(StatusOr<std::unique_ptr<Connection>>)> done) override {
      EDGE_CHECK(&on == &loop);
      world_.Connect(*this, address, std::move(done));
    }

    const std::string name;
    SimulatedLoop& loop;
    std::map<uint16_t, SimulatedListener*> listeners;
    std::vector<std::shared_ptr<Attempt>> attempts;

   private:
    World& world_;
  };

  StatusOr<std::unique_ptr<Listener>> Listen(HostView& host, const std::string& address,
                                             SimulatedListener::OnAccept on_accept);
  void Connect(HostView& host, const std::string& address,
               Callback<void(StatusOr<std::unique_ptr<Connection>>)> done);
  void ArriveAt(const std::shared_ptr<Attempt>& attempt, const std::string& address,
                const HostAndPort& where, int64_t give_up_ns);
  void Settle(const std::shared_ptr<Attempt>& attempt, int64_t at_ns, Status status,
              std::shared_ptr<Link> link = nullptr);

  void Deliver(const std::shared_ptr<Link>& link, size_t side);
  void ScheduleDelivery(const std::shared_ptr<Link>& link, size_t side, int64_t delay_ns);
  void Resume(const std::shared_ptr<Link>& link, size_t side);
  void Finish(const std::shared_ptr<Link>& link, size_t side, Status status);
  void FinishLater(const std::shared_ptr<Link>& link, size_t side, int64_t delay_ns,
                   const Status& status) {
    core_.Schedule(core_.now_ns() + delay_ns, SimulationCore::kNoHost,
                   [this, link, side, status] { Finish(link, side, status); });
  }
  void Die(const std::shared_ptr<Link>& link, size_t side);
  Bytes TakeSegment(End& sender);

  int64_t Delay() {
    const SimulationOptions& options = core_.options();
    const auto spread =
        static_cast<uint64_t>(options.network_delay_ns_max - options.network_delay_ns_min);
    return options.network_delay_ns_min + static_cast<int64_t>(core_.random().Below(spread + 1));
  }
  bool Passes(int from, int to) const { return !partitions_.contains({from, to}); }
  HostView* FindHost(const std::string& name) {
    for (const auto& host : hosts_) {
      if (host->name == name) return host.get();
    }
    return nullptr;
  }

  SimulationCore& core_;
  std::vector<std::unique_ptr<HostView>> hosts_;
  std::set<std::pair<int, int>> partitions_;
  std::vector<std::weak_ptr<Link>> links_;
};

class SimulatedConnection final : public Connection {
 public:
  SimulatedConnection(World& world, std::shared_ptr<Link> link, size_t side)
      : world_(world), link_(std::move(link)), side_(side) {
    end().owner = this;
    if (end().state == EndState::kConnecting) end().state = EndState::kOpen;
  }
  // After a crash or the end of the world this end is over, and `world_` not looked at.
  ~SimulatedConnection() override {
    if (end().owner == this) world_.Destroy(link_, side_);
  }
  void Start(Handlers handlers) override {
    EDGE_CHECK(!end().started);
    if (end().owner == this) world_.Start(link_, side_, std::move(handlers));
  }
  Status Write(ByteView bytes) override {
    if (end().owner != this || end().state != EndState::kOpen) {
      return Unavailable("connection to {} is closed", peer_address());
    }
    return world_.Write(link_, side_, bytes);
  }
  size_t buffered_bytes() const override { return link_->ends[side_].out_bytes; }
  void PauseReading(bool paused) override {
    if (end().owner == this) world_.Pause(link_, side_, paused);
  }
  void Close() override {
    if (end().owner == this && end().state == EndState::kOpen) world_.Close(link_, side_);
  }
  const std::string& peer_address() const override { return link_->names[1 - side_]; }

 private:
  End& end() { return link_->ends[side_]; }
  World& world_;
  const std::shared_ptr<Link> link_;
  const size_t side_;
};

SimulatedListener::~SimulatedListener() {
  if (world_ != nullptr) world_->RemoveListener(host_, port_);
}

StatusOr<std::unique_ptr<Listener>> World::Listen(HostView& host, const std::string& address,
                                                  SimulatedListener::OnAccept on_accept) {
  EDGE_ASSIGN_OR_RETURN(HostAndPort where, ParseSimulatedAddress(address));
  if (host.loop.off()) return Unavailable("listen on {}: the machine is switched off", address);
  if (where.host != host.name) {
    return InvalidArgument("listen on {}: this host is '{}'", address, host.name);
  }
  if (where.port == 0) {
    where.port = kFirstFreePort;
    while (host.listeners.contains(where.port)) ++where.port;
  }
  if (host.listeners.contains(where.port)) {
    return Unavailable("listen on {}: address in use", address);
  }
  auto listener = std::make_unique<SimulatedListener>(*this, host.loop.host(), where.port,
                                                      Format("{}:{}", {host.name, where.port}),
                                                      std::move(on_accept));
  host.listeners[where.port] = listener.get();
  return listener;
}

void World::Connect(HostView& host, const std::string& address,
                    Callback<void(StatusOr<std::unique_ptr<Connection>>)> done) {
  if (host.loop.off()) return;
  auto attempt = std::make_shared<Attempt>(Attempt{host.loop.host(), std::move(done)});
  host.attempts.push_back(attempt);
  const auto where = ParseSimulatedAddress(address);
  if (!where.ok()) return Settle(attempt, core_.now_ns(), where.status());
  const int64_t give_up_ns = core_.now_ns() + kConnectTimeoutNs;
  core_.Schedule(core_.now_ns() + Delay(), SimulationCore::kNoHost,
                 [this, attempt, address, where = *where, give_up_ns] {
                   ArriveAt(attempt, address, where, give_up_ns);
                 });
}

// The first packet of a connection, at the server.
void World::ArriveAt(const std::shared_ptr<Attempt>& attempt, const std::string& address,
                     const HostAndPort& where, int64_t give_up_ns) {
  const Status timed_out = DeadlineExceeded("connect to {}: no answer", address);
  HostView* const server = FindHost(where.host);
  if (server == nullptr) {
    return Settle(attempt, core_.now_ns(), Unavailable("connect to {}: unknown host", address));
  }
  const int to = server->loop.host();
  if (!Passes(attempt->host, to)) return Settle(attempt, give_up_ns, timed_out);
  const bool answers = Passes(to, attempt->host);
  const auto listener = server->listeners.find(where.port);
  if (listener == server->listeners.end()) {
    if (!answers) return Settle(attempt, give_up_ns, timed_out);
    return Settle(attempt, core_.now_ns() + Delay(),
                  Unavailable("connect to {}: connection refused", address));
  }
  auto link = std::make_shared<Link>();
  std::erase_if(links_, [](const std::weak_ptr<Link>& old) { return old.expired(); });
  links_.push_back(link);
  HostView& client = *hosts_[static_cast<size_t>(attempt->host)];
  link->names = {client.name + ":0", address};
  link->ends[0].host = attempt->host;
  link->ends[0].loop = &client.loop;
  link->ends[0].state = EndState::kConnecting;
  link->ends[1].host = to;
  link->ends[1].loop = &server->loop;
  if (answers) {
    Settle(attempt, core_.now_ns() + Delay(), OkStatus(), link);
  } else {
    link->ends[0].state = EndState::kOver;
    FinishLater(link, 1, kKeepAliveNs, Unavailable("{}: no sign of life", link->names[0]));
    Settle(attempt, give_up_ns, timed_out);
  }
  listener->second->Accept(server->loop, std::make_unique<SimulatedConnection>(*this, link, 1));
}

void World::Settle(const std::shared_ptr<Attempt>& attempt, int64_t at_ns, Status status,
                   std::shared_ptr<Link> link) {
  core_.Schedule(at_ns, SimulationCore::kNoHost, [this, attempt, status, link] {
    HostView& client = *hosts_[static_cast<size_t>(attempt->host)];
    if (std::erase(client.attempts, attempt) == 0) return;  // crashed meanwhile
    client.loop.Turn([&] {
      if (!status.ok()) return attempt->done(status);
      attempt->done(std::make_unique<SimulatedConnection>(*this, link, 0));
    });
  });
}

Status World::Write(const std::shared_ptr<Link>& link, size_t side, ByteView bytes) {
  End& end = link->ends[side];
  if (bytes.size() > kBufferBytesMax - end.out_bytes) {
    return ResourceExhausted("connection to {}: {} bytes are waiting, {} more would pass {}",
                             link->names[1 - side], end.out_bytes, bytes.size(), kBufferBytesMax);
  }
  if (bytes.empty() || link->cut) return OkStatus();
  core_.Trace(5, bytes);
  if (core_.random().Unit() < core_.options().connection_cut_chance) {
    link->cut = true;
    for (size_t i = 0; i < 2; ++i) {
      FinishLater(link, i, Delay(), Unavailable("connection to {} was cut", link->names[1 - i]));
    }
    return OkStatus();
  }
  end.out.emplace_back(bytes.begin(), bytes.end());
  end.out_bytes += bytes.size();
  ScheduleDelivery(link, side, Delay());
  return OkStatus();
}

void World::Start(const std::shared_ptr<Link>& link, size_t side, Connection::Handlers handlers) {
  End& end = link->ends[side];
  end.handlers = std::make_shared<Connection::Handlers>(std::move(handlers));
  end.started = true;
  if (end.state == EndState::kOver) {
    end.state = EndState::kOpen;
    FinishLater(link, side, 0, end.end_status);
  }
  Resume(link, side);
}

void World::Pause(const std::shared_ptr<Link>& link, size_t side, bool paused) {
  link->ends[side].paused = paused;
  if (!paused) Resume(link, side);
}

// `side` reads again.
void World::Resume(const std::shared_ptr<Link>& link, size_t side) {
  if (!std::exchange(link->ends[1 - side].blocked, false)) return;
  ScheduleDelivery(link, 1 - side, static_cast<int64_t>(core_.random().Below(kNextSegmentNsMax)));
}

void World::Close(const std::shared_ptr<Link>& link, size_t side) {
  link->ends[side].state = EndState::kClosing;
  Resume(link, side);  // what comes is thrown away from now on
  ScheduleDelivery(link, side, Delay());
}

void World::Destroy(const std::shared_ptr<Link>& link, size_t side) {
  End& end = link->ends[side];
  end.owner = nullptr;
  const auto handlers = std::move(end.handlers);
  if (end.state == EndState::kOver) return;
  // What was written may have left already, or not.
  if (end.state == EndState::kOpen && core_.random().Below(2) == 0) end.DropQueue();
  end.state = EndState::kClosing;
  Resume(link, side);
  ScheduleDelivery(link, side, Delay());
}

void World::ScheduleDelivery(const std::shared_ptr<Link>& link, size_t side, int64_t delay_ns) {
  if (std::exchange(link->ends[side].delivering, true)) return;
  core_.Schedule(core_.now_ns() + delay_ns, SimulationCore::kNoHost, [this, link, side] {
    link->ends[side].delivering = false;
    Deliver(link, side);
  });
}

// TCP keeps no borders: a write may come in two parts, or together with the next.
Bytes World::TakeSegment(End& sender) {
  Bytes segment = std::move(sender.out.front());
  sender.out.pop_front();
  const uint64_t chance = core_.random().Below(8);
  if (chance == 0 && segment.size() > 1) {
    const auto first = static_cast<ptrdiff_t>(1 + core_.random().Below(segment.size() - 1));
    sender.out.emplace_front(segment.begin() + first, segment.end());
    segment.resize(static_cast<size_t>(first));
  } else if (chance == 1 && !sender.out.empty()) {
    segment.insert(segment.end(), sender.out.front().begin(), sender.out.front().end());
    sender.out.pop_front();
  }
  sender.out_bytes -= segment.size();
  return segment;
}

void World::Deliver(const std::shared_ptr<Link>& link, size_t side) {
  End& sender = link->ends[side];
  End& receiver = link->ends[1 - side];
  if (link->cut || sender.state == EndState::kOver) return;
  const bool gone = receiver.state == EndState::kOver ||
                    (receiver.owner == nullptr && receiver.state != EndState::kConnecting);
  // Nothing gets through, or the receiver's "no such connection" does not come back.
  if (!Passes(sender.host, receiver.host) || (gone && !Passes(receiver.host, sender.host))) {
    if (sender.stalled_since_ns < 0) sender.stalled_since_ns = core_.now_ns();
    if (core_.now_ns() - sender.stalled_since_ns >= kGiveUpNs) {
      return Finish(link, side, Unavailable("connection to {}: timed out", link->names[1 - side]));
    }
    return ScheduleDelivery(link, side, kRetryNs);
  }
  sender.stalled_since_ns = -1;
  if (gone && !sender.out.empty()) {
    sender.DropQueue();
    return FinishLater(link, side, Delay(),
                       Unavailable("connection to {}: reset by peer", link->names[1 - side]));
  }
  const bool reads = receiver.started && !receiver.paused;
  if (!gone && receiver.state != EndState::kClosing && !reads) {
    sender.blocked = true;
    return;
  }
  if (!sender.out.empty()) {
    const Bytes segment = TakeSegment(sender);
    if (receiver.state == EndState::kOpen && receiver.handlers->on_data) {
      receiver.loop->Turn([handlers = receiver.handlers, &segment] { handlers->on_data(segment); });
    }
    if (!sender.out.empty() || sender.state == EndState::kClosing) {
      return ScheduleDelivery(link, side,
                              static_cast<int64_t>(core_.random().Below(kNextSegmentNsMax)));
    }
    core_.Schedule(core_.now_ns() + Delay(), SimulationCore::kNoHost, [link, side] {
      const End& end = link->ends[side];
      if (end.owner == nullptr || !end.started || end.out_bytes > 0) return;
      if (end.state == EndState::kOver || !end.handlers->on_drained) return;
      end.loop->Turn([handlers = end.handlers] { handlers->on_drained(); });
    });
  } else if (sender.state == EndState::kClosing) {
    Finish(link, 1 - side, OkStatus());
    FinishLater(link, side, Delay(), OkStatus());
  }
}

// From an event only: it calls back.
void World::Finish(const std::shared_ptr<Link>& link, size_t side, Status status) {
  End& end = link->ends[side];
  if (end.state == EndState::kOver) return;
  end.state = EndState::kOver;
  end.DropQueue();
  end.end_status = status;
  if (end.owner == nullptr || !end.started || !end.handlers->on_close) return;
  end.loop->Turn([handlers = end.handlers, &status] { handlers->on_close(status); });
}

void World::Die(const std::shared_ptr<Link>& link, size_t side) {
  End& end = link->ends[side];
  if (end.owner == nullptr && end.state == EndState::kOver) return;
  end.owner = nullptr;
  end.state = EndState::kOver;
  end.DropQueue();
  const auto handlers = std::move(end.handlers);  // destroyed here, not run
  Resume(link, side);                             // a peer that waits to send hears of it now
  FinishLater(link, 1 - side, kKeepAliveNs,
              Unavailable("connection to {}: no sign of life", link->names[side]));
}

}  // namespace

std::unique_ptr<SimulatedNetwork> SimulatedNetwork::Create(SimulationCore& core) {
  return std::make_unique<World>(core);
}

}  // namespace edge::internal
