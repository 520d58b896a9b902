// edge/durable/storage.h - what an object keeps: SQL, keys and values, transactions, and the
// way back in time.
//
// All of it is synchronous and throws edge::Error; each call has a Try... twin that returns
// the Status instead. What one turn writes (a method, or the stretch between two co_awaits of
// one) is committed together when the turn ends, or not at all.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "edge/base/callback.h"
#include "edge/base/status.h"
#include "edge/base/task.h"
#include "edge/durable/sql.h"
#include "edge/rpc/promise.h"

namespace edge::durable {

namespace internal {
class Session;
template <typename T>
inline constexpr bool kIsStatus = std::is_same_v<T, Status>;
template <typename T>
inline constexpr bool kIsStatus<StatusOr<T>> = true;
}  // namespace internal

// Keys and values in a hidden table of the object's database. Keys are UTF-8 text in byte
// order, values any bytes; together at most 2 MiB, else InvalidArgument. Single-threaded.
class KvStorage {
 public:
  static constexpr size_t kEntryBytesMax = 2 << 20;
  struct ListOptions {
    std::string prefix = {};
    std::string start = {};        // first key; empty: from the beginning
    std::string start_after = {};  // or: the first key after this one
    std::string end = {};          // before this key; empty: to the end
    size_t limit = SIZE_MAX;       // above 0, else InvalidArgument
    enum class Order : uint8_t { kForward, kReverse } order = Order::kForward;
  };
  struct WriteOptions {
    // What the object says need not wait until this write is durable. Should the write be
    // lost, the object is reset all the same. Any other write of the turn outweighs it.
    bool allow_unconfirmed = false;
  };
  using Entry = std::pair<std::string, std::string>;

  std::optional<std::string> Get(std::string_view key) { return internal::OrThrow(TryGet(key)); }
  void Put(std::string_view key, std::string_view value) { Put(key, value, {}); }
  void Put(std::string_view key, std::string_view value, const WriteOptions& options) {
    internal::OrThrow(TryPut(key, value, options));
  }
  bool Delete(std::string_view key) { return Delete(key, {}); }  // was it there?
  bool Delete(std::string_view key, const WriteOptions& options) {
    return internal::OrThrow(TryDelete(key, options));
  }
  // Those that are there, in order of keys.
  std::vector<Entry> GetMany(const std::vector<std::string>& keys) {
    return internal::OrThrow(TryGetMany(keys));
  }
  // All or none.
  void PutMany(const std::vector<Entry>& entries) { PutMany(entries, {}); }
  void PutMany(const std::vector<Entry>& entries, const WriteOptions& options) {
    internal::OrThrow(TryPutMany(entries, options));
  }
  size_t DeleteMany(const std::vector<std::string>& keys) { return DeleteMany(keys, {}); }
  size_t DeleteMany(const std::vector<std::string>& keys, const WriteOptions& options) {
    return internal::OrThrow(TryDeleteMany(keys, options));  // how many were there
  }
  std::vector<Entry> List(const ListOptions& options) {
    return internal::OrThrow(TryList(options));
  }
  std::vector<Entry> List() { return List({}); }

  StatusOr<std::optional<std::string>> TryGet(std::string_view key);
  Status TryPut(std::string_view key, std::string_view value, const WriteOptions& options);
  StatusOr<bool> TryDelete(std::string_view key, const WriteOptions& options);
  StatusOr<std::vector<Entry>> TryGetMany(const std::vector<std::string>& keys);
  Status TryPutMany(const std::vector<Entry>& entries, const WriteOptions& options);
  StatusOr<size_t> TryDeleteMany(const std::vector<std::string>& keys, const WriteOptions& options);
  StatusOr<std::vector<Entry>> TryList(const ListOptions& options);

 private:
  friend class Storage;
  explicit KvStorage(internal::SqlEngine& engine) : engine_(&engine) {}
  internal::SqlEngine* engine_;
};

// What runs inside Storage::Transaction(). A handle; once the transaction has ended it throws.
class OpenTransaction {
 public:
  struct State {  // private to edge::durable
    internal::Session* session;
    enum class Phase : uint8_t { kOpen, kCommitted, kRolledBack } phase = Phase::kOpen;
  };
  explicit OpenTransaction(std::shared_ptr<State> state) : state_(std::move(state)) {}

  std::optional<std::string> Get(std::string_view key) { return kv("get()").Get(key); }
  void Put(std::string_view key, std::string_view value) { kv("put()").Put(key, value); }
  bool Delete(std::string_view key) { return kv("delete()").Delete(key); }
  std::vector<KvStorage::Entry> List(const KvStorage::ListOptions& options) {
    return kv("list()").List(options);
  }
  // Undoes what was written, SQL included, and ends the transaction; its work may go on.
  void Rollback();

 private:
  KvStorage& kv(std::string_view call);
  std::shared_ptr<State> state_;  // owners: the handles, and the section that runs the work
};

// Single-threaded: the object's loop.
class Storage {
 public:
  Sql& sql() { return sql_; }
  KvStorage& kv() { return kv_; }

  // Runs `function` inside the turn's transaction so that its writes stand or fall together:
  // an exception, or a Status that is not OK, undoes them and passes on. Nests.
  template <typename F>
  auto TransactionSync(F&& function) -> std::invoke_result_t<F&>;
  // As TransactionSync for functions that return Status or StatusOr; throws nothing itself.
  template <typename F>
  auto TryTransactionSync(F&& function) -> std::invoke_result_t<F&>;

  // Runs `work`, which may co_await, as BlockConcurrencyWhile does, and keeps what it writes or
  // none of it: a failure undoes it and is the promise's, the object lives on. Commits what the
  // turn has written before. What `work` sends leaves when earlier commits are durable: it must
  // not tell others what it may yet undo. Nests. FailedPrecondition inside TransactionSync.
  rpc::Promise<void> Transaction(Callback<Task<void>(OpenTransaction)> work);

  // Kept when everything that was written so far, unconfirmed writes included, is durable.
  rpc::Promise<void> Sync();

  struct DeleteAllOptions {
    bool delete_alarm = true;
  };
  // Deletes all keys, tables, views and indexes of the object; open cursors fail. Part of the
  // turn. FailedPrecondition inside a transaction.
  void DeleteAll() { DeleteAll({}); }
  void DeleteAll(const DeleteAllOptions& options) { internal::OrThrow(TryDeleteAll(options)); }
  Status TryDeleteAll(const DeleteAllOptions& options);

  // The object's one alarm: when its method Alarm() will be called, in milliseconds since
  // 1970. It is part of the turn, and wakes the object after restarts too. A time that has
  // passed means now; one below 1 is InvalidArgument. FailedPrecondition if the class has no
  // Alarm().
  void SetAlarm(int64_t at_ms) { internal::OrThrow(TrySetAlarm(at_ms)); }
  Status TrySetAlarm(int64_t at_ms);
  // Nothing while the alarm's own handler runs, unless it was set again.
  std::optional<int64_t> GetAlarm() { return internal::OrThrow(TryGetAlarm()); }
  StatusOr<std::optional<int64_t>> TryGetAlarm();
  void DeleteAlarm() { internal::OrThrow(TryDeleteAlarm()); }
  Status TryDeleteAlarm();

  // The state that this turn began with, as text that sorts in order of time. How far
  // back one can go is the relay's matter.
  std::string GetCurrentBookmark();
  // The newest bookmark at or before that time. NotFound if the log does not reach back.
  std::string GetBookmarkForTime(int64_t wall_ms) {
    return internal::OrThrow(TryGetBookmarkForTime(wall_ms));
  }
  StatusOr<std::string> TryGetBookmarkForTime(int64_t wall_ms);
  // The object's next start goes back to `bookmark`; ctx().Abort() brings that about at once.
  // Commits what the turn has written so far and returns the bookmark of that state: the way
  // to undo the restore. FailedPrecondition inside TransactionSync.
  std::string OnNextSessionRestore(std::string_view bookmark) {
    return internal::OrThrow(TryOnNextSessionRestore(bookmark));
  }
  StatusOr<std::string> TryOnNextSessionRestore(std::string_view bookmark);

 private:
  friend class internal::Session;
  friend class OpenTransaction;
  class Savepoint {
   public:
    explicit Savepoint(Storage& storage);
    Savepoint(const Savepoint&) = delete;
    ~Savepoint();  // rolls back unless it was committed
    const Status& status() const { return status_; }
    Status Commit();

   private:
    internal::SqlEngine* engine_;
    Status status_;
    bool open_;
  };
  explicit Storage(internal::Session& session);

  internal::Session* session_;
  internal::SqlEngine* engine_;
  Sql sql_;
  KvStorage kv_;
};

template <typename F>
auto Storage::TransactionSync(F&& function) -> std::invoke_result_t<F&> {
  using R = std::invoke_result_t<F&>;
  static_assert(
      !requires { typename R::promise_type; }, "a transaction cannot co_await");
  Savepoint savepoint(*this);
  internal::OrThrow(savepoint.status());
  if constexpr (std::is_void_v<R>) {
    function();
    internal::OrThrow(savepoint.Commit());
  } else {
    R result = function();
    if constexpr (internal::kIsStatus<R>) {
      if (!result.ok()) return result;
    }
    internal::OrThrow(savepoint.Commit());
    return result;
  }
}

template <typename F>
auto Storage::TryTransactionSync(F&& function) -> std::invoke_result_t<F&> {
  using R = std::invoke_result_t<F&>;
  static_assert(internal::kIsStatus<R>, "the function must return Status or StatusOr");
  Savepoint savepoint(*this);
  EDGE_RETURN_IF_ERROR(savepoint.status());
  R result = function();
  if (!result.ok()) return result;
  EDGE_RETURN_IF_ERROR(savepoint.Commit());
  return result;
}

}  // namespace edge::durable
