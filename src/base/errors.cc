#include "edge/base/errors.h"

#include <fmt/args.h>
#include <fmt/format.h>

#include <cerrno>
#include <cstring>

namespace edge {

std::string Format(std::string_view format, std::initializer_list<FormatArg> args) {
  fmt::dynamic_format_arg_store<fmt::format_context> store;
  store.reserve(args.size(), 0);
  for (const FormatArg& arg : args) {
    switch (arg.kind_) {
      case FormatArg::Kind::kInt:
        store.push_back(arg.int_);
        break;
      case FormatArg::Kind::kUint:
        store.push_back(arg.uint_);
        break;
      case FormatArg::Kind::kDouble:
        store.push_back(arg.double_);
        break;
      case FormatArg::Kind::kBool:
        store.push_back(arg.uint_ != 0);
        break;
      case FormatArg::Kind::kChar:
        store.push_back(static_cast<char>(arg.int_));
        break;
      case FormatArg::Kind::kText:
        store.push_back(fmt::string_view(arg.text_.data, arg.text_.size));
        break;
      case FormatArg::Kind::kPointer:
        store.push_back(arg.pointer_);
        break;
    }
  }
  try {
    return fmt::vformat(fmt::string_view(format.data(), format.size()), store);
  } catch (const std::exception&) {
    return std::string(format);  // a wrong format string must not hide the error it tells of
  }
}

namespace {

StatusCode CodeOfErrno(int error) {
  switch (error) {
    case ENOENT:
      return StatusCode::kNotFound;
    case EEXIST:
    case ENOTEMPTY:
      return StatusCode::kAlreadyExists;
    case EACCES:
    case EPERM:
    case EROFS:
      return StatusCode::kPermissionDenied;
    case ENOSPC:
    case EDQUOT:
    case EMFILE:
    case ENFILE:
    case EFBIG:
    case ENOMEM:
      return StatusCode::kResourceExhausted;
    case ECONNREFUSED:
    case ECONNRESET:
    case ECONNABORTED:
    case EPIPE:
    case EADDRINUSE:
    case ENETUNREACH:
    case EHOSTUNREACH:
      return StatusCode::kUnavailable;
    case ETIMEDOUT:
      return StatusCode::kDeadlineExceeded;
    case EIO:
      return StatusCode::kDataLoss;
    case EINVAL:
    case ENAMETOOLONG:
    case ENOTDIR:
    case EISDIR:
    case ELOOP:
      return StatusCode::kInvalidArgument;
    default:
      return StatusCode::kUnknown;
  }
}

}  // namespace

Status ErrnoStatus(int error, std::string_view what) {
  char buffer[128];
  const char* text = strerror_r(error, buffer, sizeof buffer);  // GNU variant
  return Status(CodeOfErrno(error), fmt::format("{}: {}", what, text));
}

Status Annotate(const Status& status, std::string_view context) {
  if (status.ok()) return status;
  return Status(status.code(), fmt::format("{}: {}", context, Message(status)));
}

}  // namespace edge
