// What the tensor cores' instructions do, with their registers' layouts. Included by host.h alone, after the views.
#pragma once

#include "host_engine.h"

namespace kvmem::simt {
namespace host {

struct MatrixRow {
  char row[16];  // the one that the lane names
  uint32_t* x;   // the lane's part of each of the matrices
};

struct MatrixProduct {
  float* d;
  float left[8], right[4];  // as many of them as the lane holds, in the order of their registers
};

void complete_matrix_load(void* const* lanes);
void complete_matrix_load_transposed(void* const* lanes);
void complete_matrix_store(void* const* lanes);
void complete_matrix_store_transposed(void* const* lanes);
void complete_matrix_store_transposed2(void* const* lanes);
void complete_matrix_multiply(void* const* lanes);
void complete_matrix_multiply_tf32(void* const* lanes);

// Every lane reads its row when it comes: what other lanes wrote is there for sure only after a barrier.
inline void load_rows(uint32_t* x, const char* row, Wait wait, Complete complete) {
  MatrixRow mine{{}, x};
  std::memcpy(mine.row, row, 16);
  gather(wait, &mine, complete);
}

// And writes it when it goes on; row is null where it names none.
inline void store_rows(const uint32_t* x, char* row, Wait wait, Complete complete) {
  if (device_in_use().capability < 90) fail("stores matrices: the device has compute capability below 9.0");
  MatrixRow mine{{}, const_cast<uint32_t*>(x)};
  gather(wait, &mine, complete);
  if (row) std::memcpy(row, mine.row, 16);
}

}  // namespace host

template <typename T>
void matrix_load(uint32_t (&x)[4], View<T> row) {
  host::load_rows(x, host::own_shared16(row), host::Wait::matrix_load, host::complete_matrix_load);
}

template <typename T>
void matrix_load_transposed(uint32_t (&x)[4], View<T> row) {
  host::load_rows(x, host::own_shared16(row), host::Wait::matrix_load_transposed,
                  host::complete_matrix_load_transposed);
}

template <typename T>
void matrix_store(const uint32_t (&x)[4], View<T> row) {
  host::store_rows(x, host::own_shared16(row), host::Wait::matrix_store, host::complete_matrix_store);
}

template <typename T>
void matrix_store_transposed(const uint32_t (&x)[4], View<T> row) {
  host::store_rows(x, host::own_shared16(row), host::Wait::matrix_store_transposed,
                   host::complete_matrix_store_transposed);
}

template <typename T>
void matrix_store_transposed(const uint32_t (&x)[2], View<T> row) {
  host::store_rows(x, host::current->lane < 16 ? host::own_shared16(row) : nullptr, host::Wait::matrix_store_transposed,
                   host::complete_matrix_store_transposed2);
}

template <typename T>
void matrix_multiply(float (&d)[4], const uint32_t (&left)[4], const uint32_t (&right)[2]) {
  host::MatrixProduct mine{d, {}, {}};
  for (int i = 0; i < 4; ++i) {
    const Float2 pair = unpack<T>(left[i]);
    mine.left[2 * i] = pair.x;
    mine.left[2 * i + 1] = pair.y;
  }
  for (int i = 0; i < 2; ++i) {
    const Float2 pair = unpack<T>(right[i]);
    mine.right[2 * i] = pair.x;
    mine.right[2 * i + 1] = pair.y;
  }
  host::gather(host::Wait::matrix_multiply, &mine, host::complete_matrix_multiply);
}

inline void matrix_multiply_tf32(float (&d)[4], const float (&left)[4], const float (&right)[2]) {
  // The tensor cores don't look at the last 13 bits.
  const auto cut = [](float x) { return float_of(bits_of(x) & ~0x1fffu); };
  host::MatrixProduct mine{d, {cut(left[0]), cut(left[1]), cut(left[2]), cut(left[3])}, {cut(right[0]), cut(right[1])}};
  host::gather(host::Wait::matrix_multiply_tf32, &mine, host::complete_matrix_multiply_tf32);
}

}  // namespace kvmem::simt
