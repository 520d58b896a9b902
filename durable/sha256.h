// durable/sha256.h - SHA-256 (FIPS 180-4) and HMAC (RFC 2104), for object ids: base has no
// cryptographic hash, and this library links no OpenSSL.
#pragma once
#include <array>
#include <cstddef>

#include "edge/base/bytes.h"

namespace edge::durable {

using Sha256Digest = std::array<std::byte, 32>;
Sha256Digest Sha256(ByteView bytes);
Sha256Digest HmacSha256(ByteView key, ByteView message);

}  // namespace edge::durable
