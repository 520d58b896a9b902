// edge/base/errors.h - builds errors with their numbers in the text.
//
//   return InvalidArgument("page {}: checksum {:08x}, expected {:08x}", page, got, want);
//   throw NotFound("No such seat: {}", seat);   // inside a durable object only
//
// One builder per canonical code. The result is an Error: it turns into a Status or a
// StatusOr<T> where one is returned, and can be thrown where throwing is the rule (see
// edge/durable/object.h). Format strings are those of {fmt}; a malformed one is shown
// as it stands, never thrown about. Formatting is out of line: this header is cheap.
#pragma once
#include <cstdint>
#include <exception>
#include <initializer_list>
#include <string>
#include <string_view>
#include <type_traits>

#include "edge/base/status.h"

namespace edge {

// An exception that carries a Status. Immutable.
class Error : public std::exception {
 public:
  explicit Error(Status status) : status_(std::move(status)) {}
  operator Status() const { return status_; }  // NOLINT(google-explicit-constructor)
  const Status& status() const { return status_; }
  // Abseil keeps the text in a std::string, so it ends with a zero; none at all is null.
  const char* what() const noexcept override {
    const char* text = status_.message().data();
    return text != nullptr ? text : "";
  }

 private:
  Status status_;
};

// One argument of Format(): a number, a boolean, a character, text or a pointer.
class FormatArg {
 public:
  enum class Kind : uint8_t { kInt, kUint, kDouble, kBool, kChar, kText, kPointer };
  template <typename T>
  FormatArg(const T& value) {  // NOLINT(google-explicit-constructor)
    if constexpr (std::is_same_v<T, bool>) {
      kind_ = Kind::kBool;
      uint_ = value;
    } else if constexpr (std::is_same_v<T, char>) {
      kind_ = Kind::kChar;
      int_ = value;
    } else if constexpr (std::is_enum_v<T>) {
      kind_ = Kind::kInt;
      int_ = static_cast<int64_t>(value);
    } else if constexpr (std::is_integral_v<T> && std::is_signed_v<T>) {
      kind_ = Kind::kInt;
      int_ = value;
    } else if constexpr (std::is_integral_v<T>) {
      kind_ = Kind::kUint;
      uint_ = value;
    } else if constexpr (std::is_floating_point_v<T>) {
      kind_ = Kind::kDouble;
      double_ = static_cast<double>(value);
    } else if constexpr (std::is_convertible_v<const T&, std::string_view>) {
      kind_ = Kind::kText;
      const std::string_view text = value;
      text_ = {text.data(), text.size()};
    } else {
      static_assert(std::is_pointer_v<T>, "format numbers, text or pointers");
      kind_ = Kind::kPointer;
      pointer_ = value;
    }
  }

 private:
  friend std::string Format(std::string_view, std::initializer_list<FormatArg>);
  struct Text {
    const char* data;
    size_t size;
  };
  Kind kind_;
  union {
    int64_t int_;
    uint64_t uint_;
    double double_;
    const void* pointer_;
    Text text_;
  };
};

// Formats as {fmt} does. Borrowed text must live until the call returns.
std::string Format(std::string_view format, std::initializer_list<FormatArg> args);

#define EDGE_ERROR_BUILDER_(Name)                                                    \
  template <typename... Args>                                                        \
  [[nodiscard]] Error Name(std::string_view format, const Args&... args) {           \
    return Error(Status(StatusCode::k##Name, Format(format, {FormatArg(args)...}))); \
  }
EDGE_ERROR_BUILDER_(Cancelled)
EDGE_ERROR_BUILDER_(Unknown)
EDGE_ERROR_BUILDER_(InvalidArgument)
EDGE_ERROR_BUILDER_(DeadlineExceeded)
EDGE_ERROR_BUILDER_(NotFound)
EDGE_ERROR_BUILDER_(AlreadyExists)
EDGE_ERROR_BUILDER_(PermissionDenied)
EDGE_ERROR_BUILDER_(ResourceExhausted)
EDGE_ERROR_BUILDER_(FailedPrecondition)
EDGE_ERROR_BUILDER_(Aborted)
EDGE_ERROR_BUILDER_(OutOfRange)
EDGE_ERROR_BUILDER_(Unimplemented)
EDGE_ERROR_BUILDER_(Internal)
EDGE_ERROR_BUILDER_(Unavailable)
EDGE_ERROR_BUILDER_(DataLoss)
EDGE_ERROR_BUILDER_(Unauthenticated)
#undef EDGE_ERROR_BUILDER_

// The Status of a failed system call: `what` names the call and the object, `error` is
// errno. ENOENT is NotFound, EEXIST AlreadyExists, EACCES/EPERM/EROFS PermissionDenied,
// ENOSPC/EDQUOT/EMFILE/ENFILE ResourceExhausted, ECONNREFUSED and its kin Unavailable,
// EIO DataLoss, all others Unknown.
Status ErrnoStatus(int error, std::string_view what);

// `status` with "context: " before its text; the code stays. OK stays OK.
Status Annotate(const Status& status, std::string_view context);

}  // namespace edge
