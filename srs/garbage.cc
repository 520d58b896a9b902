#include "srs/garbage.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "edge/base/errors.h"
#include "srs/image.h"
#include "srs/replay.h"

namespace edge::srs {
namespace {

constexpr std::string_view kMarksPrefix = "v1/gc/";
constexpr char kMarksMagic[8] = {'E', 'D', 'G', 'E', 'G', 'C', 'M', '1'};
constexpr uint32_t kMarksVersion = 1;

using Line = std::pair<std::string, uint32_t>;  // name, epoch

struct Interval {
  Lsn from;  // state at this commit, and
  Lsn to;    // every commit up to this
};

// The newest complete snapshot that is not above `lsn` and not younger than `wall_ms`.
std::optional<State> BaseOf(const Entry& entry, Lsn lsn, int64_t wall_ms) {
  for (auto at = entry.snapshots.upper_bound(lsn); at != entry.snapshots.begin();) {
    --at;
    const State& state = at->second[0].section.state;
    if (Catalog::IsComplete(at->second) && state.wall_ms <= wall_ms) return state;
  }
  return std::nullopt;
}

// What of every line is needed.
class Needs {
 public:
  Needs(const Catalog& catalog, int64_t edge_wall_ms) : catalog_(catalog) {
    for (const auto& [name, epoch] : catalog.AllEpochs()) {
      const auto entry = catalog.Find(name, epoch);
      if (!entry || !entry->newest) continue;
      if (EndOf(name, epoch, *entry) <= edge_wall_ms) continue;  // deleted before the retention
      Need(name, epoch, UINT64_MAX, edge_wall_ms);
    }
  }

  bool IsNeeded(const Section& section) const {
    const auto line = needs_.find({section.name, section.state.epoch});
    if (line == needs_.end()) return false;
    return std::ranges::any_of(line->second, [&](const Interval& need) {
      switch (section.kind) {
        case SectionKind::kLog:
          return section.state.lsn > need.from && section.first_lsn <= need.to;
        case SectionKind::kPages:
          return section.state.lsn >= need.from && section.state.lsn <= need.to;
        default:
          return true;
      }
    });
  }

 private:
  // When the line ended; never if it still goes on.
  int64_t EndOf(const std::string& name, uint32_t epoch, const Entry& entry) const {
    if (entry.ended_wall_ms != 0) return entry.ended_wall_ms;
    if (epoch <= catalog_.DeletedEpoch(name)) return entry.newest->wall_ms;
    return INT64_MAX;
  }
  void Need(const std::string& name, uint32_t epoch, Lsn to, int64_t wall_ms) {
    const auto entry = catalog_.Find(name, epoch);
    if (!entry) return;
    const std::optional<State> base = BaseOf(*entry, to, wall_ms);
    needs_[{name, epoch}].push_back({base ? base->lsn : 0, to});
    if (base || !entry->fork) return;
    const Section& fork = entry->fork->section;
    Need(fork.parent, fork.parent_epoch, std::min(to, fork.state.lsn), wall_ms);
  }
  const Catalog& catalog_;
  std::map<Line, std::vector<Interval>> needs_;
};

}  // namespace

std::vector<std::string> FindGarbage(const Catalog& catalog, int64_t edge_wall_ms) {
  const Needs needs(catalog, edge_wall_ms);
  const std::map<std::string, PackInfo> packs = catalog.Packs();
  std::map<uint64_t, std::string> newest;                                      // by journal
  for (const auto& [key, pack] : packs) newest[pack.header.journal_id] = key;  // in order of number
  std::set<std::string> garbage;
  for (const auto& [key, pack] : packs) {
    if (newest[pack.header.journal_id] == key || pack.header.wall_ms > edge_wall_ms) continue;
    const bool is_needed = std::ranges::any_of(pack.sections, [&](const Section& section) {
      return section.kind != SectionKind::kDelete && needs.IsNeeded(section);
    });
    if (!is_needed) garbage.insert(key);
  }
  // The note that a database was deleted stays while anything of it does.
  for (bool changed = true; changed;) {
    changed = false;
    std::map<std::string, uint32_t> kept;  // name -> lowest epoch
    for (const auto& [key, pack] : packs) {
      if (garbage.contains(key)) continue;
      for (const Section& section : pack.sections) {
        if (section.kind == SectionKind::kDelete) continue;
        const auto [it, is_new] = kept.try_emplace(section.name, section.state.epoch);
        if (!is_new) it->second = std::min(it->second, section.state.epoch);
      }
    }
    changed = std::erase_if(garbage, [&](const std::string& key) {
                const auto& sections = packs.at(key).sections;
                return std::ranges::any_of(sections, [&](const Section& section) {
                  const auto it = kept.find(section.name);
                  return section.kind == SectionKind::kDelete && it != kept.end() &&
                         it->second <= section.state.epoch;
                });
              }) > 0;
  }
  return {garbage.begin(), garbage.end()};
}

StatusOr<State> ProveLine(Catalog* catalog, FileSystem* files, const std::string& name,
                          uint32_t epoch, Lsn from, const std::string& scratch,
                          uint64_t* bytes_read, ProgressCallback progress) {
  State state;
  const auto prove = [&]() -> Status {
    EDGE_ASSIGN_OR_RETURN(auto file, files->Open(scratch, OpenMode::kCreateTruncate));
    FileImage image(std::move(file));
    RestoreReport report;
    EDGE_ASSIGN_OR_RETURN(
        state, catalog->Restore(name, epoch, from, &image, &report, std::move(progress)));
    *bytes_read += report.bytes_read;
    if (state.lsn != from) {
      return DataLoss("database \"{}\": commit {} cannot be restored, only {}", name, from,
                      state.lsn);
    }
    // Read it back from the file: what counts is what was restored, not what was meant.
    Hash128 post;
    Page page;
    for (uint32_t pgno = 1; pgno <= state.pages; ++pgno) {
      EDGE_RETURN_IF_ERROR(image.ReadPage(pgno, page.bytes));
      post ^= PageHash(pgno, page.bytes);
    }
    if (post != state.post) {
      return DataLoss("database \"{}\": restored at commit {} it hashes to {}, expected {}", name,
                      from, post.ToHex(), state.post.ToHex());
    }
    Replay replay(&image, state);
    EDGE_RETURN_IF_ERROR(catalog->VisitRecords(
        name, epoch, from, UINT64_MAX,
        [&](const RecordView& record) { return replay.Apply(record); }, bytes_read));
    EDGE_RETURN_IF_ERROR(replay.Finish());
    state = replay.state();
    return OkStatus();
  };
  const Status proven = prove();
  files->Remove(scratch).IgnoreError();
  if (!proven.ok()) return proven;
  return state;
}

// --- Marks ---

Bytes EncodeMarks(const GarbageMarks& marks) {
  Bytes object;
  ByteWriter out(&object);
  out.Raw(AsBytes({kMarksMagic, 8}));
  out.U32(kMarksVersion);
  out.U32(0);  // the checksum
  out.U64(static_cast<uint64_t>(marks.wall_ms));
  out.U32(static_cast<uint32_t>(marks.keys.size()));
  for (const std::string& key : marks.keys) out.Sized(AsBytes(key));
  StoreLittle(object.data() + 12, Crc32c(object));
  return object;
}

StatusOr<GarbageMarks> DecodeMarks(ByteView object) {
  Bytes raw(object.begin(), object.end());
  if (raw.size() < 28) return DataLoss("marks cut off at {} bytes", raw.size());
  const auto crc = LoadLittle<uint32_t>(raw.data() + 12);
  StoreLittle(raw.data() + 12, uint32_t{0});
  if (!std::ranges::equal(ByteView(raw).first(8), AsBytes({kMarksMagic, 8})) ||
      Crc32c(raw) != crc) {
    return DataLoss("marks damaged");
  }
  ByteReader in(ByteView(raw).subspan(8));
  if (const uint32_t version = in.U32(); version != kMarksVersion) {
    return FailedPrecondition("marks of format version {}; this program knows {}", version,
                              kMarksVersion);
  }
  in.U32();
  GarbageMarks marks;
  marks.wall_ms = static_cast<int64_t>(in.U64());
  const uint32_t count = in.U32();
  for (uint32_t i = 0; i < count && !in.failed(); ++i) marks.keys.emplace_back(AsText(in.Sized()));
  if (in.failed() || in.remaining() != 0) return DataLoss("marks cut off in their keys");
  return marks;
}

// --- Collecting ---

namespace {

// Those of `garbage` that were marked long enough ago; the others in `*unmarked`.
StatusOr<std::vector<std::string>> RipeOf(ObjectStore* store,
                                          const std::vector<std::string>& garbage, int64_t now_ms,
                                          int64_t grace_ms, std::vector<std::string>* unmarked) {
  std::set<std::string> ripe;
  std::set<std::string> marked;
  EDGE_ASSIGN_OR_RETURN(const auto objects, store->List(std::string(kMarksPrefix)));
  for (const ObjectInfo& object : objects) {
    EDGE_ASSIGN_OR_RETURN(const Bytes content, store->Get(object.key));
    const auto marks = DecodeMarks(content);
    if (!marks.ok()) return Annotate(marks.status(), "object " + object.key);
    marked.insert(marks->keys.begin(), marks->keys.end());
    if (marks->wall_ms + grace_ms <= now_ms) ripe.insert(marks->keys.begin(), marks->keys.end());
  }
  std::vector<std::string> now;
  for (const std::string& key : garbage) {
    if (ripe.contains(key)) now.push_back(key);
    if (!marked.contains(key)) unmarked->push_back(key);
  }
  return now;
}

Status RemoveOldMarks(ObjectStore* store, const Catalog& catalog) {
  const auto packs = catalog.Packs();
  EDGE_ASSIGN_OR_RETURN(const auto objects, store->List(std::string(kMarksPrefix)));
  for (const ObjectInfo& object : objects) {
    EDGE_ASSIGN_OR_RETURN(const Bytes content, store->Get(object.key));
    const auto marks = DecodeMarks(content);
    const bool is_used = marks.ok() && std::ranges::any_of(marks->keys, [&](const auto& key) {
                           return packs.contains(key);
                         });
    if (!is_used) EDGE_RETURN_IF_ERROR(store->Delete(object.key));
  }
  return OkStatus();
}

}  // namespace

StatusOr<GarbageReport> CollectGarbage(ObjectStore* store, Catalog* catalog, FileSystem* files,
                                       Clock* clock, const GarbageOptions& options,
                                       const std::string& scratch, ProgressCallback progress) {
  if (options.retention_ms < 0 || options.grace_ms < 0) {
    return InvalidArgument("GarbageOptions: retention_ms and grace_ms cannot be negative");
  }
  const std::vector<std::string> damage = catalog->Damage();
  if (!damage.empty()) {
    return DataLoss("nothing is deleted while packs cannot be read: {}", damage[0]);
  }
  const int64_t now_ms = clock->wall_ms();
  const int64_t edge_ms = now_ms - options.retention_ms;
  const std::map<std::string, PackInfo> packs = catalog->Packs();
  const std::vector<std::string> garbage = FindGarbage(*catalog, edge_ms);
  GarbageReport report;
  report.packs = packs.size();
  report.candidates = garbage.size();
  std::set<Line> losers;
  for (const std::string& key : garbage) {
    report.candidate_bytes += packs.at(key).bytes;
    for (const Section& section : packs.at(key).sections) {
      if (section.kind != SectionKind::kDelete) losers.insert({section.name, section.state.epoch});
    }
  }
  const auto rest = catalog->Without(garbage);
  // Forks live on what their parents leave.
  for (const auto& [name, epoch] : rest->AllEpochs()) {
    const auto entry = rest->Find(name, epoch);
    if (entry && entry->fork &&
        losers.contains({entry->fork->section.parent, entry->fork->section.parent_epoch})) {
      losers.insert({name, epoch});
    }
  }
  uint64_t bytes_read = 0;
  uint64_t done = 0;
  for (const auto& [name, epoch] : losers) {
    const auto before = catalog->Find(name, epoch);
    const auto after = rest->Find(name, epoch);
    if (progress) progress(++done, losers.size());
    if (!after || !after->newest) continue;  // all of it is past its time
    const State edge = catalog->NewestBefore(name, epoch, edge_ms);
    // The oldest point retained is the state at the edge of the retention.
    const Lsn from = std::max(edge.lsn, rest->OldestState(name, epoch).lsn);
    EDGE_ASSIGN_OR_RETURN(const State reached, ProveLine(rest.get(), files, name, epoch, from,
                                                         scratch, &bytes_read, {}));
    if (reached.lsn != before->newest->lsn || reached.chain != before->newest->chain ||
        from > std::max(edge.lsn, catalog->OldestState(name, epoch).lsn)) {
      return DataLoss(
          "database \"{}\": what would be left reaches from commit {} to {}, not from "
          "{} to {}: nothing was deleted",
          name, from, reached.lsn, edge.lsn, before->newest->lsn);
    }
    ++report.databases_proven;
  }
  std::vector<std::string> unmarked;
  EDGE_ASSIGN_OR_RETURN(const std::vector<std::string> ripe,
                        RipeOf(store, garbage, now_ms, options.grace_ms, &unmarked));
  if (options.dry_run) return report;
  if (!unmarked.empty()) {
    EDGE_RETURN_IF_ERROR(store
                             ->Put(Format("{}{:016x}.marks", {kMarksPrefix, now_ms}),
                                   EncodeMarks({now_ms, unmarked}), {.if_absent = true})
                             .status());
    report.marked = unmarked.size();
  }
  std::vector<std::string> condemned = ripe;
  if (options.grace_ms == 0) condemned = garbage;
  for (const std::string& key : condemned) {
    EDGE_RETURN_IF_ERROR(store->Delete(key));
    ++report.deleted;
  }
  EDGE_RETURN_IF_ERROR(catalog->Refresh());
  EDGE_RETURN_IF_ERROR(RemoveOldMarks(store, *catalog));
  return report;
}

}  // namespace edge::srs
