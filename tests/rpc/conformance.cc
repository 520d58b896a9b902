#include "tests/rpc/conformance.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "edge/base/errors.h"
#include "edge/rpc/session.h"

namespace edge::rpc {
namespace {

Error Thrown(std::string name, std::string message, Object properties = {}) {
  return Error(RejectWith(
      ErrorValue{std::move(name), std::move(message), std::nullopt, std::move(properties)}));
}

std::string HexOf(double number) {
  std::string text;
  const auto bits = std::bit_cast<uint64_t>(number);
  for (int shift = 60; shift >= 0; shift -= 4) text += "0123456789abcdef"[bits >> shift & 15];
  return text;
}

}  // namespace

void Conformance::ThrowError() {
  throw Thrown("RangeError", "test error");
}

Stub<ConformanceCounter> Conformance::MakeCounter(double start) {
  return MakeStub<ConformanceCounter>(start);
}

Promise<Value> Conformance::IncrementCounter(AnyStub counter, std::optional<double> by) {
  return counter.Call("increment", by.value_or(1));
}

std::vector<double> Conformance::GenerateFibonacci(int n) {
  std::vector<double> numbers = {0, 1};
  while (static_cast<int>(numbers.size()) < n)
    numbers.push_back(numbers[numbers.size() - 1] + numbers[numbers.size() - 2]);
  return numbers;
}

Status Conformance::InstanceProperty() {
  return InvalidArgument("instanceProp is private");
}

void Conformance::ThrowErrorWith(std::string type, std::string message,
                                 std::optional<Object> properties) {
  if (type != "TypeError" && type != "RangeError" && type != "SyntaxError") type = "Error";
  throw Thrown(std::move(type), std::move(message), properties.value_or(Object()));
}

void Conformance::ThrowValue(Value x) {
  throw Error(RejectWith(x));
}

Task<Value> Conformance::Delay(double ms, Value x) {
  co_await Sleep(*Loop::Current(), static_cast<int64_t>(ms * 1e6));
  co_return x;
}

Value Conformance::GetNested() {
  return ObjectOf(
      "a", ObjectOf("b", ArrayOf(ObjectOf("c", MakeCounter(100)), ObjectOf("c", MakeCounter(200)))),
      "n", 7);
}

Stub<double(double)> Conformance::GetAdder(double k) {
  return [k](double x) { return x + k; };
}

Stub<ConformanceUser> Conformance::Authenticate(std::string_view token) {
  if (!token.starts_with("ok-")) throw Thrown("Error", "bad token");
  return MakeStub<ConformanceUser>(std::string(token.substr(3)));
}

Stub<ConformanceTracked> Conformance::MakeTracked(std::string tag) {
  return MakeStub<ConformanceTracked>(world_, std::move(tag));
}

Task<Value> Conformance::CallAndReport(Stub<Value()> f) {
  StatusOr<Value> result = co_await f().Try();
  Object report;
  if (result.ok()) {
    report.Set("ok", std::move(*result));
  } else {
    const Value error = ErrorFromStatus(result.status());
    const ErrorValue* thrown = error.As<ErrorValue>();
    report.Set("error", thrown == nullptr ? "?" : thrown->name + ":" + thrown->message);
  }
  co_return Value(std::move(report));
}

Value Conformance::ListTeams() {
  return ArrayOf(ObjectOf("id", 1, "members", ArrayOf("u1", "u2")),
                 ObjectOf("id", 2, "members", ArrayOf("u3")));
}

Value Conformance::Stats() {
  const auto counts = Session::CallerCounts();
  if (!counts) throw Thrown("Error", "not called by a session");
  return ObjectOf("imports", counts->imports, "exports", counts->exports);
}

Task<Value> Conformance::Consume(ReadableStream<Bytes> stream) {
  int64_t bytes = 0;
  int64_t chunks = 0;
  uint32_t low = 1;  // Adler-32, RFC 1950
  uint32_t high = 0;
  while (const auto chunk = co_await stream.Read()) {
    for (const std::byte byte : *chunk) {
      low = (low + std::to_integer<uint32_t>(byte)) % 65521;
      high = (high + low) % 65521;
    }
    bytes += static_cast<int64_t>(chunk->size());
    ++chunks;
  }
  co_return ObjectOf("bytes", bytes, "chunks", chunks, "adler", high << 16 | low);
}

Task<Value> Conformance::ConsumeOrError(ReadableStream<> stream) {
  int chunks = 0;
  for (;;) {
    StatusOr<Chunk<Value>> chunk = co_await stream.Read().Try();
    if (!chunk.ok()) {
      const Value error = ErrorFromStatus(chunk.status());
      const ErrorValue* thrown = error.As<ErrorValue>();
      co_return ObjectOf("chunks", chunks, "error",
                         thrown == nullptr ? "?" : thrown->name + ":" + thrown->message);
    }
    if (!*chunk) co_return ObjectOf("chunks", chunks, "error", nullptr);
    ++chunks;
  }
}

ReadableStream<Bytes> Conformance::Produce(int64_t total, int64_t chunk) {
  if (total < 0 || chunk < 1) throw Thrown("RangeError", "bad sizes");
  return Generate<Bytes>([total, chunk, at = int64_t{0}]() mutable {
    std::optional<Bytes> next;
    if (at == total) return next;
    next.emplace();
    for (const int64_t end = std::min(total, at + chunk); at < end; ++at)
      next->push_back(static_cast<std::byte>((at * 31 + (at >> 8)) & 255));
    return next;
  });
}

ReadableStream<> Conformance::ProduceValues(int n) {
  return Generate<Value>([n, i = 0]() mutable {
    return i == n ? std::optional<Value>() : std::optional<Value>(ObjectOf("i", i++));
  });
}

ReadableStream<> Conformance::ProduceThenFail(int n) {
  return Generate<Value>([n, i = 0]() mutable {
    if (i == n) throw Thrown("TypeError", "stream broke");
    return std::optional<Value>(ObjectOf("i", i++));
  });
}

Task<int> Conformance::WriteTo(WritableStream<> stream, int n) {
  for (int i = 0; i < n; ++i) co_await stream.Write(ObjectOf("i", i));
  co_await stream.Close();
  co_return n;
}

WritableStream<> Conformance::GetSink(std::optional<double> delay_ms) {
  sink_ = std::make_shared<Sink>();
  return MakeSink<Value>(
      [sink = sink_, delay_ns = static_cast<int64_t>(delay_ms.value_or(0) * 1e6)](
          const Value& chunk) -> Task<void> {
        const BytesValue* data = chunk.As<BytesValue>();
        const int64_t bytes = data == nullptr ? 0 : static_cast<int64_t>(data->bytes.size());
        const auto counted = sink;
        if (delay_ns > 0) co_await Sleep(*Loop::Current(), delay_ns);
        counted->bytes += bytes;
      },
      [sink = sink_](const Status& why) { (why.ok() ? sink->closed : sink->aborted) = true; });
}

Value Conformance::SinkState() {
  return ObjectOf("bytes", sink_->bytes, "closed", sink_->closed, "aborted", sink_->aborted);
}

std::string Conformance::Inspect(Value x) {
  switch (x.kind()) {
    case Value::Kind::kUndefined:
    case Value::Kind::kNull:
      return std::string(KindName(x.kind()));
    case Value::Kind::kBool:
      return *x.As<bool>() ? "true" : "false";
    case Value::Kind::kInt:
    case Value::Kind::kDouble:
      return std::isnan(x.number()) ? "n:nan" : "n:" + HexOf(x.number());
    case Value::Kind::kBigInt:
      return "i:" + x.As<BigInt>()->decimal;
    case Value::Kind::kString:
      return Format("s:{}:{}", {x.string()->size(), *x.string()});
    case Value::Kind::kBytes:
      return Format("b:{}:{}",
                    {BytesKindName(x.As<BytesValue>()->kind), ToHex(x.As<BytesValue>()->bytes)});
    case Value::Kind::kDate:
      return std::isnan(x.As<Date>()->ms) ? "d:nan" : "d:" + HexOf(x.As<Date>()->ms);
    case Value::Kind::kUrl:
      return "u:" + x.As<Url>()->href;
    case Value::Kind::kHeaders:
      return "headers";
    case Value::Kind::kError:
      return "e:" + x.As<ErrorValue>()->name + ":" + x.As<ErrorValue>()->message;
    case Value::Kind::kArray: {
      std::string text = "[";
      for (Value& item : *x.As<Array>()) {
        if (text.size() > 1) text += ',';
        text += Inspect(std::move(item));
      }
      return text + "]";
    }
    case Value::Kind::kObject: {
      auto& members = x.As<Object>()->members();
      std::sort(members.begin(), members.end(),
                [](const Member& a, const Member& b) { return a.key < b.key; });
      std::string text = "{";
      for (Member& member : members) {
        if (text.size() > 1) text += ',';
        text += Encode(Value(member.key)).value();
        text += ':';
        text += Inspect(std::move(member.value));
      }
      return text + "}";
    }
    default:
      break;
  }
  return "stub";
}

}  // namespace edge::rpc
