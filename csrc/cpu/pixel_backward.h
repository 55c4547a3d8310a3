// The backward pass over positions, tile by tile, with the addresses recomputed.
//
// With z = W_g [h, o] + b_g, γ = σ(z), u_t = W_g's second half · v_t and all of α, γ, h, o, dout at one position:
//   dz   = dout (o - h) γ (1 - γ)             summed over c where the gate is a scalar
//   dα_t = v_t · (γ dout) + u_t · dz          (+ the gradient of the returned attention)
//   ds_t = α_t (dα_t - Σ_t' α_t' dα_t')
//   dh   = (1 - γ) dout + Σ_t ds_t k_t + W_g's first half^T dz
#pragma once

#include "addressing.h"
#include "blend.h"
#include "gradients.h"
#include "stage.h"

namespace kvmem::cpu::KVMEM_ISA {

template <typename E, typename F = NumberOf<E>>
struct BackwardScratch {
  Layouts<E> images[2], grads_out[2];  // h and dout of this tile and of the next
  Layouts<E> h, dout;                  // of this tile
  F *scores;                           // α, then γ
  F *grads;                            // ds, then dz
  F *products;                         // (T, kTile): v_t · (γ dout), later α γ
  F *buffer, *positions;               // (Cp, kTile) and (kTile, Cp); R = C: o, then γ dout in `buffer`
  E *factors;                          // rows of numbers (T + R, kTile) as elements
  Beside* beside;                      // reads the next tile
};

template <typename E, typename F = NumberOf<E>>
static BackwardScratch<E> take_backward_scratch(const Sizes& s, Arena& arena) {
  const int64_t Cp = round_up(s.C, kLanes<F>), rows = s.T + (s.R > 1 ? Cp : 1);
  BackwardScratch<E> scratch{};
  for (Layouts<E>* pair : {scratch.images, scratch.grads_out}) {
    for (int i = 0; i < 2; ++i) pair[i] = take_layouts<E>(s.C, true, arena);
  }
  scratch.scores = arena.take<F>(rows * kTile);
  scratch.grads = arena.take<F>(rows * kTile);
  scratch.products = arena.take<F>(s.T * kTile);
  scratch.buffer = arena.take<F>(Cp * kTile);
  scratch.positions = arena.take<F>(Cp * kTile);
  scratch.factors = arena.take<E>(kNumbers<E> > 1 ? elements<E>(s.T + s.R) * kTile : 0);
  return scratch;
}

// The gradient of the returned attention at the slots that hold a word, into rows (slots, kTile).
template <typename T, typename F = Arithmetic<T>>
static void read_attention_gradient(const Sizes& s, const Memory<F>& memory, const T* grad_attention, int64_t start,
                                    int64_t count, F* rows) {
  for (int64_t t = 0; t < memory.slots[0]; ++t) {
    read_row(grad_attention + memory.slots[1 + t] * s.N + start, count, rows + t * kTile, kTile);
  }
}

// p_t = v_t · dout: without a gate, dα but for the returned attention's part.
template <typename E, typename F = NumberOf<E>>
static void values_gradient(const Sizes& s, const Memory<F>& memory, const BackwardScratch<E>& x) {
  const int64_t pitch = elements<E>(table_width<F>(s.C));
  gemm<E>(memory.slots[0], kTile, elements<E>(s.C), {tables_of<E>(memory).values_across, pitch, 1}, x.dout.channels,
          kTile, x.products, kTile, false, x.beside);
}

// Scalar gate: dz, and dα without the returned attention's part, from p_t = v_t · dout, which also gives o · dout.
template <typename E, typename F = NumberOf<E>>
static void gate_gradient_scalar(const Sizes& s, const Memory<F>& memory, const BackwardScratch<E>& x) {
  const int64_t slots = memory.slots[0];
  values_gradient(s, memory, x);
  for (int64_t n = 0; n < kTile; n += kLanes<F>) {
    Vector<F> kept = {}, read = {};
    for (int64_t c = 0; c < elements<E>(s.C); ++c) {
      multiply_add_rows(kept, x.h.channels + c * kTile + n, x.dout.channels + c * kTile + n);
    }
    for (int64_t t = 0; t < slots; ++t) {
      read += load<F>(x.scores + t * kTile + n) * load<F>(x.products + t * kTile + n);
    }
    const Vector<F> gamma = load<F>(x.scores + slots * kTile + n);
    const Vector<F> dz = (read - kept) * gamma * (F(1) - gamma);
    store<F>(x.grads + slots * kTile + n, dz);
    for (int64_t t = 0; t < slots; ++t) {
      F* p = x.products + t * kTile + n;
      store<F>(p, gamma * load<F>(p) + memory.response[t] * dz);
    }
  }
}

// Vector gate: the same with o itself, and with γ dout in x.buffer.
template <typename F>
static void gate_gradient_vector(const Sizes& s, const Memory<F>& memory, const BackwardScratch<F>& x) {
  const int64_t slots = memory.slots[0];
  const F* gate = x.scores + slots * kTile;
  F* dz = x.grads + slots * kTile;
  gemm<F>(s.C, kTile, slots, {memory.values, memory.Tp, 1}, x.scores, kTile, x.buffer, kTile, false, x.beside);
  for (int64_t i = 0; i < s.C * kTile; i += kLanes<F>) {
    const Vector<F> gamma = load<F>(gate + i), dout = load<F>(x.dout.channels + i);
    store<F>(dz + i, dout * (load<F>(x.buffer + i) - load<F>(x.h.channels + i)) * gamma * (F(1) - gamma));
    store<F>(x.buffer + i, gamma * dout);
  }
  gemm<F>(slots, kTile, s.C, {memory.values, 1, memory.Tp}, x.buffer, kTile, x.products, kTile);
  gemm<F>(slots, kTile, s.R, {memory.response, 1, memory.Tp}, dz, kTile, x.products, kTile, true);
}

// ds from α and dα (in products). `attention` holds the returned attention's gradient in ds's place, if there is one.
template <typename E, typename F = NumberOf<E>>
static void softmax_gradient(int64_t slots, bool attention, const BackwardScratch<E>& x) {
  for (int64_t n = 0; n < kTile; n += kLanes<F>) {
    Vector<F> mean = {};
    for (int64_t t = 0; t < slots; ++t) {
      F* p = x.products + t * kTile + n;
      const Vector<F> grad = attention ? load<F>(p) + load<F>(x.grads + t * kTile + n) : load<F>(p);
      store<F>(p, grad);
      mean += load<F>(x.scores + t * kTile + n) * grad;
    }
    for (int64_t t = 0; t < slots; ++t) {
      const int64_t i = t * kTile + n;
      store<F>(x.grads + i, load<F>(x.scores + i) * (load<F>(x.products + i) - mean));
    }
  }
}

template <typename F>
static void add_lanes(const F* row, F* sums) {
  Vector<F> sum = load<F>(sums);
  for (int64_t n = 0; n < kTile; n += kLanes<F>) sum += load<F>(row + n);
  store<F>(sums, sum);
}

// table (count, Cp) += rows (count, kTile) times what lies at the tile's positions.
template <typename E, typename F = NumberOf<E>>
static void add_to_table(const Sizes& s, const F* rows, int64_t count, const E* positions, F* table,
                         const BackwardScratch<E>& x) {
  const int64_t Cp = round_up(s.C, kLanes<F>), depth = elements<E>(kTile);
  const E* factors = elements_across(rows, count, kTile, x.factors);
  gemm<E>(count, Cp, depth, {factors, depth, 1}, positions, table_width<F>(s.C), table, Cp, true, x.beside);
}

// Scalar gate: Σ α γ dout and Σ α dz; leaves α γ in products.
template <typename E, typename F = NumberOf<E>>
static void add_gate_tables_scalar(const Sizes& s, int64_t slots, const BackwardScratch<E>& x,
                                   const TableGradients<F>& g) {
  const F *gate = x.scores + slots * kTile, *dz = x.grads + slots * kTile;
  for (int64_t t = 0; t < slots; ++t) {
    Vector<F> sum = load<F>(g.response + t * g.response_pitch);
    for (int64_t n = 0; n < kTile; n += kLanes<F>) {
      const Vector<F> alpha = load<F>(x.scores + t * kTile + n);
      store<F>(x.products + t * kTile + n, alpha * load<F>(gate + n));
      sum += alpha * load<F>(dz + n);
    }
    store<F>(g.response + t * g.response_pitch, sum);
  }
  add_to_table(s, x.products, slots, x.dout.positions, g.values, x);
}

template <typename F>
static void add_gate_tables_vector(const Sizes& s, int64_t slots, const BackwardScratch<F>& x,
                                   const TableGradients<F>& g) {
  const int64_t Cp = round_up(s.C, kLanes<F>), width = table_width<F>(s.C);
  F* dz = x.grads + slots * kTile;
  memset(x.buffer + s.C * kTile, 0, sizeof(F) * (Cp - s.C) * kTile);
  memset(dz + s.C * kTile, 0, sizeof(F) * (Cp - s.C) * kTile);
  transpose(x.buffer, kTile, Cp, kTile, x.dout.positions, width);
  add_to_table(s, x.scores, slots, x.dout.positions, g.values, x);
  transpose(dz, kTile, Cp, kTile, x.dout.positions, width);
  add_to_table(s, x.scores, slots, x.dout.positions, g.response, x);
}

template <typename E, typename F = NumberOf<E>>
static void add_tables(const Sizes& s, int64_t slots, const BackwardScratch<E>& x, const TableGradients<F>& g) {
  add_to_table(s, x.grads, slots + s.R, x.h.positions, g.addressing, x);
  for (int64_t r = 0; r < s.R; ++r) add_lanes(x.grads + (slots + r) * kTile, g.gate_bias + r * kLanes<F>);
  if (s.R == 0) {
    add_to_table(s, x.scores, slots, x.dout.positions, g.values, x);
  } else if (s.R == 1) {
    add_gate_tables_scalar(s, slots, x, g);
  } else if constexpr (kNumbers<E> == 1) {
    add_gate_tables_vector(s, slots, x, g);
  }
}

// dh without the mean's part: (1 - γ) dout + Σ_t ds_t k_t + W_g's first half^T dz.
template <typename T, typename E, typename F = NumberOf<E>>
static void image_gradient(const Sizes& s, const Memory<F>& memory, Plane<const T> dout, const Target<T>& dh,
                           const BackwardScratch<E>& x) {
  const int64_t slots = memory.slots[0], rows = slots + s.R;
  F* rest = s.R > 0 ? x.scores + slots * kTile : nullptr;
  turn_gate(rest, s.R);
  const E* factors = elements_down(x.grads, rows, kTile, kTile, x.factors);
  const Factors<E> back{tables_of<E>(memory).keys_down, factors, table_width<F>(s.C), elements<E>(rows)};
  blend<T>(back, Gate<F>{rest, s.R, false}, dout, static_cast<const E*>(x.dout.channels), dh, x.buffer, x.positions,
           x.beside);
}

// One tile whose h and dout stand in the scratch. Vector gates are for plain numbers alone.
template <typename T, typename E, typename F = NumberOf<E>>
static void backward_tile(const Sizes& s, const Memory<F>& memory, const F* gate_bias, const T* grad_attention,
                          int64_t start, int64_t count, const BackwardScratch<E>& x) {
  const int64_t slots = memory.slots[0];
  address_tile(s, memory, gate_bias, static_cast<const E*>(x.h.channels), x.scores, x.beside);
  if (s.R == 0) {
    values_gradient(s, memory, x);
  } else if (s.R == 1) {
    gate_gradient_scalar(s, memory, x);
  } else if constexpr (kNumbers<E> == 1) {
    gate_gradient_vector(s, memory, x);
  }
  if (grad_attention) read_attention_gradient(s, memory, grad_attention, start, count, x.grads);
  softmax_gradient(slots, grad_attention != nullptr, x);
}

}  // namespace kvmem::cpu::KVMEM_ISA
