// Matrices of the memory side as right operands of the tensor cores, in shared memory, in the order the lanes read them.
#pragma once

#include "cuda/cluster/tile.cuh"

namespace kvmem::cuda {

// A (8 kDepth, 8 kWidth) matrix. A lane's numbers of `kTogether` blocks one below the other make 16 bytes. float32 numbers
// are split here, once, instead of for every position that they are multiplied by.
template <typename T, int kDepth, int kWidth>
struct ClusterTable {
  static constexpr int kTogether = sizeof(T) == 2 ? 4 : 1, kParts = sizeof(T) == 2 ? 1 : 2;
  static constexpr int kPaddedDepth = (kDepth + 3) / 4 * 4;
  static constexpr int kElements = 64 * kPaddedDepth * kWidth;
  static constexpr int kNumbers = kParts * kElements;
  static constexpr int kBytes = kNumbers * sizeof(T);
  View<T> data;

  // element(row, column) for every element, by the whole block; rows past the depth are zeros.
  template <typename Element>
  KVMEM_DEVICE void fill(Element element) const {
    for (int i = thread(); i < kElements; i += block_threads()) {
      const int within = i % (2 * kTogether), holder = i / (2 * kTogether) % kWarp, blocks = i / (64 * kTogether);
      const int row_block = blocks % (kPaddedDepth / kTogether) * kTogether + within / 2;
      const int column = blocks / (kPaddedDepth / kTogether) * 8 + holder / 4;
      const int row = 8 * row_block + 2 * (holder % 4) + within % 2;
      const float x = row_block < kDepth ? element(row, column) : 0.0f;
      if constexpr (sizeof(T) == 2) {
        data[i] = from_float<T>(x);
      } else {
        put_split(i / 2 * 4 + within, x);
      }
    }
  }

  // Four blocks one below the other, from row block 4 * quad, of column block `column`.
  KVMEM_DEVICE void load(int quad, int column, Operand<T> (&x)[4]) const {
    constexpr int loads = 4 / kTogether;
    KVMEM_UNROLL
    for (int i = 0; i < loads; ++i) {
      const int at = ((column * (kPaddedDepth / kTogether) + quad * loads + i) * kWarp + lane()) * 16 / sizeof(T);
      const Words4 words = load16(data, at);
      if constexpr (sizeof(T) == 2) {
        KVMEM_UNROLL
        for (int j = 0; j < 4; ++j) x[j] = {{words.x[j]}};
      } else {
        x[i] = {{float_of(words.x[0]), float_of(words.x[1])}, {float_of(words.x[2]), float_of(words.x[3])}};
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
  // The second part rounded too, but for a NaN.
  KVMEM_DEVICE void put_split(int at, float x) const {
    const float high = round_to_tf32(x), low = x - high;
    data[at] = high;
    data[at + 2] = low == low ? round_to_tf32(low) : low;
  }

  KVMEM_DEVICE void multiply_quad(const Left<T> (&left)[kDepth], int quad, int column, Sum& sum) const {
    Operand<T> right[4];
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
