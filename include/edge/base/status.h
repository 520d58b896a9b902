// edge/base/status.h - how every call in edge reports failure.
//
// We use Abseil's Status and its canonical codes: they cross rpc unchanged, and the
// compiler warns about a forgotten result. Absence is not an error: a lookup returns
// StatusOr<std::optional<T>>.
#pragma once
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace edge {

using Status = absl::Status;
using StatusCode = absl::StatusCode;
template <typename T>
using StatusOr = absl::StatusOr<T>;

inline Status OkStatus() {
  return Status();
}

// The text of `status` as a std view (Abseil's own may be a different type). Valid as
// long as `status` is.
inline std::string_view Message(const Status& status) {
  return {status.message().data(), status.message().size()};
}

}  // namespace edge

#define EDGE_CONCAT_INNER_(a, b) a##b
#define EDGE_CONCAT_(a, b) EDGE_CONCAT_INNER_(a, b)

// Returns from the enclosing function if `expr`, a Status, is not OK.
#define EDGE_RETURN_IF_ERROR(expr) \
  EDGE_RETURN_IF_ERROR_(EDGE_CONCAT_(edge_status_, __COUNTER__), return, expr)
#define EDGE_RETURN_IF_ERROR_(name, give_back, expr)           \
  do {                                                         \
    if (::edge::Status name = (expr); !name.ok()) [[unlikely]] \
      give_back name;                                          \
  } while (false)

// `lhs` is a declaration or an lvalue; `expr` a StatusOr. Returns its Status if not OK.
#define EDGE_ASSIGN_OR_RETURN(lhs, expr) \
  EDGE_ASSIGN_OR_RETURN_(EDGE_CONCAT_(edge_or_, __COUNTER__), lhs, expr)
#define EDGE_ASSIGN_OR_RETURN_(tmp, lhs, expr) \
  auto tmp = (expr);                           \
  if (!tmp.ok()) [[unlikely]]                  \
    return std::move(tmp).status();            \
  lhs = std::move(tmp).value()

// The same two inside a coroutine.
#define EDGE_CO_RETURN_IF_ERROR(expr) \
  EDGE_RETURN_IF_ERROR_(EDGE_CONCAT_(edge_status_, __COUNTER__), co_return, expr)
#define EDGE_CO_ASSIGN_OR_RETURN(lhs, expr) \
  EDGE_CO_ASSIGN_OR_RETURN_(EDGE_CONCAT_(edge_or_, __COUNTER__), lhs, expr)
#define EDGE_CO_ASSIGN_OR_RETURN_(tmp, lhs, expr) \
  auto tmp = (expr);                              \
  if (!tmp.ok()) [[unlikely]]                     \
    co_return std::move(tmp).status();            \
  lhs = std::move(tmp).value()
