// LevelDB's sharded LRU cache, each entry charged 1.
#include "bench/kv/peers.h"

#ifdef EDGE_HAVE_LEVELDB
#include <leveldb/cache.h>

namespace edge::bench {
namespace {

class LevelDb final : public PeerCache {
 public:
  explicit LevelDb(size_t entries) : cache_(leveldb::NewLRUCache(entries)) {}
  bool Get(std::string_view key, std::string* value) override {
    leveldb::Cache::Handle* handle = cache_->Lookup(leveldb::Slice(key.data(), key.size()));
    if (handle == nullptr) return false;
    value->assign(*static_cast<const std::string*>(cache_->Value(handle)));
    cache_->Release(handle);
    return true;
  }
  void Put(std::string_view key, std::string_view value) override {
    cache_->Release(cache_->Insert(
        leveldb::Slice(key.data(), key.size()), new std::string(value), 1,
        [](const leveldb::Slice&, void* at) { delete static_cast<std::string*>(at); }));
  }

 private:
  std::unique_ptr<leveldb::Cache> cache_;
};

}  // namespace

std::unique_ptr<PeerCache> LevelDbLru(size_t entries) {
  return std::make_unique<LevelDb>(entries);
}

}  // namespace edge::bench
#else
namespace edge::bench {
std::unique_ptr<PeerCache> LevelDbLru(size_t) {
  return nullptr;
}
}  // namespace edge::bench
#endif
