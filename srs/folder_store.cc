// An object is a file of its key's name. It is written under another name and then renamed,
// or linked where it must not exist yet.
#include <algorithm>
#include <atomic>
#include <utility>

#include "edge/base/errors.h"
#include "edge/base/mutex.h"
#include "edge/base/random.h"
#include "srs/object_store.h"

namespace edge::srs {
namespace {

constexpr std::string_view kTemporary = "~tmp";  // '~' occurs in no key

class Folder final : public ObjectStore {
 public:
  Folder(std::string path, FileSystem& files) : path_(std::move(path)), files_(files) {}

  StatusOr<std::string> Put(const std::string& key, ByteView content,
                            const PutCondition& condition) override {
    EDGE_RETURN_IF_ERROR(CheckKey(key));
    std::unique_ptr<File> lock;
    MutexLock swap_lock(&swap_mu_);
    if (condition.if_etag) {
      EDGE_RETURN_IF_ERROR(files_.MakeDirectories(Format("{}/{}", {path_, kTemporary})));
      auto locked = files_.Lock(Format("{}/{}/lock", {path_, kTemporary}));
      if (!locked.ok()) return Unavailable("{}: {}", key, Message(locked.status()));
      lock = std::move(*locked);
      const auto present = Head(key);
      if (!present.ok() && present.status().code() != StatusCode::kNotFound) {
        return present.status();
      }
      if (!present.ok() || present->etag != *condition.if_etag) {
        return Aborted("object {}: has changed", key);
      }
    }
    const Status written = Write(key, content, condition.if_absent);
    if (written.code() == StatusCode::kAlreadyExists) return AlreadyExists("object {}", key);
    EDGE_RETURN_IF_ERROR(written);
    return EtagOf(content);
  }

  StatusOr<Bytes> Get(const std::string& key, const ByteRange& range) override {
    EDGE_RETURN_IF_ERROR(CheckKey(key));
    EDGE_ASSIGN_OR_RETURN(auto file, files_.Open(PathOf(key), OpenMode::kRead));
    EDGE_ASSIGN_OR_RETURN(const uint64_t size, file->Size());
    const uint64_t start = std::min(range.offset, size);
    Bytes content(std::min(range.bytes, size - start));
    EDGE_ASSIGN_OR_RETURN(const size_t got, file->ReadAt(start, content));
    if (got != content.size()) {
      return DataLoss("{}: read {} of {} bytes", PathOf(key), got, content.size());
    }
    return content;
  }

  StatusOr<ObjectInfo> Head(const std::string& key) override {
    EDGE_ASSIGN_OR_RETURN(const Bytes content, Get(key, {}));
    return ObjectInfo{key, content.size(), EtagOf(content)};
  }

  StatusOr<std::vector<ObjectInfo>> List(const std::string& prefix, const std::string& start_after,
                                         size_t count_max) override {
    std::vector<ObjectInfo> found;
    const size_t slash = prefix.rfind('/');
    const std::string folder = slash == std::string::npos ? "" : prefix.substr(0, slash + 1);
    EDGE_RETURN_IF_ERROR(Walk(folder, prefix, start_after, &found));
    // Folders sort unlike the keys in them.
    std::ranges::sort(found, {}, &ObjectInfo::key);
    if (found.size() > count_max) found.resize(count_max);
    return found;
  }

  Status Delete(const std::string& key) override {
    EDGE_RETURN_IF_ERROR(CheckKey(key));
    const Status removed = files_.Remove(PathOf(key));
    return removed.code() == StatusCode::kNotFound ? OkStatus() : removed;
  }

 private:
  std::string PathOf(std::string_view key) const { return Format("{}/{}", {path_, key}); }

  Status Write(const std::string& key, ByteView content, bool if_absent) {
    const std::string temporary =
        Format("{}/{}/{:016x}", {path_, kTemporary, SystemRandom().Next()});
    const std::string path = PathOf(key);
    const std::string folder = path.substr(0, path.rfind('/'));
    EDGE_RETURN_IF_ERROR(files_.MakeDirectories(Format("{}/{}", {path_, kTemporary})));
    EDGE_RETURN_IF_ERROR(files_.MakeDirectories(folder));
    Status done = WriteSynced(temporary, content);
    if (done.ok()) done = if_absent ? files_.Link(temporary, path) : files_.Rename(temporary, path);
    if (!done.ok() || if_absent) files_.Remove(temporary).IgnoreError();
    EDGE_RETURN_IF_ERROR(done);
    return files_.SyncDirectory(folder);
  }
  Status WriteSynced(const std::string& path, ByteView content) {
    EDGE_ASSIGN_OR_RETURN(auto file, files_.Open(path, OpenMode::kCreateTruncate));
    EDGE_RETURN_IF_ERROR(file->WriteAt(0, content));
    return file->Sync();
  }

  // Appends the keys below `folder` ("" or ending in '/') that match.
  Status Walk(const std::string& folder, const std::string& prefix, const std::string& start_after,
              std::vector<ObjectInfo>* found) {
    const std::string path = folder.empty() ? path_ : PathOf(folder.substr(0, folder.size() - 1));
    const auto entries = files_.List(path);
    if (entries.status().code() == StatusCode::kNotFound) return OkStatus();
    EDGE_RETURN_IF_ERROR(entries.status());
    for (const DirectoryEntry& entry : *entries) {
      if (entry.name == kTemporary) continue;
      const std::string key = folder + entry.name;
      if (!entry.is_directory) {
        if (key.starts_with(prefix) && key > start_after) found->push_back({key, entry.bytes, ""});
        continue;
      }
      const std::string below = key + "/";
      const bool may_match = below.starts_with(prefix) || prefix.starts_with(below);
      const bool all_before = below < start_after && !start_after.starts_with(below);
      if (may_match && !all_before) {
        EDGE_RETURN_IF_ERROR(Walk(below, prefix, start_after, found));
      }
    }
    return OkStatus();
  }

  const std::string path_;
  FileSystem& files_;
  Mutex swap_mu_;
};

}  // namespace

std::unique_ptr<ObjectStore> FolderStore(std::string path, FileSystem& files) {
  return std::make_unique<Folder>(std::move(path), files);
}

}  // namespace edge::srs
