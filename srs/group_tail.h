// srs/group_tail.h - log entries that a follower put into the store because no host did.
//
// v1/tail/<group>/<first>-<last>.<chain>.tail. Byte table: docs/formats/replication.md.
#pragma once
#include <string>
#include <vector>

#include "edge/base/bytes.h"
#include "edge/base/status.h"
#include "edge/srs/object_store.h"
#include "srs/journal.h"

namespace edge::srs {

struct GroupTail {
  std::string group;
  uint64_t follower = 0;
  LogPlace last;
  std::vector<Bytes> payloads;  // one or more, in order
};

std::string TailKey(const GroupTail& tail);
Bytes EncodeTail(const GroupTail& tail);
// DataLoss if a checksum or the chain of the entries is broken.
StatusOr<GroupTail> DecodeTail(ByteView object);

// The entries that follow `last` in the tails of the group which the store has, as far as
// they form one chain; of two that do, the one of the higher epoch.
StatusOr<std::vector<Bytes>> FindTail(ObjectStore& store, const std::string& group, LogPlace last);
// Deletes the tails that end at or before `index`.
Status DeleteTails(ObjectStore& store, const std::string& group, uint64_t index);

}  // namespace edge::srs
