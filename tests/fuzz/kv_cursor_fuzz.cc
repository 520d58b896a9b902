// Any text is either refused as a cursor or names a key that gives the same cursor back; and
// the checkers of JSON and UTF-8 read nothing beyond their text.
#include "edge/base/check.h"
#include "kv/cursor.h"
#include "kv/limits.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  const auto key = edge::kv::DecodeCursor(text, "");
  if (key.ok()) EDGE_CHECK(edge::kv::EncodeCursor(*key) == text);
  const std::string cursor = edge::kv::EncodeCursor(std::string_view(text).substr(0, 512));
  EDGE_CHECK(edge::kv::DecodeCursor(cursor, "").value() == text.substr(0, 512));
  if (edge::kv::IsJson(text)) EDGE_CHECK(edge::kv::IsUtf8(text));
  return 0;
}
