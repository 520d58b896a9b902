#include "tests/inference/gguf_builder.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <random>

#include "inference/half.h"

namespace edge::inference::testing {
namespace {

void PutText(ByteWriter* out, std::string_view text) {
  out->U64(text.size());
  out->Raw(AsBytes(text));
}

// The largest magnitude with its sign, and the extremes, of one block.
struct Extremes {
  float signed_max = 0, min = 0, max = 0;
};
Extremes ExtremesOf(const float* block) {
  Extremes out{block[0], block[0], block[0]};
  for (int i = 0; i < 32; ++i) {
    if (std::fabs(block[i]) > std::fabs(out.signed_max)) out.signed_max = block[i];
    out.min = std::min(out.min, block[i]);
    out.max = std::max(out.max, block[i]);
  }
  return out;
}

void PutNibbles(ByteWriter* out, const int (&quants)[32]) {
  for (int i = 0; i < 16; ++i) {
    out->U8(static_cast<uint8_t>(std::clamp(quants[i], 0, 15) | std::clamp(quants[i + 16], 0, 15)
                                                                    << 4));
  }
}

void PutBlock(ByteWriter* out, TensorType type, const float* block) {
  const Extremes extremes = ExtremesOf(block);
  int quants[32];
  if (type == TensorType::kQ8_0) {
    const float scale = std::fabs(extremes.signed_max) / 127;
    out->U16(HalfFromFloat(scale));
    for (int i = 0; i < 32; ++i) {
      const float q = scale > 0 ? std::round(block[i] / scale) : 0;
      out->U8(static_cast<uint8_t>(static_cast<int8_t>(q)));
    }
    return;
  }
  if (type == TensorType::kQ4_0) {
    const float scale = extremes.signed_max / -8;
    out->U16(HalfFromFloat(scale));
    for (int i = 0; i < 32; ++i) {
      quants[i] = scale != 0 ? static_cast<int>(std::round(block[i] / scale)) + 8 : 8;
    }
  } else {
    const float scale = (extremes.max - extremes.min) / 15;
    out->U16(HalfFromFloat(scale));
    out->U16(HalfFromFloat(extremes.min));
    for (int i = 0; i < 32; ++i) {
      quants[i] = scale > 0 ? static_cast<int>(std::round((block[i] - extremes.min) / scale)) : 0;
    }
  }
  PutNibbles(out, quants);
}

}  // namespace

Bytes Quantize(TensorType type, const std::vector<float>& values) {
  Bytes bytes;
  ByteWriter out(&bytes);
  if (type == TensorType::kF32 || type == TensorType::kF16 || type == TensorType::kBF16) {
    for (const float value : values) {
      const auto bits = std::bit_cast<uint32_t>(value);
      if (type == TensorType::kF32) out.U32(bits);
      if (type == TensorType::kF16) out.U16(HalfFromFloat(value));
      if (type == TensorType::kBF16) out.U16(static_cast<uint16_t>(bits >> 16));
    }
    return bytes;
  }
  const bool plain =
      type == TensorType::kQ8_0 || type == TensorType::kQ4_0 || type == TensorType::kQ4_1;
  if (!plain) return RandomBlocks(type, values.size(), 1.0f, 7);
  for (size_t i = 0; i + 32 <= values.size(); i += 32) PutBlock(&out, type, &values[i]);
  return bytes;
}

Bytes RandomBlocks(TensorType type, size_t values, float spread, uint32_t seed) {
  const TensorLayout layout = LayoutOf(type);
  std::mt19937 random(seed);
  Bytes bytes(values / layout.block_elements * layout.block_bytes);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random() & 255);
  const bool k = layout.block_elements == 256;
  std::vector<size_t> halves = {type == TensorType::kQ6_K ? size_t{208} : 0};
  if (type == TensorType::kQ4_1 || type == TensorType::kQ5_1 || type == TensorType::kQ4_K ||
      type == TensorType::kQ5_K) {
    halves.push_back(2);
  }
  for (size_t block = 0; block < bytes.size(); block += layout.block_bytes) {
    for (const size_t at : halves) {
      const float factor = 1 + static_cast<float>(random() % 1024) / 1024.0f;
      StoreLittle(bytes.data() + block + at, HalfFromFloat(spread * factor / (k ? 4000 : 100)));
    }
  }
  return bytes;
}

void GgufBuilder::Set(std::string_view key, uint32_t type, Bytes payload) {
  Bytes bytes;
  ByteWriter out(&bytes);
  out.U32(type);
  out.Raw(payload);
  for (auto& [name, value] : values_) {
    if (name == key) {
      value = std::move(bytes);
      return;
    }
  }
  values_.emplace_back(key, std::move(bytes));
}

GgufBuilder& GgufBuilder::Uint(std::string_view key, uint32_t value) {
  Bytes bytes;
  ByteWriter(&bytes).U32(value);
  Set(key, 4, std::move(bytes));
  return *this;
}

GgufBuilder& GgufBuilder::Float(std::string_view key, float value) {
  Bytes bytes;
  ByteWriter(&bytes).U32(std::bit_cast<uint32_t>(value));
  Set(key, 6, std::move(bytes));
  return *this;
}

GgufBuilder& GgufBuilder::Bool(std::string_view key, bool value) {
  Bytes bytes;
  ByteWriter(&bytes).U8(value ? 1 : 0);
  Set(key, 7, std::move(bytes));
  return *this;
}

GgufBuilder& GgufBuilder::Text(std::string_view key, std::string_view value) {
  Bytes bytes;
  ByteWriter out(&bytes);
  PutText(&out, value);
  Set(key, 8, std::move(bytes));
  return *this;
}

GgufBuilder& GgufBuilder::Texts(std::string_view key, const std::vector<std::string>& values) {
  Bytes bytes;
  ByteWriter out(&bytes);
  out.U32(8);
  out.U64(values.size());
  for (const std::string& value : values) PutText(&out, value);
  Set(key, 9, std::move(bytes));
  return *this;
}

GgufBuilder& GgufBuilder::Floats(std::string_view key, const std::vector<float>& values) {
  Bytes bytes;
  ByteWriter out(&bytes);
  out.U32(6);
  out.U64(values.size());
  for (const float value : values) out.U32(std::bit_cast<uint32_t>(value));
  Set(key, 9, std::move(bytes));
  return *this;
}

GgufBuilder& GgufBuilder::Ints(std::string_view key, const std::vector<int32_t>& values) {
  Bytes bytes;
  ByteWriter out(&bytes);
  out.U32(5);
  out.U64(values.size());
  for (const int32_t value : values) out.U32(static_cast<uint32_t>(value));
  Set(key, 9, std::move(bytes));
  return *this;
}

GgufBuilder& GgufBuilder::Tensor(std::string_view name, TensorType type, uint64_t columns,
                                 uint64_t rows, const std::vector<float>& values) {
  tensors_.push_back({std::string(name), type, columns, rows, Quantize(type, values)});
  return *this;
}

GgufBuilder& GgufBuilder::RawTensor(std::string_view name, TensorType type, uint64_t columns,
                                    uint64_t rows, Bytes bytes) {
  tensors_.push_back({std::string(name), type, columns, rows, std::move(bytes)});
  return *this;
}

void GgufBuilder::Remove(std::string_view key_or_tensor) {
  std::erase_if(values_, [&](const auto& value) { return value.first == key_or_tensor; });
  std::erase_if(tensors_, [&](const Entry& entry) { return entry.name == key_or_tensor; });
}

Bytes GgufBuilder::Build(uint32_t version) const {
  Bytes bytes;
  ByteWriter out(&bytes);
  out.Raw(AsBytes("GGUF"));
  out.U32(version);
  out.U64(tensors_.size());
  out.U64(values_.size());
  for (const auto& [key, value] : values_) {
    PutText(&out, key);
    out.Raw(value);
  }
  auto aligned = [](uint64_t size) { return (size + 31) / 32 * 32; };
  uint64_t offset = 0;
  for (const Entry& tensor : tensors_) {
    PutText(&out, tensor.name);
    out.U32(tensor.rows == 1 ? 1 : 2);
    out.U64(tensor.columns);
    if (tensor.rows != 1) out.U64(tensor.rows);
    out.U32(static_cast<uint32_t>(tensor.type));
    out.U64(offset);
    offset = aligned(offset + tensor.bytes.size());
  }
  for (const Entry& tensor : tensors_) {
    bytes.resize(aligned(bytes.size()));
    out.Raw(tensor.bytes);
  }
  return bytes;
}

GgufBuilder MakeTinyModel(const TinyModel& model) {
  const uint32_t width = model.heads * model.head_size;
  GgufBuilder out;
  out.Text("general.architecture", "llama").Text("general.name", "tiny");
  out.Uint("llama.block_count", model.layers).Uint("llama.context_length", model.context);
  out.Uint("llama.embedding_length", width).Uint("llama.feed_forward_length", model.ffn);
  out.Uint("llama.attention.head_count", model.heads);
  out.Uint("llama.attention.head_count_kv", model.kv_heads);
  out.Uint("llama.rope.dimension_count", model.head_size);
  out.Float("llama.attention.layer_norm_rms_epsilon", 1e-5f);

  std::vector<std::string> texts = {"<unk>", "<s>", "</s>"};
  std::vector<float> scores = {0, 0, 0};
  std::vector<int32_t> kinds = {2, 3, 3};
  for (int byte = 0; byte < 256; ++byte) {
    constexpr char kDigits[] = "0123456789ABCDEF";
    texts.push_back(std::string("<0x") + kDigits[byte / 16] + kDigits[byte % 16] + ">");
    scores.push_back(0);
    kinds.push_back(6);
  }
  for (const char* word : {"\xE2\x96\x81", "a", "b", "ab",
                           "\xE2\x96\x81"
                           "ab"}) {
    texts.emplace_back(word);
    scores.push_back(-static_cast<float>(texts.size()));
    kinds.push_back(1);
  }
  out.Text("tokenizer.ggml.model", "llama").Texts("tokenizer.ggml.tokens", texts);
  out.Floats("tokenizer.ggml.scores", scores).Ints("tokenizer.ggml.token_type", kinds);
  out.Uint("tokenizer.ggml.bos_token_id", 1).Uint("tokenizer.ggml.eos_token_id", 2);
  out.Uint("tokenizer.ggml.unknown_token_id", 0);

  std::mt19937 random(model.seed);
  auto matrix = [&](const std::string& name, uint64_t columns, uint64_t rows, TensorType type) {
    // Sums of uniforms instead of std::normal_distribution, whose values differ by library.
    std::vector<float> values(columns * rows);
    const float spread = 2.0f / std::sqrt(static_cast<float>(columns));
    for (float& value : values) {
      float sum = 0;
      for (int i = 0; i < 4; ++i) sum += static_cast<float>(random() % 65536) / 65536.0f - 0.5f;
      value = sum * spread;
    }
    if (columns % LayoutOf(type).block_elements != 0) type = TensorType::kF16;
    out.Tensor(name, type, columns, rows, values);
  };
  auto norm = [&](const std::string& name) {
    std::vector<float> values(width);
    for (float& value : values) value = 0.75f + static_cast<float>(random() % 64) / 128.0f;
    out.Tensor(name, TensorType::kF32, width, 1, values);
  };
  matrix("token_embd.weight", width, texts.size(), model.embedding_type);
  for (uint32_t layer = 0; layer < model.layers; ++layer) {
    const std::string prefix = "blk." + std::to_string(layer) + ".";
    norm(prefix + "attn_norm.weight");
    matrix(prefix + "attn_q.weight", width, width, model.type);
    matrix(prefix + "attn_k.weight", width, model.kv_heads * model.head_size, model.type);
    matrix(prefix + "attn_v.weight", width, model.kv_heads * model.head_size, model.type);
    matrix(prefix + "attn_output.weight", width, width, model.type);
    norm(prefix + "ffn_norm.weight");
    matrix(prefix + "ffn_gate.weight", width, model.ffn, model.type);
    matrix(prefix + "ffn_up.weight", width, model.ffn, model.type);
    matrix(prefix + "ffn_down.weight", model.ffn, width, model.type);
  }
  norm("output_norm.weight");
  if (!model.tied) matrix("output.weight", width, texts.size(), model.type);
  return out;
}

}  // namespace edge::inference::testing
