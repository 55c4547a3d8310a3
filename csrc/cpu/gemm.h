// The one matrix product of this folder: C (rows x columns) = [C +] A (rows x depth) B (depth x columns).
//
// A is read one element at a time and broadcast, at any strides (so a transposed matrix costs nothing); B and C are read
// and written in vectors along their rows. A block of up to kRows x kColumns vectors of C stays in registers.
#pragma once

#include "simd.h"

namespace kvmem::cpu::KVMEM_ISA {

#if KVMEM_VECTOR_BYTES == 64 || defined(__aarch64__)
// 32 vector registers: 24 sums, 4 of B, one of A.
constexpr int kRows = 6, kColumns = 4;
#else
// 16 vector registers: 12 sums, 2 of B, one of A.
constexpr int kRows = 6, kColumns = 2;
#endif

// Rows in memory that will be read soon. A product asks for a few of them after every block, so that they arrive while
// it computes: rows that lie a page or more apart are not foreseen by the hardware, and asking for all at once waits.
struct Prefetch {
  struct Rows {
    const char* next;
    int64_t left;
  } rows[2];
  int64_t pitch, bytes;  // of a row
};

KVMEM_INLINE void prefetch_some(Prefetch* ahead) {
  if (!ahead) return;
  constexpr int at_once = 3;
  for (int i = 0; i < at_once; ++i) {
    Prefetch::Rows& rows = ahead->rows[ahead->rows[0].left == 0];
    if (rows.left == 0) return;
    for (int64_t byte = 0; byte < ahead->bytes; byte += 64) __builtin_prefetch(rows.next + byte, 0, 2);
    rows.next += ahead->pitch;
    --rows.left;
  }
}

template <typename F>
struct Strided {
  const F* data;
  int64_t row, column;
};

template <int rows, int columns, bool accumulate, typename F>
KVMEM_INLINE void gemm_block(int64_t depth, Strided<F> a, const F* b, int64_t ldb, F* c, int64_t ldc) {
  constexpr int lanes = kLanes<F>;
  Vector<F> sum[rows][columns];
#pragma GCC unroll 8
  for (int i = 0; i < rows; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < columns; ++j) sum[i][j] = Vector<F>{};
  }
  const F* a_column = a.data;
  for (int64_t k = 0; k < depth; ++k) {
    Vector<F> b_row[columns];
#pragma GCC unroll 8
    for (int j = 0; j < columns; ++j) b_row[j] = load<F>(b + j * lanes);
#pragma GCC unroll 8
    for (int i = 0; i < rows; ++i) {
      const F a_element = a_column[i * a.row];
#pragma GCC unroll 8
      for (int j = 0; j < columns; ++j) sum[i][j] += a_element * b_row[j];
    }
    a_column += a.column;
    b += ldb;
  }
#pragma GCC unroll 8
  for (int i = 0; i < rows; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < columns; ++j) {
      F* p = c + i * ldc + j * lanes;
      if constexpr (accumulate) sum[i][j] += load<F>(p);
      store<F>(p, sum[i][j]);
    }
  }
}

template <int columns, bool accumulate, typename F>
KVMEM_INLINE void gemm_columns(int64_t rows, int64_t depth, Strided<F> a, const F* b, int64_t ldb, F* c, int64_t ldc,
                               Prefetch* ahead) {
  // Blocks of nearly equal height: 19 rows run as 5 + 5 + 5 + 4, never as 6 + 6 + 6 + 1.
  const int64_t blocks = (rows + kRows - 1) / kRows;
  int64_t row = 0;
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t next = rows * (block + 1) / blocks;
    const Strided<F> a_rows{a.data + row * a.row, a.row, a.column};
    F* c_rows = c + row * ldc;
    switch (next - row) {
      case 6:
        gemm_block<6, columns, accumulate>(depth, a_rows, b, ldb, c_rows, ldc);
        break;
      case 5:
        gemm_block<5, columns, accumulate>(depth, a_rows, b, ldb, c_rows, ldc);
        break;
      case 4:
        gemm_block<4, columns, accumulate>(depth, a_rows, b, ldb, c_rows, ldc);
        break;
      case 3:
        gemm_block<3, columns, accumulate>(depth, a_rows, b, ldb, c_rows, ldc);
        break;
      case 2:
        gemm_block<2, columns, accumulate>(depth, a_rows, b, ldb, c_rows, ldc);
        break;
      default:
        gemm_block<1, columns, accumulate>(depth, a_rows, b, ldb, c_rows, ldc);
    }
    prefetch_some(ahead);
    row = next;
  }
}

template <bool accumulate, typename F>
static void gemm_depth(int64_t rows, int64_t columns, int64_t depth, Strided<F> a, const F* b, int64_t ldb, F* c,
                       int64_t ldc, Prefetch* ahead) {
  constexpr int lanes = kLanes<F>;
  int64_t column = 0;
  for (; column + kColumns * lanes <= columns; column += kColumns * lanes) {
    gemm_columns<kColumns, accumulate>(rows, depth, a, b + column, ldb, c + column, ldc, ahead);
  }
  const int64_t rest = (columns - column) / lanes;
  if (rest == 1) gemm_columns<1, accumulate>(rows, depth, a, b + column, ldb, c + column, ldc, ahead);
  if (rest == 2) gemm_columns<2, accumulate>(rows, depth, a, b + column, ldb, c + column, ldc, ahead);
  if constexpr (kColumns > 3) {
    if (rest == 3) gemm_columns<3, accumulate>(rows, depth, a, b + column, ldb, c + column, ldc, ahead);
  }
}

// Longest chain of additions to one sum: longer products are summed in parts, since the error grows with the chain.
constexpr int64_t kDepth = 64;

// columns is a multiple of the lanes: the callers' buffers are padded.
template <typename F>
static void gemm(int64_t rows, int64_t columns, int64_t depth, Strided<F> a, const F* b, int64_t ldb, F* c, int64_t ldc,
                 bool accumulate = false, Prefetch* ahead = nullptr) {
  const int64_t parts = larger(1, (depth + kDepth - 1) / kDepth);
  int64_t done = 0;
  for (int64_t part = 0; part < parts; ++part) {
    const int64_t next = depth * (part + 1) / parts;
    const Strided<F> a_part{a.data + done * a.column, a.row, a.column};
    if (accumulate || part > 0) {
      gemm_depth<true>(rows, columns, next - done, a_part, b + done * ldb, ldb, c, ldc, ahead);
    } else {
      gemm_depth<false>(rows, columns, next - done, a_part, b + done * ldb, ldb, c, ldc, ahead);
    }
    done = next;
  }
}

}  // namespace kvmem::cpu::KVMEM_ISA
