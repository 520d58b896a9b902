#include "edge/inference/gguf.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <random>

#include "inference/half.h"
#include "tests/inference/gguf_builder.h"

namespace edge::inference {
namespace {

using Catch::Contains;
using testing::GgufBuilder;
using testing::MakeTinyModel;

std::string ErrorOf(const Bytes& bytes) {
  const auto file = GgufFile::Parse(bytes, "test.gguf");
  if (file.ok()) return "";
  CHECK(file.status().code() == StatusCode::kInvalidArgument);
  CHECK_THAT(std::string(Message(file.status())), Contains("test.gguf: offset "));
  return std::string(Message(file.status()));
}

Bytes SmallFile() {
  return GgufBuilder()
      .Uint("a.number", 7)
      .Text("a.text", "hello")
      .Texts("a.texts", {"x", "", "zz"})
      .Tensor("first", TensorType::kF32, 4, 2, {1, 2, 3, 4, 5, 6, 7, 8})
      .Tensor("second", TensorType::kQ8_0, 32, 1, std::vector<float>(32, 0.5f))
      .Build();
}

// The offset of `text` in `bytes`.
size_t Locate(const Bytes& bytes, std::string_view text) {
  return AsText(bytes).find(text);
}

TEST_CASE("a GGUF file gives back its metadata and tensors", "[inference]") {
  const uint32_t version = GENERATE(2u, 3u);
  Bytes bytes = SmallFile();
  StoreLittle<uint32_t>(bytes.data() + 4, version);
  const auto file = GgufFile::Parse(bytes, "test.gguf").value();
  CHECK(file->version() == version);
  CHECK(file->Uint("a.number").value() == 7);
  CHECK(file->Number("a.number").value() == 7.0);
  CHECK(file->Text("a.text").value() == "hello");
  CHECK(file->Texts("a.texts").value()->at(2) == "zz");
  CHECK_FALSE(file->Uint("absent").value().has_value());
  CHECK(file->Uint("a.text").status().code() == StatusCode::kInvalidArgument);
  CHECK(file->tensors().size() == 2);
  const GgufTensor* second = file->FindTensor("second");
  REQUIRE(second != nullptr);
  CHECK(second->bytes.size() == 34);
  CHECK(second->columns() == 32);
  CHECK(second->rows() == 1);
  CHECK(file->FindTensor("third") == nullptr);
}

TEST_CASE("every truncation of a GGUF file is refused", "[inference]") {
  const Bytes whole = SmallFile();
  for (size_t size = 0; size < whole.size(); ++size) {
    CAPTURE(size);
    REQUIRE(ErrorOf(Bytes(whole.begin(), whole.begin() + static_cast<ptrdiff_t>(size))) != "");
  }
}

TEST_CASE("a GGUF file with any flipped byte is refused or still safe to read", "[inference]") {
  const Bytes whole = SmallFile();
  for (size_t at = 0; at < whole.size(); ++at) {
    for (const int mask : {0x01, 0x80, 0xFF}) {
      Bytes bytes = whole;
      bytes[at] ^= static_cast<std::byte>(mask);
      const auto file = GgufFile::Parse(bytes, "test.gguf");
      if (!file.ok()) continue;
      for (const GgufTensor& tensor : (*file)->tensors()) {
        REQUIRE(tensor.offset + tensor.bytes.size() <= bytes.size());
      }
      (void)(*file)->Texts("a.texts");
    }
  }
}

TEST_CASE("lying numbers in a GGUF file are named", "[inference]") {
  Bytes bytes = SmallFile();
  SECTION("not a GGUF file") {
    bytes[0] = std::byte{'X'};
    CHECK_THAT(ErrorOf(bytes), Contains("offset 0: not a GGUF file"));
  }
  SECTION("an old version") {
    StoreLittle<uint32_t>(bytes.data() + 4, 1);
    CHECK_THAT(ErrorOf(bytes), Contains("offset 4: version 1"));
  }
  SECTION("a big-endian file") {
    StoreLittle<uint32_t>(bytes.data() + 4, 0x03000000);
    CHECK_THAT(ErrorOf(bytes), Contains("big-endian"));
  }
  SECTION("too many tensors") {
    StoreLittle<uint64_t>(bytes.data() + 8, uint64_t{1} << 62);
    CHECK_THAT(ErrorOf(bytes), Contains("offset 8: 4611686018427387904 tensors"));
  }
  SECTION("too many metadata entries") {
    StoreLittle<uint64_t>(bytes.data() + 16, 1000);
    CHECK_THAT(ErrorOf(bytes), Contains("offset 16: 1000 metadata entries"));
  }
  SECTION("a text longer than the file") {
    const size_t at = Locate(bytes, "hello") - 8;
    StoreLittle<uint64_t>(bytes.data() + at, uint64_t{1} << 40);
    CHECK_THAT(ErrorOf(bytes),
               Contains("offset " + std::to_string(at)) && Contains("1099511627776 bytes"));
  }
  SECTION("an array longer than the file") {
    const size_t at = Locate(bytes, "a.texts") + 7 + 4 + 4;
    StoreLittle<uint64_t>(bytes.data() + at, ~uint64_t{0});
    CHECK_THAT(ErrorOf(bytes), Contains("array a.texts of 18446744073709551615 elements"));
  }
  SECTION("a tensor outside the file") {
    const size_t at = Locate(bytes, "second") + 6 + 4 + 8 + 4;
    StoreLittle<uint64_t>(bytes.data() + at, uint64_t{1} << 63);
    CHECK_THAT(ErrorOf(bytes), Contains("tensor second takes bytes"));
  }
  SECTION("a tensor that is not aligned") {
    StoreLittle<uint64_t>(bytes.data() + Locate(bytes, "second") + 6 + 4 + 8 + 4, 33);
    CHECK_THAT(ErrorOf(bytes), Contains("tensor second is placed at 33, not a multiple of 32"));
  }
  SECTION("tensors on top of each other") {
    StoreLittle<uint64_t>(bytes.data() + Locate(bytes, "second") + 6 + 4 + 8 + 4, 0);
    CHECK_THAT(ErrorOf(bytes), Contains("overlap"));
  }
  SECTION("an unknown tensor type") {
    StoreLittle<uint32_t>(bytes.data() + Locate(bytes, "second") + 6 + 4 + 8, 4242);
    CHECK_THAT(ErrorOf(bytes), Contains("tensor second has the unknown type 4242"));
  }
  SECTION("rows that are not whole blocks") {
    StoreLittle<uint64_t>(bytes.data() + Locate(bytes, "second") + 6 + 4, 31);
    CHECK_THAT(ErrorOf(bytes), Contains("rows of 31 values"));
  }
  SECTION("dimensions whose product overflows") {
    StoreLittle<uint64_t>(bytes.data() + Locate(bytes, "first") + 5 + 4, uint64_t{1} << 40);
    StoreLittle<uint64_t>(bytes.data() + Locate(bytes, "first") + 5 + 12, uint64_t{1} << 40);
    CHECK_THAT(ErrorOf(bytes), Contains("tensor first: dimension 1 is 1099511627776"));
  }
  SECTION("two tensors of one name") {
    const std::string_view name = "first";
    Bytes twice = GgufBuilder()
                      .Tensor("first", TensorType::kF32, 1, 1, {1})
                      .Tensor("fixst", TensorType::kF32, 1, 1, {1})
                      .Build();
    std::memcpy(twice.data() + Locate(twice, "fixst"), name.data(), name.size());
    CHECK_THAT(ErrorOf(twice), Contains("tensor first is there twice"));
  }
  SECTION("two values of one key") {
    Bytes twice = GgufBuilder().Uint("key1", 1).Uint("key2", 1).Build();
    twice[Locate(twice, "key2") + 3] = std::byte{'1'};
    CHECK_THAT(ErrorOf(twice), Contains("metadata key1 is there twice"));
  }
}

TEST_CASE("a missing GGUF file is NotFound and named", "[inference]") {
  const auto file = GgufFile::Open("/nowhere/model.gguf");
  CHECK(file.status().code() == StatusCode::kNotFound);
  CHECK_THAT(std::string(Message(file.status())), Contains("/nowhere/model.gguf"));
}

TEST_CASE("half floats round to the nearest and back", "[inference]") {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const float value = FloatFromHalf(half);
    if (std::isnan(value)) {
      REQUIRE(std::isnan(FloatFromHalf(HalfFromFloat(value))));
      continue;
    }
    REQUIRE(HalfFromFloat(value) == half);
  }
  std::mt19937 random(1);
  for (int i = 0; i < 100000; ++i) {
    const float value = std::ldexp(static_cast<float>(random() % 2000001) - 1000000.0f,
                                   static_cast<int>(random() % 40) - 45);
    const float rounded = FloatFromHalf(HalfFromFloat(value));
    if (std::fabs(value) > 65504) continue;
    const float step = std::max(std::ldexp(1.0f, -24), std::fabs(value) * 0x1p-11f * 1.0001f);
    REQUIRE(std::fabs(rounded - value) <= step);
  }
}

}  // namespace
}  // namespace edge::inference
