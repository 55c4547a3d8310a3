// A tile: kTile neighbouring positions of one image, brought into the arithmetic's type and into cache.
//
// With N a power of two, the channels of a contiguous image lie a large power of two apart and would fall into the same
// few cache sets; so every tile is read once, row by row, into a small packed buffer, and all arithmetic is done there.
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

// Reads positions [start, start + count) into channel-major and, where wanted, position-major buffers;
// what lies beyond count or C becomes 0. `positions` is scratch in either case.
template <typename T, typename F = Arithmetic<T>>
static void read_tile(Plane<const T> image, int64_t start, int64_t count, F* channels, F* positions,
                      bool want_positions) {
  const int64_t padded = round_up(image.C, kLanes<F>);
  if (image.channels_last) {
    for (int64_t n = 0; n < count; ++n) {
      read_row(image.data + (start + n) * image.C, image.C, positions + n * padded, padded);
    }
    memset(positions + count * padded, 0, sizeof(F) * (kTile - count) * padded);
    transpose(positions, padded, kTile, padded, channels, kTile);
    return;
  }
  for (int64_t c = 0; c < image.C; ++c) read_row(image.data + c * image.N + start, count, channels + c * kTile, kTile);
  memset(channels + image.C * kTile, 0, sizeof(F) * (padded - image.C) * kTile);
  if (want_positions) transpose(channels, kTile, padded, kTile, positions, padded);
}

// What products should ask for while this tile is computed: the next tile of h and, if there is one, of dout.
template <typename T>
static Prefetch prefetch_of(Plane<const T> image, const T* second, int64_t start, int64_t end) {
  const int64_t rows = image.channels_last || start >= end ? 0 : image.C;
  const auto row = [&](const T* data) { return reinterpret_cast<const char*>(data + start); };
  const int64_t size = sizeof(T), count = smaller(kTile, end - start);
  return {{{row(image.data), rows}, {second ? row(second) : nullptr, second ? rows : 0}}, image.N * size, count * size};
}

// A tensor of this size isn't in the caches any more when it is read next: written past them, it needn't be fetched
// before. Near what memcpy takes for the same decision on a processor with 16 MiB of last-level cache a core.
constexpr int64_t kStreamBytes = 12 << 20;

// Whether all rows of the tile are whole aligned vectors of the arithmetic's own type.
template <typename T>
static bool can_stream(Plane<T> image, int64_t start, int64_t count) {
  if (sizeof(T) != sizeof(Arithmetic<T>) || image.channels_last || count % kLanes<Arithmetic<T>> != 0) return false;
  const auto first = reinterpret_cast<uintptr_t>(image.data + start);
  return first % kVectorBytes == 0 && image.N * sizeof(T) % kVectorBytes == 0;
}

template <typename F>
static void stream_tile(const F* channels, Plane<F> image, int64_t start, int64_t count) {
  for (int64_t c = 0; c < image.C; ++c) {
    F* row = image.data + c * image.N + start;
    for (int64_t n = 0; n < count; n += kLanes<F>) stream<F>(row + n, load<F>(channels + c * kTile + n));
  }
}

template <typename T, typename F = Arithmetic<T>>
static void write_tile(const F* channels, Plane<T> image, int64_t start, int64_t count, F* positions) {
  if (!image.channels_last) {
    for (int64_t c = 0; c < image.C; ++c) write_row(channels + c * kTile, count, image.data + c * image.N + start);
    return;
  }
  const int64_t padded = round_up(image.C, kLanes<F>);
  transpose(channels, kTile, padded, kTile, positions, padded);
  for (int64_t n = 0; n < count; ++n) {
    write_row(positions + n * padded, image.C, image.data + (start + n) * image.C);
  }
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
  constexpr int64_t budget = 8 << 20;
  return larger(1, smaller(sizes.B, budget / larger(1, sizes.C * sizes.N * element_bytes)));
}

template <typename Body>
static void for_each(const Parallel& parallel, int64_t count, const Body& body) {
  parallel.run(
      count,
      [](int64_t index, int64_t thread, const void* context) { (*static_cast<const Body*>(context))(index, thread); },
      &body);
}

}  // namespace kvmem::cpu::KVMEM_ISA
