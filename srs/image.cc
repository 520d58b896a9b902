#include "srs/image.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "edge/base/check.h"
#include "edge/base/errors.h"

namespace edge::srs {
namespace {

constexpr char kFlushMagic[8] = {'E', 'D', 'G', 'E', 'F', 'L', 'S', '1'};
constexpr uint32_t kFlushVersion = 1;
constexpr size_t kFlushHeaderBytes = 512;  // with the name, of at most 200 bytes
constexpr size_t kFlushEntryBytes = 8 + kPageBytes;

struct FlushHeader {
  uint64_t journal_id = 0;
  State state;
  uint32_t pages_kept = 0;  // the cache file keeps its first pages; above them, zeros
  uint32_t page_count = 0;
  uint32_t body_crc = 0;
  std::string name;
};

Bytes EncodeFlushHeader(const FlushHeader& header) {
  Bytes bytes;
  ByteWriter out(&bytes);
  out.Raw(AsBytes({kFlushMagic, 8}));
  out.U32(kFlushVersion);
  out.U32(0);  // the checksum
  out.U64(header.journal_id);
  out.U32(header.state.epoch);
  out.U32(header.state.pages);
  out.U64(header.state.lsn);
  out.U64(static_cast<uint64_t>(header.state.wall_ms));
  out.U64(header.state.chain.low);
  out.U64(header.state.chain.high);
  out.U64(header.state.post.low);
  out.U64(header.state.post.high);
  out.U32(header.pages_kept);
  out.U32(header.page_count);
  out.U32(header.body_crc);
  out.Sized(AsBytes(header.name));
  EDGE_CHECK(bytes.size() <= kFlushHeaderBytes);
  bytes.resize(kFlushHeaderBytes);
  StoreLittle(bytes.data() + 12, Crc32c(bytes));
  return bytes;
}

// DataLoss; FailedPrecondition for a version of the future, which must not be written over.
Status DecodeFlushHeader(const std::string& path, MutableByteView in, FlushHeader* header) {
  if (in.size() != kFlushHeaderBytes) {
    return DataLoss("{}: cut off at offset {}, its header has {} bytes", path, in.size(),
                    kFlushHeaderBytes);
  }
  if (std::memcmp(in.data(), kFlushMagic, 8) != 0) {
    return DataLoss("{}: at offset 0 is {}, expected {} (EDGEFLS1)", path, ToHex(in.first(8)),
                    ToHex(AsBytes({kFlushMagic, 8})));
  }
  const auto crc = LoadLittle<uint32_t>(in.data() + 12);
  StoreLittle(in.data() + 12, uint32_t{0});
  if (const uint32_t found = Crc32c(in); found != crc) {
    return DataLoss("{}: damaged header at offset 0: checksum {:08x}, expected {:08x}", path, found,
                    crc);
  }
  ByteReader reader(in.subspan(8));
  if (const uint32_t version = reader.U32(); version != kFlushVersion) {
    return FailedPrecondition("{}: at offset 8 is format version {}; this program knows {}", path,
                              version, kFlushVersion);
  }
  reader.U32();
  header->journal_id = reader.U64();
  header->state.epoch = reader.U32();
  header->state.pages = reader.U32();
  header->state.lsn = reader.U64();
  header->state.wall_ms = static_cast<int64_t>(reader.U64());
  header->state.chain.low = reader.U64();
  header->state.chain.high = reader.U64();
  header->state.post.low = reader.U64();
  header->state.post.high = reader.U64();
  header->pages_kept = reader.U32();
  header->page_count = reader.U32();
  header->body_crc = reader.U32();
  header->name = AsText(reader.Sized());
  return reader.failed() ? DataLoss("{}: its name is cut off", path) : OkStatus();
}

std::string FolderOf(const std::string& path) {
  return path.substr(0, path.rfind('/'));
}

Status RemoveIfThere(FileSystem* files, const std::string& path) {
  const Status removed = files->Remove(path);
  return removed.code() == StatusCode::kNotFound ? OkStatus() : removed;
}

uint64_t OffsetOf(uint32_t pgno) {
  return uint64_t{pgno - 1} * kPageBytes;
}

}  // namespace

// --- FileImage ---

Status FileImage::ReadPage(uint32_t pgno, std::byte* out) {
  EDGE_RETURN_IF_ERROR(WritePending());
  EDGE_ASSIGN_OR_RETURN(const size_t got, file_->ReadAt(OffsetOf(pgno), {out, kPageBytes}));
  std::memset(out + got, 0, kPageBytes - got);
  return OkStatus();
}
Status FileImage::WritePage(uint32_t pgno, const std::byte* page, const Hash128&) {
  constexpr size_t kPendingBytesMax = 256 << 10;
  const bool follows = pgno == pending_first_ + pending_.size() / kPageBytes;
  if (!follows || pending_.size() >= kPendingBytesMax) EDGE_RETURN_IF_ERROR(WritePending());
  if (pending_.empty()) pending_first_ = pgno;
  pending_.insert(pending_.end(), page, page + kPageBytes);
  return OkStatus();
}
Status FileImage::WritePending() {
  if (pending_.empty()) return OkStatus();
  EDGE_RETURN_IF_ERROR(file_->WriteAt(OffsetOf(pending_first_), pending_));
  pending_.clear();
  return OkStatus();
}
Status FileImage::Resize(uint32_t pages) {
  EDGE_RETURN_IF_ERROR(WritePending());
  return file_->Truncate(uint64_t{pages} * kPageBytes);
}
Status FileImage::Sync() {
  EDGE_RETURN_IF_ERROR(WritePending());
  return file_->Sync();
}

Status InstallPlain(FileSystem& files, const std::string& finished, const std::string& path) {
  {
    EDGE_ASSIGN_OR_RETURN(auto file, files.Open(finished, OpenMode::kReadWrite));
    const std::byte plain[2] = {std::byte{1}, std::byte{1}};
    EDGE_RETURN_IF_ERROR(file->WriteAt(18, plain));
    EDGE_RETURN_IF_ERROR(file->Sync());
  }
  EDGE_RETURN_IF_ERROR(files.Rename(finished, path));
  return files.SyncDirectory(path.find('/') == std::string::npos ? "." : FolderOf(path) + "/");
}

// --- Image: making and loading ---

Image::Image(FileSystem* files, ImagePaths paths, std::string name, uint64_t journal_id)
    : files_(files),
      paths_(std::move(paths)),
      name_(std::move(name)),
      journal_id_(journal_id),
      wal_(files, paths_.spill, kWalMemoryFrames) {}

std::unique_ptr<Image> Image::Create(FileSystem* files, ImagePaths paths, std::string name,
                                     uint64_t journal_id, uint32_t epoch) {
  std::unique_ptr<Image> image(new Image(files, std::move(paths), std::move(name), journal_id));
  const State empty = EmptyState(image->name_, epoch);
  MutexLock flush_lock(&image->flush_mu_);
  MutexLock lock(&image->mu_);
  image->overlay_[1] = {std::make_shared<Page>(EmptyDatabasePage()), empty.post};
  image->state_ = image->cached_ = empty;
  image->main_pages_ = 1;
  return image;
}

StatusOr<std::unique_ptr<Image>> Image::Load(FileSystem* files, ImagePaths paths, std::string name,
                                             uint64_t journal_id) {
  std::unique_ptr<Image> image(new Image(files, std::move(paths), std::move(name), journal_id));
  const std::string& flush_path = image->paths_.flush;
  EDGE_ASSIGN_OR_RETURN(auto flush, files->Open(flush_path, OpenMode::kRead));
  Bytes raw(kFlushHeaderBytes);
  EDGE_ASSIGN_OR_RETURN(size_t got, flush->ReadAt(0, raw));
  raw.resize(got);
  FlushHeader header;
  EDGE_RETURN_IF_ERROR(DecodeFlushHeader(flush_path, raw, &header));
  if (header.name != image->name_ || header.journal_id != journal_id) {
    return DataLoss("{}: belongs to database \"{}\" of another journal", flush_path, header.name);
  }
  EDGE_ASSIGN_OR_RETURN(std::unique_ptr<File> cache,
                        files->Open(image->paths_.cache, OpenMode::kReadWrite));
  EDGE_ASSIGN_OR_RETURN(const uint64_t cache_bytes, cache->Size());
  const uint32_t kept = header.pages_kept;
  if (cache_bytes < uint64_t{kept} * kPageBytes) {
    return DataLoss("{}: cut off at offset {}, should have {} pages", image->paths_.cache,
                    cache_bytes, kept);
  }
  // Twice over the pages: none may be written before all are known to be good.
  Bytes entry(kFlushEntryBytes);
  for (const bool write : {false, true}) {
    uint32_t crc = 0;
    if (write) EDGE_RETURN_IF_ERROR(cache->Truncate(uint64_t{kept} * kPageBytes));
    for (uint32_t i = 0; i < header.page_count; ++i) {
      EDGE_ASSIGN_OR_RETURN(got, flush->ReadAt(kFlushHeaderBytes + i * kFlushEntryBytes, entry));
      const auto pgno = LoadLittle<uint32_t>(entry.data());
      if (got != entry.size() || pgno == 0 || pgno > header.state.pages) {
        return DataLoss("{}: damaged at page {} of {}", flush_path, i, header.page_count);
      }
      crc = Crc32c(entry, crc);
      if (write) {
        EDGE_RETURN_IF_ERROR(cache->WriteAt(OffsetOf(pgno), ByteView(entry).subspan(8)));
      }
    }
    if (crc != header.body_crc) {
      return DataLoss("{}: its pages from offset {} are damaged: checksum {:08x}, expected {:08x}",
                      flush_path, kFlushHeaderBytes, crc, header.body_crc);
    }
  }
  EDGE_RETURN_IF_ERROR(cache->Truncate(uint64_t{header.state.pages} * kPageBytes));
  MutexLock flush_lock(&image->flush_mu_);
  image->cache_is_unsynced_ = true;
  {
    MutexLock lock(&image->mu_);
    image->file_ = std::move(cache);
    image->cache_pages_ = image->pages_min_ = header.state.pages;
    image->state_ = image->cached_ = header.state;
  }
  image->main_pages_ = header.state.pages;
  image->cached_lsn_ = header.state.lsn;
  if (header.state.pages <= kVerifyPagesMax) EDGE_RETURN_IF_ERROR(image->Verify());
  return image;
}

Status Image::Verify() {
  Hash128 post;
  Page page;
  for (uint32_t pgno = 1; pgno <= state_.pages; ++pgno) {
    EDGE_RETURN_IF_ERROR(ReadPage(pgno, page.bytes));
    post ^= PageHash(pgno, page.bytes);
  }
  if (post == state_.post) return OkStatus();
  return DataLoss("{}: hashes to {}, expected {}", paths_.cache, post.ToHex(), state_.post.ToHex());
}

Status Image::Install(FileSystem* files, const ImagePaths& paths, const std::string& name,
                      uint64_t journal_id, const State& state, const std::string& finished) {
  // Without its flush file a cache counts as missing: no crash can pair the old one with
  // the new pages.
  EDGE_RETURN_IF_ERROR(RemoveIfThere(files, paths.flush));
  EDGE_RETURN_IF_ERROR(files->SyncDirectory(FolderOf(paths.flush)));
  EDGE_RETURN_IF_ERROR(files->Rename(finished, paths.cache));
  EDGE_RETURN_IF_ERROR(files->SyncDirectory(FolderOf(paths.cache)));
  FlushHeader header;
  header.journal_id = journal_id;
  header.state = state;
  header.pages_kept = state.pages;
  header.name = name;
  return WriteFileAtomic(*files, paths.flush, EncodeFlushHeader(header));
}

Status Image::RemoveFiles(FileSystem* files, const ImagePaths& paths) {
  EDGE_RETURN_IF_ERROR(RemoveIfThere(files, paths.flush));
  EDGE_RETURN_IF_ERROR(RemoveIfThere(files, paths.cache));
  return files->SyncDirectory(FolderOf(paths.flush));
}

State Image::copy_state() const {
  MutexLock lock(&mu_);
  return state_;
}

void Image::SetState(const State& state) {
  MutexLock lock(&mu_);
  state_ = state;
  main_pages_ = state.pages;
}

size_t Image::overlay_pages() const {
  MutexLock lock(&mu_);
  return overlay_.size();
}

// --- Pages ---

Status Image::ReadCache(uint32_t pgno, std::byte* out) {
  std::shared_ptr<File> file;
  uint32_t pages = 0;
  {
    MutexLock lock(&mu_);
    file = file_;
    pages = cache_pages_;
  }
  size_t got = 0;
  if (file != nullptr && pgno <= pages) {
    EDGE_ASSIGN_OR_RETURN(got, file->ReadAt(OffsetOf(pgno), {out, kPageBytes}));
    if (got != kPageBytes) {
      return DataLoss("{}: cut off at offset {}", paths_.cache, OffsetOf(pgno) + got);
    }
  }
  std::memset(out + got, 0, kPageBytes - got);
  return OkStatus();
}

StatusOr<const std::byte*> Image::Newest(uint32_t pgno, Page* scratch,
                                         std::shared_ptr<const Page>* keep, Hash128* hash) {
  {
    MutexLock lock(&mu_);
    if (const auto it = wal_pages_.find(pgno); it != wal_pages_.end()) {
      *hash = it->second.hash;
      if (const std::byte* page = wal_.PageInMemory(it->second.index)) return page;
      EDGE_RETURN_IF_ERROR(wal_.ReadPage(it->second.index, scratch->bytes));
      return scratch->bytes;
    }
    if (const auto it = overlay_.find(pgno); it != overlay_.end()) {
      *hash = it->second.hash;
      *keep = it->second.page;
      if (*keep != nullptr) return (*keep)->bytes;
      std::memset(scratch->bytes, 0, kPageBytes);
      return scratch->bytes;
    }
  }
  EDGE_RETURN_IF_ERROR(ReadCache(pgno, scratch->bytes));
  *hash = PageHash(pgno, scratch->bytes);
  return scratch->bytes;
}

Status Image::ReadPage(uint32_t pgno, std::byte* out) {
  Page scratch;
  std::shared_ptr<const Page> keep;
  Hash128 hash;
  EDGE_ASSIGN_OR_RETURN(const std::byte* page, Newest(pgno, &scratch, &keep, &hash));
  std::memcpy(out, page, kPageBytes);
  return OkStatus();
}

Status Image::WritePage(uint32_t pgno, const std::byte* page, const Hash128& hash) {
  std::shared_ptr<Page> version;
  if (hash != Hash128{}) {
    version = std::make_shared<Page>();
    std::memcpy(version->bytes, page, kPageBytes);
  }
  MutexLock lock(&mu_);
  overlay_[pgno] = {std::move(version), hash};
  return OkStatus();
}

Status Image::Resize(uint32_t pages) {
  MutexLock lock(&mu_);
  if (pages < state_.pages) ShrinkLocked(pages);
  state_.pages = pages;
  return OkStatus();
}

void Image::ShrinkLocked(uint32_t pages) {
  absl::erase_if(overlay_, [pages](const auto& entry) { return entry.first > pages; });
  absl::erase_if(wal_pages_, [pages](const auto& entry) { return entry.first > pages; });
  cache_pages_ = std::min(cache_pages_, pages);
  pages_min_ = std::min(pages_min_, pages);
}

Status Image::ReadMain(uint64_t offset, MutableByteView out, size_t* got) {
  const uint64_t end = main_bytes();
  *got = offset >= end ? 0 : std::min<uint64_t>(out.size(), end - offset);
  for (size_t done = 0; done < *got;) {
    const auto pgno = static_cast<uint32_t>((offset + done) / kPageBytes + 1);
    const size_t within = (offset + done) % kPageBytes;
    const size_t count = std::min(*got - done, kPageBytes - within);
    std::byte* const to = out.data() + done;
    done += count;
    {
      MutexLock lock(&mu_);
      if (const auto it = overlay_.find(pgno); it != overlay_.end()) {
        if (it->second.page != nullptr) {
          std::memcpy(to, it->second.page->bytes + within, count);
        } else {
          std::memset(to, 0, count);
        }
        continue;
      }
    }
    if (count == kPageBytes) {
      EDGE_RETURN_IF_ERROR(ReadCache(pgno, to));
    } else {
      Page page;
      EDGE_RETURN_IF_ERROR(ReadCache(pgno, page.bytes));
      std::memcpy(to, page.bytes + within, count);
    }
  }
  return OkStatus();
}

Status Image::WriteMain(uint64_t offset, ByteView bytes) {
  if (offset % kPageBytes != 0 || bytes.size() != kPageBytes) {
    return Internal("{}: a write of {} bytes at {} is not a page", name_, bytes.size(), offset);
  }
  const auto pgno = static_cast<uint32_t>(offset / kPageBytes + 1);
  main_pages_ = std::max(main_pages_, pgno);
  Hash128 hash;
  bool known = false;
  {
    MutexLock lock(&mu_);
    if (const auto it = wal_pages_.find(pgno); it != wal_pages_.end()) {
      hash = it->second.hash;
      known = true;
    }
  }
  return WritePage(pgno, bytes.data(), known ? hash : PageHash(pgno, bytes.data()));
}

void Image::ForgetWal() {
  MutexLock lock(&mu_);
  wal_pages_.clear();
}

Status Image::Publish(uint32_t first, uint32_t last, uint32_t pages, int64_t wall_ms,
                      RecordBuilder* builder) {
  changed_.clear();
  for (uint32_t frame = first; frame <= last; ++frame) {
    EDGE_ASSIGN_OR_RETURN(const uint32_t pgno, wal_.PageNumber(frame));
    if (pgno <= pages) changed_.push_back({pgno, {frame, {}}});
  }
  if (changed_.size() > 1) {
    // A page that was spilled and written again counts in its last version.
    std::ranges::stable_sort(changed_, {}, &Change::pgno);
    size_t kept = 0;
    for (size_t i = 0; i < changed_.size(); ++i) {
      if (i + 1 < changed_.size() && changed_[i + 1].pgno == changed_[i].pgno) continue;
      changed_[kept++] = changed_[i];
    }
    changed_.resize(kept);
  }

  State next = state_;
  next.lsn += 1;
  next.pages = pages;
  next.wall_ms = std::max(wall_ms, state_.wall_ms);
  Page scratch;
  Page after_scratch;
  std::shared_ptr<const Page> keep;
  Hash128 hash;
  for (uint32_t pgno = pages + 1; pgno <= state_.pages; ++pgno) {
    EDGE_RETURN_IF_ERROR(Newest(pgno, &scratch, &keep, &hash).status());
    next.post ^= hash;
  }
  builder->Begin(next.lsn, next.wall_ms, pages, static_cast<uint32_t>(changed_.size()));
  for (Change& change : changed_) {
    EDGE_ASSIGN_OR_RETURN(const std::byte* before, Newest(change.pgno, &scratch, &keep, &hash));
    const std::byte* after = wal_.PageInMemory(change.frame.index);
    if (after == nullptr) {
      EDGE_RETURN_IF_ERROR(wal_.ReadPage(change.frame.index, after_scratch.bytes));
      after = after_scratch.bytes;
    }
    builder->Add(change.pgno, before, after);
    change.frame.hash = PageHash(change.pgno, after);
    next.post ^= hash;
    next.post ^= change.frame.hash;
  }
  builder->Finish(next.post, &next.chain);
  MutexLock lock(&mu_);  // all at once: a flush must see whole commits
  if (pages < state_.pages) ShrinkLocked(pages);
  for (const Change& change : changed_) wal_pages_[change.pgno] = change.frame;
  state_ = next;
  return OkStatus();
}

// --- The cache file ---

Status Image::WriteFlushFile(const State& state, uint32_t pages_kept,
                             const std::vector<std::pair<uint32_t, Version>>& pages) {
  const std::string temporary = paths_.flush + ".tmp";
  FlushHeader header;
  header.journal_id = journal_id_;
  header.state = state;
  header.pages_kept = pages_kept;
  header.page_count = static_cast<uint32_t>(pages.size());
  header.name = name_;
  {
    EDGE_ASSIGN_OR_RETURN(auto file, files_->Open(temporary, OpenMode::kCreateTruncate));
    constexpr size_t kEntriesPerWrite = 64;
    Bytes bytes(kEntriesPerWrite * kFlushEntryBytes);
    uint64_t at = kFlushHeaderBytes;
    size_t fill = 0;
    for (size_t i = 0; i < pages.size(); ++i) {
      std::byte* entry = bytes.data() + fill;
      StoreLittle(entry, pages[i].first);
      StoreLittle(entry + 4, uint32_t{0});
      if (pages[i].second.page != nullptr) {
        std::memcpy(entry + 8, pages[i].second.page->bytes, kPageBytes);
      } else {
        std::memset(entry + 8, 0, kPageBytes);
      }
      fill += kFlushEntryBytes;
      if (fill == bytes.size() || i + 1 == pages.size()) {
        const ByteView chunk(bytes.data(), fill);
        header.body_crc = Crc32c(chunk, header.body_crc);
        EDGE_RETURN_IF_ERROR(file->WriteAt(at, chunk));
        at += fill;
        fill = 0;
      }
    }
    EDGE_RETURN_IF_ERROR(file->WriteAt(0, EncodeFlushHeader(header)));
    EDGE_RETURN_IF_ERROR(file->Sync());
  }
  EDGE_RETURN_IF_ERROR(files_->Rename(temporary, paths_.flush));
  return files_->SyncDirectory(FolderOf(paths_.flush));
}

Status Image::WriteCache(File& file, uint32_t pages_kept, const State& state,
                         const std::vector<std::pair<uint32_t, Version>>& pages) {
  EDGE_RETURN_IF_ERROR(file.Truncate(uint64_t{pages_kept} * kPageBytes));
  for (const auto& [pgno, version] : pages) {
    static constexpr Page kZeroPage{};
    const Page& page = version.page != nullptr ? *version.page : kZeroPage;
    EDGE_RETURN_IF_ERROR(file.WriteAt(OffsetOf(pgno), View(page)));
  }
  EDGE_RETURN_IF_ERROR(file.Truncate(uint64_t{state.pages} * kPageBytes));
  return file.Sync();
}

Status Image::Flush(Callback<Status(Lsn)> wait_durable) {
  MutexLock flush_lock(&flush_mu_);
  EDGE_RETURN_IF_ERROR(cache_failure_);
  State target;
  std::vector<std::pair<uint32_t, Version>> pages;
  std::shared_ptr<File> file;
  uint32_t kept = 0;
  {
    MutexLock lock(&mu_);
    target = state_;
    kept = std::min(cache_pages_, target.pages);
    file = file_;
    if (file != nullptr && target.lsn == cached_.lsn) {
      overlay_.clear();  // the same content as the file's
      return OkStatus();
    }
    pages.reserve(overlay_.size() + wal_pages_.size());
    for (const auto& [pgno, version] : overlay_) {
      if (!wal_pages_.contains(pgno)) pages.emplace_back(pgno, version);
    }
    for (const auto& [pgno, frame] : wal_pages_) {
      // Copied: the frame may be overwritten as soon as the lock is gone.
      auto copy = std::make_shared<Page>();
      EDGE_RETURN_IF_ERROR(wal_.ReadPage(frame.index, copy->bytes));
      pages.emplace_back(pgno, Version{std::move(copy), frame.hash});
    }
    pages_min_ = target.pages;
  }
  std::ranges::sort(pages, {}, &std::pair<uint32_t, Version>::first);
  EDGE_RETURN_IF_ERROR(wait_durable(target.lsn));
  if (file == nullptr) {
    // A new database: no flush file may stand beside a cache that is not synced.
    EDGE_RETURN_IF_ERROR(RemoveIfThere(files_, paths_.flush));
    EDGE_ASSIGN_OR_RETURN(file, files_->Open(paths_.cache, OpenMode::kCreateTruncate));
    EDGE_RETURN_IF_ERROR(file->Sync());
    EDGE_RETURN_IF_ERROR(files_->SyncDirectory(FolderOf(paths_.cache)));
  }
  if (cache_is_unsynced_) {
    EDGE_RETURN_IF_ERROR(file->Sync());
    cache_is_unsynced_ = false;
  }
  EDGE_RETURN_IF_ERROR(WriteFlushFile(target, kept, pages));
  // A failure from here on leaves the file in an unknown state, and after a failed sync it
  // cannot be trusted again: the flush file just written repairs it when it is loaded next.
  cache_failure_ = WriteCache(*file, kept, target, pages);
  EDGE_RETURN_IF_ERROR(cache_failure_);
  cached_ = target;
  MutexLock lock(&mu_);
  file_ = std::move(file);
  cache_pages_ = std::min(pages_min_, target.pages);
  for (const auto& [pgno, version] : pages) {
    const auto it = overlay_.find(pgno);
    if (it == overlay_.end()) continue;
    if (it->second.hash == version.hash) overlay_.erase(it);  // not a version that came after
  }
  cached_lsn_.store(target.lsn, std::memory_order_release);
  return OkStatus();
}

Status Image::VisitCache(Callback<Status(const State&)> begin,
                         Callback<Status(uint32_t pgno, const std::byte* page)> visit) {
  MutexLock flush_lock(&flush_mu_);
  std::shared_ptr<File> file;
  {
    MutexLock lock(&mu_);
    file = file_;
  }
  if (file == nullptr) return FailedPrecondition("{}: has no cache file yet", name_);
  EDGE_RETURN_IF_ERROR(begin(cached_));
  Page page;
  for (uint32_t pgno = 1; pgno <= cached_.pages; ++pgno) {
    EDGE_ASSIGN_OR_RETURN(const size_t got, file->ReadAt(OffsetOf(pgno), {page.bytes, kPageBytes}));
    if (got != kPageBytes) return DataLoss("{}: cut off at page {}", paths_.cache, pgno);
    EDGE_RETURN_IF_ERROR(visit(pgno, page.bytes));
  }
  return OkStatus();
}

}  // namespace edge::srs
