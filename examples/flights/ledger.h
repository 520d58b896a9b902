// What the passengers were told, kept outside of the server, to hold it to its word.
#pragma once
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "flight_seating.h"

// Thread-compatible.
class Ledger {
 public:
  // The server answered that `who` has the seat.
  void Confirmed(const std::string& flight, const std::string& seat, const std::string& who) {
    if (!confirmed_.emplace(std::pair(flight, seat), who).second) ++sold_twice_;
  }
  // The connection broke before an answer: the seat may be booked for `who`, or not.
  void InDoubt(const std::string& flight, const std::string& seat, const std::string& who) {
    in_doubt_.emplace(flight, seat, who);
  }

  // Holds the seat map that the server has now against the ledger. Call for every flight.
  void Audit(const std::string& flight, const std::vector<SeatState>& seats) {
    for (const SeatState& state : seats) {
      const auto promised = confirmed_.find({flight, state.seat});
      if (promised != confirmed_.end()) {
        if (state.occupant != promised->second) ++lost_;
      } else if (state.occupant && !in_doubt_.contains({flight, state.seat, *state.occupant})) {
        ++unexplained_;
      }
      if (state.occupant && !seated_.insert(*state.occupant).second) ++seated_twice_;
    }
  }

  size_t confirmed() const { return confirmed_.size(); }
  size_t in_doubt() const { return in_doubt_.size(); }
  // Of the audits so far; all must be 0.
  size_t lost() const { return lost_; }                  // confirmed, but not there
  size_t sold_twice() const { return sold_twice_; }      // two passengers were promised one seat
  size_t seated_twice() const { return seated_twice_; }  // one passenger holds two seats
  size_t unexplained() const { return unexplained_; }    // a passenger who never asked
  bool clean() const { return lost_ + sold_twice_ + seated_twice_ + unexplained_ == 0; }

 private:
  std::map<std::pair<std::string, std::string>, std::string> confirmed_;  // (flight, seat): who
  std::set<std::tuple<std::string, std::string, std::string>> in_doubt_;
  std::set<std::string> seated_;
  size_t lost_ = 0, sold_twice_ = 0, seated_twice_ = 0, unexplained_ = 0;
};
