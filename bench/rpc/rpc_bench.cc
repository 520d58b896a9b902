// Calls on objects of this process and thread, by pointer and by name. Peers are programs,
// started afresh for each repetition.
#include <cstdint>

#include "bench/bench.h"
#include "bench/rpc/peer_program.h"
#include "edge/rpc/stub.h"

namespace {

using namespace edge;
using namespace edge::rpc;
using bench::Sample;

class Squares : public Target {
 public:
  [[gnu::noinline]] int64_t Square(int64_t i) { return i * i; }
  using Rpc = Methods<&Squares::Square>;
};

// Peers make fewer calls: the sum for `calls` of ours is scaled down by whole rounds of 1000.
uint64_t SumFor(uint64_t sum, int calls, int peer_calls) {
  return sum / static_cast<uint64_t>(calls / peer_calls);
}

constexpr int kPeerCalls = 100000;

Sample LocalTyped() {
  constexpr int kCalls = 10000000;
  const auto stub = MakeStub<Squares>();
  const Stub<Squares>* at = &stub;
  uint64_t sum = 0;
  const double seconds = bench::SecondsOf([&] {
    for (int i = 0; i < kCalls; ++i) {
      bench::KeepAlive(at);
      sum += static_cast<uint64_t>(*at->Call<&Squares::Square>(i % 1000).Wait());
    }
  });
  return {seconds / kCalls * 1e9, SumFor(sum, kCalls, kPeerCalls)};
}

Sample LocalDynamic() {
  constexpr int kCalls = 1000000;
  const AnyStub stub(MakeStub<Squares>());
  uint64_t sum = 0;
  const double seconds = bench::SecondsOf([&] {
    for (int i = 0; i < kCalls; ++i) {
      stub.Call("square", i % 1000).Then([&sum](StatusOr<Value> result) {
        sum += static_cast<uint64_t>(*result->As<int64_t>());
      });
    }
  });
  return {seconds / kCalls * 1e9, SumFor(sum, kCalls, kPeerCalls)};
}

}  // namespace

int main(int argc, char** argv) {
  bench::Suite suite(argc, argv);
  bench::PeerProgram::Built(argv[0], "capnp")
      .Row(suite,
           {.name = "rpc/local_call",
            .peer_name = "Cap'n Proto local call",
            .unit = "ns/call",
            .repetitions = 5},
           LocalTyped, "local", kPeerCalls);
  bench::PeerProgram::Node().Row(suite,
                                 {.name = "rpc/local_dynamic",
                                  .peer_name = "capnweb local stub",
                                  .unit = "ns/call",
                                  .repetitions = 5},
                                 LocalDynamic, "local", kPeerCalls);
  return 0;
}
