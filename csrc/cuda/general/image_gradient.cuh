// dh += dr / N: the mean's gradient, the same at every position, added once the whole image's sums are known.
#pragma once

#include "cuda/general/mean.cuh"

namespace kvmem::cuda {

template <typename T>
struct ImageGradientParameters {
  View<T> image;                // dh
  View<const float> gradients;  // (B, gradient_size), dr at `mean`
  int64_t N, chunk;
  int C, chunks, mean, gradient_size;
  float scale;  // 1 / N
  bool channels_last, wide;
};

// v[at + i] += x[i], 16 bytes at a time, or one number.
template <int n, typename T>
KVMEM_DEVICE void add_numbers(View<T> v, int64_t at, const float (&x)[n]) {
  if constexpr (n == 1) {
    v[at] = from_float<T>(to_float(v[at]) + x[0]);
  } else {
    Words4 words = load16(v, at);
    KVMEM_UNROLL
    for (int i = 0; i < 4; ++i) {
      if constexpr (sizeof(T) == 4) {
        words.x[i] = bits_of(float_of(words.x[i]) + x[i]);
      } else {
        const Float2 pair = unpack<T>(words.x[i]);
        words.x[i] = pack<T>(pair.x + x[2 * i], pair.y + x[2 * i + 1]);
      }
    }
    store16(v, at, words);
  }
}

template <int n, typename T>
KVMEM_DEVICE void add_to_lines(const ImageGradientParameters<T>& p, View<T> chunk, int count, View<const float> mean) {
  for (int c = warp(); c < p.C; c += kMeanWarps) {
    float x[n];
    const float number = mean[c] * p.scale;
    KVMEM_UNROLL
    for (int i = 0; i < n; ++i) x[i] = number;
    KVMEM_UNROLL
    for (int i = lane() * n; i < count; i += kWarp * n) add_numbers<n>(chunk, c * p.N + i, x);
  }
}

template <int n, typename T>
KVMEM_DEVICE void add_to_columns(const ImageGradientParameters<T>& p, View<T> chunk, int count,
                                 View<const float> mean) {
  const int width = p.C / n, whole = kMeanThreads / width, rest = kMeanThreads % width;
  int position = thread() / width, place = thread() % width;
  while (position < count) {
    float x[n];
    KVMEM_UNROLL
    for (int i = 0; i < n; ++i) x[i] = mean[place * n + i] * p.scale;
    add_numbers<n>(chunk, int64_t{position} * p.C + place * n, x);
    position += whole;
    place += rest;
    if (place >= width) {
      place -= width;
      ++position;
    }
  }
}

template <typename T>
KVMEM_KERNEL(kMeanThreads, 4) add_mean_gradient(KVMEM_PARAMETER(ImageGradientParameters<T>) p) {
  constexpr int wide = 16 / sizeof(T);
  const int64_t b = block() / p.chunks, start = block() % p.chunks * p.chunk;
  const int count = static_cast<int>(p.N - start < p.chunk ? p.N - start : p.chunk);
  const View<T> chunk = p.image + (b * p.C * p.N + (p.channels_last ? start * p.C : start));
  const View<const float> mean = p.gradients + (b * p.gradient_size + p.mean);
  if (p.channels_last) {
    if (p.wide) {
      add_to_columns<wide>(p, chunk, count, mean);
    } else {
      add_to_columns<1>(p, chunk, count, mean);
    }
  } else if (p.wide) {
    add_to_lines<wide>(p, chunk, count, mean);
  } else {
    add_to_lines<1>(p, chunk, count, mean);
  }
}

// `gradients` (B, gradient_layout.size) holds dr; dh is a.gradients[kImage].
template <typename T>
const char* image_gradient(const BackwardArguments& a, const float* gradients, void* stream) {
  const Sizes& s = a.sizes;
  const GradientLayout layout = gradient_layout(s);
  const int chunks = mean_chunks(s);
  const ImageGradientParameters<T> p{view(static_cast<T*>(a.gradients[kImage]), s.B * s.C * s.N),
                                     view(gradients, s.B * layout.size),
                                     s.N,
                                     mean_chunk(s),
                                     static_cast<int>(s.C),
                                     chunks,
                                     layout.mean,
                                     layout.size,
                                     1.0f / static_cast<float>(s.N),
                                     a.channels_last,
                                     lines_are_wide<T>(s, a.channels_last, a.gradients[kImage])};
  return launch<add_mean_gradient<T>>(Launch{s.B * chunks, kMeanThreads, 1, 0, stream}, p);
}

}  // namespace kvmem::cuda
