// A counter that outlives its process: open, count, close, open again, count on.
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>

#include "edge/durable/host.h"

namespace {

class PageCounter : public edge::durable::Object {
 public:
  explicit PageCounter(edge::durable::Context& ctx) : Object(ctx) {
    sql().Exec("CREATE TABLE IF NOT EXISTS visits (page TEXT PRIMARY KEY, count INTEGER)");
  }
  int64_t Visit(std::string_view page) {
    return sql()
        .Exec<int64_t>(
            "INSERT INTO visits VALUES (?, 1) ON CONFLICT DO UPDATE SET count = count + 1 "
            "RETURNING count",
            page)
        .Value();
  }
  using Rpc = edge::rpc::Methods<&PageCounter::Visit>;
};

// What one process does: opens what is there, counts three visits, closes.
edge::StatusOr<int64_t> CountThree(const std::string& directory) {
  EDGE_ASSIGN_OR_RETURN(auto executor, edge::Executor::Create({.threads = 2}));
  EDGE_ASSIGN_OR_RETURN(auto relay, edge::srs::Relay::Open({.directory = directory}));
  EDGE_ASSIGN_OR_RETURN(auto host, edge::durable::Host::Create(*executor, *relay));
  EDGE_ASSIGN_OR_RETURN(auto counters, host->AddNamespace<PageCounter>("COUNTERS"));

  auto counter = counters.Get("example.com");
  int64_t count = 0;
  for (int i = 0; i < 3; ++i) {
    // Answers once the visit is on disk.
    EDGE_ASSIGN_OR_RETURN(count, counter.Call<&PageCounter::Visit>("/index.html").Wait());
  }
  return count;
}

}  // namespace

int main() {
  std::string directory = std::filesystem::temp_directory_path() / "edge-counter-XXXXXX";
  if (mkdtemp(directory.data()) == nullptr) return 1;
  const auto first = CountThree(directory);
  const auto second = CountThree(directory);
  std::filesystem::remove_all(directory);
  for (const auto* count : {&first, &second}) {
    if (!count->ok()) {
      std::fprintf(stderr, "%s\n", count->status().ToString().c_str());
      return 1;
    }
  }
  std::printf("after the first run %lld visits, after the second %lld: nothing was lost\n",
              static_cast<long long>(*first), static_cast<long long>(*second));
  return *first == 3 && *second == 6 ? 0 : 1;
}
