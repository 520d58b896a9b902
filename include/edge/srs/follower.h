// edge/srs/follower.h - keeps a synced copy of the commits that hosts have made of late.
//
//   auto follower = srs::Follower::Create(loop, {.directory = "follower", .address =
//   "0.0.0.0:7000",
//                                                .secret = secret});
//
// A host sends each block of its journal while it writes it; a follower answers once the
// block is in its own, synced. With 3 of 5 followers a commit survives the host and any two
// of them. A follower also guards epochs: once it has promised one to a host, it takes
// nothing from hosts of smaller ones. What the host says is in the store is deleted here;
// what nobody has stored for long is uploaded by the follower itself.
// The protocol: docs/formats/replication.md. As a program: edge-follower.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "edge/base/clock.h"
#include "edge/base/executor.h"
#include "edge/base/file_system.h"
#include "edge/base/metrics.h"
#include "edge/base/network.h"
#include "edge/base/random.h"
#include "edge/base/status.h"
#include "edge/srs/object_store.h"

namespace edge::srs {

struct FollowerOptions {
  std::string directory = {};  // made if missing; one follower at a time
  std::string address = {};    // where hosts connect: "10.0.0.2:7000"
  // TLS 1.3 with this as the pre-shared key, 16 bytes or more; the hosts have the same.
  // Empty: plain text, which is refused unless `address` is of this machine only.
  std::string secret = {};
  std::shared_ptr<ObjectStore> store = nullptr;  // for uploads in need; may be null
  int64_t upload_after_ms = 30'000;              // of no word that entries are stored; 0: never
  int64_t lease_ms_max = 10'000;                 // a host is granted no longer one
  uint64_t journal_file_bytes = 64 << 20;
  uint64_t disk_bytes_max = uint64_t{16} << 30;  // above, entries are refused
  FileSystem* files = nullptr;                   // null: PosixFileSystem()
  Network* network = nullptr;                    // null: PosixNetwork()
  Random* random = nullptr;                      // null: SystemRandom()
  Clock* clock = nullptr;                        // for leases; null: the loop's
  MetricsRegistry* metrics = nullptr;            // may be null
};

struct FollowerGroup {
  std::string name;
  uint64_t promised_epoch = 0;
  uint64_t base_index = 0;       // entries up to here are in the store
  uint64_t last_index = 0;       // and up to here on this disk
  uint64_t confirmed_index = 0;  // as far as its host has said
  uint64_t uploaded_index = 0;   // by this follower, in need
};

// Single-threaded: its loop's.
class Follower {
 public:
  // Recovers its journal, then listens. FailedPrecondition: the directory is in use, or plain
  // text on an address that others can reach; DataLoss: the journal is damaged (names file and
  // offset; start anew with an empty directory, then it counts again from the next epoch);
  // InvalidArgument: a bad option; Unavailable: the address is taken.
  static StatusOr<std::unique_ptr<Follower>> Create(Loop& loop, FollowerOptions options);
  virtual ~Follower() = default;

  virtual const std::string& address() const = 0;  // with the port that was taken
  virtual uint64_t id() const = 0;                 // made with the directory
  virtual std::vector<FollowerGroup> groups() const = 0;
  // OK until its disk has failed: then it answers nobody any more, and says why.
  virtual Status health() const = 0;
};

}  // namespace edge::srs
