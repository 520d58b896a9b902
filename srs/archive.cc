#include "srs/archive.h"

#include <algorithm>
#include <utility>

#include "edge/base/check.h"
#include "edge/base/errors.h"

namespace edge::srs {
namespace {

constexpr uint32_t kInlinePages = 1024;  // snapshots up to 4 MiB ride in the batch
constexpr int64_t kRetryMsMax = 30'000;
constexpr size_t kPacksPerCatalog = 64;  // a catalog object is written after so many

// A restore replays what follows the newest snapshot: at most so long, at the cost of one
// commit or of so many bytes of log, whichever is more (measured: srs_replay_ns_per_commit in
// bench/srs).
constexpr uint64_t kReplayNsMax = 100'000'000;
constexpr uint64_t kReplayNsPerCommit = 2'500;
constexpr uint64_t kReplayBytesPerCommit = 1'024;

uint64_t ReplayNs(uint64_t commits, uint64_t bytes) {
  return kReplayNsPerCommit * std::max(commits, bytes / kReplayBytesPerCommit);
}

}  // namespace

Archive::Archive(ArchiveOptions options)
    : options_(std::move(options)), store_(options_.store), catalog_(store_) {
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

Status Archive::EnsureLoaded() {
  MutexLock lock(&mu_);
  if (is_loaded_) return OkStatus();
  EDGE_RETURN_IF_ERROR(catalog_.EnsureLoaded());
  const Catalog::JournalSeen seen = catalog_.SeenOf(options_.journal->id());
  next_seq_ = seen.next_seq;
  if (seen.to > options_.journal->end()) {
    return FailedPrecondition(
        "the store has packs of this journal up to file {:016x} offset {}, the journal ends at "
        "{:016x} offset {}: an old copy of the directory is in use; move it away and open an "
        "empty one to restore from the store",
        seen.to.file, seen.to.offset, options_.journal->end().file, options_.journal->end().offset);
  }
  uploaded_ = std::max(seen.to, options_.journal->begin());
  options_.journal->SetUploaded(uploaded_);
  is_loaded_ = true;
  return OkStatus();
}

StatusOr<std::optional<State>> Archive::Newest(const std::string& name) {
  EDGE_RETURN_IF_ERROR(EnsureLoaded());
  return catalog_.Newest(name);
}

StatusOr<uint32_t> Archive::DeletedEpoch(const std::string& name) {
  EDGE_RETURN_IF_ERROR(EnsureLoaded());
  return catalog_.DeletedEpoch(name);
}

StatusOr<std::vector<std::string>> Archive::Names() {
  EDGE_RETURN_IF_ERROR(EnsureLoaded());
  return catalog_.Names();
}

StatusOr<State> Archive::Restore(const std::string& name, uint32_t epoch, Lsn target,
                                 PageImage* image, RestoreReport* report) {
  EDGE_RETURN_IF_ERROR(EnsureLoaded());
  return catalog_.Restore(name, epoch, target, image, report);
}

Status Archive::Fork(const std::string& child, uint32_t child_epoch, const std::string& parent,
                     const State& at) {
  EDGE_RETURN_IF_ERROR(EnsureLoaded());
  MutexLock upload(&upload_mu_);
  JournalPosition here;
  {
    MutexLock lock(&mu_);
    here = uploaded_;
  }
  Section fork;
  fork.kind = SectionKind::kFork;
  fork.name = child;
  fork.state = at;
  fork.state.epoch = child_epoch;
  fork.parent = parent;
  fork.parent_epoch = at.epoch;
  for (;;) {
    const PackHeader header = NextHeader(here, here);
    PackWriter pack(header);
    EDGE_RETURN_IF_ERROR(pack.Add(fork, {}));
    const Status put = PutPack(header, &pack);
    if (put.code() != StatusCode::kAborted) return put;
  }
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
  const std::string key = Catalog::KeyOf(header.journal_id, header.seq);
  PackInfo info{0, header, pack->sections()};
  const Bytes object = pack->Finish();
  info.bytes = object.size();
  const StatusOr<std::string> put = store_->Put(key, object, {.if_absent = true});
  if (put.status().code() == StatusCode::kAlreadyExists) {
    // An upload of ours that we believe has failed. It is good if it began where we do.
    EDGE_ASSIGN_OR_RETURN(const ObjectInfo there, store_->Head(key));
    EDGE_ASSIGN_OR_RETURN(PackInfo found, Catalog::LoadPack(*store_, there));
    MutexLock lock(&mu_);
    ++next_seq_;
    if (found.header.from == header.from && found.header.to >= header.from) {
      uploaded_ = std::max(uploaded_, found.header.to);
      catalog_.Add(key, std::move(found));
    }
    return Aborted("object {}: was there already", key);
  }
  if (!put.ok()) return Annotate(put.status(), "object " + key);
  if (packs_metric_ != nullptr) {
    packs_metric_->Add();
    bytes_metric_->Add(object.size());
  }
  ++packs_since_save_;
  MutexLock lock(&mu_);
  ++next_seq_;
  catalog_.Add(key, std::move(info));
  uploaded_ = std::max(uploaded_, header.to);
  return OkStatus();
}

// Saves readers from reading the directory of every pack. Not needed for anything: a failure
// is made good by the next.
void Archive::SaveCatalogIfDue() {
  if (packs_since_save_ < kPacksPerCatalog) return;
  packs_since_save_ = 0;
  catalog_.Save(options_.clock->wall_ms()).IgnoreError();
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
    uint64_t log_commits;
  };
  std::map<std::string, Seen> seen;
  std::set<std::string> outgrown;
  for (const Section& log : sections) {
    if (log.kind != SectionKind::kLog) continue;
    auto at = seen.find(log.name);
    if (at == seen.end() || log.first_lsn == 1) {
      Seen before{EmptyState(log.name, log.state.epoch).chain, 0, 0, 0};
      const std::optional<Entry> entry = catalog_.Find(log.name, log.state.epoch);
      if (entry && entry->newest) {
        before = {entry->newest->chain, entry->newest->lsn, entry->log_bytes, entry->log_commits};
      }
      at = seen.insert_or_assign(log.name, before).first;
    }
    Seen& before = at->second;
    const bool follows = log.first_lsn <= before.lsn || log.chain_before == before.chain;
    before = {log.state.chain, log.state.lsn, before.log_bytes + log.raw_bytes,
              before.log_commits + log.state.lsn - log.first_lsn + 1};
    const uint64_t database_bytes = uint64_t{log.state.pages} * kPageBytes;
    if (!follows || before.log_bytes > database_bytes ||
        ReplayNs(before.log_commits, before.log_bytes) > kReplayNsMax) {
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
  PagesWriter pages;
  Section section;
  section.kind = SectionKind::kPages;
  section.name = name;
  const auto finish_part = [&]() -> Status {
    Section part = section;
    EDGE_ASSIGN_OR_RETURN(CompressedSection compressed, pages.Finish(&part));
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
        EDGE_RETURN_IF_ERROR(pages.Add(pgno, page));
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
  SaveCatalogIfDue();
  EDGE_RETURN_IF_ERROR(failure);
  return to < until;
}

}  // namespace edge::srs
