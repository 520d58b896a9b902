#include "edge/rpc/attenuate.h"

#include <catch2/catch.hpp>

#include "edge/base/simulation.h"
#include "edge/rpc/map.h"
#include "edge/rpc/stream.h"
#include "tests/rpc/joined.h"

namespace edge::rpc {
namespace {

class Inner : public Target {
 public:
  int Ping() { return 1; }
  using Rpc = Methods<&Inner::Ping>;
};

class Vault : public Target {
 public:
  int Read() { return ++reads; }
  void Write(int value) { written = value; }
  int value() const { return written; }
  Stub<Inner> Open() { return MakeStub<Inner>(); }
  Value Several() {
    return ObjectOf("list", ArrayOf(MakeStub<Inner>()), "stream",
                    Generate<int>([n = 0]() mutable { return std::optional<int>(n++); }));
  }
  std::vector<std::string> Names() { return {"a", "b"}; }
  std::string Greet(const std::string& name) { return "hi " + name; }
  using Rpc = Methods<&Vault::Read, &Vault::Write, Property<"value", &Vault::value>, &Vault::Open,
                      &Vault::Several, &Vault::Names, &Vault::Greet>;
  int reads = 0;
  int written = 0;
};

TEST_CASE("a stub restricted to methods has those and no others", "[rpc]") {
  const auto vault = std::make_shared<Vault>();
  const Stub<Vault> whole(vault);
  const Stub<Vault> reader = Only<&Vault::Read>(whole);
  CHECK(reader.Call<&Vault::Read>().Wait().value() == 1);
  const Status refused = reader.Call<&Vault::Write>(5).Wait();
  CHECK(refused.code() == StatusCode::kPermissionDenied);
  CHECK(Message(refused) == "'write' is not allowed by this stub");
  CHECK(vault->written == 0);
  CHECK(reader.Get("value").Wait().status().code() == StatusCode::kPermissionDenied);
  CHECK(reader.Call("nope").Wait().status().code() == StatusCode::kPermissionDenied);
  // Taken by value, through a promise or another session it stays what it is.
  const Stub<Vault> again(ValueHook(ToValue(reader)));
  CHECK(again.Call<&Vault::Write>(5).Wait().code() == StatusCode::kPermissionDenied);
  Joined joined(reader.hook());
  CHECK(joined.Get(joined.main().Call<int>("read")).value() == 2);
  CHECK(joined.Get(joined.main().Call("write", 5)).status().code() ==
        StatusCode::kPermissionDenied);
  joined.CheckEmpty();
}

TEST_CASE("a restriction holds for the object that a promise becomes", "[rpc]") {
  Pending pending = MakePromise();
  const Stub<Vault> reader = Only<&Vault::Read>(Stub<Vault>(pending.promise));
  Promise<AnyStub> pulled(reader.hook());
  std::optional<AnyStub> got;
  pulled.Then([&got](StatusOr<AnyStub> stub) { got = *stub; });
  pending.resolver.Settle(ToValue(Stub<Vault>(std::make_shared<Vault>())));
  REQUIRE(got);
  CHECK(got->Call("read").Wait().ok());
  CHECK(got->Call("write", 1).Wait().status().code() == StatusCode::kPermissionDenied);
}

TEST_CASE("revoking ends a stub and everything that came from it", "[rpc]") {
  const auto revocation = std::make_shared<Revocation>();
  const auto lent = Attenuate(Stub<Vault>(std::make_shared<Vault>()), {.revocation = revocation});
  const Stub<Inner> inner = lent.Call<&Vault::Open>().Wait().value();
  const Value several = lent.Call<&Vault::Several>().Wait().value();
  const AnyStub nested((*several["list"].array())[0].As<StubRef>()->hook);
  const ReadableStream<int> stream(several["stream"].As<ReadableRef>()->hook);
  CHECK(inner.Call<&Inner::Ping>().Wait().ok());
  CHECK(nested.Call("ping").Wait().ok());
  CHECK(*stream.Read().Wait().value() == 0);
  revocation->Revoke();
  for (const Status& status :
       {lent.Call<&Vault::Read>().Wait().status(), inner.Call<&Inner::Ping>().Wait().status(),
        nested.Call("ping").Wait().status(), stream.Read().Wait().status()}) {
    CHECK(status.code() == StatusCode::kPermissionDenied);
    CHECK(Message(status) == "this stub was revoked");
  }
}

TEST_CASE("a budget is shared with what the calls return", "[rpc]") {
  const auto lent = Attenuate(Stub<Vault>(std::make_shared<Vault>()), {.calls_max = 3});
  const Stub<Inner> inner = lent.Call<&Vault::Open>().Wait().value();
  CHECK(inner.Call<&Inner::Ping>().Wait().ok());
  CHECK(lent.Get("value").Wait().ok());
  CHECK(inner.Call<&Inner::Ping>().Wait().status().code() == StatusCode::kResourceExhausted);
  CHECK(lent.Call<&Vault::Read>().Wait().status().code() == StatusCode::kResourceExhausted);
}

TEST_CASE("a lent stub expires by the clock of its loop", "[rpc][sim]") {
  const auto simulation = Simulation::Create({.seed = 7});
  Simulation::Host& host = simulation->AddHost("a");
  Stub<Vault> lent;
  host.Run([&] {
    lent = Attenuate(Stub<Vault>(std::make_shared<Vault>()), {.lifetime_ms = 1000});
    CHECK(lent.Call<&Vault::Read>().Wait().ok());
  });
  simulation->RunFor(999'000'000);
  host.Run([&] { CHECK(lent.Call<&Vault::Read>().Wait().ok()); });
  simulation->RunFor(2'000'000);
  host.Run([&] {
    const Status expired = lent.Call<&Vault::Read>().Wait().status();
    CHECK(Message(expired) == "this stub has expired");
    lent = {};
  });
}

// ---- map

TEST_CASE("map is one message, run where the list is", "[rpc]") {
  const auto session = Session::Create(nullptr);
  const AnyStub api = session->main();
  const auto other = MakeStub<Inner>();
  Map(api.Call("names"), [&](const Promise<Value>& name) {
    const auto hi = api.Call("greet", name);
    const auto ping = other.Call("ping");
    return ObjectOf("name", name, "hi", hi, "ping", ping);
  }).Ignore();
  const auto said = TakeAll(*session);
  REQUIRE(said.size() >= 2);
  CHECK(said[0] == R"(["push",["pipeline",0,["names"],[]]])");
  CHECK(said[1] ==
        R"(["push",["remap",1,[],[["import",0],["export",-1]],[["pipeline",-1,["greet"],)"
        R"([["pipeline",0]]],["pipeline",-2,["ping"],[]],)"
        R"({"name":["pipeline",0],"hi":["pipeline",1],"ping":["pipeline",2]}]]])");
}

TEST_CASE("map gives lists, passes nothing on, and fails as its calls do", "[rpc]") {
  Joined joined(MakeStub<Vault>().hook());
  {
    const AnyStub api = joined.main();
    const auto greet = [&api](const Promise<Value>& name) { return api.Call("greet", name); };
    const auto names = joined.Get(Map<std::vector<std::string>>(api.Call("names"), greet));
    CHECK(names.value() == std::vector<std::string>{"hi a", "hi b"});
    const auto nested = Map(api.Call("names"), [&](const Promise<Value>& name) {
      return ArrayOf(name, Map(api.Call("names"), [&](const Promise<Value>& inner) {
                       return ArrayOf(name, api.Call("greet", inner));
                     }));
    });
    const Value result = joined.Get(Promise<Value>(nested.hook())).value();
    CHECK(
        Encode(result).value() ==
        R"([[[["a",[[[["a","hi a"]],[["a","hi b"]]]]]],[["b",[[[["b","hi a"]],[["b","hi b"]]]]]]]])");
    CHECK(joined.Get(Map(api.Call("value"), greet)).status().code() ==
          StatusCode::kInvalidArgument);  // the property is no function: the list failed
    const auto failing = [&api](const Promise<Value>& name) { return api.Call("write", name); };
    CHECK(joined.Get(Map(api.Call("names"), failing)).status().code() ==
          StatusCode::kInvalidArgument);
    CHECK(joined.Get(Map(api.Call("write", 3), greet)).value() == Value());
    // Awaited inside, where there is no value yet.
    Status seen;
    Map(api.Call("names"), [&](const Promise<Value>& name) {
      Promise<Value>(name.hook()).Then([&seen](const StatusOr<Value>& v) { seen = v.status(); });
      return name;
    }).Ignore();
    CHECK(seen.code() == StatusCode::kFailedPrecondition);
  }
  joined.CheckEmpty();
}

TEST_CASE("map runs over local lists too, and within its budget", "[rpc]") {
  const auto vault = MakeStub<Vault>();
  const auto names = Map<std::vector<std::string>>(
      vault.Call("names"), [&](const Promise<Value>& name) { return vault.Call("greet", name); });
  CHECK(Promise<std::vector<std::string>>(names.hook()).Wait().value() ==
        std::vector<std::string>{"hi a", "hi b"});
  Joined joined(vault.hook(), {.map_steps_max = 3});
  const AnyStub api = joined.main();
  CHECK(joined
            .Get(Map(api.Call("names"),
                     [&](const Promise<Value>& name) { return api.Call("greet", name); }))
            .status()
            .code() == StatusCode::kResourceExhausted);  // 2 instructions x 2 elements
  Joined small(vault.hook(), {.map_bytes_max = 200});
  CHECK(small
            .Get(Map(small.main().Call("names"),
                     [&](const Promise<Value>&) { return std::string(300, 'x'); }))
            .status()
            .code() == StatusCode::kResourceExhausted);
}

// ---- broken sessions

TEST_CASE("OnBroken tells of a lost session, and of nothing else", "[rpc]") {
  Joined joined(MakeStub<Vault>().hook());
  std::vector<Status> seen;
  const auto note = [&seen](const Status& why) { seen.push_back(why); };
  const AnyStub main = joined.main();
  main.OnBroken(note);
  const Stub<Inner> inner(joined.Get(joined.main().Call<Stub<Inner>>("open")).value());
  inner.OnBroken(note);
  const auto own = MakeStub<Inner>();
  own.OnBroken(note);
  joined.Run();
  CHECK(seen.empty());
  joined.client->OnClosed(Unavailable("gone"));
  CHECK(seen == std::vector<Status>(2, Unavailable("gone")));
  inner.OnBroken(note);  // late: at once
  CHECK(seen.size() == 3);
}

// ---- limits

TEST_CASE("each limit of a session ends a peer that passes it", "[rpc]") {
  class Slow : public Target {
   public:
    Value Wait() {
      waiting.push_back(MakePromise());
      return Value(PromiseRef{waiting.back().promise});
    }
    std::string Big() { return std::string(1000, 'x'); }
    using Rpc = Methods<&Slow::Wait, &Slow::Big>;
    std::vector<Pending> waiting;
  };
  const auto end = [](const SessionLimits& limits, const std::vector<std::string>& messages) {
    const auto session = Session::Create(MakeStub<Slow>().hook(), limits);
    size_t taken = 0;
    for (; taken < messages.size() && session->OnMessage(messages[taken]).ok(); ++taken) {
    }
    CHECK(session->counts().exports == (session->ended() ? 0 : session->counts().exports));
    return std::make_pair(taken, session->end_status().code());
  };
  const auto numbered = [](std::string before, int id, std::string after) {
    return before + std::to_string(id) + after;
  };
  std::vector<std::string> waits;
  for (int i = 1; i <= 5; ++i) {
    waits.push_back(R"(["push",["pipeline",0,["wait"],[]]])");
    waits.push_back(numbered(R"(["pull",)", i, "]"));
  }
  CHECK(end({.calls_max = 5}, waits) == std::make_pair(size_t{10}, StatusCode::kOk));
  CHECK(end({.calls_max = 4}, waits) == std::make_pair(size_t{9}, StatusCode::kResourceExhausted));

  std::vector<std::string> chain = {R"(["push",["pipeline",0,["wait"],[]]])"};
  for (int i = 1; i <= 5; ++i)
    chain.push_back(numbered(R"(["push",["pipeline",)", i, R"(,["a"],[]]])"));
  CHECK(end({.pipeline_max = 6}, chain).second == StatusCode::kOk);
  CHECK(end({.pipeline_max = 4}, chain) ==
        std::make_pair(size_t{4}, StatusCode::kResourceExhausted));

  const std::vector<std::string> bigs(5, R"(["push",["pipeline",0,["big"],[]]])");
  CHECK(end({.memory_bytes_max = 6000}, bigs).second == StatusCode::kOk);
  CHECK(end({.memory_bytes_max = 3500}, bigs) ==
        std::make_pair(size_t{3}, StatusCode::kResourceExhausted));
  const std::vector<std::string> large(
      5, R"(["push",["pipeline",0,["wait"],[")" + std::string(1000, 'x') + R"("]]])");
  CHECK(end({.memory_bytes_max = 3500}, large) ==
        std::make_pair(size_t{3}, StatusCode::kResourceExhausted));
  const std::vector<std::string> pipes(5, R"(["pipe"])");
  CHECK(end({.exports_max = 4}, pipes) ==
        std::make_pair(size_t{3}, StatusCode::kResourceExhausted));
}

TEST_CASE("texts that are not for peers stay here", "[rpc]") {
  class Careless : public Target {
   public:
    void Foreign() { throw std::runtime_error("password=1234"); }
    void Own() { throw Error(Internal("disk 7 failed")); }
    Value Stack() {
      ErrorValue error;
      error.message = "m";
      error.stack = "at secret.cc:5";
      return error;
    }
    using Rpc = Methods<&Careless::Foreign, &Careless::Own, &Careless::Stack>;
  };
  for (const bool reveals : {false, true}) {
    CAPTURE(reveals);
    SessionLimits limits;
    limits.reveals_internals = reveals;
    Joined joined(MakeStub<Careless>().hook(), limits);
    const Status foreign = joined.Get(joined.main().Call("foreign")).status();
    CHECK(foreign.code() == StatusCode::kInternal);
    CHECK(Message(foreign) == (reveals ? "password=1234" : "internal error"));
    CHECK(Message(joined.Get(joined.main().Call("own")).status()) == "disk 7 failed");
    const Value error = joined.Get(joined.main().Call("stack")).value();
    CHECK(error.As<ErrorValue>()->stack.has_value() == reveals);
  }
}

}  // namespace
}  // namespace edge::rpc
