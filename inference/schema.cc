#include "inference/schema.h"

#include <nlohmann/json.hpp>

#include "edge/base/errors.h"

namespace edge::inference {
namespace {

using nlohmann::json;

constexpr int kDepthMax = 64;

bool IsOfType(const json& value, const std::string& type) {
  if (type == "object") return value.is_object();
  if (type == "array") return value.is_array();
  if (type == "string") return value.is_string();
  if (type == "boolean") return value.is_boolean();
  if (type == "null") return value.is_null();
  if (type == "number") return value.is_number();
  if (type != "integer") return true;  // a type that we do not know forbids nothing
  return value.is_number_integer() ||
         (value.is_number_float() &&
          value.get<double>() == static_cast<double>(static_cast<int64_t>(value.get<double>())));
}

Status CheckType(const json& type, const json& value, const std::string& place) {
  if (type.is_string() && !IsOfType(value, type.get<std::string>())) {
    return InvalidArgument("{}: {} is wanted, not {}", place, type.get<std::string>(),
                           value.type_name());
  }
  if (type.is_array()) {
    for (const json& one : type) {
      if (one.is_string() && IsOfType(value, one.get<std::string>())) return OkStatus();
    }
    return InvalidArgument("{}: {} is none of {}", place, value.type_name(), type.dump());
  }
  return OkStatus();
}

Status CheckBounds(const json& schema, const json& value, const std::string& place) {
  auto bound = [&](const char* key) -> std::optional<double> {
    const auto found = schema.find(key);
    if (found == schema.end() || !found->is_number()) return std::nullopt;
    return found->get<double>();
  };
  auto check = [&](double size, const char* least, const char* most, const char* what) -> Status {
    if (const auto low = bound(least); low && size < *low) {
      return InvalidArgument("{}: {} {} is below {}", place, what, size, *low);
    }
    if (const auto high = bound(most); high && size > *high) {
      return InvalidArgument("{}: {} {} is above {}", place, what, size, *high);
    }
    return OkStatus();
  };
  if (value.is_number()) return check(value.get<double>(), "minimum", "maximum", "the value");
  if (value.is_string()) {
    size_t characters = 0;
    for (const char c : value.get_ref<const std::string&>()) characters += (c & 0xC0) != 0x80;
    return check(static_cast<double>(characters), "minLength", "maxLength", "the length");
  }
  if (value.is_array()) {
    return check(static_cast<double>(value.size()), "minItems", "maxItems", "the length");
  }
  return OkStatus();
}

Status CheckObject(const json& schema, const json& root, const json& value,
                   const std::string& place, int depth) {
  const auto properties = schema.find("properties");
  const bool listed = properties != schema.end() && properties->is_object();
  if (const auto required = schema.find("required");
      required != schema.end() && required->is_array()) {
    for (const json& name : *required) {
      if (name.is_string() && !value.contains(name.get<std::string>())) {
        return InvalidArgument("{}.{} is missing", place, name.get<std::string>());
      }
    }
  }
  const auto others = schema.find("additionalProperties");
  for (const auto& [name, member] : value.items()) {
    const std::string inner = place + "." + name;
    if (listed && properties->contains(name)) {
      EDGE_RETURN_IF_ERROR(CheckSchema((*properties)[name], root, member, inner, depth + 1));
    } else if (others != schema.end() && others->is_boolean() && !others->get<bool>()) {
      return InvalidArgument("{}: there is no such property", inner);
    } else if (others != schema.end() && others->is_object()) {
      EDGE_RETURN_IF_ERROR(CheckSchema(*others, root, member, inner, depth + 1));
    }
  }
  return OkStatus();
}

Status CheckChoices(const json& schema, const json& root, const json& value,
                    const std::string& place, int depth) {
  for (const char* key : {"anyOf", "oneOf"}) {
    const auto found = schema.find(key);
    if (found == schema.end() || !found->is_array() || found->empty()) continue;
    size_t met = 0;
    Status last;
    for (const json& one : *found) {
      const Status status = CheckSchema(one, root, value, place, depth + 1);
      met += status.ok();
      if (!status.ok()) last = status;
    }
    if (met == 0) return last;
    if (std::string_view(key) == "oneOf" && met > 1) {
      return InvalidArgument("{}: {} of oneOf are met", place, met);
    }
  }
  if (const auto all = schema.find("allOf"); all != schema.end() && all->is_array()) {
    for (const json& one : *all) {
      EDGE_RETURN_IF_ERROR(CheckSchema(one, root, value, place, depth + 1));
    }
  }
  return OkStatus();
}

}  // namespace

const json* FollowReference(const json& root, const std::string& reference) {
  if (!reference.starts_with("#")) return nullptr;
  const json* at = &root;
  size_t begin = 1;
  while (begin < reference.size()) {
    const size_t end = std::min(reference.find('/', begin + 1), reference.size());
    std::string key = reference.substr(begin + 1, end - begin - 1);
    for (const auto& [from, to] : {std::pair("~1", "/"), std::pair("~0", "~")}) {
      for (size_t i = key.find(from); i != std::string::npos; i = key.find(from, i + 1)) {
        key.replace(i, 2, to);
      }
    }
    if (!at->is_object() || !at->contains(key)) return nullptr;
    at = &(*at)[key];
    begin = end;
  }
  return at;
}

Status CheckSchema(const json& schema, const json& root, const json& value,
                   const std::string& place, int depth) {
  if (depth > kDepthMax) return InvalidArgument("{}: nested more than {} deep", place, kDepthMax);
  if (schema.is_boolean()) {
    return schema.get<bool>() ? OkStatus() : InvalidArgument("{}: nothing is allowed here", place);
  }
  if (!schema.is_object()) return InvalidArgument("{}: the schema is no object", place);
  if (const auto reference = schema.find("$ref");
      reference != schema.end() && reference->is_string()) {
    const json* target = FollowReference(root, reference->get<std::string>());
    if (target == nullptr) {
      return InvalidArgument("{}: $ref {} leads nowhere", place, reference->get<std::string>());
    }
    EDGE_RETURN_IF_ERROR(CheckSchema(*target, root, value, place, depth + 1));
  }
  if (const auto type = schema.find("type"); type != schema.end()) {
    EDGE_RETURN_IF_ERROR(CheckType(*type, value, place));
  }
  if (const auto values = schema.find("enum"); values != schema.end() && values->is_array()) {
    if (std::find(values->begin(), values->end(), value) == values->end()) {
      return InvalidArgument("{}: {} is none of {}", place, value.dump(), values->dump());
    }
  }
  if (const auto only = schema.find("const"); only != schema.end() && *only != value) {
    return InvalidArgument("{}: {} is wanted", place, only->dump());
  }
  EDGE_RETURN_IF_ERROR(CheckBounds(schema, value, place));
  EDGE_RETURN_IF_ERROR(CheckChoices(schema, root, value, place, depth));
  if (value.is_object()) return CheckObject(schema, root, value, place, depth);
  if (const auto items = schema.find("items"); value.is_array() && items != schema.end()) {
    for (size_t i = 0; i < value.size(); ++i) {
      EDGE_RETURN_IF_ERROR(
          CheckSchema(*items, root, value[i], place + "[" + std::to_string(i) + "]", depth + 1));
    }
  }
  return OkStatus();
}

}  // namespace edge::inference
