// edge/inference/engine.h - a language model in your process.
//
//   auto engine = inference::Engine::Open("model.gguf", {.kv_bytes_max = 256 << 20});
//   auto reply = (*engine)->Chat({{"user", "Name three seas."}},
//                                [](std::string_view piece) { std::cout << piece; });
//
// Open() maps the file, checks it, and repacks the weights for this processor (about as
// much memory as the file has). Keys and values of the running texts live in blocks of 16
// slots, one (sequence, layer, KV head) each, from one pool with a hard budget in bytes.
//
// Requests of many threads run side by side: one thread of the engine makes passes through
// the model, each with the next token of every running text and, as far as
// `prefill_tokens_max` allows, pieces of new prompts. A request gets the same tokens, bit for
// bit, whatever runs beside it, for any number of threads, however its prompt is cut, with
// or without a known prefix or guessed tokens.
#pragma once
#include <atomic>
#include <concepts>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "edge/base/clock.h"
#include "edge/base/file_system.h"
#include "edge/base/metrics.h"
#include "edge/base/status.h"
#include "edge/inference/chat.h"
#include "edge/inference/constraint.h"
#include "edge/inference/sampler.h"
#include "edge/inference/tokenizer.h"

namespace edge::inference {

// How precisely the inputs of a quantized matrix are rounded. Weights are always exactly
// the file's.
enum class ActivationBits : uint8_t {
  k8 = 8,    // as most engines do: fastest prefill, near-ties between tokens may flip
  k16 = 16,  // 15 significant bits: greedy text equals that of float arithmetic
};

// How keys and values are kept.
enum class KvFormat : uint8_t { kF16, kF32 };

struct EngineOptions {
  uint32_t threads = 1;                  // that compute; 1 to 256. Callers only wait
  uint64_t kv_bytes_max = 256ull << 20;  // for all keys and values; reserved, touched on use
  uint32_t context_tokens_max = 0;       // 0: what the model was trained for; never above it
  uint32_t prefill_tokens_max = 256;     // tokens of prompts in one pass; 1 to 4096
  uint32_t sequences_max = 64;           // requests that run side by side; 1 to 1024
  uint32_t queue_max = 1024;             // requests that wait for their turn
  ActivationBits activation_bits = ActivationBits::k16;
  KvFormat kv_format = KvFormat::kF16;
  FileSystem* files = nullptr;         // null: PosixFileSystem()
  Clock* clock = nullptr;              // null: SystemClock()
  MetricsRegistry* metrics = nullptr;  // null: one of the engine's own
};

// Called with each piece of text as it is made: whole UTF-8 characters, never empty. A
// callback that returns bool stops the generation by returning false. It runs on the thread
// that asked, while the engine goes on; it may call the engine. It must not throw.
class OnPiece {
 public:
  OnPiece() = default;
  OnPiece(std::nullptr_t) {}  // NOLINT(google-explicit-constructor)
  template <typename F>
    requires(!std::same_as<std::remove_cvref_t<F>, OnPiece> && std::invocable<F&, std::string_view>)
  OnPiece(F callback) {  // NOLINT(google-explicit-constructor)
    if constexpr (std::same_as<std::invoke_result_t<F&, std::string_view>, bool>) {
      call_ = std::move(callback);
    } else {
      call_ = [f = std::move(callback)](std::string_view piece) mutable {
        f(piece);
        return true;
      };
    }
  }
  bool operator()(std::string_view piece) const { return !call_ || call_(piece); }
  explicit operator bool() const { return static_cast<bool>(call_); }

 private:
  std::function<bool(std::string_view)> call_;
};

// Whether to guess tokens from the text so far, and check the guesses in the pass that would
// have made one token. The reply is the same in each case.
enum class Speculation : uint8_t {
  kOff,
  kWhenFaster,  // as measured, for each text and load
  kAlways,      // whenever there is a guess, even at a loss: for tests
};

struct GenerateOptions {
  uint32_t tokens_max = 512;  // of the reply; at least 1
  SamplingOptions sampling{};
  std::vector<std::string> stop{};  // end before any of these texts; each non-empty
  // Null: any text. Shared with the caller, who may use it for further requests.
  std::shared_ptr<const ConstraintFactory> constraint{};
  bool ignore_end = false;                    // go on after the model's end token (benchmarks)
  const std::atomic<bool>* cancel = nullptr;  // set from any thread; checked every pass
  int64_t timeout_ms = 0;                     // for the whole call, waiting included; 0: none
  // Who goes first where not all can: the higher priority; then the tenant that has had
  // fewer tokens so far; then who came first.
  int32_t priority = 0;
  std::string tenant{};
  // Of each token, with as many of the most likely ones beside it (0 to 20).
  std::optional<uint32_t> logprobs{};
  bool reuse_prefix = true;  // begin with the keys and values of an earlier, equal beginning
  Speculation speculation = Speculation::kWhenFaster;
};

struct Request {
  std::string prompt{};           // a bos token is put in front if the model wants one
  std::vector<TokenId> tokens{};  // instead of `prompt`: exactly these
  GenerateOptions options{};
};

enum class StopReason : uint8_t {
  kEnd,        // the model said that it is done
  kStopText,   // one of `stop` came up
  kTokensMax,  // tokens_max reached
  kContext,    // the model's context is full
  kKvBudget,   // the pool of keys and values is full
  kCancelled,  // by the callback or `cancel`; the reply holds what there was
  kTimeout,    // timeout_ms is over; likewise
};
std::string_view StopReasonName(StopReason reason);  // "end", "stop text", ...

struct Reply {
  std::string text;
  std::vector<TokenId> token_ids;      // made by the model; its end token is not among them
  size_t tokens = 0;                   // token_ids.size()
  std::vector<TokenLogprob> logprobs;  // one per token if asked for
  size_t prompt_tokens = 0;
  size_t prefix_tokens = 0;        // of the prompt: known from before, not computed again
  size_t forced_tokens = 0;        // of the reply: the constraint left no choice; they cost no pass
  size_t guessed_tokens = 0;       // of the reply: guessed right, so that they cost no pass
  double tokens_per_s = 0;         // after the first token
  double prompt_tokens_per_s = 0;  // of those computed
  double queue_ms = 0;             // from the call until it began to run
  double first_token_ms = 0;       // from the call to the first token
  double kv_kept = 1;              // share of the cache not evicted
  StopReason stop = StopReason::kEnd;
};

struct ModelInfo {
  std::string name;
  uint64_t parameters = 0;
  uint64_t weights_bytes = 0;  // in memory
  uint32_t layers = 0, heads = 0, kv_heads = 0, head_size = 0, width = 0, vocabulary = 0;
  uint32_t context_tokens_max = 0;  // after EngineOptions
  uint64_t kv_bytes_per_16_tokens = 0;
  std::string_view kernels;  // "avx512-vnni", "avx2" or "scalar"
};

class TokenTrie;  // edge/inference/grammar.h

// Thread-safe. Has a thread of its own, and `threads - 1` more.
class Engine {
 public:
  // NotFound: no such file. InvalidArgument: the file lies or is truncated, or an option is
  // out of range. Unimplemented: an architecture, tensor type or tokenizer that we do not
  // know. ResourceExhausted: kv_bytes_max cannot hold 16 tokens.
  static StatusOr<std::unique_ptr<Engine>> Open(const std::string& path,
                                                const EngineOptions& options = {});
  virtual ~Engine() = default;  // no call may be running

  // InvalidArgument: an empty prompt, one longer than the context, a token or an option
  // out of range. ResourceExhausted: the prompt does not fit into kv_bytes_max, or
  // queue_max requests wait. DeadlineExceeded: timeout_ms over before the first token.
  virtual StatusOr<Reply> Generate(const Request& request, OnPiece on_piece = {}) = 0;
  // The assistant's answer to a conversation, through the model's chat template.
  virtual StatusOr<Reply> Chat(const std::vector<ChatMessage>& messages, OnPiece on_piece = {},
                               const GenerateOptions& options = {}) = 0;
  // The logits after `tokens`, one per vocabulary entry: for evaluation and tests.
  virtual StatusOr<std::vector<float>> Logits(const std::vector<TokenId>& tokens) = 0;

  virtual const Tokenizer& tokenizer() const = 0;
  // For grammars over this model's tokens; made when first asked for. Null where there is none.
  virtual std::shared_ptr<const TokenTrie> token_trie() { return nullptr; }
  virtual const ChatTemplate& chat_template() const = 0;
  virtual const ModelInfo& info() const = 0;
  virtual uint64_t kv_bytes_used() const = 0;    // by running requests
  virtual uint64_t kv_bytes_cached() const = 0;  // of earlier ones, given up when needed
  // edge_inference_*: requests, tokens, prompt, prefix and guessed tokens, first_token_ns,
  // queue_ns, pass_tokens, running, waiting, kv_bytes_used, kv_bytes_cached.
  virtual MetricsRegistry& metrics() = 0;
};

}  // namespace edge::inference
