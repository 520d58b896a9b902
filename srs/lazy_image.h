// srs/lazy_image.h - a database at one commit, its pages fetched from the store on demand.
//
// The log since the snapshot is read at once (a snapshot is made before it grows long) and
// kept as changes per page. A page is then its group of 64 in the snapshot, fetched by one
// range read through the page index, with its changes applied. Groups read in order are
// fetched several at a time.
#pragma once
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "edge/srs/store_reader.h"
#include "srs/catalog.h"

namespace edge::srs {

// Single-threaded.
class LazyImage {
 public:
  // At commit `target`, or the newest one before. `catalog` must outlive it.
  static StatusOr<std::unique_ptr<LazyImage>> Open(Catalog* catalog, const std::string& name,
                                                   uint32_t epoch, Lsn target);
  Status ReadPage(uint32_t pgno, std::byte* out);
  const State& state() const { return state_; }
  uint64_t fetches() const { return fetches_; }
  uint64_t bytes_read() const { return bytes_read_; }

 private:
  explicit LazyImage(Catalog* catalog) : catalog_(catalog) {}
  struct Group {
    uint32_t number;  // of all groups of the snapshot
    Bytes raw;
    std::vector<uint32_t> offsets;  // of its pages in raw, UINT32_MAX: all zero
  };
  Status ReadLog(const Plan& plan);
  StatusOr<const Group*> FindGroup(uint32_t number);
  Status FetchGroups(uint32_t part, uint32_t first, uint32_t count);

  Catalog* const catalog_;
  State state_;
  std::vector<Placed> parts_;
  std::vector<std::vector<GroupPlace>> indexes_;  // by part; empty: not read yet
  uint32_t base_pages_ = 0;                       // pages above it are zero before changes
  std::vector<Bytes> logs_;
  std::unordered_map<uint32_t, std::vector<FrameView>> changes_;  // views into logs_
  std::list<Group> cache_;                                        // most recently used first
  std::unordered_map<uint32_t, std::list<Group>::iterator> cached_;
  uint32_t next_group_ = UINT32_MAX;  // behind the last ones fetched
  uint32_t run_ = 1;                  // groups to fetch at once
  uint64_t fetches_ = 0;
  uint64_t bytes_read_ = 0;
};

// A SQLite connection on it. `catalog` must outlive the result.
StatusOr<std::unique_ptr<ReadOnlyDatabase>> OpenView(Catalog* catalog, const std::string& name,
                                                     uint32_t epoch, const Bookmark& target);

}  // namespace edge::srs
