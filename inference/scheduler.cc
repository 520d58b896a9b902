#include "inference/scheduler.h"

#include <algorithm>
#include <utility>

#include "edge/base/check.h"
#include "edge/base/errors.h"
#include "edge/inference/sampler.h"

namespace edge::inference {
namespace {

constexpr size_t kTenantsMax = 4096;

uint32_t RowsOf(size_t tokens) {
  return static_cast<uint32_t>((tokens + kSlotsPerBlock - 1) / kSlotsPerBlock);
}

}  // namespace

struct Scheduler::Sequence {
  Sequence(Job* j, KvPool* pool, const Tokenizer& tokenizer)
      : job(j),
        tokens(j->prompt),
        kv(pool),
        sampler(j->options->sampling),
        decoder(tokenizer),
        outlet(j->options->stop) {
    for (const TokenId token : tokens) sampler.AddPrompt(token);
    if (j->options->speculation != Speculation::kOff && !j->logits_only) {
      for (const TokenId token : tokens) drafter.Add(token);
    }
  }
  size_t left() const { return tokens.size() - kv.position(); }  // to compute
  size_t replied() const { return tokens.size() - job->prompt.size(); }

  Job* job;
  std::vector<TokenId> tokens;  // of the prompt and the reply
  KvSequence kv;                // holds the first kv.position() of them
  Sampler sampler;
  StreamDecoder decoder;
  Outlet outlet;
  Drafter drafter;
  uint64_t number = 0;           // order of arrival
  bool begun = false;            // was looked at for admission
  bool ended = false;            // to be removed from its list
  std::vector<TokenId> sampled;  // in the last pass, the first ones as guessed
  std::vector<TokenId> forced;   // behind them, by the constraint
  std::vector<TokenLogprob> logprobs;
  std::vector<MadeToken> made;  // not yet with the job
};

Scheduler::Scheduler(const SchedulerOptions& options, const Tokenizer& tokenizer, ForwardPass* pass,
                     KvPool* kv, ThreadPool* pool, Clock* clock, MetricsRegistry* metrics)
    : options_(options),
      tokenizer_(tokenizer),
      pass_(*pass),
      kv_(*kv),
      pool_(*pool),
      clock_(*clock),
      requests_(metrics->counter("edge_inference_requests_total")),
      tokens_made_(metrics->counter("edge_inference_tokens_total")),
      prompt_tokens_(metrics->counter("edge_inference_prompt_tokens_total")),
      prefix_tokens_(metrics->counter("edge_inference_prefix_tokens_total")),
      guessed_right_(metrics->counter("edge_inference_guessed_right_total")),
      guessed_(metrics->counter("edge_inference_guessed_total")),
      first_token_ns_(metrics->histogram("edge_inference_first_token_ns")),
      queue_ns_(metrics->histogram("edge_inference_queue_ns")),
      pass_tokens_(metrics->histogram("edge_inference_pass_tokens")),
      running_gauge_(metrics->gauge("edge_inference_running")),
      waiting_gauge_(metrics->gauge("edge_inference_waiting")),
      kv_used_gauge_(metrics->gauge("edge_inference_kv_bytes_used")),
      kv_cached_gauge_(metrics->gauge("edge_inference_kv_bytes_cached")),
      prefixes_(kv),
      thread_([this] { Loop(); }) {}

Scheduler::~Scheduler() {
  {
    MutexLock lock(&mu_);
    stop_ = true;
  }
  work_.SignalAll();
  thread_.join();
}

Status Scheduler::Submit(Job* job) {
  MutexLock lock(&mu_);
  if (queued_ >= options_.queue_max) {
    return ResourceExhausted("{} requests wait already; queue_max is {}", queued_,
                             options_.queue_max);
  }
  ++queued_;
  submitted_.push_back(job);
  work_.Signal();
  return OkStatus();
}

void Scheduler::Loop() {
  while (TakeJobs()) {
    Expire(&waiting_);
    Expire(&running_);
    Admit();
    Plan();
    if (!plan_.empty()) RunPass();
    std::erase_if(running_, [](const auto& sequence) { return sequence->ended; });
    UpdateGauges();
  }
}

bool Scheduler::TakeJobs() {
  std::vector<Job*> jobs;
  {
    MutexLock lock(&mu_);
    while (!stop_ && submitted_.empty() && waiting_.empty() && running_.empty()) work_.Wait(&mu_);
    if (stop_) return false;
    jobs.swap(submitted_);
    queued_ = waiting_.size() + jobs.size();
  }
  for (Job* job : jobs) {
    waiting_.push_back(std::make_unique<Sequence>(job, &kv_, tokenizer_));
    waiting_.back()->number = next_number_++;
    requests_.Add();
  }
  return true;
}

void Scheduler::Expire(Sequences* sequences) {
  for (const auto& sequence : *sequences) {
    const Job& job = *sequence->job;
    const bool cancelled = job.options->cancel != nullptr && job.options->cancel->load();
    if (cancelled || job.abandoned.load()) {
      Finish(sequence.get(), StopReason::kCancelled);
    } else if (job.deadline_ns != 0 && clock_.monotonic_ns() >= job.deadline_ns) {
      if (sequence->replied() > 0) {
        Finish(sequence.get(), StopReason::kTimeout);
      } else {
        Finish(sequence.get(), StopReason::kTimeout,
               DeadlineExceeded("no token within {} ms", job.options->timeout_ms));
      }
    }
  }
  std::erase_if(*sequences, [](const auto& sequence) { return sequence->ended; });
}

bool Scheduler::Before(const Sequence& a, const Sequence& b) const {
  const GenerateOptions &x = *a.job->options, &y = *b.job->options;
  if (x.priority != y.priority) return x.priority > y.priority;
  if (x.tenant != y.tenant) {
    auto served = [&](const std::string& tenant) {
      const auto found = served_.find(tenant);
      return found == served_.end() ? 0 : found->second;
    };
    const uint64_t mine = served(x.tenant), theirs = served(y.tenant);
    if (mine != theirs) return mine < theirs;
  }
  return a.number < b.number;
}

// Without taking anything from running sequences.
bool Scheduler::MakeRoom(Sequence* sequence, uint32_t count) {
  while (!sequence->kv.Reserve(count)) {
    if (!prefixes_.EvictOne()) return false;
  }
  return true;
}

// What a constraint demands first is computed together with the prompt. False: it was all.
bool Scheduler::TakeForcedBeginning(Sequence* sequence) {
  Constraint* constraint = sequence->job->constraint.get();
  if (constraint == nullptr) return true;
  std::vector<TokenId> forced;
  constraint->TakeForced(&forced);
  sequence->job->forced_tokens += forced.size();
  for (const TokenId token : forced) {
    sequence->sampler.AddReply(token);
    if (!AddToken(sequence, token)) return false;
  }
  if (!constraint->complete()) return true;
  Finish(sequence, StopReason::kEnd);
  return false;
}

void Scheduler::Admit() {
  while (!waiting_.empty() && running_.size() < options_.sequences_max) {
    auto next = waiting_.begin();
    for (auto at = waiting_.begin(); at != waiting_.end(); ++at) {
      if (Before(**at, **next)) next = at;
    }
    Sequence& sequence = **next;
    const GenerateOptions& options = *sequence.job->options;
    if (!std::exchange(sequence.begun, true) && !TakeForcedBeginning(&sequence)) {
      waiting_.erase(next);
      continue;
    }
    if (options.reuse_prefix && !sequence.job->logits_only) {
      const uint32_t known = prefixes_.Match(0, sequence.tokens, &sequence.kv);
      // The last token is computed in any case: its logits are wanted.
      if (known == sequence.tokens.size()) sequence.kv.Truncate(known - 1);
    }
    if (!MakeRoom(&sequence, static_cast<uint32_t>(sequence.left()))) {
      sequence.kv.Clear();
      if (running_.empty()) {
        Finish(&sequence, StopReason::kKvBudget,
               ResourceExhausted("no room for the keys and values of {} tokens",
                                 sequence.tokens.size()));
        waiting_.erase(next);
        continue;
      }
      return;  // the next in order waits; others do not overtake it
    }
    if (sequence.job->begin_ns == 0) {
      sequence.job->begin_ns = clock_.monotonic_ns();
      sequence.job->prefix_tokens = sequence.kv.position();
      queue_ns_.Record(static_cast<uint64_t>(
          std::max<int64_t>(0, sequence.job->begin_ns - sequence.job->start_ns)));
      prompt_tokens_.Add(sequence.tokens.size());
      prefix_tokens_.Add(sequence.kv.position());
    }
    running_.splice(running_.end(), waiting_, next);
  }
}

// Whether it has neither ended nor been preempted while this pass was planned.
bool Scheduler::Runs(const Sequence* sequence) const {
  return std::any_of(running_.begin(), running_.end(),
                     [&](const auto& other) { return other.get() == sequence && !other->ended; });
}

void Scheduler::Preempt(Sequence* sequence) {
  const auto at = std::find_if(running_.begin(), running_.end(),
                               [&](const auto& other) { return other.get() == sequence; });
  sequence->kv.Clear();
  waiting_.splice(waiting_.end(), running_, at);
}

// Room for `count` tokens of a running reply, if need be at the cost of those behind it. False
// if `sequence` itself had to go.
bool Scheduler::Grow(Sequence* sequence, uint32_t count) {
  while (!MakeRoom(sequence, count)) {
    Sequence* last = sequence;
    for (const auto& other : running_) {
      if (!other->ended && Before(*last, *other)) last = other.get();
    }
    size_t alive = 0;
    for (const auto& other : running_) alive += !other->ended;
    if (alive == 1) {
      Finish(sequence, StopReason::kKvBudget);
      return false;
    }
    std::erase_if(plan_, [&](const Planned& planned) { return planned.sequence == last; });
    Preempt(last);
    if (last == sequence) return false;
  }
  return true;
}

void Scheduler::Plan() {
  plan_.clear();
  PlanReplies();
  const size_t replies = plan_.size();
  PlanPrompts();
  // Pieces of prompts fill the pass already.
  if (plan_.size() == replies) PlanGuesses();
}

void Scheduler::PlanReplies() {
  std::vector<Sequence*> replies;
  for (const auto& sequence : running_) {
    if (sequence->replied() > 0 && sequence->left() == 1) replies.push_back(sequence.get());
  }
  for (Sequence* sequence : replies) {
    if (Runs(sequence) && Grow(sequence, 1)) plan_.push_back({sequence, 1, 0, 0, 1});
  }
}

void Scheduler::PlanGuesses() {
  const auto replies = static_cast<uint32_t>(plan_.size());
  uint32_t tokens = replies;
  for (uint32_t i = 0; i < replies; ++i) {
    Sequence& sequence = *plan_[i].sequence;
    const Speculation speculation = sequence.job->options->speculation;
    if (speculation == Speculation::kOff) continue;
    const auto room = static_cast<uint32_t>(std::min<size_t>(
        {sequence.drafter.guess().size(), options_.context - sequence.tokens.size(),
         options_.logits_max - tokens, sequence.job->options->tokens_max - sequence.replied()}));
    const uint32_t length = speculation == Speculation::kAlways
                                ? room
                                : DraftLength(sequence.drafter.acceptance(), room, tokens, costs_);
    // Only what is free: a guess is not worth a known prefix.
    if (length == 0 || !sequence.kv.Reserve(1 + length)) continue;
    plan_[i].guessed = length;
    plan_[i].logits = 1 + length;
    tokens += length;
  }
}

void Scheduler::PlanPrompts() {
  std::vector<Sequence*> prompts;
  for (const auto& sequence : running_) {
    if (sequence->ended) continue;  // in PlanReplies: its job is its caller's again
    const bool reply = sequence->replied() > 0 && sequence->left() == 1;
    if (!reply) prompts.push_back(sequence.get());
  }
  std::sort(prompts.begin(), prompts.end(),
            [&](const Sequence* a, const Sequence* b) { return Before(*a, *b); });
  uint32_t room = options_.prompt_tokens_max;
  for (Sequence* sequence : prompts) {
    if (room == 0) break;
    if (!Runs(sequence)) continue;
    const auto count = static_cast<uint32_t>(std::min<size_t>(sequence->left(), room));
    // A prompt has its room; a reply to which tokens were added at once may not.
    if (!Grow(sequence, count)) continue;
    plan_.push_back({sequence, count, 0, 0, count == sequence->left() ? 1u : 0u});
    room -= count;
  }
}

void Scheduler::RunPass() {
  inputs_.resize(std::max(inputs_.size(), plan_.size()));
  spans_.clear();
  uint32_t logits = 0, tokens = 0;
  bool only_replies = true;
  for (size_t i = 0; i < plan_.size(); ++i) {
    Planned& planned = plan_[i];
    Sequence& sequence = *planned.sequence;
    const auto begin = sequence.tokens.begin() + sequence.kv.position();
    inputs_[i].assign(begin, begin + planned.computed);
    const auto guess = sequence.drafter.guess().first(planned.guessed);
    inputs_[i].insert(inputs_[i].end(), guess.begin(), guess.end());
    spans_.push_back({&sequence.kv, inputs_[i], planned.logits});
    planned.first_logits = logits;
    logits += planned.logits;
    tokens += planned.computed + planned.guessed;
    only_replies = only_replies && planned.computed == 1;
    if (served_.size() >= kTenantsMax) served_.clear();
    served_[sequence.job->options->tenant] += planned.computed;
  }
  const int64_t start_ns = clock_.monotonic_ns();
  pass_.Run(spans_);
  if (only_replies) costs_.Add(tokens, clock_.monotonic_ns() - start_ns);
  pass_tokens_.Record(tokens);
  SampleAll();
  Deliver();
}

// Each sequence by itself, so they can be sampled side by side. Every token is drawn from the
// model's distribution after the ones before it; a guess only decides whether that was known
// already. So guessing changes nothing but the time.
void Scheduler::SampleAll() {
  pool_.Run(static_cast<uint32_t>(plan_.size()), [&](uint32_t index, uint32_t) {
    const Planned& planned = plan_[index];
    Sequence& sequence = *planned.sequence;
    sequence.sampled.clear();
    sequence.forced.clear();
    sequence.logprobs.clear();
    Constraint* constraint = sequence.job->constraint.get();
    if (planned.logits == 0 || sequence.job->logits_only) return;
    for (uint32_t i = 0; i < planned.logits; ++i) {
      const std::span<float> logits = pass_.logits(planned.first_logits + i);
      const auto& wanted = sequence.job->options->logprobs;
      std::vector<float> own;
      if (wanted) own.assign(logits.begin(), logits.end());
      const TokenId token = sequence.sampler.Sample(
          logits, constraint != nullptr ? constraint->Allowed() : TokenMask());
      sequence.sampler.AddReply(token);
      sequence.sampled.push_back(token);
      if (wanted) sequence.logprobs.push_back(LogprobOf(own, token, *wanted));
      const bool as_guessed = i < planned.guessed && token == inputs_[index][planned.computed + i];
      const bool end = !sequence.job->options->ignore_end && tokenizer_.IsEnd(token);
      if (constraint != nullptr && !end) {
        constraint->Accept(token);
        constraint->TakeForced(&sequence.forced);
        for (const TokenId forced : sequence.forced) sequence.sampler.AddReply(forced);
        if (!sequence.forced.empty() || constraint->complete()) break;
      }
      if (!as_guessed) break;
    }
  });
}

void Scheduler::Deliver() {
  for (const Planned& planned : plan_) {
    Sequence& sequence = *planned.sequence;
    Job& job = *sequence.job;
    if (planned.logits == 0) continue;
    if (job.logits_only) {
      const auto logits = pass_.logits(planned.first_logits);
      job.logits.assign(logits.begin(), logits.end());
      Finish(&sequence, StopReason::kTokensMax);
      continue;
    }
    if (job.first_ns == 0) {
      job.first_ns = clock_.monotonic_ns();
      first_token_ns_.Record(
          static_cast<uint64_t>(std::max<int64_t>(0, job.first_ns - job.start_ns)));
    }
    // Of the guessed tokens those that came true stay.
    const auto kept = static_cast<uint32_t>(sequence.sampled.size()) - 1;
    sequence.kv.Truncate(sequence.kv.position() - (planned.guessed - kept));
    guessed_.Add(planned.guessed);
    guessed_right_.Add(kept);
    job.guessed_tokens += kept;
    job.forced_tokens += sequence.forced.size();
    sequence.sampled.insert(sequence.sampled.end(), sequence.forced.begin(), sequence.forced.end());
    for (const TokenId token : sequence.sampled) {
      if (!AddToken(&sequence, token)) break;
    }
    if (!sequence.ended && job.constraint != nullptr && job.constraint->complete()) {
      Finish(&sequence, StopReason::kEnd);
    }
    if (!sequence.ended && !sequence.made.empty()) Publish(&sequence, false);
  }
}

bool Scheduler::AddToken(Sequence* sequence, TokenId token) {
  Job& job = *sequence->job;
  const GenerateOptions& options = *job.options;
  if (!options.ignore_end && tokenizer_.IsEnd(token)) {
    Finish(sequence, StopReason::kEnd);
    return false;
  }
  tokens_made_.Add();
  sequence->tokens.push_back(token);
  if (options.speculation != Speculation::kOff) sequence->drafter.Add(token);
  MadeToken made{token, {}, {}};
  if (!sequence->logprobs.empty()) {
    made.logprob = std::move(sequence->logprobs.front());
    sequence->logprobs.erase(sequence->logprobs.begin());
  } else if (options.logprobs) {
    made.logprob = TokenLogprob{token, 0, {}};  // forced: nothing else could come
  }
  const bool stopped = sequence->outlet.Add(sequence->decoder.Add(token), &made.text);
  sequence->made.push_back(std::move(made));
  if (stopped) {
    Finish(sequence, StopReason::kStopText);
    return false;
  }
  if (sequence->replied() >= options.tokens_max) {
    Finish(sequence, StopReason::kTokensMax);
    return false;
  }
  if (sequence->tokens.size() > options_.context) {
    Finish(sequence, StopReason::kContext);
    return false;
  }
  return true;
}

void Scheduler::Finish(Sequence* sequence, StopReason stop, Status status) {
  if (stop != StopReason::kStopText && stop != StopReason::kCancelled) {
    MadeToken rest{-1, {}, {}};
    if (sequence->outlet.Add(sequence->decoder.Finish(), &rest.text)) {
      stop = StopReason::kStopText;
    } else {
      sequence->outlet.Finish(&rest.text);
    }
    if (!rest.text.empty()) sequence->made.push_back(std::move(rest));
  }
  if (sequence->job->options->reuse_prefix) {
    prefixes_.Insert(0, sequence->tokens, sequence->kv);
  }
  sequence->kv.Clear();
  sequence->ended = true;
  sequence->job->stop = stop;
  sequence->job->status = std::move(status);
  sequence->job->end_ns = clock_.monotonic_ns();
  UpdateGauges();  // the caller may look as soon as it is told
  Publish(sequence, true);
}

void Scheduler::Publish(Sequence* sequence, bool done) {
  Job& job = *sequence->job;
  MutexLock lock(&job.mu);
  for (MadeToken& made : sequence->made) job.made.push_back(std::move(made));
  sequence->made.clear();
  job.done = done;
  // With the lock held: the caller destroys the job once it has seen `done`.
  if (done || job.streaming) job.changed.Signal();
}

void Scheduler::UpdateGauges() {
  const uint64_t row = kv_.shape().block_bytes() * uint64_t{kv_.shape().virtual_sequences()};
  uint64_t rows = 0;
  size_t running = 0;
  for (const auto& sequence : running_) {
    if (sequence->ended) continue;
    rows += RowsOf(sequence->kv.position());
    ++running;
  }
  kv_bytes_used_.store(rows * row);
  kv_bytes_cached_.store(prefixes_.size() * row);
  running_gauge_.Set(static_cast<int64_t>(running));
  waiting_gauge_.Set(static_cast<int64_t>(waiting_.size()));
  kv_used_gauge_.Set(static_cast<int64_t>(rows * row));
  kv_cached_gauge_.Set(static_cast<int64_t>(prefixes_.size() * row));
}

}  // namespace edge::inference
