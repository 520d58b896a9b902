#include "edge/rpc/stream.h"

#include <catch2/catch.hpp>
#include <deque>
#include <random>

#include "edge/base/errors.h"
#include "src/rpc/flow_window.h"
#include "tests/rpc/joined.h"

namespace edge::rpc {
namespace {

Bytes Filled(size_t size, int with) {
  return Bytes(size, static_cast<std::byte>(with));
}

template <typename T>
std::optional<Result<T>> Now(Promise<T> promise) {
  std::optional<Result<T>> result;
  promise.Then([&result](Result<T> outcome) { result = std::move(outcome); });
  return result;
}
template <typename T>
std::shared_ptr<std::optional<Result<T>>> Later(Promise<T> promise) {
  auto result = std::make_shared<std::optional<Result<T>>>();
  promise.Then([result](Result<T> outcome) { *result = std::move(outcome); });
  return result;
}

// ---- pipes

TEST_CASE("a pipe gives what was written, in order, and then the end", "[rpc]") {
  const auto [readable, writable] = MakePipe<int>();
  for (int i = 0; i < 3; ++i) CHECK(Now(writable.Write(i))->ok());
  const auto closed = Later(writable.Close());
  CHECK_FALSE(*closed);  // the reader has not seen the end
  for (int i = 0; i < 3; ++i) CHECK(*Now(readable.Read())->value() == i);
  CHECK_FALSE(*Now(readable.Read())->value());
  CHECK((*closed)->ok());
  CHECK_FALSE(*Now(readable.Read())->value());  // and again
  CHECK(Now(writable.Write(4))->code() == StatusCode::kFailedPrecondition);
}

TEST_CASE("a read waits for a chunk, a write for room", "[rpc]") {
  const auto [readable, writable] = MakePipe<Bytes>({.bytes_max = 1000});
  const auto read = Later(readable.Read());
  CHECK_FALSE(*read);
  CHECK(Now(writable.Write(Filled(400, 1)))->ok());
  CHECK((*read)->value()->size() == 400);
  CHECK(Now(writable.Write(Filled(800, 2)))->ok());
  const auto full = Later(writable.Write(Filled(800, 3)));
  CHECK_FALSE(*full);
  CHECK(Now(readable.Read())->value()->size() == 800);
  CHECK((*full)->ok());
}

TEST_CASE("both ends hear how a pipe broke", "[rpc]") {
  {
    const auto [readable, writable] = MakePipe<int>({.bytes_max = 0});
    const auto write = Later(writable.Write(1));
    readable.Cancel(PermissionDenied("enough"));
    CHECK((*write)->code() == StatusCode::kPermissionDenied);
    CHECK(Now(writable.Write(2))->code() == StatusCode::kPermissionDenied);
    CHECK(Now(writable.Close())->code() == StatusCode::kPermissionDenied);
  }
  {
    const auto [readable, writable] = MakePipe<int>();
    CHECK(Now(writable.Write(1))->ok());
    writable.Abort(DataLoss("torn"));
    CHECK(*Now(readable.Read())->value() == 1);  // what had arrived is read first
    CHECK(Now(readable.Read())->status() == Status(DataLoss("torn")));
  }
  {
    auto [readable, writable] = MakePipe<int>();
    const auto read = Later(readable.Read());
    writable = {};
    CHECK((*read)->status().code() == StatusCode::kCancelled);
    readable = {};
  }
  CHECK(Now(ReadableStream<int>().Read())->status().code() == StatusCode::kFailedPrecondition);
  CHECK(Now(WritableStream<int>().Write(1))->code() == StatusCode::kFailedPrecondition);
}

TEST_CASE("a chunk of another type is an invalid argument", "[rpc]") {
  const auto [readable, writable] = MakePipe<Value>();
  CHECK(Now(writable.Write("text"))->ok());
  const ReadableStream<int> numbers(readable.hook());
  CHECK(Now(numbers.Read())->status().code() == StatusCode::kInvalidArgument);
}

TEST_CASE("a generator runs once per read, and no more after the end", "[rpc]") {
  int runs = 0;
  const auto stream = Generate<int>([&runs] {
    ++runs;
    return runs < 3 ? std::optional<int>(runs) : std::nullopt;
  });
  CHECK(runs == 0);
  CHECK(*Now(stream.Read())->value() == 1);
  CHECK(runs == 1);
  CHECK(*Now(stream.Read())->value() == 2);
  CHECK_FALSE(*Now(stream.Read())->value());
  CHECK_FALSE(*Now(stream.Read())->value());
  CHECK(runs == 3);
  const auto fails = Generate<int>([]() -> StatusOr<std::optional<int>> { return Aborted("no"); });
  CHECK(Now(fails.Read())->status().code() == StatusCode::kAborted);
  const auto throws = Generate<int>([]() -> std::optional<int> { throw Aborted("thrown"); });
  CHECK(Message(Now(throws.Read())->status()) == "thrown");
}

TEST_CASE("a generator may be a task, and is dropped when the stream is cancelled", "[rpc]") {
  const auto held = std::make_shared<int>(0);
  const auto [source, feed] = MakePipe<int>();
  const auto doubled = Generate<int>([in = source, held]() -> Task<StatusOr<std::optional<int>>> {
    const auto stream = in;
    StatusOr<Chunk<int>> chunk = co_await stream.Read().Try();
    if (!chunk.ok()) co_return chunk.status();
    if (*chunk) **chunk *= 2;
    co_return std::optional<int>(std::move(*chunk));
  });
  const auto read = Later(doubled.Read());
  CHECK_FALSE(*read);
  CHECK(Now(feed.Write(21))->ok());
  CHECK(*((*read)->value()) == 42);
  doubled.Cancel(Cancelled("enough"));
  CHECK(held.use_count() == 1);
  CHECK(Now(doubled.Read())->status().code() == StatusCode::kCancelled);
}

TEST_CASE("a sink takes chunks one at a time and hears the end once", "[rpc]") {
  std::string log;
  {
    const auto sink = MakeSink<int>([&log](int i) { log += std::to_string(i); },
                                    [&log](const Status& why) { log += why.ok() ? "c" : "a"; });
    CHECK(Now(sink.Write(1))->ok());
    CHECK(Now(sink.Write(2))->ok());
    CHECK(Now(sink.Close())->ok());
    CHECK_FALSE(Now(sink.Write(3))->ok());
  }
  CHECK(log == "12c");
  log.clear();
  {
    const auto sink = MakeSink<int>([](int) -> Status { return PermissionDenied("full"); },
                                    [&log](const Status& why) { log += Message(why); });
    CHECK(Now(sink.Write(1))->code() == StatusCode::kPermissionDenied);
    CHECK(Now(sink.Write(2))->code() == StatusCode::kPermissionDenied);
  }  // dropped without closing
  CHECK(log == "full");
}

TEST_CASE("a coroutine reads and writes streams like a loop", "[rpc]") {
  const auto [readable, writable] = MakePipe<int>({.bytes_max = 0});
  TaskGroup tasks;
  int64_t sum = 0;
  tasks.Spawn([](ReadableStream<int> in, int64_t* to) -> Task<void> {
    while (const auto chunk = co_await in.Read()) *to += *chunk;
  }(readable, &sum));
  tasks.Spawn([](WritableStream<int> out) -> Task<void> {
    for (int i = 1; i <= 100000; ++i) co_await out.Write(i);  // flat: no stack grows
    co_await out.Close();
  }(writable));
  CHECK(tasks.size() == 0);
  CHECK(sum == 5'000'050'000);
}

// ---- over a session

class Files : public Target {
 public:
  ReadableStream<Bytes> Produce(int64_t total, int64_t chunk) {
    return Generate<Bytes>([this, total, chunk, at = int64_t{0}]() mutable {
      std::optional<Bytes> next;
      if (at >= total) return next;
      next = Filled(static_cast<size_t>(std::min(chunk, total - at)), static_cast<int>(at >> 8));
      at += chunk;
      produced = at;
      return next;
    });
  }
  Task<int64_t> Consume(ReadableStream<Bytes> stream) {
    consumed = 0;
    while (const auto chunk = co_await stream.Read())
      consumed += static_cast<int64_t>(chunk->size());
    co_return consumed;
  }
  void Keep(ReadableStream<Bytes> stream) { kept = std::move(stream); }
  void Drop() { kept = {}; }
  Value Echo(Value value) { return value; }
  WritableStream<int> Sink() {
    return MakeSink<int>([this](int i) { consumed += i; },
                         [this](const Status& why) { ended = why; });
  }
  Task<int> WriteTo(WritableStream<int> stream, int n) {
    for (int i = 0; i < n; ++i) co_await stream.Write(i);
    co_await stream.Close();
    co_return n;
  }
  using Rpc = Methods<&Files::Produce, &Files::Consume, &Files::Keep, &Files::Drop, &Files::Echo,
                      &Files::Sink, &Files::WriteTo>;

  ReadableStream<Bytes> kept;
  int64_t produced = 0;
  int64_t consumed = 0;
  std::optional<Status> ended;
};

struct Fixture : Joined {
  explicit Fixture(const SessionLimits& limits = {}) : Fixture(std::make_shared<Files>(), limits) {}
  Fixture(std::shared_ptr<Files> object, const SessionLimits& limits)
      : Joined(Stub<Files>(object).hook(), limits), files(std::move(object)) {}
  Stub<Files> api() const { return main().As<Files>(); }
  std::shared_ptr<Files> files;
};

using Frames = std::vector<std::string>;

TEST_CASE("a readable stream is a pipe, filled without a round trip", "[rpc]") {
  const auto session = Session::Create(nullptr);
  session->main()
      .Call("keep", Generate<int>([i = 0]() mutable {
              return i < 2 ? std::optional<int>(i++) : std::nullopt;
            }))
      .Ignore();
  CHECK(TakeAll(*session) ==
        Frames{R"(["pipe"])", R"(["push",["pipeline",0,["keep"],[["readable",1]]]])",
               R"(["stream",["pipeline",1,["write"],[0]]])",
               R"(["stream",["pipeline",1,["write"],[1]]])",
               R"(["stream",["pipeline",1,["close"],[]]])", R"(["release",2,1])"});
  for (const char* ack : {R"(["resolve",3,["undefined"]])", R"(["resolve",4,["undefined"]])"})
    CHECK(session->OnMessage(ack).ok());
  CHECK(TakeAll(*session).empty());
  CHECK(session->OnMessage(R"(["resolve",5,["undefined"]])").ok());
  CHECK(TakeAll(*session) == Frames{R"(["release",1,1])"});
  CHECK(session->counts().imports == 1);
}

TEST_CASE("a stream message is answered and released by itself", "[rpc]") {
  const auto files = std::make_shared<Files>();
  const auto session = Session::Create(Stub<Files>(files).hook());
  for (const char* message :
       {R"(["pipe"])", R"(["push",["pipeline",0,["consume"],[["readable",1]]]])",
        R"(["stream",["pipeline",1,["write"],[["bytes","AAAA"]]]])",
        R"(["stream",["pipeline",1,["close"],[]]])", R"(["pull",2])", R"(["release",1,1])"})
    CHECK(session->OnMessage(message).ok());
  CHECK(TakeAll(*session) == Frames{R"(["resolve",3,["undefined"]])",
                                    R"(["resolve",4,["undefined"]])", R"(["resolve",2,3])"});
  CHECK(files->consumed == 3);
  CHECK(session->counts().exports == 2);  // the call's result, not released yet
}

TEST_CASE("streams cross in both directions and leave nothing behind", "[rpc]") {
  Fixture fixture;
  {
    CHECK(fixture
              .Get(fixture.api().Call<&Files::Consume>(Generate<Bytes>([n = 0]() mutable {
                return n++ < 100 ? std::optional<Bytes>(Filled(1000, n)) : std::nullopt;
              })))
              .value() == 100000);
    const auto stream = fixture.Get(fixture.api().Call<&Files::Produce>(10, 4)).value();
    std::vector<size_t> sizes;
    while (const auto chunk = fixture.Get(stream.Read()).value()) sizes.push_back(chunk->size());
    CHECK(sizes == std::vector<size_t>{4, 4, 2});
    const auto sink = fixture.Get(fixture.api().Call<&Files::Sink>()).value();
    fixture.files->consumed = 0;
    CHECK(fixture.Get(sink.Write(3)).ok());
    CHECK(fixture.Get(sink.Write(4)).ok());
    CHECK(fixture.Get(sink.Close()).ok());
    CHECK(fixture.files->consumed == 7);
    CHECK(fixture.files->ended == OkStatus());
    int sum = 0;
    CHECK(fixture
              .Get(fixture.api().Call<&Files::WriteTo>(
                  MakeSink<int>([&sum](int i) { sum += i; }, [](const Status&) {}), 5))
              .value() == 5);
    CHECK(sum == 10);
  }
  fixture.CheckEmpty();
}

TEST_CASE("a reader that does not read stops the writer at the window", "[rpc]") {
  Fixture fixture;
  constexpr int64_t kTotal = 1 << 30;
  auto stream = fixture.Get(fixture.api().Call<&Files::Produce>(kTotal, 65536)).value();
  fixture.Run();
  CHECK(fixture.files->produced >= 128 << 10);  // no round trip is needed to begin
  CHECK(fixture.files->produced <= 512 << 10);
  const int64_t before = fixture.files->produced;
  for (int i = 0; i < 10; ++i) CHECK(fixture.Get(stream.Read()).value().has_value());
  CHECK(fixture.files->produced > before);
  CHECK(fixture.files->produced <= before + 10 * 65536);
  CHECK(fixture.client->output_bytes() + fixture.server->output_bytes() == 0);
  stream = {};  // cancels
  fixture.CheckEmpty();
}

TEST_CASE("a long stream needs no more memory than its window", "[rpc]") {
  Fixture fixture;
  constexpr int64_t kTotal = 64 << 20;
  size_t most = 0;
  std::optional<StatusOr<int64_t>> result;
  int64_t made = 0;
  fixture.api()
      .Call<&Files::Consume>(Generate<Bytes>([&made]() -> std::optional<Bytes> {
        if (made == kTotal) return std::nullopt;
        made += 65536;
        return Filled(65536, 1);
      }))
      .Then([&result](StatusOr<int64_t> outcome) { result = std::move(outcome); });
  while (fixture.Step(*fixture.client, *fixture.server) ||
         fixture.Step(*fixture.server, *fixture.client))
    most = std::max(most, fixture.client->output_bytes());
  REQUIRE(result);
  CHECK(result->value() == kTotal);
  CHECK(most < 2 << 20);
  fixture.CheckEmpty();
}

TEST_CASE("a stream's failure reaches its reader, a reader's its writer", "[rpc]") {
  Fixture fixture;
  {
    int step = 0;
    const Status failed = fixture
                              .Get(fixture.api().Call<&Files::Consume>(
                                  Generate<Bytes>([&step]() -> StatusOr<std::optional<Bytes>> {
                                    if (step++ < 2) return std::optional<Bytes>(Filled(10, 0));
                                    return DataLoss("torn at {}", step);
                                  })))
                              .status();
    CHECK(failed == Status(DataLoss("torn at 3")));
    CHECK(fixture.files->consumed == 20);

    auto [readable, writable] = MakePipe<Bytes>({.bytes_max = 0});
    CHECK(fixture.Get(fixture.api().Call<&Files::Keep>(readable)).ok());
    readable = {};
    CHECK(fixture.Get(writable.Write(Filled(5, 1))).ok());
    CHECK(fixture.Get(fixture.api().Call<&Files::Drop>()).ok());  // the far reader goes away
    fixture.Run();
    CHECK(fixture.Get(writable.Write(Filled(5, 2))).code() == StatusCode::kCancelled);

    const auto sink = fixture.Get(fixture.api().Call<&Files::Sink>()).value();
    CHECK(fixture.Get(sink.Write(1)).ok());
    sink.Abort(Aborted("changed my mind"));
    fixture.Run();
    REQUIRE(fixture.files->ended);
    CHECK(*fixture.files->ended == Status(Aborted("changed my mind")));
  }
  fixture.CheckEmpty();
}

TEST_CASE("a writable stream that is dropped is broken off at the other side", "[rpc]") {
  Fixture fixture;
  { const auto sink = fixture.Get(fixture.api().Call<&Files::Sink>()).value(); }
  fixture.CheckEmpty();
  REQUIRE(fixture.files->ended);
  CHECK(fixture.files->ended->code() == StatusCode::kCancelled);
}

TEST_CASE("a lost connection breaks every stream, on both sides", "[rpc]") {
  Fixture fixture;
  const auto in = fixture.Get(fixture.api().Call<&Files::Produce>(1 << 30, 65536)).value();
  const auto out = fixture.Get(fixture.api().Call<&Files::Sink>()).value();
  auto [readable, writable] = MakePipe<Bytes>({.bytes_max = 0});
  const auto consumed = Later(fixture.api().Call<&Files::Consume>(readable));
  readable = {};
  fixture.Run();
  fixture.client->OnClosed(Unavailable("gone"));
  fixture.server->OnClosed(Unavailable("gone"));
  CHECK((*consumed)->status() == Status(Unavailable("gone")));
  CHECK(Now(out.Write(1))->code() == StatusCode::kUnavailable);
  CHECK(Now(writable.Write(Filled(5, 1)))->code() == StatusCode::kUnavailable);
  REQUIRE(fixture.files->ended);
  CHECK(fixture.files->ended->code() == StatusCode::kCancelled);
  for (int i = 0; i < 20; ++i) {  // what had arrived may be read, then it says why there is no more
    const auto chunk = Now(in.Read());
    REQUIRE(chunk);
    if (!chunk->ok()) break;
    CHECK(i < 19);
  }
}

TEST_CASE("blobs, requests and responses cross whole", "[rpc]") {
  Fixture fixture;
  {
    const Blob blob{"text/x", Filled(200000, 7)};
    CHECK(fixture.Get(fixture.main().Call<Blob>("echo", blob)).value() == blob);
    const Value nested =
        fixture.Get(fixture.main().Call("echo", ObjectOf("a", ArrayOf(blob)))).value();
    CHECK(*(*nested["a"].array())[0].As<Blob>() == blob);
    Request request{.url = "http://h/p", .method = "PUT", .headers = {{{"k", "v"}}}};
    request.body = "text";
    request.options.Set("redirect", "error");
    request.options.Set("cf", ObjectOf("list", ArrayOf(1, "two")));
    Request back = fixture.Get(fixture.main().Call<Request>("echo", request)).value();
    request.options.Set("duplex", "half");
    CHECK(back == request);
    Response response{.status = 404, .status_text = "gone", .headers = {{{"k", "v"}}}};
    CHECK(fixture.Get(fixture.main().Call<Response>("echo", response)).value() == response);
    response.body = ToValue(Generate<Bytes>(
        [n = 0]() mutable { return n++ < 2 ? std::optional<Bytes>(Filled(3, n)) : std::nullopt; }));
    const auto streamed = fixture.Get(fixture.main().Call<Response>("echo", response)).value();
    const ReadableStream<Bytes> body(streamed.body.As<ReadableRef>()->hook);
    CHECK(fixture.Get(body.Read()).value()->size() == 3);
  }
  fixture.CheckEmpty();
}

TEST_CASE("chunks that are never read are limited, and so are blobs", "[rpc]") {
  const std::string chunk =
      R"(["stream",["pipeline",1,["write"],[["bytes",")" + std::string(1000, 'A') + R"("]]]])";
  const auto session = Session::Create(nullptr, {.stream_bytes_max = 5000});
  CHECK(session->OnMessage(R"(["pipe"])").ok());
  for (int i = 0; i < 4; ++i) CHECK(session->OnMessage(chunk).ok());
  CHECK(session->OnMessage(chunk).code() == StatusCode::kResourceExhausted);
  Fixture fixture({.blob_bytes_max = 1000});
  CHECK(fixture.Get(fixture.main().Call("echo", Blob{"", Filled(1000, 1)})).ok());
  CHECK(fixture.Get(fixture.main().Call("echo", Blob{"", Filled(1001, 1)})).status().code() ==
        StatusCode::kResourceExhausted);
  fixture.CheckEmpty();
}

TEST_CASE("a connection cut at any message leaves nobody waiting", "[rpc][property]") {
  const auto seed = GENERATE(range(1u, 65u));
  CAPTURE(seed);
  std::mt19937 rng(seed);
  Fixture fixture;
  int started = 0;
  int settled = 0;
  const auto count = [&settled](const auto&) { ++settled; };
  std::vector<ReadableStream<Bytes>> readables;
  std::vector<WritableStream<int>> writables;
  for (int step = 0; step < 120; ++step) {
    switch (rng() % 8) {
      case 0:
        ++started;
        fixture.api().Call<&Files::Produce>(100000, 1000).Then([&](auto stream) {
          ++settled;
          if (stream.ok()) readables.push_back(*stream);
        });
        break;
      case 1:
        ++started;
        fixture.api()
            .Call<&Files::Consume>(Generate<Bytes>([n = rng() % 20]() mutable {
              return n-- > 0 ? std::optional<Bytes>(Filled(5000, 1)) : std::nullopt;
            }))
            .Then(count);
        break;
      case 2:
        ++started;
        fixture.api().Call<&Files::Sink>().Then([&](auto stream) {
          ++settled;
          if (stream.ok()) writables.push_back(*stream);
        });
        break;
      case 3:
        if (readables.empty()) break;
        ++started;
        readables[rng() % readables.size()].Read().Then(count);
        break;
      case 4:
        if (writables.empty()) break;
        ++started;
        if (rng() % 4 != 0) {
          writables[rng() % writables.size()].Write(step).Then(count);
        } else {
          writables[rng() % writables.size()].Close().Then(count);
        }
        break;
      case 5:
        ++started;
        fixture.main().Call("echo", Blob{"", Filled(rng() % 100000, 2)}).Then(count);
        break;
      case 6:
        if (!readables.empty() && rng() % 4 == 0) readables.pop_back();
        if (!writables.empty() && rng() % 4 == 0) writables.pop_back();
        break;
      default:
        for (auto n = rng() % 8; n > 0; --n)
          rng() % 2 ? fixture.Step(*fixture.client, *fixture.server)
                    : fixture.Step(*fixture.server, *fixture.client);
    }
  }
  REQUIRE_FALSE(fixture.client->ended());
  REQUIRE_FALSE(fixture.server->ended());
  if (rng() % 2 == 0) {
    fixture.client->OnClosed(Unavailable("cut"));
    fixture.server->OnClosed(Unavailable("cut"));
    CHECK(settled == started);
    CHECK(fixture.client->counts().imports + fixture.client->counts().exports == 0);
    CHECK(fixture.server->counts().imports + fixture.server->counts().exports == 0);
  } else {  // or not cut at all
    fixture.Run();
    readables.clear();
    writables.clear();
    fixture.Run();
    CHECK(settled == started);
    fixture.CheckEmpty();
  }
}

// ---- the window

TEST_CASE("the window grows to bandwidth x delay and falls with it", "[rpc]") {
  // A path of 100 bytes a microsecond and 20 ms there and back: it holds 2 MB.
  FlowWindow window;
  int64_t now_us = 1000;
  std::deque<std::pair<int64_t, FlowWindow::Sent>> in_flight;
  int64_t link_free_us = now_us;
  const auto run = [&](int64_t bytes_per_us, int64_t until_us) {
    constexpr size_t kChunk = 65536;
    while (now_us < until_us) {
      while (window.has_room()) {
        link_free_us = std::max(link_free_us, now_us) + static_cast<int64_t>(kChunk) / bytes_per_us;
        in_flight.emplace_back(link_free_us + 20000, window.OnSend(kChunk, now_us));
      }
      now_us = in_flight.front().first;
      window.OnAck(in_flight.front().second, now_us);
      in_flight.pop_front();
    }
  };
  run(100, 2'000'000);
  CHECK(window.window() >= 2'000'000);
  CHECK(window.window() <= 6'000'000);
  run(5, 8'000'000);  // a twentieth of it: 100 kB
  CHECK(window.window() < 1'000'000);
  CHECK(window.window() >= FlowWindow::kLeastBytes);
}

}  // namespace
}  // namespace edge::rpc
