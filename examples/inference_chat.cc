// Talks to a language model: one question, or a conversation from standard input.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <string>
#include <vector>

#include "edge/inference/engine.h"

using edge::inference::ChatMessage;
using edge::inference::Engine;
using edge::inference::EngineOptions;
using edge::inference::GenerateOptions;

constexpr const char* kHelp =
    "inference_chat MODEL.gguf [QUESTION] [--threads N] [--tokens N]\n"
    "\n"
    "Answers QUESTION, or without one each line of standard input in turn, and prints how\n"
    "fast the prompt was read and the answer written.\n";

int main(int argc, char** argv) {
  std::string model, question;
  EngineOptions options;
  GenerateOptions generate{.tokens_max = 256};
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "--help") {
      std::fputs(kHelp, stdout);
      return 0;
    }
    if (argument == "--threads" && i + 1 < argc) {
      options.threads = static_cast<uint32_t>(std::atoi(argv[++i]));
    } else if (argument == "--tokens" && i + 1 < argc) {
      generate.tokens_max = static_cast<uint32_t>(std::atoi(argv[++i]));
    } else {
      (model.empty() ? model : question) = argument;
    }
  }
  if (model.empty()) {
    std::fputs(kHelp, stderr);
    return 2;
  }
  auto engine = Engine::Open(model, options);
  if (!engine.ok()) {
    std::fprintf(stderr, "%s\n", engine.status().ToString().c_str());
    return 1;
  }
  std::vector<ChatMessage> messages;
  const bool once = !question.empty();
  while (once || std::getline(std::cin, question)) {
    messages.push_back({"user", question});
    const auto reply = (*engine)->Chat(
        messages,
        [](std::string_view piece) {
          std::fwrite(piece.data(), 1, piece.size(), stdout);
          std::fflush(stdout);
        },
        generate);
    if (!reply.ok()) {
      std::fprintf(stderr, "%s\n", reply.status().ToString().c_str());
      return 1;
    }
    std::printf("\n[%zu tokens, %.1f/s; prompt %zu, %.1f/s; first after %.1f ms]\n", reply->tokens,
                reply->tokens_per_s, reply->prompt_tokens, reply->prompt_tokens_per_s,
                reply->first_token_ms);
    messages.push_back({"assistant", reply->text});
    if (once) break;
  }
  return 0;
}
