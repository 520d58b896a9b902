#include "edge/srs/relay.h"

#include <atomic>
#include <thread>

#include "edge/base/errors.h"
#include "edge/base/file_system.h"
#include "edge/base/random.h"
#include "tests/srs/srs_test_util.h"

namespace edge::srs {
namespace {

TEST_CASE("a committed row is there after closing and opening again", "[srs]") {
  TempFolder folder;
  std::string bookmark;
  {
    auto relay = Relay::Open({.directory = folder / "data"}).value();
    auto db = relay->OpenDatabase("orders").value();
    CHECK(db->lsn() == 0);
    MustRun(db->handle(), "CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT)");
    MustRun(db->handle(), "INSERT INTO t VALUES(1,'one')");
    CHECK(db->lsn() == 2);
    CHECK(db->WaitDurable().ok());
    CHECK(db->durable_lsn() == 2);
    bookmark = db->GetCurrentBookmark();
    CHECK(Ask(db->handle(), "PRAGMA journal_mode") == "wal");
    CHECK(Ask(db->handle(), "PRAGMA integrity_check") == "ok");
  }
  auto relay = Relay::Open({.directory = folder / "data"}).value();
  auto db = relay->OpenDatabase("orders").value();
  CHECK(db->lsn() == 2);
  CHECK(db->GetCurrentBookmark() == bookmark);
  CHECK(Ask(db->handle(), "SELECT * FROM t") == "1|one");
}

// In memory and without threads.
struct Bench {
  std::unique_ptr<MemoryFileSystem> files = MemoryFileSystem::Create();
  SeededRandom random{1};
  std::unique_ptr<Relay> relay = Relay::Open({.directory = "data",
                                              .journal_file_bytes = 64 << 10,
                                              .files = files.get(),
                                              .random = &random,
                                              .background_threads = false})
                                     .value();
};

TEST_CASE("what would break the capture is refused by name", "[srs]") {
  Bench bench;
  auto db = bench.relay->OpenDatabase("t").value();
  sqlite3* const raw = db->handle();
  MustRun(raw, "CREATE TABLE t(a)");
  const auto refused = [&](const char* sql, const char* why) {
    CAPTURE(sql);
    CHECK(Run(raw, sql) != SQLITE_OK);
    CHECK(std::string(sqlite3_errmsg(raw)).find(why) != std::string::npos);
  };
  refused("PRAGMA journal_mode=DELETE", "journal_mode is fixed");
  refused("PRAGMA locking_mode=NORMAL", "locking_mode is fixed");
  refused("PRAGMA page_size=8192", "page_size is fixed");
  refused("PRAGMA wal_checkpoint(TRUNCATE)", "checkpoints are made by");
  refused("PRAGMA wal_autocheckpoint=100", "checkpoints are made by");
  refused("ATTACH '/tmp/other.db' AS o", "unable to open");
  refused("VACUUM INTO '/tmp/other.db'", "unable to open");
  refused("VACUUM INTO 'other'", "output file already exists");
  CHECK(Ask(raw, "PRAGMA journal_mode") == "wal");
  CHECK(Ask(raw, "PRAGMA page_size") == "4096");
  MustRun(raw, "VACUUM");
  MustRun(raw, "INSERT INTO t VALUES(1)");
  CHECK(db->WaitDurable().ok());
}

TEST_CASE("a statement that returns rows commits although it is not run to its end", "[srs]") {
  Bench bench;
  auto db = bench.relay->OpenDatabase("t").value();
  MustRun(db->handle(), "CREATE TABLE t(a)");
  sqlite3_stmt* statement = nullptr;
  REQUIRE(sqlite3_prepare_v2(db->handle(), "INSERT INTO t VALUES(1),(2) RETURNING a", -1,
                             &statement, nullptr) == SQLITE_OK);
  REQUIRE(sqlite3_step(statement) == SQLITE_ROW);
  CHECK(db->lsn() == 1);
  sqlite3_finalize(statement);
  CHECK(db->lsn() == 2);
  CHECK(db->WaitDurable().ok());
}

TEST_CASE("transactions that change nothing make no commit", "[srs]") {
  Bench bench;
  auto db = bench.relay->OpenDatabase("t").value();
  MustRun(db->handle(), "CREATE TABLE t(a)");
  const Lsn lsn = db->lsn();
  MustRun(db->handle(), "BEGIN IMMEDIATE; COMMIT; BEGIN; SELECT * FROM t; COMMIT");
  MustRun(db->handle(), "BEGIN; INSERT INTO t VALUES(1); ROLLBACK");
  CHECK(db->lsn() == lsn);
}

TEST_CASE("a transaction above the limit fails as a full disk and leaves the rest", "[srs]") {
  Bench bench;
  auto db = bench.relay->OpenDatabase("t").value();
  MustRun(db->handle(), "CREATE TABLE t(a); PRAGMA cache_size=50");
  MustRun(db->handle(), "INSERT INTO t VALUES('kept')");
  const int code =
      Run(db->handle(),
          "INSERT INTO t SELECT zeroblob(900000) FROM (WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL "
          "SELECT i+1 FROM n WHERE i<200) SELECT i FROM n)");
  CHECK((code & 0xff) == SQLITE_FULL);
  CHECK(Ask(db->handle(), "SELECT * FROM t") == "kept");
  MustRun(db->handle(), "INSERT INTO t VALUES('more')");
  CHECK(db->WaitDurable().ok());
  CHECK(db->health().ok());
}

TEST_CASE("a large transaction spills, is journalled whole and comes back", "[srs]") {
  Bench bench;
  auto db = bench.relay->OpenDatabase("t").value();
  MustRun(db->handle(), "CREATE TABLE t(a); PRAGMA cache_size=50");
  MustRun(db->handle(),
          "INSERT INTO t SELECT randomblob(3000) FROM (WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL "
          "SELECT i+1 FROM n WHERE i<6000) SELECT i FROM n)");
  const std::string sum = Ask(db->handle(), "SELECT count(*), hex(max(a)) FROM t");
  REQUIRE(db->WaitDurable().ok());
  bench.files->Crash(bench.random);
  db.reset();
  bench.relay.reset();
  bench.relay = Relay::Open({.directory = "data",
                             .journal_file_bytes = 64 << 10,
                             .files = bench.files.get(),
                             .random = &bench.random,
                             .background_threads = false})
                    .value();
  db = bench.relay->OpenDatabase("t").value();
  CHECK(Ask(db->handle(), "SELECT count(*), hex(max(a)) FROM t") == sum);
  CHECK(Ask(db->handle(), "PRAGMA integrity_check") == "ok");
}

TEST_CASE("names, double opening and a second relay are refused", "[srs]") {
  Bench bench;
  for (const char* bad : {"", "a b", "a\n", "\xc3\xa4", "a~b", "a:b"}) {
    CAPTURE(bad);
    CHECK(bench.relay->OpenDatabase(bad).status().code() == StatusCode::kInvalidArgument);
  }
  CHECK(bench.relay->OpenDatabase(std::string(201, 'a')).status().code() ==
        StatusCode::kInvalidArgument);
  auto a = bench.relay->OpenDatabase("a").value();
  auto b = bench.relay->OpenDatabase("a/b").value();
  auto c = bench.relay->OpenDatabase("..").value();
  CHECK(bench.relay->OpenDatabase("a").status().code() == StatusCode::kFailedPrecondition);
  CHECK(Relay::Open({.directory = "data", .files = bench.files.get(), .random = &bench.random})
            .status()
            .code() == StatusCode::kFailedPrecondition);
  MustRun(b->handle(), "CREATE TABLE t(a)");
  CHECK(a->lsn() == 0);
  CHECK(a->WaitDurable(1).code() == StatusCode::kInvalidArgument);
  CHECK(Relay::Open({}).status().code() == StatusCode::kInvalidArgument);
}

TEST_CASE("callbacks come once, in order, when the commit is durable", "[srs]") {
  Bench bench;
  auto db = bench.relay->OpenDatabase("t").value();
  MustRun(db->handle(), "CREATE TABLE t(a)");
  std::vector<Lsn> order;
  for (int i = 0; i < 5; ++i) {
    MustRun(db->handle(), "INSERT INTO t VALUES(1)");
    const Lsn lsn = db->lsn();
    db->OnDurable(lsn, [&order, lsn, raw = db.get()](const Status& status) {
      CHECK(status.ok());
      CHECK(raw->durable_lsn() >= lsn);
      order.push_back(lsn);
    });
  }
  CHECK(order.empty());
  CHECK(db->durable_lsn() == 0);
  while (bench.relay->RunBackgroundStep()) {
  }
  CHECK(order == std::vector<Lsn>{2, 3, 4, 5, 6});
  bool at_once = false;
  db->OnDurable(3, [&](const Status& status) { at_once = status.ok(); });
  CHECK(at_once);
}

TEST_CASE("many databases on many threads share the journal", "[srs]") {
  TempFolder folder;
  constexpr int kThreads = 4;
  constexpr int kRows = 300;
  {
    auto relay = Relay::Open({.directory = folder / "data", .journal_file_bytes = 1 << 20}).value();
    std::vector<std::thread> threads;
    std::atomic<int> confirmed{0};
    for (int i = 0; i < kThreads; ++i) {
      threads.emplace_back([&relay, &confirmed, i] {
        auto db = relay->OpenDatabase("db" + std::to_string(i)).value();
        if (Run(db->handle(), "CREATE TABLE t(a, b)") != SQLITE_OK) return;
        for (int row = 0; row < kRows; ++row) {
          if (Run(db->handle(), "INSERT INTO t VALUES(1, randomblob(200))") != SQLITE_OK) return;
          db->OnDurable(db->lsn(), [&confirmed](const Status& status) {
            if (status.ok()) confirmed.fetch_add(1);
          });
        }
        if (i % 2 == 0) db->WaitDurable().IgnoreError();
      });
    }
    for (std::thread& thread : threads) thread.join();
    CHECK(confirmed == kThreads * kRows);
  }
  auto relay = Relay::Open({.directory = folder / "data", .journal_file_bytes = 1 << 20}).value();
  for (int i = 0; i < kThreads; ++i) {
    auto db = relay->OpenDatabase("db" + std::to_string(i)).value();
    CHECK(Ask(db->handle(), "SELECT count(*) FROM t") == std::to_string(kRows));
  }
}

TEST_CASE("the journal does not grow for ever", "[srs]") {
  Bench bench;
  auto busy = bench.relay->OpenDatabase("busy").value();
  auto idle = bench.relay->OpenDatabase("idle").value();
  MustRun(idle->handle(), "CREATE TABLE t(a)");  // open, with one commit in the oldest file
  MustRun(busy->handle(), "CREATE TABLE t(a)");
  size_t most = 0;
  for (int i = 0; i < 600; ++i) {
    MustRun(busy->handle(), "INSERT INTO t VALUES(randomblob(1500))");
    while (bench.relay->RunBackgroundStep()) {
    }
    most = std::max(most, bench.files->List("data/journal").value().size());
  }
  CHECK(most <= 8);
}

TEST_CASE("a full disk is reported, and after space is made everything confirmed is there",
          "[srs]") {
  Bench bench;
  auto db = bench.relay->OpenDatabase("t").value();
  MustRun(db->handle(), "CREATE TABLE t(a INTEGER PRIMARY KEY, b)");
  bench.files->SetCapacity(600 << 10);
  int confirmed = 0;
  Status failure;
  for (int i = 0; i < 2000 && failure.ok(); ++i) {
    if (Run(db->handle(), "INSERT INTO t(b) VALUES(randomblob(3000))") != SQLITE_OK) {
      failure = db->health();
      break;
    }
    failure = db->WaitDurable();
    if (failure.ok()) ++confirmed;
  }
  INFO(failure.ToString());
  REQUIRE(failure.code() == StatusCode::kResourceExhausted);
  CHECK(Message(failure).find("data/") != std::string_view::npos);
  CHECK(Run(db->handle(), "INSERT INTO t(b) VALUES(1)") != SQLITE_OK);
  CHECK_FALSE(db->health().ok());
  db.reset();
  bench.relay.reset();
  bench.files->SetCapacity(UINT64_MAX);
  bench.relay = Relay::Open({.directory = "data",
                             .journal_file_bytes = 64 << 10,
                             .files = bench.files.get(),
                             .random = &bench.random,
                             .background_threads = false})
                    .value();
  db = bench.relay->OpenDatabase("t").value();
  CHECK(std::stoi(Ask(db->handle(), "SELECT count(*) FROM t")) >= confirmed);
  CHECK(Ask(db->handle(), "PRAGMA integrity_check") == "ok");
}

}  // namespace
}  // namespace edge::srs
