#include "kv/cursor.h"

#include <array>
#include <cstdint>

#include "edge/base/bytes.h"
#include "edge/base/checksum.h"
#include "edge/base/errors.h"
#include "kv/limits.h"

namespace edge::kv {
namespace {

constexpr uint8_t kVersion = 1;
// RFC 4648 section 5: base64 for URLs and file names, without padding.
constexpr std::string_view kDigits =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

std::string ToBase64(ByteView bytes) {
  std::string text;
  uint32_t bits = 0;
  int count = 0;
  for (const std::byte byte : bytes) {
    bits = bits << 8 | std::to_integer<uint32_t>(byte);
    for (count += 8; count >= 6; count -= 6) text += kDigits[(bits >> (count - 6)) & 63];
  }
  if (count > 0) text += kDigits[(bits << (6 - count)) & 63];
  return text;
}

// False unless `text` is what ToBase64 gives for some bytes.
bool FromBase64(std::string_view text, Bytes* bytes) {
  uint32_t bits = 0;
  int count = 0;
  for (const char c : text) {
    const size_t digit = kDigits.find(c);
    if (digit == std::string_view::npos) return false;
    bits = bits << 6 | static_cast<uint32_t>(digit);
    count += 6;
    if (count >= 8) {
      count -= 8;
      bytes->push_back(static_cast<std::byte>(bits >> count));
    }
  }
  return count < 6 && (bits & ((1u << count) - 1)) == 0;
}

}  // namespace

std::string EncodeCursor(std::string_view last_key) {
  Bytes bytes;
  ByteWriter writer(&bytes);
  writer.U8(kVersion);
  writer.U32(Crc32c(AsBytes(last_key)));
  writer.Raw(AsBytes(last_key));
  return ToBase64(bytes);
}

StatusOr<std::string> DecodeCursor(std::string_view cursor, std::string_view prefix) {
  Bytes bytes;
  if (cursor.size() > 2 * kKeyBytesMax || !FromBase64(cursor, &bytes)) {
    return InvalidArgument("KV GET failed: 400 Invalid cursor: not made by a list.");
  }
  ByteReader reader(bytes);
  const uint8_t version = reader.U8();
  const uint32_t checksum = reader.U32();
  const ByteView key = reader.Raw(reader.remaining());
  if (reader.failed() || version != kVersion || checksum != Crc32c(key)) {
    return InvalidArgument("KV GET failed: 400 Invalid cursor: not made by a list.");
  }
  if (!AsText(key).starts_with(prefix)) {
    return InvalidArgument(
        "KV GET failed: 400 Invalid cursor: made by a list with another prefix.");
  }
  return std::string(AsText(key));
}

}  // namespace edge::kv
