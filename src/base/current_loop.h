// Which loop the calling thread is running: set by real and by simulated loops.
#pragma once
#include "edge/base/executor.h"

namespace edge::internal {

// Returns the one set before. Null: none.
Loop* ExchangeCurrentLoop(Loop* loop);

// Makes `loop` the current one for a scope.
class CurrentLoopScope {
 public:
  explicit CurrentLoopScope(Loop* loop) : before_(ExchangeCurrentLoop(loop)) {}
  ~CurrentLoopScope() { ExchangeCurrentLoop(before_); }
  CurrentLoopScope(const CurrentLoopScope&) = delete;
  CurrentLoopScope& operator=(const CurrentLoopScope&) = delete;

 private:
  Loop* const before_;
};

}  // namespace edge::internal
