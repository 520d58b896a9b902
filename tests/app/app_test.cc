#include <cstdlib>
#include <filesystem>
#include <string>

#include "edge/base/errors.h"
#include "edge/edge.h"

using namespace edge;  // NOLINT

namespace {

// A folder of its own for each test, removed at its end.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "edge-app-XXXXXX").string();
    path_ = mkdtemp(pattern.data());
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

AppConfig ConfigIn(const std::string& folder) {
  AppConfig config;
  config.data = folder + "/data";
  config.srs.store = "folder:" + folder + "/store";
  config.srs.batch_interval_ms = 20;
  config.kv["CONFIG"] = {};
  config.kv["SCRATCH"].origin = "memory";
  config.durable["COUNTERS"] = {};
  config.listen.http = "127.0.0.1:0";
  return config;
}

class Tally : public durable::Object {
 public:
  using Object::Object;
  int64_t Add(int64_t by) {
    sql().Exec("CREATE TABLE IF NOT EXISTS c (id INTEGER PRIMARY KEY, n INTEGER)");
    return sql()
        .Exec<int64_t>(
            "INSERT INTO c VALUES (1, ?) ON CONFLICT DO UPDATE SET n = n + excluded.n RETURNING n",
            by)
        .Value();
  }
  using Rpc = rpc::Methods<&Tally::Add>;
};

}  // namespace

TEST_CASE("what an application wrote is there when it opens again", "[app]") {
  const TemporaryFolder folder;
  for (int64_t run = 1; run <= 3; ++run) {
    auto app = App::Open(ConfigIn(folder.path())).value();
    auto config = app->Kv("CONFIG").value();
    auto counters = app->Durable<Tally>("COUNTERS").value();
    CHECK(config.Get("run").value() ==
          (run == 1 ? std::nullopt : std::optional(std::to_string(run - 1))));
    CHECK(config.Put("run", std::to_string(run)).ok());
    CHECK(counters.Get("visits").Call<&Tally::Add>(2).Wait().value() == 2 * run);
    auto scratch = app->Kv("SCRATCH").value();
    CHECK(scratch.Get("k").value() == std::nullopt);
    CHECK(scratch.Put("k", "v").ok());
  }
}

TEST_CASE("a binding that the configuration does not name is NotFound", "[app]") {
  const TemporaryFolder folder;
  auto app = App::Open(ConfigIn(folder.path())).value();
  CHECK(Message(app->Kv("NOPE").status()) == "kv.NOPE: the configuration has no such binding");
  CHECK(app->Durable<Tally>("NOPE").status().code() == StatusCode::kNotFound);
  CHECK(app->Ai().status().code() == StatusCode::kNotFound);
}

TEST_CASE("a class is given to a durable binding once", "[app]") {
  const TemporaryFolder folder;
  auto app = App::Open(ConfigIn(folder.path())).value();
  CHECK(app->Durable<Tally>("COUNTERS").ok());
  CHECK(app->Durable<Tally>("COUNTERS").status().code() == StatusCode::kAlreadyExists);
}

TEST_CASE("two applications cannot share a data folder", "[app]") {
  const TemporaryFolder folder;
  auto app = App::Open(ConfigIn(folder.path())).value();
  const auto second = App::Open(ConfigIn(folder.path()));
  CHECK(second.status().code() == StatusCode::kFailedPrecondition);
}

TEST_CASE("the listener says where it is, and the metrics page answers", "[app]") {
  const TemporaryFolder folder;
  auto app = App::Open(ConfigIn(folder.path())).value();
  const std::string address = app->Listen().value();
  CHECK(address.starts_with("127.0.0.1:"));
  CHECK(app->Listen().status().code() == StatusCode::kFailedPrecondition);
  CHECK(app->Handle("/late", [](const rpc::HttpRequest&, rpc::HttpReply) {}).code() ==
        StatusCode::kFailedPrecondition);

  AppConfig other = ConfigIn(folder.path() + "/other");
  other.listen.http = address;
  auto rival = App::Open(std::move(other)).value();
  const auto refused = rival->Listen();
  CHECK(refused.status().code() == StatusCode::kUnavailable);
  CHECK(Message(refused.status()).find(address.substr(10)) != std::string_view::npos);
}

TEST_CASE("a model that cannot be opened is named with its path in the configuration", "[app]") {
  const TemporaryFolder folder;
  AppConfig config = ConfigIn(folder.path());
  config.ai.emplace().model = folder.path() + "/missing.gguf";
  const auto app = App::Open(std::move(config));
  CHECK(app.status().code() == StatusCode::kNotFound);
  CHECK(Message(app.status()).starts_with("ai.model: "));
}
