// The forward pass for every shape: mean, memory writing, tables for the tensor cores, then positions tile by tile. A
// memory that is given takes the place of the first two.
//
//   s_t = k_t · h;  α = softmax_t(s);  o = Σ_t α_t v_t;  γ = σ(W_g [h, o] + b_g);  out = (1 - γ) h + γ o
// where W_g's second half · o = Σ_t α_t u_t.
#pragma once

#include "cuda/general/addressing.cuh"
#include "cuda/general/mean.cuh"
#include "cuda/general/shape.cuh"
#include "cuda/general/tables.cuh"
#include "cuda/memory/forward.cuh"
#include "cuda/memory/given.cuh"

namespace kvmem::cuda {

// Byte offsets in shared memory.
struct ForwardShared {
  int image;   // h: T (positions, channels); where the gate is a scalar, out replaces it
  int out;     // T, where the gate is a vector
  int alpha;   // T (slots16, tile.positions + padding): the slots' α, positions innermost
  int scores;  // float (positions, score_pitch)
  int gate;    // float (positions): γ where the gate is a scalar
  int size;
};

template <typename T>
struct GeneralForward {
  View<const T> image;
  View<T> out, attention;
  View<const float> memory;
  View<const T> tables;
  Parameters<T> gate_bias;
  View<const bool> mask;
  TablePlace keys, values, gate, response;
  TileShape tile;
  ForwardShared shared;
  int slots, tiles, memory_size, response_offset;
  int slot_pitch, score_pitch;
  bool wide_attention, gated;
};

// One block's tile.
template <typename T, bool kChannelsLast>
struct ForwardTile {
  int64_t b, start;
  int count;
  Matrix<T, !kChannelsLast> h;  // (positions, channels)
  Matrix<T, true> alpha;        // (positions, slots)
  View<float> scores, gate;
};

template <typename T, bool kChannelsLast>
KVMEM_DEVICE ForwardTile<T, kChannelsLast> forward_tile(const GeneralForward<T>& p) {
  const int64_t b = block() / p.tiles, start = block() % p.tiles * p.tile.positions;
  const int64_t rest = p.tile.N - start;
  const int slots = round_up_16(p.slots), P = p.tile.positions;
  const View<T> alpha = shared<T>(p.shared.alpha, slots * p.slot_pitch);
  return {b,
          start,
          static_cast<int>(rest < P ? rest : P),
          {shared<T>(p.shared.image, tile_numbers(p.tile)), p.tile.pitch},
          {alpha, p.slot_pitch},
          shared<float>(p.shared.scores, P * p.score_pitch),
          shared<float>(p.shared.gate, P)};
}

// α_t of one position from its scores, and the scalar gate.
template <bool kVector, typename T, bool kChannelsLast>
KVMEM_DEVICE void address_row(const GeneralForward<T>& p, const ForwardTile<T, kChannelsLast>& x, uint32_t held,
                              int n) {
  const View<float> scores = x.scores + n * p.score_pitch;
  const View<const float> response = p.memory + (x.b * p.memory_size + p.response_offset);
  const float top = largest_score(scores, held, p.slots);
  float total = 0.0f, read = 0.0f;
  const auto exponential = [&](int t) { return holds_word(held, t) ? exp2((scores[t] - top) * kLog2E) : 0.0f; };
  for_each_slot(p.slots, [&](int t) {
    const float e = exponential(t);
    total += e;
    if constexpr (!kVector) read += p.gated ? e * response[t] : 0.0f;
  });
  total = sum_of_row(total);
  const float scale = total > 0.0f ? reciprocal(total) : 0.0f;
  for_each_slot(round_up_16(p.slots), [&](int t) {
    x.alpha(n, t) = from_float<T>(t < p.slots ? exponential(t) * scale : 0.0f);
  });
  const bool first = lane() % kRowLanes == 0;
  if constexpr (!kVector) {
    read = sum_of_row(read) * scale;
    if (first && p.gated) x.gate[n] = sigmoid(scores[p.slots] + read + p.gate_bias[0]);
  }
}

// out = h + γ (o - h) in h's place; without a gate, o.
template <typename T, bool kChannelsLast>
KVMEM_DEVICE void respond_scalar(const GeneralForward<T>& p, const ForwardTile<T, kChannelsLast>& x) {
  const Table<T> values = table_of(p.tables, p.values, x.b);
  const int channels = p.tile.channels;
  for_each_group(warp(), p.tile.positions, channels, [&](int row, int column) {
    Group read = {};
    accumulate(read, x.alpha, row, values, column, channels, round_up_16(p.slots));
    for_each_pair(row, column, channels, [&](int n, int c, int part, int half) {
      const Float2 h = read_pair(x.h, n, c), o = pair_of(read, part, half);
      const float gamma = p.gated ? x.gate[n] : 0.0f;
      write_pair(x.h, n, c, p.gated ? h.x + gamma * (o.x - h.x) : o.x, p.gated ? h.y + gamma * (o.y - h.y) : o.y);
    });
  });
}

template <typename T, bool kChannelsLast>
KVMEM_DEVICE void respond_vector(const GeneralForward<T>& p, const ForwardTile<T, kChannelsLast>& x,
                                 const Matrix<T, !kChannelsLast>& out) {
  const GateTables<T> tables{table_of(p.tables, p.values, x.b), table_of(p.tables, p.gate, 0),
                             table_of(p.tables, p.response, x.b)};
  const int channels = p.tile.channels;
  for_each_group(warp(), p.tile.positions, channels, [&](int row, int column) {
    Group read = {}, gate = {};
    accumulate_gate(tables, x.h, x.alpha, row, column, channels, round_up_16(p.slots), read, gate);
    for_each_pair(row, column, channels, [&](int n, int c, int part, int half) {
      const Float2 h = read_pair(x.h, n, c), o = pair_of(read, part, half);
      const Float2 gamma = gate_of(pair_of(gate, part, half), p.gate_bias, c, p.tile.C);
      write_pair(out, n, c, h.x + gamma.x * (o.x - h.x), h.y + gamma.y * (o.y - h.y));
    });
  });
}

template <typename T, bool kVector, bool kChannelsLast>
KVMEM_KERNEL(kGeneralThreads, (general_blocks<T, kVector>())) general_forward_tiles(
    KVMEM_PARAMETER(GeneralForward<T>) p) {
  const auto x = forward_tile<T, kChannelsLast>(p);
  copy_tile_in(p.tile, plane_of(p.tile, p.image, x.b, x.start, x.count), x.h.data);
  const uint32_t held = slots_of_lane(p.mask, x.b, p.slots);
  wait_copies<0>();
  block_barrier();
  multiply_channels(warp(), x.h, table_of(p.tables, p.keys, x.b), p.tile.positions, p.tile.channels, x.scores,
                    p.score_pitch);
  block_barrier();
  for_each_row(p.tile.positions, [&](int n) { address_row<kVector>(p, x, held, n); });
  block_barrier();
  if (p.attention) {
    const View<T> attention = p.attention + (x.b * p.slots * p.tile.N + x.start);
    copy_out(x.alpha.data, p.slot_pitch, Plane<T>{attention, p.tile.N, p.slots, x.count, p.wide_attention});
  }
  View<T> out = x.h.data;
  if constexpr (kVector) {
    out = shared<T>(p.shared.out, tile_numbers(p.tile));
    respond_vector(p, x, {out, p.tile.pitch});
  } else {
    respond_scalar(p, x);
  }
  block_barrier();
  copy_out(out, p.tile.pitch, plane_of(p.tile, p.out, x.b, x.start, x.count));
}

inline ForwardShared forward_shared(const GeneralShape& g) {
  SharedPlan plan;
  const int tile = tile_numbers(g.tile) * g.number_bytes;
  ForwardShared s;
  s.image = plan.take(tile);
  s.out = plan.take(g.R > 1 ? tile : 0);
  s.alpha = plan.take(round_up_16(g.slots) * g.slot_pitch * g.number_bytes);
  s.scores = plan.take(g.tile.positions * g.score_pitch * 4);
  s.gate = plan.take(g.tile.positions * 4);
  s.size = plan.bytes;
  return s;
}

struct ForwardPlan {
  TablesPlan tables;
  TablePlace keys, values, gate, response;
  size_t sums_bytes, workspace;
};

template <typename T>
ForwardPlan forward_plan(const Sizes& s, bool given) {
  ForwardPlan plan{};
  plan.tables.sizes = s;
  plan.keys = plan.tables.add(Source::keys, false);
  plan.values = plan.tables.add(Source::values, true);
  if (s.R > 1) {
    plan.gate = plan.tables.add(Source::gate, true);
    plan.response = plan.tables.add(Source::response, true);
  }
  plan.sums_bytes = given ? 0 : round_up_256(s.B * mean_chunks(s) * s.C * sizeof(float));
  plan.workspace = plan.sums_bytes + round_up_256(plan.tables.numbers * sizeof(T));
  return plan;
}

template <typename T>
size_t general_forward_workspace(const ForwardArguments& a) {
  return forward_plan<T>(a.sizes, a.options.given).workspace;
}

template <typename T>
const char* launch_forward_tiles(const ForwardArguments& a, const ForwardPlan& plan, const T* tables, void* stream) {
  const Sizes& s = a.sizes;
  const int64_t image = s.B * s.C * s.N, scores = s.B * s.T * s.N;
  const MemoryLayout layout = memory_layout(s);
  const bool wide = lines_are_wide<T>(s, a.channels_last, a.inputs[kImage]) &&
                    lines_are_wide<T>(s, a.channels_last, a.out);
  const GeneralShape g = general_shape<T>(s, a.channels_last, wide, [](const GeneralShape& shape) {
    return forward_shared(shape).size;
  });
  const ForwardShared shared = forward_shared(g);
  const int tiles = static_cast<int>((s.N + g.tile.positions - 1) / g.tile.positions);
  const GeneralForward<T> p{.image = view(static_cast<const T*>(a.inputs[kImage]), image),
                            .out = view(static_cast<T*>(a.out), image),
                            .attention = view(static_cast<T*>(a.attention), scores),
                            .memory = view(static_cast<const float*>(a.memory), s.B * layout.size),
                            .tables = view(tables, plan.tables.numbers),
                            .gate_bias = gate_bias<T>(a),
                            .mask = view(a.mask, s.B * s.T),
                            .keys = plan.keys,
                            .values = plan.values,
                            .gate = plan.gate,
                            .response = plan.response,
                            .tile = g.tile,
                            .shared = shared,
                            .slots = g.slots,
                            .tiles = tiles,
                            .memory_size = layout.size,
                            .response_offset = layout.response,
                            .slot_pitch = g.slot_pitch,
                            .score_pitch = g.score_pitch,
                            .wide_attention = lines_are_wide<T>(s, false, a.attention),
                            .gated = s.R > 0};
  const Launch how{s.B * tiles, kGeneralThreads, 1, shared.size, stream};
  if (s.R > 1) {
    return a.channels_last ? launch<general_forward_tiles<T, true, true>>(how, p)
                           : launch<general_forward_tiles<T, true, false>>(how, p);
  }
  return a.channels_last ? launch<general_forward_tiles<T, false, true>>(how, p)
                         : launch<general_forward_tiles<T, false, false>>(how, p);
}

template <typename T>
const char* general_forward(const ForwardArguments& a, void* stream) {
  const Sizes& s = a.sizes;
  const ForwardPlan plan = forward_plan<T>(s, a.options.given);
  float* sums = static_cast<float*>(a.workspace);
  T* tables = reinterpret_cast<T*>(static_cast<char*>(a.workspace) + plan.sums_bytes);
  if (a.options.given) {
    if (const char* error = take_given_memory<T>(a, stream)) return error;
  } else {
    if (const char* error = launch_mean<T>(a, sums, stream)) return error;
    if (const char* error = memory_forward<T>(a, sums, mean_chunks(s), stream)) return error;
  }
  if (const char* error = launch_pack_tables<T>(plan.tables, a, tables, stream)) return error;
  return launch_forward_tiles<T>(a, plan, tables, stream);
}

}  // namespace kvmem::cuda
