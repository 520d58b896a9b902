// The engine beside llama.cpp on one model in several formats, beside the machine's memory,
// and beside itself without guesses.
//
// llama.cpp is a child process (llama_peer.mjs) that keeps its model loaded; both sides work in
// turns. Left out, with a word on stderr, where the model or node-llama-cpp is missing:
// $EDGE_MODEL_DIR (default build/models), $EDGE_LLAMA_NODE_MODULES (default
// $EDGE_NODE_MODULES, build/node/node_modules).
#include <algorithm>
#include <atomic>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "bench/bench.h"
#include "bench/inference/bench_models.h"
#include "bench/inference/llama_peer.h"
#include "edge/inference/engine.h"
#include "edge/inference/grammar.h"

namespace {

using edge::bench::Better;
using edge::bench::LlamaOptions;
using edge::bench::LlamaPeer;
using edge::bench::Sample;
using edge::bench::SecondsOf;
using edge::bench::Suite;
using edge::inference::ActivationBits;
using edge::inference::Engine;
using edge::inference::EngineOptions;
using edge::inference::GenerateOptions;
using edge::inference::Reply;
using edge::inference::Speculation;
using edge::inference::TensorType;
using edge::inference::TokenId;

std::string Environment(const char* name, const std::string& fallback) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : fallback;
}

template <typename T>
T Must(edge::StatusOr<T> value) {
  if (!value.ok()) {
    std::fprintf(stderr, "%s\n", value.status().ToString().c_str());
    std::exit(1);
  }
  return std::move(*value);
}

uint64_t AnswerOf(const Reply& reply) {
  uint64_t answer = 0;
  for (size_t i = 0; i < std::min(reply.token_ids.size(), edge::bench::kTokensCompared); ++i) {
    answer = answer * 1000003 + static_cast<uint64_t>(reply.token_ids[i]);
  }
  return answer;
}

// As llama.cpp does it: no prefix is kept, nothing guessed.
GenerateOptions Plain(uint32_t count) {
  GenerateOptions options;
  options.tokens_max = count;
  options.ignore_end = true;
  options.reuse_prefix = false;
  options.speculation = Speculation::kOff;
  return options;
}

Sample Decode(Engine& engine, const std::vector<TokenId>& prompt, uint32_t count) {
  const Reply reply = Must(engine.Generate({.tokens = prompt, .options = Plain(count)}));
  return {reply.tokens_per_s, AnswerOf(reply)};
}

Sample Prefill(Engine& engine, const std::vector<TokenId>& prompt) {
  const Reply reply = Must(engine.Generate({.tokens = prompt, .options = Plain(1)}));
  return {reply.prompt_tokens_per_s, AnswerOf(reply)};
}

// All replies at once; the rate is that of all from the moment when the last one began.
Sample Batch(Engine& engine, const std::vector<TokenId>& prompt, uint32_t count, size_t sequences) {
  std::vector<Reply> replies(sequences);
  std::vector<double> ends(sequences), firsts(sequences);
  const auto start = std::chrono::steady_clock::now();
  std::vector<std::thread> threads;
  for (size_t i = 0; i < sequences; ++i) {
    threads.emplace_back([&, i] {
      auto since = [&] {
        return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      };
      const double begin = since();
      replies[i] = Must(engine.Generate({.tokens = prompt, .options = Plain(count)}));
      firsts[i] = begin + replies[i].first_token_ms / 1e3;
      ends[i] = since();
    });
  }
  for (std::thread& thread : threads) thread.join();
  const double seconds = *std::ranges::max_element(ends) - *std::ranges::max_element(firsts);
  return {static_cast<double>(sequences * (count - 1)) / seconds, AnswerOf(replies[0])};
}

// Burns one core per thread until it goes.
class BusyCores {
 public:
  BusyCores() {
    for (unsigned i = 0; i < std::thread::hardware_concurrency(); ++i) {
      threads_.emplace_back([this] {
        while (!stop_.load(std::memory_order_relaxed)) {
        }
      });
    }
  }
  ~BusyCores() {
    stop_ = true;
    for (std::thread& thread : threads_) thread.join();
  }

 private:
  std::atomic<bool> stop_{false};
  std::vector<std::thread> threads_;
};

struct Context {
  Suite& suite;
  std::string models, modules;
  std::string smol() const { return models + "/SmolLM2-135M-Instruct.Q4_1.gguf"; }
  bool peers() const { return std::ifstream(modules + "/node-llama-cpp/package.json").good(); }
};

std::vector<TokenId> CodePrompt(const Engine& engine) {
  // On which both agree: its tokens leave no near-ties.
  return engine.tokenizer().Encode("def fibonacci(n):\n");
}

std::vector<TokenId> LongPrompt(const Engine& engine, size_t tokens) {
  std::string text;
  while (text.size() < tokens * 12) {
    text += "def fibonacci(n):\n    return n if n < 2 else fibonacci(n - 1)\n";
  }
  std::vector<TokenId> ids = engine.tokenizer().Encode(text);
  ids.resize(tokens);
  return ids;
}

// ---- Rows ----

void SingleRows(Context& c, const std::string& format, const std::string& path, int threads) {
  const std::string suffix = threads == 1 ? "" : "_t" + std::to_string(threads);
  const std::string decode = "inference/decode_" + format + suffix;
  const std::string prefill = "inference/prefill_512_" + format + suffix;
  if (!c.suite.Wants(decode) && !c.suite.Wants(prefill)) return;
  LlamaPeer peer(c.modules, path, {.threads = threads});
  const auto engine = Must(
      Engine::Open(path, {.threads = static_cast<uint32_t>(threads), .prefill_tokens_max = 512}));
  const auto code = CodePrompt(*engine), longer = LongPrompt(*engine, 512);
  c.suite.Row(
      {.name = decode, .peer_name = peer.name(), .unit = "tokens/s", .better = Better::kHigher},
      [&] { return Decode(*engine, code, 48); }, [&] { return peer.Ask("decode 48", code); });
  // llama.cpp rounds the inputs of products to 8 bits; so do we here.
  const auto rounded = Must(Engine::Open(path, {.threads = static_cast<uint32_t>(threads),
                                                .prefill_tokens_max = 512,
                                                .activation_bits = ActivationBits::k8}));
  c.suite.Row(
      {.name = prefill, .peer_name = peer.name(), .unit = "tokens/s", .better = Better::kHigher},
      [&] { return Prefill(*rounded, longer); }, [&] { return peer.Ask("prefill", longer); });
}

// Bytes of weights that decoding touches per second, and how fast one thread reads memory.
void BandwidthRow(Context& c, const std::string& path) {
  if (!c.suite.Wants("inference/bandwidth")) return;
  const auto engine = Must(Engine::Open(path, {}));
  const auto prompt = CodePrompt(*engine);
  const double touched = static_cast<double>(engine->info().weights_bytes);
  std::vector<uint64_t> bytes(engine->info().weights_bytes / 8, 1);
  c.suite.Row(
      {.name = "inference/bandwidth",
       .peer_name = "a read of the same bytes",
       .unit = "GB/s",
       .better = Better::kHigher},
      [&] {
        const Sample decode = Decode(*engine, prompt, 32);
        return Sample{decode.figure * touched / 1e9, 0};
      },
      [&] {
        uint64_t sums[8] = {};
        constexpr int kRounds = 8;
        const double seconds = SecondsOf([&] {
          for (int round = 0; round < kRounds; ++round) {
            for (size_t i = 0; i + 8 <= bytes.size(); i += 8) {
              for (size_t j = 0; j < 8; ++j) sums[j] += bytes[i + j];
            }
            edge::bench::KeepAlive(sums[0]);
          }
        });
        uint64_t sum = 0;
        for (const uint64_t part : sums) sum += part;
        edge::bench::KeepAlive(sum);
        return Sample{kRounds * touched / seconds / 1e9, 0};
      });
}

void BatchRows(Context& c, const std::string& path) {
  for (const int sequences : {16, 64}) {
    const std::string name = "inference/batch" + std::to_string(sequences);
    if (!c.suite.Wants(name)) continue;
    LlamaPeer peer(c.modules, path, {.context = 64 * sequences, .sequences = sequences});
    const auto engine = Must(Engine::Open(path, {}));
    const auto prompt = CodePrompt(*engine);
    c.suite.Row(
        {.name = name,
         .peer_name = peer.name(),
         .unit = "tokens/s",
         .better = Better::kHigher,
         .repetitions = 5},
        [&] { return Batch(*engine, prompt, 16, static_cast<size_t>(sequences)); },
        [&] { return peer.Ask("batch 16", prompt); });
  }
}

void DepthRow(Context& c, const std::string& path) {
  const std::string name = "inference/depth_8k";
  if (!c.suite.Wants(name)) return;
  LlamaPeer peer(c.modules, path, {.context = 8192, .flash = false});
  const auto engine = Must(Engine::Open(path, {.kv_bytes_max = 1 << 30}));
  const auto prompt = LongPrompt(*engine, 8000);
  c.suite.Row(
      {.name = name,
       .peer_name = peer.name(),
       .unit = "tokens/s",
       .better = Better::kHigher,
       .repetitions = 5},
      [&] {
        GenerateOptions options = Plain(24);
        options.reuse_prefix = true;
        const Reply reply = Must(engine->Generate({.tokens = prompt, .options = options}));
        return Sample{reply.tokens_per_s, AnswerOf(reply)};
      },
      [&] { return peer.Ask("deep 24", prompt); });
}

void ContendedRow(Context& c, const std::string& path) {
  const std::string name = "inference/contended";
  if (!c.suite.Wants(name)) return;
  LlamaPeer peer(c.modules, path, {.threads = 2});
  const auto engine = Must(Engine::Open(path, {.threads = 2}));
  const auto prompt = CodePrompt(*engine);
  const BusyCores busy;
  c.suite.Row(
      {.name = name,
       .peer_name = peer.name(),
       .unit = "tokens/s",
       .better = Better::kHigher,
       .repetitions = 5},
      [&] { return Decode(*engine, prompt, 24); }, [&] { return peer.Ask("decode 24", prompt); });
}

// Ours with guesses beside ours without, on one request or several at once.
Sample Guessing(Engine& engine, const std::vector<std::vector<TokenId>>& prompts, size_t together,
                GenerateOptions options, Speculation speculation) {
  options.speculation = speculation;
  Sample sample;
  double seconds = 0;
  size_t tokens = 0;
  for (size_t i = 0; i + together <= prompts.size(); i += together) {
    std::vector<Reply> replies(together);
    seconds += SecondsOf([&] {
      std::vector<std::thread> threads;
      for (size_t j = 0; j < together; ++j) {
        threads.emplace_back([&, j] {
          replies[j] = Must(engine.Generate({.tokens = prompts[i + j], .options = options}));
        });
      }
      for (std::thread& thread : threads) thread.join();
    });
    for (const Reply& reply : replies) {
      sample.answer = sample.answer * 31 + AnswerOf(reply);
      tokens += reply.tokens;
    }
  }
  sample.figure = static_cast<double>(tokens) / seconds;
  return sample;
}

void SpeculationRows(Context& c) {
  const auto engine = Must(Engine::Open(c.smol(), {}));
  const edge::inference::Tokenizer& tokenizer = engine->tokenizer();
  auto chat = [&](const std::string& text) {
    return Must(engine->chat_template().Apply(
        tokenizer, std::vector<edge::inference::ChatMessage>{{"user", text}}));
  };
  // Grounded work: the answer is in the question.
  std::vector<std::vector<TokenId>> grounded;
  for (const char* text :
       {"Repeat this list, one per line: apple, banana, cherry, orange, plum, grape, melon, peach.",
        "Copy this function exactly:\ndef area(width, height):\n    if width < 0 or height < 0:\n"
        "        raise ValueError('negative')\n    return width * height\n",
        "Quote the second sentence: The river rises in the northern hills and runs south. It "
        "passes "
        "three towns before it reaches the sea. The last town has a harbour.",
        "Turn this into a bulleted list and keep the words: bring a torch, two blankets, a map of "
        "the valley, some bread and a bottle of water."}) {
    grounded.push_back(chat(text));
  }
  GenerateOptions options = Plain(96);
  options.ignore_end = false;
  options.reuse_prefix = true;  // the prompt's own time is not what is measured
  c.suite.Row(
      {.name = "inference/speculation_copy",
       .peer_name = "ours without",
       .unit = "tokens/s",
       .better = Better::kHigher,
       .repetitions = 5},
      [&] { return Guessing(*engine, grounded, 1, options, Speculation::kWhenFaster); },
      [&] { return Guessing(*engine, grounded, 1, options, Speculation::kOff); });
  // Sampled hot: nothing repeats for a reason.
  std::vector<std::vector<TokenId>> hot(8, chat("Write a wild poem about numbers."));
  for (const size_t together : {1u, 8u}) {
    GenerateOptions wild = Plain(together == 1 ? 24 : 32);
    wild.reuse_prefix = true;
    wild.sampling = {.temperature = 1.3f, .seed = 5};
    c.suite.Row(
        {.name = "inference/speculation_worst" + (together == 1 ? std::string() : "_batch8"),
         .peer_name = "ours without",
         .unit = "tokens/s",
         .better = Better::kHigher,
         .repetitions = 7},
        [&] { return Guessing(*engine, hot, together, wild, Speculation::kWhenFaster); },
        [&] { return Guessing(*engine, hot, together, wild, Speculation::kOff); });
  }
}

// From the path to the first token, 1.1 billion weights, the file in the page cache.
void OpenRow(Context& c) {
  if (!c.suite.Wants("inference/open")) return;
  const std::string path = c.models + "/random-1.1B.Q8_0.gguf";
  if (!edge::bench::MakeRandom1B(path)) return;
  c.suite.Row(
      {.name = "inference/open",
       .peer_name = "the bar of 0.3 s",
       .unit = "s",
       .better = Better::kLower,
       .repetitions = 5},
      [&] {
        Sample sample;
        sample.figure = SecondsOf([&] {
          const auto engine = Must(Engine::Open(path, {.threads = 2}));
          (void)Must(engine->Generate({.tokens = {1, 300}, .options = Plain(1)}));
        });
        return sample;
      },
      [] {
        return Sample{0.3, 0};
      });
}

// The mean time of a token's mask over a whole reply, with a grammar that nobody has used yet.
void MaskRow(Context& c) {
  if (!c.suite.Wants("inference/mask")) return;
  const auto file = Must(edge::inference::GgufFile::Open(c.smol()));
  const auto tokenizer = Must(edge::inference::Tokenizer::FromGguf(*file));
  const auto trie = edge::inference::TokenTrie::Create(*tokenizer);
  const std::string schema = R"({"type": "object", "properties": {
      "name": {"type": "string"}, "age": {"type": "integer", "minimum": 0, "maximum": 150},
      "email": {"type": "string"}, "address": {"type": "object", "properties": {
        "street": {"type": "string"}, "zip": {"type": "string", "minLength": 5, "maxLength": 5}},
        "required": ["street", "zip"]},
      "tags": {"type": "array", "items": {"type": "string"}}, "active": {"type": "boolean"}},
      "required": ["name", "age", "email", "address", "tags", "active"]})";
  const std::string text = R"({"name": "Ada Lovelace", "age": 36, "email": "ada@example.org", )"
                           R"("address": {"street": "12 St James's Square", "zip": "SW1Y4"}, )"
                           R"("tags": ["mathematics", "engines", "poetry"], "active": true})";
  const std::vector<TokenId> ids = tokenizer->Encode(text);
  c.suite.Row(
      {.name = "inference/mask",
       .peer_name = "the bar of 50 us",
       .unit = "us",
       .better = Better::kLower},
      [&] {
        const auto grammar = Must(edge::inference::Grammar::FromJsonSchema(schema, trie));
        edge::inference::GrammarState state(grammar);
        double seconds = 0;
        for (const TokenId id : ids) {
          seconds += SecondsOf([&] { edge::bench::KeepAlive(state.Mask().size()); });
          if (!state.Accept(id)) std::abort();
        }
        return Sample{seconds * 1e6 / static_cast<double>(ids.size()), 0};
      },
      [] {
        return Sample{50, 0};
      });
}

// A model of random weights has no text on which two roundings agree: speed only.
void RandomRow(Context& c, const std::string& format) {
  const std::string name = "inference/decode_" + format;
  if (!c.suite.Wants(name)) return;
  const std::string path = c.models + "/random-1.1B." + format + ".gguf";
  const std::string command =
      "node " EDGE_SOURCE_DIR "/bench/inference/make_random_gguf.mjs '" + path + "' " + format;
  if (!std::ifstream(path).good() && std::system(command.c_str()) != 0) return;
  LlamaPeer peer(c.modules, path, {.threads = 1});
  const auto engine = Must(Engine::Open(path, {}));
  const std::vector<TokenId> prompt = {1, 300, 4000, 555, 20000, 31, 2999, 8};
  auto speed = [](Sample sample) { return Sample{sample.figure, 0}; };
  c.suite.Row(
      {.name = name,
       .peer_name = peer.name(),
       .unit = "tokens/s",
       .better = Better::kHigher,
       .repetitions = 5},
      [&] { return speed(Decode(*engine, prompt, 24)); },
      [&] { return speed(peer.Ask("decode 24", prompt)); });
}

}  // namespace

int main(int argc, char** argv) {
  Suite suite(argc, argv);
  Context c{suite, Environment("EDGE_MODEL_DIR", EDGE_BUILD_DIR "/models"),
            Environment("EDGE_LLAMA_NODE_MODULES",
                        Environment("EDGE_NODE_MODULES", EDGE_BUILD_DIR "/node/node_modules"))};
  if (!std::ifstream(c.smol()).good()) {
    std::fprintf(stderr, "inference rows left out: %s is not there\n", c.smol().c_str());
    return 0;
  }
  const std::string q8 = c.models + "/SmolLM2-135M-Instruct.Q8_0.gguf";
  const std::string q4 = c.models + "/SmolLM2-135M-Instruct.Q4_0.gguf";
  if (!edge::bench::Requantize(c.smol(), TensorType::kQ8_0, q8) ||
      !edge::bench::Requantize(c.smol(), TensorType::kQ4_0, q4)) {
    return 1;
  }
  BandwidthRow(c, q8);
  if (suite.Wants("inference/speculation_copy") || suite.Wants("inference/speculation_worst")) {
    SpeculationRows(c);
  }
  OpenRow(c);
  MaskRow(c);
  if (!c.peers()) {
    std::fprintf(stderr, "rows beside llama.cpp left out: no node-llama-cpp in %s\n",
                 c.modules.c_str());
    return 0;
  }
  SingleRows(c, "q8_0", q8, 1);
  SingleRows(c, "q4_0", q4, 1);
  SingleRows(c, "q4_1", c.smol(), 1);
  SingleRows(c, "q4_1", c.smol(), 2);
  RandomRow(c, "q4_k");
  BatchRows(c, q8);
  DepthRow(c, q8);
  ContendedRow(c, q8);
  return 0;
}
