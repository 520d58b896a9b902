#include "inference/kernels.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>

#include "inference/aligned_buffer.h"
#include "inference/half.h"
#include "inference/pack.h"
#include "tests/inference/gguf_builder.h"

namespace edge::inference {
namespace {

std::vector<const Kernels*> FastKernels() {
  std::vector<const Kernels*> tables;
  for (const char* name : {"avx2", "avx512-vnni"}) {
    if (const Kernels* table = FindKernels(name)) tables.push_back(table);
  }
  return tables;
}

std::vector<float> RandomFloats(size_t count, std::mt19937* random) {
  std::vector<float> values(count);
  for (float& value : values) {
    value = static_cast<float>(static_cast<int>((*random)() % 20001) - 10000) / 4000.0f;
  }
  return values;
}

// A packed random matrix and the weights that the file's format says it holds.
struct Matrix {
  Matrix(TensorType type, uint32_t rows, uint32_t columns, std::mt19937* random) {
    bytes = testing::Quantize(type, RandomFloats(size_t{rows} * columns, random));
    GgufTensor tensor{"m", type, 2, {columns, rows, 1, 1}, 0, bytes};
    const PackedLayout layout = LayoutPacked(type, rows, columns);
    memory = AlignedBuffer::Create(layout.total_bytes(), "test").value();
    packed = Pack(tensor, layout, memory.data());
    weights.resize(size_t{rows} * columns);
    for (uint32_t row = 0; row < rows; ++row) {
      UnpackRow(packed, row, &weights[size_t{row} * columns]);
    }
  }
  Bytes bytes;
  AlignedBuffer memory;
  PackedMatrix packed;
  std::vector<float> weights;
};

// The inputs of a multiplication with room for their rounded form.
struct Inputs {
  Inputs(uint32_t tokens, uint32_t columns, bool two_planes, std::mt19937* random)
      : values(RandomFloats(size_t{tokens} * (columns + 16), random)),
        high(size_t{tokens} * columns),
        low(high.size()),
        scales(high.size() / 32 + 1),
        sums(scales.size()),
        high_sums(scales.size() * 2),
        low_sums(high_sums.size()) {
    if (columns > 64) std::fill_n(values.begin() + 32, 32, 0.0f);  // a block of zeros
    a.tokens = tokens;
    a.columns = columns;
    a.values = values.data();
    a.value_stride = columns + 16;
    a.two_planes = two_planes;
    a.high = high.data();
    a.low = low.data();
    a.scales = scales.data();
    a.sums = sums.data();
    a.high_sums = high_sums.data();
    a.low_sums = low_sums.data();
  }
  std::vector<float> values;
  std::vector<int8_t> high, low;
  std::vector<float> scales, sums;
  std::vector<int32_t> high_sums, low_sums;
  Activations a;
};

std::vector<float> Multiply(const Kernels& kernels, const Matrix& m, const Inputs& in,
                            Store store) {
  const size_t stride = m.packed.panels * 16 + 16;
  std::vector<float> out(stride * in.a.tokens, 0.25f);
  std::vector<std::byte> scratch(MultiplyScratchBytes(in.a.columns));
  if (m.packed.quantized()) {
    for (uint32_t token = 0; token < in.a.tokens; ++token) kernels.quantize(in.a, token);
  }
  kernels.multiply(m.packed, 0, m.packed.panels, in.a, store, out.data(), stride, scratch.data());
  return out;
}

TEST_CASE("packed rows hold exactly the values that the format defines", "[inference]") {
  std::mt19937 random(1);
  SECTION("Q8_0") {
    const Matrix m(TensorType::kQ8_0, 19, 64, &random);
    for (uint32_t i = 0; i < m.weights.size(); ++i) {
      const std::byte* block = m.bytes.data() + i / 32 * 34;
      const float scale = FloatFromHalf(LoadLittle<uint16_t>(block));
      REQUIRE(m.weights[i] == scale * static_cast<float>(LoadLittle<int8_t>(block + 2 + i % 32)));
    }
  }
  SECTION("Q4_0 and Q4_1") {
    const bool with_minimum = GENERATE(false, true);
    const Matrix m(with_minimum ? TensorType::kQ4_1 : TensorType::kQ4_0, 19, 64, &random);
    const size_t header = with_minimum ? 4 : 2;
    for (uint32_t i = 0; i < m.weights.size(); ++i) {
      const std::byte* block = m.bytes.data() + i / 32 * (header + 16);
      const float scale = FloatFromHalf(LoadLittle<uint16_t>(block));
      const auto pair = LoadLittle<uint8_t>(block + header + i % 16);
      const int quant = i % 32 < 16 ? pair & 15 : pair >> 4;
      const float expected = with_minimum ? scale * static_cast<float>(quant) +
                                                FloatFromHalf(LoadLittle<uint16_t>(block + 2))
                                          : scale * static_cast<float>(quant - 8);
      REQUIRE(m.weights[i] == expected);
    }
  }
  SECTION("floats") {
    const Matrix m(TensorType::kF16, 5, 7, &random);
    for (uint32_t i = 0; i < m.weights.size(); ++i) {
      REQUIRE(m.weights[i] == FloatFromHalf(LoadLittle<uint16_t>(m.bytes.data() + i * 2)));
    }
  }
}

// "0a1b" to bytes.
Bytes FromHex(const std::string& hex) {
  Bytes bytes;
  for (size_t i = 0; i + 1 < hex.size(); i += 2) {
    bytes.push_back(static_cast<std::byte>(std::stoi(hex.substr(i, 2), nullptr, 16)));
  }
  return bytes;
}

TEST_CASE("every format's values equal an independent reading to the last bit", "[inference]") {
  std::ifstream in(EDGE_SOURCE_DIR "/tests/inference/golden/quants.json");
  const auto golden = nlohmann::json::parse(in);
  REQUIRE(golden.size() == 9);
  for (const auto& entry : golden) {
    const auto type = static_cast<TensorType>(entry["type"].get<uint32_t>());
    CAPTURE(TensorTypeName(type));
    REQUIRE(TensorTypeName(type) == entry["name"].get<std::string>());
    const Bytes blocks = FromHex(entry["blocks"]), floats = FromHex(entry["floats"]);
    constexpr uint32_t kColumns = 512;
    const auto rows = static_cast<uint32_t>(floats.size() / 4 / kColumns);
    const GgufTensor tensor{"m", type, 2, {kColumns, rows, 1, 1}, 0, blocks};
    const PackedLayout layout = LayoutPacked(type, rows, kColumns);
    AlignedBuffer memory = AlignedBuffer::Create(layout.total_bytes(), "test").value();
    const PackedMatrix packed = Pack(tensor, layout, memory.data());
    std::vector<float> row(kColumns);
    for (uint32_t r = 0; r < rows; ++r) {
      UnpackRow(packed, r, row.data());
      REQUIRE(std::memcmp(row.data(), floats.data() + r * kColumns * 4, kColumns * 4) == 0);
    }
  }
}

constexpr TensorType kTypes[] = {TensorType::kF32,  TensorType::kF16,  TensorType::kBF16,
                                 TensorType::kQ8_0, TensorType::kQ4_0, TensorType::kQ4_1,
                                 TensorType::kQ5_0, TensorType::kQ5_1, TensorType::kQ4_K,
                                 TensorType::kQ5_K, TensorType::kQ6_K, TensorType::kIQ4_NL};

TEST_CASE("products agree with plain sums of doubles", "[inference]") {
  const TensorType type = GENERATE(from_range(std::begin(kTypes), std::end(kTypes)));
  const bool two_planes = GENERATE(true, false);
  CAPTURE(TensorTypeName(type), two_planes);
  const uint32_t columns = LayoutOf(type).block_elements == 256 ? 512 : 96;
  std::mt19937 random(2);
  const Matrix m(type, 37, columns, &random);
  const Inputs in(3, columns, two_planes, &random);
  const auto out = Multiply(kScalarKernels, m, in, Store::kSet);
  const bool exact = !m.packed.quantized();
  for (uint32_t token = 0; token < 3; ++token) {
    for (uint32_t row = 0; row < 37; ++row) {
      double sum = 0, magnitude = 0;
      for (uint32_t k = 0; k < columns; ++k) {
        const double term = static_cast<double>(m.weights[row * columns + k]) *
                            static_cast<double>(in.values[token * (columns + 16) + k]);
        sum += term;
        magnitude += std::fabs(term);
      }
      const double bound = magnitude * (exact ? 1e-6 : two_planes ? 1e-4 : 1e-2);
      const auto got = static_cast<double>(out[token * (m.packed.panels * 16 + 16) + row]);
      REQUIRE(std::fabs(got - sum) <= bound);
    }
  }
}

TEST_CASE("fast products equal the reference to the last bit", "[inference]") {
  const TensorType type = GENERATE(from_range(std::begin(kTypes), std::end(kTypes)));
  const uint32_t tokens = GENERATE(1u, 2u, 3u, 4u, 5u, 6u, 7u, 13u);
  const uint32_t rows = GENERATE(8u, 16u, 100u);
  const bool two_planes = GENERATE(true, false);
  const Store store = tokens % 2 == 0 ? Store::kAdd : Store::kSet;
  CAPTURE(TensorTypeName(type), tokens, rows, two_planes);
  const uint32_t columns = LayoutOf(type).block_elements == 256 ? 256 : 128;
  std::mt19937 random(3);
  const Matrix m(type, rows, columns, &random);
  const Inputs in(tokens, columns, two_planes, &random);
  const auto expected = Multiply(kScalarKernels, m, in, store);
  for (const Kernels* kernels : FastKernels()) {
    CAPTURE(kernels->name);
    REQUIRE(Multiply(*kernels, m, in, store) == expected);
  }
}

TEST_CASE("fast norms, activations and halves equal the reference", "[inference]") {
  std::mt19937 random(4);
  const uint32_t count = GENERATE(8u, 16u, 64u, 172u);
  const uint32_t padded = (count + 15) / 16 * 16;
  std::vector<float> x = RandomFloats(padded, &random), weight = RandomFloats(padded, &random);
  for (uint32_t i = count; i < padded; ++i) x[i] = weight[i] = 0;
  std::vector<float> norm(padded), silu = x;
  std::vector<uint16_t> halves(padded);
  kScalarKernels.rms_norm(x.data(), weight.data(), count, 1e-5f, norm.data());
  kScalarKernels.silu_multiply(silu.data(), weight.data(), padded);
  kScalarKernels.to_half(x.data(), padded, halves.data());
  double squares = 0;
  for (uint32_t i = 0; i < count; ++i) squares += std::pow(static_cast<double>(x[i]), 2);
  const double factor = 1 / std::sqrt(squares / count + 1e-5);
  for (uint32_t i = 0; i < count; ++i) {
    const auto value = static_cast<double>(x[i]), w = static_cast<double>(weight[i]);
    REQUIRE(static_cast<double>(norm[i]) == Approx(value * factor * w).epsilon(1e-5));
    REQUIRE(static_cast<double>(silu[i]) ==
            Approx(value / (1 + std::exp(-value)) * w).epsilon(1e-5));
    REQUIRE(halves[i] == HalfFromFloat(x[i]));
  }
  for (const Kernels* kernels : FastKernels()) {
    CAPTURE(kernels->name);
    std::vector<float> other_norm(padded), other_silu = x;
    std::vector<uint16_t> other_halves(padded);
    kernels->rms_norm(x.data(), weight.data(), count, 1e-5f, other_norm.data());
    kernels->silu_multiply(other_silu.data(), weight.data(), padded);
    kernels->to_half(x.data(), padded, other_halves.data());
    REQUIRE(other_norm == norm);
    REQUIRE(other_silu == silu);
    REQUIRE(other_halves == halves);
  }
}

TEST_CASE("extreme activations stay finite and equal", "[inference]") {
  std::vector<float> x = {-1000, -100, -88, -87, -50, -1e-30f, 0, 1e-30f,
                          1,     50,   87,  88,  100, 1000,    5, -5};
  const std::vector<float> up(16, 1.0f), original = x;
  kScalarKernels.silu_multiply(x.data(), up.data(), 16);
  for (size_t i = 0; i < 16; ++i) {
    REQUIRE(std::isfinite(x[i]));
    if (original[i] > 20) REQUIRE(x[i] == original[i]);
  }
  for (const Kernels* kernels : FastKernels()) {
    std::vector<float> other = original;
    kernels->silu_multiply(other.data(), up.data(), 16);
    REQUIRE(other == x);
  }
}

TEST_CASE("inputs that are not numbers are rounded to something in range", "[inference]") {
  std::mt19937 random(5);
  Inputs in(4, 32, true, &random);
  const float bad[] = {std::nanf(""), HUGE_VALF, -HUGE_VALF, 1e-40f};
  for (uint32_t token = 0; token < 4; ++token) in.values[token * 48 + 5] = bad[token];
  std::vector<const Kernels*> tables = FastKernels();
  tables.push_back(&kScalarKernels);
  for (const Kernels* kernels : tables) {
    for (uint32_t token = 0; token < 4; ++token) {
      kernels->quantize(in.a, token);
      REQUIRE(std::isfinite(in.scales[token]));
      REQUIRE(std::isfinite(in.sums[token]));
      REQUIRE(std::abs(in.high_sums[token * 2]) <= 16 * 127);
    }
  }
}

// Blocks with random keys and values, and queries of uneven lengths over them.
struct AttentionCase {
  AttentionCase(uint32_t queries, uint32_t head_size, uint32_t slots, bool half) {
    std::mt19937 random(queries * 1000 + head_size + slots);
    const uint32_t padded = (head_size + 15) / 16 * 16, count = (slots + 15) / 16;
    const size_t block_floats = size_t{16} * (head_size + padded);
    values = RandomFloats(block_floats * count, &random);
    for (float& value : values) value = FloatFromHalf(HalfFromFloat(value));
    for (const float value : values) halves.push_back(HalfFromFloat(value));
    for (uint32_t b = 0; b < count; ++b) {
      blocks.push_back(half ? reinterpret_cast<const std::byte*>(&halves[b * block_floats])
                            : reinterpret_cast<const std::byte*>(&values[b * block_floats]));
    }
    q = RandomFloats(size_t{queries} * head_size, &random);
    out.resize(q.size());
    scores.resize(size_t{queries} * (count * 16 + 16));
    job.queries = queries;
    job.blocks = blocks.data();
    job.head_size = head_size;
    job.half = half;
    job.scale = 0.3f;
    job.scores = scores.data();
    job.score_stride = count * 16 + 16;
    for (uint32_t i = 0; i < queries; ++i) {
      job.q[i] = &q[size_t{i} * head_size];
      job.out[i] = &out[size_t{i} * head_size];
      job.lengths[i] = i == 0 ? slots : static_cast<uint32_t>(random() % slots) + 1;
    }
  }
  double Expected(uint32_t query, uint32_t d) const {
    const uint32_t h = job.head_size, padded = (h + 15) / 16 * 16;
    double total = 0, sum = 0;
    for (uint32_t slot = 0; slot < job.lengths[query]; ++slot) {
      const float* block = &values[size_t{slot / 16} * 16 * (h + padded)];
      double dot = 0;
      for (uint32_t k = 0; k < h; ++k) {
        dot +=
            static_cast<double>(job.q[query][k]) * static_cast<double>(block[k * 16 + slot % 16]);
      }
      const double weight = std::exp(dot * static_cast<double>(job.scale));
      total += weight;
      sum += weight * static_cast<double>(block[h * 16 + slot % 16 * padded + d]);
    }
    return sum / total;
  }
  std::vector<float> values, q, out, scores;
  std::vector<uint16_t> halves;
  std::vector<const std::byte*> blocks;
  AttentionJob job;
};

TEST_CASE("attention over blocks equals softmax of dot products", "[inference]") {
  const uint32_t queries = GENERATE(1u, 3u, 7u, 12u);
  const uint32_t head_size = GENERATE(8u, 48u, 64u);
  const uint32_t slots = GENERATE(1u, 16u, 77u);
  const bool half = GENERATE(true, false);
  CAPTURE(queries, head_size, slots, half);
  AttentionCase c(queries, head_size, slots, half);
  kScalarKernels.attend(c.job);
  const std::vector<float> expected = c.out;
  for (uint32_t i = 0; i < queries; ++i) {
    for (uint32_t d = 0; d < head_size; ++d) {
      REQUIRE(static_cast<double>(expected[i * head_size + d]) ==
              Approx(c.Expected(i, d)).epsilon(1e-4).margin(1e-5));
    }
  }
  for (const Kernels* kernels : FastKernels()) {
    CAPTURE(kernels->name);
    std::fill(c.out.begin(), c.out.end(), 0.0f);
    kernels->attend(c.job);
    REQUIRE(c.out == expected);
  }
}

}  // namespace
}  // namespace edge::inference
