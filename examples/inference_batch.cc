// Eight questions at once: the engine answers them side by side, and each gets the words that
// it gets alone.
#include <cstdio>
#include <string>
#include <thread>
#include <vector>

#include "edge/inference/engine.h"

using edge::StatusOr;
using edge::inference::Engine;
using edge::inference::Reply;

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fputs("inference_batch MODEL.gguf\n", stderr);
    return 2;
  }
  auto engine = Engine::Open(argv[1], {.threads = 2});
  if (!engine.ok()) {
    std::fprintf(stderr, "%s\n", engine.status().ToString().c_str());
    return 1;
  }
  const std::vector<std::string> questions = {"Which seat is free?", "Who has seat 1A?",
                                              "Book seat 2B.",       "How many seats are free?",
                                              "Is 3C taken?",        "Name a window seat.",
                                              "Cancel my booking.",  "Which seats are left?"};
  auto ask = [&](const std::string& question) {
    return (*engine)->Chat({{"user", question}}, {}, {.tokens_max = 24});
  };
  std::vector<StatusOr<Reply>> together(questions.size(), StatusOr<Reply>(Reply{}));
  std::vector<std::thread> threads;
  for (size_t i = 0; i < questions.size(); ++i) {
    threads.emplace_back([&, i] { together[i] = ask(questions[i]); });
  }
  for (std::thread& thread : threads) thread.join();
  for (size_t i = 0; i < questions.size(); ++i) {
    const auto alone = ask(questions[i]);
    if (!alone.ok() || !together[i].ok() || alone->token_ids != together[i]->token_ids) {
      std::fprintf(stderr, "%s: not the same answer\n", questions[i].c_str());
      return 1;
    }
    std::printf("%-26s %s\n", questions[i].c_str(), alone->text.c_str());
  }
  const auto passes = (*engine)->metrics().histogram("edge_inference_pass_tokens").count();
  std::printf("8 answers side by side equal 8 answers one by one; %llu passes in all\n",
              static_cast<unsigned long long>(passes));
  return 0;
}
