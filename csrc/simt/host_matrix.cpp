#include "simt.cuh"

namespace kvmem::simt::host {
namespace {

MatrixRow& row_of(void* const* lanes, int lane) { return *static_cast<MatrixRow*>(lanes[lane]); }

// Calls move(row, element, x, half) for the two 16-bit elements of every matrix that every lane holds.
template <typename Move>
void for_each_element(void* const* lanes, int matrices, bool transposed, Move move) {
  for (int matrix = 0; matrix < matrices; ++matrix) {
    for (int lane = 0; lane < kWarp; ++lane) {
      for (int half = 0; half < 2; ++half) {
        int row = lane / 4, element = 2 * (lane % 4) + half;
        if (transposed) std::swap(row, element);
        move(row_of(lanes, 8 * matrix + row).row + 2 * element, row_of(lanes, lane).x + matrix, half);
      }
    }
  }
}

void load(void* const* lanes, bool transposed) {
  for_each_element(lanes, 4, transposed, [](const char* at, uint32_t* x, int half) {
    uint16_t bits;
    std::memcpy(&bits, at, 2);
    *x = half ? (*x & 0xffff) | static_cast<uint32_t>(bits) << 16 : bits;
  });
}

void store(void* const* lanes, int matrices, bool transposed) {
  for_each_element(lanes, matrices, transposed, [](char* at, const uint32_t* x, int half) {
    const uint16_t bits = static_cast<uint16_t>(*x >> 16 * half);
    std::memcpy(at, &bits, 2);
  });
}

// Tensor cores drop what doesn't fit instead of rounding it.
float toward_zero(double x) {
  const float y = static_cast<float>(x);
  const bool away = __builtin_fabs(static_cast<double>(y)) > __builtin_fabs(x);
  return away ? float_of(bits_of(y) - 1) : y;
}

// d (16, 8) += left (16, 8 blocks) x right (8 blocks, 8), `blocks` of 8 numbers of the inner index.
template <int blocks>
void multiply(void* const* lanes) {
  float left[16][8 * blocks], right[8][8 * blocks];
  for (int lane = 0; lane < kWarp; ++lane) {
    const MatrixProduct& part = *static_cast<const MatrixProduct*>(lanes[lane]);
    const int outer = lane / 4, inner = 2 * (lane % 4);
    for (int i = 0; i < 4 * blocks; ++i) left[outer + 8 * (i / 2 % 2)][inner + 8 * (i / 4) + i % 2] = part.left[i];
    for (int i = 0; i < 2 * blocks; ++i) right[outer][inner + 8 * (i / 2) + i % 2] = part.right[i];
  }
  for (int lane = 0; lane < kWarp; ++lane) {
    float* d = static_cast<const MatrixProduct*>(lanes[lane])->d;
    for (int i = 0; i < 4; ++i) {
      const float *row = left[lane / 4 + 8 * (i / 2)], *column = right[2 * (lane % 4) + i % 2];
      double sum = d[i];
      for (int k = 0; k < 8 * blocks; ++k) sum += static_cast<double>(row[k]) * column[k];
      d[i] = toward_zero(sum);
    }
  }
}

}  // namespace

void complete_matrix_load(void* const* lanes) { load(lanes, false); }
void complete_matrix_load_transposed(void* const* lanes) { load(lanes, true); }
void complete_matrix_store(void* const* lanes) { store(lanes, 4, false); }
void complete_matrix_store_transposed(void* const* lanes) { store(lanes, 4, true); }
void complete_matrix_store_transposed2(void* const* lanes) { store(lanes, 2, true); }
void complete_matrix_multiply(void* const* lanes) { multiply<2>(lanes); }
void complete_matrix_multiply_tf32(void* const* lanes) { multiply<1>(lanes); }

}  // namespace kvmem::simt::host
