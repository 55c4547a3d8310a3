// Step 2 and the gate of step 4 for one tile, shared by the forward pass and by the backward pass, which recomputes them.
#pragma once

#include "memory_write.h"

namespace kvmem::cpu::KVMEM_ISA {

// α_t = softmax_t(s_t), in place over `slots` rows of kTile scores. No slots: nothing to do, and o = 0 follows.
template <typename F>
static void softmax_tile(F* scores, int64_t slots) {
  constexpr int lanes = kLanes<F>;
  for (int64_t n = 0; n < kTile && slots > 0; n += lanes) {
    Vector<F> top = load<F>(scores + n);
    for (int64_t t = 1; t < slots; ++t) top = maximum<F>(top, load<F>(scores + t * kTile + n));
    Vector<F> sum = {};
    for (int64_t t = 0; t < slots; ++t) {
      const Vector<F> e = exp_nonpositive(load<F>(scores + t * kTile + n) - top);
      store<F>(scores + t * kTile + n, e);
      sum += e;
    }
    const Vector<F> scale = F(1) / sum;
    for (int64_t t = 0; t < slots; ++t) {
      store<F>(scores + t * kTile + n, load<F>(scores + t * kTile + n) * scale);
    }
  }
}

// α (slots rows) and γ (R rows below them) from the tile's channels, elements down:
// s_t = k_t · h and W_g's first half · h in one product; γ = σ(W_g [h, o] + b_g), where W_g's second half · o = Σ_t α_t u_t.
template <typename E, typename F = NumberOf<E>>
static void address_tile(const Sizes& s, const Memory<F>& memory, const F* gate_bias, const E* channels, F* scores,
                         Beside* beside) {
  const int64_t slots = memory.slots[0], pitch = elements<E>(table_width<F>(s.C));
  gemm<E>(slots + s.R, kTile, elements<E>(s.C), {tables_of<E>(memory).keys_across, pitch, 1}, channels, kTile, scores,
          kTile, false, beside);
  softmax_tile(scores, slots);
  F* gate = scores + slots * kTile;
  gemm<F>(s.R, kTile, slots, {memory.response, memory.Tp, 1}, scores, kTile, gate, kTile, true);
  for (int64_t r = 0; r < s.R; ++r) {
    for (int64_t n = 0; n < kTile; n += kLanes<F>) {
      F* p = gate + r * kTile + n;
      store<F>(p, sigmoid<F>(load<F>(p) + gate_bias[r]));
    }
  }
}

// γ α in α's place, for a scalar gate.
template <typename F>
static void scale_tile(F* scores, int64_t slots) {
  for (int64_t i = 0; i < slots * kTile; i += kLanes<F>) {
    store<F>(scores + i, load<F>(scores + i) * load<F>(scores + slots * kTile + i % kTile));
  }
}

}  // namespace kvmem::cpu::KVMEM_ISA
