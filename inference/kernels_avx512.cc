// inference/kernels_avx512.cc - 16 lanes in one register; vpdpbusd for bytes.
//
// Compiled with its own flags: include nothing here that defines inline functions which
// other files use too, or the linker may hand our version to a processor without AVX-512.
#if defined(__x86_64__)
#include <immintrin.h>

#include "inference/kernels.h"

namespace edge::inference {
namespace {

constexpr uint32_t kTileTokens = 6;
constexpr uint32_t kTilePanels = 2;

using Floats = __m512;
using Ints = __m512i;
using Bytes64 = __m512i;

inline Floats Zero() {
  return _mm512_setzero_ps();
}
inline Floats Broadcast(float x) {
  return _mm512_set1_ps(x);
}
inline Floats Load(const float* at) {
  return _mm512_loadu_ps(at);
}
inline Floats LoadHalf(const uint16_t* at) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)));
}
inline Floats LoadBrain(const uint16_t* at) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
inline void Put(float* at, Floats v) {
  _mm512_storeu_ps(at, v);
}
inline void PutHalf(uint16_t* at, Floats v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(at),
                      _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
inline Floats Add(Floats a, Floats b) {
  return _mm512_add_ps(a, b);
}
inline Floats Subtract(Floats a, Floats b) {
  return _mm512_sub_ps(a, b);
}
inline Floats Multiply(Floats a, Floats b) {
  return _mm512_mul_ps(a, b);
}
inline Floats Divide(Floats a, Floats b) {
  return _mm512_div_ps(a, b);
}
inline Floats MultiplyAdd(Floats a, Floats b, Floats c) {
  return _mm512_fmadd_ps(a, b, c);
}
inline Floats Max(Floats a, Floats b) {
  return _mm512_max_ps(a, b);
}
inline Floats Min(Floats a, Floats b) {
  return _mm512_min_ps(a, b);
}
inline Floats Absolute(Floats a) {
  return _mm512_abs_ps(a);
}
inline Floats ScaleByPowerOfTwo(Floats a, Floats n) {
  return _mm512_scalef_ps(a, n);
}
inline Ints RoundToInt(Floats a) {
  return _mm512_cvtps_epi32(a);
}
inline Floats ToFloat(Ints a) {
  return _mm512_cvtepi32_ps(a);
}
inline Ints BroadcastInt(int32_t x) {
  return _mm512_set1_epi32(x);
}
inline Ints AddInt(Ints a, Ints b) {
  return _mm512_add_epi32(a, b);
}
inline Ints SubtractInt(Ints a, Ints b) {
  return _mm512_sub_epi32(a, b);
}
template <int kBits>
inline Ints ShiftLeft(Ints a) {
  return _mm512_slli_epi32(a, kBits);
}
template <int kBits>
inline Ints ShiftRight(Ints a) {
  return _mm512_srai_epi32(a, kBits);
}
inline void PutBytes(int8_t* at, Ints a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(at), _mm512_cvtepi32_epi8(a));
}
inline int32_t SumInt(Ints a) {
  return _mm512_reduce_add_epi32(a);
}
// Lanes 8 apart, then 4, 2, 1: the order of the reference.
inline float Sum(Floats a) {
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}
inline float Largest(Floats a) {
  return _mm512_reduce_max_ps(a);
}

inline Bytes64 LoadBytes(const uint8_t* at) {
  return _mm512_loadu_si512(at);
}
inline Bytes64 LowNibbles(Bytes64 a) {
  return _mm512_and_si512(a, _mm512_set1_epi8(15));
}
inline Bytes64 HighNibbles(Bytes64 a) {
  return _mm512_and_si512(_mm512_srli_epi16(a, 4), _mm512_set1_epi8(15));
}
inline Bytes64 OrBytes(Bytes64 a, Bytes64 b) {
  return _mm512_or_si512(a, b);
}
// The bits of each byte moved up by kUp (down if negative); kMask holds no bit that could come
// from a neighbour.
template <int kUp, int kMask>
inline Bytes64 ShiftedBits(Bytes64 a) {
  if constexpr (kUp > 0) a = _mm512_slli_epi16(a, kUp);
  if constexpr (kUp < 0) a = _mm512_srli_epi16(a, -kUp);
  return _mm512_and_si512(a, _mm512_set1_epi8(kMask));
}
inline Bytes64 LookUp(const uint8_t* table, Bytes64 index) {
  const __m128i row = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table));
  return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(row), index);
}
inline Floats LoadSmall(const int8_t* at) {
  return ToFloat(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at))));
}
inline void PutUnsigned(uint8_t* at, Bytes64 a) {
  _mm512_storeu_si512(at, a);
}
inline Ints Dot(Ints sum, Bytes64 w, const int8_t* x) {
  int32_t four;
  __builtin_memcpy(&four, x, 4);
  return _mm512_dpbusd_epi32(sum, w, _mm512_set1_epi32(four));
}
inline void Prefetch(const void* at) {
  _mm_prefetch(static_cast<const char*>(at), _MM_HINT_T0);
}

#include "inference/kernels_inl.h"

}  // namespace

const Kernels kAvx512Kernels = {"avx512-vnni", QuantizeToken, MultiplyAny, RmsNorm,
                                SiluMultiply,  Attend,        ToHalf};

}  // namespace edge::inference
#endif
