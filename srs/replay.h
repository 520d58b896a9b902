// srs/replay.h - replays many records on an image, hashing each changed page only once.
//
// The chain in each record covers the record and all before it, so a run of records that
// follow each other is the run that was written. What is left to check is that it was applied
// to the right pages, and one comparison of the database's hash at the end does that.
#pragma once
#include <memory>

#include "absl/container/flat_hash_map.h"
#include "srs/record.h"

namespace edge::srs {

// Single-threaded. Holds up to 64 MiB of changed pages, then checks and writes them.
class Replay {
 public:
  // `image` is at `state`, and is of no use after an error.
  Replay(PageImage* image, const State& state) : image_(image), state_(state) {}

  Status Apply(const RecordView& record);
  // Writes what is held back and compares the hash: DataLoss.
  Status Finish();
  const State& state() const { return state_; }

 private:
  struct Held {
    std::unique_ptr<Page> page;
    Hash128 before;  // its hash in the image
  };
  StatusOr<Held*> Hold(uint32_t pgno);

  PageImage* const image_;
  State state_;          // post: of what is in the image; the rest: after the newest record
  Hash128 wanted_post_;  // after the newest record
  bool is_dirty_ = false;
  absl::flat_hash_map<uint32_t, Held> held_;
};

}  // namespace edge::srs
