// The backward pass for every shape: positions chunk by chunk, the memory side, the small gradients, the mean's.
#pragma once

#include "cuda/general/gradients.cuh"
#include "cuda/general/image_gradient.cuh"
#include "cuda/general/shape.cuh"
#include "cuda/general/sums.cuh"
#include "cuda/memory/given_backward.cuh"
#include "cuda/memory/products.cuh"

namespace kvmem::cuda {

template <bool kVector, typename T, bool kChannelsLast>
KVMEM_DEVICE void differentiate_tile(const GeneralBackward<T>& p, const BackwardTile<T, kChannelsLast>& x,
                                     ChunkSums sums) {
  const int P = p.tile.positions, channels = p.tile.channels;
  const int item = multiply_channels(warp(), x.h, table_of(p.tables, p.keys, x.b), P, channels, x.scores,
                                     p.score_pitch);
  if constexpr (kVector) {
    block_barrier();
    for_each_row(P, [&](int n) { address_row_again(p, x, n); });
    block_barrier();
    differentiate_gate(p, x);
    block_barrier();
    multiply_gate_gradients(p, x);
    block_barrier();
    for_each_row(P, [&](int n) { differentiate_row_vector(p, x, n); });
    block_barrier();
    if (!sums.numbers) return;
    add_vector_sums(sums, x.h, x.grad, x.weights, x.score_grads, x.dz, p.tile.C, p.slots, P);
  } else {
    multiply_channels(item, x.grad, table_of(p.tables, p.values, x.b), P, channels, x.products, p.score_pitch);
    block_barrier();
    for_each_row(P, [&](int n) { differentiate_row_scalar(p, x, n); });
    block_barrier();
    if (!sums.numbers) return;
    add_scalar_sums(sums, x.h, x.grad, x.weights, x.score_grads, x.share, x.gate_grad, p.tile.C, p.slots, P,
                    p.gated);
  }
}

// One chunk of positions. The next tile's h is under way while dh is computed.
template <typename T, bool kVector, bool kChannelsLast>
KVMEM_KERNEL(kGeneralThreads, (general_blocks<T, kVector>())) general_backward_chunks(
    KVMEM_PARAMETER(GeneralBackward<T>) p) {
  auto x = backward_tile<T, kVector, kChannelsLast>(p);
  const int P = p.tile.positions;
  const View<float> chunk = p.sums ? p.sums + block() * p.layout.size : p.sums;
  const View<float> sums = p.sums && p.sums_in_shared ? shared<float>(p.shared.sums, p.layout.size) : chunk;
  const int64_t first = block() % p.chunks * p.chunk_tiles;
  const auto count = [&](int64_t start) { return static_cast<int>(p.tile.N - start < P ? p.tile.N - start : P); };
  copy_tile_in(p.tile, plane_of(p.tile, p.image, x.b, first * P, count(first * P)), x.h.data);
  for (int i = 0; i < p.chunk_tiles; ++i) {
    x.start = (first + i) * P;
    if (x.start >= p.tile.N) break;
    x.count = count(x.start);
    copy_tile_in(p.tile, plane_of(p.tile, p.grad_out, x.b, x.start, x.count), x.grad.data);
    wait_copies<0>();
    block_barrier();
    differentiate_tile<kVector>(p, x, {sums, p.layout, i == 0});
    block_barrier();
    const int64_t next = x.start + P;
    if (i + 1 < p.chunk_tiles && next < p.tile.N) {
      copy_tile_in(p.tile, plane_of(p.tile, p.image, x.b, next, count(next)), x.h.data);
    }
    if (!p.grad_image) continue;
    differentiate_image<kVector>(p, x);
    block_barrier();
    copy_out(x.grad.data, p.tile.pitch, plane_of(p.tile, p.grad_image, x.b, x.start, x.count));
    block_barrier();
  }
  if (!p.sums || !p.sums_in_shared) return;
  for (int i = thread(); i < p.layout.size; i += kGeneralThreads) chunk[i] = sums[i];
}

inline BackwardShared backward_shared(const GeneralShape& g, bool gate_grad_outside) {
  SharedPlan plan;
  const int tile = tile_numbers(g.tile) * g.number_bytes, P = g.tile.positions;
  BackwardShared s;
  s.image = plan.take(tile);
  s.grad = plan.take(tile);
  s.gate_grad = plan.take(g.R > 1 && !gate_grad_outside ? tile : 0);
  s.weights = plan.take(round_up_16(g.slots) * g.slot_pitch * g.number_bytes);
  s.score_grads = plan.take(round_up_16(g.scores) * g.slot_pitch * g.number_bytes);
  s.scores = plan.take(P * g.score_pitch * 4);
  s.products = plan.take(P * g.score_pitch * 4);
  s.rows = plan.take(3 * P * 4);
  s.sums = s.size = plan.bytes;
  return s;
}

// How a backward pass is cut up and what it keeps in its workspace.
struct BackwardPlan {
  GeneralShape shape;
  BackwardShared shared;
  TablesPlan tables;
  TablePlace keys, keys_back, values, values_out, gate, gate_back, response, response_out;
  bool want_image, want_sums, sums_in_shared;
  int chunks, chunk_tiles;
  int64_t scratch_numbers;
  size_t tables_bytes, sums_bytes, gradients_bytes, parts_bytes, scratch_bytes;
};

inline void plan_backward_tables(const Sizes& s, BackwardPlan& plan) {
  plan.tables.sizes = s;
  plan.keys = plan.tables.add(Source::keys, false);
  plan.values = plan.tables.add(Source::values, false);
  if (plan.want_image) plan.keys_back = plan.tables.add(Source::keys, true);
  if (s.R == 1) return;
  plan.values_out = plan.tables.add(Source::values, true);
  plan.gate = plan.tables.add(Source::gate, true);
  plan.response = plan.tables.add(Source::response, false);
  plan.response_out = plan.tables.add(Source::response, true);
  if (plan.want_image) plan.gate_back = plan.tables.add(Source::gate, false);
}

// About 512 chunks in all, to fill a device, but no chunk that has more sums than numbers in its positions.
inline void plan_chunks(const Sizes& s, BackwardPlan& plan) {
  const int64_t P = plan.shape.tile.positions, tiles = (s.N + P - 1) / P;
  const int64_t wanted = (512 + s.B - 1) / (s.B > 0 ? s.B : 1);
  const int64_t least = (sums_layout(s).size + s.C * P - 1) / (s.C * P);
  const int64_t even = (tiles + wanted - 1) / wanted;
  plan.chunk_tiles = static_cast<int>(even > least ? even : least);
  plan.chunks = static_cast<int>((tiles + plan.chunk_tiles - 1) / plan.chunk_tiles);
}

template <typename T>
BackwardPlan backward_plan(const BackwardArguments& a) {
  const Sizes& s = a.sizes;
  BackwardPlan plan{};
  plan.want_image = a.gradients[kImage] != nullptr;
  plan.want_sums = plan.want_image && !a.options.detach_mean;
  for (int i = kWords; i < kAllInputs; ++i) plan.want_sums = plan.want_sums || a.gradients[i];
  const bool wide = lines_are_wide<T>(s, a.channels_last, a.inputs[kImage]) &&
                    lines_are_wide<T>(s, a.channels_last, a.grad_out) &&
                    lines_are_wide<T>(s, a.channels_last, a.gradients[kImage]);
  plan.shape = general_shape<T>(s, a.channels_last, wide, [](const GeneralShape& g) {
    return backward_shared(g, false).size;
  });
  const bool outside = backward_shared(plan.shape, false).size > kLeastBlockShared;
  plan.shared = backward_shared(plan.shape, outside);
  plan_backward_tables(s, plan);
  plan_chunks(s, plan);
  const int sums = sums_layout(s).size;
  plan.sums_in_shared = plan.shared.size + 4 * sums <= kLeastBlockShared;
  if (plan.want_sums && plan.sums_in_shared) plan.shared.size += 4 * sums;
  plan.scratch_numbers = outside ? s.B * plan.chunks * tile_numbers(plan.shape.tile) : 0;
  plan.tables_bytes = round_up_256(plan.tables.numbers * sizeof(T));
  plan.sums_bytes = plan.want_sums ? round_up_256(s.B * plan.chunks * sums * sizeof(float)) : 0;
  plan.gradients_bytes = plan.want_sums ? round_up_256(s.B * gradient_layout(s).size * sizeof(float)) : 0;
  plan.parts_bytes = plan.want_sums && !a.options.given ? round_up_256(memory_backward_parts(s) * sizeof(float)) : 0;
  plan.scratch_bytes = round_up_256(plan.scratch_numbers * sizeof(T));
  return plan;
}

template <typename T>
size_t general_backward_workspace(const BackwardArguments& a) {
  const BackwardPlan plan = backward_plan<T>(a);
  return plan.tables_bytes + plan.sums_bytes + plan.gradients_bytes + plan.parts_bytes + plan.scratch_bytes;
}

// Where the parts of the workspace lie; null: not wanted.
template <typename T>
struct BackwardWorkspace {
  T* tables;
  float *sums, *gradients, *parts;
  T* scratch;
};

template <typename T>
BackwardWorkspace<T> split_workspace(const BackwardPlan& plan, void* workspace) {
  char* at = static_cast<char*>(workspace);
  const auto take = [&](size_t bytes) { return (at += bytes) - bytes; };
  BackwardWorkspace<T> w{};
  w.tables = reinterpret_cast<T*>(take(plan.tables_bytes));
  if (plan.want_sums) w.sums = reinterpret_cast<float*>(take(plan.sums_bytes));
  if (plan.want_sums) w.gradients = reinterpret_cast<float*>(take(plan.gradients_bytes));
  if (plan.parts_bytes) w.parts = reinterpret_cast<float*>(take(plan.parts_bytes));
  if (plan.scratch_bytes) w.scratch = reinterpret_cast<T*>(take(plan.scratch_bytes));
  return w;
}

template <typename T>
const char* launch_backward_chunks(const BackwardArguments& a, const BackwardPlan& plan,
                                   const BackwardWorkspace<T>& workspace, void* stream) {
  const Sizes& s = a.sizes;
  const int64_t image = s.B * s.C * s.N, scores = s.B * s.T * s.N;
  const MemoryLayout layout = memory_layout(s);
  const GeneralShape& g = plan.shape;
  const GeneralBackward<T> p{.image = view(static_cast<const T*>(a.inputs[kImage]), image),
                             .grad_out = view(static_cast<const T*>(a.grad_out), image),
                             .grad_attention = view(static_cast<const T*>(a.grad_attention), scores),
                             .grad_image = view(static_cast<T*>(a.gradients[kImage]), image),
                             .memory = view(static_cast<const float*>(a.memory), s.B * layout.size),
                             .sums = view(workspace.sums, s.B * plan.chunks * sums_layout(s).size),
                             .scratch = view(workspace.scratch, plan.scratch_numbers),
                             .tables = view(static_cast<const T*>(workspace.tables), plan.tables.numbers),
                             .gate_bias = gate_bias<T>(a),
                             .mask = view(a.mask, s.B * s.T),
                             .keys = plan.keys,
                             .keys_back = plan.keys_back,
                             .values = plan.values,
                             .values_out = plan.values_out,
                             .gate = plan.gate,
                             .gate_back = plan.gate_back,
                             .response = plan.response,
                             .response_out = plan.response_out,
                             .tile = g.tile,
                             .shared = plan.shared,
                             .layout = sums_layout(s),
                             .sums_in_shared = plan.sums_in_shared,
                             .gated = s.R > 0,
                             .slots = g.slots,
                             .scores = g.scores,
                             .chunks = plan.chunks,
                             .chunk_tiles = plan.chunk_tiles,
                             .memory_size = layout.size,
                             .response_offset = layout.response,
                             .slot_pitch = g.slot_pitch,
                             .score_pitch = g.score_pitch};
  const Launch how{s.B * plan.chunks, kGeneralThreads, 1, plan.shared.size, stream};
  if (s.R > 1) {
    return a.channels_last ? launch<general_backward_chunks<T, true, true>>(how, p)
                           : launch<general_backward_chunks<T, true, false>>(how, p);
  }
  return a.channels_last ? launch<general_backward_chunks<T, false, true>>(how, p)
                         : launch<general_backward_chunks<T, false, false>>(how, p);
}

template <typename T>
const char* general_backward(const BackwardArguments& a, void* stream) {
  const BackwardPlan plan = backward_plan<T>(a);
  const BackwardWorkspace<T> w = split_workspace<T>(plan, a.workspace);
  if (!plan.want_image && !plan.want_sums) return nullptr;
  if (const char* error = launch_pack_tables<T>(plan.tables, a, w.tables, stream)) return error;
  if (const char* error = launch_backward_chunks(a, plan, w, stream)) return error;
  if (!plan.want_sums) return nullptr;
  if (a.options.given) {
    if (const char* error = given_memory_backward<T>(a, w.sums, plan.chunks, w.gradients, stream)) return error;
    return gate_gradients<T>(a, w.gradients, stream);
  }
  if (const char* error = memory_backward<T>(a, w.sums, plan.chunks, w.gradients, w.parts, stream)) return error;
  if (const char* error = parameter_gradients<T>(a, w.gradients, stream)) return error;
  if (!plan.want_image || a.options.detach_mean) return nullptr;
  return image_gradient<T>(a, w.gradients, stream);
}

}  // namespace kvmem::cuda
