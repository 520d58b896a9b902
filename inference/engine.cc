// inference/engine.cc - requests in, tokens out.
#include "edge/inference/engine.h"

#include <algorithm>
#include <deque>
#include <exception>
#include <optional>
#include <thread>

#include "edge/base/errors.h"
#include "edge/base/mutex.h"
#include "inference/model.h"

namespace edge::inference {
namespace {

constexpr uint32_t kThreadsMax = 256;
constexpr uint32_t kPassTokensMax = 4096;

// Lets callers through one at a time in the order of their arrival. Not a lock: callbacks
// run during a turn, and one that comes back is told so instead of waiting for itself.
// Thread-safe.
class Turnstile {
 public:
  Status Enter() {
    MutexLock lock(&mu_);
    if (busy_ && owner_ == std::this_thread::get_id()) {
      return FailedPrecondition("the engine was called from its own callback");
    }
    const uint64_t ticket = next_ticket_++;
    while (busy_ || ticket != serving_) changed_.Wait(&mu_);
    busy_ = true;
    owner_ = std::this_thread::get_id();
    return OkStatus();
  }
  void Leave() {
    MutexLock lock(&mu_);
    busy_ = false;
    ++serving_;
    changed_.SignalAll();
  }

 private:
  Mutex mu_;
  CondVar changed_;
  bool busy_ ABSL_GUARDED_BY(mu_) = false;
  std::thread::id owner_ ABSL_GUARDED_BY(mu_);
  uint64_t next_ticket_ ABSL_GUARDED_BY(mu_) = 0;
  uint64_t serving_ ABSL_GUARDED_BY(mu_) = 0;
};

class Turn {
 public:
  explicit Turn(Turnstile* turnstile) : turnstile_(*turnstile) {}
  ~Turn() { turnstile_.Leave(); }

 private:
  Turnstile& turnstile_;
};

// Text on its way out: holds back what may yet become a stop text.
class Outlet {
 public:
  Outlet(const std::vector<std::string>& stops, OnPiece on_piece, std::string* text)
      : stops_(stops), on_piece_(std::move(on_piece)), text_(*text) {}

  enum class Verdict : uint8_t { kGoOn, kStopText, kCallerStopped };

  StatusOr<Verdict> Add(std::string_view piece) {
    held_ += piece;
    const size_t found = FirstStop();
    if (found != std::string::npos) {
      held_.resize(found);
      EDGE_ASSIGN_OR_RETURN(const bool go_on, Emit(held_.size()));
      return go_on ? Verdict::kStopText : Verdict::kCallerStopped;
    }
    EDGE_ASSIGN_OR_RETURN(const bool go_on, Emit(held_.size() - HeldBack()));
    return go_on ? Verdict::kGoOn : Verdict::kCallerStopped;
  }
  StatusOr<bool> Finish() { return Emit(held_.size()); }

 private:
  size_t FirstStop() const {
    size_t first = std::string::npos;
    for (const std::string& stop : stops_) first = std::min(first, held_.find(stop));
    return first;
  }
  // The longest end of the text that is a beginning of a stop text.
  size_t HeldBack() const {
    size_t longest = 0;
    for (const std::string& stop : stops_) {
      for (size_t n = std::min(held_.size(), stop.size() - 1); n > longest; --n) {
        if (std::string_view(held_).ends_with(std::string_view(stop).substr(0, n))) longest = n;
      }
    }
    return longest;
  }
  StatusOr<bool> Emit(size_t bytes) {
    if (bytes == 0) return true;
    const std::string piece = held_.substr(0, bytes);
    held_.erase(0, bytes);
    text_ += piece;
    try {
      return on_piece_(piece);
    } catch (const std::exception& error) {
      return Unknown("the callback threw: {}", error.what());
    } catch (...) {
      return Unknown("the callback threw");
    }
  }

  const std::vector<std::string>& stops_;
  OnPiece on_piece_;
  std::string& text_;
  std::string held_;
};

Status CheckOptions(const GenerateOptions& options) {
  if (options.tokens_max == 0) return InvalidArgument("tokens_max is 0");
  for (const std::string& stop : options.stop) {
    if (stop.empty()) return InvalidArgument("an empty stop text");
  }
  return Validate(options.sampling);
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
    return RunTurn(tokens, request.options, std::move(on_piece), start_ns);
  }

  StatusOr<Reply> Chat(const std::vector<ChatMessage>& messages, OnPiece on_piece,
                       const GenerateOptions& options) override {
    const int64_t start_ns = clock_.monotonic_ns();
    EDGE_RETURN_IF_ERROR(CheckOptions(options));
    EDGE_ASSIGN_OR_RETURN(const auto tokens, chat_.Apply(*tokenizer_, messages));
    return RunTurn(tokens, options, std::move(on_piece), start_ns);
  }

  StatusOr<std::vector<float>> Logits(const std::vector<TokenId>& tokens) override {
    EDGE_RETURN_IF_ERROR(CheckPrompt(tokens));
    EDGE_RETURN_IF_ERROR(turnstile_.Enter());
    const Turn turn(&turnstile_);
    KvSequence sequence(&*kv_);
    const StatusOr<bool> done = Prefill(tokens, nullptr, &sequence);
    kv_bytes_used_.store(0);
    if (!done.ok()) return done.status();
    return logits_;
  }

  const Tokenizer& tokenizer() const override { return *tokenizer_; }
  const ChatTemplate& chat_template() const override { return chat_; }
  const ModelInfo& info() const override { return info_; }
  uint64_t kv_bytes_used() const override { return kv_bytes_used_.load(); }

 private:
  explicit CpuEngine(const EngineOptions& options)
      : options_(options),
        clock_(options.clock != nullptr ? *options.clock : SystemClock()),
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
    pass.tokens_max = std::min(options_.prefill_tokens_max, context_);
    pass.context_max = context_;
    pass.two_planes = options_.activation_bits == ActivationBits::k16;
    EDGE_ASSIGN_OR_RETURN(pass_, ForwardPass::Create(*model_, &pool_, pass));
    pass_tokens_max_ = pass.tokens_max;
    logits_.resize(s.vocabulary);
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
    return OkStatus();
  }

  // The budget, or what a full context takes if that is less: one sequence runs at a time.
  uint64_t KvBytes(const KvShape& kv) const {
    const uint64_t row = kv.block_bytes() * uint64_t{kv.virtual_sequences()};
    const uint64_t rows = (uint64_t{context_} + kSlotsPerBlock - 1) / kSlotsPerBlock;
    return std::min(options_.kv_bytes_max, row * rows);
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

  // Runs the prompt; logits_ are those of its last token. False if cancelled in between.
  StatusOr<bool> Prefill(std::span<const TokenId> tokens, const std::atomic<bool>* cancel,
                         KvSequence* sequence) {
    while (!tokens.empty()) {
      if (cancel != nullptr && cancel->load()) return false;
      const size_t count = std::min<size_t>(tokens.size(), pass_tokens_max_);
      if (!sequence->Reserve(static_cast<uint32_t>(count))) {
        return ResourceExhausted("no room for {} tokens in a cache of {} bytes", tokens.size(),
                                 options_.kv_bytes_max);
      }
      kv_bytes_used_.store(kv_->bytes_used());
      const bool last = count == tokens.size();
      pass_->Run(tokens.first(count), sequence, last ? logits_.data() : nullptr);
      tokens = tokens.subspan(count);
    }
    return true;
  }

  StatusOr<Reply> RunTurn(const std::vector<TokenId>& prompt, const GenerateOptions& options,
                          OnPiece on_piece, int64_t start_ns) {
    EDGE_RETURN_IF_ERROR(CheckPrompt(prompt));
    EDGE_RETURN_IF_ERROR(turnstile_.Enter());
    const Turn turn(&turnstile_);
    StatusOr<Reply> reply = Run(prompt, options, std::move(on_piece), start_ns);
    kv_bytes_used_.store(0);
    return reply;
  }

  StatusOr<Reply> Run(const std::vector<TokenId>& prompt, const GenerateOptions& options,
                      OnPiece on_piece, int64_t start_ns) {
    Reply reply;
    reply.prompt_tokens = prompt.size();
    KvSequence sequence(&*kv_);
    const int64_t prefill_ns = clock_.monotonic_ns();
    EDGE_ASSIGN_OR_RETURN(const bool prefilled, Prefill(prompt, options.cancel, &sequence));
    if (!prefilled) {
      reply.stop = StopReason::kCancelled;
      return reply;
    }
    const int64_t first_ns = clock_.monotonic_ns();
    reply.first_token_ms = static_cast<double>(first_ns - start_ns) / 1e6;
    reply.prompt_tokens_per_s = PerSecond(prompt.size(), first_ns - prefill_ns);
    EDGE_RETURN_IF_ERROR(Decode(options, std::move(on_piece), &sequence, &reply));
    reply.tokens = reply.token_ids.size();
    if (reply.tokens > 1) {
      reply.tokens_per_s = PerSecond(reply.tokens - 1, clock_.monotonic_ns() - first_ns);
    }
    return reply;
  }

  Status Decode(const GenerateOptions& options, OnPiece on_piece, KvSequence* sequence,
                Reply* reply) {
    Sampler sampler(options.sampling);
    StreamDecoder decoder(*tokenizer_);
    Outlet outlet(options.stop, std::move(on_piece), &reply->text);
    for (;;) {
      const TokenId token = sampler.Sample(logits_);
      if (!options.ignore_end && tokenizer_->IsEnd(token)) {
        reply->stop = StopReason::kEnd;
        break;
      }
      reply->token_ids.push_back(token);
      EDGE_ASSIGN_OR_RETURN(const auto verdict, outlet.Add(decoder.Add(token)));
      if (verdict != Outlet::Verdict::kGoOn) {
        reply->stop =
            verdict == Outlet::Verdict::kStopText ? StopReason::kStopText : StopReason::kCancelled;
        return OkStatus();
      }
      if (const auto stop = WhyNotGoOn(options, sequence, *reply)) {
        reply->stop = *stop;
        break;
      }
      pass_->Run({&token, 1}, sequence, logits_.data());
    }
    EDGE_ASSIGN_OR_RETURN(const auto verdict, outlet.Add(decoder.Finish()));
    if (verdict == Outlet::Verdict::kGoOn) {
      EDGE_ASSIGN_OR_RETURN(const bool go_on, outlet.Finish());
      (void)go_on;  // it is over anyway
    }
    return OkStatus();
  }

  // What keeps another token from being computed, if anything; otherwise makes room for it.
  std::optional<StopReason> WhyNotGoOn(const GenerateOptions& options, KvSequence* sequence,
                                       const Reply& reply) {
    if (options.cancel != nullptr && options.cancel->load()) return StopReason::kCancelled;
    if (reply.token_ids.size() >= options.tokens_max) return StopReason::kTokensMax;
    if (sequence->position() >= context_) return StopReason::kContext;
    if (!sequence->Reserve(1)) return StopReason::kKvBudget;
    kv_bytes_used_.store(kv_->bytes_used());
    return std::nullopt;
  }

  const EngineOptions options_;
  Clock& clock_;
  std::unique_ptr<Tokenizer> tokenizer_;
  ChatTemplate chat_;
  ModelInfo info_;
  uint32_t context_ = 0;
  uint32_t pass_tokens_max_ = 1;
  std::atomic<uint64_t> kv_bytes_used_{0};
  Turnstile turnstile_;
  // Below: used by the holder of the turn only.
  ThreadPool pool_;
  std::unique_ptr<Model> model_;
  std::optional<KvPool> kv_;
  std::unique_ptr<ForwardPass> pass_;
  std::vector<float> logits_;
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
  }
  return "?";
}

StatusOr<std::unique_ptr<Engine>> Engine::Open(const std::string& path,
                                               const EngineOptions& options) {
  return CpuEngine::Open(path, options);
}

}  // namespace edge::inference
