// bench/bench.h - one row: ours and a named peer on the same work, in turns.
//
// A row first runs both sides once and compares their answers; a difference ends the
// program. Then the sides run in turns, 5 or more times each, and the medians make the
// ratio: this way a drifting machine touches both alike. A ratio above 1 always means that
// ours is better. Each row is one JSON line on stdout; progress goes to stderr.
//
// Not Google Benchmark: it can neither compare answers before timing nor interleave with
// a peer that is another process.
#pragma once
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

namespace edge::bench {

enum class Better : uint8_t { kLower, kHigher };  // a time or a size; a rate

// What one run of one side gives: its figure in the row's unit, and an answer that must be
// the same on both sides (a checksum of the results, say).
struct Sample {
  double figure = 0;
  uint64_t answer = 0;
};

struct RowOptions {
  std::string name;       // "kv/hit"
  std::string peer_name;  // "absl::flat_hash_map"
  std::string unit;       // "ns/op"
  Better better = Better::kLower;
  int repetitions = 7;
};

// Seconds that `work` takes.
template <typename F>
double SecondsOf(F&& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Keeps the compiler from removing the computation of `value`.
template <typename T>
void KeepAlive(const T& value) {
  asm volatile("" : : "r,m"(value) : "memory");
}

inline double Median(std::vector<double> values) {
  std::ranges::sort(values);
  const size_t middle = values.size() / 2;
  return values.size() % 2 != 0 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

// Reads `--filter TEXT` (rows whose name contains it) and `--help` from the command line.
class Suite {
 public:
  Suite(int argc, char** argv) {
    for (int i = 1; i < argc; ++i) {
      if (std::strcmp(argv[i], "--filter") == 0 && i + 1 < argc) {
        filter_ = argv[++i];
      } else {
        std::fprintf(stderr, "usage: %s [--filter TEXT]\nOne JSON line per row on stdout.\n",
                     argv[0]);
        std::exit(std::strcmp(argv[i], "--help") == 0 ? 0 : 2);
      }
    }
  }

  bool Wants(const std::string& name) const { return name.find(filter_) != std::string::npos; }

  // Runs the row if the filter wants it. `ours` and `peer` each do the whole work once.
  void Row(const RowOptions& options, const std::function<Sample()>& ours,
           const std::function<Sample()>& peer) {
    if (!Wants(options.name)) return;
    std::fprintf(stderr, "%-28s ", options.name.c_str());
    const Sample first_ours = ours();
    const Sample first_peer = peer();
    if (first_ours.answer != first_peer.answer) {
      std::fprintf(stderr, "answers differ: ours %llx, %s %llx\n",
                   static_cast<unsigned long long>(first_ours.answer), options.peer_name.c_str(),
                   static_cast<unsigned long long>(first_peer.answer));
      std::exit(1);
    }
    std::vector<double> ours_figures;
    std::vector<double> peer_figures;
    for (int i = 0; i < options.repetitions; ++i) {
      ours_figures.push_back(ours().figure);
      peer_figures.push_back(peer().figure);
    }
    Print(options, ours_figures, peer_figures);
  }

 private:
  static void Print(const RowOptions& options, const std::vector<double>& ours_figures,
                    const std::vector<double>& peer_figures) {
    const double ours = Median(ours_figures);
    const double peer = Median(peer_figures);
    const double ratio = options.better == Better::kLower ? peer / ours : ours / peer;
    const auto [low, high] = std::ranges::minmax(ours_figures);
    std::printf(
        "{\"name\": \"%s\", \"ours\": %.6g, \"peer\": %.6g, \"peer_name\": \"%s\", "
        "\"unit\": \"%s\", \"ratio\": %.4g, \"ours_min\": %.6g, \"ours_max\": %.6g, "
        "\"repetitions\": %zu}\n",
        options.name.c_str(), ours, peer, options.peer_name.c_str(), options.unit.c_str(), ratio,
        low, high, ours_figures.size());
    std::fflush(stdout);
    std::fprintf(stderr, "ours %.4g  peer %.4g %s  ratio %.3g (%s)\n", ours, peer,
                 options.unit.c_str(), ratio, options.peer_name.c_str());
  }

  std::string filter_;
};

}  // namespace edge::bench
