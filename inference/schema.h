// inference/schema.h - checks a JSON value against a JSON schema (the part of draft 2020-12
// that tools and response formats use).
#pragma once
#include <nlohmann/json_fwd.hpp>

#include "edge/base/status.h"

namespace edge::inference {

// type (also a list), enum, const, properties, required, additionalProperties, items, minItems,
// maxItems, minLength, maxLength, minimum, maximum, anyOf, oneOf, allOf, $ref within `root`.
// InvalidArgument naming the place: `arguments.seat: a string is wanted`.
Status CheckSchema(const nlohmann::json& schema, const nlohmann::json& root,
                   const nlohmann::json& value, const std::string& place, int depth = 0);

// What `#/a/b` stands for in `root`; null if nothing.
const nlohmann::json* FollowReference(const nlohmann::json& root, const std::string& reference);

}  // namespace edge::inference
