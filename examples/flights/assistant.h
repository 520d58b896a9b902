// The assistant of the flights app: the facts of a flight, a question, a model's answer.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "edge/base/executor.h"
#include "edge/inference/engine.h"
#include "roles.h"

// What the model is told of a flight: the words of tiny/README.md, for every model.
struct FlightFacts {
  std::string flight;  // "UA17-2026-11-23"
  std::string fare;    // "129 USD"
  std::vector<std::string> free_seats;
  size_t taken = 0;
};
std::string SystemPrompt(const FlightFacts& facts);

// Answers on a thread of its own, one question after the other, so that no event loop waits
// for a model. Thread-safe; outlives the loops that ask.
class AnswerThread {
 public:
  explicit AnswerThread(edge::inference::Engine& engine);
  ~AnswerThread();  // cancels what runs; waiting questions get Cancelled

  // `on_piece` and `done` run on `loop`. Unavailable (through `done`) when 16 questions wait.
  void Ask(std::vector<edge::inference::ChatMessage> messages, edge::Loop& loop,
           edge::rpc::Stub<void(std::string)> on_piece,
           edge::Callback<void(edge::StatusOr<AskReply>)> done);

 private:
  struct Rep;
  std::unique_ptr<Rep> rep_;
};
