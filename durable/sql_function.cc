// Functions of the application inside SQL.
#include <sqlite3.h>

#include <algorithm>
#include <cctype>
#include <string>
#include <vector>

#include "durable/sql_engine.h"
#include "edge/base/errors.h"
#include "edge/rpc/target.h"

namespace edge::durable::internal {
namespace {

constexpr size_t kNameBytesMax = 64;
constexpr int kArgumentsMax = 127;

Cell CellOf(sqlite3_value* value) {
  Cell cell;
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

void Answer(sqlite3_context* context, const SqlValue& value) {
  const Cell cell = ToCell(value);
  switch (cell.kind) {
    case Cell::Kind::kInteger:
      return sqlite3_result_int64(context, cell.integer);
    case Cell::Kind::kReal:
      return sqlite3_result_double(context, cell.real);
    case Cell::Kind::kText:
      return sqlite3_result_text64(context, cell.text().data(), cell.size, SQLITE_TRANSIENT,
                                   SQLITE_UTF8);
    case Cell::Kind::kBlob:
      if (cell.size == 0) return sqlite3_result_zeroblob(context, 0);
      return sqlite3_result_blob64(context, cell.data, cell.size, SQLITE_TRANSIENT);
    default:
      return sqlite3_result_null(context);
  }
}

extern "C" void EdgeDurableCall(sqlite3_context* context, int count,
                                sqlite3_value** values) noexcept {
  auto& function = *static_cast<SqlFunction*>(sqlite3_user_data(context));
  Status status;
  SqlValue result;
  try {
    std::vector<Cell> cells;
    for (int i = 0; i < count; ++i) cells.push_back(CellOf(values[i]));
    status = function(cells, &result);
  } catch (...) {
    status = rpc::internal::StatusFromException();
  }
  if (status.ok()) return Answer(context, result);
  const std::string_view message = Message(status);
  sqlite3_result_error(context, message.data(), static_cast<int>(message.size()));
}

extern "C" void EdgeDurableForget(void* function) noexcept {
  delete static_cast<SqlFunction*>(function);
}

}  // namespace

Status FunctionArgumentError(size_t index, const Cell& cell) {
  static constexpr std::string_view kKinds[] = {"NULL", "INTEGER", "REAL", "TEXT", "BLOB", ""};
  return InvalidArgument("Argument {} of the function is {}, which it does not take.", index + 1,
                         kKinds[static_cast<size_t>(cell.kind)]);
}

Status SqlEngine::AddFunction(std::string_view name, int arg_count, bool deterministic,
                              SqlFunction function) {
  EDGE_RETURN_IF_ERROR(Ready());
  const bool is_name = !name.empty() && name.size() <= kNameBytesMax &&
                       std::all_of(name.begin(), name.end(), [](char c) {
                         return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_';
                       });
  if (!is_name || arg_count > kArgumentsMax) {
    return InvalidArgument("'{}' is no name for an SQL function: 1 to 64 of [A-Za-z0-9_].", name);
  }
  std::string lower(name);
  for (char& c : lower) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  if (lower.starts_with("_cf_") || lower.starts_with("sqlite_") || IsBuiltInFunction(lower)) {
    return InvalidArgument("The SQL function {} is not the object's to define.", name);
  }
  // SQLite owns the function from here on, whatever it answers.
  const int code = sqlite3_create_function_v2(
      db_, lower.c_str(), arg_count, SQLITE_UTF8 | (deterministic ? SQLITE_DETERMINISTIC : 0),
      new SqlFunction(std::move(function)), EdgeDurableCall, nullptr, nullptr, EdgeDurableForget);
  if (code != SQLITE_OK) return LastError();
  functions_[lower].push_back(arg_count);
  return OkStatus();
}

void SqlEngine::RemoveFunctions() {
  for (const auto& [name, arg_counts] : functions_) {
    for (const int count : arg_counts) {
      sqlite3_create_function_v2(db_, name.c_str(), count, SQLITE_UTF8, nullptr, nullptr, nullptr,
                                 nullptr, nullptr);
    }
  }
  functions_.clear();
}

}  // namespace edge::durable::internal
