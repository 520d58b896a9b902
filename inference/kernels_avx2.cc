// inference/kernels_avx2.cc - 16 lanes in two registers.
//
// Compiled with its own flags; see kernels_avx512.cc for what that forbids.
#if defined(__x86_64__)
#include <immintrin.h>

#include "inference/kernels.h"

namespace edge::inference {
namespace {

constexpr uint32_t kTileTokens = 2;
constexpr uint32_t kTilePanels = 1;

struct Floats {
  __m256 a, b;
};
struct Ints {
  __m256i a, b;
};
struct Bytes64 {
  __m256i a, b;
};

inline __m256i Load256(const void* at) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(at));
}
inline __m128i Load128(const void* at) {
  return _mm_loadu_si128(static_cast<const __m128i*>(at));
}
inline __m128i Load64(const void* at) {
  return _mm_loadl_epi64(static_cast<const __m128i*>(at));
}

inline Floats Zero() {
  return {_mm256_setzero_ps(), _mm256_setzero_ps()};
}
inline Floats Broadcast(float x) {
  return {_mm256_set1_ps(x), _mm256_set1_ps(x)};
}
inline Floats Load(const float* at) {
  return {_mm256_loadu_ps(at), _mm256_loadu_ps(at + 8)};
}
inline Floats LoadHalf(const uint16_t* at) {
  return {_mm256_cvtph_ps(Load128(at)), _mm256_cvtph_ps(Load128(at + 8))};
}
inline __m256 BrainToFloat(__m128i bits) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
inline Floats LoadBrain(const uint16_t* at) {
  return {BrainToFloat(Load128(at)), BrainToFloat(Load128(at + 8))};
}
inline void Put(float* at, Floats v) {
  _mm256_storeu_ps(at, v.a);
  _mm256_storeu_ps(at + 8, v.b);
}
inline void PutHalf(uint16_t* at, Floats v) {
  constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  _mm_storeu_si128(reinterpret_cast<__m128i*>(at), _mm256_cvtps_ph(v.a, kNearest));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(at + 8), _mm256_cvtps_ph(v.b, kNearest));
}
inline Floats Add(Floats x, Floats y) {
  return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)};
}
inline Floats Subtract(Floats x, Floats y) {
  return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)};
}
inline Floats Multiply(Floats x, Floats y) {
  return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)};
}
inline Floats Divide(Floats x, Floats y) {
  return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)};
}
inline Floats MultiplyAdd(Floats x, Floats y, Floats z) {
  return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
inline Floats Max(Floats x, Floats y) {
  return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)};
}
inline Floats Min(Floats x, Floats y) {
  return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)};
}
inline Floats Absolute(Floats x) {
  const __m256 mask = _mm256_castsi256_ps(_mm256_set1_epi32(0x7FFFFFFF));
  return {_mm256_and_ps(x.a, mask), _mm256_and_ps(x.b, mask)};
}
inline __m256 PowerOfTwo(__m256 n) {
  const __m256i biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
  return _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23));
}
inline Floats ScaleByPowerOfTwo(Floats x, Floats n) {
  return {_mm256_mul_ps(x.a, PowerOfTwo(n.a)), _mm256_mul_ps(x.b, PowerOfTwo(n.b))};
}
inline Ints RoundToInt(Floats x) {
  return {_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)};
}
inline Floats ToFloat(Ints x) {
  return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)};
}
inline Ints BroadcastInt(int32_t x) {
  return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)};
}
inline Ints AddInt(Ints x, Ints y) {
  return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)};
}
inline Ints SubtractInt(Ints x, Ints y) {
  return {_mm256_sub_epi32(x.a, y.a), _mm256_sub_epi32(x.b, y.b)};
}
template <int kBits>
inline Ints ShiftLeft(Ints x) {
  return {_mm256_slli_epi32(x.a, kBits), _mm256_slli_epi32(x.b, kBits)};
}
template <int kBits>
inline Ints ShiftRight(Ints x) {
  return {_mm256_srai_epi32(x.a, kBits), _mm256_srai_epi32(x.b, kBits)};
}
inline void PutBytes(int8_t* at, Ints x) {
  const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(x.a, x.b), 0xD8);
  const __m128i bytes =
      _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(at), bytes);
}
inline int32_t SumInt(Ints x) {
  const __m256i eight = _mm256_add_epi32(x.a, x.b);
  __m128i four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4E));
  return _mm_cvtsi128_si32(_mm_add_epi32(four, _mm_shuffle_epi32(four, 0xB1)));
}
inline float Sum(Floats x) {
  const __m256 eight = _mm256_add_ps(x.a, x.b);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}
inline float Largest(Floats x) {
  const __m256 eight = _mm256_max_ps(x.a, x.b);
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
}

inline Bytes64 LoadBytes(const uint8_t* at) {
  return {Load256(at), Load256(at + 32)};
}
inline __m256i Low4(__m256i x) {
  return _mm256_and_si256(x, _mm256_set1_epi8(15));
}
inline __m256i High4(__m256i x) {
  return Low4(_mm256_srli_epi16(x, 4));
}
inline Bytes64 LowNibbles(Bytes64 x) {
  return {Low4(x.a), Low4(x.b)};
}
inline Bytes64 HighNibbles(Bytes64 x) {
  return {High4(x.a), High4(x.b)};
}
inline Bytes64 OrBytes(Bytes64 x, Bytes64 y) {
  return {_mm256_or_si256(x.a, y.a), _mm256_or_si256(x.b, y.b)};
}
// See kernels_avx512.cc.
template <int kUp, int kMask>
inline __m256i ShiftedBits256(__m256i x) {
  if constexpr (kUp > 0) x = _mm256_slli_epi16(x, kUp);
  if constexpr (kUp < 0) x = _mm256_srli_epi16(x, -kUp);
  return _mm256_and_si256(x, _mm256_set1_epi8(kMask));
}
template <int kUp, int kMask>
inline Bytes64 ShiftedBits(Bytes64 x) {
  return {ShiftedBits256<kUp, kMask>(x.a), ShiftedBits256<kUp, kMask>(x.b)};
}
inline Bytes64 LookUp(const uint8_t* table, Bytes64 index) {
  const __m256i row = _mm256_broadcastsi128_si256(Load128(table));
  return {_mm256_shuffle_epi8(row, index.a), _mm256_shuffle_epi8(row, index.b)};
}
inline Floats LoadSmall(const int8_t* at) {
  return ToFloat(Ints{_mm256_cvtepi8_epi32(Load64(at)), _mm256_cvtepi8_epi32(Load64(at + 8))});
}
inline void PutUnsigned(uint8_t* at, Bytes64 x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(at), x.a);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(at + 32), x.b);
}
// vpmaddubsw saturates at 16 bits, which a whole byte times a byte can pass; nibbles cannot.
inline __m256i Dot8(__m256i sum, __m256i w, __m256i x) {
  const __m256i low = _mm256_maddubs_epi16(Low4(w), x);
  const __m256i high = _mm256_maddubs_epi16(High4(w), x);
  sum = _mm256_add_epi32(sum, _mm256_madd_epi16(low, _mm256_set1_epi16(1)));
  return _mm256_add_epi32(sum, _mm256_madd_epi16(high, _mm256_set1_epi16(16)));
}
inline Ints Dot(Ints sum, Bytes64 w, const int8_t* x) {
  int32_t four;
  __builtin_memcpy(&four, x, 4);
  const __m256i all = _mm256_set1_epi32(four);
  return {Dot8(sum.a, w.a, all), Dot8(sum.b, w.b, all)};
}
inline void Prefetch(const void* at) {
  _mm_prefetch(static_cast<const char*>(at), _MM_HINT_T0);
}

#include "inference/kernels_inl.h"

}  // namespace

const Kernels kAvx2Kernels = {"avx2",       QuantizeToken, MultiplyAny, RmsNorm,
                              SiluMultiply, Attend,        ToHalf};

}  // namespace edge::inference
#endif
