// edge/kv/sqlite_origin.h - an Origin in a SQLite table. Links edge::kv_sqlite.
//
// One WITHOUT ROWID table keyed by BLOB, so that list order is byte order, and a partial
// index over expirations (docs/formats/kv-sqlite.md). Every Put and Delete is one commit.
#pragma once
#include <memory>
#include <string>

#include "edge/base/callback.h"
#include "edge/kv/origin.h"

struct sqlite3;

namespace edge::kv {

struct SqliteOriginOptions {
  // Called right after each commit, on the committing thread, while no other call uses the
  // connection. It must see to it that `done` is called once, at once or later and from any
  // thread, with OK when that commit is durable. Put and Delete wait for it outside of the
  // lock, so commits of other threads share the wait. Empty: a commit is durable when
  // SQLite says so. For a database of the storage relay:
  //   [db](auto done) { db->OnDurable(db->lsn(), std::move(done)); }
  Callback<void(Callback<void(Status)> done)> when_durable;
};

// Thread-safe: calls take turns on the connection. Errors, of the factories and of all calls:
// Unavailable (busy), ResourceExhausted (disk full), DataLoss (corrupt, not a database, I/O),
// PermissionDenied (read-only, cannot open), Internal; the text is SQLite's.
class SqliteOrigin : public Origin {
 public:
  // Opens or creates the file at `path` in WAL mode with synchronous=FULL: an OK Put
  // survives power loss.
  static StatusOr<std::unique_ptr<SqliteOrigin>> Open(const std::string& path,
                                                      SqliteOriginOptions options = {});
  // Uses an open connection, which stays the caller's, must outlive the origin, and which
  // nobody else may use meanwhile. Makes the table if it is missing; changes no pragma.
  static StatusOr<std::unique_ptr<SqliteOrigin>> Attach(sqlite3* database,
                                                        SqliteOriginOptions options = {});
};

}  // namespace edge::kv
