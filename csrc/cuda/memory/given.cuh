// A memory that is given instead of written: keys and values into the place where the passes over positions read them.
#pragma once

#include "cuda/memory/forward.cuh"

namespace kvmem::cuda {

template <typename T>
struct GivenMemory {
  MemorySide<T> side;
  Steps steps;
  Parameters<T> keys, values;  // (B, T, C)
  View<float> kept;
};

// What stands in a slot that holds nothing doesn't matter: zeros take its place.
template <typename T>
KVMEM_KERNEL(kMemoryThreads, 1) given_memory_kernel(KVMEM_PARAMETER(GivenMemory<T>) p) {
  const MemorySide<T>& side = p.side;
  const Team team = team_of_block();
  const int64_t image = image_of_team();
  const View<float> kept = p.kept + image * side.layout.size;
  const int member = team.rank * block_threads() + thread(), members = team.ranks * block_threads();
  const int numbers = p.steps.run(0) ? side.T_ * side.C : 0;
  for (int i = member; i < numbers; i += members) {
    const int slot = i / side.C, at = i % side.C * side.T_ + slot;
    const int64_t from = image * side.T_ * side.C + i;
    const bool held = !side.mask || side.mask[image * side.T_ + slot];
    kept[side.layout.keys + at] = held ? p.keys[from] : 0.0f;
    kept[side.layout.values + at] = held ? p.values[from] : 0.0f;
  }
  barrier_between(p.steps);
  if (!p.steps.run(1)) return;
  with_weights(side, [&](const auto& typed) {
    read_response(typed, team, (kept + side.layout.values).template as<const float>(),
                  [&](int at, float x) { kept[at] = x; });
  });
}

// Writes a.memory.
template <typename T>
const char* take_given_memory(const ForwardArguments& a, void* stream) {
  const Sizes& s = a.sizes;
  const auto slots = [&](int input) {
    return Parameters<T>{parameter_view<T>(a.inputs[input], s.B * s.T * s.C, a.wide_words), a.wide_words};
  };
  const GivenMemory<T> parameters{.side = memory_side<T>(a),
                                  .keys = slots(kKeys),
                                  .values = slots(kValues),
                                  .kept = view(static_cast<float*>(a.memory), s.B * memory_layout(s).size)};
  return launch_steps<given_memory_kernel<T>>(parameters, 0, s.R > 0 ? 2 : 1, s.B, 0, stream);
}

}  // namespace kvmem::cuda
