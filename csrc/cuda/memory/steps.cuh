// Kernels of the memory side that work in steps, in a launch of their own: a team of blocks shares an image.
//
// Where there are clusters of blocks, a team is one, and a barrier of it stands between the steps of one launch. Elsewhere
// every step is a launch, and a team any blocks.
#pragma once

#include "cuda/memory/side.cuh"

namespace kvmem::cuda {

constexpr int kMemoryThreads = 256;
constexpr int kTeamBlocks = 8;

struct Steps {
  int first, end;  // those that a launch runs
  bool together;   // all in one launch

  KVMEM_DEVICE bool run(int step) const { return first <= step && step < end; }
};

KVMEM_DEVICE Team team_of_block() { return {static_cast<int>(block() % kTeamBlocks), kTeamBlocks}; }
KVMEM_DEVICE int64_t image_of_team() { return block() / kTeamBlocks; }

// Between steps: what the team has written to global memory, and to its members' shared memory, is there for all of it.
KVMEM_DEVICE void barrier_between(const Steps& steps) {
  if (steps.together) cluster_barrier();
}

// Runs steps [first, end) of a kernel for all images; `parameters` has `steps`.
template <auto kernel, typename Parameters>
const char* launch_steps(Parameters parameters, int first, int end, int64_t images, int shared_bytes, void* stream) {
  const int64_t blocks = images * kTeamBlocks;
  const Launch cluster{blocks, kMemoryThreads, kTeamBlocks, shared_bytes, stream};
  if (device().capability >= 90 && clusters_that_fit<kernel>(cluster) > 0) {
    parameters.steps = {first, end, true};
    return launch<kernel>(cluster, parameters);
  }
  for (int step = first; step < end; ++step) {
    parameters.steps = {step, step + 1, false};
    const Launch alone{blocks, kMemoryThreads, 1, shared_bytes, stream};
    if (const char* error = launch<kernel>(alone, parameters)) return error;
  }
  return nullptr;
}

}  // namespace kvmem::cuda
