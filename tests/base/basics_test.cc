// The small headers: check.h, clock.h, mutex.h, status.h.
#include <sys/wait.h>
#include <unistd.h>

#include <thread>

#include "edge/base/check.h"
#include "edge/base/clock.h"
#include "edge/base/errors.h"
#include "edge/base/mutex.h"
#include "edge/base/status.h"

using namespace edge;  // NOLINT

namespace {

struct Broken {};

}  // namespace

TEST_CASE("a failed check tells the hook what and where", "[base]") {
  static std::string said;
  SetCheckFailureHook([](const char* expression, const char* file, int line) {
    said = std::string(expression) + "|" + file + "|" + std::to_string(line);
    throw Broken();  // a test's way out; a real hook returns and the process aborts
  });
  const int two = 2;
  REQUIRE_THROWS_AS(EDGE_CHECK(1 + 1 == two + 1), Broken);
  SetCheckFailureHook(nullptr);
  REQUIRE(said.find("1 + 1 == two + 1|") == 0);
  REQUIRE(said.find("basics_test.cc|") != std::string::npos);
  EDGE_CHECK(two == 2);
  EDGE_DCHECK(two == 2);
}

TEST_CASE("the clocks go forward and know the century", "[base]") {
  int64_t last_ns = SystemClock().monotonic_ns();
  for (int i = 0; i < 1000; ++i) {
    const int64_t now_ns = SystemClock().monotonic_ns();
    REQUIRE(now_ns >= last_ns);
    last_ns = now_ns;
  }
  REQUIRE(SystemClock().wall_ms() > 1'600'000'000'000);
  REQUIRE(SystemClock().wall_ms() < 4'102'444'800'000);
}

TEST_CASE("a mutex keeps threads apart and a condition wakes them", "[base]") {
  struct {
    Mutex mu;
    int turn ABSL_GUARDED_BY(mu) = 0;
  } shared;
  CondVar changed;
  std::vector<std::thread> threads;
  for (int me = 0; me < 3; ++me) {
    threads.emplace_back([&, me] {
      for (int round = 0; round < 100; ++round) {
        const MutexLock lock(&shared.mu);
        while (shared.turn % 3 != me) changed.Wait(&shared.mu);
        ++shared.turn;
        changed.SignalAll();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  const MutexLock lock(&shared.mu);
  REQUIRE(shared.turn == 300);
  REQUIRE_FALSE(changed.WaitForMs(&shared.mu, 1));
}

TEST_CASE("TryLock fails while another thread holds the mutex", "[base]") {
  Mutex mu;
  mu.Lock();
  bool taken = true;
  std::thread([&] {
    if (mu.TryLock()) {
      mu.Unlock();
    } else {
      taken = false;
    }
  }).join();
  mu.Unlock();
  REQUIRE_FALSE(taken);
}

TEST_CASE("an error may be thrown, caught and read", "[base]") {
  try {
    throw NotFound("No such seat: {}", "1A");
  } catch (const std::exception& error) {
    REQUIRE(std::string(error.what()) == "No such seat: 1A");
  }
  REQUIRE(std::string(Error(Status()).what()).empty());
  REQUIRE(Annotate(OkStatus(), "ignored").ok());
}

TEST_CASE("every kind of argument is formatted", "[base]") {
  const std::string owned = "owned";
  const char* const plain = "plain";
  REQUIRE(Format("{} {} {} {} {} {} {:.2f} {:x}",
                 {owned, plain, std::string_view("view"), true, 'c', -1, 2.5, 255u}) ==
          "owned plain view true c -1 2.50 ff");
  REQUIRE(Format("{}", {StatusCode::kNotFound}) == "5");
}
