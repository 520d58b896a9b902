// The demo: runs the server as a child process, lets it down in every way, and checks.
#include "demo.h"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <future>
#include <memory>
#include <thread>

#include "edge/base/errors.h"
#include "edge/base/executor.h"
#include "edge/base/file_system.h"
#include "edge/base/random.h"
#include "edge/rpc/io.h"
#include "edge/rpc/web_socket.h"
#include "load.h"
#include "process.h"
#include "restore.h"
#include "roles.h"
#include "world.h"

namespace {

using edge::Format;
using edge::Status;
using edge::StatusOr;
using edge::rpc::Stub;
using edge::rpc::WebSocketSession;

constexpr char kDamagedFlight[] = "UA17-2026-11-23";

double SecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void Say(const std::string& text) {
  std::printf("%s\n", text.c_str());
  std::fflush(stdout);
}

void Step(int number, const std::string& text) {
  std::printf("\n\033[1m%d. %s\033[0m\n", number, text.c_str());
  std::fflush(stdout);
}

// One line that is written again and again; only where somebody watches.
void ShowProgress(size_t confirmed, size_t wanted) {
  static const bool watched = isatty(STDOUT_FILENO) != 0;
  if (!watched) return;
  std::printf("\r   %zu of %zu bookings confirmed \r", confirmed, wanted);
  std::fflush(stdout);
}

// The figures of the closing table.
struct Results {
  double bookings_per_s = 0, p50_ms = 0, p99_ms = 0;
  size_t confirmed = 0, in_doubt = 0, lost = 0;
  double restart_ms = 0, restore_ms = 0, undo_ms = 0;
  uint64_t restored_bytes = 0;
  KvTiming kv;
  AskReply answer;
};

class Demo {
 public:
  explicit Demo(DemoOptions options) : options_(std::move(options)) {}
  ~Demo();
  StatusOr<Results> Run();
  Status ServeUntilStopped();

 private:
  Status Prepare();
  Status StartServer();
  Status StopServer();
  StatusOr<std::unique_ptr<WebSocketSession>> Connect(const std::string& path);
  Status BookWhileKilled();
  Status Audit(const std::string& what);
  Status LoseAndRestoreFlight();
  Status RuinAndPutBack();
  Status Ask();

  const DemoOptions options_;
  const std::string token_ = Format("{:016x}", {edge::SystemRandom().Next()});
  Results results_;
  ServerProcess server_;
  std::unique_ptr<edge::Executor> executor_;  // of the passengers, on our side
  std::unique_ptr<edge::rpc::Io> io_;
  std::unique_ptr<Load> load_;
  int port_ = 0;
};

Demo::~Demo() {
  if (!executor_) return;
  edge::RunOn(executor_->loop(0), [this] {
    load_.reset();
    io_.reset();
  });
}

Status Demo::Prepare() {
  EDGE_RETURN_IF_ERROR(edge::PosixFileSystem().MakeDirectories(options_.data));
  EDGE_ASSIGN_OR_RETURN(executor_, edge::Executor::Create({.threads = 1}));
  auto io =
      edge::RunOn(executor_->loop(0), [this] { return edge::rpc::Io::Create(executor_->loop(0)); });
  EDGE_ASSIGN_OR_RETURN(io_, std::move(io));
  setenv("EDGE_OPERATOR_TOKEN", token_.c_str(), 1);
  port_ = options_.port;
  return edge::OkStatus();
}

Status Demo::StartServer() {
  EDGE_RETURN_IF_ERROR(
      server_.Start({"serve", "--data", options_.data, "--port", std::to_string(port_), "--model",
                     options_.model, "--page", options_.page, "--client", options_.client}));
  const std::string& address = server_.address();
  port_ = std::atoi(address.substr(address.rfind(':') + 1).c_str());
  return edge::OkStatus();
}

Status Demo::StopServer() {
  const int status = server_.Stop(SIGTERM);
  if (status != 0) return edge::Internal("the server ended with status {}", status);
  return edge::OkStatus();
}

StatusOr<std::unique_ptr<WebSocketSession>> Demo::Connect(const std::string& path) {
  std::promise<StatusOr<std::unique_ptr<WebSocketSession>>> connected;
  edge::RunOn(executor_->loop(0), [&] {
    WebSocketSession::Connect(
        *io_, Format("ws://127.0.0.1:{}{}", {port_, path}), {},
        [&connected](auto session) { connected.set_value(std::move(session)); });
  });
  return connected.get_future().get();
}

// A session belongs to the loop, and has to end there.
class OnLoop {
 public:
  OnLoop(edge::Loop& loop, std::unique_ptr<WebSocketSession> session)
      : loop_(loop), session_(std::move(session)) {}
  OnLoop(OnLoop&&) = default;
  ~OnLoop() {
    if (session_) edge::RunOn(loop_, [this] { session_.reset(); });
  }
  edge::rpc::AnyStub main() { return session_->main(); }

 private:
  edge::Loop& loop_;
  std::unique_ptr<WebSocketSession> session_;
};

Status Demo::BookWhileKilled() {
  Step(2, "Passengers book over WebSocket RPC; the server is killed and started again");
  LoadProgress progress;
  std::atomic<bool> ended{false};
  const auto start = std::chrono::steady_clock::now();
  edge::RunOn(executor_->loop(0), [&] {
    load_ = std::make_unique<Load>(
        *io_,
        LoadOptions{.url = Format("ws://127.0.0.1:{}", {port_}), .bookings = options_.bookings},
        progress, [&ended] { ended = true; });
  });
  double down_s = 0;
  size_t kills = 0;
  for (int tick = 0; !ended; ++tick) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    const size_t confirmed = progress.confirmed;
    if (tick % 10 == 0) ShowProgress(confirmed, options_.bookings);
    if (kills < options_.kills &&
        confirmed >= options_.bookings * (kills + 1) / (options_.kills + 1)) {
      ++kills;
      const auto killed = std::chrono::steady_clock::now();
      server_.Stop(SIGKILL);
      Say(Format("   SIGKILL after {} confirmed bookings", {size_t{progress.confirmed}}));
      EDGE_RETURN_IF_ERROR(StartServer());
      results_.restart_ms = SecondsSince(killed) * 1e3;
      down_s += SecondsSince(killed);
      Say(Format("   started again: recovered and listening after {:.0f} ms",
                 {results_.restart_ms}));
    }
    if (SecondsSince(start) > options_.load_seconds_max) progress.stop = true;
  }
  const double seconds = SecondsSince(start) - down_s;
  results_.confirmed = load_->ledger().confirmed();
  results_.in_doubt = load_->ledger().in_doubt();
  results_.bookings_per_s = static_cast<double>(results_.confirmed) / seconds;
  results_.p50_ms = static_cast<double>(progress.latency_ns.Quantile(0.5)) / 1e6;
  results_.p99_ms = static_cast<double>(progress.latency_ns.Quantile(0.99)) / 1e6;
  Say(Format(
      "   {} bookings confirmed, {} seats were taken already, {} in doubt when the server died",
      {results_.confirmed, size_t{progress.refused}, results_.in_doubt}));
  return Audit("after the kill");
}

Status Demo::Audit(const std::string& what) {
  EDGE_ASSIGN_OR_RETURN(auto session, Connect("/desk"));
  OnLoop connection(executor_->loop(0), std::move(session));
  const auto office = connection.main().As<TicketOffice>();
  Ledger audit = load_->ledger();
  for (int i = 1; i <= kFlights; ++i) {
    EDGE_ASSIGN_OR_RETURN(
        const auto seats,
        office.Call<&TicketOffice::Flight>(FlightName(i)).Call<&FlightDesk::Seats>().Wait());
    audit.Audit(FlightName(i), seats);
  }
  results_.lost += audit.lost();
  if (!audit.clean()) {
    return edge::DataLoss(
        "{}: {} confirmed bookings lost, {} seats sold twice, {} passengers in two seats, {} "
        "unexplained",
        what, audit.lost(), audit.sold_twice(), audit.seated_twice(), audit.unexplained());
  }
  Say(Format("   audited {}: every confirmed booking is there, no seat is sold twice", {what}));
  return edge::OkStatus();
}

Status Demo::LoseAndRestoreFlight() {
  Step(3, "A database is lost, and comes back from the object store");
  std::string database;
  {
    EDGE_ASSIGN_OR_RETURN(auto session, Connect("/operator?token=" + token_));
    OnLoop connection(executor_->loop(0), std::move(session));
    EDGE_ASSIGN_OR_RETURN(
        database,
        connection.main().As<Operator>().Call<&Operator::DatabaseOf>(kDamagedFlight).Wait());
  }
  EDGE_RETURN_IF_ERROR(StopServer());
  {
    EDGE_ASSIGN_OR_RETURN(const auto report, LoseAndRestore(options_.data, database));
    results_.restore_ms = report.milliseconds;
    results_.restored_bytes = report.bytes_read;
    Say(Format(
        "   the files of {} deleted; restored to commit {} from {} bytes of the store in {:.1f} ms",
        {kDamagedFlight, report.lsn, report.bytes_read, report.milliseconds}));
  }
  EDGE_RETURN_IF_ERROR(StartServer());
  return Audit("after the restore");
}

Status Demo::RuinAndPutBack() {
  Say("   a buggy UPDATE ruins the same flight ...");
  EDGE_ASSIGN_OR_RETURN(auto session, Connect("/operator?token=" + token_));
  OnLoop connection(executor_->loop(0), std::move(session));
  const auto office = connection.main().As<Operator>();
  const auto flight = office.Call<&Operator::Flight>(kDamagedFlight).stub();
  EDGE_ASSIGN_OR_RETURN(const std::string before, flight.Call<&FlightSeating::Bookmark>().Wait());
  EDGE_RETURN_IF_ERROR(flight.Call<&FlightSeating::Ruin>().Wait());
  EDGE_ASSIGN_OR_RETURN(auto ruined, flight.Call<&FlightSeating::Seats>().Wait());
  if (!std::ranges::all_of(ruined, [](const SeatState& s) { return s.occupant == "oops"; })) {
    return edge::Internal("the buggy UPDATE did not ruin the flight");
  }
  const auto start = std::chrono::steady_clock::now();
  EDGE_ASSIGN_OR_RETURN(const std::string undo,
                        flight.Call<&FlightSeating::PutBack>(before).Wait());
  const Status restarted = flight.Call<&FlightSeating::Restart>().Wait();
  if (restarted.code() != edge::StatusCode::kAborted) return restarted;
  EDGE_ASSIGN_OR_RETURN(auto back, flight.Call<&FlightSeating::Seats>().Wait());
  results_.undo_ms = SecondsSince(start) * 1e3;
  Say(Format("   ... and is put back to bookmark {} in {:.1f} ms", {before, results_.undo_ms}));
  EDGE_RETURN_IF_ERROR(Audit("after the time travel"));
  EDGE_ASSIGN_OR_RETURN(results_.kv, office.Call<&Operator::TimeHotReads>().Wait());
  return edge::OkStatus();
}

Status Demo::Ask() {
  const std::string question = "List the free seats.";
  Step(4, "The assistant: " + question);
  EDGE_ASSIGN_OR_RETURN(auto session, Connect("/assistant"));
  OnLoop connection(executor_->loop(0), std::move(session));
  std::printf("   ");
  const auto print = edge::RunOn(executor_->loop(0), [] {
    return Stub<void(std::string)>([](const std::string& piece) {
      std::printf("%s", piece.c_str());
      std::fflush(stdout);
    });
  });
  EDGE_ASSIGN_OR_RETURN(results_.answer, connection.main()
                                             .As<Assistant>()
                                             .Call<&Assistant::Ask>(kDamagedFlight, question, print)
                                             .Wait());
  Say("");
  if (results_.answer.tokens == 0) return edge::Internal("the assistant said nothing");
  Say(Format("   ({}: {} tokens, {:.1f} tokens/s)",
             {results_.answer.model, results_.answer.tokens, results_.answer.tokens_per_second}));
  return edge::OkStatus();
}

StatusOr<Results> Demo::Run() {
  EDGE_RETURN_IF_ERROR(Prepare());
  Step(1, Format("A server with {} flights, one durable object each, stored through srs in {}",
                 {kFlights, options_.data}));
  const auto start = std::chrono::steady_clock::now();
  EDGE_RETURN_IF_ERROR(StartServer());
  Say(Format("   {} seats set up, listening on {} after {:.0f} ms",
             {static_cast<size_t>(kFlights) * SeatNames().size(), server_.address(),
              SecondsSince(start) * 1e3}));
  EDGE_RETURN_IF_ERROR(BookWhileKilled());
  EDGE_RETURN_IF_ERROR(LoseAndRestoreFlight());
  EDGE_RETURN_IF_ERROR(RuinAndPutBack());
  EDGE_RETURN_IF_ERROR(Ask());
  if (!options_.serve) EDGE_RETURN_IF_ERROR(StopServer());
  return results_;
}

Status Demo::ServeUntilStopped() {
  Say(Format("\nThe seat map is at http://{}/ - open it in two windows. Ctrl-C ends.",
             {server_.address()}));
  signal(SIGINT, SIG_IGN);  // the server gets it too, stops cleanly, and we end with it
  signal(SIGTERM, SIG_IGN);
  const int status = server_.Wait();
  if (status != 0) return edge::Internal("the server ended with status {}", status);
  return edge::OkStatus();
}

void PrintTable(const Results& r) {
  const auto row = [](const std::string& name, const std::string& value) {
    std::printf("  %-34s %s\n", name.c_str(), value.c_str());
  };
  std::printf("\n");
  row("bookings per second", Format("{:.0f}", {r.bookings_per_s}));
  row("booking latency p50 / p99", Format("{:.2f} / {:.2f} ms", {r.p50_ms, r.p99_ms}));
  row("bookings confirmed", Format("{}", {r.confirmed}));
  row("confirmed bookings lost", Format("{}", {r.lost}));
  row("restart after SIGKILL", Format("{:.0f} ms", {r.restart_ms}));
  row("restore from the object store",
      Format("{:.1f} ms ({} bytes read)", {r.restore_ms, r.restored_bytes}));
  row("back to a bookmark", Format("{:.1f} ms", {r.undo_ms}));
  row("KV hot read p50 / p99", Format("{:.0f} / {:.0f} ns", {r.kv.p50_ns, r.kv.p99_ns}));
  row("tokens per second", Format("{:.1f} ({})", {r.answer.tokens_per_second, r.answer.model}));
}

}  // namespace

int RunDemo(const DemoOptions& options) {
  Demo demo(options);
  const auto results = demo.Run();
  if (!results.ok()) {
    std::fflush(stdout);
    std::fprintf(stderr, "\nThe demo failed: %s\n",
                 std::string(edge::Message(results.status())).c_str());
    return 1;
  }
  PrintTable(*results);
  if (options.serve) {
    if (const Status served = demo.ServeUntilStopped(); !served.ok()) {
      std::fprintf(stderr, "%s\n", std::string(edge::Message(served)).c_str());
      return 1;
    }
  }
  return 0;
}
