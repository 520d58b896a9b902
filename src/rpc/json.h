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

// The same for the one value that starts at *at, `depth` arrays deep; moves *at behind it.
// False for anything that is not JSON.
bool ParseJsonAt(std::string_view text, size_t* at, size_t depth, size_t depth_max, Value* out);
// The end of the characters from `at` on that stand for themselves in a JSON string.
size_t PlainEnd(std::string_view text, size_t at);

// Appends a JSON string. WTF-8 surrogates become escapes, bytes that are not UTF-8 U+FFFD.
void AppendJsonString(std::string_view text, std::string* out);
void AppendJsonNumber(double finite, std::string* out);
void AppendJsonNumber(int64_t value, std::string* out);

// UTF-8 in which lone surrogates may stand as three bytes: what strings of Values hold.
bool IsWtf8(std::string_view text);
// `text` with U+FFFD in place of bytes that are not.
std::string ToWtf8(std::string_view text);
// Keeps the last of the members that share a key, in the place of the first.
void RemoveDuplicates(Object* object);

}  // namespace edge::rpc
