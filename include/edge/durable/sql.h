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
    out->reset();
    return cell.kind == Kind::kNull || FromCell(cell, &out->emplace());
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

// What Rows and Cursor share. Move-only; keep none beyond the object's life (one that is
// kept fails with FailedPrecondition). Single-threaded.
class CursorBase {
 public:
  CursorBase(CursorBase&& other) noexcept : statement_(std::exchange(other.statement_, nullptr)) {}
  CursorBase& operator=(CursorBase&& other) noexcept;
  ~CursorBase() { Release(); }

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
  explicit CursorBase(internal::Statement* statement) : statement_(statement) {}
  bool has_row() const;  // Is there a row that was not handed out yet?
  Status Advance();      // fetches the next row, if any
  void Finish();         // ends early; no more rows
  int column_count() const;
  internal::Cell column(int index) const;  // of the row at hand
  Status Mismatch(int index, std::string_view wanted) const;
  static Status NoResult();
  static Status ManyResults();

 private:
  void Release() noexcept;
  internal::Statement* statement_;  // leased from the engine until we are destroyed
};

// Rows as tuples of `Ts`, fetched one by one. Range-for, Next(), First(), One() and ToArray()
// share one position.
template <typename... Ts>
class Rows : public CursorBase {
 public:
  using Row = std::tuple<Ts...>;

  // Handing out `Row&`: each row replaces the one before.
  class Iterator {
   public:
    using value_type = Row;
    using difference_type = std::ptrdiff_t;
    explicit Iterator(Rows* rows) : rows_(rows) {}
    Row& operator*() const { return *rows_->row_; }
    Row* operator->() const { return &*rows_->row_; }
    Iterator& operator++() {
      rows_->row_ = rows_->Next();
      return *this;
    }
    void operator++(int) { ++*this; }
    bool operator==(std::default_sentinel_t) const { return !rows_->row_.has_value(); }

   private:
    Rows* rows_;
  };
  Iterator begin() {
    row_ = Next();
    return Iterator(this);
  }
  std::default_sentinel_t end() const { return {}; }

  // The next row; nothing after the last.
  std::optional<Row> Next() { return internal::OrThrow(TryNext()); }
  // The next row, and ends the query.
  std::optional<Row> First() { return internal::OrThrow(TryFirst()); }
  // The only row. No row, or a second one: InvalidArgument.
  Row One() { return internal::OrThrow(TryOne()); }
  // The one column of the only row.
  auto Value() {
    static_assert(sizeof...(Ts) == 1, "Value() is for queries of one column");
    return std::get<0>(One());
  }
  // All rows not yet handed out.
  std::vector<Row> ToArray() { return internal::OrThrow(TryToArray()); }

  StatusOr<std::optional<Row>> TryNext() {
    if (started_) {
      EDGE_RETURN_IF_ERROR(Advance());
    }
    started_ = true;
    if (!has_row()) return std::optional<Row>();
    Row row;
    EDGE_RETURN_IF_ERROR(Read(row, std::index_sequence_for<Ts...>()));
    return std::optional<Row>(std::move(row));
  }
  StatusOr<std::optional<Row>> TryFirst() {
    static_assert(!internal::kBorrows<Ts...>, "views end with the row: ask for owned types");
    auto row = TryNext();
    Finish();
    return row;
  }
  StatusOr<Row> TryOne() {
    static_assert(!internal::kBorrows<Ts...>, "views end with the row: ask for owned types");
    EDGE_ASSIGN_OR_RETURN(std::optional<Row> row, TryNext());
    if (!row) return NoResult();
    EDGE_RETURN_IF_ERROR(Advance());
    if (!has_row()) return *std::move(row);
    Finish();
    return ManyResults();
  }
  StatusOr<std::vector<Row>> TryToArray() {
    static_assert(!internal::kBorrows<Ts...>, "views end with the row: ask for owned types");
    std::vector<Row> rows;
    for (;;) {
      EDGE_ASSIGN_OR_RETURN(std::optional<Row> row, TryNext());
      if (!row) return rows;
      rows.push_back(*std::move(row));
    }
  }

 private:
  friend class Sql;
  explicit Rows(internal::Statement* statement) : CursorBase(statement) {}

  // Not inline: g++ 12 would warn of a string in an empty std::optional.
  template <size_t... I>
  [[gnu::noinline]] Status Read(Row& row, std::index_sequence<I...>) {
    int failed = -1;
    (void)((internal::FromCell(column(static_cast<int>(I)), &std::get<I>(row)) ||
            ((failed = static_cast<int>(I)), false)) &&
           ...);
    if (failed < 0) [[likely]]
      return OkStatus();
    static constexpr std::string_view kWanted[] = {TypeName<Ts>()...};
    return Mismatch(failed, kWanted[failed]);
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

  std::optional<Row> row_;  // of the range-for
  bool started_ = false;
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

// Rows whose columns are known at run time. As Rows otherwise.
class Cursor : public CursorBase {
 public:
  class Iterator {
   public:
    using value_type = Row;
    using difference_type = std::ptrdiff_t;
    explicit Iterator(Cursor* cursor) : cursor_(cursor) {}
    Row& operator*() const { return *cursor_->row_; }
    Row* operator->() const { return &*cursor_->row_; }
    Iterator& operator++() {
      cursor_->row_ = cursor_->Next();
      return *this;
    }
    void operator++(int) { ++*this; }
    bool operator==(std::default_sentinel_t) const { return !cursor_->row_.has_value(); }

   private:
    Cursor* cursor_;
  };
  Iterator begin() {
    row_ = Next();
    return Iterator(this);
  }
  std::default_sentinel_t end() const { return {}; }

  std::optional<Row> Next() { return internal::OrThrow(TryNext()); }
  std::optional<Row> First() { return internal::OrThrow(TryFirst()); }
  Row One() { return internal::OrThrow(TryOne()); }
  std::vector<Row> ToArray() { return internal::OrThrow(TryToArray()); }

  StatusOr<std::optional<Row>> TryNext();
  StatusOr<std::optional<Row>> TryFirst();
  StatusOr<Row> TryOne();
  StatusOr<std::vector<Row>> TryToArray();

 private:
  friend class Sql;
  explicit Cursor(internal::Statement* statement) : CursorBase(statement) {}

  std::optional<Row> row_;  // of the range-for
  std::shared_ptr<const std::vector<std::string>> names_;
  bool started_ = false;
};

// The SQL of one object. Single-threaded: the object's loop.
class Sql {
 public:
  explicit Sql(internal::SqlEngine& engine) : engine_(&engine) {}
  Sql(const Sql&) = delete;
  Sql& operator=(const Sql&) = delete;

  // Compiles `query`, or takes it from the cache, binds `args` to its '?' and runs it to its
  // first row; statements that return no rows run to their end. Exec<Ts...> yields
  // Rows<Ts...>, plain Exec a Cursor. `query` may hold several statements: they run in order,
  // only the last may have parameters, and its rows are the result. About 0.4 us for a
  // cached one-row select.
  template <typename... Ts, typename... Args>
  auto Exec(std::string_view query, const Args&... args) {
    return internal::OrThrow(TryExec<Ts...>(query, args...));
  }
  template <typename... Ts, typename... Args>
  auto TryExec(std::string_view query, const Args&... args)
      -> StatusOr<std::conditional_t<sizeof...(Ts) == 0, Cursor, Rows<Ts...>>> {
    using Result = std::conditional_t<sizeof...(Ts) == 0, Cursor, Rows<Ts...>>;
    const internal::Cell cells[sizeof...(Args) + 1] = {internal::ToCell(args)...};
    EDGE_ASSIGN_OR_RETURN(internal::Statement * statement,
                          Start(query, {cells, sizeof...(Args)}, static_cast<int>(sizeof...(Ts))));
    return Result(statement);
  }

  // Bytes of the database: its pages without the free ones.
  int64_t database_bytes();

 private:
  // `columns`: how many the caller reads; 0: any.
  StatusOr<internal::Statement*> Start(std::string_view query, std::span<const internal::Cell> args,
                                       int columns);
  internal::SqlEngine* engine_;
};

}  // namespace edge::durable
