// edge/rpc/io.h - where sockets come from: what HttpServer and the clients need.
#pragma once
#include <memory>

#include "edge/base/executor.h"
#include "edge/base/network.h"
#include "edge/base/random.h"
#include "edge/base/status.h"

namespace edge::rpc {

// The network of one loop: sockets of the machine, or those of a simulation. Outlives the
// servers and connections made on it. Made and destroyed on the loop's thread; no threads of
// its own. Single-threaded.
class Io {
 public:
  // All three outlive the Io. Never fails today.
  static StatusOr<std::unique_ptr<Io>> Create(Loop& loop, Network& network = PosixNetwork(),
                                              Random& random = SystemRandom());
  ~Io();
  Io(const Io&) = delete;
  Loop& loop() const;
  Network& network() const;

  struct Rep;  // private to edge::rpc
  Rep& rep() const { return *rep_; }

 private:
  explicit Io(std::unique_ptr<Rep> rep);
  std::unique_ptr<Rep> rep_;
};

}  // namespace edge::rpc
