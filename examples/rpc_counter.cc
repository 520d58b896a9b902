// Objects by reference: a server and a client in one program, joined by a real WebSocket.
//
// The client calls a method of an object that does not exist yet (pipelining), hands the
// server a function to call back, and gets a refusal with its code.
#include <cstdio>
#include <memory>
#include <string>

#include "edge/base/errors.h"
#include "edge/base/executor.h"
#include "edge/rpc/http_server.h"
#include "edge/rpc/stub.h"
#include "edge/rpc/web_socket.h"

using namespace edge;
using namespace edge::rpc;

class Counter : public Target {
 public:
  StatusOr<int> Add(int n) {
    if (n < 0) return InvalidArgument("cannot add {}", n);
    total_ += n;
    if (listener_) listener_(total_).Ignore();
    return total_;
  }
  void Watch(Stub<void(int)> listener) { listener_ = listener; }
  using Rpc = Methods<&Counter::Add, &Counter::Watch>;  // all that callers can reach

 private:
  int total_ = 0;
  Stub<void(int)> listener_;
};

class Bank : public Target {
 public:
  std::shared_ptr<Counter> Open(std::string_view name) {
    std::printf("server: opened %s\n", std::string(name).c_str());
    return std::make_shared<Counter>();
  }
  using Rpc = Methods<&Bank::Open>;
};

Task<Status> Client(Io& io, std::string url) {
  EDGE_CO_ASSIGN_OR_RETURN(auto session, co_await WebSocketSession::Open(io, url, {}));
  Stub<Bank> bank = session->main().As<Bank>();

  Stub<Counter> counter = bank.Call<&Bank::Open>("savings");  // not awaited: it will be there
  int heard = 0;
  counter.Call<&Counter::Watch>([&heard](int total) { heard = total; }).Ignore();
  counter.Call<&Counter::Add>(40).Ignore();
  const int total = co_await counter.Call<&Counter::Add>(2);
  std::printf("client: total %d, heard %d by callback\n", total, heard);

  const StatusOr<int> refused = co_await counter.Call<&Counter::Add>(-1).Try();
  std::printf("client: %s\n", refused.status().ToString().c_str());
  const bool good =
      total == 42 && heard == 42 && refused.status().code() == StatusCode::kInvalidArgument;
  co_return good ? OkStatus() : Internal("the counter is wrong");
}

int main() {
  auto executor = Executor::Create({.threads = 1}).value();
  Loop& loop = executor->loop(0);
  std::unique_ptr<Io> io;
  std::unique_ptr<HttpServer> server;
  TaskGroup tasks;
  Pending finished = MakePromise(&loop);
  RunOn(loop, [&] {
    io = Io::Create(loop).value();
    server = HttpServer::Create(*io, {}).value();  // 127.0.0.1, a free port
    server
        ->HandleRpc("/bank",
                    [](const HttpRequest&) -> StatusOr<HookPtr> { return MakeStub<Bank>().hook(); })
        .IgnoreError();
    tasks.Spawn([](Io& on, std::string url, Resolver done) -> Task<void> {
      const Status status = co_await Client(on, url);
      done.Settle(status.ok() ? StatusOr<Value>(Value()) : status);
    }(*io, "ws://" + server->address() + "/bank", std::move(finished.resolver)));
  });
  const Status status = Promise<void>(finished.promise).Wait();
  RunOn(loop, [&] {
    server.reset();
    io.reset();
  });
  std::printf("%s\n", status.ok() ? "proved: pipelining, callbacks and errors over one WebSocket"
                                  : status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
