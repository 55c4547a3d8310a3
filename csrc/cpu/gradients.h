// What the backward pass keeps for each image: gradients of the memory's tables, then of everything before them.
#pragma once

#include "memory_write.h"

namespace kvmem::cpu::KVMEM_ISA {

// Sums over positions, taken chunk by chunk in the pixel pass. "slots" rows are those of Memory::slots.
template <typename F>
struct TableGradients {
  F* addressing;  // (slots + R, Cp): Σ_n ds_t h, then Σ_n dz_r h
  F* values;      // (slots, Cp): Σ_n α_t γ dout, the part of dv that doesn't go through the gate, then all of it
  F* response;    // R = 1: (slots, lanes), to be summed over lanes; R = C: (slots, Cp): Σ_n α_t dz_r
  F* gate_bias;   // (R, lanes), to be summed over lanes: Σ_n dz_r
  int64_t response_pitch;
};

template <typename F>
static TableGradients<F> take_table_gradients(const Sizes& s, Arena& arena) {
  const int64_t Tp = round_up(s.T, kLanes<F>), Cp = round_up(s.C, kLanes<F>);
  TableGradients<F> g;
  g.response_pitch = s.R > 1 ? Cp : kLanes<F>;
  g.addressing = arena.take<F>((s.T + s.R) * Cp);
  g.values = arena.take<F>(Tp * Cp);
  g.response = arena.take<F>(Tp * g.response_pitch);
  g.gate_bias = arena.take<F>(s.R * kLanes<F>);
  return g;
}

template <typename F>
static void zero_table_gradients(const Sizes& s, int64_t slots, const TableGradients<F>& g) {
  const int64_t Cp = round_up(s.C, kLanes<F>);
  memset(g.addressing, 0, sizeof(F) * (slots + s.R) * Cp);
  memset(g.values, 0, sizeof(F) * slots * Cp);
  memset(g.response, 0, sizeof(F) * slots * g.response_pitch);
  memset(g.gate_bias, 0, sizeof(F) * s.R * kLanes<F>);
}

// Gradients on the memory's side of one image, feature-major as in Memory, zero in the columns of no slot.
template <typename F>
struct MemoryGradients {
  TableGradients<F> tables;
  F* keys;         // before φ (Cp, Tp)
  F* values;       // before φ (Cp, Tp)
  F* memory;       // m (Mp, Tp)
  F* word_part;    // before φ (M, Tp)
  F* image_part;   // before φ (M)
  F* gate;         // before σ (G, Tp)
  F* gate_sum;     // Σ_t of it (G)
  F* mean;         // r (C)
  F* memory_t;     // first dm^T, then m^T (Tp, Mp), no gradient: what dK and dV are multiplied by
  F* values_t;     // v^T (Tp, Cp), likewise for dW_g
  F* words;        // w (Tp, Dp)
  F* tail;         // scratch of times_weight (lanes, Tp)
};

template <typename F>
static MemoryGradients<F> take_memory_gradients(const Sizes& s, Arena& arena) {
  const int64_t Tp = round_up(s.T, kLanes<F>), Cp = round_up(s.C, kLanes<F>);
  const int64_t Mp = round_up(s.M, kLanes<F>), Dp = round_up(s.D, kLanes<F>);
  MemoryGradients<F> g;
  g.tables = take_table_gradients<F>(s, arena);
  g.keys = arena.take<F>(Cp * Tp);
  g.values = arena.take<F>(Cp * Tp);
  g.memory = arena.take<F>(Mp * Tp);
  g.word_part = arena.take<F>(s.M * Tp);
  g.image_part = arena.take<F>(s.M);
  g.gate = arena.take<F>(s.G * Tp);
  g.gate_sum = arena.take<F>(s.G);
  g.mean = arena.take<F>(s.C);
  g.memory_t = arena.take<F>(Tp * Mp);
  g.values_t = arena.take<F>(Tp * Cp);
  g.words = arena.take<F>(Tp * Dp);
  g.tail = arena.take<F>(kLanes<F> * Tp);
  return g;
}

}  // namespace kvmem::cpu::KVMEM_ISA
