// inference/forward.cc - one pass of tokens through the layers.
//
// Every output element is computed by one thread in one fixed order, whatever the number of
// threads and tokens: see kernels.h.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "edge/base/check.h"
#include "inference/model.h"
#include "inference/pack.h"

namespace edge::inference {
namespace {

size_t RoundUp(size_t n, size_t step) {
  return (n + step - 1) / step * step;
}

// Below this many slots one thread attends faster than two can agree on who does what.
constexpr uint64_t kSharedAttentionSlots = 256;
constexpr uint32_t kTokensPerTask = 8;
constexpr uint32_t kHeadSizeMax = 1024;  // see ReadShape

}  // namespace

StatusOr<std::unique_ptr<ForwardPass>> ForwardPass::Create(const Model& model, ThreadPool* pool,
                                                           const PassOptions& options) {
  std::unique_ptr<ForwardPass> pass(new ForwardPass(model, pool, options));
  EDGE_RETURN_IF_ERROR(pass->Allocate());
  return pass;
}

Status ForwardPass::Allocate() {
  const ModelShape& s = model_.shape();
  width_stride_ = RoundUp(s.width, 16);
  q_stride_ = RoundUp(size_t{s.heads} * s.head_size, 16);
  kv_stride_ = RoundUp(size_t{s.kv_heads} * s.head_size, 16);
  ffn_stride_ = RoundUp(s.ffn, 16);
  logits_stride_ = RoundUp(s.vocabulary, 16);
  // A cache line more than needed, so that the rows do not all fall into the same sets.
  score_stride_ = RoundUp(options_.context_max, 16) + 16;
  const size_t columns = std::max({width_stride_, q_stride_, ffn_stride_});
  scratch_bytes_ = RoundUp(MultiplyScratchBytes(columns), 4096);
  const size_t tokens = options_.tokens_max, threads = pool_.threads();
  // Two rounds over one list: the first adds up, the second hands out.
  for (const bool place : {false, true}) {
    size_t used = 0;
    auto take = [&]<typename T>(T** out, size_t count) {
      // The extra line lets a vector read past the last head of a row.
      if (place) *out = memory_.as<T>(used);
      used += RoundUp(count * sizeof(T) + 64, 64);
    };
    take(&x_, tokens * width_stride_);
    take(&normed_, tokens * width_stride_);
    take(&q_, tokens * q_stride_);
    take(&k_, tokens * kv_stride_);
    take(&v_, tokens * kv_stride_);
    take(&mixed_, tokens * q_stride_);
    take(&gate_, tokens * ffn_stride_);
    take(&up_, tokens * ffn_stride_);
    take(&rotation_, tokens * s.rope_dimensions);
    take(&logits_, options_.logits_max * logits_stride_);
    take(&scores_, threads * kQueriesMax * score_stride_);
    take(&scratch_, threads * scratch_bytes_);
    take(&high_, tokens * columns);
    take(&low_, tokens * columns);
    take(&scales_, tokens * columns / 32);
    take(&sums_, tokens * columns / 32);
    take(&high_sums_, tokens * columns / 16);
    take(&low_sums_, tokens * columns / 16);
    if (!place) {
      EDGE_ASSIGN_OR_RETURN(memory_, AlignedBuffer::Create(used, "the forward pass"));
    }
  }
  return OkStatus();
}

template <typename F>
void ForwardPass::ForTokens(uint32_t tokens, F work) {
  const uint32_t tasks = (tokens + kTokensPerTask - 1) / kTokensPerTask;
  pool_.Run(tasks, [&](uint32_t task, uint32_t) {
    const uint32_t end = std::min(tokens, (task + 1) * kTokensPerTask);
    for (uint32_t token = task * kTokensPerTask; token < end; ++token) work(token);
  });
}

Activations ForwardPass::Inputs(const float* values, size_t stride, uint32_t columns,
                                uint32_t tokens) const {
  Activations a;
  a.tokens = tokens;
  a.columns = columns;
  a.values = values;
  a.value_stride = stride;
  a.two_planes = options_.two_planes;
  a.high = high_;
  a.low = low_;
  a.scales = scales_;
  a.sums = sums_;
  a.high_sums = high_sums_;
  a.low_sums = low_sums_;
  return a;
}

void ForwardPass::Multiply(std::span<const Product> products, const Activations& a) {
  uint32_t panels = 0;
  for (const Product& product : products) panels += product.w->panels;
  // A few tasks per thread: enough to even out, few enough to be worth taking. Multiples of
  // four panels, the largest tile.
  const uint32_t threads = pool_.threads();
  const uint32_t share = threads == 1 ? panels : (panels + threads * 4 - 1) / (threads * 4);
  const uint32_t chunk = (share + 3) / 4 * 4;
  uint32_t tasks = 0;
  for (const Product& product : products) tasks += (product.w->panels + chunk - 1) / chunk;
  pool_.Run(tasks, [&](uint32_t task, uint32_t worker) {
    const Product* product = products.data();
    for (uint32_t count; task >= (count = (product->w->panels + chunk - 1) / chunk); ++product) {
      task -= count;
    }
    const uint32_t begin = task * chunk;
    kernels_.multiply(*product->w, begin, std::min(begin + chunk, product->w->panels), a,
                      product->store, product->out, product->stride,
                      scratch_ + worker * scratch_bytes_);
  });
}

void ForwardPass::Plan(std::span<const PassSpan> spans) {
  rows_.clear();
  attention_.clear();
  attended_slots_ = 0;
  const uint32_t kv_heads = model_.shape().kv_heads;
  const uint32_t tile = std::max(1u, kQueriesMax / group());  // tokens in one job
  for (const PassSpan& span : spans) {
    const auto first = static_cast<uint32_t>(rows_.size());
    const auto count = static_cast<uint32_t>(span.tokens.size());
    EDGE_CHECK(count > 0 && span.logits <= count);
    EDGE_CHECK(span.sequence->position() + count <= options_.context_max);
    for (uint32_t i = 0; i < count; ++i) rows_.push_back({span.sequence, span.tokens[i], i});
    attended_slots_ += uint64_t{count} * (span.sequence->position() + count);
    for (uint32_t at = 0; at < count; at += tile) {
      for (uint32_t head = 0; head < kv_heads; ++head) {
        for (uint32_t query = 0; query < group(); query += kQueriesMax) {
          attention_.push_back({first + at, std::min(tile, count - at), head, query});
        }
      }
    }
  }
  EDGE_CHECK(!rows_.empty() && rows_.size() <= options_.tokens_max);
}

void ForwardPass::FillRotation(uint32_t row) {
  float* out = rotation_ + size_t{row} * model_.shape().rope_dimensions;
  const uint32_t position = rows_[row].sequence->position() + rows_[row].offset;
  const double magnitude = model_.shape().rope_magnitude;
  for (const double frequency : model_.rope_frequencies()) {
    const double angle = static_cast<double>(position) * frequency;
    *out++ = static_cast<float>(std::cos(angle) * magnitude);
    *out++ = static_cast<float>(std::sin(angle) * magnitude);
  }
}

void ForwardPass::Rotate(float* x, uint32_t heads, uint32_t token) const {
  const uint32_t dimensions = model_.shape().rope_dimensions;
  const float* rotation = rotation_ + size_t{token} * dimensions;
  // A pair is (i, i + 1) or (i / 2, i / 2 + half).
  const bool halves = model_.shape().rope_halves;
  const uint32_t distance = halves ? dimensions / 2 : 1;
  for (uint32_t head = 0; head < heads; ++head, x += model_.shape().head_size) {
    for (uint32_t i = 0; i < dimensions; i += 2) {
      float* pair = x + (halves ? i / 2 : i);
      const float a = pair[0], b = pair[distance], cosine = rotation[i], sine = rotation[i + 1];
      pair[0] = a * cosine - b * sine;
      pair[distance] = a * sine + b * cosine;
    }
  }
}

void ForwardPass::Prepare(float* x, uint32_t heads, uint32_t token, const float* bias,
                          const float* norm) const {
  const ModelShape& s = model_.shape();
  for (uint32_t i = 0; bias != nullptr && i < heads * s.head_size; ++i) x[i] += bias[i];
  for (uint32_t head = 0; norm != nullptr && head < heads; ++head) {
    // The kernel reads and writes whole vectors: what follows a narrow head is not its own.
    float in[kHeadSizeMax] = {}, out[kHeadSizeMax];
    float* at = x + head * s.head_size;
    std::copy_n(at, s.head_size, in);
    kernels_.rms_norm(in, norm, s.head_size, s.norm_epsilon, out);
    std::copy_n(out, s.head_size, at);
  }
  Rotate(x, heads, token);
}

void ForwardPass::StoreKeyValue(uint32_t layer, uint32_t row) {
  const ModelShape& s = model_.shape();
  KvSequence* sequence = rows_[row].sequence;
  const uint32_t padded = static_cast<uint32_t>(RoundUp(s.head_size, 16));
  const bool half = sequence->half();
  for (uint32_t head = 0; head < s.kv_heads; ++head) {
    const uint32_t slot = sequence->length(layer, head) + rows_[row].offset;
    std::byte* block = sequence->block_of(layer, head, slot);
    const uint32_t lane = slot % kSlotsPerBlock;
    const float* k = k_ + row * kv_stride_ + head * s.head_size;
    const float* v = v_ + row * kv_stride_ + head * s.head_size;
    const size_t v_at = size_t{s.head_size} * kSlotsPerBlock + size_t{lane} * padded;
    if (half) {
      uint16_t halves[1024];
      float whole[16];
      // The kernel takes sixteen values at a time: the last ones of a head that is no multiple
      // of that are copied out, for what follows them may be another thread's token.
      const uint32_t even = s.head_size / 16 * 16;
      auto to_half = [&](const float* from) {
        kernels_.to_half(from, even, halves);
        if (even == s.head_size) return;
        std::fill(std::copy(from + even, from + s.head_size, whole), std::end(whole), 0.0f);
        kernels_.to_half(whole, 16, halves + even);
      };
      auto* out = reinterpret_cast<uint16_t*>(block);
      to_half(k);
      for (uint32_t d = 0; d < s.head_size; ++d) out[size_t{d} * kSlotsPerBlock + lane] = halves[d];
      to_half(v);
      std::memcpy(out + v_at, halves, s.head_size * sizeof(uint16_t));
    } else {
      auto* out = reinterpret_cast<float*>(block);
      for (uint32_t d = 0; d < s.head_size; ++d) out[size_t{d} * kSlotsPerBlock + lane] = k[d];
      std::memcpy(out + v_at, v, s.head_size * sizeof(float));
    }
  }
}

void ForwardPass::AttendHead(uint32_t layer, const AttentionTask& task, uint32_t worker) {
  const ModelShape& s = model_.shape();
  const KvSequence& sequence = *rows_[task.first_row].sequence;
  const uint32_t queries = std::min(group() - task.first_query, kQueriesMax);
  AttentionJob job;
  job.blocks = sequence.blocks(layer, task.kv_head);
  job.head_size = s.head_size;
  job.half = sequence.half();
  job.scale = 1.0f / std::sqrt(static_cast<float>(s.head_size));
  job.scores = scores_ + worker * kQueriesMax * score_stride_;
  job.score_stride = score_stride_;
  for (uint32_t row = task.first_row; row < task.first_row + task.rows; ++row) {
    for (uint32_t query = 0; query < queries; ++query) {
      const uint32_t head = task.kv_head * group() + task.first_query + query;
      job.q[job.queries] = q_ + row * q_stride_ + head * s.head_size;
      job.out[job.queries] = mixed_ + row * q_stride_ + head * s.head_size;
      job.lengths[job.queries] = sequence.length(layer, task.kv_head) + rows_[row].offset + 1;
      ++job.queries;
    }
  }
  kernels_.attend(job);
}

void ForwardPass::Attend(uint32_t layer) {
  const auto tasks = static_cast<uint32_t>(attention_.size());
  auto work = [&](uint32_t task, uint32_t worker) { AttendHead(layer, attention_[task], worker); };
  if (attended_slots_ < kSharedAttentionSlots) {
    for (uint32_t task = 0; task < tasks; ++task) work(task, 0);
  } else {
    pool_.Run(tasks, work);
  }
}

void ForwardPass::Attention(const Model::Layer& layer, uint32_t index) {
  const ModelShape& s = model_.shape();
  const auto tokens = static_cast<uint32_t>(rows_.size());
  const Activations in = Inputs(normed_, width_stride_, s.width, tokens);
  const bool quantized = layer.q.quantized() || layer.k.quantized() || layer.v.quantized();
  ForTokens(tokens, [&](uint32_t token) {
    kernels_.rms_norm(x_ + token * width_stride_, layer.attention_norm, s.width, s.norm_epsilon,
                      normed_ + token * width_stride_);
    if (quantized) kernels_.quantize(in, token);
  });
  const Product products[] = {{&layer.q, Store::kSet, q_, q_stride_},
                              {&layer.k, Store::kSet, k_, kv_stride_},
                              {&layer.v, Store::kSet, v_, kv_stride_}};
  Multiply(products, in);
  ForTokens(tokens, [&](uint32_t token) {
    Prepare(q_ + token * q_stride_, s.heads, token, layer.q_bias, layer.q_norm);
    Prepare(k_ + token * kv_stride_, s.kv_heads, token, layer.k_bias, layer.k_norm);
    float* v = v_ + token * kv_stride_;
    for (uint32_t i = 0; layer.v_bias != nullptr && i < s.kv_heads * s.head_size; ++i) {
      v[i] += layer.v_bias[i];
    }
    StoreKeyValue(index, token);
  });
  Attend(index);
  const Activations out = Inputs(mixed_, q_stride_, s.heads * s.head_size, tokens);
  if (layer.output.quantized()) {
    ForTokens(tokens, [&](uint32_t token) { kernels_.quantize(out, token); });
  }
  const Product output[] = {{&layer.output, Store::kAdd, x_, width_stride_}};
  Multiply(output, out);
}

void ForwardPass::FeedForward(const Model::Layer& layer, uint32_t tokens) {
  const ModelShape& s = model_.shape();
  const Activations in = Inputs(normed_, width_stride_, s.width, tokens);
  const bool quantized = layer.gate.quantized() || layer.up.quantized();
  ForTokens(tokens, [&](uint32_t token) {
    kernels_.rms_norm(x_ + token * width_stride_, layer.ffn_norm, s.width, s.norm_epsilon,
                      normed_ + token * width_stride_);
    if (quantized) kernels_.quantize(in, token);
  });
  const Product products[] = {{&layer.gate, Store::kSet, gate_, ffn_stride_},
                              {&layer.up, Store::kSet, up_, ffn_stride_}};
  Multiply(products, in);
  const Activations inner = Inputs(gate_, ffn_stride_, s.ffn, tokens);
  ForTokens(tokens, [&](uint32_t token) {
    kernels_.silu_multiply(gate_ + token * ffn_stride_, up_ + token * ffn_stride_,
                           static_cast<uint32_t>(ffn_stride_));
    if (layer.down.quantized()) kernels_.quantize(inner, token);
  });
  const Product output[] = {{&layer.down, Store::kAdd, x_, width_stride_}};
  Multiply(output, inner);
}

void ForwardPass::Head(std::span<const PassSpan> spans) {
  const ModelShape& s = model_.shape();
  std::vector<uint32_t> wanted;  // rows, in order
  uint32_t end = 0;
  for (const PassSpan& span : spans) {
    end += static_cast<uint32_t>(span.tokens.size());
    for (uint32_t i = span.logits; i > 0; --i) wanted.push_back(end - i);
  }
  EDGE_CHECK(wanted.size() <= options_.logits_max);
  if (wanted.empty()) return;
  const auto count = static_cast<uint32_t>(wanted.size());
  const Activations in = Inputs(normed_, width_stride_, s.width, count);
  ForTokens(count, [&](uint32_t i) {
    kernels_.rms_norm(x_ + wanted[i] * width_stride_, model_.output_norm(), s.width, s.norm_epsilon,
                      normed_ + i * width_stride_);
    if (model_.head().quantized()) kernels_.quantize(in, i);
  });
  const Product product[] = {{&model_.head(), Store::kSet, logits_, logits_stride_}};
  Multiply(product, in);
}

void ForwardPass::Run(std::span<const PassSpan> spans) {
  Plan(spans);
  const auto count = static_cast<uint32_t>(rows_.size());
  ForTokens(count, [&](uint32_t row) {
    UnpackRow(model_.embedding(), static_cast<uint32_t>(rows_[row].token),
              x_ + row * width_stride_);
    FillRotation(row);
  });
  for (uint32_t i = 0; i < model_.shape().layers; ++i) {
    Attention(model_.layers()[i], i);
    FeedForward(model_.layers()[i], count);
  }
  for (const PassSpan& span : spans) {
    span.sequence->Commit(static_cast<uint32_t>(span.tokens.size()));
  }
  Head(spans);
}

}  // namespace edge::inference
