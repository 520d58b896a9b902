#include "edge/rpc/stub.h"

#include <atomic>
#include <catch2/catch.hpp>
#include <deque>
#include <thread>

#include "edge/base/errors.h"
#include "edge/base/executor.h"
#include "edge/base/task.h"

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
  StatusOr<Stub<Counter>> MakeCounter(int start) {
    if (start < 0) return InvalidArgument("negative: {}", start);
    return MakeStub<Counter>(start);
  }
  std::shared_ptr<Counter> Plain() { return std::make_shared<Counter>(1); }
  void Fail(std::string_view text) { throw NotFound("No such seat: {}", text); }
  void Explode() { throw std::runtime_error("boom"); }
  Status Refuse() { return PermissionDenied("no"); }
  Task<StatusOr<std::string>> Later(std::string_view text) {
    const std::string copy(text);
    int n = co_await counter_.Call<&Counter::Increment>(1);
    co_return copy + std::string(text) + std::to_string(n);
  }
  Task<void> Throws() {
    co_await counter_.Call<&Counter::Increment>(1);
    throw Aborted("later");
  }
  Promise<int> Proxy(Stub<Counter> counter) { return counter.Call<&Counter::Increment>(2); }
  std::vector<int> Apply(Stub<int(int)> function, const std::vector<int>& items) {
    std::vector<int> results;
    for (const int item : items) results.push_back(function(item).Wait().value_or(-1));
    return results;
  }
  Value Echo(Value value) { return value; }
  int Overloaded(int i) { return i; }
  int Overloaded(std::string_view s) { return static_cast<int>(s.size()); }
  int Hidden() { return 1; }

  using Rpc =
      Methods<&Api::Square, &Api::MakeCounter, &Api::Plain, &Api::Fail, &Api::Explode, &Api::Refuse,
              &Api::Later, &Api::Throws, &Api::Proxy, &Api::Apply, &Api::Echo,
              Named<"length", static_cast<int (Api::*)(std::string_view)>(&Api::Overloaded)>>;

 private:
  Stub<Counter> counter_ = MakeStub<Counter>(0);
};

TEST_CASE("wire names come from the member pointers", "[rpc]") {
  CHECK(internal::MethodName<&Api::MakeCounter>() == "makeCounter");
  CHECK(internal::MethodName<&Counter::value>() == "value");
  CHECK(MethodsOf<Api>().Find("length") != nullptr);
  CHECK(MethodsOf<Api>().Find("hidden") == nullptr);
  CHECK(MethodsOf<Api>().Find("Square") == nullptr);
}

TEST_CASE("a call by member pointer and one by name do the same", "[rpc]") {
  const auto api = MakeStub<Api>();
  CHECK(api.Call<&Api::Square>(7).Wait().value() == 49);
  CHECK(api.Call("square", 7).Wait().value() == 49);
  CHECK(api.Call<int>("square", 7).Wait().value() == 49);
  CHECK(api.Call<int>("length", "four").Wait().value() == 4);
}

TEST_CASE("statuses and exceptions of methods reach the caller as statuses", "[rpc]") {
  const auto api = MakeStub<Api>();
  for (const bool by_name : {false, true}) {
    CAPTURE(by_name);
    const AnyStub any(api);
    const Status lost =
        by_name ? any.Call<void>("fail", "9Z").Wait() : api.Call<&Api::Fail>("9Z").Wait();
    CHECK(lost.code() == StatusCode::kNotFound);
    CHECK(Message(lost) == "No such seat: 9Z");
    const Status boom =
        by_name ? any.Call<void>("explode").Wait() : api.Call<&Api::Explode>().Wait();
    CHECK(boom.code() == StatusCode::kInternal);
    CHECK(Message(boom) == "boom");
    const Status denied =
        by_name ? any.Call<void>("refuse").Wait() : api.Call<&Api::Refuse>().Wait();
    CHECK(denied.code() == StatusCode::kPermissionDenied);
  }
}

TEST_CASE("arguments are checked before the method runs", "[rpc]") {
  const auto api = MakeStub<Api>();
  const Status wrong = api.Call("square", "7").Wait().status();
  CHECK(wrong.code() == StatusCode::kInvalidArgument);
  CHECK(Message(wrong) == "argument 1: expected a whole number, got string");
  CHECK(api.Call("square").Wait().status().code() == StatusCode::kInvalidArgument);
  CHECK(api.Call<int>("square", 3, "surplus").Wait().value() == 9);
  CHECK(Message(api.Call("hidden").Wait().status()) == "'hidden' is not a function.");
}

TEST_CASE("an optional argument at the end may be left out", "[rpc]") {
  const auto counter = MakeStub<Counter>(4);
  CHECK(counter.Call<&Counter::Increment>().Wait().value() == 5);
  CHECK(counter.Call<&Counter::Increment>(10).Wait().value() == 15);
  CHECK(counter.Call<int>("increment").Wait().value() == 16);
}

TEST_CASE("a property is read, not called", "[rpc]") {
  const auto counter = MakeStub<Counter>(4);
  CHECK(counter.Get<int>("value").Wait().value() == 4);
  CHECK(counter.Get("nothing").Wait().value() == Value());
  CHECK_FALSE(counter.Call("value").Wait().ok());
}

TEST_CASE("a promise of a stub can be called before it is kept", "[rpc]") {
  const auto api = MakeStub<Api>();
  CHECK(api.Call<&Api::MakeCounter>(4).Call<&Counter::Increment>(5).Wait().value() == 9);
  CHECK(api.Call("makeCounter", 4).Call<int>("increment", 5).Wait().value() == 9);
  CHECK(api.Call("makeCounter", 4).Get<int>("value").Wait().value() == 4);
  const Status failed =
      api.Call<&Api::MakeCounter>(-1).Call<&Counter::Increment>(5).Wait().status();
  CHECK(Message(failed) == "negative: -1");
  CHECK(api.Call<&Api::Plain>().Call<&Counter::Increment>(5).Wait().value() == 6);
}

TEST_CASE("a promise can be an argument", "[rpc]") {
  const auto api = MakeStub<Api>();
  const auto counter = api.Call<&Api::MakeCounter>(4);
  CHECK(api.Call<int>("proxy", counter).Wait().value() == 6);
  CHECK(api.Call<&Api::Proxy>(counter).Wait().value() == 8);
  CHECK(api.Call<int>("square", api.Call("square", 3)).Wait().value() == 81);
  CHECK_FALSE(api.Call<int>("square", api.Call("fail", "x")).Wait().ok());
}

TEST_CASE("functions are passed by reference", "[rpc]") {
  const auto api = MakeStub<Api>();
  int calls = 0;
  const auto twice = [&calls](int i) {
    ++calls;
    return 2 * i;
  };
  CHECK(api.Call<&Api::Apply>(twice, {1, 2, 3}).Wait().value() == std::vector<int>{2, 4, 6});
  CHECK(api.Call<std::vector<int>>("apply", twice, std::vector<int>{4}).Wait().value() ==
        std::vector<int>{8});
  CHECK(calls == 4);
}

TEST_CASE("tasks answer when they are done, and keep text arguments alive", "[rpc]") {
  const auto api = MakeStub<Api>();
  std::string text(40, 'x');
  const auto later = api.Call<&Api::Later>(text).Wait();
  text += text;
  text.push_back('1');
  CHECK(later.value() == text);
  CHECK(api.Call<&Api::Throws>().Wait().code() == StatusCode::kAborted);
}

TEST_CASE("co_await gives the value or throws, Try gives the status", "[rpc]") {
  const auto api = MakeStub<Api>();
  std::string log;
  const auto run = [](Stub<Api> stub, std::string* out) -> Task<void> {
    const int n = co_await stub.Call<&Api::MakeCounter>(3).Call<&Counter::Increment>(4);
    *out += std::to_string(n);
    const StatusOr<int> bad = co_await stub.Call<int>("nope").Try();
    *out += bad.ok() ? " ok" : " refused";
    try {
      co_await stub.Call<&Api::Fail>("1A");
    } catch (const Error& error) {
      *out += std::string(" threw ") + error.what();
    }
  };
  TaskGroup group;
  group.Spawn(run(api, &log));
  CHECK(log == "7 refused threw No such seat: 1A");
}

TEST_CASE("an object dies with its last stub", "[rpc]") {
  int deaths = 0;
  {
    Stub<Counter> stub(std::make_shared<Counter>(1, &deaths));
    const AnyStub other = stub;
    const Value held = ToValue(stub);
    stub = Stub<Counter>();
    CHECK(deaths == 0);
  }
  CHECK(deaths == 1);
}

TEST_CASE("an empty stub fails every call", "[rpc]") {
  const Stub<Counter> none;
  CHECK(none.Call<&Counter::Increment>(1).Wait().status().code() ==
        StatusCode::kFailedPrecondition);
  CHECK_FALSE(static_cast<bool>(none));
}

TEST_CASE("echo gives a stub back that is the same object", "[rpc]") {
  const auto api = MakeStub<Api>();
  const auto counter = MakeStub<Counter>(1);
  const auto back = api.Call<Stub<Counter>>("echo", counter).Wait().value();
  CHECK(back == counter);
  CHECK(back.Call<&Counter::Increment>(1).Wait().value() == 2);
}

class Recorder : public Target {
 public:
  void Append(int i) {
    log_.push_back(i);
    on_thread_ = std::this_thread::get_id();
  }
  std::vector<int> Log() { return log_; }
  Stub<Recorder> Fresh() { return MakeStub<Recorder>(); }
  void Tell(Stub<void(int)> listener) { listener(static_cast<int>(log_.size())).Ignore(); }
  using Rpc = Methods<&Recorder::Append, &Recorder::Log, &Recorder::Fresh, &Recorder::Tell>;

 private:
  std::vector<int> log_;
  std::thread::id on_thread_;
};

TEST_CASE("calls from other threads are queued to the object's loop in order", "[rpc]") {
  auto executor = Executor::Create({.threads = 2}).value();
  {
    const auto recorder = RunOn(executor->loop(0), [] { return MakeStub<Recorder>(); });
    CHECK(recorder.hook()->home() == &executor->loop(0));
    std::vector<int> expected;
    for (int i = 0; i < 1000; ++i) {
      recorder.Call<&Recorder::Append>(i).Ignore();
      expected.push_back(i);
    }
    CHECK(recorder.Call<&Recorder::Log>().Wait().value() == expected);

    // A fresh object, called before it is known to exist, from the other loop.
    auto done = std::make_shared<std::atomic<int>>(0);
    RunOn(executor->loop(1), [recorder, done] {
      auto fresh = recorder.Call<&Recorder::Fresh>();
      fresh.Call<&Recorder::Append>(1).Ignore();
      fresh.Call<&Recorder::Append>(2).Ignore();
      fresh.Call<&Recorder::Log>().Then([done](StatusOr<std::vector<int>> log) {
        *done = log.ok() && *log == std::vector<int>{1, 2} && Loop::Current() != nullptr ? 1 : 2;
        done->notify_one();
      });
    });
    done->wait(0);
    CHECK(*done == 1);
  }
}

TEST_CASE("a callback made on one loop runs there when another loop calls it", "[rpc]") {
  auto executor = Executor::Create({.threads = 2}).value();
  {
    const auto recorder = RunOn(executor->loop(0), [] { return MakeStub<Recorder>(); });
    auto seen = std::make_shared<std::atomic<int>>(0);
    Loop* const listener_loop = &executor->loop(1);
    RunOn(*listener_loop, [recorder, seen, listener_loop] {
      recorder.Call<&Recorder::Append>(5).Ignore();
      recorder
          .Call<&Recorder::Tell>([seen, listener_loop](int count) {
            *seen = listener_loop->IsCurrent() ? count : -1;
            seen->notify_one();
          })
          .Ignore();
    });
    seen->wait(0);
    CHECK(*seen == 1);
  }
}

TEST_CASE("Wait on a loop's thread refuses instead of waiting for itself", "[rpc]") {
  auto executor = Executor::Create({.threads = 2}).value();
  const auto recorder = RunOn(executor->loop(0), [] { return MakeStub<Recorder>(); });
  const Status status = RunOn(
      executor->loop(1), [recorder] { return recorder.Call<&Recorder::Log>().Wait().status(); });
  CHECK(status.code() == StatusCode::kFailedPrecondition);
}

// A context whose gate a test opens by hand.
class TestContext : public CallContext {
 public:
  void BeforeSend(Callback<void(Status)> send) override {
    if (open && held.empty()) return send(OkStatus());
    held.push_back(std::move(send));
  }
  void Resume(Callback<void()> resume) override {
    ++resumed;
    resume();
  }
  void Open(const Status& status) {
    open = true;
    while (!held.empty()) {
      auto send = std::move(held.front());
      held.pop_front();
      send(status);
    }
  }
  bool open = false;
  int resumed = 0;
  std::deque<Callback<void(Status)>> held;
};

TEST_CASE("calls made inside a context wait for its gate, in order", "[rpc]") {
  const auto recorder = MakeStub<Recorder>();
  const auto context = std::make_shared<TestContext>();
  {
    CallContext::Scope scope(context);
    recorder.Call<&Recorder::Append>(1).Ignore();
    recorder.Call("append", 2).Ignore();
    recorder.Call<&Recorder::Fresh>().Call<&Recorder::Append>(9).Ignore();
  }
  CHECK(recorder.Call<&Recorder::Log>().Wait().value().empty());
  CHECK(context->held.size() == 4);
  context->Open(OkStatus());
  CHECK(recorder.Call<&Recorder::Log>().Wait().value() == std::vector<int>{1, 2});
}

TEST_CASE("a gate that fails keeps the call from leaving", "[rpc]") {
  const auto recorder = MakeStub<Recorder>();
  const auto context = std::make_shared<TestContext>();
  Status seen;
  {
    CallContext::Scope scope(context);
    recorder.Call<&Recorder::Append>(1).Then([&seen](Status status) { seen = status; });
  }
  context->Open(DataLoss("the write failed"));
  CHECK(seen.code() == StatusCode::kDataLoss);
  CHECK(context->resumed == 1);
  CHECK(recorder.Call<&Recorder::Log>().Wait().value().empty());
}

class Upper : public MethodHook {
 public:
  explicit Upper(Loop* home) : MethodHook(home) {}
  void OnCall(std::string_view method, Array args, Resolver done) override {
    if (method == "never") return;  // dropped unanswered
    done.Settle(Value(ArrayOf(method, args.size())));
  }
};

TEST_CASE("a hook of one's own answers calls by name", "[rpc]") {
  const AnyStub stub(MakeHook<Upper>(nullptr));
  CHECK(stub.Call("hello", 1, 2).Wait().value() == Value(ArrayOf("hello", 2)));
  CHECK(stub.Call("hello", stub.Call("x")).Wait().value() == Value(ArrayOf("hello", 1)));
  CHECK(stub.Call("never").Wait().status().code() == StatusCode::kCancelled);
  CHECK(stub.Get("anything").Wait().value() == Value());
}

TEST_CASE("a long chain of promises settles without a deep stack", "[rpc]") {
  Pending first = MakePromise();
  AnyStub at(first.promise);
  for (int i = 0; i < 200000; ++i) {
    const std::string_view name = "next";
    at = AnyStub(at.hook()->Call({&name, 1}, {}));
  }
  StatusOr<Value> last = Internal("nothing yet");
  at.hook()->Pull([&last](StatusOr<Value> outcome) { last = std::move(outcome); });
  first.resolver.Settle(Unavailable("gone"));
  CHECK(last.status().code() == StatusCode::kUnavailable);
}

TEST_CASE("a long chain of promises can be dropped", "[rpc]") {
  Pending first = MakePromise();
  HookPtr at = first.promise;
  for (int i = 0; i < 200000; ++i) {
    const std::string_view name = "next";
    at = at->Call({&name, 1}, {});
  }
  at = nullptr;
  first.promise = nullptr;
  first.resolver = Resolver();
  SUCCEED();
}

TEST_CASE("a task that waits when its loop stops is destroyed with the loop", "[rpc]") {
  class Patient : public Target {
   public:
    explicit Patient(std::shared_ptr<int> held) : held_(std::move(held)) {}
    Task<int> Forever() {
      const auto held = held_;
      co_await Promise<Value>(never_.promise);
      co_return 1;
    }
    Task<int> Sleeps() {
      const auto held = held_;
      co_await Sleep(*Loop::Current(), int64_t{3600} * 1'000'000'000);
      co_return 1;
    }
    using Rpc = Methods<&Patient::Forever, &Patient::Sleeps>;

   private:
    std::shared_ptr<int> held_;
    Pending never_ = MakePromise();
  };
  const auto held = std::make_shared<int>(0);
  std::vector<Status> seen;
  {
    const auto executor = Executor::Create({.threads = 1}).value();
    RunOn(executor->loop(0), [&] {
      const auto patient = MakeStub<Patient>(held);
      for (const char* method : {"forever", "sleeps", "sleeps"}) {
        patient.Call(method).Then(
            [&seen](StatusOr<Value> outcome) { seen.push_back(outcome.status()); });
      }
    });
    CHECK(seen.empty());
    CHECK(held.use_count() > 3);
  }
  CHECK(held.use_count() == 1);
  CHECK(seen.size() == 3);
  for (const Status& status : seen) CHECK(status.code() == StatusCode::kCancelled);
}

TEST_CASE("a method is found by name through a perfect hash, and by nothing close to it", "[rpc]") {
  const MethodTable& table = MethodsOf<Api>();
  CHECK(table.slots != nullptr);
  for (size_t i = 0; i < table.count; ++i) {
    const std::string name(table.entries[i].name);
    CHECK(table.Find(name) == &table.entries[i]);
    for (const std::string& other : {name + "x", name.substr(1), name.substr(0, name.size() - 1),
                                     std::string(1, 'x') + name, std::string()})
      CHECK((table.Find(other) == nullptr || table.Find(other)->name == other));
  }
}

}  // namespace
}  // namespace edge::rpc
