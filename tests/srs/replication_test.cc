// Hosts and followers in one simulated world: quorum commits, take-over, fencing, reads.
#include <deque>
#include <memory>
#include <vector>

#include "edge/base/errors.h"
#include "edge/base/simulation.h"
#include "edge/srs/follower.h"
#include "edge/srs/relay.h"
#include "srs/link.h"
#include "tests/srs/srs_test_util.h"

namespace edge::srs {
namespace {

constexpr int64_t kSecond = 1'000'000'000;

// Five followers and as many hosts as a test starts.
class Cluster {
 public:
  explicit Cluster(uint64_t seed = 1) : sim_(Simulation::Create({.seed = seed})) {
    for (int i = 0; i < 5; ++i) {
      machines_.push_back(&sim_->AddHost("f" + std::to_string(i)));
      followers_.emplace_back();
      StartFollower(i);
    }
  }
  ~Cluster() {
    for (auto& [machine, host] : hosts_) {
      machine->Run([&h = host] {
        h.db.reset();
        h.relay.reset();
        h.opening.reset();
      });
    }
    for (int i = 0; i < 5; ++i) StopFollower(i);
  }

  struct Host {
    std::unique_ptr<Relay::Opening> opening;
    std::unique_ptr<Relay> relay;
    std::unique_ptr<Database> db;
    Status opened = UnknownYet();
    static Status UnknownYet() { return Status(StatusCode::kUnknown, "opening"); }
  };

  std::string AddressOf(int i) const { return "f" + std::to_string(i) + ":7000"; }
  void StartFollower(int i) {
    auto& machine = *machines_[static_cast<size_t>(i)];
    machine.Run([&] {
      auto made = Follower::Create(machine.loop(), {.directory = "follower",
                                                    .address = AddressOf(i),
                                                    .store = store_,
                                                    .upload_after_ms = upload_after_ms,
                                                    .journal_file_bytes = 64 << 10,
                                                    .files = &machine.files(),
                                                    .network = &machine.network(),
                                                    .random = &machine.random()});
      INFO(made.status().ToString());
      REQUIRE(made.ok());
      followers_[static_cast<size_t>(i)] = *std::move(made);
    });
  }
  void StopFollower(int i) {
    machines_[static_cast<size_t>(i)]->Run(
        [this, i] { followers_[static_cast<size_t>(i)].reset(); });
  }
  void CrashFollower(int i) {
    machines_[static_cast<size_t>(i)]->Crash(
        [this, i] { followers_[static_cast<size_t>(i)].reset(); });
  }
  Follower& follower(int i) { return *followers_[static_cast<size_t>(i)]; }

  Simulation::Host& machine(const std::string& name) {
    for (auto& [machine, host] : hosts_) {
      if (machine->name() == name) return *machine;
    }
    auto& made = sim_->AddHost(name);
    hosts_.emplace_back(&made, Host{});
    return made;
  }
  Host& host(const std::string& name) {
    auto& m = machine(name);
    for (auto& [known, host] : hosts_) {
      if (known == &m) return host;
    }
    std::abort();
  }
  // Takes the group over; waits until it has or cannot.
  Status Open(const std::string& name, std::vector<int> members = {0, 1, 2, 3, 4}) {
    auto& m = machine(name);
    Host& h = host(name);
    h.opened = Host::UnknownYet();
    m.Run([&] {
      RelayOptions options;
      options.directory = "data";
      options.store = store_;
      options.journal_file_bytes = 64 << 10;
      options.files = &m.files();
      options.clock = &sim_->clock();
      options.random = &m.random();
      options.background_threads = false;
      for (const int i : members) options.replication.followers.push_back(AddressOf(i));
      options.replication.quorum = static_cast<int>(members.size()) / 2 + 1;
      options.replication.network = &m.network();
      options.replication.loop = &m.loop();
      options.replication.host_name = name;
      options.replication.lease_ms = 2000;
      h.opening = Relay::OpenOnLoop(options, [&h](StatusOr<std::unique_ptr<Relay>> relay) {
        h.opened = relay.status();
        if (relay.ok()) h.relay = *std::move(relay);
      });
    });
    sim_->RunUntil([&h] { return h.opened.code() != StatusCode::kUnknown; }, 60 * kSecond);
    if (!h.opened.ok()) return h.opened;
    m.Run([&] { h.db = h.relay->OpenDatabase("t").value(); });
    return OkStatus();
  }
  void Work(const std::string& name) {
    auto& m = machine(name);
    Host& h = host(name);
    m.Run([&h] {
      while (h.relay->RunBackgroundStep()) {
      }
    });
  }
  // Commits one row and waits until it is confirmed, refused, or a minute has passed.
  Status Insert(const std::string& name, int value) {
    auto& m = machine(name);
    Host& h = host(name);
    Status result = Host::UnknownYet();
    m.Run([&] {
      MustRun(h.db->handle(), "CREATE TABLE IF NOT EXISTS t(v INTEGER PRIMARY KEY)");
      const int code = Run(h.db->handle(), "INSERT INTO t VALUES(" + std::to_string(value) + ")");
      if (code != SQLITE_OK) {
        result = h.db->health().ok() ? Status(Internal("{}", sqlite3_errmsg(h.db->handle())))
                                     : h.db->health();
        return;
      }
      auto shared = std::make_shared<Status>(Host::UnknownYet());
      last_ = shared;
      h.db->OnDurable(h.db->lsn(), [shared](Status status) { *shared = std::move(status); });
    });
    if (result.code() != StatusCode::kUnknown) return result;
    Work(name);
    sim_->RunUntil([this] { return last_->code() != StatusCode::kUnknown; }, 60 * kSecond);
    return *last_;
  }
  std::string Rows(const std::string& name) {
    return Ask(host(name).db->handle(), "SELECT group_concat(v) FROM t");
  }
  void Crash(const std::string& name) {
    auto& m = machine(name);
    Host& h = host(name);
    m.Crash([&h] {
      h.db.reset();
      h.relay.reset();
      h.opening.reset();
    });
  }
  Simulation& sim() { return *sim_; }
  Simulation::Host& follower_machine(int i) { return *machines_[static_cast<size_t>(i)]; }
  ObjectStore& store() { return *store_; }
  int64_t upload_after_ms = 30'000;

 private:
  std::unique_ptr<Simulation> sim_;
  std::shared_ptr<ObjectStore> store_ = MemoryStore();
  std::vector<Simulation::Host*> machines_;
  std::vector<std::unique_ptr<Follower>> followers_;
  std::deque<std::pair<Simulation::Host*, Host>> hosts_;
  std::shared_ptr<Status> last_;
};

#define REQUIRE_OK(expr)           \
  do {                             \
    const Status status_ = (expr); \
    INFO(status_.ToString());      \
    REQUIRE(status_.ok());         \
  } while (false)

TEST_CASE("a commit is confirmed by three of five followers, and not by two",
          "[srs][replication]") {
  Cluster cluster;
  REQUIRE_OK(cluster.Open("h1"));
  CHECK(cluster.host("h1").relay->epoch() == 1);
  CHECK(cluster.host("h1").db->durability() == Durability::kQuorum);
  REQUIRE_OK(cluster.Insert("h1", 1));
  cluster.CrashFollower(0);
  cluster.CrashFollower(1);
  REQUIRE_OK(cluster.Insert("h1", 2));
  cluster.CrashFollower(2);
  CHECK(cluster.Insert("h1", 3).code() == StatusCode::kUnknown);  // still waiting after a minute
  CHECK(cluster.host("h1").db->durable_lsn(Durability::kLocal) == 4);
  CHECK(cluster.host("h1").db->durable_lsn(Durability::kQuorum) == 3);
  cluster.StartFollower(2);  // catches up after the gap
  REQUIRE_OK(cluster.Insert("h1", 4));
  CHECK(cluster.host("h1").db->durable_lsn(Durability::kQuorum) == 5);
}

TEST_CASE("another host takes over what was confirmed, with two followers dead",
          "[srs][replication]") {
  const auto seed = GENERATE(range(1u, 9u));
  CAPTURE(seed);
  Cluster cluster(seed);
  REQUIRE_OK(cluster.Open("h1"));
  for (int i = 1; i <= 5; ++i) REQUIRE_OK(cluster.Insert("h1", i));
  cluster.Crash("h1");
  cluster.CrashFollower(static_cast<int>(seed % 5));
  cluster.CrashFollower(static_cast<int>((seed + 1) % 5));
  REQUIRE_OK(cluster.Open("h2"));
  CHECK(cluster.host("h2").relay->epoch() == 2);
  CHECK(cluster.Rows("h2") == "1,2,3,4,5");
  REQUIRE_OK(cluster.Insert("h2", 6));
  // And back: the first host's disk has an older state, which it must not use.
  cluster.StartFollower(static_cast<int>(seed % 5));
  REQUIRE_OK(cluster.Open("h1"));
  CHECK(cluster.host("h1").relay->epoch() == 3);
  CHECK(cluster.Rows("h1") == "1,2,3,4,5,6");
  CHECK(cluster.Insert("h2", 7).code() == StatusCode::kAborted);
  REQUIRE_OK(cluster.Insert("h1", 8));
  CHECK(cluster.Rows("h1") == "1,2,3,4,5,6,8");
}

TEST_CASE("with three of five followers gone nobody takes over, and the error says which",
          "[srs][replication]") {
  Cluster cluster;
  REQUIRE_OK(cluster.Open("h1"));
  REQUIRE_OK(cluster.Insert("h1", 1));
  cluster.Crash("h1");
  for (int i = 0; i < 3; ++i) cluster.CrashFollower(i);
  const Status refused = cluster.Open("h2");
  CHECK(refused.code() == StatusCode::kUnavailable);
  INFO(refused.ToString());
  CHECK(Message(refused).find("2 of 5 followers are sealed, 3 needed") != std::string_view::npos);
  CHECK(Message(refused).find("f0:7000") != std::string_view::npos);
  for (int i = 0; i < 3; ++i) cluster.StartFollower(i);
  REQUIRE_OK(cluster.Open("h2"));
  CHECK(cluster.Rows("h2") == "1");
}

TEST_CASE("a follower that has lost its disk counts again only from the next epoch",
          "[srs][replication]") {
  Cluster cluster;
  REQUIRE_OK(cluster.Open("h1"));
  REQUIRE_OK(cluster.Insert("h1", 1));
  for (int i = 0; i < 3; ++i) {
    cluster.CrashFollower(i);
    auto& files = cluster.follower_machine(i).files();
    const auto entries = files.List("follower/journal").value();
    for (const DirectoryEntry& entry : entries) {
      REQUIRE(files.Remove("follower/journal/" + entry.name).ok());
    }
    cluster.StartFollower(i);
  }
  CHECK(cluster.Insert("h1", 2).code() == StatusCode::kUnknown);
  cluster.Crash("h1");
  const Status refused = cluster.Open("h2");
  CHECK(refused.code() == StatusCode::kUnavailable);
  CHECK(Message(refused).find("has lost its disk") != std::string_view::npos);
}

TEST_CASE("the set of followers changes with the epoch", "[srs][replication]") {
  Cluster cluster;
  REQUIRE_OK(cluster.Open("h1", {0, 1, 2}));
  REQUIRE_OK(cluster.Insert("h1", 1));
  cluster.Crash("h1");
  REQUIRE_OK(cluster.Open("h1", {2, 3, 4}));
  REQUIRE_OK(cluster.Insert("h1", 2));
  cluster.Crash("h1");
  cluster.CrashFollower(0);
  cluster.CrashFollower(1);
  cluster.CrashFollower(2);
  REQUIRE_OK(cluster.Open("h2", {3, 4, 0}));
  CHECK(cluster.Rows("h2") == "1,2");
}

TEST_CASE("followers delete what is in the store", "[srs][replication]") {
  Cluster cluster;
  REQUIRE_OK(cluster.Open("h1"));
  for (int i = 1; i <= 20; ++i) REQUIRE_OK(cluster.Insert("h1", i));
  CHECK(cluster.follower(0).groups()[0].base_index == 0);
  cluster.machine("h1").Run([&] { REQUIRE(cluster.host("h1").relay->Flush().ok()); });
  cluster.sim().RunFor(5 * kSecond);
  for (int i = 0; i < 5; ++i) CHECK(cluster.follower(i).groups()[0].base_index >= 20);
  REQUIRE_OK(cluster.Insert("h1", 21));
  cluster.Crash("h1");
  REQUIRE_OK(cluster.Open("h2"));
  CHECK(Ask(cluster.host("h2").db->handle(), "SELECT count(*), sum(v) FROM t") == "21|231");
}

TEST_CASE("followers upload what no host has stored for long, and a take-over finds it",
          "[srs][replication]") {
  Cluster cluster;
  REQUIRE_OK(cluster.Open("h1"));
  for (int i = 1; i <= 3; ++i) REQUIRE_OK(cluster.Insert("h1", i));
  cluster.Crash("h1");
  cluster.sim().RunFor(120 * kSecond);
  CHECK(!cluster.store().List("v1/tail/main/").value().empty());
  CHECK(cluster.follower(0).groups()[0].uploaded_index ==
        cluster.follower(0).groups()[0].last_index);
  REQUIRE_OK(cluster.Open("h2"));
  CHECK(cluster.Rows("h2") == "1,2,3");
}

TEST_CASE("reads are confirmed by a lease or a barrier, and refused to a host without followers",
          "[srs][replication]") {
  Cluster cluster;
  REQUIRE_OK(cluster.Open("h1"));
  REQUIRE_OK(cluster.Insert("h1", 1));
  cluster.sim().RunFor(2 * kSecond);
  const auto ask = [&](ReadMode mode) {
    auto answer = std::make_shared<Status>(Cluster::Host::UnknownYet());
    cluster.machine("h1").Run([&] {
      cluster.host("h1").relay->OnReadable(
          mode, [answer](Status status) { *answer = std::move(status); });
    });
    cluster.sim().RunFor(3 * kSecond);
    return *answer;
  };
  CHECK(ask(ReadMode::kLease).ok());
  CHECK(ask(ReadMode::kBarrier).ok());
  for (int i = 0; i < 5; ++i) {
    cluster.sim().SetPartitioned(cluster.machine("h1"), cluster.follower_machine(i), true);
  }
  cluster.sim().RunFor(3 * kSecond);
  CHECK(ask(ReadMode::kLease).code() == StatusCode::kUnavailable);
  CHECK(ask(ReadMode::kBarrier).code() == StatusCode::kUnknown);
  CHECK(ask(ReadMode::kLocal).ok());
}

TEST_CASE("a link under a shared secret carries data, and another secret is refused",
          "[srs][replication]") {
  auto sim = Simulation::Create({.seed = 5});
  auto& a = sim->AddHost("a");
  auto& b = sim->AddHost("b");
  auto good = SecureNetwork(a.network(), "sixteen bytes at least").value();
  auto same = SecureNetwork(b.network(), "sixteen bytes at least").value();
  auto other = SecureNetwork(b.network(), "another secret, long too").value();
  CHECK(SecureNetwork(a.network(), "short").status().code() == StatusCode::kInvalidArgument);
  std::unique_ptr<Listener> listener;
  std::vector<std::unique_ptr<Connection>> open;
  Bytes got;
  a.Run([&] {
    listener =
        good->Listen(a.loop(), "a:1",
                     [&](std::unique_ptr<Connection> accepted) {
                       accepted->Start({.on_data =
                                            [&got](ByteView bytes) {
                                              got.insert(got.end(), bytes.begin(), bytes.end());
                                            },
                                        .on_close = [](const Status&) {},
                                        .on_drained = nullptr});
                       open.push_back(std::move(accepted));
                     })
            .value();
  });
  Status closed;
  const auto connect = [&](Network& network) {
    b.Run([&] {
      network.Connect(b.loop(), "a:1", [&](StatusOr<std::unique_ptr<Connection>> made) {
        REQUIRE(made.ok());
        (*made)->Start({.on_data = [](ByteView) {},
                        .on_close = [&closed](const Status& status) { closed = status; },
                        .on_drained = nullptr});
        REQUIRE((*made)->Write(Bytes(100'000, std::byte{7})).ok());
        open.push_back(*std::move(made));
      });
    });
    sim->RunFor(5 * kSecond);
  };
  connect(*same);
  CHECK(got == Bytes(100'000, std::byte{7}));
  CHECK(closed.ok());
  connect(*other);
  CHECK(got.size() == 100'000);
  CHECK(closed.code() == StatusCode::kUnauthenticated);
  a.Run([&] { listener.reset(); });
  open.clear();
}

}  // namespace
}  // namespace edge::srs
