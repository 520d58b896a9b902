#include <fstream>

#include "edge/base/clock.h"
#include "edge/base/file_system.h"
#include "edge/base/random.h"
#include "edge/srs/object_store.h"
#include "edge/srs/relay.h"
#include "tests/srs/srs_test_util.h"

namespace edge::srs {
namespace {

constexpr const char* kSchema = "CREATE TABLE seats(seat TEXT PRIMARY KEY, who TEXT)";

RelayOptions Options(const TempFolder& folder) {
  return {.directory = folder / "data",
          .store = FolderStore(folder / "store"),
          .batch_interval_ms = 1'000'000,
          .journal_file_bytes = 1 << 20};
}

void RemoveLocal(const TempFolder& folder, const std::string& name) {
  std::filesystem::remove(folder / ("data/databases/" + name + ".db"));
  std::filesystem::remove(folder / ("data/databases/" + name + ".flush"));
}

TEST_CASE("a database whose files were deleted is rebuilt from journal and store", "[srs]") {
  TempFolder folder;
  const bool restart = GENERATE(false, true);
  const bool flushed = GENERATE(false, true);
  const bool wipe_everything = GENERATE(false, true);
  CAPTURE(restart, flushed, wipe_everything);
  auto relay = Relay::Open(Options(folder)).value();
  std::string bookmark;
  {
    auto db = relay->OpenDatabase("UA17").value();
    MustRun(db->handle(), kSchema);
    MustRun(db->handle(), "INSERT INTO seats VALUES('1A','ada')");
    if (flushed) REQUIRE(relay->Flush().ok());
    MustRun(db->handle(), "INSERT INTO seats VALUES('1B','bob')");
    bookmark = db->GetCurrentBookmark();
  }
  RemoveLocal(folder, "UA17");
  if (restart || wipe_everything) relay.reset();  // uploads the rest
  if (wipe_everything) std::filesystem::remove_all(folder / "data");
  if (relay == nullptr) relay = Relay::Open(Options(folder)).value();
  auto db = relay->OpenDatabase("UA17").value();
  CHECK(Ask(db->handle(), "SELECT * FROM seats ORDER BY seat") == "1A|ada\n1B|bob");
  CHECK(db->GetCurrentBookmark() == bookmark);
  MustRun(db->handle(), "INSERT INTO seats VALUES('1C','cyd')");
  CHECK(db->WaitDurable().ok());
}

TEST_CASE("a bad update is undone by restoring to the moment before, and redone by the undo",
          "[srs]") {
  TempFolder folder;
  auto relay = Relay::Open(Options(folder)).value();
  const bool flush = GENERATE(false, true);
  std::string before;
  std::string after;
  {
    auto db = relay->OpenDatabase("UA17").value();
    MustRun(db->handle(), kSchema);
    for (int i = 0; i < 50; ++i) {
      MustRun(db->handle(), "INSERT INTO seats VALUES('" + std::to_string(i) + "','p')");
    }
    before = db->GetCurrentBookmark();
    MustRun(db->handle(), "UPDATE seats SET who='oops'");
    after = db->GetCurrentBookmark();
    CHECK(before < after);
    CHECK(relay->Restore("UA17", {.bookmark = before}).status().code() ==
          StatusCode::kFailedPrecondition);  // it is open
  }
  if (flush) REQUIRE(relay->Flush().ok());
  std::string undo;
  const auto report = relay->Restore("UA17", {.bookmark = before}, &undo);
  INFO(report.status().ToString());
  REQUIRE(report.ok());
  CHECK(report->lsn == 51);
  CHECK(undo == after);
  {
    auto db = relay->OpenDatabase("UA17").value();
    CHECK(Ask(db->handle(), "SELECT DISTINCT who FROM seats") == "p");
    CHECK(db->GetCurrentBookmark() > after);
    MustRun(db->handle(), "DELETE FROM seats WHERE seat='7'");
  }
  REQUIRE(relay->Restore("UA17", {.bookmark = undo}).ok());
  auto db = relay->OpenDatabase("UA17").value();
  CHECK(Ask(db->handle(), "SELECT DISTINCT who FROM seats") == "oops");
  CHECK(Ask(db->handle(), "SELECT count(*) FROM seats") == "50");
  CHECK(Ask(db->handle(), "PRAGMA integrity_check") == "ok");
}

TEST_CASE("every commit can be exported, from snapshots and logs", "[srs][property]") {
  const auto seed = GENERATE(range(1u, 5u));
  CAPTURE(seed);
  TempFolder folder;
  SeededRandom random(seed);
  auto options = Options(folder);
  options.journal_file_bytes = 256 << 10;
  options.batch_bytes_max = 32 << 10;
  auto relay = Relay::Open(options).value();
  auto db = relay->OpenDatabase("a/b").value();
  MustRun(db->handle(), "CREATE TABLE t(a INTEGER PRIMARY KEY, b BLOB)");
  std::vector<std::pair<std::string, std::string>> moments;
  const std::string sum = "SELECT count(*), total(a), total(length(b)) FROM t";
  for (int i = 0; i < 400; ++i) {
    MustRun(db->handle(), "INSERT OR REPLACE INTO t VALUES(" + std::to_string(random.Below(200)) +
                              ",randomblob(" + std::to_string(random.Below(3000)) + "))");
    if (i == 200) MustRun(db->handle(), "DELETE FROM t WHERE a > 20; VACUUM");
    moments.emplace_back(db->GetCurrentBookmark(), Ask(db->handle(), sum));
    if (random.Below(40) == 0) REQUIRE(relay->Flush().message() == "");
  }
  for (int i = 0; i < 30; ++i) {
    const auto& [bookmark, answer] = moments[random.Below(moments.size())];
    const auto report = relay->Export("a/b", {.bookmark = bookmark}, folder / "out.db");
    INFO(report.status().ToString());
    REQUIRE(report.ok());
    sqlite3* plain = nullptr;
    REQUIRE(sqlite3_open_v2((folder / "out.db").c_str(), &plain, SQLITE_OPEN_READONLY, nullptr) ==
            SQLITE_OK);
    CHECK(Ask(plain, sum) == answer);
    CHECK(Ask(plain, "PRAGMA integrity_check") == "ok");
    CHECK(Ask(plain, "PRAGMA journal_mode") == "delete");
    sqlite3_close(plain);
  }
  CHECK(relay->Export("a/b", {.bookmark = "nonsense"}, folder / "x").status().code() ==
        StatusCode::kInvalidArgument);
  std::string wrong = moments[3].first;
  wrong.back() = wrong.back() == '0' ? '1' : '0';
  CHECK(relay->Export("a/b", {.bookmark = wrong}, folder / "x").status().code() ==
        StatusCode::kNotFound);
}

// Time that only the test moves.
class HandClock final : public Clock {
 public:
  int64_t monotonic_ns() const override { return now_ms * 1'000'000; }
  int64_t wall_ms() const override { return now_ms; }
  int64_t now_ms = 1'700'000'000'000;
};

TEST_CASE("a time means the newest commit at or before it", "[srs]") {
  HandClock clock;
  auto files = MemoryFileSystem::Create();
  SeededRandom random(1);
  auto relay = Relay::Open({.directory = "data",
                            .store = MemoryStore(),
                            .journal_file_bytes = 64 << 10,
                            .files = files.get(),
                            .clock = &clock,
                            .random = &random,
                            .background_threads = false})
                   .value();
  auto db = relay->OpenDatabase("t").value();
  const std::string empty = db->GetCurrentBookmark();
  std::vector<std::pair<int64_t, std::string>> moments;
  MustRun(db->handle(), "CREATE TABLE t(a)");
  for (int i = 0; i < 40; ++i) {
    clock.now_ms += 1000;
    MustRun(db->handle(), "INSERT INTO t VALUES(1)");
    moments.emplace_back(clock.now_ms, db->GetCurrentBookmark());
    if (i % 7 == 0) REQUIRE(relay->Flush().ok());
  }
  for (const auto& [wall_ms, bookmark] : moments) {
    CHECK(relay->GetBookmarkForTime("t", wall_ms).value() == bookmark);
    CHECK(relay->GetBookmarkForTime("t", wall_ms + 999).value() == bookmark);
  }
  CHECK(relay->GetBookmarkForTime("t", 5).value() == empty);
  db.reset();
  REQUIRE(relay->Restore("t", {.wall_ms = moments[9].first + 1}).ok());
  db = relay->OpenDatabase("t").value();
  CHECK(Ask(db->handle(), "SELECT count(*) FROM t") == "10");
}

TEST_CASE("a batch is one object for all databases, and an idle relay stores nothing", "[srs]") {
  HandClock clock;
  auto files = MemoryFileSystem::Create();
  SeededRandom random(1);
  std::shared_ptr<ObjectStore> store = MemoryStore();
  auto relay = Relay::Open({.directory = "data",
                            .store = store,
                            .journal_file_bytes = 64 << 10,
                            .files = files.get(),
                            .clock = &clock,
                            .random = &random,
                            .background_threads = false})
                   .value();
  const auto object_count = [&] { return store->List("").value().size(); };
  const auto settle = [&] {
    while (relay->RunBackgroundStep()) {
    }
  };
  std::vector<std::unique_ptr<Database>> dbs;
  for (int i = 0; i < 20; ++i) {
    dbs.push_back(relay->OpenDatabase("db" + std::to_string(i)).value());
    MustRun(dbs.back()->handle(), kSchema);
  }
  settle();
  CHECK(object_count() == 0);
  clock.now_ms += 10'001;
  settle();
  CHECK(object_count() == 1);
  clock.now_ms += 1'000'000;
  settle();
  CHECK(object_count() == 1);
  dbs.clear();
  relay.reset();
  CHECK(object_count() == 1);
}

TEST_CASE("a deleted database is gone, and its name begins anew", "[srs]") {
  TempFolder folder;
  auto relay = Relay::Open(Options(folder)).value();
  std::string old_bookmark;
  {
    auto db = relay->OpenDatabase("t").value();
    MustRun(db->handle(), kSchema);
    old_bookmark = db->GetCurrentBookmark();
    CHECK(relay->DeleteDatabase("t").code() == StatusCode::kFailedPrecondition);
  }
  REQUIRE(relay->Flush().ok());
  CHECK(relay->DatabaseExists("t").value());
  REQUIRE(relay->DeleteDatabase("t").ok());
  CHECK_FALSE(relay->DatabaseExists("t").value());
  CHECK(relay->ListDatabases().value().empty());
  CHECK(relay->DeleteDatabase("t").code() == StatusCode::kNotFound);
  const bool restart = GENERATE(false, true);
  if (restart) {
    relay.reset();
    relay = Relay::Open(Options(folder)).value();
    CHECK_FALSE(relay->DatabaseExists("t").value());
  }
  {
    auto db = relay->OpenDatabase("t").value();
    CHECK(db->lsn() == 0);
    CHECK(Ask(db->handle(), "SELECT count(*) FROM sqlite_schema") == "0");
    MustRun(db->handle(), "CREATE TABLE other(a)");
    CHECK(db->GetCurrentBookmark() > old_bookmark);
  }
  CHECK(relay->ListDatabases().value() == std::vector<std::string>{"t"});
  REQUIRE(relay->Flush().ok());
  RemoveLocal(folder, "t");
  auto db = relay->OpenDatabase("t").value();
  CHECK(Ask(db->handle(), "SELECT name FROM sqlite_schema") == "other");
}

TEST_CASE("an old copy of the directory is refused when the store knows better", "[srs]") {
  TempFolder folder;
  const auto commit = [&](const char* sql) {
    auto relay = Relay::Open(Options(folder)).value();
    auto db = relay->OpenDatabase("t").value();
    MustRun(db->handle(), sql);
  };
  commit(kSchema);
  std::filesystem::copy(folder / "data", folder / "copy", std::filesystem::copy_options::recursive);
  commit("INSERT INTO seats VALUES('1A','ada')");
  std::filesystem::remove_all(folder / "data");
  std::filesystem::rename(folder / "copy", folder / "data");
  const auto relay = Relay::Open(Options(folder));
  REQUIRE(relay.status().code() == StatusCode::kFailedPrecondition);
  CHECK(Message(relay.status()).find("old copy") != std::string_view::npos);
}

TEST_CASE("a database made before there was a store gets a snapshot", "[srs]") {
  TempFolder folder;
  auto options = Options(folder);
  auto store = options.store;
  options.store = nullptr;
  options.journal_file_bytes = 64 << 10;
  {
    auto relay = Relay::Open(options).value();
    auto db = relay->OpenDatabase("t").value();
    MustRun(db->handle(), "CREATE TABLE t(a)");
    for (int i = 0; i < 300; ++i) {
      MustRun(db->handle(), "INSERT INTO t VALUES(randomblob(2000))");
    }
  }
  options.store = store;
  {
    auto relay = Relay::Open(options).value();
    auto db = relay->OpenDatabase("t").value();
    REQUIRE(relay->Flush().ok());
  }
  std::filesystem::remove_all(folder / "data");
  auto relay = Relay::Open(options).value();
  auto db = relay->OpenDatabase("t").value();
  CHECK(Ask(db->handle(), "SELECT count(*) FROM t") == "300");
}

}  // namespace
}  // namespace edge::srs
