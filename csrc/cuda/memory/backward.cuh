// From the sums over positions back through values, keys and memory writing, for one image.
//
//   dv_t = φ' ⊙ (Σ_n α_t γ dout + W_g's second half^T Σ_n α_t dz),  dk_t = φ' ⊙ Σ_n ds_t h
//   dm_t = K^T dk_t + V^T dv_t,  dg_t = dm_t ⊙ (φ(W_w w_t + b_w) - φ(W_r r + b_r)), times σ'
//   da_t = φ' ⊙ g_t ⊙ dm_t,  dc = φ' ⊙ Σ_t (1 - g_t) ⊙ dm_t,  dr = W_r^T dc + B^T Σ_t dg_t
//
// As memory/forward.cuh: functions of a team of blocks, with barriers of the team between them.
#pragma once

#include "cuda/memory/forward.cuh"

namespace kvmem::cuda {

constexpr int kSlotGroups = kMaxSlots / kWarp;

// dk_t and dv_t before φ, a channel a warp, a slot a lane. key_sum(c, t) and value_sum(c, t) are the sums over positions;
// put(place in the gradients' layout, number).
template <typename T, typename KeySum, typename ValueSum, typename Put>
KVMEM_DEVICE void read_out_backward(const MemorySide<T>& p, const GradientLayout& out, Team team,
                                    View<const float> kept, View<const float> response, KeySum key_sum,
                                    ValueSum value_sum, Put put) {
  const int warps = block_threads() / kWarp;
  for (int c = team.rank + team.ranks * warp(); c < p.C; c += team.ranks * warps) {
    for (int slot = lane(); slot < p.T_; slot += kWarp) {
      const int at = c * p.T_ + slot;
      float key = key_sum(c, slot), value = value_sum(c, slot);
      for (int r = 0; r < p.R; ++r) {
        value += to_float(p.response_gate[(2 * r + 1) * p.C + c]) * response[r * p.T_ + slot];
      }
      if (p.relu && !(kept[p.layout.keys + at] > 0.0f)) key = 0.0f;
      if (p.relu && !(kept[p.layout.values + at] > 0.0f)) value = 0.0f;
      put(out.keys + at, key);
      put(out.values + at, value);
    }
  }
}

// dm of channel m and one slot a lane: Σ_c K[c, m] dk[c, t] + V[c, m] dv[c, t]. A lane reads the weights of its channel
// and hands them round.
template <typename T>
KVMEM_DEVICE float memory_gradient(const MemorySide<T>& p, View<const float> keys, View<const float> values, int m,
                                   int slot) {
  float sums[4] = {};
  for (int first = 0; first < p.C; first += kWarp) {
    const int c = first + lane();
    const float key = c < p.C ? to_float(p.key[c * p.M + m]) : 0.0f;
    const float value = c < p.C ? to_float(p.value[c * p.M + m]) : 0.0f;
    KVMEM_UNROLL
    for (int i = 0; i < kWarp; ++i) {
      const float key_i = shuffle(key, i), value_i = shuffle(value, i);
      // The last channel again past the end, times zero.
      const int at = (first + i < p.C ? first + i : p.C - 1) * p.T_ + slot;
      sums[i % 2] += key_i * keys[at];
      sums[2 + i % 2] += value_i * values[at];
    }
  }
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

// What one channel of the memory hands back, over the slots.
struct MemoryRow {
  float image;  // Σ_t (1 - g_t) dm_t
  float gate;   // Σ_t of the gate's gradient before σ, where the gate is a vector
};

// Channel m: writes m_t and the gradients of φ(W_w w_t + b_w) and of a vector gate; adds a scalar gate's to gate_sums.
template <typename T>
KVMEM_DEVICE MemoryRow memory_row_backward(const MemorySide<T>& p, const GradientLayout& out, View<const float> kept,
                                           View<const float> keys, View<const float> values, View<float> gradients,
                                           int m, float (&gate_sums)[kSlotGroups]) {
  MemoryRow row{};
  const float image_part = kept[p.layout.image_part + m];
  KVMEM_UNROLL
  for (int group = 0; group < kSlotGroups; ++group) {
    if (group * kWarp >= p.T_) break;
    const int slot = group * kWarp + lane();
    const float dm = memory_gradient(p, keys, values, m, slot < p.T_ ? slot : p.T_ - 1);
    if (slot >= p.T_) continue;
    const int at = m * p.T_ + slot;
    const float word_part = kept[p.layout.word_part + at];
    const float gate = write_gate(p, kept, kept + p.layout.gate_image, m, slot);
    gradients[out.memory + at] = gate * word_part + (1.0f - gate) * image_part;
    gradients[out.word_part + at] = p.relu && !(word_part > 0.0f) ? 0.0f : gate * dm;
    row.image += (1.0f - gate) * dm;
    const float through_gate = dm * (word_part - image_part);
    if (p.G > 1) {
      const float before = p.linear_write_gate ? through_gate : through_gate * gate * (1.0f - gate);
      gradients[out.gate + at] = before;
      row.gate += before;
    } else {
      gate_sums[group] += through_gate;
    }
  }
  return {sum_of_warp(row.image), p.G > 1 ? sum_of_warp(row.gate) : 0.0f};
}

// dm and what follows from it at once, a channel of the memory a warp. send(place in (ranks, T), number) hands this block's
// part of a scalar gate's gradient to the team. scratch (warps, T).
template <typename T, typename Send>
KVMEM_DEVICE void memory_backward_rows(const MemorySide<T>& p, const GradientLayout& out, Team team,
                                       View<const float> kept, View<const float> keys, View<const float> values,
                                       View<float> gradients, View<float> scratch, Send send) {
  const int warps = block_threads() / kWarp;
  float gate_sums[kSlotGroups] = {};
  for (int m = team.rank + team.ranks * warp(); m < p.M; m += team.ranks * warps) {
    const MemoryRow row = memory_row_backward(p, out, kept, keys, values, gradients, m, gate_sums);
    if (lane() != 0) continue;
    gradients[out.image_part + m] = p.relu && !(kept[p.layout.image_part + m] > 0.0f) ? 0.0f : row.image;
    if (p.G > 1) gradients[out.gate_sum + m] = row.gate;
  }
  if (p.G > 1) return;
  KVMEM_UNROLL
  for (int group = 0; group < kSlotGroups; ++group) {
    const int slot = group * kWarp + lane();
    if (slot < p.T_) scratch[warp() * p.T_ + slot] = gate_sums[group];
  }
  block_barrier();
  for (int slot = thread(); slot < p.T_; slot += block_threads()) {
    float sum = 0.0f;
    for (int w = 0; w < warps; ++w) sum += scratch[w * p.T_ + slot];
    send(team.rank * p.T_ + slot, sum);
  }
}

// A scalar gate's gradient before σ, of every slot, and its sum over the slots (returned by warp 0 alone).
template <typename T>
KVMEM_DEVICE float scalar_gate_backward(const MemorySide<T>& p, const GradientLayout& out, Team team,
                                        View<const float> kept, View<float> gradients,
                                        View<const float> gate_parts) {
  float total = 0.0f;
  for (int slot = lane(); slot < p.T_; slot += kWarp) {
    float sum = 0.0f;
    for (int rank = 0; rank < team.ranks; ++rank) sum += gate_parts[rank * p.T_ + slot];
    const float gate = write_gate(p, kept, kept + p.layout.gate_image, 0, slot);
    if (!p.linear_write_gate) sum *= gate * (1.0f - gate);
    if (team.rank == 0) gradients[out.gate + slot] = sum;
    total += sum;
  }
  total = sum_of_warp(total);
  if (team.rank == 0 && lane() == 0) gradients[out.gate_sum] = total;
  return total;
}

// A warp's part of W_r^T dc (and of B^T Σ_t dg_t, where the gate is a vector), for channel c.
template <typename T>
KVMEM_DEVICE float mean_gradient_part(const MemorySide<T>& p, const GradientLayout& out, View<const float> gradients,
                                      int c) {
  constexpr int batch = 8;
  const int warps = block_threads() / kWarp;
  float sums[2] = {};
  for (int first = warp(); first < p.M; first += batch * warps) {
    float weights[batch], parts[batch];
    KVMEM_UNROLL
    for (int i = 0; i < batch; ++i) {
      const int m = first + i * warps;
      weights[i] = m < p.M ? to_float(p.write_image[m * p.C + c]) : 0.0f;
      parts[i] = m < p.M ? gradients[out.image_part + m] : 0.0f;
    }
    KVMEM_UNROLL
    for (int i = 0; i < batch; ++i) sums[0] += weights[i] * parts[i];
    if (p.G == 1) continue;
    for (int m = first; m < p.M && m < first + batch * warps; m += warps) {
      sums[1] += to_float(p.gate_image[m * p.C + c]) * gradients[out.gate_sum + m];
    }
  }
  return sums[0] + sums[1];
}

// dr, by every block for itself, into mean (C): shared memory. scratch (warps, C) and one number more. A barrier of the
// team stands between this and the rows.
template <typename T>
KVMEM_DEVICE void mean_backward(const MemorySide<T>& p, const GradientLayout& out, Team team, View<const float> kept,
                                View<float> gradients, View<const float> gate_parts, View<float> scratch,
                                View<float> mean) {
  const int warps = block_threads() / kWarp;
  for (int first = 0; first < p.C; first += kWarp) {
    const int c = first + lane();
    if (c < p.C) {
      scratch[warp() * p.C + c] = mean_gradient_part(p, out, gradients.template as<const float>(), c);
    }
  }
  if (p.G == 1 && warp() == 0) {
    const float total = scalar_gate_backward(p, out, team, kept, gradients, gate_parts);
    if (lane() == 0) scratch[warps * p.C] = total;
  }
  block_barrier();
  for (int c = thread(); c < p.C; c += block_threads()) {
    float sum = p.G == 1 ? to_float(p.gate_image[c]) * scratch[warps * p.C] : 0.0f;
    for (int w = 0; w < warps; ++w) sum += scratch[w * p.C + c];
    mean[c] = sum;
    if (team.rank == 0) gradients[out.mean + c] = sum;
  }
  block_barrier();
}

// sum(place in the sums' layout) of one image over its chunks.
KVMEM_DEVICE auto chunk_sum(View<const float> sums, int chunks, int size) {
  return [=](int at) {
    float x = 0.0f;
    for (int chunk = 0; chunk < chunks; ++chunk) x += sums[static_cast<int64_t>(chunk) * size + at];
    return x;
  };
}

// The sums that the response gate's gradients and dv are made of.
template <typename T, typename Sum>
KVMEM_DEVICE void sum_gate_chunks(const MemorySide<T>& p, const SumsLayout& from, const GradientLayout& out, Team team,
                                  Sum sum, View<float> gradients) {
  const int member = team.rank * block_threads() + thread(), members = team.ranks * block_threads();
  for (int i = member; i < p.R * p.T_; i += members) gradients[out.response + i] = sum(from.response + i);
  for (int i = member; i < p.R * p.C; i += members) gradients[out.gate_image + i] = sum(from.gate_image + i);
  for (int i = member; i < p.R; i += members) gradients[out.gate_bias + i] = sum(from.gate_bias + i);
}

template <typename T>
struct MemoryBackward {
  MemorySide<T> side;
  Steps steps;
  SumsLayout sums_layout;
  GradientLayout out;
  View<const float> kept;
  View<const float> sums;  // (B, chunks, sums_layout.size)
  View<float> gradients;   // (B, out.size)
  View<float> gate_parts;  // (B, ranks, T): a scalar gate's gradient, of every block of a team
  int chunks;
};

// Shared memory of a block, in numbers: scratch, then the mean's gradient.
KVMEM_BOTH int memory_backward_scratch(int C, int T, int warps) { return warps * (C > T ? C : T) + 1; }

template <typename T>
KVMEM_KERNEL(kMemoryThreads, 1) memory_backward_kernel(KVMEM_PARAMETER(MemoryBackward<T>) p) {
  const MemorySide<T>& side = p.side;
  const Team team = team_of_block();
  const int64_t image = image_of_team();
  const int scratch_size = memory_backward_scratch(side.C, side.T_, block_threads() / kWarp);
  const View<float> scratch = shared<float>(0, scratch_size), mean = shared<float>(4 * scratch_size, side.C);
  const View<const float> kept = p.kept + image * side.layout.size;
  const View<float> gradients = p.gradients + image * p.out.size;
  const View<float> gate_parts = p.gate_parts + image * team.ranks * side.T_;
  const View<const float> written = gradients.template as<const float>();
  const auto sum = chunk_sum(p.sums + image * p.chunks * p.sums_layout.size, p.chunks, p.sums_layout.size);
  if (p.steps.run(0)) sum_gate_chunks(side, p.sums_layout, p.out, team, sum, gradients);
  barrier_between(p.steps);
  if (p.steps.run(1)) {
    with_weights(side, [&](const auto& typed) {
      read_out_backward(
          typed, p.out, team, kept, written + p.out.response,
          [&](int c, int slot) { return sum(p.sums_layout.keys + c * side.T_ + slot); },
          [&](int c, int slot) { return sum(p.sums_layout.values + c * side.T_ + slot); },
          [&](int at, float x) { gradients[at] = x; });
    });
  }
  barrier_between(p.steps);
  if (p.steps.run(2)) {
    with_weights(side, [&](const auto& typed) {
      memory_backward_rows(typed, p.out, team, kept, written + p.out.keys, written + p.out.values, gradients, scratch,
                           [&](int at, float x) { gate_parts[at] = x; });
    });
  }
  barrier_between(p.steps);
  // Every block would come to the same, and nobody asks the others for it.
  if (!p.steps.run(3) || team.rank > 0) return;
  with_weights(side, [&](const auto& typed) {
    mean_backward(typed, p.out, team, kept, gradients, gate_parts.template as<const float>(), scratch, mean);
  });
}

inline int64_t memory_backward_parts(const Sizes& s) { return s.B * kTeamBlocks * s.T; }

// sums (B, chunks, sums_layout(s).size) -> gradients (B, gradient_layout(s).size). gate_parts: memory_backward_parts(s)
// numbers of scratch.
template <typename T>
const char* memory_backward(const BackwardArguments& a, const float* sums, int chunks, float* gradients,
                            float* gate_parts, void* stream) {
  const Sizes& s = a.sizes;
  const MemoryBackward<T> parameters{.side = memory_side<T>(a),
                                     .sums_layout = sums_layout(s),
                                     .out = gradient_layout(s),
                                     .kept = view(static_cast<const float*>(a.memory), s.B * memory_layout(s).size),
                                     .sums = view(sums, s.B * chunks * sums_layout(s).size),
                                     .gradients = view(gradients, s.B * gradient_layout(s).size),
                                     .gate_parts = view(gate_parts, memory_backward_parts(s)),
                                     .chunks = chunks};
  const int C = static_cast<int>(s.C), slots = static_cast<int>(s.T);
  const int shared_bytes = 4 * (memory_backward_scratch(C, slots, kMemoryThreads / kWarp) + C);
  return launch_steps<memory_backward_kernel<T>>(parameters, 0, 4, s.B, shared_bytes, stream);
}

}  // namespace kvmem::cuda
