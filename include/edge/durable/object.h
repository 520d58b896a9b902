// edge/durable/object.h - the base of your durable objects.
//
//   class Counter : public edge::durable::Object {
//    public:
//     using Object::Object;
//     int64_t Increment(int64_t by) {
//       sql().Exec("CREATE TABLE IF NOT EXISTS c (id INTEGER PRIMARY KEY, n INTEGER)");
//       return sql().Exec<int64_t>("INSERT INTO c VALUES (1, ?) ON CONFLICT DO UPDATE "
//                                  "SET n = n + excluded.n RETURNING n", by).Value();
//     }
//     using Rpc = edge::rpc::Methods<&Counter::Increment>;
//   };
//
// There is one instance of each object, and it runs one thing at a time: between the start
// of a method and its end (or its next co_await) nothing else touches its data. Methods may
// throw edge::Error: the turn is undone, the caller gets the Status, and the object lives on.
// Nothing that a method says to anybody - its answer, a call, a callback - is sent before
// everything it could have seen is durable; the method itself does not wait for that.
//
// A method may be a Task. While it awaits an rpc promise, other calls come in. Await rpc
// promises only: code that resumes otherwise (timers of the loop) still writes safely, but
// its own calls to others are not held back until those writes are durable.
#pragma once
#include <cstdint>
#include <string_view>

#include "edge/base/callback.h"
#include "edge/base/executor.h"
#include "edge/base/task.h"
#include "edge/durable/id.h"
#include "edge/durable/sql.h"
#include "edge/durable/storage.h"
#include "edge/rpc/promise.h"

namespace edge::durable {

// Why an alarm's handler runs.
struct AlarmInfo {
  int64_t scheduled_ms = 0;  // the time that was asked for, since 1970
  int retry_count = 0;       // failed tries before this one, up to 6
  bool is_retry() const { return retry_count > 0; }
};

// What an object knows about itself. Single-threaded: the object's loop.
class Context {
 public:
  virtual ~Context() = default;
  virtual const ObjectId& id() const = 0;
  virtual Storage& storage() = 0;
  virtual Loop& loop() = 0;
  // Runs `work`, and lets nothing else into the object until it has ended: no calls, no alarm,
  // no code that awaits something, but for what `work` awaits itself. In the constructor it
  // holds back the first calls: ctx.BlockConcurrencyWhile([this]() -> Task<void> {...}).Ignore();
  // If it fails, or takes more than 30 s, the object is reset with that error, and the calls
  // that waited for it fail too. Nests 64 deep: FailedPrecondition beyond.
  virtual rpc::Promise<void> BlockConcurrencyWhile(Callback<Task<void>()> work) = 0;
  // Ends this instance: throws an Aborted error with `reason`, undoes the turn, fails every
  // call under way; the next call starts a new instance from the storage. To be let through,
  // not caught (if it is, the rest of the turn fails all the same).
  [[noreturn]] virtual void Abort(std::string_view reason) = 0;
};

// A class with a public method Alarm(AlarmInfo), or Alarm(), can be woken by
// storage().SetAlarm(); it returns void, Status or a Task of these, and stays out of the Rpc
// list. It runs once or more, never early; if it fails, its turn is undone and it runs again
// after 2, 4, 8 ... seconds, 6 times. Its own alarm is gone as soon as it runs; what it sets
// is a new one.
//
// Single-threaded: the constructor, every method and the destructor run on the object's loop.
class Object {
 public:
  // The constructor runs before the first call. It may use the storage; if it throws, that
  // call fails, and the next one tries again.
  explicit Object(Context& ctx) : ctx_(&ctx) {}
  Object(const Object&) = delete;
  Object& operator=(const Object&) = delete;
  virtual ~Object() = default;

 protected:
  Context& ctx() { return *ctx_; }
  Storage& storage() { return ctx_->storage(); }
  Sql& sql() { return ctx_->storage().sql(); }
  KvStorage& kv() { return ctx_->storage().kv(); }

 private:
  Context* ctx_;
};

}  // namespace edge::durable
