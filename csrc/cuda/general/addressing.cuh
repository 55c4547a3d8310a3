// What the passes over positions have in common: scores, the vector gate, and work on one position's slots.
#pragma once

#include "cuda/general/product.cuh"

namespace kvmem::cuda {

// A group of products with slots into scores (positions, pitch); pitch is a multiple of 8.
KVMEM_DEVICE void write_scores(const Group& group, int row, int column, View<float> scores, int pitch) {
  for_each_pair(row, column, pitch, [&](int n, int t, int part, int half) {
    (scores + (n * pitch + t)).template as<Float2>()[0] = pair_of(group, part, half);
  });
}

// s_t = k_t · h, and in column T, where the gate is a scalar, W_g's first half · h.
template <typename T, bool kTransposed>
KVMEM_DEVICE int multiply_channels(int item, const Matrix<T, kTransposed>& h, const Table<T>& keys, int positions,
                                   int channels, View<float> scores, int pitch) {
  const int columns = keys.pairs * 16;
  return for_each_group(item, positions, columns, [&](int row, int column) {
    Group group = {};
    accumulate(group, h, row, keys, column, columns, channels);
    write_scores(group, row, column, scores, pitch);
  });
}

// How many blocks of a pixel kernel a multiprocessor should have room for, as registers go.
template <typename T, bool kVector>
constexpr int general_blocks() {
  return sizeof(T) == 2 && !kVector ? 3 : 2;
}

template <typename T, typename Arguments>
Parameters<T> gate_bias(const Arguments& a) {
  return {parameter_view<T>(a.inputs[kResponseGateBias], a.sizes.R, a.wide_weights), a.wide_weights};
}

template <typename T>
struct GateTables {
  Table<T> values, gate, response;
};

// o, and z without its bias, of 16 positions and 32 channels.
template <typename T, bool kTransposed>
KVMEM_DEVICE void accumulate_gate(const GateTables<T>& tables, const Matrix<T, kTransposed>& h,
                                  const Matrix<T, true>& alpha, int row, int column, int channels, int slots, Group& o,
                                  Group& z) {
  accumulate(z, h, row, tables.gate, column, channels, channels);
  accumulate(z, alpha, row, tables.response, column, channels, slots);
  accumulate(o, alpha, row, tables.values, column, channels, slots);
}

// γ of channels c and c + 1.
template <typename T>
KVMEM_DEVICE Float2 gate_of(Float2 z, Parameters<T> bias, int c, int C) {
  const float b0 = c < C ? bias[c] : 0.0f, b1 = c + 1 < C ? bias[c + 1] : 0.0f;
  return {sigmoid(z.x + b0), sigmoid(z.y + b1)};
}

// The lanes that share a position: each takes every 8th slot.
constexpr int kRowLanes = 8;

KVMEM_DEVICE float sum_of_row(float x) {
  KVMEM_UNROLL
  for (int mask = kRowLanes / 2; mask > 0; mask /= 2) x += shuffle_xor(x, mask);
  return x;
}

KVMEM_DEVICE float largest_of_row(float x) {
  KVMEM_UNROLL
  for (int mask = kRowLanes / 2; mask > 0; mask /= 2) x = larger(x, shuffle_xor(x, mask));
  return x;
}

// body(row) for all rows, a multiple of 16, by their lanes; whole warps together.
template <typename Body>
KVMEM_DEVICE void for_each_row(int rows, Body body) {
  for (int row = thread() / kRowLanes; row < rows; row += kGeneralThreads / kRowLanes) body(row);
}

// body(t) for the lane's slots below `slots`, four at a time, so that what bodies only read is under way together.
template <typename Body>
KVMEM_DEVICE void for_each_slot(int slots, Body body) {
  constexpr int at_a_time = 4;
  for (int first = lane() % kRowLanes; first < slots; first += kRowLanes * at_a_time) {
    KVMEM_UNROLL
    for (int i = 0; i < at_a_time; ++i) {
      const int t = first + kRowLanes * i;
      if (t < slots) body(t);
    }
  }
}

// Which of a lane's slots hold a word: bit t / 8 for slot t.
KVMEM_DEVICE uint32_t slots_of_lane(View<const bool> mask, int64_t b, int slots) {
  uint32_t held = 0;
  for_each_slot(slots, [&](int t) {
    if (!mask || mask[b * slots + t]) held |= 1u << t / kRowLanes;
  });
  return held;
}

KVMEM_DEVICE bool holds_word(uint32_t held, int t) { return held >> t / kRowLanes & 1; }

// Of one position, over the slots that hold a word.
KVMEM_DEVICE float largest_score(View<float> scores, uint32_t held, int slots) {
  float top = float_of(0xff800000u);
  for_each_slot(slots, [&](int t) {
    if (holds_word(held, t)) top = larger(top, scores[t]);
  });
  return largest_of_row(top);
}

}  // namespace kvmem::cuda
