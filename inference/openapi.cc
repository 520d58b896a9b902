// inference/openapi.cc - tools from the operations of an OpenAPI 3 document
// (https://spec.openapis.org/oas/v3.1.0).
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "edge/base/errors.h"
#include "edge/inference/tools.h"
#include "inference/schema.h"

namespace edge::inference {
namespace {

using nlohmann::json;

constexpr size_t kOperationsMax = 1000;
constexpr int kDepthMax = 32;

// `schema` with every $ref replaced by what it stands for, so that a tool's schema stands alone.
// One that contains itself ends as {} at kDepthMax.
json Resolved(const json& root, const json& schema, int depth = 0) {
  if (depth > kDepthMax) return json::object();
  if (schema.is_array()) {
    json out = json::array();
    for (const json& item : schema) out.push_back(Resolved(root, item, depth + 1));
    return out;
  }
  if (!schema.is_object()) return schema;
  if (const auto reference = schema.find("$ref");
      reference != schema.end() && reference->is_string()) {
    const json* target = FollowReference(root, reference->get<std::string>());
    return target == nullptr ? json::object() : Resolved(root, *target, depth + 1);
  }
  json out = json::object();
  for (const auto& [key, value] : schema.items()) out[key] = Resolved(root, value, depth + 1);
  return out;
}

enum class Place : uint8_t { kPath, kQuery, kHeader, kBody };

struct Operation {
  std::string method, url, path;
  std::map<std::string, Place> places;  // of the arguments
  bool has_body = false;
};

std::string Escape(std::string_view text) {
  std::string out;
  for (const char c : text) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       c == '-' || c == '_' || c == '.' || c == '~';
    if (plain) {
      out.push_back(c);
      continue;
    }
    char hex[4];
    std::snprintf(hex, sizeof hex, "%%%02X", static_cast<unsigned char>(c));
    out += hex;
  }
  return out;
}

std::string AsText(const json& value) {
  return value.is_string() ? value.get<std::string>() : value.dump();
}

ToolHttpRequest RequestFor(const Operation& operation, const json& arguments,
                           std::vector<std::pair<std::string, std::string>> headers) {
  ToolHttpRequest request{operation.method, operation.path, "", std::move(headers)};
  std::string query;
  json body = json::object();
  for (const auto& [name, place] : operation.places) {
    const auto found = arguments.find(name);
    if (found == arguments.end()) continue;
    if (place == Place::kPath) {
      const std::string hole = "{" + name + "}";
      const size_t at = request.url.find(hole);
      if (at != std::string::npos) request.url.replace(at, hole.size(), Escape(AsText(*found)));
    } else if (place == Place::kQuery) {
      // A list repeats the name (style form, explode).
      const json list = found->is_array() ? *found : json::array({*found});
      for (const json& item : list) {
        query += (query.empty() ? "?" : "&") + Escape(name) + "=" + Escape(AsText(item));
      }
    } else if (place == Place::kHeader) {
      request.headers.emplace_back(name, AsText(*found));
    } else {
      body[name] = *found;
    }
  }
  request.url = operation.url + request.url + query;
  if (operation.has_body) {
    request.body = body.dump();
    request.headers.emplace_back("Content-Type", "application/json");
  }
  return request;
}

class Reader {
 public:
  Reader(json root, ToolHttp http, std::vector<std::pair<std::string, std::string>> headers)
      : root_(std::move(root)), http_(std::move(http)), headers_(std::move(headers)) {}

  StatusOr<std::vector<Tool>> Read() {
    const auto paths = root_.find("paths");
    if (paths == root_.end() || !paths->is_object()) return InvalidArgument("paths is missing");
    std::string url;
    if (const auto servers = root_.find("servers"); servers != root_.end() && servers->is_array() &&
                                                    !servers->empty() &&
                                                    servers->at(0).is_object()) {
      url = servers->at(0).value("url", std::string());
      if (url.ends_with('/')) url.pop_back();
    }
    for (const auto& [path, item] : paths->items()) {
      if (!item.is_object()) return InvalidArgument("paths.{}: an object is wanted", path);
      for (const char* method : {"get", "put", "post", "delete", "patch"}) {
        if (!item.contains(method)) continue;
        if (tools_.size() == kOperationsMax) {
          return ResourceExhausted("more than {} operations", kOperationsMax);
        }
        EDGE_RETURN_IF_ERROR(ReadOperation(url, path, method, item));
      }
    }
    return std::move(tools_);
  }

 private:
  Status ReadOperation(const std::string& url, const std::string& path, const std::string& method,
                       const json& item) {
    const std::string place = "paths." + path + "." + method;
    const json spec = Resolved(root_, item.at(method));
    if (!spec.is_object()) return InvalidArgument("{}: an object is wanted", place);
    Operation operation;
    for (const char c : method) operation.method.push_back(static_cast<char>(c - 32));
    operation.url = url;
    operation.path = path;
    json properties = json::object();
    std::set<std::string> required;
    // Those of the path hold for all its operations.
    const json shared = Resolved(root_, item.value("parameters", json::array()));
    for (const json* list : {&shared, &spec}) {
      const json parameters = list == &shared ? shared : spec.value("parameters", json::array());
      for (const json& parameter : parameters) {
        EDGE_RETURN_IF_ERROR(AddParameter(place, parameter, &operation, &properties, &required));
      }
    }
    AddBody(spec, &operation, &properties, &required);
    std::string name = spec.value("operationId", std::string());
    if (name.empty()) name = method + path;
    for (char& c : name) {
      const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                         (c >= '0' && c <= '9') || c == '_' || c == '-';
      if (!plain) c = '_';
    }
    std::string description = spec.value("description", spec.value("summary", std::string()));
    const json schema = {{"type", "object"},
                         {"properties", std::move(properties)},
                         {"required", required},
                         {"additionalProperties", false}};
    tools_.emplace_back(std::move(name), std::move(description), schema.dump(), Caller(operation));
    return OkStatus();
  }

  static Status AddParameter(const std::string& place, const json& parameter, Operation* operation,
                             json* properties, std::set<std::string>* required) {
    if (!parameter.is_object() || !parameter.contains("name") || !parameter["name"].is_string()) {
      return InvalidArgument("{}.parameters: one has no name", place);
    }
    const std::string name = parameter["name"].get<std::string>();
    const std::string in = parameter.value("in", std::string());
    static const std::map<std::string, Place> kPlaces = {
        {"path", Place::kPath}, {"query", Place::kQuery}, {"header", Place::kHeader}};
    const auto known = kPlaces.find(in);
    if (known == kPlaces.end()) {
      return Unimplemented("{}.parameters.{}: in {}; known: path, query, header", place, name, in);
    }
    json schema = parameter.value("schema", json::object());
    if (parameter.contains("description") && schema.is_object()) {
      schema["description"] = parameter["description"];
    }
    (*properties)[name] = std::move(schema);
    operation->places[name] = known->second;
    if (in == "path" || (parameter.contains("required") && parameter["required"] == true)) {
      required->insert(name);
    }
    return OkStatus();
  }

  static void AddBody(const json& spec, Operation* operation, json* properties,
                      std::set<std::string>* required) {
    const json::json_pointer at("/requestBody/content/application~1json/schema");
    if (!spec.contains(at)) return;
    operation->has_body = true;
    const json& schema = spec.at(at);
    const json members = schema.value("properties", json::object());
    for (const auto& [name, property] : members.items()) {
      if (operation->places.contains(name)) continue;
      (*properties)[name] = property;
      operation->places[name] = Place::kBody;
    }
    for (const json& name : schema.value("required", json::array())) {
      if (name.is_string()) required->insert(name.get<std::string>());
    }
  }

  Tool::Function Caller(const Operation& operation) const {
    return [operation, http = http_,
            headers = headers_](const ToolArguments& arguments) -> StatusOr<std::string> {
      return http(RequestFor(operation, json::parse(arguments.Json()), headers));
    };
  }

  const json root_;
  const ToolHttp http_;
  const std::vector<std::pair<std::string, std::string>> headers_;
  std::vector<Tool> tools_;
};

}  // namespace

StatusOr<std::vector<Tool>> ToolsFromOpenApi(
    std::string_view document, ToolHttp http,
    std::vector<std::pair<std::string, std::string>> headers) {
  json root = json::parse(document, nullptr, false);
  if (!root.is_object()) return InvalidArgument("no JSON object");
  if (!root.value("openapi", json()).is_string() ||
      !root["openapi"].get<std::string>().starts_with("3.")) {
    return InvalidArgument("openapi: a document of version 3 is wanted");
  }
  try {
    return Reader(std::move(root), std::move(http), std::move(headers)).Read();
  } catch (const json::exception& error) {  // a member of another type than the standard says
    return InvalidArgument("{}", error.what());
  }
}

}  // namespace edge::inference
