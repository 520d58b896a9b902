#include "edge/durable/storage.h"

#include <atomic>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "edge/base/errors.h"
#include "edge/durable/host.h"
#include "tests/durable/world.h"

using namespace edge;           // NOLINT
using namespace edge::durable;  // NOLINT
using edge::durable::testing::Pending;
using edge::durable::testing::World;

namespace {

using Entries = std::vector<KvStorage::Entry>;

// Runs what a test hands it, as one of its methods. Same process, so by pointer.
class Bench : public Object {
 public:
  explicit Bench(Context& ctx) : Object(ctx) {
    ++instances;
    if (on_start) on_start(*this);
  }
  void Run(int64_t function) {
    (*reinterpret_cast<std::function<void(Bench&)>*>(function))(*this);  // NOLINT
  }
  Task<void> RunTask(int64_t function) {
    co_await (*reinterpret_cast<std::function<Task<void>(Bench&)>*>(function))(*this);  // NOLINT
  }
  std::vector<std::string> Keys() {
    std::vector<std::string> keys;
    for (auto& [key, value] : kv().List()) keys.push_back(key);
    return keys;
  }
  using Object::ctx;
  using Object::kv;
  using Object::sql;
  using Object::storage;
  using Rpc = rpc::Methods<&Bench::Run, &Bench::RunTask, &Bench::Keys>;

  static inline std::function<void(Bench&)> on_start;
  static inline int instances = 0;
};

struct Fixture : World {
  Fixture()
      : objects(host->AddNamespace<Bench>("B").value()),
        object(objects.Get("a")),
        other(objects.Get("b")) {
    Bench::on_start = nullptr;
    Bench::instances = 0;
  }
  ~Fixture() { Bench::on_start = nullptr; }
  Status Do(std::function<void(Bench&)> work) {
    return object.Call<&Bench::Run>(reinterpret_cast<int64_t>(&work)).Wait();  // NOLINT
  }
  std::string ErrorOf(std::function<void(Bench&)> work) {
    return std::string(Message(Do(std::move(work))));
  }
  // A task that may wait; `work` must outlive it.
  Pending<void> Start(std::function<Task<void>(Bench&)>& work) {
    return Pending<void>(*this, [&] {
      return object.Call<&Bench::RunTask>(reinterpret_cast<int64_t>(&work));  // NOLINT
    });
  }
  std::vector<std::string> Keys() { return object.Call<&Bench::Keys>().Wait().value(); }
  // A promise in the test's hand.
  struct Gate {
    rpc::HookPtr promise;
    rpc::Resolver resolver;
  };
  Gate MakeGate() {
    return RunOn(loop(), [&] {
      auto pending = rpc::MakePromise(&loop());
      return Gate{pending.promise, std::move(pending.resolver)};
    });
  }
  void Open(Gate& gate) {
    RunOn(loop(), [&] { gate.resolver.Settle(rpc::Value()); });
  }
  std::string DatabaseOf(std::string_view name) {
    return "B/" + objects.IdFromName(name).ToString();
  }
  Namespace<Bench> objects;
  rpc::Stub<Bench> object, other;
};

}  // namespace

TEST_CASE("many keys are read, written and deleted at once, all or none", "[durable][kv]") {
  Fixture f;
  REQUIRE(f.Do([](Bench& b) {
             b.kv().PutMany({{"b", "2"}, {"a", "1"}, {"c", "3"}});
             REQUIRE(b.kv().GetMany({"c", "x", "a", "c"}) == Entries{{"a", "1"}, {"c", "3"}});
             REQUIRE(b.kv().DeleteMany({"a", "x", "b"}) == 2);
           }).ok());
  REQUIRE(f.Keys() == std::vector<std::string>{"c"});
  REQUIRE(f.Do([](Bench& b) {
             const Status status = b.kv().TryPutMany({{"d", "4"}, {"", "5"}}, {});
             REQUIRE(Message(status) == "A key must not be empty.");
             REQUIRE(b.kv().TryDeleteMany({"c", ""}, {}).status() == status);
           }).ok());
  REQUIRE(f.Keys() == std::vector<std::string>{"c"});
}

TEST_CASE("keys and values have a size", "[durable][kv]") {
  Fixture f;
  REQUIRE(f.Do([](Bench& b) {
             const std::string big(KvStorage::kEntryBytesMax, 'x');
             REQUIRE(Message(b.kv().TryPut("k", big, {})) ==
                     "Key and value have 2097153 bytes, above the limit of 2097152.");
             REQUIRE(Message(b.kv().TryGet(big + "x").status()) ==
                     "The key has 2097153 bytes, above the limit of 2097152.");
             b.kv().Put("k", big.substr(1));
             REQUIRE(b.kv().Get("k")->size() == big.size() - 1);
             b.kv().Put("empty", "");
             REQUIRE(b.kv().Get("empty") == "");
           }).ok());
}

TEST_CASE("lists agree with a plain map, in every range, order and limit",
          "[durable][kv][property]") {
  const auto seed = GENERATE(range(1u, 9u));
  CAPTURE(seed);
  Fixture f;
  REQUIRE(f.Do([&](Bench& b) {
             std::mt19937 rng(seed);
             std::map<std::string, std::string> model;
             const auto any = [&] {
               static const std::string kBytes[] = {"a", "b", "\x7f", "\xc3\xa9", "\xff", "0"};
               std::string text;
               for (size_t n = rng() % 4; n > 0; --n) text += kBytes[rng() % 6];
               return text;
             };
             REQUIRE(Message(b.kv().TryList({.limit = 0}).status()) ==
                     "List limit must be positive.");
             REQUIRE(Message(b.kv().TryList({.start = "a", .start_after = "b"}).status()) ==
                     "List cannot be given both start and start_after.");
             for (int step = 0; step < 300; ++step) {
               const std::string key = "k" + any();
               if (rng() % 3 != 0) {
                 b.kv().Put(key, any());
                 model[key] = *b.kv().Get(key);
               } else {
                 REQUIRE(b.kv().Delete(key) == (model.erase(key) > 0));
               }
               KvStorage::ListOptions options;
               if (rng() % 2) options.prefix = "k" + any();
               if (rng() % 3 == 0) options.start = "k" + any();
               if (rng() % 3 == 0 && options.start.empty()) options.start_after = "k" + any();
               if (rng() % 3 == 0) options.end = "k" + any();
               if (rng() % 3 == 0) options.limit = rng() % 4 + 1;
               const bool reverse = rng() % 2;
               if (reverse) options.order = KvStorage::ListOptions::Order::kReverse;
               Entries expected;
               for (const auto& [k, v] : model) {
                 if (k.starts_with(options.prefix) && k >= options.start &&
                     (options.start_after.empty() || k > options.start_after) &&
                     (options.end.empty() || k < options.end)) {
                   expected.emplace_back(k, v);
                 }
               }
               if (reverse) std::reverse(expected.begin(), expected.end());
               if (expected.size() > options.limit) expected.resize(options.limit);
               REQUIRE(b.kv().List(options) == expected);
             }
           }).ok());
}

TEST_CASE("DeleteAll leaves nothing, cancels cursors, and is part of the turn", "[durable][kv]") {
  Fixture f;
  REQUIRE(f.Do([](Bench& b) {
             b.kv().Put("k", "v");
             b.sql().Exec("CREATE TABLE parent (id INTEGER PRIMARY KEY AUTOINCREMENT)");
             b.sql().Exec("CREATE TABLE \"odd \"\"name\" (p REFERENCES parent(id))");
             b.sql().Exec("INSERT INTO parent VALUES (1)");
             b.sql().Exec("INSERT INTO \"odd \"\"name\" VALUES (1)");
             b.sql().Exec("CREATE VIEW v AS SELECT * FROM parent");
             b.sql().Exec("CREATE INDEX i ON parent (id)");
             b.sql().Exec("CREATE VIRTUAL TABLE words USING fts5(text)");
             b.sql().Exec("INSERT INTO words VALUES ('hello')");
             b.sql().Exec(
                 "CREATE TRIGGER t AFTER DELETE ON parent BEGIN "
                 "SELECT RAISE(FAIL, 'must not run'); END");
           }).ok());
  const auto count = [&] {
    int64_t tables = 0;
    REQUIRE(f.Do([&](Bench& b) {
               tables = b.sql()
                            .Exec<int64_t>(
                                "SELECT count(*) FROM sqlite_schema WHERE name NOT LIKE "
                                "'sqlite%'")
                            .Value();
             }).ok());
    return tables;
  };
  const int64_t before = count();
  REQUIRE(f.ErrorOf([](Bench& b) {
    b.storage().DeleteAll();
    throw Cancelled("after all");
  }) == "after all");
  REQUIRE(count() == before);
  REQUIRE(f.Do([](Bench& b) {
             auto open = b.sql().Exec("SELECT 1 UNION SELECT 2");
             open.Next();
             b.storage().DeleteAll();
             const Status canceled = open.TryNext().status();
             REQUIRE(Message(canceled) ==
                     "SQLite query was canceled because the database was deleted.");
             REQUIRE(b.kv().List().empty());
             b.kv().Put("new", "1");
           }).ok());
  REQUIRE(count() == 1);  // _cf_KV
  REQUIRE(f.Keys() == std::vector<std::string>{"new"});
  REQUIRE(f.ErrorOf([](Bench& b) {
    b.storage().TransactionSync([&] { b.storage().DeleteAll(); });
  }) == "Cannot call deleteAll() within a transaction");
}

TEST_CASE("an unconfirmed write holds nothing back, but its loss resets the object",
          "[durable][gate]") {
  Fixture f;
  REQUIRE(f.Do([](Bench& b) { b.kv().Put("a", "1"); }).ok());
  f.relay.HoldCommits();
  // Its answer leaves although nothing is durable.
  REQUIRE(f.Do([](Bench& b) { b.kv().Put("b", "2", {.allow_unconfirmed = true}); }).ok());
  REQUIRE(f.Keys() == std::vector<std::string>{"a", "b"});
  REQUIRE(Bench::instances == 1);
  f.relay.AwaitWaiting(1);
  f.relay.LoseCommits(Unavailable("the disk is gone"));
  f.Flush();
  f.relay.HoldNoCommits();
  REQUIRE(f.Keys() == std::vector<std::string>{"a"});
  REQUIRE(Bench::instances == 2);
}

TEST_CASE("one confirmed write makes the whole turn wait", "[durable][gate]") {
  Fixture f;
  REQUIRE(f.Do([](Bench& b) { b.kv().Put("a", "1"); }).ok());
  f.relay.HoldCommits();
  std::function<void(Bench&)> both = [](Bench& b) {
    b.kv().Put("b", "2");
    b.kv().Put("c", "3", {.allow_unconfirmed = true});
  };
  Pending<void> answer(
      f, [&] { return f.object.Call<&Bench::Run>(reinterpret_cast<int64_t>(&both)); });  // NOLINT
  REQUIRE(!answer.there());
  f.relay.MakeDurable();
  REQUIRE(answer.Value().ok());
}

TEST_CASE("Sync waits for unconfirmed writes too, and fails with them", "[durable][gate]") {
  Fixture f;
  REQUIRE(f.Do([](Bench& b) { b.kv().Put("a", "1"); }).ok());
  f.relay.HoldCommits();
  std::function<Task<void>(Bench&)> work = [](Bench& b) -> Task<void> {
    b.kv().Put("b", "2", {.allow_unconfirmed = true});
    co_await b.storage().Sync();
  };
  Pending<void> first = f.Start(work);
  REQUIRE(!first.there());
  f.relay.MakeDurable();
  REQUIRE(first.Value().ok());
  Pending<void> second = f.Start(work);
  REQUIRE(!second.there());
  f.relay.LoseCommits(Unavailable("the disk is gone"));
  REQUIRE(second.Value().code() == StatusCode::kUnavailable);
}

TEST_CASE("nothing comes in while BlockConcurrencyWhile waits", "[durable][section]") {
  Fixture f;
  auto gate = f.MakeGate();
  std::function<Task<void>(Bench&)> work = [&](Bench& b) -> Task<void> {
    co_await b.ctx().BlockConcurrencyWhile([&]() -> Task<void> {
      b.kv().Put("a", "1");
      co_await rpc::Promise<void>(gate.promise);
      b.kv().Put("b", "2");
    });
    b.kv().Put("c", "3");
  };
  Pending<void> blocked = f.Start(work);
  Pending<std::vector<std::string>> keys(f, [&] { return f.object.Call<&Bench::Keys>(); });
  REQUIRE(!blocked.there());
  REQUIRE(!keys.there());
  f.Open(gate);
  REQUIRE(blocked.Value().ok());
  const auto seen = keys.Value().value();
  REQUIRE(seen.size() >= 2);  // both writes of the section
  REQUIRE(f.Keys() == std::vector<std::string>{"a", "b", "c"});
}

TEST_CASE("a constructor holds back the first calls until its section has ended",
          "[durable][section]") {
  Fixture f;
  auto gate = f.MakeGate();
  Bench::on_start = [&](Bench& b) {
    b.ctx()
        .BlockConcurrencyWhile([&]() -> Task<void> {
          co_await rpc::Promise<void>(gate.promise);
          b.kv().Put("ready", "1");
        })
        .Ignore();
  };
  Pending<std::vector<std::string>> keys(f, [&] { return f.object.Call<&Bench::Keys>(); });
  REQUIRE(!keys.there());
  f.Open(gate);
  REQUIRE(keys.Value().value() == std::vector<std::string>{"ready"});
}

TEST_CASE("a section that fails resets the object, and the calls that waited fail",
          "[durable][section]") {
  Fixture f;
  auto gate = f.MakeGate();
  Bench::on_start = [&](Bench& b) {
    if (Bench::instances > 1) return;
    b.ctx()
        .BlockConcurrencyWhile([&]() -> Task<void> {
          b.kv().Put("half", "1");
          co_await rpc::Promise<void>(gate.promise);
          b.kv().Put("undone", "1");
          throw Unavailable("no configuration");
        })
        .Ignore();
  };
  Pending<std::vector<std::string>> first(f, [&] { return f.object.Call<&Bench::Keys>(); });
  Pending<std::vector<std::string>> second(f, [&] { return f.object.Call<&Bench::Keys>(); });
  REQUIRE(!first.there());
  f.Open(gate);
  REQUIRE(Message(first.Value().status()) == "no configuration");
  REQUIRE(Message(second.Value().status()) == "no configuration");
  REQUIRE(f.Keys() == std::vector<std::string>{"half"});  // the stretch before its await
  REQUIRE(Bench::instances == 2);
}

TEST_CASE("sections nest, one after the other, 64 deep", "[durable][section]") {
  Fixture f;
  std::string order;
  std::function<Task<void>(Bench&, int)> nest = [&](Bench& b, int depth) -> Task<void> {
    order += '(';
    if (depth > 1) {
      co_await b.ctx().BlockConcurrencyWhile([&, depth] { return nest(b, depth - 1); });
    }
    order += ')';
  };
  std::function<Task<void>(Bench&)> three = [&](Bench& b) -> Task<void> {
    auto first = b.ctx().BlockConcurrencyWhile([&] { return nest(b, 2); });
    auto second = b.ctx().BlockConcurrencyWhile([&] { return nest(b, 1); });
    co_await second;
    co_await first;
  };
  REQUIRE(f.Start(three).Value().ok());
  REQUIRE(order == "(())()");
  int depth = 65;
  std::function<Task<void>(Bench&)> deep = [&](Bench& b) -> Task<void> {
    co_await b.ctx().BlockConcurrencyWhile([&] { return nest(b, depth); });
  };
  Pending<void> too_deep = f.Start(deep);
  REQUIRE(Message(too_deep.Value()) == "blockConcurrencyWhile() calls are nested too deeply.");
  depth = 64;
  REQUIRE(f.Start(deep).Value().ok());
}

TEST_CASE("a transaction spans awaits and is kept whole", "[durable][transaction]") {
  Fixture f;
  auto gate = f.MakeGate();
  std::function<Task<void>(Bench&)> work = [&](Bench& b) -> Task<void> {
    b.kv().Put("before", "1");
    co_await b.storage().Transaction([&](OpenTransaction txn) -> Task<void> {
      txn.Put("a", "1");
      co_await rpc::Promise<void>(gate.promise);
      REQUIRE(txn.Get("a") == "1");
      txn.Put("b", "2");
    });
    REQUIRE(b.kv().Get("b") == "2");
  };
  Pending<void> done = f.Start(work);
  REQUIRE(!done.there());
  f.Open(gate);
  REQUIRE(done.Value().ok());
  REQUIRE(f.Keys() == std::vector<std::string>{"a", "b", "before"});
}

TEST_CASE("a transaction that fails is undone, and the object lives on", "[durable][transaction]") {
  Fixture f;
  auto gate = f.MakeGate();
  std::function<Task<void>(Bench&)> work = [&](Bench& b) -> Task<void> {
    b.kv().Put("before", "1");
    const Status failed = co_await b.storage()
                              .Transaction([&](OpenTransaction txn) -> Task<void> {
                                txn.Put("a", "1");
                                b.sql().Exec("CREATE TABLE t (x)");
                                co_await rpc::Promise<void>(gate.promise);
                                throw Cancelled("changed my mind");
                              })
                              .Try();
    REQUIRE(Message(failed) == "changed my mind");
    REQUIRE(!b.kv().Get("a"));
    b.kv().Put("after", "1");
  };
  Pending<void> done = f.Start(work);
  f.Open(gate);
  REQUIRE(done.Value().ok());
  REQUIRE(f.Keys() == std::vector<std::string>{"after", "before"});
  REQUIRE(Bench::instances == 1);
}

TEST_CASE("transactions nest: the inner one may be undone alone", "[durable][transaction]") {
  Fixture f;
  std::function<Task<void>(Bench&)> work = [&](Bench& b) -> Task<void> {
    co_await b.storage().Transaction([&](OpenTransaction outer) -> Task<void> {
      outer.Put("outer", "1");
      const Status undone = co_await b.storage()
                                .Transaction([&](OpenTransaction inner) -> Task<void> {
                                  inner.Put("inner", "1");
                                  throw Cancelled("inner only");
                                  co_return;
                                })
                                .Try();
      REQUIRE(Message(undone) == "inner only");
      co_await b.storage().Transaction([&](OpenTransaction inner) -> Task<void> {
        inner.Put("second", "1");
        co_return;
      });
    });
  };
  REQUIRE(f.Start(work).Value().ok());
  REQUIRE(f.Keys() == std::vector<std::string>{"outer", "second"});
}

TEST_CASE("a transaction that was rolled back or has ended says so", "[durable][transaction]") {
  Fixture f;
  std::optional<OpenTransaction> kept;
  std::function<Task<void>(Bench&)> work = [&](Bench& b) -> Task<void> {
    co_await b.storage().Transaction([&](OpenTransaction txn) -> Task<void> {
      txn.Put("a", "1");
      txn.Rollback();
      txn.Rollback();  // harmless
      const auto error = [&](auto call) {
        try {
          call();
        } catch (const Error& e) {
          return std::string(Message(e.status()));
        }
        return std::string();
      };
      REQUIRE(error([&] { txn.Get("a"); }) == "Cannot get() on rolled back transaction");
      REQUIRE(error([&] { txn.Put("a", "1"); }) == "Cannot put() on rolled back transaction");
      kept = txn;
      co_return;
    });
    co_await b.storage().Transaction([&](OpenTransaction txn) -> Task<void> {
      kept = txn;
      co_return;
    });
    kept->Delete("a");
  };
  REQUIRE(Message(f.Start(work).Value()) ==
          "Cannot call delete() on transaction that has already committed: did you move `txn` "
          "outside of the closure?");
  REQUIRE(f.Keys().empty());
  REQUIRE(f.ErrorOf([](Bench& b) {
    b.storage().TransactionSync([&] {
      b.storage()
          .Transaction([](OpenTransaction) -> Task<void> { co_return; })
          .Then([](const Status& status) {
            if (!status.ok()) throw Error(status);
          });
    });
  }) == "This cannot be done inside a transaction.");
}

TEST_CASE("a call to an object of the same host does not wait at the caller's gate",
          "[durable][gate]") {
  Fixture f;
  REQUIRE(f.Do([](Bench& b) { b.kv().Put("start", "1"); }).ok());
  f.relay.HoldCommits();
  std::atomic<bool> other_ran = false;
  std::function<void(Bench&)> in_other = [&](Bench&) { other_ran = true; };
  std::function<Task<void>(Bench&)> work = [&](Bench& b) -> Task<void> {
    b.kv().Put("a", "1");
    co_await f.other.Call<&Bench::Run>(reinterpret_cast<int64_t>(&in_other));  // NOLINT
  };
  Pending<void> answer = f.Start(work);
  REQUIRE(!answer.there());
  REQUIRE(other_ran);
  f.relay.MakeDurable();
  REQUIRE(answer.Value().ok());
}

TEST_CASE("but it does not happen before the caller's turn is kept", "[durable][gate]") {
  Fixture f;
  std::atomic<bool> other_ran = false;
  std::function<void(Bench&)> in_other = [&](Bench&) { other_ran = true; };
  REQUIRE(f.ErrorOf([&](Bench&) {
    f.other.Call<&Bench::Run>(reinterpret_cast<int64_t>(&in_other)).Ignore();  // NOLINT
    throw Cancelled("no");
  }) == "no");
  f.Flush();
  REQUIRE(!other_ran);
}

TEST_CASE("what a callee says waits for the caller's writes, though it wrote nothing",
          "[durable][gate]") {
  Fixture f;
  const bool chain = GENERATE(false, true);  // through a third object
  REQUIRE(f.Do([](Bench& b) { b.kv().Put("start", "1"); }).ok());
  f.relay.HoldCommits();
  int heard = 0;  // on the loop
  auto listener = RunOn(f.loop(), [&] { return rpc::Stub<void()>([&heard] { ++heard; }); });
  std::atomic<int> ran = 0;
  std::function<void(Bench&)> tell = [&](Bench&) {
    ++ran;
    listener().Ignore();
  };
  auto third = f.objects.Get("c");
  std::function<void(Bench&)> pass_on = [&](Bench&) {
    ++ran;
    third.Call<&Bench::Run>(reinterpret_cast<int64_t>(&tell)).Ignore();  // NOLINT
  };
  auto* const in_other = chain ? &pass_on : &tell;
  std::function<void(Bench&)> write = [&](Bench& b) {
    b.kv().Put("a", "1");
    f.other.Call<&Bench::Run>(reinterpret_cast<int64_t>(in_other)).Ignore();  // NOLINT
  };
  Pending<void> answer(
      f, [&] { return f.object.Call<&Bench::Run>(reinterpret_cast<int64_t>(&write)); });  // NOLINT
  f.Flush();
  REQUIRE(ran == (chain ? 2 : 1));
  REQUIRE(RunOn(f.loop(), [&] { return heard; }) == 0);
  // A later reader of the callee has seen the effect of the call: it waits as well.
  Pending<std::vector<std::string>> reader(f, [&] { return f.other.Call<&Bench::Keys>(); });
  REQUIRE(!reader.there());
  f.relay.MakeDurable(f.DatabaseOf("a"));
  f.Flush();
  REQUIRE(RunOn(f.loop(), [&] { return heard; }) == 1);
  REQUIRE(answer.Value().ok());
  REQUIRE(reader.Value().ok());
}

TEST_CASE("if the caller's write is refused, the callee that saw it is reset too",
          "[durable][gate]") {
  Fixture f;
  REQUIRE(f.Do([](Bench& b) { b.kv().Put("start", "1"); }).ok());
  REQUIRE(f.other.Call<&Bench::Keys>().Wait().ok());
  REQUIRE(Bench::instances == 2);
  f.relay.HoldCommits();
  std::function<void(Bench&)> in_other = [&](Bench& b) { b.kv().Put("seen", "1"); };
  std::function<Task<void>(Bench&)> work = [&](Bench& b) -> Task<void> {
    b.kv().Put("a", "1");
    co_await f.other.Call<&Bench::Run>(reinterpret_cast<int64_t>(&in_other));  // NOLINT
  };
  Pending<void> answer = f.Start(work);
  Pending<std::vector<std::string>> reader(f, [&] { return f.other.Call<&Bench::Keys>(); });
  REQUIRE(!reader.there());
  f.relay.LoseCommits(Unavailable("the disk is gone"));
  REQUIRE(answer.Value().code() == StatusCode::kUnavailable);
  REQUIRE(reader.Value().status().code() == StatusCode::kUnavailable);
  f.relay.HoldNoCommits();
  REQUIRE(f.other.Call<&Bench::Keys>().Wait()->empty());
  REQUIRE(f.Keys() == std::vector<std::string>{"start"});
  REQUIRE(Bench::instances == 4);
}

TEST_CASE("a callee without writes of its own is reset for its caller's", "[durable][gate]") {
  Fixture f;
  REQUIRE(f.Do([](Bench& b) { b.kv().Put("start", "1"); }).ok());
  REQUIRE(f.other.Call<&Bench::Keys>().Wait().ok());
  f.relay.HoldCommits();
  std::function<void(Bench&)> in_other = [](Bench&) {};
  std::function<void(Bench&)> write = [&](Bench& b) {
    b.kv().Put("a", "1");
    f.other.Call<&Bench::Run>(reinterpret_cast<int64_t>(&in_other)).Ignore();  // NOLINT
  };
  Pending<void> answer(
      f, [&] { return f.object.Call<&Bench::Run>(reinterpret_cast<int64_t>(&write)); });  // NOLINT
  Pending<std::vector<std::string>> reader(f, [&] { return f.other.Call<&Bench::Keys>(); });
  REQUIRE(!reader.there());
  f.relay.LoseCommits(Unavailable("the disk is gone"), f.DatabaseOf("a"));
  REQUIRE(Message(reader.Value().status()) ==
          "Durable Object was reset: it depended on another one's writes: Durable Object was "
          "reset: its writes could not be made durable: the disk is gone");
  REQUIRE(!answer.Value().ok());
}
