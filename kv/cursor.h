// kv/cursor.h - the text that says where a list goes on (docs/formats/kv-cursor.md).
//
// It holds the last key of a page, a version and a checksum, so that text from elsewhere is
// refused rather than taken for a place.
#pragma once
#include <string>
#include <string_view>

#include "edge/base/status.h"

namespace edge::kv {

std::string EncodeCursor(std::string_view last_key);

// The last key. InvalidArgument if `cursor` is not one of ours, or of a list with another
// prefix.
StatusOr<std::string> DecodeCursor(std::string_view cursor, std::string_view prefix);

}  // namespace edge::kv
