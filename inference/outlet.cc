#include "inference/outlet.h"

#include <algorithm>

namespace edge::inference {

bool Outlet::Add(std::string_view piece, std::string* out) {
  held_ += piece;
  size_t first = std::string::npos;
  for (const std::string& stop : stops_) first = std::min(first, held_.find(stop));
  const bool stopped = first != std::string::npos;
  const size_t shown = stopped ? first : held_.size() - HeldBack();
  out->append(held_, 0, shown);
  held_.erase(0, stopped ? std::string::npos : shown);
  return stopped;
}

void Outlet::Finish(std::string* out) {
  *out += held_;
  held_.clear();
}

// The longest end of the text that is a beginning of a stop text.
size_t Outlet::HeldBack() const {
  size_t longest = 0;
  for (const std::string& stop : stops_) {
    for (size_t n = std::min(held_.size(), stop.size() - 1); n > longest; --n) {
      if (std::string_view(held_).ends_with(std::string_view(stop).substr(0, n))) longest = n;
    }
  }
  return longest;
}

}  // namespace edge::inference
