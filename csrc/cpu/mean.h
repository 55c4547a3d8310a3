// r = mean_n h_n (C): the image's part in memory writing.
#pragma once

#include "tile.h"

namespace kvmem::cpu::KVMEM_ISA {

// sums[c] = sum of channel c over one chunk. Lanes add at most a chunk's positions each; chunks are added in float64.
template <typename T, typename F = Arithmetic<T>>
static void sum_chunk(Plane<const T> image, int64_t start, int64_t end, double* sums, F* row) {
  if (!image.channels_last) {
    for (int64_t c = 0; c < image.C; ++c) {
      const T* channel = image.data + c * image.N;
      Vector<F> lanes[4] = {};
      F rest = 0;
      int64_t n = start;
      for (; n + 4 * kLanes<F> <= end; n += 4 * kLanes<F>) {
        for (int i = 0; i < 4; ++i) lanes[i] += load_vector(channel + n + i * kLanes<F>);
      }
      for (; n < end; ++n) rest += to_arithmetic(channel[n]);
      sums[c] = static_cast<double>(sum_lanes<F>((lanes[0] + lanes[1]) + (lanes[2] + lanes[3]))) + rest;
    }
    return;
  }
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

template <typename F>
static void mean_of_chunks(const double* sums, int64_t chunks, int64_t C, int64_t N, F* mean) {
  for (int64_t c = 0; c < C; ++c) {
    double sum = 0;
    for (int64_t chunk = 0; chunk < chunks; ++chunk) sum += sums[chunk * C + c];
    mean[c] = static_cast<F>(sum / static_cast<double>(N));
  }
}

}  // namespace kvmem::cpu::KVMEM_ISA
