#include "edge/durable/sql.h"

#include "durable/sql_engine.h"
#include "edge/base/errors.h"

namespace edge::durable {

CursorBase& CursorBase::operator=(CursorBase&& other) noexcept {
  if (this != &other) {
    if (statement_ != nullptr) Release(statement_);
    statement_ = std::exchange(other.statement_, nullptr);
  }
  return *this;
}

std::vector<std::string> CursorBase::column_names() const {
  std::vector<std::string> names;
  for (int i = 0; i < column_count(); ++i) names.emplace_back(statement_->column_name(i));
  return names;
}

uint64_t CursorBase::rows_read() const {
  return statement_->rows_read();
}
uint64_t CursorBase::rows_written() const {
  return statement_->rows_written();
}
void CursorBase::Finish() {
  statement_->Finish();
}
int CursorBase::column_count() const {
  return statement_->column_count();
}
Status CursorBase::TakeError() {
  return statement_->TakeError();
}
void CursorBase::ThrowError() {
  internal::Throw(TakeError());
}
CursorBase::Pull CursorBase::Fail(Status error) {
  statement_->SetError(std::move(error));
  return Pull::kError;
}

CursorBase::Pull CursorBase::FailMismatch(int index, const internal::Cell& cell,
                                          std::string_view wanted) {
  static constexpr std::string_view kKinds[] = {"NULL", "INTEGER", "REAL", "TEXT", "BLOB", ""};
  const std::string_view kind = kKinds[static_cast<size_t>(cell.kind)];
  if (cell.kind == internal::Cell::Kind::kNull) {
    return Fail(InvalidArgument("Column {} ({}) is NULL; read it as std::optional.", index,
                                statement_->column_name(index)));
  }
  return Fail(InvalidArgument(
      "Column {} ({}) holds {}{}, which does not read as {}.", index,
      statement_->column_name(index), kind,
      cell.kind == internal::Cell::Kind::kInteger ? Format(" {}", {cell.integer}) : std::string(),
      wanted));
}

CursorBase::Pull CursorBase::FailNoResult() {
  return Fail(InvalidArgument("Expected exactly one result from SQL query, but got no results."));
}

CursorBase::Pull CursorBase::FailManyResults() {
  Finish();
  return Fail(
      InvalidArgument("Expected exactly one result from SQL query, but got multiple results."));
}

const SqlValue& Row::operator[](std::string_view name) const {
  for (size_t i = values_.size(); i-- > 0;) {
    if ((*names_)[i] == name) return values_[i];
  }
  internal::Throw(InvalidArgument("SQL query has no column named {}.", name));
}

void Row::ThrowMismatch(const SqlValue& value) {
  static constexpr std::string_view kKinds[] = {"NULL", "INTEGER", "REAL", "TEXT", "BLOB"};
  internal::Throw(
      InvalidArgument("The value is {}, not of the type asked for.", kKinds[value.index()]));
}

CursorBase::Pull Cursor::FetchValues(std::vector<SqlValue>& values) {
  std::vector<internal::Cell> cells(static_cast<size_t>(column_count()));
  const Pull pull = NextCells(cells.data(), static_cast<int>(cells.size()));
  if (pull != Pull::kRow) return pull;
  values.resize(cells.size());
  for (size_t i = 0; i < cells.size(); ++i) internal::FromCell(cells[i], &values[i]);
  return pull;
}

CursorBase::Pull Cursor::Fetch(Row& row) {
  const Pull pull = FetchValues(row.values_);
  if (pull != Pull::kRow) return pull;
  if (names_ == nullptr) {
    names_ = std::make_shared<const std::vector<std::string>>(column_names());
  }
  row.names_ = names_;
  return pull;
}

std::optional<std::vector<SqlValue>> Cursor::Raw() {
  std::vector<SqlValue> values;
  const Pull pull = FetchValues(values);
  if (pull == Pull::kError) ThrowError();
  if (pull == Pull::kEnd) return std::nullopt;
  return values;
}

StatusOr<internal::Statement*> Sql::Start(std::string_view query,
                                          std::span<const internal::Cell> args, int columns) {
  return engine_->Start(query, args, columns);
}

StatusOr<Cursor> Sql::TryExecValues(std::string_view query, std::span<const SqlValue> args) {
  std::vector<internal::Cell> cells;
  for (const SqlValue& arg : args) cells.push_back(internal::ToCell(arg));
  EDGE_ASSIGN_OR_RETURN(internal::Statement * statement, Start(query, cells, 0));
  return Cursor(statement);
}

Status Sql::AddFunction(std::string_view name, int arg_count, FunctionOptions options,
                        internal::SqlFunction function) {
  return engine_->AddFunction(name, arg_count, options.deterministic, std::move(function));
}

int64_t Sql::database_bytes() {
  const auto pragma = [this](std::string_view query) {
    return internal::OrThrow(engine_->TrustedInteger(query));
  };
  return (pragma("PRAGMA page_count") - pragma("PRAGMA freelist_count")) *
         pragma("PRAGMA page_size");
}

}  // namespace edge::durable
