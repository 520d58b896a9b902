// inference/pack.h - from the rows of a GGUF tensor to the panels that the kernels read.
#pragma once
#include <cstdint>

#include "edge/inference/gguf.h"
#include "inference/kernels.h"

namespace edge::inference {

// Whether Pack() knows the type.
bool CanPack(TensorType type);
inline constexpr char kPackableTypes[] =
    "F32 F16 BF16 Q8_0 Q4_0 Q4_1 Q5_0 Q5_1 Q4_K Q5_K Q6_K IQ4_NL";

// Where the parts of a packed tensor lie in its memory, which is to be zeroed and 64-byte
// aligned.
struct PackedLayout {
  PackedMatrix matrix;  // pointers null
  // Each a multiple of 64; the parts follow each other in this order.
  size_t weight_bytes = 0, scale_bytes = 0, minimum_bytes = 0;
  size_t sub_scale_bytes = 0, sub_minimum_bytes = 0;
  size_t total_bytes() const {
    return weight_bytes + scale_bytes + minimum_bytes + sub_scale_bytes + sub_minimum_bytes;
  }
};
PackedLayout LayoutPacked(TensorType type, uint32_t rows, uint32_t columns);

// `tensor` has the type, rows and columns of `layout`.
PackedMatrix Pack(const GgufTensor& tensor, const PackedLayout& layout, std::byte* memory);

// out[0, columns) = row `row` as floats, exactly as the file's format defines them.
void UnpackRow(const PackedMatrix& matrix, uint32_t row, float* out);

}  // namespace edge::inference
