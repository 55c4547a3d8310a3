// The memory's two matrices as the products over positions take them: keys, with W_g's first half below, and values.
#pragma once

#include "arena.h"
#include "elements.h"

namespace kvmem::cpu::KVMEM_ISA {

// Across for products over channels, down for products over slots; numbers are both.
template <typename E>
struct Tables {
  E *keys_across, *keys_down;      // rows k_t (slots), then the rows of W_g that meet h (R)
  E *values_across, *values_down;  // rows v_t (slots)
};

#ifdef KVMEM_PAIRS
constexpr int64_t kTableNumbers = 2;
#else
constexpr int64_t kTableNumbers = 1;
#endif

// Columns of the tables: channels, then zeros up to whole vectors of elements of any kind.
template <typename F>
KVMEM_INLINE int64_t table_width(int64_t C) {
  return round_up(C, kLanes<F> * kTableNumbers);
}

#ifdef KVMEM_PAIRS

static Tables<Pair> take_pairs(int64_t keys, int64_t values, int64_t width, Arena& arena) {
  const auto take = [&](int64_t rows) { return arena.take<Pair>(rows * width); };
  Tables<Pair> pairs;
  pairs.keys_across = take(elements<Pair>(keys));
  pairs.keys_down = take(elements<Pair>(keys));
  pairs.values_across = take(elements<Pair>(values));
  pairs.values_down = take(elements<Pair>(values));
  return pairs;
}

static void fill_pairs(const Tables<float>& numbers, int64_t keys, int64_t values, int64_t width,
                       const Tables<Pair>& pairs) {
  elements_across(numbers.keys_across, keys, width, pairs.keys_across);
  elements_down(numbers.keys_down, keys, width, width, pairs.keys_down);
  elements_across(numbers.values_across, values, width, pairs.values_across);
  elements_down(numbers.values_down, values, width, width, pairs.values_down);
}

#endif

}  // namespace kvmem::cpu::KVMEM_ISA
