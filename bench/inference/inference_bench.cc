// Decode and prefill of SmolLM2-135M Q4_1 beside llama.cpp, one and two threads.
//
// The peer is a child process (llama_peer.mjs) that keeps its model loaded; both sides work
// in turns. Left out, with a word on stderr, where the model or node-llama-cpp is missing:
// $EDGE_MODEL_DIR (default build/models), $EDGE_LLAMA_NODE_MODULES (default
// $EDGE_NODE_MODULES, build/node/node_modules).
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "bench/bench.h"
#include "edge/inference/engine.h"

namespace {

using edge::bench::Sample;
using edge::inference::Engine;
using edge::inference::TokenId;

std::string Environment(const char* name, const std::string& fallback) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : fallback;
}

// One llama_peer.mjs. Ends with its standard input.
class Peer {
 public:
  Peer(const std::string& modules, const std::string& model, int threads) {
    std::array<int, 2> to{}, from{};
    if (pipe(to.data()) != 0 || pipe(from.data()) != 0) return;
    pid_ = fork();
    if (pid_ == 0) {
      dup2(to[0], 0);
      dup2(from[1], 1);
      for (const int fd : {to[0], to[1], from[0], from[1]}) close(fd);
      const std::string script = EDGE_SOURCE_DIR "/bench/inference/llama_peer.mjs";
      execlp("node", "node", script.c_str(), modules.c_str(), model.c_str(),
             std::to_string(threads).c_str(), nullptr);
      _exit(127);
    }
    close(to[0]);
    close(from[1]);
    out_ = fdopen(to[1], "w");
    in_ = fdopen(from[0], "r");
    const std::string hello = ReadLine();
    if (hello.starts_with("ready ")) name_ = "llama.cpp " + hello.substr(6);
  }
  ~Peer() {
    if (out_ != nullptr) std::fclose(out_);
    if (in_ != nullptr) std::fclose(in_);
    if (pid_ > 0) waitpid(pid_, nullptr, 0);
  }
  Peer(const Peer&) = delete;
  Peer& operator=(const Peer&) = delete;

  const std::string& name() const { return name_; }  // empty: it did not start

  Sample Ask(const std::string& request, const std::vector<TokenId>& prompt) {
    std::string line = request;
    for (const TokenId id : prompt) line.append(" ").append(std::to_string(id));
    std::fprintf(out_, "%s\n", line.c_str());
    std::fflush(out_);
    std::istringstream answer(ReadLine());
    Sample sample;
    answer >> sample.figure;
    for (uint64_t id; answer >> id;) sample.answer = sample.answer * 1000003 + id;
    return sample;
  }

 private:
  std::string ReadLine() {
    std::string line;
    for (int c; (c = std::fgetc(in_)) != EOF && c != '\n';) line.push_back(static_cast<char>(c));
    return line;
  }
  pid_t pid_ = -1;
  FILE* in_ = nullptr;
  FILE* out_ = nullptr;
  std::string name_;
};

Sample Ours(Engine& engine, const std::vector<TokenId>& prompt, uint32_t count) {
  const auto reply =
      engine.Generate({.tokens = prompt, .options = {.tokens_max = count, .ignore_end = true}});
  if (!reply.ok()) {
    std::fprintf(stderr, "%s\n", reply.status().ToString().c_str());
    std::exit(1);
  }
  Sample sample;
  sample.figure = count == 1 ? reply->prompt_tokens_per_s : reply->tokens_per_s;
  for (const TokenId id : reply->token_ids) {
    sample.answer = sample.answer * 1000003 + static_cast<uint64_t>(id);
  }
  return sample;
}

}  // namespace

int main(int argc, char** argv) {
  edge::bench::Suite suite(argc, argv);
  if (!suite.Wants("inference/decode_q4_1") && !suite.Wants("inference/prefill_512_q4_1")) return 0;
  const std::string model =
      Environment("EDGE_MODEL_DIR", EDGE_BUILD_DIR "/models") + "/SmolLM2-135M-Instruct.Q4_1.gguf";
  const std::string modules =
      Environment("EDGE_LLAMA_NODE_MODULES",
                  Environment("EDGE_NODE_MODULES", EDGE_BUILD_DIR "/node/node_modules"));
  if (!std::ifstream(model).good()) {
    std::fprintf(stderr, "inference rows left out: %s is not there\n", model.c_str());
    return 0;
  }
  if (!std::ifstream(modules + "/node-llama-cpp/package.json").good()) {
    std::fprintf(stderr, "inference rows left out: no node-llama-cpp in %s\n", modules.c_str());
    return 0;
  }
  for (const int threads : {1, 2}) {
    Peer peer(modules, model, threads);
    if (peer.name().empty()) {
      std::fprintf(stderr, "inference rows left out: llama_peer.mjs did not start\n");
      return 0;
    }
    auto engine =
        Engine::Open(model, {.threads = static_cast<uint32_t>(threads), .prefill_tokens_max = 512});
    if (!engine.ok()) {
      std::fprintf(stderr, "%s\n", engine.status().ToString().c_str());
      return 1;
    }
    // A prompt on which both agree: its tokens leave no near-ties.
    const std::vector<TokenId> code = (*engine)->tokenizer().Encode("def fibonacci(n):\n");
    std::string text;
    while (text.size() < 6000)
      text += "def fibonacci(n):\n    return n if n < 2 else fibonacci(n - 1)\n";
    std::vector<TokenId> longer = (*engine)->tokenizer().Encode(text);
    longer.resize(512);
    const std::string suffix = "_t" + std::to_string(threads);
    suite.Row(
        {.name = "inference/decode_q4_1" + suffix,
         .peer_name = peer.name(),
         .unit = "tokens/s",
         .better = edge::bench::Better::kHigher},
        [&] { return Ours(**engine, code, 64); }, [&] { return peer.Ask("decode 64", code); });
    suite.Row(
        {.name = "inference/prefill_512_q4_1" + suffix,
         .peer_name = peer.name(),
         .unit = "tokens/s",
         .better = edge::bench::Better::kHigher},
        [&] { return Ours(**engine, longer, 1); }, [&] { return peer.Ask("prefill", longer); });
  }
  return 0;
}
