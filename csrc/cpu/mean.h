// r = mean_n h_n (C): the image's part in memory writing.
#pragma once

#include "tile.h"

namespace kvmem::cpu::KVMEM_ISA {

// Positions whose sum is taken in the arithmetic's type; such sums are added in float64.
constexpr int64_t kSummed = 1024;

template <typename T, typename F = Arithmetic<T>>
static double sum_positions(const T* row, int64_t n) {
  Vector<F> lanes[4] = {};
  F rest = 0;
  int64_t i = 0;
  for (; i + 4 * kLanes<F> <= n; i += 4 * kLanes<F>) {
    for (int part = 0; part < 4; ++part) lanes[part] += load_vector(row + i + part * kLanes<F>);
  }
  for (; i < n; ++i) rest += to_arithmetic(row[i]);
  return static_cast<double>(sum_lanes<F>((lanes[0] + lanes[1]) + (lanes[2] + lanes[3]))) + rest;
}

// Contiguous images, whose channels lie in one piece: sums[c] for channels [first, last).
template <typename T>
static void sum_channels(Plane<const T> image, int64_t first, int64_t last, double* sums) {
  for (int64_t c = first; c < last; ++c) {
    sums[c] = 0;
    for (int64_t n = 0; n < image.N; n += kSummed) {
      sums[c] += sum_positions(image.data + c * image.N + n, smaller(kSummed, image.N - n));
    }
  }
}

// channels_last images: sums[c] over the positions of one chunk. `row` is scratch (C).
template <typename T, typename F = Arithmetic<T>>
static void sum_chunk(Plane<const T> image, int64_t start, int64_t end, double* sums, F* row) {
  for (int64_t c = 0; c < image.C; ++c) sums[c] = 0;
  for (int64_t first = start; first < end; first += kTile) {
    for (int64_t c = 0; c < image.C; ++c) row[c] = F(0);
    for (int64_t n = first; n < smaller(end, first + kTile); ++n) {
      const T* position = image.data + n * image.C;
      int64_t c = 0;
      for (; c + kLanes<F> <= image.C; c += kLanes<F>) store<F>(row + c, load<F>(row + c) + load_vector(position + c));
      for (; c < image.C; ++c) row[c] += to_arithmetic(position[c]);
    }
    for (int64_t c = 0; c < image.C; ++c) sums[c] += row[c];
  }
}

// From the sums (chunks, C) of one image.
template <typename F>
static void mean_of_chunks(const double* sums, int64_t chunks, int64_t C, int64_t N, F* mean) {
  for (int64_t c = 0; c < C; ++c) {
    double sum = 0;
    for (int64_t chunk = 0; chunk < chunks; ++chunk) sum += sums[chunk * C + c];
    mean[c] = static_cast<F>(sum / static_cast<double>(N));
  }
}

}  // namespace kvmem::cpu::KVMEM_ISA
