#include "load.h"

#include <utility>

#include "edge/base/random.h"
#include "edge/base/task.h"
#include "edge/rpc/web_socket.h"
#include "roles.h"
#include "world.h"

namespace {
constexpr int64_t kRetryNs = 50'000'000;  // after a broken connection
}  // namespace

using edge::rpc::Stub;
using edge::rpc::WebSocketSession;

Load::Load(edge::rpc::Io& io, LoadOptions options, LoadProgress& progress,
           edge::Callback<void()> done)
    : io_(io), options_(std::move(options)), progress_(progress), done_(std::move(done)) {
  running_ = options_.connections;
  for (int i = 0; i < options_.connections; ++i) tasks_.Spawn(Passengers(i));
}

Load::~Load() = default;

bool Load::finished() const {
  return progress_.stop || progress_.confirmed >= options_.bookings;
}

edge::Task<void> Load::Passengers(int connection) {
  edge::SeededRandom random(options_.seed * 1000 + static_cast<uint64_t>(connection));
  const std::vector<std::string> seats = SeatNames();
  edge::Clock& clock = io_.loop().clock();
  for (int next_passenger = 0; !finished();) {
    auto session = co_await WebSocketSession::Open(io_, options_.url + "/desk", {});
    if (!session.ok()) {  // the server is down; it will be back
      co_await edge::Sleep(io_.loop(), kRetryNs);
      continue;
    }
    const auto office = (*session)->main().As<TicketOffice>();
    while (!finished()) {
      const std::string who = edge::Format("passenger {}.{}", {connection, next_passenger++});
      const std::string flight =
          FlightName(1 + static_cast<int>(random.Below(static_cast<uint64_t>(kFlights))));
      edge::Status answer;
      do {
        const std::string& seat = seats[random.Below(seats.size())];
        const int64_t start_ns = clock.monotonic_ns();
        // Two calls, one round trip: the desk is called before the office has answered.
        answer = co_await office.Call<&TicketOffice::Flight>(flight)
                     .Call<&FlightDesk::Assign>(seat, who)
                     .Try();
        if (answer.ok()) {
          progress_.latency_ns.Record(static_cast<uint64_t>(clock.monotonic_ns() - start_ns));
          ledger_.Confirmed(flight, seat, who);
          ++progress_.confirmed;
        } else if ((*session)->session().ended()) {
          ledger_.InDoubt(flight, seat, who);
        } else {
          ++progress_.refused;
        }
      } while (answer.code() == edge::StatusCode::kFailedPrecondition && !finished());
      if ((*session)->session().ended()) {
        ++progress_.broken;
        break;
      }
    }
  }
  if (--running_ == 0) done_();
}
