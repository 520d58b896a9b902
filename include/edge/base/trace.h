// edge/base/trace.h - spans of work, shaped like OpenTelemetry's.
//
// A Span measures from its construction to its destruction and then goes to the TraceSink
// that its Tracer was given. Without a sink it measures nothing and allocates nothing, and
// its context is the parent's, so that a trace passes through.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "edge/base/clock.h"
#include "edge/base/random.h"

namespace edge {

// Who a span belongs to. Travels with calls. Zero: no trace.
struct TraceContext {
  uint64_t trace_id_high = 0;
  uint64_t trace_id_low = 0;
  uint64_t span_id = 0;
  // W3C "traceparent" header text (Trace Context, section 3.2), version 00, sampled.
  std::string ToTraceparent() const;
  // False, and `*out` untouched, unless `text` is valid; later versions are read as 00.
  static bool FromTraceparent(std::string_view text, TraceContext* out);
};

struct SpanRecord {
  std::string name;
  TraceContext context;
  uint64_t parent_span_id = 0;  // 0: a root
  int64_t start_wall_ms = 0;
  int64_t duration_ns = 0;
  bool failed = false;
  std::vector<std::pair<std::string, std::string>> attributes;
};

// Thread-safe.
class TraceSink {
 public:
  virtual ~TraceSink() = default;
  virtual void OnSpan(SpanRecord span) = 0;
};

// Makes spans. Thread-compatible; `sink` may be null (tracing off); the others outlive it.
class Tracer {
 public:
  Tracer() = default;
  Tracer(TraceSink* sink, Clock& clock, Random& random)
      : sink_(sink), clock_(&clock), random_(&random) {}
  bool enabled() const { return sink_ != nullptr; }

 private:
  friend class Span;
  TraceSink* sink_ = nullptr;
  Clock* clock_ = nullptr;
  Random* random_ = nullptr;
};

// Single-threaded.
class Span {
 public:
  Span(Tracer& tracer, std::string_view name, const TraceContext& parent = {});
  ~Span();
  Span(const Span&) = delete;
  Span& operator=(const Span&) = delete;
  const TraceContext& context() const { return record_.context; }
  void SetAttribute(std::string_view key, std::string_view value);
  void SetFailed() { record_.failed = true; }

 private:
  Tracer* tracer_;
  int64_t start_ns_ = 0;
  SpanRecord record_;
};

}  // namespace edge
