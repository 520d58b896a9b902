#include "assistant.h"

#include <atomic>
#include <deque>
#include <thread>
#include <utility>

#include "edge/base/errors.h"
#include "edge/base/mutex.h"

namespace {
constexpr size_t kQuestionsMax = 16;
constexpr size_t kSeatsTold = 60;  // more of them than the small model was trained on
}  // namespace

std::string SystemPrompt(const FlightFacts& facts) {
  std::string seats;
  for (size_t i = 0; i < facts.free_seats.size() && i < kSeatsTold; ++i) {
    seats += (i == 0 ? ": " : ", ") + facts.free_seats[i];
  }
  const size_t count = facts.free_seats.size();
  const std::string free_seats = count == 0 ? "There are no free seats."
                                 : count == 1
                                     ? "There is 1 free seat" + seats + "."
                                     : edge::Format("There are {} free seats{}.", {count, seats});
  const size_t dash = facts.flight.find('-');
  return edge::Format(
      "You are the assistant of flight {} on {}. A seat costs {}. The number of taken seats is {}. "
      "{}",
      {facts.flight.substr(0, dash), facts.flight.substr(dash + 1), facts.fare, facts.taken,
       free_seats});
}

struct AnswerThread::Rep {
  struct Question {
    std::vector<edge::inference::ChatMessage> messages;
    edge::Loop* loop;
    edge::rpc::Stub<void(std::string)> on_piece;
    edge::Callback<void(edge::StatusOr<AskReply>)> done;
  };

  explicit Rep(edge::inference::Engine& e) : engine(e) {}

  void Run() {
    for (;;) {
      mutex.Lock();
      while (waiting.empty() && !stopping) changed.Wait(&mutex);
      if (waiting.empty()) return mutex.Unlock();
      Question question = std::move(waiting.front());
      waiting.pop_front();
      mutex.Unlock();
      Finish(question, stopping ? edge::Cancelled("the server is stopping") : Answer(question));
    }
  }

  edge::StatusOr<AskReply> Answer(const Question& question) {
    edge::inference::GenerateOptions options;
    options.tokens_max = 320;
    options.cancel = &stopping;
    EDGE_ASSIGN_OR_RETURN(
        const auto reply,
        engine.Chat(
            question.messages,
            [&question](std::string_view piece) {
              question.loop->PostUrgent([on_piece = question.on_piece, text = std::string(piece)] {
                on_piece(text).Ignore();
              });
            },
            options));
    return AskReply{engine.info().name, static_cast<int64_t>(reply.tokens), reply.tokens_per_s};
  }

  static void Finish(Question& question, edge::StatusOr<AskReply> reply) {
    question.loop->PostUrgent([done = std::move(question.done),
                               reply = std::move(reply)]() mutable { done(std::move(reply)); });
  }

  edge::inference::Engine& engine;
  edge::Mutex mutex;
  edge::CondVar changed;
  std::deque<Question> waiting ABSL_GUARDED_BY(mutex);
  std::atomic<bool> stopping{false};
  std::thread thread;
};

AnswerThread::AnswerThread(edge::inference::Engine& engine) : rep_(std::make_unique<Rep>(engine)) {
  rep_->thread = std::thread([rep = rep_.get()] { rep->Run(); });
}

AnswerThread::~AnswerThread() {
  {
    edge::MutexLock lock(&rep_->mutex);
    rep_->stopping = true;
  }
  rep_->changed.SignalAll();
  rep_->thread.join();
}

void AnswerThread::Ask(std::vector<edge::inference::ChatMessage> messages, edge::Loop& loop,
                       edge::rpc::Stub<void(std::string)> on_piece,
                       edge::Callback<void(edge::StatusOr<AskReply>)> done) {
  Rep::Question question{std::move(messages), &loop, std::move(on_piece), std::move(done)};
  {
    edge::MutexLock lock(&rep_->mutex);
    if (rep_->waiting.size() < kQuestionsMax && !rep_->stopping) {
      rep_->waiting.push_back(std::move(question));
      rep_->changed.Signal();
      return;
    }
  }
  Rep::Finish(question, edge::Unavailable("{} questions wait already; ask again", kQuestionsMax));
}
