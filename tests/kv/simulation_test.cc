// Three tiers in a simulated world: a central store, two regions, two edges before each. Every
// process talks Cap'n Web over a network that delays, cuts and partitions; any of them but
// the store may be killed. What the header of Namespace promises is checked on each answer.
#include "edge/base/simulation.h"

#include <map>
#include <set>

#include "edge/base/errors.h"
#include "edge/kv/memory_origin.h"
#include "edge/kv/namespace.h"
#include "edge/kv/remote.h"
#include "edge/rpc/session.h"
#include "tests/kv/support.h"

using namespace edge;      // NOLINT
using namespace edge::kv;  // NOLINT

namespace {

constexpr int64_t kSecond = 1'000'000'000;
constexpr int64_t kFreshS = 30;

// A session over a byte stream: each message after its length in four bytes.
class Wire {
 public:
  Wire(Loop& loop, std::unique_ptr<Connection> connection, rpc::HookPtr main, LoopTask on_end)
      : connection_(std::move(connection)), on_end_(std::move(on_end)) {
    session_ = rpc::Session::Create(std::move(main), {}, [this, &loop] {
      loop.Defer([this, alive = std::weak_ptr<int>(alive_)] {
        if (!alive.expired()) Flush();
      });
    });
    connection_->Start(
        {[this](ByteView data) { OnData(data); }, [this](const Status&) { End(); }, nullptr});
  }
  rpc::AnyStub main() const { return session_->main(); }

 private:
  void OnData(ByteView data) {
    input_.insert(input_.end(), data.begin(), data.end());
    const std::weak_ptr<int> alive = alive_;
    size_t at = 0;
    while (input_.size() - at >= 4) {
      const auto size = LoadLittle<uint32_t>(input_.data() + at);
      if (input_.size() - at - 4 < size) break;
      const std::string message(AsText(ByteView(input_).subspan(at + 4, size)));
      at += 4 + size;
      if (!session_->OnMessage(message).ok()) return End();
      if (alive.expired()) return;
    }
    input_.erase(input_.begin(), input_.begin() + static_cast<std::ptrdiff_t>(at));
    Flush();
  }
  void Flush() {
    std::string message;
    while (!ended_ && session_->TakeOutput(&message)) {
      Bytes bytes;
      ByteWriter writer(&bytes);
      writer.U32(static_cast<uint32_t>(message.size()));
      writer.Raw(AsBytes(message));
      if (!connection_->Write(bytes).ok()) return End();
    }
  }
  void End() {
    if (std::exchange(ended_, true)) return;
    session_->OnClosed(Unavailable("the connection ended"));
    on_end_();
  }

  std::unique_ptr<Connection> connection_;
  LoopTask on_end_;
  std::unique_ptr<rpc::Session> session_;
  Bytes input_;
  bool ended_ = false;
  std::shared_ptr<int> alive_ = std::make_shared<int>();
};

// Serves an origin at "name:1".
class Server {
 public:
  Server(Simulation::Host& host, std::shared_ptr<Origin> origin)
      : host_(host), origin_(std::move(origin)) {
    listener_ = host.network()
                    .Listen(host.loop(), host.name() + ":1",
                            [this](std::unique_ptr<Connection> connection) {
                              const int id = next_++;
                              auto wire = std::make_unique<Wire>(
                                  host_.loop(), std::move(connection),
                                  ServeTier(origin_, host_.loop()), [this, id] {
                                    host_.loop().PostUrgent([this, id] { wires_.erase(id); });
                                  });
                              wires_.emplace(id, std::move(wire));
                            })
                    .value();
  }

 private:
  Simulation::Host& host_;
  std::shared_ptr<Origin> origin_;
  std::unique_ptr<Listener> listener_;
  int next_ = 0;
  std::map<int, std::unique_ptr<Wire>> wires_;
};

// A process with a Namespace behind which is another host; perhaps itself behind others.
class Node {
 public:
  Node(Simulation::Host& host, std::string behind, Clock& clock, bool serves)
      : host_(host), behind_(std::move(behind)) {
    remote_ = RemoteOrigin::Create(host.loop(), {.call_timeout_ms = 3000});
    kv_.emplace(Namespace::Open(remote_, {.hot_bytes_max = 256 << 10,
                                          .fresh_for_s = kFreshS,
                                          .absent_fresh_for_s = kFreshS,
                                          .clock = &clock,
                                          .loop = &host.loop(),
                                          .disk_directory = "cache",
                                          .disk_bytes_max = 1 << 20,
                                          .disk_segment_bytes = 64 << 10,
                                          .files = &host.files()})
                    .value());
    if (serves) server_.emplace(host, kv_->AsOrigin());
    Connect();
  }
  Namespace& kv() { return *kv_; }

 private:
  void Connect() {
    const std::weak_ptr<int> alive = alive_;
    host_.network().Connect(host_.loop(), behind_ + ":1",
                            [this, alive](StatusOr<std::unique_ptr<Connection>> connection) {
                              if (alive.expired()) return;
                              if (!connection.ok()) return Again();
                              wire_ = std::make_unique<Wire>(host_.loop(), *std::move(connection),
                                                             nullptr, [this] { Again(); });
                              remote_->SetPeer(wire_->main());
                            });
  }
  void Again() {
    remote_->SetPeer({});
    host_.loop().After(kSecond / 2, [this, alive = std::weak_ptr<int>(alive_)] {
      if (alive.expired()) return;
      wire_.reset();
      Connect();
    });
  }

  Simulation::Host& host_;
  std::string behind_;
  std::shared_ptr<int> alive_ = std::make_shared<int>();
  std::shared_ptr<RemoteOrigin> remote_;
  std::optional<Namespace> kv_;
  std::optional<Server> server_;
  std::unique_ptr<Wire> wire_;
};

// The writes of one key, all made at one edge, one after another.
struct History {
  int owner = 0;
  bool busy = false;                 // a write is under way
  uint64_t acknowledged = 0;         // the last one, 0: none
  std::set<uint64_t> uncertain;      // failed or under way since: each may have taken effect
  std::map<uint64_t, int64_t> gone;  // when a number was known to be overwritten
};

}  // namespace

TEST_CASE("three tiers keep their promises under partitions and restarts", "[kv][sim]") {
  const auto seed = GENERATE(range(1u, 13u));
  CAPTURE(seed);
  auto sim = Simulation::Create({.seed = seed,
                                 .network_delay_ns_max = 50'000'000,
                                 .connection_cut_chance = seed % 3 == 0 ? 0.002 : 0});
  Random& random = sim->random();
  const auto store = std::make_shared<MemoryOrigin>();  // the central one, which nothing kills
  Simulation::Host& central = sim->AddHost("central");
  std::optional<Server> central_server;
  central.Run([&] { central_server.emplace(central, store); });

  struct Process {
    Simulation::Host* host;
    std::string behind;
    bool serves;
    std::unique_ptr<Node> node;
  };
  std::vector<Process> processes;  // two regions, then four edges
  for (int r = 0; r < 2; ++r) {
    processes.push_back({&sim->AddHost("region" + std::to_string(r)), "central", true, nullptr});
  }
  for (int e = 0; e < 4; ++e) {
    processes.push_back({&sim->AddHost("edge" + std::to_string(e)),
                         "region" + std::to_string(e / 2), false, nullptr});
  }
  const auto start = [&](Process& process) {
    process.host->Run([&] {
      process.node =
          std::make_unique<Node>(*process.host, process.behind, sim->clock(), process.serves);
    });
  };
  for (Process& process : processes) start(process);
  sim->RunFor(2 * kSecond);

  std::map<std::string, History> histories;
  for (int k = 0; k < 8; ++k) histories["key" + std::to_string(k)].owner = k % 4;
  uint64_t number = 0;
  size_t reads = 0;
  size_t refused = 0;
  // How long what was overwritten may still be read: the freshness of two tiers, the seconds
  // that rounding takes, and calls that were under way.
  constexpr int64_t kBound = (2 * kFreshS + 2) * kSecond + 10 * kSecond;

  const auto write = [&](const std::string& key) {
    History& history = histories[key];
    Process& process = processes[static_cast<size_t>(2 + history.owner)];
    if (history.busy || process.node == nullptr) return;
    history.busy = true;
    const uint64_t value = ++number;
    history.uncertain.insert(value);
    process.host->Run([&] {
      process.node->kv().PutAsync(key, std::to_string(value), {},
                                  [&history, &sim, value](const Status& status) {
                                    history.busy = false;
                                    if (!status.ok()) return;  // it stays uncertain
                                    const int64_t now_ns = sim->clock().monotonic_ns();
                                    if (history.acknowledged != 0)
                                      history.gone[history.acknowledged] = now_ns;
                                    for (const uint64_t other : history.uncertain) {
                                      if (other < value) history.gone[other] = now_ns;
                                    }
                                    history.acknowledged = value;
                                    history.uncertain.erase(history.uncertain.begin(),
                                                            history.uncertain.upper_bound(value));
                                  });
    });
  };
  const auto read = [&](const std::string& key, int edge) {
    Process& process = processes[static_cast<size_t>(2 + edge)];
    History& history = histories[key];
    if (process.node == nullptr) return;
    const bool at_writer = history.owner == edge;
    const int64_t asked_ns = sim->clock().monotonic_ns();
    const uint64_t acknowledged = history.acknowledged;
    process.host->Run([&] {
      process.node->kv().GetAsync(key, {}, [&, at_writer, asked_ns, acknowledged](auto got) {
        if (!got.ok()) {
          ++refused;
          return;
        }
        ++reads;
        const uint64_t value = *got ? std::stoull((*got)->value) : 0;
        CAPTURE(key, value, acknowledged, at_writer);
        if (at_writer) {
          // Not before what was acknowledged when the read began; nothing that was lost.
          REQUIRE(value >= acknowledged);
          const auto gone = history.gone.find(value);
          REQUIRE((gone == history.gone.end() || gone->second >= asked_ns));
        } else {
          const auto gone = history.gone.find(value);
          if (gone != history.gone.end()) REQUIRE(gone->second + kBound >= asked_ns);
        }
      });
    });
  };

  for (int step = 0; step < 1500; ++step) {
    const std::string key = "key" + std::to_string(random.Below(8));
    const uint64_t what = random.Below(100);
    if (what < 25) {
      write(key);
    } else if (what < 95) {
      read(key, static_cast<int>(random.Below(4)));
    } else if (what < 97) {
      // Cut or mend one line, both ways.
      Process& process = processes[random.Below(processes.size())];
      Simulation::Host* behind = &central;
      for (Process& other : processes) {
        if (other.host->name() == process.behind) behind = other.host;
      }
      const bool cut = random.Below(3) == 0;
      sim->SetPartitioned(*process.host, *behind, cut);
      sim->SetPartitioned(*behind, *process.host, cut);
    } else if (what < 98) {
      Process& process = processes[random.Below(processes.size())];
      process.host->Crash([&] { process.node.reset(); });
      // Writes that it had under way will never be answered.
      for (auto& [name, history] : histories) {
        if (processes[static_cast<size_t>(2 + history.owner)].node == nullptr) history.busy = false;
      }
      start(process);
    }
    sim->RunFor(static_cast<int64_t>(random.Below(2000)) * 1'000'000);
  }
  // Peace: everybody ends with what the store has, and that is no write that was lost.
  for (Process& process : processes) {
    for (Process& other : processes) {
      if (&process != &other) sim->SetPartitioned(*process.host, *other.host, false);
    }
    sim->SetPartitioned(*process.host, central, false);
    sim->SetPartitioned(central, *process.host, false);
  }
  sim->RunFor(kBound + 60 * kSecond);
  for (const auto& [key, history] : histories) {
    CAPTURE(key);
    const auto stored = store->Get(key).value();
    const uint64_t last = stored ? std::stoull(stored->value) : 0;
    REQUIRE((last == history.acknowledged || history.uncertain.contains(last)));
    for (int edge = 0; edge < 4; ++edge) {
      std::optional<uint64_t> seen;
      Process& process = processes[static_cast<size_t>(2 + edge)];
      // Connections may still be cut, so more than one try.
      for (int tries = 0; tries < 30 && !seen; ++tries) {
        process.host->Run([&] {
          process.node->kv().GetAsync(key, {}, [&](auto got) {
            if (got.ok()) seen = *got ? std::stoull((*got)->value) : 0;
          });
        });
        sim->RunFor(10 * kSecond);
      }
      REQUIRE(seen == last);
    }
  }
  CHECK(reads > 150);
  CAPTURE(refused);
  for (Process& process : processes) process.host->Crash([&] { process.node.reset(); });
  central.Crash([&] { central_server.reset(); });
}
