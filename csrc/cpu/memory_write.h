// Steps 1 to 3 for the slots of one image: memory writing, keys, values (docs/layer.md); or keys and values as given.
//
// Matrices lie feature-major, (features, Tp), with the slots that hold a word packed into the first `slots` of Tp
// columns: masked slots cost nothing afterwards, and weights are read as they are, without a transpose.
#pragma once

#include "gemm.h"
#include "tables.h"
#include "tile.h"
#include "weights.h"

namespace kvmem::cpu::KVMEM_ISA {

template <typename F>
struct Memory {
  int64_t Tp;       // T rounded up to whole vectors
  int64_t* slots;   // slots[0] is the count, then the indices of the slots that hold a word
  F* words;         // w    (T, Dp)
  F* words_t;       // w^T  (Dp, Tp)
  F* gate;          // g    (G, Tp)
  F* word_part;     // φ(W_w w + b_w)  (M, Tp)
  F* image_part;    // φ(W_r r + b_r)  (M)
  F* memory;        // m    (M, Tp)
  F* keys;          // k    (C, Tp)
  F* values;        // v    (C, Tp)
  Tables<F> tables;  // (T + R, width) and (Tp, width)
#ifdef KVMEM_PAIRS
  Tables<Pair> pairs;
#endif
  F* response;      // u = W_g's other half times v  (R, Tp)
};

template <typename F>
static Memory<F> take_memory(const Sizes& s, Arena& arena) {
  const int64_t Tp = round_up(s.T, kLanes<F>), Cp = round_up(s.C, kLanes<F>), Dp = round_up(s.D, kLanes<F>);
  Memory<F> memory;
  memory.Tp = Tp;
  memory.slots = arena.take<int64_t>(s.T + 1);
  memory.words = arena.take<F>(Tp * Dp);
  memory.words_t = arena.take<F>(Dp * Tp);
  memory.gate = arena.take<F>(s.G * Tp);
  memory.word_part = arena.take<F>(s.M * Tp);
  memory.image_part = arena.take<F>(s.M);
  memory.memory = arena.take<F>(round_up(s.M, kLanes<F>) * Tp);
  memory.keys = arena.take<F>(Cp * Tp);
  memory.values = arena.take<F>(Cp * Tp);
  const int64_t width = table_width<F>(s.C);
  F *keys = arena.take<F>((s.T + s.R) * width), *values = arena.take<F>(Tp * width);
  memory.tables = {keys, keys, values, values};
#ifdef KVMEM_PAIRS
  memory.pairs = take_pairs(s.T + s.R, s.T, width, arena);
#endif
  memory.response = arena.take<F>(s.R * Tp);
  return memory;
}

// Into out.slots. `mask` is (B, T), or null.
template <typename F>
static void find_slots(const Sizes& s, const bool* mask, int64_t image, const Memory<F>& out) {
  int64_t count = 0;
  for (int64_t t = 0; t < s.T; ++t) {
    if (!mask || mask[image * s.T + t]) out.slots[++count] = t;
  }
  out.slots[0] = count;
}

// (slots, Dp), zeros in the rows of no slot.
template <typename T, typename F = Arithmetic<T>>
static void pack_words(const Sizes& s, Stored<T> words, int64_t image, const Memory<F>& out) {
  const int64_t Dp = round_up(s.D, kLanes<F>), count = out.slots[0];
  for (int64_t i = 0; i < count; ++i) {
    read_stored(words, (image * s.T + out.slots[1 + i]) * s.D, s.D, out.words + i * Dp, Dp);
  }
  memset(out.words + count * Dp, 0, sizeof(F) * (out.Tp - count) * Dp);
}

template <typename F>
static F dot(const F* a, const F* b, int64_t n) {
  Vector<F> lanes = {};
  F rest = 0;
  int64_t i = 0;
  for (; i + kLanes<F> <= n; i += kLanes<F>) lanes += load<F>(a + i) * load<F>(b + i);
  for (; i < n; ++i) rest += a[i] * b[i];
  return sum_lanes<F>(lanes) + rest;
}

// y (features, Tp) = φ(W x + b), W (features, depth).
template <typename F>
static void linear(const F* weight, const F* bias, int64_t features, int64_t depth, const F* x, int64_t Tp, F* y,
                   bool relu) {
  gemm<F>(features, Tp, depth, {weight, depth, 1}, x, Tp, y, Tp);
  for (int64_t f = 0; f < features; ++f) {
    for (int64_t t = 0; t < Tp; t += kLanes<F>) {
      F* p = y + f * Tp + t;
      store<F>(p, relu_if<F>(load<F>(p) + bias[f], relu));
    }
  }
}

// What doesn't wait for the image, of the memory's rows [first, last): φ(W_w w_t + b_w), and with it A w_t, in the gate's place.
template <typename F>
static void write_words(const Sizes& s, const Options& options, const Weights<F>& w, int64_t first, int64_t last,
                        const Memory<F>& out) {
  linear(w.write_word + first * s.D, w.write_word_bias + first, last - first, s.D, out.words_t, out.Tp,
         out.word_part + first * out.Tp, options.relu);
  const int64_t gate = s.G > 1 ? first : 0, gates = s.G > 1 ? last - first : first == 0;
  gemm<F>(gates, out.Tp, s.D, {w.gate_word + gate * s.D, s.D, 1}, out.words_t, out.Tp, out.gate + gate * out.Tp, out.Tp);
}

// g_t = σ(A w_t + B r), from A w_t.
template <typename F>
static void write_gate(const Sizes& s, const Options& options, const Weights<F>& w, const F* mean,
                       const Memory<F>& out) {
  for (int64_t g = 0; g < s.G; ++g) {
    const F image = dot(w.gate_image + g * s.C, mean, s.C);
    for (int64_t t = 0; t < out.Tp; t += kLanes<F>) {
      F* p = out.gate + g * out.Tp + t;
      const Vector<F> sum = load<F>(p) + image;
      store<F>(p, options.linear_write_gate ? sum : sigmoid<F>(sum));
    }
  }
}

// m_t = g_t ⊙ φ(W_w w_t + b_w) + (1 - g_t) ⊙ φ(W_r r + b_r), rows [first, last), from both parts.
template <typename F>
static void mix_memory(const Sizes& s, int64_t first, int64_t last, const Memory<F>& out) {
  for (int64_t m = first; m < last; ++m) {
    const F* gate = out.gate + (s.G > 1 ? m * out.Tp : 0);
    for (int64_t t = 0; t < out.Tp; t += kLanes<F>) {
      const Vector<F> g = load<F>(gate + t);
      store<F>(out.memory + m * out.Tp + t, g * load<F>(out.word_part + m * out.Tp + t) + (F(1) - g) * out.image_part[m]);
    }
  }
}

// The image's part of the memory's rows [first, last), and with it those rows.
template <typename F>
static void write_memory(const Sizes& s, const Options& options, const Weights<F>& w, int64_t first, int64_t last,
                         const F* mean, const Memory<F>& out) {
  for (int64_t m = first; m < last; ++m) {
    const F x = dot(w.write_image + m * s.C, mean, s.C) + w.write_image_bias[m];
    out.image_part[m] = options.relu && x < F(0) ? F(0) : x;
  }
  mix_memory(s, first, last, out);
}

template <typename E, typename F>
KVMEM_INLINE const Tables<E>& tables_of(const Memory<F>& memory) {
#ifdef KVMEM_PAIRS
  if constexpr (kNumbers<E> == 2) return memory.pairs;
#endif
  if constexpr (kNumbers<E> == 1) return memory.tables;
}

// What the pixel pass multiplies by. Rows of the padding may hold anything: nothing that is made of them is read.
template <typename F>
static void fill_tables(const Sizes& s, const Weights<F>& w, const Memory<F>& out) {
  const int64_t slots = out.slots[0], width = table_width<F>(s.C), Cp = round_up(s.C, kLanes<F>);
  F *keys = out.tables.keys_across, *values = out.tables.values_across;
  memset(keys, 0, sizeof(F) * (slots + s.R) * width);
  for (int64_t t = 0; t < slots; ++t) {
    for (int64_t c = 0; c < s.C; ++c) keys[t * width + c] = out.keys[c * out.Tp + t];
  }
  for (int64_t r = 0; r < s.R; ++r) {
    memcpy(keys + (slots + r) * width, w.response_gate + r * 2 * s.C, sizeof(F) * s.C);
  }
  memset(out.values + s.C * out.Tp, 0, sizeof(F) * (Cp - s.C) * out.Tp);
  transpose(out.values, out.Tp, Cp, out.Tp, values, width);
  for (int64_t t = 0; t < slots && Cp < width; ++t) memset(values + t * width + Cp, 0, sizeof(F) * (width - Cp));
#ifdef KVMEM_PAIRS
  fill_pairs(out.tables, slots + s.R, slots, width, out.pairs);
#endif
}

// u = W_g's second half times v.
template <typename F>
static void write_response(const Sizes& s, const Weights<F>& w, const Memory<F>& out) {
  gemm<F>(s.R, out.Tp, s.C, {w.response_gate + s.C, 2 * s.C, 1}, out.values, out.Tp, out.response, out.Tp);
}

// k_t = φ(K m_t + b_k), v_t = φ(V m_t + b_v), rows [first, last).
template <typename F>
static void read_out_memory(const Sizes& s, const Options& options, const Weights<F>& w, int64_t first, int64_t last,
                            const Memory<F>& out) {
  const int64_t rows = last - first, at = first * out.Tp;
  linear(w.key + first * s.M, w.key_bias + first, rows, s.M, out.memory, out.Tp, out.keys + at, options.relu);
  linear(w.value + first * s.M, w.value_bias + first, rows, s.M, out.memory, out.Tp, out.values + at, options.relu);
}

template <typename T, typename F = Arithmetic<T>>
static void prepare_words(const Sizes& s, Stored<T> words, const bool* mask, int64_t image, const Memory<F>& out) {
  const int64_t Dp = round_up(s.D, kLanes<F>);
  find_slots(s, mask, image, out);
  pack_words(s, words, image, out);
  transpose(out.words, Dp, out.Tp, Dp, out.words_t, out.Tp);
}

// Rows that one task makes, each of so many multiply-adds: whole blocks, and enough to be worth a task and to read the other
// factor for.
KVMEM_INLINE int64_t rows_of_task(int64_t multiply_adds, int64_t block) {
  constexpr int64_t work = 1 << 18, least = 4 * kRows;
  return round_up(larger(least, work / larger(1, multiply_adds)), block);
}

// body(image, first row, last row) for all rows of so many images; the same rows of all images follow one another, so that
// their weights are in the caches.
template <typename Body>
static void for_each_rows(const Parallel& parallel, int64_t images, int64_t rows, int64_t multiply_adds, int64_t block,
                          const Body& body) {
  const int64_t size = rows_of_task(multiply_adds, block), tasks = (rows + size - 1) / size;
  for_each(parallel, images * tasks, [&](int64_t task, int64_t) {
    const int64_t first = task / larger(1, images) * size;
    body(task % images, first, smaller(rows, first + size));
  });
}

// Whether an image's memory is little enough work to be one task.
KVMEM_INLINE bool small_memory(const Sizes& s) {
  return rows_of_task(s.M * s.T, kRows) >= s.C && rows_of_task(s.C, kRows) >= s.M;
}

// What doesn't wait for the images' means, of so many images from `begin` on; memory_at(image) says where.
template <typename T, typename MemoryAt, typename F = Arithmetic<T>>
static void prepare_memories(const Sizes& s, const Options& options, const Weights<F>& w, Stored<T> words,
                             const bool* mask, const Parallel& parallel, int64_t begin, int64_t images,
                             const MemoryAt& memory_at) {
  for_each(parallel, images, [&](int64_t i, int64_t) { prepare_words(s, words, mask, begin + i, memory_at(begin + i)); });
  for_each_rows(parallel, images, s.M, s.T * s.D, kRows, [&](int64_t i, int64_t first, int64_t last) {
    write_words(s, options, w, first, last, memory_at(begin + i));
  });
}

// The rest of so many images' memories, once the words' part is there: make_mean(i) makes the i-th one's mean, which is then
// at mean_at(i); keep(i) comes last. Small memories are a task each; large ones are made row by row by all threads.
template <typename F, typename MakeMean, typename MeanAt, typename MemoryAt, typename Keep>
static void finish_memories(const Sizes& s, const Options& options, const Weights<F>& w, const Parallel& parallel,
                            int64_t images, const MakeMean& make_mean, const MeanAt& mean_at, const MemoryAt& memory_at,
                            const Keep& keep) {
  const bool small = small_memory(s);
  const auto complete = [&](int64_t i) {
    fill_tables(s, w, memory_at(i));
    write_response(s, w, memory_at(i));
    keep(i);
  };
  for_each(parallel, images, [&](int64_t i, int64_t) {
    make_mean(i);
    const Memory<F> memory = memory_at(i);
    write_gate(s, options, w, mean_at(i), memory);
    if (!small) return;
    write_memory(s, options, w, 0, s.M, mean_at(i), memory);
    read_out_memory(s, options, w, 0, s.C, memory);
    complete(i);
  });
  if (small) return;
  for_each_rows(parallel, images, s.M, s.C, kRows, [&](int64_t i, int64_t first, int64_t last) {
    write_memory(s, options, w, first, last, mean_at(i), memory_at(i));
  });
  for_each_rows(parallel, images, s.C, s.M * s.T, kRows, [&](int64_t i, int64_t first, int64_t last) {
    read_out_memory(s, options, w, first, last, memory_at(i));
  });
  for_each(parallel, images, [&](int64_t i, int64_t) { complete(i); });
}

// One of the tables (C, Tp) from what is given (B, T, C): what stands in a slot that holds nothing doesn't matter. The padding
// columns may hold anything: nothing that is made of them is read.
template <typename T, typename F = Arithmetic<T>>
static void take_slots(const Sizes& s, const T* given, int64_t image, const Memory<F>& memory, F* table) {
  const int64_t slots = memory.slots[0];
  for (int64_t c = 0; c < s.C; ++c) {
    F* row = table + c * memory.Tp;
    for (int64_t i = 0; i < slots; ++i) {
      row[i] = to_arithmetic(given[(image * s.T + memory.slots[1 + i]) * s.C + c]);
    }
  }
}

template <typename T, typename F = Arithmetic<T>>
static void take_stored_slots(const Sizes& s, Stored<T> given, int64_t image, const Memory<F>& memory, F* table) {
  if (given.wide) {
    take_slots(s, static_cast<const F*>(given.data), image, memory, table);
  } else {
    take_slots(s, static_cast<const T*>(given.data), image, memory, table);
  }
}

// A memory that is given, of one image.
template <typename T, typename F = Arithmetic<T>>
static void take_given_memory(const Sizes& s, const Weights<F>& w, Stored<T> keys, Stored<T> values, const bool* mask,
                              int64_t image, const Memory<F>& out) {
  find_slots(s, mask, image, out);
  take_stored_slots(s, keys, image, out, out.keys);
  take_stored_slots(s, values, image, out, out.values);
  fill_tables(s, w, out);
  write_response(s, w, out);
}

}  // namespace kvmem::cpu::KVMEM_ISA
