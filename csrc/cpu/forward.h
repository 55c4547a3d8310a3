// The forward pass: mean, memory, then tile by tile addressing, reading and the gated response.
#pragma once

#include "addressing.h"
#include "blend.h"
#include "kept.h"
#include "mean.h"
#include "stage.h"

namespace kvmem::cpu::KVMEM_ISA {

template <typename E, typename F = NumberOf<E>>
struct ForwardScratch {
  Layouts<E> tiles[2];  // h of this tile and of the next
  F *scores, *o, *positions;
  E* factors;           // γ α as elements down
};

template <typename E, typename F = NumberOf<E>>
static ForwardScratch<E> take_forward_scratch(const Sizes& s, Arena& arena) {
  const int64_t Cp = round_up(s.C, kLanes<F>);
  ForwardScratch<E> scratch{};
  for (Layouts<E>& tile : scratch.tiles) tile = take_layouts<E>(s.C, false, arena);
  scratch.scores = arena.take<F>((s.T + s.R) * kTile);
  scratch.o = arena.take<F>(Cp * kTile);
  scratch.positions = arena.take<F>(Cp * kTile);
  scratch.factors = arena.take<E>(kNumbers<E> > 1 ? elements<E>(s.T) * kTile : 0);
  return scratch;
}

template <typename F>
struct ForwardWorkspace {
  Weights<F> weights;
  double* sums;  // (images of a group, chunks, C)
  char* memories;
  size_t memory_bytes;
  int64_t first_memory;  // the image whose memory is the first
  int64_t ahead;         // so many images further on is the one that is read for its mean next
  char* scratch;
  size_t scratch_bytes;
};

template <typename F>
static size_t memory_bytes(const Sizes& s) {
  Arena measure{nullptr};
  take_memory<F>(s, measure);
  return measure.used;
}

KVMEM_INLINE int64_t sums_of_image(const Sizes& s) { return chunks_of(s).count * s.C; }

template <typename T, typename F = Arithmetic<T>>
static ForwardWorkspace<F> take_forward_workspace(const ForwardArguments& a, Arena& arena) {
  Arena measure{nullptr}, pairs{nullptr};
  take_forward_scratch<F>(a.sizes, measure);
  take_forward_scratch<typename ProductOf<T>::type>(a.sizes, pairs);
  const int64_t group = group_size(a.sizes, sizeof(T));
  ForwardWorkspace<F> w;
  w.weights = prepare_weights<T>(a.sizes, a.inputs, a.wide_weights, arena);
  const bool whole = image_by_image(a.sizes, sizeof(T), a.parallel.threads);
  w.sums = arena.take<double>((whole ? a.parallel.threads : group) * sums_of_image(a.sizes));
  w.memory_bytes = memory_bytes<F>(a.sizes);
  w.memories = arena.take<char>((whole ? a.parallel.threads : a.sizes.B) * w.memory_bytes);
  w.first_memory = 0;
  w.ahead = group;
  w.scratch_bytes = larger(measure.used, pairs.used);
  w.scratch = arena.take<char>(a.parallel.threads * w.scratch_bytes);
  return w;
}

template <typename F>
static Memory<F> memory_at(const Sizes& s, const ForwardWorkspace<F>& w, int64_t image) {
  Arena arena{w.memories + (image - w.first_memory) * w.memory_bytes};
  return take_memory<F>(s, arena);
}

// α for the caller, (T, N) of one image: zeros where a slot holds no word.
template <typename T, typename F = Arithmetic<T>>
static void write_attention(const Sizes& s, const Memory<F>& memory, const F* scores, T* attention, int64_t start,
                            int64_t count) {
  int64_t packed = 0;
  for (int64_t t = 0; t < s.T; ++t) {
    T* row = attention + t * s.N + start;
    if (packed < memory.slots[0] && memory.slots[1 + packed] == t) {
      write_row(scores + packed * kTile, count, row);
      ++packed;
    } else {
      memset(static_cast<void*>(row), 0, sizeof(T) * count);
    }
  }
}

// out = (1 - γ) h + γ o of one tile; without a gate, o it is.
template <typename T, typename E, typename F = NumberOf<E>>
static void respond_tile(const Sizes& s, const Memory<F>& memory, Plane<const T> h, const E* channels,
                         const Target<T>& out, const ForwardScratch<E>& x, Beside* beside) {
  const int64_t slots = memory.slots[0];
  F* rest = s.R > 0 ? x.scores + slots * kTile : nullptr;
  if (s.R == 1) scale_tile(x.scores, slots);
  turn_gate(rest, s.R);
  const E* factors = elements_down(x.scores, slots, kTile, kTile, x.factors);
  const Factors<E> read{tables_of<E>(memory).values_down, factors, table_width<F>(s.C), elements<E>(slots)};
  blend<T>(read, Gate<F>{rest, s.R, s.R > 1}, h, channels, out, x.o, x.positions, beside);
}

template <typename T, typename E, typename F = NumberOf<E>>
static void forward_chunk(const ForwardArguments& a, const ForwardWorkspace<F>& w, int64_t image, int64_t chunk,
                          const ForwardScratch<E>& scratch) {
  const Sizes& s = a.sizes;
  const Memory<F> memory = memory_at(s, w, image);
  const int64_t size = chunks_of(s).size, end = smaller(s.N, (chunk + 1) * size), later = image + w.ahead;
  const auto image_at = [&](int64_t i) { return plane(static_cast<const T*>(a.inputs[kImage]), s, a.channels_last, i); };
  const Plane<const T> h = image_at(image);
  const Plane<T> out = plane(static_cast<T*>(a.out), s, a.channels_last, image);
  const bool large = s.B * s.C * s.N * static_cast<int64_t>(sizeof(T)) >= kStreamBytes;
  const int64_t products = elements<E>(2 * memory.slots[0] * s.C) * (kTile / kLanes<F>);
  ReadAhead<T, E, 1> ahead{{read_ahead<T, E, 1>}, {{h}}, products};
  Stage<T, E>& stage = ahead.stages[0];
  // It will be read for its mean: from the last-level cache then.
  if (later < s.B) ahead.rows[0] = rows_of(image_at(later), chunk * size, end);
  int turn = 0;
  begin(stage, chunk * size, end, scratch.tiles[turn]);
  for (int64_t start = chunk * size; start < end; start += kTile) {
    finish(stage);
    const E* channels = stage.to.channels;
    const int64_t count = stage.count;
    turn ^= 1;
    Beside* beside = nullptr;
    if (start + kTile < end) {
      begin(stage, start + kTile, end, scratch.tiles[turn]);
      ahead.work = 0;
      beside = &ahead;
    }
    address_tile(s, memory, w.weights.response_gate_bias, channels, scratch.scores, beside);
    if (a.attention) {
      T* attention = static_cast<T*>(a.attention) + image * s.T * s.N;
      write_attention(s, memory, scratch.scores, attention, start, count);
    }
    respond_tile(s, memory, h, channels, {out, start, count, large}, scratch, beside);
  }
  if (large) finish_streaming();
}

// Into w.sums (images, parts, C); returns parts.
template <typename T, typename F = Arithmetic<T>>
static int64_t sum_group(const ForwardArguments& a, const ForwardWorkspace<F>& w, int64_t first, int64_t images) {
  const Sizes& s = a.sizes;
  const Chunks chunks = chunks_of(s);
  const auto image_at = [&](int64_t i) {
    return plane(static_cast<const T*>(a.inputs[kImage]), s, a.channels_last, first + i);
  };
  if (a.channels_last) {
    for_each(a.parallel, images * chunks.count, [&](int64_t task, int64_t thread) {
      const int64_t start = task % chunks.count * chunks.size;
      F* row = reinterpret_cast<F*>(w.scratch + thread * w.scratch_bytes);
      sum_chunk(image_at(task / chunks.count), start, smaller(s.N, start + chunks.size), w.sums + task * s.C, row);
    });
    return chunks.count;
  }
  constexpr int64_t block = 8;
  const int64_t blocks = (s.C + block - 1) / block;
  for_each(a.parallel, images * blocks, [&](int64_t task, int64_t) {
    const int64_t i = task / blocks, channel = task % blocks * block;
    sum_channels(image_at(i), channel, smaller(s.C, channel + block), w.sums + i * s.C);
  });
  return 1;
}

template <typename T, typename F = Arithmetic<T>>
static void finish_group(const ForwardArguments& a, const ForwardWorkspace<F>& w, int64_t first, int64_t images) {
  const Sizes& s = a.sizes;
  const int64_t parts = sum_group<T>(a, w, first, images);
  const auto mean_at = [&](int64_t i) { return static_cast<F*>(a.mean) + (first + i) * s.C; };
  const auto make_mean = [&](int64_t i) { mean_of_chunks(w.sums + i * parts * s.C, parts, s.C, s.N, mean_at(i)); };
  const auto memory_of = [&](int64_t i) { return memory_at(s, w, first + i); };
  finish_memories(s, a.options, w.weights, a.parallel, images, make_mean, mean_at, memory_of, [&](int64_t i) {
    keep_memory(s, memory_of(i), static_cast<F*>(a.memory) + (first + i) * kept_memory(s));
  });
}

// The memories of so many images from `first` on, where they are given. In whatever direction.
template <typename T, typename Arguments, typename MemoryAt, typename F = Arithmetic<T>>
static void take_given_memories(const Arguments& a, const Weights<F>& weights, int64_t first, int64_t images,
                                const MemoryAt& memory_at) {
  for_each(a.parallel, images, [&](int64_t i, int64_t) {
    take_given_memory(a.sizes, weights, Stored<T>{a.inputs[kKeys], a.wide_words},
                      Stored<T>{a.inputs[kValues], a.wide_words}, a.mask, first + i, memory_at(first + i));
  });
}

template <typename T, typename F = Arithmetic<T>>
static void forward_group(const ForwardArguments& a, const ForwardWorkspace<F>& w, int64_t first, int64_t images) {
  const Sizes& s = a.sizes;
  const int64_t chunks = chunks_of(s).count;
  if (!a.options.given) finish_group<T>(a, w, first, images);
  const auto pixels = [&]<typename E>() {
    for_each(a.parallel, images * chunks, [&](int64_t task, int64_t thread) {
      const int64_t image = first + task / chunks;
      Arena arena{w.scratch + thread * w.scratch_bytes};
      forward_chunk<T, E>(a, w, image, task % chunks, take_forward_scratch<E>(s, arena));
    });
  };
  if (s.R > 1) {
    pixels.template operator()<F>();
  } else {
    pixels.template operator()<typename ProductOf<T>::type>();
  }
}

// Whole images, of words and pixels.
template <typename T, typename F = Arithmetic<T>>
static void forward_images(const ForwardArguments& a, const ForwardWorkspace<F>& w, int64_t first, int64_t images) {
  const auto memory_of = [&](int64_t image) { return memory_at(a.sizes, w, image); };
  if (a.options.given) {
    take_given_memories<T>(a, w.weights, first, images, memory_of);
  } else {
    const Stored<T> words{a.inputs[kWords], a.wide_words};
    prepare_memories(a.sizes, a.options, w.weights, words, a.mask, a.parallel, first, images, memory_of);
  }
  const int64_t group = w.ahead;
  for (int64_t at = first; at < first + images; at += group) {
    forward_group<T>(a, w, at, smaller(group, first + images - at));
  }
}

template <typename T, typename F = Arithmetic<T>>
static void forward_typed(const ForwardArguments& a) {
  Arena arena{static_cast<char*>(a.workspace)};
  const auto workspace = take_forward_workspace<T>(a, arena);
  if (!image_by_image(a.sizes, sizeof(T), a.parallel.threads)) {
    forward_images<T>(a, workspace, 0, a.sizes.B);
    return;
  }
  ForwardArguments own = a;
  own.parallel = alone();
  for_each(a.parallel, a.sizes.B, [&](int64_t image, int64_t thread) {
    ForwardWorkspace<F> w = workspace;
    w.sums += thread * sums_of_image(a.sizes);
    w.memories += thread * w.memory_bytes;
    w.scratch += thread * w.scratch_bytes;
    w.first_memory = image;
    w.ahead = 1;
    forward_images<T>(own, w, image, 1);
  });
}

template <typename T>
static size_t forward_workspace_typed(const ForwardArguments& a) {
  Arena measure{nullptr};
  take_forward_workspace<T>(a, measure);
  return measure.used;
}

}  // namespace kvmem::cpu::KVMEM_ISA
