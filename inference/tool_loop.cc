// inference/tool_loop.cc - rounds of asking the model and running what it calls.
#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>

#include "edge/base/errors.h"
#include "edge/base/mutex.h"
#include "edge/inference/tools.h"
#include "inference/answer_filter.h"
#include "inference/tool_constraint.h"

namespace edge::inference {
namespace {

using nlohmann::json;

// Runs on a thread of its own, so that one that never returns holds up nothing. The thread
// owns all it uses.
class RunningCall {
 public:
  RunningCall(const Tool& tool, std::string arguments) : shared_(std::make_shared<Shared>()) {
    std::thread([shared = shared_, tool, arguments = std::move(arguments)] {
      StatusOr<std::string> result = tool.Call(arguments);
      MutexLock lock(&shared->mu);
      shared->result = std::move(result);
      shared->done = true;
      shared->changed.SignalAll();
    }).detach();
  }
  StatusOr<std::string> WaitUntil(int64_t deadline_ns, int64_t timeout_ms) {
    MutexLock lock(&shared_->mu);
    while (!shared_->done) {
      const int64_t left_ms = (deadline_ns - SystemClock().monotonic_ns()) / 1'000'000;
      if (left_ms <= 0) return DeadlineExceeded("no answer within {} ms", timeout_ms);
      shared_->changed.WaitForMs(&shared_->mu, left_ms + 1);
    }
    return shared_->result;
  }

 private:
  struct Shared {
    Mutex mu;
    CondVar changed;
    bool done ABSL_GUARDED_BY(mu) = false;
    StatusOr<std::string> result ABSL_GUARDED_BY(mu) = Internal("not called");
  };
  std::shared_ptr<Shared> shared_;  // of this object and the tool's thread
};

std::string Describe(const Tool& tool) {
  json schema = json::parse(tool.parameters(), nullptr, false);
  return json{
      {"name", tool.name()}, {"description", tool.description()}, {"parameters", std::move(schema)}}
      .dump(-1, ' ', false, json::error_handler_t::replace);
}

std::set<std::string> Words(std::string_view text) {
  std::set<std::string> words;
  std::string word;
  for (const char c : text) {
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                        (c >= '0' && c <= '9') || static_cast<unsigned char>(c) >= 0x80;
    if (letter) {
      word.push_back(c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c);
    } else if (!word.empty()) {
      if (word.size() > 2) words.insert(word);
      word.clear();
    }
  }
  if (word.size() > 2) words.insert(word);
  return words;
}

// The `keep` tools that share most with the conversation, in their given order: a word that
// few tools have counts more (inverse document frequency).
std::vector<const Tool*> Trim(const std::vector<Tool>& tools,
                              const std::vector<ChatMessage>& messages, size_t keep) {
  std::vector<const Tool*> all;
  for (const Tool& tool : tools) all.push_back(&tool);
  if (keep == 0 || tools.size() <= keep) return all;
  std::set<std::string> asked;
  for (const ChatMessage& message : messages) {
    if (message.role == "user") asked.merge(Words(message.content));
  }
  std::vector<std::set<std::string>> texts;
  std::map<std::string, size_t> spread;
  for (const Tool& tool : tools) {
    texts.push_back(Words(tool.name() + " " + tool.description() + " " + tool.parameters()));
    for (const std::string& word : texts.back()) ++spread[word];
  }
  std::vector<std::pair<double, size_t>> ranked;
  for (size_t i = 0; i < tools.size(); ++i) {
    double score = 0;
    for (const std::string& word : texts[i]) {
      if (asked.contains(word)) score += 1.0 / static_cast<double>(spread[word]);
    }
    ranked.emplace_back(-score, i);
  }
  std::sort(ranked.begin(), ranked.end());
  ranked.resize(keep);
  std::sort(ranked.begin(), ranked.end(),
            [](const auto& a, const auto& b) { return a.second < b.second; });
  std::vector<const Tool*> kept;
  for (const auto& [score, index] : ranked) kept.push_back(&tools[index]);
  return kept;
}

Status CheckTools(const std::vector<Tool>& tools) {
  std::set<std::string> names;
  for (const Tool& tool : tools) {
    if (tool.name().empty()) return InvalidArgument("a tool without a name");
    if (!names.insert(tool.name()).second) {
      return InvalidArgument("two tools are named {}", tool.name());
    }
    if (!json::parse(tool.parameters(), nullptr, false).is_object()) {
      return InvalidArgument("tool {}: its parameters are no JSON schema", tool.name());
    }
  }
  return OkStatus();
}

// All at once; answered in the order of the calls, each one.
void RunCalls(const std::vector<const Tool*>& tools, const ToolOptions& options,
              std::vector<ToolCall>* calls) {
  std::vector<std::optional<RunningCall>> running(calls->size());
  for (size_t i = 0; i < calls->size(); ++i) {
    ToolCall& call = (*calls)[i];
    if (!call.status.ok()) continue;
    if (i >= options.calls_max) {
      call.status = ResourceExhausted("more than {} calls at once", options.calls_max);
      continue;
    }
    const auto tool = std::find_if(tools.begin(), tools.end(),
                                   [&](const Tool* one) { return one->name() == call.name; });
    if (tool == tools.end()) {
      call.status = NotFound("there is no tool named {}", call.name);
      continue;
    }
    running[i].emplace(**tool, call.arguments);
  }
  const int64_t deadline = SystemClock().monotonic_ns() + options.tool_timeout_ms * 1'000'000;
  for (size_t i = 0; i < calls->size(); ++i) {
    ToolCall& call = (*calls)[i];
    if (running[i]) {
      auto result = running[i]->WaitUntil(deadline, options.tool_timeout_ms);
      call.status = result.status();
      if (result.ok()) call.result = std::move(*result);
    }
    if (!call.status.ok()) call.result = "error: " + std::string(Message(call.status));
  }
}

std::string ResponseText(const std::vector<ToolCall>& calls) {
  std::string text;
  for (const ToolCall& call : calls) {
    if (!text.empty()) text += '\n';
    text.append("<tool_response>\n");
    text += json{{"name", call.name}, {"content", call.result}}.dump(
        -1, ' ', false, json::error_handler_t::replace);
    text.append("\n</tool_response>");
  }
  return text;
}

}  // namespace

StatusOr<ToolReply> RunWithTools(Engine& engine, std::vector<ChatMessage> messages,
                                 const std::vector<Tool>& tools, const ToolOptions& options,
                                 OnPiece on_piece) {
  EDGE_RETURN_IF_ERROR(CheckTools(tools));
  if (messages.empty()) return InvalidArgument("a conversation without messages");
  const auto shown = Trim(tools, messages, options.auto_trim_tools);
  std::vector<std::string> described;
  for (const Tool* tool : shown) described.push_back(Describe(*tool));
  if (!described.empty()) {
    const std::string prompt = ToolPrompt(described);
    if (messages[0].role == "system") {
      messages[0].content += "\n\n" + prompt;
    } else {
      messages.insert(messages.begin(), {"system", prompt});
    }
  }
  GenerateOptions generate = options.generate;
  if (const auto trie = engine.token_trie();
      trie != nullptr && !described.empty() && generate.constraint == nullptr) {
    // A schema that no grammar can enforce leaves it at the check before the tool runs.
    if (auto constraint = ConstrainCalls(described, trie, CallFirst::kNo); constraint.ok()) {
      generate.constraint = *std::move(constraint);
    }
  }
  ToolReply out;
  for (;;) {
    AnswerFilter filter(on_piece);
    const auto piece = [&](std::string_view text) { return filter.Add(text); };
    EDGE_ASSIGN_OR_RETURN(const Reply reply, engine.Chat(messages, piece, generate));
    ++out.rounds;
    out.tokens += reply.tokens;
    out.prompt_tokens += reply.prompt_tokens;
    out.prefix_tokens += reply.prefix_tokens;
    out.stop = reply.stop;
    ParsedCalls parsed = ParseToolCalls(reply.text);
    const bool ended = reply.stop == StopReason::kCancelled || reply.stop == StopReason::kTimeout;
    if (parsed.calls.empty() || ended || described.empty()) {
      if (!ended) filter.Finish();
      out.text = std::move(parsed.text);
      return out;
    }
    if (out.rounds > options.rounds_max) {
      return ResourceExhausted("the model still calls tools after {} rounds", options.rounds_max);
    }
    RunCalls(shown, options, &parsed.calls);
    messages.push_back({"assistant", reply.text});
    messages.push_back({"user", ResponseText(parsed.calls)});
    for (ToolCall& call : parsed.calls) out.calls.push_back(std::move(call));
  }
}

}  // namespace edge::inference
