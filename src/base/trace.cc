#include "edge/base/trace.h"

#include <array>

#include "edge/base/bytes.h"
#include "edge/base/errors.h"

namespace edge {
namespace {

uint64_t NonZero(Random& random) {
  for (;;) {
    if (const uint64_t value = random.Next(); value != 0) return value;
  }
}

// Big-endian lower-case digits, as the recommendation wants them.
bool ParseHex(std::string_view digits, uint64_t* out) {
  std::array<std::byte, 8> bytes;
  for (const char c : digits) {
    if (c >= 'A' && c <= 'F') return false;
  }
  if (!FromHex(digits, MutableByteView(bytes).first(digits.size() / 2))) return false;
  *out = 0;
  for (size_t i = 0; i < digits.size() / 2; ++i) *out = *out << 8 | static_cast<uint64_t>(bytes[i]);
  return true;
}

}  // namespace

std::string TraceContext::ToTraceparent() const {
  return Format("00-{:016x}{:016x}-{:016x}-01", {trace_id_high, trace_id_low, span_id});
}

bool TraceContext::FromTraceparent(std::string_view text, TraceContext* out) {
  TraceContext context;
  uint64_t version = 0;
  uint64_t flags = 0;
  if (text.size() < 55 || text[2] != '-' || text[35] != '-' || text[52] != '-') return false;
  if (!ParseHex(text.substr(0, 2), &version) || version == 0xff) return false;
  // A later version may append fields; version 00 may not.
  if (text.size() > 55 && (version == 0 || text[55] != '-')) return false;
  if (!ParseHex(text.substr(3, 16), &context.trace_id_high) ||
      !ParseHex(text.substr(19, 16), &context.trace_id_low) ||
      !ParseHex(text.substr(36, 16), &context.span_id) || !ParseHex(text.substr(53, 2), &flags)) {
    return false;
  }
  if ((context.trace_id_high | context.trace_id_low) == 0 || context.span_id == 0) return false;
  *out = context;
  return true;
}

Span::Span(Tracer& tracer, std::string_view name, const TraceContext& parent)
    : tracer_(tracer.enabled() ? &tracer : nullptr) {
  record_.context = parent;
  if (tracer_ == nullptr) return;
  Random& random = *tracer.random_;
  if ((parent.trace_id_high | parent.trace_id_low) == 0) {
    record_.context.trace_id_high = random.Next();
    record_.context.trace_id_low = NonZero(random);
  } else {
    record_.parent_span_id = parent.span_id;
  }
  record_.context.span_id = NonZero(random);
  record_.name = name;
  record_.start_wall_ms = tracer.clock_->wall_ms();
  start_ns_ = tracer.clock_->monotonic_ns();
}

Span::~Span() {
  if (tracer_ == nullptr) return;
  record_.duration_ns = tracer_->clock_->monotonic_ns() - start_ns_;
  tracer_->sink_->OnSpan(std::move(record_));
}

void Span::SetAttribute(std::string_view key, std::string_view value) {
  if (tracer_ != nullptr) record_.attributes.emplace_back(key, value);
}

}  // namespace edge
