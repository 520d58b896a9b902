// Two places far from one store: what each tier does for the latency of their reads. The
// network is a wait, a twentieth of 60 ms to the store and of 8 ms to the tier of the region.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <functional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "edge/kv/memory_origin.h"
#include "edge/kv/namespace.h"

namespace kv = edge::kv;

namespace {

// Whatever is behind, a distance away.
class Far final : public kv::Origin {
 public:
  Far(std::shared_ptr<kv::Origin> behind, std::chrono::microseconds distance)
      : behind_(std::move(behind)), distance_(distance) {}
  edge::StatusOr<std::optional<kv::Entry>> Get(std::string_view key) override {
    std::this_thread::sleep_for(distance_);
    return behind_->Get(key);
  }
  edge::StatusOr<kv::Version> Put(std::string_view key, const kv::EntryView& entry) override {
    std::this_thread::sleep_for(distance_);
    return behind_->Put(key, entry);
  }
  edge::StatusOr<kv::Version> Delete(std::string_view key, kv::Version version) override {
    std::this_thread::sleep_for(distance_);
    return behind_->Delete(key, version);
  }
  edge::StatusOr<kv::OriginListPage> List(const kv::OriginListQuery& query) override {
    std::this_thread::sleep_for(distance_);
    return behind_->List(query);
  }
  // Messages about changes come as they are made.
  edge::StatusOr<std::unique_ptr<kv::Subscription>> Watch(kv::OnChange on_change) override {
    return behind_->Watch(std::move(on_change));
  }

 private:
  std::shared_ptr<kv::Origin> behind_;
  std::chrono::microseconds distance_;
};

constexpr std::chrono::microseconds kToStore(60'000 / 20);
constexpr std::chrono::microseconds kToRegion(8'000 / 20);
constexpr int kKeys = 200;

using Read = std::function<edge::Status(const std::string&)>;

// Reads in turns from two places of a region; some keys come much more often than others.
edge::Status Measure(const char* what, const std::vector<Read>& places) {
  std::mt19937 rng(7);
  std::vector<double> took_ms;
  for (int i = 0; i < 300; ++i) {
    const double u = static_cast<double>(rng()) / 4294967296.0;
    const std::string key = "asset" + std::to_string(static_cast<int>(u * u * u * u * kKeys));
    const auto start = std::chrono::steady_clock::now();
    EDGE_RETURN_IF_ERROR(places[static_cast<size_t>(i) % places.size()](key));
    const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - start;
    took_ms.push_back(took.count());
  }
  std::ranges::sort(took_ms);
  const auto at = [&](double q) { return took_ms[static_cast<size_t>(q * 299)]; };
  std::printf("%-34s %8.3f %8.3f %8.3f %8.3f\n", what, at(0.5), at(0.75), at(0.9), at(0.99));
  return edge::OkStatus();
}

Read From(kv::Namespace store) {
  return [store](const std::string& key) mutable { return store.Get(key).status(); };
}

edge::Status Run() {
  const auto store = std::make_shared<kv::MemoryOrigin>();
  for (int i = 0; i < kKeys; ++i) {
    EDGE_RETURN_IF_ERROR(
        store->Put("asset" + std::to_string(i), {.value = std::string(1000, 'x')}).status());
  }
  std::printf("%-34s %8s %8s %8s %8s\n", "reads, in ms", "p50", "p75", "p90", "p99");
  const auto far_store = std::make_shared<Far>(store, kToStore);
  const Read direct = [far_store](const std::string& key) { return far_store->Get(key).status(); };
  EDGE_RETURN_IF_ERROR(Measure("every read from the store", {direct, direct}));

  // Both places ask the tier of their region, which asks the store.
  EDGE_ASSIGN_OR_RETURN(kv::Namespace alone, kv::Namespace::Open(far_store, {.fresh_for_s = 60}));
  const auto near_region = std::make_shared<Far>(alone.AsOrigin(), kToRegion);
  const Read through = [near_region](const std::string& key) {
    return near_region->Get(key).status();
  };
  EDGE_RETURN_IF_ERROR(Measure("+ a tier in the region", {through, through}));

  // Each place has a tier in its own memory as well.
  EDGE_ASSIGN_OR_RETURN(kv::Namespace region, kv::Namespace::Open(far_store, {.fresh_for_s = 60}));
  const auto to_region = std::make_shared<Far>(region.AsOrigin(), kToRegion);
  EDGE_ASSIGN_OR_RETURN(kv::Namespace here, kv::Namespace::Open(to_region, {.fresh_for_s = 60}));
  EDGE_ASSIGN_OR_RETURN(kv::Namespace there, kv::Namespace::Open(to_region, {.fresh_for_s = 60}));
  EDGE_RETURN_IF_ERROR(Measure("+ a hot tier in each process", {From(here), From(there)}));
  EDGE_RETURN_IF_ERROR(Measure("  the same, warm", {From(here), From(there)}));

  // A write in the other region is seen here at once: the store tells of it.
  EDGE_ASSIGN_OR_RETURN(kv::Namespace other, kv::Namespace::Open(far_store, {.fresh_for_s = 60}));
  EDGE_RETURN_IF_ERROR(other.Put("asset0", "new"));
  EDGE_ASSIGN_OR_RETURN(const auto seen, here.Get("asset0"));
  if (seen != "new") return edge::Status(edge::StatusCode::kInternal, "an old value");
  std::printf(
      "%.0f %% of the misses here ended in the region; a write far away was seen at once.\n",
      100 * region.stats().hit_ratio());
  return edge::OkStatus();
}

}  // namespace

int main() {
  const edge::Status status = Run();
  if (!status.ok()) std::printf("%s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
