#include "edge/inference/tools.h"

#include <catch2/catch.hpp>
#include <deque>
#include <nlohmann/json.hpp>
#include <thread>

#include "edge/base/errors.h"

namespace edge::inference {
namespace {

using Catch::Contains;
using nlohmann::json;

// Says what the test tells it to, and keeps what it was asked.
class ScriptedEngine final : public Engine {
 public:
  explicit ScriptedEngine(std::deque<std::string> replies) : replies_(std::move(replies)) {}

  StatusOr<Reply> Chat(const std::vector<ChatMessage>& messages, OnPiece on_piece,
                       const GenerateOptions&) override {
    asked.push_back(messages);
    if (replies_.empty()) return Internal("asked once too often");
    Reply reply;
    reply.text = replies_.front();
    replies_.pop_front();
    for (const char c : reply.text) {  // in the smallest pieces
      if (!on_piece(std::string_view(&c, 1))) {
        reply.stop = StopReason::kCancelled;
        break;
      }
    }
    return reply;
  }
  StatusOr<Reply> Generate(const Request&, OnPiece) override { return Internal("not used"); }
  StatusOr<std::vector<float>> Logits(const std::vector<TokenId>&) override {
    return Internal("not used");
  }
  const Tokenizer& tokenizer() const override { std::abort(); }
  const ChatTemplate& chat_template() const override { std::abort(); }
  const ModelInfo& info() const override { std::abort(); }
  uint64_t kv_bytes_used() const override { return 0; }
  uint64_t kv_bytes_cached() const override { return 0; }
  MetricsRegistry& metrics() override { return metrics_; }

  std::vector<std::vector<ChatMessage>> asked;

 private:
  std::deque<std::string> replies_;
  MetricsRegistry metrics_;
};

std::string Call(const std::string& name, const std::string& arguments) {
  return "<tool_call>\n{\"name\": \"" + name + "\", \"arguments\": " + arguments +
         "}\n</tool_call>";
}

Tool Adder() {
  return Tool("add", "Adds two numbers", [](int64_t a, int b) { return a + b; },
              {"a: the first", "b: the second"});
}

TEST_CASE("a tool's schema is that of its signature", "[inference]") {
  const Tool tool(
      "book", "Books",
      [](std::string seat, std::optional<double>, bool, std::vector<std::string>) { return seat; },
      {"seat: such as 1A", "price", "window", "names: of the passengers"});
  CHECK(json::parse(tool.parameters()) == json::parse(R"({
    "type": "object", "additionalProperties": false, "required": ["seat", "window", "names"],
    "properties": {"seat": {"type": "string", "description": "such as 1A"},
                   "price": {"type": "number"}, "window": {"type": "boolean"},
                   "names": {"type": "array", "items": {"type": "string"},
                             "description": "of the passengers"}}})"));
  CHECK(tool.Call(R"({"seat": "1A", "window": true, "names": []})").value() == "1A");
  auto error = [&](const char* arguments) {
    return std::string(Message(tool.Call(arguments).status()));
  };
  CHECK(error(R"({"window": true, "names": []})") == "arguments.seat is missing");
  CHECK(error(R"({"seat": 1, "window": true, "names": []})") ==
        "arguments.seat: string is wanted, not number");
  CHECK(error(R"({"seat": "1A", "window": true, "names": [1]})") ==
        "arguments.names[0]: string is wanted, not number");
  CHECK(error(R"({"seat": "1A", "window": true, "names": [], "x": 1})") ==
        "arguments.x: there is no such property");
  CHECK(error("nonsense") == "arguments: no JSON");
}

TEST_CASE("what a tool returns becomes text, what it throws a status", "[inference]") {
  auto call = [](const Tool& tool) { return tool.Call("{}"); };
  CHECK(call(Tool("t", "", [] { return 7; }, {})).value() == "7");
  CHECK(call(Tool("t", "", [] { return 1.5; }, {})).value() == "1.5");
  CHECK(call(Tool("t", "", [] { return true; }, {})).value() == "true");
  CHECK(call(Tool("t", "", [] {}, {})).value() == "done");
  CHECK(call(Tool("t", "", [] { return OkStatus(); }, {})).value() == "done");
  CHECK(call(Tool("t", "",
                  [] {
                    return std::vector<std::string>{"a", "b"};
                  },
                  {}))
            .value() == R"(["a","b"])");
  CHECK(call(Tool("t", "", []() -> StatusOr<int> { return NotFound("no such seat"); }, {}))
            .status()
            .code() == StatusCode::kNotFound);
  const auto thrown = call(Tool("t", "", [] { throw std::runtime_error("no"); }, {}));
  CHECK(Message(thrown.status()) == "the tool threw: no");
}

TEST_CASE("an answer without a call costs one round", "[inference]") {
  ScriptedEngine engine({"It is noon."});
  std::string streamed;
  const auto reply =
      RunWithTools(engine, "What time is it?", {Adder()}, {}, [&](std::string_view piece) {
        streamed += piece;
      }).value();
  CHECK(reply.text == "It is noon.");
  CHECK(streamed == reply.text);
  CHECK(reply.rounds == 1);
  CHECK(reply.calls.empty());
  REQUIRE(engine.asked.size() == 1);
  CHECK(engine.asked[0][0].role == "system");
  CHECK_THAT(engine.asked[0][0].content, Contains("Adds two numbers"));
}

TEST_CASE("every call is answered, in order, and only the answer is shown", "[inference]") {
  ScriptedEngine engine({"Let me see. " + Call("add", R"({"a": 1, "b": 2})") +
                             Call("missing", "{}") + Call("add", R"({"a": "x", "b": 2})") +
                             "<tool_call>{broken</tool_call>",
                         "The sum is 3 < 4."});
  std::string streamed;
  const auto reply = RunWithTools(engine, "1 + 2?", {Adder()}, {}, [&](std::string_view piece) {
                       streamed += piece;
                     }).value();
  CHECK(reply.text == "The sum is 3 < 4.");
  CHECK(streamed == "Let me see. The sum is 3 < 4.");
  CHECK(reply.rounds == 2);
  REQUIRE(reply.calls.size() == 4);
  CHECK(reply.calls[0].result == "3");
  CHECK(reply.calls[1].status.code() == StatusCode::kNotFound);
  CHECK(reply.calls[2].result == "error: arguments.a: integer is wanted, not string");
  CHECK(reply.calls[3].status.code() == StatusCode::kInvalidArgument);
  // The conversation goes on where it was: a prefix of what the model has seen.
  REQUIRE(engine.asked[1].size() == engine.asked[0].size() + 2);
  const std::string& told = engine.asked[1].back().content;
  CHECK(told.find("\"content\":\"3\"") < told.find("there is no tool named missing"));
}

TEST_CASE("a tool that does not return is left behind", "[inference]") {
  auto release = std::make_shared<std::atomic<bool>>(false);
  ScriptedEngine engine({Call("wait", "{}") + Call("add", R"({"a": 1, "b": 1})"), "Done."});
  const Tool wait("wait", "Waits",
                  [release] {
                    while (!*release) std::this_thread::yield();
                  },
                  {});
  const auto reply = RunWithTools(engine, "Wait", {wait, Adder()}, {.tool_timeout_ms = 20}).value();
  *release = true;
  CHECK(reply.calls[0].status.code() == StatusCode::kDeadlineExceeded);
  CHECK(reply.calls[1].result == "2");
  CHECK(reply.text == "Done.");
}

TEST_CASE("a model that never stops calling is stopped", "[inference]") {
  ScriptedEngine engine({Call("add", "{}"), Call("add", "{}"), Call("add", "{}")});
  const auto reply = RunWithTools(engine, "Add", {Adder()}, {.rounds_max = 2});
  CHECK(reply.status().code() == StatusCode::kResourceExhausted);
  CHECK(engine.asked.size() == 3);
}

TEST_CASE("of many tools those that fit the question are shown", "[inference]") {
  std::vector<Tool> tools;
  for (int i = 0; i < 30; ++i) {
    tools.emplace_back(
        "tool" + std::to_string(i), "Does thing number " + std::to_string(i), [] { return 1; },
        std::initializer_list<std::string>{});
  }
  tools.emplace_back(
      "forecast", "Tells the weather in a town", [] { return 1; },
      std::initializer_list<std::string>{});
  ScriptedEngine engine({"Sunny."});
  REQUIRE(RunWithTools(engine, "How is the weather in Oslo?", tools, {.auto_trim_tools = 4}).ok());
  CHECK_THAT(engine.asked[0][0].content, Contains("forecast"));
  CHECK_THAT(engine.asked[0][0].content, !Contains("tool17"));
}

TEST_CASE("tools that do not hold together are refused", "[inference]") {
  ScriptedEngine engine({});
  CHECK(Message(RunWithTools(engine, "x", {Adder(), Adder()}).status()) ==
        "two tools are named add");
  const Tool broken("t", "", "not a schema", [](const ToolArguments&) { return "x"; });
  CHECK_FALSE(RunWithTools(engine, "x", {broken}).ok());
}

constexpr const char* kApi = R"({
  "openapi": "3.1.0",
  "servers": [{"url": "https://api.example.org/v1/"}],
  "components": {"schemas": {
    "Name": {"type": "string", "minLength": 1},
    "Pet": {"type": "object", "required": ["name"],
            "properties": {"name": {"$ref": "#/components/schemas/Name"}, "age": {"type": "integer"}}}}},
  "paths": {
    "/pets/{id}": {
      "parameters": [{"name": "id", "in": "path", "schema": {"type": "string"}}],
      "get": {"operationId": "getPet", "summary": "Finds a pet",
              "parameters": [{"name": "fields", "in": "query", "required": true,
                              "schema": {"type": "array", "items": {"type": "string"}}}]},
      "put": {"requestBody": {"content": {"application/json": {
                "schema": {"$ref": "#/components/schemas/Pet"}}}}}}}})";

TEST_CASE("an OpenAPI document becomes tools that send its requests", "[inference]") {
  ToolHttpRequest sent;
  const auto http = [&](const ToolHttpRequest& request) -> StatusOr<std::string> {
    sent = request;
    return std::string("ok");
  };
  const auto tools = ToolsFromOpenApi(kApi, http, {{"Authorization", "Bearer x"}}).value();
  REQUIRE(tools.size() == 2);
  CHECK(tools[0].name() == "getPet");
  CHECK(tools[0].description() == "Finds a pet");
  CHECK(tools[0].Call(R"({"id": "a/b", "fields": ["x", "y z"]})").value() == "ok");
  CHECK(sent.method == "GET");
  CHECK(sent.url == "https://api.example.org/v1/pets/a%2Fb?fields=x&fields=y%20z");
  CHECK(sent.headers[0].second == "Bearer x");
  CHECK(tools[0].Call(R"({"id": "a"})").status().code() == StatusCode::kInvalidArgument);
  CHECK(tools[1].name() == "put_pets__id_");
  const json schema = json::parse(tools[1].parameters());
  CHECK(schema["required"] == json::parse(R"(["id", "name"])"));
  CHECK(schema["properties"]["name"]["minLength"] == 1);
  CHECK(tools[1].Call(R"({"id": "7", "name": "Rex", "age": 3})").value() == "ok");
  CHECK(json::parse(sent.body) == json::parse(R"({"name": "Rex", "age": 3})"));
  CHECK(sent.method == "PUT");
  CHECK(tools[1].Call(R"({"id": "7", "name": ""})").status().code() ==
        StatusCode::kInvalidArgument);
}

TEST_CASE("what is no OpenAPI document is refused with the place", "[inference]") {
  auto error = [](const char* document) {
    return std::string(Message(ToolsFromOpenApi(document, nullptr).status()));
  };
  CHECK(error("[") == "no JSON object");
  CHECK(error(R"({"swagger": "2.0"})") == "openapi: a document of version 3 is wanted");
  CHECK(error(R"({"openapi": "3.0.0"})") == "paths is missing");
  CHECK(error(R"({"openapi": "3.0.0", "paths": {"/x": {"get": {"parameters": [{}]}}}})") ==
        "paths./x.get.parameters: one has no name");
}

}  // namespace
}  // namespace edge::inference
