// kv/limits.h - what Workers KV accepts, and what it says when it does not.
//
// Texts are those of the service and its binding, so that a program tested against one
// recognises the other's errors. All are InvalidArgument.
#pragma once
#include <cstdint>
#include <string_view>

#include "edge/base/status.h"
#include "edge/kv/namespace.h"

namespace edge::kv {

inline constexpr size_t kKeyBytesMax = 512;
inline constexpr size_t kMetadataBytesMax = 1024;
inline constexpr uint64_t kValueBytesMax = 26'214'400;
inline constexpr size_t kBulkKeysMax = 100;
inline constexpr uint64_t kBulkBytesMax = 26'214'400;
inline constexpr int64_t kListLimitMax = 1000;
inline constexpr int64_t kTtlSecondsMin = 60;
inline constexpr int64_t kCacheTtlSecondsMin = 30;

// `operation` is GET, PUT or DELETE (list is a GET).
Status CheckKey(std::string_view operation, std::string_view key);
Status CheckBulkKey(std::string_view key);  // worded by the service, not the binding
Status CheckPrefix(std::string_view prefix);
Status CheckCacheTtl(std::string_view operation, const GetOptions& options);
Status CheckValueBytes(uint64_t bytes, uint64_t bytes_max);
Status CheckListLimit(int64_t limit);

// The metadata to store: `metadata`, or empty if it is the JSON null.
StatusOr<std::string_view> CheckMetadata(std::string_view metadata);

// The absolute expiration, 0 for none.
StatusOr<int64_t> CheckExpiration(const PutOptions& options, int64_t now_s);

// Well-formed UTF-8: no overlong forms, surrogates or values above U+10FFFF.
bool IsUtf8(std::string_view text);

// One JSON value (RFC 8259), nothing else but white space around it. Needs a bit for each
// open bracket, up to 65,536, and no recursion. On failure `*position` is where it stopped.
bool IsJson(std::string_view text, size_t* position = nullptr);

Status CheckJson(std::string_view value);
Status CheckBulkJson(std::string_view value);  // worded by the service
Status CheckBulkType(ValueType type);

}  // namespace edge::kv
