#include "edge/rpc/convert.h"

#include <charconv>
#include <cmath>

#include "edge/base/errors.h"

namespace edge::rpc::internal {

Status Mismatch(std::string_view expected, const Value& got) {
  return InvalidArgument("expected {}, got {}", expected, KindName(got.kind()));
}
Status AtElement(const Status& status, size_t index) {
  return Annotate(status, "element " + std::to_string(index));
}
Status AtMember(const Status& status, std::string_view key) {
  return Annotate(status, "'" + std::string(key) + "'");
}

Status ReadInteger(const Value& from, int64_t min, int64_t max, int64_t& to) {
  if (const int64_t* integer = from.As<int64_t>()) {
    to = *integer;
  } else if (const double* real = from.As<double>()) {
    // 2^63 is exact as a double; anything below it that is whole fits.
    if (!(*real >= -0x1p63 && *real < 0x1p63) || std::trunc(*real) != *real)
      return Mismatch("a whole number", from);
    to = static_cast<int64_t>(*real);
  } else if (const BigInt* big = from.As<BigInt>()) {
    const char* end = big->decimal.data() + big->decimal.size();
    if (std::from_chars(big->decimal.data(), end, to).ec != std::errc())
      return InvalidArgument("expected a whole number of 64 bits, got one of {} digits",
                             big->decimal.size());
  } else {
    return Mismatch("a whole number", from);
  }
  if (to < min || to > max)
    return InvalidArgument("expected a whole number from {} to {}, got {}", min, max, to);
  return OkStatus();
}

Status ReadUnsigned(const Value& from, uint64_t& to) {
  if (const BigInt* big = from.As<BigInt>()) {
    const char* end = big->decimal.data() + big->decimal.size();
    if (std::from_chars(big->decimal.data(), end, to).ec == std::errc()) return OkStatus();
    return InvalidArgument("expected a whole number of 64 bits that is not negative");
  }
  if (const double* real = from.As<double>();
      real != nullptr && *real >= 0x1p63 && *real < 0x1p64) {
    to = static_cast<uint64_t>(*real);
    return OkStatus();
  }
  int64_t value = 0;
  EDGE_RETURN_IF_ERROR(ReadInteger(from, 0, std::numeric_limits<int64_t>::max(), value));
  to = static_cast<uint64_t>(value);
  return OkStatus();
}

Status ReadDouble(const Value& from, double& to) {
  if (!from.is_number()) return Mismatch("a number", from);
  to = from.number();
  return OkStatus();
}

}  // namespace edge::rpc::internal
