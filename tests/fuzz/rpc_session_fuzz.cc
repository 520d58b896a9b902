// Messages of a hostile peer, into a session with a main object: JSON, one line a message, or,
// after a first byte 'B', the binary form, each message behind its length in one byte.
//
// Nothing may crash or leak, whatever comes; when the session has ended both tables are
// empty. What the fuzzer finds to be a value must also read back as that value.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "edge/base/check.h"
#include "edge/rpc/attenuate.h"
#include "edge/rpc/session.h"
#include "edge/rpc/stream.h"
#include "edge/rpc/stub.h"

namespace {

using namespace edge;
using namespace edge::rpc;

class Thing : public Target {
 public:
  double Add(double a, std::optional<double> b) { return a + b.value_or(1); }
  Value Echo(Value value) { return value; }
  std::shared_ptr<Thing> Make() { return std::make_shared<Thing>(); }
  Promise<Value> Apply(Stub<Value(Value)> function, Value value) {
    return function(std::move(value));
  }
  void Keep(AnyStub stub) { kept_ = stub; }
  std::vector<std::string> List() { return {"a", "b"}; }
  ReadableStream<int> Produce(int n) {
    return Generate<int>([n]() mutable { return n-- > 0 ? std::optional<int>(n) : std::nullopt; });
  }
  void Hold(ReadableStream<> stream) { held_ = std::move(stream); }
  Promise<Chunk<Value>> ReadHeld() { return held_.Read(); }
  Promise<void> WriteTo(WritableStream<> stream, Value value) {
    return stream.Write(std::move(value));
  }
  WritableStream<> Sink() {
    return MakeSink<Value>([](const Value&) {}, [](const Status&) {});
  }
  AnyStub Lend(AnyStub stub) { return Attenuate(stub, {.calls_max = 3}); }
  using Rpc = Methods<&Thing::Add, &Thing::Echo, &Thing::Make, &Thing::Apply, &Thing::Keep,
                      &Thing::List, &Thing::Produce, &Thing::Hold, &Thing::ReadHeld,
                      &Thing::WriteTo, &Thing::Sink, &Thing::Lend>;

 private:
  AnyStub kept_;
  ReadableStream<> held_;
};

void RoundTrip(std::string_view text) {
  const StatusOr<Value> value = Decode(text);
  if (!value.ok()) return;
  const StatusOr<std::string> again = Encode(*value);
  EDGE_CHECK(again.ok());
  const StatusOr<Value> back = Decode(*again);
  EDGE_CHECK(back.ok() && *back == *value);
}

std::string_view NextMessage(std::string_view* input, bool binary) {
  const size_t size = binary ? static_cast<uint8_t>(input->front()) : input->find('\n');
  if (binary) input->remove_prefix(1);
  const std::string_view message = input->substr(0, size);
  input->remove_prefix(std::min(message.size() + (binary ? 0 : 1), input->size()));
  return message;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view input(reinterpret_cast<const char*>(data), size);
  SessionLimits limits;
  limits.exports_max = 64;
  limits.imports_max = 64;
  limits.output_bytes_max = 1 << 20;
  limits.calls_max = 32;
  limits.pipeline_max = 16;
  limits.memory_bytes_max = 1 << 20;
  limits.stream_bytes_max = 1 << 16;
  limits.blob_bytes_max = 1 << 16;
  limits.map_steps_max = 1000;
  limits.map_bytes_max = 1 << 16;
  auto session = Session::Create(Stub<Thing>(std::make_shared<Thing>()).hook(), limits);
  const bool binary = input.starts_with('B');
  if (binary) {
    session->UseBinary();
    input.remove_prefix(1);
  }
  while (!input.empty()) {
    const std::string_view message = NextMessage(&input, binary);
    if (!binary) RoundTrip(message);
    const bool ended = !session->OnMessage(message).ok();
    EDGE_CHECK(ended == session->ended());
    if (ended) EDGE_CHECK(session->counts().exports == 0 && session->counts().imports == 0);
  }
  for (std::string message; session->TakeOutput(&message);) EDGE_CHECK(!message.empty());
  return 0;
}
