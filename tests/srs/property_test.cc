// Random transactions on a relay's database and on a plain SQLite in memory must agree, also
// after closing, crashing and opening again.
#include <map>
#include <memory>
#include <random>

#include "edge/base/file_system.h"
#include "edge/base/random.h"
#include "edge/srs/relay.h"
#include "tests/srs/srs_test_util.h"

namespace edge::srs {
namespace {

constexpr const char* kDump = "SELECT a, length(b), hex(substr(b,1,20)), c FROM t ORDER BY a";

struct Plain {
  Plain() { REQUIRE(sqlite3_open(":memory:", &db) == SQLITE_OK); }
  ~Plain() { sqlite3_close(db); }
  sqlite3* db = nullptr;
};

std::string RandomStatement(std::mt19937& rng) {
  const auto key = std::to_string(rng() % 300);
  const auto blob = "x'" + std::string(2 * (rng() % 20), 'a') + "'||zeroblob(" +
                    std::to_string(rng() % 4 == 0 ? rng() % 9000 : rng() % 60) + ")";
  const auto value = std::to_string(rng() % 1000);
  switch (rng() % 8) {
    case 0:
      return "DELETE FROM t WHERE a=" + key;
    case 1:
      return "UPDATE t SET c=" + value + " WHERE a<" + key;
    case 2:
      return "UPDATE t SET b=CAST(" + blob + " AS BLOB) WHERE a=" + key;
    case 3:
      return "DELETE FROM t WHERE a BETWEEN " + key + " AND " + key + "+40";
    default:
      return "INSERT OR REPLACE INTO t VALUES(" + key + ",CAST(" + blob + " AS BLOB)," + value +
             ")";
  }
}

void RunBoth(sqlite3* a, sqlite3* b, const std::string& sql) {
  INFO(sql);
  const int code = Run(a, sql);
  INFO(sqlite3_errmsg(a));
  REQUIRE(code == Run(b, sql));
  REQUIRE(code == SQLITE_OK);
}

void RandomTransaction(std::mt19937& rng, sqlite3* a, sqlite3* b) {
  if (rng() % 3 == 0) return RunBoth(a, b, RandomStatement(rng));
  RunBoth(a, b, "BEGIN");
  const auto count = rng() % 12;
  int depth = 0;
  for (unsigned i = 0; i < count; ++i) {
    switch (rng() % 10) {
      case 0:
        RunBoth(a, b, "SAVEPOINT s" + std::to_string(++depth));
        break;
      case 1:
        if (depth > 0) RunBoth(a, b, "ROLLBACK TO s" + std::to_string(depth));
        break;
      case 2:
        if (depth > 0) RunBoth(a, b, "RELEASE s" + std::to_string(depth--));
        break;
      default:
        RunBoth(a, b, RandomStatement(rng));
    }
  }
  RunBoth(a, b, rng() % 5 == 0 ? "ROLLBACK" : "COMMIT");
}

TEST_CASE("random transactions agree with a plain SQLite, across reopening", "[srs][property]") {
  const auto seed = GENERATE(range(1u, 13u));
  CAPTURE(seed);
  std::mt19937 rng(seed);
  auto files = MemoryFileSystem::Create();
  SeededRandom random(seed);
  const bool threads = seed % 2 == 0;
  const RelayOptions options{.directory = "data",
                             .journal_file_bytes = 256 << 10,
                             .files = files.get(),
                             .random = &random,
                             .background_threads = threads};
  auto relay = Relay::Open(options).value();
  auto db = relay->OpenDatabase("t").value();
  Plain plain;
  const std::string schema =
      "CREATE TABLE t(a INTEGER PRIMARY KEY, b BLOB, c INT); CREATE INDEX i ON t(c)";
  MustRun(db->handle(), "PRAGMA cache_size=10");  // spills early
  RunBoth(db->handle(), plain.db, schema);
  for (int step = 0; step < 300; ++step) {
    CAPTURE(step);
    RandomTransaction(rng, db->handle(), plain.db);
    REQUIRE(db->health().ok());
    if (rng() % 40 == 0) MustRun(db->handle(), "VACUUM");
    if (!threads && rng() % 3 == 0) relay->RunBackgroundStep();
    if (rng() % 25 == 0) {
      const std::string bookmark = db->GetCurrentBookmark();
      const Lsn lsn = db->lsn();
      db.reset();
      if (rng() % 2 == 0) {
        relay.reset();
        relay = Relay::Open(options).value();
      }
      auto opened = relay->OpenDatabase("t");
      INFO(opened.status().ToString());
      REQUIRE(opened.ok());
      db = std::move(*opened);
      REQUIRE(db->lsn() == lsn);
      REQUIRE(db->GetCurrentBookmark() == bookmark);
      MustRun(db->handle(), "PRAGMA cache_size=10");
    }
    if (step % 10 == 0) {
      REQUIRE(Ask(db->handle(), kDump) == Ask(plain.db, kDump));
    }
  }
  REQUIRE(Ask(db->handle(), kDump) == Ask(plain.db, kDump));
  REQUIRE(Ask(db->handle(), "PRAGMA integrity_check") == "ok");
}

TEST_CASE("after power loss a database is at a commit that is not older than the durable one",
          "[srs][property]") {
  const auto seed = GENERATE(range(1u, 41u));
  CAPTURE(seed);
  std::mt19937 rng(seed);
  auto files = MemoryFileSystem::Create();
  SeededRandom random(seed);
  RelayOptions options{.directory = "data",
                       .journal_file_bytes = 64 << 10,
                       .files = files.get(),
                       .random = &random,
                       .background_threads = false};
  // What each database looked like after each commit that may have survived.
  struct Model {
    std::map<Lsn, std::string> history;
    Lsn durable = 0;
  };
  std::vector<Model> models(3);
  for (int life = 0; life < 8; ++life) {
    CAPTURE(life);
    auto relay_or = Relay::Open(options);
    INFO(relay_or.status().ToString());
    REQUIRE(relay_or.ok());
    auto relay = std::move(*relay_or);
    std::vector<std::unique_ptr<Database>> dbs;
    for (size_t i = 0; i < models.size(); ++i) {
      CAPTURE(i);
      auto opened = relay->OpenDatabase("db/" + std::to_string(i));
      INFO(opened.status().ToString());
      REQUIRE(opened.ok());
      dbs.push_back(std::move(*opened));
      Database& db = *dbs.back();
      Model& model = models[i];
      CAPTURE(db.lsn(), model.durable);
      REQUIRE(db.lsn() >= model.durable);
      if (db.lsn() > 0) {
        REQUIRE(model.history.contains(db.lsn()));
        REQUIRE(Ask(db.handle(), kDump) == model.history[db.lsn()]);
        REQUIRE(Ask(db.handle(), "PRAGMA integrity_check") == "ok");
      } else {
        MustRun(db.handle(),
                "CREATE TABLE t(a INTEGER PRIMARY KEY, b BLOB, c INT); CREATE INDEX i ON t(c)");
      }
      model.history.clear();
      model.history[db.lsn()] = Ask(db.handle(), kDump);
      model.durable = db.durable_lsn();
    }
    const auto steps = 10 + rng() % 60;
    for (unsigned step = 0; step < steps; ++step) {
      const size_t i = rng() % models.size();
      if (dbs[i] == nullptr) continue;
      Plain ignored;
      MustRun(ignored.db, "CREATE TABLE t(a INTEGER PRIMARY KEY, b BLOB, c INT)");
      RandomTransaction(rng, dbs[i]->handle(), ignored.db);
      models[i].history[dbs[i]->lsn()] = Ask(dbs[i]->handle(), kDump);
      if (rng() % 4 == 0) relay->RunBackgroundStep();
      for (size_t k = 0; k < dbs.size(); ++k) {
        if (dbs[k] != nullptr) models[k].durable = dbs[k]->durable_lsn();
      }
      if (rng() % 30 == 0) {
        models[i].durable = dbs[i]->lsn();
        dbs[i].reset();  // closes and flushes: durable
      }
    }
    files->Crash(random);
    dbs.clear();
    relay.reset();
  }
}

}  // namespace
}  // namespace edge::srs
