#include "edge/rpc/session.h"

#include <malloc.h>

#include <catch2/catch.hpp>
#include <deque>
#include <random>

#include "edge/base/errors.h"
#include "edge/rpc/stub.h"

namespace edge::rpc {
namespace {

class Counter : public Target {
 public:
  explicit Counter(int start, int* deaths = nullptr) : count_(start), deaths_(deaths) {}
  ~Counter() override {
    if (deaths_ != nullptr) ++*deaths_;
  }
  int Increment(std::optional<int> by) { return count_ += by.value_or(1); }
  int value() const { return count_; }
  using Rpc = Methods<&Counter::Increment, Property<"value", &Counter::value>>;

 private:
  int count_;
  int* deaths_;
};

class Api : public Target {
 public:
  int Square(int i) { return i * i; }
  Stub<Counter> MakeCounter(int start) {
    return Stub<Counter>(std::make_shared<Counter>(start, &deaths));
  }
  Promise<int> IncrementCounter(Stub<Counter> counter, int by) {
    return counter.Call<&Counter::Increment>(by);
  }
  Promise<int> CallFunction(Stub<int(int)> function, int i) { return function(i); }
  void Fail() { throw NotFound("No such seat: {}", "9Z"); }
  Value Echo(Value value) { return value; }
  Value Thrower(Value value) { throw Error(RejectWith(value)); }
  void Keep(Stub<void(int)> callback) { kept = callback; }
  Value Nested() { return ObjectOf("list", ArrayOf(ObjectOf("c", MakeCounter(100)))); }
  Value Wait() {
    Pending pending = MakePromise();
    waiting.push_back(std::move(pending.resolver));
    return Value(PromiseRef{pending.promise});
  }
  using Rpc = Methods<&Api::Square, &Api::MakeCounter, &Api::IncrementCounter, &Api::CallFunction,
                      &Api::Fail, &Api::Echo, Named<"throwValue", &Api::Thrower>, &Api::Keep,
                      &Api::Nested, &Api::Wait>;

  int deaths = 0;
  Stub<void(int)> kept;
  std::deque<Resolver> waiting;
};

// What one end sends, as it is asked for.
std::vector<std::string> Output(Session& session) {
  std::vector<std::string> messages;
  for (std::string message; session.TakeOutput(&message);) messages.push_back(message);
  return messages;
}

using Frames = std::vector<std::string>;

// A server whose peer is the test: it says exactly what it wants to.
struct Server {
  std::shared_ptr<Api> api = std::make_shared<Api>();
  std::unique_ptr<Session> session = Session::Create(Stub<Api>(api).hook());
  Frames operator()(std::initializer_list<const char*> messages) {
    for (const char* message : messages) session->OnMessage(message).IgnoreError();
    return Output(*session);
  }
};

TEST_CASE("a call is answered when it is pulled", "[rpc]") {
  Server server;
  CHECK(server({R"(["push",["pipeline",0,["square"],[7]]])"}).empty());
  CHECK(server({R"(["pull",1])"}) == Frames{R"(["resolve",1,49])"});
  CHECK(server({R"(["pull",1])"}).empty());
  CHECK(server.session->counts().exports == 2);
  CHECK(server({R"(["release",1,1])"}).empty());
  CHECK(server.session->counts().exports == 1);
}

TEST_CASE("errors reject, the session lives on", "[rpc]") {
  Server server;
  CHECK(server({R"(["push",["pipeline",0,["fail"],[]]])", R"(["pull",1])"}) ==
        Frames{R"(["reject",1,["error","Error","No such seat: 9Z",null,{"code":"NOT_FOUND"}]])"});
  CHECK(server({R"(["push",["pipeline",0,["nope"],[]]])", R"(["pull",2])"}) ==
        Frames{R"(["reject",2,["error","TypeError","'nope' is not a function.",null,)"
               R"({"code":"INVALID_ARGUMENT"}]])"});
  CHECK(server({R"(["push",["pipeline",0,["throwValue"],[{"a":[[1]]}]]])", R"(["pull",3])"}) ==
        Frames{R"(["reject",3,{"a":[[1]]}])"});
  CHECK_FALSE(server.session->ended());
}

TEST_CASE("an unknown property is undefined, a known one is read", "[rpc]") {
  Server server;
  CHECK(server({R"(["push",["pipeline",0,["nothing"]]])", R"(["pull",1])"}) ==
        Frames{R"(["resolve",1,["undefined"]])"});
  CHECK(server({R"(["push",["pipeline",0,["makeCounter"],[4]]])",
                R"(["push",["pipeline",2,["value"]]])", R"(["pull",3])"}) ==
        Frames{R"(["resolve",3,4])"});
}

TEST_CASE("a returned object is a new negative export that lives until its release", "[rpc]") {
  Server server;
  CHECK(server({R"(["push",["pipeline",0,["makeCounter"],[4]]])", R"(["pull",1])",
                R"(["release",1,1])"}) == Frames{R"(["resolve",1,["export",-1]])"});
  CHECK(server({R"(["push",["import",-1,["increment"],[5]]])", R"(["pull",2])"}) ==
        Frames{R"(["resolve",2,9])"});
  CHECK(server.api->deaths == 0);
  CHECK(server({R"(["release",-1,1])"}).empty());
  CHECK(server.api->deaths == 1);
}

TEST_CASE("calls on a promise are made without a round trip", "[rpc]") {
  Server server;
  CHECK(server({R"(["push",["pipeline",0,["makeCounter"],[4]]])",
                R"(["push",["pipeline",1,["increment"],[5]]])",
                R"(["push",["pipeline",0,["incrementCounter"],[["pipeline",1],["pipeline",2]]]])",
                R"(["pull",3])"}) == Frames{R"(["resolve",3,18])"});
}

TEST_CASE("a path leads into results", "[rpc]") {
  Server server;
  CHECK(server({R"(["push",["pipeline",0,["nested"],[]]])",
                R"(["push",["pipeline",1,["list",0,"c","increment"],[1]]])", R"(["pull",2])"}) ==
        Frames{R"(["resolve",2,101])"});
}

TEST_CASE("a function of the peer is called back, and released with the call", "[rpc]") {
  Server server;
  CHECK(
      server({R"(["push",["pipeline",0,["callFunction"],[["export",-1],3]]])", R"(["pull",1])"}) ==
      Frames{R"(["push",["pipeline",-1,[],[3]]])", R"(["release",-1,1])", R"(["pull",1])"});
  CHECK(server({R"(["resolve",1,10])"}) == Frames{R"(["release",1,1])", R"(["resolve",1,10])"});
  CHECK(server.session->counts().imports == 1);
}

TEST_CASE("a callback that is kept can be called later", "[rpc]") {
  Server server;
  CHECK(server({R"(["push",["pipeline",0,["keep"],[["export",-1]]]])", R"(["pull",1])"}) ==
        Frames{R"(["resolve",1,["undefined"]])"});
  server.api->kept(7).Ignore();
  CHECK(Output(*server.session) ==
        Frames{R"(["push",["pipeline",-1,[],[7]]])", R"(["release",1,1])"});
  server.api->kept = {};
  CHECK(Output(*server.session) == Frames{R"(["release",-1,1])"});
}

TEST_CASE("the peer's own object goes back to it as an import", "[rpc]") {
  Server server;
  CHECK(server({R"(["push",["pipeline",0,["echo"],[["export",-5]]]])", R"(["pull",1])"}) ==
        Frames{R"(["resolve",1,["import",-5]])"});
  // Introduced twice and gone at once: one release that counts both.
  CHECK(server({R"(["release",1,1])"}) == Frames{R"(["release",-5,1])"});
  CHECK(server({R"(["push",[[["export",-6],["export",-6]]]])", R"(["release",2,1])"}) ==
        Frames{R"(["release",-6,2])"});
}

TEST_CASE("a promise inside a result is answered unasked", "[rpc]") {
  Server server;
  CHECK(server({R"(["push",["pipeline",0,["echo"],[{"a":1}]]])",
                R"(["push",[[["pipeline",0,["wait"],[]]]]])", R"(["pull",2])"}) ==
        Frames{R"(["resolve",2,[[["promise",-1]]]])"});
  server.api->waiting.front().Settle(5);
  CHECK(Output(*server.session) == Frames{R"(["resolve",-1,5])"});
  CHECK(server({R"(["release",-1,1])", R"(["release",1,1])", R"(["release",2,1])"}).empty());
  CHECK(server.session->counts().exports == 1);
}

TEST_CASE("a result that was released before it came is not sent", "[rpc]") {
  Server server;
  CHECK(server({R"(["push",["pipeline",0,["wait"],[]]])", R"(["pull",1])", R"(["release",1,1])"})
            .empty());
  server.api->waiting.front().Settle(5);
  CHECK(Output(*server.session).empty());
}

TEST_CASE("what is not of the protocol ends the session with an abort", "[rpc]") {
  const char* const hostile[] = {"",
                                 "null",
                                 "[]",
                                 "[1]",
                                 "{}",
                                 "[\"push\"]",
                                 "[\"push\",1,2]",
                                 "[\"pull\"]",
                                 "[\"pull\",\"1\"]",
                                 "[\"pull\",7]",
                                 "[\"pull\",1.5]",
                                 "[\"release\",0]",
                                 "[\"release\",0,2]",
                                 "[\"release\",0,0]",
                                 "[\"release\",0,-1]",
                                 "[\"release\",9,1]",
                                 "[\"resolve\",1]",
                                 "[\"resolve\",0,1]",
                                 "[\"reject\",-1]",
                                 "[\"stream\"]",
                                 "[\"stream\",[\"pipeline\",3,[\"write\"],[1]]]",
                                 "[\"pipe\",1]",
                                 "[\"hello\",1]",
                                 "[\"push\",[\"import\",5]]",
                                 "[\"push\",[\"pipeline\",0,\"x\"]]",
                                 "[\"push\",[\"pipeline\",0,[\"square\"],3]]",
                                 "[\"push\",[\"pipeline\",0,[null],[]]]",
                                 "[\"push\",[\"export\",1]]",
                                 "[\"push\",[\"export\",0]]",
                                 "[\"push\",[\"promise\"]]",
                                 "[\"push\",[\"remap\",0,[],[],[]]]",
                                 "[\"push\",[\"readable\",1]]",
                                 "[\"push\",[\"readable\",0]]",
                                 "[\"push\",[\"writable\",1]]",
                                 "[\"push\",[\"remap\",0,[],[],[1]]]x",
                                 "[\"push\",[\"remap\",7,[],[],[1]]]",
                                 "[\"push\",[\"remap\",0,[],[[\"import\",9]],[1]]]",
                                 "[\"push\",[\"remap\",0,[],[[\"promise\",-1]],[1]]]",
                                 "[\"push\",[\"request\",1,{}]]",
                                 "[\"push\",[\"request\",\"u\",{\"body\":5}]]",
                                 "[\"push\",[\"request\",\"u\",{\"signal\":1}]]",
                                 "[\"push\",[\"response\",{},{}]]",
                                 "[\"push\",[\"response\",null,{\"status\":99}]]",
                                 "[\"push\",[\"response\",null]]",
                                 "[\"push\",[\"blob\",\"t\",\"text\"]]",
                                 "[\"push\",[\"blob\",\"t\",[\"readable\",1]]]",
                                 "[\"push\",[\"what\"]]",
                                 "[\"push\",[1,2]]",
                                 "[\"push\",[]]",
                                 "[\"push\",{\"a\":[\"import\",99]}]",
                                 "[\"abort\"]",
                                 "[\"push\",1e999]x"};
  for (const char* text : hostile) {
    CAPTURE(text);
    Server server;
    CHECK_FALSE(server.session->OnMessage(text).ok());
    CHECK(server.session->ended());
    const Frames said = Output(*server.session);
    REQUIRE(said.size() == 1);
    CHECK(said[0].starts_with(R"(["abort",["error",)"));
    CHECK_FALSE(server.session->OnMessage(R"(["pull",0])").ok());
    CHECK(Output(*server.session).empty());
    CHECK(server.session->counts().exports == 0);
  }
}

TEST_CASE("answers to things nobody waits for are ignored", "[rpc]") {
  Server server;
  CHECK(server({R"(["resolve",17,["export",-1]])", R"(["reject",3,5])"}) ==
        Frames{R"(["release",-1,1])"});
  CHECK_FALSE(server.session->ended());
}

TEST_CASE("an abort of the peer fails what waits and sends nothing", "[rpc]") {
  Server server;
  CHECK(server({R"(["push",["pipeline",0,["keep"],[["export",-1]]]])"}).empty());
  Status seen;
  server.api->kept(1).Then([&seen](Status status) { seen = status; });
  Output(*server.session);
  CHECK(server({R"(["abort",["error","Error","bye"]])"}).empty());
  CHECK(Message(seen) == "the peer ended the session: bye");
  CHECK_FALSE(server.api->kept(2).Wait().ok());
}

TEST_CASE("limits end the session, with the number that was passed", "[rpc]") {
  const auto end = [](SessionLimits limits, std::initializer_list<std::string> messages) {
    const auto session = Session::Create(Stub<Api>(std::make_shared<Api>()).hook(), limits);
    for (const std::string& message : messages) session->OnMessage(message).IgnoreError();
    return session->end_status();
  };
  const std::string push = R"(["push",["pipeline",0,["square"],[2]]])";
  CHECK(end({}, {push, push, push}).ok());
  CHECK(end({.exports_max = 3}, {push, push, push}).code() == StatusCode::kResourceExhausted);
  CHECK(end({.imports_max = 2}, {R"(["push",[[["export",-1],["export",-2]]]])"}).code() ==
        StatusCode::kResourceExhausted);
  CHECK(end({.message_bytes_max = 20}, {push}).code() == StatusCode::kResourceExhausted);
  CHECK(end({.path_max = 2}, {R"(["push",["pipeline",0,["a","b","c"]]])"}).code() ==
        StatusCode::kResourceExhausted);
  CHECK(end({.bigint_digits_max = 3}, {R"(["push",["bigint","1234"]])"}).code() ==
        StatusCode::kResourceExhausted);
  CHECK(end({.output_bytes_max = 29}, {push, R"(["pull",1])", push, R"(["pull",2])"}).code() ==
        StatusCode::kResourceExhausted);
}

// Two of our sessions joined by queues.
struct Pair {
  std::shared_ptr<Api> api = std::make_shared<Api>();
  std::unique_ptr<Session> server = Session::Create(Stub<Api>(api).hook());
  std::unique_ptr<Session> client = Session::Create(nullptr);
  int messages = 0;

  bool Step(Session& from, Session& to) {
    std::string message;
    if (!from.TakeOutput(&message)) return false;
    ++messages;
    to.OnMessage(message).IgnoreError();
    return true;
  }
  void Run() {
    while (Step(*client, *server) || Step(*server, *client)) {
    }
  }
  Stub<Api> main() { return client->main().As<Api>(); }
  template <typename T>
  Result<T> Get(Promise<T> promise) {
    std::optional<Result<T>> result;
    promise.Then([&result](Result<T> outcome) { result = std::move(outcome); });
    Run();
    return result ? *result : Result<T>(Internal("no answer"));
  }
};

TEST_CASE("typed calls work over a session as they do at home", "[rpc]") {
  Pair pair;
  const auto api = pair.main();
  CHECK(pair.Get(api.Call<&Api::Square>(9)).value() == 81);
  CHECK(pair.Get(api.Call<&Api::MakeCounter>(4).Call<&Counter::Increment>(5)).value() == 9);
  CHECK(pair.Get(api.Call<&Api::CallFunction>([](int i) { return i + 1; }, 5)).value() == 6);
  CHECK(pair.Get(api.Call<&Api::IncrementCounter>(MakeStub<Counter>(10), 3)).value() == 13);
  const Status lost = pair.Get(api.Call<&Api::Fail>());
  CHECK(lost.code() == StatusCode::kNotFound);
  CHECK(Message(lost) == "No such seat: 9Z");
  const auto counter = MakeStub<Counter>(1);
  CHECK(pair.Get(api.Call<Stub<Counter>>("echo", counter)).value() == counter);
  CHECK(pair.Get(api.Call("nested").Get<Stub<Counter>>("list")).ok() == false);
}

TEST_CASE("both tables are back to the main objects when everything is dropped", "[rpc]") {
  Pair pair;
  {
    auto counter = pair.Get(pair.main().Call<&Api::MakeCounter>(4)).value();
    CHECK(pair.Get(counter.Call<&Counter::Increment>(1)).value() == 5);
    CHECK(pair.server->counts().exports == 2);
  }
  pair.Run();
  CHECK(pair.api->deaths == 1);
  for (const Session* session : {pair.client.get(), pair.server.get()}) {
    CHECK(session->counts().imports == 1);
    CHECK(session->counts().exports == 1);
  }
}

TEST_CASE("a pipelined chain of ten calls needs one round trip", "[rpc]") {
  Pair pair;
  auto at = pair.main().Call("echo", ObjectOf("x", 1));
  for (int i = 0; i < 9; ++i) at = pair.main().Call("echo", at);
  std::optional<StatusOr<Value>> result;
  at.Then([&result](StatusOr<Value> outcome) { result = std::move(outcome); });
  while (pair.Step(*pair.client, *pair.server)) {
  }
  while (pair.Step(*pair.server, *pair.client)) {
  }
  REQUIRE(result);
  CHECK((*result)->object()->size() == 1);
}

TEST_CASE("when the transport is lost every call that waits fails, and stubs stay usable",
          "[rpc]") {
  Pair pair;
  std::vector<Status> seen;
  auto api = pair.main();
  for (int i = 0; i < 3; ++i)
    api.Call("wait").Then([&seen](StatusOr<Value> outcome) { seen.push_back(outcome.status()); });
  while (pair.Step(*pair.client, *pair.server)) {
  }
  pair.client->OnClosed(Unavailable("gone"));
  CHECK(seen == std::vector<Status>(3, Unavailable("gone")));
  pair.client.reset();
  CHECK(api.Call<&Api::Square>(1).Wait().status() == Status(Unavailable("gone")));
}

TEST_CASE("random operations leave both tables empty, and calls in order", "[rpc][property]") {
  const auto seed = GENERATE(range(1u, 33u));
  CAPTURE(seed);
  std::mt19937 rng(seed);
  Pair pair;
  {
    std::vector<Stub<Counter>> counters;
    std::vector<AnyStub> anything;
    int answers = 0;
    int calls = 0;
    int last_seen = 0;
    int sequence = 0;
    const auto count = [&answers](const StatusOr<Value>&) { ++answers; };
    const Stub<void(int)> in_order([&last_seen](int i) {
      CHECK(i == last_seen + 1);
      last_seen = i;
    });
    for (int step = 0; step < 400; ++step) {
      switch (rng() % 9) {
        case 0:
          counters.push_back(Stub<Counter>(pair.main().Call<&Api::MakeCounter>(step)));
          break;
        case 1:
          counters.push_back(MakeStub<Counter>(step));
          break;
        case 2:
          if (!counters.empty())
            counters.erase(counters.begin() + static_cast<ptrdiff_t>(rng() % counters.size()));
          break;
        case 3:
          if (counters.empty()) break;
          ++calls;
          counters[rng() % counters.size()].Call("increment", 1).Then(count);
          break;
        case 4:
          if (counters.empty()) break;
          ++calls;
          pair.main().Call("echo", ArrayOf(counters[rng() % counters.size()], step)).Then(count);
          break;
        case 5:
          if (counters.empty()) break;
          counters.push_back(Stub<Counter>(
              pair.main().Call<Stub<Counter>>("echo", counters[rng() % counters.size()])));
          break;
        case 6:
          ++calls;
          pair.main()
              .Call(
                  "callFunction", [](int i) { return i; }, step)
              .Then(count);
          break;
        case 7:
          pair.main().Call("callFunction", in_order, ++sequence).Ignore();
          break;
        default:
          for (auto n = rng() % 6; n > 0; --n)
            rng() % 2 ? pair.Step(*pair.client, *pair.server)
                      : pair.Step(*pair.server, *pair.client);
      }
    }
    pair.Run();
    CHECK(answers == calls);
    CHECK(last_seen == sequence);
  }
  pair.Run();
  REQUIRE_FALSE(pair.client->ended());
  REQUIRE_FALSE(pair.server->ended());
  CHECK(pair.client->counts().imports == 1);
  CHECK(pair.client->counts().exports == 1);
  CHECK(pair.server->counts().imports == 1);
  CHECK(pair.server->counts().exports == 1);
}

TEST_CASE("an idle session takes 4 KiB of memory at most", "[rpc]") {
  constexpr size_t kCount = 200;
  std::vector<std::unique_ptr<Session>> sessions;
  sessions.reserve(kCount);
  const HookPtr main = MakeStub<Api>().hook();
  sessions.push_back(Session::Create(main));
  const size_t before = mallinfo2().uordblks;  // 0 under sanitizers, which have their own
  while (sessions.size() < kCount) sessions.push_back(Session::Create(main));
  const size_t each = (mallinfo2().uordblks - before) / (kCount - 1);
  CAPTURE(each);
  CHECK(each <= 4096);
}

}  // namespace
}  // namespace edge::rpc
