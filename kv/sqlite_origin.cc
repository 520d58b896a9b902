// One table, one connection, one lock. Statements are prepared once; a write is an implicit
// transaction of its own. What SQLite does not wait for, `when_durable` does, outside of the
// lock, so that the commits of many threads share one wait.
#include "edge/kv/sqlite_origin.h"

#include <sqlite3.h>

#include <algorithm>
#include <array>
#include <utility>

#include "edge/base/errors.h"
#include "edge/base/mutex.h"

namespace edge::kv {
namespace {

// The version of the format is in the name, so that the table can live in a database with
// others. A deletion that is remembered is a row without a value.
constexpr const char* kSchema = R"(
  CREATE TABLE IF NOT EXISTS edge_kv_2 (
    key BLOB PRIMARY KEY NOT NULL,
    value BLOB,
    metadata TEXT,
    expires_s INTEGER,
    version INTEGER NOT NULL DEFAULT 0
  ) WITHOUT ROWID;
  CREATE INDEX IF NOT EXISTS edge_kv_2_expires ON edge_kv_2 (expires_s)
    WHERE expires_s IS NOT NULL;
)";
constexpr const char* kHasFormat1 =
    "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'edge_kv_1'";
constexpr const char* kFromFormat1 = R"(
  SAVEPOINT edge_kv_2;
  INSERT OR IGNORE INTO edge_kv_2 (key, value, metadata, expires_s)
    SELECT key, value, metadata, expires_s FROM edge_kv_1;
  DROP TABLE edge_kv_1;
  RELEASE edge_kv_2;
)";

enum Query : size_t { kGet, kPut, kDelete, kVersion, kList, kExpire, kQueryCount };
constexpr std::array<const char*, kQueryCount> kQueries = {
    "SELECT value, metadata, expires_s, version FROM edge_kv_2 "
    "WHERE key = ?1 AND value IS NOT NULL",
    // A write with a version loses against one that is as great or greater.
    "INSERT INTO edge_kv_2 (key, value, metadata, expires_s, version) VALUES (?1, ?2, ?3, ?4, ?5) "
    "ON CONFLICT (key) DO UPDATE SET value = ?2, metadata = ?3, expires_s = ?4, version = ?5 "
    "WHERE ?5 = 0 OR version < ?5",
    // Without a version nothing is remembered.
    "DELETE FROM edge_kv_2 WHERE key = ?1",
    "SELECT version FROM edge_kv_2 WHERE key = ?1",
    // ?1 is the last key of the page before or the prefix itself; ?3 past all with the prefix.
    "SELECT key, metadata, expires_s FROM edge_kv_2 WHERE key >= ?1 AND key IS NOT ?2 "
    "AND (?3 IS NULL OR key < ?3) AND (expires_s IS NULL OR expires_s > ?4) "
    "AND value IS NOT NULL ORDER BY key LIMIT ?5",
    "DELETE FROM edge_kv_2 WHERE key IN (SELECT key FROM edge_kv_2 "
    "WHERE expires_s IS NOT NULL AND expires_s <= ?1 ORDER BY expires_s LIMIT ?2)",
};

Status SqliteError(sqlite3* database, int code, std::string_view what) {
  const std::string text =
      Format("kv: sqlite: {}: {}",
             {what, database != nullptr ? sqlite3_errmsg(database) : sqlite3_errstr(code)});
  switch (code & 0xff) {
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
      return Status(StatusCode::kUnavailable, text);
    case SQLITE_FULL:
    case SQLITE_NOMEM:
    case SQLITE_TOOBIG:
      return Status(StatusCode::kResourceExhausted, text);
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
    case SQLITE_IOERR:
      return Status(StatusCode::kDataLoss, text);
    case SQLITE_READONLY:
    case SQLITE_CANTOPEN:
    case SQLITE_PERM:
    case SQLITE_AUTH:
      return Status(StatusCode::kPermissionDenied, text);
    default:
      return Status(StatusCode::kInternal, text);
  }
}

Status Run(sqlite3* database, const char* sql) {
  const int code = sqlite3_exec(database, sql, nullptr, nullptr, nullptr);
  return code == SQLITE_OK ? OkStatus() : SqliteError(database, code, "preparing the database");
}

// The smallest key above all that start with `prefix`; empty if there is none.
std::string PrefixEnd(std::string_view prefix) {
  std::string end(prefix);
  while (!end.empty() && static_cast<unsigned char>(end.back()) == 0xff) end.pop_back();
  if (!end.empty()) end.back() = static_cast<char>(static_cast<unsigned char>(end.back()) + 1);
  return end;
}

// A prepared statement in use; resets it at the end. Bound views must outlive it.
class Use {
 public:
  explicit Use(sqlite3_stmt* statement) : statement_(statement) {}
  ~Use() {
    sqlite3_reset(statement_);
    sqlite3_clear_bindings(statement_);
  }
  Use(const Use&) = delete;
  Use& operator=(const Use&) = delete;

  // An empty view binds an empty blob, not NULL.
  void Blob(int at, std::string_view bytes) {
    sqlite3_bind_blob64(statement_, at, bytes.empty() ? "" : bytes.data(), bytes.size(),
                        SQLITE_STATIC);
  }
  void Text(int at, std::string_view text) {
    sqlite3_bind_text64(statement_, at, text.data(), text.size(), SQLITE_STATIC, SQLITE_UTF8);
  }
  void Int(int at, int64_t value) { sqlite3_bind_int64(statement_, at, value); }
  int Step() { return sqlite3_step(statement_); }
  std::string BlobAt(int column) const {
    const void* bytes = sqlite3_column_blob(statement_, column);
    const auto size = static_cast<size_t>(sqlite3_column_bytes(statement_, column));
    return bytes == nullptr ? std::string() : std::string(static_cast<const char*>(bytes), size);
  }
  int64_t IntAt(int column) const { return sqlite3_column_int64(statement_, column); }

 private:
  sqlite3_stmt* statement_;
};

class Implementation final : public SqliteOrigin {
 public:
  Implementation(sqlite3* database, bool owned, SqliteOriginOptions options)
      : options_(std::move(options)), database_(database), owned_(owned) {}
  ~Implementation() override {
    MutexLock lock(&mutex_);
    for (sqlite3_stmt* statement : statements_) sqlite3_finalize(statement);
    if (owned_) sqlite3_close(database_);
  }

  Status Prepare() {
    MutexLock lock(&mutex_);
    EDGE_RETURN_IF_ERROR(Run(database_, kSchema));
    bool has_format_1 = false;
    const int found = sqlite3_exec(
        database_, kHasFormat1,
        [](void* at, int, char**, char**) {
          *static_cast<bool*>(at) = true;
          return 0;
        },
        &has_format_1, nullptr);
    if (found != SQLITE_OK) return SqliteError(database_, found, "preparing the database");
    if (has_format_1) EDGE_RETURN_IF_ERROR(Run(database_, kFromFormat1));
    for (size_t q = 0; q < kQueryCount; ++q) {
      const int code = sqlite3_prepare_v3(database_, kQueries[q], -1, SQLITE_PREPARE_PERSISTENT,
                                          &statements_[q], nullptr);
      if (code != SQLITE_OK) return SqliteError(database_, code, "preparing a statement");
    }
    return OkStatus();
  }

  StatusOr<std::optional<Entry>> Get(std::string_view key) override {
    MutexLock lock(&mutex_);
    return GetLocked(key);
  }

  StatusOr<std::vector<std::optional<Entry>>> GetMany(
      std::span<const std::string_view> keys) override {
    std::vector<std::optional<Entry>> entries;
    entries.reserve(keys.size());
    MutexLock lock(&mutex_);
    for (const std::string_view key : keys) {
      EDGE_ASSIGN_OR_RETURN(std::optional<Entry> entry, GetLocked(key));
      entries.push_back(std::move(entry));
    }
    return entries;
  }

  StatusOr<Version> Put(std::string_view key, const EntryView& entry) override {
    return Write(key, &entry, entry.expiration_s, entry.version);
  }

  StatusOr<Version> Delete(std::string_view key, Version version) override {
    return Write(key, nullptr, ForgetDeletionAt(version), version);
  }

  StatusOr<std::unique_ptr<Subscription>> Watch(OnChange on_change) override {
    return watchers_.Add(std::move(on_change));
  }

  StatusOr<OriginListPage> List(const OriginListQuery& query) override {
    OriginListPage page;
    const std::string end = PrefixEnd(query.prefix);
    const bool resume = query.after && *query.after >= query.prefix;
    MutexLock lock(&mutex_);
    Use list(statements_[kList]);
    list.Blob(1, resume ? *query.after : query.prefix);
    if (resume) list.Blob(2, *query.after);
    if (!end.empty()) list.Blob(3, end);
    list.Int(4, query.now_s);
    list.Int(5, static_cast<int64_t>(query.count_max) + 1);
    int code = SQLITE_OK;
    while ((code = list.Step()) == SQLITE_ROW) {
      if (page.keys.size() == query.count_max) {
        page.complete = false;
        return page;
      }
      page.keys.push_back({list.BlobAt(0), list.IntAt(2), list.BlobAt(1)});
    }
    EDGE_RETURN_IF_ERROR(Finish(code, "list"));
    return page;
  }

  StatusOr<size_t> RemoveExpired(int64_t now_s, size_t count_max) override {
    MutexLock lock(&mutex_);
    Use expire(statements_[kExpire]);
    expire.Int(1, now_s);
    expire.Int(2, static_cast<int64_t>(count_max));
    EDGE_RETURN_IF_ERROR(Finish(expire.Step(), "removing what has expired"));
    return static_cast<size_t>(sqlite3_changes(database_));
  }

 private:
  // A commit that waits for its durability; counts its own answers so that a hook that calls
  // back late, from another thread, finds it alive.
  struct Wait {
    Mutex mutex;
    CondVar settled;
    bool done ABSL_GUARDED_BY(mutex) = false;
    Status status ABSL_GUARDED_BY(mutex);
  };

  Status Finish(int code, std::string_view what) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return code == SQLITE_DONE ? OkStatus() : SqliteError(database_, code, what);
  }

  StatusOr<std::optional<Entry>> GetLocked(std::string_view key)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    Use get(statements_[kGet]);
    get.Blob(1, key);
    const int code = get.Step();
    if (code == SQLITE_ROW) {
      return std::optional<Entry>(
          Entry{get.BlobAt(0), get.BlobAt(1), get.IntAt(2), static_cast<Version>(get.IntAt(3))});
    }
    EDGE_RETURN_IF_ERROR(Finish(code, "get"));
    return std::nullopt;
  }

  StatusOr<Version> Write(std::string_view key, const EntryView* entry, int64_t expires_s,
                          Version version) {
    const std::string_view what = entry != nullptr ? "put" : "delete";
    Version holds = version;
    EDGE_RETURN_IF_ERROR(Commit(what, [&](Status* status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      if (entry == nullptr && version == 0) {
        Use remove(statements_[kDelete]);
        remove.Blob(1, key);
        *status = Finish(remove.Step(), what);
      } else {
        Use put(statements_[kPut]);
        put.Blob(1, key);
        if (entry != nullptr) put.Blob(2, entry->value);
        if (entry != nullptr && !entry->metadata.empty()) put.Text(3, entry->metadata);
        if (expires_s != 0) put.Int(4, expires_s);
        put.Int(5, static_cast<int64_t>(version));
        *status = Finish(put.Step(), what);
      }
      if (!status->ok() || version == 0 || sqlite3_changes(database_) > 0) return;
      Use held(statements_[kVersion]);
      held.Blob(1, key);
      const int code = held.Step();
      if (code == SQLITE_ROW) {
        holds = std::max(static_cast<Version>(held.IntAt(0)), version + 1);
      } else {
        *status = Finish(code, what);
      }
    }));
    if (holds <= version) watchers_.Notify(key, version);
    return holds;
  }

  template <typename Change>
  Status Commit(std::string_view what, Change write) {
    // Owners: this call, and the hook until it has answered.
    std::shared_ptr<Wait> wait;
    {
      MutexLock lock(&mutex_);
      Status status;
      write(&status);
      EDGE_RETURN_IF_ERROR(status);
      if (!options_.when_durable) return OkStatus();
      wait = std::make_shared<Wait>();
      options_.when_durable([wait](Status durable) {
        MutexLock wait_lock(&wait->mutex);
        wait->status = std::move(durable);
        wait->done = true;
        wait->settled.SignalAll();
      });
    }
    MutexLock lock(&wait->mutex);
    while (!wait->done) wait->settled.Wait(&wait->mutex);
    return Annotate(wait->status, Format("kv: sqlite: {}", {what}));
  }

  SqliteOriginOptions options_;
  Watchers watchers_;
  Mutex mutex_;
  sqlite3* database_ ABSL_PT_GUARDED_BY(mutex_);
  const bool owned_;
  std::array<sqlite3_stmt*, kQueryCount> statements_ ABSL_GUARDED_BY(mutex_) = {};
};

}  // namespace

StatusOr<std::unique_ptr<SqliteOrigin>> SqliteOrigin::Attach(sqlite3* database,
                                                             SqliteOriginOptions options) {
  if (database == nullptr) return InvalidArgument("kv: Attach needs an open database");
  auto origin = std::make_unique<Implementation>(database, /*owned=*/false, std::move(options));
  EDGE_RETURN_IF_ERROR(origin->Prepare());
  return std::unique_ptr<SqliteOrigin>(std::move(origin));
}

StatusOr<std::unique_ptr<SqliteOrigin>> SqliteOrigin::Open(const std::string& path,
                                                           SqliteOriginOptions options) {
  sqlite3* database = nullptr;
  const int code =
      sqlite3_open_v2(path.c_str(), &database,
                      SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, nullptr);
  // Owns the connection from here on, opened or not.
  auto origin = std::make_unique<Implementation>(database, /*owned=*/true, std::move(options));
  if (code != SQLITE_OK) return Annotate(SqliteError(database, code, "opening"), path);
  sqlite3_busy_timeout(database, 5000);
  for (const char* pragma : {"PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL"}) {
    EDGE_RETURN_IF_ERROR(Annotate(Run(database, pragma), path));
  }
  EDGE_RETURN_IF_ERROR(Annotate(origin->Prepare(), path));
  return std::unique_ptr<SqliteOrigin>(std::move(origin));
}

}  // namespace edge::kv
