// Calls on objects: of our own, by pointer and by name, and over a WebSocket; the peer is
// capnweb in Node (npm, build/node), started afresh for each repetition.
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>

#include "bench/bench.h"
#include "edge/base/executor.h"
#include "edge/rpc/http_server.h"
#include "edge/rpc/stub.h"
#include "edge/rpc/web_socket.h"

namespace {

using namespace edge;
using namespace edge::rpc;
using bench::Better;
using bench::Sample;

class Squares : public Target {
 public:
  [[gnu::noinline]] int64_t Square(int64_t i) { return i * i; }
  using Rpc = Methods<&Squares::Square>;
};

Sample Peer(const std::string& mode, int calls) {
  const std::string command = "node " EDGE_SOURCE_DIR "/bench/rpc/capnweb_peer.mjs " EDGE_BUILD_DIR
                              "/node/node_modules " +
                              mode + " " + std::to_string(calls);
  FILE* const node = popen(command.c_str(), "r");
  Sample sample;
  double answer = 0;
  const bool read = node != nullptr && std::fscanf(node, "%lf %lf", &sample.figure, &answer) == 2;
  if (node != nullptr) pclose(node);
  if (!read) {
    std::fprintf(stderr, "the peer did not answer: %s\n", command.c_str());
    std::exit(1);
  }
  sample.answer = static_cast<uint64_t>(answer);
  return sample;
}

// Peers make fewer calls: the sum for `calls` of ours is scaled down by whole rounds of 1000.
uint64_t SumFor(uint64_t sum, int calls, int peer_calls) {
  return sum / static_cast<uint64_t>(calls / peer_calls);
}

constexpr int kPeerCalls = 100000;

Sample LocalTyped() {
  constexpr int kCalls = 10000000;
  const auto stub = MakeStub<Squares>();
  const Stub<Squares>* at = &stub;
  uint64_t sum = 0;
  const double seconds = bench::SecondsOf([&] {
    for (int i = 0; i < kCalls; ++i) {
      bench::KeepAlive(at);
      sum += static_cast<uint64_t>(*at->Call<&Squares::Square>(i % 1000).Wait());
    }
  });
  return {seconds / kCalls * 1e9, SumFor(sum, kCalls, kPeerCalls)};
}

Sample LocalDynamic() {
  constexpr int kCalls = 1000000;
  const AnyStub stub(MakeStub<Squares>());
  uint64_t sum = 0;
  const double seconds = bench::SecondsOf([&] {
    for (int i = 0; i < kCalls; ++i) {
      stub.Call("square", i % 1000).Then([&sum](StatusOr<Value> result) {
        sum += static_cast<uint64_t>(*result->As<int64_t>());
      });
    }
  });
  return {seconds / kCalls * 1e9, SumFor(sum, kCalls, kPeerCalls)};
}

// A server on one loop and a client on another, joined by a WebSocket.
class Joined {
 public:
  Joined() : executor_(Executor::Create({.threads = 2}).value()) {
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
      WebSocketSession::Connect(*client_io_, "ws://" + server_->address() + "/", {},
                                [this, done = std::move(opened.resolver)](
                                    StatusOr<std::unique_ptr<WebSocketSession>> session) mutable {
                                  session_ = std::move(session).value();
                                  done.Settle(Value());
                                });
    });
    if (!Promise<void>(opened.promise).Wait().ok()) std::exit(1);
  }
  ~Joined() {
    RunOn(client_loop(), [this] {
      session_.reset();
      client_io_.reset();
    });
    RunOn(server_loop(), [this] {
      server_.reset();
      server_io_.reset();
    });
  }

  // `calls` calls, 64 at any time; the sum of their results.
  uint64_t Run(int calls) {
    next_ = 0;
    left_ = calls;
    total_ = calls;
    sum_ = 0;
    Pending done = MakePromise(&client_loop());
    RunOn(client_loop(), [&] {
      done_ = std::move(done.resolver);
      stub_ = session_->main();
      for (int i = 0; i < 64; ++i) Next();
    });
    if (!Promise<void>(done.promise).Wait().ok()) std::exit(1);
    RunOn(client_loop(), [this] { stub_ = {}; });
    return sum_;
  }

 private:
  void Next() {
    if (next_ == total_) return;
    stub_.Call("square", next_++ % 1000).Then([this](StatusOr<Value> result) {
      sum_ += static_cast<uint64_t>(*result->As<int64_t>());
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
  Resolver done_;
  int next_ = 0;
  int left_ = 0;
  int total_ = 0;
  uint64_t sum_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
  bench::Suite suite(argc, argv);
  const auto peer_local = [] { return Peer("local", kPeerCalls); };
  suite.Row({.name = "rpc/local_call",
             .peer_name = "capnweb local stub",
             .unit = "ns/call",
             .repetitions = 5},
            LocalTyped, peer_local);
  suite.Row({.name = "rpc/local_dynamic",
             .peer_name = "capnweb local stub",
             .unit = "ns/call",
             .repetitions = 5},
            LocalDynamic, peer_local);
  Joined joined;
  constexpr int kSocketCalls = 50000;
  suite.Row(
      {.name = "rpc/capnweb_ws",
       .peer_name = "capnweb Node to Node",
       .unit = "calls/s",
       .better = Better::kHigher,
       .repetitions = 5},
      [&] {
        uint64_t sum = 0;
        const double seconds = bench::SecondsOf([&] { sum = joined.Run(kSocketCalls); });
        return Sample{kSocketCalls / seconds, sum};
      },
      [] { return Peer("ws", kSocketCalls); });
  return 0;
}
