// inference/model.cc - reads a model's shape and weights from a GGUF file.
#include "inference/model.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numbers>

#include "edge/base/errors.h"
#include "inference/half.h"
#include "inference/pack.h"

namespace edge::inference {
namespace {

// Far above any real model; they keep every product of sizes well inside 64 bits.
constexpr uint64_t kLayersMax = 4096, kWidthMax = 1 << 20, kHeadsMax = 1 << 12,
                   kContextMax = 1 << 24;

class ShapeReader {
 public:
  ShapeReader(const GgufFile& file, std::string_view architecture)
      : file_(file), prefix_(std::string(architecture) + ".") {}

  std::string Key(const char* key) const { return prefix_ + key; }

  // In [1, most].
  StatusOr<uint32_t> Count(const char* key, uint64_t most, std::optional<uint64_t> fallback = {}) {
    const std::string name = Key(key);
    EDGE_ASSIGN_OR_RETURN(auto value, file_.Uint(name));
    if (!value) value = fallback;
    if (!value) return InvalidArgument("{}: metadata {} is missing", file_.name(), name);
    if (*value < 1 || *value > most) {
      return InvalidArgument("{}: {} is {}, not in 1 to {}", file_.name(), name, *value, most);
    }
    return static_cast<uint32_t>(*value);
  }
  StatusOr<double> Positive(const char* key, std::optional<double> fallback = {}) {
    const std::string name = Key(key);
    EDGE_ASSIGN_OR_RETURN(auto value, file_.Number(name));
    if (!value) value = fallback;
    if (!value) return InvalidArgument("{}: metadata {} is missing", file_.name(), name);
    if (!(*value > 0)) {
      return InvalidArgument("{}: {} is {}, not above 0", file_.name(), name, *value);
    }
    return *value;
  }

 private:
  const GgufFile& file_;
  const std::string prefix_;
};

Status ReadRope(const GgufFile& file, ShapeReader* reader, ModelShape* shape) {
  EDGE_ASSIGN_OR_RETURN(shape->rope_base, reader->Positive("rope.freq_base", 10000.0));
  EDGE_ASSIGN_OR_RETURN(shape->rope_dimensions,
                        reader->Count("rope.dimension_count", shape->head_size, shape->head_size));
  if (shape->rope_dimensions % 2 != 0) {
    return InvalidArgument("{}: {} is {}, an odd number", file.name(),
                           reader->Key("rope.dimension_count"), shape->rope_dimensions);
  }
  const std::string type_key = reader->Key("rope.scaling.type");
  EDGE_ASSIGN_OR_RETURN(const auto type, file.Text(type_key));
  if (!type || *type == "none") return OkStatus();
  if (*type != "linear" && *type != "yarn") {
    return Unimplemented("{}: {} \"{}\"; known: none, linear, yarn", file.name(), type_key, *type);
  }
  EDGE_ASSIGN_OR_RETURN(shape->rope_scale, reader->Positive("rope.scaling.factor", 1.0));
  if (*type == "linear") return OkStatus();
  shape->yarn = true;
  EDGE_ASSIGN_OR_RETURN(shape->yarn_context,
                        reader->Positive("rope.scaling.original_context_length",
                                         static_cast<double>(shape->context)));
  EDGE_ASSIGN_OR_RETURN(shape->yarn_fast, reader->Positive("rope.scaling.yarn_beta_fast", 32.0));
  EDGE_ASSIGN_OR_RETURN(shape->yarn_slow, reader->Positive("rope.scaling.yarn_beta_slow", 1.0));
  const double usual = shape->rope_scale > 1 ? 0.1 * std::log(shape->rope_scale) + 1 : 1;
  EDGE_ASSIGN_OR_RETURN(const double factor, reader->Positive("rope.scaling.attn_factor", 1.0));
  shape->rope_magnitude = usual * factor;
  return OkStatus();
}

}  // namespace

StatusOr<ModelShape> ReadShape(const GgufFile& file) {
  EDGE_ASSIGN_OR_RETURN(const auto architecture, file.Text("general.architecture"));
  if (!architecture) {
    return InvalidArgument("{}: metadata general.architecture is missing", file.name());
  }
  const bool qwen = *architecture == "qwen2" || *architecture == "qwen3";
  if (*architecture != "llama" && !qwen) {
    return Unimplemented("{}: architecture \"{}\"; known: llama, qwen2, qwen3", file.name(),
                         architecture->substr(0, 80));
  }
  ShapeReader reader(file, *architecture);
  if (file.Has(reader.Key("expert_count"))) {
    EDGE_ASSIGN_OR_RETURN(const auto experts, file.Uint(reader.Key("expert_count")));
    if (*experts > 0) return Unimplemented("{}: a mixture of {} experts", file.name(), *experts);
  }
  ModelShape shape;
  shape.rope_halves = qwen;
  shape.head_norms = *architecture == "qwen3";
  EDGE_ASSIGN_OR_RETURN(shape.layers, reader.Count("block_count", kLayersMax));
  EDGE_ASSIGN_OR_RETURN(shape.width, reader.Count("embedding_length", kWidthMax));
  EDGE_ASSIGN_OR_RETURN(shape.ffn, reader.Count("feed_forward_length", kWidthMax));
  EDGE_ASSIGN_OR_RETURN(shape.context, reader.Count("context_length", kContextMax));
  EDGE_ASSIGN_OR_RETURN(shape.heads, reader.Count("attention.head_count", kHeadsMax));
  EDGE_ASSIGN_OR_RETURN(shape.kv_heads,
                        reader.Count("attention.head_count_kv", kHeadsMax, shape.heads));
  EDGE_ASSIGN_OR_RETURN(shape.head_size, reader.Count("attention.key_length", 1024,
                                                      std::max(1u, shape.width / shape.heads)));
  EDGE_ASSIGN_OR_RETURN(const uint32_t value_size,
                        reader.Count("attention.value_length", 1024, shape.head_size));
  EDGE_ASSIGN_OR_RETURN(const double epsilon, reader.Positive("attention.layer_norm_rms_epsilon"));
  shape.norm_epsilon = static_cast<float>(epsilon);
  if (shape.heads % shape.kv_heads != 0) {
    return InvalidArgument("{}: {} heads cannot share {} KV heads evenly", file.name(), shape.heads,
                           shape.kv_heads);
  }
  if (value_size != shape.head_size) {
    return Unimplemented("{}: keys of {} and values of {} dimensions", file.name(), shape.head_size,
                         value_size);
  }
  EDGE_RETURN_IF_ERROR(ReadRope(file, &reader, &shape));
  const GgufTensor* embedding = file.FindTensor("token_embd.weight");
  if (embedding == nullptr) {
    return InvalidArgument("{}: tensor token_embd.weight is missing", file.name());
  }
  if (embedding->rows() > (1u << 24)) {
    return InvalidArgument("{}: token_embd.weight has {} rows", file.name(), embedding->rows());
  }
  shape.vocabulary = static_cast<uint32_t>(embedding->rows());
  return shape;
}

class ModelLoader {
 public:
  ModelLoader(const GgufFile& file, ThreadPool* pool) : file_(file), pool_(*pool) {}

  StatusOr<std::unique_ptr<Model>> Load() {
    auto model = std::make_unique<Model>();
    EDGE_ASSIGN_OR_RETURN(model->shape_, ReadShape(file_));
    const ModelShape& s = model->shape_;
    const uint32_t q_rows = s.heads * s.head_size, kv_rows = s.kv_heads * s.head_size;
    model->layers_.resize(s.layers);
    EDGE_RETURN_IF_ERROR(AddMatrix("token_embd.weight", s.vocabulary, s.width, &model->embedding_));
    for (uint32_t i = 0; i < s.layers; ++i) {
      Model::Layer& layer = model->layers_[i];
      const std::string prefix = "blk." + std::to_string(i) + ".";
      EDGE_RETURN_IF_ERROR(AddNorm(prefix + "attn_norm.weight", s.width, &layer.attention_norm));
      EDGE_RETURN_IF_ERROR(AddNorm(prefix + "ffn_norm.weight", s.width, &layer.ffn_norm));
      EDGE_RETURN_IF_ERROR(AddMatrix(prefix + "attn_q.weight", q_rows, s.width, &layer.q));
      EDGE_RETURN_IF_ERROR(AddMatrix(prefix + "attn_k.weight", kv_rows, s.width, &layer.k));
      EDGE_RETURN_IF_ERROR(AddMatrix(prefix + "attn_v.weight", kv_rows, s.width, &layer.v));
      EDGE_RETURN_IF_ERROR(AddBias(prefix + "attn_q.bias", q_rows, &layer.q_bias));
      EDGE_RETURN_IF_ERROR(AddBias(prefix + "attn_k.bias", kv_rows, &layer.k_bias));
      EDGE_RETURN_IF_ERROR(AddBias(prefix + "attn_v.bias", kv_rows, &layer.v_bias));
      if (s.head_norms) {
        EDGE_RETURN_IF_ERROR(AddNorm(prefix + "attn_q_norm.weight", s.head_size, &layer.q_norm));
        EDGE_RETURN_IF_ERROR(AddNorm(prefix + "attn_k_norm.weight", s.head_size, &layer.k_norm));
      }
      EDGE_RETURN_IF_ERROR(
          AddMatrix(prefix + "attn_output.weight", s.width, q_rows, &layer.output));
      EDGE_RETURN_IF_ERROR(AddMatrix(prefix + "ffn_gate.weight", s.ffn, s.width, &layer.gate));
      EDGE_RETURN_IF_ERROR(AddMatrix(prefix + "ffn_up.weight", s.ffn, s.width, &layer.up));
      EDGE_RETURN_IF_ERROR(AddMatrix(prefix + "ffn_down.weight", s.width, s.ffn, &layer.down));
    }
    EDGE_RETURN_IF_ERROR(AddNorm("output_norm.weight", s.width, &model->output_norm_));
    const bool tied = file_.FindTensor("output.weight") == nullptr;
    if (!tied) {
      EDGE_RETURN_IF_ERROR(AddMatrix("output.weight", s.vocabulary, s.width, &model->head_));
    }
    EDGE_RETURN_IF_ERROR(ReadFrequencies(model.get()));
    if (known_ != file_.tensors().size()) return UnknownTensor();
    EDGE_ASSIGN_OR_RETURN(model->memory_, AlignedBuffer::Create(bytes_, "the weights"));
    // Each entry has its own memory, so they can be packed side by side.
    pool_.Run(static_cast<uint32_t>(entries_.size()), [&](uint32_t task, uint32_t) {
      Entry& entry = entries_[task];
      std::byte* memory = model->memory_.data() + entry.offset;
      if (entry.norm != nullptr) {
        ReadNorm(*entry.tensor, reinterpret_cast<float*>(memory));
        *entry.norm = reinterpret_cast<const float*>(memory);
      } else {
        *entry.matrix = Pack(*entry.tensor, entry.layout, memory);
      }
    });
    if (tied) model->head_ = model->embedding_;
    model->parameters_ = parameters_;
    return model;
  }

 private:
  struct Entry {
    const GgufTensor* tensor;
    size_t offset;
    PackedLayout layout;
    PackedMatrix* matrix;
    const float** norm;
  };

  StatusOr<const GgufTensor*> Find(const std::string& name, uint64_t rows, uint64_t columns) {
    const GgufTensor* tensor = file_.FindTensor(name);
    if (tensor == nullptr) return InvalidArgument("{}: tensor {} is missing", file_.name(), name);
    if (tensor->rows() != rows || tensor->columns() != columns) {
      return InvalidArgument("{}: offset {}: tensor {} has {} rows of {}, expected {} of {}",
                             file_.name(), tensor->offset, name, tensor->rows(), tensor->columns(),
                             rows, columns);
    }
    ++known_;
    parameters_ += rows * columns;
    return tensor;
  }

  Status AddMatrix(const std::string& name, uint32_t rows, uint32_t columns, PackedMatrix* out) {
    EDGE_ASSIGN_OR_RETURN(const GgufTensor* tensor, Find(name, rows, columns));
    if (!CanPack(tensor->type)) {
      return Unimplemented("{}: tensor {} has type {}; known: {}", file_.name(), name,
                           TensorTypeName(tensor->type), kPackableTypes);
    }
    const PackedLayout layout = LayoutPacked(tensor->type, rows, columns);
    entries_.push_back({tensor, bytes_, layout, out, nullptr});
    bytes_ += layout.total_bytes();
    return OkStatus();
  }

  Status AddNorm(const std::string& name, uint32_t width, const float** out) {
    EDGE_ASSIGN_OR_RETURN(const GgufTensor* tensor, Find(name, 1, width));
    if (tensor->type != TensorType::kF32 && tensor->type != TensorType::kF16) {
      return Unimplemented("{}: tensor {} has type {}; known: F32 F16", file_.name(), name,
                           TensorTypeName(tensor->type));
    }
    entries_.push_back({tensor, bytes_, {}, nullptr, out});
    bytes_ += (size_t{width} + 15) / 16 * 64;
    return OkStatus();
  }

  // Stays null where the file has none.
  Status AddBias(const std::string& name, uint32_t width, const float** out) {
    return file_.FindTensor(name) == nullptr ? OkStatus() : AddNorm(name, width, out);
  }

  static void ReadNorm(const GgufTensor& tensor, float* out) {
    for (uint64_t i = 0; i < tensor.columns(); ++i) {
      if (tensor.type == TensorType::kF32) {
        std::memcpy(out + i, tensor.bytes.data() + i * 4, 4);
      } else {
        out[i] = FloatFromHalf(LoadLittle<uint16_t>(tensor.bytes.data() + i * 2));
      }
    }
  }

  // Llama 3.1 and later stretch each frequency by a factor of its own.
  Status ReadFrequencies(Model* model) {
    const ModelShape& s = model->shape_;
    const uint32_t pairs = s.rope_dimensions / 2;
    const GgufTensor* factors = file_.FindTensor("rope_freqs.weight");
    if (factors != nullptr) {
      EDGE_ASSIGN_OR_RETURN(factors, Find("rope_freqs.weight", 1, pairs));
      if (factors->type != TensorType::kF32) {
        return Unimplemented("{}: tensor rope_freqs.weight is not F32", file_.name());
      }
    }
    model->rope_frequencies_.resize(pairs);
    for (uint32_t i = 0; i < pairs; ++i) {
      double factor = s.rope_scale;
      if (factors != nullptr) {
        const auto bits = LoadLittle<uint32_t>(factors->bytes.data() + size_t{i} * 4);
        factor *= static_cast<double>(std::bit_cast<float>(bits));
      }
      if (!(factor > 0)) {
        return InvalidArgument("{}: rope_freqs.weight[{}] is not above 0", file_.name(), i);
      }
      const double exponent =
          -2.0 * static_cast<double>(i) / static_cast<double>(s.rope_dimensions);
      const double frequency = std::pow(s.rope_base, exponent);
      const double kept = s.yarn ? YarnShare(s, i) : 0;
      model->rope_frequencies_[i] = frequency * kept + frequency / factor * (1 - kept);
    }
    return OkStatus();
  }

  // How much of pair `i` turns as in the trained context: all of the fast ones, which make
  // more than yarn_fast turns in it, and nothing of those with less than yarn_slow.
  static double YarnShare(const ModelShape& s, uint32_t i) {
    const double dimensions = s.rope_dimensions, last = dimensions - 1;
    auto pair_of = [&](double turns) {
      return dimensions * std::log(s.yarn_context / (turns * 2 * std::numbers::pi)) /
             (2 * std::log(s.rope_base));
    };
    const double low = std::clamp(std::floor(pair_of(s.yarn_fast)), 0.0, last);
    const double high = std::clamp(std::ceil(pair_of(s.yarn_slow)), 0.0, last);
    return 1 - std::clamp((i - low) / std::max(0.001, high - low), 0.0, 1.0);
  }

  // A tensor that we do not read would be a part of the model silently left out.
  Status UnknownTensor() const {
    for (const GgufTensor& tensor : file_.tensors()) {
      const bool used = std::any_of(entries_.begin(), entries_.end(),
                                    [&](const Entry& entry) { return entry.tensor == &tensor; });
      if (!used && tensor.name != "rope_freqs.weight") {
        return Unimplemented("{}: offset {}: tensor {} has no place in the Llama family",
                             file_.name(), tensor.offset, tensor.name.substr(0, 80));
      }
    }
    return Internal("{}: {} tensors, {} read", file_.name(), file_.tensors().size(), known_);
  }

  const GgufFile& file_;
  ThreadPool& pool_;
  std::vector<Entry> entries_;
  size_t bytes_ = 0;
  size_t known_ = 0;
  uint64_t parameters_ = 0;
};

StatusOr<std::unique_ptr<Model>> Model::Load(const GgufFile& file, ThreadPool* pool) {
  return ModelLoader(file, pool).Load();
}

}  // namespace edge::inference
