// inference/tools.cc - tools, their prompt and their calls; the loop is in tool_loop.cc.
#include "edge/inference/tools.h"

#include <exception>
#include <nlohmann/json.hpp>

#include "edge/base/errors.h"
#include "inference/answer_filter.h"
#include "inference/schema.h"

namespace edge::inference {
namespace {

using nlohmann::json;

}  // namespace

struct ToolArguments::Rep {
  json value;

  template <typename T>
  Status Read(std::string_view name, bool (json::*is)() const noexcept, const char* what,
              T* out) const {
    const auto found = value.find(name);
    if (found == value.end()) return InvalidArgument("argument {} is missing", name);
    if (!((*found).*is)()) {
      return InvalidArgument("argument {}: {} is wanted, not {}", name, what, found->type_name());
    }
    *out = found->get<T>();
    return OkStatus();
  }
  template <typename T>
  Status ReadList(std::string_view name, bool (json::*is)() const noexcept, const char* what,
                  std::vector<T>* out) const {
    const auto found = value.find(name);
    if (found == value.end()) return InvalidArgument("argument {} is missing", name);
    if (!found->is_array()) return InvalidArgument("argument {}: a list is wanted", name);
    for (const json& item : *found) {
      if (!(item.*is)()) return InvalidArgument("argument {}: a list of {} is wanted", name, what);
      out->push_back(item.get<T>());
    }
    return OkStatus();
  }
};

StatusOr<ToolArguments> ToolArguments::Parse(std::string_view text) {
  json value = json::parse(text, nullptr, false);
  if (!value.is_object()) return InvalidArgument("the arguments are no JSON object");
  ToolArguments out;
  out.rep_ = std::make_shared<const Rep>(Rep{std::move(value)});
  return out;
}

Status ToolArguments::Read(std::string_view name, std::string* out) const {
  return rep_->Read(name, &json::is_string, "a string", out);
}
Status ToolArguments::Read(std::string_view name, int64_t* out) const {
  // 3.0 is as good as 3.
  double whole = 0;
  EDGE_RETURN_IF_ERROR(rep_->Read(name, &json::is_number, "an integer", &whole));
  if (rep_->value.find(name)->is_number_integer()) {
    *out = rep_->value.find(name)->get<int64_t>();
    return OkStatus();
  }
  if (!(whole > -9e18 && whole < 9e18) ||
      whole != static_cast<double>(static_cast<int64_t>(whole))) {
    return InvalidArgument("argument {}: an integer is wanted, not {}", name, whole);
  }
  *out = static_cast<int64_t>(whole);
  return OkStatus();
}
Status ToolArguments::Read(std::string_view name, double* out) const {
  return rep_->Read(name, &json::is_number, "a number", out);
}
Status ToolArguments::Read(std::string_view name, bool* out) const {
  return rep_->Read(name, &json::is_boolean, "true or false", out);
}
Status ToolArguments::Read(std::string_view name, std::vector<std::string>* out) const {
  return rep_->ReadList(name, &json::is_string, "strings", out);
}
Status ToolArguments::Read(std::string_view name, std::vector<int64_t>* out) const {
  return rep_->ReadList(name, &json::is_number_integer, "integers", out);
}
Status ToolArguments::Read(std::string_view name, std::vector<double>* out) const {
  return rep_->ReadList(name, &json::is_number, "numbers", out);
}
bool ToolArguments::Has(std::string_view name) const {
  const auto found = rep_->value.find(name);
  return found != rep_->value.end() && !found->is_null();
}

std::string ToolArguments::Json() const {
  return rep_->value.dump();
}

namespace internal {

std::string ToolText(std::string value) {
  return value;
}
std::string ToolText(int64_t value) {
  return std::to_string(value);
}
std::string ToolText(double value) {
  return json(value).dump();
}
std::string ToolText(bool value) {
  return value ? "true" : "false";
}
std::string ToolText(const std::vector<std::string>& value) {
  return json(value).dump(-1, ' ', false, json::error_handler_t::replace);
}

std::string NameOf(std::string_view described) {
  return std::string(described.substr(0, described.find(':')));
}

std::string ParametersSchema(const std::vector<ParameterText>& parameters,
                             const std::vector<std::string>& described) {
  json properties = json::object(), required = json::array();
  for (size_t i = 0; i < parameters.size(); ++i) {
    json one = json::parse("{" + parameters[i].schema + "}");
    const size_t colon = described[i].find(':');
    if (colon != std::string::npos) {
      const size_t begin = described[i].find_first_not_of(' ', colon + 1);
      if (begin != std::string::npos) one["description"] = described[i].substr(begin);
    }
    properties[parameters[i].name] = std::move(one);
    if (parameters[i].required) required.push_back(parameters[i].name);
  }
  return json{{"type", "object"},
              {"properties", std::move(properties)},
              {"required", std::move(required)},
              {"additionalProperties", false}}
      .dump(-1, ' ', false, json::error_handler_t::replace);
}

}  // namespace internal

StatusOr<std::string> Tool::Call(std::string_view arguments) const {
  const json schema = json::parse(parameters_, nullptr, false);
  const json value = json::parse(arguments, nullptr, false);
  if (value.is_discarded()) return InvalidArgument("arguments: no JSON");
  EDGE_RETURN_IF_ERROR(CheckSchema(schema, schema, value, "arguments"));
  EDGE_ASSIGN_OR_RETURN(const ToolArguments parsed, ToolArguments::Parse(arguments));
  try {
    return function_(parsed);
  } catch (const std::exception& error) {
    return Internal("the tool threw: {}", error.what());
  } catch (...) {
    return Internal("the tool threw");
  }
}

std::string ToolPrompt(const std::vector<std::string>& tools) {
  std::string text =
      "You may call functions to help with the user's request. These are the functions, as JSON "
      "schemas, within <tools></tools>:\n<tools>\n";
  for (const std::string& tool : tools) {
    text.append(R"({"type": "function", "function": )").append(tool).append("}\n");
  }
  text +=
      "</tools>\n\nFor each call write a JSON object with the function's name and arguments within "
      "<tool_call></tool_call>:\n<tool_call>\n{\"name\": \"...\", \"arguments\": "
      "{...}}\n</tool_call>\n"
      "When no function is needed, answer in plain words.";
  return text;
}

ParsedCalls ParseToolCalls(std::string_view reply) {
  ParsedCalls out;
  for (;;) {
    const size_t begin = reply.find(kToolCallOpen);
    out.text += reply.substr(0, begin);
    if (begin == std::string_view::npos) break;
    reply.remove_prefix(begin + kToolCallOpen.size());
    const size_t end = std::min(reply.find(kToolCallClose), reply.size());
    ToolCall call;
    const json value = json::parse(reply.substr(0, end), nullptr, false);
    if (!value.is_object() || !value.contains("name") || !value["name"].is_string()) {
      call.status = InvalidArgument("a call must be {{\"name\": .., \"arguments\": {{..}}}}");
      call.arguments = std::string(reply.substr(0, end));
    } else {
      call.name = value["name"].get<std::string>();
      const auto arguments = value.find("arguments");
      call.arguments = arguments == value.end() ? "{}" : arguments->dump();
      // Some models write the arguments as a string that holds JSON.
      if (arguments != value.end() && arguments->is_string()) {
        call.arguments = arguments->get<std::string>();
      }
    }
    out.calls.push_back(std::move(call));
    reply.remove_prefix(end);
    if (reply.starts_with(kToolCallClose)) reply.remove_prefix(kToolCallClose.size());
  }
  const size_t begin = out.text.find_first_not_of(" \n");
  out.text.erase(0, std::min(begin, out.text.size()));
  out.text.erase(out.text.find_last_not_of(" \n") + 1);
  return out;
}

}  // namespace edge::inference
