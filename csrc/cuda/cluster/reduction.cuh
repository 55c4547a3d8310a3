// The end of the cluster path's backward pass: sums over the positions of a cluster, then the memory side.
//
// A block adds up its two groups' sums; channel c's go to the block c % ranks of the cluster, which adds up what the
// blocks sent, in their order, and goes on from there (memory/backward.cuh). A cluster's size divides the channels.
// Counters of bytes say when all that is sent has come (cluster/exchange.cuh).
#pragma once

#include "cuda/cluster/gradients.cuh"
#include "cuda/memory/backward.cuh"

namespace kvmem::cuda {

struct ReductionShared {
  int records;         // (C / ranks, ranks, 2 kinds, columns)
  int staged;          // one group's (C, 2 kinds, columns)
  int warp_responses;  // (warps, columns)
  int responses;       // (ranks, columns), then their sum (columns)
  int board;           // dk and dv (2, C, T)
  int gate_parts;      // (ranks, T)
  int scratch;         // of memory/backward.cuh
  int mean;            // (C)
  int arrivals;        // two counters
};

template <typename T>
struct ClusterBackward {
  MemorySide<T> side;
  GradientLayout out;
  View<const T> image, grad_out, grad_attention;
  View<T> grad_image;
  View<const float> kept;
  View<float> gradients;  // (B, out.size), null where no sums are wanted
  int N, group_tiles, tile_slots;
  bool mean_wanted;
  int keys_table, values_table, key_rows_table, response, exchange, tiles;
  ReductionShared reduction;
};

template <int kSlotBlocks>
constexpr int kColumns = 8 * kSlotBlocks;

// Calls body(channel, kind, column, number, next number) for the sums that this lane holds.
template <int kSlotBlocks, typename Body>
KVMEM_DEVICE void for_each_sum(WarpSums<kSlotBlocks>& sums, Body body) {
  KVMEM_UNROLL
  for (int block = 0; block < kSlotBlocks; ++block) {
    KVMEM_UNROLL
    for (int row = 0; row < 2; ++row) {
      const int channel = 16 * group_warp() + lane() / 4 + 8 * row, column = 8 * block + 2 * (lane() % 4);
      body(channel, 0, column, sums.keys[block].x[2 * row], sums.keys[block].x[2 * row + 1]);
      body(channel, 1, column, sums.values[block].x[2 * row], sums.values[block].x[2 * row + 1]);
    }
  }
}

// The second group's sums are added to the first's, and every warp's response sums over its lanes are laid out.
template <int kSlotBlocks, typename T>
KVMEM_DEVICE void add_groups(const ClusterBackward<T>& p, WarpSums<kSlotBlocks>& sums) {
  constexpr int columns = kColumns<kSlotBlocks>;
  const View<float> staged = shared<float>(p.reduction.staged, kClusterChannels * 2 * columns);
  const View<float> responses = shared<float>(p.reduction.warp_responses, kClusterThreads / kWarp * columns);
  const int row = warp() * columns;
  // Where the sums are staged, and where those of other blocks come in, tiles have been worked on.
  block_barrier();
  // So this block's shared memory may be written to, once it has started. Nothing that it wrote is published.
  cluster_arrive_relaxed();
  KVMEM_UNROLL
  for (int i = 0; i < 2 * kSlotBlocks; ++i) {
    float sum = sums.response[i];
    sum += shuffle_xor(sum, 4);
    sum += shuffle_xor(sum, 8);
    sum += shuffle_xor(sum, 16);
    if (lane() < 4) responses[row + i / 2 * 8 + 2 * lane() + i % 2] = sum;
  }
  if (group() == 1) {
    for_each_sum(sums, [&](int channel, int kind, int column, float& x, float& y) {
      (staged + ((channel * 2 + kind) * columns + column)).template as<Float2>()[0] = {x, y};
    });
  }
  block_barrier();
  if (group() == 0) {
    for_each_sum(sums, [&](int channel, int kind, int column, float& x, float& y) {
      const Float2 other = (staged + ((channel * 2 + kind) * columns + column)).template as<Float2>()[0];
      x += other.x;
      y += other.y;
    });
  }
}

// What a block waits for: the sums of its channels and every block's of the response, then all of dk and dv.
struct BackwardArrivals {
  View<ByteCounter> sums, board;
};

template <int kSlotBlocks, typename T>
KVMEM_DEVICE BackwardArrivals expect_arrivals(const ClusterBackward<T>& p, Team team) {
  const View<ByteCounter> counters = shared<ByteCounter>(p.reduction.arrivals, 2);
  if (thread() == 0) {
    expect_bytes(counters, 4 * (2 * kClusterChannels + team.ranks) * kColumns<kSlotBlocks>);
    expect_bytes(counters + 1, 4 * 2 * kClusterChannels * p.side.T_);
  }
  return {counters, counters + 1};
}

// Sends every channel's sums to its block, and the response's to all.
template <int kSlotBlocks, typename T>
KVMEM_DEVICE void send_sums(const ClusterBackward<T>& p, Team team, const BackwardArrivals& arrivals,
                            WarpSums<kSlotBlocks>& sums) {
  constexpr int columns = kColumns<kSlotBlocks>;
  const View<float> records = shared<float>(p.reduction.records, kClusterChannels * 2 * columns);
  const View<float> responses = shared<float>(p.reduction.responses, (team.ranks + 1) * columns);
  const View<float> warp_responses = shared<float>(p.reduction.warp_responses, kClusterThreads / kWarp * columns);
  if (group() == 0) {
    for_each_sum(sums, [&](int channel, int kind, int column, float x, float y) {
      const int at = ((channel / team.ranks * team.ranks + team.rank) * 2 + kind) * columns + column;
      send((records + at).template as<Float2>(), 0, Float2{x, y}, arrivals.sums, channel % team.ranks);
    });
  } else if (group_thread() < columns) {
    float sum = 0.0f;
    for (int w = 0; w < kClusterThreads / kWarp; ++w) sum += warp_responses[w * columns + group_thread()];
    for (int rank = 0; rank < team.ranks; ++rank) {
      send(responses, team.rank * columns + group_thread(), sum, arrivals.sums, rank);
    }
  }
}

// The sums of this block's channels and of the response, over the blocks.
template <int kSlotBlocks>
struct BlockSums {
  View<const float> records, response;
  int ranks;

  // The sum of a kind (0: keys, 1: values) over the cluster, at a channel of this block.
  KVMEM_DEVICE float at(int channel, int kind, int column) const {
    float sum = 0.0f;
    for (int rank = 0; rank < ranks; ++rank) {
      sum += records[((channel / ranks * ranks + rank) * 2 + kind) * kColumns<kSlotBlocks> + column];
    }
    return sum;
  }
};

// Adds up what was sent, and writes the gradients that are such sums. Ends with a block barrier.
template <int kSlotBlocks, typename T>
KVMEM_DEVICE BlockSums<kSlotBlocks> receive_sums(const ClusterBackward<T>& p, Team team, View<float> gradients) {
  constexpr int columns = kColumns<kSlotBlocks>;
  const View<float> responses = shared<float>(p.reduction.responses, (team.ranks + 1) * columns);
  const View<float> total = responses + team.ranks * columns;
  const View<const float> records =
      shared<float>(p.reduction.records, kClusterChannels * 2 * columns).template as<const float>();
  const BlockSums<kSlotBlocks> sums{records, total.template as<const float>(), team.ranks};
  if (thread() < columns) {
    float sum = 0.0f;
    for (int rank = 0; rank < team.ranks; ++rank) sum += responses[rank * columns + thread()];
    total[thread()] = sum;
    if (team.rank == 0 && thread() < p.side.T_) gradients[p.out.response + thread()] = sum;
    if (team.rank == 0 && thread() == columns - 1) gradients[p.out.gate_bias] = sum;
  }
  for (int c = team.rank + team.ranks * thread(); c < kClusterChannels; c += team.ranks * kClusterThreads) {
    gradients[p.out.gate_image + c] = sums.at(c, 0, columns - 1);
  }
  block_barrier();
  return sums;
}

// From every block's sums over its positions to all gradients of the memory side; dr on this block's `mean`.
template <int kSlotBlocks, typename T>
KVMEM_DEVICE void reduce(const ClusterBackward<T>& p, int64_t image, Team team, WarpSums<kSlotBlocks>& warp_sums,
                         View<float> mean) {
  const MemorySide<T>& side = p.side;
  const View<const float> kept = p.kept + image * side.layout.size;
  const View<float> gradients = p.gradients + image * p.out.size;
  const View<float> board = shared<float>(p.reduction.board, 2 * kClusterChannels * side.T_);
  const View<float> gate_parts = shared<float>(p.reduction.gate_parts, team.ranks * side.T_);
  const View<float> scratch =
      shared<float>(p.reduction.scratch, memory_backward_scratch(side.C, side.T_, kClusterThreads / kWarp));
  const BackwardArrivals arrivals = expect_arrivals<kSlotBlocks>(p, team);
  add_groups(p, warp_sums);
  // Every block is done with the memory that now receives.
  cluster_wait();
  send_sums(p, team, arrivals, warp_sums);
  wait_for_bytes(arrivals.sums);
  const BlockSums<kSlotBlocks> sums = receive_sums<kSlotBlocks>(p, team, gradients);
  const auto put = [&](int at, float x) {
    gradients[at] = x;
    for (int rank = 0; rank < team.ranks; ++rank) send(board, at - p.out.keys, x, arrivals.board, rank);
  };
  with_weights(side, [&](const auto& typed) {
    read_out_backward(
        typed, p.out, team, kept, sums.response, [&](int c, int slot) { return sums.at(c, 0, slot); },
        [&](int c, int slot) { return sums.at(c, 1, slot); }, put);
  });
  // All channels are here, this block's too: its warps are done with the records, which the scratch lies over.
  wait_for_bytes(arrivals.board);
  const View<const float> keys = board.template as<const float>();
  with_weights(side, [&](const auto& typed) {
    memory_backward_rows(typed, p.out, team, kept, keys, keys + kClusterChannels * side.T_, gradients, scratch,
                         [&](int at, float x) {
                           for (int rank = 0; rank < team.ranks; ++rank) store_peer(gate_parts, at, rank, x);
                         });
  });
  // Publishes the parts of the gates' gradients in shared memory, and in global memory what dr is the product of.
  cluster_barrier();
  with_weights(side, [&](const auto& typed) {
    mean_backward(typed, p.out, team, kept, gradients, gate_parts.template as<const float>(), scratch, mean);
  });
}

}  // namespace kvmem::cuda
