// What an idle session costs: a server with many of them on a unix socket, each connected by a
// child process, each having answered a call. The figure is memory of the server's process
// (resident bytes, growth per session); the peer of the row is the promised bound.
//
// sessions_bench --sessions 100000 prints the whole process as well. Both processes need a
// descriptor per session: `ulimit -n` bounds what is tried, and the row says so.
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "bench/bench.h"
#include "edge/base/executor.h"
#include "edge/rpc/http_server.h"
#include "edge/rpc/stub.h"

namespace {

using namespace edge;
using namespace edge::rpc;

class Squares : public Target {
 public:
  int64_t Square(int64_t i) { return i * i; }
  using Rpc = Methods<&Squares::Square>;
};

size_t ResidentBytes() {
  FILE* const file = std::fopen("/proc/self/statm", "r");
  unsigned long total = 0;
  unsigned long resident = 0;
  if (file == nullptr || std::fscanf(file, "%lu %lu", &total, &resident) != 2) std::exit(1);
  std::fclose(file);
  return resident * static_cast<size_t>(sysconf(_SC_PAGESIZE));
}

// A masked frame with an all-zero mask: the payload as it is.
std::string Frame(std::string_view payload) {
  std::string frame = {static_cast<char>(0x81), static_cast<char>(0x80 | payload.size())};
  return frame.append(4, '\0').append(payload);
}

bool ReadUntil(int fd, std::string_view end) {
  std::string got;
  char buffer[4096];
  while (got.find(end) == std::string::npos) {
    const ssize_t size = read(fd, buffer, sizeof buffer);
    if (size <= 0) return false;
    got.append(buffer, static_cast<size_t>(size));
  }
  return true;
}

// One session by hand: the handshake, a call, its answer, and silence.
bool OpenSession(const sockaddr_un& address) {
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0 || connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
    return false;
  const std::string_view handshake =
      "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
      "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
  if (write(fd, handshake.data(), handshake.size()) < 0 || !ReadUntil(fd, "\r\n\r\n")) return false;
  const std::string call = Frame(R"(["push",["pipeline",0,["square"],[7]]])") +
                           Frame(R"(["pull",1])") + Frame(R"(["release",1,1])");
  return write(fd, call.data(), call.size()) > 0 && ReadUntil(fd, R"(["resolve",1,49])");
}

// The child: `count` sessions, then a byte to the parent; ends when the parent closes `fd`.
[[noreturn]] void RunClient(const sockaddr_un& address, int count, int fd) {
  char verdict = '+';
  for (int i = 0; i < count && verdict == '+'; ++i)
    if (!OpenSession(address)) verdict = '-';
  if (write(fd, &verdict, 1) != 1) _exit(1);
  while (read(fd, &verdict, 1) > 0) {
  }
  _exit(0);
}

int DescriptorsAllowed() {
  rlimit limit{};
  const rlimit wished{1'000'000, 1'000'000};  // root may
  if (setrlimit(RLIMIT_NOFILE, &wished) == 0) return 1'000'000 - 100;
  getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
  return static_cast<int>(std::min<rlim_t>(limit.rlim_max, 1'000'000)) - 100;
}

}  // namespace

int main(int argc, char** argv) {
  int sessions = 20000;
  bool whole = false;
  if (argc == 3 && std::strcmp(argv[1], "--sessions") == 0) {
    sessions = std::atoi(argv[2]);
    whole = true;
    argc = 1;
  }
  bench::Suite suite(argc, argv);
  const std::string name = "rpc/idle_session";
  if (!suite.Wants(name)) return 0;
  sessions = std::min(sessions, DescriptorsAllowed());

  char folder[] = "/tmp/edge-sessions-XXXXXX";
  if (mkdtemp(folder) == nullptr) return 1;
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::snprintf(address.sun_path, sizeof address.sun_path, "%s/socket", folder);
  int fds[2];
  if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds) != 0) return 1;
  const pid_t child = fork();  // before there are threads
  if (child == 0) {
    close(fds[0]);
    char go = 0;
    if (read(fds[1], &go, 1) != 1) _exit(1);
    RunClient(address, sessions, fds[1]);
  }
  close(fds[1]);

  auto executor = Executor::Create({.threads = 1}).value();
  Loop& loop = executor->loop(0);
  std::unique_ptr<Io> io;
  std::unique_ptr<HttpServer> server;
  RunOn(loop, [&] {
    io = Io::Create(loop).value();
    HttpServer::Options options;
    options.address = std::string("unix:") + address.sun_path;
    options.connections_max = 1'000'000;
    server = HttpServer::Create(*io, std::move(options)).value();
    server
        ->HandleRpc(
            "/", [](const HttpRequest&) -> StatusOr<HookPtr> { return MakeStub<Squares>().hook(); })
        .IgnoreError();
  });
  const size_t before = ResidentBytes();
  char verdict = '>';
  if (write(fds[0], &verdict, 1) != 1 || read(fds[0], &verdict, 1) != 1 || verdict != '+') {
    std::fprintf(stderr, "the sessions could not be opened\n");
    return 1;
  }
  const size_t open = RunOn(loop, [&] { return server->connections(); });
  const size_t after = ResidentBytes();
  if (open != static_cast<size_t>(sessions)) {
    std::fprintf(stderr, "%zu sessions are open, expected %d\n", open, sessions);
    return 1;
  }
  const double each = static_cast<double>(after - before) / sessions;
  constexpr double kPromisedBytes = 4096;
  std::printf(
      "{\"name\": \"%s\", \"ours\": %.6g, \"peer\": %.6g, \"peer_name\": \"the promised bound\", "
      "\"unit\": \"bytes\", \"ratio\": %.4g, \"sessions\": %d}\n",
      name.c_str(), each, kPromisedBytes, kPromisedBytes / each, sessions);
  std::fprintf(stderr, "%-28s %d sessions, %.0f bytes each\n", name.c_str(), sessions, each);
  if (whole)
    std::fprintf(stderr, "the process is %.1f MiB with %d sessions\n",
                 static_cast<double>(after) / 1048576, sessions);
  close(fds[0]);
  waitpid(child, nullptr, 0);
  RunOn(loop, [&] {
    server.reset();
    io.reset();
  });
  unlink(address.sun_path);
  rmdir(folder);
  return 0;
}
