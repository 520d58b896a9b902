#include "bench/inference/bench_models.h"

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <random>
#include <vector>

#include "inference/aligned_buffer.h"
#include "inference/half.h"
#include "inference/pack.h"
#include "tests/inference/gguf_builder.h"

namespace edge::bench {
namespace {

using inference::GgufFile;
using inference::GgufTensor;
using inference::TensorType;
using inference::testing::GgufBuilder;

bool Save(const GgufBuilder& builder, const std::string& to) {
  const Bytes bytes = builder.Build();
  const std::string part = to + ".part";
  std::ofstream out(part, std::ios::binary);
  out.write(reinterpret_cast<const char*>(bytes.data()),
            static_cast<std::streamsize>(bytes.size()));
  out.close();
  std::error_code error;
  if (out.good()) std::filesystem::rename(part, to, error);
  if (!out.good() || error) std::fprintf(stderr, "cannot write %s\n", to.c_str());
  return out.good() && !error;
}

std::vector<float> Values(const GgufTensor& tensor) {
  const auto rows = static_cast<uint32_t>(tensor.rows());
  const auto columns = static_cast<uint32_t>(tensor.columns());
  const auto layout = inference::LayoutPacked(tensor.type, rows, columns);
  auto memory = inference::AlignedBuffer::Create(layout.total_bytes(), "a tensor").value();
  const auto packed = inference::Pack(tensor, layout, memory.data());
  std::vector<float> values(size_t{rows} * columns);
  for (uint32_t row = 0; row < rows; ++row) {
    inference::UnpackRow(packed, row, values.data() + size_t{row} * columns);
  }
  return values;
}

std::vector<std::string> Strings(const std::vector<std::string_view>& views) {
  return {views.begin(), views.end()};
}

void CopyMetadata(const GgufFile& file, GgufBuilder* out) {
  for (const char* key : {"general.architecture", "general.name", "tokenizer.ggml.model",
                          "tokenizer.ggml.pre", "tokenizer.chat_template"}) {
    if (const auto text = file.Text(key).value()) out->Text(key, *text);
  }
  for (const char* key :
       {"llama.block_count", "llama.context_length", "llama.embedding_length",
        "llama.feed_forward_length", "llama.attention.head_count", "llama.attention.head_count_kv",
        "llama.rope.dimension_count", "llama.vocab_size", "tokenizer.ggml.bos_token_id",
        "tokenizer.ggml.eos_token_id", "tokenizer.ggml.unknown_token_id"}) {
    if (const auto value = file.Uint(key).value()) out->Uint(key, static_cast<uint32_t>(*value));
  }
  for (const char* key : {"llama.rope.freq_base", "llama.attention.layer_norm_rms_epsilon"}) {
    if (const auto value = file.Number(key).value()) out->Float(key, static_cast<float>(*value));
  }
  for (const char* key : {"tokenizer.ggml.tokens", "tokenizer.ggml.merges"}) {
    if (const auto texts = file.Texts(key).value()) out->Texts(key, Strings(*texts));
  }
  if (const auto kinds = file.Ints("tokenizer.ggml.token_type").value()) {
    out->Ints("tokenizer.ggml.token_type", *kinds);
  }
  if (file.Bool("tokenizer.ggml.add_bos_token").value()) {
    out->Bool("tokenizer.ggml.add_bos_token", *file.Bool("tokenizer.ggml.add_bos_token").value());
  }
}

}  // namespace

bool Requantize(const std::string& from, TensorType type, const std::string& to) {
  if (std::filesystem::exists(to)) return true;
  const auto file = GgufFile::Open(from);
  if (!file.ok()) {
    std::fprintf(stderr, "%s\n", file.status().ToString().c_str());
    return false;
  }
  GgufBuilder builder;
  CopyMetadata(**file, &builder);
  for (const GgufTensor& tensor : (*file)->tensors()) {
    const bool matrix = tensor.rows() > 1;
    builder.Tensor(tensor.name, matrix ? type : TensorType::kF32, tensor.columns(), tensor.rows(),
                   Values(tensor));
  }
  return Save(builder, to);
}

bool MakeRandom1B(const std::string& to) {
  if (std::filesystem::exists(to)) return true;
  constexpr uint32_t kWidth = 2048, kLayers = 22, kHeads = 32, kKvHeads = 4, kFfn = 5632,
                     kTokens = 32000;
  GgufBuilder builder;
  builder.Text("general.architecture", "llama").Text("tokenizer.ggml.model", "llama");
  builder.Uint("llama.block_count", kLayers).Uint("llama.context_length", 8192);
  builder.Uint("llama.embedding_length", kWidth).Uint("llama.feed_forward_length", kFfn);
  builder.Uint("llama.attention.head_count", kHeads);
  builder.Uint("llama.attention.head_count_kv", kKvHeads);
  builder.Float("llama.attention.layer_norm_rms_epsilon", 1e-5f);
  std::vector<std::string> texts = {"<unk>", "<s>", "</s>"};
  std::vector<int32_t> kinds = {2, 3, 3};
  for (int byte = 0; byte < 256; ++byte) {
    char text[8];
    std::snprintf(text, sizeof text, "<0x%02X>", byte);
    texts.push_back(text);
    kinds.push_back(6);
  }
  while (texts.size() < kTokens) {
    texts.push_back("t" + std::to_string(texts.size()));
    kinds.push_back(1);
  }
  builder.Texts("tokenizer.ggml.tokens", texts).Ints("tokenizer.ggml.token_type", kinds);
  builder.Floats("tokenizer.ggml.scores", std::vector<float>(kTokens));
  builder.Uint("tokenizer.ggml.bos_token_id", 1).Uint("tokenizer.ggml.eos_token_id", 2);
  std::mt19937_64 rng(1);
  auto matrix = [&](const std::string& name, uint64_t columns, uint64_t rows) {
    Bytes bytes(columns * rows / 32 * 34);
    for (size_t i = 0; i + 8 <= bytes.size(); i += 8) {
      const uint64_t bits = rng();
      std::memcpy(bytes.data() + i, &bits, 8);
    }
    const uint16_t scale = inference::HalfFromFloat(0.01f / std::sqrt(static_cast<float>(columns)));
    for (size_t i = 0; i < bytes.size(); i += 34) std::memcpy(bytes.data() + i, &scale, 2);
    builder.RawTensor(name, TensorType::kQ8_0, columns, rows, std::move(bytes));
  };
  auto norm = [&](const std::string& name) {
    builder.Tensor(name, TensorType::kF32, kWidth, 1, std::vector<float>(kWidth, 1.0f));
  };
  matrix("token_embd.weight", kWidth, kTokens);
  for (uint32_t layer = 0; layer < kLayers; ++layer) {
    const std::string prefix = "blk." + std::to_string(layer) + ".";
    norm(prefix + "attn_norm.weight");
    norm(prefix + "ffn_norm.weight");
    matrix(prefix + "attn_q.weight", kWidth, kWidth);
    matrix(prefix + "attn_k.weight", kWidth, kWidth / kHeads * kKvHeads);
    matrix(prefix + "attn_v.weight", kWidth, kWidth / kHeads * kKvHeads);
    matrix(prefix + "attn_output.weight", kWidth, kWidth);
    matrix(prefix + "ffn_gate.weight", kWidth, kFfn);
    matrix(prefix + "ffn_up.weight", kWidth, kFfn);
    matrix(prefix + "ffn_down.weight", kFfn, kWidth);
  }
  norm("output_norm.weight");
  matrix("output.weight", kWidth, kTokens);
  return Save(builder, to);
}

}  // namespace edge::bench
