#include "edge/base/network.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <future>

#include "edge/base/errors.h"
#include "edge/base/task.h"
#include "tests/base/temp_directory.h"

using namespace edge;  // NOLINT

namespace {

using ConnectionPtr = std::unique_ptr<Connection>;

std::unique_ptr<Executor> OneLoop() {
  return Executor::Create({.threads = 1}).value();
}

// One end of a connection, as a test sees it. Lives on the loop.
struct End {
  ConnectionPtr connection;
  std::string received;
  int drained = 0;
  std::optional<Status> closed;
  Callback<void(End&)> changed;  // after every event

  void Start(ConnectionPtr made) {
    connection = std::move(made);
    connection->Start({.on_data =
                           [this](ByteView bytes) {
                             received += AsText(bytes);
                             Tell();
                           },
                       .on_close =
                           [this](Status status) {
                             closed = std::move(status);
                             Tell();
                           },
                       .on_drained =
                           [this] {
                             ++drained;
                             Tell();
                           }});
  }
  void Tell() {
    if (changed) changed(*this);
  }
};

// A listener and the two ends of one connection to it, all on one loop.
struct Pair {
  explicit Pair(Loop& on, const std::string& address) : loop(on) {
    std::promise<Status> both;
    int ready = 0;
    RunOn(loop, [&] {
      auto made = PosixNetwork().Listen(loop, address, [&](ConnectionPtr connection) {
        server.Start(std::move(connection));
        if (++ready == 2) both.set_value(OkStatus());
      });
      REQUIRE(made.status().ToString() == "OK");
      listener = *std::move(made);
      PosixNetwork().Connect(loop, listener->address(), [&](StatusOr<ConnectionPtr> connection) {
        if (!connection.ok()) return both.set_value(connection.status());
        client.Start(*std::move(connection));
        if (++ready == 2) both.set_value(OkStatus());
      });
    });
    REQUIRE(both.get_future().get().ToString() == "OK");
  }
  ~Pair() {
    RunOn(loop, [this] {
      client.connection.reset();
      server.connection.reset();
      listener.reset();
    });
  }
  // Runs `act` on the loop, then waits until `done` holds after some event of either end.
  template <typename Act, typename Done>
  void Until(Act act, Done done) {
    std::promise<void> reached;
    bool told = false;
    RunOn(loop, [&] {
      const auto check = [&](End&) {
        if (!told && done()) {
          told = true;
          reached.set_value();
        }
      };
      client.changed = check;
      server.changed = check;
      act();
      check(client);
    });
    reached.get_future().wait();
    Quiet();
  }

  void Quiet() {
    RunOn(loop, [this] {
      client.changed = nullptr;
      server.changed = nullptr;
    });
  }

  Loop& loop;
  std::unique_ptr<Listener> listener;
  End client;
  End server;
};

StatusOr<ConnectionPtr> ConnectNow(Loop& loop, const std::string& address) {
  std::promise<StatusOr<ConnectionPtr>> promise;
  RunOn(loop, [&] {
    PosixNetwork().Connect(loop, address, [&promise](StatusOr<ConnectionPtr> connection) {
      promise.set_value(std::move(connection));
    });
  });
  return promise.get_future().get();
}

}  // namespace

TEST_CASE("bytes go both ways over TCP v4, v6 and unix sockets", "[base][network]") {
  const TempDirectory temp;
  const std::string address =
      GENERATE(std::string("127.0.0.1:0"), std::string("[::1]:0"), std::string("unix:"));
  auto executor = OneLoop();
  Pair pair(executor->loop(0), address == "unix:" ? address + temp.File("s") : address);
  pair.Until(
      [&] {
        REQUIRE(pair.client.connection->Write(AsBytes("ping")).ok());
        REQUIRE(pair.client.connection->Write(AsBytes(" one")).ok());
        REQUIRE(pair.client.connection->buffered_bytes() == 8);  // sent at the end of the turn
      },
      [&] { return pair.server.received == "ping one" && pair.client.drained == 1; });
  pair.Until([&] { REQUIRE(pair.server.connection->Write(AsBytes("pong")).ok()); },
             [&] { return pair.client.received == "pong"; });
  REQUIRE(pair.client.connection->peer_address() == pair.listener->address());
}

TEST_CASE("close sends what is queued, then both ends hear OK", "[base][network]") {
  auto executor = OneLoop();
  Pair pair(executor->loop(0), "127.0.0.1:0");
  const std::string much(3'000'000, 'x');
  pair.Until(
      [&] {
        // Unread bytes at the closing end must not turn the end into a reset.
        REQUIRE(pair.server.connection->Write(AsBytes("late")).ok());
        REQUIRE(pair.client.connection->Write(AsBytes(much)).ok());
        pair.client.connection->Close();
        REQUIRE(pair.client.connection->Write(AsBytes("x")).code() == StatusCode::kUnavailable);
      },
      [&] { return pair.client.closed.has_value() && pair.server.closed.has_value(); });
  REQUIRE(pair.server.received == much);
  REQUIRE(pair.client.closed->ok());
  REQUIRE(pair.server.closed->ok());
}

TEST_CASE("a paused reader holds the writer back until its buffer is full", "[base][network]") {
  auto executor = OneLoop();
  Pair pair(executor->loop(0), "127.0.0.1:0");
  const Bytes block(size_t{1} << 20, std::byte{'b'});
  size_t accepted = 0;
  RunOn(pair.loop, [&] { pair.server.connection->PauseReading(true); });
  // One write a turn: the socket's own buffers fill first, then ours.
  for (bool full = false; !full;) {
    RunOn(pair.loop, [&] {
      const Status status = pair.client.connection->Write(block);
      full = status.code() == StatusCode::kResourceExhausted;
      if (status.ok()) accepted += block.size();
      REQUIRE(pair.client.connection->buffered_bytes() <= size_t{16} << 20);
    });
    REQUIRE(accepted < size_t{64} << 20);
  }
  REQUIRE(accepted >= size_t{15} << 20);
  REQUIRE(RunOn(pair.loop, [&] { return pair.server.received.size(); }) == 0);
  pair.Until([&] { pair.server.connection->PauseReading(false); },
             [&] { return pair.server.received.size() == accepted && pair.client.drained > 0; });
  REQUIRE(RunOn(pair.loop, [&] { return pair.client.connection->buffered_bytes(); }) == 0);
}

TEST_CASE("destroying one end tells the other, and calls back no more", "[base][network]") {
  auto executor = OneLoop();
  Pair pair(executor->loop(0), "127.0.0.1:0");
  pair.Until(
      [&] {
        REQUIRE(pair.client.connection->Write(AsBytes("never sent")).ok());
        pair.client.connection.reset();
      },
      [&] { return pair.server.closed.has_value(); });
  REQUIRE_FALSE(pair.client.closed.has_value());
  REQUIRE(pair.server.received.empty());
}

TEST_CASE("a connection may be destroyed from inside its own callbacks", "[base][network]") {
  auto executor = OneLoop();
  Pair pair(executor->loop(0), "127.0.0.1:0");
  RunOn(pair.loop, [&] {
    pair.server.changed = [&pair, held = std::make_shared<int>(1)](End& end) {
      pair.server.connection.reset();
      REQUIRE(held.use_count() == 1);  // the capture outlives the call
      end.received += "!";
    };
  });
  std::promise<void> closed;
  RunOn(pair.loop, [&] {
    pair.client.changed = [&](End& end) {
      if (end.closed.has_value()) closed.set_value();
    };
    REQUIRE(pair.client.connection->Write(AsBytes("x")).ok());
  });
  closed.get_future().wait();
  REQUIRE(pair.server.received == "x!");
  pair.Quiet();
}

TEST_CASE("bad addresses, taken ports and silent hosts are told apart", "[base][network]") {
  auto executor = OneLoop();
  Loop& loop = executor->loop(0);
  for (const char* bad : {"", "127.0.0.1", "127.0.0.1:", "127.0.0.1:99999", "127.0.0.1:1x",
                          "1.2.3:4", "::1:7", "[::1:7", "name:80", "unix:"}) {
    CAPTURE(bad);
    REQUIRE(ConnectNow(loop, bad).status().code() == StatusCode::kInvalidArgument);
  }
  REQUIRE(ConnectNow(loop, "unix:/nowhere/at/all").status().code() == StatusCode::kUnavailable);
  const auto ignore = [](ConnectionPtr) {};
  auto listener =
      RunOn(loop, [&] { return PosixNetwork().Listen(loop, "127.0.0.1:0", ignore).value(); });
  const std::string taken = listener->address();
  REQUIRE_FALSE(taken.ends_with(":0"));
  const auto second = RunOn(loop, [&] { return PosixNetwork().Listen(loop, taken, ignore); });
  REQUIRE(second.status().code() == StatusCode::kUnavailable);
  REQUIRE(Message(second.status()) == "listen on " + taken + ": address in use");
  RunOn(loop, [&] { listener.reset(); });
  REQUIRE(ConnectNow(loop, taken).status().code() == StatusCode::kUnavailable);  // refused
}

TEST_CASE("a stale unix socket is replaced, a living one and a file are not", "[base][network]") {
  const TempDirectory temp;
  const std::string path = temp.File("s");
  {
    const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
    REQUIRE(bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
    close(fd);  // as a killed process leaves it
  }
  auto executor = OneLoop();
  Loop& loop = executor->loop(0);
  const auto listen = [&] {
    return RunOn(loop,
                 [&] { return PosixNetwork().Listen(loop, "unix:" + path, [](ConnectionPtr) {}); });
  };
  auto first = listen();
  REQUIRE(first.status().ToString() == "OK");
  REQUIRE(listen().status().code() == StatusCode::kUnavailable);
  RunOn(loop, [&] { first->reset(); });
  REQUIRE_FALSE(std::filesystem::exists(path));
  {
    std::FILE* file = std::fopen(path.c_str(), "w");
    std::fclose(file);
  }
  REQUIRE(listen().status().code() == StatusCode::kUnavailable);
  REQUIRE(std::filesystem::exists(path));
}

TEST_CASE("an executor may stop with a connection attempt in the air", "[base][network]") {
  const TempDirectory temp;
  auto held = std::make_shared<int>(1);
  {
    auto executor = OneLoop();
    Loop& loop = executor->loop(0);
    auto listener = RunOn(loop, [&] {
      return PosixNetwork().Listen(loop, "127.0.0.1:0", [](ConnectionPtr) {}).value();
    });
    RunOn(loop, [&] {
      for (int i = 0; i < 10; ++i) {
        PosixNetwork().Connect(loop, listener->address(),
                               [held](const StatusOr<ConnectionPtr>&) {});
      }
      listener.reset();
    });
  }
  REQUIRE(held.use_count() == 1);
}
