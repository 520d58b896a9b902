// A load of passengers who book seats over WebSocket RPC, each on a connection of its own.
#pragma once
#include <atomic>
#include <cstdint>
#include <string>

#include "edge/base/executor.h"
#include "edge/base/metrics.h"
#include "edge/rpc/io.h"
#include "ledger.h"

struct LoadOptions {
  std::string url;  // "ws://127.0.0.1:8787"; stays the same when the server restarts
  int connections = 64;
  size_t bookings = 34'000;  // stop when so many are confirmed
  uint64_t seed = 1;
};

// What the main thread may watch while the load runs.
struct LoadProgress {
  std::atomic<size_t> confirmed{0};
  std::atomic<size_t> refused{0};  // seat was taken already: tried another one
  std::atomic<size_t> broken{0};   // connections lost
  std::atomic<bool> stop{false};   // set it to end early
  edge::Histogram latency_ns;      // of confirmed bookings
};

// Runs on the loop of `io` until `options.bookings` are confirmed or `progress.stop`. Call on
// the loop; `done` is called there with everything that the passengers were told.
class Load {
 public:
  Load(edge::rpc::Io& io, LoadOptions options, LoadProgress& progress, edge::Callback<void()> done);
  ~Load();
  const Ledger& ledger() const { return ledger_; }
  Ledger& ledger() { return ledger_; }

 private:
  edge::Task<void> Passengers(int connection);
  bool finished() const;

  edge::rpc::Io& io_;
  const LoadOptions options_;
  LoadProgress& progress_;
  edge::Callback<void()> done_;
  Ledger ledger_;
  int running_ = 0;
  edge::TaskGroup tasks_;  // last: cancelled first
};
