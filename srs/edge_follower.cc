// edge-follower - the program around srs::Follower.
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>

#include "edge/base/executor.h"
#include "edge/base/file_system.h"
#include "edge/srs/follower.h"
#include "edge/srs/object_store.h"

namespace {

constexpr char kUsage[] =
    R"(edge-follower --directory DIR --listen ADDRESS [--secret-file FILE] [--store folder:PATH]
              [--upload-after SECONDS] [--disk-max GIB]

Keeps a synced copy of the newest commits of edge hosts. Ctrl-C or SIGTERM ends it; kill -9
loses nothing.

  --directory DIR         its journal; made if missing. Not to be copied or restored from a
                          backup: start with an empty one instead
  --listen ADDRESS        where hosts connect: 127.0.0.1:7000, 10.0.0.2:7000, [::]:7000; with
                          port 0 a free one is taken. The address is printed on the first line
  --secret-file FILE      its content is the secret that hosts and followers share, 16 bytes or
                          more; links are then TLS 1.3. Without it only addresses of this
                          machine are served
  --store folder:PATH     where to put entries that no host has stored for long
  --upload-after SECONDS  how long that is; default 30
  --disk-max GIB          above, entries are refused; default 16

Ends with 0, 1 if its disk failed or it could not start, 2 for wrong arguments.
)";

int Wrong(const std::string& what) {
  std::fprintf(stderr, "edge-follower: %s\n\n%s", what.c_str(), kUsage);
  return 2;
}

}  // namespace

int main(int argc, char** argv) {
  edge::srs::FollowerOptions options;
  std::string secret_file;
  for (int i = 1; i < argc; ++i) {
    const std::string_view flag = argv[i];
    if (flag == "--help" || flag == "-h") {
      std::fputs(kUsage, stdout);
      return 0;
    }
    const bool is_known = flag == "--directory" || flag == "--listen" || flag == "--secret-file" ||
                          flag == "--store" || flag == "--upload-after" || flag == "--disk-max";
    if (!is_known) return Wrong("unknown argument '" + std::string(flag) + "'");
    if (i + 1 == argc) return Wrong(std::string(flag) + " needs a value");
    const std::string value = argv[++i];
    if (flag == "--directory") {
      options.directory = value;
    } else if (flag == "--listen") {
      options.address = value;
    } else if (flag == "--secret-file") {
      secret_file = value;
    } else if (flag == "--store") {
      if (!value.starts_with("folder:") || value.size() == 7) {
        return Wrong("--store " + value + ": folder:PATH expected");
      }
      options.store = edge::srs::FolderStore(value.substr(7));
    } else {
      char* end = nullptr;
      const long number = std::strtol(value.c_str(), &end, 10);
      if (*end != 0 || number < 1 || number > 1'000'000) {
        return Wrong(std::string(flag) + " " + value + ": 1 to 1000000 expected");
      }
      if (flag == "--upload-after") {
        options.upload_after_ms = number * 1000;
      } else {
        options.disk_bytes_max = static_cast<uint64_t>(number) << 30;
      }
    }
  }
  if (options.directory.empty()) return Wrong("--directory is missing");
  if (options.address.empty()) return Wrong("--listen is missing");
  const auto fail = [](const edge::Status& status) {
    std::fprintf(stderr, "edge-follower: %s\n", std::string(edge::Message(status)).c_str());
    return 1;
  };
  if (!secret_file.empty()) {
    const auto secret = edge::ReadFile(edge::PosixFileSystem(), secret_file, 4096);
    if (!secret.ok()) return fail(secret.status());
    options.secret = edge::AsText(*secret);
    while (options.secret.ends_with('\n')) options.secret.pop_back();
    if (options.secret.empty()) return Wrong("--secret-file " + secret_file + ": it is empty");
  }
  // Blocked before threads start, so that sigwait alone gets them.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  auto executor = edge::Executor::Create({.threads = 1});
  if (!executor.ok()) return fail(executor.status());
  edge::Loop& loop = (*executor)->loop(0);
  auto follower = edge::RunOn(loop, [&] { return edge::srs::Follower::Create(loop, options); });
  if (!follower.ok()) return fail(follower.status());
  std::printf("edge-follower %016llx listens on %s\n",
              static_cast<unsigned long long>(edge::RunOn(loop, [&] { return (*follower)->id(); })),
              edge::RunOn(loop, [&] { return (*follower)->address(); }).c_str());
  std::fflush(stdout);
  edge::Status health;
  for (;;) {
    const timespec second{1, 0};
    const int got = sigtimedwait(&signals, nullptr, &second);
    health = edge::RunOn(loop, [&] { return (*follower)->health(); });
    if (got == SIGINT || got == SIGTERM || !health.ok()) break;
  }
  edge::RunOn(loop, [&] { follower->reset(); });
  return health.ok() ? 0 : fail(health);
}
