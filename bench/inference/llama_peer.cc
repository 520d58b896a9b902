#include "bench/inference/llama_peer.h"

#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <sstream>

namespace edge::bench {

LlamaPeer::LlamaPeer(const std::string& modules, const std::string& model,
                     const LlamaOptions& options) {
  std::array<int, 2> to{}, from{};
  if (pipe(to.data()) != 0 || pipe(from.data()) != 0) return;
  pid_ = fork();
  if (pid_ == 0) {
    dup2(to[0], 0);
    dup2(from[1], 1);
    for (const int fd : {to[0], to[1], from[0], from[1]}) close(fd);
    const std::string script = EDGE_SOURCE_DIR "/bench/inference/llama_peer.mjs";
    execlp("node", "node", script.c_str(), modules.c_str(), model.c_str(),
           std::to_string(options.threads).c_str(), std::to_string(options.context).c_str(),
           std::to_string(options.sequences).c_str(), options.flash ? "flash" : "plain", nullptr);
    _exit(127);
  }
  close(to[0]);
  close(from[1]);
  out_ = fdopen(to[1], "w");
  in_ = fdopen(from[0], "r");
  const std::string hello = ReadLine();
  if (hello.starts_with("ready ")) name_ = "llama.cpp " + hello.substr(6);
}

LlamaPeer::~LlamaPeer() {
  if (out_ != nullptr) std::fclose(out_);
  if (in_ != nullptr) std::fclose(in_);
  if (pid_ > 0) waitpid(pid_, nullptr, 0);
}

Sample LlamaPeer::Ask(const std::string& request, const std::vector<inference::TokenId>& prompt) {
  std::string line = request;
  for (const inference::TokenId id : prompt) line.append(" ").append(std::to_string(id));
  std::fprintf(out_, "%s\n", line.c_str());
  std::fflush(out_);
  std::istringstream answer(ReadLine());
  Sample sample;
  answer >> sample.figure;
  uint64_t id = 0;
  for (size_t i = 0; i < kTokensCompared && answer >> id; ++i)
    sample.answer = sample.answer * 1000003 + id;
  return sample;
}

std::string LlamaPeer::ReadLine() {
  std::string line;
  for (int c; (c = std::fgetc(in_)) != EOF && c != '\n';) line.push_back(static_cast<char>(c));
  return line;
}

}  // namespace edge::bench
