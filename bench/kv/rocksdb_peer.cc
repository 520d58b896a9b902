// RocksDB's block caches, each entry charged 1.
#include "bench/kv/peers.h"

#ifdef EDGE_HAVE_ROCKSDB
#include <rocksdb/cache.h>

namespace edge::bench {
namespace {

class Rocks final : public PeerCache {
 public:
  explicit Rocks(std::shared_ptr<rocksdb::Cache> cache) : cache_(std::move(cache)) {}
  bool Get(std::string_view key, std::string* value) override {
    rocksdb::Cache::Handle* handle = cache_->Lookup(rocksdb::Slice(key.data(), key.size()));
    if (handle == nullptr) return false;
    value->assign(*static_cast<const std::string*>(cache_->Value(handle)));
    cache_->Release(handle);
    return true;
  }
  void Put(std::string_view key, std::string_view value) override {
    auto* owned = new std::string(value);
    const auto inserted = cache_->Insert(
        rocksdb::Slice(key.data(), key.size()), owned, 1,
        [](const rocksdb::Slice&, void* at) { delete static_cast<std::string*>(at); });
    if (!inserted.ok()) delete owned;
  }

 private:
  std::shared_ptr<rocksdb::Cache> cache_;
};

}  // namespace

// The charge is of entries alone, as it is for the others.
constexpr auto kNoMetadata = rocksdb::kDontChargeCacheMetadata;

std::unique_ptr<PeerCache> RocksHyperClock(size_t entries) {
  return std::make_unique<Rocks>(
      rocksdb::HyperClockCacheOptions(entries, /*estimated_entry_charge=*/1, /*num_shard_bits=*/0,
                                      /*strict_capacity_limit=*/false, nullptr, kNoMetadata)
          .MakeSharedCache());
}

std::unique_ptr<PeerCache> RocksLru(size_t entries) {
  return std::make_unique<Rocks>(rocksdb::NewLRUCache(
      entries, /*num_shard_bits=*/4, /*strict_capacity_limit=*/false,
      /*high_pri_pool_ratio=*/0.5, nullptr, /*use_adaptive_mutex=*/false, kNoMetadata));
}

}  // namespace edge::bench
#else
namespace edge::bench {
std::unique_ptr<PeerCache> RocksHyperClock(size_t) {
  return nullptr;
}
std::unique_ptr<PeerCache> RocksLru(size_t) {
  return nullptr;
}
}  // namespace edge::bench
#endif
