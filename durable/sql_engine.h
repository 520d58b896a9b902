// durable/sql_engine.h - one object's SQLite connection: what its SQL may do, the cache of
// its compiled statements, and the implicit transaction of a turn.
//
// The first statement of a turn opens a transaction; the runtime commits it when the turn
// ends, or rolls it back. The object never sees BEGIN or COMMIT. The rules of what SQL may
// touch are SQLite's authorizer plus what it cannot see (durable/sql_authorizer.cc).
#pragma once
#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "edge/base/callback.h"
#include "edge/base/checksum.h"
#include "edge/base/status.h"
#include "edge/durable/sql.h"

struct sqlite3;
struct sqlite3_stmt;

namespace edge::durable::internal {

inline constexpr size_t kCachedTextBytesMax = 1 << 20;

class SqlEngine;

// A compiled statement and the state of its run. Leased to one cursor at a time.
class Statement {
 public:
  Statement(SqlEngine* engine, sqlite3_stmt* raw, std::string text, bool trusted);
  ~Statement();
  Statement(const Statement&) = delete;

  Status Advance();
  // As Advance, but the first call is for the row at hand. Fills the first `count` cells.
  // False at the end, and after an error: then error() is not OK.
  bool Next(Cell* cells, int count);
  void SetError(Status error) { error_ = std::move(error); }
  const Status& error() const { return error_; }
  Status TakeError() { return std::exchange(error_, OkStatus()); }
  void Finish();  // no more rows; counters and names stay
  bool has_row() const { return has_row_; }
  int column_count() const;
  std::string_view column_name(int index) const;
  Cell column(int index) const;
  uint64_t rows_read() const;
  uint64_t rows_written() const { return rows_written_; }

 private:
  friend class SqlEngine;
  Status BufferRows();
  void Reset();

  SqlEngine* engine_;  // null once the engine is gone
  sqlite3_stmt* raw_;
  const std::string text_;  // the key, if cached
  const bool trusted_;      // runs without the authorizer
  bool cached_ = false;
  bool leased_ = false;
  bool renames_ = false;  // ALTER TABLE: its effect on names is checked afterwards
  bool read_only_ = false;
  bool big_bindings_ = false;
  bool has_row_ = false;
  bool running_ = false;  // stepped and not yet reset
  bool started_ = false;  // the first row was handed out
  bool used_ = false;     // since the cache last looked for what it can spare
  const int parameter_count_;
  Status error_;
  uint64_t rows_fetched_ = 0;
  uint64_t rows_written_ = 0;
  // Rows of a writing statement (RETURNING): it must end within its turn, so they are all
  // fetched at once. The front one is the row at hand.
  std::vector<std::vector<SqlValue>> buffer_;
  size_t buffer_index_ = 0;
  bool buffered_ = false;
  std::list<Statement*>::iterator lru_;
};

// Single-threaded.
class SqlEngine {
 public:
  // Configures `db`, which must outlive the engine: limits, defensive mode, foreign keys,
  // the authorizer.
  static StatusOr<std::unique_ptr<SqlEngine>> Create(sqlite3* db);
  ~SqlEngine();
  SqlEngine(const SqlEngine&) = delete;

  // As Sql::Exec. The statement is leased: give it back with Release().
  StatusOr<Statement*> Start(std::string_view query, std::span<const Cell> args, int columns);
  Statement* StartOrThrow(std::string_view query, std::span<const Cell> args, int columns);
  // For our own statements: hidden tables are visible, transactions are not refused.
  StatusOr<Statement*> StartTrusted(std::string_view query, std::span<const Cell> args);
  Status RunTrusted(std::string_view query, std::span<const Cell> args = {});
  StatusOr<int64_t> TrustedInteger(std::string_view query);
  static void Release(Statement* statement) noexcept;
  // A function of the application. InvalidArgument: a bad name.
  Status AddFunction(std::string_view name, int arg_count, bool deterministic,
                     SqlFunction function);

  bool in_transaction() const;
  // Opens the turn's transaction unless it is open. Start() does it by itself.
  Status EnsureTransaction();
  // Runs whenever a transaction was opened: somebody has to end it.
  void OnTransaction(Callback<void()> opened) { on_transaction_ = std::move(opened); }
  // Ends the turn's transaction, if one is open. A failed commit is rolled back and breaks
  // the engine.
  Status Commit();
  void Rollback();
  // Nested transactions within the turn: depth counts from 1.
  Status BeginSavepoint();
  Status CommitSavepoint();
  void RollbackSavepoint();

  // Did the transaction that is open, or was committed last, write anything that has to be
  // durable before the object speaks? Writes inside an UnconfirmedScope do not count.
  bool wrote_confirmed() const { return wrote_confirmed_; }
  class UnconfirmedScope {
   public:
    UnconfirmedScope(SqlEngine& engine, bool unconfirmed)
        : engine_(engine), before_(std::exchange(engine.unconfirmed_, unconfirmed)) {}
    ~UnconfirmedScope() { engine_.unconfirmed_ = before_; }
    UnconfirmedScope(const UnconfirmedScope&) = delete;

   private:
    SqlEngine& engine_;
    const bool before_;
  };
  // Within the turn: drops all that is the object's, the table of its keys too; its open
  // cursors are cancelled.
  Status DeleteEverything();

  // What all statements of the object have read and written since the last call.
  struct RowCounts {
    uint64_t read = 0, written = 0;
  };
  void CountRows() { counts_rows_ = true; }
  RowCounts TakeRowCounts() { return std::exchange(row_counts_, {}); }

  // From now on remembers the object's statements that took so long, 16 at most at a time.
  struct SlowStatement {
    std::string text;
    int64_t duration_ms = 0;
  };
  void WatchSlow(int64_t duration_ms);
  std::vector<SlowStatement> TakeSlow() { return std::exchange(slow_, {}); }
  std::vector<std::string> Plan(const std::string& text);
  void OnProfile(sqlite3_stmt* raw, int64_t duration_ns);  // for the C callback

  // Storage failed: every later call fails with this. OK if not.
  const Status& broken() const { return broken_; }
  void Break(Status status);
  bool in_savepoint() const { return savepoints_ > 0; }
  sqlite3* db() const { return db_; }
  size_t cached_text_bytes() const { return user_.text_bytes; }

  // The authorizer's answer, an SQLite code. Public for its C callback.
  int Authorize(int action, const char* first, const char* second, const char* database) {
    const int answer = Judge(action, first, second, database);
    denied_ |= answer != 0;
    return answer;
  }

 private:
  friend class Statement;
  int Judge(int action, const char* first, const char* second, const char* database);
  struct Cache {
    std::unordered_map<std::string_view, std::unique_ptr<Statement>, StringHash, std::equal_to<>>
        by_text;                  // keys live in the statements
    std::list<Statement*> order;  // the oldest in front; what was used meanwhile is spared once
    size_t text_bytes = 0;
  };
  // Texts are mostly literals, so their address finds the statement; the text is compared.
  struct Recent {
    const char* text = nullptr;
    size_t size = 0;
    Statement* statement = nullptr;
  };
  static constexpr size_t kRecents = 64;
  Recent& RecentOf(std::string_view query) {
    const auto at = reinterpret_cast<uintptr_t>(query.data());
    return recents_[(at ^ (at >> 6)) % kRecents];
  }

  explicit SqlEngine(sqlite3* db) : db_(db) {}
  Statement* FindRecent(std::string_view query);
  bool StartPlain(Statement& statement, std::span<const Cell> args, int columns);
  Status StartStatement(Statement& statement, std::span<const Cell> args, int columns);
  StatusOr<Statement*> StartIn(Cache& cache, bool trusted, std::string_view query,
                               std::span<const Cell> args, int columns);
  StatusOr<std::unique_ptr<Statement>> Prepare(std::string_view text, bool trusted,
                                               std::string_view* tail);
  StatusOr<Statement*> Compile(Cache& cache, bool trusted, std::string_view query);
  void Remember(Cache& cache, std::unique_ptr<Statement> statement);
  Status Run(Statement& statement);
  Status RunRename(Statement& statement);
  Status Bind(Statement& statement, std::span<const Cell> args);
  Status BindNamed(Statement& statement, std::span<const Cell> args);
  void RemoveFunctions();
  void CancelCursors();
  Status RunText(const std::string& text);
  static bool IsBuiltInFunction(std::string_view lower_case_name);
  int BindOne(Statement& statement, int at, const Cell& cell, bool copies);
  int Step(Statement& statement);
  // The error of the last SQLite call as a Status; notices a rollback that SQLite did itself.
  Status LastError();
  Status Ready() const;

  sqlite3* const db_;
  Cache user_;
  Recent recents_[kRecents];  // of user_
  // Of the application: lower-case names, and the numbers of arguments they take.
  std::map<std::string, std::vector<int>, std::less<>> functions_;
  Cache trusted_cache_;
  bool trusted_ = false;     // the statement being compiled or run is ours
  bool saw_rename_ = false;  // set by the authorizer while compiling
  bool saw_transaction_ = false;
  bool denied_ = false;
  bool expects_transaction_ = false;  // we began one and did not end it
  bool blocked_ = false;              // Ready() is not OK
  bool unconfirmed_ = false;
  bool wrote_confirmed_ = false;
  int savepoints_ = 0;
  Callback<void()> on_transaction_;
  bool counts_rows_ = false;
  RowCounts row_counts_;
  int64_t slow_ns_ = 0;
  std::vector<SlowStatement> slow_;
  Status broken_;
  Status turn_failed_;              // SQLite rolled the turn back: the rest of it fails
  std::list<Statement*> one_offs_;  // leased, not in a cache
};

// "message at offset 7: SQLITE_ERROR"; the codes as in the header of sql.h.
Status SqliteStatus(int code, int extended, std::string_view message, int offset);

}  // namespace edge::durable::internal
