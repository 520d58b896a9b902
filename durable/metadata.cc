#include "durable/metadata.h"

namespace edge::durable::internal {
namespace {

constexpr int64_t kRestoreBookmark = 2;  // the row's key; 1 is kept for the alarm

}  // namespace

Status SetRestoreBookmark(SqlEngine& engine, std::string_view bookmark) {
  EDGE_RETURN_IF_ERROR(engine.EnsureTransaction());
  EDGE_RETURN_IF_ERROR(engine.RunTrusted(
      "CREATE TABLE IF NOT EXISTS _cf_METADATA (key INTEGER PRIMARY KEY, value BLOB)"));
  const Cell args[] = {ToCell(kRestoreBookmark), ToCell(bookmark)};
  return engine.RunTrusted("INSERT OR REPLACE INTO _cf_METADATA VALUES (?, ?)", args);
}

StatusOr<std::string> TakeRestoreBookmark(srs::Database& database) {
  EDGE_ASSIGN_OR_RETURN(const auto engine, SqlEngine::Create(database.handle()));
  EDGE_ASSIGN_OR_RETURN(
      const int64_t has_table,
      engine->TrustedInteger("SELECT count(*) FROM sqlite_schema WHERE name = '_cf_METADATA'"));
  if (has_table == 0) return std::string();
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

}  // namespace edge::durable::internal
