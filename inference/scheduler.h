// inference/scheduler.h - decides what each pass through the model computes, and for whom.
//
// A running text is a list of tokens of which the first kv.position() have been computed. All
// work is one thing: computing the rest. Of a new prompt that is many tokens, cut to fit into
// the pass; of a reply the one that was sampled last, and guesses behind it. So a pass is
// planned without phases: first the replies, then pieces of prompts, up to one budget of
// tokens (Yu et al., Orca, OSDI 2022; Agrawal et al., Sarathi-Serve, OSDI 2024).
//
// Room for a prompt is taken when it is admitted. If a reply finds none to grow, prefixes
// are forgotten, then whoever would be served last goes back to the queue: its tokens stay,
// its keys and values are computed again, and come out the same.
#pragma once
#include <atomic>
#include <list>
#include <memory>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "edge/base/clock.h"
#include "edge/base/metrics.h"
#include "edge/base/mutex.h"
#include "edge/inference/engine.h"
#include "inference/drafter.h"
#include "inference/kv_pool.h"
#include "inference/model.h"
#include "inference/outlet.h"
#include "inference/prefix_cache.h"

namespace edge::inference {

// A token of a reply on its way to the caller.
struct MadeToken {
  TokenId id;        // -1: only the rest of the text
  std::string text;  // whole characters, possibly none
  std::optional<TokenLogprob> logprob;
};

// One request, between the caller, who waits on it, and the scheduler.
struct Job {
  // Set before Submit(), constant then.
  std::vector<TokenId> prompt;
  const GenerateOptions* options = nullptr;
  std::unique_ptr<Constraint> constraint;  // null: none
  bool logits_only = false;                // end after the prompt, with `logits`
  bool streaming = false;                  // wake the caller for each token
  int64_t start_ns = 0;
  int64_t deadline_ns = 0;  // 0: none

  std::atomic<bool> abandoned{false};  // set by the caller: no more tokens are wanted

  Mutex mu;
  CondVar changed;
  std::vector<MadeToken> made ABSL_GUARDED_BY(mu);
  bool done ABSL_GUARDED_BY(mu) = false;
  // Read by the caller once `done`.
  Status status;
  StopReason stop = StopReason::kEnd;
  std::vector<float> logits;
  int64_t begin_ns = 0, first_ns = 0, end_ns = 0;
  size_t prefix_tokens = 0, guessed_tokens = 0, forced_tokens = 0;
};

struct SchedulerOptions {
  uint32_t prompt_tokens_max = 256;  // of prompts, in a pass
  uint32_t logits_max = 64;          // in a pass: replies and guesses; at least sequences_max
  uint32_t sequences_max = 64;
  uint32_t queue_max = 1024;
  uint32_t context = 0;
};

// Thread-safe. Owns the thread on which everything below runs.
class Scheduler {
 public:
  // All borrowed for life; from now on only the scheduler's thread uses them.
  Scheduler(const SchedulerOptions& options, const Tokenizer& tokenizer, ForwardPass* pass,
            KvPool* kv, ThreadPool* pool, Clock* clock, MetricsRegistry* metrics);
  ~Scheduler();  // no job may be under way

  // `job` lives until it is done. ResourceExhausted: the queue is full.
  Status Submit(Job* job);
  uint64_t kv_bytes_used() const { return kv_bytes_used_.load(); }
  uint64_t kv_bytes_cached() const { return kv_bytes_cached_.load(); }

 private:
  struct Sequence;
  struct Planned {  // what a sequence does in this pass
    Sequence* sequence;
    uint32_t computed;      // tokens of its text
    uint32_t guessed;       // tokens behind its text
    uint32_t first_logits;  // index of its logits in the pass
    uint32_t logits;
  };
  using Sequences = std::list<std::unique_ptr<Sequence>>;

  void Loop();
  bool TakeJobs();  // false: the end
  void Expire(Sequences* sequences);
  void Admit();
  bool TakeForcedBeginning(Sequence* sequence);
  bool Grow(Sequence* sequence, uint32_t count);
  bool MakeRoom(Sequence* sequence, uint32_t count);
  bool Runs(const Sequence* sequence) const;
  void Preempt(Sequence* sequence);
  void Plan();
  void PlanReplies();
  void PlanPrompts();
  void PlanGuesses();
  void RunPass();
  void SampleAll();
  void Deliver();
  // False when the sequence has ended with this token.
  bool AddToken(Sequence* sequence, TokenId token);
  void Finish(Sequence* sequence, StopReason stop, Status status = OkStatus());
  void Publish(Sequence* sequence, bool done);
  bool Before(const Sequence& a, const Sequence& b) const;
  void UpdateGauges();

  const SchedulerOptions options_;
  const Tokenizer& tokenizer_;
  ForwardPass& pass_;
  KvPool& kv_;
  ThreadPool& pool_;
  Clock& clock_;
  std::atomic<uint64_t> kv_bytes_used_{0}, kv_bytes_cached_{0};
  Counter &requests_, &tokens_made_, &prompt_tokens_, &prefix_tokens_, &guessed_right_, &guessed_;
  Histogram &first_token_ns_, &queue_ns_, &pass_tokens_;
  Gauge &running_gauge_, &waiting_gauge_, &kv_used_gauge_, &kv_cached_gauge_;

  Mutex mu_;
  CondVar work_;
  std::vector<Job*> submitted_ ABSL_GUARDED_BY(mu_);
  size_t queued_ ABSL_GUARDED_BY(mu_) = 0;  // submitted and waiting
  bool stop_ ABSL_GUARDED_BY(mu_) = false;

  // The thread's own.
  Sequences waiting_, running_;
  std::unordered_map<std::string, uint64_t> served_;  // tokens computed, by tenant
  std::vector<Planned> plan_;
  std::vector<std::vector<TokenId>> inputs_;  // of the plan
  std::vector<PassSpan> spans_;
  PrefixCache prefixes_;
  PassCosts costs_;
  uint64_t next_number_ = 0;
  std::thread thread_;  // last: starts when all else is there
};

}  // namespace edge::inference
