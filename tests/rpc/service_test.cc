// A service that goes away and comes back, in a simulation.
#include "edge/rpc/service.h"

#include <catch2/catch.hpp>

#include "tests/rpc/world.h"

namespace edge::rpc {
namespace {

struct Remote {
  explicit Remote(World& in, ServiceOptions options = {}) : world(in) {
    options.url = "ws://server:80/rpc";
    world.client_host().Run([&] { service = Service::Create(world.client_io(), options); });
  }
  ~Remote() {
    world.client_host().Run([&] { service.reset(); });
  }
  StatusOr<Value> Call(std::string_view method, Array args = {}) {
    return world.Call(AnyStub(service->main()), method, std::move(args));
  }
  World& world;
  std::unique_ptr<Service> service;
};

TEST_CASE("a service connects at its first call and again after a loss", "[rpc][sim]") {
  World world(Plain());
  Remote remote(world);
  world.RunFor(1);
  CHECK(world.server().connections() == 0);
  CHECK(remote.Call("add", {1, 2}).value() == 3);
  CHECK(remote.Call("add", {1, 3}).value() == 4);
  CHECK(world.server().connections() == 1);
  world.StopServer();
  world.RunFor(10);
  CHECK_FALSE(remote.service->connected());
  CHECK(remote.Call("add", {1, 2}).status().code() == StatusCode::kUnavailable);
  world.StartServer(Plain());
  CHECK(remote.Call("add", {1, 4}).value() == 5);
}

TEST_CASE("only idempotent methods are called again", "[rpc][sim]") {
  World world(Plain());
  ServiceOptions options;
  options.retries_max = 8;
  options.idempotent = {"who"};
  Remote remote(world, options);
  CHECK(remote.Call("who").value() == "anybody");
  world.StopServer();
  world.RunFor(10);
  std::optional<StatusOr<Value>> who;
  std::optional<StatusOr<Value>> add;
  world.client_host().Run([&] {
    const AnyStub stub(remote.service->main());
    stub.Call("who").Then([&](StatusOr<Value> outcome) { who = std::move(outcome); });
    stub.Call("add", 1, 2).Then([&](StatusOr<Value> outcome) { add = std::move(outcome); });
  });
  world.RunFor(1);
  REQUIRE(add.has_value());
  CHECK(add->status().code() == StatusCode::kUnavailable);
  CHECK_FALSE(who.has_value());
  world.StartServer(Plain());
  world.RunFor(8);
  REQUIRE(who.has_value());
  CHECK(who->value() == "anybody");
}

TEST_CASE("calls have a deadline, connected or not", "[rpc][sim]") {
  World world(Plain());
  ServiceOptions options;
  options.deadline_ms = 2000;
  Remote remote(world, options);
  const Status late = remote.Call("never").status();
  CHECK(late == Status(DeadlineExceeded("no answer within 2000 ms")));
  CHECK(remote.Call("add", {1, 2}).value() == 3);
  world.simulation().SetPartitioned(world.client_host(), world.server_host(), true);
  CHECK(remote.Call("add", {1, 2}).status().code() == StatusCode::kDeadlineExceeded);
}

TEST_CASE("what is pipelined on a service's call takes no further round trip", "[rpc][sim]") {
  World world(Plain());
  Remote remote(world);
  std::optional<StatusOr<Value>> size;
  world.client_host().Run([&] {
    const AnyStub stub(remote.service->main());
    stub.Call("self").Call("self").Call("add", 20, 1).Then([&](StatusOr<Value> outcome) {
      size = std::move(outcome);
    });
  });
  world.RunFor(5);
  REQUIRE(size.has_value());
  CHECK(size->value() == 21);
}

TEST_CASE("the trace goes with the handshake", "[rpc][sim]") {
  World world(Plain());
  ServiceOptions options;
  options.trace = {1, 2, 3};
  Remote remote(world, options);
  CHECK(remote.Call("add", {1, 2}).ok());
  TraceContext seen;
  REQUIRE(TraceContext::FromTraceparent(world.traceparent, &seen));
  CHECK(seen.trace_id_low == 2);
  CHECK(seen.span_id == 3);
}

TEST_CASE("a service that was destroyed fails its calls", "[rpc][sim]") {
  World world(Plain());
  Remote remote(world);
  const AnyStub stub(remote.service->main());
  world.client_host().Run([&] { remote.service.reset(); });
  CHECK(world.Call(stub, "add", {1, 2}).status() == Status(Unavailable("the service was closed")));
}

class Listed : public Target {
 public:
  int Get() { return 1; }
  int Set() { return 2; }
  using Rpc = Methods<&Listed::Get, &Listed::Set>;
  using Idempotent = Methods<&Listed::Get>;
};

TEST_CASE("a class lists its idempotent methods", "[rpc]") {
  CHECK(IdempotentNames<Listed>() == std::vector<std::string>{"get"});
  CHECK(IdempotentNames<Desk>().empty());
}

}  // namespace
}  // namespace edge::rpc
