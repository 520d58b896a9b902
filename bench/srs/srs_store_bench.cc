// Restoring a database against Litestream, and reads through the VFS against the stock one.
#include <sqlite3.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <random>
#include <string>

#include "bench/bench.h"
#include "edge/base/check.h"
#include "edge/srs/relay.h"

namespace {

using edge::bench::Better;
using edge::bench::Sample;
using edge::bench::SecondsOf;

// Beside the program's working directory: /tmp may be memory.
class Folder {
 public:
  Folder() {
    std::string pattern = "srs-store-bench-XXXXXX";
    EDGE_CHECK(mkdtemp(pattern.data()) != nullptr);
    path_ = std::filesystem::absolute(pattern).string();
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  Folder(const Folder&) = delete;
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

void Run(sqlite3* db, const std::string& sql) {
  if (sqlite3_exec(db, sql.c_str(), nullptr, nullptr, nullptr) == SQLITE_OK) return;
  std::fprintf(stderr, "%s: %s\n", sql.c_str(), sqlite3_errmsg(db));
  std::exit(1);
}

sqlite3* OpenPlain(const std::string& path) {
  sqlite3* db = nullptr;
  EDGE_CHECK(sqlite3_open(path.c_str(), &db) == SQLITE_OK);
  return db;
}

uint64_t AnswerOf(sqlite3* db) {
  uint64_t answer = 0;
  sqlite3_stmt* statement = nullptr;
  EDGE_CHECK(sqlite3_prepare_v2(db, "SELECT count(*), sum(k), sum(amount), sum(length(who)) FROM t",
                                -1, &statement, nullptr) == SQLITE_OK);
  EDGE_CHECK(sqlite3_step(statement) == SQLITE_ROW);
  for (int i = 0; i < 4; ++i) {
    answer = answer * 1'000'003 + static_cast<uint64_t>(sqlite3_column_int64(statement, i));
  }
  sqlite3_finalize(statement);
  return answer;
}

// The same statements on both sides. Rows of text that compresses about as text does.
void Fill(sqlite3* db, int rows) {
  Run(db, "CREATE TABLE t(k INTEGER PRIMARY KEY, who TEXT, amount INT)");
  Run(db,
      "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n WHERE i<" +
          std::to_string(rows) +
          ") INSERT INTO t SELECT i, printf('passenger %d of flight UA%d, seat %d%s, %s', i*7919,"
          " i%977, i%40, char(65+i%6), hex(i*2654435761)), i*31%10007 FROM n");
}
// A history of commits on top, for which a restore needs more than the snapshot.
void Update(sqlite3* db) {
  for (int i = 0; i < 500; ++i) {
    Run(db, "UPDATE t SET amount = amount + 1 WHERE k = " + std::to_string(i * 997 + 1));
  }
}

void System(const std::string& command) {
  const int status = std::system((command + " >/dev/null 2>&1").c_str());
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return;
  std::fprintf(stderr, "failed: %s\n", command.c_str());
  std::exit(1);
}

// --- srs/restore: MB of database per second, a process each ---

constexpr int kRestoreRows = 1'000'000;  // about 90 MB

struct RestoreWorld {
  RestoreWorld() {
    {
      auto relay = edge::srs::Relay::Open({.directory = folder / "data",
                                           .store = edge::srs::FolderStore(folder / "store")})
                       .value();
      auto db = relay->OpenDatabase("t").value();
      Fill(db->handle(), kRestoreRows);
      EDGE_CHECK(relay->Flush().ok());
      Run(db->handle(), "CREATE INDEX w ON t(amount)");  // the log outgrows the database
      EDGE_CHECK(relay->Flush().ok());
      Update(db->handle());
    }
    sqlite3* peer = OpenPlain(folder / "peer.db");
    Run(peer, "PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF");
    Fill(peer, kRestoreRows);
    Run(peer, "CREATE INDEX w ON t(amount)");
    std::ofstream(folder / "l.yml") << "dbs:\n  - path: " << folder / "peer.db"
                                    << "\n    replica:\n      path: " << folder / "replica"
                                    << "\n";
    System(litestream + " replicate -once -force-snapshot -config " + (folder / "l.yml"));
    Update(peer);
    System(litestream + " replicate -once -config " + (folder / "l.yml"));
    sqlite3_close(peer);
    program = std::filesystem::read_symlink("/proc/self/exe").parent_path().parent_path().string() +
              "/bin/edge-srs";
  }
  Sample RestoreBy(const std::string& command, const std::string& out) {
    std::filesystem::remove(out);
    const double seconds = SecondsOf([&] { System(command); });
    sqlite3* db = OpenPlain(out);
    const Sample sample{static_cast<double>(std::filesystem::file_size(out)) / 1e6 / seconds,
                        AnswerOf(db)};
    sqlite3_close(db);
    return sample;
  }
  Folder folder;
  std::string litestream = EDGE_SOURCE_DIR "/build/python/bin/litestream";
  std::string program;
};

// --- srs/select: nanoseconds per primary-key read of one row ---

constexpr int kSelectRows = 200'000;
constexpr int kSelects = 200'000;

Sample Select(sqlite3* db) {
  sqlite3_stmt* statement = nullptr;
  EDGE_CHECK(sqlite3_prepare_v2(db, "SELECT amount, who FROM t WHERE k = ?", -1, &statement,
                                nullptr) == SQLITE_OK);
  std::minstd_rand random(1);
  uint64_t sum = 0;
  const double seconds = SecondsOf([&] {
    for (int i = 0; i < kSelects; ++i) {
      sqlite3_bind_int64(statement, 1, 1 + static_cast<int64_t>(random() % kSelectRows));
      EDGE_CHECK(sqlite3_step(statement) == SQLITE_ROW);
      sum = sum * 31 + static_cast<uint64_t>(sqlite3_column_int64(statement, 0)) +
            static_cast<uint64_t>(sqlite3_column_bytes(statement, 1));
      sqlite3_reset(statement);
    }
  });
  sqlite3_finalize(statement);
  return {seconds * 1e9 / kSelects, sum};
}

struct SelectWorld {
  SelectWorld() {
    relay = edge::srs::Relay::Open({.directory = folder / "data"}).value();
    {
      auto made = relay->OpenDatabase("t").value();
      Fill(made->handle(), kSelectRows);
    }
    ours = relay->OpenDatabase("t").value();
    peer = OpenPlain(folder / "peer.db");
    Run(peer, "PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF");
    Fill(peer, kSelectRows);
    sqlite3_close(peer);
    peer = OpenPlain(folder / "peer.db");
    Run(peer, "PRAGMA locking_mode=EXCLUSIVE; PRAGMA synchronous=OFF");
  }
  ~SelectWorld() { sqlite3_close(peer); }
  Folder folder;
  std::unique_ptr<edge::srs::Relay> relay;
  std::unique_ptr<edge::srs::Database> ours;
  sqlite3* peer = nullptr;
};

}  // namespace

int main(int argc, char** argv) {
  edge::bench::Suite suite(argc, argv);
  if (suite.Wants("srs/select")) {
    SelectWorld world;
    suite.Row(
        {.name = "srs/select", .peer_name = "stock VFS, same settings", .unit = "ns"},
        [&] { return Select(world.ours->handle()); }, [&] { return Select(world.peer); });
  }
  if (suite.Wants("srs/restore")) {
    RestoreWorld world;
    const std::string ours = world.folder / "ours.db";
    const std::string peer = world.folder / "restored.db";
    suite.Row(
        {.name = "srs/restore",
         .peer_name = "litestream 0.5",
         .unit = "MB/s",
         .better = Better::kHigher,
         .repetitions = 5},
        [&] {
          return world.RestoreBy(
              world.program + " restore " + (world.folder / "store") + " t -o " + ours, ours);
        },
        [&] {
          return world.RestoreBy(
              world.litestream + " restore -o " + peer + " file://" + (world.folder / "replica"),
              peer);
        });
  }
  return 0;
}
