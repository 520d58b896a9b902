// inference/kernels.h - the arithmetic of the forward pass, behind one table of functions.
//
// Three tables hold the same algorithms for AVX-512 VNNI, AVX2 and plain C++. They are one
// source (kernels_inl.h) over a vector of 16 floats, and agree to the last bit: integer
// sums are exact, and every float sum has one fixed order. So tokens do not depend on the
// processor's vector width, the number of threads, or how a prompt is cut into passes.
#pragma once
#include <cstddef>
#include <cstdint>

namespace edge::inference {

// A weight matrix cut into panels of 16 rows, so that one vector register holds the same
// column of 16 rows. Rows are padded to whole panels with weights of value 0.
//   integers: per panel and block of 32 columns
//       kU8: [8 groups][16 rows][4 columns] bytes
//       kU4: [4][16 rows][4 columns] bytes; the low nibbles are groups 0-3, the high 4-7
//       kNonLinear4: as kU4, each nibble an index into kNonLinearBytes
//       kU5: kU4, then [16][4] bytes whose bit g is the fifth bit of group g
//       kU6: kU4, then [2][16][4] bytes; bits 2s, 2s+1 of byte h are the fifth and sixth of
//            group 4h + s
//     and apart from them, per panel, [blocks][16 rows] half scales, and minima if any.
//     weight = scale * (quant - zero) + minimum
//     The K formats have halves per 256 columns, and integers that multiply them per block:
//     scale = half * sub_scale, minimum = half * sub_minimum. kU6 has two sub-scales in a
//     block: [2 * blocks][16 rows], the first for its groups 0-3.
//   floats: per panel [columns][16 rows]
enum class PackedType : uint8_t { kU8, kU4, kNonLinear4, kU5, kU6, kF32, kF16, kBF16 };

// The 16 values of IQ4_NL, + 128.
inline constexpr uint8_t kNonLinearBytes[16] = {1,   24,  45,  63,  79,  93,  106, 118,
                                                129, 141, 153, 166, 181, 197, 217, 241};

struct PackedMatrix {  // a view; the memory is the model's
  PackedType type = PackedType::kF32;
  int32_t zero = 0;
  uint32_t rows = 0, columns = 0;
  uint32_t panels = 0;
  size_t panel_bytes = 0;              // of `weights`
  const uint8_t* weights = nullptr;    // 64-byte aligned
  const uint16_t* scales = nullptr;    // null for floats
  const uint16_t* minima = nullptr;    // null unless the format has them
  const int8_t* sub_scales = nullptr;  // K formats only
  const int8_t* sub_minima = nullptr;

  bool quantized() const { return type < PackedType::kF32; }
  uint32_t blocks() const { return columns / 32; }
  // Columns that share a half in `scales` and in `minima`.
  uint32_t columns_per_scale() const { return sub_scales != nullptr ? 256 : 32; }
};

// The inputs of a multiplication, one row per token: as floats, and, for quantized weights,
// per block of 32 rounded to integers: value = scale * (128 * high + low), or scale * high
// where there is no low plane.
struct Activations {
  uint32_t tokens = 0;
  uint32_t columns = 0;           // a multiple of 32 if quantized
  const float* values = nullptr;  // [tokens][value_stride]
  size_t value_stride = 0;
  // Quantized form; what lies behind is written by Kernels::quantize.
  bool two_planes = false;
  int8_t* high = nullptr;        // [tokens][columns]
  int8_t* low = nullptr;         // [tokens][columns]
  float* scales = nullptr;       // [tokens][columns / 32]
  float* sums = nullptr;         // [tokens][columns / 32]: scale * sum of the integers
  int32_t* high_sums = nullptr;  // [tokens][columns / 16]: of the integers
  int32_t* low_sums = nullptr;
};

enum class Store : uint8_t { kSet, kAdd };

// One block of the key-value cache: K as [head_size][16 slots], then V as [16 slots][padded
// head size], in floats or halves. Padding to 16 lets V be read in whole vectors.
inline constexpr uint32_t kSlotsPerBlock = 16;
inline constexpr uint32_t kQueriesMax = 12;

struct AttentionJob {
  uint32_t queries = 0;                      // 1 to kQueriesMax
  const float* q[kQueriesMax] = {};          // [head_size] each
  float* out[kQueriesMax] = {};              // [head_size] each
  uint32_t lengths[kQueriesMax] = {};        // how many slots each one sees, at least 1
  const std::byte* const* blocks = nullptr;  // enough for the greatest length
  uint32_t head_size = 0;
  bool half = false;  // element type of the blocks
  float scale = 1;
  float* scores = nullptr;  // [queries][score_stride]
  size_t score_stride = 0;  // at least the lengths, a multiple of 16
};

struct Kernels {
  const char* name;
  // Rounds token `token` of `a`.
  void (*quantize)(const Activations& a, uint32_t token);
  // out[token * stride + row] = (or +=) the product, for all rows of panels [begin, end).
  // `out` rows are padded to whole panels. `scratch`: MultiplyScratchBytes(columns).
  void (*multiply)(const PackedMatrix& w, uint32_t begin, uint32_t end, const Activations& a,
                   Store store, float* out, size_t stride, std::byte* scratch);
  // out = x / sqrt(mean(x^2) + epsilon) * weight. All padded with zeros to 16.
  void (*rms_norm)(const float* x, const float* weight, uint32_t count, float epsilon, float* out);
  // gate = silu(gate) * up; count is a multiple of 16.
  void (*silu_multiply)(float* gate, const float* up, uint32_t count);
  void (*attend)(const AttentionJob& job);
  // Floats to halves, count a multiple of 16.
  void (*to_half)(const float* in, uint32_t count, uint16_t* out);
};

inline constexpr size_t MultiplyScratchBytes(size_t columns) {
  return columns * 32 + 4096;
}

extern const Kernels kScalarKernels;
extern const Kernels kAvx2Kernels;    // needs avx2, fma, f16c
extern const Kernels kAvx512Kernels;  // needs avx512 f, bw, vl, dq, vnni

// The best of them that this processor has. `name` "scalar", "avx2" or "avx512-vnni" asks for
// one; null if the processor lacks it.
const Kernels& BestKernels();
const Kernels* FindKernels(const char* name);

}  // namespace edge::inference
