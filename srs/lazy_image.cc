#include "srs/lazy_image.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "edge/base/errors.h"

namespace edge::srs {
namespace {

constexpr size_t kCachedGroupsMax = 64;  // 16 MiB
constexpr uint32_t kRunMax = 16;
constexpr uint32_t kPartGroups = kSectionPages / kGroupPages;

}  // namespace

StatusOr<std::unique_ptr<LazyImage>> LazyImage::Open(Catalog* catalog, const std::string& name,
                                                     uint32_t epoch, Lsn target) {
  std::unique_ptr<LazyImage> image(new LazyImage(catalog));
  Plan plan = catalog->PlanRestore(name, epoch, target);
  image->state_ = plan.base;
  image->base_pages_ = plan.base.pages;
  image->parts_ = std::move(plan.parts);
  image->indexes_.resize(image->parts_.size());
  EDGE_RETURN_IF_ERROR(image->ReadLog(plan));
  image->state_.epoch = epoch;
  return image;
}

Status LazyImage::ReadLog(const Plan& plan) {
  for (const auto& [placed, until] : plan.logs) {
    if (placed.section.first_lsn > state_.lsn + 1) break;
    if (placed.section.state.lsn <= state_.lsn) continue;
    ++fetches_;
    EDGE_ASSIGN_OR_RETURN(Bytes raw, catalog_->Fetch(placed, &bytes_read_));
    if (placed.section.first_lsn == state_.lsn + 1 && placed.section.chain_before != state_.chain) {
      return DataLoss("object {}: commit {} does not follow the one before", placed.key,
                      placed.section.first_lsn);
    }
    const Status visited = VisitLog(placed.section, raw, [&](const RecordView& record) -> Status {
      if (record.lsn == state_.lsn && record.chain != state_.chain) {
        return DataLoss("commit {} is not the one before", record.lsn);
      }
      if (record.lsn <= state_.lsn || record.lsn > until) return OkStatus();
      if (record.pages < state_.pages) {
        std::erase_if(changes_, [&](const auto& change) { return change.first > record.pages; });
        base_pages_ = std::min(base_pages_, record.pages);
      }
      for (const FrameView& frame : record.frames) {
        std::vector<FrameView>& frames = changes_[frame.pgno];
        if (frame.kind != FrameKind::kDiff) frames.clear();
        frames.push_back(frame);
      }
      state_.lsn = record.lsn;
      state_.pages = record.pages;
      state_.wall_ms = record.wall_ms;
      state_.chain = record.chain;
      state_.post = record.post;
      return OkStatus();
    });
    if (!visited.ok()) return Annotate(visited, "object " + placed.key);
    logs_.push_back(std::move(raw));  // moves no byte: the views stay good
  }
  return OkStatus();
}

Status LazyImage::FetchGroups(uint32_t part, uint32_t first, uint32_t count) {
  const Placed& placed = parts_[part];
  std::vector<GroupPlace>& index = indexes_[part];
  if (index.empty()) {
    const uint64_t bytes = GroupIndexBytes(placed.section);
    if (bytes > placed.section.bytes) return DataLoss("object {}: has no page index", placed.key);
    ++fetches_;
    EDGE_ASSIGN_OR_RETURN(
        const Bytes raw,
        catalog_->FetchRange(placed, placed.section.bytes - bytes, bytes, &bytes_read_));
    auto decoded = DecodeGroupIndex(placed.section, raw);
    if (!decoded.ok()) return Annotate(decoded.status(), "object " + placed.key);
    index = std::move(*decoded);
  }
  if (first >= index.size()) return DataLoss("object {}: has no group {}", placed.key, first);
  count = std::min<uint32_t>(count, static_cast<uint32_t>(index.size()) - first);
  const GroupPlace& last = index[first + count - 1];
  const uint64_t start = index[first].offset;
  ++fetches_;
  EDGE_ASSIGN_OR_RETURN(
      const Bytes run,
      catalog_->FetchRange(placed, start, last.offset + last.bytes - start, &bytes_read_));
  if (run.size() != last.offset + last.bytes - start) {
    return DataLoss("object {}: cut off", placed.key);
  }
  for (uint32_t i = first; i < first + count; ++i) {
    const uint32_t number = part * kPartGroups + i;
    if (cached_.contains(number)) continue;
    auto raw = DecompressGroup(placed.section, index[i],
                               ByteView(run).subspan(index[i].offset - start, index[i].bytes));
    if (!raw.ok()) return Annotate(raw.status(), "object " + placed.key);
    Group group{number, std::move(*raw), std::vector<uint32_t>(kGroupPages, UINT32_MAX)};
    const uint32_t first_page = number * kGroupPages + 1;
    EDGE_RETURN_IF_ERROR(
        VisitPages(placed.section, group.raw, [&](uint32_t pgno, const std::byte* page) -> Status {
          if (pgno < first_page || pgno >= first_page + kGroupPages) {
            return DataLoss("object {}: page {} in group {}", placed.key, pgno, number);
          }
          group.offsets[pgno - first_page] = static_cast<uint32_t>(page - group.raw.data());
          return OkStatus();
        }));
    cache_.push_front(std::move(group));
    cached_[number] = cache_.begin();
  }
  while (cache_.size() > kCachedGroupsMax) {
    cached_.erase(cache_.back().number);
    cache_.pop_back();
  }
  return OkStatus();
}

StatusOr<const LazyImage::Group*> LazyImage::FindGroup(uint32_t number) {
  auto it = cached_.find(number);
  if (it == cached_.end()) {
    run_ = number == next_group_ ? std::min(run_ * 2, kRunMax) : 1;
    EDGE_RETURN_IF_ERROR(FetchGroups(number / kPartGroups, number % kPartGroups, run_));
    next_group_ = number + run_;
    it = cached_.find(number);
    if (it == cached_.end()) return Internal("group {} was not fetched", number);
  }
  cache_.splice(cache_.begin(), cache_, it->second);
  return &*it->second;
}

Status LazyImage::ReadPage(uint32_t pgno, std::byte* out) {
  const auto change = changes_.find(pgno);
  const bool needs_base =
      change == changes_.end() || change->second.front().kind == FrameKind::kDiff;
  if (!needs_base || pgno > base_pages_) {
    std::memset(out, 0, kPageBytes);
  } else if (parts_.empty()) {  // the empty database
    std::memcpy(out, EmptyDatabasePage().bytes, kPageBytes);
    if (pgno != 1) std::memset(out, 0, kPageBytes);
  } else {
    const uint32_t number = (pgno - 1) / kGroupPages;
    EDGE_ASSIGN_OR_RETURN(const Group* const group, FindGroup(number));
    const uint32_t at = group->offsets[(pgno - 1) % kGroupPages];
    if (at == UINT32_MAX) {
      std::memset(out, 0, kPageBytes);
    } else {
      std::memcpy(out, group->raw.data() + at, kPageBytes);
    }
  }
  if (change != changes_.end()) {
    for (const FrameView& frame : change->second) frame.ApplyTo(out);
  }
  return OkStatus();
}

}  // namespace edge::srs
