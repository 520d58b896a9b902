// How many bytes of one stream may be on their way, unacknowledged: bandwidth x delay.
//
// Each acknowledgement is a sample, as in BBR (Cardwell et al., ACM Queue 14-5, 2016): bytes
// delivered since the chunk left, over the time that took, times the smallest round trip seen,
// is what the path holds. The window is twice that while it still grows (start-up) and 1.25
// times that afterwards, so it can find room that has become free; it shrinks by a tenth at
// most, and only if it was full. No clock of its own.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace edge::rpc {

class FlowWindow {
 public:
  static constexpr size_t kFirstBytes = 256 << 10;
  static constexpr size_t kLeastBytes = 64 << 10;
  static constexpr size_t kMostBytes = 32 << 20;

  // What a chunk carries until it is acknowledged.
  struct Sent {
    int64_t at_us;
    size_t bytes;
    uint64_t delivered;       // when it left
    int64_t delivered_at_us;  // 0: nothing had been
    size_t window;
    bool filled;  // it was the one that filled the window
  };

  Sent OnSend(size_t bytes, int64_t now_us) {
    in_flight_ += bytes;
    return {now_us, bytes, delivered_, delivered_at_us_, window_, in_flight_ >= window_};
  }
  void OnLost(const Sent& sent) { in_flight_ -= sent.bytes; }

  void OnAck(const Sent& sent, int64_t now_us) {
    in_flight_ -= sent.bytes;
    delivered_ += sent.bytes;
    delivered_at_us_ = now_us;
    round_trip_us_ = std::min(round_trip_us_, std::max<int64_t>(now_us - sent.at_us, 1));
    if (first_ack_us_ < 0) {
      first_ack_us_ = now_us;
      first_delivered_ = delivered_;
      return;
    }
    const bool none_before = sent.delivered_at_us == 0;
    const int64_t since_us = none_before ? first_ack_us_ : sent.delivered_at_us;
    const uint64_t since = none_before ? first_delivered_ : sent.delivered;
    const double interval_us = static_cast<double>(std::max<int64_t>(now_us - since_us, 1));
    const double path =
        static_cast<double>(delivered_ - since) / interval_us * static_cast<double>(round_trip_us_);
    const double growth = starting_ ? 2.0 : 1.25;
    const auto was = static_cast<double>(sent.window);
    double next = std::min(path * growth, was * growth);
    next = std::max(next, sent.filled ? was * 0.9 : static_cast<double>(window_));
    window_ = static_cast<size_t>(
        std::clamp(next, static_cast<double>(kLeastBytes), static_cast<double>(kMostBytes)));
    if (starting_ && sent.at_us >= round_began_us_) EndRound(now_us);
  }

  size_t window() const { return window_; }
  size_t in_flight() const { return in_flight_; }
  bool has_room() const { return in_flight_ < window_; }

 private:
  // Start-up ends after three rounds that brought less than a quarter more.
  void EndRound(int64_t now_us) {
    if (window_ * 4 > round_window_ * 5) {
      rounds_without_growth_ = 0;
    } else if (++rounds_without_growth_ >= 3) {
      starting_ = false;
    }
    round_began_us_ = now_us;
    round_window_ = window_;
  }

  size_t window_ = kFirstBytes;
  size_t in_flight_ = 0;
  uint64_t delivered_ = 0;
  int64_t delivered_at_us_ = 0;
  int64_t first_ack_us_ = -1;
  uint64_t first_delivered_ = 0;
  int64_t round_trip_us_ = INT64_MAX;
  bool starting_ = true;
  int rounds_without_growth_ = 0;
  int64_t round_began_us_ = 0;
  size_t round_window_ = 0;
};

}  // namespace edge::rpc
