#include "edge/base/trace.h"

#include "edge/base/mutex.h"

using namespace edge;  // NOLINT

namespace {

class ManualClock final : public Clock {
 public:
  int64_t monotonic_ns() const override { return now_ns; }
  int64_t wall_ms() const override { return 1'000'000 + now_ns / 1'000'000; }
  int64_t now_ns = 0;
};

class Collector final : public TraceSink {
 public:
  void OnSpan(SpanRecord span) override { spans.push_back(std::move(span)); }
  std::vector<SpanRecord> spans;
};

}  // namespace

TEST_CASE("a span measures its life and belongs to its parent's trace", "[base][trace]") {
  ManualClock clock;
  SeededRandom random(1);
  Collector sink;
  Tracer tracer(&sink, clock, random);
  {
    Span outer(tracer, "outer");
    clock.now_ns += 3'000'000;
    {
      Span inner(tracer, "inner", outer.context());
      inner.SetAttribute("key", "value");
      inner.SetFailed();
      clock.now_ns += 500;
    }
  }
  REQUIRE(sink.spans.size() == 2);
  const SpanRecord& inner = sink.spans[0];
  const SpanRecord& outer = sink.spans[1];
  REQUIRE(outer.name == "outer");
  REQUIRE(outer.parent_span_id == 0);
  REQUIRE(outer.duration_ns == 3'000'500);
  REQUIRE(outer.start_wall_ms == 1'000'000);
  REQUIRE_FALSE(outer.failed);
  REQUIRE(inner.duration_ns == 500);
  REQUIRE(inner.start_wall_ms == 1'000'003);
  REQUIRE(inner.parent_span_id == outer.context.span_id);
  REQUIRE(inner.context.trace_id_low == outer.context.trace_id_low);
  REQUIRE(inner.context.span_id != outer.context.span_id);
  REQUIRE(inner.failed);
  REQUIRE(inner.attributes.size() == 1);
  REQUIRE(inner.attributes[0].second == "value");
}

TEST_CASE("without a sink a span passes its parent's context on", "[base][trace]") {
  Tracer tracer;
  const TraceContext parent{1, 2, 3};
  Span span(tracer, "nothing", parent);
  span.SetAttribute("key", "value");
  REQUIRE(span.context().span_id == 3);
  REQUIRE(span.context().trace_id_low == 2);
}

TEST_CASE("traceparent is written and read", "[base][trace]") {
  const std::string text = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
  TraceContext context;
  REQUIRE(TraceContext::FromTraceparent(text, &context));
  REQUIRE(context.trace_id_high == 0x0af7651916cd43dd);
  REQUIRE(context.trace_id_low == 0x8448eb211c80319c);
  REQUIRE(context.span_id == 0xb7ad6b7169203331);
  REQUIRE(context.ToTraceparent() == text);
  REQUIRE(TraceContext::FromTraceparent("cc" + text.substr(2) + "-later-fields", &context));
}

TEST_CASE("a malformed traceparent is refused and changes nothing", "[base][trace]") {
  const std::string good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
  TraceContext context{9, 9, 9};
  std::vector<std::string> bad = {
      "",
      good + "-more",
      "cc" + good.substr(2) + "more",
      "ff" + good.substr(2),
      "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
      "00-00000000000000000000000000000000-b7ad6b7169203331-01",
      "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
  };
  for (size_t i = 0; i < good.size(); ++i) {
    bad.push_back(good.substr(0, i));
    std::string changed = good;
    changed[i] = 'x';
    bad.push_back(changed);
  }
  for (const std::string& text : bad) {
    CAPTURE(text);
    REQUIRE_FALSE(TraceContext::FromTraceparent(text, &context));
  }
  REQUIRE(context.span_id == 9);
}
