// Matrix products by all warps of a block, of operands in shared memory and of tables packed for the tensor cores.
#pragma once

#include "cuda/general/tile.cuh"

namespace kvmem::cuda {

// A (depth, columns) matrix as general/tables.cuh packs it: for every 16 x 16 numbers the four right operands of each
// lane one after another, in one or two pieces of 16 bytes.
template <typename T>
struct Table {
  View<const T> data;
  int pairs;  // columns / 16
};

constexpr int kTableUnit = 256;  // numbers

// Where the tables of the images lie among all tables.
struct TablePlace {
  int64_t first, image_stride;
  int pairs;
};

template <typename T>
KVMEM_DEVICE Table<T> table_of(View<const T> tables, const TablePlace& place, int64_t b) {
  return {tables + (place.first + b * place.image_stride), place.pairs};
}

// As for matrices in general/tile.cuh.
template <typename T>
KVMEM_DEVICE int right_place(const Table<T>& table, int i, int j) {
  return (i / 16 * table.pairs + j / 16) * kTableUnit + lane() * (16 / sizeof(T));
}

template <typename T>
KVMEM_DEVICE void load_right(const Table<T>& table, int place, Right<T> (&x)[4]) {
  if constexpr (sizeof(T) == 4) {
    KVMEM_UNROLL
    for (int half = 0; half < 2; ++half) {
      const Words4 words = load16(table.data, place + half * (kTableUnit / 2));
      x[2 * half] = {{float_of(words.x[0]), float_of(words.x[1])}};
      x[2 * half + 1] = {{float_of(words.x[2]), float_of(words.x[3])}};
    }
  } else {
    const Words4 words = load16(table.data, place);
    KVMEM_UNROLL
    for (int part = 0; part < 4; ++part) x[part] = {{words.x[part]}};
  }
}

// What a warp computes at a time: 16 rows and up to 32 columns.
constexpr int kGroupPairs = 2, kGroupColumns = 16 * kGroupPairs;

struct Group {
  Sum sums[kGroupColumns / 8];
};

// The operands of one step, of depth 16.
template <typename T>
struct Operands {
  Left<T> left[2];
  Right<T> right[kGroupPairs][4];
};

template <int kPairs, typename T>
KVMEM_DEVICE void multiply_operands(Group& group, const Operands<T>& x) {
  KVMEM_UNROLL
  for (int pair = 0; pair < kPairs; ++pair) {
    const Right<T>(&right)[4] = x.right[pair];
    KVMEM_UNROLL
    for (int half = 0; half < 2; ++half) {
      multiply<T>(group.sums[2 * pair + half], x.left[0], x.left[1], operand<T>(right[2 * half]),
                  operand<T>(right[2 * half + 1]));
    }
  }
}

// While one step's operands are multiplied the next one's are under way, except that float32's would take too many
// registers.
template <int kPairs, typename T, bool kTransposed, typename Factor>
KVMEM_DEVICE void accumulate_pairs(Group& group, const Matrix<T, kTransposed>& left, int row, const Factor& right,
                                   int column, int depth) {
  int left_at = left_place(left, row, 0), right_at = right_place(right, 0, column);
  const int left_step = left.at(0, 16) - left.at(0, 0);
  const int right_step = right_place(right, 16, column) - right_at;
  const int pair_step = right_place(right, 0, column + 16) - right_at;
  const auto load = [&](Operands<T>& x) {
    load_left(left, left_at, x.left);
    KVMEM_UNROLL
    for (int pair = 0; pair < kPairs; ++pair) load_right(right, right_at + pair * pair_step, x.right[pair]);
    left_at += left_step;
    right_at += right_step;
  };
  Operands<T> now, next;
  if constexpr (sizeof(T) == 4) {
    KVMEM_NO_UNROLL
    for (int d = 0; d < depth; d += 16) {
      load(now);
      multiply_operands<kPairs>(group, now);
    }
  } else {
    load(now);
    KVMEM_NO_UNROLL
    for (int d = 16; d < depth; d += 16) {
      load(next);
      multiply_operands<kPairs>(group, now);
      now = next;
    }
    multiply_operands<kPairs>(group, now);
  }
}

// group += left[row .. row + 16, 0 .. depth] right[0 .. depth, column .. column + 32]. Columns end at a multiple of 16,
// operands are padded with zeros in depth to a multiple of 16.
template <typename T, bool kTransposed, typename Factor>
KVMEM_DEVICE void accumulate(Group& group, const Matrix<T, kTransposed>& left, int row, const Factor& right, int column,
                             int columns, int depth) {
  if (column + 16 < columns) {
    accumulate_pairs<2>(group, left, row, right, column, depth);
  } else {
    accumulate_pairs<1>(group, left, row, right, column, depth);
  }
}

// The groups of a (rows, columns) product, one after another among the block's warps. `item` counts on from product to
// product, so that short products one after another keep all warps busy; returned is the item to go on with.
template <typename Body>
KVMEM_DEVICE int for_each_group(int item, int rows, int columns, Body body) {
  const int row_tiles = (rows + 15) / 16, groups = row_tiles * ((columns + kGroupColumns - 1) / kGroupColumns);
  for (; item < groups; item += kGeneralWarps) body(item % row_tiles * 16, item / row_tiles * kGroupColumns);
  return item - groups;
}

// body(i, j, part, half) for the pairs of numbers, elements (i, j) and (i, j + 1), that a lane holds of a group.
template <typename Body>
KVMEM_DEVICE void for_each_pair(int row, int column, int columns, Body body) {
  KVMEM_UNROLL
  for (int part = 0; part < kGroupColumns / 8; ++part) {
    if (column + 8 * part >= columns) continue;
    KVMEM_UNROLL
    for (int half = 0; half < 2; ++half) {
      body(row + lane() / 4 + 8 * half, column + 8 * part + 2 * (lane() % 4), part, half);
    }
  }
}

KVMEM_DEVICE Float2 pair_of(const Group& group, int part, int half) {
  return {group.sums[part].x[2 * half], group.sums[part].x[2 * half + 1]};
}

}  // namespace kvmem::cuda
