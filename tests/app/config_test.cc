#include "edge/config.h"

#include <vector>

#include "edge/edge.h"
#include "tests/base/temp_directory.h"

using namespace edge;  // NOLINT

namespace {
std::string Complaint(std::string_view json) {
  const auto config = AppConfig::Parse(json);
  return config.ok() ? "accepted" : std::string(Message(config.status()));
}
}  // namespace

TEST_CASE("a whole configuration is read", "[app]") {
  const auto config = AppConfig::Parse(R"({
    "threads": 3, "data": "d",
    "kv": {"CONFIG": {"hot_bytes_max": "1.5GiB", "origin": "memory"}, "ASSETS": {}},
    "durable": {"FLIGHTS": {"durability": "local"}},
    "srs": {"store": "folder:backup", "batch_interval_ms": 50, "batch_bytes_max": 1048576},
    "ai": {"model": "/m.gguf", "kv_bytes_max": "10MB", "threads": 1},
    "listen": {"http": "127.0.0.1:0"}})",
                                       "/etc/edge");
  REQUIRE(config.ok());
  CHECK(config->threads == 3);
  CHECK(config->data == "/etc/edge/d");
  CHECK(config->kv.at("CONFIG").hot_bytes_max == 1610612736);
  CHECK(config->kv.at("CONFIG").origin == "memory");
  CHECK(config->kv.at("ASSETS").hot_bytes_max == 64 << 20);
  CHECK(config->durable.contains("FLIGHTS"));
  CHECK(config->srs.store == "folder:/etc/edge/backup");
  CHECK(config->srs.batch_interval_ms == 50);
  CHECK(config->ai->model == "/m.gguf");
  CHECK(config->ai->kv_bytes_max == 10'000'000);
  CHECK(config->listen.http == "127.0.0.1:0");
}

TEST_CASE("a bucket may be the store, and a bad one is refused when it is opened", "[app]") {
  const TempDirectory folder;
  const auto config = AppConfig::Parse(R"({"srs": {"store": "s3:///nowhere"}})", folder.path());
  REQUIRE(config.ok());
  CHECK(config->srs.store == "s3:///nowhere");
  const auto app = App::Open(*config);
  REQUIRE_FALSE(app.ok());
  CHECK(Message(app.status()).substr(0, 11) == "srs.store: ");
}

TEST_CASE("an unknown key is named with its path and the nearest known one", "[app]") {
  CHECK(Complaint(R"({"kv": {"CONFIG": {"hot_bytes_mx": 1}}})") ==
        "kv.CONFIG.hot_bytes_mx: unknown; did you mean hot_bytes_max?");
  CHECK(Complaint(R"({"thread": 2})") == "thread: unknown; did you mean threads?");
  CHECK(Complaint(R"({"zebra": 2})") == "zebra: unknown");
}

TEST_CASE("a value of the wrong kind or out of range is named with its path", "[app]") {
  CHECK(Complaint(R"({"threads": "two"})") == "threads: must be a whole number, but is text");
  CHECK(Complaint(R"({"threads": 0})") == "threads: 0 is not in [1, 256]");
  CHECK(Complaint(R"({"threads": 18446744073709551615})") ==
        "threads: 18446744073709551615 is not in [1, 256]");
  CHECK(Complaint(R"({"kv": []})") == "kv: must be an object, but is an array");
  CHECK(Complaint(R"({"kv": {"A": {"hot_bytes_max": "64 bananas"}}})") ==
        "kv.A.hot_bytes_max: '64 bananas' is not a size such as \"64MiB\"");
  CHECK(Complaint(R"({"kv": {"A": {"origin": "paper"}}})") ==
        "kv.A.origin: 'paper' is not one of: memory, sqlite");
  CHECK(Complaint(R"({"srs": {"store": "s3:x"}})") ==
        "srs.store: 's3:x' must be folder:PATH or s3://BUCKET/PREFIX");
  CHECK(Complaint(R"({"ai": {}})") == "ai.model: missing; give the path of a GGUF file");
  CHECK(Complaint("[1]") == "the configuration must be an object, but is an array");
}

TEST_CASE("text that is not JSON is refused with line and column", "[app]") {
  CHECK(Complaint("{\n  \"threads\": }").starts_with("not JSON at line 2, column 14"));
  CHECK(Complaint("").starts_with("not JSON at line 1"));
}

TEST_CASE("every prefix of a configuration is refused or accepted, never worse",
          "[app][property]") {
  const std::string text =
      R"({"threads":2,"kv":{"A":{"hot_bytes_max":"1MiB"}},"ai":{"model":"m"}})";
  for (size_t length = 0; length < text.size(); ++length) {
    CHECK_FALSE(AppConfig::Parse(text.substr(0, length)).ok());
  }
  CHECK(AppConfig::Parse(text).ok());
}

TEST_CASE("a missing configuration file is named", "[app]") {
  const auto config = AppConfig::Load("/nowhere/edge.json");
  CHECK(config.status().code() == StatusCode::kNotFound);
  CHECK(Message(config.status()).find("/nowhere/edge.json") != std::string_view::npos);
}
