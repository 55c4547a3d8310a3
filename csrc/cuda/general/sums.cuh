// The sums over positions that backward's memory side goes on with, added up tile by tile.
//
//   Σ_n ds_t h_c,  Σ_n α_t γ_c dout_c,  Σ_n dz_r h_c,  Σ_n α_t dz_r,  Σ_n dz_r
#pragma once

#include "cuda/general/addressing.cuh"
#include "cuda/layout.h"

namespace kvmem::cuda {

// One chunk's sums. A number is always added to by the same thread.
struct ChunkSums {
  View<float> numbers;
  SumsLayout layout;
  bool first;  // of the chunk's tiles: what stands there is no sum yet

  KVMEM_DEVICE void add(int at, float x) const { numbers[at] = first ? x : numbers[at] + x; }
};

// Adds (rows, positions) x (positions, columns) at `at`, and at `beside`, if that is not negative, one column more.
template <typename Rows, typename Columns>
KVMEM_DEVICE int add_product(const ChunkSums& sums, int item, const Rows& left, const Columns& right, int rows,
                             int columns, int positions, int at, int beside) {
  const int padded = round_up_16(columns + (beside >= 0));
  return for_each_group(item, rows, padded, [&](int row, int column) {
    Group group = {};
    accumulate(group, left, row, right, column, padded, positions);
    for_each_pair(row, column, padded, [&](int i, int j, int part, int half) {
      const Float2 x = pair_of(group, part, half);
      const int first = at + i * columns + j;
      if (i < rows && j < columns) sums.add(first, x.x);
      if (i < rows && j + 1 < columns) sums.add(first + 1, x.y);
      if (i < rows && beside >= 0 && (j == columns || j + 1 == columns)) sums.add(beside + i, j == columns ? x.x : x.y);
    });
  });
}

// Scalar gate or none: weights are α_t γ, score_grads ds_t with a gate's dz as the column after the last slot;
// dz = γ share.
template <typename Channels, typename Slots>
KVMEM_DEVICE void add_scalar_sums(const ChunkSums& sums, const Channels& h, const Channels& grad, const Slots& weights,
                                  const Slots& score_grads, View<float> share, View<float> dz, int C, int slots,
                                  int positions, bool gated) {
  const SumsLayout& l = sums.layout;
  int item = warp();
  item = add_product(sums, item, transposed(h), score_grads, C, slots, positions, l.keys,
                     gated ? l.gate_image : -1);
  item = add_product(sums, item, transposed(grad), weights, C, slots, positions, l.values, -1);
  for (; gated && item <= slots; item += kGeneralWarps) {
    float sum = 0.0f;
    for (int n = lane(); n < positions; n += kWarp) {
      sum += item < slots ? to_float(weights(n, item)) * share[n] : dz[n];
    }
    sum = sum_of_warp(sum);
    if (lane() == 0) sums.add(item < slots ? l.response + item : l.gate_bias, sum);
  }
}

// Vector gate: weights are α_t, grad is γ dout.
template <typename Channels, typename Slots>
KVMEM_DEVICE void add_vector_sums(const ChunkSums& sums, const Channels& h, const Channels& grad, const Slots& weights,
                                  const Slots& score_grads, const Channels& dz, int C, int slots, int positions) {
  const SumsLayout& l = sums.layout;
  int item = warp();
  item = add_product(sums, item, transposed(h), score_grads, C, slots, positions, l.keys, -1);
  item = add_product(sums, item, transposed(grad), weights, C, slots, positions, l.values, -1);
  item = add_product(sums, item, transposed(dz), weights, C, slots, positions, l.response, -1);
  item = add_product(sums, item, transposed(dz), h, C, C, positions, l.gate_image, -1);
  for (; item < C; item += kGeneralWarps) {
    float sum = 0.0f;
    for (int n = lane(); n < positions; n += kWarp) sum += to_float(dz(n, item));
    sum = sum_of_warp(sum);
    if (lane() == 0) sums.add(l.gate_bias + item, sum);
  }
}

}  // namespace kvmem::cuda
