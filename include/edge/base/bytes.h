// edge/base/bytes.h - byte strings, and fixed little-endian fields in them.
//
// Everything we write to disk or wire is little-endian and goes through ByteWriter and
// ByteReader, so no format depends on the machine, its padding or its alignment.
#pragma once
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace edge {

using Bytes = std::vector<std::byte>;
using ByteView = std::span<const std::byte>;
using MutableByteView = std::span<std::byte>;

inline ByteView AsBytes(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}
inline std::string_view AsText(ByteView bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}
inline Bytes ToBytes(std::string_view text) {
  const ByteView view = AsBytes(text);
  return {view.begin(), view.end()};
}

// Lower-case hexadecimal. FromHex returns false unless `hex` has exactly 2 * out.size() digits.
std::string ToHex(ByteView bytes);
bool FromHex(std::string_view hex, MutableByteView out);

// A little-endian integer at `at`, which needs no alignment and must have the bytes.
template <typename T>
T LoadLittle(const std::byte* at) {
  static_assert(std::is_integral_v<T> && std::endian::native == std::endian::little);
  T value;
  std::memcpy(&value, at, sizeof(T));
  return value;
}
template <typename T>
void StoreLittle(std::byte* at, T value) {
  static_assert(std::is_integral_v<T> && std::endian::native == std::endian::little);
  std::memcpy(at, &value, sizeof(T));
}

// Appends fields to a Bytes that the caller owns. Thread-compatible.
class ByteWriter {
 public:
  explicit ByteWriter(Bytes* out) : out_(out) {}
  void U8(uint8_t value) { Put(value); }
  void U16(uint16_t value) { Put(value); }
  void U32(uint32_t value) { Put(value); }
  void U64(uint64_t value) { Put(value); }
  void Raw(ByteView bytes) { out_->insert(out_->end(), bytes.begin(), bytes.end()); }
  void Varint(uint64_t value) {  // LEB128, 1 to 10 bytes
    for (; value >= 0x80; value >>= 7) Put(static_cast<uint8_t>(value | 0x80));
    Put(static_cast<uint8_t>(value));
  }
  // A varint length, then the bytes.
  void Sized(ByteView bytes) {
    Varint(bytes.size());
    Raw(bytes);
  }
  size_t size() const { return out_->size(); }

 private:
  template <typename T>
  void Put(T value) {
    const size_t at = out_->size();
    out_->resize(at + sizeof(T));
    StoreLittle(out_->data() + at, value);
  }
  Bytes* out_;
};

// Reads fields in order. Reading past the end sets failed() and yields zeros and empty
// views from then on, so a parser checks once, at its end. Thread-compatible.
class ByteReader {
 public:
  explicit ByteReader(ByteView in) : in_(in) {}
  uint8_t U8() { return Get<uint8_t>(); }
  uint16_t U16() { return Get<uint16_t>(); }
  uint32_t U32() { return Get<uint32_t>(); }
  uint64_t U64() { return Get<uint64_t>(); }
  uint64_t Varint() {
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
      const uint8_t byte = U8();
      if (shift == 63 && byte > 1) break;
      value |= static_cast<uint64_t>(byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
    Fail();
    return 0;
  }
  ByteView Raw(size_t count) {
    if (failed_ || count > in_.size() - at_) {
      Fail();
      return {};
    }
    at_ += count;
    return in_.subspan(at_ - count, count);
  }
  ByteView Sized() {
    const uint64_t count = Varint();
    return Raw(count);
  }
  bool failed() const { return failed_; }
  size_t offset() const { return at_; }
  size_t remaining() const { return failed_ ? 0 : in_.size() - at_; }

 private:
  template <typename T>
  T Get() {
    const ByteView bytes = Raw(sizeof(T));
    return failed_ ? T{} : LoadLittle<T>(bytes.data());
  }
  void Fail() { failed_ = true; }
  ByteView in_;
  size_t at_ = 0;
  bool failed_ = false;
};

}  // namespace edge
