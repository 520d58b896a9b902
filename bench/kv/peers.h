// bench/kv/peers.h - caches of others behind one interface, each in a file of its own.
#pragma once
#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

namespace edge::bench {

// Keys of 16 bytes. The value is copied out, as ours is. Thread-safe.
class PeerCache {
 public:
  virtual ~PeerCache() = default;
  virtual bool Get(std::string_view key, std::string* value) = 0;
  virtual void Put(std::string_view key, std::string_view value) = 0;
};

// Room for `entries` of equal size. Null where the library was not there to build with.
std::unique_ptr<PeerCache> RocksHyperClock(size_t entries);
std::unique_ptr<PeerCache> RocksLru(size_t entries);
std::unique_ptr<PeerCache> LevelDbLru(size_t entries);

}  // namespace edge::bench
