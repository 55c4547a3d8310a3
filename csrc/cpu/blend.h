// The products that make an image: out = what is kept of x + A B, handed from registers to where out lies.
#pragma once

#include "gemm.h"
#include "stage.h"

namespace kvmem::cpu::KVMEM_ISA {

// How much of x is kept beside the product: (1 - γ) x, or nothing without a gate. Forward with a vector gate, the product
// is multiplied by γ as well; a scalar γ is in its factors already.
template <typename F>
struct Gate {
  const F* rest;  // 1 - γ (rows, kTile), null: nothing is kept
  int64_t rows;   // 1 or C
  bool scales;
};

// 1 - γ in γ's place.
template <typename F>
static void turn_gate(F* gate, int64_t rows) {
  for (int64_t i = 0; i < rows * kTile; i += kLanes<F>) store<F>(gate + i, F(1) - load<F>(gate + i));
}

// A table (depth, width) whose columns meet the tile's columns of scores (depth, kTile), both down; depth in elements.
template <typename E>
struct Factors {
  const E *table, *scores;
  int64_t width, depth;
};

// Where a tile of the result goes, and whether past the caches.
template <typename T>
struct Target {
  Plane<T> image;
  int64_t start, count;
  bool streamed;
};

// Whether the tile can go there from registers: whole aligned vectors where it goes past the caches, else whole vectors.
template <typename E, typename T>
static bool fits_directly(const Target<T>& out) {
  const bool whole = out.image.channels_last ? out.image.C % kAcross<E> == 0 : out.count == kTile;
  return whole && (!out.streamed || is_aligned(out.image, out.start));
}

// A tile from a packed buffer (Cp, kTile); `positions` is scratch (kTile, Cp), for channels_last images.
template <typename T, typename F>
static void write_tile(const F* channels, const Target<T>& out, F* positions) {
  const int64_t C = out.image.C, N = out.image.N;
  if (out.image.channels_last) {
    const int64_t Cp = round_up(C, kLanes<F>);
    transpose(channels, kTile, Cp, kTile, positions, Cp);
    for (int64_t n = 0; n < out.count; ++n) write_row(positions + n * Cp, C, out.image.data + (out.start + n) * C);
    return;
  }
  for (int64_t c = 0; c < C; ++c) {
    T* row = out.image.data + c * N + out.start;
    if (sizeof(T) == sizeof(F) && out.streamed) {
      stream_row(channels + c * kTile, out.count, reinterpret_cast<F*>(row));
    } else {
      write_row(channels + c * kTile, out.count, row);
    }
  }
}

#ifdef KVMEM_PAIRS
template <bool streamed, int columns>
KVMEM_INLINE void store_rounded(bfloat16* p, const Vector<float> (&row)[columns]) {
#pragma GCC unroll 8
  for (int j = 0; j + 1 < columns; j += 2) {
    const __m512i rounded = round_two(row[j], row[j + 1]);
    if constexpr (streamed) {
      _mm512_stream_si512(reinterpret_cast<__m512i*>(p + j * 16), rounded);
    } else {
      _mm512_storeu_si512(p + j * 16, rounded);
    }
  }
  if (columns % 2) store_vector(p + (columns - 1) * 16, row[columns - 1]);
}
#endif

template <bool streamed, typename E, typename T, typename F, int columns>
KVMEM_INLINE void store_row(T* p, const Vector<F> (&row)[columns]) {
  if constexpr (kNumbers<E> * sizeof(T) == sizeof(E) && kNumbers<E> > 1) {
    store_rounded<streamed>(p, row);
  } else {
#pragma GCC unroll 8
    for (int j = 0; j < columns; ++j) {
      if constexpr (streamed) {
        stream<F>(p + j * kLanes<F>, row[j]);
      } else {
        store_vector(p + j * kLanes<F>, row[j]);
      }
    }
  }
}

// A whole tile of a contiguous image, with no gate or a scalar one; x elements down (elements(C), kTile).
template <bool gated, bool streamed, typename T, typename E, typename F = NumberOf<E>>
static void blend_channels(const Factors<E>& f, const F* rest, const E* x, const Target<T>& out, Beside* beside) {
  const int64_t C = out.image.C, N = out.image.N;
  T* data = out.image.data + out.start;
  const auto begin = [=](int64_t c, int64_t n) {
    if constexpr (gated) return load<F>(rest + n) * numbers_at(x, c, kTile, n);
    return Vector<F>{};
  };
  const auto end = [=](int64_t c, int64_t n, const auto& sums) { store_row<streamed, E, T, F>(data + c * N + n, sums); };
  product(C, kTile, f.depth, {f.table, 1, f.width}, f.scores, kTile, beside, begin, end);
}

// A tile of a channels_last image of whole vectors of channels, with no gate or a scalar one; x as the image lies.
template <bool gated, bool streamed, typename T, typename E, typename F = NumberOf<E>>
static void blend_positions(const Factors<E>& f, const F* rest, Plane<const T> image, const Target<T>& out,
                            Beside* beside) {
  const int64_t C = out.image.C;
  const T* x = image.data + out.start * C;
  T* data = out.image.data + out.start * C;
  const auto begin = [=](int64_t n, int64_t c) {
    if constexpr (gated) return rest[n] * load_vector(x + n * C + c);
    return Vector<F>{};
  };
  const auto end = [=](int64_t n, int64_t c, const auto& sums) { store_row<streamed, E, T, F>(data + n * C + c, sums); };
  product(out.count, C, f.depth, {f.scores, 1, kTile}, f.table, f.width, beside, begin, end);
}

// Any tile, by way of a buffer of numbers (Cp, kTile); `positions` is another, (kTile, Cp).
template <typename T, typename E, typename F = NumberOf<E>>
static void blend_in_buffer(const Factors<E>& f, Gate<F> gate, const E* x, const Target<T>& out, F* buffer, F* positions,
                            Beside* beside) {
  const int64_t C = out.image.C;
  gemm<E>(C, kTile, f.depth, {f.table, 1, f.width}, f.scores, kTile, buffer, kTile, false, beside);
  for (int64_t c = 0; c < C && gate.rest; ++c) {
    const F* rest = gate.rest + (gate.rows > 1 ? c * kTile : 0);
    for (int64_t n = 0; n < kTile; n += kLanes<F>) {
      const Vector<F> kept = load<F>(rest + n), sum = load<F>(buffer + c * kTile + n);
      const Vector<F> scaled = gate.scales ? (F(1) - kept) * sum : sum;
      store<F>(buffer + c * kTile + n, kept * numbers_at(x, c, kTile, n) + scaled);
    }
  }
  write_tile(buffer, out, positions);
}

template <bool gated, bool streamed, typename T, typename E, typename F = NumberOf<E>>
static void blend_directly(const Factors<E>& f, const F* rest, Plane<const T> image, const E* x, const Target<T>& out,
                           Beside* beside) {
  if (out.image.channels_last) {
    blend_positions<gated, streamed>(f, rest, image, out, beside);
  } else {
    blend_channels<gated, streamed>(f, rest, x, out, beside);
  }
}

// A tile of a contiguous image by way of a packed buffer (Cp, kTile): a part of one, or one whose rows begin anywhere.
template <bool gated, typename T, typename E, typename F = NumberOf<E>>
static void blend_packed(const Factors<E>& f, const F* rest, const E* x, const Target<T>& out, F* buffer,
                         Beside* beside) {
  const Plane<F> packed{buffer, out.image.C, kTile, false};
  blend_channels<gated, false>(f, rest, x, Target<F>{packed, 0, kTile, false}, beside);
  write_tile<T, F>(buffer, out, nullptr);
}

// out = what the gate keeps of `image`, whose tile lies in x, + A B.
template <typename T, typename E, typename F = NumberOf<E>>
static void blend(const Factors<E>& f, Gate<F> gate, Plane<const T> image, const E* x, Target<T> out, F* buffer,
                  F* positions, Beside* beside) {
  // Past the caches go whole vectors: numbers of 16 bits where pairs are written, and rows that begin anywhere by a buffer.
  constexpr bool streams = sizeof(T) * kNumbers<E> == sizeof(F);
  const bool by_buffer = sizeof(T) == sizeof(F) && !out.image.channels_last;
  out.streamed = out.streamed && streams && (by_buffer || is_aligned(out.image, out.start));
  const bool simple = gate.rows <= 1 && f.depth <= kDepth;
  if (simple && !out.image.channels_last && !fits_directly<E>(out)) {
    if (gate.rest) return blend_packed<true>(f, gate.rest, x, out, buffer, beside);
    return blend_packed<false>(f, gate.rest, x, out, buffer, beside);
  }
  if (!simple || !fits_directly<E>(out)) return blend_in_buffer(f, gate, x, out, buffer, positions, beside);
  if constexpr (streams) {
    if (out.streamed && gate.rest) return blend_directly<true, true>(f, gate.rest, image, x, out, beside);
    if (out.streamed) return blend_directly<false, true>(f, gate.rest, image, x, out, beside);
  }
  if (gate.rest) return blend_directly<true, false>(f, gate.rest, image, x, out, beside);
  blend_directly<false, false>(f, gate.rest, image, x, out, beside);
}

}  // namespace kvmem::cpu::KVMEM_ISA
