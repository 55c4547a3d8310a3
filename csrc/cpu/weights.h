// The layer's parameters in the arithmetic's type, and in rows padded to whole vectors where they are read in vectors.
#pragma once

#include "arena.h"
#include "convert.h"

namespace kvmem::cpu::KVMEM_ISA {

template <typename F>
struct Weights {
  const F* gate_word;    // A   (G, D)
  const F* gate_image;   // B   (G, C)
  const F* write_word;   // W_w (M, D)
  const F* write_word_bias;
  const F* write_image;  // W_r (M, C)
  const F* write_image_bias;
  const F* key;          // K   (C, M)
  const F* key_bias;
  const F* value;        // V   (C, M)
  const F* value_bias;
  const F* response_gate;  // W_g (R, 2C)
  const F* response_gate_bias;
  F* response_padded;    // W_g's half that meets o, (R, Cp)
};

// Where the type needs no conversion, the tensor itself serves. A memory that is given has few of them.
template <typename T, typename F = Arithmetic<T>>
static const F* weight(Stored<T> tensor, int64_t count, Arena& arena) {
  if (!tensor.data) return nullptr;
  if (tensor.wide || sizeof(T) == sizeof(F)) return static_cast<const F*>(tensor.data);
  F* copy = arena.take<F>(count);
  if (copy) read_stored(tensor, 0, count, copy, count);
  return copy;
}

template <typename T, typename F = Arithmetic<T>>
static Weights<F> prepare_weights(const Sizes& s, const void* const* inputs, bool wide, Arena& arena) {
  const auto get = [&](Input input, int64_t count) { return weight(Stored<T>{inputs[input], wide}, count, arena); };
  Weights<F> w;
  w.gate_word = get(kGateWord, s.G * s.D);
  w.gate_image = get(kGateImage, s.G * s.C);
  w.write_word = get(kWriteWordWeight, s.M * s.D);
  w.write_word_bias = get(kWriteWordBias, s.M);
  w.write_image = get(kWriteImageWeight, s.M * s.C);
  w.write_image_bias = get(kWriteImageBias, s.M);
  w.key = get(kKeyWeight, s.C * s.M);
  w.key_bias = get(kKeyBias, s.C);
  w.value = get(kValueWeight, s.C * s.M);
  w.value_bias = get(kValueBias, s.C);
  w.response_gate = get(kResponseGateWeight, s.R * 2 * s.C);
  w.response_gate_bias = get(kResponseGateBias, s.R);
  const int64_t padded = round_up(s.C, kLanes<F>);
  w.response_padded = arena.take<F>(s.R * padded);
  if (w.response_padded) {
    for (int64_t r = 0; r < s.R; ++r) {
      read_row(w.response_gate + r * 2 * s.C + s.C, s.C, w.response_padded + r * padded, padded);
    }
  }
  return w;
}

}  // namespace kvmem::cpu::KVMEM_ISA
