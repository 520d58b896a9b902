// A queue of jobs that an alarm works off: each runs at its time, again if it fails, and none is
// lost when the process ends.
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <string>
#include <thread>

#include "edge/base/errors.h"
#include "edge/durable/host.h"

namespace {

class JobQueue : public edge::durable::Object {
 public:
  explicit JobQueue(edge::durable::Context& ctx) : Object(ctx) {
    sql().Exec(
        "CREATE TABLE IF NOT EXISTS jobs (id INTEGER PRIMARY KEY, what TEXT, run_at INTEGER, "
        "tries INTEGER DEFAULT 0, done INTEGER DEFAULT 0)");
  }
  void Add(std::string_view what, int64_t delay_ms) {
    const int64_t at = now_ms() + delay_ms;
    sql().Exec("INSERT INTO jobs (what, run_at) VALUES (?, ?)", what, at);
    const auto alarm = storage().GetAlarm();
    if (!alarm || at < *alarm) storage().SetAlarm(at);
  }

  // At least once: a job and its mark are committed together, or the alarm comes again.
  void Alarm(const edge::durable::AlarmInfo& info) {
    for (auto& [id, what] :
         sql()
             .Exec<int64_t, std::string>("SELECT id, what FROM jobs WHERE NOT done AND run_at <= ?",
                                         now_ms())
             .ToArray()) {
      if (what == "flaky" && info.retry_count == 0) throw edge::Unavailable("try again");
      sql().Exec("UPDATE jobs SET done = 1, tries = ? WHERE id = ?", info.retry_count + 1, id);
    }
    const auto next =
        sql().Exec<std::optional<int64_t>>("SELECT min(run_at) FROM jobs WHERE NOT done").Value();
    if (next) storage().SetAlarm(*next);
  }

  int64_t Left() { return sql().Exec<int64_t>("SELECT count(*) FROM jobs WHERE NOT done").Value(); }
  int64_t Tries(std::string_view what) {
    return sql().Exec<int64_t>("SELECT tries FROM jobs WHERE what = ?", what).Value();
  }
  using Rpc = edge::rpc::Methods<&JobQueue::Add, &JobQueue::Left, &JobQueue::Tries>;

 private:
  int64_t now_ms() { return ctx().loop().clock().wall_ms(); }
};

edge::StatusOr<int64_t> Run(const std::string& directory) {
  EDGE_ASSIGN_OR_RETURN(auto executor, edge::Executor::Create({.threads = 1}));
  {
    EDGE_ASSIGN_OR_RETURN(auto relay, edge::srs::Relay::Open({.directory = directory}));
    EDGE_ASSIGN_OR_RETURN(auto host, edge::durable::Host::Create(*executor, *relay));
    EDGE_ASSIGN_OR_RETURN(auto queues, host->AddNamespace<JobQueue>("JOBS"));
    auto queue = queues.Get("mail");
    EDGE_RETURN_IF_ERROR(queue.Call<&JobQueue::Add>("welcome", 0).Wait());
    EDGE_RETURN_IF_ERROR(queue.Call<&JobQueue::Add>("flaky", 50).Wait());
  }  // the process ends with a job outstanding
  EDGE_ASSIGN_OR_RETURN(auto relay, edge::srs::Relay::Open({.directory = directory}));
  EDGE_ASSIGN_OR_RETURN(auto host, edge::durable::Host::Create(*executor, *relay));
  EDGE_ASSIGN_OR_RETURN(auto queues, host->AddNamespace<JobQueue>("JOBS"));
  auto queue = queues.Get("mail");
  for (;;) {
    EDGE_ASSIGN_OR_RETURN(const int64_t left, queue.Call<&JobQueue::Left>().Wait());
    if (left == 0) break;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  return queue.Call<&JobQueue::Tries>("flaky").Wait();
}

}  // namespace

int main() {
  std::string directory = std::filesystem::temp_directory_path() / "edge-jobs-XXXXXX";
  if (mkdtemp(directory.data()) == nullptr) return 1;
  const auto tries = Run(directory);
  std::filesystem::remove_all(directory);
  if (!tries.ok()) {
    std::fprintf(stderr, "%s\n", tries.status().ToString().c_str());
    return 1;
  }
  std::printf("all jobs done; the flaky one, set before the restart, took %lld tries\n",
              static_cast<long long>(*tries));
  return *tries == 2 ? 0 : 1;
}
