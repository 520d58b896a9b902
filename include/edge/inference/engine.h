// edge/inference/engine.h - a language model in your process.
//
//   auto engine = inference::Engine::Open("model.gguf", {.kv_bytes_max = 256 << 20});
//   auto reply = (*engine)->Chat({{"user", "Name three seas."}},
//                                [](std::string_view piece) { std::cout << piece; });
//
// Open() maps the file, checks it, and repacks the weights for this processor (about as
// much memory as the file has). Keys and values of the running text live in blocks of 16
// slots, one (sequence, layer, KV head) each, from one pool with a hard budget in bytes.
// Tokens are the same for any number of threads and any `prefill_tokens_max`.
#pragma once
#include <atomic>
#include <concepts>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "edge/base/clock.h"
#include "edge/base/file_system.h"
#include "edge/base/status.h"
#include "edge/inference/chat.h"
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
  uint32_t threads = 1;                  // compute threads, the caller's included; 1 to 256
  uint64_t kv_bytes_max = 256ull << 20;  // for all keys and values; reserved, touched on use
  uint32_t context_tokens_max = 0;       // 0: what the model was trained for; never above it
  uint32_t prefill_tokens_max = 256;     // prompt tokens in one pass; 1 to 4096
  ActivationBits activation_bits = ActivationBits::k16;
  KvFormat kv_format = KvFormat::kF16;
  FileSystem* files = nullptr;  // null: PosixFileSystem()
  Clock* clock = nullptr;       // null: SystemClock()
};

// Called with each piece of text as it is made: whole UTF-8 characters, never empty. A
// callback that returns bool stops the generation by returning false. It must not throw,
// and must not call the same engine again (that call fails with FailedPrecondition).
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

 private:
  std::function<bool(std::string_view)> call_;
};

struct GenerateOptions {
  uint32_t tokens_max = 512;  // of the reply; at least 1
  SamplingOptions sampling{};
  std::vector<std::string> stop{};            // end before any of these texts; each non-empty
  bool ignore_end = false;                    // go on after the model's end token (benchmarks)
  const std::atomic<bool>* cancel = nullptr;  // set from any thread; checked every pass
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
};
std::string_view StopReasonName(StopReason reason);  // "end", "stop text", ...

struct Reply {
  std::string text;
  std::vector<TokenId> token_ids;  // made by the model; its end token is not among them
  size_t tokens = 0;               // token_ids.size()
  size_t prompt_tokens = 0;
  double tokens_per_s = 0;  // after the first token
  double prompt_tokens_per_s = 0;
  double first_token_ms = 0;  // from the call to the first token
  double kv_kept = 1;         // share of the cache not evicted
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

// Thread-safe: calls from several threads take turns, first come first served.
class Engine {
 public:
  // NotFound: no such file. InvalidArgument: the file lies or is truncated, or an option is
  // out of range. Unimplemented: an architecture, tensor type or tokenizer that we do not
  // know. ResourceExhausted: kv_bytes_max cannot hold 16 tokens.
  static StatusOr<std::unique_ptr<Engine>> Open(const std::string& path,
                                                const EngineOptions& options = {});
  virtual ~Engine() = default;  // no call may be running

  // InvalidArgument: an empty prompt, one longer than the context, a token or an option
  // out of range. ResourceExhausted: the prompt does not fit into kv_bytes_max.
  virtual StatusOr<Reply> Generate(const Request& request, OnPiece on_piece = {}) = 0;
  // The assistant's answer to a conversation, through the model's chat template.
  virtual StatusOr<Reply> Chat(const std::vector<ChatMessage>& messages, OnPiece on_piece = {},
                               const GenerateOptions& options = {}) = 0;
  // The logits after `tokens`, one per vocabulary entry: for evaluation and tests.
  virtual StatusOr<std::vector<float>> Logits(const std::vector<TokenId>& tokens) = 0;

  virtual const Tokenizer& tokenizer() const = 0;
  virtual const ChatTemplate& chat_template() const = 0;
  virtual const ModelInfo& info() const = 0;
  virtual uint64_t kv_bytes_used() const = 0;  // 0 between calls
};

}  // namespace edge::inference
