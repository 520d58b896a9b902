#include "edge/base/checksum.h"

#include <numeric>
#include <random>
#include <unordered_set>

using namespace edge;  // NOLINT

namespace {
Bytes Sequence(size_t count, int first, int step) {
  Bytes bytes(count);
  for (size_t i = 0; i < count; ++i) {
    bytes[i] = static_cast<std::byte>(first + static_cast<int>(i) * step);
  }
  return bytes;
}
// The definition, a bit at a time.
uint32_t SlowCrc32c(ByteView bytes) {
  uint32_t crc = ~uint32_t{0};
  for (const std::byte byte : bytes) {
    crc ^= static_cast<uint32_t>(byte);
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0x82f63b78 : 0);
  }
  return ~crc;
}
}  // namespace

TEST_CASE("CRC-32C gives the results of RFC 3720, B.4", "[base][checksum]") {
  REQUIRE(Crc32c(Sequence(32, 0, 0)) == 0x8a9136aa);
  REQUIRE(Crc32c(Sequence(32, 0xff, 0)) == 0x62a8ab43);
  REQUIRE(Crc32c(Sequence(32, 0, 1)) == 0x46dd794e);
  REQUIRE(Crc32c(Sequence(32, 31, -1)) == 0x113fdb5c);
  Bytes read_command(48);  // an iSCSI SCSI Read (10) command
  REQUIRE(
      FromHex("01c00000000000000000000000000000140000000000040000000014000000182800000000000000"
              "0200000000000000",
              read_command));
  REQUIRE(Crc32c(read_command) == 0xd9963a56);
  REQUIRE(Crc32c({}) == 0);
}

TEST_CASE("CRC-32C agrees with its definition at any length, start and cut",
          "[base][checksum][property]") {
  std::mt19937 rng(7);
  Bytes bytes(300);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(rng());
  for (size_t start = 0; start < 9; ++start) {
    for (size_t count = 0; count < 70; ++count) {
      const ByteView view = ByteView(bytes).subspan(start, count);
      const uint32_t want = SlowCrc32c(view);
      REQUIRE(Crc32c(view) == want);
      const size_t cut = count == 0 ? 0 : rng() % count;
      REQUIRE(Crc32c(view.subspan(cut), Crc32c(view.first(cut))) == want);
    }
  }
}

TEST_CASE("the 128-bit hash is XXH3's, and stays so", "[base][checksum]") {
  // What xxhsum prints for "" (XXH3-128) and for the 64-bit variant.
  REQUIRE(HashBytes128({}).ToHex() == "99aa06d3014798d86001c324468d497f");
  REQUIRE(HashBytes({}) == 0x2d06800538d394c2);
  REQUIRE(HashBytes128(AsBytes("a")) != HashBytes128(AsBytes("a"), 1));
  REQUIRE(HashBytes(AsBytes("a")) != HashBytes(AsBytes("a"), 1));
}

TEST_CASE("the hash of a set does not depend on the order and can be undone", "[base][checksum]") {
  const Hash128 a = HashBytes128(AsBytes("a"));
  const Hash128 b = HashBytes128(AsBytes("b"));
  Hash128 set = a;
  set ^= b;
  Hash128 other = b;
  other ^= a;
  REQUIRE(set == other);
  set ^= a;
  REQUIRE(set == b);
  REQUIRE((a < b) == (a.low != b.low ? a.low < b.low : a.high < b.high));
}

TEST_CASE("one bit changes the hash, and a map is searched by view", "[base][checksum]") {
  std::unordered_set<std::string> seen;
  Bytes bytes(64);
  seen.insert(HashBytes128(bytes).ToHex());
  for (size_t bit = 0; bit < 512; ++bit) {
    Bytes changed = bytes;
    changed[bit / 8] ^= std::byte{1} << static_cast<int>(bit % 8);
    seen.insert(HashBytes128(changed).ToHex());
  }
  REQUIRE(seen.size() == 513);
  std::unordered_set<std::string, StringHash, std::equal_to<>> names = {"one", "two"};
  REQUIRE(names.contains(std::string_view("two")));
}
