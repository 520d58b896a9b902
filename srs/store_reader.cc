#include "edge/srs/store_reader.h"

#include <algorithm>
#include <set>
#include <utility>

#include "edge/base/errors.h"
#include "srs/catalog.h"
#include "srs/garbage.h"
#include "srs/image.h"
#include "srs/lazy_image.h"
#include "srs/litestream.h"
#include "srs/object_store.h"
#include "srs/replay.h"

namespace edge::srs {
namespace {

class Reader final : public StoreReader {
 public:
  explicit Reader(StoreReaderOptions options)
      : store_(std::move(options.store)),
        files_(options.files != nullptr ? *options.files : PosixFileSystem()),
        clock_(options.clock != nullptr ? *options.clock : SystemClock()),
        catalog_(store_) {}

  Status Refresh() override { return catalog_.Refresh(); }
  std::vector<std::string> Damage() override { return catalog_.Damage(); }

  StatusOr<std::vector<StoredDatabase>> ListDatabases() override {
    std::vector<StoredDatabase> all;
    for (const std::string& name : catalog_.Names()) {
      EDGE_ASSIGN_OR_RETURN(StoredDatabase database, Info(name));
      all.push_back(std::move(database));
    }
    return all;
  }
  StatusOr<StoredDatabase> Info(const std::string& name) override;
  StatusOr<std::string> GetBookmarkForTime(const std::string& name, int64_t wall_ms) override {
    EDGE_ASSIGN_OR_RETURN(const State newest, Newest(name));
    EDGE_ASSIGN_OR_RETURN(const State found, catalog_.FindTime(name, newest.epoch, wall_ms));
    return FormatBookmark(found);
  }

  StatusOr<RestoreReport> Restore(const std::string& name, const RestoreTarget& target,
                                  const std::string& path, ProgressCallback progress) override;
  StatusOr<VerifyReport> Verify(const std::string& name, const std::string& scratch,
                                ProgressCallback progress) override;
  StatusOr<std::unique_ptr<ReadOnlyDatabase>> OpenReadOnly(const std::string& name,
                                                           const RestoreTarget& target) override {
    EDGE_ASSIGN_OR_RETURN(const Bookmark wanted, Resolve(name, target));
    return OpenView(&catalog_, name, wanted.epoch, wanted);
  }
  StatusOr<RestoreReport> ExportLitestream(const std::string& name, const RestoreTarget& target,
                                           const std::string& folder,
                                           ProgressCallback progress) override;
  StatusOr<GarbageReport> CollectGarbage(const GarbageOptions& options, const std::string& scratch,
                                         ProgressCallback progress) override {
    EDGE_RETURN_IF_ERROR(catalog_.Refresh());
    return srs::CollectGarbage(store_.get(), &catalog_, &files_, &clock_, options, scratch,
                               std::move(progress));
  }

 private:
  StatusOr<State> Newest(const std::string& name) const {
    const std::optional<State> newest = catalog_.Newest(name);
    if (newest) return *newest;
    EDGE_RETURN_IF_ERROR(catalog_.CheckDamage(name));
    return NotFound("the store has no database \"{}\"", name);
  }
  StatusOr<Bookmark> Resolve(const std::string& name, const RestoreTarget& target);
  // Into an emptied file at `path`, synced.
  StatusOr<State> Build(const std::string& name, const RestoreTarget& target,
                        const std::string& path, RestoreReport* report, ProgressCallback progress);

  const std::shared_ptr<ObjectStore> store_;
  FileSystem& files_;
  Clock& clock_;
  Catalog catalog_;
};

StatusOr<StoredDatabase> Reader::Info(const std::string& name) {
  EDGE_ASSIGN_OR_RETURN(const State newest, Newest(name));
  const std::optional<Entry> entry = catalog_.Find(name, newest.epoch);
  if (!entry) return NotFound("the store has no database \"{}\"", name);
  StoredDatabase info;
  info.name = name;
  info.lsn = newest.lsn;
  info.committed_wall_ms = newest.wall_ms;
  info.database_bytes = uint64_t{newest.pages} * kPageBytes;
  info.newest_bookmark = FormatBookmark(newest);
  info.logs = entry->logs.size();
  for (const Placed& log : entry->logs) info.stored_bytes += log.section.bytes;
  State oldest = catalog_.OldestState(name, newest.epoch);
  for (const auto& [lsn, parts] : entry->snapshots) {
    if (Catalog::IsComplete(parts)) ++info.snapshots;
    for (const Placed& part : parts) info.stored_bytes += part.section.bytes;
  }
  oldest.epoch = newest.epoch;
  info.oldest_bookmark = FormatBookmark(oldest);
  info.oldest_wall_ms = oldest.wall_ms;
  info.restore_bytes = catalog_.PlanRestore(name, newest.epoch, UINT64_MAX).bytes;
  if (entry->fork) info.forked_from = entry->fork->section.parent;
  return info;
}

StatusOr<Bookmark> Reader::Resolve(const std::string& name, const RestoreTarget& target) {
  if (!target.bookmark.empty() && target.wall_ms != 0) {
    return InvalidArgument("a restore target has a bookmark or a time, not both");
  }
  std::string text = target.bookmark;
  if (target.wall_ms != 0) {
    EDGE_ASSIGN_OR_RETURN(text, GetBookmarkForTime(name, target.wall_ms));
  }
  if (!text.empty()) {
    EDGE_ASSIGN_OR_RETURN(const Bookmark wanted, ParseBookmark(text));
    // One of a deleted predecessor of that name is as good while its packs are there.
    if (catalog_.Find(name, wanted.epoch)) return wanted;
    EDGE_RETURN_IF_ERROR(catalog_.CheckDamage(name));
    return NotFound("the store has no database \"{}\" of bookmark {}", name, text);
  }
  EDGE_ASSIGN_OR_RETURN(const State newest, Newest(name));
  return Bookmark{newest.epoch, newest.lsn, newest.chain};
}

StatusOr<State> Reader::Build(const std::string& name, const RestoreTarget& target,
                              const std::string& path, RestoreReport* report,
                              ProgressCallback progress) {
  EDGE_ASSIGN_OR_RETURN(const Bookmark wanted, Resolve(name, target));
  EDGE_ASSIGN_OR_RETURN(auto file, files_.Open(path, OpenMode::kCreateTruncate));
  FileImage image(std::move(file));
  EDGE_ASSIGN_OR_RETURN(const State state, catalog_.Restore(name, wanted.epoch, wanted.lsn, &image,
                                                            report, std::move(progress)));
  if (state.lsn != wanted.lsn || state.chain != wanted.chain) {
    EDGE_RETURN_IF_ERROR(catalog_.CheckDamage(name));
    return NotFound(
        "database \"{}\" has no commit {} with that bookmark; {} is as near as the "
        "store gets",
        name, wanted.lsn, state.lsn);
  }
  EDGE_RETURN_IF_ERROR(image.Resize(state.pages));
  EDGE_RETURN_IF_ERROR(image.Sync());
  report->lsn = state.lsn;
  report->committed_wall_ms = state.wall_ms;
  report->database_bytes = uint64_t{state.pages} * kPageBytes;
  return state;
}

StatusOr<RestoreReport> Reader::Restore(const std::string& name, const RestoreTarget& target,
                                        const std::string& path, ProgressCallback progress) {
  RestoreReport report;
  const std::string temporary = path + ".tmp";
  Status done = Build(name, target, temporary, &report, std::move(progress)).status();
  if (done.ok()) done = InstallPlain(files_, temporary, path);
  if (!done.ok()) {
    files_.Remove(temporary).IgnoreError();
    return done;
  }
  return report;
}

StatusOr<RestoreReport> Reader::ExportLitestream(const std::string& name,
                                                 const RestoreTarget& target,
                                                 const std::string& folder,
                                                 ProgressCallback progress) {
  EDGE_RETURN_IF_ERROR(files_.MakeDirectories(folder));
  RestoreReport report;
  const std::string temporary = folder + "/restored.tmp";
  const auto state = Build(name, target, temporary, &report, std::move(progress));
  Status done = state.status();
  if (done.ok()) {
    EDGE_ASSIGN_OR_RETURN(auto file, files_.Open(temporary, OpenMode::kRead));
    FileImage image(std::move(file));
    done = WriteLitestream(files_, folder, *state, &image);
  }
  files_.Remove(temporary).IgnoreError();
  if (!done.ok()) return done;
  return report;
}

StatusOr<VerifyReport> Reader::Verify(const std::string& name, const std::string& scratch,
                                      ProgressCallback progress) {
  EDGE_ASSIGN_OR_RETURN(const State newest, Newest(name));
  VerifyReport report;
  const std::optional<Entry> entry = catalog_.Find(name, newest.epoch);
  for (const auto& [lsn, parts] : entry->snapshots) {
    if (!Catalog::IsComplete(parts)) continue;
    Hash128 post;
    for (const Placed& part : parts) {
      EDGE_ASSIGN_OR_RETURN(const Bytes raw, catalog_.Fetch(part, &report.bytes_read));
      EDGE_RETURN_IF_ERROR(VisitPages(part.section, raw, [&](uint32_t pgno, const std::byte* page) {
        post ^= PageHash(pgno, page);
        return OkStatus();
      }));
    }
    const State& state = parts[0].section.state;
    if (post != state.post) {
      return DataLoss("object {}: the snapshot of \"{}\" at commit {} hashes to {}, expected {}",
                      parts[0].key, name, lsn, post.ToHex(), state.post.ToHex());
    }
    ++report.snapshots;
  }
  const State oldest = catalog_.OldestState(name, newest.epoch);
  EDGE_ASSIGN_OR_RETURN(const State reached,
                        ProveLine(&catalog_, &files_, name, newest.epoch, oldest.lsn, scratch,
                                  &report.bytes_read, std::move(progress)));
  if (reached.lsn != newest.lsn || reached.chain != newest.chain || reached.post != newest.post) {
    EDGE_RETURN_IF_ERROR(catalog_.CheckDamage(name));
    return DataLoss("database \"{}\": replaying ends at commit {}, the store has {}", name,
                    reached.lsn, newest.lsn);
  }
  EDGE_RETURN_IF_ERROR(catalog_.CheckDamage(name));
  report.commits = newest.lsn - oldest.lsn;
  report.lsn = newest.lsn;
  return report;
}

}  // namespace

StatusOr<std::unique_ptr<StoreReader>> StoreReader::Open(StoreReaderOptions options) {
  if (options.store == nullptr) return InvalidArgument("StoreReaderOptions::store is null");
  auto reader = std::make_unique<Reader>(std::move(options));
  EDGE_RETURN_IF_ERROR(reader->Refresh());
  return reader;
}

}  // namespace edge::srs
