// What the kernels of the memory side share: their inputs, and products of weight rows with all slots by one warp.
#pragma once

#include "cuda/fragment.cuh"
#include "cuda/layout.h"
#include "cuda/memory/types.cuh"

namespace kvmem::cuda {

// Words in X, weights in W, and sizes. Every image's words, mask and kept memory lie one after another. Most kernels are
// given one of the image's type, which with_weights and with_words turn into one of what is really there.
template <typename W, typename X = W>
struct MemorySide {
  int C, T_, D, M, G, R;
  bool linear_write_gate, relu;
  bool wide_words, wide_weights;
  bool whole_vectors;  // every row of every weight and word is whole, aligned vectors of 16 bytes
  MemoryLayout layout;
  View<const X> words;
  View<const bool> mask;
  View<const W> gate_word, gate_image, write_word, write_word_bias, write_image, write_image_bias, key, key_bias, value,
      value_bias, response_gate, response_gate_bias;
};

template <typename W2, typename X2, typename W, typename X>
KVMEM_DEVICE MemorySide<W2, X2> read_as(const MemorySide<W, X>& p) {
  return {.C = p.C,
          .T_ = p.T_,
          .D = p.D,
          .M = p.M,
          .G = p.G,
          .R = p.R,
          .linear_write_gate = p.linear_write_gate,
          .relu = p.relu,
          .wide_words = p.wide_words,
          .wide_weights = p.wide_weights,
          .whole_vectors = p.whole_vectors,
          .layout = p.layout,
          .words = p.words.template as<const X2>(),
          .mask = p.mask,
          .gate_word = p.gate_word.template as<const W2>(),
          .gate_image = p.gate_image.template as<const W2>(),
          .write_word = p.write_word.template as<const W2>(),
          .write_word_bias = p.write_word_bias.template as<const W2>(),
          .write_image = p.write_image.template as<const W2>(),
          .write_image_bias = p.write_image_bias.template as<const W2>(),
          .key = p.key.template as<const W2>(),
          .key_bias = p.key_bias.template as<const W2>(),
          .value = p.value.template as<const W2>(),
          .value_bias = p.value_bias.template as<const W2>(),
          .response_gate = p.response_gate.template as<const W2>(),
          .response_gate_bias = p.response_gate_bias.template as<const W2>()};
}

// body(the side, weights in their type): compiled for both, chosen once. Words are not to be read from it.
template <typename T, typename Body>
KVMEM_DEVICE void with_weights(const MemorySide<T>& p, Body body) {
  if constexpr (sizeof(T) == 2) {
    if (p.wide_weights) return body(read_as<float, float>(p));
  }
  body(p);
}

// body(the side, words and weights in their types). Words are wide only where weights are.
template <typename W, typename X, typename Body>
KVMEM_DEVICE void with_words(const MemorySide<W, X>& p, Body body) {
  if constexpr (sizeof(X) == 2) {
    if (p.wide_words) return body(read_as<float, float>(p));
  }
  if constexpr (sizeof(W) == 2) {
    if (p.wide_weights) return body(read_as<float, X>(p));
  }
  body(p);
}

inline bool aligned16(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

template <typename W, typename X = W, typename Arguments>
MemorySide<W, X> memory_side(const Arguments& a) {
  const Sizes& s = a.sizes;
  const auto input = [&](int i, int64_t count) { return parameter_view<W>(a.inputs[i], count, a.wide_weights); };
  const int64_t weight = a.wide_weights ? 4 : sizeof(W), word = a.wide_words ? 4 : sizeof(X);
  bool whole_vectors = s.C * weight % 16 == 0 && s.M * weight % 16 == 0 && s.D * (weight < word ? weight : word) % 16 == 0;
  for (int i = kWords; i < kInputs; ++i) whole_vectors = whole_vectors && aligned16(a.inputs[i]);
  return {.C = static_cast<int>(s.C),
          .T_ = static_cast<int>(s.T),
          .D = static_cast<int>(s.D),
          .M = static_cast<int>(s.M),
          .G = static_cast<int>(s.G),
          .R = static_cast<int>(s.R),
          .linear_write_gate = a.options.linear_write_gate,
          .relu = a.options.relu,
          .wide_words = a.wide_words,
          .wide_weights = a.wide_weights,
          .whole_vectors = whole_vectors,
          .layout = memory_layout(s),
          .words = parameter_view<X>(a.inputs[kWords], s.B * s.T * s.D, a.wide_words),
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

// x[i] = v[at + i], by accesses of 16 bytes where n numbers are whole ones, n single ones otherwise.
template <int n, typename T>
KVMEM_DEVICE void read_numbers(View<const T> v, int at, float (&x)[n]) {
  if constexpr (n * sizeof(T) % 16 == 0) {
    constexpr int vector = 16 / sizeof(T);
    Words4 words[n / vector];
    KVMEM_UNROLL
    for (int part = 0; part < n / vector; ++part) words[part] = load16(v, at + part * vector);
    KVMEM_UNROLL
    for (int i = 0; i < n / vector * 4; ++i) {
      if constexpr (sizeof(T) == 4) {
        x[i] = float_of(words[i / 4].x[i % 4]);
      } else {
        const Float2 pair = unpack<T>(words[i / 4].x[i % 4]);
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
