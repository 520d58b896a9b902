// A child process of ours that serves: started, killed, started again.
#pragma once
#include <sys/types.h>

#include <string>
#include <vector>

#include "edge/base/status.h"

// Single-threaded. The destructor kills the process.
class ServerProcess {
 public:
  ServerProcess() = default;
  ~ServerProcess();
  ServerProcess(const ServerProcess&) = delete;
  ServerProcess& operator=(const ServerProcess&) = delete;

  // Runs this program again with `arguments` and waits for its line "LISTENING <address>".
  // Unavailable if it ends before that; what it said on stderr has been shown.
  edge::Status Start(const std::vector<std::string>& arguments);
  // Sends the signal and waits for the end. Returns the exit status, or 128 + signal.
  int Stop(int signal);
  int Wait();
  const std::string& address() const { return address_; }

 private:
  pid_t pid_ = -1;
  std::string address_;
};
