// Key addressing of 16 positions by one warp: s_t = k_t · h, α = softmax_t s, γ = σ(W_g [h, o] + b_g), with
// W_g's second half times o as Σ_t α_t u_t.
//
// A lane holds the scores of two positions, l / 4 and l / 4 + 8; the four lanes of a quad hold a position's columns.
#pragma once

#include "cuda/cluster/table.cuh"

namespace kvmem::cuda {

// k_t as columns, and W_g's first half as the last column.
template <typename T, int kSlotBlocks>
using KeysTable = ClusterTable<T, kChannelBlocks, kSlotBlocks>;
// The slots that hold a word.
struct HeldSlots {
  uint32_t mine;  // of the columns of scores that this lane holds: bit 2 j + i for column 8 j + 2 (l % 4) + i
  bool any;       // of the whole image
};

template <int kSlotBlocks, typename W, typename X>
KVMEM_DEVICE HeldSlots held_slots(const MemorySide<W, X>& side, int64_t image) {
  uint32_t bits = 0;
  KVMEM_UNROLL
  for (int i = 0; i < 2 * kSlotBlocks; ++i) {
    const int slot = i / 2 * 8 + 2 * (lane() % 4) + i % 2;
    if (slot < side.T_ && (!side.mask || side.mask[image * side.T_ + slot])) bits |= 1u << i;
  }
  const uint32_t pair = bits | shuffle_xor(bits, 1);
  return {bits, (pair | shuffle_xor(pair, 2)) != 0};
}

KVMEM_DEVICE float sum_of_quad(float x) {
  x += shuffle_xor(x, 1);
  return x + shuffle_xor(x, 2);
}

KVMEM_DEVICE float largest_of_quad(float x) {
  x = larger(x, shuffle_xor(x, 1));
  return larger(x, shuffle_xor(x, 2));
}

// Scores to α in place, for the lane's position of `row` (0: l / 4, 1: l / 4 + 8), without an overflow whatever the scores.
// Where no slot holds a word, α is 0.
template <int kSlotBlocks>
KVMEM_DEVICE void softmax(Sum (&scores)[kSlotBlocks], const HeldSlots& slots, int row) {
  // Below every score, and still finite: the difference of two of them is no NaN.
  constexpr float none = -1e38f;
  float largest = none, sum = 0.0f;
  KVMEM_UNROLL
  for (int i = 0; i < 2 * kSlotBlocks; ++i) {
    float& x = scores[i / 2].x[2 * row + i % 2];
    x = slots.mine >> i & 1 ? x : none;
    largest = larger(largest, x);
  }
  const float shift = largest_of_quad(largest) * kLog2E;
  KVMEM_UNROLL
  for (int i = 0; i < 2 * kSlotBlocks; ++i) {
    float& x = scores[i / 2].x[2 * row + i % 2];
    x = exp2(x * kLog2E - shift);
    sum += x;
  }
  sum = sum_of_quad(sum);
  const float scale = slots.any ? reciprocal(sum) : 0.0f;
  KVMEM_UNROLL
  for (int i = 0; i < 2 * kSlotBlocks; ++i) scores[i / 2].x[2 * row + i % 2] *= scale;
}

// γ of the lane's position of `row`, from its α and its last column of scores, W_g's first half times h.
template <int kSlotBlocks>
KVMEM_DEVICE float response_gate(const Sum (&alpha)[kSlotBlocks], View<const float> response, float kept, int row) {
  float read = 0.0f;
  KVMEM_UNROLL
  for (int i = 0; i < 2 * kSlotBlocks; ++i) {
    read += alpha[i / 2].x[2 * row + i % 2] * response[i / 2 * 8 + 2 * (lane() % 4) + i % 2];
  }
  return sigmoid(sum_of_quad(read) + kept);
}

}  // namespace kvmem::cuda
