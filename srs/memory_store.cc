#include <algorithm>
#include <map>
#include <utility>

#include "edge/base/errors.h"
#include "edge/base/mutex.h"
#include "srs/object_store.h"

namespace edge::srs {
namespace {

class Store final : public ObjectStore {
 public:
  StatusOr<std::string> Put(const std::string& key, ByteView content,
                            const PutCondition& condition) override {
    EDGE_RETURN_IF_ERROR(CheckKey(key));
    MutexLock lock(&mu_);
    const auto it = objects_.find(key);
    if (condition.if_absent && it != objects_.end()) return AlreadyExists("object {}", key);
    if (condition.if_etag && (it == objects_.end() || EtagOf(it->second) != *condition.if_etag)) {
      return Aborted("object {}: has changed", key);
    }
    objects_[key] = Bytes(content.begin(), content.end());
    return EtagOf(content);
  }
  StatusOr<Bytes> Get(const std::string& key, const ByteRange& range) override {
    EDGE_RETURN_IF_ERROR(CheckKey(key));
    MutexLock lock(&mu_);
    const auto it = objects_.find(key);
    if (it == objects_.end()) return NotFound("object {}", key);
    const ByteView all = it->second;
    const uint64_t start = std::min<uint64_t>(range.offset, all.size());
    const ByteView part = all.subspan(start, std::min<uint64_t>(range.bytes, all.size() - start));
    return Bytes(part.begin(), part.end());
  }
  StatusOr<ObjectInfo> Head(const std::string& key) override {
    EDGE_RETURN_IF_ERROR(CheckKey(key));
    MutexLock lock(&mu_);
    const auto it = objects_.find(key);
    if (it == objects_.end()) return NotFound("object {}", key);
    return ObjectInfo{key, it->second.size(), EtagOf(it->second)};
  }
  StatusOr<std::vector<ObjectInfo>> List(const std::string& prefix, const std::string& start_after,
                                         size_t count_max) override {
    std::vector<ObjectInfo> found;
    MutexLock lock(&mu_);
    for (auto it = objects_.lower_bound(std::max(prefix, start_after));
         it != objects_.end() && it->first.starts_with(prefix) && found.size() < count_max; ++it) {
      if (it->first > start_after) found.push_back({it->first, it->second.size(), ""});
    }
    return found;
  }
  Status Delete(const std::string& key) override {
    EDGE_RETURN_IF_ERROR(CheckKey(key));
    MutexLock lock(&mu_);
    objects_.erase(key);
    return OkStatus();
  }

 private:
  Mutex mu_;
  std::map<std::string, Bytes> objects_ ABSL_GUARDED_BY(mu_);
};

}  // namespace

std::unique_ptr<ObjectStore> MemoryStore() {
  return std::make_unique<Store>();
}

}  // namespace edge::srs
