// SQL and commits of a durable object beside raw SQLite on the same disk.
#include <malloc.h>
#include <sqlite3.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <future>
#include <memory>
#include <string>
#include <vector>

#include "bench/bench.h"
#include "edge/durable/host.h"

using namespace edge;  // NOLINT

namespace {

constexpr int kRows = 1000;
constexpr int kSelects = 20'000;
constexpr int kRounds = 100;     // of 101 queries
constexpr int kCommits = 2'000;  // a run

constexpr const char* kSchema =
    "CREATE TABLE t (id INTEGER PRIMARY KEY, v INTEGER, parent INTEGER)";
constexpr const char* kSelect = "SELECT v FROM t WHERE id = ?";
constexpr const char* kChildren = "SELECT id FROM t WHERE id > 100 ORDER BY id LIMIT 100";
constexpr const char* kUpdate = "UPDATE t SET v = v + 1 WHERE id = 7";

int64_t KeyOf(int i) {
  return (int64_t{i} * 7919) % kRows + 1;
}

class Table : public durable::Object {
 public:
  using Object::Object;
  void Fill() {
    sql().Exec(kSchema);
    for (int i = 1; i <= kRows; ++i) sql().Exec("INSERT INTO t VALUES (?, ?, ?)", i, i * 3, i % 10);
  }
  // Each gives its seconds and an answer.
  std::vector<double> Select() {
    int64_t sum = 0;
    const double seconds = bench::SecondsOf([&] {
      for (int i = 0; i < kSelects; ++i) sum += sql().Exec<int64_t>(kSelect, KeyOf(i)).Value();
    });
    return {seconds, static_cast<double>(sum)};
  }
  std::vector<double> NPlusOne() {
    int64_t sum = 0;
    const double seconds = bench::SecondsOf([&] {
      for (int round = 0; round < kRounds; ++round) {
        for (auto& [id] : sql().Exec<int64_t>(kChildren).ToArray()) {
          sum += sql().Exec<int64_t>(kSelect, id).Value();
        }
      }
    });
    return {seconds, static_cast<double>(sum)};
  }
  void Increment() { sql().Exec(kUpdate); }
  int64_t Nothing(int64_t x) { return x + 1; }
  int64_t Seven() { return sql().Exec<int64_t>(kSelect, 7).Value(); }
  void Reset() { sql().Exec("UPDATE t SET v = 21 WHERE id = 7"); }
  using Rpc = rpc::Methods<&Table::Fill, &Table::Select, &Table::NPlusOne, &Table::Increment,
                           &Table::Seven, &Table::Reset, &Table::Nothing>;
};

// SQLite as a careful program uses it: WAL, synchronous=FULL, prepared statements.
class Raw {
 public:
  explicit Raw(const std::string& path) {
    if (sqlite3_open(path.c_str(), &db_) != SQLITE_OK) std::abort();
    Run("PRAGMA journal_mode = WAL");
    Run("PRAGMA synchronous = FULL");
    Run(kSchema);
    Run("BEGIN");
    sqlite3_stmt* insert = Prepare("INSERT INTO t VALUES (?, ?, ?)");
    for (int i = 1; i <= kRows; ++i) {
      sqlite3_bind_int64(insert, 1, i);
      sqlite3_bind_int64(insert, 2, i * 3);
      sqlite3_bind_int64(insert, 3, i % 10);
      sqlite3_step(insert);
      sqlite3_reset(insert);
    }
    sqlite3_finalize(insert);
    Run("COMMIT");
    select_ = Prepare(kSelect);
    children_ = Prepare(kChildren);
    update_ = Prepare(kUpdate);
  }
  ~Raw() {
    for (sqlite3_stmt* statement : {select_, children_, update_}) sqlite3_finalize(statement);
    sqlite3_close(db_);
  }
  void Run(const char* query) {
    if (sqlite3_exec(db_, query, nullptr, nullptr, nullptr) != SQLITE_OK) std::abort();
  }
  int64_t Select(int64_t id) {
    sqlite3_bind_int64(select_, 1, id);
    if (sqlite3_step(select_) != SQLITE_ROW) std::abort();
    const int64_t value = sqlite3_column_int64(select_, 0);
    sqlite3_reset(select_);
    return value;
  }
  // 101 statements, each ended before the next and thus a transaction of its own.
  int64_t NPlusOne() {
    std::vector<int64_t> ids;
    while (sqlite3_step(children_) == SQLITE_ROW) ids.push_back(sqlite3_column_int64(children_, 0));
    sqlite3_reset(children_);
    int64_t sum = 0;
    for (const int64_t id : ids) sum += Select(id);
    return sum;
  }
  void Increment() {
    if (sqlite3_step(update_) != SQLITE_DONE) std::abort();
    sqlite3_reset(update_);
  }

 private:
  sqlite3_stmt* Prepare(const char* query) {
    sqlite3_stmt* statement = nullptr;
    if (sqlite3_prepare_v2(db_, query, -1, &statement, nullptr) != SQLITE_OK) std::abort();
    return statement;
  }
  sqlite3* db_ = nullptr;
  sqlite3_stmt* select_ = nullptr;
  sqlite3_stmt* children_ = nullptr;
  sqlite3_stmt* update_ = nullptr;
};

void RunRows(bench::Suite& suite, const std::string& directory) {
  auto executor = Executor::Create({.threads = 1}).value();
  auto relay = srs::Relay::Open({.directory = directory + "/data"}).value();
  auto host = durable::Host::Create(*executor, *relay).value();
  auto table = host->AddNamespace<Table>("BENCH").value().Get("table");
  if (!table.Call<&Table::Fill>().Wait().ok()) std::abort();
  Raw raw(directory + "/raw.db");

  const auto sample = [](const StatusOr<std::vector<double>>& result, double per) {
    return bench::Sample{(*result)[0] * 1e9 / per, static_cast<uint64_t>((*result)[1])};
  };
  suite.Row(
      {.name = "durable/select_pk",
       .peer_name = "SQLite, prepared, in an open transaction",
       .unit = "ns/query"},
      [&] { return sample(table.Call<&Table::Select>().Wait(), kSelects); },
      [&] {
        raw.Run("BEGIN");
        int64_t sum = 0;
        const double seconds = bench::SecondsOf([&] {
          for (int i = 0; i < kSelects; ++i) sum += raw.Select(KeyOf(i));
        });
        raw.Run("COMMIT");
        return bench::Sample{seconds * 1e9 / kSelects, static_cast<uint64_t>(sum)};
      });
  suite.Row(
      {.name = "durable/n_plus_one",
       .peer_name = "SQLite, prepared, autocommit",
       .unit = "ns/101 queries"},
      [&] { return sample(table.Call<&Table::NPlusOne>().Wait(), kRounds); },
      [&] {
        int64_t sum = 0;
        const double seconds = bench::SecondsOf([&] {
          for (int i = 0; i < kRounds; ++i) sum += raw.NPlusOne();
        });
        return bench::Sample{seconds * 1e9 / kRounds, static_cast<uint64_t>(sum)};
      });
  suite.Row(
      {.name = "durable/commit_1obj",
       .peer_name = "SQLite FULL",
       .unit = "commits/s",
       .better = bench::Better::kHigher},
      [&] {
        if (!table.Call<&Table::Reset>().Wait().ok()) std::abort();
        std::promise<void> all;
        int left = kCommits;
        // Every call is a turn, a commit and an answer that waits for the journal.
        const double seconds = bench::SecondsOf([&] {
          executor->loop(0).PostUrgent([&] {
            for (int i = 0; i < kCommits; ++i) {
              table.Call<&Table::Increment>().Then([&](Status status) {
                if (!status.ok()) std::abort();
                if (--left == 0) all.set_value();
              });
            }
          });
          all.get_future().wait();
        });
        return bench::Sample{kCommits / seconds,
                             static_cast<uint64_t>(table.Call<&Table::Seven>().Wait().value())};
      },
      [&] {
        raw.Run("UPDATE t SET v = 21 WHERE id = 7");
        const double seconds = bench::SecondsOf([&] {
          for (int i = 0; i < kCommits; ++i) raw.Increment();
        });
        return bench::Sample{kCommits / seconds, static_cast<uint64_t>(raw.Select(7))};
      });
}

// One row, made by its first call.
class Small : public durable::Object {
 public:
  using Object::Object;
  void Insert() {
    sql().Exec("CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, v INTEGER)");
    sql().Exec("INSERT INTO t (v) VALUES (1)");
  }
  void Increment() { sql().Exec("UPDATE t SET v = v + 1 WHERE id = 1"); }
  int64_t Get() { return sql().Exec<int64_t>("SELECT v FROM t WHERE id = 1").Value(); }
  using Rpc = rpc::Methods<&Small::Insert, &Small::Increment, &Small::Get>;
};

struct World {
  explicit World(const std::string& directory, durable::HostOptions options = {})
      : executor(Executor::Create({.threads = 1}).value()),
        relay(srs::Relay::Open({.directory = directory}).value()),
        host(durable::Host::Create(*executor, *relay, std::move(options)).value()),
        objects(host->AddNamespace<Small>("SMALL").value()) {}
  std::unique_ptr<Executor> executor;
  std::unique_ptr<srs::Relay> relay;
  std::unique_ptr<durable::Host> host;
  durable::Namespace<Small> objects;

  // Calls `method` on the objects numbered [from, to), `rounds` times, all under way at once.
  template <auto kMethod>
  void Everyone(int from, int to, int rounds = 1) {
    std::promise<void> all;
    int left = (to - from) * rounds;
    executor->loop(0).PostUrgent([&] {
      for (int round = 0; round < rounds; ++round) {
        for (int i = from; i < to; ++i) {
          objects.Get(std::to_string(i)).Call<kMethod>().Then([&](Status status) {
            if (!status.ok()) std::abort();
            if (--left == 0) all.set_value();
          });
        }
      }
    });
    all.get_future().wait();
  }
  int64_t Get(int i) { return objects.Get(std::to_string(i)).Call<&Small::Get>().Wait().value(); }
};

void RunCommits(bench::Suite& suite, const std::string& directory, int count, int rounds) {
  const std::string name = "durable/commit_" + std::to_string(count) + "obj";
  if (!suite.Wants(name)) return;
  World world(directory + "/" + std::to_string(count));
  world.Everyone<&Small::Insert>(0, count);
  Raw raw(directory + "/raw" + std::to_string(count) + ".db");
  suite.Row(
      {.name = name,
       .peer_name = "SQLite FULL, one database",
       .unit = "commits/s",
       .better = bench::Better::kHigher},
      [&] {
        const int64_t before = world.Get(count - 1);
        const double seconds =
            bench::SecondsOf([&] { world.Everyone<&Small::Increment>(0, count, rounds); });
        return bench::Sample{count * rounds / seconds,
                             static_cast<uint64_t>(world.Get(count - 1) - before == rounds)};
      },
      [&] {
        const int64_t before = raw.Select(7);
        const double seconds = bench::SecondsOf([&] {
          for (int i = 0; i < kCommits; ++i) raw.Increment();
        });
        return bench::Sample{kCommits / seconds,
                             static_cast<uint64_t>(raw.Select(7) - before == kCommits)};
      });
}

struct Base {
  virtual ~Base() = default;
  virtual int64_t Nothing(int64_t x) = 0;
};
struct Plain : Base {
  int64_t Nothing(int64_t x) override { return x + 1; }
};

void RunCalls(bench::Suite& suite, const std::string& directory) {
  auto executor = Executor::Create({.threads = 1}).value();
  auto relay = srs::Relay::Open({.directory = directory + "/calls"}).value();
  auto host = durable::Host::Create(*executor, *relay).value();
  auto object = host->AddNamespace<Table>("BENCH").value().Get("table");
  std::unique_ptr<Base> plain = std::make_unique<Plain>();
  constexpr int kCalls = 100'000;
  suite.Row(
      {.name = "durable/call_same_thread", .peer_name = "virtual function", .unit = "ns/call"},
      [&] {
        int64_t x = 0;
        const double seconds = RunOn(executor->loop(0), [&] {
          return bench::SecondsOf([&] {
            for (int i = 0; i < kCalls; ++i) {
              object.Call<&Table::Nothing>(x).Then([&x](StatusOr<int64_t> y) { x = *y; });
            }
          });
        });
        return bench::Sample{seconds * 1e9 / kCalls, static_cast<uint64_t>(x)};
      },
      [&] {
        int64_t x = 0;
        const double seconds = bench::SecondsOf([&] {
          for (int i = 0; i < kCalls; ++i) {
            Base* base = plain.get();
            bench::KeepAlive(base);
            x = base->Nothing(x);
          }
        });
        return bench::Sample{seconds * 1e9 / kCalls, static_cast<uint64_t>(x)};
      });
  constexpr int kTrips = 20'000;
  suite.Row(
      {.name = "durable/call_cross_thread",
       .peer_name = "a posted task and a promise",
       .unit = "ns/round trip"},
      [&] {
        int64_t x = 0;
        const double seconds = bench::SecondsOf([&] {
          for (int i = 0; i < kTrips; ++i) x = object.Call<&Table::Nothing>(x).Wait().value();
        });
        return bench::Sample{seconds * 1e9 / kTrips, static_cast<uint64_t>(x)};
      },
      [&] {
        int64_t x = 0;
        const double seconds = bench::SecondsOf([&] {
          for (int i = 0; i < kTrips; ++i) {
            std::promise<int64_t> answer;
            executor->loop(0).PostUrgent([&] { answer.set_value(x + 1); });
            x = answer.get_future().get();
          }
        });
        return bench::Sample{seconds * 1e9 / kTrips, static_cast<uint64_t>(x)};
      });
}

// The process's resident bytes, after giving back what is free.
int64_t ResidentBytes() {
  malloc_trim(0);
  int64_t pages = 0, resident = 0;
  FILE* file = std::fopen("/proc/self/statm", "r");
  if (file == nullptr || std::fscanf(file, "%ld %ld", &pages, &resident) != 2) std::abort();
  std::fclose(file);
  return resident * 4096;
}

void RunObjects(bench::Suite& suite, const std::string& directory) {
  constexpr int kNew = 2'000;
  if (suite.Wants("durable/new_object")) {
    World world(directory + "/new");
    int made = 0, files = 0;
    suite.Row(
        {.name = "durable/new_object",
         .peer_name = "SQLite FULL, a new file each",
         .unit = "us/object",
         .repetitions = 5},
        [&] {
          const double seconds =
              bench::SecondsOf([&] { world.Everyone<&Small::Insert>(made, made + kNew); });
          made += kNew;
          return bench::Sample{seconds * 1e6 / kNew, static_cast<uint64_t>(world.Get(made - 1))};
        },
        [&] {
          constexpr int kFiles = 100;
          const double seconds = bench::SecondsOf([&] {
            for (int i = 0; i < kFiles; ++i) {
              sqlite3* db = nullptr;
              const std::string path = directory + "/file" + std::to_string(files++) + ".db";
              if (sqlite3_open(path.c_str(), &db) != SQLITE_OK) std::abort();
              if (sqlite3_exec(
                      db,
                      "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; CREATE TABLE "
                      "t (id INTEGER PRIMARY KEY, v INTEGER); INSERT INTO t (v) VALUES (1)",
                      nullptr, nullptr, nullptr) != SQLITE_OK) {
                std::abort();
              }
              sqlite3_close(db);
            }
          });
          return bench::Sample{seconds * 1e6 / kFiles, 1};
        });
  }
  if (suite.Wants("durable/memory")) {
    // Five batches of objects: what each running one takes, and what is left of it when it has
    // ended. The peer is what the design allows, a million in 1 GiB.
    constexpr int kBatch = 4'000;
    durable::HostOptions options;
    options.objects_max = kBatch;
    World world(directory + "/memory", std::move(options));
    int made = 0;
    world.Everyone<&Small::Insert>(0, kBatch);
    made = kBatch;
    int64_t before = ResidentBytes();
    suite.Row(
        {.name = "durable/memory",
         .peer_name = "1 GiB for a million",
         .unit = "bytes/ended object",
         .repetitions = 5},
        [&] {
          world.Everyone<&Small::Insert>(made, made + kBatch);  // each ends one of the last batch
          made += kBatch;
          const int64_t now = ResidentBytes();
          const double bytes = static_cast<double>(now - before) / kBatch;
          before = now;
          return bench::Sample{std::max(bytes, 1.0), 1};
        },
        [] {
          return bench::Sample{1024.0 * 1024 * 1024 / 1e6, 1};
        });
  }
  if (suite.Wants("durable/memory_active")) {
    World world(directory + "/active");
    int made = 0;
    constexpr int kBatch = 1'000;
    suite.Row(
        {.name = "durable/memory_active",
         .peer_name = "32 KiB",
         .unit = "bytes/running object",
         .repetitions = 5},
        [&] {
          const int64_t before = ResidentBytes();
          world.Everyone<&Small::Insert>(made, made + kBatch);
          made += kBatch;
          return bench::Sample{static_cast<double>(ResidentBytes() - before) / kBatch, 1};
        },
        [] {
          return bench::Sample{32.0 * 1024, 1};
        });
  }
}

}  // namespace

int main(int argc, char** argv) {
  bench::Suite suite(argc, argv);
  std::string directory = std::filesystem::temp_directory_path() / "edge-bench-XXXXXX";
  if (mkdtemp(directory.data()) == nullptr) return 1;
  RunRows(suite, directory);
  RunCommits(suite, directory, 64, 200);
  RunCommits(suite, directory, 4096, 4);
  RunCalls(suite, directory);
  RunObjects(suite, directory);
  std::filesystem::remove_all(directory);
  return 0;
}
