#include <cstdio>

#include "edge/base/checksum.h"
#include "edge/base/executor.h"
#include "edge/base/metrics.h"
#include "edge/base/simulation.h"

int main() {
  auto executor = edge::Executor::Create({.threads = 1});
  if (!executor.ok()) return 1;
  const uint32_t crc =
      edge::RunOn((*executor)->loop(0), [] { return edge::Crc32c(edge::AsBytes("123456789")); });
  edge::MetricsRegistry metrics;
  metrics.counter("runs_total").Add();
  auto world = edge::Simulation::Create({});
  world->AddHost("a");
  std::printf("%08x %s", crc, metrics.PrometheusText().c_str());
  return crc == 0xe3069283 ? 0 : 1;
}
