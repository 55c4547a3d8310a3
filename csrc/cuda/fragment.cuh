// Operands of the tensor cores, one interface over 16-bit types and float32 (register layouts: simt.cuh).
//
// float32 numbers are split in two of tf32 each, x = high + low, and multiplied as low·high + high·low + high·high, what
// is left out being of the size of float32's own rounding. Tensor cores truncate where they add, so each product of depth
// 8 starts from zero and is added to the sum by ordinary rounded additions.
#pragma once

#include <type_traits>

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

// A right operand of float32 numbers that are split already.
struct SplitRight {
  float high[2], low[2];
};

// What products take on the right: where many of them take the same numbers, these are split once.
template <typename T>
using Operand = std::conditional_t<sizeof(T) == 4, SplitRight, Right<T>>;

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

// The nearest number of 10 bits of fraction, halves away from zero. Not for NaN, which may become zero.
KVMEM_DEVICE float round_to_tf32(float x) { return float_of((bits_of(x) + 0x1000) & ~0x1fffu); }

// Of `low`, which has up to 13 bits of fraction, the tensor cores take the first 10. A NaN is one in `low` in any case.
template <int n>
KVMEM_DEVICE void split(const float (&x)[n], float (&high)[n], float (&low)[n]) {
  KVMEM_UNROLL
  for (int i = 0; i < n; ++i) {
    high[i] = round_to_tf32(x[i]);
    low[i] = x[i] - high[i];
  }
}

template <typename T>
KVMEM_DEVICE Operand<T> operand(const Right<T>& b) {
  if constexpr (sizeof(T) == 4) {
    SplitRight x;
    split(b.x, x.high, x.low);
    return x;
  } else {
    return b;
  }
}

// sum += a b, of depth 8.
template <typename T>
KVMEM_DEVICE void multiply(Sum& sum, const Left<T>& a, const Operand<T>& b) {
  if constexpr (sizeof(T) == 4) {
    float high[4], low[4], block[4] = {};
    split(a.x, high, low);
    matrix_multiply_tf32(block, low, b.high);
    matrix_multiply_tf32(block, high, b.low);
    matrix_multiply_tf32(block, high, b.high);
    KVMEM_UNROLL
    for (int i = 0; i < 4; ++i) sum.x[i] += block[i];
  } else {
    matrix_multiply<T>(sum.x, {a.x[0], a.x[1], 0, 0}, {b.x[0], 0});
  }
}

// sum += [a0 a1] [b0; b1], of depth 16.
template <typename T>
KVMEM_DEVICE void multiply(Sum& sum, const Left<T>& a0, const Left<T>& a1, const Operand<T>& b0,
                           const Operand<T>& b1) {
  if constexpr (sizeof(T) == 4) {
    multiply<T>(sum, a0, b0);
    multiply<T>(sum, a1, b1);
  } else {
    matrix_multiply<T>(sum.x, {a0.x[0], a0.x[1], a1.x[0], a1.x[1]}, {b0.x[0], b1.x[0]});
  }
}

}  // namespace kvmem::cuda
