// Backward at the positions of one tile, whose h and dout stand in shared memory.
//
// With z = W_g [h, o] + b_g, γ = σ(z), u_t = W_g's second half · v_t and all of α, γ, h, o, dout at one position:
//   dz   = dout (o - h) γ (1 - γ)             summed over c where the gate is a scalar
//   dα_t = v_t · (γ dout) + u_t · dz          (+ the gradient of the returned attention)
//   ds_t = α_t (dα_t - Σ_t' α_t' dα_t')
//   dh   = (1 - γ) dout + Σ_t ds_t k_t + W_g's first half^T dz
#pragma once

#include "cuda/general/addressing.cuh"
#include "cuda/general/tables.cuh"

namespace kvmem::cuda {

// Byte offsets in shared memory.
struct BackwardShared {
  int image;        // h: T (positions, channels)
  int grad;         // dout; where the gate is a vector then γ dout; in the end dh
  int gate_grad;    // dz of a vector gate
  int weights;      // T (slots, positions): α, or α γ where the gate is a scalar
  int score_grads;  // ds, and dz of a scalar gate as one slot more
  int scores;       // float (positions, score_pitch): s, then α
  int products;     // likewise: v_t · dout or dα_t
  int rows;         // float (3, positions) of a scalar gate: γ, dz / γ, dz
  int sums;         // float, where they fit
  int size;
};

template <typename T>
struct GeneralBackward {
  View<const T> image, grad_out, grad_attention;
  View<T> grad_image;
  View<const float> memory;
  View<float> sums;  // (B, chunks, layout.size); null: not wanted
  View<T> scratch;   // dz (blocks, tile), where float32's has no room in shared memory
  View<const T> tables;
  Parameters<T> gate_bias;
  View<const bool> mask;
  // `back` are those that lead back to h.
  TablePlace keys, keys_back, values, values_out, gate, gate_back, response, response_out;
  TileShape tile;
  BackwardShared shared;
  SumsLayout layout;
  bool sums_in_shared, gated;
  int slots, scores;  // with the scalar gate's column
  int chunks, chunk_tiles;
  int memory_size, response_offset;
  int slot_pitch, score_pitch;
};

// One block's tile.
template <typename T, bool kChannelsLast>
struct BackwardTile {
  int64_t b, start;
  int count;
  uint32_t held;  // slots_of_lane
  Matrix<T, !kChannelsLast> h, grad, dz;  // (positions, channels)
  Matrix<T, true> weights, score_grads;   // (positions, slots)
  View<float> scores, products, gate, share, gate_grad;
};

template <typename T, bool kVector, bool kChannelsLast>
KVMEM_DEVICE BackwardTile<T, kChannelsLast> backward_tile(const GeneralBackward<T>& p) {
  const int P = p.tile.positions, numbers = tile_numbers(p.tile);
  const int64_t b = block() / p.chunks;
  const auto row = [&](int i) { return shared<float>(p.shared.rows + i * P * 4, P); };
  View<T> dz = shared<T>(p.shared.gate_grad, kVector && !p.scratch ? numbers : 0);
  if constexpr (kVector && sizeof(T) == 4) dz = p.scratch ? p.scratch + block() * numbers : dz;
  return {b,
          0,
          0,
          slots_of_lane(p.mask, b, p.slots),
          {shared<T>(p.shared.image, numbers), p.tile.pitch},
          {shared<T>(p.shared.grad, numbers), p.tile.pitch},
          {dz, p.tile.pitch},
          {shared<T>(p.shared.weights, round_up_16(p.slots) * p.slot_pitch), p.slot_pitch},
          {shared<T>(p.shared.score_grads, round_up_16(p.scores) * p.slot_pitch), p.slot_pitch},
          shared<float>(p.shared.scores, P * p.score_pitch),
          shared<float>(p.shared.products, P * p.score_pitch),
          row(0),
          row(1),
          row(2)};
}

// 2^((s_t - the largest score) log2 e): the rows divide by its sum.
template <typename T, bool kChannelsLast>
KVMEM_DEVICE float exponential(const BackwardTile<T, kChannelsLast>& x, float score, float top, int n, int t) {
  return n < x.count && holds_word(x.held, t) ? exp2((score - top) * kLog2E) : 0.0f;
}

// The returned attention's gradient.
template <typename T, bool kChannelsLast>
KVMEM_DEVICE float attention_gradient(const GeneralBackward<T>& p, const BackwardTile<T, kChannelsLast>& x, int n,
                                      int t) {
  if (!p.grad_attention || n >= x.count || !holds_word(x.held, t)) return 0.0f;
  return to_float(p.grad_attention[(x.b * p.slots + t) * p.tile.N + x.start + n]);
}

// h · dout of one position.
template <typename T, bool kChannelsLast>
KVMEM_DEVICE float kept_gradient(const BackwardTile<T, kChannelsLast>& x, int C, int n) {
  float sum = 0.0f;
  for (int c = lane() % kRowLanes; c < C; c += kRowLanes) {
    sum += to_float(x.h(n, c)) * to_float(x.grad(n, c));
  }
  return sum_of_row(sum);
}

// Scalar gate or none (γ = 1), one position: from s_t and v_t · dout to α_t γ, ds_t and dz.
template <typename T, bool kChannelsLast>
KVMEM_DEVICE void differentiate_row_scalar(const GeneralBackward<T>& p, const BackwardTile<T, kChannelsLast>& x,
                                           int n) {
  const View<float> scores = x.scores + n * p.score_pitch, products = x.products + n * p.score_pitch;
  const View<const float> response = p.memory + (x.b * p.memory_size + p.response_offset);
  const float top = largest_score(scores, x.held, p.slots);
  float total = 0.0f, read = 0.0f, value = 0.0f, given = 0.0f;
  for_each_slot(p.slots, [&](int t) {
    const float e = exponential(x, scores[t], top, n, t);
    total += e;
    read += p.gated ? e * response[t] : 0.0f;
    value += e * products[t];
    given += e * attention_gradient(p, x, n, t);
  });
  const float kept = kept_gradient(x, p.tile.C, n);
  total = sum_of_row(total);
  const float scale = total > 0.0f ? reciprocal(total) : 0.0f;
  read = sum_of_row(read) * scale;
  value = sum_of_row(value) * scale;
  given = sum_of_row(given) * scale;
  const float gate = p.gated ? sigmoid(scores[p.slots] + read + p.gate_bias[0]) : 1.0f;
  const float share = (value - kept) * (1.0f - gate), dz = share * gate;
  const float mean = gate * value + read * dz + given;
  for_each_slot(round_up_16(p.scores), [&](int t) {
    float weight = 0.0f, grad = t == p.slots ? dz : 0.0f;
    if (t < p.slots) {
      const float alpha = exponential(x, scores[t], top, n, t) * scale;
      weight = alpha * gate;
      const float of_gate = p.gated ? response[t] * dz : 0.0f;
      grad = alpha * (gate * products[t] + of_gate + attention_gradient(p, x, n, t) - mean);
    }
    if (t < round_up_16(p.slots)) x.weights(n, t) = from_float<T>(weight);
    x.score_grads(n, t) = from_float<T>(grad);
  });
  if (lane() % kRowLanes == 0) {
    x.gate[n] = gate;
    x.share[n] = share;
    x.gate_grad[n] = dz;
  }
}

// Vector gate, one position: from s_t to α_t, in float32 and as T.
template <typename T, bool kChannelsLast>
KVMEM_DEVICE void address_row_again(const GeneralBackward<T>& p, const BackwardTile<T, kChannelsLast>& x, int n) {
  const View<float> scores = x.scores + n * p.score_pitch;
  const float top = largest_score(scores, x.held, p.slots);
  float total = 0.0f;
  for_each_slot(p.slots, [&](int t) { total += exponential(x, scores[t], top, n, t); });
  total = sum_of_row(total);
  const float scale = total > 0.0f ? reciprocal(total) : 0.0f;
  for_each_slot(round_up_16(p.slots), [&](int t) {
    const float alpha = t < p.slots ? exponential(x, scores[t], top, n, t) * scale : 0.0f;
    if (t < p.slots) scores[t] = alpha;
    x.weights(n, t) = from_float<T>(alpha);
  });
}

// Vector gate: dz, and γ dout in dout's place.
template <typename T, bool kChannelsLast>
KVMEM_DEVICE void differentiate_gate(const GeneralBackward<T>& p, const BackwardTile<T, kChannelsLast>& x) {
  const int channels = p.tile.channels;
  for_each_group(warp(), p.tile.positions, channels, [&](int row, int column) {
    const GateTables<T> tables{table_of(p.tables, p.values_out, x.b), table_of(p.tables, p.gate, 0),
                               table_of(p.tables, p.response_out, x.b)};
    Group read = {}, gate = {};
    accumulate_gate(tables, x.h, x.weights, row, column, channels, round_up_16(p.slots), read, gate);
    for_each_pair(row, column, channels, [&](int n, int c, int part, int half) {
      const Float2 gamma = gate_of(pair_of(gate, part, half), p.gate_bias, c, p.tile.C);
      const Float2 h = read_pair(x.h, n, c), dout = read_pair(x.grad, n, c), o = pair_of(read, part, half);
      write_pair(x.dz, n, c, dout.x * (o.x - h.x) * gamma.x * (1.0f - gamma.x),
                 dout.y * (o.y - h.y) * gamma.y * (1.0f - gamma.y));
      write_pair(x.grad, n, c, gamma.x * dout.x, gamma.y * dout.y);
    });
  });
}

// Vector gate: v_t · (γ dout) + u_t · dz.
template <typename T, bool kChannelsLast>
KVMEM_DEVICE void multiply_gate_gradients(const GeneralBackward<T>& p, const BackwardTile<T, kChannelsLast>& x) {
  const Table<T> values = table_of(p.tables, p.values, x.b), response = table_of(p.tables, p.response, x.b);
  const int columns = values.pairs * 16;
  for_each_group(warp(), p.tile.positions, columns, [&](int row, int column) {
    Group group = {};
    accumulate(group, x.grad, row, values, column, columns, p.tile.channels);
    accumulate(group, x.dz, row, response, column, columns, p.tile.channels);
    write_scores(group, row, column, x.products, p.score_pitch);
  });
}

// Vector gate, one position: ds_t from α_t and dα_t.
template <typename T, bool kChannelsLast>
KVMEM_DEVICE void differentiate_row_vector(const GeneralBackward<T>& p, const BackwardTile<T, kChannelsLast>& x,
                                           int n) {
  const View<float> scores = x.scores + n * p.score_pitch, products = x.products + n * p.score_pitch;
  float mean = 0.0f;
  const auto grad = [&](int t) { return products[t] + attention_gradient(p, x, n, t); };
  for_each_slot(p.slots, [&](int t) { mean += scores[t] * grad(t); });
  mean = sum_of_row(mean);
  for_each_slot(round_up_16(p.slots), [&](int t) {
    x.score_grads(n, t) = from_float<T>(t < p.slots ? scores[t] * (grad(t) - mean) : 0.0f);
  });
}

// dout of channel c, from global memory: shared memory holds γ dout by then.
template <typename T, bool kChannelsLast>
KVMEM_DEVICE float grad_out_at(const GeneralBackward<T>& p, const BackwardTile<T, kChannelsLast>& x, int n, int c) {
  if (n >= x.count || c >= p.tile.C) return 0.0f;
  const int64_t C = p.tile.C, N = p.tile.N, position = x.start + n;
  return to_float(p.grad_out[x.b * C * N + (p.tile.channels_last ? position * C + c : c * N + position)]);
}

// dh, in the place of dout or γ dout.
template <bool kVector, typename T, bool kChannelsLast>
KVMEM_DEVICE void differentiate_image(const GeneralBackward<T>& p, const BackwardTile<T, kChannelsLast>& x) {
  const Table<T> keys = table_of(p.tables, p.keys_back, x.b), gate = table_of(p.tables, p.gate_back, 0);
  const int channels = p.tile.channels;
  for_each_group(warp(), p.tile.positions, channels, [&](int row, int column) {
    Group group = {};
    accumulate(group, x.score_grads, row, keys, column, channels, round_up_16(p.scores));
    if constexpr (kVector) accumulate(group, x.dz, row, gate, column, channels, channels);
    for_each_pair(row, column, channels, [&](int n, int c, int part, int half) {
      const Float2 grad = pair_of(group, part, half), dout = read_pair(x.grad, n, c);
      if constexpr (kVector) {
        write_pair(x.grad, n, c, grad.x + (grad_out_at(p, x, n, c) - dout.x),
                   grad.y + (grad_out_at(p, x, n, c + 1) - dout.y));
      } else {
        const float kept = 1.0f - x.gate[n];
        write_pair(x.grad, n, c, grad.x + kept * dout.x, grad.y + kept * dout.y);
      }
    });
  });
}

}  // namespace kvmem::cuda
