// Logits of every architecture against an independent engine: golden/make_architectures.py.
#include <catch2/catch.hpp>
#include <cmath>
#include <nlohmann/json.hpp>

#include "inference/model.h"
#include "tests/inference/gguf_builder.h"
#include "tests/inference/model_files.h"

namespace edge::inference {
namespace {

constexpr uint32_t kWidth = 48, kLayers = 2, kHeads = 4, kKvHeads = 2, kHead = 16, kFfn = 80,
                   kVocabulary = 264;
constexpr TokenId kTokens[] = {1, 5, 100, 263, 42, 7, 7, 200, 3, 150, 64, 9};

// As in the script.
std::vector<float> Numbers(const std::string& name, size_t count, double spread, double middle) {
  uint32_t state = 0;
  for (const char c : name) state = state * 31 + static_cast<uint8_t>(c);
  std::vector<float> out(count);
  for (float& number : out) {
    state = state * 1664525 + 1013904223;
    number =
        static_cast<float>((static_cast<double>(state >> 8) / 16777216 - 0.5) * spread + middle);
  }
  return out;
}

testing::GgufBuilder MakeModel(const std::string& name, const std::vector<float>& rope_freqs) {
  const std::string architecture = name.substr(0, 5);
  testing::GgufBuilder out;
  const std::string at = architecture + ".";
  out.Text("general.architecture", architecture);
  out.Uint(at + "block_count", kLayers).Uint(at + "context_length", 512);
  out.Uint(at + "embedding_length", kWidth).Uint(at + "feed_forward_length", kFfn);
  out.Uint(at + "attention.head_count", kHeads).Uint(at + "attention.head_count_kv", kKvHeads);
  out.Uint(at + "attention.key_length", kHead).Uint(at + "attention.value_length", kHead);
  out.Float(at + "attention.layer_norm_rms_epsilon", 1e-5f);
  if (name == "qwen2-yarn") {
    out.Text(at + "rope.scaling.type", "yarn").Float(at + "rope.scaling.factor", 4);
    out.Uint(at + "rope.scaling.original_context_length", 128);
  }
  auto matrix = [&](const std::string& tensor, uint32_t columns, uint32_t rows, double spread) {
    out.Tensor(tensor, TensorType::kF32, columns, rows,
               Numbers(tensor, size_t{columns} * rows, spread, 0));
  };
  auto vector = [&](const std::string& tensor, uint32_t count, double spread, double middle) {
    out.Tensor(tensor, TensorType::kF32, count, 1, Numbers(tensor, count, spread, middle));
  };
  matrix("token_embd.weight", kWidth, kVocabulary, 2.0);
  for (uint32_t i = 0; i < kLayers; ++i) {
    const std::string blk = "blk." + std::to_string(i) + ".";
    vector(blk + "attn_norm.weight", kWidth, 0.5, 1);
    vector(blk + "ffn_norm.weight", kWidth, 0.5, 1);
    matrix(blk + "attn_q.weight", kWidth, kHeads * kHead, 0.6);
    matrix(blk + "attn_k.weight", kWidth, kKvHeads * kHead, 0.6);
    matrix(blk + "attn_v.weight", kWidth, kKvHeads * kHead, 0.6);
    if (architecture == "qwen2") {
      vector(blk + "attn_q.bias", kHeads * kHead, 1, 0);
      vector(blk + "attn_k.bias", kKvHeads * kHead, 1, 0);
      vector(blk + "attn_v.bias", kKvHeads * kHead, 1, 0);
    }
    if (architecture == "qwen3") {
      vector(blk + "attn_q_norm.weight", kHead, 0.5, 1);
      vector(blk + "attn_k_norm.weight", kHead, 0.5, 1);
    }
    matrix(blk + "attn_output.weight", kHeads * kHead, kWidth, 0.6);
    matrix(blk + "ffn_gate.weight", kWidth, kFfn, 0.6);
    matrix(blk + "ffn_up.weight", kWidth, kFfn, 0.6);
    matrix(blk + "ffn_down.weight", kFfn, kWidth, 0.5);
  }
  vector("output_norm.weight", kWidth, 0.5, 1);
  matrix("output.weight", kWidth, kVocabulary, 0.5);
  if (!rope_freqs.empty()) {
    out.Tensor("rope_freqs.weight", TensorType::kF32, rope_freqs.size(), 1, rope_freqs);
  }
  return out;
}

std::vector<float> LogitsOf(const Model& model, ThreadPool* pool) {
  const ModelShape& s = model.shape();
  const auto pass =
      ForwardPass::Create(model, pool,
                          {.kernels = &BestKernels(), .tokens_max = 16, .context_max = 32})
          .value();
  auto kv = KvPool::Create({s.layers, s.kv_heads, s.head_size, false}, 16 << 20).value();
  KvSequence sequence(&kv);
  REQUIRE(sequence.Reserve(16));
  // In two passes: positions must go on where the first ended.
  const std::span<const TokenId> all = kTokens;
  const PassSpan first[] = {{&sequence, all.first(5), 0}};
  pass->Run(first);
  const PassSpan rest[] = {{&sequence, all.subspan(5), 1}};
  pass->Run(rest);
  const auto logits = pass->logits(0);
  return {logits.begin(), logits.end()};
}

TEST_CASE("logits of each architecture are those of transformers", "[inference][golden]") {
  const auto golden = nlohmann::json::parse(
      testing::ReadText(EDGE_SOURCE_DIR "/tests/inference/golden/architectures.json"));
  REQUIRE(golden.size() == 5);
  ThreadPool pool(1);
  for (const auto& entry : golden) {
    const auto name = entry["name"].get<std::string>();
    CAPTURE(name);
    std::vector<float> factors;
    if (entry.contains("rope_freqs")) factors = entry["rope_freqs"].get<std::vector<float>>();
    const Bytes bytes = MakeModel(name, factors).Build();
    const auto file = GgufFile::Parse(bytes, name).value();
    const auto model = Model::Load(*file, &pool).value();
    const std::vector<float> logits = LogitsOf(*model, &pool);
    const auto expected = entry["logits"].get<std::vector<double>>();
    REQUIRE(expected.size() == logits.size());
    double difference = 0, magnitude = 0;
    for (size_t i = 0; i < logits.size(); ++i) {
      difference += std::pow(static_cast<double>(logits[i]) - expected[i], 2);
      magnitude += std::pow(expected[i], 2);
    }
    REQUIRE(std::sqrt(difference / magnitude) < 1e-5);
  }
}

TEST_CASE("an architecture without its parts, or with foreign ones, is refused", "[inference]") {
  ThreadPool pool(1);
  auto error = [&](testing::GgufBuilder builder) {
    const Bytes bytes = builder.Build();
    return std::string(Message(Model::Load(*GgufFile::Parse(bytes, "m").value(), &pool).status()));
  };
  testing::GgufBuilder builder = MakeModel("qwen3", {});
  builder.Remove("blk.1.attn_k_norm.weight");
  REQUIRE(error(builder) == "m: tensor blk.1.attn_k_norm.weight is missing");
  builder = MakeModel("llama", {});
  builder.Tensor("blk.0.attn_q_norm.weight", TensorType::kF32, kHead, 1,
                 std::vector<float>(kHead, 1.0f));
  REQUIRE(error(builder).find("attn_q_norm.weight has no place") != std::string::npos);
  builder = MakeModel("qwen2", {});
  builder.Text("general.architecture", "mamba");
  REQUIRE(error(builder) == "m: architecture \"mamba\"; known: llama, qwen2, qwen3");
  builder = MakeModel("qwen2-yarn", {});
  builder.Text("qwen2.rope.scaling.type", "longrope");
  REQUIRE(error(builder).find("known: none, linear, yarn") != std::string::npos);
}

}  // namespace
}  // namespace edge::inference
