#include "inference/serve/openai_api.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "edge/base/errors.h"
#include "edge/inference/grammar.h"
#include "edge/inference/tools.h"
#include "inference/answer_filter.h"
#include "inference/tool_constraint.h"

namespace edge::inference {
namespace {

using nlohmann::json;

constexpr uint32_t kChoicesMax = 1;

std::string Dump(const json& value) {
  return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

int HttpStatusOf(StatusCode code) {
  switch (code) {
    case StatusCode::kInvalidArgument:
    case StatusCode::kUnimplemented:
      return 400;
    case StatusCode::kNotFound:
      return 404;
    case StatusCode::kResourceExhausted:
      return 429;
    case StatusCode::kDeadlineExceeded:
      return 504;
    default:
      return 500;
  }
}

json ErrorJson(const Status& status) {
  const bool bad_request = HttpStatusOf(status.code()) < 500;
  return {{"error",
           {{"message", std::string(Message(status))},
            {"type", bad_request ? "invalid_request_error" : "server_error"},
            {"param", nullptr},
            {"code", nullptr}}}};
}

// Members of a request, by name; those that are asked for and of the wrong kind are errors.
class Fields {
 public:
  explicit Fields(const json& object) : object_(object) {}
  template <typename T>
  Status Number(const char* name, T* out) const {
    const json* found = Find(name);
    if (found == nullptr) return OkStatus();
    if (!found->is_number()) return InvalidArgument("{}: a number is wanted", name);
    const double value = found->get<double>();
    if constexpr (std::integral<T>) {
      if (value < 0 || value > 4e9 || value != std::floor(value)) {
        return InvalidArgument("{}: {} is no count", name, value);
      }
    }
    *out = static_cast<T>(value);
    return OkStatus();
  }
  Status Bool(const char* name, bool* out) const {
    const json* found = Find(name);
    if (found == nullptr) return OkStatus();
    if (!found->is_boolean()) return InvalidArgument("{}: true or false is wanted", name);
    *out = found->get<bool>();
    return OkStatus();
  }
  // Null if absent or null.
  const json* Find(const char* name) const {
    const auto found = object_.find(name);
    return found == object_.end() || found->is_null() ? nullptr : &*found;
  }

 private:
  const json& object_;
};

StatusOr<json> ParseBody(std::string_view body) {
  json request = json::parse(body, nullptr, false);
  if (!request.is_object()) return InvalidArgument("the body is no JSON object");
  return request;
}

Status ReadStop(const Fields& fields, std::vector<std::string>* stop) {
  const json* found = fields.Find("stop");
  if (found == nullptr) return OkStatus();
  const json list = found->is_array() ? *found : json::array({*found});
  for (const json& text : list) {
    if (!text.is_string()) return InvalidArgument("stop: texts are wanted");
    stop->push_back(text.get<std::string>());
  }
  return OkStatus();
}

Status ReadBias(const Fields& fields, SamplingOptions* sampling) {
  const json* found = fields.Find("logit_bias");
  if (found == nullptr) return OkStatus();
  if (!found->is_object()) return InvalidArgument("logit_bias: an object is wanted");
  for (const auto& [id, bias] : found->items()) {
    const bool digits =
        !id.empty() && id.size() < 10 && id.find_first_not_of("0123456789") == std::string::npos;
    if (!digits || !bias.is_number()) return InvalidArgument("logit_bias.{}: no token", id);
    // -100 is the API's "never".
    const float value = bias.get<float>();
    sampling->logit_bias.emplace_back(std::stoi(id), value <= -100 ? -HUGE_VALF : value);
  }
  return OkStatus();
}

StatusOr<GenerateOptions> ReadOptions(const json& request, Clock& clock) {
  const Fields fields(request);
  GenerateOptions options;
  options.sampling.temperature = 1;
  options.sampling.seed = static_cast<uint64_t>(clock.monotonic_ns());
  EDGE_RETURN_IF_ERROR(fields.Number("max_tokens", &options.tokens_max));
  EDGE_RETURN_IF_ERROR(fields.Number("max_completion_tokens", &options.tokens_max));
  EDGE_RETURN_IF_ERROR(fields.Number("temperature", &options.sampling.temperature));
  EDGE_RETURN_IF_ERROR(fields.Number("top_p", &options.sampling.top_p));
  EDGE_RETURN_IF_ERROR(fields.Number("top_k", &options.sampling.top_k));
  EDGE_RETURN_IF_ERROR(fields.Number("min_p", &options.sampling.min_p));
  EDGE_RETURN_IF_ERROR(fields.Number("frequency_penalty", &options.sampling.frequency_penalty));
  EDGE_RETURN_IF_ERROR(fields.Number("presence_penalty", &options.sampling.presence_penalty));
  EDGE_RETURN_IF_ERROR(fields.Number("repetition_penalty", &options.sampling.repetition_penalty));
  EDGE_RETURN_IF_ERROR(fields.Number("seed", &options.sampling.seed));
  EDGE_RETURN_IF_ERROR(ReadStop(fields, &options.stop));
  EDGE_RETURN_IF_ERROR(ReadBias(fields, &options.sampling));
  uint32_t choices = 1;
  EDGE_RETURN_IF_ERROR(fields.Number("n", &choices));
  if (choices != kChoicesMax) return Unimplemented("n: one choice at a time, not {}", choices);
  if (const json* user = fields.Find("user"); user != nullptr && user->is_string()) {
    options.tenant = user->get<std::string>();
  }
  return options;
}

// Any JSON object; the model chooses where a space may stand.
constexpr std::string_view kJsonGrammar = R"(root ::= object
value ::= object | array | string | number | "true" | "false" | "null"
object ::= "{" space (pair ("," space pair)*)? space "}"
pair ::= string ":" space value
array ::= "[" space (value ("," space value)*)? space "]"
string ::= "\"" ([^"\\\x00-\x1F] | "\\" (["\\/bfnrt] | "u" [0-9a-fA-F]{4}))* "\""
number ::= "-"? ("0" | [1-9] [0-9]{0,15}) ("." [0-9]{1,15})? ([eE] [-+]? [0-9]{1,3})?
space ::= " "?
)";

// `body` is the whole request: members of a schema come in its order, which json forgets.
StatusOr<std::shared_ptr<const ConstraintFactory>> ReadFormat(
    const json& request, std::string_view body, const std::shared_ptr<const TokenTrie>& tokens) {
  std::shared_ptr<const ConstraintFactory> none;
  const json* format = Fields(request).Find("response_format");
  if (format == nullptr) return none;
  const std::string type = format->is_object() ? format->value("type", "") : "";
  if (type == "text") return none;
  if (tokens == nullptr || (type != "json_object" && type != "json_schema")) {
    return Unimplemented("response_format: {}; known: text, json_object, json_schema", type);
  }
  StatusOr<std::shared_ptr<const Grammar>> grammar = Internal("no grammar");
  if (type == "json_object") {
    grammar = Grammar::FromGbnf(kJsonGrammar, tokens);
  } else {
    const nlohmann::ordered_json::json_pointer at("/response_format/json_schema/schema");
    const auto ordered = nlohmann::ordered_json::parse(body, nullptr, false);
    if (!ordered.contains(at)) return InvalidArgument("response_format: it has no schema");
    grammar = Grammar::FromJsonSchema(ordered.at(at).dump(), tokens);
  }
  EDGE_RETURN_IF_ERROR(grammar.status());
  return Constrain(*std::move(grammar));
}

// Text of a message: as such, or as a list of parts.
StatusOr<std::string> ReadContent(const json& message, size_t index) {
  const auto content = message.find("content");
  if (content == message.end() || content->is_null()) return std::string();
  if (content->is_string()) return content->get<std::string>();
  std::string text;
  if (content->is_array()) {
    for (const json& part : *content) {
      if (!part.is_object() || part.value("type", "") != "text" || !part.contains("text") ||
          !part["text"].is_string()) {
        return Unimplemented("messages[{}]: only text is understood", index);
      }
      text += part["text"].get<std::string>();
    }
    return text;
  }
  return InvalidArgument("messages[{}].content: text is wanted", index);
}

std::string CallText(const json& calls) {
  std::string text;
  for (const json& call : calls) {
    const json function = call.is_object() ? call.value("function", json::object()) : json();
    if (!function.is_object()) continue;
    const std::string arguments = function.value("arguments", "{}");
    const json parsed = json::parse(arguments, nullptr, false);
    text.append(kToolCallOpen).append("\n");
    text += Dump({{"name", function.value("name", "")},
                  {"arguments", parsed.is_discarded() ? json(arguments) : parsed}});
    text.append("\n").append(kToolCallClose);
  }
  return text;
}

// Those of the API as those of the model: calls and their answers become text.
StatusOr<std::vector<ChatMessage>> ReadMessages(const json& request) {
  const auto list = request.find("messages");
  if (list == request.end() || !list->is_array() || list->empty()) {
    return InvalidArgument("messages: a list is wanted");
  }
  std::vector<ChatMessage> messages;
  for (size_t i = 0; i < list->size(); ++i) {
    const json& message = (*list)[i];
    if (!message.is_object() || !message.contains("role") || !message["role"].is_string()) {
      return InvalidArgument("messages[{}]: it has no role", i);
    }
    std::string role = message["role"].get<std::string>();
    EDGE_ASSIGN_OR_RETURN(std::string content, ReadContent(message, i));
    if (role == "developer") role = "system";
    if (role == "tool") {
      content = "<tool_response>\n" + content + "\n</tool_response>";
      if (!messages.empty() && messages.back().role == "user" &&
          messages.back().content.starts_with("<tool_response>")) {
        messages.back().content += "\n" + content;
        continue;
      }
      role = "user";
    }
    if (const auto calls = message.find("tool_calls");
        calls != message.end() && calls->is_array()) {
      content += CallText(*calls);
    }
    messages.push_back({std::move(role), std::move(content)});
  }
  return messages;
}

struct RequestedTools {
  std::vector<std::string> tools;  // as JSON
  CallFirst call_first = CallFirst::kNo;
};

StatusOr<RequestedTools> ReadTools(const json& request) {
  RequestedTools out;
  const Fields fields(request);
  std::string only;  // the one that must be called
  if (const json* choice = fields.Find("tool_choice"); choice != nullptr) {
    if (*choice == "none") return out;
    if (choice->is_object() && choice->value("function", json()).is_object()) {
      only = (*choice)["function"].value("name", "");
    } else if (*choice != "auto" && *choice != "required") {
      return Unimplemented("tool_choice: {}; known: auto, none, required, a function",
                           choice->dump());
    }
    if (*choice != "auto") out.call_first = CallFirst::kYes;
  }
  const json* list = fields.Find("tools");
  if (list == nullptr) {
    if (out.call_first == CallFirst::kYes) return InvalidArgument("tool_choice: without tools");
    return out;
  }
  if (!list->is_array()) return InvalidArgument("tools: a list is wanted");
  for (size_t i = 0; i < list->size(); ++i) {
    const json& tool = (*list)[i];
    if (!tool.is_object() || tool.value("type", "") != "function" ||
        !tool.value("function", json()).is_object() || !tool["function"].contains("name")) {
      return InvalidArgument("tools[{}]: a function with a name is wanted", i);
    }
    if (only.empty() || tool["function"]["name"] == only) {
      out.tools.push_back(Dump(tool["function"]));
    }
  }
  if (!only.empty() && out.tools.empty()) return InvalidArgument("tool_choice: no tool {}", only);
  return out;
}

const char* FinishReason(StopReason stop) {
  switch (stop) {
    case StopReason::kTokensMax:
    case StopReason::kContext:
    case StopReason::kKvBudget:
    case StopReason::kTimeout:
      return "length";
    default:
      return "stop";
  }
}

json Usage(const Reply& reply) {
  return {{"prompt_tokens", reply.prompt_tokens},
          {"completion_tokens", reply.tokens},
          {"total_tokens", reply.prompt_tokens + reply.tokens},
          {"prompt_tokens_details", {{"cached_tokens", reply.prefix_tokens}}}};
}

json CallsJson(const std::vector<ToolCall>& calls, const std::string& id, bool indexed) {
  json out = json::array();
  for (size_t i = 0; i < calls.size(); ++i) {
    json one = {{"id", "call_" + id + "_" + std::to_string(i)},
                {"type", "function"},
                {"function", {{"name", calls[i].name}, {"arguments", calls[i].arguments}}}};
    if (indexed) one["index"] = i;
    out.push_back(std::move(one));
  }
  return out;
}

json LogprobsJson(const Reply& reply, const Tokenizer& tokenizer) {
  auto one = [&](TokenId id, float logprob) {
    const std::string_view piece = tokenizer.Piece(id);
    json bytes = json::array();
    for (const char c : piece) bytes.push_back(static_cast<unsigned char>(c));
    return json{{"token", std::string(piece)}, {"logprob", logprob}, {"bytes", std::move(bytes)}};
  };
  json content = json::array();
  for (const TokenLogprob& token : reply.logprobs) {
    json item = one(token.id, token.logprob);
    item["top_logprobs"] = json::array();
    for (const auto& [id, logprob] : token.top) item["top_logprobs"].push_back(one(id, logprob));
    content.push_back(std::move(item));
  }
  return {{"content", std::move(content)}};
}

// What all chunks and answers of one request have in common.
class Envelope {
 public:
  Envelope(std::string kind, const std::string& model, Clock& clock)
      : id_(std::to_string(clock.monotonic_ns())),
        common_{{"id", kind + "-" + id_}, {"created", clock.wall_ms() / 1000}, {"model", model}} {}
  const std::string& id() const { return id_; }
  std::string Event(const char* object, json choice, const json* usage = nullptr) const {
    return "data: " + Dump(With(object, std::move(choice), usage)) + "\n\n";
  }
  json With(const char* object, json choice, const json* usage = nullptr) const {
    json out = common_;
    out["object"] = object;
    out["choices"] = choice.is_null() ? json::array() : json::array({std::move(choice)});
    if (usage != nullptr) out["usage"] = *usage;
    return out;
  }

 private:
  std::string id_;
  json common_;
};

// An error after the stream has begun is an event of its own.
ApiAnswer EndStream(const OnEvent& on_event, const Status& status) {
  if (!status.ok()) on_event("data: " + Dump(ErrorJson(status)) + "\n\n");
  on_event("data: [DONE]\n\n");
  return {200, "text/event-stream", ""};
}

}  // namespace

ApiAnswer OpenAiApi::Models() const {
  return {
      200, "application/json",
      Dump({{"object", "list"},
            {"data",
             json::array(
                 {{{"id", model_}, {"object", "model"}, {"created", 0}, {"owned_by", "edge"}}})}})};
}

StatusOr<ApiAnswer> OpenAiApi::Chat(std::string_view body, const OnEvent& on_event) const {
  EDGE_ASSIGN_OR_RETURN(const json request, ParseBody(body));
  EDGE_ASSIGN_OR_RETURN(GenerateOptions options, ReadOptions(request, clock_));
  EDGE_ASSIGN_OR_RETURN(std::vector<ChatMessage> messages, ReadMessages(request));
  EDGE_ASSIGN_OR_RETURN(const RequestedTools requested, ReadTools(request));
  const std::vector<std::string>& tools = requested.tools;
  EDGE_ASSIGN_OR_RETURN(options.constraint, ReadFormat(request, body, engine_.token_trie()));
  if (!tools.empty() && options.constraint == nullptr) {
    auto constraint = ConstrainCalls(tools, engine_.token_trie(), requested.call_first);
    // Where no grammar can enforce a schema the client has to check; but a call that must come
    // has to be one.
    if (!constraint.ok() && requested.call_first == CallFirst::kYes) return constraint.status();
    if (constraint.ok()) options.constraint = *std::move(constraint);
  }
  const Fields fields(request);
  bool stream = false, logprobs = false, usage_wanted = false;
  EDGE_RETURN_IF_ERROR(fields.Bool("stream", &stream));
  EDGE_RETURN_IF_ERROR(fields.Bool("logprobs", &logprobs));
  if (logprobs) {
    if (stream) return Unimplemented("logprobs: not in a stream");
    options.logprobs.emplace(0);
    EDGE_RETURN_IF_ERROR(fields.Number("top_logprobs", &*options.logprobs));
  }
  if (const json* stream_options = fields.Find("stream_options");
      stream_options != nullptr && stream_options->is_object()) {
    EDGE_RETURN_IF_ERROR(Fields(*stream_options).Bool("include_usage", &usage_wanted));
  }
  if (!tools.empty()) {
    if (messages[0].role == "system") {
      messages[0].content += "\n\n" + ToolPrompt(tools);
    } else {
      messages.insert(messages.begin(), {"system", ToolPrompt(tools)});
    }
  }
  const Envelope envelope("chatcmpl", model_, clock_);
  constexpr const char* kChunk = "chat.completion.chunk";
  auto chunk = [&](json delta, const json& finish) {
    return on_event(envelope.Event(
        kChunk, {{"index", 0}, {"delta", std::move(delta)}, {"finish_reason", finish}}));
  };
  bool begun = false;
  AnswerFilter filter([&](std::string_view piece) {
    json delta = {{"content", std::string(piece)}};
    if (!std::exchange(begun, true)) delta["role"] = "assistant";
    return chunk(std::move(delta), nullptr);
  });
  OnPiece on_piece;
  if (stream) {
    on_piece = [&](std::string_view piece) {
      if (!tools.empty()) return filter.Add(piece);
      json delta = {{"content", std::string(piece)}};
      if (!std::exchange(begun, true)) delta["role"] = "assistant";
      return chunk(std::move(delta), nullptr);
    };
  }
  const StatusOr<Reply> reply = engine_.Chat(messages, on_piece, options);
  if (!reply.ok()) {
    if (stream && begun) return EndStream(on_event, reply.status());
    return reply.status();
  }
  ParsedCalls parsed{reply->text, {}};
  if (!tools.empty()) parsed = ParseToolCalls(reply->text);
  std::erase_if(parsed.calls, [](const ToolCall& call) { return !call.status.ok(); });
  const std::string finish = parsed.calls.empty() ? FinishReason(reply->stop) : "tool_calls";
  const json usage = Usage(*reply);
  if (stream) {
    if (!tools.empty()) filter.Finish();
    if (!begun) chunk({{"role", "assistant"}, {"content", ""}}, nullptr);
    if (!parsed.calls.empty()) {
      chunk({{"tool_calls", CallsJson(parsed.calls, envelope.id(), true)}}, nullptr);
    }
    chunk(json::object(), finish);
    if (usage_wanted) on_event(envelope.Event(kChunk, json(), &usage));
    return EndStream(on_event, OkStatus());
  }
  json message = {{"role", "assistant"}, {"content", parsed.text}, {"refusal", nullptr}};
  if (!parsed.calls.empty()) {
    message["tool_calls"] = CallsJson(parsed.calls, envelope.id(), false);
    if (parsed.text.empty()) message["content"] = nullptr;
  }
  json choice = {{"index", 0}, {"message", std::move(message)}, {"finish_reason", finish}};
  choice["logprobs"] = logprobs ? LogprobsJson(*reply, engine_.tokenizer()) : json();
  return ApiAnswer{200, "application/json",
                   Dump(envelope.With("chat.completion", std::move(choice), &usage))};
}

StatusOr<ApiAnswer> OpenAiApi::Complete(std::string_view body, const OnEvent& on_event) const {
  EDGE_ASSIGN_OR_RETURN(const json request, ParseBody(body));
  EDGE_ASSIGN_OR_RETURN(GenerateOptions options, ReadOptions(request, clock_));
  EDGE_ASSIGN_OR_RETURN(options.constraint, ReadFormat(request, body, engine_.token_trie()));
  const Fields fields(request);
  if (fields.Find("max_tokens") == nullptr) options.tokens_max = 16;  // as the API says
  bool stream = false, echo = false;
  EDGE_RETURN_IF_ERROR(fields.Bool("stream", &stream));
  EDGE_RETURN_IF_ERROR(fields.Bool("echo", &echo));
  if (echo) return Unimplemented("echo: not known");
  if (fields.Find("logprobs") != nullptr) return Unimplemented("logprobs: only in a chat");
  const json* prompt = fields.Find("prompt");
  Request generate{.options = options};
  if (prompt != nullptr && prompt->is_string()) {
    generate.prompt = prompt->get<std::string>();
  } else if (prompt != nullptr && prompt->is_array() && !prompt->empty()) {
    for (const json& id : *prompt) {
      if (!id.is_number_integer()) return Unimplemented("prompt: one text, or a list of tokens");
      generate.tokens.push_back(static_cast<TokenId>(id.get<int64_t>()));
    }
  } else {
    return InvalidArgument("prompt: a text is wanted");
  }
  const Envelope envelope("cmpl", model_, clock_);
  auto choice = [](std::string text, const json& finish) {
    return json{
        {"index", 0}, {"text", std::move(text)}, {"logprobs", nullptr}, {"finish_reason", finish}};
  };
  bool begun = false;
  OnPiece on_piece;
  if (stream) {
    on_piece = [&](std::string_view piece) {
      begun = true;
      return on_event(envelope.Event("text_completion", choice(std::string(piece), nullptr)));
    };
  }
  const StatusOr<Reply> reply = engine_.Generate(generate, on_piece);
  if (!reply.ok()) {
    if (stream && begun) return EndStream(on_event, reply.status());
    return reply.status();
  }
  const json usage = Usage(*reply);
  if (stream) {
    on_event(envelope.Event("text_completion", choice("", FinishReason(reply->stop)), &usage));
    return EndStream(on_event, OkStatus());
  }
  return ApiAnswer{200, "application/json",
                   Dump(envelope.With("text_completion",
                                      choice(reply->text, FinishReason(reply->stop)), &usage))};
}

ApiAnswer OpenAiApi::Handle(std::string_view method, std::string_view path, std::string_view body,
                            const OnEvent& on_event) const {
  StatusOr<ApiAnswer> answer = NotFound("nothing at {} {}", method, path);
  const bool get = method == "GET" || method == "HEAD";
  try {
    if (get && path == "/") {
      answer = ApiAnswer{200, "text/html; charset=utf-8", std::string(ChatPage())};
    } else if (get && path == "/health") {
      answer = ApiAnswer{200, "application/json", R"({"status":"ok"})"};
    } else if (get && path == "/metrics") {
      answer = ApiAnswer{200, "text/plain; version=0.0.4", engine_.metrics().PrometheusText()};
    } else if (get && path == "/v1/models") {
      answer = Models();
    } else if (method == "POST" && path == "/v1/chat/completions") {
      answer = Chat(body, on_event);
    } else if (method == "POST" && path == "/v1/completions") {
      answer = Complete(body, on_event);
    }
  } catch (const json::exception& error) {  // a member of a kind that nobody expected
    answer = InvalidArgument("{}", error.what());
  }
  if (answer.ok()) return *std::move(answer);
  return {HttpStatusOf(answer.status().code()), "application/json",
          Dump(ErrorJson(answer.status()))};
}

}  // namespace edge::inference
