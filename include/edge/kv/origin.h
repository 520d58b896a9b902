// edge/kv/origin.h - what stands behind a hot tier.
//
// A Namespace keeps recent entries in memory and asks an Origin for the rest: SQLite
// (edge/kv/sqlite_origin.h), memory (edge/kv/memory_origin.h), or anything that answers
// these calls: files, an object store, another process. The Namespace checks arguments,
// expiry and sizes, so that an origin stores and finds bytes, and nothing more.
#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "edge/base/status.h"

namespace edge::kv {

// What is stored under a key. `metadata` is JSON text, empty for none; `expiration_s` counts
// seconds since 1970, 0 for never.
struct Entry {
  std::string value;
  std::string metadata;
  int64_t expiration_s = 0;
};

// The same, borrowed for one call.
struct EntryView {
  std::string_view value = {};
  std::string_view metadata = {};
  int64_t expiration_s = 0;
};

struct ListedKey {
  std::string name;
  int64_t expiration_s = 0;  // 0: never
  std::string metadata;      // JSON text; empty: none
};

struct OriginListQuery {
  std::string_view prefix = {};                // every key starts with it
  std::optional<std::string_view> after = {};  // only keys greater than this one
  size_t count_max = 1000;                     // > 0
  int64_t now_s = 0;                           // keys with 0 < expiration_s <= now_s are left out
};

struct OriginListPage {
  std::vector<ListedKey> keys;  // ascending in byte order, at most count_max
  bool complete = true;         // false: more keys follow the last one (or `after`, if none)
};

// Thread-safe: calls come from every thread that uses the Namespace, never under one of its
// locks. For one key, a Put or Delete never runs beside another Put or Delete (one Namespace
// orders its writes by key); Gets may run beside anything. Any error is handed to the caller
// as it is, and nothing is cached for it.
class Origin {
 public:
  virtual ~Origin() = default;

  // The entry or nothing. An expired entry may be returned or left out.
  virtual StatusOr<std::optional<Entry>> Get(std::string_view key) = 0;

  // One answer per key, in the order of `keys`. The default asks Get for each in turn.
  virtual StatusOr<std::vector<std::optional<Entry>>> GetMany(
      std::span<const std::string_view> keys);

  // Replaces the whole entry. OK means as durable as this origin promises; after an error
  // the key may hold the old or the new entry.
  virtual Status Put(std::string_view key, const EntryView& entry) = 0;

  // OK whether or not the key was there.
  virtual Status Delete(std::string_view key) = 0;

  // A page of keys; see OriginListQuery. Sees every Put that has returned.
  virtual StatusOr<OriginListPage> List(const OriginListQuery& query) = 0;

  // Forgets up to `count_max` entries that expired at or before `now_s`; returns how many.
  // Only frees space, so the default does nothing. Called now and then after writes.
  virtual StatusOr<size_t> RemoveExpired(int64_t now_s, size_t count_max);
};

}  // namespace edge::kv
