// A file goes up as a stream of bytes, in memory of a few chunks however long it is.
//
// The server reads at its own pace: Write() and the generator below wait for it. What went
// wrong at either end is told to the other.
#include <cstdio>
#include <memory>
#include <optional>
#include <string>

#include "edge/base/errors.h"
#include "edge/base/executor.h"
#include "edge/rpc/http_server.h"
#include "edge/rpc/stream.h"
#include "edge/rpc/web_socket.h"

using namespace edge;
using namespace edge::rpc;

class Uploads : public Target {
 public:
  Task<StatusOr<int64_t>> Put(std::string name, ReadableStream<Bytes> content) {
    constexpr int64_t kMost = 32 << 20;
    int64_t size = 0;
    while (auto chunk = co_await content.Read()) {  // throws what broke the stream
      size += static_cast<int64_t>(chunk->size());
      if (size > kMost) co_return ResourceExhausted("{} has more than {} bytes", name, kMost);
    }  // a real one would write the chunk to disk
    co_return size;
  }
  using Rpc = Methods<&Uploads::Put>;
};

// A file of `size` bytes, read as it is asked for.
ReadableStream<Bytes> FileOf(int64_t size) {
  return Generate<Bytes>([left = size]() mutable {
    const int64_t next = std::min<int64_t>(left, 64 << 10);
    left -= next;
    return next == 0 ? std::optional<Bytes>() : Bytes(static_cast<size_t>(next), std::byte{42});
  });
}

Task<Status> Client(Io& io, std::string url) {
  EDGE_CO_ASSIGN_OR_RETURN(auto session, co_await WebSocketSession::Open(io, url, {}));
  const Stub<Uploads> uploads = session->main().As<Uploads>();
  constexpr int64_t kSize = 24 << 20;
  const int64_t stored = co_await uploads.Call<&Uploads::Put>("film", FileOf(kSize));
  std::printf("stored %lld bytes\n", static_cast<long long>(stored));

  const Status refused =
      (co_await uploads.Call<&Uploads::Put>("everything", FileOf(int64_t{1} << 60)).Try()).status();
  std::printf("an exabyte: %s\n", refused.ToString().c_str());
  const bool good = stored == kSize && refused.code() == StatusCode::kResourceExhausted;
  co_return good ? OkStatus() : Internal("the upload went wrong");
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
            "/uploads",
            [](const HttpRequest&) -> StatusOr<HookPtr> { return MakeStub<Uploads>().hook(); })
        .IgnoreError();
    tasks.Spawn([](Io& on, std::string url, Resolver done) -> Task<void> {
      Status status;
      try {
        status = co_await Client(on, url);
      } catch (const Error& thrown) {
        status = thrown.status();
      }
      done.Settle(status.ok() ? StatusOr<Value>(Value()) : status);
    }(*io, "ws://" + server->address() + "/uploads", std::move(finished.resolver)));
  });
  const Status status = Promise<void>(finished.promise).Wait();
  RunOn(loop, [&] {
    server.reset();
    io.reset();
  });
  std::printf("%s\n", status.ok() ? "proved: a stream with back pressure, both ways of ending"
                                  : status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
