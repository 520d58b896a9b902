#include "tests/rpc/conformance.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "edge/base/errors.h"

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
    case Value::Kind::kStub:
    case Value::Kind::kPromise:
      break;
  }
  return "stub";
}

}  // namespace edge::rpc
