// A file system that asks a test before it does anything.
#include <utility>

#include "edge/base/file_system.h"
#include "edge/base/mutex.h"

namespace edge {
namespace {

using Operation = FaultyFileSystem::Operation;

class FaultyFiles final : public FaultyFileSystem {
 public:
  FaultyFiles(FileSystem& base, Decide decide) : base_(base), decide_(std::move(decide)) {}

  Decision Ask(Operation operation, const std::string& path) {
    const MutexLock lock(&mu_);  // one question at a time; the answer is the test's own code
    return decide_(operation, path);
  }
  Status Check(Operation operation, const std::string& path) { return Ask(operation, path).status; }

  StatusOr<std::unique_ptr<File>> Open(const std::string& path, OpenMode mode,
                                       Caching caching) override {
    EDGE_RETURN_IF_ERROR(Check(Operation::kOpen, path));
    return Wrap(base_.Open(path, mode, caching), path);
  }
  StatusOr<std::unique_ptr<MappedFile>> Map(const std::string& path) override {
    EDGE_RETURN_IF_ERROR(Check(Operation::kMap, path));
    return base_.Map(path);
  }
  Status Remove(const std::string& path) override {
    EDGE_RETURN_IF_ERROR(Check(Operation::kRemove, path));
    return base_.Remove(path);
  }
  Status Rename(const std::string& from, const std::string& to) override {
    EDGE_RETURN_IF_ERROR(Check(Operation::kRename, from));
    return base_.Rename(from, to);
  }
  Status Link(const std::string& from, const std::string& to) override {
    EDGE_RETURN_IF_ERROR(Check(Operation::kLink, to));
    return base_.Link(from, to);
  }
  Status MakeDirectories(const std::string& path) override {
    EDGE_RETURN_IF_ERROR(Check(Operation::kMakeDirectories, path));
    return base_.MakeDirectories(path);
  }
  Status SyncDirectory(const std::string& path) override {
    EDGE_RETURN_IF_ERROR(Check(Operation::kSyncDirectory, path));
    return base_.SyncDirectory(path);
  }
  StatusOr<std::vector<DirectoryEntry>> List(const std::string& path) override {
    EDGE_RETURN_IF_ERROR(Check(Operation::kList, path));
    return base_.List(path);
  }
  StatusOr<bool> Exists(const std::string& path) override {
    EDGE_RETURN_IF_ERROR(Check(Operation::kExists, path));
    return base_.Exists(path);
  }
  StatusOr<std::unique_ptr<File>> Lock(const std::string& path) override {
    EDGE_RETURN_IF_ERROR(Check(Operation::kLock, path));
    return Wrap(base_.Lock(path), path);
  }

 private:
  StatusOr<std::unique_ptr<File>> Wrap(StatusOr<std::unique_ptr<File>> file,
                                       const std::string& path);

  FileSystem& base_;
  Mutex mu_;
  Decide decide_ ABSL_GUARDED_BY(mu_);
};

class FaultyFile final : public File {
 public:
  FaultyFile(FaultyFiles& files, std::unique_ptr<File> base, std::string path)
      : files_(files), base_(std::move(base)), path_(std::move(path)) {}

  StatusOr<size_t> ReadAt(uint64_t offset, MutableByteView out) override {
    EDGE_RETURN_IF_ERROR(files_.Check(Operation::kRead, path_));
    return base_->ReadAt(offset, out);
  }
  Status WriteAt(uint64_t offset, ByteView bytes) override {
    const FaultyFileSystem::Decision decision = files_.Ask(Operation::kWrite, path_);
    if (decision.status.ok()) return base_->WriteAt(offset, bytes);
    if (decision.torn_bytes > 0) {
      base_->WriteAt(offset, bytes.first(std::min(decision.torn_bytes, bytes.size())))
          .IgnoreError();  // the write fails in any case
    }
    return decision.status;
  }
  Status Sync() override {
    EDGE_RETURN_IF_ERROR(files_.Check(Operation::kSync, path_));
    return base_->Sync();
  }
  Status Truncate(uint64_t bytes) override {
    EDGE_RETURN_IF_ERROR(files_.Check(Operation::kTruncate, path_));
    return base_->Truncate(bytes);
  }
  Status Allocate(uint64_t bytes) override {
    EDGE_RETURN_IF_ERROR(files_.Check(Operation::kAllocate, path_));
    return base_->Allocate(bytes);
  }
  StatusOr<uint64_t> Size() override {
    EDGE_RETURN_IF_ERROR(files_.Check(Operation::kRead, path_));
    return base_->Size();
  }

 private:
  FaultyFiles& files_;
  const std::unique_ptr<File> base_;
  const std::string path_;
};

StatusOr<std::unique_ptr<File>> FaultyFiles::Wrap(StatusOr<std::unique_ptr<File>> file,
                                                  const std::string& path) {
  EDGE_RETURN_IF_ERROR(file.status());
  return std::make_unique<FaultyFile>(*this, *std::move(file), path);
}

}  // namespace

std::unique_ptr<FaultyFileSystem> FaultyFileSystem::Create(FileSystem& base, Decide decide) {
  return std::make_unique<FaultyFiles>(base, std::move(decide));
}

FaultyFileSystem::Decide FaultyFileSystem::FailFrom(uint64_t n, Status status, uint64_t* count) {
  *count = 0;
  return [n, status = std::move(status), count](Operation, const std::string&) {
    return (*count)++ < n ? Decision{} : Decision{status};
  };
}

}  // namespace edge
