// One program, two configurations: the service is here, or in another process.
#include <catch2/catch.hpp>
#include <string>

#include "edge/base/errors.h"
#include "edge/edge.h"
#include "tests/base/temp_directory.h"

using namespace edge;  // NOLINT

namespace {

class Auth : public rpc::Target {
 public:
  StatusOr<std::string> NameOf(std::string_view cookie) {
    if (!cookie.starts_with("user=")) return Unauthenticated("no such cookie");
    return std::string(cookie.substr(5));
  }
  using Rpc = rpc::Methods<&Auth::NameOf>;
  using Idempotent = rpc::Methods<&Auth::NameOf>;
};

AppConfig ConfigIn(const TempDirectory& folder, ServiceConfig auth) {
  AppConfig config;
  config.data = folder.path() + "/data";
  config.listen.http = "127.0.0.1:0";
  config.services["AUTH"] = std::move(auth);
  return config;
}

// What a program does with the binding, wherever it leads.
std::string NameThrough(App& app) {
  auto auth = app.Service<Auth>("AUTH").value();
  auto name = auth.Call<&Auth::NameOf>("user=ada").Wait();
  auto refused = auth.Call<&Auth::NameOf>("x").Wait();
  CHECK(refused.status().code() == StatusCode::kUnauthenticated);
  return name.value();
}

}  // namespace

TEST_CASE("a service is local or remote by configuration alone", "[app]") {
  const TempDirectory here;
  const TempDirectory there;
  auto local =
      App::Open(ConfigIn(here, {.url = "", .expose = "/auth", .token = "s3cret", .ca = ""}))
          .value();
  CHECK(local->Service<Auth>("AUTH").status().code() == StatusCode::kFailedPrecondition);
  REQUIRE(local->Provide("AUTH", std::make_shared<Auth>()).ok());
  CHECK(local->Provide("AUTH", std::make_shared<Auth>()).code() == StatusCode::kAlreadyExists);
  CHECK(NameThrough(*local) == "ada");
  CHECK(local->Service<Auth>("OTHER").status().code() == StatusCode::kNotFound);

  const std::string url = "ws://" + local->Listen().value() + "/auth";
  auto remote =
      App::Open(ConfigIn(there, {.url = url, .expose = "", .token = "s3cret", .ca = ""})).value();
  REQUIRE(remote->Provide("AUTH", std::make_shared<Auth>()).ok());  // not used
  CHECK(NameThrough(*remote) == "ada");

  const TempDirectory elsewhere;
  auto stranger =
      App::Open(ConfigIn(elsewhere, {.url = url, .expose = "", .token = "guess", .ca = ""}))
          .value();
  auto refused = stranger->Service<Auth>("AUTH").value().Call<&Auth::NameOf>("user=ada").Wait();
  CHECK(refused.status() == Status(PermissionDenied("the token is not known")));
}

TEST_CASE("a service's configuration is read strictly", "[app]") {
  const auto parse = [](const std::string& service) {
    return std::string(
        Message(AppConfig::Parse(R"({"services": {"AUTH": )" + service + "}}").status()));
  };
  CHECK(parse(R"({"url": "ws://h/", "deadline_ms": 5})").empty());
  CHECK(parse(R"({"url": "ws://h/", "expose": "/x"})") ==
        "services.AUTH: either url or expose, not both");
  CHECK(parse(R"({"expose": "x"})") == "services.AUTH.expose: 'x' must start with /");
  CHECK(parse(R"({"deadline": 5})") ==
        "services.AUTH.deadline: unknown; did you mean deadline_ms?");
  CHECK(parse(R"({"retries_max": 21})") == "services.AUTH.retries_max: 21 is not in [0, 20]");
}
