// The forward pass in one launch: a cluster of blocks an image.
//
// Each block reads its part of h into shared memory, keeping as much as fits, and sums it; the cluster exchanges the sums
// (the mean) and then the keys and values through distributed shared memory; then each block works through its tiles:
//   s_t = k_t · h,  α = softmax_t s,  o = Σ_t α_t v_t,  γ = σ(W_g [h, o] + b_g),  out = (1 - γ) h + γ o
// with positions as the rows of the tensor cores' products: a lane's numbers of the scores are then its numbers of α as
// a left operand, and its numbers of h as a left operand are its numbers of the response.
#pragma once

#include "cuda/cluster/exchange.cuh"
#include "cuda/cluster/plan.cuh"

namespace kvmem::cuda {

template <typename T, int kSlotBlocks>
ClusterForwardShared forward_shared_layout(const Sizes& s, int& bytes) {
  SharedLayout layout;
  ClusterForwardShared shared{};
  shared.keys_table = layout.take(KeysTable<T, kSlotBlocks>::kBytes);
  shared.values_table = layout.take(ValuesTable<T, kSlotBlocks>::kBytes);
  // The tables are made when the memory is written and read out, and that when the sums of h are done with.
  shared.words = shared.sums = shared.keys_table;
  layout.reach(shared.words + static_cast<int>((s.M + s.G) * s.T) * 4);
  shared.board = layout.take(static_cast<int>(2 * s.C * s.T) * 4);
  layout.reach(shared.sums + kClusterThreads * kMostThreadSums * 4);
  shared.response = layout.take(8 * kSlotBlocks * 4);
  shared.mean_parts = layout.take(static_cast<int>(kLargestCluster * s.C) * 4);
  shared.mean = layout.take(static_cast<int>(s.C) * 4);
  shared.image_part = layout.take(static_cast<int>(s.M) * 4);
  shared.gate_image = layout.take(static_cast<int>(s.G) * 4);
  shared.arrivals = layout.take(2 * sizeof(ByteCounter));
  shared.tiles = layout.bytes;
  bytes = layout.bytes;
  return shared;
}

template <typename T, int kSlotBlocks>
struct PixelTables {
  KeysTable<T, kSlotBlocks> keys;
  ValuesTable<T, kSlotBlocks> values;
  View<const float> response;
  float gate_bias;
};

// The attention of the lane's positions n and n + 8.
template <int kSlotBlocks, typename T, typename W>
KVMEM_DEVICE void write_attention(const ClusterForward<T, W>& p, int image, int n, const Sum (&alpha)[kSlotBlocks]) {
  KVMEM_UNROLL
  for (int row = 0; row < 2; ++row) {
    const int position = n + 8 * row;
    if (position >= p.N) continue;
    KVMEM_UNROLL
    for (int i = 0; i < 2 * kSlotBlocks; ++i) {
      const int slot = i / 2 * 8 + 2 * (lane() % 4) + i % 2;
      if (slot >= p.side.T_) continue;
      const int64_t line = static_cast<int64_t>(image) * p.side.T_ + slot;
      p.attention[line * p.N + position] = from_float<T>(alpha[i / 2].x[2 * row + i % 2]);
    }
  }
}

// 16 positions of a tile, in place: addresses, values, response.
template <bool kChannelsLast, bool kAttention, int kSlotBlocks, typename T, typename W>
KVMEM_DEVICE void respond(const ClusterForward<T, W>& p, int image, View<T> tile, int start, const HeldSlots& slots,
                          const PixelTables<T, kSlotBlocks>& tables) {
  const int position = kWarpPositions * group_warp();
  Left<T> h[kChannelBlocks];
  load_positions<kChannelsLast>(tile, position, h);
  Sum scores[kSlotBlocks] = {};
  tables.keys.multiply_by(h, scores);
  float gate[2];
  KVMEM_UNROLL
  for (int row = 0; row < 2; ++row) {
    const float kept = shuffle(scores[kSlotBlocks - 1].x[2 * row + 1], lane() | 3) + tables.gate_bias;
    softmax(scores, slots, row);
    gate[row] = response_gate(scores, tables.response, kept, row);
  }
  if constexpr (kAttention) write_attention(p, image, start + position + lane() / 4, scores);
  // γ α: the response then takes one multiplication and addition a channel.
  Left<T> share[kSlotBlocks];
  KVMEM_UNROLL
  for (int block = 0; block < kSlotBlocks; ++block) {
    KVMEM_UNROLL
    for (int i = 0; i < 4; ++i) scores[block].x[i] *= gate[i / 2];
    share[block] = make_left<T>(scores[block]);
  }
  KVMEM_UNROLL
  for (int block = 0; block < kChannelBlocks; ++block) {
    Sum read = {};
    tables.values.multiply_by(share, block, read);
    const Sum image_part = numbers(h[block]);
    KVMEM_UNROLL
    for (int i = 0; i < 4; ++i) read.x[i] += (1.0f - gate[i / 2]) * image_part.x[i];
    h[block] = make_left<T>(read);
  }
  store_positions<kChannelsLast>(h, position, tile);
}

// The tiles that stayed in shared memory first, the oldest first; the others take their slots, read a second time.
template <bool kChannelsLast, bool kAttention, int kSlotBlocks, typename T, typename W>
KVMEM_DEVICE void respond_tiles(const ClusterForward<T, W>& p, int image, const GroupTiles<T>& tiles,
                                const ImagePlane<const T, kChannelsLast>& in, const ImagePlane<T, kChannelsLast>& out,
                                const PixelTables<T, kSlotBlocks>& tables) {
  const HeldSlots slots = held_slots<kSlotBlocks>(p.side, image);
  // The first tile that stayed and its slot: tile i went to slot i modulo the slots.
  int tile = tiles.count > tiles.slots ? tiles.count - tiles.slots : 0, slot = tile % tiles.slots;
  KVMEM_NO_UNROLL
  for (int step = 0; step < tiles.count; ++step) {
    const View<T> memory = tiles.memory + slot * kTileNumbers;
    wait_copies_down_to(tiles.slots - 1);
    barrier_of_group();
    respond<kChannelsLast, kAttention>(p, image, memory, tiles.position(tile), slots, tables);
    barrier_of_group();
    store_tile<false>(memory.template as<const T>(), out, tiles.position(tile));
    // A thread copies to where it has just read from itself.
    if (step + tiles.slots < tiles.count) load_tile(in, tiles.position(step), memory);
    commit_copies();
    tile = tile + 1 < tiles.count ? tile + 1 : 0;
    slot = slot + 1 < tiles.slots ? slot + 1 : 0;
  }
}

// Blocks that the registers of a multiprocessor are shared among: two where the numbers are small enough for that.
template <typename T>
constexpr int kForwardBlocks = sizeof(T) == 2 ? 2 : 1;

template <typename T, typename W, int kSlotBlocks, bool kChannelsLast, bool kAttention>
KVMEM_DEVICE void cluster_forward_block(const ClusterForward<T, W>& p) {
  const Team team{cluster_rank(), cluster_blocks()};
  const int64_t image = block() / team.ranks, image_numbers = static_cast<int64_t>(kClusterChannels) * p.N;
  const ImagePlane<const T, kChannelsLast> in{p.image + image * image_numbers, p.N};
  const ImagePlane<T, kChannelsLast> out{p.out + image * image_numbers, p.N};
  const View<float> kept = p.kept + image * p.side.layout.size;
  const View<float> board = shared<float>(p.shared.board, 2 * kClusterChannels * p.side.T_);
  const View<float> mean = shared<float>(p.shared.mean, kClusterChannels);
  const View<float> response = shared<float>(p.shared.response, 8 * kSlotBlocks);
  const GroupTiles<T> tiles = tiles_of_group<T>(p.shared.tiles, p.N, p.group_tiles, p.tile_slots, team.rank);
  const ForwardArrivals arrivals = expect_arrivals(p, team);
  // The copies of the image fill the queue to memory: what is waited for behind them is asked for before them.
  with_words_of(p, [&](const auto& side) { prefetch_words(side, image, team); });
  KVMEM_NO_UNROLL
  for (int tile = 0; tile < tiles.slots; ++tile) {
    if (tile < tiles.count) load_tile(in, tiles.position(tile), tiles.slot(tile));
    commit_copies();
  }
  // 16 slots at a time: more would need more registers than the rest of the kernel.
  with_words_of(p, [&](const auto& side) { write_words<16>(side, image, team, kept); });
  // Publishes this block's part of the words; its fence waits while the image is on its way.
  cluster_arrive();
  const View<float> scratch =
      shared<float>(p.shared.sums, kClusterThreads * kThreadSums<T, kChannelsLast>);
  const float sum = sum_tiles<kChannelsLast>(in, tiles, scratch);
  // The other blocks have started and have written their parts of the words: numbers may be sent to their shared memory, and
  // the words be read.
  cluster_wait();
  send_mean(p, team, sum, arrivals);
  // The words take the place of the sums.
  block_barrier();
  fetch_words(p.side, kept.template as<const float>(),
              shared<float>(p.shared.words, (p.side.M + p.side.G) * p.side.T_));
  receive_mean(p, image, team, arrivals, mean);
  exchange_memory(p, team, kept, mean.template as<const float>(), arrivals, board);
  const PixelTables<T, kSlotBlocks> tables{{shared<T>(p.shared.keys_table, KeysTable<T, kSlotBlocks>::kNumbers)},
                                           {shared<T>(p.shared.values_table, ValuesTable<T, kSlotBlocks>::kNumbers)},
                                           response.template as<const float>(),
                                           to_float(p.side.response_gate_bias[0])};
  fill_tables<kSlotBlocks>(p, team, kept, board.template as<const float>(), tables.keys, tables.values, response);
  respond_tiles<kChannelsLast, kAttention>(p, static_cast<int>(image), tiles, in, out, tables);
}

template <typename T, typename W, int kSlotBlocks, bool kChannelsLast, bool kAttention>
KVMEM_KERNEL(kClusterThreads, kForwardBlocks<T>)
cluster_forward_kernel(KVMEM_PARAMETER(ClusterForward<T, W>) p) {
  if constexpr (kClusters) cluster_forward_block<T, W, kSlotBlocks, kChannelsLast, kAttention>(p);
}

// Calls body with the kernel for weights in W.
template <typename T, typename W, typename Body>
auto with_forward_kernel_of(const ForwardArguments& a, Body body) {
  return with_slot_blocks<T>(a.sizes, [&](auto blocks) {
    return with_flags(a.channels_last, a.attention != nullptr, [&](auto channels_last, auto attention) {
      return body.template operator()<cluster_forward_kernel<T, W, blocks, channels_last, attention>, W, blocks>();
    });
  });
}

// Calls body with the kernel for these arguments, its weights' type and its blocks of slots.
template <typename T, typename Body>
auto with_forward_kernel(const ForwardArguments& a, Body body) {
  if constexpr (sizeof(T) == 2) {
    if (a.wide_weights) return with_forward_kernel_of<T, float>(a, body);
  }
  return with_forward_kernel_of<T, T>(a, body);
}

template <typename T>
ClusterPlan cluster_forward_plan(const ForwardArguments& a) {
  if (!suits_cluster<T>(a.sizes, a.channels_last, {a.inputs[kImage], a.out})) return {};
  return with_forward_kernel<T>(a, [&]<auto kernel, typename W, int blocks>() {
    int fixed = 0;
    forward_shared_layout<T, blocks>(a.sizes, fixed);
    const Costs costs{.instructions = sizeof(T) == 2 ? (blocks > kFewSlotBlocks ? 494 : 394) : 944,
                      .reads = 1,
                      .writes = 1,
                      .reads_first = true,
                      .slots_a_tile = 1,
                      .serial = 10000};
    return plan_cluster<kernel>(a.sizes, fixed, kTileNumbers * sizeof(T), costs, kForwardBlocks<T>);
  });
}

template <typename T>
const char* cluster_forward(const ForwardArguments& a, void* stream) {
  const Sizes& s = a.sizes;
  const ClusterPlan plan = cluster_forward_plan<T>(a);
  const int64_t image = s.B * s.C * s.N;
  return with_forward_kernel<T>(a, [&]<auto kernel, typename W, int blocks>() {
    int fixed = 0;
    const ClusterForward<T, W> p{.side = memory_side<W, T>(a),
                              .image = view(static_cast<const T*>(a.inputs[kImage]), image),
                              .out = view(static_cast<T*>(a.out), image),
                              .attention = view(static_cast<T*>(a.attention), s.B * s.T * s.N),
                              .mean = view(static_cast<float*>(a.mean), s.B * s.C),
                              .kept = view(static_cast<float*>(a.memory), s.B * memory_layout(s).size),
                              .N = static_cast<int>(s.N),
                              .group_tiles = plan.group_tiles,
                              .tile_slots = plan.tile_slots,
                              .shared = forward_shared_layout<T, blocks>(s, fixed)};
    return launch<kernel>(Launch{s.B * plan.cluster, kClusterThreads, plan.cluster, plan.shared_bytes, stream}, p);
  });
}

}  // namespace kvmem::cuda
