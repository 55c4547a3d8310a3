// What forward keeps of an image's memory side for backward: all that matrices of weights were multiplied for.
//
// In rows of T columns, of which the slots that hold a word are the first. kvmem/kept.py counts the numbers too.
#pragma once

#include "memory_write.h"

namespace kvmem::cpu::KVMEM_ISA {

// body(row of the memory's, row of the kept ones) for all that is kept but image_part; returns where that lies, behind them.
template <typename F, typename K, typename Body>
static K* for_each_kept_row(const Sizes& s, const Memory<F>& memory, K* kept, const Body& body) {
  const auto rows = [&](F* first, int64_t count) {
    for (int64_t row = 0; row < count; ++row, kept += s.T) body(first + row * memory.Tp, kept);
  };
  rows(memory.gate, s.G);
  rows(memory.word_part, s.M);
  rows(memory.keys, s.C);
  rows(memory.values, s.C);
  rows(memory.response, s.R);
  return kept;
}

template <typename F>
static void keep_memory(const Sizes& s, const Memory<F>& memory, F* kept) {
  F* image_part = for_each_kept_row(s, memory, kept, [&](const F* row, F* to) { memcpy(to, row, sizeof(F) * s.T); });
  memcpy(image_part, memory.image_part, sizeof(F) * s.M);
}

// m and the tables are made of what is kept; padding columns are zero.
template <typename F>
static void take_kept_memory(const Sizes& s, const Weights<F>& w, const F* kept, const Memory<F>& out) {
  const F* image_part = for_each_kept_row(s, out, kept, [&](F* row, const F* from) {
    memcpy(row, from, sizeof(F) * s.T);
    memset(row + s.T, 0, sizeof(F) * (out.Tp - s.T));
  });
  memcpy(out.image_part, image_part, sizeof(F) * s.M);
  mix_memory(s, 0, s.M, out);
  fill_tables(s, w, out);
}

}  // namespace kvmem::cpu::KVMEM_ISA
