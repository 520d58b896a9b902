// Cap'n Proto C++: a local capability, or two processes with the two-party protocol over
// loopback TCP and 64 calls outstanding.
#include <arpa/inet.h>
#include <capnp/rpc-twoparty.h>
#include <kj/async-io.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench/rpc/peers/peer.h"
#include "squares.capnp.h"

namespace {

class SquaresImpl final : public Squares::Server {
 public:
  kj::Promise<void> square(SquareContext context) override {
    const int64_t i = context.getParams().getI();
    context.getResults().setResult(i * i);
    return kj::READY_NOW;
  }
};

void Local(int calls) {
  auto io = kj::setupAsyncIo();
  Squares::Client squares = kj::heap<SquaresImpl>();
  const auto call = [&](int i) {
    auto request = squares.squareRequest();
    request.setI(peer::Argument(i));
    return request.send().wait(io.waitScope).getResult();
  };
  for (int i = 0; i < peer::kWarmUp; ++i) call(i);
  int64_t sum = 0;
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < calls; ++i) sum += call(i);
  peer::Print(peer::SecondsSince(start) / calls * 1e9, sum);
}

// Each of the 64 makes its next call when its last is answered.
int64_t Run(Squares::Client& squares, kj::WaitScope& scope, int calls) {
  int next = 0;
  int64_t sum = 0;
  kj::Function<kj::Promise<void>()> step = [&]() -> kj::Promise<void> {
    if (next == calls) return kj::READY_NOW;
    auto request = squares.squareRequest();
    request.setI(peer::Argument(next++));
    return request.send().then([&](capnp::Response<Squares::SquareResults>&& response) {
      sum += response.getResult();
      return step();
    });
  };
  kj::Vector<kj::Promise<void>> running;
  for (int i = 0; i < peer::kOutstanding; ++i) running.add(step());
  kj::joinPromises(running.releaseAsArray()).wait(scope);
  return sum;
}

void Connect(int (&fds)[2]) {
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
  const int on = 1;
  for (const int fd : fds) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  close(listener);
}

void Wire(int calls) {
  int fds[2];
  Connect(fds);
  const pid_t server = fork();
  if (server == 0) {
    close(fds[0]);
    auto io = kj::setupAsyncIo();
    auto stream = io.lowLevelProvider->wrapSocketFd(fds[1]);
    Squares::Client squares = kj::heap<SquaresImpl>();
    capnp::TwoPartyClient session(*stream, squares, capnp::rpc::twoparty::Side::SERVER);
    session.onDisconnect().wait(io.waitScope);
    _exit(0);
  }
  close(fds[1]);
  {
    auto io = kj::setupAsyncIo();
    auto stream = io.lowLevelProvider->wrapSocketFd(fds[0]);
    capnp::TwoPartyClient session(*stream);
    auto squares = session.bootstrap().castAs<Squares>();
    Run(squares, io.waitScope, peer::kWarmUp);
    const auto start = std::chrono::steady_clock::now();
    const int64_t sum = Run(squares, io.waitScope, calls);
    peer::Print(calls / peer::SecondsSince(start), sum);
  }
  close(fds[0]);
  waitpid(server, nullptr, 0);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  const int calls = std::atoi(argv[2]);
  std::strcmp(argv[1], "local") == 0 ? Local(calls) : Wire(calls);
}
