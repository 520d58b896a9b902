// inference/pack.cc - repacking, block by block. The panel layouts are in kernels.h, the
// file's in docs/formats/gguf.md.
#include "inference/pack.h"

#include <cstring>

#include "edge/base/check.h"
#include "inference/half.h"

namespace edge::inference {
namespace {

size_t RoundUp64(size_t n) {
  return (n + 63) / 64 * 64;
}

PackedType PackedTypeOf(TensorType type) {
  switch (type) {
    case TensorType::kF16:
      return PackedType::kF16;
    case TensorType::kBF16:
      return PackedType::kBF16;
    case TensorType::kQ8_0:
      return PackedType::kU8;
    case TensorType::kQ4_0:
    case TensorType::kQ4_1:
      return PackedType::kU4;
    default:
      return PackedType::kF32;
  }
}

template <typename T>
void PackFloatRow(const std::byte* in, uint32_t columns, uint32_t lane, uint8_t* panel) {
  for (uint32_t k = 0; k < columns; ++k) {
    std::memcpy(panel + (size_t{k} * 16 + lane) * sizeof(T), in + k * sizeof(T), sizeof(T));
  }
}

// Two's complement to offset 128: quant + 128.
void PackQ8Block(const std::byte* quants, uint32_t lane, uint8_t* block) {
  for (uint32_t k = 0; k < 32; ++k) {
    block[k / 4 * 64 + lane * 4 + k % 4] = static_cast<uint8_t>(quants[k]) ^ 0x80;
  }
}

// The file puts columns 0-15 into the low nibbles of its 16 bytes and 16-31 into the high
// ones; so do we, hence whole bytes move.
void PackQ4Block(const std::byte* quants, uint32_t lane, uint8_t* block) {
  for (uint32_t g = 0; g < 4; ++g) std::memcpy(block + g * 64 + lane * 4, quants + g * 4, 4);
}

uint8_t QuantAt(const PackedMatrix& m, const uint8_t* panel, uint32_t lane, uint32_t column) {
  const uint32_t block = column / 32, k = column % 32;
  if (m.type == PackedType::kU8) return panel[size_t{block} * 512 + k / 4 * 64 + lane * 4 + k % 4];
  const uint8_t pair = panel[size_t{block} * 256 + k % 16 / 4 * 64 + lane * 4 + k % 4];
  return k < 16 ? pair & 15 : pair >> 4;
}

}  // namespace

bool CanPack(TensorType type) {
  switch (type) {
    case TensorType::kF32:
    case TensorType::kF16:
    case TensorType::kBF16:
    case TensorType::kQ8_0:
    case TensorType::kQ4_0:
    case TensorType::kQ4_1:
      return true;
    default:
      return false;
  }
}

PackedLayout LayoutPacked(TensorType type, uint32_t rows, uint32_t columns) {
  PackedLayout layout;
  PackedMatrix& m = layout.matrix;
  m.type = PackedTypeOf(type);
  m.rows = rows;
  m.columns = columns;
  m.panels = (rows + 15) / 16;
  switch (m.type) {
    case PackedType::kF32:
      m.panel_bytes = size_t{columns} * 64;
      break;
    case PackedType::kF16:
    case PackedType::kBF16:
      m.panel_bytes = size_t{columns} * 32;
      break;
    case PackedType::kU8:
      m.panel_bytes = size_t{columns} * 16;
      break;
    case PackedType::kU4:
      m.panel_bytes = size_t{columns} * 8;
      break;
  }
  if (type == TensorType::kQ8_0) m.zero = 128;
  if (type == TensorType::kQ4_0) m.zero = 8;
  layout.weight_bytes = RoundUp64(m.panels * m.panel_bytes);
  if (m.quantized()) {
    layout.scale_bytes = RoundUp64(size_t{m.panels} * m.blocks() * 32);
    if (type == TensorType::kQ4_1) layout.minimum_bytes = layout.scale_bytes;
  }
  return layout;
}

PackedMatrix Pack(const GgufTensor& tensor, const PackedLayout& layout, std::byte* memory) {
  PackedMatrix m = layout.matrix;
  EDGE_CHECK(m.rows == tensor.rows() && m.columns == tensor.columns());
  auto* weights = reinterpret_cast<uint8_t*>(memory);
  auto* scales = reinterpret_cast<uint16_t*>(memory + layout.weight_bytes);
  auto* minima = reinterpret_cast<uint16_t*>(memory + layout.weight_bytes + layout.scale_bytes);
  const TensorLayout file = LayoutOf(tensor.type);
  const size_t row_bytes = size_t{m.columns} / file.block_elements * file.block_bytes;
  for (uint32_t row = 0; row < m.rows; ++row) {
    const std::byte* in = tensor.bytes.data() + row * row_bytes;
    const uint32_t lane = row % 16;
    uint8_t* panel = weights + row / 16 * m.panel_bytes;
    if (tensor.type == TensorType::kF32) {
      PackFloatRow<uint32_t>(in, m.columns, lane, panel);
      continue;
    }
    if (!m.quantized()) {
      PackFloatRow<uint16_t>(in, m.columns, lane, panel);
      continue;
    }
    for (uint32_t b = 0; b < m.blocks(); ++b, in += file.block_bytes) {
      const size_t scale_at = (size_t{row / 16} * m.blocks() + b) * 16 + lane;
      std::memcpy(scales + scale_at, in, 2);
      if (tensor.type == TensorType::kQ8_0) {
        PackQ8Block(in + 2, lane, panel + size_t{b} * 512);
      } else if (tensor.type == TensorType::kQ4_0) {
        PackQ4Block(in + 2, lane, panel + size_t{b} * 256);
      } else {
        std::memcpy(minima + scale_at, in + 2, 2);
        PackQ4Block(in + 4, lane, panel + size_t{b} * 256);
      }
    }
  }
  m.weights = weights;
  if (m.quantized()) m.scales = scales;
  if (layout.minimum_bytes > 0) m.minima = minima;
  return m;
}

void UnpackRow(const PackedMatrix& m, uint32_t row, float* out) {
  const uint8_t* panel = m.weights + row / 16 * m.panel_bytes;
  const uint32_t lane = row % 16;
  for (uint32_t k = 0; k < m.columns; ++k) {
    const size_t at = size_t{k} * 16 + lane;
    switch (m.type) {
      case PackedType::kF32:
        out[k] = reinterpret_cast<const float*>(panel)[at];
        break;
      case PackedType::kF16:
        out[k] = FloatFromHalf(reinterpret_cast<const uint16_t*>(panel)[at]);
        break;
      case PackedType::kBF16:
        out[k] = FloatFromBrain(reinterpret_cast<const uint16_t*>(panel)[at]);
        break;
      default: {
        const size_t scale_at = (size_t{row / 16} * m.blocks() + k / 32) * 16 + lane;
        const int32_t quant = QuantAt(m, panel, lane, k) - m.zero;
        const float minimum = m.minima == nullptr ? 0.0f : FloatFromHalf(m.minima[scale_at]);
        out[k] = FloatFromHalf(m.scales[scale_at]) * static_cast<float>(quant) + minimum;
      }
    }
  }
}

}  // namespace edge::inference
