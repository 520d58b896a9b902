#include "edge/base/bytes.h"

#include <array>
#include <random>

using namespace edge;  // NOLINT

TEST_CASE("hexadecimal goes there and back", "[base][bytes]") {
  const Bytes bytes = {std::byte{0}, std::byte{0x9f}, std::byte{0xff}};
  REQUIRE(ToHex(bytes) == "009fff");
  Bytes out(3);
  REQUIRE(FromHex("009FfF", out));
  REQUIRE(out == bytes);
  for (const char* bad : {"", "009f", "009fff0", "009ffg", "009ff ", "0x9fff"}) {
    CAPTURE(bad);
    REQUIRE_FALSE(FromHex(bad, out));
  }
  REQUIRE(FromHex("", MutableByteView()));
}

TEST_CASE("what a writer writes a reader reads", "[base][bytes][property]") {
  const auto seed = GENERATE(range(1u, 17u));
  CAPTURE(seed);
  std::mt19937_64 rng(seed);
  Bytes bytes;
  ByteWriter writer(&bytes);
  std::vector<std::pair<int, uint64_t>> fields;
  for (int i = 0; i < 300; ++i) {
    const int kind = static_cast<int>(rng() % 6);
    const uint64_t value = rng() >> (rng() % 64);
    fields.emplace_back(kind, value);
    switch (kind) {
      case 0:
        writer.U8(static_cast<uint8_t>(value));
        break;
      case 1:
        writer.U16(static_cast<uint16_t>(value));
        break;
      case 2:
        writer.U32(static_cast<uint32_t>(value));
        break;
      case 3:
        writer.U64(value);
        break;
      case 4:
        writer.Varint(value);
        break;
      default:
        writer.Sized(AsBytes(std::string(value % 300, 's')));
    }
  }
  REQUIRE(writer.size() == bytes.size());
  ByteReader reader(bytes);
  for (const auto& [kind, value] : fields) {
    switch (kind) {
      case 0:
        REQUIRE(reader.U8() == static_cast<uint8_t>(value));
        break;
      case 1:
        REQUIRE(reader.U16() == static_cast<uint16_t>(value));
        break;
      case 2:
        REQUIRE(reader.U32() == static_cast<uint32_t>(value));
        break;
      case 3:
        REQUIRE(reader.U64() == value);
        break;
      case 4:
        REQUIRE(reader.Varint() == value);
        break;
      default:
        REQUIRE(AsText(reader.Sized()) == std::string(value % 300, 's'));
    }
  }
  REQUIRE(reader.remaining() == 0);
  REQUIRE_FALSE(reader.failed());
  REQUIRE(reader.U8() == 0);
  REQUIRE(reader.failed());
}

TEST_CASE("fields are little-endian whatever the machine", "[base][bytes]") {
  Bytes bytes;
  ByteWriter writer(&bytes);
  writer.U32(0x01020304);
  writer.U16(0x0506);
  writer.Varint(300);
  REQUIRE(ToHex(bytes) == "040302010605ac02");
  REQUIRE(LoadLittle<uint16_t>(bytes.data() + 1) == 0x0203);  // no alignment needed
}

TEST_CASE("a reader of hostile bytes stays inside and fails for good", "[base][bytes][property]") {
  const auto seed = GENERATE(range(1u, 65u));
  CAPTURE(seed);
  std::mt19937_64 rng(seed);
  Bytes bytes(rng() % 40);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(rng() % 3 == 0 ? 0xff : rng());
  // A copy of the exact size, so that a sanitizer sees the first byte too many.
  const Bytes exact(bytes);
  ByteReader reader(exact);
  for (int i = 0; i < 40; ++i) {
    const size_t before = reader.offset();
    const bool failed = reader.failed();
    switch (rng() % 7) {
      case 0:
        reader.U8();
        break;
      case 1:
        reader.U16();
        break;
      case 2:
        reader.U32();
        break;
      case 3:
        reader.U64();
        break;
      case 4:
        reader.Varint();
        break;
      case 5:
        REQUIRE(reader.Sized().size() <= exact.size());
        break;
      default:
        REQUIRE(reader.Raw(rng() >> (rng() % 64)).size() <= exact.size());
    }
    REQUIRE(reader.offset() >= before);
    REQUIRE(reader.offset() <= exact.size());
    REQUIRE((!failed || reader.failed()));
    if (reader.failed()) {
      REQUIRE(reader.remaining() == 0);
      REQUIRE(reader.U64() == 0);
      REQUIRE(reader.Raw(0).empty());
    }
  }
}

TEST_CASE("a varint too long or too large is refused", "[base][bytes]") {
  const auto read = [](std::string_view hex, uint64_t* value) {
    Bytes bytes(hex.size() / 2);
    REQUIRE(FromHex(hex, bytes));
    ByteReader reader(bytes);
    *value = reader.Varint();
    return !reader.failed();
  };
  uint64_t value = 0;
  REQUIRE(read("ffffffffffffffffff01", &value));
  REQUIRE(value == UINT64_MAX);
  REQUIRE_FALSE(read("ffffffffffffffffff02", &value));    // 65 bits
  REQUIRE_FALSE(read("8080808080808080808000", &value));  // 11 bytes
  REQUIRE_FALSE(read("80", &value));                      // cut off
  REQUIRE(value == 0);
}
