// durable/namespace_metrics.h - what one namespace counts.
#pragma once
#include <string>

#include "edge/base/metrics.h"

namespace edge::durable::internal {

// Immutable; the instruments are thread-safe and live as long as the registry.
struct NamespaceMetrics {
  NamespaceMetrics(MetricsRegistry& registry, const std::string& name)
      : calls(registry.counter("edge_durable_calls_total", {{"namespace", name}})),
        failures(registry.counter("edge_durable_call_failures_total", {{"namespace", name}})),
        latency_ns(registry.histogram("edge_durable_call_latency_ns", {{"namespace", name}})),
        gate_wait_ns(registry.histogram("edge_durable_gate_wait_ns", {{"namespace", name}})),
        rows_read(registry.counter("edge_durable_rows_read_total", {{"namespace", name}})),
        rows_written(registry.counter("edge_durable_rows_written_total", {{"namespace", name}})),
        starts(registry.counter("edge_durable_starts_total", {{"namespace", name}})),
        resets(registry.counter("edge_durable_resets_total", {{"namespace", name}})),
        running(registry.gauge("edge_durable_running_objects", {{"namespace", name}})) {}

  Counter& calls;           // answered
  Counter& failures;        // of these, with an error
  Histogram& latency_ns;    // from the start of the method until its answer leaves
  Histogram& gate_wait_ns;  // of that, waiting to be durable
  Counter& rows_read;
  Counter& rows_written;
  Counter& starts;
  Counter& resets;  // instances that ended with an error
  Gauge& running;
};

}  // namespace edge::durable::internal
