// edge/base/file_system.h - files as a dependency: the real ones, ones in memory that
// can lose what was not synced, and a wrapper that fails on command.
//
// Errors of every call: NotFound, AlreadyExists, PermissionDenied, ResourceExhausted
// (disk full, too many open files), DataLoss (the device failed), InvalidArgument; the
// text names the path. Nothing is durable before Sync() (a file's bytes) and
// SyncDirectory() (its name) have returned OK. After a failed Sync the file's unsynced
// bytes are unknown for good: write them to another file ("Can Applications Recover from
// fsync Failures?", ATC 2020).
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "edge/base/bytes.h"
#include "edge/base/callback.h"
#include "edge/base/status.h"

namespace edge {

class Random;

// An open file. Closed by its destructor. Thread-safe for disjoint ranges; one thread at a
// time otherwise.
class File {
 public:
  virtual ~File() = default;
  // Reads up to out.size() bytes at `offset`; fewer only at the end of the file.
  virtual StatusOr<size_t> ReadAt(uint64_t offset, MutableByteView out) = 0;
  // Writes all of `bytes` or fails, in which case any part of the range may have changed.
  virtual Status WriteAt(uint64_t offset, ByteView bytes) = 0;
  // Makes everything written so far survive power loss (fdatasync, with the size).
  virtual Status Sync() = 0;
  virtual Status Truncate(uint64_t bytes) = 0;
  // Makes the file at least `bytes` long; what is new is written as zeroes, not only
  // reserved, so that later writes there change no metadata and their Sync is one write.
  virtual Status Allocate(uint64_t bytes) = 0;
  virtual StatusOr<uint64_t> Size() = 0;
};

enum class OpenMode : uint8_t {
  kRead,           // must exist
  kReadWrite,      // must exist
  kCreate,         // made if missing, kept if there
  kCreateNew,      // AlreadyExists if there
  kCreateTruncate  // emptied if there
};

// O_DIRECT | O_DSYNC: each write is durable when it returns, no Sync needed. Buffers,
// offsets and sizes must be multiples of 4096. Falls back to O_DSYNC, then to Sync after
// each write, where the file system refuses.
enum class Caching : uint8_t { kNormal, kDirectSync };

struct DirectoryEntry {
  std::string name;  // without the folder
  uint64_t bytes;
  bool is_directory;
};

// A read-only view of a whole file. Unmapped by its destructor. Immutable.
class MappedFile {
 public:
  virtual ~MappedFile() = default;
  virtual ByteView bytes() const = 0;
};

// Thread-safe.
class FileSystem {
 public:
  virtual ~FileSystem() = default;
  virtual StatusOr<std::unique_ptr<File>> Open(const std::string& path, OpenMode mode,
                                               Caching caching = Caching::kNormal) = 0;
  virtual StatusOr<std::unique_ptr<MappedFile>> Map(const std::string& path) = 0;
  virtual Status Remove(const std::string& path) = 0;
  // Atomic; replaces `to`.
  virtual Status Rename(const std::string& from, const std::string& to) = 0;
  // Makes `to` a second name of `from`. AlreadyExists if `to` is there: the way to create
  // a whole file if absent, in one step.
  virtual Status Link(const std::string& from, const std::string& to) = 0;
  // With all missing parents. The names it makes are durable when it returns.
  virtual Status MakeDirectories(const std::string& path) = 0;
  virtual Status SyncDirectory(const std::string& path) = 0;
  // Sorted by name.
  virtual StatusOr<std::vector<DirectoryEntry>> List(const std::string& path) = 0;
  virtual StatusOr<bool> Exists(const std::string& path) = 0;
  // Holds an exclusive lock on `path` (made if missing) until the result is destroyed or
  // the process dies. FailedPrecondition if another process or holder has it.
  virtual StatusOr<std::unique_ptr<File>> Lock(const std::string& path) = 0;
};

// The machine's files. Lives for ever.
FileSystem& PosixFileSystem();

// Reads all of `path`; ResourceExhausted above `bytes_max`.
StatusOr<Bytes> ReadFile(FileSystem& files, const std::string& path,
                         uint64_t bytes_max = uint64_t{1} << 32);
// Replaces `path` by `bytes` so that a crash leaves the old or the new content, synced.
Status WriteFileAtomic(FileSystem& files, const std::string& path, ByteView bytes);

// Files in memory. Crash() does what power loss may do: names not made durable by
// SyncDirectory and bytes not synced are each kept, lost or (per 512-byte sector) torn, as
// `random` says; a rename is kept whole or not at all. Open files then fail with Unavailable
// and locks are free. Paths with and without a leading '/' are the same; ".." is refused.
// Map() takes a copy. Thread-safe; outlives its open files.
class MemoryFileSystem : public FileSystem {
 public:
  static std::unique_ptr<MemoryFileSystem> Create();
  virtual void Crash(Random& random) = 0;
  // While offline every call fails with Unavailable: a machine that is switched off.
  virtual void SetOffline(bool offline) = 0;
  // All content together may not exceed this: ResourceExhausted. Default: no limit.
  virtual void SetCapacity(uint64_t bytes_max) = 0;
  // Flips one bit of what is stored: what a bad disk does.
  virtual Status CorruptBit(const std::string& path, uint64_t bit_offset) = 0;
};

// Passes calls on to `base` but lets a test decide the outcome of each. Thread-safe.
class FaultyFileSystem : public FileSystem {
 public:
  enum class Operation : uint8_t {
    kOpen,
    kRead,
    kWrite,
    kSync,
    kTruncate,
    kAllocate,
    kRemove,
    kRename,
    kLink,
    kMakeDirectories,
    kSyncDirectory,
    kList,
    kExists,
    kLock,
    kMap
  };
  // Called before each operation; a non-OK result is returned instead of doing it. A write
  // that fails so may first write a prefix of `torn_bytes` bytes.
  struct Decision {
    Status status;
    size_t torn_bytes = 0;
  };
  using Decide = Callback<Decision(Operation, const std::string& path)>;
  // `base` must outlive the result.
  static std::unique_ptr<FaultyFileSystem> Create(FileSystem& base, Decide decide);
  // A Decide that fails operation number `n` (from 0) and all later ones, for fault sweeps;
  // `*count` is how many operations were seen.
  static Decide FailFrom(uint64_t n, Status status, uint64_t* count);
};

}  // namespace edge
