// edge/durable/id.h - the name of an object: 32 bytes that belong to one namespace.
//
// The second half of an id authenticates the first with the namespace's key, so an id of one
// namespace, or an invented one, is refused by another. The first half is random, or derived
// from a name. Format: docs/formats/durable-object-id.md.
#pragma once
#include <array>
#include <compare>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

#include "edge/base/bytes.h"
#include "edge/base/random.h"
#include "edge/base/status.h"

namespace edge::durable {

// Immutable. Made by a Namespace.
class ObjectId {
 public:
  static constexpr size_t kBytes = 32;

  std::string ToString() const { return ToHex(bytes_); }  // 64 lower-case digits
  ByteView bytes() const { return bytes_; }
  // The name it was made from, if this copy comes from IdFromName.
  const std::optional<std::string>& name() const { return name_; }

  friend bool operator==(const ObjectId& a, const ObjectId& b) { return a.bytes_ == b.bytes_; }
  friend auto operator<=>(const ObjectId& a, const ObjectId& b) { return a.bytes_ <=> b.bytes_; }

 private:
  friend class IdKey;
  ObjectId() = default;
  std::array<std::byte, kBytes> bytes_{};
  std::optional<std::string> name_;
};

// Makes and checks the ids of one namespace. Immutable.
class IdKey {
 public:
  // Ids made with another `secret` or namespace are refused. Without a secret, ids cannot be
  // mixed up by mistake, but who knows the namespace's name can compute them.
  IdKey(std::string_view secret, std::string_view name_space);
  ObjectId FromName(std::string_view name) const;
  ObjectId Unique(Random& random) const;
  // InvalidArgument unless it is 64 hexadecimal digits, of this namespace.
  StatusOr<ObjectId> FromString(std::string_view text) const;
  bool Owns(const ObjectId& id) const;

 private:
  void Seal(ObjectId* id) const;
  std::array<std::byte, 32> key_;
};

}  // namespace edge::durable
