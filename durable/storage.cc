#include "edge/durable/storage.h"

#include <algorithm>

#include "durable/actor.h"
#include "durable/metadata.h"
#include "durable/session.h"
#include "edge/base/errors.h"

namespace edge::durable {

Storage::Storage(internal::Session& session)
    : session_(&session),
      engine_(&session.engine()),
      sql_(session.engine()),
      kv_(session.engine()) {}

Storage::Savepoint::Savepoint(Storage& storage)
    : engine_(storage.engine_), status_(engine_->BeginSavepoint()), open_(status_.ok()) {}

Storage::Savepoint::~Savepoint() {
  if (open_) engine_->RollbackSavepoint();
}

Status Storage::Savepoint::Commit() {
  Status status = engine_->CommitSavepoint();
  open_ = !status.ok();
  return status;
}

std::string Storage::GetCurrentBookmark() {
  return session_->database().GetCurrentBookmark();
}

rpc::Promise<void> Storage::Transaction(Callback<Task<void>(OpenTransaction)> work) {
  return session_->Transaction(std::move(work));
}

rpc::Promise<void> Storage::Sync() {
  return session_->Sync();
}

Status Storage::TryDeleteAll(const DeleteAllOptions& options) {
  if (engine_->in_savepoint() || session_->in_transaction_section()) {
    return FailedPrecondition("Cannot call deleteAll() within a transaction");
  }
  if (options.delete_alarm) {
    EDGE_RETURN_IF_ERROR(session_->SetAlarm(std::nullopt));
  }
  return engine_->DeleteEverything();
}

KvStorage& OpenTransaction::kv(std::string_view call) {
  if (state_->phase == State::Phase::kRolledBack) {
    internal::Throw(FailedPrecondition("Cannot {} on rolled back transaction", call));
  }
  if (state_->phase == State::Phase::kCommitted) {
    internal::Throw(
        FailedPrecondition("Cannot call {} on transaction that has already committed: did you move "
                           "`txn` outside of the closure?",
                           call));
  }
  return state_->session->storage().kv();
}

void OpenTransaction::Rollback() {
  if (state_->phase == State::Phase::kRolledBack) return;
  (void)kv("rollback()");
  state_->phase = State::Phase::kRolledBack;
  state_->session->engine().RollbackSavepoint();
}

Status Storage::TrySetAlarm(int64_t at_ms) {
  return session_->SetAlarm(at_ms);
}
StatusOr<std::optional<int64_t>> Storage::TryGetAlarm() {
  return session_->GetAlarm();
}
Status Storage::TryDeleteAlarm() {
  return session_->SetAlarm(std::nullopt);
}

StatusOr<std::string> Storage::TryGetBookmarkForTime(int64_t wall_ms) {
  internal::Actor& actor = session_->actor();
  return actor.shard().relay().GetBookmarkForTime(actor.database_name(), wall_ms);
}

StatusOr<std::string> Storage::TryOnNextSessionRestore(std::string_view bookmark) {
  if (bookmark.empty()) return InvalidArgument("The bookmark is empty.");
  EDGE_RETURN_IF_ERROR(session_->CommitNow());
  std::string undo = GetCurrentBookmark();
  EDGE_RETURN_IF_ERROR(internal::SetRestoreBookmark(*engine_, bookmark));
  EDGE_RETURN_IF_ERROR(session_->CommitNow());
  return undo;
}

// ---- keys and values

namespace {

using internal::Cell;
using internal::SqlEngine;
using internal::Statement;
using internal::ToCell;

Status CheckKey(std::string_view key) {
  if (key.empty()) return InvalidArgument("A key must not be empty.");
  if (key.size() > KvStorage::kEntryBytesMax) {
    return InvalidArgument("The key has {} bytes, above the limit of {}.", key.size(),
                           KvStorage::kEntryBytesMax);
  }
  return OkStatus();
}

// The table is made by the first Put; until then everything is absent.
StatusOr<bool> HasTable(SqlEngine& engine) {
  EDGE_RETURN_IF_ERROR(engine.EnsureTransaction());
  EDGE_ASSIGN_OR_RETURN(
      const int64_t count,
      engine.TrustedInteger("SELECT count(*) FROM sqlite_schema WHERE name = '_cf_KV'"));
  return count != 0;
}

}  // namespace

StatusOr<std::optional<std::string>> KvStorage::TryGet(std::string_view key) {
  EDGE_RETURN_IF_ERROR(CheckKey(key));
  std::optional<std::string> value;
  EDGE_ASSIGN_OR_RETURN(const bool has_table, HasTable(*engine_));
  if (!has_table) return value;
  const Cell args[] = {ToCell(key)};
  EDGE_ASSIGN_OR_RETURN(Statement * statement,
                        engine_->StartTrusted("SELECT value FROM _cf_KV WHERE key = ?", args));
  if (statement->has_row()) value.emplace(statement->column(0).text());
  SqlEngine::Release(statement);
  return value;
}

Status KvStorage::TryPut(std::string_view key, std::string_view value,
                         const WriteOptions& options) {
  EDGE_RETURN_IF_ERROR(CheckKey(key));
  if (key.size() + value.size() > kEntryBytesMax) {
    return InvalidArgument("Key and value have {} bytes, above the limit of {}.",
                           key.size() + value.size(), kEntryBytesMax);
  }
  EDGE_ASSIGN_OR_RETURN(const bool has_table, HasTable(*engine_));
  const SqlEngine::UnconfirmedScope scope(*engine_, options.allow_unconfirmed);
  if (!has_table) {
    EDGE_RETURN_IF_ERROR(engine_->RunTrusted(
        "CREATE TABLE _cf_KV (key TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID"));
  }
  const Cell args[] = {ToCell(key), ToCell(AsBytes(value))};
  return engine_->RunTrusted(
      "INSERT INTO _cf_KV VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value", args);
}

StatusOr<bool> KvStorage::TryDelete(std::string_view key, const WriteOptions& options) {
  EDGE_RETURN_IF_ERROR(CheckKey(key));
  EDGE_ASSIGN_OR_RETURN(const bool has_table, HasTable(*engine_));
  const SqlEngine::UnconfirmedScope scope(*engine_, options.allow_unconfirmed);
  if (!has_table) return false;
  const Cell args[] = {ToCell(key)};
  EDGE_ASSIGN_OR_RETURN(Statement * statement,
                        engine_->StartTrusted("DELETE FROM _cf_KV WHERE key = ?", args));
  const bool was_there = statement->rows_written() > 0;
  SqlEngine::Release(statement);
  return was_there;
}

StatusOr<std::vector<KvStorage::Entry>> KvStorage::TryGetMany(
    const std::vector<std::string>& keys) {
  std::vector<Entry> entries;
  for (const std::string& key : keys) {
    EDGE_ASSIGN_OR_RETURN(std::optional<std::string> value, TryGet(key));
    if (value) entries.emplace_back(key, *std::move(value));
  }
  std::sort(entries.begin(), entries.end());
  entries.erase(std::unique(entries.begin(), entries.end()), entries.end());
  return entries;
}

Status KvStorage::TryPutMany(const std::vector<Entry>& entries, const WriteOptions& options) {
  EDGE_RETURN_IF_ERROR(engine_->BeginSavepoint());
  Status status;
  for (const auto& [key, value] : entries) {
    if (status.ok()) status = TryPut(key, value, options);
  }
  if (status.ok()) status = engine_->CommitSavepoint();
  if (!status.ok()) engine_->RollbackSavepoint();
  return status;
}

StatusOr<size_t> KvStorage::TryDeleteMany(const std::vector<std::string>& keys,
                                          const WriteOptions& options) {
  EDGE_RETURN_IF_ERROR(engine_->BeginSavepoint());
  Status status;
  size_t count = 0;
  for (const std::string& key : keys) {
    const StatusOr<bool> was_there = TryDelete(key, options);
    status = was_there.status();
    if (!status.ok()) break;
    count += *was_there ? 1 : 0;
  }
  if (status.ok()) status = engine_->CommitSavepoint();
  if (!status.ok()) {
    engine_->RollbackSavepoint();
    return status;
  }
  return count;
}

StatusOr<std::vector<KvStorage::Entry>> KvStorage::TryList(const ListOptions& options) {
  if (options.limit == 0) return InvalidArgument("List limit must be positive.");
  if (!options.start.empty() && !options.start_after.empty()) {
    return InvalidArgument("List cannot be given both start and start_after.");
  }
  std::vector<Entry> entries;
  EDGE_ASSIGN_OR_RETURN(const bool has_table, HasTable(*engine_));
  if (!has_table) return entries;
  // The range [start, end): the prefix narrows it from both sides.
  std::string start = std::max(options.start, options.prefix);
  if (options.start_after >= start && !options.start_after.empty()) {
    start = options.start_after + '\0';
  }
  std::string prefix_end = options.prefix;
  while (!prefix_end.empty() && prefix_end.back() == '\xff') prefix_end.pop_back();
  if (!prefix_end.empty()) {
    prefix_end.back() = static_cast<char>(static_cast<unsigned char>(prefix_end.back()) + 1);
  }
  std::optional<std::string> end;
  if (!options.end.empty()) end = options.end;
  if (!prefix_end.empty() && (!end || prefix_end < *end)) end = prefix_end;
  const int64_t limit = options.limit > INT64_MAX ? -1 : static_cast<int64_t>(options.limit);
  const Cell args[] = {ToCell(start), ToCell(end), ToCell(limit)};
  EDGE_ASSIGN_OR_RETURN(
      Statement * statement,
      engine_->StartTrusted(
          options.order == ListOptions::Order::kForward
              ? "SELECT key, value FROM _cf_KV WHERE key >= ?1 AND (?2 IS NULL OR key < ?2) "
                "ORDER BY key LIMIT ?3"
              : "SELECT key, value FROM _cf_KV WHERE key >= ?1 AND (?2 IS NULL OR key < ?2) "
                "ORDER BY key DESC LIMIT ?3",
          args));
  Status status;
  while (status.ok() && statement->has_row()) {
    entries.emplace_back(statement->column(0).text(), statement->column(1).text());
    status = statement->Advance();
  }
  SqlEngine::Release(statement);
  if (!status.ok()) return status;
  return entries;
}

}  // namespace edge::durable
