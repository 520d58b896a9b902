// inference/outlet.h - text on its way out: holds back what may yet become a stop text.
#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace edge::inference {

// Single-threaded.
class Outlet {
 public:
  explicit Outlet(const std::vector<std::string>& stops) : stops_(stops) {}  // borrowed

  // Appends to `out` what can be shown now. True if a stop text came up; nothing of it, nor
  // of what follows, is shown.
  bool Add(std::string_view piece, std::string* out);
  void Finish(std::string* out);  // no more comes: shows the rest

 private:
  size_t HeldBack() const;
  const std::vector<std::string>& stops_;
  std::string held_;
};

}  // namespace edge::inference
