#include "tests/sim/srs_world.h"

#include <sqlite3.h>

#include <algorithm>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <utility>

#include "edge/base/errors.h"
#include "edge/base/file_system.h"
#include "edge/base/random.h"
#include "edge/base/simulation.h"
#include "edge/srs/follower.h"
#include "edge/srs/object_store.h"
#include "edge/srs/relay.h"

namespace edge::srs {

Bug planted_bug = Bug::kNone;

namespace {

constexpr int64_t kMs = 1'000'000;
constexpr int64_t kSecond = 1'000'000'000;

constexpr const char* kActionNames[] = {"commit",         "work",           "open",
                                        "crash host",     "close host",     "lose host disk",
                                        "crash follower", "start follower", "lose follower disk",
                                        "partition",      "heal",           "disk faults",
                                        "store faults",   "read",           "flush"};

// A machine's own clock: a little faster or slower than the world's.
class DriftingClock final : public Clock {
 public:
  DriftingClock(Clock& base, double rate) : base_(base), rate_(rate) {}
  int64_t monotonic_ns() const override {
    return static_cast<int64_t>(static_cast<double>(base_.monotonic_ns()) * rate_);
  }
  int64_t wall_ms() const override { return base_.wall_ms(); }

 private:
  Clock& base_;
  const double rate_;
};

// The store that all share. Some calls fail, some after they have worked.
class FlakyStore final : public ObjectStore {
 public:
  explicit FlakyStore(uint64_t seed) : random_(seed) {}
  double failure_chance = 0;
  uint64_t faults = 0;

  StatusOr<std::string> Put(const std::string& key, ByteView content,
                            const PutCondition& condition) override {
    if (Fails()) return Unavailable("503");
    auto put = base_->Put(key, content, condition);
    if (Fails()) return DeadlineExceeded("no answer");
    return put;
  }
  StatusOr<Bytes> Get(const std::string& key, const ByteRange& range) override {
    if (Fails()) return Unavailable("503");
    return base_->Get(key, range);
  }
  StatusOr<ObjectInfo> Head(const std::string& key) override {
    if (Fails()) return Unavailable("503");
    return base_->Head(key);
  }
  StatusOr<std::vector<ObjectInfo>> List(const std::string& prefix, const std::string& after,
                                         size_t count_max) override {
    if (Fails()) return Unavailable("503");
    return base_->List(prefix, after, count_max);
  }
  Status Delete(const std::string& key) override {
    if (Fails()) return Unavailable("503");
    return base_->Delete(key);
  }

 private:
  bool Fails() {
    if (failure_chance == 0 || random_.Unit() >= failure_chance) return false;
    ++faults;
    return true;
  }
  std::unique_ptr<ObjectStore> base_ = MemoryStore();
  SeededRandom random_;
};

struct Machine {
  Simulation::Host* host = nullptr;
  std::unique_ptr<FaultyFileSystem> files;
  std::unique_ptr<DriftingClock> clock;
  double disk_failure_chance = 0;
};

struct FollowerMachine : Machine {
  std::unique_ptr<Follower> follower;
};

struct HostMachine : Machine {
  std::unique_ptr<Relay::Opening> opening;
  std::unique_ptr<Relay> relay;
  std::vector<std::unique_ptr<Database>> dbs;
  uint64_t incarnation = 0;  // callbacks of an earlier one are of no matter
};

constexpr size_t kDatabases = 2;

class World {
 public:
  World(const Plan& plan, const std::set<size_t>& skipped)
      : plan_(plan),
        skipped_(skipped),
        sim_(Simulation::Create({.seed = plan.seed,
                                 .network_delay_ns_max = plan.delay_ns_max,
                                 .connection_cut_chance = plan.cut_chance})),
        store_(std::make_shared<FlakyStore>(plan.seed * 7 + 1)),
        disk_random_(plan.seed * 11 + 3),
        drift_random_(plan.seed * 13 + 5) {}
  ~World() {
    for (HostMachine& h : hosts_) CloseHost(h);
    for (FollowerMachine& f : followers_) {
      f.host->Run([&f] { f.follower.reset(); });
    }
  }

  Outcome Run();

 private:
  void AddMachine(Machine& m, const std::string& name);
  void Fail(const std::string& what) {
    if (outcome_.violation.empty()) outcome_.violation = what;
  }
  std::string AddressOf(size_t i) const { return Format("f{}:1", {i}); }
  void StartFollower(size_t i);
  void CrashFollower(size_t i);
  void Open(size_t i);
  void OnOpened(size_t i, StatusOr<std::unique_ptr<Relay>> relay);
  void CloseHost(HostMachine& h);
  void CrashHost(HostMachine& h);
  void Wipe(MemoryFileSystem& files);
  void Commit(size_t i, size_t db, uint64_t count, bool work);
  void Work(HostMachine& h);
  void Read(size_t i, size_t db, ReadMode mode);
  void Do(const Action& action);
  void Heal();
  void CheckLiveness();
  std::optional<std::set<int64_t>> RowsOf(Database& db);

  const Plan& plan_;
  const std::set<size_t>& skipped_;
  std::unique_ptr<Simulation> sim_;
  std::shared_ptr<FlakyStore> store_;
  SeededRandom disk_random_;
  SeededRandom drift_random_;
  std::deque<FollowerMachine> followers_;
  std::deque<HostMachine> hosts_;
  std::set<std::pair<std::string, std::string>> cut_;
  int followers_lost_ = 0;
  int64_t next_value_ = 1;
  // What was ever confirmed: value by lsn, per database; and what newer owners found.
  std::map<Lsn, int64_t> ledger_[kDatabases];
  std::set<int64_t> confirmed_[kDatabases];
  std::map<uint64_t, std::set<int64_t>> found_by_epoch_[kDatabases];
  Outcome outcome_;
};

bool RunSql(sqlite3* db, const std::string& sql) {
  return sqlite3_exec(db, sql.c_str(), nullptr, nullptr, nullptr) == SQLITE_OK;
}

void World::AddMachine(Machine& m, const std::string& name) {
  m.host = &sim_->AddHost(name);
  const double drift = (drift_random_.Unit() * 2 - 1) * plan_.clock_drift;
  m.clock = std::make_unique<DriftingClock>(sim_->clock(), 1.0 + drift);
  m.files = FaultyFileSystem::Create(
      m.host->files(), [this, &m](FaultyFileSystem::Operation operation, const std::string&) {
        FaultyFileSystem::Decision decision;
        if (m.disk_failure_chance == 0 || disk_random_.Unit() >= m.disk_failure_chance) {
          return decision;
        }
        using Operation = FaultyFileSystem::Operation;
        if (operation != Operation::kWrite && operation != Operation::kSync &&
            operation != Operation::kAllocate && operation != Operation::kOpen &&
            operation != Operation::kSyncDirectory) {
          return decision;
        }
        ++outcome_.faults;
        decision.status = Unavailable("injected disk error");
        decision.torn_bytes = 512 * disk_random_.Below(9);
        return decision;
      });
}

void World::StartFollower(size_t i) {
  FollowerMachine& f = followers_[i];
  if (f.follower != nullptr && f.follower->health().ok()) return;
  f.host->Run([&] {
    f.follower.reset();
    auto made = Follower::Create(f.host->loop(), {.directory = "follower",
                                                  .address = AddressOf(i),
                                                  .store = store_,
                                                  .upload_after_ms = 5'000,
                                                  .lease_ms_max = 10'000,
                                                  .journal_file_bytes = 64 << 10,
                                                  .files = f.files.get(),
                                                  .network = &f.host->network(),
                                                  .random = &f.host->random(),
                                                  .clock = f.clock.get()});
    if (made.ok()) {
      f.follower = *std::move(made);
    } else if (made.status().code() == StatusCode::kDataLoss) {
      Fail(Format("follower {} cannot start: {}", {i, Message(made.status())}));
    }
  });
}

void World::CrashFollower(size_t i) {
  FollowerMachine& f = followers_[i];
  f.host->Crash([&f] { f.follower.reset(); });
}

void World::Wipe(MemoryFileSystem& files) {
  for (const char* folder : {"follower/journal", "data/journal", "data/databases"}) {
    const auto entries = files.List(folder);
    if (!entries.ok()) continue;
    for (const DirectoryEntry& entry : *entries) {
      files.Remove(std::string(folder) + "/" + entry.name).IgnoreError();
    }
    files.SyncDirectory(folder).IgnoreError();
  }
}

std::optional<std::set<int64_t>> World::RowsOf(Database& db) {
  sqlite3_stmt* statement = nullptr;
  std::set<int64_t> rows;
  if (sqlite3_prepare_v2(db.handle(), "SELECT v, length(b) FROM t", -1, &statement, nullptr) !=
      SQLITE_OK) {
    return std::nullopt;
  }
  int code;
  while ((code = sqlite3_step(statement)) == SQLITE_ROW) {
    rows.insert(sqlite3_column_int64(statement, 0));
    const int64_t wanted = sqlite3_column_int64(statement, 0) % 300;
    if (sqlite3_column_int64(statement, 1) != wanted) Fail("a row has the wrong content");
  }
  sqlite3_finalize(statement);
  if (code == SQLITE_DONE) return rows;
  return std::nullopt;
}

void World::Open(size_t i) {
  HostMachine& h = hosts_[i];
  if (h.relay != nullptr && h.relay->health().ok()) return;
  CloseHost(h);
  h.host->Run([&] {
    RelayOptions options;
    options.directory = "data";
    options.store = store_;
    options.batch_interval_ms = plan_.batch_interval_ms;
    options.journal_file_bytes = 64 << 10;
    options.files = h.files.get();
    options.clock = h.clock.get();
    options.random = &h.host->random();
    options.background_threads = false;
    ReplicationOptions& r = options.replication;
    for (size_t f = 0; f < followers_.size(); ++f) r.followers.push_back(AddressOf(f));
    r.quorum = plan_.quorum;
    r.network = &h.host->network();
    r.loop = &h.host->loop();
    r.takeover_timeout_ms = 8'000;
    r.beat_interval_ms = plan_.beat_interval_ms;
    r.lease_ms = plan_.lease_ms;
    h.opening = Relay::OpenOnLoop(options, [this, i](StatusOr<std::unique_ptr<Relay>> relay) {
      OnOpened(i, std::move(relay));
    });
  });
}

void World::OnOpened(size_t i, StatusOr<std::unique_ptr<Relay>> relay) {
  HostMachine& h = hosts_[i];
  const auto judge = [&](const Status& status) {
    const StatusCode code = status.code();
    if (code == StatusCode::kDataLoss || code == StatusCode::kInternal ||
        code == StatusCode::kNotFound) {
      Fail(Format("host {} cannot open: {}", {i, status.ToString()}));
    }
  };
  if (!relay.ok()) return judge(relay.status());
  h.relay = *std::move(relay);
  ++outcome_.takeovers;
  for (size_t d = 0; d < kDatabases; ++d) {
    auto db = h.relay->OpenDatabase(Format("db{}", {d}));
    if (!db.ok()) {
      judge(db.status());
      h.dbs.clear();
      h.relay.reset();
      return;
    }
    RunSql((*db)->handle(), "CREATE TABLE IF NOT EXISTS t(v INTEGER PRIMARY KEY, b BLOB)");
    const auto rows = RowsOf(**db);
    if (!rows) {
      if ((*db)->health().ok()) Fail(Format("host {}: db{} cannot be read", {i, d}));
      db->reset();
      h.dbs.clear();
      h.relay.reset();
      return;
    }
    if (!std::ranges::includes(*rows, confirmed_[d])) {
      std::vector<int64_t> lost;
      std::ranges::set_difference(confirmed_[d], *rows, std::back_inserter(lost));
      Fail(Format("epoch {} on host {}: db{} has lost {} confirmed commits, first {}",
                  {h.relay->epoch(), i, d, lost.size(), lost[0]}));
    }
    found_by_epoch_[d][h.relay->epoch()] = *rows;
    h.dbs.push_back(*std::move(db));
  }
}

void World::CloseHost(HostMachine& h) {
  ++h.incarnation;
  h.host->Run([&h] {
    h.dbs.clear();
    h.relay.reset();
    h.opening.reset();
  });
}

void World::CrashHost(HostMachine& h) {
  ++h.incarnation;
  h.host->Crash([&h] {
    h.dbs.clear();
    h.relay.reset();
    h.opening.reset();
  });
}

void World::Work(HostMachine& h) {
  if (h.relay == nullptr) return;
  h.host->Run([&h] {
    for (int steps = 0; steps < 100 && h.relay->RunBackgroundStep(); ++steps) {
    }
  });
}

void World::Commit(size_t i, size_t d, uint64_t count, bool work) {
  HostMachine& h = hosts_[i];
  if (h.relay == nullptr || h.dbs.size() <= d) return;
  h.host->Run([&] {
    for (uint64_t n = 0; n < count; ++n) {
      Database& db = *h.dbs[d];
      const int64_t value = next_value_++;
      if (!RunSql(db.handle(),
                  Format("INSERT INTO t VALUES({}, zeroblob({}))", {value, value % 300}))) {
        return;
      }
      const Lsn lsn = db.lsn();
      const uint64_t epoch = h.relay->epoch();
      db.OnDurable(lsn, Durability::kQuorum, [this, d, lsn, value, epoch](const Status& status) {
        if (!status.ok()) return;
        ++outcome_.confirmed;
        const auto [it, is_new] = ledger_[d].emplace(lsn, value);
        if (!is_new && it->second != value) {
          Fail(Format("db{} commit {} was confirmed as {} and as {}", {d, lsn, it->second, value}));
        }
        confirmed_[d].insert(value);
        for (auto later = found_by_epoch_[d].upper_bound(epoch); later != found_by_epoch_[d].end();
             ++later) {
          if (!later->second.contains(value)) {
            Fail(Format("db{}: {} was confirmed in epoch {}, and epoch {} began without it",
                        {d, value, epoch, later->first}));
          }
        }
      });
    }
  });
  if (work) Work(h);
}

void World::Read(size_t i, size_t d, ReadMode mode) {
  HostMachine& h = hosts_[i];
  if (h.relay == nullptr || h.dbs.size() <= d) return;
  h.host->Run([&] {
    h.relay->OnReadable(mode, [this, &h, i, d, mode, incarnation = h.incarnation,
                               before = confirmed_[d]](const Status& status) {
      if (!status.ok() || incarnation != h.incarnation || h.dbs.size() <= d) return;
      const auto rows = RowsOf(*h.dbs[d]);
      if (!rows) return;
      ++outcome_.reads;
      if (!std::ranges::includes(*rows, before)) {
        Fail(Format("host {}: a stale read of db{} in mode {}", {i, d, mode}));
      }
    });
  });
}

void World::Heal() {
  for (HostMachine& h : hosts_) {
    for (FollowerMachine& f : followers_) {
      sim_->SetPartitioned(*h.host, *f.host, false);
      sim_->SetPartitioned(*f.host, *h.host, false);
    }
  }
  cut_.clear();
}

void World::Do(const Action& action) {
  HostMachine& h = hosts_[action.a % hosts_.size()];
  const size_t host = action.a % hosts_.size();
  const size_t f = action.b % followers_.size();
  switch (action.kind) {
    case ActionKind::kCommit:
      Commit(host, action.b % kDatabases, 1 + action.c % 4, action.c % 5 != 0);
      break;
    case ActionKind::kWork:
      Work(h);
      break;
    case ActionKind::kOpen:
      Open(host);
      break;
    case ActionKind::kCrashHost:
      CrashHost(h);
      break;
    case ActionKind::kCloseHost:
      CloseHost(h);
      break;
    case ActionKind::kLoseHostDisk:
      CrashHost(h);
      Wipe(h.host->files());
      break;
    case ActionKind::kCrashFollower:
      CrashFollower(f);
      if (action.c % 2 != 0) StartFollower(f);
      break;
    case ActionKind::kStartFollower:
      StartFollower(f);
      break;
    case ActionKind::kLoseFollowerDisk:
      // As many as a quorum bears: more would lose data by right.
      if (followers_lost_ + 1 >= plan_.quorum) return;
      ++followers_lost_;
      CrashFollower(f);
      Wipe(followers_[f].host->files());
      StartFollower(f);
      break;
    case ActionKind::kPartition: {
      Simulation::Host& peer = *followers_[f].host;
      if (action.c % 3 != 0) sim_->SetPartitioned(*h.host, peer, true);
      if (action.c % 3 != 1) sim_->SetPartitioned(peer, *h.host, true);
      break;
    }
    case ActionKind::kHeal:
      Heal();
      break;
    case ActionKind::kDiskFaults: {
      Machine& m = action.c % 2 != 0 ? static_cast<Machine&>(h) : followers_[f];
      m.disk_failure_chance = m.disk_failure_chance == 0 ? 0.05 : 0;
      break;
    }
    case ActionKind::kStoreFaults:
      store_->failure_chance = store_->failure_chance == 0 ? 0.2 : 0;
      break;
    case ActionKind::kRead:
      Read(host, action.b % kDatabases, action.c % 2 != 0 ? ReadMode::kLease : ReadMode::kBarrier);
      break;
    case ActionKind::kFlush:
      if (h.relay != nullptr) {
        h.host->Run([&h] { h.relay->Flush().IgnoreError(); });
      }
      break;
    case ActionKind::kCount:
      break;
  }
  if (action.is_fault()) ++outcome_.faults;
}

// Nothing fails any more: a host that has never run must take over, find everything and
// confirm a commit.
void World::CheckLiveness() {
  Heal();
  store_->failure_chance = 0;
  for (Machine& m : hosts_) m.disk_failure_chance = 0;
  for (size_t i = 0; i < followers_.size(); ++i) {
    followers_[i].disk_failure_chance = 0;
    StartFollower(i);
  }
  for (HostMachine& h : hosts_) CrashHost(h);
  hosts_.emplace_back();
  const size_t last = hosts_.size() - 1;
  AddMachine(hosts_[last], "fresh");
  for (int tries = 0; tries < 4 && hosts_[last].relay == nullptr; ++tries) {
    Open(last);
    sim_->RunUntil([&] { return hosts_[last].relay != nullptr || !outcome_.violation.empty(); },
                   20 * kSecond);
  }
  if (!outcome_.violation.empty()) return;
  if (hosts_[last].relay == nullptr) return Fail("no host can take over after all has healed");
  const uint64_t before = outcome_.confirmed;
  Commit(last, 0, 1, true);
  sim_->RunUntil([&] { return outcome_.confirmed > before; }, 20 * kSecond);
  if (outcome_.confirmed != before) return;
  HostMachine& h = hosts_[last];
  std::string why = h.relay->health().ToString();
  if (!h.dbs.empty()) {
    why += Format(", commit {}, journalled {}, confirmed {}",
                  {h.dbs[0]->lsn(), h.dbs[0]->durable_lsn(Durability::kLocal),
                   h.dbs[0]->durable_lsn(Durability::kQuorum)});
  }
  for (const FollowerMachine& f : followers_) {
    if (f.follower == nullptr) continue;
    for (const FollowerGroup& g : f.follower->groups()) {
      why +=
          Format("; promised {}, base {}, last {}", {g.promised_epoch, g.base_index, g.last_index});
    }
  }
  Fail("nothing is confirmed after all has healed: " + why);
}

Outcome World::Run() {
  for (int i = 0; i < plan_.followers; ++i) {
    followers_.emplace_back();
    AddMachine(followers_.back(), Format("f{}", {i}));
    StartFollower(static_cast<size_t>(i));
  }
  for (int i = 0; i < plan_.hosts; ++i) {
    hosts_.emplace_back();
    AddMachine(hosts_.back(), Format("h{}", {i}));
  }
  Open(0);
  sim_->RunFor(200 * kMs);
  for (size_t i = 0; i < plan_.actions.size() && outcome_.violation.empty(); ++i) {
    const Action& action = plan_.actions[i];
    sim_->RunFor(action.wait_ns);
    if (!skipped_.contains(i)) Do(action);
    if (i % 4 == 0) {
      for (HostMachine& h : hosts_) Work(h);
    }
  }
  if (outcome_.violation.empty()) CheckLiveness();
  outcome_.faults += store_->faults;
  outcome_.virtual_ns = sim_->clock().monotonic_ns();
  outcome_.trace_hash = sim_->trace_hash();
  return std::move(outcome_);
}

}  // namespace

bool Action::is_fault() const {
  switch (kind) {
    case ActionKind::kCommit:
    case ActionKind::kWork:
    case ActionKind::kStartFollower:
    case ActionKind::kHeal:
    case ActionKind::kRead:
    case ActionKind::kFlush:
    case ActionKind::kOpen:
      return false;
    default:
      return true;
  }
}

std::string Action::ToString() const {
  return Format("{}({}, {}, {}) after {} ms",
                {kActionNames[static_cast<size_t>(kind)], a, b, c, wait_ns / kMs});
}

std::string Plan::ToString() const {
  return Format(
      "seed {}: {} hosts, {} followers, quorum {}, lease {} ms, beat {} ms, batch {} ms, delay "
      "{} us, cuts {}, drift {}",
      {seed, hosts, followers, quorum, lease_ms, beat_interval_ms, batch_interval_ms,
       delay_ns_max / 1000, cut_chance, clock_drift});
}

Plan MakePlan(uint64_t seed) {
  SeededRandom random(seed);
  Plan plan;
  plan.seed = seed;
  plan.followers = random.Below(3) == 0 ? 5 : 3;
  plan.quorum = plan.followers / 2 + 1;
  plan.hosts = 2 + static_cast<int>(random.Below(2));
  plan.lease_ms = random.Below(2) == 0 ? 1'000 : 0;
  plan.beat_interval_ms = random.Below(2) == 0 ? 50 : 300;
  plan.batch_interval_ms = random.Below(2) == 0 ? 300 : 100'000;
  plan.delay_ns_max = random.Below(3) == 0 ? 40'000'000 : 2'000'000;
  plan.cut_chance = random.Below(4) == 0 ? 0.02 : 0;
  plan.clock_drift = random.Below(2) == 0 ? 0.005 : 0;
  // Each run has its own mix: some kinds of fault not at all, others often (swarm testing).
  constexpr uint64_t kWeights[] = {60, 8, 10, 4, 2, 1, 6, 8, 1, 6, 3, 2, 1, 16, 4};
  static_assert(std::size(kWeights) == static_cast<size_t>(ActionKind::kCount));
  std::vector<uint64_t> weights(std::begin(kWeights), std::end(kWeights));
  for (size_t i = 3; i < weights.size(); ++i) {
    if (i == static_cast<size_t>(ActionKind::kStartFollower)) continue;
    const uint64_t luck = random.Below(3);
    weights[i] = luck == 0 ? 0 : weights[i] * (luck == 1 ? 1 : 3);
  }
  uint64_t total = 0;
  for (const uint64_t w : weights) total += w;
  const uint64_t count = 30 + random.Below(60);
  for (uint64_t n = 0; n < count; ++n) {
    Action action;
    uint64_t at = random.Below(total);
    size_t kind = 0;
    while (at >= weights[kind]) at -= weights[kind++];
    action.kind = static_cast<ActionKind>(kind);
    action.a = random.Below(plan.hosts);
    action.b = random.Below(30);
    action.c = random.Below(30);
    // Mostly in quick succession; now and then long enough for time-outs.
    const uint64_t pace = random.Below(10);
    action.wait_ns = static_cast<int64_t>(random.Below(pace < 6   ? 3 * kMs
                                                       : pace < 9 ? 200 * kMs
                                                                  : 3 * kSecond));
    plan.actions.push_back(action);
  }
  return plan;
}

Outcome RunPlan(const Plan& plan, const std::set<size_t>& skipped, Bug bug) {
  planted_bug = bug;
  Outcome outcome;
  {
    World world(plan, skipped);
    outcome = world.Run();
  }
  planted_bug = Bug::kNone;
  return outcome;
}

std::vector<size_t> Minimise(const Plan& plan, Bug bug) {
  std::set<size_t> skipped;
  for (size_t i = plan.actions.size(); i-- > 0;) {
    skipped.insert(i);
    if (RunPlan(plan, skipped, bug).violation.empty()) skipped.erase(i);
  }
  std::vector<size_t> left;
  for (size_t i = 0; i < plan.actions.size(); ++i) {
    if (!skipped.contains(i)) left.push_back(i);
  }
  return left;
}

}  // namespace edge::srs
