// Configuration that many threads read all the time and somebody changes now and then:
// kept in a SQLite file, read from memory, safe across a restart.
#include <stdlib.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "edge/kv/namespace.h"
#include "edge/kv/sqlite_origin.h"

namespace kv = edge::kv;

namespace {

edge::StatusOr<kv::Namespace> OpenConfig(const std::string& path) {
  EDGE_ASSIGN_OR_RETURN(auto origin, kv::SqliteOrigin::Open(path));
  return kv::Namespace::Open(std::move(origin));
}

// Puts the settings, then reads them from two threads while a third changes one of them.
edge::Status Serve(kv::Namespace config) {
  EDGE_RETURN_IF_ERROR(config.Put("limits/uploads", "10", {.metadata = R"({"by":"ada"})"}));
  EDGE_RETURN_IF_ERROR(config.Put("limits/seats", "180"));
  EDGE_RETURN_IF_ERROR(config.Put("banner", "Sale today", {.expiration_ttl_s = 3600}));

  std::atomic<bool> wrong{false};
  std::vector<std::thread> readers;
  for (int t = 0; t < 2; ++t) {
    readers.emplace_back([config, &wrong]() mutable {  // a handle: copies share the store
      int last = 0;
      while (last < 99 && !wrong) {
        const auto limit = config.Get("limits/uploads");
        if (!limit.ok() || !*limit || std::stoi(**limit) < last) {
          wrong = true;
          break;
        }
        last = std::stoi(**limit);
      }
    });
  }
  edge::Status written;
  for (int limit = 11; limit <= 99 && written.ok(); ++limit) {
    written = config.Put("limits/uploads", std::to_string(limit));
  }
  if (!written.ok()) wrong = true;  // lets the readers go
  for (std::thread& reader : readers) reader.join();
  EDGE_RETURN_IF_ERROR(written);
  if (wrong) return edge::Status(edge::StatusCode::kInternal, "a reader saw an old limit");

  constexpr int kReads = 200'000;
  std::string value;  // reused: a hit allocates nothing
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < kReads; ++i) {
    EDGE_RETURN_IF_ERROR(config.GetInto("limits/seats", &value).status());
  }
  const std::chrono::duration<double, std::nano> took = std::chrono::steady_clock::now() - start;
  const kv::Stats stats = config.stats();
  std::printf("A hot read takes %.0f ns; the origin was asked %llu times.\n", took.count() / kReads,
              static_cast<unsigned long long>(stats.origin_reads));
  return edge::OkStatus();
}

// What a new process finds.
edge::Status Check(kv::Namespace config) {
  EDGE_ASSIGN_OR_RETURN(const auto limit, config.Get("limits/uploads"));
  EDGE_ASSIGN_OR_RETURN(const kv::ListPage page, config.List({.prefix = "limits/"}));
  EDGE_ASSIGN_OR_RETURN(const auto missing, config.Get("limits/none"));
  if (limit != "99" || page.keys.size() != 2 || missing) {
    return edge::Status(edge::StatusCode::kInternal, "the settings are not what was put");
  }
  std::printf("Two readers saw 89 changes in order; after a restart all settings are there.\n");
  return edge::OkStatus();
}

edge::Status Run(const std::string& path) {
  {
    EDGE_ASSIGN_OR_RETURN(kv::Namespace config, OpenConfig(path));
    EDGE_RETURN_IF_ERROR(Serve(std::move(config)));
  }
  EDGE_ASSIGN_OR_RETURN(kv::Namespace config, OpenConfig(path));
  return Check(std::move(config));
}

}  // namespace

int main() {
  std::string folder = (std::filesystem::temp_directory_path() / "edge-kv-XXXXXX").string();
  if (mkdtemp(folder.data()) == nullptr) return 1;
  const edge::Status status = Run(folder + "/config.db");
  std::filesystem::remove_all(folder);
  if (!status.ok()) std::printf("%s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
