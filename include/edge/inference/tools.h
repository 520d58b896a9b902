// edge/inference/tools.h - lets a model call functions of your process.
//
//   auto reply = RunWithTools(*engine, "Book me a window seat on UA17.", {
//       Tool("assign_seat", "Assign a seat to a passenger",
//            [&](std::string seat, std::string who) { return flight.Assign(seat, who); },
//            {"seat: such as 1A", "who: the passenger's name"})});
//
// The model sees the tools in the system message and calls by writing <tool_call>{"name": ..,
// "arguments": {..}}</tool_call>; the answers come back in the next message. A call is decoded
// under a grammar of its schema and checked against it before the tool runs; every call gets an
// answer, in the order of the calls; nothing is asked of the model once it has answered without a
// call. Keys and values of earlier rounds are kept, so a round computes only what is new.
#pragma once
#include <concepts>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "edge/base/status.h"
#include "edge/inference/engine.h"

namespace edge::inference {

// The arguments of a call, by name. Thread-compatible.
class ToolArguments {
 public:
  // InvalidArgument unless `json` is an object.
  static StatusOr<ToolArguments> Parse(std::string_view json);
  // InvalidArgument, naming it, if it is missing or of another type.
  Status Read(std::string_view name, std::string* out) const;
  Status Read(std::string_view name, int64_t* out) const;
  Status Read(std::string_view name, double* out) const;
  Status Read(std::string_view name, bool* out) const;
  Status Read(std::string_view name, std::vector<std::string>* out) const;
  Status Read(std::string_view name, std::vector<int64_t>* out) const;
  Status Read(std::string_view name, std::vector<double>* out) const;
  bool Has(std::string_view name) const;  // present and not null
  std::string Json() const;               // all of them

 private:
  struct Rep;
  std::shared_ptr<const Rep> rep_;  // of copies of one object
};

namespace internal {
// The JSON schema type of a C++ type: "string", "integer"...; `Wire` is what Read() takes.
template <typename T>
struct ToolType;
template <>
struct ToolType<std::string> {
  using Wire = std::string;
  static constexpr const char* kSchema = R"("type":"string")";
};
template <>
struct ToolType<bool> {
  using Wire = bool;
  static constexpr const char* kSchema = R"("type":"boolean")";
};
template <typename T>
  requires std::integral<T>
struct ToolType<T> {
  using Wire = int64_t;
  static constexpr const char* kSchema = R"("type":"integer")";
};
template <typename T>
  requires std::floating_point<T>
struct ToolType<T> {
  using Wire = double;
  static constexpr const char* kSchema = R"("type":"number")";
};
template <>
struct ToolType<std::vector<std::string>> {
  using Wire = std::vector<std::string>;
  static constexpr const char* kSchema = R"("type":"array","items":{"type":"string"})";
};
template <>
struct ToolType<std::vector<int64_t>> {
  using Wire = std::vector<int64_t>;
  static constexpr const char* kSchema = R"("type":"array","items":{"type":"integer"})";
};
template <>
struct ToolType<std::vector<double>> {
  using Wire = std::vector<double>;
  static constexpr const char* kSchema = R"("type":"array","items":{"type":"number"})";
};
template <typename T>
struct ToolParameter {
  using Type = ToolType<T>;
  static constexpr bool kRequired = true;
  static Status Read(const ToolArguments& arguments, std::string_view name, T* out) {
    typename Type::Wire wire{};
    EDGE_RETURN_IF_ERROR(arguments.Read(name, &wire));
    *out = static_cast<T>(std::move(wire));
    return OkStatus();
  }
};
template <typename T>
struct ToolParameter<std::optional<T>> {
  using Type = ToolType<T>;
  static constexpr bool kRequired = false;
  static Status Read(const ToolArguments& arguments, std::string_view name, std::optional<T>* out) {
    if (!arguments.Has(name)) return OkStatus();
    return ToolParameter<T>::Read(arguments, name, &out->emplace());
  }
};

template <typename F>
struct Signature : Signature<decltype(&F::operator())> {};
template <typename C, typename R, typename... Args>
struct Signature<R (C::*)(Args...) const> {
  using Tuple = std::tuple<std::remove_cvref_t<Args>...>;
};
template <typename C, typename R, typename... Args>
struct Signature<R (C::*)(Args...)> {
  using Tuple = std::tuple<std::remove_cvref_t<Args>...>;
};
template <typename R, typename... Args>
struct Signature<R (*)(Args...)> {
  using Tuple = std::tuple<std::remove_cvref_t<Args>...>;
};

// What a tool gives, as text for the model.
std::string ToolText(std::string value);
std::string ToolText(int64_t value);
std::string ToolText(double value);
std::string ToolText(bool value);
std::string ToolText(const std::vector<std::string>& value);  // a JSON array
template <typename R>
StatusOr<std::string> ToolResult(R value) {
  if constexpr (std::same_as<R, Status>) {
    if (!value.ok()) return value;
    return std::string("done");
  } else if constexpr (requires { value.status(); }) {
    if (!value.ok()) return value.status();
    return ToolResult(std::move(*value));
  } else if constexpr (std::same_as<R, bool>) {
    return ToolText(value);
  } else if constexpr (std::integral<R>) {
    return ToolText(static_cast<int64_t>(value));
  } else if constexpr (std::floating_point<R>) {
    return ToolText(static_cast<double>(value));
  } else {
    return ToolText(std::move(value));
  }
}

struct ParameterText {
  std::string name, schema;
  bool required;
};
// `described`: "name: what it is", one per parameter.
std::string ParametersSchema(const std::vector<ParameterText>& parameters,
                             const std::vector<std::string>& described);
std::string NameOf(std::string_view described);
}  // namespace internal

// Thread-compatible; its function runs on threads of RunWithTools, several calls at once.
class Tool {
 public:
  using Function = std::function<StatusOr<std::string>(const ToolArguments&)>;

  // `parameters` is the JSON schema of an object.
  Tool(std::string name, std::string description, std::string parameters, Function function)
      : name_(std::move(name)),
        description_(std::move(description)),
        parameters_(std::move(parameters)),
        function_(std::move(function)) {}

  // The schema is that of the signature: strings, bools, numbers, vectors of them and
  // optionals. `described` names the parameters in order: "seat: such as 1A". A callable may
  // return any of those, nothing, a Status or a StatusOr.
  template <typename F>
  Tool(std::string name, std::string description, F callable,
       std::initializer_list<std::string> described)
      : name_(std::move(name)), description_(std::move(description)) {
    using Tuple = typename internal::Signature<std::decay_t<F>>::Tuple;
    Bind<Tuple>(std::move(callable), std::vector<std::string>(described),
                std::make_index_sequence<std::tuple_size_v<Tuple>>());
  }

  const std::string& name() const { return name_; }
  const std::string& description() const { return description_; }
  const std::string& parameters() const { return parameters_; }
  // InvalidArgument: arguments that do not meet the schema. Internal: the tool threw.
  StatusOr<std::string> Call(std::string_view arguments) const;

 private:
  template <typename Tuple, typename F, size_t... kIndex>
  void Bind(F callable, std::vector<std::string> described, std::index_sequence<kIndex...>) {
    described.resize(sizeof...(kIndex));
    std::vector<std::string> names;
    for (const std::string& text : described) names.push_back(internal::NameOf(text));
    parameters_ = internal::ParametersSchema(
        {{names[kIndex],
          internal::ToolParameter<std::tuple_element_t<kIndex, Tuple>>::Type::kSchema,
          internal::ToolParameter<std::tuple_element_t<kIndex, Tuple>>::kRequired}...},
        described);
    function_ = [callable = std::move(callable),
                 names](const ToolArguments& arguments) -> StatusOr<std::string> {
      Tuple values;
      Status status;
      (void)(... && (status = internal::ToolParameter<std::tuple_element_t<kIndex, Tuple>>::Read(
                         arguments, names[kIndex], &std::get<kIndex>(values)))
                        .ok());
      EDGE_RETURN_IF_ERROR(status);
      using R = decltype(std::apply(callable, std::move(values)));
      if constexpr (std::is_void_v<R>) {
        std::apply(callable, std::move(values));
        return std::string("done");
      } else {
        return internal::ToolResult<R>(std::apply(callable, std::move(values)));
      }
    };
  }

  std::string name_, description_, parameters_;
  Function function_;
};

// A call that the model made. `result` is what it was told.
struct ToolCall {
  std::string name;
  std::string arguments;  // JSON
  Status status;          // OK, or why it failed
  std::string result;
};

struct ToolOptions {
  GenerateOptions generate{};        // of each round; `stop` is set by the loop
  uint32_t rounds_max = 8;           // in which the model calls; then it must answer
  uint32_t calls_max = 16;           // in one round; more are answered with an error
  int64_t tool_timeout_ms = 30'000;  // of one call; the loop then goes on without it
  // Above so many tools only those that fit the question are shown; 0: all of them.
  uint32_t auto_trim_tools = 0;
};

struct ToolReply {
  std::string text;             // the answer
  std::vector<ToolCall> calls;  // all of them, in order
  uint32_t rounds = 0;          // calls of the model
  size_t tokens = 0, prompt_tokens = 0, prefix_tokens = 0;
  StopReason stop = StopReason::kEnd;
};

// Runs the conversation until the model answers without a call. `on_piece` sees the answer
// as it is written, and nothing of the calls. InvalidArgument: two tools of one name, a schema
// that is none. ResourceExhausted: still calling after rounds_max. What Engine::Chat returns.
// A tool that fails, throws or takes too long is an error told to the model.
// A tool that does not return keeps its thread and its captures; give it what outlives it.
StatusOr<ToolReply> RunWithTools(Engine& engine, std::vector<ChatMessage> messages,
                                 const std::vector<Tool>& tools, const ToolOptions& options = {},
                                 OnPiece on_piece = {});

inline StatusOr<ToolReply> RunWithTools(Engine& engine, std::string question,
                                        const std::vector<Tool>& tools,
                                        const ToolOptions& options = {}, OnPiece on_piece = {}) {
  return RunWithTools(engine, std::vector<ChatMessage>{{"user", std::move(question)}}, tools,
                      options, std::move(on_piece));
}

// Sends one HTTP request; gives the body of the answer, or a Status.
struct ToolHttpRequest {
  std::string method, url, body;
  std::vector<std::pair<std::string, std::string>> headers;
};
using ToolHttp = std::function<StatusOr<std::string>(const ToolHttpRequest&)>;

// A tool for each operation of an OpenAPI 3 document (JSON): named by its operationId, or
// method and path; parameters of path, query and header and the properties of a JSON body
// become those of the tool, with their `required` and with every $ref within the document
// followed. `headers` go with each request: authorization, say. InvalidArgument with the place.
StatusOr<std::vector<Tool>> ToolsFromOpenApi(
    std::string_view document, ToolHttp http,
    std::vector<std::pair<std::string, std::string>> headers = {});

// The parts, for who runs the loop elsewhere (a server, whose client has the tools).
// What the model is told of tools, each the JSON of {"name", "description", "parameters"}.
std::string ToolPrompt(const std::vector<std::string>& tools);
struct ParsedCalls {
  std::string text;             // around the calls
  std::vector<ToolCall> calls;  // name and arguments; or a status, for one that cannot be read
};
ParsedCalls ParseToolCalls(std::string_view reply);

}  // namespace edge::inference
