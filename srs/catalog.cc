#include "srs/catalog.h"

#include <algorithm>
#include <limits>
#include <set>
#include <utility>

#include "edge/base/errors.h"
#include "srs/replay.h"

namespace edge::srs {
namespace {

constexpr std::string_view kPackPrefix = "v1/pack/";
constexpr std::string_view kCatalogPrefix = "v1/catalog/";
constexpr uint64_t kTailBytes = 64 << 10;  // read of a pack first: most directories fit
constexpr size_t kListCount = 1000;
constexpr size_t kForksMax = 100;  // a fork of a fork of ...

// The number in the key of a pack: 16 hex digits before ".pack".
std::optional<uint64_t> SeqOf(std::string_view key) {
  constexpr std::string_view kSuffix = ".pack";
  if (!key.ends_with(kSuffix) || key.size() < kPackPrefix.size() + 33 + kSuffix.size()) {
    return std::nullopt;
  }
  std::byte raw[8];
  if (!FromHex(key.substr(key.size() - kSuffix.size() - 16, 16), raw)) return std::nullopt;
  uint64_t seq = 0;
  for (const std::byte digit : raw) seq = seq << 8 | std::to_integer<uint64_t>(digit);
  return seq;
}

}  // namespace

std::string Catalog::KeyOf(uint64_t journal_id, uint64_t seq) {
  return Format("{}{:016x}/{:016x}.pack", {kPackPrefix, journal_id, seq});
}

bool Catalog::IsComplete(const std::vector<Placed>& parts) {
  return !parts.empty() && parts.size() >= parts[0].section.part_count;
}

// --- Reading the store ---

StatusOr<PackInfo> Catalog::LoadPack(ObjectStore& store, const ObjectInfo& object) {
  PackInfo pack;
  pack.bytes = object.bytes;
  const uint64_t tail_at = object.bytes > kTailBytes ? object.bytes - kTailBytes : 0;
  EDGE_ASSIGN_OR_RETURN(Bytes tail, store.Get(object.key, {tail_at, UINT64_MAX}));
  EDGE_ASSIGN_OR_RETURN(const PackFooter footer, DecodePackFooter(tail, tail_at + tail.size()));
  Bytes directory;
  if (footer.directory_offset >= tail_at) {
    const auto start = tail.begin() + static_cast<ptrdiff_t>(footer.directory_offset - tail_at);
    directory.assign(start, start + static_cast<ptrdiff_t>(footer.directory_bytes));
  } else {
    EDGE_ASSIGN_OR_RETURN(directory,
                          store.Get(object.key, {footer.directory_offset, footer.directory_bytes}));
  }
  EDGE_ASSIGN_OR_RETURN(pack.sections, DecodePackDirectory(directory, footer));
  if (tail_at == 0) {
    EDGE_ASSIGN_OR_RETURN(pack.header, DecodePackHeader(tail));
  } else {
    EDGE_ASSIGN_OR_RETURN(const Bytes start, store.Get(object.key, {0, kPackHeaderBytes}));
    EDGE_ASSIGN_OR_RETURN(pack.header, DecodePackHeader(start));
  }
  if (KeyOf(pack.header.journal_id, pack.header.seq) != object.key) {
    return DataLoss("is another pack's copy: its header says {}",
                    KeyOf(pack.header.journal_id, pack.header.seq));
  }
  return pack;
}

// The packs that the newest readable catalog object knows; none if there is none.
void Catalog::LoadSaved(std::map<std::string, PackInfo>* packs) const {
  auto saved = store_->List(std::string(kCatalogPrefix), "", kListCount);
  if (!saved.ok()) return;
  for (auto object = saved->rbegin(); object != saved->rend(); ++object) {
    const auto content = store_->Get(object->key);
    if (!content.ok()) continue;
    auto decoded = DecodeCatalog(*content);
    if (!decoded.ok()) continue;
    *packs = std::move(*decoded);
    return;
  }
}

Status Catalog::EnsureLoaded() {
  MutexLock lock(&mu_);
  if (is_loaded_) return OkStatus();
  const Status loaded = RefreshLocked();
  if (!loaded.ok()) return Annotate(loaded, "reading the object store");
  is_loaded_ = true;
  return OkStatus();
}

Status Catalog::Refresh() {
  MutexLock lock(&mu_);
  EDGE_RETURN_IF_ERROR(Annotate(RefreshLocked(), "reading the object store"));
  is_loaded_ = true;
  return OkStatus();
}

Status Catalog::RefreshLocked() {
  std::map<std::string, PackInfo> saved;
  bool looked_for_saved = is_loaded_;
  std::set<std::string> there;
  bool added = false;
  std::string after;
  for (;;) {
    EDGE_ASSIGN_OR_RETURN(const auto objects,
                          store_->List(std::string(kPackPrefix), after, kListCount));
    // Few packs are read sooner than a catalog is looked for.
    if (!looked_for_saved && objects.size() > 4) LoadSaved(&saved);
    looked_for_saved = true;
    for (const ObjectInfo& object : objects) {
      after = object.key;
      if (!object.key.ends_with(".pack")) continue;
      there.insert(object.key);
      if (packs_.contains(object.key) || damaged_.contains(object.key)) continue;
      if (const auto known = saved.find(object.key);
          known != saved.end() && known->second.bytes == object.bytes) {
        AddLocked(object.key, std::move(known->second));
        continue;
      }
      StatusOr<PackInfo> pack = LoadPack(*store_, object);
      const StatusCode code = pack.status().code();
      if (code == StatusCode::kNotFound) {  // deleted meanwhile
        there.erase(object.key);
        continue;
      }
      if (!pack.ok() && code != StatusCode::kDataLoss) {
        return Annotate(pack.status(), "object " + object.key);
      }
      if (!pack.ok()) {
        damaged_[object.key] = Format("object {}: {}", {object.key, Message(pack.status())});
        continue;
      }
      AddLocked(object.key, std::move(*pack));
      added = true;
    }
    if (objects.size() < kListCount) break;
  }
  const auto is_gone = [&](const auto& pack) { return !there.contains(pack.first); };
  const bool removed = std::erase_if(packs_, is_gone) > 0;
  std::erase_if(damaged_, is_gone);
  if (removed) RebuildLocked();
  static_cast<void>(added);
  return OkStatus();
}

std::unique_ptr<Catalog> Catalog::Without(const std::vector<std::string>& keys) const {
  auto rest = std::make_unique<Catalog>(store_);
  const std::set<std::string> gone(keys.begin(), keys.end());
  const std::map<std::string, PackInfo> packs = Packs();
  MutexLock lock(&rest->mu_);
  rest->is_loaded_ = true;
  for (const auto& [key, pack] : packs) {
    if (!gone.contains(key)) rest->AddLocked(key, pack);
  }
  return rest;
}

void Catalog::RebuildLocked() {
  names_.clear();
  for (const auto& [key, pack] : packs_) {
    for (const Section& section : pack.sections) {
      AddSection({key, pack.header.wall_ms, section});
    }
  }
}

void Catalog::Add(const std::string& key, PackInfo pack) {
  MutexLock lock(&mu_);
  AddLocked(key, std::move(pack));
}

void Catalog::AddLocked(const std::string& key, PackInfo pack) {
  for (const Section& section : pack.sections) AddSection({key, pack.header.wall_ms, section});
  packs_[key] = std::move(pack);
}

void Catalog::AddSection(Placed placed) {
  Named& named = names_[placed.section.name];
  const State state = placed.section.state;
  Entry& entry = named.epochs[state.epoch];
  const auto is_newer = [&] { return !entry.newest || state.lsn > entry.newest->lsn; };
  switch (placed.section.kind) {
    case SectionKind::kDelete:
      named.deleted_epoch = std::max(named.deleted_epoch, state.epoch);
      entry.ended_wall_ms = placed.pack_wall_ms;
      return;
    case SectionKind::kFork:
      if (is_newer()) entry.newest = state;
      entry.fork = std::move(placed);
      return;
    case SectionKind::kLog: {
      entry.log_bytes += placed.section.raw_bytes;
      entry.log_commits += state.lsn - placed.section.first_lsn + 1;
      if (is_newer()) entry.newest = state;
      const auto before = [](const Placed& a, const Placed& b) {
        return a.section.first_lsn < b.section.first_lsn;
      };
      entry.logs.insert(std::ranges::upper_bound(entry.logs, placed, before), std::move(placed));
      return;
    }
    case SectionKind::kPages:
      break;
  }
  std::vector<Placed>& parts = entry.snapshots[state.lsn];
  const bool is_known = std::ranges::any_of(
      parts, [&](const Placed& part) { return part.section.part == placed.section.part; });
  if (is_known) return;
  parts.push_back(std::move(placed));
  if (!IsComplete(parts)) return;
  if (is_newer()) entry.newest = state;
  if (entry.newest->lsn == state.lsn) entry.log_bytes = entry.log_commits = 0;
}

// --- Asking ---

const Entry* Catalog::FindLocked(const std::string& name, uint32_t epoch) const {
  const auto named = names_.find(name);
  if (named == names_.end()) return nullptr;
  const auto entry = named->second.epochs.find(epoch);
  return entry == named->second.epochs.end() ? nullptr : &entry->second;
}

std::optional<Entry> Catalog::Find(const std::string& name, uint32_t epoch) const {
  MutexLock lock(&mu_);
  const Entry* entry = FindLocked(name, epoch);
  return entry != nullptr ? std::optional<Entry>(*entry) : std::nullopt;
}

std::optional<State> Catalog::Newest(const std::string& name) const {
  MutexLock lock(&mu_);
  const auto named = names_.find(name);
  if (named == names_.end() || named->second.epochs.empty()) return std::nullopt;
  const auto& [epoch, entry] = *named->second.epochs.rbegin();
  if (epoch <= named->second.deleted_epoch) return std::nullopt;
  return entry.newest;
}

std::vector<std::string> Catalog::Names() const {
  MutexLock lock(&mu_);
  std::vector<std::string> names;
  for (const auto& [name, named] : names_) {
    if (named.epochs.rbegin()->first > named.deleted_epoch &&
        named.epochs.rbegin()->second.newest) {
      names.push_back(name);
    }
  }
  return names;
}

std::vector<std::pair<std::string, uint32_t>> Catalog::AllEpochs() const {
  MutexLock lock(&mu_);
  std::vector<std::pair<std::string, uint32_t>> all;
  for (const auto& [name, named] : names_) {
    for (const auto& [epoch, entry] : named.epochs) all.emplace_back(name, epoch);
  }
  return all;
}

uint32_t Catalog::DeletedEpoch(const std::string& name) const {
  MutexLock lock(&mu_);
  const auto named = names_.find(name);
  return named == names_.end() ? 0 : named->second.deleted_epoch;
}

Status Catalog::CheckDamage(const std::string& name) const {
  MutexLock lock(&mu_);
  if (damaged_.empty()) return OkStatus();
  return DataLoss("what the store has of database \"{}\" is not complete: {}{}", name,
                  damaged_.begin()->second,
                  damaged_.size() > 1 ? Format(" (and {} more)", {damaged_.size() - 1}) : "");
}

std::vector<std::string> Catalog::Damage() const {
  MutexLock lock(&mu_);
  std::vector<std::string> all;
  for (const auto& [key, why] : damaged_) all.push_back(why);
  return all;
}

std::map<std::string, PackInfo> Catalog::Packs() const {
  MutexLock lock(&mu_);
  return packs_;
}

size_t Catalog::pack_count() const {
  MutexLock lock(&mu_);
  return packs_.size();
}

Catalog::JournalSeen Catalog::SeenOf(uint64_t journal_id) const {
  const std::string prefix = KeyOf(journal_id, 0).substr(0, kPackPrefix.size() + 17);
  JournalSeen seen;
  MutexLock lock(&mu_);
  for (auto it = packs_.lower_bound(prefix); it != packs_.end() && it->first.starts_with(prefix);
       ++it) {
    seen.next_seq = std::max(seen.next_seq, it->second.header.seq + 1);
    seen.to = std::max(seen.to, it->second.header.to);
  }
  for (auto it = damaged_.lower_bound(prefix);
       it != damaged_.end() && it->first.starts_with(prefix); ++it) {
    if (const auto seq = SeqOf(it->first)) seen.next_seq = std::max(seen.next_seq, *seq + 1);
  }
  return seen;
}

// --- Lines of commits ---

// From the oldest ancestor to (name, epoch).
std::vector<Leg> Catalog::LineLocked(const std::string& name, uint32_t epoch, Lsn target) const {
  std::vector<Leg> line = {{name, epoch, target}};
  for (size_t i = 0; i < kForksMax; ++i) {
    const Entry* entry = FindLocked(line.front().name, line.front().epoch);
    if (entry == nullptr || !entry->fork) break;
    const Section& fork = entry->fork->section;
    line.insert(line.begin(), {fork.parent, fork.parent_epoch, std::min(target, fork.state.lsn)});
  }
  return line;
}

std::vector<LogPiece> Catalog::LogsLocked(const std::vector<Leg>& line, Lsn after) const {
  std::vector<LogPiece> logs;
  for (const Leg& leg : line) {
    const Entry* entry = FindLocked(leg.name, leg.epoch);
    if (entry == nullptr) continue;
    for (const Placed& log : entry->logs) {
      if (log.section.state.lsn > after && log.section.first_lsn <= leg.until)
        logs.push_back({log, leg.until});
    }
  }
  return logs;
}

Plan Catalog::PlanRestore(const std::string& name, uint32_t epoch, Lsn target) const {
  Plan plan;
  MutexLock lock(&mu_);
  const std::vector<Leg> line = LineLocked(name, epoch, target);
  plan.base = EmptyState(line.front().name, line.front().epoch);
  for (auto leg = line.rbegin(); leg != line.rend() && plan.parts.empty(); ++leg) {
    const Entry* entry = FindLocked(leg->name, leg->epoch);
    if (entry == nullptr) continue;
    for (auto at = entry->snapshots.upper_bound(leg->until);
         at != entry->snapshots.begin() && plan.parts.empty();) {
      --at;
      if (IsComplete(at->second)) plan.parts = at->second;
    }
  }
  if (!plan.parts.empty()) {
    std::ranges::sort(plan.parts, {}, [](const Placed& part) { return part.section.part; });
    plan.base = plan.parts[0].section.state;
  }
  plan.logs = LogsLocked(line, plan.base.lsn);
  for (const Placed& part : plan.parts) plan.bytes += part.section.bytes;
  for (const LogPiece& log : plan.logs) plan.bytes += log.placed.section.bytes;
  return plan;
}

State Catalog::OldestState(const std::string& name, uint32_t epoch) const {
  MutexLock lock(&mu_);
  const Entry* entry = FindLocked(name, epoch);
  State oldest = EmptyState(name, epoch);
  if (entry == nullptr || !entry->newest) return oldest;
  // Back from the newest commit through the logs, as far as there is no gap. Between logs in
  // order of their first commit an older one may still reach further.
  Lsn reached = entry->newest->lsn;
  if (!entry->logs.empty() && entry->logs.back().section.state.lsn < reached) {
    // The newest commit is known by a snapshot alone.
    Lsn end = 0;
    for (const Placed& log : entry->logs) end = std::max(end, log.section.state.lsn);
    if (end < reached) return entry->snapshots.at(reached)[0].section.state;
  }
  for (auto log = entry->logs.rbegin(); log != entry->logs.rend(); ++log) {
    if (log->section.state.lsn >= reached) {
      reached = std::min(reached, log->section.first_lsn - 1);
    }
  }
  if (entry->fork && entry->fork->section.state.lsn >= reached) return entry->fork->section.state;
  if (reached == 0) return oldest;
  for (const auto& [lsn, parts] : entry->snapshots) {
    if (lsn >= reached && IsComplete(parts)) return parts[0].section.state;
  }
  return oldest;
}

State Catalog::NewestBefore(const std::string& name, uint32_t epoch, int64_t wall_ms) const {
  MutexLock lock(&mu_);
  const std::vector<Leg> line = LineLocked(name, epoch, UINT64_MAX);
  State newest = EmptyState(line.front().name, line.front().epoch);
  for (const Leg& leg : line) {
    const Entry* entry = FindLocked(leg.name, leg.epoch);
    if (entry == nullptr) continue;
    const auto consider = [&](const State& state) {
      if (state.wall_ms <= wall_ms && state.lsn > newest.lsn && state.lsn <= leg.until) {
        newest = state;
      }
    };
    for (const Placed& log : entry->logs) consider(log.section.state);
    for (const auto& [lsn, parts] : entry->snapshots) consider(parts[0].section.state);
  }
  newest.epoch = epoch;  // a bookmark of the fork, also for what its parent did
  return newest;
}

StatusOr<State> Catalog::FindTime(const std::string& name, uint32_t epoch, int64_t wall_ms) {
  EDGE_RETURN_IF_ERROR(EnsureLoaded());
  State found = NewestBefore(name, epoch, wall_ms);
  uint64_t bytes_read = 0;
  EDGE_RETURN_IF_ERROR(VisitRecords(
      name, epoch, found.lsn, UINT64_MAX,
      [&](const RecordView& record) -> Status {
        if (record.wall_ms > wall_ms) return Aborted("past the time");
        found.lsn = record.lsn;
        found.chain = record.chain;
        found.wall_ms = record.wall_ms;
        return OkStatus();
      },
      &bytes_read));
  return found;
}

// --- Reading databases ---

StatusOr<Bytes> Catalog::FetchRange(const Placed& placed, uint64_t offset, uint64_t bytes,
                                    uint64_t* bytes_read) {
  auto content = store_->Get(placed.key, {placed.section.offset + offset, bytes});
  if (content.status().code() == StatusCode::kNotFound) {
    return DataLoss("object {}: is missing", placed.key);
  }
  if (!content.ok()) return Annotate(content.status(), "object " + placed.key);
  *bytes_read += content->size();
  return content;
}

StatusOr<Bytes> Catalog::Fetch(const Placed& placed, uint64_t* bytes_read) {
  if (placed.section.bytes == 0) return Bytes();
  EDGE_ASSIGN_OR_RETURN(const Bytes compressed,
                        FetchRange(placed, 0, placed.section.bytes, bytes_read));
  auto raw = DecompressSection(placed.section, compressed);
  if (!raw.ok()) return Annotate(raw.status(), "object " + placed.key);
  return raw;
}

StatusOr<State> Catalog::Restore(const std::string& name, uint32_t epoch, Lsn target,
                                 PageImage* image, RestoreReport* report, Progress progress) {
  EDGE_RETURN_IF_ERROR(EnsureLoaded());
  const Plan plan = PlanRestore(name, epoch, target);
  const auto step = [&] {
    if (progress) progress(report->bytes_read, plan.bytes);
  };
  State state = plan.base;
  if (plan.parts.empty()) {
    EDGE_RETURN_IF_ERROR(image->WritePage(1, EmptyDatabasePage().bytes, state.post));
  }
  Hash128 post;
  for (const Placed& part : plan.parts) {
    EDGE_ASSIGN_OR_RETURN(const Bytes raw, Fetch(part, &report->bytes_read));
    EDGE_RETURN_IF_ERROR(VisitPages(part.section, raw, [&](uint32_t pgno, const std::byte* page) {
      const Hash128 hash = PageHash(pgno, page);
      post ^= hash;
      return image->WritePage(pgno, page, hash);
    }));
    step();
  }
  if (!plan.parts.empty() && post != state.post) {
    return DataLoss("object {}: the snapshot of \"{}\" at commit {} hashes to {}, expected {}",
                    plan.parts[0].key, name, state.lsn, post.ToHex(), state.post.ToHex());
  }
  Replay replay(image, state);
  for (const auto& [placed, until] : plan.logs) {
    if (placed.section.first_lsn > replay.state().lsn + 1) break;  // the journal may have it
    EDGE_ASSIGN_OR_RETURN(const Bytes raw, Fetch(placed, &report->bytes_read));
    const Status visited = VisitLog(placed.section, raw, [&](const RecordView& record) -> Status {
      const State& now = replay.state();
      if (record.lsn == now.lsn && record.chain != now.chain) {
        return DataLoss("commit {} of \"{}\" is not the one before", record.lsn, name);
      }
      if (record.lsn <= now.lsn || record.lsn > until) return OkStatus();
      return replay.Apply(record);
    });
    if (!visited.ok()) return Annotate(visited, "object " + placed.key);
    step();
  }
  EDGE_RETURN_IF_ERROR(Annotate(replay.Finish(), Format("database \"{}\"", {name})));
  state = replay.state();
  state.epoch = epoch;
  return state;
}

Status Catalog::VisitRecords(const std::string& name, uint32_t epoch, Lsn after, Lsn until,
                             Callback<Status(const RecordView&)> visit, uint64_t* bytes_read) {
  EDGE_RETURN_IF_ERROR(EnsureLoaded());
  std::vector<LogPiece> logs;
  {
    MutexLock lock(&mu_);
    logs = LogsLocked(LineLocked(name, epoch, until), after);
  }
  Lsn next = after + 1;
  for (const auto& [placed, last] : logs) {
    if (placed.section.state.lsn < next) continue;
    EDGE_ASSIGN_OR_RETURN(const Bytes raw, Fetch(placed, bytes_read));
    const Status visited = VisitLog(placed.section, raw, [&](const RecordView& record) -> Status {
      if (record.lsn < next || record.lsn > last) return OkStatus();
      EDGE_RETURN_IF_ERROR(visit(record));
      next = record.lsn + 1;
      return OkStatus();
    });
    if (visited.code() == StatusCode::kAborted) return OkStatus();
    if (!visited.ok()) return Annotate(visited, "object " + placed.key);
  }
  return OkStatus();
}

// --- Catalog objects ---

namespace {

constexpr char kCatalogMagic[8] = {'E', 'D', 'G', 'E', 'C', 'A', 'T', '1'};
constexpr uint32_t kCatalogVersion = 1;
constexpr size_t kCatalogHeaderBytes = 40;

}  // namespace

StatusOr<Bytes> EncodeCatalog(const std::map<std::string, PackInfo>& packs, int64_t wall_ms) {
  Bytes raw;
  ByteWriter out(&raw);
  for (const auto& [key, pack] : packs) {
    out.Sized(AsBytes(key));
    out.U64(pack.bytes);
    out.U64(pack.header.journal_id);
    out.U64(pack.header.seq);
    out.U64(pack.header.from.file);
    out.U64(pack.header.from.offset);
    out.U64(pack.header.to.file);
    out.U64(pack.header.to.offset);
    out.U64(static_cast<uint64_t>(pack.header.wall_ms));
    out.U32(static_cast<uint32_t>(pack.sections.size()));
    for (const Section& section : pack.sections) EncodeSection(section, &raw);
  }
  EDGE_ASSIGN_OR_RETURN(const CompressedSection body, CompressSection(raw));
  Bytes object;
  ByteWriter header(&object);
  header.Raw(AsBytes({kCatalogMagic, 8}));
  header.U32(kCatalogVersion);
  header.U32(0);  // the checksum
  header.U64(static_cast<uint64_t>(wall_ms));
  header.U32(static_cast<uint32_t>(packs.size()));
  header.U32(body.crc);
  header.U64(raw.size());
  StoreLittle(object.data() + 12, Crc32c(object));
  header.Raw(body.bytes);
  return object;
}

StatusOr<std::map<std::string, PackInfo>> DecodeCatalog(ByteView object) {
  if (object.size() < kCatalogHeaderBytes) return DataLoss("catalog cut off in its header");
  Bytes raw_header(object.begin(), object.begin() + kCatalogHeaderBytes);
  const auto crc = LoadLittle<uint32_t>(raw_header.data() + 12);
  StoreLittle(raw_header.data() + 12, uint32_t{0});
  if (!std::ranges::equal(ByteView(raw_header).first(8), AsBytes({kCatalogMagic, 8})) ||
      Crc32c(raw_header) != crc) {
    return DataLoss("catalog damaged in its header");
  }
  ByteReader header(ByteView(raw_header).subspan(8));
  if (const uint32_t version = header.U32(); version != kCatalogVersion) {
    return FailedPrecondition("catalog of format version {}; this program knows {}", version,
                              kCatalogVersion);
  }
  header.U32();
  header.U64();
  const uint32_t count = header.U32();
  Section body;
  body.name = "catalog";
  body.crc = header.U32();
  body.raw_bytes = header.U64();
  body.bytes = object.size() - kCatalogHeaderBytes;
  EDGE_ASSIGN_OR_RETURN(const Bytes raw,
                        DecompressSection(body, object.subspan(kCatalogHeaderBytes)));
  ByteReader in(raw);
  std::map<std::string, PackInfo> packs;
  for (uint32_t i = 0; i < count && !in.failed(); ++i) {
    const std::string key(AsText(in.Sized()));
    PackInfo pack;
    pack.bytes = in.U64();
    pack.header.journal_id = in.U64();
    pack.header.seq = in.U64();
    pack.header.from.file = in.U64();
    pack.header.from.offset = in.U64();
    pack.header.to.file = in.U64();
    pack.header.to.offset = in.U64();
    pack.header.wall_ms = static_cast<int64_t>(in.U64());
    const uint32_t sections = in.U32();
    for (uint32_t s = 0; s < sections && !in.failed(); ++s) {
      EDGE_ASSIGN_OR_RETURN(Section section, DecodeSection(&in));
      pack.sections.push_back(std::move(section));
    }
    packs[key] = std::move(pack);
  }
  if (in.failed() || in.remaining() != 0) return DataLoss("catalog cut off in its packs");
  return packs;
}

Status Catalog::Save(int64_t wall_ms) {
  EDGE_ASSIGN_OR_RETURN(const auto old, store_->List(std::string(kCatalogPrefix), "", kListCount));
  const std::string key = Format("{}{:016x}.cat", {kCatalogPrefix, wall_ms});
  EDGE_ASSIGN_OR_RETURN(const Bytes object, EncodeCatalog(Packs(), wall_ms));
  EDGE_RETURN_IF_ERROR(store_->Put(key, object).status());
  // The one before stays for a reader that has just listed it.
  for (size_t i = 0; i + 1 < old.size(); ++i) {
    if (old[i].key < key) EDGE_RETURN_IF_ERROR(store_->Delete(old[i].key));
  }
  return OkStatus();
}

}  // namespace edge::srs
