#include "srs/vfs.h"

#include <sqlite3.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <new>
#include <string_view>
#include <utility>
#include <vector>

#include "edge/base/errors.h"

namespace edge::srs {
namespace {

constexpr uint32_t kNoFrame = UINT32_MAX;

// What both files of one connection share.
struct Session {
  std::shared_ptr<VfsDatabase> database;
  uint32_t next_frame = 0;           // first that is not part of a published commit
  uint32_t commit_frame = kNoFrame;  // end of the transaction being written
  uint32_t commit_pages = 0;
  bool is_by_name = false;                               // not announced
  std::vector<std::unique_ptr<std::byte[]>> index = {};  // of the log, if SQLite asks for it
};

struct OurFile {
  sqlite3_file base;
  Session* session;  // owned by the main file
};

Session& SessionOf(sqlite3_file* file) {
  return *reinterpret_cast<OurFile*>(file)->session;
}
Image& ImageOf(sqlite3_file* file) {
  return SessionOf(file).database->image();
}

int ReportError(sqlite3_file* file, const Status& status, int code) {
  SessionOf(file).database->OnError(status);
  return code;
}

uint32_t Big32(const std::byte* at) {
  return std::to_integer<uint32_t>(at[0]) << 24 | std::to_integer<uint32_t>(at[1]) << 16 |
         std::to_integer<uint32_t>(at[2]) << 8 | std::to_integer<uint32_t>(at[3]);
}

int ShortRead(void* out, int wanted, size_t got) {
  if (got == static_cast<size_t>(wanted)) return SQLITE_OK;
  std::memset(static_cast<std::byte*>(out) + got, 0, static_cast<size_t>(wanted) - got);
  return SQLITE_IOERR_SHORT_READ;
}

MutableByteView Out(void* out, int count) {
  return {static_cast<std::byte*>(out), static_cast<size_t>(count)};
}
ByteView In(const void* in, int count) {
  return {static_cast<const std::byte*>(in), static_cast<size_t>(count)};
}

bool EqualsIgnoringCase(std::string_view a, std::string_view b) {
  return a.size() == b.size() &&
         std::ranges::equal(a, b, [](char x, char y) { return (x | 0x20) == (y | 0x20); });
}

// Null if the pragma may run, else why not.
const char* WhyRefused(std::string_view pragma, const char* argument) {
  const std::string_view value = argument != nullptr ? argument : "";
  if (EqualsIgnoringCase(pragma, "wal_checkpoint")) {
    return "checkpoints are made by the storage relay";
  }
  if (argument == nullptr) return nullptr;
  if (EqualsIgnoringCase(pragma, "journal_mode") && !EqualsIgnoringCase(value, "wal")) {
    return "journal_mode is fixed: wal";
  }
  if (EqualsIgnoringCase(pragma, "locking_mode") && !EqualsIgnoringCase(value, "exclusive")) {
    return "locking_mode is fixed: exclusive";
  }
  if (EqualsIgnoringCase(pragma, "page_size") && value != "4096") {
    return "page_size is fixed: 4096";
  }
  if (EqualsIgnoringCase(pragma, "wal_autocheckpoint") && value != "0") {
    return "checkpoints are made by the storage relay";
  }
  return nullptr;
}

// --- The main file ---

int MainClose(sqlite3_file* file) {
  const std::unique_ptr<Session> session(
      std::exchange(reinterpret_cast<OurFile*>(file)->session, nullptr));
  if (session->is_by_name) session->database->OnVfsClose();
  return SQLITE_OK;
}
int MainRead(sqlite3_file* file, void* out, int count, sqlite3_int64 offset) {
  size_t got = 0;
  const Status read = ImageOf(file).ReadMain(static_cast<uint64_t>(offset), Out(out, count), &got);
  if (!read.ok()) return ReportError(file, read, SQLITE_IOERR_READ);
  return ShortRead(out, count, got);
}
int MainWrite(sqlite3_file* file, const void* in, int count, sqlite3_int64 offset) {
  const Status written = ImageOf(file).WriteMain(static_cast<uint64_t>(offset), In(in, count));
  return written.ok() ? SQLITE_OK : ReportError(file, written, SQLITE_IOERR_WRITE);
}
int MainTruncate(sqlite3_file* file, sqlite3_int64 bytes) {
  ImageOf(file).TruncateMain(static_cast<uint64_t>(bytes));
  return SQLITE_OK;
}
int MainSize(sqlite3_file* file, sqlite3_int64* bytes) {
  *bytes = static_cast<sqlite3_int64>(ImageOf(file).main_bytes());
  return SQLITE_OK;
}

int OnCommit(Session& session) {
  if (session.commit_frame == kNoFrame) return SQLITE_OK;
  const uint32_t last = std::exchange(session.commit_frame, kNoFrame);
  const uint32_t first = std::exchange(session.next_frame, last + 1);
  return session.database->OnCommit(first, last, session.commit_pages) ? SQLITE_OK
                                                                       : SQLITE_IOERR_WRITE;
}

int MainControl(sqlite3_file* file, int operation, void* argument) {
  Session& session = SessionOf(file);
  if (operation == SQLITE_FCNTL_COMMIT_PHASETWO) return OnCommit(session);
  if (operation == SQLITE_FCNTL_PRAGMA && !session.database->is_setting_up()) {
    char** const text = static_cast<char**>(argument);
    if (const char* why = WhyRefused(text[1], text[2])) {
      text[0] = sqlite3_mprintf("%s", why);
      return SQLITE_ERROR;
    }
    const auto answer = session.database->OnPragma(text[1]);
    if (!answer.ok()) {
      text[0] = sqlite3_mprintf("%s", answer.status().ToString().c_str());
      return SQLITE_ERROR;
    }
    if (*answer) {
      text[0] = sqlite3_mprintf("%s", (*answer)->c_str());
      return SQLITE_OK;
    }
  }
  return SQLITE_NOTFOUND;
}

// --- The write-ahead log ---

int WalClose(sqlite3_file*) {
  return SQLITE_OK;
}
int WalRead(sqlite3_file* file, void* out, int count, sqlite3_int64 offset) {
  const auto got = ImageOf(file).wal().Read(static_cast<uint64_t>(offset), Out(out, count));
  if (!got.ok()) return ReportError(file, got.status(), SQLITE_IOERR_READ);
  return ShortRead(out, count, *got);
}

int WalWrite(sqlite3_file* file, const void* in, int count, sqlite3_int64 offset) {
  Session& session = SessionOf(file);
  if (!session.database->writable().ok()) return SQLITE_IOERR_WRITE;
  const auto at = static_cast<uint64_t>(offset);
  const ByteView bytes = In(in, count);
  if (at == 0) {  // the log starts again
    session.database->image().ForgetWal();
    if (session.is_by_name) session.database->OnLogRestart();
    session.next_frame = 0;
    session.commit_frame = kNoFrame;
  } else if (bytes.size() == kFrameHeaderBytes && (at - kWalHeaderBytes) % kFrameBytes == 0) {
    const auto frame = static_cast<uint32_t>((at - kWalHeaderBytes) / kFrameBytes);
    if (frame >= session.next_frame + kTransactionFramesMax) return SQLITE_FULL;
    const uint32_t pages = Big32(bytes.data() + 4);
    if (pages != 0) {
      session.commit_frame = frame;
      session.commit_pages = pages;
    } else if (session.commit_frame != kNoFrame && frame <= session.commit_frame) {
      session.commit_frame = kNoFrame;  // that transaction failed behind its commit frame
    }
  }
  const Status written = session.database->image().wal().Write(at, bytes);
  return written.ok() ? SQLITE_OK : ReportError(file, written, SQLITE_IOERR_WRITE);
}
int WalTruncate(sqlite3_file* file, sqlite3_int64 bytes) {
  ImageOf(file).wal().Truncate(static_cast<uint64_t>(bytes));
  return SQLITE_OK;
}
int WalSize(sqlite3_file* file, sqlite3_int64* bytes) {
  *bytes = static_cast<sqlite3_int64>(ImageOf(file).wal().bytes());
  return SQLITE_OK;
}
int WalControl(sqlite3_file*, int, void*) {
  return SQLITE_NOTFOUND;
}

int NoSync(sqlite3_file*, int) {
  return SQLITE_OK;
}
int NoLock(sqlite3_file*, int) {
  return SQLITE_OK;
}
int NotReserved(sqlite3_file*, int* reserved) {
  *reserved = 0;
  return SQLITE_OK;
}
int SectorBytes(sqlite3_file*) {
  return static_cast<int>(kPageBytes);
}
int Characteristics(sqlite3_file*) {
  return SQLITE_IOCAP_POWERSAFE_OVERWRITE | SQLITE_IOCAP_UNDELETABLE_WHEN_OPEN;
}

// The index of the log for a connection in NORMAL mode. There is no other one to share it with.
int IndexMap(sqlite3_file* file, int region, int bytes, int extend, void volatile** out) {
  auto& index = SessionOf(file).index;
  const auto wanted = static_cast<size_t>(region);
  *out = nullptr;
  if (wanted >= index.size() && extend == 0) return SQLITE_OK;
  while (wanted >= index.size()) {
    auto memory = new (std::nothrow) std::byte[static_cast<size_t>(bytes)]();
    if (memory == nullptr) return SQLITE_NOMEM;
    index.emplace_back(memory);
  }
  *out = index[wanted].get();
  return SQLITE_OK;
}
int IndexLock(sqlite3_file*, int, int, int) {
  return SQLITE_OK;
}
void IndexBarrier(sqlite3_file*) {}
int IndexUnmap(sqlite3_file* file, int) {
  SessionOf(file).index.clear();
  return SQLITE_OK;
}

// Version 1: neither shared memory nor mapped pages. EXCLUSIVE mode needs no shared memory.
const sqlite3_io_methods kMainMethods = {
    1,       MainClose, MainRead,    MainWrite,   MainTruncate, NoSync,          MainSize,
    NoLock,  NoLock,    NotReserved, MainControl, SectorBytes,  Characteristics, nullptr,
    nullptr, nullptr,   nullptr,     nullptr,     nullptr};
const sqlite3_io_methods kByNameMethods = {
    2,         MainClose,    MainRead,    MainWrite,   MainTruncate, NoSync,          MainSize,
    NoLock,    NoLock,       NotReserved, MainControl, SectorBytes,  Characteristics, IndexMap,
    IndexLock, IndexBarrier, IndexUnmap,  nullptr,     nullptr};
const sqlite3_io_methods kWalMethods = {
    1,       WalClose, WalRead,     WalWrite,   WalTruncate, NoSync,          WalSize,
    NoLock,  NoLock,   NotReserved, WalControl, SectorBytes, Characteristics, nullptr,
    nullptr, nullptr,  nullptr,     nullptr,    nullptr};

}  // namespace

struct VfsCalls {
  static Vfs& Self(sqlite3_vfs* vfs) { return *static_cast<Vfs*>(vfs->pAppData); }
  static sqlite3_vfs* Real() { return sqlite3_vfs_find(nullptr); }

  static int Open(sqlite3_vfs* vfs, const char* name, sqlite3_file* file, int flags,
                  int* flags_out) {
    auto* ours = reinterpret_cast<OurFile*>(file);
    file->pMethods = nullptr;
    if (name == nullptr) return Real()->xOpen(Real(), name, file, flags, flags_out);  // temporary
    if (flags_out != nullptr) *flags_out = flags;
    if ((flags & SQLITE_OPEN_MAIN_DB) != 0) {
      std::unique_ptr<Session> session(new (std::nothrow) Session());
      if (session == nullptr) return SQLITE_NOMEM;
      std::shared_ptr<VfsDatabase> database = Self(vfs).Announced(name);
      const bool is_by_name = database == nullptr;
      if (is_by_name) {
        if (!Self(vfs).opener_) return SQLITE_CANTOPEN;
        const bool creates = (flags & SQLITE_OPEN_CREATE) != 0;
        auto opened = Self(vfs).opener_(name, creates ? Vfs::Create::kYes : Vfs::Create::kNo);
        if (!opened.ok()) {
          sqlite3_log(SQLITE_CANTOPEN, "%s", opened.status().ToString().c_str());
          return opened.status().code() == StatusCode::kFailedPrecondition ? SQLITE_BUSY
                                                                           : SQLITE_CANTOPEN;
        }
        database = std::move(*opened);
      }
      session->database = std::move(database);
      session->is_by_name = is_by_name;
      ours->session = session.release();
      file->pMethods = is_by_name ? &kByNameMethods : &kMainMethods;
      return SQLITE_OK;
    }
    if ((flags & SQLITE_OPEN_WAL) != 0) {
      sqlite3_file* main = sqlite3_database_file_object(name);
      if (main == nullptr ||
          (main->pMethods != &kMainMethods && main->pMethods != &kByNameMethods)) {
        return SQLITE_CANTOPEN;
      }
      ours->session = reinterpret_cast<OurFile*>(main)->session;
      file->pMethods = &kWalMethods;
      return SQLITE_OK;
    }
    return SQLITE_CANTOPEN;  // a rollback journal: never in WAL mode
  }
  static int Delete(sqlite3_vfs*, const char*, int) { return SQLITE_OK; }
  static int Access(sqlite3_vfs*, const char*, int, int* result) {
    *result = 0;
    return SQLITE_OK;
  }
  static int FullPathname(sqlite3_vfs*, const char* name, int count, char* out) {
    const size_t bytes = std::strlen(name) + 1;
    if (bytes > static_cast<size_t>(count)) return SQLITE_CANTOPEN;
    std::memcpy(out, name, bytes);
    return SQLITE_OK;
  }
  static int Randomness(sqlite3_vfs*, int count, char* out) {
    return Real()->xRandomness(Real(), count, out);
  }
  static int SleepFor(sqlite3_vfs*, int microseconds) {
    return Real()->xSleep(Real(), microseconds);
  }
  static int CurrentTime(sqlite3_vfs*, double* now) { return Real()->xCurrentTime(Real(), now); }
  static int LastError(sqlite3_vfs*, int, char*) { return 0; }
  static int CurrentTimeInt64(sqlite3_vfs*, sqlite3_int64* now) {
    return Real()->xCurrentTimeInt64(Real(), now);
  }
};

Vfs::Vfs() : vfs_(std::make_unique<sqlite3_vfs>()) {
  sqlite3_initialize();
  name_ = Format("edge-srs-{}", {reinterpret_cast<uintptr_t>(this)});
  *vfs_ = {};
  vfs_->iVersion = 2;
  vfs_->szOsFile = std::max(static_cast<int>(sizeof(OurFile)), VfsCalls::Real()->szOsFile);
  vfs_->mxPathname = 512;
  vfs_->zName = name_.c_str();
  vfs_->pAppData = this;
  vfs_->xOpen = VfsCalls::Open;
  vfs_->xDelete = VfsCalls::Delete;
  vfs_->xAccess = VfsCalls::Access;
  vfs_->xFullPathname = VfsCalls::FullPathname;
  vfs_->xRandomness = VfsCalls::Randomness;
  vfs_->xSleep = VfsCalls::SleepFor;
  vfs_->xCurrentTime = VfsCalls::CurrentTime;
  vfs_->xGetLastError = VfsCalls::LastError;
  vfs_->xCurrentTimeInt64 = VfsCalls::CurrentTimeInt64;
  sqlite3_vfs_register(vfs_.get(), 0);
}

Vfs::~Vfs() {
  sqlite3_vfs_unregister(vfs_.get());
}

void Vfs::Announce(const std::string& name, std::shared_ptr<VfsDatabase> database) {
  MutexLock lock(&mu_);
  announced_[name] = std::move(database);
}
std::shared_ptr<VfsDatabase> Vfs::Announced(const std::string& name) {
  MutexLock lock(&mu_);
  const auto it = announced_.find(name);
  return it == announced_.end() ? nullptr : it->second;
}
void Vfs::Withdraw(const std::string& name) {
  MutexLock lock(&mu_);
  announced_.erase(name);
}

}  // namespace edge::srs
