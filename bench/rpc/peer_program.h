// Runs a peer of the rpc rows: a program that prints "<figure> <sum of results>".
#pragma once
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "bench/bench.h"

namespace edge::bench {

// Where peers come from: "capnweb" (Node, npm) or one that was built beside us.
struct PeerProgram {
  std::string command;  // empty: it is not here
  std::string why;      // it is not

  static PeerProgram Node() {
    const char* const set = std::getenv("EDGE_NODE_MODULES");
    const std::string modules = set != nullptr ? set : EDGE_BUILD_DIR "/node/node_modules";
    if (access((modules + "/capnweb/package.json").c_str(), R_OK) != 0)
      return {"", "capnweb is not in " + modules};
    return {"node " EDGE_SOURCE_DIR "/bench/rpc/peers/capnweb_peer.mjs " + modules, ""};
  }
  // Beside our own program, in peers/.
  static PeerProgram Built(const char* argv0, const std::string& name) {
    std::string folder = argv0;
    const size_t slash = folder.rfind('/');
    folder = slash == std::string::npos ? "." : folder.substr(0, slash);
    const std::string program = folder + "/peers/" + name + "_peer";
    if (access(program.c_str(), X_OK) != 0)
      return {"", program + " was not built: its packages are missing"};
    return {program, ""};
  }

  Sample Run(const std::string& mode, int calls) const {
    const std::string line = command + " " + mode + " " + std::to_string(calls);
    FILE* const output = popen(line.c_str(), "r");
    Sample sample;
    double answer = 0;
    const bool read =
        output != nullptr && std::fscanf(output, "%lf %lf", &sample.figure, &answer) == 2;
    if (output != nullptr) pclose(output);
    if (!read) {
      std::fprintf(stderr, "the peer did not answer: %s\n", line.c_str());
      std::exit(1);
    }
    sample.answer = static_cast<uint64_t>(answer);
    return sample;
  }

  // As Suite::Row; says so if the peer is not here.
  void Row(Suite& suite, const RowOptions& options, const std::function<Sample()>& ours,
           const std::string& mode, int calls) const {
    if (!suite.Wants(options.name)) return;
    if (command.empty()) {
      std::fprintf(stderr, "%-28s left out: %s\n", options.name.c_str(), why.c_str());
      return;
    }
    suite.Row(options, ours, [&] { return Run(mode, calls); });
  }
};

}  // namespace edge::bench
