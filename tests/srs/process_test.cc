// Real processes on this machine: five followers and a host, killed and cut off at random;
// after each round whatever was confirmed must be there. Rounds: EDGE_SRS_ROUNDS, default 4.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <memory>
#include <random>
#include <set>

#include "edge/srs/object_store.h"
#include "edge/srs/relay.h"
#include "tests/srs/srs_test_util.h"

#ifdef EDGE_FOLLOWER_PATH
namespace edge::srs {
namespace {

// One edge-follower; its port stays the same over restarts.
class FollowerProcess {
 public:
  FollowerProcess(std::string directory, std::string secret_file)
      : directory_(std::move(directory)), secret_file_(std::move(secret_file)) {
    Start();
  }
  ~FollowerProcess() { Kill(); }
  FollowerProcess(const FollowerProcess&) = delete;

  void Start() {
    int out[2];
    REQUIRE(pipe(out) == 0);
    pid_ = fork();
    REQUIRE(pid_ >= 0);
    if (pid_ == 0) {
      dup2(out[1], 1);
      for (int fd = 3; fd < 256; ++fd) close(fd);
      execl(EDGE_FOLLOWER_PATH, "edge-follower", "--directory", directory_.c_str(), "--listen",
            address_.c_str(), "--secret-file", secret_file_.c_str(), nullptr);
      _exit(127);
    }
    close(out[1]);
    std::string line;
    char c = 0;
    while (read(out[0], &c, 1) == 1 && c != '\n') line += c;
    close(out[0]);
    const size_t at = line.rfind(' ');
    INFO(line);
    REQUIRE(at != std::string::npos);
    address_ = line.substr(at + 1);
  }
  void Kill() {
    if (pid_ <= 0) return;
    kill(pid_, SIGCONT);
    kill(pid_, SIGKILL);
    int how = 0;
    waitpid(std::exchange(pid_, 0), &how, 0);
  }
  // Nothing comes from it and it takes nothing: as good as a cut cable.
  void Pause() { kill(pid_, SIGSTOP); }
  void Resume() { kill(pid_, SIGCONT); }
  bool is_running() const { return pid_ > 0; }
  const std::string& address() const { return address_; }

 private:
  const std::string directory_;
  const std::string secret_file_;
  std::string address_ = "127.0.0.1:0";
  pid_t pid_ = 0;
};

RelayOptions HostOptions(const std::string& directory, const TempFolder& folder,
                         const std::vector<std::string>& followers) {
  RelayOptions options{.directory = directory,
                       .store = FolderStore(folder / "store"),
                       .batch_interval_ms = 50,
                       .journal_file_bytes = 1 << 20};
  options.replication.followers = followers;
  options.replication.secret = "a secret of the process test";
  options.replication.takeover_timeout_ms = 20'000;
  options.replication.beat_interval_ms = 50;
  return options;
}

// Commits values until it is killed; each that is confirmed goes into the pipe.
[[noreturn]] void HostProcess(const RelayOptions& options, int64_t first, int ledger) {
  auto relay = Relay::Open(options);
  if (!relay.ok()) {
    fprintf(stderr, "host: %s\n", relay.status().ToString().c_str());
    _exit(3);
  }
  auto db = (*relay)->OpenDatabase("ledger");
  if (!db.ok()) {
    fprintf(stderr, "host: %s\n", db.status().ToString().c_str());
    _exit(4);
  }
  if (Run((*db)->handle(), "CREATE TABLE IF NOT EXISTS t(v INTEGER PRIMARY KEY)") != SQLITE_OK) {
    _exit(5);
  }
  for (int64_t value = first;; ++value) {
    if (Run((*db)->handle(), "INSERT INTO t VALUES(" + std::to_string(value) + ")") != SQLITE_OK) {
      _exit(6);
    }
    (*db)->OnDurable((*db)->lsn(), Durability::kQuorum, [value, ledger](const Status& status) {
      if (status.ok() && write(ledger, &value, sizeof value) != sizeof value) _exit(7);
    });
    if (value % 64 == 0) (*db)->WaitDurable().IgnoreError();
  }
}

TEST_CASE("what real followers have confirmed survives kill -9 and cuts", "[srs][crash][process]") {
  const char* asked = std::getenv("EDGE_SRS_ROUNDS");
  const int rounds = asked != nullptr ? std::atoi(asked) : 4;
  const char* seed = std::getenv("EDGE_SRS_SEED");
  std::mt19937 rng(seed != nullptr ? static_cast<unsigned>(std::atoi(seed)) : 1u);
  TempFolder folder;
  const std::string secret_file = folder / "secret";
  REQUIRE(WriteFileAtomic(PosixFileSystem(), secret_file, AsBytes("a secret of the process test\n"))
              .ok());
  std::array<std::unique_ptr<FollowerProcess>, 5> followers;
  std::vector<std::string> addresses;
  for (size_t i = 0; i < followers.size(); ++i) {
    followers[i] =
        std::make_unique<FollowerProcess>(folder / ("follower" + std::to_string(i)), secret_file);
    addresses.push_back(followers[i]->address());
  }
  std::set<int64_t> confirmed;
  int64_t next = 1;
  for (int round = 0; round < rounds; ++round) {
    CAPTURE(round, confirmed.size());
    // A new machine takes over every third time; else the same one comes back.
    const std::string directory = folder / ("host" + std::to_string(round / 3));
    int ledger[2];
    REQUIRE(pipe(ledger) == 0);
    const pid_t host = fork();
    REQUIRE(host >= 0);
    if (host == 0) {
      close(ledger[0]);
      HostProcess(HostOptions(directory, folder, addresses), next, ledger[1]);
    }
    close(ledger[1]);
    // By how much was confirmed, not by time: two followers die or stop on the way.
    const size_t end_after = 200 + rng() % 800;
    const size_t trouble_after = rng() % end_after;
    const size_t first = rng() % 5;
    const size_t second = (first + 1 + rng() % 4) % 5;
    const bool cut = rng() % 2 != 0;
    size_t seen = 0;
    bool in_trouble = false;
    int64_t value = 0;
    while (seen < end_after && read(ledger[0], &value, sizeof value) == sizeof value) {
      confirmed.insert(value);
      next = std::max(next, value + 1);
      if (++seen >= trouble_after && !in_trouble) {
        in_trouble = true;
        followers[first]->Kill();
        cut ? followers[second]->Pause() : followers[second]->Kill();
      }
    }
    CHECK(seen == end_after);
    if (rng() % 2 != 0)
      followers[(second + 1) % 5 == first ? (second + 2) % 5 : (second + 1) % 5]->Kill();
    kill(host, SIGKILL);
    while (read(ledger[0], &value, sizeof value) == sizeof value) {
      confirmed.insert(value);
      next = std::max(next, value + 1);
    }
    close(ledger[0]);
    int how = 0;
    waitpid(host, &how, 0);
    REQUIRE(WIFSIGNALED(how));
    next += 100'000;  // values of commits that nobody confirmed may be there: never reused
    for (auto& follower : followers) {
      if (follower->is_running()) {
        follower->Resume();
      } else {
        follower->Start();
      }
    }
    auto relay = Relay::Open(HostOptions(folder / "checker", folder, addresses));
    INFO(relay.status().ToString());
    REQUIRE(relay.ok());
    auto db = (*relay)->OpenDatabase("ledger");
    INFO(db.status().ToString());
    REQUIRE(db.ok());
    std::set<int64_t> found;
    sqlite3_stmt* statement = nullptr;
    REQUIRE(sqlite3_prepare_v2((*db)->handle(), "SELECT v FROM t", -1, &statement, nullptr) ==
            SQLITE_OK);
    while (sqlite3_step(statement) == SQLITE_ROW) found.insert(sqlite3_column_int64(statement, 0));
    sqlite3_finalize(statement);
    REQUIRE(std::ranges::includes(found, confirmed));
    CHECK(Ask((*db)->handle(), "PRAGMA integrity_check") == "ok");
    confirmed = found;
  }
}

}  // namespace
}  // namespace edge::srs
#endif  // EDGE_FOLLOWER_PATH
