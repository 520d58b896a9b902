#include "edge/base/checksum.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <array>

#if defined(__x86_64__)
#include <nmmintrin.h>
#endif

namespace edge {
namespace {

constexpr uint32_t kPolynomial = 0x82f63b78;  // reversed 0x1edc6f41

constexpr std::array<uint32_t, 256> MakeTable() {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t crc = i;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? kPolynomial : 0);
    table[i] = crc;
  }
  return table;
}
constexpr std::array<uint32_t, 256> kTable = MakeTable();

uint32_t Crc32cPortable(uint32_t crc, const std::byte* at, size_t count) {
  for (; count > 0; --count, ++at) {
    crc = (crc >> 8) ^ kTable[(crc ^ static_cast<uint32_t>(*at)) & 0xff];
  }
  return crc;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) uint32_t Crc32cSse42(uint32_t seed, const std::byte* at,
                                                       size_t count) {
  uint64_t crc = seed;
  for (; count >= 8; count -= 8, at += 8) crc = _mm_crc32_u64(crc, LoadLittle<uint64_t>(at));
  auto tail = static_cast<uint32_t>(crc);
  for (; count > 0; --count, ++at) tail = _mm_crc32_u8(tail, static_cast<uint8_t>(*at));
  return tail;
}
#endif

}  // namespace

uint32_t Crc32c(ByteView bytes, uint32_t seed) {
#if defined(__x86_64__)
  static const bool has_sse42 = __builtin_cpu_supports("sse4.2");
  if (has_sse42) return ~Crc32cSse42(~seed, bytes.data(), bytes.size());
#endif
  return ~Crc32cPortable(~seed, bytes.data(), bytes.size());
}

std::string Hash128::ToHex() const {
  std::array<std::byte, 16> big_endian{};
  for (size_t i = 0; i < 8; ++i) {
    big_endian[i] = static_cast<std::byte>(high >> (56 - 8 * i));
    big_endian[8 + i] = static_cast<std::byte>(low >> (56 - 8 * i));
  }
  return edge::ToHex(big_endian);
}

Hash128 HashBytes128(ByteView bytes, uint64_t seed) {
  const XXH128_hash_t hash = XXH3_128bits_withSeed(bytes.data(), bytes.size(), seed);
  return {hash.low64, hash.high64};
}

uint64_t HashBytes(ByteView bytes, uint64_t seed) {
  return XXH3_64bits_withSeed(bytes.data(), bytes.size(), seed);
}

}  // namespace edge
