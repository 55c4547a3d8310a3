// The forward pass in one launch: a cluster of blocks an image.
//
// Each block reads its part of h into shared memory, keeping as much as fits, and sums it; the cluster exchanges the sums
// (the mean) and then the keys and values through distributed shared memory; then each block works through its tiles:
//   s_t = k_t · h,  α = softmax_t s,  o = Σ_t α_t v_t,  γ = σ(W_g [h, o] + b_g),  out = (1 - γ) h + γ o
// with positions as the rows of the tensor cores' products: a lane's numbers of the scores are then its numbers of α as
// a left operand, and its numbers of h as a left operand are its numbers of the response.
#pragma once

#include "cluster_plan.cuh"
#include "memory_forward.cuh"

namespace kvmem::cuda {

// What one thread sums: its 16 bytes' channels where a row is a position, its rows where a row is a channel.
template <typename T, bool kChannelsLast>
constexpr int kThreadSums = kChannelsLast ? kTileVector<T> : ThreadVectors<T>::kCount;
constexpr int kMostThreadSums = 8;

struct ClusterForwardShared {
  int keys_table, values_table, response, board, sums, mean_parts, mean, image_part, gate_image, tiles;
};

template <typename T>
struct ClusterForward {
  MemorySide<T> side;
  View<const T> image;
  View<T> out, attention;
  View<float> log_sum_exp, mean, kept;
  int N, group_tiles, tile_slots;
  ClusterForwardShared shared;
};

// k_t as columns, and W_g's first half as the last column.
template <typename T, int kSlotBlocks>
using KeysTable = ClusterTable<T, kChannelBlocks, kSlotBlocks>;
// v_t as rows.
template <typename T, int kSlotBlocks>
using ValuesTable = ClusterTable<T, kSlotBlocks, kChannelBlocks>;

template <typename T, int kSlotBlocks>
ClusterForwardShared forward_shared_layout(const Sizes& s, int cluster, int& bytes) {
  SharedLayout layout;
  ClusterForwardShared shared{};
  shared.keys_table = layout.take(KeysTable<T, kSlotBlocks>::kBytes);
  shared.values_table = layout.take(ValuesTable<T, kSlotBlocks>::kBytes);
  shared.board = layout.take(static_cast<int>(2 * s.C * s.T) * 4);
  // The sums of h are done with before the memory's numbers come.
  shared.sums = shared.keys_table;
  layout.reach(shared.sums + kClusterThreads * kMostThreadSums * 4);
  shared.response = layout.take(8 * kSlotBlocks * 4);
  shared.mean_parts = layout.take(static_cast<int>(cluster * s.C) * 4);
  shared.mean = layout.take(static_cast<int>(s.C) * 4);
  shared.image_part = layout.take(static_cast<int>(s.M) * 4);
  shared.gate_image = layout.take(static_cast<int>(s.G) * 4);
  shared.tiles = layout.bytes;
  bytes = layout.bytes;
  return shared;
}

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
    wait_copies_down_to(tiles.slots - 1);
    barrier_of_group();
    add_tile<kChannelsLast>(tiles.slot(tile).template as<const T>(), sums);
    if (tile + tiles.slots < tiles.count) {
      barrier_of_group();
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

// The mean, of which every block of the cluster has a part: pushed to all, then added in the order of the blocks.
template <typename T>
KVMEM_DEVICE void exchange_mean(const ClusterForward<T>& p, int64_t image, Team team, float sum, View<float> mean) {
  const View<float> parts = shared<float>(p.shared.mean_parts, team.ranks * kClusterChannels);
  if (thread() < kClusterChannels) {
    for (int rank = 0; rank < team.ranks; ++rank) peer(parts, rank)[team.rank * kClusterChannels + thread()] = sum;
  }
  cluster_barrier();
  if (thread() < kClusterChannels) {
    float total = 0.0f;
    for (int rank = 0; rank < team.ranks; ++rank) total += parts[rank * kClusterChannels + thread()];
    mean[thread()] = total / p.N;
    if (team.rank == 0) p.mean[image * kClusterChannels + thread()] = mean[thread()];
  }
  block_barrier();
}

// Memory writing, keys and values: ends with all of k and v, float32, on this block's board.
template <typename T>
KVMEM_DEVICE void exchange_memory(const ClusterForward<T>& p, Team team, View<float> kept, View<const float> mean,
                                  View<float> board) {
  const MemoryLayout& layout = p.side.layout;
  const View<float> image_part = shared<float>(p.shared.image_part, p.side.M),
                    gate_image = shared<float>(p.shared.gate_image, p.side.G);
  write_image(p.side, mean, image_part, gate_image);
  if (team.rank == 0) {
    for (int m = thread(); m < p.side.M; m += kClusterThreads) kept[layout.image_part + m] = image_part[m];
    for (int g = thread(); g < p.side.G; g += kClusterThreads) kept[layout.gate_image + g] = gate_image[g];
  }
  read_out(p.side, team, kept.template as<const float>(), image_part.template as<const float>(),
           gate_image.template as<const float>(), [&](int at, float x) {
             kept[at] = x;
             for (int rank = 0; rank < team.ranks; ++rank) peer(board, rank)[at - layout.keys] = x;
           });
  cluster_barrier();
}

// The board's numbers as the tables that the pixel pass multiplies by. Ends with a block barrier.
template <int kSlotBlocks, typename T>
KVMEM_DEVICE void fill_tables(const ClusterForward<T>& p, Team team, View<float> kept, View<const float> board,
                              const KeysTable<T, kSlotBlocks>& keys, const ValuesTable<T, kSlotBlocks>& values,
                              View<float> response) {
  const MemorySide<T>& side = p.side;
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

// The slots that hold a word, of the columns of scores that this lane holds: bit 2 j + i for column 8 j + 2 (l % 4) + i.
template <int kSlotBlocks, typename T>
KVMEM_DEVICE uint32_t slots_of_lane(const MemorySide<T>& side, int64_t image) {
  uint32_t bits = 0;
  KVMEM_UNROLL
  for (int i = 0; i < 2 * kSlotBlocks; ++i) {
    const int slot = i / 2 * 8 + 2 * (lane() % 4) + i % 2;
    if (slot < side.T_ && (!side.mask || side.mask[image * side.T_ + slot])) bits |= 1u << i;
  }
  return bits;
}

KVMEM_DEVICE float sum_of_quad(float x) {
  x += shuffle_xor(x, 1);
  return x + shuffle_xor(x, 2);
}

KVMEM_DEVICE float largest_of_quad(float x) {
  const float y = shuffle_xor(x, 1), larger = x > y ? x : y, z = shuffle_xor(larger, 2);
  return larger > z ? larger : z;
}

// Scores to α in place, for the lane's position of `row` (0: l / 4, 1: l / 4 + 8). Returns base 2's log-sum-exp.
template <int kSlotBlocks>
KVMEM_DEVICE float softmax(Sum (&scores)[kSlotBlocks], uint32_t slots, int row) {
  constexpr float none = -1e38f;
  float largest = none;
  KVMEM_UNROLL
  for (int i = 0; i < 2 * kSlotBlocks; ++i) {
    const float score = scores[i / 2].x[2 * row + i % 2];
    if (slots >> i & 1 && score > largest) largest = score;
  }
  largest = largest_of_quad(largest) * kLog2E;
  float sum = 0.0f;
  KVMEM_UNROLL
  for (int i = 0; i < 2 * kSlotBlocks; ++i) {
    float& x = scores[i / 2].x[2 * row + i % 2];
    x = slots >> i & 1 ? exp2(x * kLog2E - largest) : 0.0f;
    sum += x;
  }
  sum = sum_of_quad(sum);
  // No slot holds a word: α is 0.
  const float scale = sum > 0.0f ? 1.0f / sum : 0.0f;
  KVMEM_UNROLL
  for (int i = 0; i < 2 * kSlotBlocks; ++i) scores[i / 2].x[2 * row + i % 2] *= scale;
  return largest + log2(sum);
}

template <typename T, int kSlotBlocks>
struct PixelTables {
  KeysTable<T, kSlotBlocks> keys;
  ValuesTable<T, kSlotBlocks> values;
  View<const float> response;
  float gate_bias;
};

// γ of the lane's position of `row`, from its α and its last column of scores, W_g's first half times h.
template <int kSlotBlocks>
KVMEM_DEVICE float response_gate(const Sum (&alpha)[kSlotBlocks], View<const float> response, float kept, int row) {
  float read = 0.0f;
  KVMEM_UNROLL
  for (int i = 0; i < 2 * kSlotBlocks; ++i) {
    read += alpha[i / 2].x[2 * row + i % 2] * response[i / 2 * 8 + 2 * (lane() % 4) + i % 2];
  }
  return sigmoid(sum_of_quad(read) + kept);
}

// The attention, if it was asked for, and the log-sum-exps of the lane's positions n and n + 8.
template <int kSlotBlocks, typename T>
KVMEM_DEVICE void write_addresses(const ClusterForward<T>& p, int image, int n, const Sum (&alpha)[kSlotBlocks],
                                  const float (&log_sum_exp)[2]) {
  KVMEM_UNROLL
  for (int row = 0; row < 2; ++row) {
    const int position = n + 8 * row;
    if (position >= p.N) continue;
    if (lane() % 4 == 0) p.log_sum_exp[static_cast<int64_t>(image) * p.N + position] = log_sum_exp[row];
    if (!p.attention) continue;
    KVMEM_UNROLL
    for (int i = 0; i < 2 * kSlotBlocks; ++i) {
      const int slot = i / 2 * 8 + 2 * (lane() % 4) + i % 2;
      if (slot >= p.side.T_) continue;
      p.attention[(static_cast<int64_t>(image) * p.side.T_ + slot) * p.N + position] = from_float<T>(alpha[i / 2].x[2 * row + i % 2]);
    }
  }
}

// 16 positions of a tile, in place: addresses, values, response.
template <bool kChannelsLast, int kSlotBlocks, typename T>
KVMEM_DEVICE void respond(const ClusterForward<T>& p, int image, View<T> tile, int start, uint32_t slots,
                          const PixelTables<T, kSlotBlocks>& tables) {
  const int position = kWarpPositions * group_warp();
  Left<T> h[kChannelBlocks];
  load_positions<kChannelsLast>(tile, position, h);
  Sum scores[kSlotBlocks] = {};
  tables.keys.multiply_by(h, scores);
  float log_sum_exp[2], gate[2];
  KVMEM_UNROLL
  for (int row = 0; row < 2; ++row) {
    const float kept = shuffle(scores[kSlotBlocks - 1].x[2 * row + 1], lane() | 3) + tables.gate_bias;
    log_sum_exp[row] = softmax(scores, slots, row);
    gate[row] = response_gate(scores, tables.response, kept, row);
  }
  write_addresses(p, image, start + position + lane() / 4, scores, log_sum_exp);
  Left<T> alpha[kSlotBlocks];
  KVMEM_UNROLL
  for (int block = 0; block < kSlotBlocks; ++block) alpha[block] = make_left<T>(scores[block]);
  KVMEM_UNROLL
  for (int block = 0; block < kChannelBlocks; ++block) {
    Sum read = {};
    tables.values.multiply_by(alpha, block, read);
    const Sum image_part = numbers(h[block]);
    KVMEM_UNROLL
    for (int i = 0; i < 4; ++i) read.x[i] = image_part.x[i] + gate[i / 2] * (read.x[i] - image_part.x[i]);
    h[block] = make_left<T>(read);
  }
  store_positions<kChannelsLast>(h, position, tile);
}

// The tiles that stayed in shared memory first, the oldest first; the others take their slots, read a second time.
template <bool kChannelsLast, int kSlotBlocks, typename T>
KVMEM_DEVICE void respond_tiles(const ClusterForward<T>& p, int image, const GroupTiles<T>& tiles,
                                const ImagePlane<const T, kChannelsLast>& in, const ImagePlane<T, kChannelsLast>& out,
                                const PixelTables<T, kSlotBlocks>& tables) {
  const uint32_t slots = slots_of_lane<kSlotBlocks>(p.side, image);
  // The first tile that stayed and its slot: tile i went to slot i modulo the slots.
  int tile = tiles.count > tiles.slots ? tiles.count - tiles.slots : 0, slot = tile % tiles.slots;
  KVMEM_NO_UNROLL
  for (int step = 0; step < tiles.count; ++step) {
    const View<T> memory = tiles.memory + slot * kTileNumbers;
    wait_copies_down_to(tiles.slots - 1);
    barrier_of_group();
    respond<kChannelsLast>(p, image, memory, tiles.position(tile), slots, tables);
    barrier_of_group();
    store_tile(memory.template as<const T>(), out, tiles.position(tile));
    if (step + tiles.slots < tiles.count) {
      barrier_of_group();
      load_tile(in, tiles.position(step), memory);
    }
    commit_copies();
    tile = tile + 1 < tiles.count ? tile + 1 : 0;
    slot = slot + 1 < tiles.slots ? slot + 1 : 0;
  }
}

// Blocks that the registers of a multiprocessor are shared among: two where the numbers are small enough for that.
template <typename T, int kSlotBlocks>
constexpr int kForwardBlocks = sizeof(T) == 2 && kSlotBlocks == kFewSlotBlocks ? 2 : 1;

template <typename T, int kSlotBlocks, bool kChannelsLast>
KVMEM_DEVICE void cluster_forward_block(const ClusterForward<T>& p) {
  const Team team{cluster_rank(), cluster_blocks()};
  const int64_t image = block() / team.ranks, image_numbers = static_cast<int64_t>(kClusterChannels) * p.N;
  const ImagePlane<const T, kChannelsLast> in{p.image + image * image_numbers, p.N};
  const ImagePlane<T, kChannelsLast> out{p.out + image * image_numbers, p.N};
  const View<float> kept = p.kept + image * p.side.layout.size;
  const View<float> board = shared<float>(p.shared.board, 2 * kClusterChannels * p.side.T_);
  const View<float> mean = shared<float>(p.shared.mean, kClusterChannels);
  const View<float> response = shared<float>(p.shared.response, 8 * kSlotBlocks);
  const GroupTiles<T> tiles = tiles_of_group<T>(p.shared.tiles, p.N, p.group_tiles, p.tile_slots, team.rank);
  cluster_arrive();
  KVMEM_NO_UNROLL
  for (int tile = 0; tile < tiles.slots; ++tile) {
    if (tile < tiles.count) load_tile(in, tiles.position(tile), tiles.slot(tile));
    commit_copies();
  }
  // 8 slots at a time: more would need more registers than the rest of the kernel.
  write_words<8>(p.side, image, team, kept);
  const View<float> scratch =
      shared<float>(p.shared.sums, kClusterThreads * kThreadSums<T, kChannelsLast>);
  const float sum = sum_tiles<kChannelsLast>(in, tiles, scratch);
  // The other blocks have started: from here on their shared memory may be written.
  cluster_wait();
  exchange_mean(p, image, team, sum, mean);
  exchange_memory(p, team, kept, mean.template as<const float>(), board);
  const PixelTables<T, kSlotBlocks> tables{{shared<T>(p.shared.keys_table, KeysTable<T, kSlotBlocks>::kNumbers)},
                                           {shared<T>(p.shared.values_table, ValuesTable<T, kSlotBlocks>::kNumbers)},
                                           response.template as<const float>(),
                                           to_float(p.side.response_gate_bias[0])};
  fill_tables<kSlotBlocks>(p, team, kept, board.template as<const float>(), tables.keys, tables.values, response);
  respond_tiles<kChannelsLast>(p, static_cast<int>(image), tiles, in, out, tables);
}

template <typename T, int kSlotBlocks, bool kChannelsLast>
KVMEM_KERNEL(kClusterThreads, (kForwardBlocks<T, kSlotBlocks>)) cluster_forward_kernel(KVMEM_PARAMETER(ClusterForward<T>) p) {
  if constexpr (kClusters) cluster_forward_block<T, kSlotBlocks, kChannelsLast>(p);
}

// Calls body with the kernel for these arguments.
template <typename T, typename Body>
auto with_forward_kernel(const Sizes& s, bool channels_last, Body body) {
  const auto with_blocks = [&](auto blocks) {
    constexpr int n = blocks;
    return channels_last ? body.template operator()<cluster_forward_kernel<T, n, true>, n>()
                         : body.template operator()<cluster_forward_kernel<T, n, false>, n>();
  };
  return with_slot_blocks<T>(s, with_blocks);
}

template <typename T>
ClusterPlan cluster_forward_plan(const ForwardArguments& a) {
  if (!suits_cluster<T>(a.sizes, a.channels_last, {a.inputs[kImage], a.out})) return {};
  return with_forward_kernel<T>(a.sizes, a.channels_last, [&]<auto kernel, int blocks>() {
    int fixed = 0;
    forward_shared_layout<T, blocks>(a.sizes, kLargestCluster, fixed);
    return plan_cluster<kernel>(a.sizes, fixed, kTileNumbers * sizeof(T), 1, kForwardBlocks<T, blocks>);
  });
}

template <typename T>
const char* cluster_forward(const ForwardArguments& a, void* stream) {
  const Sizes& s = a.sizes;
  const ClusterPlan plan = cluster_forward_plan<T>(a);
  const int64_t image = s.B * s.C * s.N;
  return with_forward_kernel<T>(s, a.channels_last, [&]<auto kernel, int blocks>() {
    int fixed = 0;
    const ClusterForward<T> p{memory_side<T>(a),
                              view(static_cast<const T*>(a.inputs[kImage]), image),
                              view(static_cast<T*>(a.out), image),
                              view(static_cast<T*>(a.attention), s.B * s.T * s.N),
                              view(a.log_sum_exp, s.B * s.N),
                              view(static_cast<float*>(a.mean), s.B * s.C),
                              view(a.memory, s.B * memory_layout(s).size),
                              static_cast<int>(s.N),
                              plan.group_tiles,
                              plan.tile_slots,
                              forward_shared_layout<T, blocks>(s, kLargestCluster, fixed)};
    return launch<kernel>(Launch{s.B * plan.cluster, kClusterThreads, plan.cluster, plan.shared_bytes, stream}, p);
  });
}

}  // namespace kvmem::cuda
