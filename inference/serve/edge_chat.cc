// edge-chat - a conversation with a model in the terminal.
#include <unistd.h>

#include <atomic>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "edge/base/errors.h"
#include "edge/base/mutex.h"
#include "edge/inference/engine.h"

namespace {

using edge::Mutex;
using edge::MutexLock;
using edge::inference::ChatMessage;
using edge::inference::Engine;
using edge::inference::EngineOptions;
using edge::inference::GenerateOptions;
using edge::inference::Reply;

constexpr const char* kHelp =
    "edge-chat MODEL.gguf [--threads N] [--tokens N] [--temperature T] [--system TEXT]\n"
    "          [--history FILE]\n"
    "\n"
    "A line is a message; the answer appears as it is written. Ctrl-C ends an answer, Ctrl-D the\n"
    "conversation. /reset forgets it, /retry answers again, /help lists these. With --history\n"
    "the conversation is kept in FILE, a JSON line for each message, and goes on from there.\n";

std::atomic<bool> interrupted{false};

// A running count of seconds on a terminal while `work` goes on; silent elsewhere.
class Progress {
 public:
  explicit Progress(const char* what) {
    if (isatty(2) == 0) return;
    thread_ = std::thread([this, what] {
      MutexLock lock(&mu_);
      for (int tenths = 0; !done_; ++tenths) {
        std::fprintf(stderr, "\r%s %d.%d s", what, tenths / 10, tenths % 10);
        changed_.WaitForMs(&mu_, 100);
      }
      std::fputs("\r\033[K", stderr);
    });
  }
  ~Progress() {
    if (!thread_.joinable()) return;
    {
      MutexLock lock(&mu_);
      done_ = true;
    }
    changed_.SignalAll();
    thread_.join();
  }

 private:
  Mutex mu_;
  edge::CondVar changed_;
  bool done_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;
};

// The conversation, in memory and, if wanted, in a file.
class History {
 public:
  // False: the file holds something else.
  bool Open(const std::string& path) {
    path_ = path;
    std::ifstream in(path);
    for (std::string line; std::getline(in, line);) {
      const auto value = nlohmann::json::parse(line, nullptr, false);
      if (!value.is_object() || !value.value("role", nlohmann::json()).is_string() ||
          !value.value("content", nlohmann::json()).is_string()) {
        return false;
      }
      messages_.push_back({value["role"].get<std::string>(), value["content"].get<std::string>()});
    }
    return true;
  }
  void Add(const std::string& role, const std::string& content) {
    messages_.push_back({role, content});
    if (path_.empty()) return;
    std::ofstream(path_, std::ios::app)
        << nlohmann::json{{"role", role}, {"content", content}}.dump(
               -1, ' ', false, nlohmann::json::error_handler_t::replace)
        << "\n";
  }
  void Keep(size_t count) {
    if (count >= messages_.size()) return;
    auto kept = std::vector(messages_.begin(), messages_.begin() + static_cast<ptrdiff_t>(count));
    messages_.clear();
    if (!path_.empty()) std::ofstream(path_, std::ios::trunc).flush();
    for (const ChatMessage& message : kept) Add(message.role, message.content);
  }
  const std::vector<ChatMessage>& messages() const { return messages_; }

 private:
  std::string path_;
  std::vector<ChatMessage> messages_;
};

struct Settings {
  std::string model, system, history;
  EngineOptions engine;
  GenerateOptions generate{.tokens_max = 1024};
};

template <typename T>
bool Parse(const std::string& text, T* out) {
  const auto [at, error] = std::from_chars(text.data(), text.data() + text.size(), *out);
  return error == std::errc() && at == text.data() + text.size();
}

bool ReadArguments(int argc, char** argv, Settings* settings) {
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    const std::string value = i + 1 < argc ? argv[i + 1] : "";
    bool good = true;
    if (argument == "--threads") {
      good = Parse(value, &settings->engine.threads);
    } else if (argument == "--tokens") {
      good = Parse(value, &settings->generate.tokens_max);
    } else if (argument == "--temperature") {
      good = Parse(value, &settings->generate.sampling.temperature);
    } else if (argument == "--system") {
      settings->system = value;
    } else if (argument == "--history") {
      settings->history = value;
    } else if (settings->model.empty() && !argument.starts_with("-")) {
      settings->model = argument;
      continue;
    } else {
      good = false;
    }
    if (!good) {
      std::fprintf(stderr, "edge-chat: cannot understand '%s'\n", argument.c_str());
      return false;
    }
    ++i;
  }
  return !settings->model.empty();
}

// Answers the conversation as it stands. False: it could not.
bool Answer(Engine& engine, const Settings& settings, History* history) {
  interrupted = false;
  GenerateOptions options = settings.generate;
  options.cancel = &interrupted;
  const auto show = [](std::string_view piece) {
    std::fwrite(piece.data(), 1, piece.size(), stdout);
    std::fflush(stdout);
  };
  const auto reply = engine.Chat(history->messages(), show, options);
  if (!reply.ok()) {
    std::fprintf(stderr, "%s\n", std::string(edge::Message(reply.status())).c_str());
    return false;
  }
  std::printf("\n");
  std::fprintf(stderr, "[%zu tokens, %.1f/s; prompt %zu, %zu known; first after %.0f ms; %s]\n",
               reply->tokens, reply->tokens_per_s, reply->prompt_tokens, reply->prefix_tokens,
               reply->first_token_ms,
               std::string(edge::inference::StopReasonName(reply->stop)).c_str());
  history->Add("assistant", reply->text);
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  Settings settings;
  for (int i = 1; i < argc; ++i) {
    if (std::string_view(argv[i]) == "--help" || std::string_view(argv[i]) == "-h") {
      std::fputs(kHelp, stdout);
      return 0;
    }
  }
  if (!ReadArguments(argc, argv, &settings)) {
    std::fputs(kHelp, stderr);
    return 2;
  }
  History history;
  if (!settings.history.empty() && !history.Open(settings.history)) {
    std::fprintf(stderr, "edge-chat: %s holds no conversation\n", settings.history.c_str());
    return 1;
  }
  edge::StatusOr<std::unique_ptr<Engine>> engine = edge::Internal("not opened");
  {
    const Progress progress("loading");
    engine = Engine::Open(settings.model, settings.engine);
  }
  if (!engine.ok()) {
    std::fprintf(stderr, "edge-chat: %s\n", std::string(edge::Message(engine.status())).c_str());
    return 1;
  }
  std::signal(SIGINT, [](int) { interrupted = true; });
  if (!settings.system.empty() && history.messages().empty()) {
    history.Add("system", settings.system);
  }
  const bool terminal = isatty(0) != 0;
  bool good = true;
  for (std::string line;;) {
    if (terminal) std::fputs("> ", stderr);
    if (!std::getline(std::cin, line)) break;
    if (line == "/help") {
      std::fputs(kHelp, stderr);
    } else if (line == "/reset") {
      history.Keep(settings.system.empty() ? 0 : 1);
    } else if (line == "/retry" && !history.messages().empty() &&
               history.messages().back().role == "assistant") {
      history.Keep(history.messages().size() - 1);
      good = Answer(**engine, settings, &history);
    } else if (!line.empty()) {
      history.Add("user", line);
      good = Answer(**engine, settings, &history);
      if (!good) history.Keep(history.messages().size() - 1);
    }
  }
  return good ? 0 : 1;
}
