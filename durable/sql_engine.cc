#include "durable/sql_engine.h"

#include <sqlite3.h>

#include <cctype>
#include <utility>

#include "edge/base/check.h"
#include "edge/base/errors.h"

namespace edge::durable::internal {
namespace {

constexpr size_t kBigBindingBytes = 4096;

// What an object may ask of SQLite at most; SQLite's own limits are far above.
constexpr std::pair<int, int> kLimits[] = {
    {SQLITE_LIMIT_LENGTH, 4 << 20},
    {SQLITE_LIMIT_SQL_LENGTH, 100'000},
    {SQLITE_LIMIT_COLUMN, 100},
    {SQLITE_LIMIT_EXPR_DEPTH, 100},
    {SQLITE_LIMIT_COMPOUND_SELECT, 5},
    {SQLITE_LIMIT_VDBE_OP, 25'000},
    {SQLITE_LIMIT_FUNCTION_ARG, 127},
    {SQLITE_LIMIT_ATTACHED, 0},
    {SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 50},
    {SQLITE_LIMIT_VARIABLE_NUMBER, 100},
    {SQLITE_LIMIT_TRIGGER_DEPTH, 10},
    {SQLITE_LIMIT_WORKER_THREADS, 0},
};

constexpr std::string_view kTransactionText =
    "To execute a transaction, please use the storage().TransactionSync() API instead of the SQL "
    "BEGIN TRANSACTION or SAVEPOINT statements. It is safer: it rolls back by itself when an "
    "exception leaves it, and it works with the implicit transaction of the turn.";

extern "C" int EdgeDurableAuthorize(void* engine, int action, const char* first, const char* second,
                                    const char* database, const char* /*trigger*/) noexcept {
  return static_cast<SqlEngine*>(engine)->Authorize(action, first, second, database);
}

std::string_view TrimmedFront(std::string_view text) {
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.front())) != 0) {
    text.remove_prefix(1);
  }
  return text;
}

// The codes after which SQLite, having rolled back by itself, cannot be trusted with more.
bool IsCritical(int code) {
  switch (code & 0xff) {
    case SQLITE_FULL:
    case SQLITE_IOERR:
    case SQLITE_NOMEM:
    case SQLITE_INTERRUPT:
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
      return true;
    default:
      return false;
  }
}

class FlagScope {
 public:
  FlagScope(bool* flag, bool value) : flag_(flag), before_(std::exchange(*flag, value)) {}
  ~FlagScope() { *flag_ = before_; }
  FlagScope(const FlagScope&) = delete;

 private:
  bool* flag_;
  bool before_;
};

Status MixedParameters() {
  return InvalidArgument("Either all parameters of an SQL query are named or none.");
}

Status TooLarge(int at) {
  return InvalidArgument("Parameter {} does not fit in SQLite's 64-bit signed integers.", at);
}

Status Canceled() {
  return FailedPrecondition("SQLite query was canceled because the database was deleted.");
}

}  // namespace

Statement::Statement(SqlEngine* engine, sqlite3_stmt* raw, std::string text, bool trusted)
    : engine_(engine),
      raw_(raw),
      text_(std::move(text)),
      trusted_(trusted),
      read_only_(sqlite3_stmt_readonly(raw) != 0),
      parameter_count_(sqlite3_bind_parameter_count(raw)) {}

Statement::~Statement() {
  sqlite3_finalize(raw_);
}

Status Statement::Advance() {
  has_row_ = false;
  if (engine_ == nullptr) return Canceled();
  if (buffered_) {
    if (buffer_index_ < buffer_.size()) ++buffer_index_;
    has_row_ = buffer_index_ < buffer_.size();
    return OkStatus();
  }
  if (!running_) return OkStatus();
  EDGE_RETURN_IF_ERROR(engine_->Ready());
  const int code = engine_->Step(*this);
  if (code == SQLITE_ROW) {
    has_row_ = true;
    ++rows_fetched_;
    return OkStatus();
  }
  Status status = code == SQLITE_DONE ? OkStatus() : engine_->LastError();
  Reset();
  return status;
}

bool Statement::Next(Cell* cells, int count) {
  if (started_) {
    if (running_ && !engine_->blocked_) [[likely]] {
      const int code = engine_->Step(*this);
      if (code == SQLITE_ROW) {
        ++rows_fetched_;
      } else {
        if (code != SQLITE_DONE) error_ = engine_->LastError();
        Reset();
        return false;
      }
    } else {
      error_ = Advance();
      if (!error_.ok()) return false;
    }
  }
  started_ = true;
  if (!has_row_) {
    if (engine_ == nullptr) error_ = Canceled();
    return false;
  }
  for (int i = 0; i < count; ++i) cells[i] = column(i);
  return true;
}

Status Statement::BufferRows() {
  while (has_row_) {
    std::vector<SqlValue>& row = buffer_.emplace_back(static_cast<size_t>(column_count()));
    for (int i = 0; i < column_count(); ++i) FromCell(column(i), &row[static_cast<size_t>(i)]);
    EDGE_RETURN_IF_ERROR(Advance());
  }
  buffered_ = true;
  buffer_index_ = 0;
  has_row_ = !buffer_.empty();
  return OkStatus();
}

void Statement::Finish() {
  has_row_ = false;
  if (buffered_) {
    buffer_.clear();
    buffer_index_ = 0;
  }
  Reset();
}

void Statement::Reset() {
  has_row_ = false;
  if (!running_) return;
  running_ = false;
  sqlite3_reset(raw_);
}

int Statement::column_count() const {
  return raw_ == nullptr ? 0 : sqlite3_column_count(raw_);
}

std::string_view Statement::column_name(int index) const {
  const char* name = raw_ == nullptr ? nullptr : sqlite3_column_name(raw_, index);
  return name == nullptr ? std::string_view() : name;
}

Cell Statement::column(int index) const {
  Cell cell;
  if (buffered_) {
    const auto& row = buffer_[buffer_index_];
    if (static_cast<size_t>(index) < row.size()) cell = ToCell(row[static_cast<size_t>(index)]);
    return cell;
  }
  // One look-up instead of one for each question. An unprotected value may be asked, for the
  // connection is used by one thread at a time.
  sqlite3_value* const value = sqlite3_column_value(raw_, index);
  switch (sqlite3_value_type(value)) {
    case SQLITE_INTEGER:
      cell.kind = Cell::Kind::kInteger;
      cell.integer = sqlite3_value_int64(value);
      break;
    case SQLITE_FLOAT:
      cell.kind = Cell::Kind::kReal;
      cell.real = sqlite3_value_double(value);
      break;
    case SQLITE_TEXT:
      cell.kind = Cell::Kind::kText;
      cell.data = sqlite3_value_text(value);
      cell.size = static_cast<size_t>(sqlite3_value_bytes(value));
      break;
    case SQLITE_BLOB:
      cell.kind = Cell::Kind::kBlob;
      cell.data = sqlite3_value_blob(value);
      cell.size = static_cast<size_t>(sqlite3_value_bytes(value));
      break;
    default:
      break;
  }
  return cell;
}

uint64_t Statement::rows_read() const {
  if (raw_ == nullptr) return rows_fetched_;
  const int scanned = sqlite3_stmt_status(raw_, SQLITE_STMTSTATUS_FULLSCAN_STEP, 0);
  // A scan that stepped forward n times has seen n + 1 rows.
  return std::max(rows_fetched_, scanned > 0 ? static_cast<uint64_t>(scanned) + 1 : 0);
}

StatusOr<std::unique_ptr<SqlEngine>> SqlEngine::Create(sqlite3* db) {
  std::unique_ptr<SqlEngine> engine(new SqlEngine(db));
  for (const auto& [limit, value] : kLimits) sqlite3_limit(db, limit, value);
  for (const auto& [option, value] :
       {std::pair{SQLITE_DBCONFIG_DEFENSIVE, 1}, std::pair{SQLITE_DBCONFIG_ENABLE_FKEY, 1},
        std::pair{SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 0}}) {
    if (sqlite3_db_config(db, option, value, nullptr) != SQLITE_OK) return engine->LastError();
  }
  sqlite3_extended_result_codes(db, 1);
  sqlite3_set_authorizer(db, EdgeDurableAuthorize, engine.get());
  return engine;
}

// Statements that cursors hold belong to the cursors from now on; all others are deleted.
void SqlEngine::CancelCursors() {
  const auto orphan = [](Statement* statement) {
    statement->Finish();
    sqlite3_finalize(std::exchange(statement->raw_, nullptr));
    statement->engine_ = nullptr;
    statement->cached_ = false;
  };
  for (Cache* cache : {&user_, &trusted_cache_}) {
    for (auto& [text, statement] : cache->by_text) {
      if (!statement->leased_) continue;
      orphan(statement.get());
      (void)statement.release();  // its cursor deletes it
    }
    cache->by_text.clear();
    cache->order.clear();
    cache->text_bytes = 0;
  }
  for (Statement* statement : one_offs_) orphan(statement);
  one_offs_.clear();
  for (Recent& recent : recents_) recent = {};
}

// For texts that are made once: past the cache.
Status SqlEngine::RunText(const std::string& text) {
  const FlagScope scope(&trusted_, true);
  wrote_confirmed_ = true;
  return sqlite3_exec(db_, text.c_str(), nullptr, nullptr, nullptr) == SQLITE_OK ? OkStatus()
                                                                                 : LastError();
}

Status SqlEngine::DeleteEverything() {
  EDGE_RETURN_IF_ERROR(EnsureTransaction());
  CancelCursors();
  // Triggers first, so that none runs; rows before tables, so that no foreign key is broken
  // in between; virtual tables take their shadow tables with them.
  EDGE_RETURN_IF_ERROR(RunText("PRAGMA defer_foreign_keys = ON"));
  constexpr std::string_view kFormats[] = {
      "SELECT 'DROP TRIGGER ' || printf('\"%w\"', name) FROM sqlite_schema WHERE type = 'trigger'",
      "SELECT 'DROP VIEW ' || printf('\"%w\"', name) FROM sqlite_schema WHERE type = 'view'",
      "SELECT 'DROP TABLE ' || printf('\"%w\"', name) FROM sqlite_schema WHERE type = 'table' AND "
      "sql LIKE 'CREATE VIRTUAL%'",
      "SELECT 'DELETE FROM ' || printf('\"%w\"', name) FROM sqlite_schema WHERE type = 'table' AND "
      "name <> '_cf_METADATA' AND name NOT LIKE 'sqlite\\_stat%' ESCAPE '\\'",
      "SELECT 'DROP TABLE ' || printf('\"%w\"', name) FROM sqlite_schema WHERE type = 'table' AND "
      "name NOT IN ('_cf_METADATA', 'sqlite_sequence')",
  };
  for (const std::string_view format : kFormats) {
    std::vector<std::string> texts;
    {
      EDGE_ASSIGN_OR_RETURN(Statement * statement, StartTrusted(format, {}));
      Status status;
      while (status.ok() && statement->has_row()) {
        texts.emplace_back(statement->column(0).text());
        status = statement->Advance();
      }
      Release(statement);
      EDGE_RETURN_IF_ERROR(status);
    }
    for (const std::string& text : texts) EDGE_RETURN_IF_ERROR(RunText(text));
  }
  return OkStatus();
}

SqlEngine::~SqlEngine() {
  CancelCursors();
  Rollback();
  RemoveFunctions();  // what they capture may end with the object
  sqlite3_set_authorizer(db_, nullptr, nullptr);
  sqlite3_trace_v2(db_, 0, nullptr, nullptr);
}

extern "C" int EdgeDurableProfile(unsigned /*event*/, void* engine, void* raw,
                                  void* duration_ns) noexcept {
  static_cast<SqlEngine*>(engine)->OnProfile(static_cast<sqlite3_stmt*>(raw),
                                             *static_cast<sqlite3_int64*>(duration_ns));
  return 0;
}

void SqlEngine::WatchSlow(int64_t duration_ms) {
  slow_ns_ = duration_ms * 1'000'000;
  sqlite3_trace_v2(db_, SQLITE_TRACE_PROFILE, EdgeDurableProfile, this);
}

void SqlEngine::OnProfile(sqlite3_stmt* raw, int64_t duration_ns) {
  constexpr size_t kSlowMax = 16;
  if (duration_ns < slow_ns_ || trusted_ || slow_.size() >= kSlowMax) return;
  const char* text = sqlite3_sql(raw);
  if (text != nullptr) slow_.push_back({text, duration_ns / 1'000'000});
}

std::vector<std::string> SqlEngine::Plan(const std::string& text) {
  std::vector<std::string> plan;
  const FlagScope scope(&trusted_, true);
  sqlite3_stmt* raw = nullptr;
  const std::string query = "EXPLAIN QUERY PLAN " + text;
  if (sqlite3_prepare_v2(db_, query.c_str(), -1, &raw, nullptr) != SQLITE_OK) return plan;
  while (sqlite3_step(raw) == SQLITE_ROW) {
    plan.emplace_back(reinterpret_cast<const char*>(sqlite3_column_text(raw, 3)));
  }
  sqlite3_finalize(raw);
  return plan;
}

Status SqlEngine::Ready() const {
  EDGE_RETURN_IF_ERROR(broken_);
  return turn_failed_;
}

void SqlEngine::Break(Status status) {
  EDGE_CHECK(!status.ok());
  if (broken_.ok()) broken_ = std::move(status);
  blocked_ = true;
}

Status SqlEngine::EnsureTransaction() {
  if (expects_transaction_ && !blocked_) [[likely]]
    return OkStatus();
  EDGE_RETURN_IF_ERROR(Ready());
  if (in_transaction()) return OkStatus();
  EDGE_RETURN_IF_ERROR(RunTrusted("BEGIN"));
  expects_transaction_ = true;
  wrote_confirmed_ = false;
  if (on_transaction_) on_transaction_();
  return OkStatus();
}

// Most queries are literals that were run before.
[[gnu::always_inline]] inline Statement* SqlEngine::FindRecent(std::string_view query) {
  const Recent& recent = RecentOf(query);
  if (recent.text != query.data() || recent.size != query.size() || recent.statement->leased_ ||
      recent.statement->text_ != query) [[unlikely]] {
    return nullptr;
  }
  recent.statement->leased_ = recent.statement->used_ = true;
  return recent.statement;
}

StatusOr<Statement*> SqlEngine::Start(std::string_view query, std::span<const Cell> args,
                                      int columns) {
  EDGE_RETURN_IF_ERROR(EnsureTransaction());
  Statement* statement = FindRecent(query);
  if (statement == nullptr) {
    EDGE_ASSIGN_OR_RETURN(statement, StartIn(user_, /*trusted=*/false, query, args, columns));
    if (statement->cached_) RecentOf(query) = {query.data(), query.size(), statement};
    return statement;
  }
  if (Status status = StartStatement(*statement, args, columns); !status.ok()) {
    Release(statement);
    return status;
  }
  return statement;
}

[[gnu::always_inline]] inline Statement* SqlEngine::StartOrThrow(std::string_view query,
                                                                 std::span<const Cell> args,
                                                                 int columns) {
  // The same as Start(), for the usual case: whole numbers, no named parameters, and a row.
  if (expects_transaction_ && !blocked_ && !trusted_) [[likely]] {
    if (Statement* const statement = FindRecent(query); statement != nullptr) [[likely]] {
      if (StartPlain(*statement, args, columns)) [[likely]]
        return statement;
      if (Status status = StartStatement(*statement, args, columns); !status.ok()) [[unlikely]] {
        Release(statement);
        Throw(std::move(status));
      }
      return statement;
    }
  }
  return OrThrow(Start(query, args, columns));
}

// False: not the usual case, and nothing has been run.
[[gnu::always_inline]] inline bool SqlEngine::StartPlain(Statement& statement,
                                                         std::span<const Cell> args, int columns) {
  if (!statement.read_only_ || static_cast<size_t>(statement.parameter_count_) != args.size() ||
      (columns > 0 && statement.column_count() != columns)) {
    return false;
  }
  for (size_t i = 0; i < args.size(); ++i) {
    if (args[i].kind != Cell::Kind::kInteger || args[i].name != nullptr) return false;
    if (sqlite3_bind_int64(statement.raw_, static_cast<int>(i) + 1, args[i].integer) != SQLITE_OK) {
      return false;
    }
  }
  statement.rows_fetched_ = statement.rows_written_ = 0;
  statement.buffered_ = statement.started_ = false;
  sqlite3_stmt_status(statement.raw_, SQLITE_STMTSTATUS_FULLSCAN_STEP, 1);
  statement.running_ = true;
  const int code = sqlite3_step(statement.raw_);
  statement.has_row_ = code == SQLITE_ROW;
  if (code == SQLITE_ROW) [[likely]] {
    statement.rows_fetched_ = 1;
    return true;
  }
  Status status = code == SQLITE_DONE ? OkStatus() : LastError();
  statement.Finish();
  if (status.ok()) return true;
  Release(&statement);
  Throw(std::move(status));
}

StatusOr<Statement*> SqlEngine::StartTrusted(std::string_view query, std::span<const Cell> args) {
  EDGE_RETURN_IF_ERROR(Ready());
  return StartIn(trusted_cache_, /*trusted=*/true, query, args, /*columns=*/0);
}

Status SqlEngine::RunTrusted(std::string_view query, std::span<const Cell> args) {
  EDGE_ASSIGN_OR_RETURN(Statement * statement,
                        StartIn(trusted_cache_, /*trusted=*/true, query, args, /*columns=*/0));
  Release(statement);
  return OkStatus();
}

StatusOr<int64_t> SqlEngine::TrustedInteger(std::string_view query) {
  EDGE_ASSIGN_OR_RETURN(Statement * statement, StartTrusted(query, {}));
  const int64_t value = statement->has_row() ? statement->column(0).integer : 0;
  Release(statement);
  return value;
}

StatusOr<Statement*> SqlEngine::StartIn(Cache& cache, bool trusted, std::string_view query,
                                        std::span<const Cell> args, int columns) {
  Statement* statement = nullptr;
  if (const auto found = cache.by_text.find(query);
      found != cache.by_text.end() && !found->second->leased_) {
    statement = found->second.get();
    statement->leased_ = statement->used_ = true;
  } else {
    EDGE_ASSIGN_OR_RETURN(statement, Compile(cache, trusted, query));
  }
  if (Status status = StartStatement(*statement, args, columns); !status.ok()) [[unlikely]] {
    Release(statement);
    return status;
  }
  return statement;
}

Status SqlEngine::StartStatement(Statement& statement, std::span<const Cell> args, int columns) {
  if (columns > 0 && statement.column_count() != columns) {
    return InvalidArgument("SQL query returns {} columns, but {} types were given for them.",
                           statement.column_count(), columns);
  }
  EDGE_RETURN_IF_ERROR(Bind(statement, args));
  return statement.renames_ ? RunRename(statement) : Run(statement);
}

StatusOr<std::unique_ptr<Statement>> SqlEngine::Prepare(std::string_view text, bool trusted,
                                                        std::string_view* tail) {
  const FlagScope scope(&trusted_, trusted);
  saw_rename_ = saw_transaction_ = denied_ = false;
  sqlite3_stmt* raw = nullptr;
  const char* rest = nullptr;
  if (text.size() > 100'000 && !trusted) {
    return SqliteStatus(SQLITE_TOOBIG, SQLITE_TOOBIG, "statement too long", -1);
  }
  const int code = sqlite3_prepare_v3(db_, text.data(), static_cast<int>(text.size()),
                                      SQLITE_PREPARE_PERSISTENT, &raw, &rest);
  if (code != SQLITE_OK) {
    if (saw_transaction_) return PermissionDenied("{}", kTransactionText);
    const Status status = LastError();
    // A refused function is a plain SQLITE_ERROR to SQLite.
    if (denied_) return PermissionDenied("{}", Message(status));
    return status;
  }
  if (raw == nullptr) return InvalidArgument("SQL code did not contain a statement.");
  *tail = TrimmedFront(text.substr(static_cast<size_t>(rest - text.data())));
  auto statement = std::make_unique<Statement>(
      this, raw, tail->empty() ? std::string(text) : std::string(), trusted);
  statement->renames_ = saw_rename_;
  return statement;
}

// Runs all but the last statement of `query`; the last is returned, leased and not yet bound.
StatusOr<Statement*> SqlEngine::Compile(Cache& cache, bool trusted, std::string_view query) {
  std::string_view rest = query;
  for (;;) {
    const bool is_first = rest.size() == query.size();
    EDGE_ASSIGN_OR_RETURN(std::unique_ptr<Statement> statement, Prepare(rest, trusted, &rest));
    Statement* const leased = statement.get();
    leased->leased_ = true;
    if (rest.empty()) {
      if (is_first && !cache.by_text.contains(query)) {
        Remember(cache, std::move(statement));
      } else {
        leased->lru_ = one_offs_.insert(one_offs_.end(), statement.release());
      }
      return leased;
    }
    if (sqlite3_bind_parameter_count(leased->raw_) != 0) {
      return InvalidArgument(
          "When executing multiple SQL statements in a single call, only the last statement can "
          "have parameters.");
    }
    EDGE_RETURN_IF_ERROR(leased->renames_ ? RunRename(*leased) : Run(*leased));
    while (leased->has_row()) {
      EDGE_RETURN_IF_ERROR(leased->Advance());
    }
  }
}

void SqlEngine::Remember(Cache& cache, std::unique_ptr<Statement> statement) {
  statement->cached_ = true;
  statement->lru_ = cache.order.insert(cache.order.end(), statement.get());
  cache.text_bytes += statement->text_.size();
  const Statement* const newest = statement.get();
  const std::string_view key = statement->text_;
  cache.by_text.emplace(key, std::move(statement));
  while (cache.text_bytes > kCachedTextBytesMax && cache.order.size() > 1) {
    Statement* const oldest = cache.order.front();
    if (oldest == newest || std::exchange(oldest->used_, false)) {
      cache.order.splice(cache.order.end(), cache.order, cache.order.begin());
      continue;
    }
    cache.order.pop_front();
    cache.text_bytes -= oldest->text_.size();
    for (Recent& recent : recents_) {
      if (recent.statement == oldest) recent = {};
    }
    const auto entry = cache.by_text.find(oldest->text_);
    if (oldest->leased_) {
      oldest->cached_ = false;
      oldest->lru_ = one_offs_.insert(one_offs_.end(), entry->second.release());
    }
    cache.by_text.erase(entry);
  }
}

void SqlEngine::Release(Statement* statement) noexcept {
  SqlEngine* const engine = statement->engine_;
  if (engine != nullptr && engine->counts_rows_ && !statement->trusted_) {
    engine->row_counts_.read += statement->rows_read();
    engine->row_counts_.written += statement->rows_written_;
  }
  statement->Finish();
  if (engine != nullptr && statement->cached_) [[likely]] {
    if (statement->big_bindings_) {
      sqlite3_clear_bindings(statement->raw_);
      statement->big_bindings_ = false;
    }
    statement->leased_ = false;
    return;
  }
  if (engine != nullptr) engine->one_offs_.erase(statement->lru_);
  delete statement;
}

Status SqlEngine::Bind(Statement& statement, std::span<const Cell> args) {
  if (static_cast<size_t>(statement.parameter_count_) != args.size()) {
    return InvalidArgument("Wrong number of parameter bindings for SQL query.");
  }
  if (args.empty()) return OkStatus();
  if (args[0].name != nullptr) return BindNamed(statement, args);
  // A statement without rows ends inside Exec, so its parameters need no copy.
  const bool copies = sqlite3_column_count(statement.raw_) != 0;
  for (size_t i = 0; i < args.size(); ++i) {
    const int at = static_cast<int>(i) + 1;
    if (args[i].kind == Cell::Kind::kInteger && args[i].name == nullptr) [[likely]] {
      if (sqlite3_bind_int64(statement.raw_, at, args[i].integer) != SQLITE_OK) return LastError();
      continue;
    }
    if (args[i].name != nullptr) return MixedParameters();
    if (args[i].kind == Cell::Kind::kTooLarge) return TooLarge(at);
    if (BindOne(statement, at, args[i], copies) != SQLITE_OK) return LastError();
  }
  return OkStatus();
}

// As many arguments as parameters, all different, so each parameter gets one.
Status SqlEngine::BindNamed(Statement& statement, std::span<const Cell> args) {
  const bool copies = sqlite3_column_count(statement.raw_) != 0;
  std::vector<bool> bound(args.size() + 1);
  for (const Cell& cell : args) {
    if (cell.name == nullptr) return MixedParameters();
    const std::string name(cell.name, cell.name_size);
    int at = sqlite3_bind_parameter_index(statement.raw_, name.c_str());
    for (const char* sigil : {":", "@", "$"}) {
      if (at == 0) at = sqlite3_bind_parameter_index(statement.raw_, (sigil + name).c_str());
    }
    if (at == 0) return InvalidArgument("SQL query has no parameter named {}.", name);
    if (bound[static_cast<size_t>(at)]) {
      return InvalidArgument("Parameter {} of the SQL query was given twice.", name);
    }
    bound[static_cast<size_t>(at)] = true;
    if (cell.kind == Cell::Kind::kTooLarge) return TooLarge(at);
    if (BindOne(statement, at, cell, copies) != SQLITE_OK) return LastError();
  }
  return OkStatus();
}

int SqlEngine::BindOne(Statement& statement, int at, const Cell& cell, bool copies) {
  sqlite3_stmt* const raw = statement.raw_;
  const sqlite3_destructor_type lifetime = copies ? SQLITE_TRANSIENT : SQLITE_STATIC;
  statement.big_bindings_ |= cell.size > kBigBindingBytes;
  switch (cell.kind) {
    case Cell::Kind::kInteger:
      return sqlite3_bind_int64(raw, at, cell.integer);
    case Cell::Kind::kReal:
      return sqlite3_bind_double(raw, at, cell.real);
    case Cell::Kind::kText:
      return sqlite3_bind_text64(raw, at, cell.data == nullptr ? "" : cell.text().data(), cell.size,
                                 lifetime, SQLITE_UTF8);
    case Cell::Kind::kBlob:
      // A null pointer would bind NULL, not an empty blob.
      return cell.size == 0 ? sqlite3_bind_zeroblob(raw, at, 0)
                            : sqlite3_bind_blob64(raw, at, cell.data, cell.size, lifetime);
    default:
      return sqlite3_bind_null(raw, at);
  }
}

int SqlEngine::Step(Statement& statement) {
  // SQLite may compile it again; user functions may run statements of either kind meanwhile.
  if (statement.read_only_ && !statement.trusted_ && !trusted_) [[likely]] {
    return sqlite3_step(statement.raw_);
  }
  const FlagScope scope(&trusted_, statement.trusted_);
  if (statement.read_only_) return sqlite3_step(statement.raw_);
  wrote_confirmed_ |= !unconfirmed_;
  const sqlite3_int64 before = sqlite3_total_changes64(db_);
  const int code = sqlite3_step(statement.raw_);
  statement.rows_written_ += static_cast<uint64_t>(sqlite3_total_changes64(db_) - before);
  return code;
}

Status SqlEngine::Run(Statement& statement) {
  statement.rows_fetched_ = statement.rows_written_ = 0;
  statement.buffered_ = statement.started_ = false;
  sqlite3_stmt_status(statement.raw_, SQLITE_STMTSTATUS_FULLSCAN_STEP, 1);
  statement.running_ = true;
  const int code = Step(statement);
  if (code == SQLITE_ROW) {
    statement.has_row_ = true;
    ++statement.rows_fetched_;
    if (!statement.read_only_ && statement.column_count() > 0) return statement.BufferRows();
    return OkStatus();
  }
  Status status = code == SQLITE_DONE ? OkStatus() : LastError();
  statement.Finish();
  return status;
}

// SQLite does not tell the authorizer a table's new name, so we look at what came of it.
Status SqlEngine::RunRename(Statement& statement) {
  EDGE_RETURN_IF_ERROR(RunTrusted("SAVEPOINT _cf_rename"));
  Status status = Run(statement);
  if (status.ok()) {
    const StatusOr<int64_t> taken = TrustedInteger(
        "SELECT count(*) FROM sqlite_schema WHERE name LIKE '\\_cf\\_%' ESCAPE '\\' "
        "AND name NOT IN ('_cf_KV', '_cf_METADATA')");
    if (!taken.ok()) {
      status = taken.status();
    } else if (*taken != 0) {
      status = SqliteStatus(SQLITE_AUTH, SQLITE_AUTH, "not authorized", -1);
    }
  }
  if (!status.ok()) {
    statement.Finish();
    if (Ready().ok()) EDGE_RETURN_IF_ERROR(RunTrusted("ROLLBACK TO _cf_rename"));
  }
  if (Ready().ok()) EDGE_RETURN_IF_ERROR(RunTrusted("RELEASE _cf_rename"));
  return status;
}

Status SqlEngine::LastError() {
  const int extended = sqlite3_extended_errcode(db_);
  Status status =
      SqliteStatus(extended & 0xff, extended, sqlite3_errmsg(db_), sqlite3_error_offset(db_));
  if (expects_transaction_ && !in_transaction()) {
    expects_transaction_ = false;
    savepoints_ = 0;
    if (IsCritical(extended)) {
      Break(status);
    } else {
      turn_failed_ = status;  // INSERT OR ROLLBACK, RAISE(ROLLBACK)
      blocked_ = true;
    }
  }
  return status;
}

bool SqlEngine::in_transaction() const {
  return sqlite3_get_autocommit(db_) == 0;
}

Status SqlEngine::Commit() {
  if (Status ready = Ready(); !ready.ok()) {
    Rollback();
    return ready;
  }
  if (!in_transaction()) return OkStatus();
  EDGE_CHECK(savepoints_ == 0);
  expects_transaction_ = false;
  Status status = RunTrusted("COMMIT");
  if (status.ok()) return status;
  if (status.code() == StatusCode::kFailedPrecondition) {
    status = FailedPrecondition(
        "Durable Object was reset and rolled back to its last known good state because the "
        "application left the database in a state where constraints were violated: {}",
        Message(status));
  }
  Rollback();
  Break(status);
  return status;
}

void SqlEngine::Rollback() {
  expects_transaction_ = false;
  savepoints_ = 0;
  turn_failed_ = OkStatus();
  blocked_ = !broken_.ok();
  if (!in_transaction()) return;
  if (const Status status = RunTrusted("ROLLBACK"); !status.ok()) Break(status);
}

Status SqlEngine::BeginSavepoint() {
  EDGE_RETURN_IF_ERROR(EnsureTransaction());
  EDGE_RETURN_IF_ERROR(RunTrusted(Format("SAVEPOINT _cf_sync_savepoint_{}", {savepoints_ + 1})));
  ++savepoints_;
  return OkStatus();
}

Status SqlEngine::CommitSavepoint() {
  if (!Ready().ok()) {
    return FailedPrecondition("Cannot commit transaction due to an earlier SQL critical error: {}",
                              Message(Ready()));
  }
  EDGE_CHECK(savepoints_ > 0);
  return RunTrusted(Format("RELEASE _cf_sync_savepoint_{}", {savepoints_--}));
}

void SqlEngine::RollbackSavepoint() {
  if (!Ready().ok() || savepoints_ == 0) return;  // all of it is rolled back already
  const int depth = savepoints_--;
  Status status = RunTrusted(Format("ROLLBACK TO _cf_sync_savepoint_{}", {depth}));
  if (status.ok()) status = RunTrusted(Format("RELEASE _cf_sync_savepoint_{}", {depth}));
  if (!status.ok()) Break(status);
}

}  // namespace edge::durable::internal

// The part of Sql and its rows that runs for every query and row: here, so that the
// compiler sees the whole path.
namespace edge::durable {

void CursorBase::Release(internal::Statement* statement) noexcept {
  internal::SqlEngine::Release(statement);
}

CursorBase::Pull CursorBase::NextCells(internal::Cell* cells, int count) {
  if (statement_->Next(cells, count)) return Pull::kRow;
  return statement_->error().ok() ? Pull::kEnd : Pull::kError;
}

internal::Statement* Sql::StartOrThrow(std::string_view query, const internal::Cell* args,
                                       size_t arg_count, size_t columns) {
  return engine_->StartOrThrow(query, {args, arg_count}, static_cast<int>(columns));
}

}  // namespace edge::durable
