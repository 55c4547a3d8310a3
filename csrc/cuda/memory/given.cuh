// A memory that is given instead of written: keys and values into the place where the passes over positions read them.
#pragma once

#include "cuda/memory/forward.cuh"

namespace kvmem::cuda {

template <typename T>
struct GivenMemory {
  MemorySide<T> side;
  View<const T> keys, values;  // (B, T, C)
  View<float> kept;
};

// What stands in a slot that holds nothing doesn't matter: zeros take its place.
template <typename T>
KVMEM_KERNEL(kMemoryThreads, 1) given_memory_kernel(KVMEM_PARAMETER(GivenMemory<T>) p) {
  const MemorySide<T>& side = p.side;
  const Team team{cluster_rank(), cluster_blocks()};
  const int64_t image = block() / team.ranks;
  const View<float> kept = p.kept + image * side.layout.size;
  const int member = team.rank * block_threads() + thread(), members = team.ranks * block_threads();
  for (int i = member; i < side.T_ * side.C; i += members) {
    const int slot = i / side.C, at = i % side.C * side.T_ + slot;
    const int64_t from = image * side.T_ * side.C + i;
    const bool held = !side.mask || side.mask[image * side.T_ + slot];
    kept[side.layout.keys + at] = held ? to_float(p.keys[from]) : 0.0f;
    kept[side.layout.values + at] = held ? to_float(p.values[from]) : 0.0f;
  }
  cluster_barrier();
  read_response(side, team, (kept + side.layout.values).template as<const float>(),
                [&](int at, float x) { kept[at] = x; });
}

// Writes a.memory.
template <typename T>
const char* take_given_memory(const ForwardArguments& a, void* stream) {
  const Sizes& s = a.sizes;
  const int64_t numbers = s.B * s.T * s.C;
  const GivenMemory<T> parameters{.side = memory_side<T>(a),
                                  .keys = view(static_cast<const T*>(a.inputs[kKeys]), numbers),
                                  .values = view(static_cast<const T*>(a.inputs[kValues]), numbers),
                                  .kept = view(a.memory, s.B * memory_layout(s).size)};
  const int cluster = memory_cluster<given_memory_kernel<T>>(kMemoryThreads, 0);
  return launch<given_memory_kernel<T>>(Launch{s.B * cluster, kMemoryThreads, cluster, 0, stream}, parameters);
}

}  // namespace kvmem::cuda
