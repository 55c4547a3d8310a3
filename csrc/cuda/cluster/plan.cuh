// How the cluster path cuts its work: blocks an image, tiles a group of warps, and how many of them stay on chip.
#pragma once

#include <array>
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
inline int64_t larger_of(int64_t x, int64_t y) { return x > y ? x : y; }

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

// What a direction costs, as far as a plan's choice depends on it.
struct Costs {
  int instructions;   // of a warp for its 16 positions (tests/cuda reads them off the machine code)
  int reads, writes;  // images that are read and written
  bool reads_first;   // all of the image, before anything is computed
  int slots_a_tile;   // of shared memory
  int serial;         // clocks of what comes before and after the tiles, of which nothing runs beside the tiles
};

// Bytes of global memory a clock and multiprocessor: an H100's 3.35 TB/s, over 132 at 1.75 GHz.
constexpr int kBytesAClock = 14;

// How long a cluster takes for an image, in clocks: not to be trusted by itself, but to compare plans by. Two blocks share a
// multiprocessor's memory and schedulers; each hides half of what the other does alone. `together`: clusters at a time.
inline int64_t time_of_image(const Costs& costs, const ClusterPlan& plan, int blocks, int tile_bytes, int together,
                             int cache) {
  const int64_t bytes = int64_t{kGroups} * tile_bytes / kBytesAClock, steps = plan.group_tiles;
  const int64_t read = costs.reads * bytes, write = costs.writes * bytes;
  // A block's eight warps over four schedulers.
  const int64_t issue = 2 * costs.instructions;
  const int64_t alone = costs.reads_first ? read + larger_of(issue, write) : larger_of(issue, read + write);
  // Where tiles didn't stay, forward reads h again, and backward dh, which it has written: from the second-level cache,
  // which is about twice as fast, if what all clusters have left there is still in it.
  const int64_t gone = larger_of(0, steps - (plan.tile_slots - 2 * (costs.slots_a_tile - 1)));
  const bool cached = 4 * together * plan.cluster * gone * kGroups * tile_bytes <= 3 * int64_t{cache};
  const int64_t again = gone * bytes * (costs.reads_first ? 1 : 2) / (cached ? 2 : 1);
  return costs.serial / blocks + blocks * (steps * alone + again);
}

// Blocks an image, and blocks a multiprocessor, by the least time for all images: clusters that don't fit beside each other
// come one after the other. Large clusters are soon done with one image, small ones leave room for more images.
template <auto kernel>
ClusterPlan choose_plan(const Sizes& s, int fixed, int tile_bytes, const Costs& costs, int most_blocks) {
  const Device chip = device();
  if (chip.capability < 90) return {};
  // What the system takes of a multiprocessor's shared memory for each block.
  constexpr int reserved = 1024;
  const int tiles = divide_up(s.N, kTilePositions);
  ClusterPlan best{};
  int64_t least = 0;
  int cluster = kLargestCluster;
  while (cluster > 1 && cluster * kGroups >= 2 * tiles) cluster /= 2;
  for (; cluster >= 1; cluster /= 2) {
    for (int blocks = most_blocks; blocks >= 1; --blocks) {
      ClusterPlan plan{.fits = true, .cluster = cluster, .group_tiles = divide_up(tiles, cluster * kGroups)};
      const int share = chip.shared / blocks - reserved, limit = share < chip.block_shared ? share : chip.block_shared;
      const int slots = (limit - fixed) / (kGroups * tile_bytes), wanted = plan.group_tiles * costs.slots_a_tile;
      if (slots < costs.slots_a_tile) continue;
      plan.tile_slots = slots < wanted ? slots : wanted;
      plan.shared_bytes = fixed + kGroups * plan.tile_slots * tile_bytes;
      const int together = clusters_that_fit<kernel>({cluster, kClusterThreads, cluster, plan.shared_bytes, nullptr});
      if (together == 0) continue;
      const int64_t time = divide_up(s.B, together) * time_of_image(costs, plan, blocks, tile_bytes, together, chip.cache);
      if (best.fits && time >= least) continue;
      best = plan;
      least = time;
    }
  }
  return best;
}

// A call asks for its plan three times, for the path, the workspace and the launch: the thread's last answer is kept.
template <auto kernel>
ClusterPlan plan_cluster(const Sizes& s, int fixed, int tile_bytes, const Costs& costs, int most_blocks) {
  using Key = std::array<int64_t, 4>;
  thread_local Key last{-1, -1, -1, -1};
  thread_local ClusterPlan plan{};
  const Key key{device_key(), s.B, s.N, fixed};
  if (key != last) {
    plan = choose_plan<kernel>(s, fixed, tile_bytes, costs, most_blocks);
    last = key;
  }
  return plan;
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
