// tests/inference/gguf_builder.h - makes GGUF files in memory, and small random models.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "edge/base/bytes.h"
#include "edge/inference/gguf.h"

namespace edge::inference::testing {

// Collects metadata and tensors and writes them in order. Values are set by key and may be
// changed until Build().
class GgufBuilder {
 public:
  GgufBuilder& Uint(std::string_view key, uint32_t value);
  GgufBuilder& Float(std::string_view key, float value);
  GgufBuilder& Bool(std::string_view key, bool value);
  GgufBuilder& Text(std::string_view key, std::string_view value);
  GgufBuilder& Texts(std::string_view key, const std::vector<std::string>& values);
  GgufBuilder& Floats(std::string_view key, const std::vector<float>& values);
  GgufBuilder& Ints(std::string_view key, const std::vector<int32_t>& values);
  // `values`: rows of `columns`, row-major; they are quantized to `type`.
  GgufBuilder& Tensor(std::string_view name, TensorType type, uint64_t columns, uint64_t rows,
                      const std::vector<float>& values);
  // The same with bytes that are already in the form of `type`.
  GgufBuilder& RawTensor(std::string_view name, TensorType type, uint64_t columns, uint64_t rows,
                         Bytes bytes);
  void Remove(std::string_view key_or_tensor);
  Bytes Build(uint32_t version = 3) const;

 private:
  void Set(std::string_view key, uint32_t type, Bytes payload);
  struct Entry {
    std::string name;
    TensorType type;
    uint64_t columns, rows;
    Bytes bytes;
  };
  std::vector<std::pair<std::string, Bytes>> values_;
  std::vector<Entry> tensors_;
};

// Rounds `values` to `type` (F32, F16, BF16, Q8_0, Q4_0 or Q4_1) as the format defines it; for
// the other quantized types, random blocks of as many values.
Bytes Quantize(TensorType type, const std::vector<float>& values);

// `values` (a multiple of the block size) of a quantized type as random bits, their scales
// within a factor of two of `spread` / 100.
Bytes RandomBlocks(TensorType type, size_t values, float spread, uint32_t seed);

struct TinyModel {
  uint32_t layers = 2, heads = 4, kv_heads = 2, head_size = 8, ffn = 44, context = 256;
  TensorType type = TensorType::kF32;  // of the matrices
  TensorType embedding_type = TensorType::kF32;
  bool tied = true;  // the head is the embedding table
  uint32_t seed = 1;
};
// A complete model with a SentencePiece vocabulary of 3 + 256 + 5 tokens (bytes and a few
// words) and random weights. Matrices whose rows do not divide into blocks are F16.
GgufBuilder MakeTinyModel(const TinyModel& model);

}  // namespace edge::inference::testing
