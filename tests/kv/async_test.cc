// Calls that do not wait, calls that give up, and fetches in the background.
#include <thread>

#include "edge/base/executor.h"
#include "tests/kv/support.h"

using namespace edge;      // NOLINT
using namespace edge::kv;  // NOLINT

namespace {

using Got = std::optional<StatusOr<std::optional<ValueWithMetadata>>>;

// Answers when the test says so.
class LateOrigin final : public AsyncOrigin {
 public:
  void StartGetMany(std::vector<std::string> keys, GetManyDone done) override {
    MutexLock lock(&mutex);
    ++reads;
    waiting.push_back([this, keys = std::move(keys), done = std::move(done)]() mutable {
      const std::vector<std::string_view> views(keys.begin(), keys.end());
      done(behind.GetMany(views));
    });
  }
  void StartPut(std::string key, Entry entry, WriteDone done) override {
    MutexLock lock(&mutex);
    waiting.push_back(
        [this, key = std::move(key), entry = std::move(entry), done = std::move(done)]() mutable {
          done(behind.Put(key, {entry.value, entry.metadata, entry.expiration_s, entry.version}));
        });
  }
  void StartDelete(std::string key, Version version, WriteDone done) override {
    MutexLock lock(&mutex);
    waiting.push_back([this, key = std::move(key), version, done = std::move(done)]() mutable {
      done(behind.Delete(key, version));
    });
  }
  void StartList(OriginListQuery query, ListDone done) override { done(behind.List(query)); }

  // Lets all that waits be answered; returns how many.
  size_t Answer() {
    std::vector<Callback<void()>> now;
    {
      MutexLock lock(&mutex);
      now.swap(waiting);
    }
    for (auto& answer : now) answer();
    return now.size();
  }

  MemoryOrigin behind;
  Mutex mutex;
  std::vector<Callback<void()>> waiting ABSL_GUARDED_BY(mutex);
  std::atomic<int> reads{0};
};

struct LateWorld {
  explicit LateWorld(Options options = {}) {
    options.clock = &clock;
    kv.emplace(Namespace::Open(origin, options).value());
  }
  // An origin owes every question an answer: what waits for one holds the store and the origin.
  ~LateWorld() {
    while (origin->Answer() > 0) {
    }
  }
  void Read(const std::string& key, Got* got, const GetOptions& options = {}) {
    kv->GetAsync(key, options, [got](auto answer) { *got = std::move(answer); });
  }
  FakeClock clock;
  std::shared_ptr<LateOrigin> origin = std::make_shared<LateOrigin>();
  std::optional<Namespace> kv;
};

}  // namespace

TEST_CASE("an asynchronous miss is answered when the origin answers, a hit at once",
          "[kv][async]") {
  LateWorld world;
  REQUIRE(world.origin->behind.Put("a", {.value = "one", .metadata = "{}"}).ok());
  Got first;
  Got second;
  world.Read("a", &first);
  world.Read("a", &second);
  REQUIRE(!first);
  REQUIRE(world.origin->reads == 1);
  REQUIRE(world.origin->Answer() == 1);
  REQUIRE(first);
  REQUIRE((**first)->value == "one");
  REQUIRE((**first)->metadata == "{}");
  REQUIRE((**first)->source == Source::kOrigin);
  REQUIRE((**second)->value == "one");
  Got hot;
  world.Read("a", &hot);
  REQUIRE(hot);
  REQUIRE((**hot)->source == Source::kHot);
  Got absent;
  world.Read("none", &absent);
  world.origin->Answer();
  REQUIRE(!**absent);
  Got bad;
  world.Read("", &bad);
  REQUIRE(TextOf(bad->status()) == "Key name cannot be empty.");
}

TEST_CASE("ten thousand callers that miss one key ask the origin once", "[kv][async]") {
  LateWorld world;
  REQUIRE(world.origin->behind.Put("a", {.value = "one"}).ok());
  std::vector<Got> got(10'000);
  for (Got& one : got) world.Read("a", &one);
  REQUIRE(world.origin->reads == 1);
  world.origin->Answer();
  for (const Got& one : got) REQUIRE((**one)->value == "one");
  REQUIRE(world.kv->stats().origin_reads == 1);
}

TEST_CASE("asynchronous writes of one key take turns and are read back", "[kv][async]") {
  LateWorld world;
  std::vector<int> order;
  for (int i = 0; i < 3; ++i) {
    world.kv->PutAsync("a", std::to_string(i), {}, [&order, i](Status status) {
      REQUIRE(status.ok());
      order.push_back(i);
    });
  }
  bool deleted = false;
  world.kv->DeleteAsync("b", [&](Status status) { deleted = status.ok(); });
  REQUIRE(world.origin->Answer() == 2);  // the first put, and the delete of another key
  REQUIRE(deleted);
  while (world.origin->Answer() > 0) {
  }
  REQUIRE(order == std::vector<int>{0, 1, 2});
  REQUIRE(world.kv->Get("a").value() == "2");
  Status refused;
  world.kv->PutAsync("..", "x", {}, [&](Status status) { refused = std::move(status); });
  REQUIRE(TextOf(refused) == "\"..\" is not allowed as a key name.");
}

TEST_CASE("a read that is cancelled ends at once, and its fetch is kept for others",
          "[kv][async]") {
  LateWorld world;
  REQUIRE(world.origin->behind.Put("a", {.value = "one"}).ok());
  Cancellation cancellation;
  Got got;
  world.Read("a", &got, {.cancellation = &cancellation});
  cancellation.Cancel();
  cancellation.Cancel();
  REQUIRE(got);
  REQUIRE(got->status().code() == StatusCode::kCancelled);
  Got late;
  world.Read("b", &late, {.cancellation = &cancellation});
  REQUIRE(late->status().code() == StatusCode::kCancelled);
  world.origin->Answer();
  REQUIRE(world.kv->Get("a").value() == "one");  // hot now
}

TEST_CASE("a blocking read gives up at its deadline or when it is cancelled",
          "[kv][async][threads]") {
  LateWorld world;
  REQUIRE(world.kv->Get("a", {.timeout_ms = 1}).status().code() == StatusCode::kDeadlineExceeded);
  Cancellation cancellation;
  std::thread reader([&] {
    const auto got = world.kv->Get("a", {.cancellation = &cancellation});
    if (got.status().code() != StatusCode::kCancelled) std::abort();
  });
  while (world.kv->stats().misses < 2) std::this_thread::yield();
  cancellation.Cancel();
  reader.join();
  REQUIRE(world.origin->reads == 1);
}

TEST_CASE("deadlines of asynchronous reads are kept by the loop of the options", "[kv][async]") {
  LateWorld without;
  Got refused;
  without.Read("a", &refused, {.timeout_ms = 5});
  REQUIRE(refused->status().code() == StatusCode::kInvalidArgument);

  const auto executor = Executor::Create({.threads = 1}).value();
  LateWorld world({.loop = &executor->loop(0)});
  Mutex mutex;
  CondVar changed;
  Status ended;
  bool done = false;
  world.kv->GetAsync("a", {.timeout_ms = 1}, [&](auto answer) {
    MutexLock lock(&mutex);
    ended = answer.status();
    done = true;
    changed.SignalAll();
  });
  MutexLock lock(&mutex);
  while (!done) changed.Wait(&mutex);
  REQUIRE(ended.code() == StatusCode::kDeadlineExceeded);
}

TEST_CASE("a blocking call on a loop is refused by an origin that answers later", "[kv][async]") {
  const auto executor = Executor::Create({.threads = 1}).value();
  LateWorld world;
  const auto status = RunOn(executor->loop(0), [&] { return world.kv->Get("a").status(); });
  REQUIRE(status.code() == StatusCode::kFailedPrecondition);
}

TEST_CASE("a stale entry is served to everybody while one fetch runs behind", "[kv][async]") {
  LateWorld world({.fresh_for_s = 60, .stale_for_s = 60});
  REQUIRE(world.origin->behind.Put("a", {.value = "one"}).ok());
  Got got;
  world.Read("a", &got);
  world.origin->Answer();
  REQUIRE(world.origin->behind.Put("a", {.value = "two"}).ok());
  world.clock.Advance(61'000);
  for (int i = 0; i < 3; ++i) {
    world.Read("a", &got);
    REQUIRE((**got)->value == "one");
    REQUIRE((**got)->stale);
    REQUIRE((**got)->age_s == 61);
    REQUIRE(world.kv->GetWithMetadata("a").value()->stale);
  }
  REQUIRE(world.origin->reads == 2);
  world.origin->Answer();
  world.Read("a", &got);
  REQUIRE((**got)->value == "two");
  REQUIRE(!(**got)->stale);
  world.clock.Advance(121'000);  // beyond both: now everybody waits
  got.reset();
  world.Read("a", &got);
  REQUIRE(!got);
  world.origin->Answer();
  REQUIRE((**got)->value == "two");
}

TEST_CASE("a key that is read is fetched again before it stops being fresh", "[kv][async]") {
  LateWorld world({.fresh_for_s = 60, .refresh_ahead_s = 10});
  REQUIRE(world.origin->behind.Put("a", {.value = "one"}).ok());
  Got got;
  world.Read("a", &got);
  world.origin->Answer();
  for (int round = 0; round < 5; ++round) {
    world.clock.Advance(40'000);
    REQUIRE(world.kv->Get("a").value() == "one");
    REQUIRE(world.origin->reads == 1 + round);  // too early
    world.clock.Advance(15'000);
    REQUIRE(world.kv->Get("a").value() == "one");
    REQUIRE(world.kv->Get("a").value() == "one");
    REQUIRE(world.origin->reads == 2 + round);  // once, however many read it
    REQUIRE(world.origin->Answer() == 1);
  }
  REQUIRE(world.kv->stats().misses == 1);
  REQUIRE(world.kv->stats().refreshes == 5);
  REQUIRE(Namespace::Open(world.origin, {.fresh_for_s = 5, .refresh_ahead_s = 5}).status().code() ==
          StatusCode::kInvalidArgument);
}

TEST_CASE("a failing refresh backs off, and nothing stale outlives its expiration", "[kv][async]") {
  FakeClock clock;
  const auto executor = Executor::Create({.threads = 1}).value();
  const auto origin = std::make_shared<ProbeOrigin>();
  auto kv = Namespace::Open(origin, {.fresh_for_s = 60,
                                     .stale_for_s = 10'000,
                                     .stale_if_error_s = 10'000,
                                     .clock = &clock,
                                     .loop = &executor->loop(0)})
                .value();
  REQUIRE(origin->behind.Put("a", {.value = "one", .expiration_s = 1000 + 500}).ok());
  REQUIRE(kv.Get("a").value() == "one");
  origin->SetFailure(Unavailable("down"));
  clock.Advance(61'000);
  for (int s = 0; s < 100; ++s) {
    REQUIRE(kv.Get("a").value() == "one");
    RunOn(executor->loop(0), [] {});  // what was posted has run
    clock.Advance(1000);
  }
  REQUIRE(origin->gets > 2);
  REQUIRE(origin->gets < 12);  // 1 s, doubling up to 64 s
  clock.Advance(340'000);
  REQUIRE(kv.Get("a").status().code() == StatusCode::kUnavailable);
  origin->SetFailure(OkStatus());
  REQUIRE(!kv.Get("a").value());
}
