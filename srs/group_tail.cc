#include "srs/group_tail.h"

#include <algorithm>
#include <utility>

#include "edge/base/checksum.h"
#include "edge/base/errors.h"

namespace edge::srs {
namespace {

constexpr uint32_t kTailMagic = 0x314c5445;  // "ETL1"
constexpr uint32_t kTailVersion = 1;

std::string PrefixOf(const std::string& group) {
  return "v1/tail/" + group + "/";
}

bool ParseTailKey(std::string_view key, uint64_t* first, uint64_t* last) {
  const size_t slash = key.rfind('/');
  const std::string_view name = key.substr(slash + 1);
  if (name.size() < 33 || name[16] != '-') return false;
  const auto parse = [](std::string_view hex, uint64_t* value) {
    std::byte raw[8];
    if (!FromHex(hex, raw)) return false;
    *value = 0;
    for (const std::byte b : raw) *value = *value << 8 | std::to_integer<uint64_t>(b);
    return true;
  };
  return parse(name.substr(0, 16), first) && parse(name.substr(17, 16), last);
}

}  // namespace

std::string TailKey(const GroupTail& tail) {
  return Format("{}{:016x}-{:016x}.{:016x}.tail",
                {PrefixOf(tail.group), tail.last.index + 1 - tail.payloads.size(), tail.last.index,
                 tail.last.chain.low});
}

Bytes EncodeTail(const GroupTail& tail) {
  Bytes bytes;
  ByteWriter out(&bytes);
  out.U32(kTailMagic);
  out.U32(kTailVersion);
  out.U64(tail.follower);
  out.Sized(AsBytes(tail.group));
  out.Varint(tail.payloads.size());
  for (const Bytes& payload : tail.payloads) out.Sized(payload);
  out.U32(Crc32c(bytes));
  return bytes;
}

StatusOr<GroupTail> DecodeTail(ByteView object) {
  if (object.size() < 24) return DataLoss("a tail of {} bytes is cut off", object.size());
  const ByteView body = object.first(object.size() - 4);
  const auto expected = LoadLittle<uint32_t>(object.data() + body.size());
  const uint32_t found = Crc32c(body);
  if (found != expected) {
    return DataLoss("tail checksum {:08x}, expected {:08x}", found, expected);
  }
  ByteReader in(body);
  if (in.U32() != kTailMagic) return DataLoss("not a tail");
  const uint32_t version = in.U32();
  if (version != kTailVersion) return DataLoss("tail of version {}, known is 1", version);
  GroupTail tail;
  tail.follower = in.U64();
  tail.group = AsText(in.Sized());
  const uint64_t count = in.Varint();
  for (uint64_t i = 0; i < count && !in.failed(); ++i) {
    const ByteView payload = in.Sized();
    Hash128 before;
    EDGE_ASSIGN_OR_RETURN(const LogPlace place, ReadPlace(payload, &before));
    if (i > 0 && (place.index != tail.last.index + 1 || before != tail.last.chain)) {
      return DataLoss("tail entry {} does not follow entry {}", place.index, tail.last.index);
    }
    tail.last = place;
    tail.payloads.emplace_back(payload.begin(), payload.end());
  }
  if (in.failed() || in.remaining() != 0 || count == 0) return DataLoss("malformed tail");
  return tail;
}

StatusOr<std::vector<Bytes>> FindTail(ObjectStore& store, const std::string& group, LogPlace last) {
  std::vector<GroupTail> tails;
  std::string after;
  for (;;) {
    EDGE_ASSIGN_OR_RETURN(const auto objects, store.List(PrefixOf(group), after));
    if (objects.empty()) break;
    after = objects.back().key;
    for (const ObjectInfo& object : objects) {
      uint64_t first = 0;
      uint64_t end = 0;
      if (!ParseTailKey(object.key, &first, &end) || end <= last.index) continue;
      EDGE_ASSIGN_OR_RETURN(const Bytes bytes, store.Get(object.key));
      StatusOr<GroupTail> tail = DecodeTail(bytes);
      if (!tail.ok()) return Annotate(tail.status(), "object " + object.key);
      tails.push_back(*std::move(tail));
    }
  }
  std::vector<Bytes> found;
  for (;;) {
    const Bytes* best = nullptr;
    LogPlace best_place;
    for (const GroupTail& tail : tails) {
      const uint64_t first = tail.last.index + 1 - tail.payloads.size();
      if (last.index + 1 < first || last.index >= tail.last.index) continue;
      const Bytes& payload = tail.payloads[last.index + 1 - first];
      Hash128 before;
      EDGE_ASSIGN_OR_RETURN(const LogPlace place, ReadPlace(payload, &before));
      if (before == last.chain && place.epoch > best_place.epoch) {
        best = &payload;
        best_place = place;
      }
    }
    if (best == nullptr) return found;
    found.push_back(*best);
    last = best_place;
  }
}

Status DeleteTails(ObjectStore& store, const std::string& group, uint64_t index) {
  std::string after;
  for (;;) {
    EDGE_ASSIGN_OR_RETURN(const auto objects, store.List(PrefixOf(group), after));
    if (objects.empty()) return OkStatus();
    after = objects.back().key;
    for (const ObjectInfo& object : objects) {
      uint64_t first = 0;
      uint64_t last = 0;
      if (!ParseTailKey(object.key, &first, &last) || last > index) continue;
      EDGE_RETURN_IF_ERROR(store.Delete(object.key));
    }
  }
}

}  // namespace edge::srs
