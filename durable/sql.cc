#include "edge/durable/sql.h"

#include "durable/sql_engine.h"
#include "edge/base/errors.h"

namespace edge::durable {

CursorBase& CursorBase::operator=(CursorBase&& other) noexcept {
  if (this != &other) {
    Release();
    statement_ = std::exchange(other.statement_, nullptr);
  }
  return *this;
}

void CursorBase::Release() noexcept {
  if (statement_ != nullptr) internal::SqlEngine::Release(std::exchange(statement_, nullptr));
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
bool CursorBase::has_row() const {
  return statement_->has_row();
}
Status CursorBase::Advance() {
  return statement_->Advance();
}
void CursorBase::Finish() {
  statement_->Finish();
}
int CursorBase::column_count() const {
  return statement_->column_count();
}
internal::Cell CursorBase::column(int index) const {
  return statement_->column(index);
}

Status CursorBase::Mismatch(int index, std::string_view wanted) const {
  static constexpr std::string_view kKinds[] = {"NULL", "INTEGER", "REAL", "TEXT", "BLOB", ""};
  const internal::Cell cell = column(index);
  const std::string_view kind = kKinds[static_cast<size_t>(cell.kind)];
  if (cell.kind == internal::Cell::Kind::kNull) {
    return InvalidArgument("Column {} ({}) is NULL; read it as std::optional.", index,
                           statement_->column_name(index));
  }
  return InvalidArgument(
      "Column {} ({}) holds {}{}, which does not read as {}.", index,
      statement_->column_name(index), kind,
      cell.kind == internal::Cell::Kind::kInteger ? Format(" {}", {cell.integer}) : std::string(),
      wanted);
}

Status CursorBase::NoResult() {
  return InvalidArgument("Expected exactly one result from SQL query, but got no results.");
}

Status CursorBase::ManyResults() {
  return InvalidArgument("Expected exactly one result from SQL query, but got multiple results.");
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

StatusOr<std::optional<Row>> Cursor::TryNext() {
  std::optional<Row> row;
  if (started_) {
    EDGE_RETURN_IF_ERROR(Advance());
  }
  started_ = true;
  if (!has_row()) return row;
  if (names_ == nullptr) {
    names_ = std::make_shared<const std::vector<std::string>>(column_names());
  }
  row.emplace();
  row->names_ = names_;
  row->values_.resize(names_->size());
  for (size_t i = 0; i < row->values_.size(); ++i) {
    internal::FromCell(column(static_cast<int>(i)), &row->values_[i]);
  }
  return row;
}

StatusOr<std::optional<Row>> Cursor::TryFirst() {
  auto row = TryNext();
  Finish();
  return row;
}

StatusOr<Row> Cursor::TryOne() {
  EDGE_ASSIGN_OR_RETURN(std::optional<Row> row, TryNext());
  if (!row) return NoResult();
  EDGE_RETURN_IF_ERROR(Advance());
  if (!has_row()) return *std::move(row);
  Finish();
  return ManyResults();
}

StatusOr<std::vector<Row>> Cursor::TryToArray() {
  std::vector<Row> rows;
  for (;;) {
    EDGE_ASSIGN_OR_RETURN(std::optional<Row> row, TryNext());
    if (!row) return rows;
    rows.push_back(*std::move(row));
  }
}

StatusOr<internal::Statement*> Sql::Start(std::string_view query,
                                          std::span<const internal::Cell> args, int columns) {
  return engine_->Start(query, args, columns);
}

int64_t Sql::database_bytes() {
  const auto pragma = [this](std::string_view query) {
    return internal::OrThrow(engine_->TrustedInteger(query));
  };
  return (pragma("PRAGMA page_count") - pragma("PRAGMA freelist_count")) *
         pragma("PRAGMA page_size");
}

}  // namespace edge::durable
