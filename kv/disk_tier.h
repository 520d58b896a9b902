// kv/disk_tier.h - more entries than fit in memory, in files; a hit is one read.
//
// A log in segments (docs/formats/kv-segment.md): records are appended, each with its own
// checksums, and whole segments are dropped, oldest first (FIFO with re-insertion of records
// that were read: flash wears and seeks least that way; McAllister et al., "Kangaroo", SOSP
// 2021, section 2). Memory holds 8 bytes per record: 15 bits of its hash, one bit "was read",
// its size to within an eighth, and its place. So a look-up knows what to read and where; the full
// key is compared after that.
//
// Truth after a crash: a Put first voids the older record in its file and syncs that, so no
// crash brings back what was overwritten here. All else that a crash can lose is a cached
// copy. Records that a refresh replaced may come back; their load time says how old they are.
//
// Opening reads one small manifest per sealed segment, or scans a segment that has none. A
// manifest may name voided records: reading them fails, and that is a miss.
#pragma once
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "edge/base/bytes.h"
#include "edge/base/file_system.h"
#include "edge/base/mutex.h"
#include "edge/base/status.h"
#include "kv/hot_tier.h"

namespace edge::kv {

// A record that was read; absent entries are not kept on disk.
struct DiskRecord {
  std::string value;
  std::string metadata;
  int64_t expires_s = 0;
  int64_t loaded_s = 0;
};

struct DiskTierOptions {
  FileSystem* files = nullptr;
  std::string directory;
  uint64_t bytes_max = 1 << 30;  // of all segments; at least 4 of them
  uint64_t segment_bytes = 0;    // 0: a 64th of bytes_max, within [64 KiB, 64 MiB]
};

// Thread-safe. Reads of the files run beside everything else; writers take turns.
class DiskTier {
 public:
  struct Usage {
    uint64_t entries = 0;
    uint64_t bytes = 0;         // of the segments
    uint64_t memory_bytes = 0;  // of the index
    uint64_t reads = 0;         // of a file
    uint64_t bytes_appended = 0;
  };

  // Takes what is in the folder: damaged files are dropped or read as far as they go.
  // FailedPrecondition if another process has the folder; InvalidArgument; errors of files.
  static StatusOr<std::unique_ptr<DiskTier>> Open(const DiskTierOptions& options);
  // Writes what is buffered, and a manifest of it, so that all is found again.
  ~DiskTier();

  // A damaged or voided record is a miss; an error is the file system's.
  StatusOr<std::optional<DiskRecord>> Get(std::string_view key);
  // Replaces; may decide not to keep (a record that does not fit into a segment).
  Status Insert(const NewRecord& record);
  // Forgets what is kept for the key; a crash may bring it back.
  Status Forget(std::string_view key);
  // Forgets it, and all that was forgotten before, for good: durable when this returns OK.
  // Costs nothing if there is nothing to forget.
  Status Void(std::string_view key);
  Usage usage() const;

  // What a segment holds, from its bytes (`ScanSegment`) or its manifest: for the fuzzers.
  struct Place {
    uint64_t hash;
    uint32_t offset;  // in units of 16 bytes
    uint32_t units;
  };
  static StatusOr<std::vector<Place>> ReadManifest(ByteView manifest, uint64_t segment_id);
  static StatusOr<std::vector<Place>> ScanSegment(ByteView segment, uint64_t segment_id);

 private:
  struct Segment {
    uint64_t id = 0;
    std::unique_ptr<File> file;
    uint64_t bytes = 0;          // with what is buffered
    std::vector<Place> places;   // of the newest; a sealed one has them in its manifest
    bool has_new_voids = false;  // not synced
  };
  explicit DiskTier(const DiskTierOptions& options);

  Status Load() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Status LoadSegment(uint64_t id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Status StartSegment() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Status Seal(Segment* segment) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Status FlushBuffer() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Status Append(uint64_t hash, ByteView record) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Status DropOldest() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Status DropFiles(uint64_t id);
  uint64_t LogBytes() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  StatusOr<std::vector<Place>> PlacesOf(const Segment& segment)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::string PathOf(uint64_t id, std::string_view suffix) const;

  uint64_t WordFor(uint64_t hash, uint64_t segment_id, const Place& place) const;
  std::shared_ptr<Segment> SegmentOf(uint64_t word) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  uint64_t OffsetOf(uint64_t word) const;
  Status Enter(uint64_t hash, uint64_t word) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Status Resize(size_t slots) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  static void PlaceWord(std::vector<uint64_t>* index, uint64_t hash, uint64_t word);
  // The slot of exactly that word, or SIZE_MAX.
  size_t SlotOf(uint64_t hash, uint64_t word) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Voids, without syncing, whatever has the tag of `hash`: the record of that key, or by a
  // small chance also another's, which is then one cached copy less.
  Status VoidTagged(uint64_t hash) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const DiskTierOptions options_;
  uint64_t units_bits_ = 0;  // log2 of the units of a segment
  std::unique_ptr<File> lock_file_;
  mutable Mutex mutex_;
  std::deque<std::shared_ptr<Segment>> segments_ ABSL_GUARDED_BY(mutex_);  // oldest first
  std::vector<uint64_t> index_ ABSL_GUARDED_BY(mutex_);  // linear probing; see disk_tier.cc
  size_t used_slots_ ABSL_GUARDED_BY(mutex_) = 0;        // entries and graves
  uint64_t entries_ ABSL_GUARDED_BY(mutex_) = 0;
  Bytes buffer_ ABSL_GUARDED_BY(mutex_);  // the end of the newest segment, not written yet
  bool new_voids_ ABSL_GUARDED_BY(mutex_) = false;
  uint64_t reads_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t bytes_appended_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace edge::kv
