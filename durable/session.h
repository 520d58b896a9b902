// durable/session.h - one life of an object: from its start to its reset.
//
// The life of a turn: Run() enters the object, user code runs, FinishTurn() commits (or rolls
// back, if a method failed) and hands everything that the code said meanwhile to the output
// gate, under the number of that commit. Code that resumes by itself, outside Run(), finds
// its turn ended by a Defer() on the loop.
//
// Nothing is destroyed under running code: End() only refuses what comes and tells the Actor,
// who destroys the session from a clean stack once the gate is empty.
#pragma once
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "durable/metadata.h"
#include "durable/output_gate.h"
#include "durable/sql_engine.h"
#include "edge/base/callback.h"
#include "edge/base/executor.h"
#include "edge/base/status.h"
#include "edge/base/task.h"
#include "edge/durable/host.h"
#include "edge/durable/object.h"
#include "edge/durable/storage.h"
#include "edge/rpc/hook.h"
#include "edge/rpc/target.h"
#include "edge/srs/relay.h"

namespace edge::durable::internal {

class Actor;

struct AlarmTry {
  int retries = 0;  // tries that failed
  // After the last one: the alarm with this serial is given up.
  std::optional<int64_t> abandons_serial;
};

class Session;

// A stretch of the object's life that shuts out all others. Code inside it runs in its context,
// so that what it awaits is let in. Owners: the session, and calls that wait.
class Section : public rpc::CallContext, public std::enable_shared_from_this<Section> {
 public:
  Section(std::shared_ptr<Session> session, std::shared_ptr<Section> parent)
      : session_(std::move(session)),
        parent_(std::move(parent)),
        depth_(parent_ == nullptr ? 1 : parent_->depth_ + 1) {}
  void BeforeSend(Callback<void(Status)> send) override;
  void BeforeSendInside(Callback<void(Status)> send) override;
  void Resume(Callback<void()> resume) override;

 private:
  friend class Session;
  const std::weak_ptr<Session> session_;
  const std::shared_ptr<Section> parent_;
  const int depth_;
  Callback<Task<void>()> work_;
  std::shared_ptr<OpenTransaction::State> transaction_;  // null: none
  rpc::Resolver done_;
  Loop::TimerId timer_ = 0;
};

// Single-threaded: the object's loop. Owners: the Actor, and calls that wait in its context.
class Session : public rpc::CallContext, public std::enable_shared_from_this<Session> {
 public:
  Session(Actor& actor, std::unique_ptr<srs::Database> database, std::unique_ptr<SqlEngine> engine);
  ~Session() override;

  // Makes the object, in a turn of its own. The session is useless if that fails.
  Status Start();
  // The scheduler learns of an alarm that it may not know of: after a restore, say.
  Status SyncAlarm();
  // Ends a turn that code opened outside Run(), if there is one; the session may end with it.
  void FinishOpenTurn();
  // Runs `work` as a turn of the object. Not while busy().
  void Run(Callback<void()> work, std::shared_ptr<Section> section = nullptr);
  // Within Run: the method, whose answer goes to `done` when it may be seen.
  void Invoke(std::string_view method, rpc::Array args, rpc::Resolver done);
  // Within Run: the alarm's handler, if the stored alarm is due.
  void RunAlarm(const AlarmTry& attempt);
  // Whose code may run now; null: everybody's.
  std::shared_ptr<Section> open_section() const {
    return sections_.empty() ? nullptr : sections_.back();
  }
  // It ended because of a section: calls that waited for that fail too.
  bool fails_queue() const { return fails_queue_; }
  bool busy() const { return running_ || finishing_; }

  // No more turns; calls under way fail with `reason`. Answers at the gate still leave when
  // they are durable, unless `gate_fails`.
  enum class Gate { kDrains, kFails };
  void End(const Status& reason, Gate gate);
  const Status& ended() const { return ended_; }  // OK while it lives
  bool drained() const { return gate_->idle(); }
  // Ends tasks, object and database. From a clean stack, after End().
  void Destroy();

  // rpc::CallContext
  void BeforeSend(Callback<void(Status)> send) override;
  void BeforeSendInside(Callback<void(Status)> send) override;
  void Resume(Callback<void()> resume) override;
  // What is said from now on waits for `dependency` too.
  void DependOn(Dependency& dependency) { gate_->Depend(dependency); }
  // Remembers whether stubs are among the arguments.
  void NoteStubs(const rpc::Array& args) {
    for (const rpc::Value& arg : args) took_stubs_ |= HoldsStubs(arg);
  }
  bool took_stubs() const { return took_stubs_; }
  bool gave_stubs() const { return gave_stubs_; }
  // Nothing is under way, nothing waits, and all is durable: the session can be ended and
  // begun again without anybody noticing.
  bool idle() const;

  rpc::Promise<void> Block(Callback<Task<void>()> work);
  rpc::Promise<void> Transaction(Callback<Task<void>(OpenTransaction)> work);
  bool in_transaction_section() const { return transactions_ > 0; }
  rpc::Promise<void> Sync();

  SqlEngine& engine() { return *engine_; }
  srs::Database& database() { return *database_; }
  Actor& actor() { return actor_; }
  Storage& storage() { return storage_; }
  [[noreturn]] void Abort(std::string_view reason);
  // Commits what the turn has written so far.
  Status CommitNow();

  Status SetAlarm(std::optional<int64_t> at_ms);
  StatusOr<std::optional<int64_t>> GetAlarm();

 private:
  class ContextOf;
  // What becomes of a method's outcome. Runs within a turn, or when the session has ended.
  using Outcome = Callback<void(StatusOr<rpc::Value>)>;
  using Calls = std::list<Outcome>;
  // Something that the code said. An error stands even if the turn is undone.
  struct Said {
    Callback<void(Status)> leave;
    bool is_error;
    bool stays_inside = false;  // to another object of this host
  };
  static bool HoldsStubs(const rpc::Value& value);
  void LeaveInside(std::vector<Said> said);

  void Follow(rpc::Answer answer, Outcome done);
  Task<void> RunTask(Task<StatusOr<rpc::Value>> task, Calls::iterator call);
  void EndAlarm(int retries, const Status& outcome);
  void AbandonAlarm(const StoredAlarm& stored, int64_t serial);
  void ReportAlarm(const Status& outcome);
  Status ClearAlarmIfUnchanged();
  Status TellAlarmBefore();
  void TellAlarmAfter();
  // `started_ns`: when the method began, if that is measured.
  void Reply(rpc::Resolver done, StatusOr<rpc::Value> outcome, int64_t started_ns);
  int64_t MetricsNow();
  void TellMetrics();
  rpc::Promise<void> Enter(std::shared_ptr<Section> section);
  void StartSection(const std::shared_ptr<Section>& section);
  Task<void> RunSection(std::shared_ptr<Section> section);
  void EndSection(const std::shared_ptr<Section>& section, Status status);
  Status BeginTransaction(Section& section);
  Status EndTransactionOf(Section& section, Status status);
  void WatchUnconfirmed();
  void EnsureTurnEnds();
  void FinishTurn();
  Status EndTransaction(bool undo);

  Actor& actor_;
  std::unique_ptr<srs::Database> database_;
  std::unique_ptr<SqlEngine> engine_;
  Storage storage_;
  std::shared_ptr<OutputGate> gate_;
  std::unique_ptr<Context> context_;
  std::unique_ptr<Object> object_;
  void* target_ = nullptr;

  bool running_ = false;      // user code is on the stack, entered through Run()
  bool finishing_ = false;    // what was said is on its way to the gate
  bool turn_open_ = false;    // a turn outside Run() is open
  bool turn_failed_ = false;  // a method of this turn answered with an error
  std::vector<std::shared_ptr<Section>> sections_;  // the innermost last
  std::shared_ptr<Section> current_section_;        // of the code that runs
  int transactions_ = 0;  // sections that are transactions; turns commit nothing meanwhile
  bool fails_queue_ = false;
  bool took_stubs_ = false;
  bool gave_stubs_ = false;
  srs::Lsn gate_lsn_ = 0;  // the newest commit that must be durable before we speak
  bool watches_unconfirmed_ = false;
  std::vector<rpc::Resolver> syncs_;  // of this turn
  Status abort_;                      // set by Abort()
  Status ended_;
  std::vector<Said> said_;  // in this turn, in order
  Calls calls_;             // of methods whose answer is not yet known
  // The alarm whose handler runs, as it was when it started.
  std::optional<StoredAlarm> alarm_running_;
  bool alarm_written_ = false;           // in this turn's transaction
  std::optional<int64_t> alarm_before_;  // what was committed before that
  std::optional<int64_t> alarm_after_;   // what this turn's commit makes of it
  std::unique_ptr<TaskGroup> tasks_;
};

}  // namespace edge::durable::internal
