#include "process.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

#include "edge/base/errors.h"

namespace {

// One line from `fd`, without its end; empty at the end of the file.
std::string ReadLine(int fd) {
  std::string line;
  for (char c = 0;;) {
    const ssize_t got = read(fd, &c, 1);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0 || c == '\n') return line;
    line += c;
  }
}

}  // namespace

ServerProcess::~ServerProcess() {
  if (pid_ > 0) Stop(SIGKILL);
}

edge::Status ServerProcess::Start(const std::vector<std::string>& arguments) {
  int out[2];
  if (pipe2(out, O_CLOEXEC) != 0) return edge::ErrnoStatus(errno, "pipe");
  std::vector<char*> argv{const_cast<char*>("flights")};
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  pid_ = fork();
  if (pid_ < 0) return edge::ErrnoStatus(errno, "fork");
  if (pid_ == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);  // never outlive the demo
    dup2(out[1], STDOUT_FILENO);
    execv("/proc/self/exe", argv.data());
    _exit(127);
  }
  close(out[1]);
  const std::string line = ReadLine(out[0]);
  close(out[0]);
  if (!line.starts_with("LISTENING ")) {
    return edge::Unavailable("the server ended with status {} before it listened", Wait());
  }
  address_ = line.substr(10);
  return edge::OkStatus();
}

int ServerProcess::Stop(int signal) {
  kill(pid_, signal);
  return Wait();
}

int ServerProcess::Wait() {
  int status = 0;
  while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
  }
  pid_ = -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
