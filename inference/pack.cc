// inference/pack.cc - repacking, block by block. The panel layouts are in kernels.h, the
// file's in docs/formats/gguf.md.
//
// A block of 32 columns passes through two arrays of eight words, one per group of four
// columns: the low four bits of each quant and what lies above them, a byte per column.
#include "inference/pack.h"

#include <algorithm>
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
    case TensorType::kQ4_K:
      return PackedType::kU4;
    case TensorType::kQ5_0:
    case TensorType::kQ5_1:
    case TensorType::kQ5_K:
      return PackedType::kU5;
    case TensorType::kQ6_K:
      return PackedType::kU6;
    case TensorType::kIQ4_NL:
      return PackedType::kNonLinear4;
    default:
      return PackedType::kF32;
  }
}

uint32_t PackedBlockBytes(PackedType type) {
  switch (type) {
    case PackedType::kU8:
      return 512;
    case PackedType::kU5:
      return 320;
    case PackedType::kU6:
      return 384;
    default:
      return 256;
  }
}

bool HasMinima(TensorType type) {
  return type == TensorType::kQ4_1 || type == TensorType::kQ5_1 || type == TensorType::kQ4_K ||
         type == TensorType::kQ5_K;
}

template <typename T>
void PackFloatRow(const std::byte* in, uint32_t columns, uint32_t lane, uint8_t* panel) {
  for (uint32_t k = 0; k < columns; ++k) {
    std::memcpy(panel + (size_t{k} * 16 + lane) * sizeof(T), in + k * sizeof(T), sizeof(T));
  }
}

constexpr uint32_t kLowNibbles = 0x0F0F0F0F;

uint32_t Word(const std::byte* at) {
  return LoadLittle<uint32_t>(at);
}
void PutWord(uint8_t* at, uint32_t word) {
  StoreLittle(reinterpret_cast<std::byte*>(at), word);
}

struct Groups {
  uint32_t low[8];   // bytes of 0 to 15
  uint32_t high[8];  // bytes of the bits above
};

void PutNibbles(const Groups& in, uint32_t lane, uint8_t* block) {
  for (uint32_t g = 0; g < 4; ++g) {
    PutWord(block + g * 64 + lane * 4, in.low[g] | in.low[g + 4] << 4);
  }
}

void PutFiveBits(const Groups& in, uint32_t lane, uint8_t* block) {
  PutNibbles(in, lane, block);
  uint32_t bits = 0;
  for (uint32_t g = 0; g < 8; ++g) bits |= in.high[g] << g;
  PutWord(block + 256 + lane * 4, bits);
}

void PutSixBits(const Groups& in, uint32_t lane, uint8_t* block) {
  PutNibbles(in, lane, block);
  for (uint32_t h = 0; h < 2; ++h) {
    uint32_t bits = 0;
    for (uint32_t s = 0; s < 4; ++s) bits |= in.high[h * 4 + s] << (2 * s);
    PutWord(block + 256 + h * 64 + lane * 4, bits);
  }
}

// Two's complement to offset 128: quant + 128.
void PackQ8Block(const std::byte* quants, uint32_t lane, uint8_t* block) {
  for (uint32_t g = 0; g < 8; ++g) {
    PutWord(block + g * 64 + lane * 4, Word(quants + g * 4) ^ 0x80808080);
  }
}

// The file puts columns 0-15 into the low nibbles of its 16 bytes and 16-31 into the high
// ones; so do we, hence whole bytes move.
void PackQ4Block(const std::byte* quants, uint32_t lane, uint8_t* block) {
  for (uint32_t g = 0; g < 4; ++g) std::memcpy(block + g * 64 + lane * 4, quants + g * 4, 4);
}

// `bits`: one per column; then nibbles as in Q4_0.
void PackQ5Block(const std::byte* bits, uint32_t lane, uint8_t* block) {
  const uint32_t fifth = Word(bits);
  Groups groups;
  for (uint32_t g = 0; g < 4; ++g) {
    const uint32_t pair = Word(bits + 4 + g * 4);
    groups.low[g] = pair & kLowNibbles;
    groups.low[g + 4] = pair >> 4 & kLowNibbles;
  }
  for (uint32_t g = 0; g < 8; ++g) {
    // Bit i of the four becomes bit 0 of byte i.
    groups.high[g] = (fifth >> (4 * g) & 15) * 0x00204081 & 0x01010101;
  }
  PutFiveBits(groups, lane, block);
}

// Where a row's parts go.
struct Target {
  uint8_t* weights;  // of the row's panel
  uint16_t* scales;  // of its panel, at its lane: every 16th is ours
  uint16_t* minima;  // likewise, or null
  int8_t* sub_scales;
  int8_t* sub_minima;
  uint32_t lane;

  Target AtLane(uint32_t other) const {  // of one that is at lane 0
    return {weights,
            scales + other,
            minima == nullptr ? nullptr : minima + other,
            sub_scales == nullptr ? nullptr : sub_scales + other,
            sub_minima == nullptr ? nullptr : sub_minima + other,
            other};
  }
};

uint16_t Half(const std::byte* at) {
  return LoadLittle<uint16_t>(at);
}

// Block `b` of 32 columns.
void PackSmallBlock(TensorType type, const std::byte* in, uint32_t b, const Target& to) {
  uint8_t* block = to.weights + size_t{b} * PackedBlockBytes(PackedTypeOf(type));
  to.scales[size_t{b} * 16] = Half(in);
  in += 2;
  if (to.minima != nullptr) {
    to.minima[size_t{b} * 16] = Half(in);
    in += 2;
  }
  if (type == TensorType::kQ8_0) {
    PackQ8Block(in, to.lane, block);
  } else if (type == TensorType::kQ5_0 || type == TensorType::kQ5_1) {
    PackQ5Block(in, to.lane, block);
  } else {
    PackQ4Block(in, to.lane, block);
  }
}

// Eight scales and eight minima of six bits in twelve bytes.
void UnpackSixBitPairs(const std::byte* in, uint8_t (&scales)[8], uint8_t (&minima)[8]) {
  for (uint32_t j = 0; j < 4; ++j) {
    const auto a = static_cast<uint8_t>(in[j]), b = static_cast<uint8_t>(in[j + 4]),
               c = static_cast<uint8_t>(in[j + 8]);
    scales[j] = a & 63;
    minima[j] = b & 63;
    scales[j + 4] = static_cast<uint8_t>((c & 15) | a >> 6 << 4);
    minima[j + 4] = static_cast<uint8_t>(c >> 4 | b >> 6 << 4);
  }
}

// Q4_K and Q5_K: block `s` of 256 columns.
void PackPairedBlock(TensorType type, const std::byte* in, uint32_t s, const Target& to) {
  const bool five = type == TensorType::kQ5_K;
  to.scales[size_t{s} * 16] = Half(in);
  to.minima[size_t{s} * 16] = Half(in + 2) ^ 0x8000;  // the format subtracts it
  uint8_t scales[8], minima[8];
  UnpackSixBitPairs(in + 4, scales, minima);
  const std::byte* fifth = in + 16;
  const std::byte* quants = in + (five ? 48 : 16);
  for (uint32_t j = 0; j < 8; ++j) {
    const size_t b = size_t{s} * 8 + j;
    to.sub_scales[b * 16] = static_cast<int8_t>(scales[j]);
    to.sub_minima[b * 16] = static_cast<int8_t>(minima[j]);
    Groups groups{};
    for (uint32_t g = 0; g < 8; ++g) {
      groups.low[g] = Word(quants + j / 2 * 32 + g * 4) >> (j % 2 * 4) & kLowNibbles;
      if (five) groups.high[g] = Word(fifth + g * 4) >> j & 0x01010101;
    }
    five ? PutFiveBits(groups, to.lane, to.weights + b * 320)
         : PutNibbles(groups, to.lane, to.weights + b * 256);
  }
}

// Q6_K: block `s` of 256 columns.
void PackQ6Block(const std::byte* in, uint32_t s, const Target& to) {
  to.scales[size_t{s} * 16] = Half(in + 208);
  for (uint32_t j = 0; j < 16; ++j) {
    to.sub_scales[(size_t{s} * 16 + j) * 16] = static_cast<int8_t>(in[192 + j]);
  }
  for (uint32_t j = 0; j < 8; ++j) {
    const uint32_t half = j / 4, quarter = j % 4;  // of the 256, and of the half
    const std::byte* low = in + half * 64 + quarter % 2 * 32;
    const std::byte* high = in + 128 + half * 32;
    Groups groups;
    for (uint32_t g = 0; g < 8; ++g) {
      groups.low[g] = Word(low + g * 4) >> (quarter / 2 * 4) & kLowNibbles;
      groups.high[g] = Word(high + g * 4) >> (quarter * 2) & 0x03030303;
    }
    PutSixBits(groups, to.lane, to.weights + (size_t{s} * 8 + j) * 384);
  }
}

// Block `b` of the type's own size.
void PackBlock(TensorType type, const std::byte* in, uint32_t b, const Target& to) {
  switch (type) {
    case TensorType::kQ6_K:
      return PackQ6Block(in, b, to);
    case TensorType::kQ4_K:
    case TensorType::kQ5_K:
      return PackPairedBlock(type, in, b, to);
    default:
      return PackSmallBlock(type, in, b, to);
  }
}

int32_t QuantAt(const PackedMatrix& m, const uint8_t* panel, uint32_t lane, uint32_t column) {
  const uint32_t k = column % 32, g = k / 4, byte = lane * 4 + k % 4;
  const uint8_t* block = panel + size_t{column / 32} * PackedBlockBytes(m.type);
  if (m.type == PackedType::kU8) return block[g * 64 + byte];
  const uint8_t pair = block[g % 4 * 64 + byte];
  const int32_t nibble = g < 4 ? pair & 15 : pair >> 4;
  switch (m.type) {
    case PackedType::kNonLinear4:
      return kNonLinearBytes[nibble];
    case PackedType::kU5:
      return nibble | (block[256 + byte] >> g & 1) << 4;
    case PackedType::kU6:
      return nibble | (block[256 + g / 4 * 64 + byte] >> (g % 4 * 2) & 3) << 4;
    default:
      return nibble;
  }
}

}  // namespace

bool CanPack(TensorType type) {
  return type == TensorType::kF32 || PackedTypeOf(type) != PackedType::kF32;
}

PackedLayout LayoutPacked(TensorType type, uint32_t rows, uint32_t columns) {
  PackedLayout layout;
  PackedMatrix& m = layout.matrix;
  m.type = PackedTypeOf(type);
  m.rows = rows;
  m.columns = columns;
  m.panels = (rows + 15) / 16;
  m.panel_bytes = m.quantized() ? size_t{m.blocks()} * PackedBlockBytes(m.type)
                                : size_t{columns} * (m.type == PackedType::kF32 ? 64 : 32);
  if (type == TensorType::kQ8_0 || type == TensorType::kIQ4_NL) m.zero = 128;
  if (type == TensorType::kQ4_0) m.zero = 8;
  if (type == TensorType::kQ5_0) m.zero = 16;
  if (type == TensorType::kQ6_K) m.zero = 32;
  layout.weight_bytes = RoundUp64(m.panels * m.panel_bytes);
  if (m.quantized()) {
    const uint32_t block_elements = LayoutOf(type).block_elements;
    layout.scale_bytes = RoundUp64(size_t{m.panels} * (columns / block_elements) * 32);
    if (HasMinima(type)) layout.minimum_bytes = layout.scale_bytes;
    if (block_elements == 256) {
      const size_t bytes = size_t{m.panels} * m.blocks() * 16;
      layout.sub_scale_bytes = RoundUp64(m.type == PackedType::kU6 ? bytes * 2 : bytes);
      if (HasMinima(type)) layout.sub_minimum_bytes = RoundUp64(bytes);
    }
  }
  return layout;
}

PackedMatrix Pack(const GgufTensor& tensor, const PackedLayout& layout, std::byte* memory) {
  PackedMatrix m = layout.matrix;
  EDGE_CHECK(m.rows == tensor.rows() && m.columns == tensor.columns());
  auto take = [&]<typename T>(T** out, size_t bytes) {
    *out = bytes > 0 ? reinterpret_cast<T*>(memory) : nullptr;
    memory += bytes;
  };
  Target all{};  // of row 0
  take(&all.weights, layout.weight_bytes);
  take(&all.scales, layout.scale_bytes);
  take(&all.minima, layout.minimum_bytes);
  take(&all.sub_scales, layout.sub_scale_bytes);
  take(&all.sub_minima, layout.sub_minimum_bytes);
  m.weights = all.weights;
  m.scales = all.scales;
  m.minima = all.minima;
  m.sub_scales = all.sub_scales;
  m.sub_minima = all.sub_minima;
  const TensorLayout file = LayoutOf(tensor.type);
  const uint32_t blocks = m.columns / file.block_elements;
  const uint32_t parts = m.type == PackedType::kU6 ? 2 : 1;
  const size_t row_bytes = size_t{blocks} * file.block_bytes;
  for (uint32_t panel = 0; panel < m.panels; ++panel) {
    const uint32_t lanes = std::min(16u, m.rows - panel * 16);
    const std::byte* in = tensor.bytes.data() + size_t{panel} * 16 * row_bytes;
    Target to = all;
    to.weights += panel * m.panel_bytes;
    if (!m.quantized()) {
      for (to.lane = 0; to.lane < lanes; ++to.lane, in += row_bytes) {
        tensor.type == TensorType::kF32
            ? PackFloatRow<uint32_t>(in, m.columns, to.lane, to.weights)
            : PackFloatRow<uint16_t>(in, m.columns, to.lane, to.weights);
      }
      continue;
    }
    to.scales += size_t{panel} * blocks * 16;
    if (to.minima != nullptr) to.minima += size_t{panel} * blocks * 16;
    if (to.sub_scales != nullptr) to.sub_scales += size_t{panel} * m.blocks() * parts * 16;
    if (to.sub_minima != nullptr) to.sub_minima += size_t{panel} * m.blocks() * 16;
    // All rows of a block before the next one: what is written stays in the L1 cache.
    for (uint32_t b = 0; b < blocks; ++b, in += file.block_bytes) {
      for (uint32_t lane = 0; lane < lanes; ++lane) {
        PackBlock(tensor.type, in + lane * row_bytes, b, to.AtLane(lane));
      }
    }
  }
  return m;
}

void UnpackRow(const PackedMatrix& m, uint32_t row, float* out) {
  const uint8_t* panel = m.weights + row / 16 * m.panel_bytes;
  const uint32_t lane = row % 16;
  const size_t shared = m.columns_per_scale();
  const uint32_t parts = m.type == PackedType::kU6 ? 2 : 1;
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
        // Every product here is exact: a half, a sub-scale of 7 bits and a quant of 6 are
        // within the 24 bits of a float.
        const size_t half_at = (row / 16 * (m.columns / shared) + k / shared) * 16 + lane;
        const size_t block_at = size_t{row / 16} * m.blocks() + k / 32;
        float scale = FloatFromHalf(m.scales[half_at]);
        if (m.sub_scales != nullptr) {
          const size_t part_at = block_at * parts + k % 32 * parts / 32;
          scale *= static_cast<float>(m.sub_scales[part_at * 16 + lane]);
        }
        out[k] = scale * static_cast<float>(QuantAt(m, panel, lane, k) - m.zero);
        if (m.minima == nullptr) break;
        float minimum = FloatFromHalf(m.minima[half_at]);
        if (m.sub_minima != nullptr) {
          minimum *= static_cast<float>(m.sub_minima[block_at * 16 + lane]);
        }
        out[k] += minimum;
      }
    }
  }
}

}  // namespace edge::inference
