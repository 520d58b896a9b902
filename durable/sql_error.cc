// Turns SQLite's errors into ours, with the names of its codes in the text.
#include <sqlite3.h>

#include "durable/sql_engine.h"
#include "edge/base/errors.h"

namespace edge::durable::internal {
namespace {

struct CodeName {
  int code;
  std::string_view name;
};
#define EDGE_SQLITE_CODE_(name) \
  { name, #name }
constexpr CodeName kCodeNames[] = {
    EDGE_SQLITE_CODE_(SQLITE_ERROR),
    EDGE_SQLITE_CODE_(SQLITE_INTERNAL),
    EDGE_SQLITE_CODE_(SQLITE_PERM),
    EDGE_SQLITE_CODE_(SQLITE_ABORT),
    EDGE_SQLITE_CODE_(SQLITE_BUSY),
    EDGE_SQLITE_CODE_(SQLITE_LOCKED),
    EDGE_SQLITE_CODE_(SQLITE_NOMEM),
    EDGE_SQLITE_CODE_(SQLITE_READONLY),
    EDGE_SQLITE_CODE_(SQLITE_INTERRUPT),
    EDGE_SQLITE_CODE_(SQLITE_IOERR),
    EDGE_SQLITE_CODE_(SQLITE_CORRUPT),
    EDGE_SQLITE_CODE_(SQLITE_NOTFOUND),
    EDGE_SQLITE_CODE_(SQLITE_FULL),
    EDGE_SQLITE_CODE_(SQLITE_CANTOPEN),
    EDGE_SQLITE_CODE_(SQLITE_PROTOCOL),
    EDGE_SQLITE_CODE_(SQLITE_EMPTY),
    EDGE_SQLITE_CODE_(SQLITE_SCHEMA),
    EDGE_SQLITE_CODE_(SQLITE_TOOBIG),
    EDGE_SQLITE_CODE_(SQLITE_CONSTRAINT),
    EDGE_SQLITE_CODE_(SQLITE_MISMATCH),
    EDGE_SQLITE_CODE_(SQLITE_MISUSE),
    EDGE_SQLITE_CODE_(SQLITE_NOLFS),
    EDGE_SQLITE_CODE_(SQLITE_AUTH),
    EDGE_SQLITE_CODE_(SQLITE_FORMAT),
    EDGE_SQLITE_CODE_(SQLITE_RANGE),
    EDGE_SQLITE_CODE_(SQLITE_NOTADB),
    EDGE_SQLITE_CODE_(SQLITE_ERROR_MISSING_COLLSEQ),
    EDGE_SQLITE_CODE_(SQLITE_ERROR_RETRY),
    EDGE_SQLITE_CODE_(SQLITE_ERROR_SNAPSHOT),
    EDGE_SQLITE_CODE_(SQLITE_ABORT_ROLLBACK),
    EDGE_SQLITE_CODE_(SQLITE_BUSY_RECOVERY),
    EDGE_SQLITE_CODE_(SQLITE_BUSY_SNAPSHOT),
    EDGE_SQLITE_CODE_(SQLITE_BUSY_TIMEOUT),
    EDGE_SQLITE_CODE_(SQLITE_LOCKED_SHAREDCACHE),
    EDGE_SQLITE_CODE_(SQLITE_LOCKED_VTAB),
    EDGE_SQLITE_CODE_(SQLITE_READONLY_DBMOVED),
    EDGE_SQLITE_CODE_(SQLITE_IOERR_READ),
    EDGE_SQLITE_CODE_(SQLITE_IOERR_SHORT_READ),
    EDGE_SQLITE_CODE_(SQLITE_IOERR_WRITE),
    EDGE_SQLITE_CODE_(SQLITE_IOERR_FSYNC),
    EDGE_SQLITE_CODE_(SQLITE_IOERR_TRUNCATE),
    EDGE_SQLITE_CODE_(SQLITE_IOERR_FSTAT),
    EDGE_SQLITE_CODE_(SQLITE_IOERR_NOMEM),
    EDGE_SQLITE_CODE_(SQLITE_IOERR_ACCESS),
    EDGE_SQLITE_CODE_(SQLITE_IOERR_DATA),
    EDGE_SQLITE_CODE_(SQLITE_CORRUPT_VTAB),
    EDGE_SQLITE_CODE_(SQLITE_CORRUPT_SEQUENCE),
    EDGE_SQLITE_CODE_(SQLITE_CORRUPT_INDEX),
    EDGE_SQLITE_CODE_(SQLITE_CONSTRAINT_CHECK),
    EDGE_SQLITE_CODE_(SQLITE_CONSTRAINT_COMMITHOOK),
    EDGE_SQLITE_CODE_(SQLITE_CONSTRAINT_DATATYPE),
    EDGE_SQLITE_CODE_(SQLITE_CONSTRAINT_FOREIGNKEY),
    EDGE_SQLITE_CODE_(SQLITE_CONSTRAINT_FUNCTION),
    EDGE_SQLITE_CODE_(SQLITE_CONSTRAINT_NOTNULL),
    EDGE_SQLITE_CODE_(SQLITE_CONSTRAINT_PINNED),
    EDGE_SQLITE_CODE_(SQLITE_CONSTRAINT_PRIMARYKEY),
    EDGE_SQLITE_CODE_(SQLITE_CONSTRAINT_ROWID),
    EDGE_SQLITE_CODE_(SQLITE_CONSTRAINT_TRIGGER),
    EDGE_SQLITE_CODE_(SQLITE_CONSTRAINT_UNIQUE),
    EDGE_SQLITE_CODE_(SQLITE_CONSTRAINT_VTAB),
};
#undef EDGE_SQLITE_CODE_

std::string NameOf(int code) {
  for (const CodeName& entry : kCodeNames) {
    if (entry.code == code) return std::string(entry.name);
  }
  return Format("SQLITE_{}", {code});
}

StatusCode StatusCodeOf(int primary) {
  switch (primary) {
    case SQLITE_ERROR:
    case SQLITE_RANGE:
    case SQLITE_MISMATCH:
      return StatusCode::kInvalidArgument;
    case SQLITE_AUTH:
    case SQLITE_PERM:
    case SQLITE_READONLY:
      return StatusCode::kPermissionDenied;
    case SQLITE_CONSTRAINT:
      return StatusCode::kFailedPrecondition;
    case SQLITE_FULL:
    case SQLITE_NOMEM:
    case SQLITE_TOOBIG:
      return StatusCode::kResourceExhausted;
    case SQLITE_IOERR:
    case SQLITE_INTERRUPT:
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
    case SQLITE_CANTOPEN:
      return StatusCode::kUnavailable;
    case SQLITE_ABORT:
      return StatusCode::kAborted;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
      return StatusCode::kDataLoss;
    default:
      return StatusCode::kInternal;
  }
}

}  // namespace

Status SqliteStatus(int code, int extended, std::string_view message, int offset) {
  const int primary = code & 0xff;
  std::string text(message);
  if (offset >= 0) text += Format(" at offset {}", {offset});
  text += ": " + NameOf(primary);
  if (extended != primary) text += " (extended: " + NameOf(extended) + ")";
  return Status(StatusCodeOf(primary), text);
}

void Throw(Status status) {
  throw Error(std::move(status));
}

}  // namespace edge::durable::internal
