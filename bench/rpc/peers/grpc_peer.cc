// gRPC C++: unary calls by the callback API between two processes on loopback, 64 outstanding.
#include <grpcpp/grpcpp.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>

#include "bench/rpc/peers/peer.h"
#include "squares.grpc.pb.h"

namespace {

class Service final : public squares::Squares::CallbackService {
  grpc::ServerUnaryReactor* Square(grpc::CallbackServerContext* context, const squares::Number* in,
                                   squares::Number* out) override {
    out->set_value(in->value() * in->value());
    auto* const reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }
};

// The port goes to the parent through `fd`.
[[noreturn]] void Serve(int fd) {
  Service service;
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(&service);
  const auto server = builder.BuildAndStart();
  if (write(fd, &port, sizeof port) != sizeof port) _exit(1);
  server->Wait();
  _exit(0);
}

class Calls {
 public:
  explicit Calls(squares::Squares::Stub& stub) : stub_(stub) {}

  int64_t Run(int calls) {
    std::unique_lock lock(mutex_);
    next_ = 0;
    left_ = total_ = calls;
    sum_ = 0;
    for (int i = 0; i < peer::kOutstanding; ++i) StartLocked();
    done_.wait(lock, [this] { return left_ == 0; });
    return sum_;
  }

 private:
  struct Call {
    grpc::ClientContext context;
    squares::Number in;
    squares::Number out;
  };
  void StartLocked() {
    if (next_ == total_) return;
    auto call = std::make_shared<Call>();
    call->in.set_value(peer::Argument(next_++));
    stub_.async()->Square(&call->context, &call->in, &call->out,
                          [this, call](const grpc::Status& status) {
                            if (!status.ok()) std::exit(1);
                            const std::lock_guard lock(mutex_);
                            sum_ += call->out.value();
                            if (--left_ == 0) done_.notify_one();
                            StartLocked();
                          });
  }

  squares::Squares::Stub& stub_;
  std::mutex mutex_;
  std::condition_variable done_;
  int next_ = 0;
  int total_ = 0;
  int left_ = 0;
  int64_t sum_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  int fds[2];
  if (pipe(fds) != 0) return 1;
  const pid_t server = fork();  // before anything of gRPC has run
  if (server == 0) Serve(fds[1]);
  int port = 0;
  if (read(fds[0], &port, sizeof port) != sizeof port) return 1;
  const auto channel =
      grpc::CreateChannel("127.0.0.1:" + std::to_string(port), grpc::InsecureChannelCredentials());
  const auto stub = squares::Squares::NewStub(channel);
  Calls calls(*stub);
  calls.Run(peer::kWarmUp);
  const int count = std::atoi(argv[2]);
  const auto start = std::chrono::steady_clock::now();
  const int64_t sum = calls.Run(count);
  peer::Print(count / peer::SecondsSince(start), sum);
  kill(server, SIGKILL);
  waitpid(server, nullptr, 0);
  _exit(0);
}
