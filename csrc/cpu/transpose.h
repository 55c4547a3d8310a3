// Transposing a padded buffer in square blocks of registers.
#pragma once

#include <utility>

#include "simd.h"

namespace kvmem::cpu::KVMEM_ISA {

// One step of a butterfly: `low` keeps a's lanes whose bit `step` is clear and takes b's into the others, `high` the reverse.
template <typename F, int step, bool high, int... lane>
KVMEM_INLINE Vector<F> exchange(Vector<F> a, Vector<F> b, std::integer_sequence<int, lane...>) {
  constexpr int lanes = kLanes<F>;
  return __builtin_shufflevector(
      a, b, (high ? (lane & step ? lanes + lane : lane + step) : (lane & step ? lanes + lane - step : lane))...);
}

template <typename F, int step>
KVMEM_INLINE void butterfly(Vector<F> (&block)[kLanes<F>]) {
  using Lanes = std::make_integer_sequence<int, kLanes<F>>;
#pragma GCC unroll 16
  for (int i = 0; i < kLanes<F>; ++i) {
    if (i & step) continue;
    const Vector<F> a = block[i], b = block[i + step];
    block[i] = exchange<F, step, false>(a, b, Lanes{});
    block[i + step] = exchange<F, step, true>(a, b, Lanes{});
  }
  if constexpr (step > 1) butterfly<F, step / 2>(block);
}

// dst (columns x rows) = src (rows x columns), both counts multiples of the lanes.
template <typename F>
static void transpose(const F* src, int64_t ld_src, int64_t rows, int64_t columns, F* dst, int64_t ld_dst) {
  constexpr int lanes = kLanes<F>;
  for (int64_t row = 0; row < rows; row += lanes) {
    for (int64_t column = 0; column < columns; column += lanes) {
      Vector<F> block[lanes];
#pragma GCC unroll 16
      for (int i = 0; i < lanes; ++i) block[i] = load<F>(src + (row + i) * ld_src + column);
      butterfly<F, lanes / 2>(block);
#pragma GCC unroll 16
      for (int i = 0; i < lanes; ++i) store<F>(dst + (column + i) * ld_dst + row, block[i]);
    }
  }
}

}  // namespace kvmem::cpu::KVMEM_ISA
