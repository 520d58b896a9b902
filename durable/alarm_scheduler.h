// durable/alarm_scheduler.h - knows which object has to be woken when, running or not.
//
// A table of its own, in the relay beside the objects' databases, lists every object that has
// an alarm. The object's own database has the true time; ours is never later than that: who
// moves an alarm earlier tells us first and then commits, who moves it later commits first.
// Both commits are in one journal, so what is durable obeys this too, after any crash. An
// entry that is too early costs a look at the object, which puts it right.
// Format: docs/formats/durable-hidden-tables.md.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "durable/sql_engine.h"
#include "edge/base/callback.h"
#include "edge/base/executor.h"
#include "edge/base/mutex.h"
#include "edge/base/random.h"
#include "edge/base/status.h"
#include "edge/srs/relay.h"

namespace edge::durable::internal {

inline constexpr int kAlarmRetriesMax = 6;

// Thread-safe. Kept by a shared_ptr; owners: the HostCore and the namespaces with alarms.
class AlarmScheduler : public std::enable_shared_from_this<AlarmScheduler> {
 public:
  enum class Outcome {
    kDone,         // the stored alarm is gone, or later: our table says so already
    kFailed,       // the handler failed: a retry that counts
    kUnavailable,  // the handler had no chance: a retry that does not count
  };
  // Wakes the object that owns the database of that name. `retries`: failed tries so far. On
  // the scheduler's loop; answered through Report(), once.
  using Wake = Callback<void(const std::string& name, int retries)>;

  // `loop` runs the timers; `random` spreads the retries. All must outlive Close().
  static StatusOr<std::shared_ptr<AlarmScheduler>> Open(srs::Relay& relay, Loop& loop,
                                                        Random& random, Wake wake);

  Status Set(std::string_view name, int64_t at_ms);
  Status Clear(std::string_view name);
  // Makes the entry agree with a stored alarm that was found.
  Status Sync(std::string_view name, int64_t at_ms);
  void Report(const std::string& name, Outcome outcome);
  // Objects whose names begin with `prefix` can be woken now: tries that waited are made.
  void Retry(std::string prefix);
  // No more wakes.
  void Close();
  // Closes the table; all calls fail from now on.
  void CloseDatabase();

 private:
  struct Running {
    int retries = 0;  // that count
    int backoff = 0;
    Loop::TimerId timer = 0;  // until the next try; 0: under way
  };
  AlarmScheduler(srs::Relay& relay, Loop& loop, Random& random, Wake wake)
      : relay_(relay), loop_(loop), random_(random), wake_(std::move(wake)) {}

  Status Connect() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  Status EnsureConnected() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  Status Write(std::string_view query, std::span<const Cell> args)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  StatusOr<std::vector<std::pair<std::string, int64_t>>> First(size_t count);
  void Kick();  // from any thread: looks at the table anew
  void Look();
  void LookAt(int64_t wall_ms);
  void Try(const std::string& name);

  srs::Relay& relay_;
  Loop& loop_;
  Random& random_;

  // Held during SQL and commits, which never wait for the disk: one thread at a time may use
  // the database.
  Mutex mu_;
  std::unique_ptr<srs::Database> database_ ABSL_GUARDED_BY(mu_);
  std::unique_ptr<SqlEngine> engine_ ABSL_GUARDED_BY(mu_);
  bool database_closed_ ABSL_GUARDED_BY(mu_) = false;
  int64_t looks_at_ms_ ABSL_GUARDED_BY(mu_) = INT64_MAX;  // when the timer will look

  // The loop's.
  Wake wake_;
  std::map<std::string, Running, std::less<>> running_;
  Loop::TimerId timer_ = 0;
  bool closed_ = false;
};

}  // namespace edge::durable::internal
