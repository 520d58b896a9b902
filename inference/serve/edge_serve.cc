// edge-serve - a model behind the OpenAI HTTP API.
#include <charconv>
#include <csignal>
#include <cstdio>
#include <memory>
#include <string>
#include <thread>

#include "edge/base/errors.h"
#include "edge/base/executor.h"
#include "edge/base/mutex.h"
#include "edge/rpc/http_server.h"
#include "inference/serve/openai_api.h"

namespace {

using edge::Loop;
using edge::Mutex;
using edge::MutexLock;
using edge::inference::ApiAnswer;
using edge::inference::Engine;
using edge::inference::EngineOptions;
using edge::inference::OpenAiApi;
using edge::rpc::HttpReply;
using edge::rpc::HttpRequest;
using edge::rpc::HttpServer;
using edge::rpc::HttpStream;

constexpr const char* kHelp =
    "edge-serve MODEL.gguf [--listen ADDRESS] [--threads N] [--kv-mib N] [--context N]\n"
    "\n"
    "Serves the model at http://ADDRESS (default 127.0.0.1:8080; port 0 takes a free one):\n"
    "  POST /v1/chat/completions   with tools and streams\n"
    "  POST /v1/completions\n"
    "  GET  /v1/models, /metrics (Prometheus), /health, / (a page to chat on)\n"
    "Any OpenAI client works with base URL http://ADDRESS/v1. Ends on SIGINT or SIGTERM.\n";

constexpr size_t kRequestsMax = 256;  // answered at once; more get 503

// Requests under way, each on a thread of its own, for the engine's callers wait.
class Requests {
 public:
  // False: there are kRequestsMax already.
  bool Start(std::function<void()> work) {
    {
      MutexLock lock(&mu_);
      if (running_ == kRequestsMax) return false;
      ++running_;
    }
    std::thread([this, work = std::move(work)] {
      work();
      MutexLock lock(&mu_);
      --running_;
      idle_.SignalAll();
    }).detach();
    return true;
  }
  void WaitForAll() {
    MutexLock lock(&mu_);
    while (running_ > 0) idle_.Wait(&mu_);
  }

 private:
  Mutex mu_;
  edge::CondVar idle_;
  size_t running_ ABSL_GUARDED_BY(mu_) = 0;
};

// One answer on its way from a request's thread to the loop, where the connection lives.
class Answer : public std::enable_shared_from_this<Answer> {
 public:
  Answer(Loop& loop, HttpReply reply) : loop_(loop), reply_(std::move(reply)) {}

  // From any thread. False once the client is gone.
  bool Event(std::string_view event) {
    loop_.PostUrgent([self = shared_from_this(), text = std::string(event)]() mutable {
      if (self->stream_ == nullptr) {
        self->stream_ = std::make_unique<HttpStream>(
            self->reply_.Stream({.content_type = "text/event-stream",
                                 .body = std::move(text),
                                 .headers = {{"Cache-Control", "no-store"}}}));
      } else if (!self->stream_->Write(text)) {
        self->gone_.store(true);
      }
    });
    return !gone_.load();
  }
  void End(ApiAnswer answer) {
    loop_.PostUrgent([self = shared_from_this(), answer = std::move(answer)]() mutable {
      if (self->stream_ != nullptr) {
        self->stream_.reset();
      } else {
        self->reply_.Send({.status = answer.status,
                           .content_type = std::move(answer.content_type),
                           .body = std::move(answer.body),
                           .headers = {}});
      }
    });
  }

 private:
  Loop& loop_;
  HttpReply reply_;                     // of the loop
  std::unique_ptr<HttpStream> stream_;  // of the loop
  std::atomic<bool> gone_{false};
};

struct Settings {
  std::string model, listen = "127.0.0.1:8080";
  EngineOptions engine;
};

bool Number(const char* text, uint64_t* out) {
  const char* end = text + std::char_traits<char>::length(text);
  const auto [at, error] = std::from_chars(text, end, *out);
  return error == std::errc() && at == end;
}

// 0: go on; else the exit status plus one.
int ReadArguments(int argc, char** argv, Settings* settings) {
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    uint64_t number = 0;
    if (argument == "--help" || argument == "-h") {
      std::fputs(kHelp, stdout);
      return 1;
    }
    if (argument == "--listen" && i + 1 < argc) {
      settings->listen = argv[++i];
    } else if (argument == "--threads" && i + 1 < argc && Number(argv[i + 1], &number)) {
      settings->engine.threads = static_cast<uint32_t>(number);
      ++i;
    } else if (argument == "--kv-mib" && i + 1 < argc && Number(argv[i + 1], &number)) {
      settings->engine.kv_bytes_max = number << 20;
      ++i;
    } else if (argument == "--context" && i + 1 < argc && Number(argv[i + 1], &number)) {
      settings->engine.context_tokens_max = static_cast<uint32_t>(number);
      ++i;
    } else if (settings->model.empty() && !argument.starts_with("-")) {
      settings->model = argument;
    } else {
      std::fprintf(stderr, "edge-serve: cannot understand '%s'\n%s", argument.c_str(), kHelp);
      return 3;
    }
  }
  if (!settings->model.empty()) return 0;
  std::fputs(kHelp, stderr);
  return 3;
}

int Fail(const edge::Status& status) {
  std::fprintf(stderr, "edge-serve: %s\n", std::string(edge::Message(status)).c_str());
  return 1;
}

std::string NameOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  std::string name = slash == std::string::npos ? path : path.substr(slash + 1);
  if (name.ends_with(".gguf")) name.resize(name.size() - 5);
  return name;
}

}  // namespace

int main(int argc, char** argv) {
  Settings settings;
  if (const int status = ReadArguments(argc, argv, &settings); status != 0) return status - 1;
  // Before any thread starts, so that all of them leave the signals to sigwait below.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  auto engine = Engine::Open(settings.model, settings.engine);
  if (!engine.ok()) return Fail(engine.status());
  const OpenAiApi api(**engine, NameOf(settings.model));
  auto executor = edge::Executor::Create({.threads = 1});
  if (!executor.ok()) return Fail(executor.status());
  Loop& loop = (*executor)->loop(0);
  Requests requests;
  std::unique_ptr<edge::rpc::Io> io;
  std::unique_ptr<HttpServer> server;
  const edge::Status started = edge::RunOn(loop, [&]() -> edge::Status {
    EDGE_ASSIGN_OR_RETURN(io, edge::rpc::Io::Create(loop));
    HttpServer::Options options;
    options.address = settings.listen;
    EDGE_ASSIGN_OR_RETURN(server, HttpServer::Create(*io, std::move(options)));
    return server->Handle("/", [&](const HttpRequest& request, HttpReply reply) {
      auto answer = std::make_shared<Answer>(loop, std::move(reply));
      const bool running = requests.Start([&api, answer, request] {
        answer->End(api.Handle(request.method, request.path, request.body,
                               [&](std::string_view event) { return answer->Event(event); }));
      });
      if (!running) {
        answer->End({503, "application/json", R"({"error":{"message":"too many requests"}})"});
      }
    });
  });
  if (!started.ok()) return Fail(started);
  std::printf("serving %s at http://%s\n", settings.model.c_str(), server->address().c_str());
  std::fflush(stdout);
  int signal = 0;
  sigwait(&signals, &signal);
  edge::RunOn(loop, [&] { server.reset(); });
  requests.WaitForAll();
  edge::RunOn(loop, [&] { io.reset(); });
  return 0;
}
