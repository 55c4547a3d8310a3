// The one matrix product of this folder: A (rows x depth) B (depth x columns), added to what Start gives and handed to Finish.
//
// A is read one element at a time and broadcast, at any strides (so a transposed matrix costs nothing); B is read in vectors
// along its rows. A block of up to kRows x kColumns vectors of the result stays in registers.
#pragma once

#include "elements.h"

namespace kvmem::cpu::KVMEM_ISA {

#if KVMEM_VECTOR_BYTES == 64 || defined(__aarch64__)
// 32 vector registers: 24 sums, 4 of B, one of A.
constexpr int kRows = 6, kColumns = 4;
#else
// 16 vector registers: 12 sums, 2 of B, one of A.
constexpr int kRows = 6, kColumns = 2;
#endif

// What is done a little at a time beside products. Memory that will be needed is asked for line by line, one at every step
// of a block's depth: more at once would wait for one another. Between blocks, `step` may do what it wants; it is told
// how many multiply-adds of a lane the block has taken.
struct Beside {
  static constexpr int kAreas = 3;

  void (*step)(Beside*, int64_t work);
  // Rows of memory, `pitch` bytes apart, each `bytes` long, of which `left` aren't asked for yet, the first from `at` on.
  struct Rows {
    const char* row;
    int64_t at, bytes, pitch, left;
  } rows[kAreas] = {};
};

constexpr int64_t kLine = 64;

// The next lines of one row, as many as the block is deep.
KVMEM_INLINE const char* take_lines(Beside* beside, int64_t depth) {
  if (!beside) return nullptr;
  Beside::Rows* next = beside->rows;
  while (next->left == 0) {
    if (++next == beside->rows + Beside::kAreas) return nullptr;
  }
  Beside::Rows& rows = *next;
  const char* line = rows.row + rows.at;
  rows.at += depth * kLine;
  if (rows.at >= rows.bytes) {
    rows.at = 0;
    rows.row += rows.pitch;
    --rows.left;
  }
  return line;
}

template <typename E>
struct Strided {
  const E* data;
  int64_t row, column;
};

template <typename F>
constexpr auto kFromZero = [](int64_t, int64_t) { return Vector<F>{}; };

template <int rows, int columns, typename E, typename Start, typename Finish>
KVMEM_INLINE void product_block(int64_t depth, Strided<E> a, const E* b, int64_t ldb, int64_t row, int64_t column,
                                const char* lines, const Start& start, const Finish& finish) {
  using F = NumberOf<E>;
  constexpr int lanes = kLanes<F>;
  Vector<F> sum[rows][columns];
#pragma GCC unroll 8
  for (int i = 0; i < rows; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < columns; ++j) sum[i][j] = start(row + i, column + j * lanes);
  }
  const E* a_column = a.data + row * a.row;
  b += column;
  // Without lines to ask for, one that is there anyway.
  const int64_t line_pitch = lines ? kLine : 0;
  const char* line = lines ? lines : reinterpret_cast<const char*>(b);
  for (int64_t k = 0; k < depth; ++k) {
    __builtin_prefetch(line, 0, 2);
    line += line_pitch;
    typename ElementOf<E>::Row b_row[columns];
#pragma GCC unroll 8
    for (int j = 0; j < columns; ++j) b_row[j] = load_elements(b + j * lanes);
#pragma GCC unroll 8
    for (int i = 0; i < rows; ++i) {
      const E a_element = a_column[i * a.row];
#pragma GCC unroll 8
      for (int j = 0; j < columns; ++j) multiply_add(sum[i][j], a_element, b_row[j]);
    }
    a_column += a.column;
    b += ldb;
  }
#pragma GCC unroll 8
  for (int i = 0; i < rows; ++i) finish(row + i, column, sum[i]);
}

template <int columns, typename E, typename Start, typename Finish>
KVMEM_INLINE void product_columns(int64_t rows, int64_t depth, Strided<E> a, const E* b, int64_t ldb, int64_t column,
                                  Beside* beside, const Start& start, const Finish& finish) {
  // Blocks of nearly equal height: 19 rows run as 5 + 5 + 5 + 4, never as 6 + 6 + 6 + 1.
  const int64_t blocks = (rows + kRows - 1) / kRows;
  int64_t row = 0;
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t next = rows * (block + 1) / blocks;
    const char* lines = take_lines(beside, depth);
    switch (next - row) {
      case 6:
        product_block<6, columns>(depth, a, b, ldb, row, column, lines, start, finish);
        break;
      case 5:
        product_block<5, columns>(depth, a, b, ldb, row, column, lines, start, finish);
        break;
      case 4:
        product_block<4, columns>(depth, a, b, ldb, row, column, lines, start, finish);
        break;
      case 3:
        product_block<3, columns>(depth, a, b, ldb, row, column, lines, start, finish);
        break;
      case 2:
        product_block<2, columns>(depth, a, b, ldb, row, column, lines, start, finish);
        break;
      default:
        product_block<1, columns>(depth, a, b, ldb, row, column, lines, start, finish);
    }
    if (beside) beside->step(beside, (next - row) * columns * depth);
    row = next;
  }
}

// start(row, column) gives the vector of the result that begins at this column; finish(row, column, vectors) takes the
// neighbouring ones from this column on. columns is a multiple of the lanes: the callers' buffers are padded.
template <typename E, typename Start, typename Finish>
KVMEM_INLINE void product(int64_t rows, int64_t columns, int64_t depth, Strided<E> a, const E* b, int64_t ldb,
                          Beside* beside, const Start& start, const Finish& finish) {
  constexpr int lanes = kLanes<NumberOf<E>>;
  int64_t column = 0;
  for (; column + kColumns * lanes <= columns; column += kColumns * lanes) {
    product_columns<kColumns>(rows, depth, a, b, ldb, column, beside, start, finish);
  }
  const int64_t rest = (columns - column) / lanes;
  if (rest == 1) product_columns<1>(rows, depth, a, b, ldb, column, beside, start, finish);
  if constexpr (kColumns > 2) {
    if (rest == 2) product_columns<2>(rows, depth, a, b, ldb, column, beside, start, finish);
    if (rest == 3) product_columns<3>(rows, depth, a, b, ldb, column, beside, start, finish);
  }
}

// Longest chain of additions to one sum: longer products are summed in parts, since the error grows with the chain.
constexpr int64_t kDepth = 64;

template <bool accumulate, typename E, typename F = NumberOf<E>>
static void gemm_part(int64_t rows, int64_t columns, int64_t depth, Strided<E> a, const E* b, int64_t ldb, F* c,
                      int64_t ldc, Beside* beside) {
  product(rows, columns, depth, a, b, ldb, beside, kFromZero<F>, [=](int64_t row, int64_t column, const auto& sums) {
    F* p = c + row * ldc + column;
#pragma GCC unroll 8
    for (const Vector<F>& sum : sums) {
      store<F>(p, accumulate ? sum + load<F>(p) : sum);
      p += kLanes<F>;
    }
  });
}

// C (rows x columns) = [C +] A B; depth in elements.
template <typename E, typename F = NumberOf<E>>
static void gemm(int64_t rows, int64_t columns, int64_t depth, Strided<E> a, const E* b, int64_t ldb, F* c, int64_t ldc,
                 bool accumulate = false, Beside* beside = nullptr) {
  const int64_t parts = larger(1, (depth + kDepth - 1) / kDepth);
  int64_t done = 0;
  for (int64_t part = 0; part < parts; ++part) {
    const int64_t next = depth * (part + 1) / parts;
    const Strided<E> a_part{a.data + done * a.column, a.row, a.column};
    if (accumulate || part > 0) {
      gemm_part<true>(rows, columns, next - done, a_part, b + done * ldb, ldb, c, ldc, beside);
    } else {
      gemm_part<false>(rows, columns, next - done, a_part, b + done * ldb, ldb, c, ldc, beside);
    }
    done = next;
  }
}

}  // namespace kvmem::cpu::KVMEM_ISA
