// Durable commits through a relay against SQLite with synchronous=FULL on the same disk.
#include <sqlite3.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "bench/bench.h"
#include "edge/base/check.h"
#include "edge/base/metrics.h"
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
    path_ = pattern;
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

// The peer: stock SQLite, WAL, every commit synced.
class Peer {
 public:
  explicit Peer(const Folder& folder) {
    EDGE_CHECK(sqlite3_open((folder.path() + "/peer.db").c_str(), &db_) == SQLITE_OK);
    Run(db_, "PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL");
    Run(db_, kSchema);
  }
  ~Peer() { sqlite3_close(db_); }
  Peer(const Peer&) = delete;
  sqlite3* handle() { return db_; }

 private:
  sqlite3* db_ = nullptr;
};

struct Ours {
  explicit Ours(const Folder& folder)
      : relay(edge::srs::Relay::Open({.directory = folder.path() + "/data", .metrics = &metrics})
                  .value()),
        db(relay->OpenDatabase("t").value()) {
    Run(db->handle(), kSchema);
    EDGE_CHECK(db->WaitDurable().ok());
  }
  edge::MetricsRegistry metrics;
  std::unique_ptr<edge::srs::Relay> relay;
  std::unique_ptr<edge::srs::Database> db;
};

// Commits per second. Ours makes all, then waits for the newest; the peer can only wait for
// each. The same number of rows on both sides, so that the answers agree: few enough for the
// peer, and the relay's side repeats its share on further rows that are deleted again.
constexpr int kRows = 400;
constexpr int kOurRounds = 50;

Sample CommitOurs() {
  Folder folder;
  Ours ours(folder);
  Statement insert(ours.db->handle(), kInsert);
  Statement remove(ours.db->handle(), "DELETE FROM t WHERE k = ?");
  int64_t commits = 0;
  const double seconds = SecondsOf([&] {
    for (int64_t key = 0; key < int64_t{kRows} * kOurRounds; ++key, ++commits) insert.Insert(key);
    EDGE_CHECK(ours.db->WaitDurable().ok());
  });
  for (int64_t key = kRows; key < int64_t{kRows} * kOurRounds; ++key) remove.Insert(key);
  return {static_cast<double>(commits) / seconds, AnswerOf(ours.db->handle())};
}

Sample CommitPeer() {
  Folder folder;
  Peer peer(folder);
  Statement insert(peer.handle(), kInsert);
  const double seconds = SecondsOf([&] {
    for (int64_t key = 0; key < kRows; ++key) insert.Insert(key);
  });
  return {kRows / seconds, AnswerOf(peer.handle())};
}

// Bytes that a commit of one row adds to the log which a follower or store would be sent.
constexpr int kBytesRows = 2000;

Sample BytesOurs() {
  Folder folder;
  Ours ours(folder);
  Statement insert(ours.db->handle(), kInsert);
  auto& bytes = ours.metrics.counter("edge_srs_record_bytes");
  const uint64_t before = bytes.value();
  for (int64_t key = 0; key < kBytesRows; ++key) insert.Insert(key);
  EDGE_CHECK(ours.db->WaitDurable().ok());
  return {static_cast<double>(bytes.value() - before) / kBytesRows, AnswerOf(ours.db->handle())};
}

Sample BytesPeer() {
  Folder folder;
  Peer peer(folder);
  Run(peer.handle(), "PRAGMA synchronous=OFF; PRAGMA wal_autocheckpoint=0");
  const std::string wal = folder.path() + "/peer.db-wal";
  const auto before = std::filesystem::file_size(wal);
  {
    Statement insert(peer.handle(), kInsert);
    for (int64_t key = 0; key < kBytesRows; ++key) insert.Insert(key);
  }
  const auto after = std::filesystem::file_size(wal);
  return {static_cast<double>(after - before) / kBytesRows, AnswerOf(peer.handle())};
}

}  // namespace

int main(int argc, char** argv) {
  edge::bench::Suite suite(argc, argv);
  suite.Row({.name = "srs/commit_1db",
             .peer_name = "sqlite WAL synchronous=FULL",
             .unit = "commits/s",
             .better = Better::kHigher,
             .repetitions = 5},
            CommitOurs, CommitPeer);
  suite.Row({.name = "srs/bytes_per_commit",
             .peer_name = "sqlite WAL frames",
             .unit = "bytes",
             .repetitions = 5},
            BytesOurs, BytesPeer);
  return 0;
}
