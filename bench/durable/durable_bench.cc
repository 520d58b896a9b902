// SQL and commits of a durable object beside raw SQLite on the same disk.
#include <sqlite3.h>

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
  int64_t Seven() { return sql().Exec<int64_t>(kSelect, 7).Value(); }
  void Reset() { sql().Exec("UPDATE t SET v = 21 WHERE id = 7"); }
  using Rpc = rpc::Methods<&Table::Fill, &Table::Select, &Table::NPlusOne, &Table::Increment,
                           &Table::Seven, &Table::Reset>;
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

}  // namespace

int main(int argc, char** argv) {
  bench::Suite suite(argc, argv);
  std::string directory = std::filesystem::temp_directory_path() / "edge-bench-XXXXXX";
  if (mkdtemp(directory.data()) == nullptr) return 1;
  RunRows(suite, directory);
  std::filesystem::remove_all(directory);
  return 0;
}
