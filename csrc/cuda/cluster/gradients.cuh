// The backward pass over one tile: addresses again, ds, dz, dh and the sums over positions.
//
//   dz = (o - h) · dout γ (1 - γ),  dα_t = γ v_t · dout + u_t dz (+ the gradient of the returned attention)
//   ds_t = α_t (dα_t - Σ_t' α_t' dα_t'),  dh = (1 - γ) dout + Σ_t ds_t k_t + dz W_g's first half
//   sums: Σ_n h ds_t, Σ_n h dz, Σ_n dout α_t γ, Σ_n α_t dz, Σ_n dz
// Columns are the slots and, last, the gate: its score is W_g's first half times h, its ds is dz.
#pragma once

#include "cuda/cluster/addressing.cuh"
#include "cuda/cluster/group.cuh"

namespace kvmem::cuda {

// v_t as columns, what dout is multiplied by; k_t and W_g's first half as rows, what ds and dz are multiplied by.
template <typename T, int kSlotBlocks>
using ValueColumnsTable = ClusterTable<T, kChannelBlocks, kSlotBlocks>;
template <typename T, int kSlotBlocks>
using KeyRowsTable = ClusterTable<T, kSlotBlocks, kChannelBlocks>;

template <typename T, int kSlotBlocks>
struct GradientTables {
  KeysTable<T, kSlotBlocks> keys;
  ValueColumnsTable<T, kSlotBlocks> values;
  KeyRowsTable<T, kSlotBlocks> key_rows;
  View<const float> response;
  float gate_bias;
};

// ds and α γ of a group's tile, a row a slot, the positions innermost. The pitch lets eight rows meet different banks.
constexpr int kPositionPitch = kTilePositions + 8;
template <int kSlotBlocks>
constexpr int kExchangeNumbers = 8 * kSlotBlocks * kPositionPitch;

// Sums over positions. A warp has those of its 16 channels over the group's tiles: rows are channels.
template <int kSlotBlocks>
struct WarpSums {
  Sum keys[kSlotBlocks], values[kSlotBlocks];
  float response[2 * kSlotBlocks];  // of the columns that the lane holds, over its own positions
};

// h · dout at the lane's positions.
template <typename T>
KVMEM_DEVICE void products_of_positions(const Left<T> (&h)[kChannelBlocks], const Left<T> (&grad)[kChannelBlocks],
                                        float (&products)[2]) {
  products[0] = products[1] = 0.0f;
  KVMEM_UNROLL
  for (int block = 0; block < kChannelBlocks; ++block) {
    const Sum a = numbers(h[block]), b = numbers(grad[block]);
    products[0] += a.x[0] * b.x[0] + a.x[1] * b.x[1];
    products[1] += a.x[2] * b.x[2] + a.x[3] * b.x[3];
  }
  products[0] = sum_of_quad(products[0]);
  products[1] = sum_of_quad(products[1]);
}

// One position of a lane: from α and p_t = v_t · dout to ds (in place of p) and α γ (in place of α).
template <int kSlotBlocks, typename AttentionGradient>
KVMEM_DEVICE void position_backward(Sum (&alpha)[kSlotBlocks], Sum (&p)[kSlotBlocks], View<const float> response,
                                     float gate, float kept, int row, float (&response_sums)[2 * kSlotBlocks],
                                     AttentionGradient attention_gradient) {
  float read = 0.0f;
  KVMEM_UNROLL
  for (int i = 0; i < 2 * kSlotBlocks; ++i) {
    read += alpha[i / 2].x[2 * row + i % 2] * p[i / 2].x[2 * row + i % 2];
  }
  const float dz = (sum_of_quad(read) - kept) * gate * (1.0f - gate);
  float mean = 0.0f;
  KVMEM_UNROLL
  for (int i = 0; i < 2 * kSlotBlocks; ++i) {
    const int column = i / 2 * 8 + 2 * (lane() % 4) + i % 2;
    const float a = alpha[i / 2].x[2 * row + i % 2];
    float& x = p[i / 2].x[2 * row + i % 2];
    x = gate * x + response[column] * dz + attention_gradient(i, column);
    mean += a * x;
    response_sums[i] += (column == 8 * kSlotBlocks - 1 ? 1.0f : a) * dz;
  }
  mean = sum_of_quad(mean);
  KVMEM_UNROLL
  for (int i = 0; i < 2 * kSlotBlocks; ++i) {
    float& a = alpha[i / 2].x[2 * row + i % 2];
    float& x = p[i / 2].x[2 * row + i % 2];
    x = a * (x - mean);
    a *= gate;
  }
  if (lane() % 4 == 3) p[kSlotBlocks - 1].x[2 * row + 1] = dz;
}

// Columns of one warp's 16 positions into the group's exchange: element (slot, position).
template <int kSlotBlocks, typename T>
KVMEM_DEVICE void store_columns(const Left<T> (&x)[kSlotBlocks], View<T> exchange) {
  const int position = kWarpPositions * group_warp();
  KVMEM_UNROLL
  for (int block = 0; block < kSlotBlocks; ++block) {
    if constexpr (sizeof(T) == 2) {
      // Two matrices of one block and two of the next, where there is one: no element is written twice.
      if (block % 2 == 1) continue;
      const bool pair = block + 1 < kSlotBlocks;
      const int slot = 8 * (pair ? block + lane() / 16 : block) + lane() % 8, right = lane() / 8 % 2 * 8;
      const View<T> row = exchange + (slot * kPositionPitch + position + right);
      if (pair) {
        const uint32_t bits[4] = {x[block].x[0], x[block].x[1], x[block + 1].x[0], x[block + 1].x[1]};
        matrix_store_transposed(bits, row);
      } else {
        matrix_store_transposed(x[block].x, row);
      }
    } else {
      const int slot = 8 * block + 2 * (lane() % 4), column = position + lane() / 4;
      KVMEM_UNROLL
      for (int i = 0; i < 4; ++i) exchange[(slot + i % 2) * kPositionPitch + column + i / 2 * 8] = x[block].x[i];
    }
  }
}

// Rows are positions: blocks of 8 positions of slot block `block`.
template <typename T>
KVMEM_DEVICE Right<T> load_column(View<T> exchange, int block, int position) {
  const int at = (8 * block + lane() / 4) * kPositionPitch + position + 2 * (lane() % 4);
  if constexpr (sizeof(T) == 2) {
    return {{(exchange + at).template as<uint32_t>()[0]}};
  } else {
    const Float2 pair = (exchange + at).template as<Float2>()[0];
    return {{pair.x, pair.y}};
  }
}

// float32 needs all registers: nothing is read from shared memory before what stands in front of this is done.
template <typename T>
KVMEM_DEVICE void keep_order() {
  if constexpr (sizeof(T) == 4) warp_barrier();
}

// sums += the tile's channels times the exchange's columns, over all 64 positions, for the warp's 16 channels.
template <bool kChannelsLast, int kSlotBlocks, typename T>
KVMEM_DEVICE void add_products(View<T> tile, View<T> exchange, Sum (&sums)[kSlotBlocks]) {
  KVMEM_UNROLL
  for (int position = 0; position < kTilePositions; position += 16) {
    Left<T> channels[2];
    load_channels<kChannelsLast>(tile, 16 * group_warp(), position, channels);
    KVMEM_UNROLL
    for (int block = 0; block < kSlotBlocks; ++block) {
      multiply<T>(sums[block], channels[0], channels[1], operand<T>(load_column(exchange, block, position)),
                  operand<T>(load_column(exchange, block, position + 8)));
    }
  }
}

// What the backward pass over a tile reads beside its two tiles; offsets are of the image.
template <typename T>
struct TileInputs {
  View<const T> grad_attention;       // (T, N) or null
  int N;
  HeldSlots slots;
};

// 16 positions: leaves ds and α γ in the lanes' left operands, γ in gate, adds to response_sums.
template <bool kAttention, int kSlotBlocks, typename T>
KVMEM_DEVICE void address_backward(const TileInputs<T>& in, const GradientTables<T, kSlotBlocks>& tables, int position,
                                   const Left<T> (&h)[kChannelBlocks], const Left<T> (&grad)[kChannelBlocks],
                                   Left<T> (&ds)[kSlotBlocks], Left<T> (&read)[kSlotBlocks], float (&gate)[2],
                                   float (&response_sums)[2 * kSlotBlocks]) {
  Sum scores[kSlotBlocks] = {}, products[kSlotBlocks] = {};
  tables.keys.multiply_by(h, scores);
  // The last that needs h: its registers are free for the product with dout.
  float kept[2];
  products_of_positions<T>(h, grad, kept);
  keep_order<T>();
  tables.values.multiply_by(grad, products);
  keep_order<T>();
  KVMEM_UNROLL
  for (int row = 0; row < 2; ++row) {
    const int n = position + lane() / 4 + 8 * row;
    const bool inside = n < in.N;
    const float kept_gate = shuffle(scores[kSlotBlocks - 1].x[2 * row + 1], lane() | 3) + tables.gate_bias;
    softmax(scores, in.slots, row);
    gate[row] = response_gate(scores, tables.response, kept_gate, row);
    position_backward(scores, products, tables.response, gate[row], kept[row], row, response_sums, [&](int i, int slot) {
      if (!kAttention || !inside || !(in.slots.mine >> i & 1)) return 0.0f;
      return to_float(in.grad_attention[static_cast<int64_t>(slot) * in.N + n]);
    });
    if constexpr (kAttention) keep_order<T>();
  }
  KVMEM_UNROLL
  for (int block = 0; block < kSlotBlocks; ++block) {
    ds[block] = make_left<T>(products[block]);
    read[block] = make_left<T>(scores[block]);
  }
}

// dh in place of dout, in registers.
template <int kSlotBlocks, typename T>
KVMEM_DEVICE void image_backward(const KeyRowsTable<T, kSlotBlocks>& key_rows, const Left<T> (&ds)[kSlotBlocks],
                                 const float (&gate)[2], Left<T> (&grad)[kChannelBlocks]) {
  KVMEM_UNROLL
  for (int block = 0; block < kChannelBlocks; ++block) {
    Sum sum = numbers(grad[block]);
    KVMEM_UNROLL
    for (int i = 0; i < 4; ++i) sum.x[i] *= 1.0f - gate[i / 2];
    key_rows.multiply_by(ds, block, sum);
    grad[block] = make_left<T>(sum);
  }
}

}  // namespace kvmem::cuda
