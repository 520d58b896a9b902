// edge/base/checksum.h - CRC32C against accidents, a 128-bit hash for identity.
#pragma once
#include <compare>
#include <cstdint>
#include <string>

#include "edge/base/bytes.h"

namespace edge {

// CRC-32C (Castagnoli polynomial, RFC 3720 appendix B.4), as in iSCSI, ext4 and LevelDB.
// Crc32c(b, Crc32c(a)) is the checksum of a followed by b. Uses SSE4.2 where the processor
// has it: about 1 ns per 8 bytes.
uint32_t Crc32c(ByteView bytes, uint32_t seed = 0);

// A 128-bit non-cryptographic hash (XXH3-128 of the bytes with `seed`): equal hashes mean
// equal bytes but for chance (2^-64 among 2^32 items); an adversary can make collisions.
struct Hash128 {
  uint64_t low = 0;
  uint64_t high = 0;
  friend auto operator<=>(const Hash128&, const Hash128&) = default;
  // Exclusive or: the hash of a set, updated by adding and removing members.
  Hash128& operator^=(const Hash128& other) {
    low ^= other.low;
    high ^= other.high;
    return *this;
  }
  std::string ToHex() const;  // 32 digits, high half first
};
Hash128 HashBytes128(ByteView bytes, uint64_t seed = 0);

// XXH3-64, for tables. The same result on every machine and in every version of edge.
uint64_t HashBytes(ByteView bytes, uint64_t seed = 0);

// Lets a map keyed by std::string be searched with a std::string_view.
struct StringHash {
  using is_transparent = void;
  size_t operator()(std::string_view text) const { return HashBytes(AsBytes(text)); }
};

}  // namespace edge
