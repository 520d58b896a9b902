// Two sessions joined by queues, for tests that drive them message by message.
#pragma once
#include <algorithm>
#include <catch2/catch.hpp>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "edge/rpc/session.h"
#include "edge/rpc/stub.h"

namespace edge::rpc {

inline std::vector<std::string> TakeAll(Session& session) {
  std::vector<std::string> messages;
  for (std::string message; session.TakeOutput(&message);) messages.push_back(message);
  return messages;
}

class Joined {
 public:
  explicit Joined(HookPtr main, const SessionLimits& limits = {})
      : server(Session::Create(std::move(main), limits)), client(Session::Create(nullptr)) {}

  // One message; false if there is none.
  bool Step(Session& from, Session& to) {
    std::string message;
    if (!from.TakeOutput(&message)) return false;
    ++messages;
    bytes += message.size();
    to.OnMessage(message).IgnoreError();
    return true;
  }
  void Run() {
    while (Step(*client, *server) || Step(*server, *client)) {
    }
  }
  AnyStub main() const { return client->main(); }
  template <typename T>
  Result<T> Get(Promise<T> promise) {
    std::optional<Result<T>> result;
    promise.Then([&result](Result<T> outcome) { result = std::move(outcome); });
    Run();
    return result ? *result : Result<T>(Internal("no answer"));
  }
  void CheckEmpty() {
    Run();
    for (const Session* session : {client.get(), server.get()}) {
      CHECK_FALSE(session->ended());
      CHECK(session->counts().imports == 1);
      CHECK(session->counts().exports == 1);
    }
  }

  std::unique_ptr<Session> server;
  std::unique_ptr<Session> client;
  int messages = 0;
  size_t bytes = 0;
};

}  // namespace edge::rpc
