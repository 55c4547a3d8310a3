// What the blocks of a cluster do together before the forward pass over their tiles: the mean, the memory, the tables.
//
// They send numbers into each other's shared memory, where a counter of bytes says when all have come: no barrier of the
// cluster stands between a number and those who read it. What they wrote of the words goes through global memory, published
// by their first arrival at the cluster, which is long past when the image is there.
#pragma once

#include "cuda/cluster/addressing.cuh"
#include "cuda/cluster/group.cuh"
#include "cuda/memory/forward.cuh"

namespace kvmem::cuda {

struct ClusterForwardShared {
  int keys_table, values_table, response, board, sums, words, mean_parts, mean, image_part, gate_image, arrivals, tiles;
};

// Weights in W: with both types in one kernel the loop over positions would have to spill registers.
template <typename T, typename W>
struct ClusterForward {
  MemorySide<W, T> side;
  View<const T> image;
  View<T> out, attention;
  View<float> mean, kept;
  int N, group_tiles, tile_slots;
  ClusterForwardShared shared;
};

// body(the memory side, with words in their type).
template <typename T, typename W, typename Body>
KVMEM_DEVICE void with_words_of(const ClusterForward<T, W>& p, Body body) {
  if constexpr (std::is_same_v<T, W>) {
    body(p.side);
  } else {
    with_words(p.side, body);
  }
}

// v_t as rows.
template <typename T, int kSlotBlocks>
using ValuesTable = ClusterTable<T, kSlotBlocks, kChannelBlocks>;

// What one thread sums: its 16 bytes' channels where a row is a position, its rows where a row is a channel.
template <typename T, bool kChannelsLast>
constexpr int kThreadSums = kChannelsLast ? kTileVector<T> : ThreadVectors<T>::kCount;
constexpr int kMostThreadSums = 8;

template <bool kChannelsLast, typename T, int n>
KVMEM_DEVICE void add_tile(View<const T> tile, float (&sums)[n]) {
  using Vectors = ThreadVectors<T>;
  KVMEM_UNROLL
  for (int i = 0; i < Vectors::kCount; ++i) {
    float x[kTileVector<T>];
    read_numbers<kTileVector<T>>(tile, place<T>(Vectors::row(i), Vectors::column()), x);
    KVMEM_UNROLL
    for (int j = 0; j < kTileVector<T>; ++j) sums[kChannelsLast ? j : i] += x[j];
  }
}

// Reads all tiles of the group, sums them, and leaves the last ones in their slots. Then adds up the block's threads'
// sums, in order: thread c of the block returns Σ_n h_c.
template <bool kChannelsLast, typename T>
KVMEM_DEVICE float sum_tiles(const ImagePlane<const T, kChannelsLast>& image, const GroupTiles<T>& tiles,
                             View<float> scratch) {
  using Vectors = ThreadVectors<T>;
  constexpr int n = kThreadSums<T, kChannelsLast>;
  constexpr int parts = kGroupThreads * n / kClusterChannels;
  float sums[n] = {};
  KVMEM_NO_UNROLL
  for (int tile = 0; tile < tiles.count; ++tile) {
    // No barrier: a thread adds up just what it has copied itself.
    wait_copies_down_to(tiles.slots - 1);
    add_tile<kChannelsLast>(tiles.slot(tile).template as<const T>(), sums);
    if (tile + tiles.slots < tiles.count) {
      load_tile(image, tiles.position(tile + tiles.slots), tiles.slot(tile));
    }
    commit_copies();
  }
  KVMEM_UNROLL
  for (int i = 0; i < n; ++i) {
    const int part = kChannelsLast ? Vectors::row(0) : Vectors::column() / kTileVector<T>;
    const int channel = kChannelsLast ? Vectors::column() + i : Vectors::row(i);
    scratch[(group() * parts + part) * kClusterChannels + channel] = sums[i];
  }
  block_barrier();
  float sum = 0.0f;
  if (thread() < kClusterChannels) {
    for (int part = 0; part < kGroups * parts; ++part) sum += scratch[part * kClusterChannels + thread()];
  }
  return sum;
}

// What a block waits for: every block's part of the mean, then all of k and v.
struct ForwardArrivals {
  View<ByteCounter> mean, memory;
};

template <typename T, typename W>
KVMEM_DEVICE ForwardArrivals expect_arrivals(const ClusterForward<T, W>& p, Team team) {
  const View<ByteCounter> counters = shared<ByteCounter>(p.shared.arrivals, 2);
  if (thread() == 0) {
    expect_bytes(counters, 4 * team.ranks * kClusterChannels);
    expect_bytes(counters + 1, 4 * 2 * kClusterChannels * p.side.T_);
  }
  return {counters, counters + 1};
}

// The mean, of which every block of the cluster has a part: sent to all, then added in the order of the blocks.
template <typename T, typename W>
KVMEM_DEVICE void send_mean(const ClusterForward<T, W>& p, Team team, float sum, const ForwardArrivals& arrivals) {
  const View<float> parts = shared<float>(p.shared.mean_parts, team.ranks * kClusterChannels);
  if (thread() >= kClusterChannels) return;
  for (int rank = 0; rank < team.ranks; ++rank) {
    send(parts, team.rank * kClusterChannels + thread(), sum, arrivals.mean, rank);
  }
}

template <typename T, typename W>
KVMEM_DEVICE void receive_mean(const ClusterForward<T, W>& p, int64_t image, Team team, const ForwardArrivals& arrivals,
                               View<float> mean) {
  const View<float> parts = shared<float>(p.shared.mean_parts, team.ranks * kClusterChannels);
  if (thread() < kClusterChannels) {
    wait_for_bytes(arrivals.mean);
    float total = 0.0f;
    for (int rank = 0; rank < team.ranks; ++rank) total += parts[rank * kClusterChannels + thread()];
    mean[thread()] = total / p.N;
    if (team.rank == 0) p.mean[image * kClusterChannels + thread()] = mean[thread()];
  }
  block_barrier();
}

// What the cluster wrote of the words, φ(W_w w_t + b_w) and A w_t, from global into shared memory.
template <typename W, typename X>
KVMEM_DEVICE void fetch_words(const MemorySide<W, X>& side, View<const float> kept, View<float> words) {
  constexpr int batch = 4;
  const int count = (side.M + side.G) * side.T_;
  for (int first = thread(); first < count; first += batch * kClusterThreads) {
    float x[batch];
    KVMEM_UNROLL
    for (int i = 0; i < batch; ++i) {
      const int at = first + i * kClusterThreads;
      x[i] = at < count ? kept[side.layout.word_part + at] : 0.0f;
    }
    KVMEM_UNROLL
    for (int i = 0; i < batch; ++i) {
      if (first + i * kClusterThreads < count) words[first + i * kClusterThreads] = x[i];
    }
  }
}

// m_t in place of φ(W_w w_t + b_w). Ends with a block barrier.
template <typename W, typename X>
KVMEM_DEVICE void write_memory(const MemorySide<W, X>& side, View<float> words, View<const float> image_part,
                               View<const float> gate_image) {
  for (int i = thread(); i < side.M * side.T_; i += kClusterThreads) {
    const int m = i / side.T_;
    const float gate = write_gate(side, words.template as<const float>(), gate_image, m, i % side.T_);
    words[i] = gate * words[i] + (1.0f - gate) * image_part[m];
  }
  block_barrier();
}

// Memory writing, keys and values, from the words fetched: ends with all of k and v, float32, on this block's board.
template <typename T, typename W>
KVMEM_DEVICE void exchange_memory(const ClusterForward<T, W>& p, Team team, View<float> kept, View<const float> mean,
                                  const ForwardArrivals& arrivals, View<float> board) {
  const MemorySide<W, T>& side = p.side;
  const View<float> image_part = shared<float>(p.shared.image_part, side.M),
                    gate_image = shared<float>(p.shared.gate_image, side.G),
                    words = shared<float>(p.shared.words, (side.M + side.G) * side.T_);
  write_image(side, mean, image_part, gate_image);
  if (team.rank == 0) {
    for (int m = thread(); m < side.M; m += kClusterThreads) kept[side.layout.image_part + m] = image_part[m];
    for (int g = thread(); g < side.G; g += kClusterThreads) kept[side.layout.gate_image + g] = gate_image[g];
  }
  write_memory(side, words, image_part.template as<const float>(), gate_image.template as<const float>());
  const auto put = [&](int at, float x) {
    kept[at] = x;
    for (int rank = 0; rank < team.ranks; ++rank) send(board, at - side.layout.keys, x, arrivals.memory, rank);
  };
  read_out(side, team, [&](int slot) { return [=, &side](int m) { return words[m * side.T_ + slot]; }; }, put);
  // All rows are here, this block's too: its warps are done with the words, whose place the tables take.
  wait_for_bytes(arrivals.memory);
}

// The board's numbers as the tables that the pixel pass multiplies by. Ends with a block barrier.
template <int kSlotBlocks, typename T, typename W>
KVMEM_DEVICE void fill_tables(const ClusterForward<T, W>& p, Team team, View<float> kept, View<const float> board,
                              const KeysTable<T, kSlotBlocks>& keys, const ValuesTable<T, kSlotBlocks>& values,
                              View<float> response) {
  const MemorySide<W, T>& side = p.side;
  const int slots = side.T_;
  const View<const float> value_board = board + kClusterChannels * slots;
  keys.fill([&](int c, int column) {
    if (column == 8 * kSlotBlocks - 1) return to_float(side.response_gate[c]);
    return column < slots ? board[c * slots + column] : 0.0f;
  });
  values.fill([&](int slot, int c) { return slot < slots ? value_board[c * slots + slot] : 0.0f; });
  read_response(side, Team{0, 1}, value_board, [&](int at, float x) {
    response[at - side.layout.response] = x;
    if (team.rank == 0) kept[at] = x;
  });
  for (int i = slots + thread(); i < 8 * kSlotBlocks; i += kClusterThreads) response[i] = 0.0f;
  block_barrier();
}

}  // namespace kvmem::cuda
