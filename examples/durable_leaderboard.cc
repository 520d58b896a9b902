// A leaderboard: one object per game, ranks by SQL, a scoring rule of the program's own inside it.
#include <cstdio>
#include <filesystem>
#include <string>
#include <vector>

#include "edge/durable/host.h"

namespace {

class Leaderboard : public edge::durable::Object {
 public:
  explicit Leaderboard(edge::durable::Context& ctx) : Object(ctx) {
    // Points for a level, less what the time took; any C++ function will do.
    sql().CreateFunction("points", [](int64_t level, double seconds) {
      return level * 1000 - static_cast<int64_t>(seconds * 10);
    });
    sql().Exec("CREATE TABLE IF NOT EXISTS runs (player TEXT, level INTEGER, seconds REAL)");
  }
  void Report(std::string_view player, int64_t level, double seconds) {
    sql().Exec("INSERT INTO runs VALUES (:player, :level, :seconds)",
               edge::durable::Named("level", level), edge::durable::Named("player", player),
               edge::durable::Named("seconds", seconds));
  }
  std::vector<std::string> Top(int64_t count) {
    std::vector<std::string> lines;
    for (auto& [rank, player, points] : sql().Exec<int64_t, std::string, int64_t>(
             "SELECT rank() OVER (ORDER BY best DESC), player, best FROM "
             "(SELECT player, max(points(level, seconds)) AS best FROM runs GROUP BY player) "
             "ORDER BY best DESC, player LIMIT ?",
             count)) {
      lines.push_back(std::to_string(rank) + ". " + player + " " + std::to_string(points));
    }
    return lines;
  }
  using Rpc = edge::rpc::Methods<&Leaderboard::Report, &Leaderboard::Top>;
};

edge::StatusOr<std::vector<std::string>> Run(const std::string& directory) {
  EDGE_ASSIGN_OR_RETURN(auto executor, edge::Executor::Create({.threads = 2}));
  EDGE_ASSIGN_OR_RETURN(auto relay, edge::srs::Relay::Open({.directory = directory}));
  EDGE_ASSIGN_OR_RETURN(auto host, edge::durable::Host::Create(*executor, *relay));
  EDGE_ASSIGN_OR_RETURN(auto boards, host->AddNamespace<Leaderboard>("BOARDS"));
  auto board = boards.Get("tetris");
  struct Run {
    const char* player;
    int64_t level;
    double seconds;
  };
  for (const Run& run : {Run{"ada", 3, 42.5}, {"bob", 4, 180}, {"ada", 4, 150}, {"cyd", 2, 10}}) {
    EDGE_RETURN_IF_ERROR(
        board.Call<&Leaderboard::Report>(run.player, run.level, run.seconds).Wait());
  }
  return board.Call<&Leaderboard::Top>(3).Wait();
}

}  // namespace

int main() {
  std::string directory = std::filesystem::temp_directory_path() / "edge-board-XXXXXX";
  if (mkdtemp(directory.data()) == nullptr) return 1;
  const auto top = Run(directory);
  std::filesystem::remove_all(directory);
  if (!top.ok()) {
    std::fprintf(stderr, "%s\n", top.status().ToString().c_str());
    return 1;
  }
  for (const std::string& line : *top) std::printf("%s\n", line.c_str());
  return *top == std::vector<std::string>{"1. ada 2575", "2. bob 2200", "3. cyd 1900"} ? 0 : 1;
}
