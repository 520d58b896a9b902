#include "kv/limits.h"

#include <algorithm>
#include <bitset>
#include <limits>
#include <memory>

#include "edge/base/errors.h"

namespace edge::kv {
namespace {

Status TooLong(std::string_view operation, size_t bytes) {
  return InvalidArgument(
      "KV {} failed: 414 UTF-8 encoded length of {} exceeds key length limit of {}.", operation,
      bytes, kKeyBytesMax);
}

bool IsDigit(char c) {
  return c >= '0' && c <= '9';
}
bool IsHex(char c) {
  return IsDigit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

// Walks over one JSON text; every Skip is at the start of what it names and past it after.
class JsonScanner {
 public:
  explicit JsonScanner(std::string_view text) : text_(text) {}

  size_t at() const { return at_; }

  bool ScanAll() {
    size_t depth = 0;
    for (;;) {
      if (!SkipOpenings(&depth)) return false;
      // A value has ended: close what ends with it, and go on after a comma.
      for (;;) {
        SkipSpace();
        if (depth == 0) return at_ == text_.size();
        const bool object = open_[depth - 1];
        if (Take(object ? '}' : ']')) {
          --depth;
          continue;
        }
        if (!Take(',') || (object && !SkipName())) return false;
        break;
      }
    }
  }

 private:
  // Opening brackets and the first scalar, or an empty object or array, after them.
  bool SkipOpenings(size_t* depth) {
    for (;;) {
      SkipSpace();
      const bool object = Peek() == '{';
      if (!object && Peek() != '[') return SkipScalar();
      ++at_;
      SkipSpace();
      if (Take(object ? '}' : ']')) return true;
      if (*depth == open_.size()) return false;
      open_[(*depth)++] = object;
      if (object && !SkipName()) return false;
    }
  }
  bool SkipName() {
    SkipSpace();
    if (!SkipString()) return false;
    SkipSpace();
    return Take(':');
  }
  bool SkipScalar() {
    switch (Peek()) {
      case '"':
        return SkipString();
      case 't':
        return SkipWord("true");
      case 'f':
        return SkipWord("false");
      case 'n':
        return SkipWord("null");
      default:
        return SkipNumber();
    }
  }
  bool SkipWord(std::string_view word) {
    if (!text_.substr(at_).starts_with(word)) return false;
    at_ += word.size();
    return true;
  }
  bool SkipString() {
    if (!Take('"')) return false;
    while (at_ < text_.size()) {
      const char c = text_[at_++];
      if (c == '"') return true;
      if (static_cast<unsigned char>(c) < 0x20) return false;
      if (c != '\\') continue;
      const char escape = Peek();
      ++at_;
      if (escape == 'u') {
        for (int i = 0; i < 4; ++i, ++at_) {
          if (!IsHex(Peek())) return false;
        }
      } else if (std::string_view("\"\\/bfnrt").find(escape) == std::string_view::npos) {
        return false;
      }
    }
    return false;
  }
  bool SkipNumber() {
    Take('-');
    if (!Take('0') && !SkipDigits()) return false;
    if (Take('.') && !SkipDigits()) return false;
    if (Peek() == 'e' || Peek() == 'E') {
      ++at_;
      if (!Take('+')) Take('-');
      return SkipDigits();
    }
    return true;
  }
  bool SkipDigits() {
    const size_t start = at_;
    while (IsDigit(Peek())) ++at_;
    return at_ > start;
  }
  void SkipSpace() {
    while (at_ < text_.size() &&
           std::string_view(" \t\r\n").find(text_[at_]) != std::string_view::npos) {
      ++at_;
    }
  }
  char Peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  bool Take(char c) {
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }

  std::string_view text_;
  size_t at_ = 0;
  std::bitset<65536> open_;  // for each open bracket: is it an object's?
};

std::string_view TrimSpace(std::string_view text) {
  const size_t first = text.find_first_not_of(" \t\r\n");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t\r\n") - first + 1);
}

}  // namespace

bool IsUtf8(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const auto lead = static_cast<unsigned char>(text[i]);
    if (lead < 0x80) {
      ++i;
      continue;
    }
    const size_t length = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
    if (lead < 0xc2 || lead > 0xf4 || length > text.size() - i) return false;
    uint32_t code = lead & (0x7fu >> length);
    for (size_t k = 1; k < length; ++k) {
      const auto byte = static_cast<unsigned char>(text[i + k]);
      if ((byte & 0xc0) != 0x80) return false;
      code = code << 6 | (byte & 0x3f);
    }
    const bool overlong = (length == 3 && code < 0x800) || (length == 4 && code < 0x10000);
    if (overlong || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff)) return false;
    i += length;
  }
  return true;
}

bool IsJson(std::string_view text, size_t* position) {
  const auto scanner = std::make_unique<JsonScanner>(text);
  if (IsUtf8(text) && scanner->ScanAll()) return true;
  if (position != nullptr) *position = std::min(scanner->at(), text.size());
  return false;
}

Status CheckJson(std::string_view value) {
  size_t position = 0;
  if (IsJson(value, &position)) return OkStatus();
  if (position == value.size()) return InvalidArgument("Unexpected end of JSON input");
  return InvalidArgument("Unexpected token in JSON at position {}", position);
}

Status CheckBulkJson(std::string_view value) {
  if (IsJson(value)) return OkStatus();
  return InvalidArgument(
      "KV GET_BULK failed: 400 At least one of the requested keys corresponds to a non-json value");
}

Status CheckBulkType(ValueType type) {
  if (type == ValueType::kText || type == ValueType::kJson) return OkStatus();
  return InvalidArgument(
      "KV GET_BULK failed: 400 \"{}\" is not a valid type. Use \"json\" or \"text\"",
      type == ValueType::kBytes ? "arrayBuffer" : "stream");
}

StatusOr<ValueType> ValueTypeNamed(std::string_view name) {
  if (name == "text") return ValueType::kText;
  if (name == "json") return ValueType::kJson;
  if (name == "arrayBuffer") return ValueType::kBytes;
  if (name == "stream") return ValueType::kStream;
  return InvalidArgument(
      "Unknown response type. Possible types are \"text\", \"arrayBuffer\", \"json\", and "
      "\"stream\".");
}

Status CheckKey(std::string_view operation, std::string_view key) {
  if (key.empty()) return InvalidArgument("Key name cannot be empty.");
  if (key == "." || key == "..") {
    return InvalidArgument("\"{}\" is not allowed as a key name.", key);
  }
  if (key.size() > kKeyBytesMax) return TooLong(operation, key.size());
  if (!IsUtf8(key)) {
    return InvalidArgument("KV {} failed: 400 Could not URL-decode key name", operation);
  }
  return OkStatus();
}

Status CheckBulkKey(std::string_view key) {
  if (key.empty()) return InvalidArgument("KV GET_BULK failed: 400 Key names must not be empty");
  if (key == "." || key == "..") {
    return InvalidArgument(
        "KV GET_BULK failed: 400 Illegal key name \"{}\". Please use a different name.", key);
  }
  if (key.size() > kKeyBytesMax) return TooLong("GET_BULK", key.size());
  if (!IsUtf8(key)) {
    return InvalidArgument("KV GET_BULK failed: 400 Could not URL-decode key name");
  }
  return OkStatus();
}

Status CheckPrefix(std::string_view prefix) {
  if (prefix.size() > kKeyBytesMax) return TooLong("GET", prefix.size());
  return OkStatus();
}

Status CheckCacheTtl(std::string_view operation, const GetOptions& options) {
  if (!options.cache_ttl_s || *options.cache_ttl_s >= kCacheTtlSecondsMin) return OkStatus();
  return InvalidArgument(
      "KV {} failed: 400 Invalid cache_ttl of {}. Cache TTL must be at least {}.", operation,
      *options.cache_ttl_s, kCacheTtlSecondsMin);
}

Status CheckValueBytes(uint64_t bytes, uint64_t bytes_max) {
  if (bytes <= bytes_max) return OkStatus();
  return InvalidArgument("KV PUT failed: 413 Value length of {} exceeds limit of {}.", bytes,
                         bytes_max);
}

Status CheckListLimit(int64_t limit) {
  if (limit <= kListLimitMax) return OkStatus();
  // "less than 1000" although 1000 is accepted: the service's own words.
  return InvalidArgument(
      "KV GET failed: 400 Invalid key_count_limit of {}. Please specify an integer less than {}.",
      limit, kListLimitMax);
}

StatusOr<std::string_view> CheckMetadata(std::string_view metadata) {
  if (metadata.size() > kMetadataBytesMax) {
    return InvalidArgument("KV PUT failed: 413 Metadata length of {} exceeds limit of {}.",
                           metadata.size(), kMetadataBytesMax);
  }
  if (metadata.empty() || TrimSpace(metadata) == "null") return std::string_view();
  // Ours: the binding serialises metadata itself, so the service never meets bad JSON.
  if (!IsJson(metadata)) return InvalidArgument("KV PUT failed: 400 Metadata must be valid JSON.");
  return metadata;
}

StatusOr<int64_t> CheckExpiration(const PutOptions& options, int64_t now_s) {
  if (options.expiration_ttl_s) {
    const int64_t ttl_s = *options.expiration_ttl_s;
    if (ttl_s <= 0) {
      return InvalidArgument(
          "KV PUT failed: 400 Invalid expiration_ttl of {}. Please specify integer greater than 0.",
          ttl_s);
    }
    if (ttl_s < kTtlSecondsMin) {
      return InvalidArgument(
          "KV PUT failed: 400 Invalid expiration_ttl of {}. Expiration TTL must be at least {}.",
          ttl_s, kTtlSecondsMin);
    }
    const int64_t furthest = std::numeric_limits<int64_t>::max() - now_s;
    return now_s + (ttl_s < furthest ? ttl_s : furthest);
  }
  if (!options.expiration_s) return int64_t{0};
  const int64_t expiration_s = *options.expiration_s;
  if (expiration_s <= now_s) {
    return InvalidArgument(
        "KV PUT failed: 400 Invalid expiration of {}. Please specify integer greater than the "
        "current number of seconds since the UNIX epoch.",
        expiration_s);
  }
  if (expiration_s < now_s + kTtlSecondsMin) {
    return InvalidArgument(
        "KV PUT failed: 400 Invalid expiration of {}. Expiration times must be at least {} seconds "
        "in the future.",
        expiration_s, kTtlSecondsMin);
  }
  return expiration_s;
}

}  // namespace edge::kv
