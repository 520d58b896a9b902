// One durable object per flight: a seat is never sold twice, and a ruined flight goes back to
// the moment before.
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "edge/base/errors.h"
#include "edge/durable/host.h"

namespace {

class FlightSeating : public edge::durable::Object {
 public:
  using Object::Object;

  void Initialize(const std::vector<std::string>& seats) {
    sql().Exec("CREATE TABLE seats (seat TEXT PRIMARY KEY, occupant TEXT)");
    for (const auto& seat : seats) sql().Exec("INSERT INTO seats VALUES (?, NULL)", seat);
  }

  std::vector<std::string> Available() {
    std::vector<std::string> seats;
    for (auto& [seat] : sql().Exec<std::string>("SELECT seat FROM seats WHERE occupant IS NULL"))
      seats.push_back(seat);
    return seats;
  }

  // No other call can come between the look and the update: an object runs one thing at a time.
  void Assign(std::string_view seat, std::string_view who) {
    constexpr std::string_view kOccupant = "SELECT occupant FROM seats WHERE seat = ?";
    auto row = sql().Exec<std::optional<std::string>>(kOccupant, seat).First();
    if (!row) throw edge::NotFound("No such seat: {}", seat);
    if (auto& [occupant] = *row; occupant)
      throw edge::FailedPrecondition("Seat is occupied: {}", seat);
    sql().Exec("UPDATE seats SET occupant = NULL WHERE occupant = ?", who);
    sql().Exec("UPDATE seats SET occupant = ? WHERE seat = ?", who, seat);
  }

  std::string Bookmark() { return storage().GetCurrentBookmark(); }
  void Ruin() { sql().Exec("UPDATE seats SET occupant = 'oops'"); }
  void GoBackTo(const std::string& bookmark) {
    storage().OnNextSessionRestore(bookmark);
    ctx().Abort("going back");
  }

  // What callers may reach, and nothing else. On the wire: initialize, available, assign ...
  using Rpc = edge::rpc::Methods<&FlightSeating::Initialize, &FlightSeating::Available,
                                 &FlightSeating::Assign, &FlightSeating::Bookmark,
                                 &FlightSeating::Ruin, &FlightSeating::GoBackTo>;
};

edge::Status Run(const std::string& directory) {
  EDGE_ASSIGN_OR_RETURN(auto executor, edge::Executor::Create({.threads = 2}));
  EDGE_ASSIGN_OR_RETURN(
      auto relay, edge::srs::Relay::Open({.directory = directory + "/data",
                                          .store = edge::srs::FolderStore(directory + "/backup")}));
  EDGE_ASSIGN_OR_RETURN(auto host, edge::durable::Host::Create(*executor, *relay));
  EDGE_ASSIGN_OR_RETURN(auto flights, host->AddNamespace<FlightSeating>("FLIGHTS"));

  auto flight = flights.Get("UA17-2026-11-23");
  EDGE_RETURN_IF_ERROR(flight.Call<&FlightSeating::Initialize>({"1A", "1B", "1C"}).Wait());
  EDGE_RETURN_IF_ERROR(flight.Call<&FlightSeating::Assign>("1A", "ada").Wait());
  const edge::Status taken = flight.Call<&FlightSeating::Assign>("1A", "bob").Wait();
  std::printf("bob asks for 1A: %s\n", taken.ToString().c_str());
  if (taken.ok()) return edge::Internal("a seat was sold twice");

  EDGE_ASSIGN_OR_RETURN(const std::string before, flight.Call<&FlightSeating::Bookmark>().Wait());
  EDGE_RETURN_IF_ERROR(flight.Call<&FlightSeating::Ruin>().Wait());
  EDGE_ASSIGN_OR_RETURN(auto ruined, flight.Call<&FlightSeating::Available>().Wait());
  (void)flight.Call<&FlightSeating::GoBackTo>(before).Wait();  // always fails: it aborts
  EDGE_ASSIGN_OR_RETURN(auto restored, flight.Call<&FlightSeating::Available>().Wait());
  std::printf("free after the buggy update: %zu, after going back: %zu\n", ruined.size(),
              restored.size());
  return ruined.empty() && restored.size() == 2 ? edge::OkStatus()
                                                : edge::Internal("the flight did not come back");
}

}  // namespace

int main() {
  std::string directory = std::filesystem::temp_directory_path() / "edge-flights-XXXXXX";
  if (mkdtemp(directory.data()) == nullptr) return 1;
  const edge::Status status = Run(directory);
  std::filesystem::remove_all(directory);
  if (!status.ok()) std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
