// What is confirmed survives: kill -9 of a real process, a file system that fails at any
// operation, and any flipped bit in any file is found or does no harm.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <map>
#include <memory>
#include <random>
#include <set>

#include "edge/base/clock.h"
#include "edge/base/errors.h"
#include "edge/base/file_system.h"
#include "edge/base/random.h"
#include "edge/srs/object_store.h"
#include "edge/srs/relay.h"
#include "tests/srs/srs_test_util.h"

namespace edge::srs {
namespace {

// One line of the ledger: what a child process saw confirmed.
struct Confirmed {
  int database;
  int64_t value;
};

RelayOptions ChildOptions(const TempFolder& folder) {
  return {.directory = folder / "data",
          .store = FolderStore(folder / "store"),
          .batch_interval_ms = 5,
          .journal_file_bytes = 1 << 20};
}

[[noreturn]] void CommitUntilKilled(const TempFolder& folder, int64_t first_value, int ledger) {
  auto relay = Relay::Open(ChildOptions(folder));
  if (!relay.ok()) _exit(2);
  std::vector<std::unique_ptr<Database>> dbs;
  for (int i = 0; i < 3; ++i) {
    auto db = (*relay)->OpenDatabase("db" + std::to_string(i));
    if (!db.ok()) _exit(3);
    if (Run((*db)->handle(), "CREATE TABLE IF NOT EXISTS t(v INTEGER PRIMARY KEY, b BLOB)") !=
        SQLITE_OK) {
      _exit(4);
    }
    dbs.push_back(std::move(*db));
  }
  for (int64_t value = first_value;; ++value) {
    const int which = static_cast<int>(value % 3);
    Database& db = *dbs[static_cast<size_t>(which)];
    if (Run(db.handle(), "INSERT INTO t VALUES(" + std::to_string(value) + ",randomblob(300))") !=
        SQLITE_OK) {
      _exit(5);
    }
    db.OnDurable(db.lsn(), [which, value, ledger](const Status& status) {
      if (!status.ok()) _exit(6);
      const Confirmed line{which, value};
      if (write(ledger, &line, sizeof line) != sizeof line) _exit(7);
    });
    if (value % 512 == 0) db.WaitDurable().IgnoreError();  // not too far ahead of the journal
  }
}

TEST_CASE("every confirmed commit survives kill -9", "[srs][crash]") {
  TempFolder folder;
  std::mt19937 rng(7);
  std::set<int64_t> expected[3];
  int64_t next_value = 1;
  for (int round = 0; round < 8; ++round) {
    CAPTURE(round);
    int ledger[2];
    REQUIRE(pipe(ledger) == 0);
    const pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      close(ledger[0]);
      CommitUntilKilled(folder, next_value, ledger[1]);
    }
    close(ledger[1]);
    // Kills after a number of confirmations, not after a time.
    const size_t kill_after = 1 + rng() % 3000;
    size_t seen = 0;
    bool killed = false;
    Confirmed line{};
    int64_t newest = next_value;
    while (read(ledger[0], &line, sizeof line) == sizeof line) {
      expected[line.database].insert(line.value);
      newest = std::max(newest, line.value);
      if (++seen >= kill_after && !killed) {
        killed = true;
        REQUIRE(kill(child, SIGKILL) == 0);
      }
    }
    close(ledger[0]);
    int how = 0;
    REQUIRE(waitpid(child, &how, 0) == child);
    CAPTURE(WIFEXITED(how), WEXITSTATUS(how));
    REQUIRE(WIFSIGNALED(how));
    if (round % 3 == 2) {  // one database's files are lost, too
      std::filesystem::remove(folder / "data/databases/db1.db");
      std::filesystem::remove(folder / "data/databases/db1.flush");
    }
    auto relay = Relay::Open(ChildOptions(folder));
    INFO(relay.status().ToString());
    REQUIRE(relay.ok());
    for (int i = 0; i < 3; ++i) {
      auto db = (*relay)->OpenDatabase("db" + std::to_string(i));
      INFO(db.status().ToString());
      REQUIRE(db.ok());
      std::set<int64_t> found;
      sqlite3_stmt* statement = nullptr;
      REQUIRE(sqlite3_prepare_v2((*db)->handle(), "SELECT v FROM t", -1, &statement, nullptr) ==
              SQLITE_OK);
      while (sqlite3_step(statement) == SQLITE_ROW) {
        found.insert(sqlite3_column_int64(statement, 0));
      }
      sqlite3_finalize(statement);
      REQUIRE(std::ranges::includes(found, expected[i]));
      expected[i] = found;
      if (!found.empty()) newest = std::max(newest, *found.rbegin());
      CHECK(Ask((*db)->handle(), "PRAGMA integrity_check") == "ok");
    }
    next_value = newest + 1;
  }
}

// --- Failing at every operation ---

struct Outcome {
  int confirmed = 0;  // rows whose commit was reported durable
  int attempted = 0;
  bool finished = false;  // nothing failed
};

// Opens, commits 30 rows, some large, and closes; stops at the first error.
Outcome RunWorkload(FileSystem& files, const std::shared_ptr<ObjectStore>& store) {
  Outcome outcome;
  SeededRandom random(3);
  auto relay = Relay::Open({.directory = "data",
                            .store = store,
                            .journal_file_bytes = 64 << 10,
                            .files = &files,
                            .random = &random,
                            .background_threads = false});
  if (!relay.ok()) return outcome;
  auto db = (*relay)->OpenDatabase("t");
  if (!db.ok()) return outcome;
  sqlite3* const raw = (*db)->handle();
  bool good = Run(raw, "CREATE TABLE IF NOT EXISTS t(a INTEGER PRIMARY KEY, b BLOB)") == SQLITE_OK;
  for (int i = 1; i <= 30 && good; ++i) {
    ++outcome.attempted;
    good = Run(raw, "INSERT INTO t(b) VALUES(zeroblob(" + std::to_string(i % 5 * 3000) + "))") ==
           SQLITE_OK;
    if (!good) break;
    const Status durable = (*db)->WaitDurable();
    if (durable.ok()) ++outcome.confirmed;
    good = durable.ok() && (*db)->health().ok();
    if (i % 10 == 0) (*relay)->Flush().IgnoreError();
  }
  db->reset();
  outcome.finished = good;
  return outcome;
}

TEST_CASE("a file system that fails from any operation on loses no confirmed commit",
          "[srs][crash]") {
  const auto code = GENERATE(StatusCode::kResourceExhausted, StatusCode::kDataLoss);
  const bool once = GENERATE(false, true);
  CAPTURE(once);
  uint64_t operations = 0;
  int survivors = 0;
  for (uint64_t n = 0;; ++n) {
    CAPTURE(n);
    auto memory = MemoryFileSystem::Create();
    std::shared_ptr<ObjectStore> store = MemoryStore();
    uint64_t count = 0;
    auto faulty = FaultyFileSystem::Create(
        *memory, [&](FaultyFileSystem::Operation, const std::string& path) {
          FaultyFileSystem::Decision decision;
          const bool fails = once ? count == n : count >= n;
          ++count;
          if (fails) {
            decision.status = Status(code, "injected: " + path);
            decision.torn_bytes = n % 3 * 700;
          }
          return decision;
        });
    const Outcome outcome = RunWorkload(*faulty, store);
    operations = count;
    // After the failure, and a power loss, with a file system that works again:
    SeededRandom random(n);
    memory->Crash(random);
    auto relay = Relay::Open({.directory = "data",
                              .store = store,
                              .journal_file_bytes = 64 << 10,
                              .files = memory.get(),
                              .random = &random,
                              .background_threads = false});
    INFO(relay.status().ToString());
    REQUIRE(relay.ok());
    auto db = (*relay)->OpenDatabase("t");
    INFO(db.status().ToString());
    REQUIRE(db.ok());
    if (outcome.attempted > 0) {
      const std::string answer = Ask((*db)->handle(), "SELECT count(*) FROM t");
      const int rows = answer.starts_with("error: no such table") ? 0 : std::stoi(answer);
      REQUIRE(rows >= outcome.confirmed);
      REQUIRE(rows <= outcome.attempted);
    }
    CHECK(Ask((*db)->handle(), "PRAGMA integrity_check") == "ok");
    if (outcome.confirmed == 30) ++survivors;
    if (n > operations) break;  // the whole run passed without the failure
  }
  CHECK(operations > 100);
  CHECK(survivors > 0);
}

// --- Flipped bits ---

using Snapshot = std::map<std::string, Bytes>;

void Capture(FileSystem& files, const std::string& folder, Snapshot* out) {
  const auto entries = files.List(folder);
  REQUIRE(entries.ok());
  for (const DirectoryEntry& entry : *entries) {
    const std::string path = folder + "/" + entry.name;
    if (entry.is_directory) {
      Capture(files, path, out);
    } else {
      (*out)[path] = ReadFile(files, path).value();
    }
  }
}

std::unique_ptr<MemoryFileSystem> Recreate(const Snapshot& snapshot) {
  auto files = MemoryFileSystem::Create();
  for (const auto& [path, content] : snapshot) {
    REQUIRE(files->MakeDirectories(path.substr(0, path.rfind('/'))).ok());
    REQUIRE(WriteFileAtomic(*files, path, content).ok());
  }
  return files;
}

TEST_CASE("a flipped bit in any file is reported or does no harm", "[srs][crash]") {
  auto original = MemoryFileSystem::Create();
  SeededRandom random(1);
  const auto open = [&random](FileSystem& files) {
    return Relay::Open({.directory = "data",
                        .store = FolderStore("store", files),
                        .journal_file_bytes = 64 << 10,
                        .files = &files,
                        .random = &random,
                        .background_threads = false});
  };
  const std::string dump = "SELECT a, hex(b) FROM t";
  std::string last;
  Snapshot snapshot;
  {
    auto relay = open(*original).value();
    auto db = relay->OpenDatabase("t").value();
    MustRun(db->handle(), "CREATE TABLE t(a INTEGER PRIMARY KEY, b BLOB)");
    for (int i = 0; i < 6; ++i) {
      MustRun(db->handle(), "INSERT INTO t(b) VALUES(randomblob(40))");
      REQUIRE(db->WaitDurable().ok());
      if (i == 2) REQUIRE(relay->Flush().ok());
    }
    db.reset();
    db = relay->OpenDatabase("t").value();  // from a flushed cache; two commits more
    MustRun(db->handle(), "INSERT INTO t(b) VALUES(randomblob(40))");
    REQUIRE(db->WaitDurable().ok());
    MustRun(db->handle(), "INSERT INTO t(b) VALUES(randomblob(40))");
    REQUIRE(db->WaitDurable().ok());
    last = Ask(db->handle(), dump);
    Capture(*original, "data", &snapshot);  // as a kill would leave it
    Capture(*original, "store", &snapshot);
  }
  {
    auto files = Recreate(snapshot);
    auto relay = open(*files).value();
    REQUIRE(Ask(relay->OpenDatabase("t").value()->handle(), dump) == last);
  }
  std::set<std::string> kinds;
  int reported = 0;
  int harmless = 0;
  for (const auto& [path, content] : snapshot) {
    if (content.empty()) continue;
    kinds.insert(path.substr(path.rfind('.') + 1));
    size_t used = content.size();  // of the journal's preallocated tail one byte in a hundred
    while (used > 0 && content[used - 1] == std::byte{0}) --used;
    for (size_t at = 0; at < content.size(); at += (at < used && at % 4096 < 420) ? 1 : 211) {
      CAPTURE(path, at);
      auto files = Recreate(snapshot);
      REQUIRE(files->CorruptBit(path, at * 8 + at % 8).ok());
      auto relay = open(*files);
      if (!relay.ok()) {
        INFO(relay.status().ToString());
        REQUIRE(relay.status().code() == StatusCode::kDataLoss);
        REQUIRE(Message(relay.status()).find(path) != std::string_view::npos);
        ++reported;
        continue;
      }
      auto db = (*relay)->OpenDatabase("t");
      if (!db.ok()) {
        INFO(db.status().ToString());
        REQUIRE(db.status().code() == StatusCode::kDataLoss);
        ++reported;
        continue;
      }
      // Also in the newest block: all of its sectors were written, so no write was torn.
      REQUIRE(Ask((*db)->handle(), dump) == last);
      ++harmless;
    }
  }
  CHECK(kinds.contains("db"));
  CHECK(kinds.contains("flush"));
  CHECK(kinds.contains("log"));
  CHECK(kinds.contains("pack"));
  CHECK(reported > 100);
  CHECK(harmless > 100);
}

TEST_CASE("a damaged object of the store is named, and nothing is restored from it",
          "[srs][crash]") {
  auto files = MemoryFileSystem::Create();
  SeededRandom random(1);
  std::shared_ptr<ObjectStore> store = MemoryStore();
  const auto open = [&] {
    return Relay::Open({.directory = "data",
                        .store = store,
                        .journal_file_bytes = 64 << 10,
                        .files = files.get(),
                        .random = &random,
                        .background_threads = false});
  };
  std::string bookmark;
  {
    auto relay = open().value();
    auto db = relay->OpenDatabase("t").value();
    MustRun(db->handle(), "CREATE TABLE t(a INTEGER PRIMARY KEY, b BLOB)");
    for (int i = 0; i < 40; ++i) {
      MustRun(db->handle(), "INSERT INTO t(b) VALUES(randomblob(3000))");
    }
    bookmark = db->GetCurrentBookmark();
  }
  const auto objects = store->List("").value();
  REQUIRE(objects.size() == 1);
  const std::string key = objects[0].key;
  const Bytes good = store->Get(key).value();
  std::vector<Bytes> damaged;
  for (size_t at = 0; at < good.size(); at += at < 200 || at + 500 > good.size() ? 1 : 301) {
    damaged.push_back(good);
    damaged.back()[at] ^= std::byte(1 << at % 8);
  }
  for (size_t size = 0; size < good.size(); size += 1 + good.size() / 50) {
    damaged.emplace_back(good.begin(), good.begin() + static_cast<ptrdiff_t>(size));
  }
  for (const Bytes& content : damaged) {
    files = MemoryFileSystem::Create();  // everything local is lost
    REQUIRE(store->Put(key, content).ok());
    auto relay = open();
    REQUIRE(relay.ok());
    auto db = (*relay)->OpenDatabase("t");
    INFO(db.status().ToString());
    REQUIRE(db.status().code() == StatusCode::kDataLoss);
    REQUIRE(Message(db.status()).find(key) != std::string_view::npos);
    REQUIRE(!(*relay)->Export("t", {.bookmark = bookmark}, "out").ok());
  }
  files = MemoryFileSystem::Create();
  REQUIRE(store->Put(key, good).ok());
  auto relay = open().value();
  CHECK(relay->OpenDatabase("t").value()->GetCurrentBookmark() == bookmark);
}

TEST_CASE("a store that is out of reach holds nothing up and is caught up with", "[srs]") {
  class Flaky final : public ObjectStore {
   public:
    StatusOr<std::string> Put(const std::string& key, ByteView content,
                              const PutCondition& condition) override {
      if (down) return Unavailable("down");
      return inner->Put(key, content, condition);
    }
    StatusOr<Bytes> Get(const std::string& key, const ByteRange& range) override {
      if (down) return Unavailable("down");
      return inner->Get(key, range);
    }
    StatusOr<ObjectInfo> Head(const std::string& key) override {
      if (down) return Unavailable("down");
      return inner->Head(key);
    }
    StatusOr<std::vector<ObjectInfo>> List(const std::string& prefix,
                                           const std::string& start_after, size_t count) override {
      if (down) return Unavailable("down");
      return inner->List(prefix, start_after, count);
    }
    Status Delete(const std::string& key) override { return inner->Delete(key); }
    bool down = true;
    std::unique_ptr<ObjectStore> inner = MemoryStore();
  };
  auto files = MemoryFileSystem::Create();
  SeededRandom random(1);
  auto store = std::make_shared<Flaky>();
  const RelayOptions options{.directory = "data",
                             .store = store,
                             .journal_file_bytes = 64 << 10,
                             .files = files.get(),
                             .random = &random,
                             .background_threads = false};
  auto relay = Relay::Open(options).value();
  // Whether the store has a database of that name cannot be known.
  CHECK(relay->OpenDatabase("t").status().code() == StatusCode::kUnavailable);
  store->down = false;
  auto db = relay->OpenDatabase("t").value();
  MustRun(db->handle(), "CREATE TABLE t(a)");
  REQUIRE(relay->Flush().ok());
  store->down = true;
  MustRun(db->handle(), "INSERT INTO t VALUES(1)");
  CHECK(db->WaitDurable().ok());
  CHECK(relay->Flush().code() == StatusCode::kUnavailable);
  db.reset();
  relay.reset();
  relay = Relay::Open(options).value();
  CHECK(Ask(relay->OpenDatabase("t").value()->handle(), "SELECT * FROM t") == "1");
  store->down = false;
  REQUIRE(relay->Flush().ok());
  relay.reset();
  files = MemoryFileSystem::Create();
  RelayOptions fresh = options;
  fresh.files = files.get();
  relay = Relay::Open(fresh).value();
  CHECK(Ask(relay->OpenDatabase("t").value()->handle(), "SELECT * FROM t") == "1");
}

}  // namespace
}  // namespace edge::srs
