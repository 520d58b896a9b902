#include "server.h"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "assistant.h"
#include "edge/base/errors.h"
#include "edge/edge.h"
#include "roles.h"
#include "world.h"

namespace {

using edge::Status;
using edge::StatusOr;
using edge::rpc::HookPtr;
using edge::rpc::HttpReply;
using edge::rpc::HttpRequest;
using edge::rpc::Stub;
using Json = nlohmann::json;

constexpr int kFlightsOnPage = 12;

bool IsFlight(const std::string& name) {
  for (int i = 1; i <= kFlights; ++i) {
    if (name == FlightName(i)) return true;
  }
  return false;
}

class Server {
 public:
  explicit Server(const ServerOptions& options) : options_(options) {}
  Status Start();

 private:
  friend class Office;
  friend class Desk;
  friend class Clerk;

  Status Configure();
  Status LoadPage();
  Status SetUpFlights();
  Status Route();
  void ServeAsset(const HttpRequest& request, HttpReply reply);

  StatusOr<Stub<FlightSeating>> Flight(const std::string& name) {
    if (!IsFlight(name)) return edge::NotFound("No such flight: {}", name);
    return flights_->Get(name);
  }

  const ServerOptions options_;
  std::unique_ptr<edge::App> app_;
  std::optional<edge::kv::Namespace> assets_, fares_;
  std::optional<edge::durable::Namespace<FlightSeating>> flights_;
  std::unique_ptr<AnswerThread> answers_;  // before app_: its loops outlive it
};

class Desk final : public TicketOffice {
 public:
  explicit Desk(Server& server) : server_(server) {}
  StatusOr<Stub<FlightDesk>> Flight(const std::string& name) override {
    EDGE_ASSIGN_OR_RETURN(auto flight, server_.Flight(name));
    return edge::rpc::MakeStub<FlightDesk>(std::move(flight));
  }

 private:
  Server& server_;
};

class Clerk final : public Assistant {
 public:
  explicit Clerk(Server& server) : server_(server) {}
  edge::Task<StatusOr<AskReply>> Ask(std::string flight, std::string question,
                                     Stub<void(std::string)> on_piece) override {
    EDGE_CO_ASSIGN_OR_RETURN(auto object, server_.Flight(flight));
    EDGE_CO_ASSIGN_OR_RETURN(const auto seats, co_await object.Call<&FlightSeating::Seats>().Try());
    EDGE_CO_ASSIGN_OR_RETURN(const auto fare, server_.fares_->Get(flight));
    FlightFacts facts{.flight = flight, .fare = fare.value_or("unknown"), .free_seats = {}};
    for (const SeatState& state : seats) {
      if (state.occupant) {
        ++facts.taken;
      } else {
        facts.free_seats.push_back(state.seat);
      }
    }
    edge::Deferred<StatusOr<AskReply>> reply;
    server_.answers_->Ask(
        {{"system", SystemPrompt(facts)}, {"user", question}}, *edge::Loop::Current(),
        std::move(on_piece),
        [reply](StatusOr<AskReply> answer) mutable { reply.Set(std::move(answer)); });
    co_return co_await reply;
  }

 private:
  Server& server_;
};

class Office final : public Operator {
 public:
  explicit Office(Server& server) : server_(server) {}
  StatusOr<Stub<FlightSeating>> Flight(const std::string& name) override {
    return server_.Flight(name);
  }
  StatusOr<std::string> DatabaseOf(const std::string& name) override {
    return server_.flights_->name() + "/" + server_.flights_->IdFromName(name).ToString();
  }
  StatusOr<KvTiming> TimeHotReads() override {
    constexpr int kReadsPerSample = 1000;
    std::vector<double> samples_ns;
    edge::Clock& clock = edge::SystemClock();
    const std::string key = FlightName(17);
    std::string fare;
    for (int sample = 0; sample < 400; ++sample) {
      const int64_t start_ns = clock.monotonic_ns();
      for (int i = 0; i < kReadsPerSample; ++i) {
        EDGE_ASSIGN_OR_RETURN(const bool found, server_.fares_->GetInto(key, &fare));
        if (!found) return edge::Internal("the fare of {} has gone", key);
      }
      samples_ns.push_back(static_cast<double>(clock.monotonic_ns() - start_ns) / kReadsPerSample);
    }
    std::ranges::sort(samples_ns);
    return KvTiming{samples_ns[samples_ns.size() / 2], samples_ns[samples_ns.size() * 99 / 100]};
  }

 private:
  Server& server_;
};

Status Server::Configure() {
  Json config = {
      {"threads", 2},
      {"data", options_.data + "/host"},
      {"kv", {{"ASSETS", Json::object()}, {"FARES", Json::object()}}},
      {"durable", {{"FLIGHTS", Json::object()}}},
      {"srs", {{"store", "folder:" + options_.data + "/store"}, {"batch_interval_ms", 1000}}},
      {"listen", {{"http", edge::Format("127.0.0.1:{}", {options_.port})}}}};
  if (!options_.model.empty()) config["ai"] = {{"model", options_.model}, {"threads", 2}};
  EDGE_ASSIGN_OR_RETURN(auto parsed, edge::AppConfig::Parse(config.dump()));
  EDGE_ASSIGN_OR_RETURN(app_, edge::App::Open(std::move(parsed)));
  EDGE_ASSIGN_OR_RETURN(assets_, app_->Kv("ASSETS"));
  EDGE_ASSIGN_OR_RETURN(fares_, app_->Kv("FARES"));
  EDGE_ASSIGN_OR_RETURN(flights_, app_->Durable<FlightSeating>("FLIGHTS"));
  if (!options_.model.empty()) {
    EDGE_ASSIGN_OR_RETURN(auto* engine, app_->Ai());
    answers_ = std::make_unique<AnswerThread>(*engine);
  }
  return edge::OkStatus();
}

// The page lives in KV, with its content type as metadata; the files are where it comes from.
Status Server::LoadPage() {
  const auto load = [this](const std::string& name, const std::string& path) -> Status {
    EDGE_ASSIGN_OR_RETURN(const edge::Bytes content,
                          ReadFile(edge::PosixFileSystem(), path, 25 << 20));
    const Json metadata = {{"type", std::string(edge::rpc::ContentTypeFor(name))}};
    return assets_->Put(name, edge::AsText(content), {.metadata = metadata.dump()});
  };
  for (const std::string name : {"index.html", "app.js", "style.css"}) {
    EDGE_RETURN_IF_ERROR(load(name, options_.page + "/" + name));
  }
  if (options_.client.empty()) return edge::OkStatus();
  const Status client = load("capnweb.js", options_.client);
  if (!client.ok()) {
    std::fprintf(stderr, "the page will not connect: %s\n",
                 std::string(edge::Message(client)).c_str());
  }
  return edge::OkStatus();
}

Status Server::SetUpFlights() {
  const std::vector<std::string> seats = SeatNames();
  std::vector<edge::rpc::Promise<void>> done;
  for (int i = 1; i <= kFlights; ++i) {
    const std::string flight = FlightName(i);
    EDGE_ASSIGN_OR_RETURN(const auto fare, fares_->Get(flight));
    if (fare) continue;  // set up before this start
    done.push_back(flights_->Get(flight).Call<&FlightSeating::Initialize>(seats));
  }
  for (auto& promise : done) EDGE_RETURN_IF_ERROR(promise.Wait());
  for (int i = 1; i <= kFlights; ++i) {
    EDGE_RETURN_IF_ERROR(fares_->Put(FlightName(i), edge::Format("{} USD", {89 + i * 7 % 240})));
  }
  return edge::OkStatus();
}

void Server::ServeAsset(const HttpRequest& request, HttpReply reply) {
  const std::string name = request.path == "/" ? "index.html" : request.path.substr(1);
  const auto asset = assets_->GetWithMetadata(name);
  if (!asset.ok())
    return reply.Send({.status = 400, .body = std::string(edge::Message(asset.status()))});
  if (!*asset) return reply.Send({.status = 404, .body = "There is no " + request.path + "\n"});
  reply.Send({.content_type = Json::parse((*asset)->metadata).value("type", "text/plain"),
              .body = (*asset)->value,
              .headers = {{"cache-control", "no-cache"}}});
}

Status Server::Route() {
  EDGE_RETURN_IF_ERROR(app_->Handle("/", [this](const HttpRequest& request, HttpReply reply) {
    ServeAsset(request, std::move(reply));
  }));
  EDGE_RETURN_IF_ERROR(app_->Handle("/flights.json", [this](const HttpRequest&, HttpReply reply) {
    Json document = {{"flights", Json::array()}, {"fares", Json::object()}};
    for (int i = 1; i <= kFlightsOnPage; ++i) {
      const std::string flight = FlightName(i * 17 % kFlights);
      document["flights"].push_back(flight);
      if (auto fare = fares_->Get(flight); fare.ok() && *fare) document["fares"][flight] = **fare;
    }
    reply.Send({.content_type = "application/json", .body = document.dump()});
  }));
  EDGE_RETURN_IF_ERROR(
      app_->HandleRpc("/flights/", [this](const HttpRequest& request) -> StatusOr<HookPtr> {
        EDGE_ASSIGN_OR_RETURN(auto flight, Flight(request.path.substr(9)));
        return edge::rpc::MakeStub<FlightDesk>(std::move(flight)).hook();
      }));
  EDGE_RETURN_IF_ERROR(app_->HandleRpc("/desk", [this](const HttpRequest&) -> StatusOr<HookPtr> {
    return Stub<TicketOffice>(std::make_shared<Desk>(*this)).hook();
  }));
  EDGE_RETURN_IF_ERROR(
      app_->HandleRpc("/assistant", [this](const HttpRequest&) -> StatusOr<HookPtr> {
        if (!answers_)
          return edge::NotFound("The assistant is switched off: the server has no model");
        return Stub<Assistant>(std::make_shared<Clerk>(*this)).hook();
      }));
  const char* token = std::getenv("EDGE_OPERATOR_TOKEN");
  if (token == nullptr) return edge::OkStatus();
  return app_->HandleRpc("/operator",
                         [this, wanted = "token=" + std::string(token)](
                             const HttpRequest& request) -> StatusOr<HookPtr> {
                           if (request.query != wanted)
                             return edge::PermissionDenied("A token is needed");
                           return Stub<Operator>(std::make_shared<Office>(*this)).hook();
                         });
}

Status Server::Start() {
  EDGE_RETURN_IF_ERROR(Configure());
  EDGE_RETURN_IF_ERROR(LoadPage());
  EDGE_RETURN_IF_ERROR(SetUpFlights());
  EDGE_RETURN_IF_ERROR(Route());
  EDGE_ASSIGN_OR_RETURN(const std::string address, app_->Listen());
  std::printf("LISTENING %s\n", address.c_str());
  std::fflush(stdout);
  return edge::OkStatus();
}

}  // namespace

int RunServer(const ServerOptions& options) {
  sigset_t stop;
  sigemptyset(&stop);
  sigaddset(&stop, SIGINT);
  sigaddset(&stop, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &stop, nullptr);  // before any thread starts: all inherit it
  Server server(options);
  if (const Status started = server.Start(); !started.ok()) {
    std::fprintf(stderr, "flights: %s\n", std::string(edge::Message(started)).c_str());
    return 1;
  }
  int signal = 0;
  sigwait(&stop, &signal);
  return 0;
}
