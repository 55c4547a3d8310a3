// Operands of the tensor cores, one interface over 16-bit types and float32 (register layouts: simt.cuh).
//
// float32 numbers are split in two of tf32 each, x = high + low, and multiplied as low·high + high·low + high·high, what
// is left out being of the size of float32's own rounding. Tensor cores truncate where they add, so each product of depth
// 8 starts from zero and is added to the sum by ordinary rounded additions.
#pragma once

#include "simt/simt.cuh"

namespace kvmem::cuda {

using namespace simt;

// Rows l / 4 and l / 4 + 8, columns 2 (l % 4) and the next, of a (16, 8) block.
template <typename T>
struct Left {
  uint32_t x[2];
};
template <>
struct Left<float> {
  float x[4];
};

// Rows 2 (l % 4) and the next, column l / 4, of an (8, 8) block.
template <typename T>
struct Right {
  uint32_t x[1];
};
template <>
struct Right<float> {
  float x[2];
};

// As Left, always in float32.
struct Sum {
  float x[4];
};

template <typename T>
KVMEM_DEVICE Left<T> make_left(float x0, float x1, float x2, float x3) {
  if constexpr (sizeof(T) == 4) {
    return {{x0, x1, x2, x3}};
  } else {
    return {{pack<T>(x0, x1), pack<T>(x2, x3)}};
  }
}

template <typename T>
KVMEM_DEVICE Left<T> make_left(const Sum& s) {
  return make_left<T>(s.x[0], s.x[1], s.x[2], s.x[3]);
}

template <typename T>
KVMEM_DEVICE Right<T> make_right(float low, float high) {
  if constexpr (sizeof(T) == 4) {
    return {{low, high}};
  } else {
    return {{pack<T>(low, high)}};
  }
}

// The block's numbers in float32.
template <typename T>
KVMEM_DEVICE Sum numbers(const Left<T>& a) {
  if constexpr (sizeof(T) == 4) {
    return {{a.x[0], a.x[1], a.x[2], a.x[3]}};
  } else {
    const Float2 upper = unpack<T>(a.x[0]), lower = unpack<T>(a.x[1]);
    return {{upper.x, upper.y, lower.x, lower.y}};
  }
}

template <int n>
KVMEM_DEVICE void split(const float (&x)[n], float (&high)[n], float (&low)[n]) {
  KVMEM_UNROLL
  for (int i = 0; i < n; ++i) {
    high[i] = round_to_tf32(x[i]);
    low[i] = round_to_tf32(x[i] - high[i]);
  }
}

// sum += a b, of depth 8.
template <typename T>
KVMEM_DEVICE void multiply(Sum& sum, const Left<T>& a, const Right<T>& b) {
  if constexpr (sizeof(T) == 4) {
    float left_high[4], left_low[4], right_high[2], right_low[2], block[4] = {};
    split(a.x, left_high, left_low);
    split(b.x, right_high, right_low);
    matrix_multiply_tf32(block, left_low, right_high);
    matrix_multiply_tf32(block, left_high, right_low);
    matrix_multiply_tf32(block, left_high, right_high);
    KVMEM_UNROLL
    for (int i = 0; i < 4; ++i) sum.x[i] += block[i];
  } else {
    matrix_multiply<T>(sum.x, {a.x[0], a.x[1], 0, 0}, {b.x[0], 0});
  }
}

// sum += [a0 a1] [b0; b1], of depth 16.
template <typename T>
KVMEM_DEVICE void multiply(Sum& sum, const Left<T>& a0, const Left<T>& a1, const Right<T>& b0, const Right<T>& b1) {
  if constexpr (sizeof(T) == 4) {
    multiply<T>(sum, a0, b0);
    multiply<T>(sum, a1, b1);
  } else {
    matrix_multiply<T>(sum.x, {a0.x[0], a0.x[1], a1.x[0], a1.x[1]}, {b0.x[0], b1.x[0]});
  }
}

}  // namespace kvmem::cuda
