// Holding an object is the permission: the server hands out a User to whoever can show the
// cookie of one, and nothing else reaches what belongs to a user.
//
// "Authenticate, then ask the name" is one round trip, because the second call is made on the
// promise of the first; and a User lives for as long as somebody holds a stub to it.
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

class User : public Target {
 public:
  explicit User(std::string name) : name_(std::move(name)) { ++alive; }
  ~User() override { --alive; }
  std::string GetName() { return name_; }
  void Rename(std::string_view name) { name_ = name; }
  using Rpc = Methods<&User::GetName, &User::Rename>;
  static inline int alive = 0;

 private:
  std::string name_;
};

class AuthService : public Target {
 public:
  StatusOr<std::shared_ptr<User>> Authenticate(std::string_view cookie) {
    if (!cookie.starts_with("user=")) return Unauthenticated("no such cookie");
    return std::make_shared<User>(std::string(cookie.substr(5)));
  }
  using Rpc = Methods<&AuthService::Authenticate>;  // no way to a User but this
};

Task<Status> Client(Io& io, std::string url) {
  EDGE_CO_ASSIGN_OR_RETURN(auto session, co_await WebSocketSession::Open(io, url, {}));
  Stub<AuthService> auth = session->main().As<AuthService>();

  auto name = auth.Call<&AuthService::Authenticate>("user=ada").Call<&User::GetName>();
  const std::string ada = co_await name;  // one round trip for both calls
  std::printf("hello, %s\n", ada.c_str());

  auto stolen = auth.Call<&AuthService::Authenticate>("stolen").Call<&User::GetName>();
  const StatusOr<std::string> refused = co_await stolen.Try();
  std::printf("an intruder hears: %s\n", refused.status().ToString().c_str());

  {
    Stub<User> grace = auth.Call<&AuthService::Authenticate>("user=grace").stub();
    grace.Call<&User::Rename>("Grace").Ignore();
    auto renamed = grace.Call<&User::GetName>();
    const std::string now = co_await renamed;
    if (now != "Grace") co_return Internal("not renamed");
    std::printf("while a stub to her is held, %d user lives\n", User::alive);
  }
  // Calls are in order: when this one is answered, the release before it has arrived.
  auto last = auth.Call<&AuthService::Authenticate>("x");
  const auto nobody = co_await last.Try();
  std::printf("afterwards, %d\n", User::alive);
  const bool good =
      refused.status().code() == StatusCode::kUnauthenticated && !nobody.ok() && User::alive == 0;
  co_return good ? OkStatus() : Internal("somebody got or kept what was not theirs");
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
    server = HttpServer::Create(*io, {}).value();
    server
        ->HandleRpc(
            "/auth",
            [](const HttpRequest&) -> StatusOr<HookPtr> { return MakeStub<AuthService>().hook(); })
        .IgnoreError();
    tasks.Spawn([](Io& on, std::string url, Resolver done) -> Task<void> {
      const Status status = co_await Client(on, url);
      done.Settle(status.ok() ? StatusOr<Value>(Value()) : status);
    }(*io, "ws://" + server->address() + "/auth", std::move(finished.resolver)));
  });
  const Status status = Promise<void>(finished.promise).Wait();
  RunOn(loop, [&] {
    server.reset();
    io.reset();
  });
  std::printf("%s\n", status.ok() ? "proved: only who has the cookie holds the user"
                                  : status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
