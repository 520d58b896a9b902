#include "edge/durable/id.h"

#include <algorithm>

#include "durable/sha256.h"
#include "edge/base/errors.h"

namespace edge::durable {
namespace {

constexpr size_t kHalf = ObjectId::kBytes / 2;

Bytes Tagged(std::string_view tag, ByteView bytes) {
  Bytes message = ToBytes(tag);
  message.insert(message.end(), bytes.begin(), bytes.end());
  return message;
}

}  // namespace

IdKey::IdKey(std::string_view secret, std::string_view name_space)
    : key_(HmacSha256(AsBytes(secret), Tagged("namespace:", AsBytes(name_space)))) {}

void IdKey::Seal(ObjectId* id) const {
  const Sha256Digest seal = HmacSha256(key_, Tagged("id:", ByteView(id->bytes_).first(kHalf)));
  std::copy_n(seal.begin(), kHalf, id->bytes_.begin() + kHalf);
}

ObjectId IdKey::FromName(std::string_view name) const {
  ObjectId id;
  const Sha256Digest digest = HmacSha256(key_, Tagged("name:", AsBytes(name)));
  std::copy_n(digest.begin(), kHalf, id.bytes_.begin());
  Seal(&id);
  id.name_ = std::string(name);
  return id;
}

ObjectId IdKey::Unique(Random& random) const {
  ObjectId id;
  random.Fill(MutableByteView(id.bytes_).first(kHalf));
  Seal(&id);
  return id;
}

StatusOr<ObjectId> IdKey::FromString(std::string_view text) const {
  ObjectId id;
  if (text.size() != 2 * ObjectId::kBytes || !FromHex(text, id.bytes_)) {
    return InvalidArgument("Invalid Durable Object ID: must be 64 hex digits");
  }
  if (!Owns(id)) return InvalidArgument("Durable Object ID is not valid for this namespace.");
  return id;
}

bool IdKey::Owns(const ObjectId& id) const {
  ObjectId sealed = id;
  Seal(&sealed);
  std::byte difference{0};  // without leaking where they differ
  for (size_t i = kHalf; i < ObjectId::kBytes; ++i) difference |= id.bytes_[i] ^ sealed.bytes_[i];
  return difference == std::byte{0};
}

}  // namespace edge::durable
