// Where the parts of one image's memory, of the sums over its positions and of its gradients lie: float32, slots innermost.
//
// Letters as in docs/layer.md. Offsets are in numbers; `size` is that of one image (or, for Sums, of one chunk of it).
#pragma once

#include "kv_memory.h"

namespace kvmem::cuda {

// What the forward pass keeps of the memory side, for the pixel passes and for backward.
struct MemoryLayout {
  int word_part;   // φ(W_w w_t + b_w) (M, T)
  int gate;        // A w_t (G, T)
  int gate_image;  // B r (G)
  int image_part;  // φ(W_r r + b_r) (M)
  int keys;        // k_t (C, T)
  int values;      // v_t (C, T)
  int response;    // u_t = W_g's second half times v_t (R, T)
  int size;
};

// Sums over positions, which the pixel pass of backward takes.
struct SumsLayout {
  int keys;        // Σ_n ds_t h_c (C, T)
  int values;      // Σ_n α_t γ_c dout_c (C, T): the part of dv that doesn't go through the response gate
  int gate_image;  // Σ_n dz_r h_c (R, C)
  int response;    // Σ_n α_t dz_r (R, T)
  int gate_bias;   // Σ_n dz_r (R)
  int size;
};

// What the gradients of the parameters and of the words are products of.
struct GradientLayout {
  int memory;      // m_t, not a gradient (M, T)
  int word_part;   // before φ (M, T)
  int gate;        // before σ (G, T)
  int gate_sum;    // Σ_t of it (G)
  int image_part;  // before φ (M)
  int keys;        // before φ (C, T)
  int values;      // before φ (C, T)
  int response;    // Σ_n α_t dz_r (R, T)
  int gate_image;  // Σ_n dz_r h_c (R, C)
  int gate_bias;   // Σ_n dz_r (R)
  int mean;        // of r (C)
  int size;
};

inline MemoryLayout memory_layout(const Sizes& s) {
  int end = 0;
  const auto take = [&](int64_t n) { return (end += static_cast<int>(n)) - static_cast<int>(n); };
  MemoryLayout l;
  l.word_part = take(s.M * s.T);
  l.gate = take(s.G * s.T);
  l.gate_image = take(s.G);
  l.image_part = take(s.M);
  l.keys = take(s.C * s.T);
  l.values = take(s.C * s.T);
  l.response = take(s.R * s.T);
  l.size = end;
  return l;
}

inline SumsLayout sums_layout(const Sizes& s) {
  int end = 0;
  const auto take = [&](int64_t n) { return (end += static_cast<int>(n)) - static_cast<int>(n); };
  SumsLayout l;
  l.keys = take(s.C * s.T);
  l.values = take(s.C * s.T);
  l.gate_image = take(s.R * s.C);
  l.response = take(s.R * s.T);
  l.gate_bias = take(s.R);
  l.size = end;
  return l;
}

inline GradientLayout gradient_layout(const Sizes& s) {
  int end = 0;
  const auto take = [&](int64_t n) { return (end += static_cast<int>(n)) - static_cast<int>(n); };
  GradientLayout l;
  l.memory = take(s.M * s.T);
  l.word_part = take(s.M * s.T);
  l.gate = take(s.G * s.T);
  l.gate_sum = take(s.G);
  l.image_part = take(s.M);
  l.keys = take(s.C * s.T);
  l.values = take(s.C * s.T);
  l.response = take(s.R * s.T);
  l.gate_image = take(s.R * s.C);
  l.gate_bias = take(s.R);
  l.mean = take(s.C);
  l.size = end;
  return l;
}

}  // namespace kvmem::cuda
