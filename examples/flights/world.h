// What server and passengers agree on: which flights there are, and their seats.
#pragma once
#include <string>
#include <vector>

#include "edge/base/errors.h"

inline constexpr int kFlights = 240;
inline constexpr int kRows = 30;

// "UA17-2026-11-23" for number 17, from 1 to kFlights.
inline std::string FlightName(int number) {
  return edge::Format("UA{}-2026-11-23", {number});
}

// "1A" to "30F".
inline std::vector<std::string> SeatNames() {
  std::vector<std::string> seats;
  for (int row = 1; row <= kRows; ++row) {
    for (const char letter : {'A', 'B', 'C', 'D', 'E', 'F'}) {
      seats.push_back(std::to_string(row) + letter);
    }
  }
  return seats;
}
