// A tile: kTile neighbouring positions of one image, read once, row by row, into a packed buffer in the arithmetic's type.
//
// Position-major (kTile, C) is how a channels_last image lies in memory; channel-major (C, kTile) how a contiguous one does.
#pragma once

#include "convert.h"
#include "gemm.h"
#include "kv_memory.h"
#include "transpose.h"

namespace kvmem::cpu::KVMEM_ISA {

constexpr int64_t kTile = 128;
// Work is split into chunks of an image whose number depends on the shape alone, so that sums over positions come in
// the same order, and so to the same bits, whatever the number of threads.
constexpr int64_t kMinimumChunk = 1024;

// An image-like tensor: (C, N), or (N, C) if channels_last.
template <typename T>
struct Plane {
  T* data;
  int64_t C, N;
  bool channels_last;
};

template <typename T>
KVMEM_INLINE Plane<T> plane(T* tensor, const Sizes& sizes, bool channels_last, int64_t image) {
  return {tensor + image * sizes.C * sizes.N, sizes.C, sizes.N, channels_last};
}

// Up to a vector of numbers, the rest 0.
template <typename T, typename F = Arithmetic<T>>
KVMEM_INLINE Vector<F> load_part(const T* p, int64_t count) {
  if (count >= kLanes<F>) return load_vector(p);
  alignas(kVectorBytes) F lanes[kLanes<F>] = {};
  for (int64_t i = 0; i < count; ++i) lanes[i] = to_arithmetic(p[i]);
  return load<F>(lanes);
}

// A tensor of this size isn't in the caches any more when it is read next: written past them, it needn't be fetched
// before. Near what memcpy takes for the same decision on a processor with 16 MiB of last-level cache a core.
constexpr int64_t kStreamBytes = 12 << 20;

// Whether all rows of a tile from `start` on begin at a vector's alignment.
template <typename T>
static bool is_aligned(Plane<T> image, int64_t start) {
  const int64_t pitch = image.channels_last ? image.C : image.N, lanes = kVectorBytes / static_cast<int64_t>(sizeof(T));
  const T* first = image.data + (image.channels_last ? 0 : start);
  return pitch % lanes == 0 && reinterpret_cast<uintptr_t>(first) % kVectorBytes == 0;
}

// Past the caches but for what doesn't fill a line: one that is written half past them and half into them costs both.
template <typename F>
static void stream_row(const F* src, int64_t n, F* dst) {
  constexpr int64_t line = kLine / static_cast<int64_t>(sizeof(F));
  const int64_t until = -reinterpret_cast<uintptr_t>(dst) % kLine / sizeof(F);
  int64_t i = smaller(n, until);
  write_row(src, i, dst);
  for (; i + line <= n; i += line) {
    for (int64_t j = 0; j < line; j += kLanes<F>) stream<F>(dst + i + j, load<F>(src + i + j));
  }
  write_row(src + i, n - i, dst + i);
}

struct Chunks {
  int64_t size, count;
};

// Large tables of sums want large chunks, or summing them up would cost more than the pass itself.
KVMEM_INLINE Chunks chunks_of(const Sizes& sizes) {
  const int64_t wanted = larger(kMinimumChunk, 8 * sizes.T + (sizes.R > 1 ? 8 * sizes.C : 0));
  const int64_t size = round_up(wanted, kTile);
  return {size, (sizes.N + size - 1) / size};
}

// Images go through the kernel in groups that stay in the last-level cache, since each is read twice.
KVMEM_INLINE int64_t group_size(const Sizes& sizes, int64_t element_bytes) {
  constexpr int64_t budget = 4 << 20;
  return larger(1, smaller(sizes.B, budget / larger(1, sizes.C * sizes.N * element_bytes)));
}

// Whether an image is one task from its words to its results: where images are small and as many as keep all threads busy,
// threads are started once for all of them, and an image stays in one core's caches. What the weights of a memory take is read
// anew for every image then, so they must be small, too.
KVMEM_INLINE bool image_by_image(const Sizes& sizes, int64_t element_bytes, int64_t threads) {
  constexpr int64_t image_budget = 1 << 19, weights_budget = 1 << 20;
  const bool balanced = sizes.B % threads == 0 || sizes.B >= 4 * threads;
  const int64_t weights = sizes.M * (sizes.D + 3 * sizes.C) * 4;
  return balanced && sizes.C * sizes.N * element_bytes <= image_budget && weights <= weights_budget;
}

// All tasks by the thread that asks.
static Parallel alone() {
  const auto run = [](int64_t count, Parallel::Body body, const void* context) {
    for (int64_t i = 0; i < count; ++i) body(i, 0, context);
  };
  return {run, 1};
}

template <typename Body>
static void for_each(const Parallel& parallel, int64_t count, const Body& body) {
  parallel.run(
      count,
      [](int64_t index, int64_t thread, const void* context) { (*static_cast<const Body*>(context))(index, thread); },
      &body);
}

}  // namespace kvmem::cpu::KVMEM_ISA
