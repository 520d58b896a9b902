#include "durable/metadata.h"

namespace edge::durable::internal {
namespace {

// Keys of the rows.
constexpr int64_t kAlarm = 1;
constexpr int64_t kRestoreBookmark = 2;
constexpr int64_t kAlarmSerial = 3;

StatusOr<bool> HasTable(SqlEngine& engine) {
  EDGE_ASSIGN_OR_RETURN(
      const int64_t count,
      engine.TrustedInteger("SELECT count(*) FROM sqlite_schema WHERE name = '_cf_METADATA'"));
  return count != 0;
}

Status Write(SqlEngine& engine, int64_t key, const Cell& value) {
  EDGE_RETURN_IF_ERROR(engine.EnsureTransaction());
  EDGE_RETURN_IF_ERROR(engine.RunTrusted(
      "CREATE TABLE IF NOT EXISTS _cf_METADATA (key INTEGER PRIMARY KEY, value BLOB)"));
  const Cell args[] = {ToCell(key), value};
  return engine.RunTrusted("INSERT OR REPLACE INTO _cf_METADATA VALUES (?, ?)", args);
}

}  // namespace

Status SetRestoreBookmark(SqlEngine& engine, std::string_view bookmark) {
  return Write(engine, kRestoreBookmark, ToCell(bookmark));
}

StatusOr<std::string> TakeRestoreBookmark(srs::Database& database) {
  EDGE_ASSIGN_OR_RETURN(const auto engine, SqlEngine::Create(database.handle()));
  EDGE_ASSIGN_OR_RETURN(const bool has_table, HasTable(*engine));
  if (!has_table) return std::string();
  const Cell args[] = {ToCell(kRestoreBookmark)};
  EDGE_ASSIGN_OR_RETURN(Statement * statement,
                        engine->StartTrusted("SELECT value FROM _cf_METADATA WHERE key = ?", args));
  std::string bookmark;
  if (statement->has_row()) bookmark = statement->column(0).text();
  SqlEngine::Release(statement);
  if (bookmark.empty()) return bookmark;
  EDGE_RETURN_IF_ERROR(engine->RunTrusted("DELETE FROM _cf_METADATA WHERE key = ?", args));
  return bookmark;
}

StatusOr<StoredAlarm> ReadAlarm(SqlEngine& engine) {
  StoredAlarm alarm;
  EDGE_ASSIGN_OR_RETURN(const bool has_table, HasTable(engine));
  if (!has_table) return alarm;
  EDGE_ASSIGN_OR_RETURN(
      Statement * statement,
      engine.StartTrusted("SELECT key, value FROM _cf_METADATA WHERE key IN (1, 3)", {}));
  Status status;
  while (status.ok() && statement->has_row()) {
    const int64_t value = statement->column(1).integer;
    if (statement->column(0).integer == kAlarm) {
      alarm.at_ms = value;
    } else {
      alarm.serial = value;
    }
    status = statement->Advance();
  }
  SqlEngine::Release(statement);
  if (!status.ok()) return status;
  return alarm;
}

Status WriteAlarm(SqlEngine& engine, std::optional<int64_t> at_ms) {
  EDGE_ASSIGN_OR_RETURN(const StoredAlarm before, ReadAlarm(engine));
  if (!at_ms && !before.at_ms) return OkStatus();
  if (at_ms) {
    EDGE_RETURN_IF_ERROR(Write(engine, kAlarm, ToCell(*at_ms)));
  } else {
    EDGE_RETURN_IF_ERROR(engine.EnsureTransaction());
    EDGE_RETURN_IF_ERROR(engine.RunTrusted("DELETE FROM _cf_METADATA WHERE key = 1"));
  }
  return Write(engine, kAlarmSerial, ToCell(before.serial + 1));
}

}  // namespace edge::durable::internal
