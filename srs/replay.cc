#include "srs/replay.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "edge/base/errors.h"

namespace edge::srs {
namespace {

constexpr size_t kHeldPagesMax = 16384;  // 64 MiB

}  // namespace

StatusOr<Replay::Held*> Replay::Hold(uint32_t pgno) {
  const auto [it, is_new] = held_.try_emplace(pgno);
  if (is_new) {
    it->second.page = std::make_unique<Page>();
    EDGE_RETURN_IF_ERROR(image_->ReadPage(pgno, it->second.page->bytes));
    it->second.before = PageHash(pgno, it->second.page->bytes);
  }
  return &it->second;
}

Status Replay::Apply(const RecordView& record) {
  if (record.lsn != state_.lsn + 1) {
    return DataLoss("record {} cannot follow record {}", record.lsn, state_.lsn);
  }
  if (held_.size() > kHeldPagesMax) EDGE_RETURN_IF_ERROR(Finish());
  if (record.pages < state_.pages) {
    // The pages that go are hashed as they stood before; then the image forgets them.
    for (uint32_t pgno = record.pages + 1; pgno <= state_.pages; ++pgno) {
      EDGE_ASSIGN_OR_RETURN(const Held* held, Hold(pgno));
      state_.post ^= held->before;
      held_.erase(pgno);
    }
    EDGE_RETURN_IF_ERROR(image_->Resize(record.pages));
  } else if (record.pages > state_.pages) {
    EDGE_RETURN_IF_ERROR(image_->Resize(record.pages));
  }
  for (const FrameView& frame : record.frames) {
    if (frame.pgno > record.pages) {
      return DataLoss("record {}: page {} is past the end", record.lsn, frame.pgno);
    }
    EDGE_ASSIGN_OR_RETURN(Held* const held, Hold(frame.pgno));
    frame.ApplyTo(held->page->bytes);
  }
  state_.lsn = record.lsn;
  state_.pages = record.pages;
  state_.wall_ms = record.wall_ms;
  state_.chain = record.chain;
  wanted_post_ = record.post;
  is_dirty_ = true;
  return OkStatus();
}

Status Replay::Finish() {
  if (!is_dirty_) return OkStatus();
  std::vector<uint32_t> order;
  order.reserve(held_.size());
  for (const auto& [pgno, held] : held_) order.push_back(pgno);
  std::ranges::sort(order);
  for (const uint32_t pgno : order) {
    const Held& held = held_[pgno];
    const Hash128 hash = PageHash(pgno, held.page->bytes);
    state_.post ^= held.before;
    state_.post ^= hash;
    EDGE_RETURN_IF_ERROR(image_->WritePage(pgno, held.page->bytes, hash));
  }
  held_.clear();
  is_dirty_ = false;
  if (state_.post == wanted_post_) return OkStatus();
  return DataLoss("record {}: the database hashes to {}, expected {}", state_.lsn,
                  state_.post.ToHex(), wanted_post_.ToHex());
}

}  // namespace edge::srs
