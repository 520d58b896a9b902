// A rate limiter: one object per client, a token bucket in memory and on disk. Losing a little of
// it in a crash does no harm, so its answers do not wait for the disk.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <string>

#include "edge/durable/host.h"

namespace {

class RateLimiter : public edge::durable::Object {
 public:
  static constexpr double kBurst = 5;
  static constexpr double kPerSecond = 1;

  explicit RateLimiter(edge::durable::Context& ctx) : Object(ctx) {
    if (const auto saved = kv().Get("tokens")) tokens_ = std::stod(*saved);
    filled_ms_ = now_ms();
  }
  bool Allow() {
    const int64_t now = now_ms();
    tokens_ = std::min(kBurst, tokens_ + kPerSecond * static_cast<double>(now - filled_ms_) / 1000);
    filled_ms_ = now;
    const bool allowed = tokens_ >= 1;
    if (allowed) tokens_ -= 1;
    kv().Put("tokens", std::to_string(tokens_), {.allow_unconfirmed = true});
    return allowed;
  }
  using Rpc = edge::rpc::Methods<&RateLimiter::Allow>;

 private:
  int64_t now_ms() { return ctx().loop().clock().wall_ms(); }
  double tokens_ = kBurst;
  int64_t filled_ms_ = 0;
};

edge::StatusOr<int> CountAllowed(const std::string& directory, int requests) {
  EDGE_ASSIGN_OR_RETURN(auto executor, edge::Executor::Create({.threads = 2}));
  EDGE_ASSIGN_OR_RETURN(auto relay, edge::srs::Relay::Open({.directory = directory}));
  EDGE_ASSIGN_OR_RETURN(auto host, edge::durable::Host::Create(*executor, *relay));
  EDGE_ASSIGN_OR_RETURN(auto limiters, host->AddNamespace<RateLimiter>("LIMITS"));
  auto limiter = limiters.Get("203.0.113.7");
  int allowed = 0;
  for (int i = 0; i < requests; ++i) {
    EDGE_ASSIGN_OR_RETURN(const bool yes, limiter.Call<&RateLimiter::Allow>().Wait());
    allowed += yes ? 1 : 0;
  }
  return allowed;
}

}  // namespace

int main() {
  std::string directory = std::filesystem::temp_directory_path() / "edge-limit-XXXXXX";
  if (mkdtemp(directory.data()) == nullptr) return 1;
  const auto first = CountAllowed(directory, 20);
  const auto second = CountAllowed(directory, 20);  // a new process: the bucket is still empty
  std::filesystem::remove_all(directory);
  if (!first.ok() || !second.ok()) {
    std::fprintf(stderr, "%s %s\n", first.status().ToString().c_str(),
                 second.status().ToString().c_str());
    return 1;
  }
  std::printf("of 20 requests %d were allowed, of 20 more after a restart %d\n", *first, *second);
  return *first >= 5 && *first < 20 && *second < *first ? 0 : 1;
}
