// Files in memory, with a model of what power loss does to them.
//
// Bytes: the first change of a 512-byte sector after a Sync saves its durable bytes in
// `stale`; Sync forgets them. A crash puts back the stale bytes of sectors it decides to
// lose. Names: every change of a folder is an operation in a log until SyncDirectory makes
// it durable, together with all earlier operations on the same names (a rename touches two
// and is never split). A crash keeps some of the log and drops the rest, and what was not
// durable is gone.
#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "edge/base/check.h"
#include "edge/base/errors.h"
#include "edge/base/file_system.h"
#include "edge/base/mutex.h"
#include "edge/base/random.h"

namespace edge {
namespace {

constexpr uint64_t kSectorBytes = 512;
constexpr uint64_t kDirectBytes = 4096;
constexpr uint64_t kFileBytesMax = uint64_t{1} << 40;

struct Node;
// Owners: the current and the durable folder entries, the log, and open files.
using NodePtr = std::shared_ptr<Node>;

struct Node {
  explicit Node(bool directory) : is_directory(directory) {}
  const bool is_directory;
  // Folders.
  std::map<std::string, NodePtr, std::less<>> entries;
  std::map<std::string, NodePtr, std::less<>> durable_entries;
  // Files.
  Bytes content;
  uint64_t durable_bytes = 0;
  std::map<uint64_t, std::array<std::byte, kSectorBytes>> stale;  // by sector
  bool locked = false;
  // What counts against the capacity: the content, while it has a name or is open.
  int links = 0;
  int opens = 0;
};

// One change of one name; null removes it.
struct Assignment {
  NodePtr directory;
  std::string name;
  NodePtr node;
  bool SameName(const Assignment& other) const {
    return directory == other.directory && name == other.name;
  }
};
using NameOperation = std::vector<Assignment>;

bool Touches(const NameOperation& operation, const NameOperation& other) {
  return std::ranges::any_of(operation, [&other](const Assignment& mine) {
    return std::ranges::any_of(other, [&mine](const Assignment& o) { return mine.SameName(o); });
  });
}

class MappedCopy final : public MappedFile {
 public:
  explicit MappedCopy(Bytes bytes) : bytes_(std::move(bytes)) {}
  ByteView bytes() const override { return bytes_; }

 private:
  const Bytes bytes_;
};

class MemoryFiles final : public MemoryFileSystem {
 public:
  class OpenFile;

  StatusOr<std::unique_ptr<File>> Open(const std::string& path, OpenMode mode,
                                       Caching caching) override {
    const MutexLock lock(&mu_);
    EDGE_ASSIGN_OR_RETURN(const NodePtr node, FindOrMake(path, mode));
    if (mode == OpenMode::kCreateTruncate) EDGE_RETURN_IF_ERROR(Resize(*node, 0, path));
    return MakeOpenFile(node, path, mode != OpenMode::kRead, caching == Caching::kDirectSync,
                        false);
  }

  StatusOr<std::unique_ptr<MappedFile>> Map(const std::string& path) override {
    const MutexLock lock(&mu_);
    EDGE_ASSIGN_OR_RETURN(const NodePtr node, FindOrMake(path, OpenMode::kRead));
    return std::make_unique<MappedCopy>(node->content);
  }

  Status Remove(const std::string& path) override {
    const MutexLock lock(&mu_);
    EDGE_ASSIGN_OR_RETURN(const Place place, FindPlace(path));
    if (place.node == nullptr) return NotFound("remove {}: no such file", path);
    if (!place.node->entries.empty()) return AlreadyExists("remove {}: folder not empty", path);
    Change({{place.directory, place.name, nullptr}});
    return OkStatus();
  }

  Status Rename(const std::string& from, const std::string& to) override {
    const MutexLock lock(&mu_);
    EDGE_ASSIGN_OR_RETURN(const Place source, FindPlace(from));
    EDGE_ASSIGN_OR_RETURN(const Place target, FindPlace(to));
    if (source.node == nullptr) return NotFound("rename {}: no such file", from);
    if (source.node == target.node) return OkStatus();
    if (target.node != nullptr) {
      if (source.node->is_directory != target.node->is_directory) {
        return InvalidArgument("rename {} to {}: a folder and a file", from, to);
      }
      if (!target.node->entries.empty()) return AlreadyExists("rename to {}: not empty", to);
    }
    if (Contains(source.node, target.directory)) {
      return InvalidArgument("rename {} to {}: into itself", from, to);
    }
    // The new name first, so that the file is never without one.
    Change(
        {{target.directory, target.name, source.node}, {source.directory, source.name, nullptr}});
    return OkStatus();
  }

  Status Link(const std::string& from, const std::string& to) override {
    const MutexLock lock(&mu_);
    EDGE_ASSIGN_OR_RETURN(const Place source, FindPlace(from));
    EDGE_ASSIGN_OR_RETURN(const Place target, FindPlace(to));
    if (source.node == nullptr) return NotFound("link {}: no such file", from);
    if (source.node->is_directory) return PermissionDenied("link {}: a folder", from);
    if (target.node != nullptr) return AlreadyExists("link {}: file exists", to);
    Change({{target.directory, target.name, source.node}});
    return OkStatus();
  }

  Status MakeDirectories(const std::string& path) override {
    const MutexLock lock(&mu_);
    EDGE_ASSIGN_OR_RETURN(const std::vector<std::string> names, Split(path));
    NodePtr node = root_;
    for (const std::string& name : names) {
      if (!node->is_directory) return InvalidArgument("make directory {}: below a file", path);
      if (!node->entries.contains(name)) {
        Change({{node, name, std::make_shared<Node>(true)}});
        MakeNamesDurable(node);
      }
      node = node->entries[name];
    }
    if (!node->is_directory) return InvalidArgument("make directory {}: it is a file", path);
    return OkStatus();
  }

  Status SyncDirectory(const std::string& path) override {
    const MutexLock lock(&mu_);
    EDGE_ASSIGN_OR_RETURN(const NodePtr node, FindDirectory(path));
    MakeNamesDurable(node);
    return OkStatus();
  }

  StatusOr<std::vector<DirectoryEntry>> List(const std::string& path) override {
    const MutexLock lock(&mu_);
    EDGE_ASSIGN_OR_RETURN(const NodePtr node, FindDirectory(path));
    std::vector<DirectoryEntry> list;
    for (const auto& [name, child] : node->entries) {
      list.push_back({name, child->content.size(), child->is_directory});
    }
    return list;
  }

  StatusOr<bool> Exists(const std::string& path) override {
    const MutexLock lock(&mu_);
    EDGE_ASSIGN_OR_RETURN(const std::vector<std::string> names, Split(path));
    return Walk(names) != nullptr;
  }

  StatusOr<std::unique_ptr<File>> Lock(const std::string& path) override {
    const MutexLock lock(&mu_);
    EDGE_ASSIGN_OR_RETURN(const NodePtr node, FindOrMake(path, OpenMode::kCreate));
    if (node->locked) {
      return FailedPrecondition("{} is locked: another process or object is using it", path);
    }
    node->locked = true;
    return MakeOpenFile(node, path, true, false, true);
  }

  void Crash(Random& random) override {
    const MutexLock lock(&mu_);
    ++epoch_;
    CrashNames(random);
    used_bytes_ = 0;
    std::set<const Node*> seen;  // a file with two names crashes once
    Restart(*root_, random, &seen);
  }

  void SetOffline(bool offline) override {
    const MutexLock lock(&mu_);
    offline_ = offline;
  }

  void SetCapacity(uint64_t bytes_max) override {
    const MutexLock lock(&mu_);
    capacity_bytes_ = bytes_max;
  }

  Status CorruptBit(const std::string& path, uint64_t bit_offset) override {
    const MutexLock lock(&mu_);
    EDGE_ASSIGN_OR_RETURN(const NodePtr node, FindOrMake(path, OpenMode::kRead));
    if (bit_offset / 8 >= node->content.size()) {
      return InvalidArgument("{}: no bit {} in {} bytes", path, bit_offset, node->content.size());
    }
    node->content[bit_offset / 8] ^= std::byte{1} << static_cast<int>(bit_offset % 8);
    return OkStatus();
  }

 private:
  // Where a path leads: its folder, which exists, and what is there, if anything.
  struct Place {
    NodePtr directory;
    std::string name;
    NodePtr node;
  };

  // Every call with a path comes through here.
  StatusOr<std::vector<std::string>> Split(const std::string& path) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (offline_) return Unavailable("{}: the machine is switched off", path);
    std::vector<std::string> names;
    for (size_t at = 0; at <= path.size();) {
      const size_t end = std::min(path.find('/', at), path.size());
      std::string name = path.substr(at, end - at);
      at = end + 1;
      if (name.empty() || name == ".") continue;
      if (name == "..") return InvalidArgument("{}: '..' is not supported in memory", path);
      names.push_back(std::move(name));
    }
    return names;
  }
  NodePtr Walk(const std::vector<std::string>& names) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    NodePtr node = root_;
    for (const std::string& name : names) {
      const auto found = node->entries.find(name);
      if (found == node->entries.end()) return nullptr;
      node = found->second;
    }
    return node;
  }
  StatusOr<Place> FindPlace(const std::string& path) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    EDGE_ASSIGN_OR_RETURN(std::vector<std::string> names, Split(path));
    if (names.empty()) return InvalidArgument("'{}' is the root folder", path);
    Place place;
    place.name = std::move(names.back());
    names.pop_back();
    place.directory = Walk(names);
    if (place.directory == nullptr) return NotFound("{}: no such folder", path);
    if (!place.directory->is_directory) return InvalidArgument("{}: not below a folder", path);
    const auto found = place.directory->entries.find(place.name);
    if (found != place.directory->entries.end()) place.node = found->second;
    return place;
  }
  StatusOr<NodePtr> FindDirectory(const std::string& path) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    EDGE_ASSIGN_OR_RETURN(const std::vector<std::string> names, Split(path));
    NodePtr node = Walk(names);
    if (node == nullptr) return NotFound("{}: no such folder", path);
    if (!node->is_directory) return InvalidArgument("{}: not a folder", path);
    return node;
  }
  StatusOr<NodePtr> FindOrMake(const std::string& path, OpenMode mode)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    EDGE_ASSIGN_OR_RETURN(const Place place, FindPlace(path));
    if (place.node != nullptr) {
      if (place.node->is_directory) return InvalidArgument("open {}: a folder", path);
      if (mode == OpenMode::kCreateNew) return AlreadyExists("open {}: file exists", path);
      return place.node;
    }
    if (mode == OpenMode::kRead || mode == OpenMode::kReadWrite) {
      return NotFound("open {}: no such file", path);
    }
    auto node = std::make_shared<Node>(false);
    Change({{place.directory, place.name, node}});
    return node;
  }
  static bool Contains(const NodePtr& tree, const NodePtr& node) {
    return tree == node || std::ranges::any_of(tree->entries, [&node](const auto& entry) {
             return Contains(entry.second, node);
           });
  }

  // Does the operation now and logs it for the crash.
  void Change(NameOperation operation) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    for (const Assignment& change : operation) {
      if (change.node != nullptr) ++change.node->links;
      auto& entries = change.directory->entries;
      const auto found = entries.find(change.name);
      if (found != entries.end()) {
        const NodePtr before = std::move(found->second);
        entries.erase(found);
        --before->links;
        Uncount(*before);
      }
      if (change.node != nullptr) entries[change.name] = change.node;
    }
    log_.push_back(std::move(operation));
  }
  void Uncount(const Node& node) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (node.links == 0 && node.opens == 0) used_bytes_ -= node.content.size();
  }
  static void ApplyDurably(const NameOperation& operation) {
    for (const Assignment& change : operation) {
      if (change.node == nullptr) {
        change.directory->durable_entries.erase(change.name);
      } else {
        change.directory->durable_entries[change.name] = change.node;
      }
    }
  }
  void MakeNamesDurable(const NodePtr& directory) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    // From the newest back: an operation goes with any chosen later one on the same name.
    std::vector<size_t> chosen;
    for (size_t i = log_.size(); i-- > 0;) {
      bool goes = std::ranges::any_of(log_[i], [&directory](const Assignment& change) {
        return change.directory == directory;
      });
      for (const size_t later : chosen) goes = goes || Touches(log_[i], log_[later]);
      if (goes) chosen.push_back(i);
    }
    for (size_t i = chosen.size(); i-- > 0;) ApplyDurably(log_[chosen[i]]);
    for (const size_t i : chosen) log_.erase(log_.begin() + static_cast<ptrdiff_t>(i));
  }

  void CrashNames(Random& random) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    // A journalling file system keeps a prefix; others promise nothing about the order.
    const uint64_t mode = random.Below(2);
    const uint64_t kept_count = mode == 0 ? random.Below(log_.size() + 1) : 0;
    for (size_t i = 0; i < log_.size(); ++i) {
      if (mode == 0 ? i < kept_count : random.Below(2) == 0) ApplyDurably(log_[i]);
    }
    log_.clear();
  }
  void Restart(Node& node, Random& random, std::set<const Node*>* seen)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    ++node.links;
    if (!seen->insert(&node).second) return;
    node.links = 1;
    node.opens = 0;
    node.locked = false;
    if (node.is_directory) {
      node.entries = node.durable_entries;
      for (const auto& [name, child] : node.entries) Restart(*child, random, seen);
    } else {
      CrashBytes(node, random);
      used_bytes_ += node.content.size();
    }
  }
  static void CrashBytes(Node& node, Random& random) {
    enum Mode : uint64_t { kLoseAll, kKeepAll, kTear };
    const uint64_t mode = random.Below(3);
    const auto lost = [mode, &random] {
      return mode == kLoseAll || (mode == kTear && random.Below(2) == 0);
    };
    const uint64_t cut_at =
        node.content.size() < node.durable_bytes ? node.content.size() : UINT64_MAX;
    const uint64_t bytes = lost() ? node.durable_bytes : node.content.size();
    // Sectors added since the last Sync: space may be there without the data.
    for (uint64_t at = (node.durable_bytes + kSectorBytes - 1) / kSectorBytes * kSectorBytes;
         at < node.content.size(); at += kSectorBytes) {
      const auto end = std::min<uint64_t>(at + kSectorBytes, node.content.size());
      if (lost())
        std::fill(node.content.begin() + static_cast<ptrdiff_t>(at),
                  node.content.begin() + static_cast<ptrdiff_t>(end), std::byte{0});
    }
    node.content.resize(std::max<uint64_t>(bytes, node.durable_bytes));
    for (const auto& [sector, old] : node.stale) {
      const uint64_t at = sector * kSectorBytes;
      const uint64_t end = std::min<uint64_t>(at + kSectorBytes, node.content.size());
      // What was only cut off comes back whole if the cut is lost.
      if (at < end && (at + kSectorBytes > cut_at || lost())) {
        std::copy_n(old.begin(), end - at, node.content.begin() + static_cast<ptrdiff_t>(at));
      }
    }
    node.content.resize(bytes);
    node.stale.clear();
    node.durable_bytes = bytes;
  }

  // Saves the durable bytes of [offset, offset + count) before they change.
  static void Preserve(Node& node, uint64_t offset, uint64_t count) {
    const uint64_t end = std::min(offset + count, node.durable_bytes);
    for (uint64_t sector = offset / kSectorBytes; sector * kSectorBytes < end; ++sector) {
      const auto [slot, is_new] = node.stale.try_emplace(sector);
      const uint64_t at = sector * kSectorBytes;
      if (!is_new || at >= node.content.size()) continue;
      const uint64_t have = std::min<uint64_t>(kSectorBytes, node.content.size() - at);
      std::copy_n(node.content.begin() + static_cast<ptrdiff_t>(at), have, slot->second.begin());
    }
  }
  Status Resize(Node& node, uint64_t bytes, const std::string& path)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    const uint64_t before = node.content.size();
    if (bytes > kFileBytesMax) return ResourceExhausted("{}: {} bytes are too many", path, bytes);
    if (bytes > before &&
        bytes - before > capacity_bytes_ - std::min(used_bytes_, capacity_bytes_)) {
      return ResourceExhausted("{}: no space for {} more bytes ({} of {} used)", path,
                               bytes - before, used_bytes_, capacity_bytes_);
    }
    if (bytes < before) Preserve(node, bytes, before - bytes);
    node.content.resize(bytes);
    used_bytes_ += bytes - before;
    return OkStatus();
  }

  std::unique_ptr<File> MakeOpenFile(NodePtr node, std::string path, bool writable, bool direct,
                                     bool holds_lock) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  Mutex mu_;
  const NodePtr root_ = std::make_shared<Node>(true);
  std::vector<NameOperation> log_ ABSL_GUARDED_BY(mu_);
  uint64_t epoch_ ABSL_GUARDED_BY(mu_) = 0;  // crashes so far
  bool offline_ ABSL_GUARDED_BY(mu_) = false;
  uint64_t used_bytes_ ABSL_GUARDED_BY(mu_) = 0;
  uint64_t capacity_bytes_ ABSL_GUARDED_BY(mu_) = UINT64_MAX;
};

class MemoryFiles::OpenFile final : public File {
 public:
  OpenFile(MemoryFiles& files, NodePtr node, std::string path, uint64_t epoch, bool writable,
           bool direct, bool holds_lock)
      : files_(files),
        node_(std::move(node)),
        path_(std::move(path)),
        epoch_(epoch),
        writable_(writable),
        direct_(direct),
        holds_lock_(holds_lock) {}
  ~OpenFile() override {
    const MutexLock lock(&files_.mu_);
    if (files_.epoch_ != epoch_) return;
    if (holds_lock_) node_->locked = false;
    --node_->opens;
    files_.Uncount(*node_);
  }

  StatusOr<size_t> ReadAt(uint64_t offset, MutableByteView out) override {
    const MutexLock lock(&files_.mu_);
    EDGE_RETURN_IF_ERROR(Check(offset, out.size(), "read"));
    const Bytes& content = node_->content;
    if (offset >= content.size()) return size_t{0};
    const size_t count = std::min<uint64_t>(out.size(), content.size() - offset);
    std::copy_n(content.begin() + static_cast<ptrdiff_t>(offset), count, out.begin());
    return count;
  }
  Status WriteAt(uint64_t offset, ByteView bytes) override {
    const MutexLock lock(&files_.mu_);
    EDGE_RETURN_IF_ERROR(CheckWritable());
    EDGE_RETURN_IF_ERROR(Check(offset, bytes.size(), "write"));
    if (offset > kFileBytesMax || bytes.size() > kFileBytesMax) {
      return ResourceExhausted("write {}: offset {} is too far", path_, offset);
    }
    if (bytes.empty()) return OkStatus();
    Preserve(*node_, offset, bytes.size());
    if (offset + bytes.size() > node_->content.size()) {
      EDGE_RETURN_IF_ERROR(files_.Resize(*node_, offset + bytes.size(), path_));
    }
    std::ranges::copy(bytes, node_->content.begin() + static_cast<ptrdiff_t>(offset));
    if (direct_) MakeBytesDurable();
    return OkStatus();
  }
  Status Sync() override {
    const MutexLock lock(&files_.mu_);
    EDGE_RETURN_IF_ERROR(CheckAlive());
    MakeBytesDurable();
    return OkStatus();
  }
  Status Truncate(uint64_t bytes) override {
    const MutexLock lock(&files_.mu_);
    EDGE_RETURN_IF_ERROR(CheckWritable());
    return files_.Resize(*node_, bytes, path_);
  }
  Status Allocate(uint64_t bytes) override {
    const MutexLock lock(&files_.mu_);
    EDGE_RETURN_IF_ERROR(CheckWritable());
    return bytes > node_->content.size() ? files_.Resize(*node_, bytes, path_) : OkStatus();
  }
  StatusOr<uint64_t> Size() override {
    const MutexLock lock(&files_.mu_);
    EDGE_RETURN_IF_ERROR(CheckAlive());
    return node_->content.size();
  }

 private:
  Status CheckAlive() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(files_.mu_) {
    if (files_.offline_) return Unavailable("{}: the machine is switched off", path_);
    if (files_.epoch_ == epoch_) return OkStatus();
    return Unavailable("{}: opened before the crash", path_);
  }
  Status CheckWritable() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(files_.mu_) {
    EDGE_RETURN_IF_ERROR(CheckAlive());
    return writable_ ? OkStatus() : Status(PermissionDenied("{}: opened for reading", path_));
  }
  Status Check(uint64_t offset, size_t count, std::string_view call) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(files_.mu_) {
    EDGE_RETURN_IF_ERROR(CheckAlive());
    if (direct_ && (offset % kDirectBytes != 0 || count % kDirectBytes != 0)) {
      return InvalidArgument("{} {}: {} bytes at {}, not multiples of {}", call, path_, count,
                             offset, kDirectBytes);
    }
    return OkStatus();
  }
  void MakeBytesDurable() {
    node_->stale.clear();
    node_->durable_bytes = node_->content.size();
  }

  MemoryFiles& files_;
  const NodePtr node_;
  const std::string path_;
  const uint64_t epoch_;
  const bool writable_;
  const bool direct_;
  const bool holds_lock_;
};

std::unique_ptr<File> MemoryFiles::MakeOpenFile(NodePtr node, std::string path, bool writable,
                                                bool direct, bool holds_lock) {
  ++node->opens;
  return std::make_unique<OpenFile>(*this, std::move(node), std::move(path), epoch_, writable,
                                    direct, holds_lock);
}

}  // namespace

std::unique_ptr<MemoryFileSystem> MemoryFileSystem::Create() {
  return std::make_unique<MemoryFiles>();
}

}  // namespace edge
