// inference/model.h - a Llama-family model: its shape, its packed weights, and one pass of
// tokens through it.
//
// The family: RMSNorm before attention and before the feed-forward part, rotary positions,
// grouped-query attention, SwiGLU (Touvron et al. 2023; Ainslie et al. 2023; Su et al. 2021;
// Shazeer 2020). The head may be the embedding table. Qwen2 adds biases to Q, K and V; Qwen3
// norms each head of Q and K; both rotate dimension i with i + half instead of 2i with 2i + 1.
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "edge/base/status.h"
#include "edge/inference/engine.h"
#include "edge/inference/gguf.h"
#include "inference/aligned_buffer.h"
#include "inference/kernels.h"
#include "inference/kv_pool.h"
#include "inference/thread_pool.h"

namespace edge::inference {

struct ModelShape {
  uint32_t layers = 0, width = 0, heads = 0, kv_heads = 0, head_size = 0, ffn = 0;
  uint32_t rope_dimensions = 0, vocabulary = 0, context = 0;
  float norm_epsilon = 0;
  double rope_base = 10000, rope_scale = 1;  // positions are divided by rope_scale
  bool rope_halves = false;                  // pairs are (i, i + half), not (2i, 2i + 1)
  bool head_norms = false;                   // of Q and K
  // YaRN (Peng et al. 2023): slow pairs are stretched by rope_scale, fast ones are not, and
  // all rotated values grow by rope_magnitude.
  bool yarn = false;
  double rope_magnitude = 1;
  double yarn_context = 0, yarn_fast = 32, yarn_slow = 1;
};

// Reads and checks the shape; InvalidArgument or Unimplemented, naming the key.
StatusOr<ModelShape> ReadShape(const GgufFile& file);

// Immutable.
class Model {
 public:
  struct Layer {
    const float* attention_norm;  // [width], padded with zeros to 16
    const float* ffn_norm;
    PackedMatrix q, k, v, output, gate, up, down;
    const float *q_bias = nullptr, *k_bias = nullptr, *v_bias = nullptr;  // null if there is none
    const float *q_norm = nullptr, *k_norm = nullptr;  // [head_size], padded with zeros to 16
  };

  // Copies all it needs: `file` may go afterwards.
  static StatusOr<std::unique_ptr<Model>> Load(const GgufFile& file, ThreadPool* pool);

  const ModelShape& shape() const { return shape_; }
  const std::vector<Layer>& layers() const { return layers_; }
  const PackedMatrix& embedding() const { return embedding_; }
  const PackedMatrix& head() const { return head_; }
  const float* output_norm() const { return output_norm_; }
  // Radians per position of each rotated pair: [rope_dimensions / 2].
  const std::vector<double>& rope_frequencies() const { return rope_frequencies_; }
  uint64_t parameters() const { return parameters_; }
  uint64_t weights_bytes() const { return memory_.size(); }

 private:
  friend class ModelLoader;
  ModelShape shape_;
  AlignedBuffer memory_;
  std::vector<Layer> layers_;
  PackedMatrix embedding_, head_;
  const float* output_norm_ = nullptr;
  std::vector<double> rope_frequencies_;
  uint64_t parameters_ = 0;
};

struct PassOptions {
  const Kernels* kernels = nullptr;
  uint32_t tokens_max = 1;  // of all spans of a pass together
  uint32_t logits_max = 1;  // likewise
  uint32_t context_max = 1;
  bool two_planes = true;
};

// What one sequence does in a pass: append `tokens`, and give the logits of the last few.
struct PassSpan {
  KvSequence* sequence;             // has room for them (Reserve); one span of it in a pass
  std::span<const TokenId> tokens;  // at least 1
  uint32_t logits = 0;              // of this many last tokens
};

// Runs tokens through a model; owns the memory of what lies between. Single-threaded.
class ForwardPass {
 public:
  // Borrows the model and the pool for life.
  static StatusOr<std::unique_ptr<ForwardPass>> Create(const Model& model, ThreadPool* pool,
                                                       const PassOptions& options);
  // Runs all spans side by side and commits them. What a sequence gets does not depend on
  // what else is in the pass, to the last bit.
  void Run(std::span<const PassSpan> spans);
  // [vocabulary] logits; those of the spans follow each other in order. Until the next Run().
  std::span<float> logits(uint32_t index) const {
    return {logits_ + index * logits_stride_, model_.shape().vocabulary};
  }

 private:
  ForwardPass(const Model& model, ThreadPool* pool, const PassOptions& options)
      : model_(model), pool_(*pool), kernels_(*options.kernels), options_(options) {}
  struct Product {
    const PackedMatrix* w;
    Store store;
    float* out;  // [tokens][stride]
    size_t stride;
  };

  // One token of the pass.
  struct Row {
    KvSequence* sequence;
    TokenId token;
    uint32_t offset;  // in its span
  };
  // Tokens [first_row, first_row + rows) of one span, for some queries of one KV head.
  struct AttentionTask {
    uint32_t first_row, rows, kv_head, first_query;
  };

  Status Allocate();
  void Plan(std::span<const PassSpan> spans);
  void Attention(const Model::Layer& layer, uint32_t index);
  void FeedForward(const Model::Layer& layer, uint32_t tokens);
  void Rotate(float* x, uint32_t heads, uint32_t token) const;
  // What a model does to a row of Q or K between the product and its use.
  void Prepare(float* x, uint32_t heads, uint32_t token, const float* bias,
               const float* norm) const;
  void FillRotation(uint32_t row);
  void StoreKeyValue(uint32_t layer, uint32_t row);
  void Attend(uint32_t layer);
  void AttendHead(uint32_t layer, const AttentionTask& task, uint32_t worker);
  void Head(std::span<const PassSpan> spans);
  Activations Inputs(const float* values, size_t stride, uint32_t columns, uint32_t tokens) const;
  // The products, all of the same inputs, shared out by panels.
  void Multiply(std::span<const Product> products, const Activations& a);
  // work(token) for each token, shared out if there are many.
  template <typename F>
  void ForTokens(uint32_t tokens, F work);
  uint32_t group() const { return model_.shape().heads / model_.shape().kv_heads; }

  const Model& model_;
  ThreadPool& pool_;
  const Kernels& kernels_;
  const PassOptions options_;
  AlignedBuffer memory_;
  // Strides in floats, each a multiple of 16; what is beyond the values stays zero.
  size_t width_stride_ = 0, q_stride_ = 0, kv_stride_ = 0, ffn_stride_ = 0;
  float* x_ = nullptr;         // [tokens][width_stride]: the residual stream
  float* normed_ = nullptr;    // [tokens][width_stride]
  float* q_ = nullptr;         // [tokens][q_stride]
  float* k_ = nullptr;         // [tokens][kv_stride]
  float* v_ = nullptr;         // [tokens][kv_stride]
  float* mixed_ = nullptr;     // [tokens][q_stride]: what attention gives
  float* gate_ = nullptr;      // [tokens][ffn_stride]
  float* up_ = nullptr;        // [tokens][ffn_stride]
  float* rotation_ = nullptr;  // [tokens][rope_dimensions]: cosine and sine of each pair
  float* logits_ = nullptr;    // [logits_max][logits_stride]
  size_t logits_stride_ = 0;
  float* scores_ = nullptr;  // [threads][kQueriesMax][score_stride]
  size_t score_stride_ = 0;
  std::byte* scratch_ = nullptr;  // [threads][scratch_bytes]
  size_t scratch_bytes_ = 0;
  // Rounded inputs; see Activations.
  int8_t *high_ = nullptr, *low_ = nullptr;
  float *scales_ = nullptr, *sums_ = nullptr;
  int32_t *high_sums_ = nullptr, *low_sums_ = nullptr;
  // Of the running pass.
  std::vector<Row> rows_;
  std::vector<AttentionTask> attention_;
  uint64_t attended_slots_ = 0;
};

}  // namespace edge::inference
