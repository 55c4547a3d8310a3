// Reading tiles ahead: while the products of one tile run, the next one is brought into a packed buffer, a row or two after
// every block of a product, evenly: what is asked for at once waits for itself.
//
// With N a power of two, the channels of a contiguous image lie a large power of two apart and fall into the same few
// cache sets: a tile that is only prefetched doesn't stay in the second-level cache until it is read. A few rows do.
#pragma once

#include "tile.h"

namespace kvmem::cpu::KVMEM_ISA {

// A tile of an image: channels as products over channels take it, elements down (elements(Cw), kTile), where Cw is the
// table's width; positions as products over positions do, elements down too, (elements(kTile), Cw), or null where they
// aren't wanted. `rows` are the numbers as they lie in a contiguous image, where positions can't be made of channels.
template <typename E>
struct Layouts {
  E *channels, *positions, *rows;
};

template <typename E, typename F = NumberOf<E>>
static Layouts<E> take_layouts(int64_t C, bool positions, Arena& arena) {
  const int64_t width = table_width<F>(C), size = elements<E>(width) * kTile;
  Layouts<E> layouts{arena.take<E>(size), nullptr, nullptr};
  if (positions) layouts.positions = arena.take<E>(size);
  if (positions && kNumbers<E> > 1) layouts.rows = arena.take<E>(size);
  return layouts;
}

// The tile that is being read, of one image. What lies beyond the image is 0.
template <typename T, typename E>
struct Stage {
  Plane<const T> image;
  Layouts<E> to = {};
  int64_t start = 0, count = 0, unit = 0, units = 0;
};

// Numbers of a unit of work: channels of a contiguous image, or positions and channels of a channels_last one.
template <typename E>
constexpr int64_t kAcross = kLanes<NumberOf<E>> * kNumbers<E>;

template <typename T, typename E>
static void begin(Stage<T, E>& stage, int64_t start, int64_t end, const Layouts<E>& to) {
  using F = NumberOf<E>;
  stage.start = start;
  stage.count = smaller(kTile, end - start);
  stage.to = to;
  stage.unit = 0;
  stage.units = stage.image.channels_last ? kTile / kLanes<F> * ((stage.image.C + kAcross<E> - 1) / kAcross<E>)
                                          : elements<E>(stage.image.C);
}

// A few rows ahead of what is read: they come from the last-level cache, where their lines have been asked for before.
template <typename T>
KVMEM_INLINE void prefetch_channel(Plane<const T> image, int64_t channel, int64_t start, int64_t count) {
  if (channel >= image.C) return;
  const char* row = reinterpret_cast<const char*>(image.data + channel * image.N + start);
  for (int64_t byte = 0; byte < count * static_cast<int64_t>(sizeof(T)); byte += kLine) {
    __builtin_prefetch(row + byte, 0, 2);
  }
}
constexpr int64_t kChannelsAhead = 4;

template <typename T, typename F>
static void read_channel(const Stage<T, F>& stage) {
  const Plane<const T>& image = stage.image;
  prefetch_channel(image, stage.unit + kChannelsAhead, stage.start, stage.count);
  const T* row = image.data + stage.unit * image.N + stage.start;
  read_row(row, stage.count, stage.to.channels + stage.unit * kTile, kTile);
}

// A square block of positions and channels, transposed in registers.
template <typename T, typename F>
static void read_positions(const Stage<T, F>& stage) {
  constexpr int lanes = kLanes<F>;
  const Plane<const T>& image = stage.image;
  const int64_t width = table_width<F>(image.C), across = (image.C + lanes - 1) / lanes;
  const int64_t n = stage.unit / across * lanes, c = stage.unit % across * lanes;
  const T* first = image.data + (stage.start + n) * image.C + c;
  Vector<F> block[lanes];
#pragma GCC unroll 16
  for (int i = 0; i < lanes; ++i) {
    block[i] = n + i < stage.count ? load_part(first + i * image.C, image.C - c) : Vector<F>{};
    if (stage.to.positions) store<F>(stage.to.positions + (n + i) * width + c, block[i]);
    if (n + i + 2 * lanes < stage.count) __builtin_prefetch(first + (i + 2 * lanes) * image.C, 0, 2);
  }
  butterfly<F, lanes / 2>(block);
#pragma GCC unroll 16
  for (int i = 0; i < lanes; ++i) store<F>(stage.to.channels + (c + i) * kTile + n, block[i]);
}

#ifdef KVMEM_PAIRS

// Two channels.
static void read_channel(const Stage<bfloat16, Pair>& stage) {
  const Plane<const bfloat16>& image = stage.image;
  const int64_t c = stage.unit * 2;
  prefetch_channel(image, c + kChannelsAhead, stage.start, stage.count);
  prefetch_channel(image, c + 1 + kChannelsAhead, stage.start, stage.count);
  const bfloat16* row = image.data + c * image.N + stage.start;
  Pair* channels = stage.to.channels + stage.unit * kTile;
  Pair* rows = stage.to.rows + c * kTile / 2;
  for (int64_t n = 0; n < kTile; n += 32) {
    const __m512i a = load_part_of_row(row + n, stage.count - n);
    const __m512i b = c + 1 < image.C ? load_part_of_row(row + image.N + n, stage.count - n) : _mm512_setzero_si512();
    __m512i first, last;
    pair_rows(a, b, first, last);
    _mm512_storeu_si512(channels + n, first);
    _mm512_storeu_si512(channels + n + 16, last);
    if (!stage.to.positions) continue;
    _mm512_storeu_si512(rows + n / 2, a);
    _mm512_storeu_si512(rows + (kTile + n) / 2, b);
  }
}

// A square block of positions and pairs of channels.
static void read_positions(const Stage<bfloat16, Pair>& stage) {
  const Plane<const bfloat16>& image = stage.image;
  const int64_t width = table_width<float>(image.C), across = (image.C + 31) / 32;
  const int64_t n = stage.unit / across * 16, c = stage.unit % across * 32;
  const bfloat16* first = image.data + (stage.start + n) * image.C + c;
  Vector<float> block[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) {
    const int64_t count = n + i < stage.count ? image.C - c : 0;
    block[i] = (Vector<float>)(count > 0 ? load_part_of_row(first + i * image.C, count) : _mm512_setzero_si512());
    if (n + i + 32 < stage.count) __builtin_prefetch(first + (i + 32) * image.C, 0, 2);
  }
  for (int i = 0; i < 16 && stage.to.positions; i += 2) {
    Pair* positions = stage.to.positions + (n + i) / 2 * width + c;
    __m512i low, high;
    pair_rows((__m512i)block[i], (__m512i)block[i + 1], low, high);
    _mm512_storeu_si512(positions, low);
    _mm512_storeu_si512(positions + 16, high);
  }
  butterfly<float, 8>(block);
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) _mm512_storeu_si512(stage.to.channels + (c / 2 + i) * kTile + n, (__m512i)block[i]);
}

#endif

// A little of what is left; false where nothing is.
template <typename T, typename E>
static bool read_some(Stage<T, E>& stage) {
  if (stage.unit == stage.units) return false;
  if (stage.image.channels_last) {
    read_positions(stage);
  } else {
    read_channel(stage);
  }
  ++stage.unit;
  return true;
}

// All that is left.
template <typename T, typename E>
static void finish(Stage<T, E>& stage) {
  using F = NumberOf<E>;
  while (read_some(stage)) {
  }
  if (stage.image.channels_last || !stage.to.positions) return;
  // Rows of elements, each of which becomes a column: the channels, or numbers that lie as in the image.
  const int64_t C = stage.image.C, width = table_width<F>(C);
  E* rows = kNumbers<E> > 1 ? stage.to.rows : stage.to.channels;
  const int64_t pitch = elements<E>(kTile), read = round_up(C, kNumbers<E>);
  memset(static_cast<void*>(rows + read * pitch), 0, sizeof(E) * (width - read) * pitch);
  transpose(reinterpret_cast<F*>(rows), pitch, width, pitch, reinterpret_cast<F*>(stage.to.positions), width);
}

// Reads the tiles of `count` tensors, one after the other, as far as the products beside have come.
template <typename T, typename E, int count>
struct ReadAhead : Beside {
  Stage<T, E> stages[count];
  int64_t whole;     // multiply-adds of a lane that a tile's products take
  int64_t work = 0;  // of which are done
};

template <typename T, typename E, int count>
static void read_ahead(Beside* self, int64_t work) {
  auto* ahead = static_cast<ReadAhead<T, E, count>*>(self);
  ahead->work += work;
  int64_t done = 0, units = 0;
  for (const Stage<T, E>& stage : ahead->stages) {
    done += stage.unit;
    units += stage.units;
  }
  const int64_t wanted = units * ahead->work / larger(1, ahead->whole);
  for (Stage<T, E>& stage : ahead->stages) {
    while (done < wanted && read_some(stage)) ++done;
  }
}

// Positions [start, end) of an image as memory to ask for.
template <typename T>
static Beside::Rows rows_of(Plane<T> image, int64_t start, int64_t end) {
  const int64_t size = sizeof(T), count = end - start;
  if (count <= 0) return {};
  if (image.channels_last) {
    return {reinterpret_cast<const char*>(image.data + start * image.C), 0, count * image.C * size, 0, 1};
  }
  return {reinterpret_cast<const char*>(image.data + start), 0, count * size, image.N * size, image.C};
}

}  // namespace kvmem::cpu::KVMEM_ISA
