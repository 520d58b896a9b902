// srs/image.h - the pages of one live database: log in memory, changed pages, cache file.
//
// A page's newest committed version is in the write-ahead log (SQLite's, in memory), else
// in the overlay (what SQLite's checkpoints moved out of the log, or replay put there), else
// in the cache file. Flush() brings the cache file to one durable commit: the pages go to a
// flush file first, which is complete and synced before the cache is touched, so a crash in
// between is repaired by writing them again. The cache file therefore never holds anything
// that the journal might not confirm. Byte table: docs/formats/flush.md.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "edge/base/callback.h"
#include "edge/base/file_system.h"
#include "edge/base/mutex.h"
#include "srs/record.h"
#include "srs/wal_buffer.h"

namespace edge::srs {

inline constexpr size_t kWalMemoryFrames = 4096;        // 16 MiB; more goes to a file
inline constexpr size_t kTransactionFramesMax = 32768;  // 128 MiB
inline constexpr size_t kOverlayPagesMax = 2048;        // 8 MiB; committers wait above this
inline constexpr uint32_t kVerifyPagesMax = 4096;       // caches up to 16 MiB are hashed on opening

struct ImagePaths {
  std::string cache;  // the SQLite file
  std::string flush;  // its state and the pages last written
  std::string spill;  // temporary
};

// A database in a plain file of its own, for rebuilding and exporting. Pages written in order
// go to the file many at a time; what was not synced may still be in memory.
// Single-threaded.
class FileImage final : public PageImage {
 public:
  explicit FileImage(std::unique_ptr<File> file) : file_(std::move(file)) {}
  Status ReadPage(uint32_t pgno, std::byte* out) override;
  Status WritePage(uint32_t pgno, const std::byte* page, const Hash128& hash) override;
  Status Resize(uint32_t pages) override;
  Status Sync();

 private:
  Status WritePending();
  std::unique_ptr<File> file_;
  Bytes pending_;
  uint32_t pending_first_ = 0;
};

// Turns a finished database file into a plain one (not in WAL mode, so that it can be read
// from a read-only place) and gives it its name, synced.
Status InstallPlain(FileSystem& files, const std::string& finished, const std::string& path);

// One thread at a time (the database's), but for Flush() and the calls marked thread-safe.
class Image final : public PageImage {
 public:
  // A new database.
  static std::unique_ptr<Image> Create(FileSystem* files, ImagePaths paths, std::string name,
                                       uint64_t journal_id, uint32_t epoch);
  // What the local files hold. NotFound: nothing usable is there. DataLoss: it is damaged.
  static StatusOr<std::unique_ptr<Image>> Load(FileSystem* files, ImagePaths paths,
                                               std::string name, uint64_t journal_id);
  // Makes a finished, synced database file the cache of `name`.
  static Status Install(FileSystem* files, const ImagePaths& paths, const std::string& name,
                        uint64_t journal_id, const State& state, const std::string& finished);
  static Status RemoveFiles(FileSystem* files, const ImagePaths& paths);
  ~Image() override = default;
  // Hashes all pages; nothing may be in the log. DataLoss.
  Status Verify();

  // The newest commit. Of the database's thread; copy_state() is thread-safe.
  const State& state() const { return state_; }
  State copy_state() const;
  Lsn cached_lsn() const { return cached_lsn_.load(std::memory_order_acquire); }  // Thread-safe.

  // Replay (nothing may be in the log).
  Status ReadPage(uint32_t pgno, std::byte* out) override;
  Status WritePage(uint32_t pgno, const std::byte* page, const Hash128& hash) override;
  Status Resize(uint32_t pages) override;
  void SetState(const State& state);

  // SQLite's main file: the database as of its last checkpoint.
  Status ReadMain(uint64_t offset, MutableByteView out, size_t* got);
  Status WriteMain(uint64_t offset, ByteView bytes);
  void TruncateMain(uint64_t bytes) { main_pages_ = static_cast<uint32_t>(bytes / kPageBytes); }
  uint64_t main_bytes() const { return uint64_t{main_pages_} * kPageBytes; }
  WalBuffer& wal() { return wal_; }
  void ForgetWal();  // it starts again: all its frames have been checkpointed

  // Turns the frames [first, last] of the log into the next commit; `builder` has its record
  // then. On an error the image is of no use any more.
  Status Publish(uint32_t first, uint32_t last, uint32_t pages, int64_t wall_ms,
                 RecordBuilder* builder);

  // Brings the cache file to the newest commit, once `wait_durable` says that it is durable.
  // Any thread.
  Status Flush(Callback<Status(Lsn)> wait_durable);
  size_t overlay_pages() const;

  // Hands out all pages of the cache file while keeping Flush() away. Any thread. `state`
  // gets what they are the state of.
  Status VisitCache(Callback<Status(const State&)> begin,
                    Callback<Status(uint32_t pgno, const std::byte* page)> visit);

 private:
  struct Version {
    std::shared_ptr<const Page> page;  // null: zeros. Owners: the overlay and running flushes
    Hash128 hash;
  };
  struct Frame {
    uint32_t index;
    Hash128 hash;
  };
  Image(FileSystem* files, ImagePaths paths, std::string name, uint64_t journal_id);
  // The newest version: where it lies, or in `scratch`.
  StatusOr<const std::byte*> Newest(uint32_t pgno, Page* scratch, std::shared_ptr<const Page>* keep,
                                    Hash128* hash);
  Status ReadCache(uint32_t pgno, std::byte* out);
  Status WriteFlushFile(const State& state, uint32_t pages_kept,
                        const std::vector<std::pair<uint32_t, Version>>& pages);
  Status WriteCache(File& file, uint32_t pages_kept, const State& state,
                    const std::vector<std::pair<uint32_t, Version>>& pages);
  void ShrinkLocked(uint32_t pages) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  FileSystem* const files_;
  const ImagePaths paths_;
  const std::string name_;
  const uint64_t journal_id_;
  WalBuffer wal_;
  uint32_t main_pages_ = 0;
  struct Change {
    uint32_t pgno;
    Frame frame;
  };
  std::vector<Change> changed_;  // scratch of Publish

  mutable Mutex mu_;
  State state_;  // written by the database's thread under mu_
  absl::flat_hash_map<uint32_t, Frame> wal_pages_ ABSL_GUARDED_BY(mu_);
  absl::flat_hash_map<uint32_t, Version> overlay_ ABSL_GUARDED_BY(mu_);
  uint32_t cache_pages_ ABSL_GUARDED_BY(mu_) = 0;    // pages of the file above it read as zeros
  uint32_t pages_min_ ABSL_GUARDED_BY(mu_) = 0;      // least size since the flush began
  std::shared_ptr<File> file_ ABSL_GUARDED_BY(mu_);  // null before the first flush

  Mutex flush_mu_;  // held while the cache file changes: around I/O, before mu_
  State cached_ ABSL_GUARDED_BY(flush_mu_);
  // Pages were written again on loading. The flush file must not go before they are synced.
  bool cache_is_unsynced_ ABSL_GUARDED_BY(flush_mu_) = false;
  // Why the cache file is not to be trusted until it is loaded again (from the flush file).
  Status cache_failure_ ABSL_GUARDED_BY(flush_mu_);
  std::atomic<Lsn> cached_lsn_{0};
};

}  // namespace edge::srs
