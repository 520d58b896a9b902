#include "edge/base/errors.h"

#include <cerrno>

using namespace edge;  // NOLINT

namespace {
StatusOr<int> Half(int x) {
  if (x % 2 != 0) return InvalidArgument("{} is odd", x);
  return x / 2;
}
StatusOr<int> Quarter(int x) {
  EDGE_ASSIGN_OR_RETURN(const int half, Half(x));
  return Half(half);
}
}  // namespace

TEST_CASE("an error carries its code and its numbers", "[base]") {
  const Status status = DataLoss("page {}: checksum {:08x}, expected {:08x}", 17, 0x9f03u, 0x22abu);
  REQUIRE(status.code() == StatusCode::kDataLoss);
  REQUIRE(Message(status) == "page 17: checksum 00009f03, expected 000022ab");
}

TEST_CASE("an error becomes a StatusOr and crosses the macros", "[base]") {
  REQUIRE(Quarter(8).value() == 2);
  REQUIRE(Message(Quarter(6).status()) == "3 is odd");
}

TEST_CASE("a malformed format string is shown, not thrown", "[base]") {
  REQUIRE(Message(Internal("{:q}", 1).status()) == "{:q}");
  REQUIRE(Message(Internal("{} {}", 1).status()) == "{} {}");
}

TEST_CASE("errno maps to the canonical codes", "[base]") {
  REQUIRE(ErrnoStatus(ENOSPC, "write f").code() == StatusCode::kResourceExhausted);
  REQUIRE(ErrnoStatus(EROFS, "open f").code() == StatusCode::kPermissionDenied);
  REQUIRE(Message(Annotate(ErrnoStatus(ENOENT, "open f"), "journal")) ==
          "journal: open f: No such file or directory");
}
