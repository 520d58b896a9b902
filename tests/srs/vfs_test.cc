// Programs that know SQLite and the name of a VFS, and nothing of our classes.
#include <sqlite3.h>

#include <memory>

#include "edge/srs/relay.h"
#include "edge/srs/store_reader.h"
#include "tests/srs/srs_test_util.h"

namespace edge::srs {
namespace {

struct Closer {
  void operator()(sqlite3* db) const { CHECK(sqlite3_close(db) == SQLITE_OK); }
};
using Connection = std::unique_ptr<sqlite3, Closer>;

constexpr int kCreate = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE;

Connection Open(Relay& relay, const char* name, int flags = kCreate) {
  sqlite3* db = nullptr;
  const int opened = sqlite3_open_v2(name, &db, flags, relay.vfs_name().c_str());
  Connection connection(db);
  if (opened != SQLITE_OK) return nullptr;
  return connection;
}

TEST_CASE("a plain sqlite3 connection on the VFS is journalled and restorable", "[srs][vfs]") {
  TempFolder folder;
  std::shared_ptr<ObjectStore> store = FolderStore(folder / "store");
  auto relay = Relay::Open({.directory = folder / "data", .store = store}).value();
  std::string before;
  {
    auto db = Open(*relay, "orders");
    REQUIRE(db != nullptr);
    CHECK(Ask(db.get(), "PRAGMA journal_mode") == "wal");
    MustRun(db.get(), "CREATE TABLE t(a INTEGER PRIMARY KEY, b)");
    // Enough for SQLite's own checkpoints, and for the log to begin again several times.
    for (int i = 0; i < 3000; ++i) {
      MustRun(db.get(), "INSERT INTO t(b) VALUES(randomblob(2000))");
    }
    CHECK(Ask(db.get(), "PRAGMA srs_wait") == "3001");
    before = Ask(db.get(), "PRAGMA srs_bookmark");
    MustRun(db.get(),
            "BEGIN; DELETE FROM t WHERE a > 10; SAVEPOINT s; DELETE FROM t; ROLLBACK TO s;"
            "COMMIT");
    CHECK(Ask(db.get(), "SELECT count(*) FROM t") == "10");
    MustRun(db.get(), "VACUUM");
    CHECK(Open(*relay, "orders") == nullptr);  // one connection
    CHECK(relay->OpenDatabase("orders").status().code() == StatusCode::kFailedPrecondition);
    CHECK(Run(db.get(), "PRAGMA journal_mode=DELETE") == SQLITE_ERROR);
    CHECK(Ask(db.get(), "PRAGMA integrity_check") == "ok");
  }
  CHECK(Open(*relay, "nobody", SQLITE_OPEN_READWRITE) == nullptr);
  CHECK(Open(*relay, "what is this") == nullptr);
  REQUIRE(relay->Flush().ok());
  auto reader = StoreReader::Open({.store = store}).value();
  CHECK(reader->Verify("orders", folder / "scratch").ok());
  auto then = reader->OpenReadOnly("orders", {.bookmark = before}).value();
  CHECK(Ask(then->handle(), "SELECT count(*), total(length(b)) FROM t") == "3000|6000000.0");
  then.reset();

  // The same database through our class, and after losing the machine by name again.
  CHECK(Ask(relay->OpenDatabase("orders").value()->handle(), "SELECT count(*) FROM t") == "10");
  relay.reset();
  std::filesystem::remove_all(folder / "data");
  relay = Relay::Open({.directory = folder / "data", .store = store}).value();
  auto db = Open(*relay, "orders", SQLITE_OPEN_READWRITE);
  REQUIRE(db != nullptr);
  CHECK(Ask(db.get(), "SELECT count(*) FROM t") == "10");
}

TEST_CASE("an attached name is a database of the relay of its own", "[srs][vfs]") {
  TempFolder folder;
  auto relay = Relay::Open({.directory = folder / "data"}).value();
  {
    auto db = relay->OpenDatabase("one").value();
    MustRun(db->handle(), "ATTACH 'two' AS two; CREATE TABLE a(x); CREATE TABLE two.b(x)");
    for (int i = 0; i < 600; ++i) {
      MustRun(db->handle(),
              "BEGIN; INSERT INTO a VALUES(randomblob(900));"
              "INSERT INTO b VALUES(randomblob(3000)); COMMIT");
    }
    CHECK(relay->OpenDatabase("two").status().code() == StatusCode::kFailedPrecondition);
  }
  auto two = relay->OpenDatabase("two").value();
  CHECK(Ask(two->handle(), "SELECT count(*) FROM b") == "600");
  CHECK(two->lsn() == 601);
  auto one = relay->OpenDatabase("one").value();
  CHECK(Ask(one->handle(), "SELECT count(*) FROM a") == "600");
}

TEST_CASE("a database larger than all our caches is written, read and checked", "[srs][vfs]") {
  TempFolder folder;
  auto relay = Relay::Open({.directory = folder / "data"}).value();
  auto db = relay->OpenDatabase("big").value();
  MustRun(db->handle(), "PRAGMA cache_size=-1000; CREATE TABLE t(a INTEGER PRIMARY KEY, b)");
  for (int i = 0; i < 6; ++i) {  // 50 MiB: the log spills to a file, the overlay is flushed
    MustRun(db->handle(),
            "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n WHERE i<2000)"
            " INSERT INTO t(b) SELECT randomblob(4050) FROM n");
  }
  MustRun(db->handle(), "UPDATE t SET b = zeroblob(100) WHERE a % 3 = 0");
  CHECK(Ask(db->handle(), "SELECT count(*), total(length(b)) FROM t") == "12000|32800000.0");
  CHECK(Ask(db->handle(), "PRAGMA quick_check") == "ok");
}

TEST_CASE("spilled caches, savepoints and page sizes end as they would in a plain file",
          "[srs][vfs]") {
  TempFolder folder;
  auto relay = Relay::Open({.directory = folder / "data"}).value();
  auto ours = relay->OpenDatabase("t").value();
  sqlite3* plain = nullptr;
  REQUIRE(sqlite3_open(":memory:", &plain) == SQLITE_OK);
  const Connection owner(plain);
  for (const char* sql :
       {"PRAGMA cache_size=10", "PRAGMA cache_spill=5",
        "CREATE TABLE t(a INTEGER PRIMARY KEY, b); CREATE INDEX i ON t(b)",
        "BEGIN; WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n WHERE i<5000)"
        " INSERT INTO t SELECT i, printf('%0200d', i * 7919 % 5003) FROM n;"
        "SAVEPOINT one; DELETE FROM t WHERE a % 2; SAVEPOINT two; UPDATE t SET b = a || b;"
        "ROLLBACK TO two; RELEASE one; COMMIT",
        "BEGIN; DELETE FROM t; ROLLBACK", "DELETE FROM t WHERE a > 1000; VACUUM",
        "PRAGMA auto_vacuum=FULL; VACUUM; DELETE FROM t WHERE a > 100"}) {
    CAPTURE(sql);
    MustRun(ours->handle(), sql);
    MustRun(plain, sql);
    const std::string all = "SELECT count(*), total(a), group_concat(b) FROM t";
    if (std::string_view(sql).find("PRAGMA c") != 0) {
      CHECK(Ask(ours->handle(), all) == Ask(plain, all));
      CHECK(Ask(ours->handle(), "PRAGMA integrity_check") == "ok");
    }
  }
  CHECK(Run(ours->handle(), "PRAGMA page_size=8192") == SQLITE_ERROR);
  CHECK(std::string(sqlite3_errmsg(ours->handle())) == "page_size is fixed: 4096");
}

}  // namespace
}  // namespace edge::srs
