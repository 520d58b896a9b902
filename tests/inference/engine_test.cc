#include "edge/inference/engine.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <thread>

#include "edge/base/errors.h"
#include "inference/half.h"
#include "inference/model.h"
#include "tests/inference/gguf_builder.h"

namespace edge::inference {
namespace {

using Catch::Contains;
using testing::GgufBuilder;
using testing::MakeTinyModel;
using testing::TinyModel;

// The model as a file in memory.
struct Opened {
  std::unique_ptr<MemoryFileSystem> files = MemoryFileSystem::Create();
  StatusOr<std::unique_ptr<Engine>> engine = Internal("not opened");
};

Opened Open(const GgufBuilder& builder, EngineOptions options = {}) {
  Opened out;
  const Bytes bytes = builder.Build();
  auto file = out.files->Open("model.gguf", OpenMode::kCreate).value();
  REQUIRE(file->WriteAt(0, bytes).ok());
  options.files = out.files.get();
  out.engine = Engine::Open("model.gguf", options);
  return out;
}

std::unique_ptr<Engine> OpenTiny(const TinyModel& model = {}, const EngineOptions& options = {}) {
  Opened opened = Open(MakeTinyModel(model), options);
  INFO(opened.engine.status());
  REQUIRE(opened.engine.ok());
  return std::move(*opened.engine);
}

std::vector<TokenId> SomeTokens(size_t count) {
  std::vector<TokenId> tokens;
  for (size_t i = 0; i < count; ++i) tokens.push_back(static_cast<TokenId>((i * 37 + 11) % 264));
  return tokens;
}

// ---- A second, plain implementation of the model in doubles ----

using Row = std::vector<double>;

// The values of a tensor, as its format defines them.
std::vector<Row> ReadTensor(const GgufFile& file, const std::string& name) {
  const GgufTensor* tensor = file.FindTensor(name);
  REQUIRE(tensor != nullptr);
  std::vector<Row> rows(tensor->rows(), Row(tensor->columns()));
  const TensorLayout layout = LayoutOf(tensor->type);
  for (uint64_t i = 0; i < tensor->rows() * tensor->columns(); ++i) {
    const std::byte* block = tensor->bytes.data() + i / layout.block_elements * layout.block_bytes;
    const uint64_t k = i % layout.block_elements;
    auto half = [&](size_t at) {
      return static_cast<double>(FloatFromHalf(LoadLittle<uint16_t>(block + at)));
    };
    auto nibble = [&](size_t at) {
      const auto pair = LoadLittle<uint8_t>(block + at + k % 16);
      return static_cast<double>(k < 16 ? pair & 15 : pair >> 4);
    };
    double value = 0;
    switch (tensor->type) {
      case TensorType::kF32:
        value = static_cast<double>(std::bit_cast<float>(LoadLittle<uint32_t>(block)));
        break;
      case TensorType::kF16:
        value = half(0);
        break;
      case TensorType::kBF16:
        value = static_cast<double>(FloatFromBrain(LoadLittle<uint16_t>(block)));
        break;
      case TensorType::kQ8_0:
        value = half(0) * LoadLittle<int8_t>(block + 2 + k);
        break;
      case TensorType::kQ4_0:
        value = half(0) * (nibble(2) - 8);
        break;
      default:
        value = half(0) * nibble(4) + half(2);
        break;
    }
    rows[i / tensor->columns()][i % tensor->columns()] = value;
  }
  return rows;
}

Row Times(const std::vector<Row>& m, const Row& x) {
  Row out;
  for (const Row& row : m) {
    double sum = 0;
    for (size_t i = 0; i < x.size(); ++i) sum += row[i] * x[i];
    out.push_back(sum);
  }
  return out;
}

Row Norm(const Row& x, const Row& weight) {
  double squares = 0;
  for (const double v : x) squares += v * v;
  Row out;
  for (size_t i = 0; i < x.size(); ++i) {
    out.push_back(x[i] / std::sqrt(squares / static_cast<double>(x.size()) + 1e-5) * weight[i]);
  }
  return out;
}

void Rotate(Row* x, size_t head_size, size_t position) {
  for (size_t at = 0; at < x->size(); at += head_size) {
    for (size_t i = 0; i < head_size; i += 2) {
      const double angle =
          static_cast<double>(position) *
          std::pow(10000.0, -static_cast<double>(i) / static_cast<double>(head_size));
      const double a = (*x)[at + i], b = (*x)[at + i + 1];
      (*x)[at + i] = a * std::cos(angle) - b * std::sin(angle);
      (*x)[at + i + 1] = a * std::sin(angle) + b * std::cos(angle);
    }
  }
}

Row PlainLogits(const GgufFile& file, const TinyModel& model, const std::vector<TokenId>& tokens) {
  const size_t h = model.head_size;
  const auto embedding = ReadTensor(file, "token_embd.weight");
  std::vector<std::vector<Row>> keys(model.layers), values(model.layers);
  Row x;
  for (size_t position = 0; position < tokens.size(); ++position) {
    x = embedding[static_cast<size_t>(tokens[position])];
    for (uint32_t layer = 0; layer < model.layers; ++layer) {
      const std::string prefix = "blk." + std::to_string(layer) + ".";
      auto weights = [&](const char* name) { return ReadTensor(file, prefix + name + ".weight"); };
      const Row normed = Norm(x, weights("attn_norm")[0]);
      Row q = Times(weights("attn_q"), normed), k = Times(weights("attn_k"), normed);
      Rotate(&q, h, position);
      Rotate(&k, h, position);
      keys[layer].push_back(k);
      values[layer].push_back(Times(weights("attn_v"), normed));
      Row mixed(q.size());
      for (size_t head = 0; head < model.heads; ++head) {
        const size_t kv = head / (model.heads / model.kv_heads) * h;
        Row scores;
        double total = 0;
        for (const Row& key : keys[layer]) {
          double dot = 0;
          for (size_t d = 0; d < h; ++d) dot += q[head * h + d] * key[kv + d];
          scores.push_back(std::exp(dot / std::sqrt(static_cast<double>(h))));
          total += scores.back();
        }
        for (size_t i = 0; i < scores.size(); ++i) {
          for (size_t d = 0; d < h; ++d) {
            mixed[head * h + d] += scores[i] / total * values[layer][i][kv + d];
          }
        }
      }
      const Row attended = Times(weights("attn_output"), mixed);
      for (size_t i = 0; i < x.size(); ++i) x[i] += attended[i];
      const Row inner = Norm(x, weights("ffn_norm")[0]);
      Row gate = Times(weights("ffn_gate"), inner);
      const Row up = Times(weights("ffn_up"), inner);
      for (size_t i = 0; i < gate.size(); ++i) gate[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
      const Row down = Times(weights("ffn_down"), gate);
      for (size_t i = 0; i < x.size(); ++i) x[i] += down[i];
    }
  }
  x = Norm(x, ReadTensor(file, "output_norm.weight")[0]);
  return Times(ReadTensor(file, model.tied ? "token_embd.weight" : "output.weight"), x);
}

TEST_CASE("logits equal those of a plain implementation in doubles", "[inference]") {
  const auto type = GENERATE(TensorType::kF32, TensorType::kF16, TensorType::kBF16,
                             TensorType::kQ8_0, TensorType::kQ4_0, TensorType::kQ4_1);
  TinyModel model{.type = type, .embedding_type = type};
  // Heads of 8, of 32 and of 64; feed-forward rows that are and are not whole blocks; tied
  // and own heads; groups of 1, 2 and 3 queries.
  const int shape = GENERATE(0, 1, 2);
  if (shape == 1)
    model = {.heads = 2, .kv_heads = 2, .head_size = 32, .ffn = 96, .type = type, .tied = false};
  if (shape == 2)
    model = {.layers = 1,
             .heads = 3,
             .kv_heads = 1,
             .head_size = 64,
             .ffn = 172,
             .type = type,
             .embedding_type = TensorType::kQ8_0};
  CAPTURE(TensorTypeName(type), shape);
  const Bytes bytes = MakeTinyModel(model).Build();
  const auto file = GgufFile::Parse(bytes, "tiny").value();
  const auto tokens = SomeTokens(21);
  const Row expected = PlainLogits(*file, model, tokens);
  const auto logits = OpenTiny(model, {.kv_format = KvFormat::kF32})->Logits(tokens).value();
  REQUIRE(logits.size() == expected.size());
  double most = 0;
  for (const double value : expected) most = std::max(most, std::fabs(value));
  double error = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    error = std::max(error, std::fabs(static_cast<double>(logits[i]) - expected[i]));
  }
  CHECK(error <= 1e-3 * most);
}

TEST_CASE("logits do not depend on threads, on how a prompt is cut, or on vector width",
          "[inference]") {
  const auto type = GENERATE(TensorType::kF16, TensorType::kQ8_0, TensorType::kQ4_1);
  const TinyModel model{.heads = 4, .kv_heads = 2, .head_size = 16, .ffn = 128, .type = type};
  const auto tokens = SomeTokens(100);
  const auto expected = OpenTiny(model)->Logits(tokens).value();
  for (const uint32_t threads : {1u, 2u, 3u}) {
    for (const uint32_t pass : {1u, 7u, 16u, 4096u}) {
      CAPTURE(threads, pass);
      const auto engine = OpenTiny(model, {.threads = threads, .prefill_tokens_max = pass});
      REQUIRE(engine->Logits(tokens).value() == expected);
    }
  }
  const auto file = GgufFile::Parse(MakeTinyModel(model).Build(), "tiny");
  const Bytes bytes = MakeTinyModel(model).Build();
  const auto parsed = GgufFile::Parse(bytes, "tiny").value();
  ThreadPool pool(1);
  const auto loaded = Model::Load(*parsed, &pool).value();
  for (const char* name : {"scalar", "avx2", "avx512-vnni"}) {
    const Kernels* kernels = FindKernels(name);
    if (kernels == nullptr) continue;
    CAPTURE(name);
    const auto pass =
        ForwardPass::Create(*loaded, &pool,
                            {.kernels = kernels, .tokens_max = 64, .context_max = 256})
            .value();
    KvPool kv = KvPool::Create({2, 2, 16, true}, 1 << 20).value();
    KvSequence sequence(&kv);
    REQUIRE(sequence.Reserve(100));
    const PassSpan first[] = {{&sequence, std::span(tokens).first(64), 0}};
    const PassSpan rest[] = {{&sequence, std::span(tokens).subspan(64), 1}};
    pass->Run(first);
    pass->Run(rest);
    const auto logits = pass->logits(0);
    REQUIRE(std::vector(logits.begin(), logits.end()) == expected);
  }
}

TEST_CASE("text streams out whole and equals the reply", "[inference]") {
  const auto engine = OpenTiny();
  std::string streamed;
  const auto reply =
      engine
          ->Generate({.prompt = "ab ab", .options = {.tokens_max = 40, .ignore_end = true}},
                     [&](std::string_view piece) { streamed += piece; })
          .value();
  CHECK(reply.tokens == 40);
  CHECK(reply.token_ids.size() == 40);
  CHECK(reply.prompt_tokens > 2);
  CHECK(reply.stop == StopReason::kTokensMax);
  CHECK(reply.text == streamed);
  CHECK(reply.kv_kept == 1.0);
  CHECK(engine->kv_bytes_used() == 0);
  CHECK(engine->info().layers == 2);
  CHECK(engine->info().kv_bytes_per_16_tokens == 2 * 2 * 768);
}

TEST_CASE("a seed decides sampled text, and threads do not", "[inference]") {
  auto text = [](uint64_t seed, uint32_t threads) {
    return OpenTiny({}, {.threads = threads})
        ->Generate(
            {.prompt = "ab",
             .options =
                 {.tokens_max = 30,
                  .sampling = {.temperature = 1.5f, .top_k = 50, .top_p = 0.95f, .seed = seed},
                  .ignore_end = true}})
        .value()
        .token_ids;
  };
  CHECK(text(1, 1) == text(1, 2));
  CHECK(text(1, 1) != text(2, 1));
}

TEST_CASE("generation stops where it should and says why", "[inference]") {
  const auto engine = OpenTiny({.context = 48});
  auto generate = [&](GenerateOptions options, OnPiece on_piece = {}) {
    options.ignore_end = true;
    return engine->Generate({.prompt = "ab ab", .options = options}, std::move(on_piece)).value();
  };
  SECTION("at the end of the context") {
    const Reply reply = generate({.tokens_max = 1000});
    CHECK(reply.stop == StopReason::kContext);
    CHECK(reply.prompt_tokens + reply.tokens == 49);  // the last one is not run
  }
  SECTION("when the callback says so") {
    int pieces = 0;
    const Reply reply =
        generate({.tokens_max = 30}, [&](std::string_view) { return ++pieces < 3; });
    CHECK(reply.stop == StopReason::kCancelled);
    CHECK(pieces == 3);
  }
  SECTION("when it is cancelled from outside") {
    std::atomic<bool> cancel = false;
    const Reply reply =
        generate({.tokens_max = 30, .cancel = &cancel}, [&](std::string_view) { cancel = true; });
    CHECK(reply.stop == StopReason::kCancelled);
    CHECK(reply.tokens >= 1);
    CHECK(reply.tokens < 30);
  }
  SECTION("before it began, if cancelled before") {
    const std::atomic<bool> cancel = true;
    const Reply reply = generate({.cancel = &cancel});
    CHECK(reply.stop == StopReason::kCancelled);
    CHECK(reply.tokens == 0);
  }
  SECTION("before a stop text, of which nothing is shown") {
    const std::string whole = generate({.tokens_max = 20}).text;
    REQUIRE(whole.size() > 6);
    const std::string stop = whole.substr(3, 3);
    std::string streamed;
    const Reply reply = generate({.tokens_max = 20, .stop = {"never to be seen", stop}},
                                 [&](std::string_view piece) { streamed += piece; });
    CHECK(reply.stop == StopReason::kStopText);
    CHECK(reply.text == whole.substr(0, whole.find(stop)));
    CHECK(streamed == reply.text);
  }
  CHECK(engine->kv_bytes_used() == 0);
}

TEST_CASE("a full cache ends the reply, a prompt too long for it is refused", "[inference]") {
  // 16 tokens take 3072 bytes here: room for 48.
  const auto engine = OpenTiny({}, {.kv_bytes_max = 3 * 3072});
  const auto reply =
      engine
          ->Generate({.tokens = SomeTokens(20), .options = {.tokens_max = 100, .ignore_end = true}})
          .value();
  CHECK(reply.stop == StopReason::kKvBudget);
  CHECK(reply.tokens == 29);
  const auto refused = engine->Generate({.tokens = SomeTokens(49)});
  CHECK(refused.status().code() == StatusCode::kResourceExhausted);
  CHECK(Message(refused.status()) ==
        "a prompt of 49 tokens takes 12288 bytes of keys and values; kv_bytes_max is 9216");
}

TEST_CASE("bad requests are refused with their numbers", "[inference]") {
  const auto engine = OpenTiny();
  auto error = [&](const Request& request) {
    const auto reply = engine->Generate(request);
    CHECK(reply.status().code() == StatusCode::kInvalidArgument);
    return std::string(Message(reply.status()));
  };
  CHECK(error({.tokens = SomeTokens(257)}) == "a prompt of 257 tokens; the context holds 256");
  CHECK(error({.tokens = {264}}) == "token 264 is not in 0 to 263");
  CHECK(error({.tokens = {-1}}) == "token -1 is not in 0 to 263");
  CHECK(error({.prompt = "a", .options = {.tokens_max = 0}}) == "tokens_max is 0");
  CHECK(error({.prompt = "a", .options = {.stop = {""}}}) == "an empty stop text");
  CHECK(error({.prompt = "a", .tokens = {1}}) == "both a prompt and tokens");
  CHECK_THAT(error({.prompt = "a", .options = {.sampling = {.temperature = -1}}}),
             Contains("temperature"));
  CHECK(engine->Chat({}).status().code() == StatusCode::kInvalidArgument);
  CHECK(engine->Logits({}).status().code() == StatusCode::kInvalidArgument);
  CHECK(engine->Logits({1}).ok());
  CHECK(engine->kv_bytes_used() == 0);
}

TEST_CASE("a callback that throws ends its request, and one may call the engine", "[inference]") {
  const auto engine = OpenTiny();
  const Request request{.prompt = "ab", .options = {.tokens_max = 20, .ignore_end = true}};
  const auto thrown =
      engine->Generate(request, [](std::string_view) { throw std::runtime_error("no"); });
  CHECK(thrown.status().code() == StatusCode::kUnknown);
  CHECK(Message(thrown.status()) == "the callback threw: no");
  Status inner;
  REQUIRE(engine
              ->Generate(request,
                         [&](std::string_view) {
                           inner = engine->Generate(request).status();
                           return false;
                         })
              .ok());
  CHECK(inner.ok());
  CHECK(engine->Generate(request).ok());
}

TEST_CASE("a model that does not hold together is refused by name", "[inference]") {
  GgufBuilder builder = MakeTinyModel({});
  auto error = [&](StatusCode code) {
    const auto engine = Open(builder).engine;
    CHECK(engine.status().code() == code);
    CHECK_THAT(std::string(Message(engine.status())), Contains("model.gguf"));
    return std::string(Message(engine.status()));
  };
  SECTION("another architecture") {
    builder.Text("general.architecture", "mamba");
    CHECK_THAT(error(StatusCode::kUnimplemented), Contains("architecture \"mamba\""));
  }
  SECTION("a missing number") {
    builder.Remove("llama.block_count");
    CHECK_THAT(error(StatusCode::kInvalidArgument), Contains("llama.block_count is missing"));
  }
  SECTION("a number out of range") {
    builder.Uint("llama.attention.head_count", 0);
    CHECK_THAT(error(StatusCode::kInvalidArgument), Contains("head_count is 0"));
  }
  SECTION("heads that do not divide") {
    builder.Uint("llama.attention.head_count_kv", 3);
    CHECK_THAT(error(StatusCode::kInvalidArgument), Contains("4 heads cannot share 3 KV heads"));
  }
  SECTION("a missing tensor") {
    builder.Remove("blk.1.ffn_up.weight");
    CHECK_THAT(error(StatusCode::kInvalidArgument),
               Contains("tensor blk.1.ffn_up.weight is missing"));
  }
  SECTION("a tensor of another shape") {
    builder.Uint("llama.feed_forward_length", 48);
    CHECK_THAT(error(StatusCode::kInvalidArgument),
               Contains("tensor blk.0.ffn_gate.weight has 44 rows of 32, expected 48 of 32"));
  }
  SECTION("a tensor too many") {
    builder.Tensor("blk.0.attn_sinks", TensorType::kF32, 32, 1, std::vector<float>(32));
    CHECK_THAT(error(StatusCode::kUnimplemented), Contains("tensor blk.0.attn_sinks"));
  }
  SECTION("a position scaling that we do not know") {
    builder.Text("llama.rope.scaling.type", "longrope");
    CHECK_THAT(error(StatusCode::kUnimplemented), Contains("\"longrope\""));
  }
  SECTION("more tokens than embeddings") {
    builder.Remove("token_embd.weight");
    builder.Tensor("token_embd.weight", TensorType::kF32, 32, 2, std::vector<float>(64));
    CHECK_THAT(error(StatusCode::kInvalidArgument), Contains("264 tokens"));
  }
}

TEST_CASE("engine options out of range are refused", "[inference]") {
  auto code = [](const EngineOptions& options) {
    return Open(MakeTinyModel({}), options).engine.status().code();
  };
  CHECK(code({.threads = 0}) == StatusCode::kInvalidArgument);
  CHECK(code({.threads = 257}) == StatusCode::kInvalidArgument);
  CHECK(code({.prefill_tokens_max = 0}) == StatusCode::kInvalidArgument);
  CHECK(code({.kv_bytes_max = 100}) == StatusCode::kResourceExhausted);
  CHECK(Engine::Open("/nowhere/x.gguf").status().code() == StatusCode::kNotFound);
}

}  // namespace
}  // namespace edge::inference
