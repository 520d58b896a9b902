// edge/kv/origin.h - what stands behind a hot tier.
//
// A Namespace keeps recent entries in memory and asks an Origin for the rest: SQLite
// (edge/kv/sqlite_origin.h), a folder (folder_origin.h), memory (memory_origin.h), another
// Namespace (Namespace::AsOrigin: a regional tier), a process far away, or anything that
// answers these calls. The Namespace checks arguments, expiry and sizes, so that an origin
// stores and finds bytes, and nothing more.
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "edge/base/callback.h"
#include "edge/base/status.h"

namespace edge::kv {

// When an entry was written, by a hybrid logical clock (Kulkarni et al., OPODIS 2014):
// milliseconds since 1970 in the upper 48 bits, a counter below. Each writer's clock runs
// past every version that it has seen, so a write that knew of another has the greater one.
// 0: unknown, older than all.
using Version = uint64_t;

// What is stored under a key. `metadata` is JSON text, empty for none; `expiration_s` counts
// seconds since 1970, 0 for never.
struct Entry {
  std::string value;
  std::string metadata;
  int64_t expiration_s = 0;
  Version version = 0;
};

// The same, borrowed for one call.
struct EntryView {
  std::string_view value = {};
  std::string_view metadata = {};
  int64_t expiration_s = 0;
  Version version = 0;
};

struct ListedKey {
  std::string name;
  int64_t expiration_s = 0;  // 0: never
  std::string metadata;      // JSON text; empty: none
};

struct OriginListQuery {
  std::string prefix = {};                // every key starts with it
  std::optional<std::string> after = {};  // only keys greater than this one
  size_t count_max = 1000;                // > 0
  int64_t now_s = 0;                      // keys with 0 < expiration_s <= now_s are left out
};

struct OriginListPage {
  std::vector<ListedKey> keys;  // ascending in byte order, at most count_max
  bool complete = true;         // false: more keys follow the last one (or `after`, if none)
};

// Told of each write that took effect, by whomever. An empty key: changes may have been
// missed, of any key.
using OnChange = Callback<void(std::string_view key, Version version)>;

// Ends when destroyed: then no call is running or will come. Not from inside the call.
class Subscription {
 public:
  virtual ~Subscription() = default;
};

// Thread-safe: calls come from every thread that uses the Namespace, never under one of its
// locks. For one key, a Put or Delete never runs beside another Put or Delete of the same
// Namespace; Gets may run beside anything. Any error is handed to the caller as it is, and
// nothing is cached for it.
class Origin {
 public:
  using GetManyDone = Callback<void(StatusOr<std::vector<std::optional<Entry>>>)>;
  using WriteDone = Callback<void(StatusOr<Version>)>;
  using ListDone = Callback<void(StatusOr<OriginListPage>)>;

  virtual ~Origin() = default;

  // The entry or nothing. An expired entry may be returned or left out.
  virtual StatusOr<std::optional<Entry>> Get(std::string_view key) = 0;

  // One answer per key, in the order of `keys`. The default asks Get for each in turn.
  virtual StatusOr<std::vector<std::optional<Entry>>> GetMany(
      std::span<const std::string_view> keys);

  // Replaces the whole entry, unless one with the same or a greater version is there: the
  // last write wins. Returns `entry.version` if this write took effect, else a greater one,
  // above which another try must be stamped. An origin that keeps no versions, and any that
  // is given version 0, writes always. OK means as durable as this origin promises; after an
  // error the key may hold either entry, now or a little later.
  virtual StatusOr<Version> Put(std::string_view key, const EntryView& entry) = 0;

  // OK whether or not the key was there. Versions as in Put: an origin that keeps them
  // remembers a deletion for kForgetDeletionS, so that a late older Put does not undo it.
  virtual StatusOr<Version> Delete(std::string_view key, Version version) = 0;

  // A page of keys; see OriginListQuery. Sees every Put that has returned.
  virtual StatusOr<OriginListPage> List(const OriginListQuery& query) = 0;

  // Forgets up to `count_max` entries that expired at or before `now_s`; returns how many.
  // Only frees space, so the default does nothing. Called now and then after writes.
  virtual StatusOr<size_t> RemoveExpired(int64_t now_s, size_t count_max);

  // Calls `on_change`, from any thread, until the result is destroyed. Unimplemented, the
  // default: others' writes are noticed by their age only.
  virtual StatusOr<std::unique_ptr<Subscription>> Watch(OnChange on_change);

  // The same without waiting: `done` runs once, at once or later, on any thread. True if
  // these do not block; the defaults call the functions above.
  virtual bool is_async() const { return false; }
  virtual void StartGetMany(std::vector<std::string> keys, GetManyDone done);
  virtual void StartPut(std::string key, Entry entry, WriteDone done);
  virtual void StartDelete(std::string key, Version version, WriteDone done);
  virtual void StartList(OriginListQuery query, ListDone done);
};

// An origin that answers later, such as one behind a network: implement the Start functions
// and the others wait for them. FailedPrecondition on a loop's thread, which must not wait.
class AsyncOrigin : public Origin {
 public:
  StatusOr<std::optional<Entry>> Get(std::string_view key) override;
  StatusOr<std::vector<std::optional<Entry>>> GetMany(
      std::span<const std::string_view> keys) override;
  StatusOr<Version> Put(std::string_view key, const EntryView& entry) override;
  StatusOr<Version> Delete(std::string_view key, Version version) override;
  StatusOr<OriginListPage> List(const OriginListQuery& query) override;
  bool is_async() const override { return true; }
  void StartGetMany(std::vector<std::string> keys, GetManyDone done) override = 0;
  void StartPut(std::string key, Entry entry, WriteDone done) override = 0;
  void StartDelete(std::string key, Version version, WriteDone done) override = 0;
  void StartList(OriginListQuery query, ListDone done) override = 0;
};

inline constexpr int64_t kForgetDeletionS = 3600;

// When a deletion of that version may be forgotten, in seconds since 1970.
inline int64_t ForgetDeletionAt(Version version) {
  return static_cast<int64_t>(version >> 16) / 1000 + kForgetDeletionS;
}

// The watchers of an origin. Thread-safe.
class Watchers {
 public:
  Watchers();
  ~Watchers();
  // May outlive this object.
  std::unique_ptr<Subscription> Add(OnChange on_change);
  // Calls each, one after another; no lock of the caller may be held.
  void Notify(std::string_view key, Version version);

 private:
  struct State;
  std::shared_ptr<State> state_;  // owners: this and the subscriptions
};

}  // namespace edge::kv
