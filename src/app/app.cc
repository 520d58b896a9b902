#include <map>
#include <utility>
#include <vector>

#include "edge/base/errors.h"
#include "edge/edge.h"
#include "edge/kv/memory_origin.h"
#include "edge/kv/sqlite_origin.h"
#include "edge/rpc/authenticator.h"
#include "edge/srs/s3_store.h"

namespace edge {
namespace {

constexpr size_t kSecretBytes = 32;

// The key of this application's object ids: made at its first start, then kept.
StatusOr<std::string> IdSecret(const std::string& folder) {
  FileSystem& files = PosixFileSystem();
  const std::string path = folder + "/object-id-secret";
  EDGE_ASSIGN_OR_RETURN(const bool exists, files.Exists(path));
  if (!exists) {
    Bytes secret(kSecretBytes);
    SystemRandom().Fill(secret);
    EDGE_RETURN_IF_ERROR(WriteFileAtomic(files, path, secret));
  }
  EDGE_ASSIGN_OR_RETURN(const Bytes secret, ReadFile(files, path, 4096));
  if (secret.size() != kSecretBytes) {
    return DataLoss("{}: {} bytes, expected {}", path, secret.size(), kSecretBytes);
  }
  return std::string(AsText(secret));
}

// A kv namespace in a database of the relay: as durable, and as restorable, as any other.
class RelayOrigin {
 public:
  static StatusOr<std::shared_ptr<kv::Origin>> Open(srs::Relay& relay, const std::string& binding) {
    EDGE_ASSIGN_OR_RETURN(std::shared_ptr<srs::Database> database,
                          relay.OpenDatabase("kv/" + binding));
    kv::SqliteOriginOptions options;
    options.when_durable = [db = database.get()](Callback<void(Status)> done) {
      db->OnDurable(db->lsn(), std::move(done));
    };
    EDGE_ASSIGN_OR_RETURN(auto origin,
                          kv::SqliteOrigin::Attach(database->handle(), std::move(options)));
    // The origin uses the database, so both go together: first the origin, then the database.
    struct Both {
      std::shared_ptr<srs::Database> database;
      std::unique_ptr<kv::Origin> origin;
    };
    auto both = std::make_shared<Both>(Both{std::move(database), std::move(origin)});
    return std::shared_ptr<kv::Origin>(both, both->origin.get());
  }
};

}  // namespace

// Members are destroyed from the last to the first: each uses only those above it.
struct App::Rep {
  explicit Rep(AppConfig c) : config(std::move(c)) {}
  ~Rep();
  Status Build();
  StatusOr<std::string> Listen();
  void ExportKv();

  const AppConfig config;
  MetricsRegistry metrics;
  std::unique_ptr<Executor> executor;
  std::unique_ptr<srs::Relay> relay;
  std::map<std::string, kv::Namespace, std::less<>> kv;
  std::unique_ptr<inference::Engine> engine;
  std::unique_ptr<durable::Host> host;
  std::map<std::string, rpc::HookPtr, std::less<>> provided;                   // objects of loop 0
  std::unique_ptr<rpc::Io> io;                                                 // loop 0
  std::map<std::string, std::unique_ptr<rpc::Service>, std::less<>> services;  // loop 0's
  std::unique_ptr<rpc::HttpServer> server;                                     // loop 0
  std::vector<std::pair<std::string, rpc::HttpServer::Handler>> handlers;      // until Listen()
  std::vector<std::pair<std::string, rpc::HttpServer::RpcFactory>> rpc_factories;
};

App::Rep::~Rep() {
  if (executor) {
    RunOn(executor->loop(0), [this] {
      server.reset();
      services.clear();
      provided.clear();
      io.reset();
    });
  }
  host.reset();
  executor.reset();  // the last tasks may still use what is below
}

Status App::Rep::Build() {
  EDGE_RETURN_IF_ERROR(Annotate(PosixFileSystem().MakeDirectories(config.data), "data"));
  EDGE_ASSIGN_OR_RETURN(executor, Executor::Create({.threads = config.threads}));
  EDGE_RETURN_IF_ERROR(RunOn(executor->loop(0), [this]() -> Status {
    EDGE_ASSIGN_OR_RETURN(io, rpc::Io::Create(executor->loop(0)));
    return OkStatus();
  }));
  srs::RelayOptions options;
  options.directory = config.data;
  if (!config.srs.store.empty()) {
    auto store = srs::OpenStore(config.srs.store, [](const char* name) { return getenv(name); });
    if (!store.ok()) return Annotate(store.status(), "srs.store");
    options.store = *std::move(store);
  }
  options.batch_interval_ms = config.srs.batch_interval_ms;
  options.batch_bytes_max = config.srs.batch_bytes_max;
  options.metrics = &metrics;
  EDGE_ASSIGN_OR_RETURN(relay, srs::Relay::Open(std::move(options)));
  for (const auto& [binding, settings] : config.kv) {
    std::shared_ptr<kv::Origin> origin = std::make_shared<kv::MemoryOrigin>();
    if (settings.origin == "sqlite") {
      auto opened = RelayOrigin::Open(*relay, binding);
      if (!opened.ok()) return Annotate(opened.status(), "kv." + binding);
      origin = *std::move(opened);
    }
    auto opened = kv::Namespace::Open(std::move(origin), {.hot_bytes_max = settings.hot_bytes_max});
    if (!opened.ok()) return Annotate(opened.status(), "kv." + binding);
    kv.emplace(binding, *std::move(opened));
  }
  if (config.ai) {
    auto opened = inference::Engine::Open(config.ai->model,
                                          {.threads = static_cast<uint32_t>(config.ai->threads),
                                           .kv_bytes_max = config.ai->kv_bytes_max});
    if (!opened.ok()) return Annotate(opened.status(), "ai.model");
    engine = *std::move(opened);
  }
  durable::HostOptions host_options;
  EDGE_ASSIGN_OR_RETURN(host_options.id_secret, IdSecret(config.data));
  host_options.metrics = &metrics;
  EDGE_ASSIGN_OR_RETURN(host, durable::Host::Create(*executor, *relay, std::move(host_options)));
  return OkStatus();
}

// A namespace counts for itself; here its numbers join the others.
void App::Rep::ExportKv() {
  for (const auto& [binding, store] : kv) {
    const kv::Stats stats = store.stats();
    const auto set = [&](std::string_view name, std::string_view tier, uint64_t value) {
      metrics.gauge(name, {{"binding", binding}, {"tier", tier}}).Set(static_cast<int64_t>(value));
    };
    const std::pair<std::string_view, const kv::TierStats&> tiers[] = {
        {"hot", stats.hot}, {"disk", stats.disk}, {"origin", stats.origin}};
    for (const auto& [tier, counts] : tiers) {
      set("edge_kv_hits", tier, counts.hits);
      set("edge_kv_misses", tier, counts.misses);
      set("edge_kv_stale", tier, counts.stale);
      set("edge_kv_read_bytes", tier, counts.bytes);
      set("edge_kv_latency_p50_ns", tier, counts.latency_ns_p50);
      set("edge_kv_latency_p90_ns", tier, counts.latency_ns_p90);
      set("edge_kv_latency_p99_ns", tier, counts.latency_ns_p99);
      set("edge_kv_latency_p999_ns", tier, counts.latency_ns_p999);
    }
    set("edge_kv_held_bytes", "hot", stats.bytes);
    set("edge_kv_held_bytes", "disk", stats.disk_bytes);
  }
}

StatusOr<std::string> App::Rep::Listen() {
  if (config.listen.http.empty()) {
    return FailedPrecondition("listen.http: the configuration names no address");
  }
  if (server) return FailedPrecondition("already listening on {}", server->address());
  const Status started = RunOn(executor->loop(0), [this]() -> Status {
    EDGE_ASSIGN_OR_RETURN(auto made, rpc::HttpServer::Create(*io, {.address = config.listen.http}));
    bool metrics_taken = false;
    for (auto& [path, handler] : handlers) {
      metrics_taken |= path == "/metrics";
      EDGE_RETURN_IF_ERROR(made->Handle(path, std::move(handler)));
    }
    for (auto& [path, factory] : rpc_factories) {
      EDGE_RETURN_IF_ERROR(made->HandleRpc(path, std::move(factory)));
    }
    for (const auto& [binding, service] : config.services) {
      if (service.expose.empty()) continue;
      const auto found = provided.find(binding);
      if (found == provided.end())
        return FailedPrecondition("services.{}.expose: nobody has provided the object", binding);
      const auto open = [hook = found->second](auto&&...) -> StatusOr<rpc::HookPtr> {
        return hook;
      };
      EDGE_RETURN_IF_ERROR(service.token.empty()
                               ? made->HandleRpc(service.expose, open)
                               : made->HandleRpc(service.expose,
                                                 rpc::BearerTokens({{service.token, binding}}),
                                                 open));
    }
    if (!metrics_taken) {
      EDGE_RETURN_IF_ERROR(made->Handle("/metrics", [this](const rpc::HttpRequest&,
                                                           rpc::HttpReply reply) {
        ExportKv();
        reply.Send({.content_type = "text/plain; version=0.0.4", .body = metrics.PrometheusText()});
      }));
    }
    server = std::move(made);
    return OkStatus();
  });
  if (!started.ok()) return Annotate(started, "listen.http");
  return server->address();
}

App::App(std::unique_ptr<Rep> rep) : rep_(std::move(rep)) {}
App::~App() = default;

StatusOr<std::unique_ptr<App>> App::Open(const std::string& config_path) {
  EDGE_ASSIGN_OR_RETURN(AppConfig config, AppConfig::Load(config_path));
  return Open(std::move(config));
}

StatusOr<std::unique_ptr<App>> App::Open(AppConfig config) {
  auto rep = std::make_unique<Rep>(std::move(config));
  EDGE_RETURN_IF_ERROR(rep->Build());
  return std::unique_ptr<App>(new App(std::move(rep)));
}

StatusOr<kv::Namespace> App::Kv(std::string_view binding) {
  const auto found = rep_->kv.find(binding);
  if (found == rep_->kv.end()) {
    return NotFound("kv.{}: the configuration has no such binding", binding);
  }
  return found->second;
}

Status App::CheckDurable(std::string_view binding) const {
  if (rep_->config.durable.contains(binding)) return OkStatus();
  return NotFound("durable.{}: the configuration has no such binding", binding);
}

StatusOr<inference::Engine*> App::Ai() {
  if (!rep_->engine) return NotFound("ai: the configuration names no model");
  return rep_->engine.get();
}

StatusOr<rpc::HookPtr> App::FindService(std::string_view binding,
                                        std::vector<std::string> idempotent) {
  const auto found = rep_->config.services.find(binding);
  if (found == rep_->config.services.end())
    return NotFound("services.{}: the configuration has no such binding", binding);
  const ServiceConfig& config = found->second;
  Loop& loop = rep_->executor->loop(0);
  const auto find = [&]() -> StatusOr<rpc::HookPtr> {
    if (config.url.empty()) {
      const auto local = rep_->provided.find(binding);
      if (local != rep_->provided.end()) return local->second;
      return FailedPrecondition("services.{}: it is local, and nobody has provided it", binding);
    }
    auto& service = rep_->services[std::string(binding)];
    if (service == nullptr) {
      rpc::ServiceOptions options;
      options.url = config.url;
      options.deadline_ms = config.deadline_ms;
      options.retries_max = config.retries_max;
      options.idempotent = std::move(idempotent);
      options.tls.ca = config.ca;
      if (!config.token.empty())
        options.headers.emplace_back("Authorization", "Bearer " + config.token);
      service = rpc::Service::Create(*rep_->io, std::move(options));
    }
    return service->main();
  };
  return loop.IsCurrent() ? find() : RunOn(loop, find);
}

Status App::ProvideHook(std::string_view binding, Callback<rpc::HookPtr()> make) {
  const auto found = rep_->config.services.find(binding);
  if (found == rep_->config.services.end())
    return NotFound("services.{}: the configuration has no such binding", binding);
  if (!found->second.url.empty()) return OkStatus();
  Loop& loop = rep_->executor->loop(0);
  const auto provide = [&]() -> Status {
    auto& hook = rep_->provided[std::string(binding)];
    if (hook) return AlreadyExists("services.{}: it is provided", binding);
    hook = make();
    return OkStatus();
  };
  return loop.IsCurrent() ? provide() : RunOn(loop, provide);
}

Status App::Handle(std::string path, rpc::HttpServer::Handler handler) {
  if (rep_->server) return FailedPrecondition("{}: routes come before Listen()", path);
  rep_->handlers.emplace_back(std::move(path), std::move(handler));
  return OkStatus();
}

Status App::HandleRpc(std::string path, rpc::HttpServer::RpcFactory factory) {
  if (rep_->server) return FailedPrecondition("{}: routes come before Listen()", path);
  rep_->rpc_factories.emplace_back(std::move(path), std::move(factory));
  return OkStatus();
}

StatusOr<std::string> App::Listen() {
  return rep_->Listen();
}
Executor& App::executor() {
  return *rep_->executor;
}
srs::Relay& App::relay() {
  return *rep_->relay;
}
durable::Host& App::host() {
  return *rep_->host;
}
MetricsRegistry& App::metrics() {
  return rep_->metrics;
}

}  // namespace edge
