// Reading and writing the tensors' types: float32 and float64 as they are, bfloat16 and float16 by way of float32.
#pragma once

#include "simd.h"

namespace kvmem::cpu::KVMEM_ISA {

template <typename T>
struct ArithmeticOf {
  using type = float;
};
template <>
struct ArithmeticOf<double> {
  using type = double;
};
template <typename T>
using Arithmetic = typename ArithmeticOf<T>::type;

KVMEM_INLINE float bits_to_float(uint32_t bits) {
  float x;
  memcpy(&x, &bits, 4);
  return x;
}
KVMEM_INLINE uint32_t float_to_bits(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  return bits;
}

KVMEM_INLINE float to_arithmetic(float x) { return x; }
KVMEM_INLINE double to_arithmetic(double x) { return x; }
KVMEM_INLINE float to_arithmetic(bfloat16 x) { return bits_to_float(static_cast<uint32_t>(x.bits) << 16); }
KVMEM_INLINE float to_arithmetic(float16 x) {
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000) << 16;
  const uint32_t exponent = (x.bits >> 10) & 0x1f;
  const uint32_t mantissa = x.bits & 0x3ff;
  // A subnormal is mantissa * 2^-24, exact in float32.
  if (exponent == 0) return bits_to_float(sign | float_to_bits(static_cast<float>(mantissa) * 0x1p-24f));
  if (exponent == 31) return bits_to_float(sign | 0x7f800000u | mantissa << 13);
  return bits_to_float(sign | (exponent + 112) << 23 | mantissa << 13);
}

template <typename T>
KVMEM_INLINE T from_arithmetic(Arithmetic<T> x) {
  return x;
}
template <>
inline __attribute__((always_inline)) bfloat16 from_arithmetic<bfloat16>(float x) {
  const uint32_t bits = float_to_bits(x);
  if (x != x) return {0x7fc0};
  return {static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}
template <>
inline __attribute__((always_inline)) float16 from_arithmetic<float16>(float x) {
  const uint32_t bits = float_to_bits(x);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000);
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return {static_cast<uint16_t>(sign | 0x7e00)};
  // 65520 and above round to infinity.
  if (magnitude >= 0x477ff000) return {static_cast<uint16_t>(sign | 0x7c00)};
  if (magnitude < 0x38800000) {
    // Below 2^-14: adding 0.5 leaves round(|x| * 2^24) in the low bits.
    const float shifted = bits_to_float(magnitude) + 0.5f;
    return {static_cast<uint16_t>(sign | (float_to_bits(shifted) - 0x3f000000u))};
  }
  const uint32_t rounded = magnitude + 0xfff + ((magnitude >> 13) & 1);
  return {static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13))};
}

KVMEM_INLINE Vector<float> load_vector(const float* p) { return load(p); }
KVMEM_INLINE Vector<double> load_vector(const double* p) { return load(p); }
KVMEM_INLINE void store_vector(float* p, Vector<float> x) { store(p, x); }
KVMEM_INLINE void store_vector(double* p, Vector<double> x) { store(p, x); }

typedef uint16_t HalfBits __attribute__((vector_size(kVectorBytes / 2)));
typedef uint16_t UnalignedHalfBits __attribute__((vector_size(kVectorBytes / 2), aligned(2), may_alias));
typedef uint32_t WordBits __attribute__((vector_size(kVectorBytes)));

KVMEM_INLINE Vector<float> load_vector(const bfloat16* p) {
  const HalfBits bits = *reinterpret_cast<const UnalignedHalfBits*>(p);
  return (Vector<float>)(__builtin_convertvector(bits, WordBits) << 16);
}
KVMEM_INLINE void store_vector(bfloat16* p, Vector<float> x) {
  const WordBits bits = (WordBits)x;
  const WordBits rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const WordBits quiet = x == x ? rounded : WordBits{} + 0x7fc0u;
  *reinterpret_cast<UnalignedHalfBits*>(p) = __builtin_convertvector(quiet, HalfBits);
}

KVMEM_INLINE Vector<float> load_vector(const float16* p) {
#if KVMEM_VECTOR_BYTES == 64
  return (Vector<float>)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif KVMEM_VECTOR_BYTES == 32
  return (Vector<float>)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#else
  Vector<float> x;
  for (int lane = 0; lane < kLanes<float>; ++lane) x[lane] = to_arithmetic(p[lane]);
  return x;
#endif
}
KVMEM_INLINE void store_vector(float16* p, Vector<float> x) {
#if KVMEM_VECTOR_BYTES == 64
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph((__m512)x, _MM_FROUND_TO_NEAREST_INT));
#elif KVMEM_VECTOR_BYTES == 32
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT));
#else
  for (int lane = 0; lane < kLanes<float>; ++lane) p[lane] = from_arithmetic<float16>(x[lane]);
#endif
}

// dst[0, padded) = src[0, n), then zeros. padded is a multiple of the lanes.
template <typename T, typename F = Arithmetic<T>>
static void read_row(const T* src, int64_t n, F* dst, int64_t padded) {
  int64_t i = 0;
  for (; i + kLanes<F> <= n; i += kLanes<F>) store<F>(dst + i, load_vector(src + i));
  for (; i < n; ++i) dst[i] = to_arithmetic(src[i]);
  for (; i < padded; ++i) dst[i] = F(0);
}

template <typename T, typename F = Arithmetic<T>>
static void write_row(const F* src, int64_t n, T* dst) {
  int64_t i = 0;
  for (; i + kLanes<F> <= n; i += kLanes<F>) store_vector(dst + i, load<F>(src + i));
  for (; i < n; ++i) dst[i] = from_arithmetic<T>(src[i]);
}

// A tensor of the caller's that is in type T or, where it is wide, in float32 beside an image of 16 bits.
template <typename T>
struct Stored {
  const void* data;
  bool wide;
};

// dst[0, padded) = numbers [at, at + n), then zeros.
template <typename T, typename F = Arithmetic<T>>
static void read_stored(Stored<T> from, int64_t at, int64_t n, F* dst, int64_t padded) {
  if (from.wide) {
    read_row(static_cast<const F*>(from.data) + at, n, dst, padded);
  } else {
    read_row(static_cast<const T*>(from.data) + at, n, dst, padded);
  }
}

// The numbers from `at` on; T is the type of what isn't wide.
template <typename T, typename F = Arithmetic<T>>
static void write_stored(const F* src, int64_t n, void* out, bool wide, int64_t at) {
  if (wide) {
    write_row(src, n, static_cast<F*>(out) + at);
  } else {
    write_row(src, n, static_cast<T*>(out) + at);
  }
}

}  // namespace kvmem::cpu::KVMEM_ISA
