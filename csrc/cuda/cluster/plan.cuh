// How the cluster path cuts its work: blocks an image, tiles a group of warps, and how many of them stay on chip.
#pragma once

#include <type_traits>

#include "cuda/cluster/table.cuh"

namespace kvmem::cuda {

constexpr int kLargestCluster = 16;
// Up to 23 slots, the scalar gate and one block of 8 columns less to multiply by; up to 32 slots.
constexpr int kFewSlotBlocks = 3, kManySlotBlocks = 5;
constexpr int kFewSlots = 8 * kFewSlotBlocks - 1, kManySlots = kWarp;

struct ClusterPlan {
  bool fits;
  int cluster;        // blocks an image
  int group_tiles;    // tiles a group of warps
  int tile_slots;     // of them, that a group holds at a time
  int shared_bytes;   // of a block
};

inline int divide_up(int64_t n, int64_t d) { return static_cast<int>((n + d - 1) / d); }

// Calls body with the number of slot blocks that T slots and the gate take, as a constant. Many slots in float32 would
// need more registers than there are: they aren't for this path (suits_cluster).
template <typename T, typename Body>
auto with_slot_blocks(const Sizes& s, Body body) {
  if constexpr (sizeof(T) == 2) {
    if (s.T > kFewSlots) return body(std::integral_constant<int, kManySlotBlocks>{});
  }
  return body(std::integral_constant<int, kFewSlotBlocks>{});
}

// Calls body with both flags as constants: what a loop over positions would otherwise ask at every one of them.
template <typename Body>
auto with_flags(bool first, bool second, Body body) {
  const auto with_second = [&](auto known) {
    return second ? body(known, std::true_type{}) : body(known, std::false_type{});
  };
  return first ? with_second(std::true_type{}) : with_second(std::false_type{});
}

// What both directions ask of the arguments. `vectors`: the tensors that are read and written 16 bytes at a time.
template <typename T, int n>
bool suits_cluster(const Sizes& s, bool channels_last, const void* const (&vectors)[n]) {
  const int64_t most_slots = sizeof(T) == 2 ? kManySlots : kFewSlots;
  bool suits = s.C == kClusterChannels && s.R == 1 && s.T >= 1 && s.T <= most_slots && s.N < (1 << 30);
  suits = suits && s.M <= 2048 && (channels_last || s.N * sizeof(T) % 16 == 0);
  for (const void* vector : vectors) suits = suits && aligned16(vector);
  return suits;
}

// The widest cluster that the image has tiles for and the device runs, whose blocks hold `fixed` bytes beside the tiles
// and as many of `tile_bytes` as they can use. Two blocks share a multiprocessor where that leaves each most of its
// tiles: one computes while the other waits for memory.
template <auto kernel>
ClusterPlan plan_cluster(const Sizes& s, int fixed, int tile_bytes, int slots_a_tile, int most_blocks) {
  const Device chip = device();
  if (chip.capability < 90) return {};
  // What the system takes of a multiprocessor's shared memory for each block.
  constexpr int reserved = 1024;
  const int tiles = divide_up(s.N, kTilePositions);
  ClusterPlan plan{};
  plan.cluster = kLargestCluster;
  while (plan.cluster > 1 && plan.cluster * kGroups >= 2 * tiles) plan.cluster /= 2;
  for (; plan.cluster >= 1; plan.cluster /= 2) {
    plan.group_tiles = divide_up(tiles, plan.cluster * kGroups);
    const int wanted = plan.group_tiles * slots_a_tile;
    for (int blocks = most_blocks; blocks >= 1; --blocks) {
      const int limit = chip.shared / blocks - reserved < chip.block_shared ? chip.shared / blocks - reserved
                                                                           : chip.block_shared;
      const int slots = (limit - fixed) / (kGroups * tile_bytes);
      if (slots < slots_a_tile || (blocks > 1 && 10 * slots < 6 * wanted)) continue;
      plan.tile_slots = slots < wanted ? slots : wanted;
      plan.shared_bytes = fixed + kGroups * plan.tile_slots * tile_bytes;
      const Launch launch{plan.cluster, kClusterThreads, plan.cluster, plan.shared_bytes, nullptr};
      if (clusters_that_fit<kernel>(launch) > 0) {
        plan.fits = true;
        return plan;
      }
    }
  }
  return {};
}

// Hands out shared memory; offsets in bytes.
struct SharedLayout {
  int bytes = 0;

  int take(int n) {
    const int start = bytes;
    bytes += (n + 127) / 128 * 128;
    return start;
  }
  // At least so many bytes so far.
  void reach(int end) {
    if (end > bytes) take(end - bytes);
  }
};

}  // namespace kvmem::cuda
