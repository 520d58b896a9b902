#include "edge/kv/sqlite_origin.h"

#include <sqlite3.h>
#include <stdlib.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <random>
#include <thread>

#include "edge/base/errors.h"
#include "tests/base/temp_directory.h"
#include "tests/kv/support.h"

using namespace edge;      // NOLINT
using namespace edge::kv;  // NOLINT

TEST_CASE("the SQLite origin agrees with the one in memory", "[kv][sqlite][property]") {
  const auto seed = GENERATE(range(1u, 9u));
  CAPTURE(seed);
  std::mt19937 rng(seed);
  const TempDirectory folder;
  // Not synced: durability is another test's.
  sqlite3* database = nullptr;
  REQUIRE(sqlite3_open((folder.File("kv.db")).c_str(), &database) == SQLITE_OK);
  sqlite3_exec(database, "PRAGMA synchronous = OFF", nullptr, nullptr, nullptr);
  {
    const auto sqlite = SqliteOrigin::Attach(database).value();
    MemoryOrigin memory;
    const auto make_version = [&] { return rng() % 4 == 0 ? Version{0} : Version{rng() % 500}; };
    const auto make_key = [&] {
      std::string key;
      for (size_t i = 0, n = 1 + rng() % 3; i < n; ++i)
        key +=
            "\x01"
            "a\x7f\xc3\xff"[rng() % 5];
      return key;
    };
    for (int step = 0; step < 1500; ++step) {
      const std::string key = make_key();
      switch (rng() % 6) {
        case 0:
        case 1: {
          const std::string value(rng() % 50, static_cast<char>(rng()));
          const std::string metadata = rng() % 2 == 0 ? "" : "{}";
          const auto expiration_s = static_cast<int64_t>(rng() % 3 == 0 ? 1 + rng() % 100 : 0);
          const EntryView entry{value, metadata, expiration_s, make_version()};
          REQUIRE(sqlite->Put(key, entry).value() == memory.Put(key, entry).value());
          break;
        }
        case 2: {
          const Version version = make_version();
          REQUIRE(sqlite->Delete(key, version).value() == memory.Delete(key, version).value());
          break;
        }
        case 3: {
          const auto ours = sqlite->Get(key).value();
          const auto model = memory.Get(key).value();
          REQUIRE(ours.has_value() == model.has_value());
          if (ours) {
            REQUIRE(ours->value == model->value);
            REQUIRE(ours->metadata == model->metadata);
            REQUIRE(ours->expiration_s == model->expiration_s);
            REQUIRE(ours->version == model->version);
          }
          break;
        }
        case 4: {
          const std::string prefix = rng() % 3 == 0 ? "" : make_key();
          const std::string after = make_key();
          OriginListQuery query{.prefix = prefix, .count_max = 1 + rng() % 20};
          query.now_s = static_cast<int64_t>(rng() % 100);
          if (rng() % 2 == 0) query.after = after;
          const auto ours = sqlite->List(query).value();
          const auto model = memory.List(query).value();
          REQUIRE(ours.complete == model.complete);
          REQUIRE(ours.keys.size() == model.keys.size());
          for (size_t i = 0; i < ours.keys.size(); ++i) {
            REQUIRE(ours.keys[i].name == model.keys[i].name);
            REQUIRE(ours.keys[i].metadata == model.keys[i].metadata);
            REQUIRE(ours.keys[i].expiration_s == model.keys[i].expiration_s);
          }
          break;
        }
        default:
          if (rng() % 50 == 0) {
            const auto now_s = static_cast<int64_t>(rng() % 100);
            REQUIRE(sqlite->RemoveExpired(now_s, 1000).value() ==
                    memory.RemoveExpired(now_s, 1000).value());
          }
      }
    }
  }
  sqlite3_close(database);
}

TEST_CASE("a file of format 1 is taken over", "[kv][sqlite]") {
  const TempDirectory folder;
  sqlite3* database = nullptr;
  REQUIRE(sqlite3_open(folder.File("kv.db").c_str(), &database) == SQLITE_OK);
  REQUIRE(sqlite3_exec(database,
                       "CREATE TABLE edge_kv_1 (key BLOB PRIMARY KEY NOT NULL, value BLOB NOT "
                       "NULL, metadata TEXT, expires_s INTEGER) WITHOUT ROWID;"
                       "INSERT INTO edge_kv_1 VALUES (CAST('a' AS BLOB), CAST('old' AS BLOB), "
                       "'{}', 5000)",
                       nullptr, nullptr, nullptr) == SQLITE_OK);
  sqlite3_close(database);
  for (int opened = 0; opened < 2; ++opened) {
    const auto origin = SqliteOrigin::Open(folder.File("kv.db")).value();
    const auto entry = origin->Get("a").value();
    REQUIRE(entry);
    REQUIRE(entry->value == "old");
    REQUIRE(entry->metadata == "{}");
    REQUIRE(entry->expiration_s == 5000);
  }
}

TEST_CASE("what was put is there when the file is opened again", "[kv][sqlite]") {
  const TempDirectory folder;
  FakeClock clock;
  for (int opened = 0; opened < 3; ++opened) {
    auto kv = Namespace::Open(SqliteOrigin::Open(folder.File("kv.db")).value(), {.clock = &clock})
                  .value();
    if (opened > 0) {
      const auto value = kv.GetWithMetadata("key").value();
      REQUIRE(value->value == std::string("a\0b", 3));
      REQUIRE(value->metadata == "[1]");
      REQUIRE(value->source == Source::kOrigin);
    }
    REQUIRE(kv.Put("key", std::string("a\0b", 3), {.metadata = "[1]"}).ok());
  }
}

TEST_CASE("a put waits for the hook to say durable, and hands on its error", "[kv][sqlite]") {
  sqlite3* database = nullptr;
  REQUIRE(sqlite3_open(":memory:", &database) == SQLITE_OK);
  {
    Status verdict = OkStatus();
    std::vector<std::thread> answering;
    auto origin = SqliteOrigin::Attach(database, {.when_durable =
                                                      [&](Callback<void(Status)> done) {
                                                        answering.emplace_back(
                                                            [done = std::move(done),
                                                             verdict]() mutable { done(verdict); });
                                                      }})
                      .value();
    auto kv = Namespace::Open(std::move(origin)).value();
    REQUIRE(kv.Put("key", "1").ok());
    verdict = Unavailable("no quorum");
    const Status lost = kv.Put("key", "2");
    REQUIRE(lost.code() == StatusCode::kUnavailable);
    REQUIRE(TextOf(lost) == "kv: sqlite: put: no quorum");
    verdict = OkStatus();
    REQUIRE(kv.Delete("key").ok());
    REQUIRE(!kv.Get("key").value());
    for (std::thread& thread : answering) thread.join();
    REQUIRE(answering.size() == 3);
  }
  sqlite3_close(database);
}

TEST_CASE("a file that is no database, or not ours to write, is one clear error", "[kv][sqlite]") {
  const TempDirectory folder;
  const std::string path = folder.File("text.db");
  std::ofstream(path) << std::string(5000, 'x');
  const Status not_a_database = SqliteOrigin::Open(path).status();
  REQUIRE(not_a_database.code() == StatusCode::kDataLoss);
  REQUIRE(TextOf(not_a_database).find(path) != std::string::npos);
  REQUIRE(SqliteOrigin::Open(folder.File("no/such/folder.db")).status().code() ==
          StatusCode::kPermissionDenied);
  REQUIRE(SqliteOrigin::Attach(nullptr).status().code() == StatusCode::kInvalidArgument);
}

TEST_CASE("threads share a SQLite origin", "[kv][sqlite][threads]") {
  sqlite3* database = nullptr;
  REQUIRE(sqlite3_open_v2(":memory:", &database,
                          SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX,
                          nullptr) == SQLITE_OK);
  {
    auto kv = Namespace::Open(SqliteOrigin::Attach(database).value(), {.hot_bytes_max = 256 << 10})
                  .value();
    std::atomic<int> wrong{0};
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([&, t] {
        for (int i = 0; i < 500; ++i) {
          const std::string key = std::to_string(t) + ":" + std::to_string(i % 50);
          const std::string value = std::to_string(i) + std::string(100, '.');
          if (!kv.Put(key, value).ok()) ++wrong;
          if (kv.Get(key).value() != value) ++wrong;
        }
        if (kv.List({.prefix = std::to_string(t) + ":"}).value().keys.size() != 50) ++wrong;
      });
    }
    for (std::thread& thread : threads) thread.join();
    REQUIRE(wrong == 0);
  }
  sqlite3_close(database);
}
