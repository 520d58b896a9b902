// Many requests at once: the same tokens as alone, and nobody harms another.
#include <catch2/catch.hpp>
#include <random>
#include <thread>

#include "edge/base/check.h"
#include "edge/base/errors.h"
#include "edge/base/mutex.h"
#include "edge/inference/engine.h"
#include "edge/inference/tools.h"
#include "inference/tool_constraint.h"
#include "tests/inference/gguf_builder.h"
#include "tests/inference/model_files.h"

namespace edge::inference {
namespace {

using testing::MakeTinyModel;
using testing::TinyModel;

std::unique_ptr<Engine> OpenTiny(const TinyModel& model, EngineOptions options) {
  const auto files = MemoryFileSystem::Create();
  const auto file = files->Open("model.gguf", OpenMode::kCreate).value();
  REQUIRE(file->WriteAt(0, MakeTinyModel(model).Build()).ok());
  options.files = files.get();
  auto engine = Engine::Open("model.gguf", options);
  INFO(engine.status());
  REQUIRE(engine.ok());
  return std::move(*engine);
}

std::vector<TokenId> RandomTokens(std::mt19937* rng, size_t count, uint32_t vocabulary) {
  std::vector<TokenId> tokens(count);
  for (TokenId& token : tokens) token = static_cast<TokenId>((*rng)() % vocabulary);
  return tokens;
}

// Requests of all kinds: greedy, sampled, penalized; short and long prompts.
std::vector<Request> MixedRequests(size_t count, uint32_t vocabulary, uint32_t prompt_max) {
  std::mt19937 rng(7);
  std::vector<Request> requests(count);
  for (size_t i = 0; i < count; ++i) {
    requests[i].tokens = RandomTokens(&rng, 1 + rng() % prompt_max, vocabulary);
    GenerateOptions& options = requests[i].options;
    options.tokens_max = 5 + static_cast<uint32_t>(rng() % 30);
    options.ignore_end = true;
    options.speculation = i % 2 == 0 ? Speculation::kAlways : Speculation::kWhenFaster;
    if (i % 3 == 1) options.sampling = {.temperature = 1.1f, .top_p = 0.9f, .seed = i};
    if (i % 3 == 2) {
      options.sampling = {.temperature = 0.8f,
                          .min_p = 0.01f,
                          .repetition_penalty = 1.2f,
                          .presence_penalty = 0.5f,
                          .seed = i};
    }
  }
  return requests;
}

std::vector<std::vector<TokenId>> RunAlone(Engine& engine, std::vector<Request> requests) {
  std::vector<std::vector<TokenId>> out;
  for (Request& request : requests) {
    request.options.reuse_prefix = false;
    request.options.speculation = Speculation::kOff;
    out.push_back(engine.Generate(request).value().token_ids);
  }
  return out;
}

std::vector<std::vector<TokenId>> RunTogether(Engine& engine,
                                              const std::vector<Request>& requests) {
  std::vector<std::vector<TokenId>> out(requests.size());
  std::vector<std::thread> threads;
  for (size_t i = 0; i < requests.size(); ++i) {
    threads.emplace_back([&, i] { out[i] = engine.Generate(requests[i]).value().token_ids; });
  }
  for (std::thread& thread : threads) thread.join();
  return out;
}

void CheckInvariance(const std::string& path, uint32_t vocabulary, uint32_t prompt_max,
                     size_t count) {
  if (!testing::FileExists(path)) {
    WARN("SKIPPED: " << path << " is not there");
    return;
  }
  const auto requests = MixedRequests(count, vocabulary, prompt_max);
  const auto alone = RunAlone(*Engine::Open(path, {.threads = 1}).value(), requests);
  const auto batched = Engine::Open(path, {.threads = 2, .prefill_tokens_max = 48}).value();
  CHECK(RunTogether(*batched, requests) == alone);
  CHECK(RunTogether(*batched, requests) == alone);  // their prefixes are known now
  CHECK(batched->metrics().counter("edge_inference_prefix_tokens_total").value() > 0);
}

TEST_CASE("a batch of 64 gives each request the tokens that it gets alone", "[inference]") {
  const TinyModel model{.head_size = 16, .ffn = 64, .type = TensorType::kQ8_0};
  const auto requests = MixedRequests(64, 264, 100);
  const auto alone = RunAlone(*OpenTiny(model, {}), requests);
  for (const uint32_t threads : {1u, 2u}) {
    for (const uint32_t pass : {1u, 33u, 256u}) {
      CAPTURE(threads, pass);
      const auto engine = OpenTiny(model, {.threads = threads, .prefill_tokens_max = pass});
      REQUIRE(RunTogether(*engine, requests) == alone);
      REQUIRE(RunTogether(*engine, requests) == alone);
      CHECK(engine->kv_bytes_used() == 0);
    }
  }
}

TEST_CASE("stories260K in a batch writes what it writes alone", "[inference]") {
  CheckInvariance(testing::StoriesPath(GENERATE("f32", "q8_0", "q4_0")), 512, 120, 64);
}

TEST_CASE("SmolLM2 in a batch writes what it writes alone", "[inference][golden]") {
  CheckInvariance(testing::SmolPath(), 49152, 30, 8);
}

TEST_CASE("when the cache is too small for all, they wait and get the same tokens", "[inference]") {
  const TinyModel model{.head_size = 16, .ffn = 64, .type = TensorType::kQ4_0};
  const auto requests = MixedRequests(24, 264, 60);
  const auto alone = RunAlone(*OpenTiny(model, {}), requests);
  // 16 tokens take 4 KiB: room for about two of them at a time.
  const auto engine = OpenTiny(model, {.kv_bytes_max = 11 << 12, .sequences_max = 16});
  REQUIRE(RunTogether(*engine, requests) == alone);
  CHECK(engine->kv_bytes_used() == 0);
  CHECK(engine->kv_bytes_cached() <= 11 << 12);
}

TEST_CASE("a known prefix is not computed again", "[inference]") {
  const auto engine = OpenTiny({}, {});
  std::mt19937 rng(3);
  Request request{.tokens = RandomTokens(&rng, 64, 264),
                  .options = {.tokens_max = 20, .ignore_end = true}};
  const auto first = engine->Generate(request).value();
  CHECK(first.prefix_tokens == 0);
  // All of it is known; its last token is computed for the logits, in a block of its own.
  const auto again = engine->Generate(request).value();
  CHECK(again.prefix_tokens == 63);
  CHECK(again.token_ids == first.token_ids);
  // A conversation goes on: the reply is known too.
  request.tokens.insert(request.tokens.end(), first.token_ids.begin(), first.token_ids.end());
  const auto more = engine->Generate(request).value();
  CHECK(more.prefix_tokens == 80);
  request.options.reuse_prefix = false;
  const auto fresh = engine->Generate(request).value();
  CHECK(fresh.prefix_tokens == 0);
  CHECK(fresh.token_ids == more.token_ids);
  request.tokens[5] ^= 1;
  request.options.reuse_prefix = true;
  CHECK(engine->Generate(request).value().prefix_tokens == 0);
}

TEST_CASE("guessed tokens change nothing but the number of passes", "[inference]") {
  // Three tokens to choose from repeat themselves soon.
  const auto engine = OpenTiny({.context = 512}, {.context_tokens_max = 512});
  Request request{.tokens = {10, 20, 30, 10, 10, 20}};
  size_t guessed = 0;
  for (const float temperature : {0.0f, 0.3f, 1.0f}) {
    for (uint64_t seed = 0; seed < 4; ++seed) {
      CAPTURE(temperature, seed);
      request.options = {.tokens_max = 200,
                         .sampling = {.temperature = temperature,
                                      .top_k = 20,
                                      .logit_bias = {{10, 50}, {20, 50}, {30, 50}},
                                      .seed = seed},
                         .ignore_end = true};
      request.options.speculation = Speculation::kOff;
      const auto plain = engine->Generate(request).value();
      CHECK(plain.guessed_tokens == 0);
      request.options.speculation = Speculation::kAlways;
      const auto fast = engine->Generate(request).value();
      CHECK(fast.token_ids == plain.token_ids);
      CHECK(fast.text == plain.text);
      guessed += fast.guessed_tokens;
    }
  }
  CHECK(guessed > 0);
}

TEST_CASE("one request's end does not disturb another", "[inference]") {
  const auto engine = OpenTiny({.context = 4096}, {});
  const Request steady{.tokens = {5, 6, 7}, .options = {.tokens_max = 400, .ignore_end = true}};
  const auto expected = engine->Generate(steady)->token_ids;
  std::vector<TokenId> got;
  std::thread other([&] { got = engine->Generate(steady)->token_ids; });
  CHECK(engine->Generate(steady, [](std::string_view) { return false; })->stop ==
        StopReason::kCancelled);
  CHECK(engine->Generate(steady, [](std::string_view) { throw 1; }).status().code() ==
        StatusCode::kUnknown);
  CHECK_FALSE(engine->Generate({.tokens = {-5}}).ok());
  Request late = steady;
  late.options.tokens_max = 100000;
  late.options.timeout_ms = 1;
  const auto timed = engine->Generate(late);
  CHECK((timed.ok() ? timed->stop == StopReason::kTimeout
                    : timed.status().code() == StatusCode::kDeadlineExceeded));
  other.join();
  CHECK(got == expected);
}

// With one place to run in; each holds it until it has written its name down.
TEST_CASE("the higher priority goes first, then the tenant with fewer tokens", "[inference]") {
  const auto engine = OpenTiny({.context = 16384}, {.sequences_max = 1});
  std::atomic<bool> running = false, all_wait = false;
  Mutex mu;
  std::vector<std::string> order;
  std::vector<std::thread> threads;
  auto submit = [&](std::string name, int32_t priority, std::string tenant) {
    threads.emplace_back([&, name, priority, tenant] {
      const Request request{
          .tokens = {1, 2, 3},
          .options = {
              .tokens_max = 100000, .ignore_end = true, .priority = priority, .tenant = tenant}};
      (void)engine->Generate(request, [&](std::string_view) {
        {
          MutexLock lock(&mu);
          order.push_back(name);
        }
        running = true;
        while (!all_wait) std::this_thread::yield();
        return false;
      });
    });
  };
  submit("first", 0, "busy");
  while (!running) std::this_thread::yield();
  auto submit_and_wait = [&](std::string name, int32_t priority, std::string tenant) {
    const auto waiting = static_cast<int64_t>(threads.size());
    submit(name, priority, tenant);
    while (engine->metrics().gauge("edge_inference_waiting").value() < waiting) {
      std::this_thread::yield();
    }
  };
  submit_and_wait("busy tenant", 0, "busy");
  submit_and_wait("idle tenant", 0, "idle");
  submit_and_wait("low priority", -1, "other");
  submit_and_wait("high priority", 1, "busy");
  all_wait = true;
  for (std::thread& thread : threads) thread.join();
  CHECK(order == std::vector<std::string>{"first", "high priority", "idle tenant", "busy tenant",
                                          "low priority"});
  CHECK(engine->metrics().counter("edge_inference_requests_total").value() == 5);
  CHECK(engine->kv_bytes_used() == 0);
}

TEST_CASE("a full queue refuses", "[inference]") {
  const auto engine = OpenTiny({}, {.queue_max = 0});
  const auto refused = engine->Generate({.tokens = {1}});
  CHECK(refused.status().code() == StatusCode::kResourceExhausted);
  CHECK(Message(refused.status()) == "0 requests wait already; queue_max is 0");
}

// Tokens of one residue modulo 3, another each time; after each second one, 7 and 8 must come.
// Complete after 24 tokens.
class EveryThird final : public ConstraintFactory {
 public:
  class State final : public Constraint {
   public:
    explicit State(size_t vocabulary) : mask_((vocabulary + 63) / 64), vocabulary_(vocabulary) {}
    TokenMask Allowed() override {
      std::fill(mask_.begin(), mask_.end(), 0);
      for (size_t id = accepted_ % 3; id < vocabulary_; id += 3) mask_[id / 64] |= 1ull << id % 64;
      return mask_;
    }
    void Accept(TokenId token) override {
      EDGE_CHECK(static_cast<size_t>(token) % 3 == accepted_ % 3);  // not on the test's thread
      ++accepted_;
    }
    void TakeForced(std::vector<TokenId>* tokens) override {
      if (accepted_ % 2 != 0 || complete()) return;
      tokens->insert(tokens->end(), {7, 8});
      accepted_ += 2;
    }
    bool complete() const override { return accepted_ >= 24; }

   private:
    std::vector<uint64_t> mask_;
    size_t vocabulary_;
    size_t accepted_ = 0;
  };
  StatusOr<std::unique_ptr<Constraint>> Begin(const Tokenizer& tokenizer) const override {
    return std::unique_ptr<Constraint>(std::make_unique<State>(tokenizer.size()));
  }
};

TEST_CASE("a constraint decides what may come, and what must costs no pass", "[inference]") {
  const auto engine = OpenTiny({}, {});
  Request request{.tokens = {3, 4, 5}};
  request.options.constraint = std::make_shared<EveryThird>();
  request.options.ignore_end = true;
  for (const float temperature : {0.0f, 1.0f}) {
    request.options.sampling = {.temperature = temperature, .seed = 9};
    request.options.speculation = Speculation::kOff;
    const auto plain = engine->Generate(request).value();
    CHECK(plain.stop == StopReason::kEnd);
    REQUIRE(plain.tokens == 24);
    CHECK(plain.forced_tokens == 12);
    CHECK(plain.token_ids[0] == 7);  // before anything was sampled
    CHECK(plain.token_ids[1] == 8);
    CHECK(plain.token_ids[4] == 7);
    request.options.speculation = Speculation::kAlways;
    CHECK(engine->Generate(request).value().token_ids == plain.token_ids);
  }
}

TEST_CASE("a tool call is written as its schema says, whatever the model would say",
          "[inference]") {
  const auto engine = OpenTiny({}, {});
  const std::string tool =
      R"({"name": "book", "parameters": {"type": "object", "required": ["seat", "window"],
          "properties": {"seat": {"enum": ["1A", "1B", "2A"]}, "window": {"type": "boolean"}},
          "additionalProperties": false}})";
  Request request{.tokens = {3, 4, 5}};
  request.options.tokens_max = 120;
  request.options.ignore_end = true;
  request.options.constraint =
      ConstrainCalls({tool}, engine->token_trie(), CallFirst::kYes).value();
  for (uint64_t seed = 0; seed < 8; ++seed) {
    CAPTURE(seed);
    request.options.sampling = {.temperature = 2, .seed = seed};
    const auto reply = engine->Generate(request).value();
    CHECK(reply.forced_tokens > 20);
    const ParsedCalls parsed = ParseToolCalls(reply.text);
    REQUIRE(!parsed.calls.empty());
    const Tool book("book", "", R"({"type": "object", "required": ["seat", "window"],
        "properties": {"seat": {"enum": ["1A", "1B", "2A"]}, "window": {"type": "boolean"}}})",
                    [](const ToolArguments&) { return std::string("booked"); });
    CHECK(parsed.calls[0].name == "book");
    CHECK(book.Call(parsed.calls[0].arguments).ok());
  }
}

TEST_CASE("log probabilities are those of the logits", "[inference]") {
  const auto engine = OpenTiny({}, {});
  const auto reply =
      engine
          ->Generate({.tokens = {3, 4, 5},
                      .options = {.tokens_max = 4, .ignore_end = true, .logprobs = 3}})
          .value();
  REQUIRE(reply.logprobs.size() == 4);
  auto logits = engine->Logits({3, 4, 5}).value();
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit));
  const auto id = static_cast<size_t>(reply.token_ids[0]);
  CHECK(reply.logprobs[0].id == reply.token_ids[0]);
  CHECK(reply.logprobs[0].logprob ==
        Approx(static_cast<double>(logits[id]) - std::log(sum)).epsilon(1e-4));
  REQUIRE(reply.logprobs[0].top.size() == 3);
  CHECK(reply.logprobs[0].top[0].first == reply.token_ids[0]);  // greedy
  CHECK(reply.logprobs[0].top[0].second >= reply.logprobs[0].top[1].second);
}

}  // namespace
}  // namespace edge::inference
