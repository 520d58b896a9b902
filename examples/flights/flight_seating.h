// One flight: a durable object with a seat map in its own SQLite database, and the watchers
// that are told of each change. Plain methods and plain SQL; one thing runs at a time.
#pragma once
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "edge/durable/object.h"
#include "edge/rpc/stub.h"

struct SeatState {
  std::string seat;
  std::optional<std::string> occupant;
  using Fields = edge::rpc::Fields<&SeatState::seat, &SeatState::occupant>;
};

// Called with the seat and its new occupant; nothing: it is free again.
using Watcher = edge::rpc::Stub<void(std::string, std::optional<std::string>)>;

class FlightSeating : public edge::durable::Object {
 public:
  using Object::Object;

  // Sets up the seat map; a second call changes nothing.
  void Initialize(const std::vector<std::string>& seats) {
    sql().Exec("CREATE TABLE IF NOT EXISTS seats (seat TEXT PRIMARY KEY, occupant TEXT)");
    sql().Exec("CREATE INDEX IF NOT EXISTS by_occupant ON seats (occupant)");
    for (const std::string& seat : seats) {
      sql().Exec("INSERT OR IGNORE INTO seats VALUES (?, NULL)", seat);
    }
  }

  std::vector<std::string> Available() {
    std::vector<std::string> seats;
    for (auto& [seat] : sql().Exec<std::string>("SELECT seat FROM seats WHERE occupant IS NULL")) {
      seats.push_back(seat);
    }
    return seats;
  }

  std::vector<SeatState> Seats() {
    std::vector<SeatState> all;
    for (auto& [seat, occupant] : sql().Exec<std::string, std::optional<std::string>>(
             "SELECT seat, occupant FROM seats ORDER BY rowid")) {
      all.push_back({seat, occupant});
    }
    return all;
  }

  // Takes `seat` for `who`, who leaves the seat that they had. No other call can come between
  // the look and the update: the code is synchronous and the database private.
  void Assign(std::string_view seat, std::string_view who) {
    auto row =
        sql()
            .Exec<std::optional<std::string>>("SELECT occupant FROM seats WHERE seat = ?", seat)
            .First();
    if (!row) throw edge::NotFound("No such seat: {}", seat);
    if (std::get<0>(*row)) throw edge::FailedPrecondition("Seat is occupied: {}", seat);
    auto old = sql().Exec<std::string>("SELECT seat FROM seats WHERE occupant = ?", who).First();
    sql().Exec("UPDATE seats SET occupant = NULL WHERE occupant = ?", who);
    sql().Exec("UPDATE seats SET occupant = ? WHERE seat = ?", who, seat);
    if (old) Tell(std::get<0>(*old), std::nullopt);
    Tell(std::string(seat), std::string(who));
  }

  // Calls `watcher` at each change until it breaks. What it is told has been made durable:
  // calls out of an object wait at the output gate.
  void Watch(Watcher watcher) { watchers_.emplace(next_watcher_++, std::move(watcher)); }

  std::string Bookmark() { return storage().GetCurrentBookmark(); }

  // The buggy migration that somebody runs some day: the WHERE is missing.
  void Ruin() { sql().Exec("UPDATE seats SET occupant = 'oops'"); }

  // Back to `bookmark` at the next start. Returns the bookmark that undoes it.
  std::string PutBack(std::string_view bookmark) {
    return storage().OnNextSessionRestore(bookmark);
  }
  // Ends this instance; the next call starts a new one. Fails with Aborted, as it must.
  void Restart() { ctx().Abort("restarted by the operator"); }

  using Rpc =
      edge::rpc::Methods<&FlightSeating::Initialize, &FlightSeating::Available,
                         &FlightSeating::Seats, &FlightSeating::Assign, &FlightSeating::Watch,
                         &FlightSeating::Bookmark, &FlightSeating::Ruin, &FlightSeating::PutBack,
                         &FlightSeating::Restart>;

 private:
  void Tell(const std::string& seat, const std::optional<std::string>& occupant) {
    for (auto next = watchers_.begin(); next != watchers_.end();) {
      const auto& [id, watcher] = *next++;  // which may be gone after the call
      watcher(seat, occupant).Then([this, id = id](edge::Status told) {
        if (!told.ok()) watchers_.erase(id);  // its browser has gone
      });
    }
  }

  std::map<int, Watcher> watchers_;
  int next_watcher_ = 0;
};
