// Commits by way of the journal and of followers: rates, the wait for one, a take-over.
#include <fcntl.h>
#include <signal.h>
#include <sqlite3.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "bench/bench.h"
#include "edge/base/check.h"
#include "edge/base/file_system.h"
#include "edge/srs/relay.h"

namespace {

using edge::bench::Better;
using edge::bench::Sample;
using edge::bench::SecondsOf;

// A folder beside the program's working directory: /tmp may be memory.
class Folder {
 public:
  Folder() {
    std::string pattern = "srs-bench-XXXXXX";
    EDGE_CHECK(mkdtemp(pattern.data()) != nullptr);
    path_ = std::filesystem::absolute(pattern).string();
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  Folder(const Folder&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

void Run(sqlite3* db, const char* sql) {
  EDGE_CHECK(sqlite3_exec(db, sql, nullptr, nullptr, nullptr) == SQLITE_OK);
}

class Statement {
 public:
  Statement(sqlite3* db, const char* sql) {
    EDGE_CHECK(sqlite3_prepare_v2(db, sql, -1, &statement_, nullptr) == SQLITE_OK);
  }
  ~Statement() { sqlite3_finalize(statement_); }
  Statement(const Statement&) = delete;
  void Insert(int64_t key) {
    sqlite3_bind_int64(statement_, 1, key);
    EDGE_CHECK(sqlite3_step(statement_) == SQLITE_DONE);
    sqlite3_reset(statement_);
  }

 private:
  sqlite3_stmt* statement_ = nullptr;
};

constexpr const char* kSchema = "CREATE TABLE t(k INTEGER PRIMARY KEY, who TEXT, amount INT)";
constexpr const char* kInsert = "INSERT INTO t VALUES(?, 'a passenger of flight UA17', 42)";
constexpr const char* kDelete = "DELETE FROM t WHERE k >= ?";

uint64_t AnswerOf(sqlite3* db) {
  uint64_t answer = 0;
  sqlite3_stmt* statement = nullptr;
  EDGE_CHECK(sqlite3_prepare_v2(db, "SELECT count(*), sum(k), sum(length(who)) FROM t", -1,
                                &statement, nullptr) == SQLITE_OK);
  EDGE_CHECK(sqlite3_step(statement) == SQLITE_ROW);
  for (int i = 0; i < 3; ++i) {
    answer = answer * 1'000'003 + static_cast<uint64_t>(sqlite3_column_int64(statement, i));
  }
  sqlite3_finalize(statement);
  return answer;
}

class Stock {
 public:
  Stock(const std::string& path, const char* synchronous) {
    EDGE_CHECK(sqlite3_open(path.c_str(), &db_) == SQLITE_OK);
    Run(db_, "PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=WAL");
    Run(db_, synchronous);
    Run(db_, kSchema);
  }
  ~Stock() { sqlite3_close(db_); }
  Stock(const Stock&) = delete;
  sqlite3* handle() { return db_; }

 private:
  sqlite3* db_ = nullptr;
};

struct Db {
  Db(edge::srs::Relay& relay, const std::string& name) : db(relay.OpenDatabase(name).value()) {
    Run(db->handle(), kSchema);
    EDGE_CHECK(db->WaitDurable().ok());
  }
  std::unique_ptr<edge::srs::Database> db;
};

// The peer makes kRows commits; ours makes many more, so that it takes long enough to be
// timed, and deletes the rest again before the answers are compared.
constexpr int64_t kRows = 300;

Sample CommitTo(edge::srs::Relay& relay, int64_t commits) {
  Db ours(relay, "t");
  Statement insert(ours.db->handle(), kInsert);
  const double seconds = SecondsOf([&] {
    for (int64_t key = 0; key < commits; ++key) insert.Insert(key);
    EDGE_CHECK(ours.db->WaitDurable().ok());
  });
  Statement remove(ours.db->handle(), kDelete);
  remove.Insert(kRows);
  return {static_cast<double>(commits) / seconds, AnswerOf(ours.db->handle())};
}

Sample StockCommits(const char* synchronous, int64_t commits) {
  Folder folder;
  Stock stock(folder.path() + "/peer.db", synchronous);
  Statement insert(stock.handle(), kInsert);
  const double seconds = SecondsOf([&] {
    for (int64_t key = 0; key < commits; ++key) insert.Insert(key);
  });
  Statement remove(stock.handle(), kDelete);
  remove.Insert(kRows);
  return {static_cast<double>(commits) / seconds, AnswerOf(stock.handle())};
}

Sample CommitOffOurs() {
  Folder folder;
  auto relay = edge::srs::Relay::Open({.directory = folder.path() + "/data"}).value();
  return CommitTo(*relay, 60'000);
}
Sample CommitOffPeer() {
  return StockCommits("PRAGMA synchronous=OFF", 60'000);
}

// 64 databases in turns.
constexpr int kDatabases = 64;

Sample Commit64Ours() {
  Folder folder;
  auto relay = edge::srs::Relay::Open({.directory = folder.path() + "/data"}).value();
  std::vector<std::unique_ptr<Db>> dbs;
  std::vector<std::unique_ptr<Statement>> inserts;
  for (int i = 0; i < kDatabases; ++i) {
    dbs.push_back(std::make_unique<Db>(*relay, "t" + std::to_string(i)));
    inserts.push_back(std::make_unique<Statement>(dbs.back()->db->handle(), kInsert));
  }
  constexpr int64_t kEach = 400;
  const double seconds = SecondsOf([&] {
    for (int64_t key = 0; key < kEach; ++key) {
      for (auto& insert : inserts) insert->Insert(key);
    }
    for (auto& db : dbs) EDGE_CHECK(db->db->WaitDurable().ok());
  });
  uint64_t answer = 0;
  for (auto& db : dbs) {
    Statement remove(db->db->handle(), kDelete);
    remove.Insert(5);
    answer = answer * 31 + AnswerOf(db->db->handle());
  }
  inserts.clear();
  return {kEach * kDatabases / seconds, answer};
}
Sample Commit64Peer() {
  Folder folder;
  std::vector<std::unique_ptr<Stock>> dbs;
  std::vector<std::unique_ptr<Statement>> inserts;
  for (int i = 0; i < kDatabases; ++i) {
    dbs.push_back(std::make_unique<Stock>(folder.path() + "/peer" + std::to_string(i),
                                          "PRAGMA synchronous=FULL"));
    inserts.push_back(std::make_unique<Statement>(dbs.back()->handle(), kInsert));
  }
  constexpr int64_t kEach = 5;
  const double seconds = SecondsOf([&] {
    for (int64_t key = 0; key < kEach; ++key) {
      for (auto& insert : inserts) insert->Insert(key);
    }
  });
  uint64_t answer = 0;
  for (auto& db : dbs) answer = answer * 31 + AnswerOf(db->handle());
  inserts.clear();
  return {kEach * kDatabases / seconds, answer};
}

// Microseconds from the start of a commit until it is known to be durable, against what no
// durable commit can beat: one synced append of 4 KiB.
Sample LatencyOurs() {
  Folder folder;
  auto relay = edge::srs::Relay::Open({.directory = folder.path() + "/data"}).value();
  Db ours(*relay, "t");
  Statement insert(ours.db->handle(), kInsert);
  std::vector<double> micros;
  for (int64_t key = 0; key < kRows; ++key) {
    micros.push_back(1e6 * SecondsOf([&] {
                       insert.Insert(key);
                       EDGE_CHECK(ours.db->WaitDurable().ok());
                     }));
  }
  return {edge::bench::Median(micros), kRows};
}
Sample LatencyPeer() {
  Folder folder;
  const int fd = open((folder.path() + "/append").c_str(), O_CREAT | O_RDWR, 0600);
  EDGE_CHECK(fd >= 0);
  const std::vector<char> block(4096, 'x');
  std::vector<double> micros;
  for (int64_t i = 0; i < kRows; ++i) {
    micros.push_back(1e6 * SecondsOf([&] {
                       EDGE_CHECK(write(fd, block.data(), block.size()) == 4096);
                       EDGE_CHECK(fdatasync(fd) == 0);
                     }));
  }
  close(fd);
  return {edge::bench::Median(micros), static_cast<uint64_t>(micros.size())};
}

// Five follower processes, each with its own journal.
class Followers {
 public:
  explicit Followers(const Folder& folder) {
    for (size_t i = 0; i < pids_.size(); ++i) {
      int out[2];
      EDGE_CHECK(pipe(out) == 0);
      const std::string directory = folder.path() + "/follower" + std::to_string(i);
      pids_[i] = fork();
      EDGE_CHECK(pids_[i] >= 0);
      if (pids_[i] == 0) {
        dup2(out[1], 1);
        for (int fd = 3; fd < 256; ++fd) close(fd);
        execl(EDGE_FOLLOWER_PATH, "edge-follower", "--directory", directory.c_str(), "--listen",
              "127.0.0.1:0", nullptr);
        _exit(127);
      }
      close(out[1]);
      std::string line;
      char c = 0;
      while (read(out[0], &c, 1) == 1 && c != '\n') line += c;
      close(out[0]);
      EDGE_CHECK(line.rfind(' ') != std::string::npos);
      addresses.push_back(line.substr(line.rfind(' ') + 1));
    }
  }
  ~Followers() {
    for (size_t i = 0; i < pids_.size(); ++i) Kill(i);
  }
  Followers(const Followers&) = delete;
  void Kill(size_t i) {
    if (pids_[i] == 0) return;
    kill(pids_[i], SIGKILL);
    waitpid(std::exchange(pids_[i], 0), nullptr, 0);
  }
  std::vector<std::string> addresses;

 private:
  std::array<pid_t, 5> pids_{};
};

edge::srs::RelayOptions HostOptions(const Folder& folder, const std::string& name,
                                    const Followers& followers) {
  edge::srs::RelayOptions options{.directory = folder.path() + "/" + name,
                                  .store = edge::srs::FolderStore(folder.path() + "/store")};
  options.replication.followers = followers.addresses;
  return options;
}

Sample QuorumOurs() {
  Folder folder;
  Followers followers(folder);
  auto relay = edge::srs::Relay::Open(HostOptions(folder, "host", followers)).value();
  return CommitTo(*relay, 30'000);
}
Sample FullPeer() {
  return StockCommits("PRAGMA synchronous=FULL", kRows);
}

// Milliseconds from the decision to the first confirmed write: a database of 1 MB, whose host
// and two of whose followers are gone. The peer has no followers to ask: it opens a copy of
// the file and commits to it.
constexpr const char* kMegabyte =
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 250) "
    "INSERT INTO t SELECT 1000 + i, hex(randomblob(1900)), i FROM n";

Sample TakeoverOurs() {
  Folder folder;
  Followers followers(folder);
  {
    auto relay = edge::srs::Relay::Open(HostOptions(folder, "first", followers)).value();
    Db ours(*relay, "t");
    Run(ours.db->handle(), kMegabyte);
    EDGE_CHECK(ours.db->WaitDurable().ok());
    EDGE_CHECK(relay->Flush().ok());
  }
  followers.Kill(0);
  followers.Kill(1);
  uint64_t answer = 0;
  std::unique_ptr<edge::srs::Relay> relay;
  std::unique_ptr<edge::srs::Database> db;
  const double seconds = SecondsOf([&] {
    relay = edge::srs::Relay::Open(HostOptions(folder, "second", followers)).value();
    db = relay->OpenDatabase("t").value();
    Run(db->handle(), "INSERT INTO t VALUES(1, 'first', 1)");
    EDGE_CHECK(db->WaitDurable().ok());
  });
  answer = AnswerOf(db->handle());
  db.reset();
  return {1e3 * seconds, answer};
}
Sample TakeoverPeer() {
  Folder folder;
  const std::string first = folder.path() + "/first.db";
  {
    Stock stock(first, "PRAGMA synchronous=FULL");
    Run(stock.handle(), kMegabyte);
  }
  sqlite3* db = nullptr;
  const double seconds = SecondsOf([&] {
    std::filesystem::copy_file(first, folder.path() + "/second.db");
    EDGE_CHECK(sqlite3_open((folder.path() + "/second.db").c_str(), &db) == SQLITE_OK);
    Run(db, "PRAGMA synchronous=FULL; INSERT INTO t VALUES(1, 'first', 1)");
  });
  const uint64_t answer = AnswerOf(db);
  sqlite3_close(db);
  return {1e3 * seconds, answer};
}

}  // namespace

int main(int argc, char** argv) {
  edge::bench::Suite suite(argc, argv);
  suite.Row({.name = "srs/commit_64db",
             .peer_name = "sqlite WAL synchronous=FULL",
             .unit = "commits/s",
             .better = Better::kHigher,
             .repetitions = 5},
            Commit64Ours, Commit64Peer);
  suite.Row({.name = "srs/commit_off",
             .peer_name = "sqlite WAL synchronous=OFF",
             .unit = "commits/s",
             .better = Better::kHigher,
             .repetitions = 5},
            CommitOffOurs, CommitOffPeer);
  suite.Row({.name = "srs/confirm_latency",
             .peer_name = "one synced 4 KiB append",
             .unit = "us p50",
             .repetitions = 5},
            LatencyOurs, LatencyPeer);
  suite.Row({.name = "srs/quorum_commit",
             .peer_name = "sqlite WAL synchronous=FULL",
             .unit = "commits/s",
             .better = Better::kHigher,
             .repetitions = 5},
            QuorumOurs, FullPeer);
  suite.Row({.name = "srs/takeover",
             .peer_name = "sqlite: copy the file, open, commit",
             .unit = "ms",
             .repetitions = 5},
            TakeoverOurs, TakeoverPeer);
  return 0;
}
