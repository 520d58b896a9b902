// edge/rpc/io.h - sockets on a loop: what HttpServer and Connect need.
#pragma once
#include <memory>

#include "edge/base/executor.h"
#include "edge/base/status.h"

namespace edge::rpc {

// Lets a loop wait for sockets as well (it is the loop's Waiter). One per loop; outlives the
// servers and connections made on it. Made and destroyed on the loop's thread; no threads of
// its own. Single-threaded.
class Io {
 public:
  // FailedPrecondition if the loop has another waiter or cannot have one (a simulation).
  static StatusOr<std::unique_ptr<Io>> Create(Loop& loop);
  ~Io();
  Io(const Io&) = delete;
  Loop& loop() const;

  struct Rep;  // Asio's context; private to edge::rpc
  Rep& rep() const { return *rep_; }

 private:
  explicit Io(std::unique_ptr<Rep> rep);
  std::unique_ptr<Rep> rep_;
};

}  // namespace edge::rpc
