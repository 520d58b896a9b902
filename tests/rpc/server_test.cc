// The transports: stock capnweb under Node against our server, our client against our server.
#include <sys/wait.h>

#include <catch2/catch.hpp>
#include <cstdio>
#include <filesystem>

#include "edge/base/errors.h"
#include "edge/base/executor.h"
#include "edge/rpc/http_server.h"
#include "edge/rpc/web_socket.h"
#include "tests/rpc/conformance.h"

namespace edge::rpc {
namespace {

// A server on a loop of its own, and a second loop for clients.
class ServerFixture {
 public:
  ServerFixture() : executor_(Executor::Create({.threads = 2}).value()) {
    RunOn(executor_->loop(0), [this] {
      io_ = Io::Create(executor_->loop(0)).value();
      HttpServer::Options options;
      options.body_bytes_max = 4 << 20;
      server_ = HttpServer::Create(*io_, std::move(options)).value();
      auto world = std::make_shared<ConformanceWorld>();
      const auto open = [world](const HttpRequest& request) -> StatusOr<HookPtr> {
        if (request.path == "/rpc/denied") return PermissionDenied("not you");
        return Stub<Conformance>(std::make_shared<Conformance>(world)).hook();
      };
      REQUIRE(server_->HandleRpc("/rpc", open).ok());
      REQUIRE(server_->HandleRpc("/rpc/", open).ok());
      REQUIRE(server_->HandleRpc("/rpc", open).code() == StatusCode::kFailedPrecondition);
      REQUIRE(server_
                  ->Handle("/page",
                           [](const HttpRequest& request, HttpReply reply) {
                             reply.Send({.content_type = std::string(ContentTypeFor("a.html")),
                                         .body = request.method + " " + request.path + " " +
                                                 request.query + " " + request.body});
                           })
                  .ok());
      REQUIRE(server_->Handle("/dropped", [](const HttpRequest&, HttpReply) {}).ok());
      address_ = server_->address();
    });
    RunOn(client_loop(), [this] { client_io_ = Io::Create(client_loop()).value(); });
  }
  ~ServerFixture() {
    RunOn(client_loop(), [this] {
      clients_.clear();
      client_io_.reset();
    });
    StopServer();
    RunOn(executor_->loop(0), [this] { io_.reset(); });
  }
  void StopServer() {
    RunOn(executor_->loop(0), [this] { server_.reset(); });
  }

  // Connects on the client loop and waits; the session lives as long as the fixture.
  StatusOr<AnyStub> Connect(std::string path, HookPtr main = nullptr) {
    Pending opened = MakePromise(&client_loop());
    RunOn(client_loop(), [&] {
      WebSocketSession::Options options;
      options.main = std::move(main);
      WebSocketSession::Connect(*client_io_, "ws://" + address_ + path, std::move(options),
                                [this, resolver = std::move(opened.resolver)](
                                    StatusOr<std::unique_ptr<WebSocketSession>> session) mutable {
                                  if (!session.ok()) return resolver.Settle(session.status());
                                  clients_.push_back(std::move(*session));
                                  resolver.Settle(ToValue(clients_.back()->main()));
                                });
    });
    return Promise<AnyStub>(opened.promise).Wait();
  }
  void Disconnect() {
    RunOn(client_loop(), [this] { clients_.clear(); });
  }

  Loop& client_loop() { return executor_->loop(1); }
  Io& io() { return *io_; }
  Loop& loop() { return executor_->loop(0); }
  const std::string& address() const { return address_; }

 private:
  std::unique_ptr<Executor> executor_;
  std::unique_ptr<Io> io_;
  std::unique_ptr<Io> client_io_;
  std::unique_ptr<HttpServer> server_;
  std::vector<std::unique_ptr<WebSocketSession>> clients_;
  std::string address_;
};

TEST_CASE("the stock capnweb client finds every behaviour it expects", "[rpc][node]") {
  const std::string modules = EDGE_SOURCE_DIR "/build/node/node_modules";
  for (const char* package : {"capnweb", "ws"}) {
    INFO("npm package " << package << " is missing in " << modules << ": run scripts/setup");
    REQUIRE(std::filesystem::exists(modules + "/" + package + "/package.json"));
  }
  ServerFixture fixture;
  const std::string command = "node " EDGE_SOURCE_DIR "/tests/rpc/capnweb_client.mjs " + modules +
                              " " + fixture.address() + " 2>&1";
  FILE* const node = popen(command.c_str(), "r");
  REQUIRE(node != nullptr);
  std::string output;
  for (char buffer[4096]; std::fgets(buffer, sizeof(buffer), node) != nullptr;) output += buffer;
  const int status = pclose(node);
  INFO(output);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
  CHECK(output.find("31 passed, 0 failed") != std::string::npos);
}

TEST_CASE("our client calls our server over a WebSocket", "[rpc]") {
  ServerFixture fixture;
  const AnyStub api = fixture.Connect("/rpc").value();
  CHECK(api.Call<double>("square", 12).Wait().value() == 144);
  CHECK(api.Call("makeCounter", 4).Call<double>("increment", 5).Wait().value() == 9);
  const auto typed = api.As<Conformance>();
  CHECK(typed.Call<&Conformance::Square>(3).Wait().value() == 9);
  const auto counter = typed.Call<&Conformance::MakeCounter>(7);
  CHECK(counter.Call<&ConformanceCounter::Increment>().Wait().value() == 8);
  const Status failed = typed.Call<&Conformance::ThrowError>().Wait();
  CHECK(failed.code() == StatusCode::kOutOfRange);
  CHECK(Message(failed) == "test error");
  std::vector<Promise<double>> many;
  for (int i = 0; i < 500; ++i) many.push_back(typed.Call<&Conformance::Square>(i));
  for (int i = 0; i < 500; ++i) CHECK(many[static_cast<size_t>(i)].Wait().value() == i * i);
}

TEST_CASE("the server calls back into our client", "[rpc]") {
  ServerFixture fixture;
  const AnyStub api = fixture.Connect("/rpc").value();
  const Stub<Value(Value)> twice = RunOn(fixture.client_loop(), [] {
    return Stub<Value(Value)>([](Value x) { return Value(2 * x.number()); });
  });
  CHECK(api.Call("callFunction", twice, 21).Wait().value()["result"] == 42);
}

TEST_CASE("a refused session gives the server's reason", "[rpc]") {
  ServerFixture fixture;
  CHECK(fixture.Connect("/rpc/denied").status() == Status(PermissionDenied("not you")));
  CHECK(fixture.Connect("/nowhere").status().code() == StatusCode::kNotFound);
}

TEST_CASE("calls that wait fail when the server goes", "[rpc]") {
  ServerFixture fixture;
  const AnyStub api = fixture.Connect("/rpc").value();
  CHECK(api.Call("square", 2).Wait().ok());
  Pending never = MakePromise(&fixture.client_loop());
  const Stub<Value(Value)> silent = RunOn(fixture.client_loop(), [&] {
    return Stub<Value(Value)>(
        [promise = never.promise](const Value&) { return Promise<Value>(promise); });
  });
  Promise<Value> waits = api.Call("callFunction", silent, 1);
  CHECK(api.Call("square", 2).Wait().ok());  // the slow call has arrived
  fixture.StopServer();
  CHECK(waits.Wait().status().code() == StatusCode::kUnavailable);
  RunOn(fixture.client_loop(), [&never] { never.resolver.Settle(Value()); });
  CHECK(api.Call("square", 2).Wait().status().code() == StatusCode::kUnavailable);
}

TEST_CASE("objects of a client die when it disconnects", "[rpc]") {
  ServerFixture fixture;
  const AnyStub watcher = fixture.Connect("/rpc").value();
  {
    const AnyStub api = fixture.Connect("/rpc").value();
    CHECK(api.Call("makeTracked", "x").Call<std::string>("ping").Wait().value() == "pong");
  }
  fixture.Disconnect();
  CHECK(watcher.Call("square", 2).Wait().status().code() == StatusCode::kCancelled);
  const AnyStub again = fixture.Connect("/rpc").value();
  while (again.Call<int>("disposedCount", "x").Wait().value() == 0) {
  }
  SUCCEED();
}

TEST_CASE("bad addresses, busy ports and far interfaces give one clear status", "[rpc]") {
  ServerFixture fixture;
  const auto listen = [&fixture](const std::string& address) {
    return RunOn(fixture.loop(), [&] {
      HttpServer::Options options;
      options.address = address;
      return HttpServer::Create(fixture.io(), std::move(options)).status();
    });
  };
  const Status busy = listen(fixture.address());
  CHECK(busy.code() == StatusCode::kUnavailable);
  CHECK(Message(busy) == "listen on " + fixture.address() + ": the port is in use");
  CHECK(listen("0.0.0.0:0").code() == StatusCode::kFailedPrecondition);
  CHECK(listen("[::]:0").code() == StatusCode::kFailedPrecondition);
  CHECK(listen("localhost:99999").code() == StatusCode::kInvalidArgument);
  CHECK(listen("example.com:80").code() == StatusCode::kInvalidArgument);
  CHECK(listen("8787").code() == StatusCode::kInvalidArgument);
  CHECK(listen("localhost:0").ok());
}

TEST_CASE("a client says why it cannot connect", "[rpc]") {
  ServerFixture fixture;
  const std::string address = fixture.address();
  fixture.StopServer();
  CHECK(fixture.Connect("/rpc").status().code() == StatusCode::kUnavailable);
}

}  // namespace
}  // namespace edge::rpc
