// Steps 1 to 3 of the layer for the slots of one image: memory writing, keys, values.
//
//   g_t = σ(A w_t + B r),  m_t = g_t ⊙ φ(W_w w_t + b_w) + (1 - g_t) ⊙ φ(W_r r + b_r)
//   k_t = φ(K m_t + b_k),  v_t = φ(V m_t + b_v),  u_t = W_g's second half times v_t
//
// The steps are functions of a team of blocks, which the general path's kernel below and the cluster path's share. Between
// them stands a barrier of the team.
#pragma once

#include "cuda/memory/steps.cuh"

namespace kvmem::cuda {

// Lane t's result: row · w_{first + t}. Each lane takes some of the D numbers of every word, and reads words in batches.
// There are at most kMost slots.
template <int n, int kMost, typename W, typename X>
KVMEM_DEVICE float row_times_words(const MemorySide<W, X>& p, View<const W> row, View<const X> words, bool held,
                                   int first) {
  constexpr int batch = 4;
  float sums[kWarp] = {};
  for (int d = lane() * n; d - lane() * n < p.D; d += kWarp * n) {
    const bool inside = d < p.D;
    const int at = inside ? d : 0;
    float weight[n];
    read_numbers<n>(row, at, weight);
    KVMEM_UNROLL
    for (int t = 0; t < kMost; t += batch) {
      if (first + t < p.T_) {
        float numbers[batch][n];
        KVMEM_UNROLL
        for (int i = 0; i < batch; ++i) {
          const int slot = first + t + i;
          read_numbers<n>(words, (slot < p.T_ ? slot : p.T_ - 1) * p.D + at, numbers[i]);
        }
        KVMEM_UNROLL
        for (int i = 0; i < batch; ++i) {
          // Selected, not multiplied: what stands in a slot without a word may be NaN.
          const bool used = shuffle(static_cast<int>(held), t + i) != 0 && inside;
          KVMEM_UNROLL
          for (int j = 0; j < n; ++j) sums[t + i] += weight[j] * (used ? numbers[i][j] : 0.0f);
        }
      }
    }
  }
  return transpose_sum(sums);
}

// Asks for what write_words reads, the words and this block's rows of W_w, before anything else queues up for memory.
template <typename W, typename X>
KVMEM_DEVICE void prefetch_words(const MemorySide<W, X>& p, int64_t image, Team team) {
  constexpr int line_of_words = 128 / sizeof(X), line = 128 / sizeof(W);
  const View<const X> words = p.words + image * p.T_ * p.D;
  KVMEM_NO_UNROLL
  for (int i = thread() * line_of_words; i < p.T_ * p.D; i += block_threads() * line_of_words) prefetch(words, i);
  const int warps = block_threads() / kWarp;
  KVMEM_NO_UNROLL
  for (int row = team.rank + team.ranks * warp(); row < p.M; row += team.ranks * warps) {
    KVMEM_NO_UNROLL
    for (int i = lane() * line; i < p.D; i += kWarp * line) prefetch(p.write_word, row * p.D + i);
  }
}

// What needs no mean: φ(W_w w_t + b_w) and A w_t, a row a warp, kMost slots at a time.
template <int kMost, typename W, typename X>
KVMEM_DEVICE void write_words(const MemorySide<W, X>& p, int64_t image, Team team, View<float> kept) {
  constexpr int vector = 16 / (sizeof(W) < sizeof(X) ? sizeof(W) : sizeof(X));
  const View<const X> words = p.words + image * p.T_ * p.D;
  const int warps = block_threads() / kWarp;
  for (int row = team.rank + team.ranks * warp(); row < p.M + p.G; row += team.ranks * warps) {
    const bool writes = row < p.M;
    const int index = writes ? row : row - p.M;
    const View<const W> weight = (writes ? p.write_word : p.gate_word) + index * p.D;
    for (int first = 0; first < p.T_; first += kMost) {
      const int slot = lane() < kMost ? first + lane() : p.T_;
      const bool held = slot < p.T_ && (!p.mask || p.mask[image * p.T_ + slot]);
      const float x = p.whole_vectors ? row_times_words<vector, kMost>(p, weight, words, held, first)
                                      : row_times_words<1, kMost>(p, weight, words, held, first);
      if (slot >= p.T_) continue;
      if (writes) {
        kept[p.layout.word_part + index * p.T_ + slot] = activate(x + to_float(p.write_word_bias[index]), p.relu);
      } else {
        kept[p.layout.gate + index * p.T_ + slot] = x;
      }
    }
  }
}

// What depends on the mean alone: φ(W_r r + b_r) (M) and B r (G), by every block for itself. Ends with a block barrier.
template <typename W, typename X>
KVMEM_DEVICE void write_image(const MemorySide<W, X>& p, View<const float> mean, View<float> image_part,
                              View<float> gate_image) {
  for (int row = thread(); row < p.M + p.G; row += block_threads()) {
    const bool writes = row < p.M;
    const int index = writes ? row : row - p.M;
    const View<const W> weight = (writes ? p.write_image : p.gate_image) + index * p.C;
    const float x = p.whole_vectors ? dot<16 / sizeof(W)>(weight, mean, p.C) : dot<1>(weight, mean, p.C);
    if (writes) {
      image_part[index] = activate(x + to_float(p.write_image_bias[index]), p.relu);
    } else {
      gate_image[index] = x;
    }
  }
  block_barrier();
}

// g_t, of the memory's channel m.
template <typename W, typename X>
KVMEM_DEVICE float write_gate(const MemorySide<W, X>& p, View<const float> kept, View<const float> gate_image, int m,
                              int slot) {
  const int row = p.G > 1 ? m : 0;
  const float x = kept[p.layout.gate + row * p.T_ + slot] + gate_image[row];
  return p.linear_write_gate ? x : sigmoid(x);
}

// m_t of one slot, computed where it is asked for: m(channel).
template <typename W, typename X>
KVMEM_DEVICE auto memory_of_slot(const MemorySide<W, X>& p, View<const float> kept, View<const float> image_part,
                                 View<const float> gate_image, int slot) {
  const float scalar_gate = p.G > 1 ? 0.0f : write_gate(p, kept, gate_image, 0, slot);
  return [=, &p](int m) {
    const float gate = p.G > 1 ? write_gate(p, kept, gate_image, m, slot) : scalar_gate;
    return gate * kept[p.layout.word_part + m * p.T_ + slot] + (1.0f - gate) * image_part[m];
  };
}

// Σ_m row[m] memory(m), in four sums. A lane reads some of the row's numbers, all at once, and hands them round.
template <int n, typename T, typename Memory>
KVMEM_DEVICE float row_times_memory(View<const T> row, int M, Memory memory) {
  float sums[4] = {};
  for (int first = 0; first < M; first += kWarp * n) {
    const int mine = first + lane() * n;
    float weights[n] = {};
    if (mine < M) read_numbers<n>(row, mine, weights);
    for (int from = 0; from < kWarp && first + from * n < M; ++from) {
      KVMEM_UNROLL
      for (int i = 0; i < n; ++i) sums[i % 4] += shuffle(weights[i], from) * memory(first + from * n + i);
    }
  }
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

// k_t and v_t, a row of K or V a warp, a slot a lane. memory(slot) gives m_t as a function of the channel;
// put(place in the layout, number).
template <typename W, typename X, typename Memory, typename Put>
KVMEM_DEVICE void read_out(const MemorySide<W, X>& p, Team team, Memory memory, Put put) {
  const int warps = block_threads() / kWarp;
  for (int row = team.rank + team.ranks * warp(); row < 2 * p.C; row += team.ranks * warps) {
    const bool is_key = row < p.C;
    const int c = is_key ? row : row - p.C;
    const View<const W> weight = (is_key ? p.key : p.value) + c * p.M;
    const float bias = to_float(is_key ? p.key_bias[c] : p.value_bias[c]);
    for (int first = 0; first < p.T_; first += kWarp) {
      const int slot = first + lane();
      const auto m = memory(slot < p.T_ ? slot : p.T_ - 1);
      const float x = p.whole_vectors ? row_times_memory<16 / sizeof(W)>(weight, p.M, m)
                                      : row_times_memory<1>(weight, p.M, m);
      // Lanes without a slot have read, too: who has all numbers that are put may write over what they are made of.
      warp_barrier();
      if (slot >= p.T_) continue;
      put((is_key ? p.layout.keys : p.layout.values) + c * p.T_ + slot, activate(x + bias, p.relu));
    }
  }
}

// u_t = W_g's second half times v_t, values (C, T).
template <typename W, typename X, typename Put>
KVMEM_DEVICE void read_response(const MemorySide<W, X>& p, Team team, View<const float> values, Put put) {
  const int warps = block_threads() / kWarp;
  for (int r = team.rank + team.ranks * warp(); r < p.R; r += team.ranks * warps) {
    const View<const W> weight = p.response_gate + (2 * r + 1) * p.C;
    for (int slot = lane(); slot < p.T_; slot += kWarp) {
      float sums[4] = {};
      int c = 0;
      for (; c + 4 <= p.C; c += 4) {
        KVMEM_UNROLL
        for (int i = 0; i < 4; ++i) sums[i] += to_float(weight[c + i]) * values[(c + i) * p.T_ + slot];
      }
      for (; c < p.C; ++c) sums[0] += to_float(weight[c]) * values[c * p.T_ + slot];
      put(p.layout.response + r * p.T_ + slot, (sums[0] + sums[1]) + (sums[2] + sums[3]));
    }
  }
}

template <typename T>
struct MemoryForward {
  MemorySide<T> side;
  Steps steps;
  View<const float> mean_sums;  // (B, chunks, C)
  View<float> mean, kept;
  int chunks;
  float positions;
};

// The mean, what is written of the words, and what depends on the mean alone, which a team's first block keeps.
template <typename T>
KVMEM_DEVICE void write_step(const MemoryForward<T>& p, int64_t image, Team team, View<float> kept,
                             View<float> image_part, View<float> gate_image) {
  const MemorySide<T>& side = p.side;
  const View<float> mean = shared<float>(0, side.C);
  const View<const float> sums = p.mean_sums + image * p.chunks * side.C;
  for (int c = thread(); c < side.C; c += block_threads()) {
    float sum = 0.0f;
    for (int chunk = 0; chunk < p.chunks; ++chunk) sum += sums[chunk * side.C + c];
    mean[c] = sum / p.positions;
    if (team.rank == 0) p.mean[image * side.C + c] = mean[c];
  }
  with_words(side, [&](const auto& typed) { write_words<kWarp>(typed, image, team, kept); });
  block_barrier();
  with_weights(side, [&](const auto& typed) {
    write_image(typed, mean.template as<const float>(), image_part, gate_image);
  });
  if (team.rank > 0) return;
  for (int m = thread(); m < side.M; m += block_threads()) kept[side.layout.image_part + m] = image_part[m];
  for (int g = thread(); g < side.G; g += block_threads()) kept[side.layout.gate_image + g] = gate_image[g];
}

template <typename T>
KVMEM_KERNEL(kMemoryThreads, 1) memory_forward_kernel(KVMEM_PARAMETER(MemoryForward<T>) p) {
  const MemorySide<T>& side = p.side;
  const Team team = team_of_block();
  const int64_t image = image_of_team();
  const View<float> kept = p.kept + image * side.layout.size;
  const View<const float> written = kept.template as<const float>();
  const View<float> image_part = shared<float>(4 * side.C, side.M),
                    gate_image = shared<float>(4 * (side.C + side.M), side.G);
  const auto put = [&](int at, float x) { kept[at] = x; };
  if (p.steps.run(0)) write_step(p, image, team, kept, image_part, gate_image);
  barrier_between(p.steps);
  if (p.steps.run(1)) {
    // By a launch of its own, the step finds in shared memory nothing that the one before it left there.
    const View<const float> from_image = p.steps.together ? image_part.template as<const float>()
                                                          : written + side.layout.image_part;
    const View<const float> from_gate = p.steps.together ? gate_image.template as<const float>()
                                                         : written + side.layout.gate_image;
    with_weights(side, [&](const auto& typed) {
      const auto memory = [&](int slot) { return memory_of_slot(typed, written, from_image, from_gate, slot); };
      read_out(typed, team, memory, put);
    });
  }
  barrier_between(p.steps);
  if (!p.steps.run(2)) return;
  with_weights(side, [&](const auto& typed) { read_response(typed, team, written + side.layout.values, put); });
}

// mean_sums (B, chunks, C): sums of h over chunks of the positions. Writes a.mean and a.memory.
template <typename T>
const char* memory_forward(const ForwardArguments& a, const float* mean_sums, int chunks, void* stream) {
  const Sizes& s = a.sizes;
  const int64_t kept = memory_layout(s).size;
  const MemoryForward<T> parameters{.side = memory_side<T>(a),
                                    .mean_sums = view(mean_sums, s.B * chunks * s.C),
                                    .mean = view(static_cast<float*>(a.mean), s.B * s.C),
                                    .kept = view(static_cast<float*>(a.memory), s.B * kept),
                                    .chunks = chunks,
                                    .positions = static_cast<float>(s.N)};
  const int shared_bytes = static_cast<int>(4 * (s.C + s.M + s.G));
  return launch_steps<memory_forward_kernel<T>>(parameters, 0, 3, s.B, shared_bytes, stream);
}

}  // namespace kvmem::cuda
