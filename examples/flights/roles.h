// Who may do what, as objects: holding one is the permission.
//
//   /flights/NAME  -> FlightDesk     the seat map of one flight, for a browser
//   /desk          -> TicketOffice   hands out the desk of any flight
//   /assistant     -> Assistant      answers questions
//   /operator      -> Operator       everything; needs the token that the server was given
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "edge/base/task.h"
#include "edge/rpc/stub.h"
#include "flight_seating.h"

// The same object with fewer methods.
class FlightDesk : public edge::rpc::Target {
 public:
  explicit FlightDesk(edge::rpc::Stub<FlightSeating> flight) : flight_(std::move(flight)) {}

  edge::rpc::Promise<std::vector<std::string>> Available() {
    return flight_.Call<&FlightSeating::Available>();
  }
  edge::rpc::Promise<std::vector<SeatState>> Seats() {
    return flight_.Call<&FlightSeating::Seats>();
  }
  edge::rpc::Promise<void> Assign(std::string_view seat, std::string_view who) {
    return flight_.Call<&FlightSeating::Assign>(seat, who);
  }
  edge::rpc::Promise<void> Watch(Watcher watcher) {
    return flight_.Call<&FlightSeating::Watch>(std::move(watcher));
  }

  using Rpc = edge::rpc::Methods<&FlightDesk::Available, &FlightDesk::Seats, &FlightDesk::Assign,
                                 &FlightDesk::Watch>;

 private:
  edge::rpc::Stub<FlightSeating> flight_;
};

// These three are implemented in server.cc; clients use their names and signatures.
class TicketOffice : public edge::rpc::Target {
 public:
  // NotFound: no such flight.
  virtual edge::StatusOr<edge::rpc::Stub<FlightDesk>> Flight(const std::string& name) = 0;
  using Rpc = edge::rpc::Methods<&TicketOffice::Flight>;
};

struct AskReply {
  std::string model;
  int64_t tokens = 0;
  double tokens_per_second = 0;
  using Fields =
      edge::rpc::Fields<&AskReply::model, &AskReply::tokens,
                        edge::rpc::Named<"tokensPerSecond", &AskReply::tokens_per_second>>;
};

class Assistant : public edge::rpc::Target {
 public:
  // Answers `question` about `flight`; `on_piece` gets the text as it is made.
  // Unavailable: too many questions wait.
  virtual edge::Task<edge::StatusOr<AskReply>> Ask(std::string flight, std::string question,
                                                   edge::rpc::Stub<void(std::string)> on_piece) = 0;
  using Rpc = edge::rpc::Methods<&Assistant::Ask>;
};

struct KvTiming {
  double p50_ns = 0;
  double p99_ns = 0;
  using Fields = edge::rpc::Fields<&KvTiming::p50_ns, &KvTiming::p99_ns>;
};

class Operator : public edge::rpc::Target {
 public:
  virtual edge::StatusOr<edge::rpc::Stub<FlightSeating>> Flight(const std::string& name) = 0;
  // The name of the flight's database in the relay.
  virtual edge::StatusOr<std::string> DatabaseOf(const std::string& name) = 0;
  // Reads a hot key again and again, in the server.
  virtual edge::StatusOr<KvTiming> TimeHotReads() = 0;
  using Rpc = edge::rpc::Methods<&Operator::Flight, &Operator::DatabaseOf, &Operator::TimeHotReads>;
};
