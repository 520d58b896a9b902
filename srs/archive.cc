#include "srs/archive.h"

#include <algorithm>
#include <utility>

#include "edge/base/check.h"
#include "edge/base/errors.h"

namespace edge::srs {
namespace {

constexpr std::string_view kPackPrefix = "v1/pack/";
constexpr uint64_t kTailBytes = 64 << 10;         // read of a pack first: most directories fit
constexpr uint32_t kInlinePages = 1024;           // snapshots up to 4 MiB ride in the batch
constexpr uint64_t kSnapshotBytesMin = 64 << 10;  // no snapshot for less log than this
constexpr int64_t kRetryMsMax = 30'000;

}  // namespace

Archive::Archive(ArchiveOptions options) : options_(std::move(options)), store_(options_.store) {
  if (options_.metrics != nullptr) {
    packs_metric_ = &options_.metrics->counter("edge_srs_packs");
    bytes_metric_ = &options_.metrics->counter("edge_srs_pack_bytes");
    failures_metric_ = &options_.metrics->counter("edge_srs_upload_failures");
  }
}

Archive::~Archive() = default;

void Archive::Stop() {
  {
    MutexLock lock(&wake_mu_);
    stopping_ = true;
    wake_.Signal();
  }
  if (thread_.joinable()) thread_.join();
  UploadAll().IgnoreError();  // the journal keeps what could not be uploaded
}

std::string Archive::KeyOf(uint64_t journal_id, uint64_t seq) const {
  return Format("{}{:016x}/{:016x}.pack", {kPackPrefix, journal_id, seq});
}

// --- The catalog ---

Status Archive::EnsureLoaded() {
  MutexLock lock(&mu_);
  if (is_loaded_) return OkStatus();
  const Status loaded = LoadCatalog();
  if (!loaded.ok()) {
    catalog_.clear();
    damaged_.clear();
    return Annotate(loaded, "reading the object store");
  }
  is_loaded_ = true;
  return OkStatus();
}

StatusOr<PackHeader> Archive::LoadPack(const ObjectInfo& object, std::vector<Section>* sections) {
  const uint64_t tail_at = object.bytes > kTailBytes ? object.bytes - kTailBytes : 0;
  EDGE_ASSIGN_OR_RETURN(Bytes tail, store_->Get(object.key, {tail_at, UINT64_MAX}));
  EDGE_ASSIGN_OR_RETURN(const PackFooter footer, DecodePackFooter(tail, tail_at + tail.size()));
  Bytes directory;
  if (footer.directory_offset >= tail_at) {
    const auto start = tail.begin() + static_cast<ptrdiff_t>(footer.directory_offset - tail_at);
    directory.assign(start, start + static_cast<ptrdiff_t>(footer.directory_bytes));
  } else {
    EDGE_ASSIGN_OR_RETURN(
        directory, store_->Get(object.key, {footer.directory_offset, footer.directory_bytes}));
  }
  EDGE_ASSIGN_OR_RETURN(*sections, DecodePackDirectory(directory, footer));
  if (tail_at == 0) return DecodePackHeader(tail);
  EDGE_ASSIGN_OR_RETURN(const Bytes start, store_->Get(object.key, {0, kPackHeaderBytes}));
  return DecodePackHeader(start);
}

Status Archive::LoadCatalog() {
  std::string after;
  const std::string ours = KeyOf(options_.journal->id(), 0).substr(0, kPackPrefix.size() + 17);
  JournalPosition uploaded;
  for (;;) {
    constexpr size_t kListCount = 1000;
    EDGE_ASSIGN_OR_RETURN(const auto objects,
                          store_->List(std::string(kPackPrefix), after, kListCount));
    for (const ObjectInfo& object : objects) {
      after = object.key;
      if (!object.key.ends_with(".pack")) continue;
      std::vector<Section> sections;
      const StatusOr<PackHeader> header = LoadPack(object, &sections);
      if (!header.ok() && header.status().code() != StatusCode::kDataLoss) return header.status();
      if (!header.ok() || KeyOf(header->journal_id, header->seq) != object.key) {
        damaged_.push_back(Format(
            "object {}: {}",
            {object.key, header.ok() ? "is another pack's copy" : Message(header.status())}));
        if (object.key.starts_with(ours)) ++next_seq_;
        continue;
      }
      if (object.key.starts_with(ours)) {
        next_seq_ = header->seq + 1;
        uploaded = std::max(uploaded, header->to);
      }
      AddToCatalog(object.key, std::move(sections));
    }
    if (objects.size() < kListCount) break;
  }
  if (uploaded > options_.journal->end()) {
    return FailedPrecondition(
        "the store has packs of this journal up to file {:016x} offset {}, the journal ends at "
        "{:016x} offset {}: an old copy of the directory is in use; move it away and open an "
        "empty one to restore from the store",
        uploaded.file, uploaded.offset, options_.journal->end().file,
        options_.journal->end().offset);
  }
  uploaded_ = std::max(uploaded, options_.journal->begin());
  options_.journal->SetUploaded(uploaded_);
  return OkStatus();
}

bool Archive::IsComplete(const std::vector<Placed>& parts) {
  return !parts.empty() && parts.size() >= parts[0].section.part_count;
}

void Archive::AddToCatalog(const std::string& key, std::vector<Section> sections) {
  for (Section& section : sections) {
    Entry& entry = catalog_[section.name];
    const State& state = section.state;
    if (section.kind == SectionKind::kDelete) {
      entry.deleted_epoch = std::max(entry.deleted_epoch, state.epoch);
      if (entry.epoch <= entry.deleted_epoch) {
        entry.logs.clear();
        entry.snapshots.clear();
        entry.newest.reset();
        entry.log_bytes = 0;
      }
      continue;
    }
    if (state.epoch <= entry.deleted_epoch || state.epoch < entry.epoch) continue;
    if (state.epoch > entry.epoch) {
      const uint32_t deleted = entry.deleted_epoch;
      entry = Entry{};
      entry.deleted_epoch = deleted;
      entry.epoch = state.epoch;
    }
    if (section.kind == SectionKind::kLog) {
      entry.log_bytes += section.raw_bytes;
      if (!entry.newest || state.lsn > entry.newest->lsn) entry.newest = state;
      entry.logs.push_back({key, std::move(section)});
      continue;
    }
    const State snapshot = state;
    std::vector<Placed>& parts = entry.snapshots[snapshot.lsn];
    const bool is_known = std::ranges::any_of(
        parts, [&section](const Placed& placed) { return placed.section.part == section.part; });
    if (is_known) continue;
    parts.push_back({key, std::move(section)});
    if (!IsComplete(parts)) continue;
    entry.log_bytes = 0;
    if (!entry.newest || snapshot.lsn > entry.newest->lsn) entry.newest = snapshot;
  }
}

Status Archive::CheckDamage(const std::string& name) {
  MutexLock lock(&mu_);
  if (damaged_.empty()) return OkStatus();
  return DataLoss("what the store has of database \"{}\" is not complete: {}{}", name, damaged_[0],
                  damaged_.size() > 1 ? Format(" (and {} more)", {damaged_.size() - 1}) : "");
}

StatusOr<std::optional<State>> Archive::Newest(const std::string& name) {
  EDGE_RETURN_IF_ERROR(EnsureLoaded());
  MutexLock lock(&mu_);
  const auto it = catalog_.find(name);
  if (it == catalog_.end()) return std::optional<State>();
  return it->second.newest;
}

StatusOr<uint32_t> Archive::DeletedEpoch(const std::string& name) {
  EDGE_RETURN_IF_ERROR(EnsureLoaded());
  MutexLock lock(&mu_);
  const auto it = catalog_.find(name);
  return it == catalog_.end() ? 0 : it->second.deleted_epoch;
}

StatusOr<std::vector<std::string>> Archive::Names() {
  EDGE_RETURN_IF_ERROR(EnsureLoaded());
  MutexLock lock(&mu_);
  std::vector<std::string> names;
  for (const auto& [name, entry] : catalog_) {
    if (entry.newest) names.push_back(name);
  }
  return names;
}

// --- Restoring ---

StatusOr<Bytes> Archive::Fetch(const Placed& placed, uint64_t* bytes_read) {
  if (placed.section.bytes == 0) return Bytes();
  const auto compressed = store_->Get(placed.key, {placed.section.offset, placed.section.bytes});
  if (compressed.status().code() == StatusCode::kNotFound) {
    return DataLoss("object {}: is missing", placed.key);
  }
  if (!compressed.ok()) return Annotate(compressed.status(), "object " + placed.key);
  *bytes_read += compressed->size();
  auto raw = DecompressSection(placed.section, *compressed);
  if (!raw.ok()) return Annotate(raw.status(), "object " + placed.key);
  return raw;
}

StatusOr<State> Archive::Restore(const std::string& name, uint32_t epoch, Lsn target,
                                 PageImage* image, RestoreReport* report) {
  EDGE_RETURN_IF_ERROR(EnsureLoaded());
  State state = EmptyState(name, epoch);
  std::vector<Placed> parts;
  {
    MutexLock lock(&mu_);
    const auto it = catalog_.find(name);
    if (it != catalog_.end() && it->second.epoch == epoch) {
      auto& snapshots = it->second.snapshots;
      for (auto at = snapshots.upper_bound(target); at != snapshots.begin();) {
        --at;
        if (!IsComplete(at->second)) continue;
        parts = at->second;
        break;
      }
    }
  }
  if (parts.empty()) {
    EDGE_RETURN_IF_ERROR(image->WritePage(1, EmptyDatabasePage().bytes, state.post));
  } else {
    state = parts[0].section.state;
    Hash128 post;
    for (const Placed& part : parts) {
      EDGE_ASSIGN_OR_RETURN(const Bytes raw, Fetch(part, &report->bytes_read));
      EDGE_RETURN_IF_ERROR(VisitPages(part.section, raw, [&](uint32_t pgno, const std::byte* page) {
        const Hash128 hash = PageHash(pgno, page);
        post ^= hash;
        return image->WritePage(pgno, page, hash);
      }));
    }
    if (post != state.post) {
      return DataLoss("object {}: the snapshot of \"{}\" at commit {} hashes to {}, expected {}",
                      parts[0].key, name, state.lsn, post.ToHex(), state.post.ToHex());
    }
  }
  EDGE_RETURN_IF_ERROR(VisitRecords(
      name, epoch, state.lsn, target,
      [&](const RecordView& record) -> Status {
        if (record.lsn != state.lsn + 1) return Aborted("the journal may have it");
        return ApplyRecord(record, image, &state);
      },
      &report->bytes_read));
  return state;
}

StatusOr<State> Archive::NewestBefore(const std::string& name, uint32_t epoch, int64_t wall_ms) {
  EDGE_RETURN_IF_ERROR(EnsureLoaded());
  State newest = EmptyState(name, epoch);
  MutexLock lock(&mu_);
  const auto it = catalog_.find(name);
  if (it == catalog_.end() || it->second.epoch != epoch) return newest;
  const auto consider = [&](const State& state) {
    if (state.wall_ms <= wall_ms && state.lsn > newest.lsn) newest = state;
  };
  for (const Placed& log : it->second.logs) consider(log.section.state);
  for (const auto& [lsn, parts] : it->second.snapshots) consider(parts[0].section.state);
  return newest;
}

Status Archive::VisitRecords(const std::string& name, uint32_t epoch, Lsn after, Lsn until,
                             Callback<Status(const RecordView&)> visit, uint64_t* bytes_read) {
  EDGE_RETURN_IF_ERROR(EnsureLoaded());
  std::vector<Placed> logs;
  {
    MutexLock lock(&mu_);
    const auto it = catalog_.find(name);
    if (it == catalog_.end() || it->second.epoch != epoch) return OkStatus();
    for (const Placed& placed : it->second.logs) {
      if (placed.section.state.lsn > after && placed.section.first_lsn <= until) {
        logs.push_back(placed);
      }
    }
  }
  std::ranges::stable_sort(logs, {}, [](const Placed& placed) { return placed.section.first_lsn; });
  Lsn next = after + 1;
  for (const Placed& placed : logs) {
    if (placed.section.state.lsn < next) continue;
    EDGE_ASSIGN_OR_RETURN(const Bytes raw, Fetch(placed, bytes_read));
    const Status visited = VisitLog(placed.section, raw, [&](const RecordView& record) -> Status {
      if (record.lsn < next || record.lsn > until) return OkStatus();
      EDGE_RETURN_IF_ERROR(visit(record));
      next = record.lsn + 1;
      return OkStatus();
    });
    if (visited.code() == StatusCode::kAborted) return OkStatus();
    if (!visited.ok()) return Annotate(visited, "object " + placed.key);
  }
  return OkStatus();
}

// --- Uploading ---

void Archive::Start() {
  thread_ = std::thread([this] { Run(); });
}

void Archive::OnWritten(uint64_t bytes) {
  MutexLock lock(&wake_mu_);
  const bool was_idle = waiting_bytes_ == 0;
  if (was_idle) waiting_since_ns_ = options_.clock->monotonic_ns();
  const bool was_below = waiting_bytes_ < options_.batch_bytes_max;
  waiting_bytes_ += bytes;
  if (was_idle || (was_below && waiting_bytes_ >= options_.batch_bytes_max)) wake_.Signal();
}

void Archive::RequestSnapshot(const std::string& name) {
  {
    MutexLock lock(&mu_);
    wanted_snapshots_.insert(name);
  }
  OnWritten(1);
}

void Archive::Run() {
  for (;;) {
    {
      MutexLock lock(&wake_mu_);
      for (;;) {
        if (stopping_) return;
        if (waiting_bytes_ == 0) {
          wake_.Wait(&wake_mu_);
          continue;
        }
        const int64_t now = options_.clock->monotonic_ns();
        int64_t due = waiting_since_ns_ + options_.batch_interval_ms * 1'000'000;
        if (waiting_bytes_ >= options_.batch_bytes_max) due = now;
        due = std::max(due, retry_at_ns_);
        if (due <= now) break;
        wake_.WaitForMs(&wake_mu_, (due - now) / 1'000'000 + 1);
      }
    }
    UploadAll().IgnoreError();  // it keeps count, and sets when to try again
  }
}

bool Archive::StepIfDue() {
  {
    MutexLock lock(&wake_mu_);
    const int64_t now = options_.clock->monotonic_ns();
    const bool is_due =
        waiting_bytes_ >= options_.batch_bytes_max ||
        (waiting_bytes_ > 0 && waiting_since_ns_ + options_.batch_interval_ms * 1'000'000 <= now);
    if (!is_due || retry_at_ns_ > now) return false;
  }
  UploadAll().IgnoreError();
  return true;
}

Status Archive::Flush() {
  return UploadAll();
}

Status Archive::UploadAll() {
  MutexLock upload(&upload_mu_);
  {
    MutexLock lock(&wake_mu_);
    waiting_bytes_ = 0;
  }
  std::set<std::string> snapshots;
  {
    MutexLock lock(&mu_);
    snapshots.swap(wanted_snapshots_);
  }
  Status result;
  for (bool more = true; more && result.ok();) {
    const StatusOr<bool> uploaded = UploadBatch(&snapshots);
    result = uploaded.status();
    more = uploaded.ok() && *uploaded;
  }
  if (!snapshots.empty()) {
    MutexLock lock(&mu_);
    wanted_snapshots_.merge(snapshots);
  }
  MutexLock lock(&wake_mu_);
  if (result.ok()) {
    failures_ = 0;
    retry_at_ns_ = 0;
    return result;
  }
  if (failures_metric_ != nullptr) failures_metric_->Add();
  const int64_t delay_ms = std::min<int64_t>(kRetryMsMax, int64_t{250} << std::min(failures_, 10));
  ++failures_;
  retry_at_ns_ = options_.clock->monotonic_ns() + delay_ms * 1'000'000;
  if (waiting_bytes_ == 0) waiting_since_ns_ = options_.clock->monotonic_ns();
  ++waiting_bytes_;
  return result;
}

PackHeader Archive::NextHeader(JournalPosition from, JournalPosition to) {
  MutexLock lock(&mu_);
  return {options_.journal->id(), next_seq_, from, to, options_.clock->wall_ms()};
}

Status Archive::PutPack(const PackHeader& header, PackWriter* pack) {
  const std::string key = KeyOf(header.journal_id, header.seq);
  std::vector<Section> sections = pack->sections();
  const Bytes object = pack->Finish();
  const StatusOr<std::string> put = store_->Put(key, object, {.if_absent = true});
  if (put.status().code() == StatusCode::kAlreadyExists) {
    // An upload of ours that we believe has failed. It is good if it began where we do.
    std::vector<Section> theirs;
    EDGE_ASSIGN_OR_RETURN(const ObjectInfo info, store_->Head(key));
    EDGE_ASSIGN_OR_RETURN(const PackHeader found, LoadPack(info, &theirs));
    MutexLock lock(&mu_);
    ++next_seq_;
    if (found.journal_id == header.journal_id && found.from == header.from &&
        found.to >= header.from) {
      AddToCatalog(key, std::move(theirs));
      uploaded_ = std::max(uploaded_, found.to);
    }
    return Aborted("object {}: was there already", key);
  }
  if (!put.ok()) return Annotate(put.status(), "object " + key);
  if (packs_metric_ != nullptr) {
    packs_metric_->Add();
    bytes_metric_->Add(object.size());
  }
  MutexLock lock(&mu_);
  ++next_seq_;
  AddToCatalog(key, std::move(sections));
  uploaded_ = std::max(uploaded_, header.to);
  return OkStatus();
}

Status Archive::AddLog(const JournalEntry& entry, std::vector<LogDraft>* drafts,
                       std::map<std::string, size_t, std::less<>>* open, PackWriter* pack) {
  auto it = open->find(entry.name);
  if (it != open->end()) {
    LogDraft& draft = (*drafts)[it->second];
    const bool follows =
        entry.kind == EntryKind::kCommit && draft.section.state.epoch == entry.epoch &&
        draft.section.state.chain == entry.chain_before && draft.section.state.lsn + 1 == entry.lsn;
    if (!follows || draft.raw.size() + entry.bytes.size() > kSectionLogBytes) {
      EDGE_RETURN_IF_ERROR(pack->Add(draft.section, draft.raw));
      draft.raw = Bytes();
      draft.section.name.clear();  // done
      open->erase(it);
      it = open->end();
    }
  }
  if (entry.kind == EntryKind::kDelete) {
    Section note;
    note.kind = SectionKind::kDelete;
    note.name = entry.name;
    note.state.epoch = entry.epoch;
    note.state.lsn = entry.lsn;
    return pack->Add(note, {});
  }
  if (it == open->end()) {
    LogDraft draft;
    draft.section.name = entry.name;
    draft.section.first_lsn = entry.lsn;
    draft.section.first_wall_ms = entry.record.wall_ms;
    draft.section.chain_before = entry.chain_before;
    drafts->push_back(std::move(draft));
    it = open->emplace(std::string(entry.name), drafts->size() - 1).first;
  }
  LogDraft& draft = (*drafts)[it->second];
  draft.section.state = {entry.epoch,          entry.lsn,          entry.record.pages,
                         entry.record.wall_ms, entry.record.chain, entry.record.post};
  AppendToLog(entry.bytes, &draft.raw);
  return OkStatus();
}

// The databases of which a pack of these sections should hold a snapshot too: their log has
// outgrown them, or the store lacks what came before.
std::set<std::string> Archive::OutgrownBy(const std::vector<Section>& sections) {
  struct Seen {
    Hash128 chain;
    Lsn lsn;
    uint64_t log_bytes;
  };
  std::map<std::string, Seen> seen;
  std::set<std::string> outgrown;
  MutexLock lock(&mu_);
  for (const Section& log : sections) {
    if (log.kind != SectionKind::kLog) continue;
    auto at = seen.find(log.name);
    if (at == seen.end() || log.first_lsn == 1) {
      Seen before{EmptyState(log.name, log.state.epoch).chain, 0, 0};
      const auto it = catalog_.find(log.name);
      if (it != catalog_.end() && it->second.epoch == log.state.epoch && it->second.newest) {
        before = {it->second.newest->chain, it->second.newest->lsn, it->second.log_bytes};
      }
      at = seen.insert_or_assign(log.name, before).first;
    }
    Seen& before = at->second;
    const bool follows = log.first_lsn <= before.lsn || log.chain_before == before.chain;
    before = {log.state.chain, log.state.lsn, before.log_bytes + log.raw_bytes};
    const uint64_t database_bytes = uint64_t{log.state.pages} * kPageBytes;
    if (!follows || before.log_bytes > std::max(database_bytes, kSnapshotBytesMin)) {
      outgrown.insert(log.name);
    }
  }
  return outgrown;
}

Status Archive::AddSnapshot(const std::string& name, PackWriter* pack) {
  const auto core = options_.find(name);
  if (core == nullptr || !core->known()) return OkStatus();
  State state;
  Hash128 post;
  Spooled spool;
  std::unique_ptr<File> file;
  uint64_t file_at = 0;
  std::vector<std::pair<Section, CompressedSection>> parts;
  Bytes raw;
  Section section;
  section.kind = SectionKind::kPages;
  section.name = name;
  const auto finish_part = [&]() -> Status {
    EDGE_ASSIGN_OR_RETURN(CompressedSection compressed, CompressSection(raw));
    Section part = section;
    part.raw_bytes = raw.size();
    part.bytes = compressed.bytes.size();
    part.crc = compressed.crc;
    raw.clear();
    ++section.part;
    if (file == nullptr) {
      parts.emplace_back(std::move(part), std::move(compressed));
      return OkStatus();
    }
    part.offset = file_at;
    file_at += compressed.bytes.size();
    spool.parts.push_back(std::move(part));
    return file->WriteAt(spool.parts.back().offset, compressed.bytes);
  };
  const Status visited = core->VisitFlushed(
      [&](const State& cached) -> Status {
        state = section.state = cached;
        section.part_count = (cached.pages + kSectionPages - 1) / kSectionPages;
        if (cached.pages <= kInlinePages) return OkStatus();
        spool.path = Format("{}/{:016x}.snapshot",
                            {options_.spool_folder, HashBytes(AsBytes(name), cached.lsn)});
        EDGE_ASSIGN_OR_RETURN(file, options_.files->Open(spool.path, OpenMode::kCreateTruncate));
        return OkStatus();
      },
      [&](uint32_t pgno, const std::byte* page) -> Status {
        post ^= PageHash(pgno, page);
        AppendPage(pgno, page, &raw);
        return pgno % kSectionPages == 0 || pgno == state.pages ? finish_part() : OkStatus();
      });
  Status failure = visited;
  if (visited.ok() && post != state.post) {
    failure = DataLoss("{}: at commit {} it hashes to {}, expected {}", core->paths().cache,
                       state.lsn, post.ToHex(), state.post.ToHex());
    core->Break(failure);
  }
  if (!failure.ok()) {
    if (file != nullptr) options_.files->Remove(spool.path).IgnoreError();
    return failure;
  }
  for (auto& [part, compressed] : parts) pack->AddCompressed(part, compressed.bytes);
  if (file != nullptr) spooled_.push_back(std::move(spool));
  return OkStatus();
}

Status Archive::UploadSpooled() {
  while (!spooled_.empty()) {
    Spooled& spool = spooled_.back();
    EDGE_ASSIGN_OR_RETURN(auto file, options_.files->Open(spool.path, OpenMode::kRead));
    while (!spool.parts.empty()) {
      Section part = spool.parts.front();
      Bytes compressed(part.bytes);
      EDGE_ASSIGN_OR_RETURN(const size_t got, file->ReadAt(part.offset, compressed));
      if (got != compressed.size()) return DataLoss("{}: cut off", spool.path);
      JournalPosition at;
      {
        MutexLock lock(&mu_);
        at = uploaded_;
      }
      const PackHeader header = NextHeader(at, at);
      PackWriter pack(header);
      pack.AddCompressed(part, compressed);
      EDGE_RETURN_IF_ERROR(PutPack(header, &pack));
      spool.parts.erase(spool.parts.begin());
    }
    options_.files->Remove(spool.path).IgnoreError();
    spooled_.pop_back();
  }
  return OkStatus();
}

StatusOr<bool> Archive::UploadBatch(std::set<std::string>* snapshots) {
  EDGE_RETURN_IF_ERROR(EnsureLoaded());
  EDGE_RETURN_IF_ERROR(UploadSpooled());
  Journal& journal = *options_.journal;
  JournalPosition from;
  {
    MutexLock lock(&mu_);
    from = uploaded_;
  }
  const JournalPosition until = journal.confirmed_end();
  // The header names where the pack ends, which is known only after reading.
  std::vector<LogDraft> drafts;
  std::map<std::string, size_t, std::less<>> open;
  PackWriter pack(NextHeader(from, from));
  EDGE_ASSIGN_OR_RETURN(
      const JournalPosition to,
      journal.Read(from, until, options_.batch_bytes_max, [&](const JournalEntry& entry) {
        return AddLog(entry, &drafts, &open, &pack);
      }));
  for (LogDraft& draft : drafts) {
    if (draft.section.name.empty()) continue;
    EDGE_RETURN_IF_ERROR(pack.Add(draft.section, draft.raw));
    draft.raw = Bytes();
  }
  snapshots->merge(OutgrownBy(pack.sections()));
  Status failure;
  for (const std::string& name : *snapshots) {
    // One that fails must not keep the logs of all from the store.
    const Status added = AddSnapshot(name, &pack);
    if (!added.ok()) failure = added;
  }
  if (pack.section_count() > 0) {
    const PackHeader header = NextHeader(from, to);
    pack.SetHeader(header);
    const std::vector<Section> stored = pack.sections();
    const Status put = PutPack(header, &pack);
    if (put.code() == StatusCode::kAborted) return true;  // go on behind what is there
    EDGE_RETURN_IF_ERROR(put);
    for (const Section& section : stored) {
      if (section.kind == SectionKind::kPages) continue;
      const auto core = options_.find(section.name);
      if (core != nullptr) core->OnStored(section.state.epoch, section.state.lsn);
    }
  } else {
    MutexLock lock(&mu_);
    uploaded_ = std::max(uploaded_, to);
  }
  snapshots->clear();
  journal.SetUploaded(to);
  journal.Recycle();
  EDGE_RETURN_IF_ERROR(UploadSpooled());
  EDGE_RETURN_IF_ERROR(failure);
  return to < until;
}

}  // namespace edge::srs
