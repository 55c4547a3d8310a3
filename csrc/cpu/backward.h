// The backward pass: the memory as forward kept it, the pixel pass, the memory's gradients, the mean's part of dh, the parameters'.
#pragma once

#include "forward.h"
#include "pixel_backward.h"
#include "weight_gradients.h"

namespace kvmem::cpu::KVMEM_ISA {

template <typename F>
struct BackwardWorkspace {
  Weights<F> weights;
  F* means;      // (B, Cp)
  char* states;  // an ImageState an image
  size_t state_bytes;
  char* tables;  // a TableGradients a chunk of a group's images
  size_t table_bytes;
  char* scratch;
  size_t scratch_bytes;
};

template <typename T, typename F = Arithmetic<T>>
static size_t backward_scratch_bytes(const Sizes& s) {
  Arena pixels{nullptr}, pairs{nullptr}, rows{nullptr};
  take_backward_scratch<F>(s, pixels);
  take_backward_scratch<typename ProductOf<T>::type>(s, pairs);
  rows.take<F>(kRowsOfTask * round_up(larger(larger(s.D, s.M), 2 * round_up(s.C, kLanes<F>)), kLanes<F>));
  return larger(rows.used, larger(pixels.used, pairs.used));
}

template <typename F>
static size_t tables_of_image(const Sizes& s, const BackwardWorkspace<F>& w) {
  return chunks_of(s).count * w.table_bytes;
}

template <typename T, typename F = Arithmetic<T>>
static BackwardWorkspace<F> take_backward_workspace(const BackwardArguments& a, Arena& arena) {
  const Sizes& s = a.sizes;
  Arena state{nullptr}, tables{nullptr};
  take_memory<F>(s, state);
  take_memory_gradients<F>(s, state);
  take_table_gradients<F>(s, tables);
  BackwardWorkspace<F> w;
  w.weights = prepare_weights<T>(s, a.inputs, a.wide_weights, arena);
  w.means = arena.take<F>(s.B * round_up(s.C, kLanes<F>));
  w.state_bytes = state.used;
  w.states = arena.take<char>(s.B * w.state_bytes);
  w.table_bytes = tables.used;
  const bool whole = image_by_image(s, sizeof(T), a.parallel.threads);
  w.tables = arena.take<char>((whole ? a.parallel.threads : group_size(s, sizeof(T))) * tables_of_image(s, w));
  w.scratch_bytes = backward_scratch_bytes<T>(s);
  w.scratch = arena.take<char>(a.parallel.threads * w.scratch_bytes);
  return w;
}

KVMEM_INLINE bool wants_image(const BackwardArguments& a) { return a.gradients[kImage] != nullptr; }

// Whether anything needs the sums over positions: a parameter, the words, keys or values, or the image by its mean.
KVMEM_INLINE bool wants_memory(const BackwardArguments& a) {
  for (int input = kWords; input < kAllInputs; ++input) {
    if (a.gradients[input]) return true;
  }
  return wants_image(a) && !a.options.detach_mean;
}

template <typename F>
static TableGradients<F> tables_at(const Sizes& s, const BackwardWorkspace<F>& w, int64_t index) {
  Arena arena{w.tables + index * w.table_bytes};
  return take_table_gradients<F>(s, arena);
}

template <typename T, typename F = Arithmetic<T>>
static void take_memories(const BackwardArguments& a, const BackwardWorkspace<F>& w, int64_t first, int64_t images) {
  const Sizes& s = a.sizes;
  const auto memory_of = [&](int64_t image) { return state_at<F>(s, w.states, w.state_bytes, image).memory; };
  if (a.options.given) {
    take_given_memories<T>(a, w.weights, first, images, memory_of);
    return;
  }
  const int64_t Cp = round_up(s.C, kLanes<F>);
  for_each(a.parallel, images, [&](int64_t i, int64_t) {
    const int64_t image = first + i;
    const Memory<F> memory = memory_of(image);
    read_row(static_cast<const F*>(a.mean) + image * s.C, s.C, w.means + image * Cp, Cp);
    find_slots(s, a.mask, image, memory);
    pack_words(s, Stored<T>{a.inputs[kWords], a.wide_words}, image, memory);
    take_kept_memory(s, w.weights, static_cast<const F*>(a.memory) + image * kept_memory(s), memory);
  });
}

// Of h and of dout.
template <typename T, typename E>
static void begin_both(ReadAhead<T, E, 2>& ahead, int64_t start, int64_t end, const BackwardScratch<E>& x, int turn,
                       bool positions) {
  const auto wanted = [&](Layouts<E> layouts) {
    if (!positions) layouts.positions = nullptr;
    return layouts;
  };
  begin(ahead.stages[0], start, end, wanted(x.images[turn]));
  begin(ahead.stages[1], start, end, wanted(x.grads_out[turn]));
  ahead.work = 0;
}

// The images of one call's tensors, of one image.
template <typename T>
struct BackwardPlanes {
  Plane<const T> h, dout;
  Plane<T> dh;  // its data is null where dh isn't wanted
};

template <typename T>
static BackwardPlanes<T> planes_of(const BackwardArguments& a, int64_t image) {
  const auto at = [&]<typename U>(U* tensor) { return plane(tensor, a.sizes, a.channels_last, image); };
  auto* dh = static_cast<T*>(a.gradients[kImage]);
  return {at(static_cast<const T*>(a.inputs[kImage])), at(static_cast<const T*>(a.grad_out)), dh ? at(dh) : Plane<T>{}};
}

// What this thread most likely works on after this chunk: the next one, or the next image's first.
template <typename T>
static void ask_for_next_chunk(const BackwardArguments& a, int64_t image, int64_t end, int64_t size, Beside& beside) {
  const bool last = end == a.sizes.N;
  if (last && image + 1 == a.sizes.B) return;
  const auto next = planes_of<T>(a, image + last);
  const int64_t start = last ? 0 : end, stop = smaller(a.sizes.N, start + size);
  beside.rows[0] = rows_of(next.h, start, stop);
  beside.rows[1] = rows_of(next.dout, start, stop);
  if (next.dh.data) beside.rows[2] = rows_of(next.dh, start, stop);
}

template <typename T, typename E, typename F = NumberOf<E>>
static void backward_chunk(const BackwardArguments& a, const BackwardWorkspace<F>& w, int64_t image, int64_t chunk,
                           const TableGradients<F>& tables, BackwardScratch<E> x) {
  const Sizes& s = a.sizes;
  const bool memory_wanted = wants_memory(a);
  const Memory<F> memory = state_at<F>(s, w.states, w.state_bytes, image).memory;
  const BackwardPlanes<T> planes = planes_of<T>(a, image);
  const T* grad_attention = static_cast<const T*>(a.grad_attention);
  if (grad_attention) grad_attention += image * s.T * s.N;
  const int64_t slots = memory.slots[0], size = chunks_of(s).size, end = smaller(s.N, (chunk + 1) * size);
  if (memory_wanted) zero_table_gradients(s, slots, tables);
  const int64_t products = elements<E>((5 * slots + 3 * s.R) * s.C) * (kTile / kLanes<F>);
  ReadAhead<T, E, 2> ahead{{read_ahead<T, E, 2>}, {{planes.h}, {planes.dout}}, products};
  ask_for_next_chunk<T>(a, image, end, size, ahead);
  int turn = 0;
  begin_both(ahead, chunk * size, end, x, turn, memory_wanted);
  for (int64_t start = chunk * size; start < end; start += kTile) {
    for (Stage<T, E>& stage : ahead.stages) finish(stage);
    const int64_t count = ahead.stages[0].count;
    x.h = x.images[turn];
    x.dout = x.grads_out[turn];
    turn ^= 1;
    x.beside = nullptr;
    if (start + kTile < end) {
      begin_both(ahead, start + kTile, end, x, turn, memory_wanted);
      x.beside = &ahead;
    }
    backward_tile(s, memory, w.weights.response_gate_bias, grad_attention, start, count, x);
    if (memory_wanted) add_tables(s, slots, x, tables);
    if (planes.dh.data) image_gradient<T>(s, memory, planes.dout, {planes.dh, start, count, false}, x);
  }
}

// dh += dr / N, the gradient through the mean, over one chunk.
template <typename T, typename F = Arithmetic<T>>
static void add_mean_gradient(Plane<T> dh, const F* mean_gradient, int64_t start, int64_t end) {
  const F scale = F(1) / static_cast<F>(dh.N);
  if (!dh.channels_last) {
    for (int64_t c = 0; c < dh.C; ++c) {
      T* channel = dh.data + c * dh.N;
      const F part = mean_gradient[c] * scale;
      int64_t n = start;
      for (; n + kLanes<F> <= end; n += kLanes<F>) store_vector(channel + n, load_vector(channel + n) + part);
      for (; n < end; ++n) channel[n] = from_arithmetic<T>(to_arithmetic(channel[n]) + part);
    }
    return;
  }
  for (int64_t n = start; n < end; ++n) {
    T* position = dh.data + n * dh.C;
    int64_t c = 0;
    for (; c + kLanes<F> <= dh.C; c += kLanes<F>) {
      store_vector(position + c, load_vector(position + c) + load<F>(mean_gradient + c) * scale);
    }
    for (; c < dh.C; ++c) position[c] = from_arithmetic<T>(to_arithmetic(position[c]) + mean_gradient[c] * scale);
  }
}

// Rows of the packed slots (slots, width), padded to whole vectors, as one image's part (T, width) of a gradient of the
// caller's, where that is wanted: masked slots get zeros.
template <typename T, typename F = Arithmetic<T>>
static void write_slots_gradient(const Sizes& s, const Memory<F>& memory, const F* rows, int64_t width, void* gradient,
                                 bool wide, int64_t image) {
  if (!gradient) return;
  const int64_t pitch = round_up(width, kLanes<F>), bytes = wide ? sizeof(F) : sizeof(T);
  int64_t packed = 0;
  for (int64_t t = 0; t < s.T; ++t) {
    const int64_t at = (image * s.T + t) * width;
    if (packed < memory.slots[0] && memory.slots[1 + packed] == t) {
      write_stored<T>(rows + packed * pitch, width, gradient, wide, at);
      ++packed;
    } else {
      memset(static_cast<char*>(gradient) + at * bytes, 0, width * bytes);
    }
  }
}

// From the sums over the positions of so many images to the means. Small memories are a task each; large ones are gone
// through feature by feature by all threads.
template <typename F>
static void means_backward(const BackwardArguments& a, const BackwardWorkspace<F>& w, int64_t first, int64_t images) {
  const Sizes& s = a.sizes;
  const Chunks chunks = chunks_of(s);
  const bool small = small_memory(s);
  const auto state_of = [&](int64_t i) { return state_at<F>(s, w.states, w.state_bytes, first + i); };
  for_each(a.parallel, images, [&](int64_t i, int64_t) {
    const ImageState<F> state = state_of(i);
    sum_tables(s, state.memory.slots[0], tables_at(s, w, i * chunks.count), w.table_bytes, chunks.count,
               state.gradients.tables);
    if (a.options.given) return;
    keys_and_values_backward(s, a.options, w.weights, state.memory, state.gradients);
    if (!small) return;
    memory_gradient(s, w.weights, state.memory, 0, s.M, state.gradients);
    mean_backward(s, a.options, w.weights, state.memory, state.gradients);
  });
  if (a.options.given || small) return;
  for_each_rows(a.parallel, images, s.M, 2 * s.C * s.T, kColumns * kLanes<F>, [&](int64_t i, int64_t from, int64_t to) {
    const ImageState<F> state = state_of(i);
    memory_gradient(s, w.weights, state.memory, from, to, state.gradients);
  });
  for_each(a.parallel, images, [&](int64_t i, int64_t) {
    const ImageState<F> state = state_of(i);
    mean_backward(s, a.options, w.weights, state.memory, state.gradients);
  });
}

// The means' part of a group's dh.
template <typename T, typename F = Arithmetic<T>>
static void add_means(const BackwardArguments& a, const BackwardWorkspace<F>& w, int64_t first, int64_t images) {
  const Sizes& s = a.sizes;
  const Chunks chunks = chunks_of(s);
  for_each(a.parallel, images * chunks.count, [&](int64_t task, int64_t) {
    const int64_t image = first + task / chunks.count, start = task % chunks.count * chunks.size;
    const auto dh = plane(static_cast<T*>(a.gradients[kImage]), s, a.channels_last, image);
    add_mean_gradient(dh, state_at<F>(s, w.states, w.state_bytes, image).gradients.mean, start,
                      smaller(s.N, start + chunks.size));
  });
}

// Of one image whose memory is given: keys, values, and what the response gate's gradient is a product of.
template <typename T, typename F>
static void given_backward(const BackwardArguments& a, const BackwardWorkspace<F>& w, int64_t image, const Memory<F>& memory,
                           const MemoryGradients<F>& g) {
  const Sizes& s = a.sizes;
  given_memory_backward(s, w.weights, memory, g);
  write_slots_gradient<T>(s, memory, g.tables.addressing, s.C, a.gradients[kKeys], a.wide_words, image);
  write_slots_gradient<T>(s, memory, g.tables.values, s.C, a.gradients[kValues], a.wide_words, image);
}

// The rest of the memory side of so many images from `first` on.
template <typename T, typename F = Arithmetic<T>>
static void memories_backward(const BackwardArguments& a, const BackwardWorkspace<F>& w, int64_t first, int64_t images) {
  const Sizes& s = a.sizes;
  const auto state_of = [&](int64_t i) { return state_at<F>(s, w.states, w.state_bytes, first + i); };
  if (!a.options.given && a.gradients[kWords]) {
    for_each_rows(a.parallel, images, s.D, (s.M + s.G) * s.T, kColumns * kLanes<F>,
                  [&](int64_t i, int64_t from, int64_t to) {
                    const ImageState<F> state = state_of(i);
                    words_backward(s, w.weights, state.memory, from, to, state.gradients);
                  });
  }
  for_each(a.parallel, images, [&](int64_t i, int64_t) {
    const ImageState<F> state = state_of(i);
    if (a.options.given) return given_backward<T>(a, w, first + i, state.memory, state.gradients);
    turn_factors(s, state.memory, state.gradients);
    write_slots_gradient<T>(s, state.memory, state.gradients.words, s.D, a.gradients[kWords], a.wide_words, first + i);
  });
}

template <typename T, typename F = Arithmetic<T>>
static void backward_group(const BackwardArguments& a, const BackwardWorkspace<F>& w, int64_t first, int64_t images) {
  const Sizes& s = a.sizes;
  const int64_t chunks = chunks_of(s).count;
  const auto pixels = [&]<typename E>() {
    for_each(a.parallel, images * chunks, [&](int64_t task, int64_t thread) {
      Arena arena{w.scratch + thread * w.scratch_bytes};
      backward_chunk<T, E>(a, w, first + task / chunks, task % chunks, tables_at(s, w, task),
                           take_backward_scratch<E>(s, arena));
    });
  };
  if (s.R > 1) {
    pixels.template operator()<F>();
  } else {
    pixels.template operator()<typename ProductOf<T>::type>();
  }
  if (!wants_memory(a)) return;
  means_backward(a, w, first, images);
  if (wants_image(a) && !a.options.detach_mean) add_means<T>(a, w, first, images);
}

// All of so many images from `first` on but the parameters' gradients, in groups of `group`.
template <typename T, typename F = Arithmetic<T>>
static void backward_images(const BackwardArguments& a, const BackwardWorkspace<F>& w, int64_t first, int64_t images,
                            int64_t group) {
  take_memories<T>(a, w, first, images);
  for (int64_t at = first; at < first + images; at += group) {
    backward_group<T>(a, w, at, smaller(group, first + images - at));
  }
  if (wants_memory(a)) memories_backward<T>(a, w, first, images);
}

template <typename T, typename F = Arithmetic<T>>
static void backward_typed(const BackwardArguments& a) {
  Arena arena{static_cast<char*>(a.workspace)};
  const BackwardWorkspace<F> workspace = take_backward_workspace<T>(a, arena);
  if (image_by_image(a.sizes, sizeof(T), a.parallel.threads)) {
    BackwardArguments own = a;
    own.parallel = alone();
    for_each(a.parallel, a.sizes.B, [&](int64_t image, int64_t thread) {
      BackwardWorkspace<F> w = workspace;
      w.tables += thread * tables_of_image(a.sizes, w);
      w.scratch += thread * w.scratch_bytes;
      backward_images<T>(own, w, image, 1, 1);
    });
  } else {
    backward_images<T>(a, workspace, 0, a.sizes.B, group_size(a.sizes, sizeof(T)));
  }
  if (!wants_memory(a)) return;
  const WeightGradientInputs<F> inputs{a.sizes,         workspace.states,
                                       workspace.state_bytes, workspace.means,
                                       reinterpret_cast<F*>(workspace.scratch), workspace.scratch_bytes};
  weight_gradients<T>(inputs, a.gradients, a.wide_weights, a.parallel);
}

template <typename T>
static size_t backward_workspace_typed(const BackwardArguments& a) {
  Arena measure{nullptr};
  take_backward_workspace<T>(a, measure);
  return measure.used;
}

}  // namespace kvmem::cpu::KVMEM_ISA
