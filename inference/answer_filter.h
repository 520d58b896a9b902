// inference/answer_filter.h - hides tool calls from who reads along.
#pragma once
#include <algorithm>
#include <string>
#include <string_view>

#include "edge/inference/engine.h"

namespace edge::inference {

inline constexpr std::string_view kToolCallOpen = "<tool_call>";
inline constexpr std::string_view kToolCallClose = "</tool_call>";

// Single-threaded. The reply on its way to the caller: everything before a call, nothing of the
// call itself.
class AnswerFilter {
 public:
  explicit AnswerFilter(OnPiece on_piece) : on_piece_(std::move(on_piece)) {}

  bool Add(std::string_view piece) {
    if (in_call_) return true;
    held_ += piece;
    const size_t call = held_.find(kToolCallOpen);
    if (call != std::string::npos) {
      in_call_ = true;
      return Show(call);
    }
    size_t keep = std::min(held_.size(), kToolCallOpen.size() - 1);
    while (keep > 0 &&
           !kToolCallOpen.starts_with(std::string_view(held_).substr(held_.size() - keep))) {
      --keep;
    }
    return Show(held_.size() - keep);
  }
  bool Finish() { return in_call_ || Show(held_.size()); }

 private:
  bool Show(size_t bytes) {
    const std::string piece = held_.substr(0, bytes);
    held_.erase(0, bytes);
    return piece.empty() || on_piece_(piece);
  }
  OnPiece on_piece_;
  std::string held_;
  bool in_call_ = false;
};

}  // namespace edge::inference
