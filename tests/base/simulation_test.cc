#include "edge/base/simulation.h"

#include <algorithm>
#include <map>
#include <set>

#include "edge/base/errors.h"
#include "edge/base/task.h"

using namespace edge;  // NOLINT

namespace {

constexpr int64_t kMs = 1'000'000;
constexpr int64_t kSecond = 1'000'000'000;

// Numbers its requests and repeats each until it is answered, over as many connections as
// that takes. The server remembers on disk what it has seen, and answers only once it has.
class Client {
 public:
  Client(Simulation::Host& host, std::string server) : host_(host), server_(std::move(server)) {
    Connect();
  }
  int answered() const { return answered_; }

 private:
  void Connect() {
    connection_.reset();
    host_.network().Connect(
        host_.loop(), server_, [this](StatusOr<std::unique_ptr<Connection>> made) {
          if (!made.ok()) return Retry();
          connection_ = *std::move(made);
          received_.clear();
          connection_->Start({.on_data = [this](ByteView bytes) { OnData(bytes); },
                              .on_close = [this](const Status&) { Retry(); },
                              .on_drained = nullptr});
          Ask();
        });
  }
  void Retry() { group_.Spawn(RetryAfter()); }
  Task<void> RetryAfter() {
    co_await Sleep(host_.loop(), 10 * kMs);
    Connect();
  }
  void Ask() {
    const std::string text = std::to_string(answered_) + "\n";
    connection_->Write(AsBytes(text)).IgnoreError();  // closed: on_close follows
    if (watchdog_ != 0) host_.loop().CancelTimer(watchdog_);
    watchdog_ = host_.loop().After(kSecond, [this] {
      watchdog_ = 0;
      Connect();
    });
  }
  void OnData(ByteView bytes) {
    received_ += AsText(bytes);
    for (size_t end = 0; (end = received_.find('\n')) != std::string::npos;) {
      const int number = std::stoi(received_.substr(0, end));
      received_.erase(0, end + 1);
      if (number != answered_) continue;  // an answer to an earlier asking
      ++answered_;
      Ask();
    }
  }

  Simulation::Host& host_;
  const std::string server_;
  std::unique_ptr<Connection> connection_;
  std::string received_;
  int answered_ = 0;
  Loop::TimerId watchdog_ = 0;
  TaskGroup group_;
};

class Server {
 public:
  explicit Server(Simulation::Host& host, bool syncs = true) : syncs_(syncs) {
    auto file = host.files().Open("seen", OpenMode::kCreate);
    file_ = *std::move(file);
    REQUIRE(host.files().SyncDirectory("/").ok());
    seen_ = static_cast<int>(file_->Size().value());
    listener_ = host.network()
                    .Listen(host.loop(), host.name() + ":7000",
                            [this](std::unique_ptr<Connection> made) { Accept(std::move(made)); })
                    .value();
  }
  int seen() const { return seen_; }

 private:
  struct Session {
    std::unique_ptr<Connection> connection;
    std::string received;
  };
  void Accept(std::unique_ptr<Connection> made) {
    const int id = next_session_++;
    Session& session = sessions_[id];
    session.connection = std::move(made);
    session.connection->Start({.on_data = [this, id](ByteView bytes) { OnData(id, bytes); },
                               .on_close = [this, id](const Status&) { sessions_.erase(id); },
                               .on_drained = nullptr});
  }
  void OnData(int id, ByteView bytes) {
    Session& session = sessions_.at(id);
    session.received += AsText(bytes);
    for (size_t end = 0; (end = session.received.find('\n')) != std::string::npos;) {
      const std::string line = session.received.substr(0, end + 1);
      session.received.erase(0, end + 1);
      const int number = std::stoi(line);
      if (number == seen_) {
        REQUIRE(file_->WriteAt(static_cast<uint64_t>(number), AsBytes("x")).ok());
        if (syncs_) REQUIRE(file_->Sync().ok());
        ++seen_;
      }
      session.connection->Write(AsBytes(line)).IgnoreError();
    }
  }

  const bool syncs_;
  std::unique_ptr<File> file_;
  std::unique_ptr<Listener> listener_;
  std::map<int, Session> sessions_;
  int next_session_ = 0;
  int seen_ = 0;
};

struct Outcome {
  uint64_t trace_hash = 0;
  uint64_t event_count = 0;
  int answered = 0;
  int lost = 0;  // answered, but unknown to the server after its restart
};

// Ping-pong for 60 virtual seconds under cuts, partitions and crashes of the server.
Outcome RunPingPong(uint64_t seed, bool syncs = true) {
  auto simulation = Simulation::Create({.seed = seed, .connection_cut_chance = 0.002});
  auto& server_host = simulation->AddHost("server");
  auto& client_host = simulation->AddHost("client");
  std::unique_ptr<Server> server;
  std::unique_ptr<Client> client;
  Outcome outcome;
  server_host.Run([&] { server = std::make_unique<Server>(server_host, syncs); });
  client_host.Run([&] { client = std::make_unique<Client>(client_host, "server:7000"); });
  Random& random = simulation->random();
  for (int round = 0; round < 20; ++round) {
    simulation->RunFor(static_cast<int64_t>(random.Below(2 * kSecond)));
    switch (random.Below(3)) {
      case 0:
        simulation->SetPartitioned(server_host, client_host, random.Below(2) == 0);
        break;
      case 1:
        simulation->SetPartitioned(client_host, server_host, random.Below(2) == 0);
        break;
      default:
        server_host.Crash([&] { server.reset(); });
        server_host.Run([&] { server = std::make_unique<Server>(server_host, syncs); });
        outcome.lost += std::max(0, client->answered() - server->seen());
    }
  }
  simulation->SetPartitioned(server_host, client_host, false);
  simulation->SetPartitioned(client_host, server_host, false);
  const int before = client->answered();
  const bool goes_on = simulation->RunUntil(
      [&] { return client->answered() > before + 5 || outcome.lost > 0; }, 60 * kSecond);
  REQUIRE(goes_on);
  outcome.trace_hash = simulation->trace_hash();
  outcome.event_count = simulation->event_count();
  outcome.answered = client->answered();
  client_host.Crash([&] { client.reset(); });
  server_host.Crash([&] { server.reset(); });
  return outcome;
}

}  // namespace

TEST_CASE("the same seed gives the same run, another seed another", "[base][sim]") {
  std::set<uint64_t> hashes;
  for (uint64_t seed = 1; seed <= 8; ++seed) {
    const Outcome first = RunPingPong(seed);
    const Outcome second = RunPingPong(seed);
    REQUIRE(first.trace_hash == second.trace_hash);
    REQUIRE(first.event_count == second.event_count);
    REQUIRE(first.answered == second.answered);
    hashes.insert(first.trace_hash);
  }
  REQUIRE(hashes.size() == 8);
}

TEST_CASE("a server that syncs before it answers loses nothing in any world", "[base][sim]") {
  const auto seed = GENERATE(range(100u, 140u));
  CAPTURE(seed);
  const Outcome outcome = RunPingPong(seed);
  REQUIRE(outcome.lost == 0);
  REQUIRE(outcome.answered > 20);
}

TEST_CASE("a server that does not sync is caught", "[base][sim]") {
  int lost = 0;
  for (uint64_t seed = 100; seed < 120; ++seed) lost += RunPingPong(seed, false).lost;
  REQUIRE(lost > 0);
}

TEST_CASE("virtual time jumps from timer to timer", "[base][sim]") {
  auto simulation = Simulation::Create({});
  auto& host = simulation->AddHost("a");
  const int64_t start_ns = simulation->clock().monotonic_ns();
  const int64_t start_ms = simulation->clock().wall_ms();
  std::vector<int> order;
  host.Run([&] {
    REQUIRE(host.loop().IsCurrent());
    REQUIRE(Loop::Current() == &host.loop());
    host.loop().After(3600 * kSecond, [&] { order.push_back(3); });
    host.loop().After(kSecond, [&] { order.push_back(1); });
    const auto cancelled = host.loop().After(kSecond, [&] { order.push_back(99); });
    host.loop().After(kSecond, [&] { order.push_back(2); });
    REQUIRE(host.loop().CancelTimer(cancelled));
    REQUIRE_FALSE(host.loop().CancelTimer(cancelled));
  });
  REQUIRE(Loop::Current() == nullptr);
  REQUIRE(simulation->RunUntil([&] { return order.size() == 3; }, 2 * 3600 * kSecond));
  REQUIRE(order == std::vector<int>{1, 2, 3});
  REQUIRE(simulation->clock().monotonic_ns() - start_ns >= 3600 * kSecond);
  REQUIRE(simulation->clock().wall_ms() - start_ms >= 3'600'000);
  REQUIRE(simulation->clock().wall_ms() - start_ms < 3'601'000);
  REQUIRE_FALSE(simulation->Step());
  simulation->RunFor(kSecond);  // nothing to do: time passes all the same
  REQUIRE(simulation->clock().monotonic_ns() - start_ns >= 3601 * kSecond);
}

TEST_CASE("posted tasks keep their order, loops interleave as the seed says", "[base][sim]") {
  std::set<std::vector<int>> interleavings;
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    auto simulation = Simulation::Create({.seed = seed});
    std::vector<int> order;
    for (int h = 0; h < 2; ++h) {
      auto& host = simulation->AddHost(std::to_string(h));
      for (int i = 0; i < 5; ++i) {
        REQUIRE(host.loop().Post([&order, h, i] { order.push_back(10 * h + i); }).ok());
      }
    }
    while (simulation->Step()) {
    }
    for (int h = 0; h < 2; ++h) {
      std::vector<int> own;
      std::ranges::copy_if(order, std::back_inserter(own), [h](int x) { return x / 10 == h; });
      REQUIRE(own.size() == 5);
      REQUIRE(std::ranges::is_sorted(own));
    }
    interleavings.insert(order);
  }
  REQUIRE(interleavings.size() > 5);
}

TEST_CASE("a loop that posts to itself for ever does not stop time", "[base][sim]") {
  auto simulation = Simulation::Create({});
  auto& host = simulation->AddHost("a");
  int turns = 0;
  struct Again {
    Loop& loop;
    int& turns;
    void operator()() const {
      ++turns;
      loop.Defer(*this);
    }
  };
  host.loop().PostUrgent(Again{host.loop(), turns});
  simulation->RunFor(kMs);
  REQUIRE(turns > 100);
  REQUIRE_FALSE(simulation->RunUntil([] { return false; }, kMs));
}

TEST_CASE("the queue of a simulated loop is bounded too", "[base][sim]") {
  auto simulation = Simulation::Create({});
  auto& host = simulation->AddHost("a");
  Status status;
  int accepted = 0;
  for (; (status = host.loop().Post([] {})).ok(); ++accepted) {
  }
  REQUIRE(status.code() == StatusCode::kResourceExhausted);
  REQUIRE(accepted == 65536);
  REQUIRE(host.loop().WatchFd(0, 1, [](uint32_t) {}).code() == StatusCode::kFailedPrecondition);
}

TEST_CASE("a crash destroys what was pending, unrun, and stops the dying process", "[base][sim]") {
  auto simulation = Simulation::Create({});
  auto& host = simulation->AddHost("a");
  auto held = std::make_shared<int>(0);
  int ran = 0;
  host.Run([&] {
    host.loop().After(kSecond, [&ran, held] { ++ran; });
    REQUIRE(host.loop().Post([&ran, held] { ++ran; }).ok());
    auto file = host.files().Open("f", OpenMode::kCreate).value();
    REQUIRE(file->WriteAt(0, AsBytes("unsynced")).ok());
    REQUIRE(file->Sync().ok());
    REQUIRE(host.files().SyncDirectory("/").ok());
  });
  host.Crash([&] {
    REQUIRE(held.use_count() == 1);
    REQUIRE(host.loop().Post([&ran] { ++ran; }).code() == StatusCode::kFailedPrecondition);
    host.loop().PostUrgent([&ran] { ++ran; });
    host.loop().After(1, [&ran] { ++ran; });
    REQUIRE(host.files().Open("ghost", OpenMode::kCreate).status().code() ==
            StatusCode::kUnavailable);
    REQUIRE(host.network()
                .Listen(host.loop(), "a:1", [](std::unique_ptr<Connection>) {})
                .status()
                .code() == StatusCode::kUnavailable);
  });
  simulation->RunFor(10 * kSecond);
  REQUIRE(ran == 0);
  REQUIRE(host.files().List("/").value().size() == 1);
  REQUIRE(host.loop().Post([&ran] { ++ran; }).ok());  // up again
  simulation->RunFor(kSecond);
  REQUIRE(ran == 1);
}

TEST_CASE("a simulation may end with connections open on both sides", "[base][sim]") {
  std::vector<std::unique_ptr<Connection>> kept;
  std::unique_ptr<Listener> listener;
  {
    auto simulation = Simulation::Create({});
    auto& a = simulation->AddHost("a");
    auto& b = simulation->AddHost("b");
    a.Run([&] {
      listener =
          a.network()
              .Listen(a.loop(), "a:0",
                      [&](std::unique_ptr<Connection> made) { kept.push_back(std::move(made)); })
              .value();
    });
    REQUIRE(listener->address() == "a:49152");
    b.Run([&] {
      for (int i = 0; i < 3; ++i) {
        b.network().Connect(
            b.loop(), listener->address(),
            [&](StatusOr<std::unique_ptr<Connection>> made) { kept.push_back(*std::move(made)); });
      }
    });
    REQUIRE(simulation->RunUntil([&] { return kept.size() == 6; }, kSecond));
    REQUIRE(kept[0]->Write(AsBytes("x")).ok());
  }
  REQUIRE(kept[0]->Write(AsBytes("x")).code() == StatusCode::kUnavailable);
}

namespace {

// Two connected ends in a world without chance.
struct Wire {
  explicit Wire(uint64_t seed = 1)
      : simulation(Simulation::Create({.seed = seed})),
        a(simulation->AddHost("a")),
        b(simulation->AddHost("b")) {
    a.Run([this] {
      listener = a.network()
                     .Listen(a.loop(), "a:1",
                             [this](std::unique_ptr<Connection> made) {
                               at_a = std::move(made);
                               Start(*at_a, &received_a, &closed_a);
                             })
                     .value();
    });
    b.Run([this] {
      b.network().Connect(b.loop(), "a:1", [this](StatusOr<std::unique_ptr<Connection>> made) {
        at_b = *std::move(made);
        Start(*at_b, &received_b, &closed_b);
      });
    });
    REQUIRE(simulation->RunUntil([this] { return at_a && at_b; }, kSecond));
  }
  static void Start(Connection& connection, std::string* received, std::optional<Status>* closed) {
    connection.Start({.on_data = [received](ByteView bytes) { *received += AsText(bytes); },
                      .on_close = [closed](Status status) { *closed = std::move(status); },
                      .on_drained = nullptr});
  }
  std::unique_ptr<Simulation> simulation;
  Simulation::Host& a;
  Simulation::Host& b;
  std::unique_ptr<Listener> listener;
  std::unique_ptr<Connection> at_a;
  std::unique_ptr<Connection> at_b;
  std::string received_a;
  std::string received_b;
  std::optional<Status> closed_a;
  std::optional<Status> closed_b;
};

}  // namespace

TEST_CASE("bytes arrive whole and in order, and a close comes after them", "[base][sim]") {
  const auto seed = GENERATE(range(1u, 17u));
  Wire wire(seed);
  std::string sent;
  wire.b.Run([&] {
    for (int i = 0; i < 200; ++i) {
      const std::string text = std::to_string(i) + ",";
      REQUIRE(wire.at_b->Write(AsBytes(text)).ok());
      sent += text;
    }
    wire.at_b->Close();
    REQUIRE(wire.at_b->Write(AsBytes("x")).code() == StatusCode::kUnavailable);
  });
  REQUIRE(wire.simulation->RunUntil([&] { return wire.closed_a && wire.closed_b; }, kSecond));
  REQUIRE(wire.received_a == sent);
  REQUIRE(wire.closed_a->ok());
  REQUIRE(wire.closed_b->ok());
}

TEST_CASE("a paused end receives nothing until it reads again", "[base][sim]") {
  Wire wire;
  wire.a.Run([&] { wire.at_a->PauseReading(true); });
  wire.b.Run([&] { REQUIRE(wire.at_b->Write(AsBytes("later")).ok()); });
  wire.simulation->RunFor(60 * kSecond);
  REQUIRE(wire.received_a.empty());
  REQUIRE(wire.at_b->buffered_bytes() == 5);
  wire.b.Run([&] {
    Status status;
    while ((status = wire.at_b->Write(Bytes(size_t{1} << 20))).ok()) {
    }
    REQUIRE(status.code() == StatusCode::kResourceExhausted);
  });
  wire.a.Run([&] { wire.at_a->PauseReading(false); });
  REQUIRE(wire.simulation->RunUntil([&] { return wire.at_b->buffered_bytes() == 0; }, kSecond));
  REQUIRE(wire.received_a.substr(0, 5) == "later");
}

TEST_CASE("a short partition delays, a long one breaks the sender", "[base][sim]") {
  Wire wire;
  wire.simulation->SetPartitioned(wire.b, wire.a, true);
  wire.b.Run([&] { REQUIRE(wire.at_b->Write(AsBytes("one")).ok()); });
  wire.simulation->RunFor(5 * kSecond);
  REQUIRE(wire.received_a.empty());
  wire.simulation->SetPartitioned(wire.b, wire.a, false);
  wire.simulation->RunFor(kSecond);
  REQUIRE(wire.received_a == "one");
  wire.simulation->SetPartitioned(wire.b, wire.a, true);
  wire.b.Run([&] { REQUIRE(wire.at_b->Write(AsBytes("two")).ok()); });
  wire.a.Run([&] { REQUIRE(wire.at_a->Write(AsBytes("other way")).ok()); });
  REQUIRE(wire.simulation->RunUntil([&] { return wire.closed_b.has_value(); }, 20 * kSecond));
  REQUIRE(wire.closed_b->code() == StatusCode::kUnavailable);
  REQUIRE(wire.received_a == "one");
  REQUIRE(wire.received_b == "other way");
}

TEST_CASE("a peer that crashed is noticed by the next write, or after a while", "[base][sim]") {
  const bool writes = GENERATE(true, false);
  Wire wire;
  wire.a.Crash([&] {
    wire.at_a.reset();
    wire.listener.reset();
  });
  if (writes) wire.b.Run([&] { REQUIRE(wire.at_b->Write(AsBytes("hello?")).ok()); });
  REQUIRE(wire.simulation->RunUntil([&] { return wire.closed_b.has_value(); },
                                    writes ? kSecond : 40 * kSecond));
  REQUIRE(wire.closed_b->code() == StatusCode::kUnavailable);
  StatusCode refused = StatusCode::kOk;
  wire.b.Run([&] {
    wire.b.network().Connect(wire.b.loop(), "a:1", [&](StatusOr<std::unique_ptr<Connection>> made) {
      refused = made.status().code();
    });
  });
  wire.simulation->RunFor(kSecond);
  REQUIRE(refused == StatusCode::kUnavailable);
}

TEST_CASE("connecting tells a bad address from a silent and an unknown host", "[base][sim]") {
  Wire wire;
  const auto connect = [&](const std::string& address) {
    std::optional<Status> status;
    wire.b.Run([&] {
      wire.b.network().Connect(
          wire.b.loop(), address,
          [&](StatusOr<std::unique_ptr<Connection>> made) { status = made.status(); });
      REQUIRE_FALSE(status.has_value());  // never from inside the call
    });
    REQUIRE(wire.simulation->RunUntil([&] { return status.has_value(); }, 20 * kSecond));
    return status->code();
  };
  REQUIRE(connect("a") == StatusCode::kInvalidArgument);
  REQUIRE(connect("a:x") == StatusCode::kInvalidArgument);
  REQUIRE(connect("c:1") == StatusCode::kUnavailable);
  REQUIRE(connect("a:2") == StatusCode::kUnavailable);
  REQUIRE(connect("a:1") == StatusCode::kOk);
  wire.simulation->SetPartitioned(wire.a, wire.b, true);  // only the answers are lost
  REQUIRE(connect("a:1") == StatusCode::kDeadlineExceeded);
  REQUIRE(connect("a:2") == StatusCode::kDeadlineExceeded);
}
