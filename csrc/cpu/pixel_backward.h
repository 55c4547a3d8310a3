// The backward pass over positions, tile by tile, with the addresses recomputed.
//
// With z = W_g [h, o] + b_g, γ = σ(z), u_t = W_g's second half · v_t and all of α, γ, h, o, dout at one position:
//   dz   = dout (o - h) γ (1 - γ)             summed over c where the gate is a scalar
//   dα_t = v_t · (γ dout) + u_t · dz          (+ the gradient of the returned attention)
//   ds_t = α_t (dα_t - Σ_t' α_t' dα_t')
//   dh   = (1 - γ) dout + Σ_t ds_t k_t + W_g's first half^T dz
#pragma once

#include "addressing.h"
#include "gradients.h"

namespace kvmem::cpu::KVMEM_ISA {

template <typename F>
struct BackwardScratch {
  Prefetch* ahead;                    // the next tile of h and dout
  F *channels, *positions;            // h
  F *grad_channels, *grad_positions;  // dout
  F *scores;                          // α, then γ
  F *grads;                           // ds, then dz
  F *products;                        // (T, kTile): v_t · (γ dout), later α γ
  F *gated;                           // (Cp, kTile): R = C: o, then γ dout; in the end dh
};

template <typename F>
static BackwardScratch<F> take_backward_scratch(const Sizes& s, Arena& arena) {
  const int64_t Cp = round_up(s.C, kLanes<F>), rows = s.T + (s.R > 1 ? Cp : 1);
  BackwardScratch<F> scratch{};
  scratch.channels = arena.take<F>(Cp * kTile);
  scratch.positions = arena.take<F>(Cp * kTile);
  scratch.grad_channels = arena.take<F>(Cp * kTile);
  scratch.grad_positions = arena.take<F>(Cp * kTile);
  scratch.scores = arena.take<F>(rows * kTile);
  scratch.grads = arena.take<F>(rows * kTile);
  scratch.products = arena.take<F>(s.T * kTile);
  scratch.gated = arena.take<F>(Cp * kTile);
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
template <typename F>
static void values_gradient(const Sizes& s, const Memory<F>& memory, BackwardScratch<F> x) {
  gemm<F>(memory.slots[0], kTile, s.C, {memory.values, 1, memory.Tp}, x.grad_channels, kTile, x.products, kTile, false,
          x.ahead);
}

// Scalar gate: dz, and dα without the returned attention's part, from p_t = v_t · dout, which also gives o · dout.
template <typename F>
static void gate_gradient_scalar(const Sizes& s, const Memory<F>& memory, BackwardScratch<F> x) {
  const int64_t slots = memory.slots[0];
  values_gradient(s, memory, x);
  for (int64_t n = 0; n < kTile; n += kLanes<F>) {
    Vector<F> kept = {}, read = {};
    for (int64_t c = 0; c < s.C; ++c) {
      kept += load<F>(x.channels + c * kTile + n) * load<F>(x.grad_channels + c * kTile + n);
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

// Vector gate: the same with o itself, and with γ dout in x.gated.
template <typename F>
static void gate_gradient_vector(const Sizes& s, const Memory<F>& memory, BackwardScratch<F> x) {
  const int64_t slots = memory.slots[0];
  const F* gate = x.scores + slots * kTile;
  F* dz = x.grads + slots * kTile;
  read_values(s, memory, x.scores, x.gated, x.ahead);
  for (int64_t i = 0; i < s.C * kTile; i += kLanes<F>) {
    const Vector<F> gamma = load<F>(gate + i), dout = load<F>(x.grad_channels + i);
    store<F>(dz + i, dout * (load<F>(x.gated + i) - load<F>(x.channels + i)) * gamma * (F(1) - gamma));
    store<F>(x.gated + i, gamma * dout);
  }
  gemm<F>(slots, kTile, s.C, {memory.values, 1, memory.Tp}, x.gated, kTile, x.products, kTile);
  gemm<F>(slots, kTile, s.R, {memory.response, 1, memory.Tp}, dz, kTile, x.products, kTile, true);
}

// ds from α and dα (in products). `attention` holds the returned attention's gradient in ds's place, if there is one.
template <typename F>
static void softmax_gradient(int64_t slots, bool attention, BackwardScratch<F> x) {
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

// Scalar gate: Σ α γ dout and Σ α dz; leaves α γ in products.
template <typename F>
static void add_gate_tables_scalar(const Sizes& s, int64_t slots, BackwardScratch<F> x, const TableGradients<F>& g) {
  const int64_t Cp = round_up(s.C, kLanes<F>);
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
  gemm<F>(slots, Cp, kTile, {x.products, kTile, 1}, x.grad_positions, Cp, g.values, Cp, true, x.ahead);
}

template <typename F>
static void add_gate_tables_vector(const Sizes& s, int64_t slots, BackwardScratch<F> x, const TableGradients<F>& g) {
  const int64_t Cp = round_up(s.C, kLanes<F>);
  F* dz = x.grads + slots * kTile;
  memset(x.gated + s.C * kTile, 0, sizeof(F) * (Cp - s.C) * kTile);
  memset(dz + s.C * kTile, 0, sizeof(F) * (Cp - s.C) * kTile);
  transpose(x.gated, kTile, Cp, kTile, x.grad_positions, Cp);
  gemm<F>(slots, Cp, kTile, {x.scores, kTile, 1}, x.grad_positions, Cp, g.values, Cp, true, x.ahead);
  transpose(dz, kTile, Cp, kTile, x.grad_positions, Cp);
  gemm<F>(slots, Cp, kTile, {x.scores, kTile, 1}, x.grad_positions, Cp, g.response, Cp, true);
}

template <typename F>
static void add_tables(const Sizes& s, int64_t slots, BackwardScratch<F> x, const TableGradients<F>& g) {
  const int64_t Cp = round_up(s.C, kLanes<F>);
  gemm<F>(slots + s.R, Cp, kTile, {x.grads, kTile, 1}, x.positions, Cp, g.addressing, Cp, true,
          x.ahead);
  for (int64_t r = 0; r < s.R; ++r) add_lanes(x.grads + (slots + r) * kTile, g.gate_bias + r * kLanes<F>);
  if (s.R > 1) {
    add_gate_tables_vector(s, slots, x, g);
  } else if (s.R == 1) {
    add_gate_tables_scalar(s, slots, x, g);
  } else {
    gemm<F>(slots, Cp, kTile, {x.scores, kTile, 1}, x.grad_positions, Cp, g.values, Cp, true, x.ahead);
  }
}

// dh without the mean's part, written over x.gated.
template <typename F>
static void image_gradient(const Sizes& s, const Memory<F>& memory, BackwardScratch<F> x) {
  const int64_t slots = memory.slots[0];
  for (int64_t c = 0; c < s.C && s.R > 0; ++c) {
    const F* gate = x.scores + (slots + (s.R > 1 ? c : 0)) * kTile;
    for (int64_t n = 0; n < kTile; n += kLanes<F>) {
      store<F>(x.gated + c * kTile + n, (F(1) - load<F>(gate + n)) * load<F>(x.grad_channels + c * kTile + n));
    }
  }
  gemm<F>(s.C, kTile, slots + s.R, {memory.addressing, 1, s.C}, x.grads, kTile, x.gated, kTile, s.R > 0,
          x.ahead);
}

// One tile whose h and dout stand in the scratch.
template <typename T, typename F = Arithmetic<T>>
static void backward_tile(const Sizes& s, const Memory<F>& memory, const F* gate_bias, const T* grad_attention,
                          int64_t start, int64_t count, BackwardScratch<F> x) {
  const int64_t slots = memory.slots[0];
  address_tile(s, memory, gate_bias, x.channels, x.scores, x.ahead);
  if (s.R > 1) {
    gate_gradient_vector(s, memory, x);
  } else if (s.R == 1) {
    gate_gradient_scalar(s, memory, x);
  } else {
    values_gradient(s, memory, x);
  }
  if (grad_attention) read_attention_gradient(s, memory, grad_attention, start, count, x.grads);
  softmax_gradient(slots, grad_attention != nullptr, x);
}

}  // namespace kvmem::cpu::KVMEM_ISA
