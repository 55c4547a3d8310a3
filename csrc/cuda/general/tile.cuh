// The general path's matrices in shared memory: how tiles of positions come in and go out, and become operands.
#pragma once

#include "cuda/memory/side.cuh"

namespace kvmem::cuda {

constexpr int kGeneralThreads = 256;
constexpr int kGeneralWarps = kGeneralThreads / kWarp;

KVMEM_BOTH constexpr int round_up_16(int n) { return (n + 15) / 16 * 16; }

// Element (i, j) is data[i * pitch + j], or data[j * pitch + i] if transposed. 16-bit numbers lie in shared memory, in
// lines of whole 16 bytes; float32's may lie anywhere.
template <typename T, bool kTransposed>
struct Matrix {
  View<T> data;
  int pitch;

  KVMEM_DEVICE int at(int i, int j) const { return kTransposed ? j * pitch + i : i * pitch + j; }
  KVMEM_DEVICE T& operator()(int i, int j) const { return data[at(i, j)]; }
};

template <typename T, bool kTransposed>
KVMEM_DEVICE Matrix<T, !kTransposed> transposed(const Matrix<T, kTransposed>& m) {
  return {m.data, m.pitch};
}

// Elements (i, j) and (i, j + 1), j even.
template <typename T, bool kTransposed>
KVMEM_DEVICE Float2 read_pair(const Matrix<T, kTransposed>& m, int i, int j) {
  if constexpr (kTransposed) {
    return {to_float(m(i, j)), to_float(m(i, j + 1))};
  } else if constexpr (sizeof(T) == 4) {
    return (m.data + m.at(i, j)).template as<Float2>()[0];
  } else {
    return unpack<T>((m.data + m.at(i, j)).template as<uint32_t>()[0]);
  }
}

template <typename T, bool kTransposed>
KVMEM_DEVICE void write_pair(const Matrix<T, kTransposed>& m, int i, int j, float x, float y) {
  if constexpr (kTransposed) {
    m(i, j) = from_float<T>(x);
    m(i, j + 1) = from_float<T>(y);
  } else if constexpr (sizeof(T) == 4) {
    (m.data + m.at(i, j)).template as<Float2>()[0] = {x, y};
  } else {
    (m.data + m.at(i, j)).template as<uint32_t>()[0] = pack<T>(x, y);
  }
}

// The line of 16 bytes of a 16 x 16 block at row i and column j that a lane names to matrix_load.
template <typename T, bool kTransposed>
KVMEM_DEVICE int line_place(const Matrix<T, kTransposed>& m, int i, int j) {
  const int line = lane() % 8, low = lane() / 8 % 2 * 8, high = lane() / 16 * 8;
  return kTransposed ? m.at(i + low, j + high + line) : m.at(i + low + line, j + high);
}

// Where a lane starts to read such a block as left operands, and as right ones.
template <typename T, bool kTransposed>
KVMEM_DEVICE int left_place(const Matrix<T, kTransposed>& m, int i, int j) {
  if constexpr (sizeof(T) == 4) return m.at(i + lane() / 4, j + 2 * (lane() % 4));
  return line_place(m, i, j);
}

template <typename T, bool kTransposed>
KVMEM_DEVICE int right_place(const Matrix<T, kTransposed>& m, int i, int j) {
  if constexpr (sizeof(T) == 4) return m.at(i + 2 * (lane() % 4), j + lane() / 4);
  return line_place(m, i, j);
}

// A block as two left operands.
template <typename T, bool kTransposed>
KVMEM_DEVICE void load_left(const Matrix<T, kTransposed>& m, int place, Left<T> (&x)[2]) {
  if constexpr (sizeof(T) == 4) {
    const Matrix<T, kTransposed> block{m.data + place, m.pitch};
    KVMEM_UNROLL
    for (int half = 0; half < 2; ++half) {
      const Float2 upper = read_pair(block, 0, 8 * half), lower = read_pair(block, 8, 8 * half);
      x[half] = make_left<T>(upper.x, upper.y, lower.x, lower.y);
    }
  } else {
    uint32_t blocks[4];
    if constexpr (kTransposed) {
      matrix_load_transposed(blocks, m.data + place);
    } else {
      matrix_load(blocks, m.data + place);
    }
    x[0] = {{blocks[0], blocks[1]}};
    x[1] = {{blocks[2], blocks[3]}};
  }
}

// A block as four right operands: two of its first 8 columns, then two of the others.
template <typename T, bool kTransposed>
KVMEM_DEVICE void load_right(const Matrix<T, kTransposed>& m, int place, Right<T> (&x)[4]) {
  if constexpr (sizeof(T) == 4) {
    const Matrix<T, !kTransposed> block{m.data + place, m.pitch};
    KVMEM_UNROLL
    for (int part = 0; part < 4; ++part) {
      const Float2 pair = read_pair(block, part / 2 * 8, part % 2 * 8);
      x[part] = make_right<T>(pair.x, pair.y);
    }
  } else {
    uint32_t blocks[4];
    if constexpr (kTransposed) {
      matrix_load(blocks, m.data + place);
    } else {
      matrix_load_transposed(blocks, m.data + place);
    }
    KVMEM_UNROLL
    for (int part = 0; part < 4; ++part) x[part] = {{blocks[part]}};
  }
}

// The places of a (rows, length) array of lines, `step` apart, for the threads of the block to share.
template <typename Body>
KVMEM_DEVICE void for_each_place(int rows, int length, int step, Body body) {
  const int steps = length / step, whole = kGeneralThreads / steps, rest = kGeneralThreads % steps;
  int row = thread() / steps, place = thread() % steps;
  while (row < rows) {
    body(row, place * step);
    row += whole;
    place += rest;
    if (place >= steps) {
      place -= steps;
      ++row;
    }
  }
}

// A (rows, length) part of global memory, lines `stride` apart: channels of positions, or positions of channels.
// `wide`: pointer, stride and length are whole vectors of 16 bytes.
template <typename T>
struct Plane {
  View<T> data;
  int64_t stride;
  int rows, length;
  bool wide;
};

// Fills all (rows, length) of shared memory, with zeros where the plane ends. Then wait_copies and a barrier.
template <typename T>
KVMEM_DEVICE void copy_in(const Plane<const T>& from, View<T> to, int pitch, int rows, int length) {
  constexpr int wide = 16 / sizeof(T);
  if (from.wide) {
    for_each_place(rows, length, wide, [&](int row, int place) {
      const bool valid = row < from.rows && place < from.length;
      copy16_async(to + (row * pitch + place), from.data + (valid ? row * from.stride + place : 0), valid);
    });
    commit_copies();
  } else {
    for_each_place(rows, length, 1, [&](int row, int place) {
      const bool valid = row < from.rows && place < from.length;
      to[row * pitch + place] = valid ? from.data[row * from.stride + place] : from_float<T>(0.0f);
    });
  }
}

template <typename T>
KVMEM_DEVICE void copy_out(View<T> from, int pitch, const Plane<T>& to) {
  constexpr int wide = 16 / sizeof(T);
  if (to.wide) {
    for_each_place(to.rows, to.length, wide, [&](int row, int place) {
      store16(to.data, row * to.stride + place, load16(from, row * pitch + place));
    });
  } else {
    for_each_place(to.rows, to.length, 1, [&](int row, int place) {
      to.data[row * to.stride + place] = from[row * pitch + place];
    });
  }
}

// Where a tile of positions of an image lies, here and in shared memory; channels are padded to `channels`.
struct TileShape {
  int64_t N;
  int C, channels;  // channels: C rounded up to 16
  int positions;    // of a whole tile, a multiple of 16
  int pitch;        // in shared memory, of a line of positions, or of channels if channels_last
  bool channels_last, wide;
};

// Positions [start, start + count) of one image.
template <typename T>
KVMEM_DEVICE Plane<T> plane_of(const TileShape& s, View<T> image, int64_t b, int64_t start, int count) {
  const View<T> data = image + (b * s.C * s.N + (s.channels_last ? start * s.C : start));
  if (s.channels_last) return {data, s.C, count, s.C, s.wide};
  return {data, s.N, s.C, count, s.wide};
}

template <typename T>
KVMEM_DEVICE void copy_tile_in(const TileShape& s, const Plane<const T>& from, View<T> to) {
  copy_in(from, to, s.pitch, s.channels_last ? s.positions : s.channels, s.channels_last ? s.channels : s.positions);
}

KVMEM_BOTH int tile_numbers(const TileShape& s) { return (s.channels_last ? s.positions : s.channels) * s.pitch; }

}  // namespace kvmem::cuda
