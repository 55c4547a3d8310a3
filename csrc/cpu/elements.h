// What products multiply: numbers of the arithmetic's type, or, where the machine multiplies them, pairs of bfloat16.
//
// A pair holds two neighbours along a product's depth, which is then half as many elements. A matrix whose rows are the
// depth is paired down (two rows make one), one whose columns are is paired across.
#pragma once

#include "convert.h"

namespace kvmem::cpu::KVMEM_ISA {

template <typename E>
struct ElementOf {
  using Number = E;             // of sums
  using Row = Vector<E>;
  static constexpr int64_t numbers = 1;
};

template <typename F>
KVMEM_INLINE Vector<F> load_elements(const F* p) {
  return load(p);
}
template <typename F>
KVMEM_INLINE void multiply_add(Vector<F>& sum, F a, Vector<F> b) {
  sum += a * b;
}

#ifdef KVMEM_PAIRS

struct Pair {
  bfloat16 first, second;
};

template <>
struct ElementOf<Pair> {
  using Number = float;
  using Row = __m512bh;
  static constexpr int64_t numbers = 2;
};

KVMEM_INLINE __m512bh load_elements(const Pair* p) { return (__m512bh)_mm512_loadu_si512(p); }
KVMEM_INLINE void multiply_add(Vector<float>& sum, Pair a, __m512bh b) {
  int32_t bits;
  memcpy(&bits, &a, sizeof bits);
  sum = (Vector<float>)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(bits), b);
}

// Rounded to bfloat16: 16 numbers of `low`, then 16 of `high`.
KVMEM_INLINE __m512i round_two(Vector<float> low, Vector<float> high) {
  return (__m512i)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low);
}

// The pairs (a[i], b[i]) of two rows of 32, in order: the first 16 and the last 16.
KVMEM_INLINE void pair_rows(__m512i a, __m512i b, __m512i& first, __m512i& last) {
  const __m512i order = _mm512_set_epi64(7, 3, 6, 2, 5, 1, 4, 0);
  a = _mm512_permutexvar_epi64(order, a);
  b = _mm512_permutexvar_epi64(order, b);
  first = _mm512_unpacklo_epi16(a, b);
  last = _mm512_unpackhi_epi16(a, b);
}

// Up to 32 numbers, the rest 0.
KVMEM_INLINE __m512i load_part_of_row(const bfloat16* p, int64_t count) {
  if (count >= 32) return _mm512_loadu_si512(p);
  const __mmask32 wanted = count <= 0 ? 0 : (1u << count) - 1;
  return _mm512_maskz_loadu_epi16(wanted, p);
}

#endif

template <typename E>
using NumberOf = typename ElementOf<E>::Number;
template <typename E>
constexpr int64_t kNumbers = ElementOf<E>::numbers;

// Elements for a depth of so many numbers.
template <typename E>
KVMEM_INLINE int64_t elements(int64_t numbers) {
  return (numbers + kNumbers<E> - 1) / kNumbers<E>;
}

// A type of images whose products may be of pairs.
template <typename T>
struct ProductOf {
  using type = Arithmetic<T>;
};
#ifdef KVMEM_PAIRS
template <>
struct ProductOf<bfloat16> {
  using type = Pair;
};
#endif

// Numbers (rows, width) as elements down, (elements(rows), width), in `out` or, where they are elements already, where they
// are. width is a multiple of the lanes.
template <typename E, typename F = NumberOf<E>>
static const E* elements_down(const F* numbers, int64_t rows, int64_t width, int64_t pitch, E* out) {
  if constexpr (kNumbers<E> == 1) {
    return numbers;
  } else {
    for (int64_t row = 0; row < rows; row += 2) {
      const F* line = numbers + row * pitch;
      for (int64_t i = 0; i < width; i += kLanes<F>) {
        const Vector<F> second = row + 1 < rows ? load<F>(line + pitch + i) : Vector<F>{};
        const __m512i rounded = round_two(load<F>(line + i), second);
        const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                                               21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
        _mm512_storeu_si512(out + row / 2 * width + i, _mm512_permutexvar_epi16(order, rounded));
      }
    }
    return out;
  }
}

// Numbers (rows, width) as elements across, (rows, elements(width)); width is a multiple of two vectors where pairs are made.
template <typename E, typename F = NumberOf<E>>
static const E* elements_across(const F* numbers, int64_t rows, int64_t width, E* out) {
  if constexpr (kNumbers<E> == 1) {
    return numbers;
  } else {
    for (int64_t i = 0; i < rows * width; i += 2 * kLanes<F>) {
      _mm512_storeu_si512(out + i / 2, round_two(load<F>(numbers + i), load<F>(numbers + i + kLanes<F>)));
    }
    return out;
  }
}

// A vector of the numbers that stand at `row` of a matrix paired down.
template <typename F>
KVMEM_INLINE Vector<F> numbers_at(const F* matrix, int64_t row, int64_t pitch, int64_t column) {
  return load<F>(matrix + row * pitch + column);
}
#ifdef KVMEM_PAIRS
KVMEM_INLINE Vector<float> numbers_at(const Pair* matrix, int64_t row, int64_t pitch, int64_t column) {
  const __m512i pairs = _mm512_loadu_si512(matrix + row / 2 * pitch + column);
  const __m512i high = row % 2 ? pairs : _mm512_slli_epi32(pairs, 16);
  return (Vector<float>)_mm512_and_si512(high, _mm512_set1_epi32(static_cast<int>(0xffff0000u)));
}
#endif

// sum += Σ over an element's numbers of a b, for a vector of elements each.
template <typename F>
KVMEM_INLINE void multiply_add_rows(Vector<F>& sum, const F* a, const F* b) {
  sum += load<F>(a) * load<F>(b);
}
#ifdef KVMEM_PAIRS
KVMEM_INLINE void multiply_add_rows(Vector<float>& sum, const Pair* a, const Pair* b) {
  sum = (Vector<float>)_mm512_dpbf16_ps((__m512)sum, load_elements(a), load_elements(b));
}
#endif

}  // namespace kvmem::cpu::KVMEM_ISA
