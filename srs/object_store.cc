#include "srs/object_store.h"

#include <algorithm>

#include "edge/base/errors.h"

namespace edge::srs {

Status CheckKey(std::string_view key) {
  const auto bad = [key](std::string_view why) {
    return InvalidArgument("object key \"{}\": {}", key, why);
  };
  if (key.empty() || key.size() > 512) return bad("1 to 512 bytes allowed");
  for (size_t start = 0; start <= key.size();) {
    const size_t end = std::min(key.find('/', start), key.size());
    const std::string_view part = key.substr(start, end - start);
    if (part.empty() || part == "." || part == "..") return bad("empty or relative part");
    const bool good = std::ranges::all_of(part, [](char c) {
      return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
             c == '.' || c == '_' || c == '-';
    });
    if (!good) return bad("only A-Z a-z 0-9 . _ - / allowed");
    start = end + 1;
  }
  return OkStatus();
}

std::string EtagOf(ByteView content) {
  return HashBytes128(content).ToHex();
}

}  // namespace edge::srs
