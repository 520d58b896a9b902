// The machine's files, by the plain system calls.
#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <utility>

#include "edge/base/errors.h"
#include "edge/base/file_system.h"

namespace edge {
namespace {

Status Failed(std::string_view call, const std::string& path) {
  const int error = errno;
  return ErrnoStatus(error, Format("{} {}", {call, path}));
}

constexpr size_t kZeroBytes = size_t{1} << 18;

class PosixFile final : public File {
 public:
  PosixFile(int fd, std::string path, bool sync_each_write)
      : fd_(fd), path_(std::move(path)), sync_each_write_(sync_each_write) {}
  ~PosixFile() override { close(fd_); }

  StatusOr<size_t> ReadAt(uint64_t offset, MutableByteView out) override {
    size_t done = 0;
    while (done < out.size()) {
      const ssize_t got =
          pread(fd_, out.data() + done, out.size() - done, static_cast<off_t>(offset + done));
      if (got == 0) break;
      if (got < 0) {
        if (errno == EINTR) continue;
        if (errno == EINVAL && done > 0) break;  // O_DIRECT: the end is not at a multiple
        return Failed("read", path_);
      }
      done += static_cast<size_t>(got);
    }
    return done;
  }

  Status WriteAt(uint64_t offset, ByteView bytes) override {
    size_t done = 0;
    while (done < bytes.size()) {
      const ssize_t put =
          pwrite(fd_, bytes.data() + done, bytes.size() - done, static_cast<off_t>(offset + done));
      if (put < 0) {
        if (errno == EINTR) continue;
        return Failed("write", path_);
      }
      done += static_cast<size_t>(put);
    }
    return sync_each_write_ ? Sync() : OkStatus();
  }

  Status Sync() override { return fdatasync(fd_) == 0 ? OkStatus() : Failed("sync", path_); }
  Status Truncate(uint64_t bytes) override {
    return ftruncate(fd_, static_cast<off_t>(bytes)) == 0 ? OkStatus() : Failed("truncate", path_);
  }
  Status Allocate(uint64_t bytes) override {
    EDGE_ASSIGN_OR_RETURN(const uint64_t size, Size());
    if (bytes <= size) return OkStatus();
    // First all of the space, in as few extents as there are; a full disk is found out here.
    const int error = posix_fallocate(fd_, 0, static_cast<off_t>(bytes));
    if (error != 0) return ErrnoStatus(error, Format("allocate {}", {path_}));
    const std::unique_ptr<std::byte, void (*)(void*)> zeroes(
        static_cast<std::byte*>(std::aligned_alloc(4096, kZeroBytes)), std::free);
    if (zeroes == nullptr) return ErrnoStatus(ENOMEM, Format("allocate {}", {path_}));
    std::fill_n(zeroes.get(), kZeroBytes, std::byte{0});
    for (uint64_t at = size; at < bytes; at += kZeroBytes) {
      EDGE_RETURN_IF_ERROR(WriteAt(at, {zeroes.get(), std::min<uint64_t>(kZeroBytes, bytes - at)}));
    }
    return OkStatus();
  }
  StatusOr<uint64_t> Size() override {
    struct stat info {};
    if (fstat(fd_, &info) != 0) return Failed("stat", path_);
    return static_cast<uint64_t>(info.st_size);
  }

 private:
  const int fd_;
  const std::string path_;
  const bool sync_each_write_;
};

class PosixMappedFile final : public MappedFile {
 public:
  PosixMappedFile(void* at, size_t size) : at_(at), size_(size) {}
  ~PosixMappedFile() override {
    if (size_ > 0) munmap(at_, size_);
  }
  ByteView bytes() const override { return {static_cast<const std::byte*>(at_), size_}; }

 private:
  void* const at_;
  const size_t size_;
};

// `path` may end with slashes, as in "a/b/".
std::string ParentOf(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? "." : path.substr(0, slash + 1);
}

int OpenFlags(OpenMode mode) {
  switch (mode) {
    case OpenMode::kRead:
      return O_RDONLY;
    case OpenMode::kReadWrite:
      return O_RDWR;
    case OpenMode::kCreate:
      return O_RDWR | O_CREAT;
    case OpenMode::kCreateNew:
      return O_RDWR | O_CREAT | O_EXCL;
    case OpenMode::kCreateTruncate:
      return O_RDWR | O_CREAT | O_TRUNC;
  }
  return O_RDONLY;
}

class PosixFiles final : public FileSystem {
 public:
  StatusOr<std::unique_ptr<File>> Open(const std::string& path, OpenMode mode,
                                       Caching caching) override {
    int flags = OpenFlags(mode) | O_CLOEXEC;
    if (caching == Caching::kDirectSync) {
      for (const int extra : {O_DIRECT | O_DSYNC, O_DSYNC}) {
        const int fd = open(path.c_str(), flags | extra, 0644);
        if (fd >= 0) return std::make_unique<PosixFile>(fd, path, false);
        if (errno != EINVAL) return Failed("open", path);
        flags &= ~O_EXCL;  // Linux refuses O_DIRECT only after it has made the file
      }
    }
    const int fd = open(path.c_str(), flags, 0644);
    if (fd < 0) return Failed("open", path);
    return std::make_unique<PosixFile>(fd, path, caching == Caching::kDirectSync);
  }

  StatusOr<std::unique_ptr<MappedFile>> Map(const std::string& path) override {
    const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) return Failed("open", path);
    struct stat info {};
    Status failure;
    void* at = nullptr;
    if (fstat(fd, &info) != 0) {
      failure = Failed("stat", path);
    } else if (!S_ISREG(info.st_mode)) {
      failure = InvalidArgument("map {}: not a regular file", path);
    } else if (info.st_size > 0) {
      at = mmap(nullptr, static_cast<size_t>(info.st_size), PROT_READ, MAP_SHARED, fd, 0);
      if (at == MAP_FAILED) failure = Failed("map", path);
    }
    close(fd);
    EDGE_RETURN_IF_ERROR(failure);
    return std::make_unique<PosixMappedFile>(at, static_cast<size_t>(info.st_size));
  }

  Status Remove(const std::string& path) override {
    return remove(path.c_str()) == 0 ? OkStatus() : Failed("remove", path);
  }
  Status Rename(const std::string& from, const std::string& to) override {
    return rename(from.c_str(), to.c_str()) == 0 ? OkStatus() : Failed("rename", from);
  }
  Status Link(const std::string& from, const std::string& to) override {
    return link(from.c_str(), to.c_str()) == 0 ? OkStatus() : Failed("link", to);
  }

  Status MakeDirectories(const std::string& path) override {
    for (size_t end = path.find('/', 1);; end = path.find('/', end + 1)) {
      const std::string prefix = path.substr(0, end);
      if (mkdir(prefix.c_str(), 0755) == 0) {
        EDGE_RETURN_IF_ERROR(SyncDirectory(ParentOf(prefix)));
      } else if (errno != EEXIST) {
        return Failed("make directory", prefix);
      }
      if (end == std::string::npos) break;
    }
    struct stat info {};
    if (stat(path.c_str(), &info) != 0) return Failed("stat", path);
    if (!S_ISDIR(info.st_mode)) return ErrnoStatus(ENOTDIR, path);
    return OkStatus();
  }

  Status SyncDirectory(const std::string& path) override {
    const int fd = open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return Failed("open", path);
    const bool synced = fsync(fd) == 0;
    const Status failure = synced ? OkStatus() : Failed("sync", path);
    close(fd);
    return failure;
  }

  StatusOr<std::vector<DirectoryEntry>> List(const std::string& path) override {
    const std::unique_ptr<DIR, int (*)(DIR*)> directory(opendir(path.c_str()), closedir);
    if (!directory) return Failed("list", path);
    std::vector<DirectoryEntry> entries;
    while (const dirent* entry = readdir(directory.get())) {
      const std::string name = entry->d_name;
      if (name == "." || name == "..") continue;
      struct stat info {};
      if (stat((path + "/" + name).c_str(), &info) != 0) continue;  // gone meanwhile
      entries.push_back({name, static_cast<uint64_t>(info.st_size), S_ISDIR(info.st_mode)});
    }
    std::ranges::sort(entries, {}, &DirectoryEntry::name);
    return entries;
  }

  StatusOr<bool> Exists(const std::string& path) override {
    struct stat info {};
    if (stat(path.c_str(), &info) == 0) return true;
    if (errno == ENOENT || errno == ENOTDIR) return false;
    return Failed("stat", path);
  }

  StatusOr<std::unique_ptr<File>> Lock(const std::string& path) override {
    const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0) return Failed("open", path);
    auto file = std::make_unique<PosixFile>(fd, path, false);
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
      if (errno != EWOULDBLOCK) return Failed("lock", path);
      return FailedPrecondition("{} is locked: another process or object is using it", path);
    }
    return file;
  }
};

}  // namespace

FileSystem& PosixFileSystem() {
  static PosixFiles files;
  return files;
}

}  // namespace edge
