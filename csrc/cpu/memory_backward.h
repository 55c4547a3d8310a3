// From the gradients of the memory's tables back through values, keys and memory writing, for one image.
#pragma once

#include "gradients.h"

namespace kvmem::cpu::KVMEM_ISA {

// out = the sum of `chunks` arrays of n elements, `pitch` bytes apart, added in order in float64.
template <typename F>
static void sum_chunks(const F* first, size_t pitch, int64_t chunks, int64_t n, F* out) {
  constexpr int64_t block = 64;
  for (int64_t start = 0; start < n; start += block) {
    double sums[block] = {};
    const int64_t count = smaller(block, n - start);
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      const F* part = reinterpret_cast<const F*>(reinterpret_cast<const char*>(first) + chunk * pitch) + start;
      for (int64_t i = 0; i < count; ++i) sums[i] += part[i];
    }
    for (int64_t i = 0; i < count; ++i) out[start + i] = static_cast<F>(sums[i]);
  }
}

// `first` are the first chunk's tables; the following chunks' lie `pitch` bytes apart.
template <typename F>
static void sum_tables(const Sizes& s, int64_t slots, const TableGradients<F>& first, size_t pitch, int64_t chunks,
                       const TableGradients<F>& out) {
  const int64_t Cp = round_up(s.C, kLanes<F>), Tp = round_up(s.T, kLanes<F>);
  sum_chunks(first.addressing, pitch, chunks, (slots + s.R) * Cp, out.addressing);
  sum_chunks(first.values, pitch, chunks, slots * Cp, out.values);
  sum_chunks(first.response, pitch, chunks, slots * out.response_pitch, out.response);
  sum_chunks(first.gate_bias, pitch, chunks, s.R * kLanes<F>, out.gate_bias);
  memset(out.values + slots * Cp, 0, sizeof(F) * (Tp - slots) * Cp);
  if (s.R > 1) return;
  for (int64_t t = 0; t < slots; ++t) {
    F* lanes = out.response + t * out.response_pitch;
    lanes[0] = sum_lanes<F>(load<F>(lanes));
  }
}

// y (slots, pitch) [+]= xᵀ W in columns [first, last), x (depth, Tp) and the caller's W (depth, n), read along its rows. The last
// columns, where they don't fill a vector, are made the other way round in `tail` (lanes, Tp): what is added to was made there, too.
template <typename F>
static void times_weight(int64_t slots, int64_t depth, Strided<F> x, const F* weight, int64_t n, int64_t first,
                         int64_t last, F* y, int64_t pitch, F* tail, bool add) {
  const int64_t Tp = x.column, whole = first + (last - first) / kLanes<F> * kLanes<F>;
  gemm<F>(slots, whole - first, depth, x, weight + first, n, y + first, pitch, add);
  if (whole == last) return;
  gemm<F>(last - whole, Tp, depth, {weight + whole, 1, n}, x.data, Tp, tail, Tp, add);
  for (int64_t t = 0; t < slots; ++t) {
    for (int64_t i = whole; i < last; ++i) y[t * pitch + i] = tail[(i - whole) * Tp + t];
  }
}

// x (features, Tp) = 0 where φ is flat.
template <typename F>
static void through_activation(const F* activated, int64_t features, int64_t Tp, bool relu, F* x) {
  if (!relu) return;
  for (int64_t i = 0; i < features * Tp; i += kLanes<F>) {
    store<F>(x + i, load<F>(activated + i) > F(0) ? load<F>(x + i) : Vector<F>{});
  }
}

// dv_t += W_g's second half^T Σ_n α_t dz
template <typename F>
static void values_backward(const Sizes& s, const Weights<F>& w, int64_t slots, const TableGradients<F>& tables) {
  const int64_t Cp = round_up(s.C, kLanes<F>);
  gemm<F>(slots, Cp, s.R, {tables.response, tables.response_pitch, 1}, w.response_padded, Cp, tables.values, Cp, true);
}

// dv_t and dk_t through φ.
template <typename F>
static void keys_and_values_backward(const Sizes& s, const Options& options, const Weights<F>& w, const Memory<F>& m,
                                     const MemoryGradients<F>& g) {
  const int64_t Cp = round_up(s.C, kLanes<F>), slots = m.slots[0];
  const TableGradients<F>& tables = g.tables;
  values_backward(s, w, slots, tables);
  transpose(tables.values, Cp, m.Tp, Cp, g.values, m.Tp);
  memset(g.keys, 0, sizeof(F) * Cp * m.Tp);
  for (int64_t t = 0; t < slots; ++t) {
    for (int64_t c = 0; c < s.C; ++c) g.keys[c * m.Tp + t] = tables.addressing[t * Cp + c];
  }
  through_activation(m.values, s.C, m.Tp, options.relu, g.values);
  through_activation(m.keys, s.C, m.Tp, options.relu, g.keys);
}

// dg_t for a scalar gate: the sum over m of dm ⊙ (word - image), in parts of 32, since the error grows with the chain.
template <typename F>
static void scalar_gate_gradient(const Sizes& s, const Memory<F>& m, const MemoryGradients<F>& g) {
  for (int64_t t = 0; t < m.Tp; t += kLanes<F>) {
    Vector<F> total = {};
    for (int64_t first = 0; first < s.M; first += 32) {
      Vector<F> part = {};
      for (int64_t i = first; i < smaller(s.M, first + 32); ++i) {
        part += load<F>(g.memory + i * m.Tp + t) * (load<F>(m.word_part + i * m.Tp + t) - m.image_part[i]);
      }
      total += part;
    }
    store<F>(g.gate + t, total);
  }
}

template <typename F>
static void vector_gate_gradient(const Sizes& s, const Memory<F>& m, const MemoryGradients<F>& g) {
  for (int64_t i = 0; i < s.M; ++i) {
    for (int64_t t = 0; t < m.Tp; t += kLanes<F>) {
      const int64_t at = i * m.Tp + t;
      store<F>(g.gate + at, load<F>(g.memory + at) * (load<F>(m.word_part + at) - m.image_part[i]));
    }
  }
}

// From dg to what stands inside σ, and its sum over slots.
template <typename F>
static void through_write_gate(const Sizes& s, const Options& options, const Memory<F>& m,
                               const MemoryGradients<F>& g) {
  for (int64_t i = 0; i < s.G; ++i) {
    Vector<F> sum = {};
    for (int64_t t = 0; t < m.Tp; t += kLanes<F>) {
      F* p = g.gate + i * m.Tp + t;
      const Vector<F> gate = load<F>(m.gate + i * m.Tp + t);
      if (!options.linear_write_gate) store<F>(p, load<F>(p) * gate * (F(1) - gate));
      sum += load<F>(p);
    }
    g.gate_sum[i] = sum_lanes<F>(sum);
  }
}

// dm = Kᵀ dk + Vᵀ dv, features [first, last).
template <typename F>
static void memory_gradient(const Sizes& s, const Weights<F>& w, const Memory<F>& m, int64_t first, int64_t last,
                            const MemoryGradients<F>& g) {
  const int64_t Mp = round_up(s.M, kLanes<F>), Tp = m.Tp, slots = m.slots[0], end = round_up(last, kLanes<F>);
  times_weight(slots, s.C, {g.keys, 1, Tp}, w.key, s.M, first, last, g.memory_t, Mp, g.tail, false);
  times_weight(slots, s.C, {g.values, 1, Tp}, w.value, s.M, first, last, g.memory_t, Mp, g.tail, true);
  for (int64_t t = slots; t < Tp; ++t) memset(g.memory_t + t * Mp + first, 0, sizeof(F) * (end - first));
  transpose(g.memory_t + first, Mp, Tp, end - first, g.memory + first * Tp, Tp);
}

// From m_t = g_t ⊙ word_t + (1 - g_t) ⊙ image the gradients of all three, from dm.
template <typename F>
static void write_memory_backward(const Sizes& s, const Options& options, const Memory<F>& m,
                                  const MemoryGradients<F>& g) {
  const int64_t Tp = m.Tp;
  if (s.G > 1) {
    vector_gate_gradient(s, m, g);
  } else {
    scalar_gate_gradient(s, m, g);
  }
  through_write_gate(s, options, m, g);
  for (int64_t i = 0; i < s.M; ++i) {
    Vector<F> image = {};
    for (int64_t t = 0; t < Tp; t += kLanes<F>) {
      const Vector<F> gate = load<F>(m.gate + (s.G > 1 ? i * Tp : 0) + t), dm = load<F>(g.memory + i * Tp + t);
      store<F>(g.word_part + i * Tp + t, gate * dm);
      image += (F(1) - gate) * dm;
    }
    g.image_part[i] = options.relu && !(m.image_part[i] > F(0)) ? F(0) : sum_lanes<F>(image);
  }
  through_activation(m.word_part, s.M, Tp, options.relu, g.word_part);
}

// dw (slots, Dp), features [first, last).
template <typename F>
static void words_backward(const Sizes& s, const Weights<F>& w, const Memory<F>& m, int64_t first, int64_t last,
                           const MemoryGradients<F>& g) {
  const int64_t Dp = round_up(s.D, kLanes<F>), Tp = m.Tp, slots = m.slots[0];
  times_weight(slots, s.M, {g.word_part, 1, Tp}, w.write_word, s.D, first, last, g.words, Dp, g.tail, false);
  times_weight(slots, s.G, {g.gate, 1, Tp}, w.gate_word, s.D, first, last, g.words, Dp, g.tail, true);
}

// y[0, n) += x W, W (rows, n).
template <typename F>
static void add_vector_matrix(const F* x, const F* weight, int64_t rows, int64_t n, F* y) {
  for (int64_t row = 0; row < rows; ++row) {
    int64_t i = 0;
    const F* line = weight + row * n;
    for (; i + kLanes<F> <= n; i += kLanes<F>) store<F>(y + i, load<F>(y + i) + x[row] * load<F>(line + i));
    for (; i < n; ++i) y[i] += x[row] * line[i];
  }
}

// From dm as far as the gradient of the image's mean.
template <typename F>
static void mean_backward(const Sizes& s, const Options& options, const Weights<F>& w, const Memory<F>& m,
                          const MemoryGradients<F>& g) {
  write_memory_backward(s, options, m, g);
  memset(g.mean, 0, sizeof(F) * s.C);
  add_vector_matrix(g.image_part, w.write_image, s.M, s.C, g.mean);
  add_vector_matrix(g.gate_sum, w.gate_image, s.G, s.C, g.mean);
}

// What the parameters' gradients are products of.
template <typename F>
static void turn_factors(const Sizes& s, const Memory<F>& m, const MemoryGradients<F>& g) {
  const int64_t Cp = round_up(s.C, kLanes<F>), Mp = round_up(s.M, kLanes<F>);
  // Padding rows of m and v may hold anything: their transposes' padding columns are never written out.
  transpose(m.memory, m.Tp, Mp, m.Tp, g.memory_t, Mp);
  transpose(m.values, m.Tp, Cp, m.Tp, g.values_t, Cp);
}

// Of a memory that is given: dk and dv are then rows of the tables.
template <typename F>
static void given_memory_backward(const Sizes& s, const Weights<F>& w, const Memory<F>& m, const MemoryGradients<F>& g) {
  const int64_t Cp = round_up(s.C, kLanes<F>);
  values_backward(s, w, m.slots[0], g.tables);
  transpose(m.values, m.Tp, Cp, m.Tp, g.values_t, Cp);
}

}  // namespace kvmem::cpu::KVMEM_ISA
