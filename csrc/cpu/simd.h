// Vectors of the width that this file is compiled for, in the compiler's portable vector extension (GCC and Clang).
//
// Everything under csrc/cpu except dispatch.cpp lives in the namespace KVMEM_ISA and is `static`: the same names are
// compiled once for each instruction set and must never be merged by the linker. For the same reason these files use
// nothing of the C++ library that holds code.
#pragma once

#include <stdint.h>
#include <string.h>
#ifdef KVMEM_X86
#include <immintrin.h>
#endif

#define KVMEM_INLINE static inline __attribute__((always_inline))

namespace kvmem::cpu::KVMEM_ISA {

struct bfloat16 {
  uint16_t bits;
};
struct float16 {
  uint16_t bits;
};

constexpr int kVectorBytes = KVMEM_VECTOR_BYTES;

template <typename F>
struct VectorOf;
// The alignment of one element lets a vector be read and written anywhere.
template <>
struct VectorOf<float> {
  typedef float type __attribute__((vector_size(kVectorBytes)));
  typedef float unaligned __attribute__((vector_size(kVectorBytes), aligned(4), may_alias));
  typedef uint32_t bits __attribute__((vector_size(kVectorBytes)));
};
template <>
struct VectorOf<double> {
  typedef double type __attribute__((vector_size(kVectorBytes)));
  typedef double unaligned __attribute__((vector_size(kVectorBytes), aligned(8), may_alias));
  typedef uint64_t bits __attribute__((vector_size(kVectorBytes)));
};

template <typename F>
using Vector = typename VectorOf<F>::type;
template <typename F>
using Bits = typename VectorOf<F>::bits;
template <typename F>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(F));

KVMEM_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
KVMEM_INLINE int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
KVMEM_INLINE int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

template <typename F>
KVMEM_INLINE Vector<F> load(const F* p) {
  return *reinterpret_cast<const typename VectorOf<F>::unaligned*>(p);
}
template <typename F>
KVMEM_INLINE void store(F* p, Vector<F> x) {
  *reinterpret_cast<typename VectorOf<F>::unaligned*>(p) = x;
}
// Past the caches, to an address aligned to a vector; finish_streaming() before another thread may read.
template <typename F>
KVMEM_INLINE void stream(F* p, Vector<F> x) {
#if KVMEM_VECTOR_BYTES == 64
  _mm512_stream_si512(reinterpret_cast<__m512i*>(p), (__m512i)x);
#elif KVMEM_VECTOR_BYTES == 32
  _mm256_stream_si256(reinterpret_cast<__m256i*>(p), (__m256i)x);
#else
  store(p, x);
#endif
}
KVMEM_INLINE void finish_streaming() {
#ifdef KVMEM_X86
  _mm_sfence();
#endif
}
template <typename F>
KVMEM_INLINE Vector<F> broadcast(F x) {
  return x - Vector<F>{};
}
template <typename F>
KVMEM_INLINE Vector<F> maximum(Vector<F> a, Vector<F> b) {
  return a > b ? a : b;
}
template <typename F>
KVMEM_INLINE F sum_lanes(Vector<F> x) {
  F sum = 0;
  for (int lane = 0; lane < kLanes<F>; ++lane) sum += x[lane];
  return sum;
}

// exp(x) for x <= 0 within 2 ulp: x = n ln 2 + r, |r| <= ln 2 / 2, and a Taylor series whose first dropped term is below
// half an ulp. Adding `magic` rounds to an integer, which then stands in the low bits and is added to the exponent.
// Below the smallest normal number the result is 0. NaN stays NaN: every comparison with it is false.
KVMEM_INLINE Vector<float> exp_nonpositive(Vector<float> x) {
  constexpr float magic = 12582912.0f;
  const Vector<float> shifted = x * 1.44269504f + magic;
  const Vector<float> n = shifted - magic;
  const Vector<float> r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Vector<float> p = r * (1.0f / 5040) + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const Vector<float> scaled = (Vector<float>)((Bits<float>)p + ((Bits<float>)shifted << 23));
  return x < -87.0f ? Vector<float>{} : scaled;
}

KVMEM_INLINE Vector<double> exp_nonpositive(Vector<double> x) {
  constexpr double magic = 6755399441055744.0;
  const Vector<double> shifted = x * 1.4426950408889634 + magic;
  const Vector<double> n = shifted - magic;
  const Vector<double> r = (x - n * 6.93145751953125e-1) - n * 1.42860682030941723212e-6;
  Vector<double> p = broadcast<double>(1.0 / 6227020800.0);
  constexpr double coefficients[] = {1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320, 1.0 / 5040,
                                     1.0 / 720,       1.0 / 120,      1.0 / 24,      1.0 / 6,      0.5,         1.0,
                                     1.0};
  for (double coefficient : coefficients) p = p * r + coefficient;
  const Vector<double> scaled = (Vector<double>)((Bits<double>)p + ((Bits<double>)shifted << 52));
  return x < -708.0 ? Vector<double>{} : scaled;
}

// σ(x) without overflow: e = exp(-|x|), then 1 / (1 + e) or e / (1 + e).
template <typename F>
KVMEM_INLINE Vector<F> sigmoid(Vector<F> x) {
  const Vector<F> e = exp_nonpositive(x < F(0) ? x : -x);
  return (x < F(0) ? e : broadcast<F>(1)) / (F(1) + e);
}

template <typename F>
KVMEM_INLINE Vector<F> relu_if(Vector<F> x, bool relu) {
  // Written so that NaN passes through, as in torch.relu.
  return relu ? (x < F(0) ? Vector<F>{} : x) : x;
}

}  // namespace kvmem::cpu::KVMEM_ISA
