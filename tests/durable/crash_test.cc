// Real processes, a real disk, kill -9: what was confirmed is there afterwards.
#include <csignal>
#include <cstdlib>
#include <random>
#include <string>

#include <sys/wait.h>
#include <unistd.h>

#include "edge/durable/host.h"
#include "tests/base/temp_directory.h"

using namespace edge;  // NOLINT

namespace {

class Ledger : public durable::Object {
 public:
  explicit Ledger(durable::Context& ctx) : Object(ctx) {
    sql().Exec("CREATE TABLE IF NOT EXISTS entries (n INTEGER PRIMARY KEY, half INTEGER)");
  }
  // Two rows, of one turn: after a crash both are there or neither.
  int64_t Append() {
    const int64_t n = Size() + 1;
    sql().Exec("INSERT INTO entries VALUES (?, 1)", 2 * n - 1);
    sql().Exec("INSERT INTO entries VALUES (?, 2)", 2 * n);
    return n;
  }
  int64_t Size() {
    auto [rows] = sql().Exec<int64_t>("SELECT count(*) FROM entries").One();
    if (rows % 2 != 0) internal_error_ = true;
    return rows / 2;
  }
  bool Whole() {
    Size();
    return !internal_error_ && sql().Exec<std::string>("PRAGMA quick_check").Value() == "ok";
  }
  using Rpc = rpc::Methods<&Ledger::Append, &Ledger::Size, &Ledger::Whole>;

 private:
  bool internal_error_ = false;
};

struct Process {
  explicit Process(const std::string& directory)
      : executor(Executor::Create({.threads = 2}).value()),
        relay(srs::Relay::Open({.directory = directory}).value()),
        host(durable::Host::Create(*executor, *relay).value()),
        ledgers(host->AddNamespace<Ledger>("LEDGERS").value()) {}
  std::unique_ptr<Executor> executor;
  std::unique_ptr<srs::Relay> relay;
  std::unique_ptr<durable::Host> host;
  durable::Namespace<Ledger> ledgers;
};

constexpr int kLedgers = 3;

// Appends to all ledgers, four calls under way on each, and tells every answer on `pipe`.
[[noreturn]] void AppendForEver(const std::string& directory, int pipe) {
  Process process(directory);
  for (;;) {
    std::vector<rpc::Promise<int64_t>> answers;
    for (int call = 0; call < 4 * kLedgers; ++call) {
      answers.push_back(
          process.ledgers.Get(std::to_string(call % kLedgers)).Call<&Ledger::Append>());
    }
    for (size_t call = 0; call < answers.size(); ++call) {
      const StatusOr<int64_t> n = answers[call].Wait();
      if (!n.ok()) _exit(3);
      const int64_t message[2] = {static_cast<int64_t>(call % kLedgers), *n};
      if (write(pipe, message, sizeof message) != sizeof message) _exit(4);
    }
  }
}

}  // namespace

TEST_CASE("after kill -9 every confirmed turn is there, and each turn is whole",
          "[durable][crash]") {
  const TempDirectory folder;
  const std::string& directory = folder.path();
  std::mt19937 rng(7);
  std::vector<int64_t> confirmed(kLedgers);
  for (int round = 0; round < 4; ++round) {
    CAPTURE(round);
    int ends[2];
    REQUIRE(pipe(ends) == 0);
    const pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      close(ends[0]);
      AppendForEver(directory, ends[1]);
    }
    close(ends[1]);
    int64_t message[2];
    for (size_t left = 20 + rng() % 60; left > 0; --left) {
      REQUIRE(read(ends[0], message, sizeof message) == sizeof message);
      confirmed[static_cast<size_t>(message[0])] = message[1];
    }
    REQUIRE(kill(child, SIGKILL) == 0);
    while (read(ends[0], message, sizeof message) == sizeof message) {
      confirmed[static_cast<size_t>(message[0])] = message[1];  // told before the kill
    }
    close(ends[0]);
    int status = 0;
    REQUIRE(waitpid(child, &status, 0) == child);
    REQUIRE(WIFSIGNALED(status));

    Process process(directory);
    for (size_t ledger = 0; ledger < kLedgers; ++ledger) {
      CAPTURE(ledger);
      auto stub = process.ledgers.Get(std::to_string(ledger));
      const int64_t size = stub.Call<&Ledger::Size>().Wait().value();
      REQUIRE(size >= confirmed[ledger]);      // nothing confirmed is lost
      REQUIRE(size <= confirmed[ledger] + 4);  // and no more than was under way is there
      REQUIRE(stub.Call<&Ledger::Whole>().Wait().value());
      confirmed[ledger] = size;
    }
  }
}
