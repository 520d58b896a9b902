// An object over which a stock Cap'n Web client can exercise every behaviour from outside.
#pragma once
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "edge/base/task.h"
#include "edge/rpc/stream.h"
#include "edge/rpc/stub.h"

namespace edge::rpc {

// Shared by the sessions of one server: logs and counts of dead objects by tag.
struct ConformanceWorld {
  std::map<std::string, int> disposed;
  std::map<std::string, Array> logs;
};

class ConformanceCounter : public Target {
 public:
  explicit ConformanceCounter(double start) : count_(start) {}
  double Increment(std::optional<double> amount) { return count_ += amount.value_or(1); }
  double value() const { return count_; }
  using Rpc =
      Methods<&ConformanceCounter::Increment, Property<"value", &ConformanceCounter::value>>;

 private:
  double count_;
};

class ConformanceUser : public Target {
 public:
  explicit ConformanceUser(std::string id) : id_(std::move(id)) {}
  std::string GetUserId() { return id_; }
  using Rpc = Methods<&ConformanceUser::GetUserId>;

 private:
  std::string id_;
};

class ConformanceTracked : public Target {
 public:
  ConformanceTracked(std::shared_ptr<ConformanceWorld> world, std::string tag)
      : world_(std::move(world)), tag_(std::move(tag)) {}
  ~ConformanceTracked() override { ++world_->disposed[tag_]; }
  std::string Ping() { return "pong"; }
  using Rpc = Methods<&ConformanceTracked::Ping>;

 private:
  std::shared_ptr<ConformanceWorld> world_;
  std::string tag_;
};

class Conformance : public Target {
 public:
  using Function = Stub<Value(Value)>;
  explicit Conformance(std::shared_ptr<ConformanceWorld> world) : world_(std::move(world)) {}

  double Square(double i) { return i * i; }
  Value CallSquare(AnyStub self, double i) { return ObjectOf("result", self.Call("square", i)); }
  Value CallFunction(Function f, Value i) { return ObjectOf("result", f(std::move(i))); }
  void ThrowError();
  Stub<ConformanceCounter> MakeCounter(double start);
  Promise<Value> IncrementCounter(AnyStub counter, std::optional<double> by);
  std::vector<double> GenerateFibonacci(int n);
  Value ReturnNull() { return nullptr; }
  void ReturnUndefined() {}
  double ReturnNumber(double i) { return i; }
  Value Echo(Value x) { return x; }
  std::string Inspect(Value x);
  std::string version() { return "conformance-1"; }
  Status instance_prop() { return InstanceProperty(); }
  void ThrowErrorWith(std::string type, std::string message, std::optional<Object> properties);
  void ThrowValue(Value x);
  Task<Value> Delay(double ms, Value x);
  Value GetNested();
  Stub<double(double)> GetAdder(double k);
  Value RoundTrip(AnyStub stub) { return ObjectOf("stub", stub); }
  Stub<ConformanceUser> Authenticate(std::string_view token);
  Stub<ConformanceTracked> MakeTracked(std::string tag);
  int DisposedCount(const std::string& tag) { return world_->disposed[tag]; }
  void SetCallback(Function f) { callback_ = std::move(f); }
  Promise<Value> FireCallback(Value x) { return callback_(std::move(x)); }
  void ClearCallback() { callback_ = {}; }
  Value UseTwice(Function f, Function g) { return ArrayOf(f(1), g(2)); }
  Promise<Value> PipelineOnClient(AnyStub t) {
    return t.Call("makeCounter", 10).Call("increment", 5);
  }
  Task<Value> CallAndReport(Stub<Value()> f);
  void Append(const std::string& tag, Value x) { world_->logs[tag].push_back(std::move(x)); }
  Array GetLog(const std::string& tag) { return world_->logs[tag]; }
  std::vector<std::string> ListIds() { return {"u1", "u2", "u3", "u4", "u5"}; }
  std::string GetName(const std::string& id) { return "name-" + id; }
  Value ListTeams();
  Value MaybeId(bool flag) { return flag ? Value("u9") : Value(nullptr); }
  Value Stats();
  Blob EchoBlob(Blob blob) { return blob; }
  Task<Value> Consume(ReadableStream<Bytes> stream);
  Task<Value> ConsumeOrError(ReadableStream<> stream);
  ReadableStream<Bytes> Produce(int64_t total, int64_t chunk);
  ReadableStream<> ProduceValues(int n);
  ReadableStream<> ProduceThenFail(int n);
  Task<int> WriteTo(WritableStream<> stream, int n);
  WritableStream<> GetSink(std::optional<double> delay_ms);
  Value SinkState();

  using Rpc =
      Methods<&Conformance::Square, &Conformance::CallSquare, &Conformance::CallFunction,
              &Conformance::ThrowError, &Conformance::MakeCounter, &Conformance::IncrementCounter,
              &Conformance::GenerateFibonacci, &Conformance::ReturnNull,
              &Conformance::ReturnUndefined, &Conformance::ReturnNumber, &Conformance::Echo,
              &Conformance::Inspect, Property<"version", &Conformance::version>,
              Property<"instanceProp", &Conformance::instance_prop>, &Conformance::ThrowErrorWith,
              &Conformance::ThrowValue, &Conformance::Delay, &Conformance::GetNested,
              &Conformance::GetAdder, &Conformance::RoundTrip, &Conformance::Authenticate,
              &Conformance::MakeTracked, &Conformance::DisposedCount, &Conformance::SetCallback,
              &Conformance::FireCallback, &Conformance::ClearCallback, &Conformance::UseTwice,
              &Conformance::PipelineOnClient, &Conformance::CallAndReport, &Conformance::Append,
              &Conformance::GetLog, &Conformance::ListIds, &Conformance::GetName,
              &Conformance::ListTeams, &Conformance::MaybeId, &Conformance::Stats,
              &Conformance::EchoBlob, &Conformance::Consume, &Conformance::ConsumeOrError,
              &Conformance::Produce, &Conformance::ProduceValues, &Conformance::ProduceThenFail,
              &Conformance::WriteTo, &Conformance::GetSink, &Conformance::SinkState>;

 private:
  struct Sink {
    int64_t bytes = 0;
    bool closed = false;
    bool aborted = false;
  };
  static Status InstanceProperty();
  std::shared_ptr<ConformanceWorld> world_;
  Function callback_;
  std::shared_ptr<Sink> sink_ = std::make_shared<Sink>();  // the last one, and its stream's
};

}  // namespace edge::rpc
