// The tiles that a group of warps works through, and the shared memory that it has for them.
#pragma once

#include "cuda/cluster/tile.cuh"

namespace kvmem::cuda {

// The tiles of one group of warps: `count` of them, the first at position `start`, `slots` of them in shared memory.
template <typename T>
struct GroupTiles {
  View<T> memory;
  int start, count, slots;

  KVMEM_DEVICE View<T> slot(int i) const { return memory + i % slots * kTileNumbers; }
  KVMEM_DEVICE int position(int tile) const { return start + tile * kTilePositions; }
};

template <typename T>
KVMEM_DEVICE GroupTiles<T> tiles_of_group(int bytes, int N, int group_tiles, int tile_slots, int rank) {
  const View<T> memory = shared<T>(bytes, kGroups * tile_slots * kTileNumbers) + group() * tile_slots * kTileNumbers;
  const int64_t first = static_cast<int64_t>(rank * kGroups + group()) * group_tiles * kTilePositions;
  const int start = first < N ? static_cast<int>(first) : N;
  const int left = (N - start + kTilePositions - 1) / kTilePositions;
  return {memory, start, left < group_tiles ? left : group_tiles, tile_slots};
}

}  // namespace kvmem::cuda
