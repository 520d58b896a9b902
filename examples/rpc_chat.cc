// A chat: everybody who joins passes a function, and the room calls it back.
//
// A member is an object; holding its stub is the permission to speak under that name. When
// the last stub to it is gone - said goodbye, or lost the connection - the member leaves.
#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "edge/base/errors.h"
#include "edge/base/executor.h"
#include "edge/rpc/http_server.h"
#include "edge/rpc/stub.h"
#include "edge/rpc/web_socket.h"

using namespace edge;
using namespace edge::rpc;

using Ear = Stub<void(std::string, std::string)>;  // who, what

struct Room {
  std::map<std::string, Ear> members;
  void Tell(const std::string& who, const std::string& what) {
    for (const auto& [name, listener] : members) listener(who, what).Ignore();
  }
};

class Person : public Target {
 public:
  Person(std::shared_ptr<Room> room, std::string name)
      : room_(std::move(room)), name_(std::move(name)) {}
  ~Person() override {
    room_->members.erase(name_);
    room_->Tell(name_, "(left)");
  }
  void Say(const std::string& text) { room_->Tell(name_, text); }
  using Rpc = Methods<&Person::Say>;

 private:
  std::shared_ptr<Room> room_;
  std::string name_;
};

class Chat : public Target {
 public:
  explicit Chat(std::shared_ptr<Room> room) : room_(std::move(room)) {}
  StatusOr<Stub<Person>> Join(const std::string& name, Ear listener) {
    if (!room_->members.emplace(name, std::move(listener)).second)
      return AlreadyExists("{} is here already", name);
    return MakeStub<Person>(room_, name);
  }
  using Rpc = Methods<&Chat::Join>;

 private:
  std::shared_ptr<Room> room_;
};

Task<Status> Talk(Io& io, std::string url, std::vector<std::string>* heard) {
  EDGE_CO_ASSIGN_OR_RETURN(auto session, co_await WebSocketSession::Open(io, url, {}));
  const Stub<Chat> chat = session->main().As<Chat>();
  const auto listen = [heard](const std::string& who, const std::string& what) {
    heard->push_back(who + ": " + what);
  };
  const Stub<Person> ada = co_await chat.Call<&Chat::Join>("ada", listen);
  {
    const Stub<Person> bob = co_await chat.Call<&Chat::Join>("bob", [](auto, auto) {});
    const Status taken = (co_await chat.Call<&Chat::Join>("bob", listen).Try()).status();
    std::printf("a second bob: %s\n", taken.ToString().c_str());
    co_await bob.Call<&Person::Say>("hello");
    co_await ada.Call<&Person::Say>("hello, bob");
  }  // bob's stub is gone: he leaves
  co_await ada.Call<&Person::Say>("bye");
  co_return OkStatus();
}

int main() {
  auto executor = Executor::Create({.threads = 1}).value();
  Loop& loop = executor->loop(0);
  std::unique_ptr<Io> io;
  std::unique_ptr<HttpServer> server;
  TaskGroup tasks;
  Pending finished = MakePromise(&loop);
  std::vector<std::string> heard;
  RunOn(loop, [&] {
    io = Io::Create(loop).value();
    server = HttpServer::Create(*io, {}).value();
    server
        ->HandleRpc("/chat",
                    [room = std::make_shared<Room>()](const HttpRequest&) -> StatusOr<HookPtr> {
                      return MakeStub<Chat>(room).hook();
                    })
        .IgnoreError();
    tasks.Spawn(
        [](Io& on, std::string url, std::vector<std::string>* to, Resolver done) -> Task<void> {
          const Status status = co_await Talk(on, url, to);
          done.Settle(status.ok() ? StatusOr<Value>(Value()) : status);
        }(*io, "ws://" + server->address() + "/chat", &heard, std::move(finished.resolver)));
  });
  const Status status = Promise<void>(finished.promise).Wait();
  RunOn(loop, [&] {
    server.reset();
    io.reset();
  });
  for (const std::string& line : heard) std::printf("ada heard  %s\n", line.c_str());
  const std::vector<std::string> expected = {"bob: hello", "ada: hello, bob", "bob: (left)",
                                             "ada: bye"};
  const bool good = status.ok() && heard == expected;
  std::printf("%s\n", good ? "proved: callbacks, and who drops the last stub has left"
                           : status.ToString().c_str());
  return good ? 0 : 1;
}
