#include "edge/durable/sql.h"

#include <sqlite3.h>

#include <map>
#include <random>

#include "durable/sql_engine.h"
#include "edge/base/errors.h"

using namespace edge;           // NOLINT
using namespace edge::durable;  // NOLINT
using edge::durable::internal::SqlEngine;

namespace {

sqlite3* OpenMemory() {
  sqlite3* db = nullptr;
  REQUIRE(sqlite3_open(":memory:", &db) == SQLITE_OK);
  return db;
}

// A database in memory with the rules of an object's.
struct Fixture {
  sqlite3* db = OpenMemory();
  std::unique_ptr<SqlEngine> engine = SqlEngine::Create(db).value();
  Sql sql{*engine};
  ~Fixture() {
    engine.reset();
    CHECK(sqlite3_close(db) == SQLITE_OK);
  }
  std::string ErrorOf(std::string_view query) {
    return std::string(Message(sql.TryExec(query).status()));
  }
  StatusCode CodeOf(std::string_view query) { return sql.TryExec(query).status().code(); }
};

template <typename F>
std::string Thrown(F function) {
  try {
    function();
  } catch (const Error& error) {
    return std::string(Message(error.status()));
  }
  return "nothing was thrown";
}

constexpr std::string_view kFour =
    "SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4";

}  // namespace

TEST_CASE("rows come as tuples in a range-for", "[durable][sql]") {
  Fixture f;
  f.sql.Exec("CREATE TABLE seats (seat TEXT PRIMARY KEY, price INTEGER, occupant TEXT)");
  f.sql.Exec("INSERT INTO seats VALUES (?, ?, ?), (?, ?, NULL)", "1A", 120, "ada", "1B", 90);
  std::vector<std::string> seen;
  for (auto& [seat, price, occupant] : f.sql.Exec<std::string, int64_t, std::optional<std::string>>(
           "SELECT seat, price, occupant FROM seats ORDER BY seat")) {
    seen.push_back(Format("{} {} {}", {seat, price, occupant.value_or("-")}));
  }
  REQUIRE(seen == std::vector<std::string>{"1A 120 ada", "1B 90 -"});
}

TEST_CASE("every type goes in and comes out unchanged", "[durable][sql]") {
  Fixture f;
  const Bytes blob = ToBytes(std::string_view("\0\x01\xff", 3));
  const std::string zero_inside("h\0i", 3);
  auto [null, big, real, text, bytes, yes, none] =
      f.sql
          .Exec<std::optional<int64_t>, int64_t, double, std::string, Bytes, bool,
                std::optional<std::string>>("SELECT ?, ?, ?, ?, ?, ?, ?", nullptr, INT64_MAX, 0.1,
                                            zero_inside, blob, true, std::optional<std::string>())
          .One();
  REQUIRE(!null);
  REQUIRE(big == INT64_MAX);  // beyond 2^53, exact
  REQUIRE(real == 0.1);
  REQUIRE(text == zero_inside);
  REQUIRE(bytes == blob);
  REQUIRE(yes);
  REQUIRE(!none);
  REQUIRE(f.sql.Exec<std::string>("SELECT typeof(?)", Bytes()).Value() == "blob");
  REQUIRE(f.sql.Exec<std::string>("SELECT typeof(?)", "").Value() == "text");
  REQUIRE(f.sql.Exec<SqlValue>("SELECT ?", SqlValue(INT64_MIN)).Value() == SqlValue(INT64_MIN));
  REQUIRE(f.sql.Exec<double>("SELECT 7").Value() == 7.0);
  REQUIRE(f.sql.Exec<uint8_t>("SELECT 255").Value() == 255);
}

TEST_CASE("a value that does not fit the asked type is an error that names the column",
          "[durable][sql]") {
  Fixture f;
  REQUIRE(Thrown([&] { f.sql.Exec<int64_t>("SELECT NULL AS n").One(); }) ==
          "Column 0 (n) is NULL; read it as std::optional.");
  REQUIRE(Thrown([&] { f.sql.Exec<int64_t>("SELECT 'x' AS n").One(); }) ==
          "Column 0 (n) holds TEXT, which does not read as a 64-bit integer.");
  REQUIRE(Thrown([&] { f.sql.Exec<int64_t, int32_t>("SELECT 1, 2147483648 AS n").One(); }) ==
          "Column 1 (n) holds INTEGER 2147483648, which does not read as a 32-bit integer.");
  REQUIRE(Thrown([&] { f.sql.Exec<uint64_t>("SELECT -1 AS n").One(); }) ==
          "Column 0 (n) holds INTEGER -1, which does not read as a 64-bit integer.");
  REQUIRE(Thrown([&] { f.sql.Exec<std::string>("SELECT 1 AS n").One(); }) ==
          "Column 0 (n) holds INTEGER 1, which does not read as text or bytes.");
  REQUIRE(Thrown([&] { f.sql.Exec<int64_t, int64_t>("SELECT 1"); }) ==
          "SQL query returns 1 columns, but 2 types were given for them.");
  REQUIRE(Thrown([&] { f.sql.Exec("SELECT ?", UINT64_MAX); }) ==
          "Parameter 1 does not fit in SQLite's 64-bit signed integers.");
}

TEST_CASE("One() wants exactly one row", "[durable][sql]") {
  Fixture f;
  REQUIRE(Thrown([&] { f.sql.Exec<int64_t>("SELECT 1 WHERE 0").One(); }) ==
          "Expected exactly one result from SQL query, but got no results.");
  auto rows = f.sql.Exec<int64_t>(kFour);
  REQUIRE(Thrown([&] { rows.One(); }) ==
          "Expected exactly one result from SQL query, but got multiple results.");
  REQUIRE(!rows.Next());  // and it has ended
  auto cursor = f.sql.Exec("SELECT 1 WHERE 0");
  REQUIRE(Message(cursor.TryOne().status()) ==
          "Expected exactly one result from SQL query, but got no results.");
}

TEST_CASE("First(), Next(), ToArray() and the range-for share one position", "[durable][sql]") {
  Fixture f;
  auto rows = f.sql.Exec<int64_t>(kFour);
  REQUIRE(std::get<0>(*rows.Next()) == 1);
  for (auto& [n] : rows) {
    REQUIRE(n == 2);
    break;
  }
  REQUIRE(rows.ToArray() == std::vector<std::tuple<int64_t>>{{3}, {4}});
  REQUIRE(rows.ToArray().empty());
  REQUIRE(std::get<0>(*f.sql.Exec<int64_t>(kFour).First()) == 1);
  REQUIRE(!f.sql.Exec<int64_t>("SELECT 1 WHERE 0").First());
}

TEST_CASE("untyped rows have names, and of equal names the last", "[durable][sql]") {
  Fixture f;
  auto cursor = f.sql.Exec("SELECT 1 AS a, 'two' AS b, 3 AS a");
  REQUIRE(cursor.column_names() == std::vector<std::string>{"a", "b", "a"});
  const Row row = cursor.One();
  REQUIRE(row.size() == 3);
  REQUIRE(row["a"] == SqlValue(int64_t{3}));
  REQUIRE(row.Get<std::string>("b") == "two");
  REQUIRE(row.Get<int64_t>(size_t{0}) == 1);
  REQUIRE(row.values() == std::vector<SqlValue>{int64_t{1}, std::string("two"), int64_t{3}});
  REQUIRE(cursor.column_names() == std::vector<std::string>{"a", "b", "a"});  // still there
  REQUIRE(Thrown([&] { (void)row["c"]; }) == "SQL query has no column named c.");
  REQUIRE(Thrown([&] { (void)row.Get<int64_t>("b"); }) ==
          "The value is TEXT, not of the type asked for.");
  REQUIRE(f.sql.Exec("CREATE TABLE t (x)").column_names().empty());
}

TEST_CASE("borrowed text is valid until the next row", "[durable][sql]") {
  Fixture f;
  size_t bytes = 0;
  for (auto& [text, blob] :
       f.sql.Exec<std::string_view, ByteView>("SELECT 'abc', x'0102' UNION ALL SELECT 'd', x''")) {
    bytes += text.size() + blob.size();
  }
  REQUIRE(bytes == 6);
}

TEST_CASE("parameters must match in number", "[durable][sql]") {
  Fixture f;
  constexpr std::string_view kText = "Wrong number of parameter bindings for SQL query.";
  REQUIRE(Thrown([&] { f.sql.Exec("SELECT ?"); }) == kText);
  REQUIRE(Thrown([&] { f.sql.Exec("SELECT ?", 1, 2); }) == kText);
  REQUIRE(Thrown([&] { f.sql.Exec("SELECT 1", 1); }) == kText);
}

TEST_CASE("several statements run in order and the last one's rows count", "[durable][sql]") {
  Fixture f;
  auto rows = f.sql.Exec<int64_t>(
      "CREATE TABLE t (x); INSERT INTO t VALUES (1), (2); SELECT 99; SELECT x FROM t WHERE x > ?  ",
      1);
  REQUIRE(rows.Value() == 2);
  REQUIRE(f.ErrorOf("INSERT INTO t VALUES (?); SELECT 1") ==
          "When executing multiple SQL statements in a single call, only the last statement can "
          "have parameters.");
  for (const char* empty : {"", " ", ";", "SELECT 1; ;", "SELECT 1; -- the end"}) {
    CAPTURE(empty);
    REQUIRE(f.ErrorOf(empty) == "SQL code did not contain a statement.");
  }
  REQUIRE(f.CodeOf("SELECT 1; -- the end") == StatusCode::kInvalidArgument);
}

TEST_CASE("errors carry SQLite's text, the offset and both codes", "[durable][sql]") {
  Fixture f;
  REQUIRE(f.ErrorOf("SELEC 1") == "near \"SELEC\": syntax error at offset 0: SQLITE_ERROR");
  REQUIRE(f.ErrorOf("SELECT absent") == "no such column: absent at offset 7: SQLITE_ERROR");
  REQUIRE(f.CodeOf("SELECT absent") == StatusCode::kInvalidArgument);
  f.sql.Exec("CREATE TABLE t (x INTEGER PRIMARY KEY, y TEXT UNIQUE NOT NULL)");
  f.sql.Exec("INSERT INTO t VALUES (1, 'a')");
  REQUIRE(f.ErrorOf("INSERT INTO t VALUES (2, 'a')") ==
          "UNIQUE constraint failed: t.y: SQLITE_CONSTRAINT (extended: SQLITE_CONSTRAINT_UNIQUE)");
  REQUIRE(f.ErrorOf("INSERT INTO t VALUES (2, NULL)") ==
          "NOT NULL constraint failed: t.y: SQLITE_CONSTRAINT (extended: "
          "SQLITE_CONSTRAINT_NOTNULL)");
  REQUIRE(f.CodeOf("INSERT INTO t VALUES (2, 'a')") == StatusCode::kFailedPrecondition);
  f.sql.Exec("CREATE TABLE u (x REFERENCES t)");
  REQUIRE(f.ErrorOf("INSERT INTO u VALUES (7)") ==  // foreign keys are on
          "FOREIGN KEY constraint failed: SQLITE_CONSTRAINT (extended: "
          "SQLITE_CONSTRAINT_FOREIGNKEY)");
}

TEST_CASE("an object's SQL cannot touch what is not its own", "[durable][sql]") {
  Fixture f;
  REQUIRE(f.engine->RunTrusted("CREATE TABLE _cf_KV (key TEXT PRIMARY KEY, value BLOB)").ok());
  REQUIRE(f.ErrorOf("SELECT key FROM _cf_KV") == "access to _cf_KV.key is prohibited: SQLITE_AUTH");
  f.sql.Exec("CREATE TABLE t (x)");
  for (const char* query : {"INSERT INTO _cf_KV VALUES ('a', 'b')",
                            "DROP TABLE _cf_KV",
                            "CREATE TABLE _cf_mine (x)",
                            "CREATE TABLE _CF_mine (x)",
                            "CREATE INDEX _cf_i ON t(x)",
                            "CREATE VIEW _cf_v AS SELECT 1",
                            "CREATE TRIGGER _cf_t AFTER INSERT ON t BEGIN SELECT 1; END",
                            "ATTACH 'x' AS y",
                            "CREATE TEMP TABLE z (x)",
                            "CREATE TEMP VIEW z AS SELECT 1",
                            "DETACH main",
                            "ALTER TABLE t RENAME TO _cf_t",
                            "ALTER TABLE _cf_KV RENAME TO kv",
                            "PRAGMA journal_mode = DELETE",
                            "PRAGMA page_size = 1024",
                            "PRAGMA hard_heap_limit = 1",
                            "PRAGMA wal_checkpoint",
                            "PRAGMA locking_mode = NORMAL",
                            "PRAGMA table_info(_cf_KV)",
                            "PRAGMA foreign_keys = 17"}) {
    CAPTURE(query);
    const Status status = f.sql.TryExec(query).status();
    CHECK(status.code() == StatusCode::kPermissionDenied);
    CHECK(std::string(Message(status).substr(0, 14)) == "not authorized");
  }
  // A module that is not on the list, and what runs outside any transaction.
  REQUIRE(f.CodeOf("CREATE VIRTUAL TABLE d USING dbstat") == StatusCode::kPermissionDenied);
  REQUIRE(!f.sql.TryExec("VACUUM").ok());
  REQUIRE(!f.sql.TryExec("VACUUM INTO 'somewhere'").ok());
  REQUIRE(f.ErrorOf("SELECT sqlite_version()") ==
          "not authorized to use function: sqlite_version at offset 7: SQLITE_ERROR");
  REQUIRE(f.CodeOf("SELECT sqlite_version()") == StatusCode::kPermissionDenied);
  REQUIRE(f.sql.Exec<int64_t>("SELECT count(*) FROM t").Value() == 0);  // t has kept its name
}

TEST_CASE("BEGIN and its kin are refused with the way to do it", "[durable][sql]") {
  Fixture f;
  f.sql.Exec("CREATE TABLE t (x)");
  for (const char* query :
       {"BEGIN", "BEGIN IMMEDIATE TRANSACTION", "COMMIT", "ROLLBACK", "SAVEPOINT a", "RELEASE a"}) {
    CAPTURE(query);
    const Status status = f.sql.TryExec(query).status();
    REQUIRE(status.code() == StatusCode::kPermissionDenied);
    REQUIRE(Message(status).starts_with(
        "To execute a transaction, please use the storage().TransactionSync() API instead of the "
        "SQL BEGIN TRANSACTION or SAVEPOINT statements."));
  }
}

TEST_CASE("what an object may use works: pragmas, json, fts5, rtree, math", "[durable][sql]") {
  Fixture f;
  f.sql.Exec("CREATE TABLE t (x INTEGER PRIMARY KEY, y TEXT)");
  REQUIRE(f.sql.Exec("PRAGMA table_info(t)").ToArray().size() == 2);
  REQUIRE(!f.sql.Exec("PRAGMA table_list").ToArray().empty());
  REQUIRE(f.sql.Exec<int64_t>("PRAGMA foreign_keys").Value() == 1);
  f.sql.Exec("PRAGMA defer_foreign_keys = ON");
  f.sql.Exec("PRAGMA case_sensitive_like = 'yes'");
  REQUIRE(f.sql.Exec<std::string>("PRAGMA quick_check").Value() == "ok");
  f.sql.Exec("PRAGMA optimize");
  f.sql.Exec("ANALYZE");
  REQUIRE(f.sql.Exec<std::string>("SELECT json_extract('{\"a\":[1,2]}', '$.a')").Value() ==
          "[1,2]");
  REQUIRE(f.sql.Exec<int64_t>("SELECT '[3,4]' ->> 1").Value() == 4);
  REQUIRE(f.sql.Exec<int64_t>("SELECT sum(value) FROM json_each('[1,2,3]')").Value() == 6);
  REQUIRE(f.sql.Exec<double>("SELECT sqrt(16)").Value() == 4);
  f.sql.Exec("CREATE VIRTUAL TABLE docs USING fts5(body)");
  f.sql.Exec("INSERT INTO docs VALUES (?), (?)", "a window seat", "an aisle seat");
  REQUIRE(f.sql.Exec<std::string>("SELECT body FROM docs WHERE docs MATCH 'window'").Value() ==
          "a window seat");
  REQUIRE(f.sql
              .Exec<std::string>(
                  "SELECT highlight(docs, 0, '[', ']') FROM docs WHERE docs MATCH 'aisle'")
              .Value() == "an [aisle] seat");
  f.sql.Exec("CREATE VIRTUAL TABLE places USING rtree(id, x0, x1)");
  f.sql.Exec("INSERT INTO places VALUES (1, 0, 5), (2, 10, 15)");
  REQUIRE(f.sql.Exec<int64_t>("SELECT id FROM places WHERE x0 > 6").Value() == 2);
  f.sql.Exec("ALTER TABLE t RENAME TO t2; ALTER TABLE t2 RENAME COLUMN y TO z");
  f.sql.Exec("ALTER TABLE t2 ADD COLUMN w; ALTER TABLE t2 DROP COLUMN w");
  f.sql.Exec("DROP TABLE docs; DROP TABLE places");
  REQUIRE(f.sql.Exec<int64_t>("SELECT row_number() OVER () FROM (SELECT 1)").Value() == 1);
  f.sql.Exec("INSERT INTO t2 VALUES (1, 'a'), (2, 'b'), (3, 'c')");
  REQUIRE(f.sql.Exec("DELETE FROM t2 ORDER BY x DESC LIMIT 2").rows_written() == 2);
  REQUIRE(f.engine->Commit().ok());
}

TEST_CASE("limits hold", "[durable][sql]") {
  Fixture f;
  REQUIRE(f.CodeOf("SELECT '" + std::string(100'001, 'x') + "'") == StatusCode::kResourceExhausted);
  REQUIRE(f.sql.TryExec("SELECT length(?)", std::string((4 << 20) + 1, 'x')).status().code() ==
          StatusCode::kResourceExhausted);
  REQUIRE(f.sql.Exec<int64_t>("SELECT length(?)", std::string(2 << 20, 'x')).Value() == 2 << 20);
  REQUIRE(f.ErrorOf("SELECT 1 UNION SELECT 2 UNION SELECT 3 UNION SELECT 4 UNION SELECT 5 UNION "
                    "SELECT 6") == "too many terms in compound SELECT: SQLITE_ERROR");
  REQUIRE(f.ErrorOf("SELECT ?101") ==
          "variable number must be between ?1 and ?100 at offset 7: SQLITE_ERROR");
  REQUIRE(f.sql.TryExec("SELECT 'a' LIKE ?", std::string(51, 'x')).status().code() ==
          StatusCode::kInvalidArgument);
}

TEST_CASE("rows are counted as they are read and written", "[durable][sql]") {
  Fixture f;
  f.sql.Exec("CREATE TABLE t (x INTEGER PRIMARY KEY, y)");
  auto write = f.sql.Exec("INSERT INTO t VALUES (1,'a'),(2,'b'),(3,'c'),(4,'d')");
  REQUIRE(write.rows_written() == 4);
  REQUIRE(write.rows_read() == 0);
  auto rows = f.sql.Exec<int64_t>("SELECT x FROM t");
  REQUIRE(rows.rows_read() == 1);
  rows.Next();
  rows.Next();
  REQUIRE(rows.rows_read() == 2);
  REQUIRE(rows.ToArray().size() == 2);
  REQUIRE(rows.rows_read() == 4);  // and stays
  auto filtered = f.sql.Exec<int64_t>("SELECT x FROM t WHERE y = 'd'");
  REQUIRE(filtered.Value() == 4);
  REQUIRE(filtered.rows_read() == 4);  // the scan saw them all
  f.sql.Exec("CREATE TABLE log (x)");
  f.sql.Exec("CREATE TRIGGER tr AFTER DELETE ON t BEGIN INSERT INTO log VALUES (old.x); END");
  REQUIRE(f.sql.Exec("DELETE FROM t WHERE x < 3").rows_written() == 4);
}

TEST_CASE("the same text may be open twice", "[durable][sql]") {
  Fixture f;
  constexpr std::string_view kTwo = "SELECT 1 UNION ALL SELECT 2";
  int pairs = 0;
  for (auto& [a] : f.sql.Exec<int64_t>(kTwo)) {
    for (auto& [b] : f.sql.Exec<int64_t>(kTwo)) pairs += static_cast<int>(a * b);
  }
  REQUIRE(pairs == 9);
}

TEST_CASE("the statement cache stays within its size and keeps working", "[durable][sql]") {
  Fixture f;
  auto kept = f.sql.Exec<int64_t>("SELECT 1 UNION ALL SELECT 2");  // leased while evicted
  const std::string padding(50'000, 'x');
  for (int i = 0; i < 60; ++i) {
    REQUIRE(f.sql.Exec<int64_t>(Format("SELECT {} -- {}", {i, padding})).Value() == i);
    REQUIRE(f.engine->cached_text_bytes() <= internal::kCachedTextBytesMax);
  }
  REQUIRE(kept.ToArray().size() == 2);
}

TEST_CASE("RETURNING rows are all written before the first is read", "[durable][sql]") {
  Fixture f;
  f.sql.Exec("CREATE TABLE t (x INTEGER PRIMARY KEY, y)");
  auto rows = f.sql.Exec<int64_t, std::string>(
      "INSERT INTO t (y) VALUES ('a'), ('b'), ('c') RETURNING x, y");
  REQUIRE(rows.rows_written() == 3);
  REQUIRE(f.sql.Exec<int64_t>("SELECT count(*) FROM t").Value() == 3);
  REQUIRE(f.engine->Commit().ok());  // the open cursor does not stand in the way
  REQUIRE(rows.ToArray() ==
          std::vector<std::tuple<int64_t, std::string>>{{1, "a"}, {2, "b"}, {3, "c"}});
}

TEST_CASE("a cursor that outlives its database fails, and does no harm", "[durable][sql]") {
  auto f = std::make_unique<Fixture>();
  auto cached = f->sql.Exec<int64_t>("SELECT 1 UNION ALL SELECT 2");
  auto one_off = f->sql.Exec<int64_t>("SELECT 1 UNION ALL SELECT 2");
  cached.Next();
  one_off.Next();
  f.reset();
  REQUIRE(Message(cached.TryNext().status()) ==
          "SQLite query was canceled because the database was deleted.");
  REQUIRE(one_off.TryNext().status().code() == StatusCode::kFailedPrecondition);
}

TEST_CASE("a turn commits or rolls back as one", "[durable][sql]") {
  Fixture f;
  f.sql.Exec("CREATE TABLE t (x)");
  f.sql.Exec("INSERT INTO t VALUES (1)");
  REQUIRE(f.engine->in_transaction());
  REQUIRE(f.engine->Commit().ok());
  REQUIRE(!f.engine->in_transaction());
  f.sql.Exec("INSERT INTO t VALUES (2)");
  f.engine->Rollback();
  REQUIRE(f.sql.Exec<int64_t>("SELECT sum(x) FROM t").Value() == 1);
}

TEST_CASE("savepoints nest", "[durable][sql]") {
  Fixture f;
  f.sql.Exec("CREATE TABLE t (x)");
  REQUIRE(f.engine->BeginSavepoint().ok());
  f.sql.Exec("INSERT INTO t VALUES (1)");
  REQUIRE(f.engine->BeginSavepoint().ok());
  f.sql.Exec("INSERT INTO t VALUES (2)");
  f.engine->RollbackSavepoint();
  REQUIRE(f.engine->BeginSavepoint().ok());
  f.sql.Exec("INSERT INTO t VALUES (4)");
  REQUIRE(f.engine->CommitSavepoint().ok());
  REQUIRE(f.engine->CommitSavepoint().ok());
  REQUIRE(f.engine->Commit().ok());
  REQUIRE(f.sql.Exec<int64_t>("SELECT sum(x) FROM t").Value() == 5);
}

TEST_CASE("SQL that rolls the turn back by itself fails the rest of the turn", "[durable][sql]") {
  Fixture f;
  f.sql.Exec("CREATE TABLE t (x UNIQUE)");
  f.sql.Exec("INSERT INTO t VALUES (1)");
  REQUIRE(f.engine->Commit().ok());
  f.sql.Exec("INSERT INTO t VALUES (2)");
  const std::string error = f.ErrorOf("INSERT OR ROLLBACK INTO t VALUES (1)");
  REQUIRE(error ==
          "UNIQUE constraint failed: t.x: SQLITE_CONSTRAINT (extended: SQLITE_CONSTRAINT_UNIQUE)");
  REQUIRE(f.ErrorOf("INSERT INTO t VALUES (3)") == error);
  REQUIRE(Message(f.engine->Commit()) == error);
  REQUIRE(f.sql.Exec<int64_t>("SELECT sum(x) FROM t").Value() == 1);  // the next turn is whole
}

TEST_CASE("a constraint violated at the commit resets the object with a text that says so",
          "[durable][sql]") {
  Fixture f;
  f.sql.Exec("CREATE TABLE t (x INTEGER PRIMARY KEY)");
  f.sql.Exec("CREATE TABLE u (x REFERENCES t DEFERRABLE INITIALLY DEFERRED)");
  REQUIRE(f.engine->Commit().ok());
  f.sql.Exec("INSERT INTO u VALUES (7)");
  const Status status = f.engine->Commit();
  REQUIRE(Message(status) ==
          "Durable Object was reset and rolled back to its last known good state because the "
          "application left the database in a state where constraints were violated: FOREIGN KEY "
          "constraint failed: SQLITE_CONSTRAINT (extended: SQLITE_CONSTRAINT_FOREIGNKEY)");
  REQUIRE(f.engine->broken() == status);
  REQUIRE(f.sql.TryExec("SELECT 1").status() == status);
}

TEST_CASE("a full database fails the statement, and nothing is half written", "[durable][sql]") {
  Fixture f;
  f.sql.Exec("CREATE TABLE t (x)");
  REQUIRE(f.engine->Commit().ok());
  REQUIRE(f.engine->RunTrusted("PRAGMA max_page_count = 20").ok());
  const Bytes blob(4000);
  Status status;
  for (int i = 0; i < 100 && status.ok(); ++i) {
    status = f.sql.TryExec("INSERT INTO t VALUES (?)", blob).status();
  }
  REQUIRE(status.code() == StatusCode::kResourceExhausted);
  REQUIRE(Message(status) == "database or disk is full: SQLITE_FULL");
  // SQLite may keep the transaction or end it: the engine must know which.
  if (f.engine->broken().ok()) {
    REQUIRE(f.engine->in_transaction());
  } else {
    REQUIRE(f.sql.TryExec("SELECT 1").status() == status);
    REQUIRE(f.engine->BeginSavepoint() == status);
  }
}

TEST_CASE("database_bytes counts the pages in use", "[durable][sql]") {
  Fixture f;
  f.sql.Exec("CREATE TABLE t (x)");
  const int64_t before = f.sql.database_bytes();
  f.sql.Exec("INSERT INTO t VALUES (zeroblob(40000))");
  const int64_t full = f.sql.database_bytes();
  REQUIRE(full >= before + 32768);
  f.sql.Exec("DELETE FROM t");
  REQUIRE(f.sql.database_bytes() < full);
}

TEST_CASE("random statements agree with a plain map", "[durable][sql][property]") {
  const auto seed = GENERATE(range(1u, 17u));
  CAPTURE(seed);
  std::mt19937 rng(seed);
  Fixture f;
  std::map<int64_t, std::string> model, committed;
  f.sql.Exec("CREATE TABLE t (k INTEGER PRIMARY KEY, v TEXT)");
  REQUIRE(f.engine->Commit().ok());
  for (int step = 0; step < 400; ++step) {
    const auto key = static_cast<int64_t>(rng() % 12);
    const std::string value = std::to_string(rng());
    switch (rng() % 7) {
      case 0:
      case 1:
        f.sql.Exec("INSERT OR REPLACE INTO t VALUES (?, ?)", key, value);
        model[key] = value;
        break;
      case 2: {
        const bool known = model.erase(key) > 0;
        REQUIRE(f.sql.Exec("DELETE FROM t WHERE k = ?", key).rows_written() == (known ? 1 : 0));
        break;
      }
      case 3: {
        const auto row = f.sql.Exec<std::string>("SELECT v FROM t WHERE k = ?", key).First();
        REQUIRE(row.has_value() == model.contains(key));
        if (row) REQUIRE(std::get<0>(*row) == model[key]);
        break;
      }
      case 4: {  // a nested transaction that fails
        REQUIRE(f.engine->BeginSavepoint().ok());
        f.sql.Exec("DELETE FROM t");
        f.engine->RollbackSavepoint();
        break;
      }
      case 5:
        if (rng() % 2 == 0) {
          REQUIRE(f.engine->Commit().ok());
          committed = model;
        } else {
          f.engine->Rollback();
          model = committed;
        }
        break;
      default: {
        std::map<int64_t, std::string> all;
        for (auto& [k, v] : f.sql.Exec<int64_t, std::string>("SELECT k, v FROM t")) all[k] = v;
        REQUIRE(all == model);
      }
    }
  }
}

TEST_CASE("parameters may be named, with or without their sigil", "[durable][sql]") {
  Fixture f;
  f.sql.Exec("CREATE TABLE seats (seat TEXT PRIMARY KEY, occupant TEXT)");
  f.sql.Exec("INSERT INTO seats VALUES (:seat, @who)", Named("who", "ada"), Named("seat", "1A"));
  const auto [who] =
      f.sql
          .Exec<std::string>("SELECT occupant FROM seats WHERE seat = $seat OR seat = $seat",
                             Named("$seat", "1A"))
          .One();
  REQUIRE(who == "ada");
  const auto error = [&](auto... args) {
    return std::string(Message(f.sql.TryExec("SELECT :a, :b", args...).status()));
  };
  const int one = 1;
  REQUIRE(error(Named("a", one), Named("c", one)) == "SQL query has no parameter named c.");
  REQUIRE(error(Named("a", one), Named(":a", one)) ==
          "Parameter :a of the SQL query was given twice.");
  REQUIRE(error(Named("a", one)) == "Wrong number of parameter bindings for SQL query.");
  REQUIRE(error(Named("a", one), one) ==
          "Either all parameters of an SQL query are named or none.");
  REQUIRE(error(one, Named("a", one)) ==
          "Either all parameters of an SQL query are named or none.");
}

TEST_CASE("parameters known at run time only, and rows without names", "[durable][sql]") {
  Fixture f;
  const std::vector<SqlValue> args = {int64_t{7}, std::string("x"), nullptr};
  auto cursor = f.sql.ExecValues("SELECT ? AS a, ? AS a, ?", args);
  REQUIRE(cursor.column_names() == std::vector<std::string>{"a", "a", "?"});
  REQUIRE((cursor.Raw() == args));  // columns of the same name are kept
  REQUIRE(!cursor.Raw());
  REQUIRE(cursor.column_names().size() == 3);
  REQUIRE(f.sql.Exec("CREATE TABLE t (x)").column_names().empty());
}

TEST_CASE("the application's functions work in SQL, and their errors are its errors",
          "[durable][sql]") {
  Fixture f;
  int calls = 0;
  f.sql.CreateFunction("Twice", [&calls](int64_t x) {
    ++calls;
    return 2 * x;
  });
  f.sql.CreateFunction("initials", [](std::string_view first, std::optional<std::string> last) {
    return std::string(first.substr(0, 1)) + (last ? last->substr(0, 1) : "?");
  });
  f.sql.CreateFunction("half",
                       [](int64_t x) -> StatusOr<int64_t> {
                         if (x % 2 != 0) return InvalidArgument("{} is odd", x);
                         return x / 2;
                       },
                       {.deterministic = true});
  f.sql.CreateFunction("bang", [] { throw Error(Unavailable("bang")); });
  f.sql.CreateFunction("bytes", [](ByteView bytes) { return Bytes(bytes.begin(), bytes.end()); });
  REQUIRE(f.sql.Exec<int64_t>("SELECT twice(4611686018427387903)").Value() == 9223372036854775806);
  REQUIRE(calls == 1);
  REQUIRE(f.sql.Exec<std::string>("SELECT initials('ada', 'lovelace')").Value() == "al");
  REQUIRE(f.sql.Exec<std::string>("SELECT initials('ada', NULL)").Value() == "a?");
  REQUIRE(f.sql.Exec<std::string>("SELECT hex(bytes(x'00ff'))").Value() == "00FF");
  f.sql.Exec("CREATE TABLE t (x INTEGER)");
  f.sql.Exec("CREATE INDEX by_half ON t (half(x))");
  f.sql.Exec("INSERT INTO t VALUES (4)");
  REQUIRE(f.ErrorOf("INSERT INTO t VALUES (5)") == "5 is odd: SQLITE_ERROR");
  REQUIRE(f.ErrorOf("SELECT bang()") == "bang: SQLITE_ERROR");
  REQUIRE(f.ErrorOf("SELECT twice('x')") ==
          "Argument 1 of the function is TEXT, which it does not take.: SQLITE_ERROR");
  REQUIRE(
      f.ErrorOf("SELECT twice(1, 2)").starts_with("wrong number of arguments to function twice()"));
  const auto refused = [&](std::string_view name) {
    return f.sql.TryCreateFunction(name, [] { return 1; }, {}).code() ==
           StatusCode::kInvalidArgument;
  };
  REQUIRE(refused("count"));
  REQUIRE(refused("_cf_x"));
  REQUIRE(refused("sqlite_version"));
  REQUIRE(refused("a b"));
  REQUIRE(refused(""));
}

TEST_CASE("the same buffer may hold another query", "[durable][sql]") {
  Fixture f;
  char query[] = "SELECT 1";
  REQUIRE(f.sql.Exec<int64_t>(query).Value() == 1);
  query[7] = '2';
  REQUIRE(f.sql.Exec<int64_t>(query).Value() == 2);
  query[7] = '1';
  REQUIRE(f.sql.Exec<int64_t>(query).Value() == 1);
}

TEST_CASE("a table that changes under a cached statement is read as it is", "[durable][sql]") {
  Fixture f;
  f.sql.Exec("CREATE TABLE t (x)");
  f.sql.Exec("INSERT INTO t VALUES (1)");
  REQUIRE(f.sql.Exec("SELECT * FROM t").One().size() == 1);
  f.sql.Exec("ALTER TABLE t ADD COLUMN y DEFAULT 2");
  REQUIRE(f.sql.Exec("SELECT * FROM t").One().size() == 2);
}

TEST_CASE("slow statements are remembered, with a plan", "[durable][sql]") {
  Fixture f;
  f.sql.Exec("CREATE TABLE t (x INTEGER)");
  f.engine->WatchSlow(0);  // everything is slow
  f.sql.Exec("SELECT * FROM t WHERE x = ?", 1).ToArray();
  const auto slow = f.engine->TakeSlow();
  REQUIRE(slow.size() == 1);
  REQUIRE(slow[0].text == "SELECT * FROM t WHERE x = ?");
  REQUIRE(f.engine->Plan(slow[0].text) == std::vector<std::string>{"SCAN t"});
  f.engine->WatchSlow(1'000'000);
  f.sql.Exec("SELECT * FROM t").ToArray();
  REQUIRE(f.engine->TakeSlow().empty());
}
