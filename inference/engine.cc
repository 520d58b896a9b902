// inference/engine.cc - requests in, tokens out.
#include "edge/inference/engine.h"

#include <algorithm>
#include <exception>
#include <optional>

#include "edge/base/errors.h"
#include "edge/base/mutex.h"
#include "edge/inference/grammar.h"
#include "inference/model.h"
#include "inference/scheduler.h"

namespace edge::inference {
namespace {

constexpr uint32_t kThreadsMax = 256;
constexpr uint32_t kPassTokensMax = 4096;
constexpr uint32_t kSequencesMax = 1024;
constexpr uint32_t kLogprobsMax = 20;
// Of all sequences in a pass; leaves room for guesses while few run.
constexpr uint32_t kLogitsMin = 32;

Status CheckOptions(const GenerateOptions& options) {
  if (options.tokens_max == 0) return InvalidArgument("tokens_max is 0");
  for (const std::string& stop : options.stop) {
    if (stop.empty()) return InvalidArgument("an empty stop text");
  }
  if (options.timeout_ms < 0) return InvalidArgument("timeout_ms is {}", options.timeout_ms);
  if (options.logprobs && *options.logprobs > kLogprobsMax) {
    return InvalidArgument("logprobs is {}, above {}", *options.logprobs, kLogprobsMax);
  }
  return Validate(options.sampling);
}

// False: the caller wants no more.
StatusOr<bool> Show(const OnPiece& on_piece, std::string_view text) {
  try {
    return on_piece(text);
  } catch (const std::exception& error) {
    return Unknown("the callback threw: {}", error.what());
  } catch (...) {
    return Unknown("the callback threw");
  }
}

double PerSecond(size_t count, int64_t ns) {
  return count == 0 || ns <= 0 ? 0 : static_cast<double>(count) * 1e9 / static_cast<double>(ns);
}

class CpuEngine final : public Engine {
 public:
  static StatusOr<std::unique_ptr<Engine>> Open(const std::string& path,
                                                const EngineOptions& options) {
    if (options.threads < 1 || options.threads > kThreadsMax) {
      return InvalidArgument("threads is {}, not in 1 to {}", options.threads, kThreadsMax);
    }
    if (options.prefill_tokens_max < 1 || options.prefill_tokens_max > kPassTokensMax) {
      return InvalidArgument("prefill_tokens_max is {}, not in 1 to {}", options.prefill_tokens_max,
                             kPassTokensMax);
    }
    if (options.sequences_max < 1 || options.sequences_max > kSequencesMax) {
      return InvalidArgument("sequences_max is {}, not in 1 to {}", options.sequences_max,
                             kSequencesMax);
    }
    FileSystem& files = options.files != nullptr ? *options.files : PosixFileSystem();
    EDGE_ASSIGN_OR_RETURN(const auto file, GgufFile::Open(path, files));
    std::unique_ptr<CpuEngine> engine(new CpuEngine(options));
    EDGE_RETURN_IF_ERROR(engine->Load(*file));
    return std::unique_ptr<Engine>(std::move(engine));
  }

  StatusOr<Reply> Generate(const Request& request, OnPiece on_piece) override {
    const int64_t start_ns = clock_.monotonic_ns();
    EDGE_RETURN_IF_ERROR(CheckOptions(request.options));
    if (!request.prompt.empty() && !request.tokens.empty()) {
      return InvalidArgument("both a prompt and tokens");
    }
    std::vector<TokenId> tokens = request.tokens;
    if (tokens.empty()) {
      tokens = tokenizer_->Encode(request.prompt);
      if (tokenizer_->adds_bos()) tokens.insert(tokens.begin(), *tokenizer_->bos());
    }
    return Run(std::move(tokens), request.options, std::move(on_piece), start_ns);
  }

  StatusOr<Reply> Chat(const std::vector<ChatMessage>& messages, OnPiece on_piece,
                       const GenerateOptions& options) override {
    const int64_t start_ns = clock_.monotonic_ns();
    EDGE_RETURN_IF_ERROR(CheckOptions(options));
    EDGE_ASSIGN_OR_RETURN(auto tokens, chat_.Apply(*tokenizer_, messages));
    return Run(std::move(tokens), options, std::move(on_piece), start_ns);
  }

  StatusOr<std::vector<float>> Logits(const std::vector<TokenId>& tokens) override {
    EDGE_RETURN_IF_ERROR(CheckPrompt(tokens));
    const GenerateOptions options;
    Job job;
    job.prompt = tokens;
    job.options = &options;
    job.logits_only = true;
    EDGE_RETURN_IF_ERROR(scheduler_->Submit(&job));
    WaitFor(&job);
    EDGE_RETURN_IF_ERROR(job.status);
    return std::move(job.logits);
  }

  const Tokenizer& tokenizer() const override { return *tokenizer_; }
  std::shared_ptr<const TokenTrie> token_trie() override {
    MutexLock lock(&trie_mu_);
    if (trie_ == nullptr) trie_ = TokenTrie::Create(*tokenizer_);
    return trie_;
  }
  const ChatTemplate& chat_template() const override { return chat_; }
  const ModelInfo& info() const override { return info_; }
  uint64_t kv_bytes_used() const override { return scheduler_->kv_bytes_used(); }
  uint64_t kv_bytes_cached() const override { return scheduler_->kv_bytes_cached(); }
  MetricsRegistry& metrics() override { return metrics_; }

 private:
  explicit CpuEngine(const EngineOptions& options)
      : options_(options),
        clock_(options.clock != nullptr ? *options.clock : SystemClock()),
        metrics_(options.metrics != nullptr ? *options.metrics : own_metrics_),
        pool_(options.threads) {}

  Status Load(const GgufFile& file) {
    EDGE_ASSIGN_OR_RETURN(tokenizer_, Tokenizer::FromGguf(file));
    EDGE_ASSIGN_OR_RETURN(chat_, ChatTemplate::FromGguf(file));
    EDGE_ASSIGN_OR_RETURN(model_, Model::Load(file, &pool_));
    const ModelShape& s = model_->shape();
    if (tokenizer_->size() > s.vocabulary) {
      return InvalidArgument("{}: {} tokens, but token_embd.weight has {} rows", file.name(),
                             tokenizer_->size(), s.vocabulary);
    }
    context_ = s.context;
    if (options_.context_tokens_max > 0) context_ = std::min(context_, options_.context_tokens_max);
    const KvShape kv{s.layers, s.kv_heads, s.head_size, options_.kv_format == KvFormat::kF16};
    EDGE_ASSIGN_OR_RETURN(KvPool pool, KvPool::Create(kv, KvBytes(kv)));
    kv_.emplace(std::move(pool));
    PassOptions pass;
    pass.kernels = &BestKernels();
    pass.logits_max = std::max(options_.sequences_max, kLogitsMin);
    pass.tokens_max = options_.prefill_tokens_max + pass.logits_max;
    pass.context_max = context_;
    pass.two_planes = options_.activation_bits == ActivationBits::k16;
    EDGE_ASSIGN_OR_RETURN(pass_, ForwardPass::Create(*model_, &pool_, pass));
    EDGE_ASSIGN_OR_RETURN(const auto name, file.Text("general.name"));
    info_.name = name.value_or("");
    info_.parameters = model_->parameters();
    info_.weights_bytes = model_->weights_bytes();
    info_.layers = s.layers;
    info_.heads = s.heads;
    info_.kv_heads = s.kv_heads;
    info_.head_size = s.head_size;
    info_.width = s.width;
    info_.vocabulary = s.vocabulary;
    info_.context_tokens_max = context_;
    info_.kv_bytes_per_16_tokens = kv.block_bytes() * kv.virtual_sequences();
    info_.kernels = pass.kernels->name;
    const SchedulerOptions schedule{options_.prefill_tokens_max, pass.logits_max,
                                    options_.sequences_max, options_.queue_max, context_};
    scheduler_ = std::make_unique<Scheduler>(schedule, *tokenizer_, pass_.get(), &*kv_, &pool_,
                                             &clock_, &metrics_);
    return OkStatus();
  }

  // The budget, or what full contexts of all sequences take if that is less.
  uint64_t KvBytes(const KvShape& kv) const {
    const uint64_t row = kv.block_bytes() * uint64_t{kv.virtual_sequences()};
    const uint64_t rows = (uint64_t{context_} + kSlotsPerBlock - 1) / kSlotsPerBlock;
    return std::min(options_.kv_bytes_max, row * rows * options_.sequences_max);
  }

  Status CheckPrompt(const std::vector<TokenId>& tokens) const {
    if (tokens.empty()) return InvalidArgument("an empty prompt");
    if (tokens.size() > context_) {
      return InvalidArgument("a prompt of {} tokens; the context holds {}", tokens.size(),
                             context_);
    }
    for (const TokenId token : tokens) {
      if (token < 0 || static_cast<uint32_t>(token) >= info_.vocabulary) {
        return InvalidArgument("token {} is not in 0 to {}", token, info_.vocabulary - 1);
      }
    }
    const uint64_t needed =
        (tokens.size() + kSlotsPerBlock - 1) / kSlotsPerBlock * info_.kv_bytes_per_16_tokens;
    if (needed > options_.kv_bytes_max) {
      return ResourceExhausted(
          "a prompt of {} tokens takes {} bytes of keys and values; "
          "kv_bytes_max is {}",
          tokens.size(), needed, options_.kv_bytes_max);
    }
    return OkStatus();
  }

  StatusOr<Reply> Run(std::vector<TokenId> prompt, const GenerateOptions& options, OnPiece on_piece,
                      int64_t start_ns) {
    EDGE_RETURN_IF_ERROR(CheckPrompt(prompt));
    Job job;
    job.prompt = std::move(prompt);
    job.options = &options;
    job.streaming = static_cast<bool>(on_piece);
    job.start_ns = start_ns;
    if (options.constraint != nullptr) {
      EDGE_ASSIGN_OR_RETURN(job.constraint, options.constraint->Begin(*tokenizer_));
    }
    if (options.timeout_ms > 0) job.deadline_ns = start_ns + options.timeout_ms * 1'000'000;
    EDGE_RETURN_IF_ERROR(scheduler_->Submit(&job));
    Reply reply;
    const StatusOr<bool> heard_all = Listen(&job, on_piece, &reply);
    WaitFor(&job);
    EDGE_RETURN_IF_ERROR(heard_all.status());
    EDGE_RETURN_IF_ERROR(job.status);
    reply.stop = *heard_all ? job.stop : StopReason::kCancelled;
    FillTimes(job, &reply);
    return reply;
  }

  // Takes tokens from the job until it is done, or the caller wants no more (false).
  StatusOr<bool> Listen(Job* job, const OnPiece& on_piece, Reply* reply) {
    std::vector<MadeToken> made;
    for (bool done = false; !done;) {
      made.clear();
      {
        MutexLock lock(&job->mu);
        while (job->made.empty() && !job->done) job->changed.Wait(&job->mu);
        if (!job->streaming) {
          while (!job->done) job->changed.Wait(&job->mu);
        }
        made.swap(job->made);
        done = job->done;
      }
      for (MadeToken& token : made) {
        if (token.id >= 0) reply->token_ids.push_back(token.id);
        if (token.logprob) reply->logprobs.push_back(std::move(*token.logprob));
        reply->text += token.text;
        if (token.text.empty()) continue;
        const StatusOr<bool> go_on = Show(on_piece, token.text);
        // The engine may be ahead of the caller; what it has not seen, it does not get.
        const std::atomic<bool>* cancel = job->options->cancel;
        if (!go_on.ok() || !*go_on || (cancel != nullptr && cancel->load())) {
          job->abandoned.store(true);
          return go_on.ok() ? false : go_on;
        }
      }
    }
    return true;
  }

  static void WaitFor(Job* job) {
    MutexLock lock(&job->mu);
    while (!job->done) job->changed.Wait(&job->mu);
  }

  static void FillTimes(const Job& job, Reply* reply) {
    reply->tokens = reply->token_ids.size();
    reply->prompt_tokens = job.prompt.size();
    reply->prefix_tokens = job.prefix_tokens;
    reply->guessed_tokens = job.guessed_tokens;
    reply->forced_tokens = job.forced_tokens;
    if (job.begin_ns == 0) return;
    reply->queue_ms = static_cast<double>(job.begin_ns - job.start_ns) / 1e6;
    if (job.first_ns == 0) return;
    reply->first_token_ms = static_cast<double>(job.first_ns - job.start_ns) / 1e6;
    reply->prompt_tokens_per_s =
        PerSecond(job.prompt.size() - job.prefix_tokens, job.first_ns - job.begin_ns);
    if (reply->tokens > 1) {
      reply->tokens_per_s = PerSecond(reply->tokens - 1, job.end_ns - job.first_ns);
    }
  }

  const EngineOptions options_;
  Clock& clock_;
  std::unique_ptr<Tokenizer> tokenizer_;
  ChatTemplate chat_;
  ModelInfo info_;
  uint32_t context_ = 0;
  Mutex trie_mu_;
  std::shared_ptr<const TokenTrie> trie_ ABSL_GUARDED_BY(trie_mu_);  // and of grammars over it
  MetricsRegistry own_metrics_;
  MetricsRegistry& metrics_;
  // Below: used by the scheduler's thread only, once there is one.
  ThreadPool pool_;
  std::unique_ptr<Model> model_;
  std::optional<KvPool> kv_;
  std::unique_ptr<ForwardPass> pass_;
  std::unique_ptr<Scheduler> scheduler_;
};

}  // namespace

std::string_view StopReasonName(StopReason reason) {
  switch (reason) {
    case StopReason::kEnd:
      return "end";
    case StopReason::kStopText:
      return "stop text";
    case StopReason::kTokensMax:
      return "token limit";
    case StopReason::kContext:
      return "context full";
    case StopReason::kKvBudget:
      return "cache full";
    case StopReason::kCancelled:
      return "cancelled";
    case StopReason::kTimeout:
      return "timeout";
  }
  return "?";
}

StatusOr<std::unique_ptr<Engine>> Engine::Open(const std::string& path,
                                               const EngineOptions& options) {
  return CpuEngine::Open(path, options);
}

}  // namespace edge::inference
