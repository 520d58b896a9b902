// A counter on disk in a simulated world: the machine loses power a thousand times, and the
// same seed loses it the same way twice. Only public headers; no thread, no real file.
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>

#include "edge/base/errors.h"
#include "edge/base/simulation.h"

namespace {

// Counts once a millisecond and writes the count down. `confirmed` is what it has promised.
class Counter {
 public:
  Counter(edge::Simulation::Host& host, bool careful, uint64_t* confirmed)
      : host_(host), careful_(careful), confirmed_(confirmed) {
    if (auto saved = edge::ReadFile(host.files(), "count"); saved.ok()) {
      count_ = std::strtoull(std::string(edge::AsText(*saved)).c_str(), nullptr, 10);
    }
    Tick();
  }
  uint64_t count() const { return count_; }

 private:
  void Tick() {
    host_.loop().After(1'000'000, [this] {
      if (Save(std::to_string(++count_)).ok()) *confirmed_ = count_;
      Tick();
    });
  }
  edge::Status Save(const std::string& text) {
    if (careful_) return edge::WriteFileAtomic(host_.files(), "count", edge::AsBytes(text));
    EDGE_ASSIGN_OR_RETURN(auto file, host_.files().Open("count", edge::OpenMode::kCreateTruncate));
    return file->WriteAt(0, edge::AsBytes(text));  // nobody syncs: power loss may undo it
  }

  edge::Simulation::Host& host_;
  const bool careful_;
  uint64_t* const confirmed_;
  uint64_t count_ = 0;
};

struct Outcome {
  int crashes = 0;
  int losses = 0;
  uint64_t trace_hash = 0;
};

Outcome Live(uint64_t seed, bool careful) {
  auto world = edge::Simulation::Create({.seed = seed});
  auto& host = world->AddHost("machine");
  uint64_t confirmed = 0;
  std::unique_ptr<Counter> counter;
  Outcome outcome;
  for (; outcome.crashes < 100; ++outcome.crashes) {
    host.Run([&] { counter = std::make_unique<Counter>(host, careful, &confirmed); });
    if (counter->count() < confirmed) ++outcome.losses;
    confirmed = counter->count();
    world->RunFor(static_cast<int64_t>(world->random().Below(50'000'000)));
    host.Crash([&] { counter.reset(); });
  }
  outcome.trace_hash = world->trace_hash();
  return outcome;
}

}  // namespace

int main() {
  Outcome careful;
  Outcome careless;
  for (uint64_t seed = 1; seed <= 10; ++seed) {
    const Outcome one = Live(seed, true);
    if (one.trace_hash != Live(seed, true).trace_hash) return 1;
    careful.crashes += one.crashes;
    careful.losses += one.losses;
    careless.losses += Live(seed, false).losses;
  }
  std::printf("%d power losses, each seed run twice with the same trace\n", careful.crashes);
  std::printf("with WriteFileAtomic: %d confirmed counts lost\n", careful.losses);
  std::printf("with a plain write:   %d lost\n", careless.losses);
  return careful.losses == 0 && careless.losses > 0 ? 0 : 1;
}
