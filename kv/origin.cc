// The defaults of edge::kv::Origin.
#include "edge/kv/origin.h"

namespace edge::kv {

StatusOr<std::vector<std::optional<Entry>>> Origin::GetMany(
    std::span<const std::string_view> keys) {
  std::vector<std::optional<Entry>> entries;
  entries.reserve(keys.size());
  for (const std::string_view key : keys) {
    EDGE_ASSIGN_OR_RETURN(std::optional<Entry> entry, Get(key));
    entries.push_back(std::move(entry));
  }
  return entries;
}

StatusOr<size_t> Origin::RemoveExpired(int64_t, size_t) {
  return size_t{0};
}

}  // namespace edge::kv
