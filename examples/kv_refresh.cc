// Configuration that is read all the time and changes elsewhere: each process keeps it hot,
// fetches it again before it stops being fresh, and goes on with what it has if the store fails.
#include <atomic>
#include <cstdio>
#include <thread>

#include "edge/base/executor.h"
#include "edge/kv/memory_origin.h"
#include "edge/kv/namespace.h"

namespace kv = edge::kv;

namespace {

// The store behind, which others write to; it can fail, and it counts what it is asked.
class Store final : public kv::Origin {
 public:
  edge::StatusOr<std::optional<kv::Entry>> Get(std::string_view key) override {
    ++reads;
    if (down) return edge::Status(edge::StatusCode::kUnavailable, "the store is down");
    return behind.Get(key);
  }
  edge::StatusOr<kv::Version> Put(std::string_view key, const kv::EntryView& entry) override {
    return behind.Put(key, entry);
  }
  edge::StatusOr<kv::Version> Delete(std::string_view key, kv::Version version) override {
    return behind.Delete(key, version);
  }
  edge::StatusOr<kv::OriginListPage> List(const kv::OriginListQuery& query) override {
    return behind.List(query);
  }
  std::atomic<int> reads{0};
  std::atomic<bool> down{false};
  kv::MemoryOrigin behind;
};

// Time that passes when we say so.
class HandClock final : public edge::Clock {
 public:
  int64_t monotonic_ns() const override { return now_s * 1'000'000'000; }
  int64_t wall_ms() const override { return now_s * 1000; }
  std::atomic<int64_t> now_s{1'700'000'000};
};

edge::Status Run() {
  HandClock clock;
  EDGE_ASSIGN_OR_RETURN(const auto executor, edge::Executor::Create({.threads = 1}));
  const auto store = std::make_shared<Store>();
  EDGE_RETURN_IF_ERROR(store->behind.Put("limits/uploads", {.value = "10"}).status());
  EDGE_ASSIGN_OR_RETURN(kv::Namespace config,
                        kv::Namespace::Open(store, {.fresh_for_s = 60,
                                                    .stale_for_s = 30,
                                                    .refresh_ahead_s = 10,
                                                    .stale_if_error_s = 3600,
                                                    .clock = &clock,
                                                    .loop = &executor->loop(0)}));
  int reads = 0;
  const auto read_for = [&](int seconds) -> edge::Status {
    for (int s = 0; s < seconds; ++s, ++clock.now_s) {
      EDGE_ASSIGN_OR_RETURN(const auto value, config.Get("limits/uploads"));
      if (!value) return edge::Status(edge::StatusCode::kInternal, "the limit is gone");
      ++reads;
      edge::RunOn(executor->loop(0), [] {});  // lets a refresh that was started end
    }
    return edge::OkStatus();
  };
  EDGE_RETURN_IF_ERROR(read_for(600));
  const int asked = store->reads;
  EDGE_RETURN_IF_ERROR(store->behind.Put("limits/uploads", {.value = "20"}).status());
  EDGE_RETURN_IF_ERROR(read_for(61));
  EDGE_ASSIGN_OR_RETURN(const auto changed, config.Get("limits/uploads"));
  store->down = true;
  EDGE_RETURN_IF_ERROR(read_for(1800));
  EDGE_ASSIGN_OR_RETURN(const auto kept, config.GetWithMetadata("limits/uploads"));
  if (changed != "20" || !kept || !kept->stale || config.stats().misses > 1 + 1800) {
    return edge::Status(edge::StatusCode::kInternal, "not what was promised");
  }
  std::printf(
      "%d reads; in the first 600 s the store was asked %d times and nobody waited but the first;\n"
      "a change was seen within 60 s; with the store down the value was served for half an hour.\n",
      reads, asked);
  return edge::OkStatus();
}

}  // namespace

int main() {
  const edge::Status status = Run();
  if (!status.ok()) std::printf("%s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
