// edge/srs/replication.h - which followers a relay writes to, and who owns a group.
//
// A group is everything in one relay, replicated as one log. Its owner is settled by one
// record in the store, the register, which changes only by compare-and-swap: whoever opens a
// relay on the group takes the next epoch there, has m - n + 1 of the m followers promise to
// obey no smaller one, takes over the longest log of the newest epoch among theirs, has n of
// them confirm it, and serves. The host before learns it from its followers and stops.
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "edge/base/bytes.h"
#include "edge/base/executor.h"
#include "edge/base/network.h"
#include "edge/base/status.h"
#include "edge/srs/object_store.h"

namespace edge::srs {

struct ReplicationOptions {
  std::vector<std::string> followers = {};  // addresses; empty: no replication. At most 15
  int quorum = 3;                           // so many must have a commit: 1 to all of them
  std::string group = "main";               // [A-Za-z0-9._-], 1 to 100 bytes
  std::string host_name = {};               // for people, in the register
  std::string secret = {};                  // as FollowerOptions::secret
  int64_t takeover_timeout_ms = 10'000;     // for opening
  int64_t beat_interval_ms = 500;
  // For ReadMode::kLease; 0: none. A take-over waits until the last one is over.
  int64_t lease_ms = 0;
  Network* network = nullptr;  // null: PosixNetwork()
  // Where the links live. Null: a thread of the relay's own. Needed without background
  // threads (RelayOptions); the relay is then opened by Relay::OpenOnLoop.
  Loop* loop = nullptr;
};

// What a read may promise.
enum class ReadMode : uint8_t {
  kLocal,    // nothing: this host may have been replaced without knowing
  kLease,    // up to date unless clocks drift by more than 1 %: followers grant leases
  kBarrier,  // up to date: a quorum of followers has been asked since
};

struct FollowerSlot {
  std::string address;
  uint64_t id = 0;  // 0: never reached
};

// The register's content.
struct EpochRecord {
  uint64_t epoch = 0;
  bool is_active = false;  // false: `host` is still taking over
  uint64_t host = 0;       // id of the owner's journal
  std::string host_name;
  uint64_t active_host = 0;  // the last that was active, and in which epoch
  uint64_t active_epoch = 0;
  uint32_t quorum = 0;
  std::vector<FollowerSlot> followers;  // of the last active epoch: these must be sealed
};
Bytes EncodeEpochRecord(const EpochRecord& record);
StatusOr<EpochRecord> DecodeEpochRecord(ByteView object);  // DataLoss

// Thread-safe; calls block. Errors as those of ObjectStore.
class EpochRegister {
 public:
  struct Versioned {
    EpochRecord record;
    std::string etag;
  };
  virtual ~EpochRegister() = default;
  virtual StatusOr<std::optional<Versioned>> Read() = 0;  // nothing: the group is new
  // Replaces the version `etag`, or makes it if `etag` is empty. Returns the new etag.
  // Aborted: it is another by now.
  virtual StatusOr<std::string> Swap(const EpochRecord& record, const std::string& etag) = 0;
};

// In any ObjectStore, as v1/group/<group>/register.
std::unique_ptr<EpochRegister> StoreRegister(std::shared_ptr<ObjectStore> store,
                                             const std::string& group);

}  // namespace edge::srs
