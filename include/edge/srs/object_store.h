// edge/srs/object_store.h - where batches and snapshots go: anything with S3's promises.
//
// Keys are '/'-separated paths of [A-Za-z0-9._-], at most 512 bytes. Objects are immutable
// in our use but for registers, which change only by compare-and-swap on the etag.
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "edge/base/bytes.h"
#include "edge/base/file_system.h"
#include "edge/base/status.h"

namespace edge::srs {

struct ObjectInfo {
  std::string key;
  uint64_t bytes = 0;
  std::string etag;  // changes with the content
};

struct PutCondition {
  bool if_absent = false;                   // AlreadyExists if the key is there
  std::optional<std::string> if_etag = {};  // Aborted if the content is not this one
};

struct ByteRange {
  uint64_t offset = 0;
  uint64_t bytes = UINT64_MAX;  // to the end at most
};

// Thread-safe. Calls block; they run on the relay's own threads. Errors: NotFound,
// AlreadyExists and Aborted (conditions), InvalidArgument (a bad key), Unavailable (retry
// later), PermissionDenied, ResourceExhausted (full), DataLoss.
class ObjectStore {
 public:
  virtual ~ObjectStore() = default;
  // Atomic and durable when it returns OK. Returns the new etag.
  virtual StatusOr<std::string> Put(const std::string& key, ByteView content,
                                    const PutCondition& condition = {}) = 0;
  virtual StatusOr<Bytes> Get(const std::string& key, const ByteRange& range = {}) = 0;
  virtual StatusOr<ObjectInfo> Head(const std::string& key) = 0;
  // The first keys that begin with `prefix`, in byte order, above `start_after`. The etags
  // may be left empty.
  virtual StatusOr<std::vector<ObjectInfo>> List(const std::string& prefix,
                                                 const std::string& start_after = "",
                                                 size_t count_max = 1000) = 0;
  virtual Status Delete(const std::string& key) = 0;  // OK if it was not there
};

// For tests.
std::unique_ptr<ObjectStore> MemoryStore();
// A folder, made on first use. Atomic by rename, create-if-absent by link; safe for several
// processes on one machine. `files` must outlive it.
std::unique_ptr<ObjectStore> FolderStore(std::string path, FileSystem& files = PosixFileSystem());

}  // namespace edge::srs
