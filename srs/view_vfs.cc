// A SQLite VFS with one file, which cannot be written: the pages of a LazyImage.
#include <sqlite3.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "edge/base/errors.h"
#include "srs/lazy_image.h"

namespace edge::srs {
namespace {

class StoreView;

struct ViewFile {
  sqlite3_file base;
  StoreView* view;
};

class StoreView final : public ReadOnlyDatabase {
 public:
  explicit StoreView(std::unique_ptr<LazyImage> image)
      : image_(std::move(image)), bookmark_(FormatBookmark(image_->state())) {}
  ~StoreView() override {
    if (connection_ != nullptr) sqlite3_close_v2(connection_);
    if (is_registered_) sqlite3_vfs_unregister(&vfs_);
  }

  Status Connect();
  sqlite3* handle() override { return connection_; }
  const std::string& bookmark() const override { return bookmark_; }
  int64_t committed_wall_ms() const override { return image_->state().wall_ms; }
  uint64_t fetches() const override { return image_->fetches(); }
  uint64_t bytes_read() const override { return image_->bytes_read(); }
  Status failure() const override { return failure_; }

  int Read(void* out, int count, sqlite3_int64 offset) noexcept;
  sqlite3_int64 bytes() const {
    return static_cast<sqlite3_int64>(uint64_t{image_->state().pages} * kPageBytes);
  }

 private:
  std::unique_ptr<LazyImage> image_;
  const std::string bookmark_;
  std::string vfs_name_;
  sqlite3_vfs vfs_ = {};
  bool is_registered_ = false;
  sqlite3* connection_ = nullptr;
  Status failure_;
};

int StoreView::Read(void* out, int count, sqlite3_int64 offset) noexcept {
  auto* to = static_cast<std::byte*>(out);
  const auto end =
      std::min<uint64_t>(static_cast<uint64_t>(offset + count), static_cast<uint64_t>(bytes()));
  Page page;
  for (auto at = static_cast<uint64_t>(offset); at < end;) {
    const auto pgno = static_cast<uint32_t>(at / kPageBytes + 1);
    const Status read = image_->ReadPage(pgno, page.bytes);
    if (!read.ok()) {
      failure_ = read;
      return SQLITE_IOERR_READ;
    }
    // Not in WAL mode: there is no log, and a read-only connection could not make one.
    if (pgno == 1) page.bytes[18] = page.bytes[19] = std::byte{1};
    const size_t within = at % kPageBytes;
    const size_t bytes = std::min<uint64_t>(kPageBytes - within, end - at);
    std::memcpy(to, page.bytes + within, bytes);
    to += bytes;
    at += bytes;
  }
  const auto wanted = static_cast<std::byte*>(out) + count;
  if (to == wanted) return SQLITE_OK;
  std::memset(to, 0, static_cast<size_t>(wanted - to));
  return SQLITE_IOERR_SHORT_READ;
}

StoreView& ViewOf(sqlite3_file* file) {
  return *reinterpret_cast<ViewFile*>(file)->view;
}
int Close(sqlite3_file*) {
  return SQLITE_OK;
}
int Read(sqlite3_file* file, void* out, int count, sqlite3_int64 offset) {
  return ViewOf(file).Read(out, count, offset);
}
int Write(sqlite3_file*, const void*, int, sqlite3_int64) {
  return SQLITE_READONLY;
}
int Truncate(sqlite3_file*, sqlite3_int64) {
  return SQLITE_READONLY;
}
int Sync(sqlite3_file*, int) {
  return SQLITE_OK;
}
int Size(sqlite3_file* file, sqlite3_int64* bytes) {
  *bytes = ViewOf(file).bytes();
  return SQLITE_OK;
}
int Lock(sqlite3_file*, int) {
  return SQLITE_OK;
}
int Reserved(sqlite3_file*, int* reserved) {
  *reserved = 0;
  return SQLITE_OK;
}
int Control(sqlite3_file*, int, void*) {
  return SQLITE_NOTFOUND;
}
int Sector(sqlite3_file*) {
  return static_cast<int>(kPageBytes);
}
int Traits(sqlite3_file*) {
  return SQLITE_IOCAP_IMMUTABLE;
}
const sqlite3_io_methods kMethods = {1,       Close,   Read,     Write,   Truncate, Sync,   Size,
                                     Lock,    Lock,    Reserved, Control, Sector,   Traits, nullptr,
                                     nullptr, nullptr, nullptr,  nullptr, nullptr};

sqlite3_vfs* Real() {
  return sqlite3_vfs_find(nullptr);
}
int Open(sqlite3_vfs* vfs, const char* name, sqlite3_file* file, int flags, int* flags_out) {
  file->pMethods = nullptr;
  if (name == nullptr) return Real()->xOpen(Real(), name, file, flags, flags_out);  // temporary
  if ((flags & SQLITE_OPEN_MAIN_DB) == 0) return SQLITE_CANTOPEN;
  if (flags_out != nullptr) *flags_out = SQLITE_OPEN_READONLY | SQLITE_OPEN_MAIN_DB;
  reinterpret_cast<ViewFile*>(file)->view = static_cast<StoreView*>(vfs->pAppData);
  file->pMethods = &kMethods;
  return SQLITE_OK;
}
int Delete(sqlite3_vfs*, const char*, int) {
  return SQLITE_READONLY;
}
int Access(sqlite3_vfs*, const char*, int, int* result) {
  *result = 0;
  return SQLITE_OK;
}
int FullPathname(sqlite3_vfs*, const char* name, int count, char* out) {
  sqlite3_snprintf(count, out, "%s", name);
  return SQLITE_OK;
}

Status StoreView::Connect() {
  sqlite3_initialize();
  vfs_name_ = Format("edge-srs-view-{}", {reinterpret_cast<uintptr_t>(this)});
  vfs_ = *Real();
  vfs_.iVersion = 2;
  vfs_.pNext = nullptr;
  vfs_.szOsFile = std::max(static_cast<int>(sizeof(ViewFile)), vfs_.szOsFile);
  vfs_.zName = vfs_name_.c_str();
  vfs_.pAppData = this;
  vfs_.xOpen = Open;
  vfs_.xDelete = Delete;
  vfs_.xAccess = Access;
  vfs_.xFullPathname = FullPathname;
  sqlite3_vfs_register(&vfs_, 0);
  is_registered_ = true;
  const int opened = sqlite3_open_v2("view", &connection_,
                                     SQLITE_OPEN_READONLY | SQLITE_OPEN_NOMUTEX, vfs_name_.c_str());
  if (opened == SQLITE_OK) return OkStatus();
  return Internal("opening a view: {}", sqlite3_errmsg(connection_));
}

}  // namespace

StatusOr<std::unique_ptr<ReadOnlyDatabase>> OpenView(Catalog* catalog, const std::string& name,
                                                     uint32_t epoch, const Bookmark& target) {
  EDGE_ASSIGN_OR_RETURN(auto image, LazyImage::Open(catalog, name, epoch, target.lsn));
  const State& state = image->state();
  if (target.lsn != UINT64_MAX && (state.lsn != target.lsn || state.chain != target.chain)) {
    EDGE_RETURN_IF_ERROR(catalog->CheckDamage(name));
    return NotFound("database \"{}\" has no commit {} with that bookmark; the newest is {}", name,
                    target.lsn, state.lsn);
  }
  auto view = std::make_unique<StoreView>(std::move(image));
  EDGE_RETURN_IF_ERROR(view->Connect());
  return view;
}

}  // namespace edge::srs
