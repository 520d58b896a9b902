// JSON text to plain Values (null, booleans, numbers, strings, arrays, objects) and back.
//
// A hand-written reader, since it makes Values without a document in between and bounds
// depth; it accepts exactly RFC 8259 in UTF-8. A key given twice: the last one counts.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "edge/base/status.h"
#include "edge/rpc/value.h"

namespace edge::rpc {

// InvalidArgument with the byte offset. Integers up to 2^53 become kInt, other numbers kDouble.
StatusOr<Value> ParseJson(std::string_view text, size_t depth_max);

// Appends a JSON string. WTF-8 surrogates become escapes, bytes that are not UTF-8 U+FFFD.
void AppendJsonString(std::string_view text, std::string* out);
void AppendJsonNumber(double finite, std::string* out);
void AppendJsonNumber(int64_t value, std::string* out);

}  // namespace edge::rpc
