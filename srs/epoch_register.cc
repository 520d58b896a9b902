#include <utility>

#include "edge/base/checksum.h"
#include "edge/base/errors.h"
#include "edge/srs/replication.h"
#include "srs/planted.h"

namespace edge::srs {
namespace {

constexpr uint32_t kRegisterMagic = 0x31475245;  // "ERG1"
constexpr uint32_t kRegisterVersion = 1;

class StoreRegisterImpl final : public EpochRegister {
 public:
  StoreRegisterImpl(std::shared_ptr<ObjectStore> store, std::string key)
      : store_(std::move(store)), key_(std::move(key)) {}

  StatusOr<std::optional<Versioned>> Read() override {
    // The etag first: if the content changes in between, the swap fails, which is safe.
    const StatusOr<ObjectInfo> info = store_->Head(key_);
    if (info.status().code() == StatusCode::kNotFound) return std::nullopt;
    if (!info.ok()) return info.status();
    EDGE_ASSIGN_OR_RETURN(const Bytes object, store_->Get(key_));
    StatusOr<EpochRecord> record = DecodeEpochRecord(object);
    if (!record.ok()) return Annotate(record.status(), "object " + key_);
    return Versioned{*std::move(record), info->etag};
  }
  StatusOr<std::string> Swap(const EpochRecord& record, const std::string& etag) override {
    PutCondition condition;
    if (Planted(Bug::kRegisterOverwritten)) {
      condition = {};
    } else if (etag.empty()) {
      condition.if_absent = true;
    } else {
      condition.if_etag = etag;
    }
    auto put = store_->Put(key_, EncodeEpochRecord(record), condition);
    if (put.status().code() == StatusCode::kAlreadyExists) {
      return Aborted("object {}: another host made it first", key_);
    }
    return put;
  }

 private:
  const std::shared_ptr<ObjectStore> store_;
  const std::string key_;
};

}  // namespace

Bytes EncodeEpochRecord(const EpochRecord& record) {
  Bytes bytes;
  ByteWriter out(&bytes);
  out.U32(kRegisterMagic);
  out.U32(kRegisterVersion);
  out.U64(record.epoch);
  out.U8(record.is_active ? 1 : 0);
  out.U64(record.host);
  out.Sized(AsBytes(record.host_name));
  out.U64(record.active_host);
  out.U64(record.active_epoch);
  out.U32(record.quorum);
  out.Varint(record.followers.size());
  for (const FollowerSlot& slot : record.followers) {
    out.Sized(AsBytes(slot.address));
    out.U64(slot.id);
  }
  out.U32(Crc32c(bytes));
  return bytes;
}

StatusOr<EpochRecord> DecodeEpochRecord(ByteView object) {
  if (object.size() < 12) return DataLoss("a register of {} bytes is cut off", object.size());
  const ByteView body = object.first(object.size() - 4);
  const auto expected = LoadLittle<uint32_t>(object.data() + body.size());
  const uint32_t found = Crc32c(body);
  if (found != expected) {
    return DataLoss("register checksum {:08x}, expected {:08x}", found, expected);
  }
  ByteReader in(body);
  if (in.U32() != kRegisterMagic) return DataLoss("not a register");
  const uint32_t version = in.U32();
  if (version != kRegisterVersion) {
    return DataLoss("register of version {}, known is {}", version, kRegisterVersion);
  }
  EpochRecord record;
  record.epoch = in.U64();
  record.is_active = in.U8() != 0;
  record.host = in.U64();
  record.host_name = AsText(in.Sized());
  record.active_host = in.U64();
  record.active_epoch = in.U64();
  record.quorum = in.U32();
  const uint64_t count = in.Varint();
  for (uint64_t i = 0; i < count && !in.failed(); ++i) {
    FollowerSlot slot;
    slot.address = AsText(in.Sized());
    slot.id = in.U64();
    record.followers.push_back(std::move(slot));
  }
  if (in.failed() || in.remaining() != 0) return DataLoss("malformed register");
  return record;
}

std::unique_ptr<EpochRegister> StoreRegister(std::shared_ptr<ObjectStore> store,
                                             const std::string& group) {
  return std::make_unique<StoreRegisterImpl>(std::move(store), "v1/group/" + group + "/register");
}

}  // namespace edge::srs
