// Matrices of the memory side as right operands of the tensor cores, in shared memory, in the order the lanes read them.
#pragma once

#include "cluster_tile.cuh"

namespace kvmem::cuda {

// A (8 kDepth, 8 kWidth) matrix. A lane's numbers of `kTogether` blocks one below the other make 16 bytes.
template <typename T, int kDepth, int kWidth>
struct ClusterTable {
  static constexpr int kTogether = 8 / sizeof(T);
  static constexpr int kPaddedDepth = (kDepth + 3) / 4 * 4;
  static constexpr int kNumbers = 64 * kPaddedDepth * kWidth;
  static constexpr int kBytes = kNumbers * sizeof(T);
  View<T> data;

  // element(row, column) for every element, by the whole block; rows past the depth are zeros.
  template <typename Element>
  KVMEM_DEVICE void fill(Element element) const {
    for (int i = thread(); i < kNumbers; i += block_threads()) {
      const int within = i % (2 * kTogether), holder = i / (2 * kTogether) % kWarp, blocks = i / (64 * kTogether);
      const int row_block = blocks % (kPaddedDepth / kTogether) * kTogether + within / 2;
      const int column = blocks / (kPaddedDepth / kTogether) * 8 + holder / 4;
      const int row = 8 * row_block + 2 * (holder % 4) + within % 2;
      data[i] = row_block < kDepth ? from_float<T>(element(row, column)) : from_float<T>(0.0f);
    }
  }

  // Four blocks one below the other, from row block 4 * quad, of column block `column`.
  KVMEM_DEVICE void load(int quad, int column, Right<T> (&x)[4]) const {
    constexpr int loads = 4 / kTogether;
    KVMEM_UNROLL
    for (int i = 0; i < loads; ++i) {
      const int at = ((column * (kPaddedDepth / kTogether) + quad * loads + i) * kWarp + lane()) * 2 * kTogether;
      const Words4 words = load16(data, at);
      if constexpr (sizeof(T) == 2) {
        KVMEM_UNROLL
        for (int j = 0; j < 4; ++j) x[j] = {{words.x[j]}};
      } else {
        x[2 * i] = {{float_of(words.x[0]), float_of(words.x[1])}};
        x[2 * i + 1] = {{float_of(words.x[2]), float_of(words.x[3])}};
      }
    }
  }

  // sum += left times column block `column`.
  KVMEM_DEVICE void multiply_by(const Left<T> (&left)[kDepth], int column, Sum& sum) const {
    KVMEM_UNROLL
    for (int quad = 0; quad < kPaddedDepth / 4; ++quad) multiply_quad(left, quad, column, sum);
  }

  // sums += left times every column block. In float32 what `left` is split in lives no longer than its quad.
  KVMEM_DEVICE void multiply_by(const Left<T> (&left)[kDepth], Sum (&sums)[kWidth]) const {
    KVMEM_UNROLL
    for (int quad = 0; quad < kPaddedDepth / 4; ++quad) {
      KVMEM_UNROLL
      for (int column = 0; column < kWidth; ++column) multiply_quad(left, quad, column, sums[column]);
    }
  }

 private:
  KVMEM_DEVICE void multiply_quad(const Left<T> (&left)[kDepth], int quad, int column, Sum& sum) const {
    Right<T> right[4];
    load(quad, column, right);
    KVMEM_UNROLL
    for (int i = 0; i < 4; i += 2) {
      const int block = 4 * quad + i;
      if (block + 1 < kDepth) {
        multiply<T>(sum, left[block], left[block + 1], right[i], right[i + 1]);
      } else if (block < kDepth) {
        multiply<T>(sum, left[block], right[i]);
      }
    }
  }
};

}  // namespace kvmem::cuda
