// durable/metadata.h - what the runtime keeps in an object's own database.
// Format: docs/formats/durable-hidden-tables.md.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "durable/sql_engine.h"
#include "edge/base/status.h"
#include "edge/srs/relay.h"

namespace edge::durable::internal {

// Within the open transaction: the next start goes to `bookmark`.
Status SetRestoreBookmark(SqlEngine& engine, std::string_view bookmark);
// The bookmark to go to, empty if there is none. Removes the wish, and commits that: should
// the restore fail, the object is as it was.
StatusOr<std::string> TakeRestoreBookmark(srs::Database& database);

struct StoredAlarm {
  std::optional<int64_t> at_ms;
  // Grows with every write, so that a handler that ends knows whether the alarm is still the
  // one that it ran for.
  int64_t serial = 0;
};
StatusOr<StoredAlarm> ReadAlarm(SqlEngine& engine);
// Within the turn's transaction. nullopt: none.
Status WriteAlarm(SqlEngine& engine, std::optional<int64_t> at_ms);

}  // namespace edge::durable::internal
