// r = mean_n h_n (C), its first half: sums over chunks of positions, which memory writing adds up.
#pragma once

#include "cuda/memory/side.cuh"

namespace kvmem::cuda {

constexpr int kMeanThreads = 256;
constexpr int kMeanWarps = kMeanThreads / kWarp;
constexpr int kMeanAtATime = 4;  // loads under way

template <typename T>
struct MeanParameters {
  View<const T> image;
  View<float> sums;  // (B, chunks, C)
  int64_t N, chunk;
  int C, chunks;
  bool channels_last;
  bool wide;  // lines of the image are whole vectors of 16 bytes
};

// Positions of a chunk; an image has at most 128 of them.
inline int64_t mean_chunk(const Sizes& s) { return (s.N + 256 * 128 - 1) / (256 * 128) * 256; }
inline int mean_chunks(const Sizes& s) { return static_cast<int>((s.N + mean_chunk(s) - 1) / mean_chunk(s)); }

template <int n, typename T>
KVMEM_DEVICE float sum_numbers(View<const T> v, int at) {
  float x[n];
  read_numbers<n>(v, at, x);
  KVMEM_UNROLL
  for (int half = n / 2; half > 0; half /= 2) {
    KVMEM_UNROLL
    for (int i = 0; i < half; ++i) x[i] += x[i + half];
  }
  return x[0];
}

// A contiguous image: a warp takes some channels at a time, its lanes the positions. n numbers make an access.
template <int n, typename T>
KVMEM_DEVICE void sum_lines(const MeanParameters<T>& p, View<const T> chunk, int count, View<float> sums) {
  for (int first = warp(); first < p.C; first += kMeanWarps * kMeanAtATime) {
    float x[kMeanAtATime] = {};
    for (int i = lane() * n; i < count; i += kWarp * n) {
      KVMEM_UNROLL
      for (int j = 0; j < kMeanAtATime; ++j) {
        const int c = first + j * kMeanWarps;
        if (c < p.C) x[j] += sum_numbers<n>(chunk + c * p.N, i);
      }
    }
    KVMEM_UNROLL
    for (int j = 0; j < kMeanAtATime; ++j) {
      const int c = first + j * kMeanWarps;
      const float sum = sum_of_warp(x[j]);
      if (lane() == 0 && c < p.C) sums[c] = sum;
    }
  }
}

// A channels_last image: a thread takes n channels at every rows-th position.
template <int n, typename T>
KVMEM_DEVICE void sum_positions(const MeanParameters<T>& p, View<const T> chunk, int count, int row, int rows, int c,
                                float (&x)[n]) {
  float parts[kMeanAtATime][n] = {};
  for (int first = row; first < count; first += rows * kMeanAtATime) {
    KVMEM_UNROLL
    for (int j = 0; j < kMeanAtATime; ++j) {
      const int position = first + j * rows;
      if (position >= count) continue;
      float y[n];
      read_numbers<n>(chunk + int64_t{position} * p.C, c, y);
      KVMEM_UNROLL
      for (int i = 0; i < n; ++i) parts[j][i] += y[i];
    }
  }
  KVMEM_UNROLL
  for (int i = 0; i < n; ++i) x[i] = (parts[0][i] + parts[1][i]) + (parts[2][i] + parts[3][i]);
}

template <int n, typename T>
KVMEM_DEVICE void sum_columns(const MeanParameters<T>& p, View<const T> chunk, int count, View<float> sums) {
  const View<float> parts = shared<float>(0, kMeanThreads * n);
  for (int first = 0; first < p.C; first += kMeanThreads * n) {
    const int channels = p.C - first < kMeanThreads * n ? p.C - first : kMeanThreads * n;
    const int width = channels / n, rows = kMeanThreads / width;
    const int row = thread() / width, c = thread() % width * n;
    if (row < rows) {
      float x[n];
      sum_positions<n>(p, chunk, count, row, rows, first + c, x);
      KVMEM_UNROLL
      for (int i = 0; i < n; ++i) parts[row * channels + c + i] = x[i];
    }
    block_barrier();
    for (int i = thread(); i < channels; i += kMeanThreads) {
      float sum = 0;
      for (int part = 0; part < rows; ++part) sum += parts[part * channels + i];
      sums[first + i] = sum;
    }
    block_barrier();
  }
}

template <typename T>
KVMEM_KERNEL(kMeanThreads, 4) sum_chunks(KVMEM_PARAMETER(MeanParameters<T>) p) {
  constexpr int wide = 16 / sizeof(T);
  const int64_t b = block() / p.chunks, start = block() % p.chunks * p.chunk;
  const int count = static_cast<int>(p.N - start < p.chunk ? p.N - start : p.chunk);
  const View<const T> chunk = p.image + (b * p.C * p.N + (p.channels_last ? start * p.C : start));
  const View<float> sums = p.sums + block() * p.C;
  if (p.channels_last) {
    if (p.wide) {
      sum_columns<wide>(p, chunk, count, sums);
    } else {
      sum_columns<1>(p, chunk, count, sums);
    }
  } else if (p.wide) {
    sum_lines<wide>(p, chunk, count, sums);
  } else {
    sum_lines<1>(p, chunk, count, sums);
  }
}

// Whether all lines of images that start at `p` are whole vectors of 16 bytes.
template <typename T>
bool lines_are_wide(const Sizes& s, bool channels_last, const void* p) {
  return aligned16(p) && (channels_last ? s.C : s.N) * sizeof(T) % 16 == 0;
}

template <typename T>
const char* launch_mean(const ForwardArguments& a, float* sums, void* stream) {
  const Sizes& s = a.sizes;
  const int chunks = mean_chunks(s);
  const bool wide = lines_are_wide<T>(s, a.channels_last, a.inputs[kImage]);
  const MeanParameters<T> p{view(static_cast<const T*>(a.inputs[kImage]), s.B * s.C * s.N),
                            view(sums, s.B * chunks * s.C),
                            s.N,
                            mean_chunk(s),
                            static_cast<int>(s.C),
                            chunks,
                            a.channels_last,
                            wide};
  const int bytes = a.channels_last ? kMeanThreads * (wide ? 16 / sizeof(T) : 1) * sizeof(float) : 0;
  return launch<sum_chunks<T>>(Launch{s.B * chunks, kMeanThreads, 1, bytes, stream}, p);
}

}  // namespace kvmem::cuda
