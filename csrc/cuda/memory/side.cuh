// What the kernels of the memory side share: their inputs, and products of weight rows with all slots by one warp.
#pragma once

#include "cuda/fragment.cuh"
#include "cuda/layout.h"

namespace kvmem::cuda {

// Words, weights and sizes. Every image's words, mask and kept memory lie one after another.
template <typename T>
struct MemorySide {
  int C, T_, D, M, G, R;
  bool linear_write_gate, relu;
  bool whole_vectors;  // every row of every weight and word is whole, aligned vectors of 16 bytes
  MemoryLayout layout;
  View<const T> words;
  View<const bool> mask;
  View<const T> gate_word, gate_image, write_word, write_word_bias, write_image, write_image_bias, key, key_bias, value,
      value_bias, response_gate, response_gate_bias;
};

inline bool aligned16(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

template <typename T, typename Arguments>
MemorySide<T> memory_side(const Arguments& a) {
  const Sizes& s = a.sizes;
  const auto input = [&](int i, int64_t count) { return view(static_cast<const T*>(a.inputs[i]), count); };
  const auto whole = [](int64_t row) { return row * sizeof(T) % 16 == 0; };
  bool whole_vectors = whole(s.C) && whole(s.D) && whole(s.M);
  for (int i = kWords; i < kInputs; ++i) whole_vectors = whole_vectors && aligned16(a.inputs[i]);
  return {.C = static_cast<int>(s.C),
          .T_ = static_cast<int>(s.T),
          .D = static_cast<int>(s.D),
          .M = static_cast<int>(s.M),
          .G = static_cast<int>(s.G),
          .R = static_cast<int>(s.R),
          .linear_write_gate = a.options.linear_write_gate,
          .relu = a.options.relu,
          .whole_vectors = whole_vectors,
          .layout = memory_layout(s),
          .words = input(kWords, s.B * s.T * s.D),
          .mask = view(a.mask, s.B * s.T),
          .gate_word = input(kGateWord, s.G * s.D),
          .gate_image = input(kGateImage, s.G * s.C),
          .write_word = input(kWriteWordWeight, s.M * s.D),
          .write_word_bias = input(kWriteWordBias, s.M),
          .write_image = input(kWriteImageWeight, s.M * s.C),
          .write_image_bias = input(kWriteImageBias, s.M),
          .key = input(kKeyWeight, s.C * s.M),
          .key_bias = input(kKeyBias, s.C),
          .value = input(kValueWeight, s.C * s.M),
          .value_bias = input(kValueBias, s.C),
          .response_gate = input(kResponseGateWeight, s.R * 2 * s.C),
          .response_gate_bias = input(kResponseGateBias, s.R)};
}

// The blocks that share one image.
struct Team {
  int rank, ranks;
};

constexpr float kLog2E = 1.44269504088896340736f;

KVMEM_DEVICE float sigmoid(float x) { return reciprocal(1.0f + exp2(-kLog2E * x)); }

KVMEM_DEVICE float activate(float x, bool relu) { return relu && x < 0.0f ? 0.0f : x; }

// x[i] = v[at + i], one access of 16 bytes where n numbers are that long, n single ones otherwise.
template <int n, typename T>
KVMEM_DEVICE void read_numbers(View<const T> v, int at, float (&x)[n]) {
  if constexpr (n * sizeof(T) == 16) {
    const Words4 words = load16(v, at);
    KVMEM_UNROLL
    for (int i = 0; i < 4; ++i) {
      if constexpr (sizeof(T) == 4) {
        x[i] = float_of(words.x[i]);
      } else {
        const Float2 pair = unpack<T>(words.x[i]);
        x[2 * i] = pair.x;
        x[2 * i + 1] = pair.y;
      }
    }
  } else {
    KVMEM_UNROLL
    for (int i = 0; i < n; ++i) x[i] = to_float(v[at + i]);
  }
}

// Lane t's result: the sum of all lanes' x[t]. In each round a lane hands half of what it holds to its partner.
KVMEM_DEVICE float transpose_sum(float (&x)[kWarp]) {
  KVMEM_UNROLL
  for (int round = 0; round < 5; ++round) {
    const int half = kWarp / 2 >> round;
    const bool upper = (lane() & half) != 0;
    KVMEM_UNROLL
    for (int i = 0; i < kWarp / 2; ++i) {
      if (i < half) {
        const float given = upper ? x[i] : x[i + half], held = upper ? x[i + half] : x[i];
        x[i] = held + shuffle_xor(given, half);
      }
    }
  }
  return x[0];
}

KVMEM_DEVICE float sum_of_warp(float x) {
  KVMEM_UNROLL
  for (int mask = kWarp / 2; mask > 0; mask /= 2) x += shuffle_xor(x, mask);
  return x;
}

// Σ_i a[i] b[i] by one thread, in four sums. Reads of `a` are under way four at a time.
template <int n, typename T>
KVMEM_DEVICE float dot(View<const T> a, View<const float> b, int count) {
  constexpr int batch = 4;
  float sums[4] = {};
  int i = 0;
  for (; i + batch * n <= count; i += batch * n) {
    float x[batch][n];
    KVMEM_UNROLL
    for (int j = 0; j < batch; ++j) read_numbers<n>(a, i + j * n, x[j]);
    KVMEM_UNROLL
    for (int j = 0; j < batch * n; ++j) sums[j % 4] += x[j / n][j % n] * b[i + j];
  }
  for (; i < count; ++i) sums[0] += to_float(a[i]) * b[i];
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

}  // namespace kvmem::cuda
