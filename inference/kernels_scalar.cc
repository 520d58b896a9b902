// inference/kernels_scalar.cc - the reference: 16 lanes as a loop.
#include <cmath>
#include <cstring>

#include "inference/half.h"
#include "inference/kernels.h"

namespace edge::inference {
namespace {

constexpr uint32_t kTileTokens = 2;
constexpr uint32_t kTilePanels = 1;

struct Floats {
  float lane[16];
};
struct Ints {
  int32_t lane[16];
};
struct Bytes64 {
  uint8_t lane[64];
};

template <typename F>
Floats Each(F f) {
  Floats out;
  for (int i = 0; i < 16; ++i) out.lane[i] = f(i);
  return out;
}
Floats Zero() {
  return Each([](int) { return 0.0f; });
}
Floats Broadcast(float x) {
  return Each([&](int) { return x; });
}
Floats Load(const float* at) {
  return Each([&](int i) { return at[i]; });
}
Floats LoadHalf(const uint16_t* at) {
  return Each([&](int i) { return FloatFromHalf(at[i]); });
}
Floats LoadBrain(const uint16_t* at) {
  return Each([&](int i) { return FloatFromBrain(at[i]); });
}
void Put(float* at, const Floats& v) {
  std::memcpy(at, v.lane, sizeof v.lane);
}
void PutHalf(uint16_t* at, const Floats& v) {
  for (int i = 0; i < 16; ++i) at[i] = HalfFromFloat(v.lane[i]);
}
Floats Add(const Floats& a, const Floats& b) {
  return Each([&](int i) { return a.lane[i] + b.lane[i]; });
}
Floats Subtract(const Floats& a, const Floats& b) {
  return Each([&](int i) { return a.lane[i] - b.lane[i]; });
}
Floats Multiply(const Floats& a, const Floats& b) {
  return Each([&](int i) { return a.lane[i] * b.lane[i]; });
}
Floats Divide(const Floats& a, const Floats& b) {
  return Each([&](int i) { return a.lane[i] / b.lane[i]; });
}
Floats MultiplyAdd(const Floats& a, const Floats& b, const Floats& c) {
  return Each([&](int i) { return std::fma(a.lane[i], b.lane[i], c.lane[i]); });
}
Floats Max(const Floats& a, const Floats& b) {  // b where unordered, as the instruction does
  return Each([&](int i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
}
Floats Min(const Floats& a, const Floats& b) {
  return Each([&](int i) { return a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]; });
}
Floats Absolute(const Floats& a) {
  return Each([&](int i) { return std::fabs(a.lane[i]); });
}
// a * 2^n for whole n in [-126, 127].
Floats ScaleByPowerOfTwo(const Floats& a, const Floats& n) {
  return Each([&](int i) { return a.lane[i] * std::ldexp(1.0f, static_cast<int>(n.lane[i])); });
}
Ints RoundToInt(const Floats& a) {
  Ints out;
  for (int i = 0; i < 16; ++i) out.lane[i] = static_cast<int32_t>(std::nearbyint(a.lane[i]));
  return out;
}
Floats ToFloat(const Ints& a) {
  return Each([&](int i) { return static_cast<float>(a.lane[i]); });
}
Ints BroadcastInt(int32_t x) {
  Ints out;
  for (int32_t& lane : out.lane) lane = x;
  return out;
}
Ints AddInt(const Ints& a, const Ints& b) {
  Ints out;
  for (int i = 0; i < 16; ++i) out.lane[i] = a.lane[i] + b.lane[i];
  return out;
}
Ints SubtractInt(const Ints& a, const Ints& b) {
  Ints out;
  for (int i = 0; i < 16; ++i) out.lane[i] = a.lane[i] - b.lane[i];
  return out;
}
template <int kBits>
Ints ShiftLeft(const Ints& a) {
  Ints out;
  for (int i = 0; i < 16; ++i) out.lane[i] = a.lane[i] * (1 << kBits);
  return out;
}
template <int kBits>
Ints ShiftRight(const Ints& a) {  // towards minus infinity
  Ints out;
  for (int i = 0; i < 16; ++i) out.lane[i] = a.lane[i] >> kBits;
  return out;
}
void PutBytes(int8_t* at, const Ints& a) {  // lanes fit
  for (int i = 0; i < 16; ++i) at[i] = static_cast<int8_t>(a.lane[i]);
}
int32_t SumInt(const Ints& a) {
  int32_t sum = 0;
  for (const int32_t lane : a.lane) sum += lane;
  return sum;
}
// Lanes are added in halves: 8 apart, 4, 2, 1.
float Sum(const Floats& a) {
  Floats v = a;
  for (int half = 8; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) v.lane[i] += v.lane[i + half];
  }
  return v.lane[0];
}
float Largest(const Floats& a) {
  float most = a.lane[0];
  for (const float lane : a.lane) most = lane > most ? lane : most;
  return most;
}

Bytes64 LoadBytes(const uint8_t* at) {
  Bytes64 out;
  std::memcpy(out.lane, at, 64);
  return out;
}
Bytes64 LowNibbles(const Bytes64& a) {
  Bytes64 out;
  for (int i = 0; i < 64; ++i) out.lane[i] = a.lane[i] & 15;
  return out;
}
Bytes64 HighNibbles(const Bytes64& a) {
  Bytes64 out;
  for (int i = 0; i < 64; ++i) out.lane[i] = a.lane[i] >> 4;
  return out;
}
Bytes64 OrBytes(const Bytes64& a, const Bytes64& b) {
  Bytes64 out;
  for (int i = 0; i < 64; ++i) out.lane[i] = a.lane[i] | b.lane[i];
  return out;
}
template <int kUp, int kMask>
Bytes64 ShiftedBits(const Bytes64& a) {
  Bytes64 out;
  for (int i = 0; i < 64; ++i) {
    const int moved =
        kUp >= 0 ? a.lane[i] << (kUp >= 0 ? kUp : 0) : a.lane[i] >> (kUp < 0 ? -kUp : 0);
    out.lane[i] = static_cast<uint8_t>(moved & kMask);
  }
  return out;
}
Bytes64 LookUp(const uint8_t* table, const Bytes64& index) {
  Bytes64 out;
  for (int i = 0; i < 64; ++i) out.lane[i] = table[index.lane[i]];
  return out;
}
Floats LoadSmall(const int8_t* at) {
  return Each([&](int i) { return static_cast<float>(at[i]); });
}
void PutUnsigned(uint8_t* at, const Bytes64& a) {
  std::memcpy(at, a.lane, 64);
}
// Adds to each lane the product of its 4 bytes with the 4 bytes at `x`.
Ints Dot(const Ints& sum, const Bytes64& w, const int8_t* x) {
  Ints out = sum;
  for (int i = 0; i < 64; ++i) out.lane[i / 4] += w.lane[i] * x[i % 4];
  return out;
}
void Prefetch(const void*) {}

#include "inference/kernels_inl.h"

}  // namespace

const Kernels kScalarKernels = {"scalar",     QuantizeToken, MultiplyAny, RmsNorm,
                                SiluMultiply, Attend,        ToHalf};

}  // namespace edge::inference
