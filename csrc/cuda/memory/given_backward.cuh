// Of a memory that is given: from the sums over positions to the gradients of keys and values.
//
//   dk_t = Σ_n ds_t h,  dv_t = Σ_n α_t γ dout + W_g's second half^T Σ_n α_t dz
#pragma once

#include "cuda/memory/backward.cuh"

namespace kvmem::cuda {

template <typename T>
struct GivenMemoryBackward {
  MemorySide<T> side;
  Steps steps;
  SumsLayout sums_layout;
  GradientLayout out;
  View<const float> kept;
  View<const float> sums;        // (B, chunks, sums_layout.size)
  View<float> gradients;         // (B, out.size), of which the response gate's parts are written
  View<T> grad_keys, grad_values;  // (B, T, C); null: not wanted
  int chunks;
};

template <typename T>
KVMEM_KERNEL(kMemoryThreads, 1) given_memory_backward_kernel(KVMEM_PARAMETER(GivenMemoryBackward<T>) p) {
  const MemorySide<T>& side = p.side;
  const Team team = team_of_block();
  const int64_t image = image_of_team(), first = image * side.T_ * side.C;
  const View<const float> sums = p.sums + image * p.chunks * p.sums_layout.size;
  const View<float> gradients = p.gradients + image * p.out.size;
  const auto sum = chunk_sum(sums, p.chunks, p.sums_layout.size);
  if (p.steps.run(0)) sum_gate_chunks(side, p.sums_layout, p.out, team, sum, gradients);
  barrier_between(p.steps);
  if (!p.steps.run(1)) return;
  const auto put = [&](int at, float x) {
    const bool is_key = at < p.out.values;
    const View<T> to = is_key ? p.grad_keys : p.grad_values;
    const int i = at - (is_key ? p.out.keys : p.out.values);
    if (to) put_gradient(to, side.wide_words, first + i % side.T_ * side.C + i / side.T_, x);
  };
  with_weights(side, [&](const auto& typed) {
    read_out_backward(
        typed, p.out, team, p.kept + image * side.layout.size,
        (gradients + p.out.response).template as<const float>(),
        [&](int c, int slot) { return sum(p.sums_layout.keys + c * side.T_ + slot); },
        [&](int c, int slot) { return sum(p.sums_layout.values + c * side.T_ + slot); }, put);
  });
}

// sums (B, chunks, sums_layout(s).size) -> the gradients of keys and values, and what gate_gradients takes.
template <typename T>
const char* given_memory_backward(const BackwardArguments& a, const float* sums, int chunks, float* gradients,
                                  void* stream) {
  const Sizes& s = a.sizes;
  const int64_t numbers = s.B * s.T * s.C;
  const GivenMemoryBackward<T> parameters{.side = memory_side<T>(a),
                                          .sums_layout = sums_layout(s),
                                          .out = gradient_layout(s),
                                          .kept = view(static_cast<const float*>(a.memory), s.B * memory_layout(s).size),
                                          .sums = view(sums, s.B * chunks * sums_layout(s).size),
                                          .gradients = view(gradients, s.B * gradient_layout(s).size),
                                          .grad_keys = gradient_view<T>(a.gradients[kKeys], numbers, a.wide_words),
                                          .grad_values = gradient_view<T>(a.gradients[kValues], numbers, a.wide_words),
                                          .chunks = chunks};
  return launch_steps<given_memory_backward_kernel<T>>(parameters, s.R > 0 ? 0 : 1, 2, s.B, 0, stream);
}

}  // namespace kvmem::cuda
