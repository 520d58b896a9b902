// edge/durable/sql.h - synchronous SQL on an object's own database.
//
//   for (auto& [seat, price] : sql().Exec<std::string, int64_t>("SELECT seat, price FROM seats"))
//     ...
//   auto [count] = sql().Exec<int64_t>("SELECT count(*) FROM seats WHERE occupant IS ?",
//   who).One(); sql().Exec("UPDATE seats SET occupant = ? WHERE seat = ?", who, seat);
//
// The database is in the object's own process and thread, so a query is a function call: no
// round trip, nothing to await, and a loop of small queries costs about what a join does.
// Compiled statements are kept by their text. Everything here throws edge::Error, for code
// inside an object reads like the plain program that it is; each call has a Try... twin that
// returns the Status instead.
//
// Errors, thrown or returned: InvalidArgument (bad SQL, wrong number of parameters or
// columns, a column of another type), PermissionDenied (a statement, function or name that
// is not the object's to use), FailedPrecondition (a constraint), ResourceExhausted (a limit,
// or the database is full), Unavailable and DataLoss (storage; the object is reset).
#pragma once
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "edge/base/bytes.h"
#include "edge/base/callback.h"
#include "edge/base/status.h"

namespace edge::durable {

// One value as SQLite has it: NULL, INTEGER, REAL, TEXT or BLOB. Integers are exact.
using SqlValue = std::variant<std::nullptr_t, int64_t, double, std::string, Bytes>;

namespace internal {

class SqlEngine;
class Statement;

// A borrowed value on its way into or out of SQLite.
struct Cell {
  enum class Kind : uint8_t { kNull, kInteger, kReal, kText, kBlob, kTooLarge };
  Kind kind = Kind::kNull;
  int64_t integer = 0;
  double real = 0;
  const void* data = nullptr;
  size_t size = 0;
  const char* name = nullptr;  // of a named parameter
  uint32_t name_size = 0;

  std::string_view text() const { return {static_cast<const char*>(data), size}; }
  ByteView bytes() const { return {static_cast<const std::byte*>(data), size}; }
};

[[noreturn]] void Throw(Status status);
template <typename T>
T OrThrow(StatusOr<T> value) {
  if (!value.ok()) [[unlikely]]
    Throw(std::move(value).status());
  return std::move(value).value();
}
inline void OrThrow(Status status) {
  if (!status.ok()) [[unlikely]]
    Throw(std::move(status));
}

// A row that was copied out must not point into the statement.
template <typename... Ts>
inline constexpr bool kBorrows =
    (... || (std::is_same_v<Ts, std::string_view> || std::is_same_v<Ts, ByteView> ||
             std::is_same_v<Ts, std::optional<std::string_view>> ||
             std::is_same_v<Ts, std::optional<ByteView>>));

template <typename T>
inline constexpr bool kIsOptional = false;
template <typename T>
inline constexpr bool kIsOptional<std::optional<T>> = true;

// A parameter: an integer, floating point or bool, text, bytes (Bytes, ByteView), nullptr,
// std::nullopt, a std::optional of one of these, or a SqlValue. Borrowed for the call.
template <typename T>
Cell ToCell(const T& value) {
  Cell cell;
  if constexpr (kIsOptional<T>) {
    if (value) cell = ToCell(*value);
  } else if constexpr (std::is_same_v<T, SqlValue>) {
    cell = std::visit([](const auto& held) { return ToCell(held); }, value);
  } else if constexpr (std::is_same_v<T, std::nullptr_t> || std::is_same_v<T, std::nullopt_t>) {
  } else if constexpr (std::is_integral_v<T>) {
    cell.kind =
        std::in_range<int64_t>(
            static_cast<std::conditional_t<std::is_same_v<T, bool>, int,
                                           std::conditional_t<sizeof(T) == 1, int, T>>>(value))
            ? Cell::Kind::kInteger
            : Cell::Kind::kTooLarge;
    cell.integer = static_cast<int64_t>(value);
  } else if constexpr (std::is_floating_point_v<T>) {
    cell.kind = Cell::Kind::kReal;
    cell.real = static_cast<double>(value);
  } else if constexpr (std::is_convertible_v<const T&, std::string_view>) {
    const std::string_view text = value;
    cell = {.kind = Cell::Kind::kText, .data = text.data(), .size = text.size()};
  } else {
    static_assert(std::is_convertible_v<const T&, ByteView>,
                  "SQL parameters are numbers, text, bytes, null or std::optional of these");
    const ByteView bytes = value;
    cell = {.kind = Cell::Kind::kBlob, .data = bytes.data(), .size = bytes.size()};
  }
  return cell;
}

// A result column: the same types. Text and bytes read as each other, an INTEGER reads as
// floating point; NULL needs std::optional. False if the value is of another type or does
// not fit. string_view and ByteView stay valid until the next row.
template <typename T>
bool FromCell(const Cell& cell, T* out) {
  using Kind = Cell::Kind;
  if constexpr (kIsOptional<T>) {
    if (cell.kind == Kind::kNull) {
      out->reset();
      return true;
    }
    if (!*out) *out = typename T::value_type();
    return FromCell(cell, &**out);
  } else if constexpr (std::is_same_v<T, SqlValue>) {
    switch (cell.kind) {
      case Kind::kInteger:
        *out = cell.integer;
        break;
      case Kind::kReal:
        *out = cell.real;
        break;
      case Kind::kText:
        *out = std::string(cell.text());
        break;
      case Kind::kBlob:
        *out = Bytes(cell.bytes().begin(), cell.bytes().end());
        break;
      default:
        *out = nullptr;
        break;
    }
    return true;
  } else if constexpr (std::is_same_v<T, bool>) {
    *out = cell.integer != 0;
    return cell.kind == Kind::kInteger;
  } else if constexpr (std::is_integral_v<T>) {
    *out = static_cast<T>(cell.integer);
    return cell.kind == Kind::kInteger && static_cast<int64_t>(*out) == cell.integer &&
           (*out < T{}) == (cell.integer < 0);
  } else if constexpr (std::is_floating_point_v<T>) {
    *out =
        static_cast<T>(cell.kind == Kind::kInteger ? static_cast<double>(cell.integer) : cell.real);
    return cell.kind == Kind::kInteger || cell.kind == Kind::kReal;
  } else {
    if (cell.kind != Kind::kText && cell.kind != Kind::kBlob) return false;
    if constexpr (std::is_same_v<T, Bytes>) {
      out->assign(cell.bytes().begin(), cell.bytes().end());
    } else if constexpr (std::is_same_v<T, ByteView>) {
      *out = cell.bytes();
    } else {
      static_assert(std::is_same_v<T, std::string> || std::is_same_v<T, std::string_view>,
                    "SQL columns are numbers, text, bytes or std::optional of these");
      *out = T(cell.text());
    }
    return true;
  }
}

}  // namespace internal

// A parameter by its name: sql().Exec("... WHERE seat = :seat", Named("seat", seat)). With or
// without the ':', '@' or '$'. Either all parameters of a call are named or none. Borrows both.
template <typename T>
struct NamedParameter {
  std::string_view name;
  const T& value;
};
template <typename T>
NamedParameter<T> Named(std::string_view name, const T& value) {
  return {name, value};
}

namespace internal {

// Converts a parameter, named or not.
template <typename T>
Cell ToParameter(const T& value) {
  return ToCell(value);
}
template <typename T>
Cell ToParameter(const NamedParameter<T>& parameter) {
  Cell cell = ToCell(parameter.value);
  cell.name = parameter.name.data();
  cell.name_size = static_cast<uint32_t>(parameter.name.size());
  return cell;
}

// An application's SQL function, its types forgotten.
using SqlFunction = Callback<Status(std::span<const Cell> args, SqlValue* result)>;
Status FunctionArgumentError(size_t index, const Cell& cell);

template <typename Signature>
struct FunctionShape;
template <typename C, typename R, typename... A>
struct FunctionShape<R (C::*)(A...)> {
  static constexpr int kCount = static_cast<int>(sizeof...(A));
  template <typename F>
  static Status Call(F& function, std::span<const Cell> args, SqlValue* result) {
    return CallWith(function, args, result, std::index_sequence_for<A...>());
  }

 private:
  template <typename F, size_t... I>
  static Status CallWith(F& function, std::span<const Cell> args, SqlValue* result,
                         std::index_sequence<I...>) {
    std::tuple<std::remove_cvref_t<A>...> values;
    size_t failed = SIZE_MAX;
    (void)((FromCell(args[I], &std::get<I>(values)) || ((failed = I), false)) && ...);
    if (failed != SIZE_MAX) return FunctionArgumentError(failed, args[failed]);
    if constexpr (std::is_void_v<R>) {
      function(std::get<I>(values)...);
      return OkStatus();
    } else {
      return Store(function(std::get<I>(values)...), result);
    }
  }
  template <typename T>
  static Status Store(T&& value, SqlValue* result) {
    using V = std::remove_cvref_t<T>;
    if constexpr (std::is_same_v<V, Status>) {
      return value;
    } else if constexpr (requires { value.status(); }) {
      EDGE_RETURN_IF_ERROR(value.status());
      return Store(*std::forward<T>(value), result);
    } else {
      FromCell(ToCell(value), result);
      return OkStatus();
    }
  }
};
template <typename C, typename R, typename... A>
struct FunctionShape<R (C::*)(A...) const> : FunctionShape<R (C::*)(A...)> {};

}  // namespace internal

// What Rows and Cursor share, whatever their rows are. Move-only; keep none beyond the
// object's life (one that is kept fails with FailedPrecondition). Single-threaded.
class CursorBase {
 public:
  CursorBase(CursorBase&& other) noexcept : statement_(std::exchange(other.statement_, nullptr)) {}
  CursorBase& operator=(CursorBase&& other) noexcept;
  ~CursorBase() {
    if (statement_ != nullptr) Release(statement_);
  }

  // At any time, also after the last row. Empty for statements without columns.
  std::vector<std::string> column_names() const;
  // Rows this statement has visited: those it returned, or the steps of its full table scans
  // where these were more. The cursor fetches a row ahead of what it hands out only at the
  // start, so this is live. Stays after the end.
  uint64_t rows_read() const;
  // Rows it inserted, updated and deleted, those of triggers and foreign key actions included;
  // index entries are not counted.
  uint64_t rows_written() const;

 protected:
  // One code instead of a Status for each row: most rows are fine.
  enum class Pull : uint8_t { kRow, kEnd, kError };

  explicit CursorBase(internal::Statement* statement) : statement_(statement) {}
  // The next row, its first `count` columns in `cells`, which are valid until the call after.
  Pull NextCells(internal::Cell* cells, int count);
  void Finish();  // ends early; no more rows
  int column_count() const;
  Pull Fail(Status error);  // kError, and the error
  Pull FailMismatch(int index, const internal::Cell& cell, std::string_view wanted);
  Pull FailNoResult();
  Pull FailManyResults();
  Status TakeError();  // after kError
  [[noreturn]] void ThrowError();

 private:
  static void Release(internal::Statement* statement) noexcept;
  internal::Statement* statement_;  // leased from the engine until we are destroyed
};

namespace internal {

// The ways to take rows, for a Derived that knows how to fetch one into a RowType. Range-for,
// Next(), First(), One() and ToArray() share one position.
template <typename Derived, typename RowType>
class RowRange : public CursorBase {
 public:
  // Hands out `RowType&`: each row replaces the one before.
  class Iterator {
   public:
    using value_type = RowType;
    using difference_type = std::ptrdiff_t;
    explicit Iterator(RowRange* rows) : rows_(rows) {}
    RowType& operator*() const { return rows_->row_; }
    RowType* operator->() const { return &rows_->row_; }
    Iterator& operator++() {
      rows_->StepRange();
      return *this;
    }
    void operator++(int) { ++*this; }
    bool operator==(std::default_sentinel_t) const { return !rows_->has_row_; }

   private:
    RowRange* rows_;
  };
  Iterator begin() {
    StepRange();
    return Iterator(this);
  }
  std::default_sentinel_t end() const { return {}; }

  // The next row; nothing after the last.
  std::optional<RowType> Next() {
    RowType row;
    if (!OrThrowError(FetchRow(row))) return std::nullopt;
    return row;
  }
  // The next row, and ends the query.
  std::optional<RowType> First() {
    RowType row;
    if (!OrThrowError(PullFirst(row))) return std::nullopt;
    return row;
  }
  // The only row. No row, or a second one: InvalidArgument.
  RowType One() {
    RowType row;
    OrThrowError(PullOne(row));
    return row;
  }
  // All rows not yet handed out.
  std::vector<RowType> ToArray() {
    std::vector<RowType> rows;
    OrThrowError(PullAll(rows));
    return rows;
  }

  StatusOr<std::optional<RowType>> TryNext() {
    RowType row;
    return Answer(FetchRow(row), row);
  }
  StatusOr<std::optional<RowType>> TryFirst() {
    RowType row;
    return Answer(PullFirst(row), row);
  }
  StatusOr<RowType> TryOne() {
    RowType row;
    if (PullOne(row) == Pull::kError) return TakeError();
    return row;
  }
  StatusOr<std::vector<RowType>> TryToArray() {
    std::vector<RowType> rows;
    if (PullAll(rows) == Pull::kError) return TakeError();
    return rows;
  }

 protected:
  using CursorBase::CursorBase;

 private:
  Pull FetchRow(RowType& row) { return static_cast<Derived*>(this)->Fetch(row); }
  Pull PullFirst(RowType& row) {
    static_assert(!Derived::kRowBorrows, "views end with the row: ask for owned types");
    const Pull pull = FetchRow(row);
    Finish();
    return pull;
  }
  Pull PullOne(RowType& row) {
    static_assert(!Derived::kRowBorrows, "views end with the row: ask for owned types");
    if (const Pull pull = FetchRow(row); pull != Pull::kRow) [[unlikely]] {
      return pull == Pull::kEnd ? FailNoResult() : pull;
    }
    const Pull second = NextCells(nullptr, 0);
    if (second == Pull::kEnd) [[likely]]
      return Pull::kRow;
    return second == Pull::kRow ? FailManyResults() : second;
  }
  Pull PullAll(std::vector<RowType>& rows) {
    static_assert(!Derived::kRowBorrows, "views end with the row: ask for owned types");
    for (;;) {
      RowType row;
      if (const Pull pull = FetchRow(row); pull != Pull::kRow) return pull;
      rows.push_back(std::move(row));
    }
  }
  bool OrThrowError(Pull pull) {
    if (pull == Pull::kError) [[unlikely]]
      ThrowError();
    return pull == Pull::kRow;
  }
  StatusOr<std::optional<RowType>> Answer(Pull pull, RowType& row) {
    if (pull == Pull::kError) return TakeError();
    if (pull == Pull::kEnd) return std::optional<RowType>();
    return std::optional<RowType>(std::move(row));
  }
  void StepRange() {
    has_row_ = false;  // should it throw
    has_row_ = OrThrowError(FetchRow(row_));
  }

  RowType row_{};  // of the range-for
  bool has_row_ = false;
};

}  // namespace internal

// Rows as tuples of `Ts`, fetched one by one.
template <typename... Ts>
class Rows : public internal::RowRange<Rows<Ts...>, std::tuple<Ts...>> {
  using Base = internal::RowRange<Rows<Ts...>, std::tuple<Ts...>>;
  using typename Base::Pull;

 public:
  using Row = std::tuple<Ts...>;

  // The one column of the only row.
  auto Value() {
    static_assert(sizeof...(Ts) == 1, "Value() is for queries of one column");
    return std::get<0>(this->One());
  }
  StatusOr<std::tuple_element_t<0, Row>> TryValue() {
    static_assert(sizeof...(Ts) == 1, "TryValue() is for queries of one column");
    EDGE_ASSIGN_OR_RETURN(Row row, this->TryOne());
    return std::get<0>(std::move(row));
  }

 private:
  friend class Sql;
  friend Base;
  static constexpr bool kRowBorrows = internal::kBorrows<Ts...>;
  explicit Rows(internal::Statement* statement) : Base(statement) {}

  Pull Fetch(Row& row) {
    internal::Cell cells[sizeof...(Ts)];
    const Pull pull = this->NextCells(cells, static_cast<int>(sizeof...(Ts)));
    if (pull != Pull::kRow) return pull;
    const int failed = Read(row, cells, std::index_sequence_for<Ts...>());
    if (failed < 0) [[likely]]
      return pull;
    static constexpr std::string_view kWanted[] = {TypeName<Ts>()...};
    return this->FailMismatch(failed, cells[failed], kWanted[failed]);
  }
  // The index of the column that does not fit, or -1.
  template <size_t... I>
  static int Read(Row& row, const internal::Cell* cells, std::index_sequence<I...>) {
    int failed = -1;
    (void)((internal::FromCell(cells[I], &std::get<I>(row)) ||
            ((failed = static_cast<int>(I)), false)) &&
           ...);
    return failed;
  }
  template <typename T>
  static constexpr std::string_view TypeName() {
    if constexpr (internal::kIsOptional<T>) {
      return TypeName<typename T::value_type>();
    } else if constexpr (std::is_same_v<T, bool>) {
      return "a boolean";
    } else if constexpr (std::is_integral_v<T>) {
      return sizeof(T) == 8   ? "a 64-bit integer"
             : sizeof(T) == 4 ? "a 32-bit integer"
                              : "a small integer";
    } else if constexpr (std::is_floating_point_v<T>) {
      return "a number";
    } else {
      return "text or bytes";
    }
  }
};

// A row whose columns are known at run time. Copies share the names.
class Row {
 public:
  size_t size() const { return values_.size(); }
  const std::vector<std::string>& names() const { return *names_; }
  const SqlValue& operator[](size_t index) const { return values_[index]; }  // index < size()
  // Of columns of the same name, the last. InvalidArgument if there is none.
  const SqlValue& operator[](std::string_view name) const;
  // As a C++ type, by the rules of typed rows. InvalidArgument if it does not convert.
  template <typename T, typename Key>
  T Get(const Key& key) const {
    const SqlValue& value = (*this)[key];
    T out{};
    if (!internal::FromCell(internal::ToCell(value), &out)) ThrowMismatch(value);
    return out;
  }
  // All values in order, columns of the same name included.
  const std::vector<SqlValue>& values() const { return values_; }

 private:
  friend class Cursor;
  [[noreturn]] static void ThrowMismatch(const SqlValue& value);
  std::shared_ptr<const std::vector<std::string>> names_;  // owners: the rows of one query
  std::vector<SqlValue> values_;
};

// Rows whose columns are known at run time.
class Cursor : public internal::RowRange<Cursor, Row> {
  using Base = internal::RowRange<Cursor, Row>;

 public:
  // The next row as bare values; nothing after the last. Cheaper than a Row: no names.
  std::optional<std::vector<SqlValue>> Raw();

 private:
  friend class Sql;
  friend Base;
  static constexpr bool kRowBorrows = false;
  explicit Cursor(internal::Statement* statement) : Base(statement) {}
  Pull Fetch(Row& row);
  Pull FetchValues(std::vector<SqlValue>& values);

  std::shared_ptr<const std::vector<std::string>> names_;
};

// The SQL of one object. Single-threaded: the object's loop.
class Sql {
 public:
  explicit Sql(internal::SqlEngine& engine) : engine_(&engine) {}
  Sql(const Sql&) = delete;
  Sql& operator=(const Sql&) = delete;

  // Compiles `query`, or takes it from the cache, binds `args` to its parameters and runs it
  // to its first row; statements that return no rows run to their end. Exec<Ts...> yields
  // Rows<Ts...>, plain Exec a Cursor. `query` may hold several statements: they run in order,
  // only the last may have parameters, and its rows are the result. About 0.3 us for a
  // cached one-row select.
  template <typename... Ts, typename... Args>
  auto Exec(std::string_view query, const Args&... args) {
    const internal::Cell cells[sizeof...(Args) + 1] = {internal::ToParameter(args)...};
    return ResultOf<Ts...>(StartOrThrow(query, cells, sizeof...(Args), sizeof...(Ts)));
  }
  template <typename... Ts, typename... Args>
  auto TryExec(std::string_view query, const Args&... args)
      -> StatusOr<std::conditional_t<sizeof...(Ts) == 0, Cursor, Rows<Ts...>>> {
    const internal::Cell cells[sizeof...(Args) + 1] = {internal::ToParameter(args)...};
    EDGE_ASSIGN_OR_RETURN(internal::Statement * statement,
                          Start(query, {cells, sizeof...(Args)}, static_cast<int>(sizeof...(Ts))));
    return ResultOf<Ts...>(statement);
  }
  // With parameters that are known at run time only.
  Cursor ExecValues(std::string_view query, std::span<const SqlValue> args) {
    return internal::OrThrow(TryExecValues(query, args));
  }
  StatusOr<Cursor> TryExecValues(std::string_view query, std::span<const SqlValue> args);

  // Makes `function` callable from this object's SQL under `name`, until the object ends: make
  // it in the constructor. Parameters and result are of the types that columns can have, or a
  // Status or StatusOr of them; an exception or a Status that is not OK fails the statement
  // with its message. `name`: 1 to 64 of [A-Za-z0-9_], none of SQLite's own; InvalidArgument
  // otherwise. Deterministic functions may be used in indexes.
  struct FunctionOptions {
    bool deterministic = false;
  };
  template <typename F>
  void CreateFunction(std::string_view name, F function, FunctionOptions options) {
    internal::OrThrow(TryCreateFunction(name, std::move(function), options));
  }
  template <typename F>
  void CreateFunction(std::string_view name, F function) {
    CreateFunction(name, std::move(function), {});
  }
  template <typename F>
  Status TryCreateFunction(std::string_view name, F function, FunctionOptions options) {
    using Shape = internal::FunctionShape<decltype(&F::operator())>;
    return AddFunction(name, Shape::kCount, options,
                       [function = std::move(function)](std::span<const internal::Cell> args,
                                                        SqlValue* result) mutable {
                         return Shape::Call(function, args, result);
                       });
  }

  // Bytes of the database: its pages without the free ones.
  int64_t database_bytes();

 private:
  template <typename... Ts>
  static auto ResultOf(internal::Statement* statement) {
    if constexpr (sizeof...(Ts) == 0) {
      return Cursor(statement);
    } else {
      return Rows<Ts...>(statement);
    }
  }
  // `columns`: how many the caller reads; 0: any.
  StatusOr<internal::Statement*> Start(std::string_view query, std::span<const internal::Cell> args,
                                       int columns);
  internal::Statement* StartOrThrow(std::string_view query, const internal::Cell* args,
                                    size_t arg_count, size_t columns);
  Status AddFunction(std::string_view name, int arg_count, FunctionOptions options,
                     internal::SqlFunction function);
  internal::SqlEngine* engine_;
};

}  // namespace edge::durable
