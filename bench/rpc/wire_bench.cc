// Calls between two loops: over a WebSocket on loopback TCP, as JSON and in the binary form,
// and across threads. Peers are other systems in two processes, or the bare mechanism.
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <thread>

#include "bench/bench.h"
#include "bench/rpc/peer_program.h"
#include "edge/base/executor.h"
#include "edge/rpc/http_server.h"
#include "edge/rpc/stub.h"
#include "edge/rpc/web_socket.h"

namespace {

using namespace edge;
using namespace edge::rpc;
using bench::Better;
using bench::PeerProgram;
using bench::Sample;

class Squares : public Target {
 public:
  int64_t Square(int64_t i) { return i * i; }
  std::string Echo(std::string text) { return text; }
  std::shared_ptr<Squares> Next() { return std::make_shared<Squares>(depth_ + 1); }
  int64_t Depth() { return depth_; }
  using Rpc = Methods<&Squares::Square, &Squares::Echo, &Squares::Next, &Squares::Depth>;
  explicit Squares(int64_t depth = 0) : depth_(depth) {}

 private:
  const int64_t depth_;
};

// A server on one loop and a client on another, joined by a WebSocket; or by nothing but the
// loops' queues.
class Joined {
 public:
  enum class By : uint8_t { kJson, kBinary, kQueue };
  explicit Joined(By by) : executor_(Executor::Create({.threads = 2}).value()) {
    if (by == By::kQueue) {
      stub_ = RunOn(server_loop(), [] { return AnyStub(MakeStub<Squares>()); });
      return;
    }
    RunOn(server_loop(), [this] {
      server_io_ = Io::Create(server_loop()).value();
      server_ = HttpServer::Create(*server_io_, {}).value();
      server_
          ->HandleRpc(
              "/",
              [](const HttpRequest&) -> StatusOr<HookPtr> { return MakeStub<Squares>().hook(); })
          .IgnoreError();
    });
    Pending opened = MakePromise(&client_loop());
    RunOn(client_loop(), [&] {
      client_io_ = Io::Create(client_loop()).value();
      WebSocketSession::Options options;
      options.offer_binary = by == By::kBinary;
      WebSocketSession::Connect(*client_io_, "ws://" + server_->address() + "/", std::move(options),
                                [this, done = std::move(opened.resolver)](
                                    StatusOr<std::unique_ptr<WebSocketSession>> session) mutable {
                                  session_ = std::move(session).value();
                                  stub_ = session_->main();
                                  done.Settle(Value());
                                });
    });
    if (!Promise<void>(opened.promise).Wait().ok()) std::exit(1);
  }
  ~Joined() {
    RunOn(client_loop(), [this] {
      stub_ = {};
      session_.reset();
      client_io_.reset();
    });
    RunOn(server_loop(), [this] {
      server_.reset();
      server_io_.reset();
    });
  }

  // `count` calls, `window` at any time, each made by `call(stub, index)`; `add` makes a
  // number of each result. The sum.
  uint64_t Run(int count, int window, std::function<Promise<Value>(const AnyStub&, int)> call,
               std::function<uint64_t(const Value&)> add) {
    next_ = 0;
    left_ = total_ = count;
    sum_ = 0;
    call_ = std::move(call);
    add_ = std::move(add);
    Pending done = MakePromise(&client_loop());
    RunOn(client_loop(), [&] {
      done_ = std::move(done.resolver);
      for (int i = 0; i < window; ++i) Next();
    });
    if (!Promise<void>(done.promise).Wait().ok()) std::exit(1);
    return sum_;
  }
  uint64_t RunSquares(int count, int window) {
    return Run(
        count, window,
        [](const AnyStub& stub, int i) { return stub.Call("square", int64_t{i % 1000}); },
        [](const Value& value) { return static_cast<uint64_t>(value.number()); });
  }

 private:
  void Next() {
    if (next_ == total_) return;
    call_(stub_, next_++).Then([this](StatusOr<Value> result) {
      if (!result.ok()) std::exit(1);
      sum_ += add_(*result);
      if (--left_ == 0) return done_.Settle(Value());
      Next();
    });
  }
  Loop& server_loop() { return executor_->loop(0); }
  Loop& client_loop() { return executor_->loop(1); }

  std::unique_ptr<Executor> executor_;
  std::unique_ptr<Io> server_io_;
  std::unique_ptr<Io> client_io_;
  std::unique_ptr<HttpServer> server_;
  std::unique_ptr<WebSocketSession> session_;
  AnyStub stub_;
  std::function<Promise<Value>(const AnyStub&, int)> call_;
  std::function<uint64_t(const Value&)> add_;
  Resolver done_;
  int next_ = 0;
  int left_ = 0;
  int total_ = 0;
  uint64_t sum_ = 0;
};

// Each kind is joined when a row first wants it.
Joined& Get(Joined::By by) {
  static std::unique_ptr<Joined> joined[3];
  auto& one = joined[static_cast<size_t>(by)];
  if (one == nullptr) one = std::make_unique<Joined>(by);
  return *one;
}

// ---- bare mechanisms

// A connected pair of non-blocking loopback sockets.
void ConnectPair(int (&fds)[2]) {
  const int listener = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  auto* const any = reinterpret_cast<sockaddr*>(&address);
  if (bind(listener, any, size) != 0 || listen(listener, 1) != 0) std::exit(1);
  getsockname(listener, any, &size);
  fds[0] = socket(AF_INET, SOCK_STREAM, 0);
  if (connect(fds[0], any, size) != 0) std::exit(1);
  fds[1] = accept(listener, nullptr, nullptr);
  close(listener);
  for (const int fd : fds) {
    const int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    fcntl(fd, F_SETFL, O_NONBLOCK);
  }
}

// Reads `size` bytes, waiting in epoll; false at the end.
bool ReadAll(int epoll_fd, int fd, char* data, size_t size) {
  while (size > 0) {
    epoll_event event;
    if (epoll_wait(epoll_fd, &event, 1, -1) < 0) continue;
    const ssize_t got = read(fd, data, size);
    if (got == 0) return false;
    if (got < 0) continue;
    data += got;
    size -= static_cast<size_t>(got);
  }
  return true;
}

int EpollOn(int fd) {
  const int epoll_fd = epoll_create1(0);
  epoll_event event{};
  event.events = EPOLLIN;
  epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event);
  return epoll_fd;
}

constexpr size_t kEchoBytes = 64;

// 64 bytes there and back, two threads, epoll on both sides.
Sample BarePingPong(int count) {
  int fds[2];
  ConnectPair(fds);
  std::thread server([fd = fds[1]] {
    const int epoll_fd = EpollOn(fd);
    char data[kEchoBytes];
    while (ReadAll(epoll_fd, fd, data, sizeof data))
      if (write(fd, data, sizeof data) < 0) break;
    close(epoll_fd);
  });
  const int epoll_fd = EpollOn(fds[0]);
  uint64_t sum = 0;
  const double seconds = bench::SecondsOf([&] {
    char data[kEchoBytes];
    std::memset(data, 'x', sizeof data);
    for (int i = 0; i < count; ++i) {
      if (write(fds[0], data, sizeof data) < 0) std::exit(1);
      if (!ReadAll(epoll_fd, fds[0], data, sizeof data)) std::exit(1);
      sum += sizeof data;
    }
  });
  close(fds[0]);
  server.join();
  close(fds[1]);
  close(epoll_fd);
  return {seconds / count * 1e6, sum};
}

// A bare queue with wake-up: a task posted to the other loop, which posts the answer back.
class BareQueue {
 public:
  BareQueue() : executor_(Executor::Create({.threads = 2}).value()) {}
  Sample Run(int count) {
    Pending done = MakePromise(&executor_->loop(1));
    sum_ = 0;
    total_ = count;
    const double seconds = bench::SecondsOf([&] {
      RunOn(executor_->loop(1), [&] {
        done_ = std::move(done.resolver);
        Step(0);
      });
      if (!Promise<void>(done.promise).Wait().ok()) std::exit(1);
    });
    return {seconds / count * 1e9, sum_};
  }

 private:
  void Step(int i) {
    if (i == total_) return done_.Settle(Value());
    executor_->loop(0)
        .Post([this, i] {
          const int64_t result = int64_t{i % 1000} * (i % 1000);
          executor_->loop(1)
              .Post([this, i, result] {
                sum_ += static_cast<uint64_t>(result);
                Step(i + 1);
              })
              .IgnoreError();
        })
        .IgnoreError();
  }
  std::unique_ptr<Executor> executor_;
  Resolver done_;
  int total_ = 0;
  uint64_t sum_ = 0;
};

// ---- rows

Sample CallsPerSecond(Joined::By by, int count) {
  Joined& joined = Get(by);
  uint64_t sum = 0;
  const double seconds = bench::SecondsOf([&] { sum = joined.RunSquares(count, 64); });
  return {count / seconds, sum};
}

Sample RoundTrip(int count) {
  Joined& joined = Get(Joined::By::kJson);
  uint64_t sum = 0;
  const std::string text(kEchoBytes, 'x');
  const double seconds = bench::SecondsOf([&] {
    sum = joined.Run(
        count, 1, [&text](const AnyStub& stub, int) { return stub.Call("echo", text); },
        [](const Value& value) { return uint64_t{value.string()->size()}; });
  });
  return {seconds / count * 1e6, sum};
}

Sample CrossThread(int count) {
  Joined& joined = Get(Joined::By::kQueue);
  uint64_t sum = 0;
  const double seconds = bench::SecondsOf([&] { sum = joined.RunSquares(count, 1); });
  return {seconds / count * 1e9, sum};
}

uint64_t Number(const Value& value) {
  return static_cast<uint64_t>(value.number());
}

// Ten calls, each on the result of the one before; and one call.
Sample Chain(int count) {
  Joined& joined = Get(Joined::By::kJson);
  uint64_t sum = 0;
  const double seconds = bench::SecondsOf([&] {
    sum = joined.Run(
        count, 1,
        [](const AnyStub& stub, int) {
          Promise<Value> at = stub.Call("next");
          for (int i = 1; i < 9; ++i) at = at.Call("next");
          return at.Call("depth");
        },
        Number);
  });
  return {seconds / count * 1e6, sum};
}

Sample OneCall(int count) {
  Joined& joined = Get(Joined::By::kJson);
  uint64_t sum = 0;
  const double seconds = bench::SecondsOf([&] {
    sum = joined.Run(
        count, 1, [](const AnyStub& stub, int) { return stub.Call("square", int64_t{3}); }, Number);
  });
  return {seconds / count * 1e6, sum};
}

}  // namespace

int main(int argc, char** argv) {
  bench::Suite suite(argc, argv);
  const PeerProgram node = PeerProgram::Node();
  const PeerProgram capnp = PeerProgram::Built(argv[0], "capnp");
  const PeerProgram grpc = PeerProgram::Built(argv[0], "grpc");
  const auto calls_row = [&](const PeerProgram& peer, std::string name, std::string peer_name,
                             Joined::By by, const std::string& mode) {
    constexpr int kCalls = 20000;
    peer.Row(
        suite,
        {.name = std::move(name),
         .peer_name = std::move(peer_name),
         .unit = "calls/s",
         .better = Better::kHigher,
         .repetitions = 7},
        [by] { return CallsPerSecond(by, kCalls); }, mode, kCalls);
  };
  calls_row(node, "rpc/capnweb_ws", "capnweb Node to Node", Joined::By::kJson, "ws");
  calls_row(capnp, "rpc/calls_64", "Cap'n Proto two-party, TCP", Joined::By::kJson, "wire");
  calls_row(capnp, "rpc/calls_64_binary", "Cap'n Proto two-party, TCP", Joined::By::kBinary,
            "wire");
  calls_row(grpc, "rpc/calls_64_grpc", "gRPC C++ unary", Joined::By::kJson, "wire");
  constexpr int kTrips = 20000;
  suite.Row(
      {.name = "rpc/round_trip",
       .peer_name = "raw epoll ping-pong",
       .unit = "us/call",
       .repetitions = 7},
      [] { return RoundTrip(kTrips); }, [] { return BarePingPong(kTrips); });
  suite.Row(
      {.name = "rpc/chain_10",
       .peer_name = "our own single call",
       .unit = "us/chain",
       .repetitions = 7},
      [] { return Chain(kTrips / 4); }, [] { return OneCall(kTrips / 4); });
  std::unique_ptr<BareQueue> queue;
  suite.Row(
      {.name = "rpc/cross_thread",
       .peer_name = "a bare queue with wake-up",
       .unit = "ns/call",
       .repetitions = 7},
      [] { return CrossThread(kTrips); },
      [&queue] {
        if (queue == nullptr) queue = std::make_unique<BareQueue>();
        return queue->Run(kTrips);
      });
  return 0;
}
