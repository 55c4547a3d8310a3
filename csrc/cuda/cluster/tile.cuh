// A tile of the image in shared memory, 64 positions by 64 channels: how it comes in, is read as operands and goes out.
//
// It lies as the image does: a row a channel, or a row a position if channels_last. Its vectors of 16 bytes are permuted
// within each row (`place`), so that neither eight rows one below the other nor one row meet a bank twice.
#pragma once

#include "cuda/memory/side.cuh"

namespace kvmem::cuda {

constexpr int kClusterChannels = 64;
constexpr int kTilePositions = 64;
constexpr int kTileNumbers = kClusterChannels * kTilePositions;
constexpr int kTileRow = 64;  // numbers a row, whichever way it lies

// Four warps work on a tile, each on 16 of its positions; a block has two such groups.
constexpr int kGroupThreads = 128, kGroups = 2, kClusterThreads = kGroups * kGroupThreads;
constexpr int kWarpPositions = 16;
constexpr int kChannelBlocks = kClusterChannels / 8;

KVMEM_DEVICE int group() { return warp() / (kGroupThreads / kWarp); }
KVMEM_DEVICE int group_thread() { return thread() % kGroupThreads; }
KVMEM_DEVICE int group_warp() { return warp() % (kGroupThreads / kWarp); }
KVMEM_DEVICE void barrier_of_group() { group_barrier(1 + group(), kGroupThreads); }

// Where the number of (row, column) stands in the tile.
template <typename T>
KVMEM_DEVICE int place(int row, int column) {
  constexpr int vector = 16 / sizeof(T);
  const int turn = sizeof(T) == 2 ? row & 7 : ((row >> 1 ^ (row & 1) << 1) & 3) << 1;
  return row * kTileRow + (column / vector ^ turn) * vector + column % vector;
}

// The image that a tile is of: (C, N), or (N, C) if channels_last.
template <typename T, bool kChannelsLast>
struct ImagePlane {
  View<T> data;
  int N;

  KVMEM_DEVICE View<T> at(int row, int column, int start) const {
    if constexpr (kChannelsLast) {
      return data + (static_cast<int64_t>(start + row) * kClusterChannels + column);
    } else {
      return data + (static_cast<int64_t>(row) * N + start + column);
    }
  }
  // From a row to the one `rows` below.
  KVMEM_DEVICE int64_t step(int rows) const {
    return static_cast<int64_t>(rows) * (kChannelsLast ? kClusterChannels : N);
  }
  KVMEM_DEVICE bool inside(int row, int column, int start) const {
    return start + (kChannelsLast ? row : column) < N;
  }
};

template <typename T>
constexpr int kTileVector = 16 / sizeof(T);

// The vectors of a tile that are this thread's: one column, every few rows.
template <typename T>
struct ThreadVectors {
  static constexpr int kInRow = kTileRow / kTileVector<T>, kRowStep = kGroupThreads / kInRow;
  static constexpr int kCount = kTileRow / kRowStep;

  static KVMEM_DEVICE int column() { return group_thread() % kInRow * kTileVector<T>; }
  static KVMEM_DEVICE int row(int i) { return group_thread() / kInRow + i * kRowStep; }
};

// Starts copying the tile at position `start`; zeros past the image's end.
template <typename T, bool kChannelsLast>
KVMEM_DEVICE void load_tile(const ImagePlane<const T, kChannelsLast>& image, int start, View<T> tile) {
  using Vectors = ThreadVectors<T>;
  const View<const T> first = image.at(Vectors::row(0), Vectors::column(), start);
  const int64_t step = image.step(Vectors::kRowStep);
  KVMEM_UNROLL
  for (int i = 0; i < Vectors::kCount; ++i) {
    copy16_async(tile + place<T>(Vectors::row(i), Vectors::column()), first + i * step,
                 image.inside(Vectors::row(i), Vectors::column(), start));
  }
}

// kAgain: whether the kernel reads it again.
template <bool kAgain, typename T, bool kChannelsLast>
KVMEM_DEVICE void store_tile(View<const T> tile, const ImagePlane<T, kChannelsLast>& image, int start) {
  using Vectors = ThreadVectors<T>;
  const View<T> first = image.at(Vectors::row(0), Vectors::column(), start);
  const int64_t step = image.step(Vectors::kRowStep);
  KVMEM_UNROLL
  for (int i = 0; i < Vectors::kCount; ++i) {
    if (image.inside(Vectors::row(i), Vectors::column(), start)) {
      const Words4 words = load16(tile, place<T>(Vectors::row(i), Vectors::column()));
      if constexpr (kAgain) {
        store16(first + i * step, 0, words);
      } else {
        store16_streaming(first + i * step, 0, words);
      }
    }
  }
}

// h of 16 positions as left operands: a row a position, a block 8 channels.
template <bool kChannelsLast, typename T>
KVMEM_DEVICE void load_positions(View<T> tile, int position, Left<T> (&x)[kChannelBlocks]) {
  if constexpr (sizeof(T) == 2) {
    const int line = lane() % 8, lower = lane() / 8 % 2 * 8, right = lane() / 16 * 8;
    KVMEM_UNROLL
    for (int block = 0; block < kChannelBlocks; block += 2) {
      uint32_t bits[4];
      if constexpr (kChannelsLast) {
        matrix_load(bits, tile + place<T>(position + lower + line, 8 * block + right));
      } else {
        matrix_load_transposed(bits, tile + place<T>(8 * block + right + line, position + lower));
      }
      x[block] = {{bits[0], bits[1]}};
      x[block + 1] = {{bits[2], bits[3]}};
    }
  } else {
    const int row = position + lane() / 4, column = 2 * (lane() % 4);
    KVMEM_UNROLL
    for (int block = 0; block < kChannelBlocks; ++block) {
      const int channel = 8 * block + column;
      KVMEM_UNROLL
      for (int half = 0; half < 2; ++half) {
        if constexpr (kChannelsLast) {
          const Float2 pair = (tile + place<T>(row + 8 * half, channel)).template as<Float2>()[0];
          x[block].x[2 * half] = pair.x;
          x[block].x[2 * half + 1] = pair.y;
        } else {
          x[block].x[2 * half] = tile[place<T>(channel, row + 8 * half)];
          x[block].x[2 * half + 1] = tile[place<T>(channel + 1, row + 8 * half)];
        }
      }
    }
  }
}

// The inverse.
template <bool kChannelsLast, typename T>
KVMEM_DEVICE void store_positions(const Left<T> (&x)[kChannelBlocks], int position, View<T> tile) {
  if constexpr (sizeof(T) == 2) {
    const int line = lane() % 8, lower = lane() / 8 % 2 * 8, right = lane() / 16 * 8;
    KVMEM_UNROLL
    for (int block = 0; block < kChannelBlocks; block += 2) {
      const uint32_t bits[4] = {x[block].x[0], x[block].x[1], x[block + 1].x[0], x[block + 1].x[1]};
      if constexpr (kChannelsLast) {
        matrix_store(bits, tile + place<T>(position + lower + line, 8 * block + right));
      } else {
        matrix_store_transposed(bits, tile + place<T>(8 * block + right + line, position + lower));
      }
    }
  } else {
    const int row = position + lane() / 4, column = 2 * (lane() % 4);
    KVMEM_UNROLL
    for (int block = 0; block < kChannelBlocks; ++block) {
      const int channel = 8 * block + column;
      KVMEM_UNROLL
      for (int half = 0; half < 2; ++half) {
        if constexpr (kChannelsLast) {
          (tile + place<T>(row + 8 * half, channel)).template as<Float2>()[0] = {x[block].x[2 * half],
                                                                               x[block].x[2 * half + 1]};
        } else {
          tile[place<T>(channel, row + 8 * half)] = x[block].x[2 * half];
          tile[place<T>(channel + 1, row + 8 * half)] = x[block].x[2 * half + 1];
        }
      }
    }
  }
}

// The transpose of 16 channels at 16 positions as left operands: a row a channel, a block 8 positions.
template <bool kChannelsLast, typename T>
KVMEM_DEVICE void load_channels(View<T> tile, int channel, int position, Left<T> (&x)[2]) {
  if constexpr (sizeof(T) == 2) {
    const int line = lane() % 8, lower = lane() / 8 % 2 * 8, right = lane() / 16 * 8;
    uint32_t bits[4];
    if constexpr (kChannelsLast) {
      matrix_load_transposed(bits, tile + place<T>(position + right + line, channel + lower));
    } else {
      matrix_load(bits, tile + place<T>(channel + lower + line, position + right));
    }
    x[0] = {{bits[0], bits[1]}};
    x[1] = {{bits[2], bits[3]}};
  } else {
    const int row = channel + lane() / 4, column = position + 2 * (lane() % 4);
    KVMEM_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int block = i / 2, half = i % 2;
      if constexpr (kChannelsLast) {
        x[block].x[2 * half] = tile[place<T>(column + 8 * block, row + 8 * half)];
        x[block].x[2 * half + 1] = tile[place<T>(column + 8 * block + 1, row + 8 * half)];
      } else {
        const Float2 pair = (tile + place<T>(row + 8 * half, column + 8 * block)).template as<Float2>()[0];
        x[block].x[2 * half] = pair.x;
        x[block].x[2 * half + 1] = pair.y;
      }
    }
  }
}

// Waits until at most n groups of copies are under way; where n is large, until fewer are.
KVMEM_DEVICE void wait_copies_down_to(int n) {
  switch (n) {
    case 0:
      return wait_copies<0>();
    case 1:
      return wait_copies<1>();
    case 2:
      return wait_copies<2>();
    case 3:
      return wait_copies<3>();
    default:
      return wait_copies<4>();
  }
}

}  // namespace kvmem::cuda
