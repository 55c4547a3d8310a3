// The backward pass in one launch for everything that has positions: a cluster of blocks an image.
//
// Each group of warps works through its tiles of h and dout, and keeps dh of the last ones in shared memory, since the
// mean's gradient, which is added to all of it, is known only once the image's sums are complete (cluster/reduction.cuh).
// The earlier tiles' dh goes out at once and is read again from the second-level cache. A second launch makes the
// gradients of parameters and words from what the first leaves of each image (memory/products.cuh).
#pragma once

#include "cuda/cluster/plan.cuh"
#include "cuda/cluster/reduction.cuh"
#include "cuda/memory/products.cuh"

namespace kvmem::cuda {

// A group's slots: `kept` for tiles of h, in place of which dh is written, the others for tiles of dout.
template <typename T>
struct BackwardTiles {
  GroupTiles<T> tiles;
  int kept, ahead;

  KVMEM_DEVICE View<T> image(int slot) const { return tiles.memory + slot * kTileNumbers; }
  KVMEM_DEVICE View<T> grad(int slot) const { return image(kept + slot); }
  // The slot `n` further on, of so many: tiles take them in turn, and a division takes longer than that.
  static KVMEM_DEVICE int turn(int slot, int n, int slots) {
    return slot + n < slots ? slot + n : slot + n - slots;
  }
};

// All tiles but two of dout for h, or as many as there are; as many tiles ahead as both kinds have room for.
template <typename T>
KVMEM_DEVICE BackwardTiles<T> split_slots(const GroupTiles<T>& tiles, int group_tiles) {
  int kept = tiles.slots > 3 ? tiles.slots - 2 : 1;
  kept = kept < group_tiles ? kept : group_tiles;
  const int grads = tiles.slots - kept;
  return {tiles, kept, kept < grads ? kept : grads};
}

template <typename T, int kSlotBlocks, bool kChannelsLast, bool kAttention>
struct BackwardPass {
  ImagePlane<const T, kChannelsLast> image, grad_out;
  ImagePlane<T, kChannelsLast> grad_image;
  TileInputs<T> inputs;
  GradientTables<T, kSlotBlocks> tables;
  View<T> ds, read;  // the group's exchange
  bool image_wanted, sums_wanted, mean_wanted;
};

template <bool kChannelsLast, bool kAttention, int kSlotBlocks, typename T>
KVMEM_DEVICE void backward_tile(const BackwardPass<T, kSlotBlocks, kChannelsLast, kAttention>& pass, View<T> image,
                                View<T> grad, int start, WarpSums<kSlotBlocks>& sums) {
  const int position = kWarpPositions * group_warp();
  Left<T> h[kChannelBlocks], dout[kChannelBlocks], ds[kSlotBlocks], read[kSlotBlocks];
  float gate[2];
  load_positions<kChannelsLast>(image, position, h);
  load_positions<kChannelsLast>(grad, position, dout);
  address_backward<kAttention>(pass.inputs, pass.tables, start + position, h, dout, ds, read, gate, sums.response);
  if (pass.sums_wanted) {
    store_columns<kSlotBlocks>(ds, pass.ds);
    store_columns<kSlotBlocks>(read, pass.read);
  }
  if (pass.image_wanted) image_backward(pass.tables.key_rows, ds, gate, dout);
  if (pass.sums_wanted) {
    barrier_of_group();
    add_products<kChannelsLast>(image, pass.ds, sums.keys);
    add_products<kChannelsLast>(grad, pass.read, sums.values);
    // dh takes the place of h, which others of the group may still be reading.
    barrier_of_group();
  }
  if (pass.image_wanted) store_positions<kChannelsLast>(dout, position, image);
}

// Starts copying a tile of h and one of dout into these slots, if there is such a tile.
template <typename T, bool kChannelsLast>
KVMEM_DEVICE void load_tiles(const BackwardTiles<T>& slots, const ImagePlane<const T, kChannelsLast>& h,
                             const ImagePlane<const T, kChannelsLast>& grad_out, int tile, int image, int grad) {
  if (tile < slots.tiles.count) {
    load_tile(h, slots.tiles.position(tile), slots.image(image));
    load_tile(grad_out, slots.tiles.position(tile), slots.grad(grad));
  }
  commit_copies();
}

// The first tiles are on their way.
template <bool kChannelsLast, bool kAttention, int kSlotBlocks, typename T>
KVMEM_DEVICE void backward_tiles(const BackwardPass<T, kSlotBlocks, kChannelsLast, kAttention>& pass,
                                 const BackwardTiles<T>& slots, WarpSums<kSlotBlocks>& sums) {
  const GroupTiles<T>& tiles = slots.tiles;
  const int grads = tiles.slots - slots.kept;
  int image = 0, grad = 0;
  KVMEM_NO_UNROLL
  for (int tile = 0; tile < tiles.count; ++tile) {
    wait_copies_down_to(slots.ahead - 1);
    barrier_of_group();
    backward_tile<kChannelsLast>(pass, slots.image(image), slots.grad(grad), tiles.position(tile), sums);
    const bool stays = pass.mean_wanted && tile + slots.kept >= tiles.count;
    if (pass.image_wanted && !stays) {
      barrier_of_group();
      store_tile<true>(slots.image(image).template as<const T>(), pass.grad_image, tiles.position(tile));
    }
    // The group is done with dout by one of the barriers, and a thread copies h to where it has just read dh itself.
    load_tiles(slots, pass.image, pass.grad_out, tile + slots.ahead, slots.turn(image, slots.ahead, slots.kept),
               slots.turn(grad, slots.ahead, grads));
    image = slots.turn(image, 1, slots.kept);
    grad = slots.turn(grad, 1, grads);
  }
}

// dh += dr / N: the tiles in shared memory on their way out, the others where they are.
template <bool kChannelsLast, typename T>
KVMEM_DEVICE void add_mean_gradient(const ImagePlane<T, kChannelsLast>& image, const BackwardTiles<T>& slots,
                                    View<const float> mean) {
  const float scale = 1.0f / image.N;
  for (int tile = 0; tile < slots.tiles.count; ++tile) {
    const int start = slots.tiles.position(tile);
    const bool stayed = tile + slots.kept >= slots.tiles.count;
    KVMEM_UNROLL
    for (int vector = 0; vector < ThreadVectors<T>::kCount; ++vector) {
      const int row = ThreadVectors<T>::row(vector), column = ThreadVectors<T>::column();
      if (!image.inside(row, column, start)) continue;
      float x[kTileVector<T>];
      if (stayed) {
        read_numbers<kTileVector<T>>(slots.image(tile % slots.kept).template as<const T>(), place<T>(row, column), x);
      } else {
        read_numbers<kTileVector<T>>(image.at(row, column, start).template as<const T>(), 0, x);
      }
      KVMEM_UNROLL
      for (int i = 0; i < kTileVector<T>; ++i) x[i] += mean[kChannelsLast ? column + i : row] * scale;
      Words4 words;
      KVMEM_UNROLL
      for (int i = 0; i < 4; ++i) {
        if constexpr (sizeof(T) == 4) {
          words.x[i] = bits_of(x[i]);
        } else {
          words.x[i] = pack<T>(x[2 * i], x[2 * i + 1]);
        }
      }
      store16_streaming(image.at(row, column, start), 0, words);
    }
  }
}

// The tables that the pixel pass multiplies by, from the kept memory. Ends with a block barrier.
template <int kSlotBlocks, typename T>
KVMEM_DEVICE GradientTables<T, kSlotBlocks> make_gradient_tables(const ClusterBackward<T>& p, int64_t image) {
  const MemorySide<T>& side = p.side;
  const int slots = side.T_, last = kColumns<kSlotBlocks> - 1;
  const View<const float> kept = p.kept + image * side.layout.size;
  const View<const float> keys = kept + side.layout.keys, values = kept + side.layout.values;
  const View<float> response = shared<float>(p.response, kColumns<kSlotBlocks>);
  const GradientTables<T, kSlotBlocks> tables{
      {shared<T>(p.keys_table, KeysTable<T, kSlotBlocks>::kNumbers)},
      {shared<T>(p.values_table, ValueColumnsTable<T, kSlotBlocks>::kNumbers)},
      {shared<T>(p.key_rows_table, KeyRowsTable<T, kSlotBlocks>::kNumbers)},
      response.template as<const float>(),
      Parameters<T>{side.response_gate_bias, side.wide_weights}[0]};
  const Parameters<T> gate{side.response_gate, side.wide_weights};
  const auto key = [&](int c, int column) {
    if (column == last) return gate[c];
    return column < slots ? keys[c * slots + column] : 0.0f;
  };
  tables.keys.fill(key);
  tables.values.fill([&](int c, int column) { return column < slots ? values[c * slots + column] : 0.0f; });
  tables.key_rows.fill([&](int column, int c) { return key(c, column); });
  for (int i = thread(); i <= last; i += kClusterThreads) {
    response[i] = i < slots ? kept[side.layout.response + i] : 0.0f;
  }
  block_barrier();
  return tables;
}

template <typename T, int kSlotBlocks, bool kChannelsLast, bool kAttention>
KVMEM_DEVICE void cluster_backward_block(const ClusterBackward<T>& p) {
  const Team team{cluster_rank(), cluster_blocks()};
  const int64_t image = block() / team.ranks, numbers = image * kClusterChannels * p.N;
  const bool image_wanted = static_cast<bool>(p.grad_image), sums_wanted = static_cast<bool>(p.gradients);
  const GroupTiles<T> tiles = tiles_of_group<T>(p.tiles, p.N, p.group_tiles, p.tile_slots, team.rank);
  const BackwardTiles<T> slots = split_slots(tiles, p.group_tiles);
  const ImagePlane<const T, kChannelsLast> h{p.image + numbers, p.N}, grad_out{p.grad_out + numbers, p.N};
  // While the tables are made, memory is busy with the first tiles.
  for (int tile = 0; tile < slots.ahead; ++tile) load_tiles(slots, h, grad_out, tile, tile, tile);
  const View<T> exchange = shared<T>(p.exchange, kGroups * 2 * kExchangeNumbers<kSlotBlocks>) +
                           group() * 2 * kExchangeNumbers<kSlotBlocks>;
  const BackwardPass<T, kSlotBlocks, kChannelsLast, kAttention> pass{
      h,
      grad_out,
      {image_wanted ? p.grad_image + numbers : p.grad_image, p.N},
      {kAttention ? p.grad_attention + image * p.side.T_ * p.N : p.grad_attention, p.N,
       held_slots<kSlotBlocks>(p.side, image)},
      make_gradient_tables<kSlotBlocks>(p, image),
      exchange,
      exchange + kExchangeNumbers<kSlotBlocks>,
      image_wanted,
      sums_wanted,
      p.mean_wanted};
  WarpSums<kSlotBlocks> sums{};
  backward_tiles<kChannelsLast>(pass, slots, sums);
  if (!sums_wanted) return;
  // The products' blocks take the multiprocessors that are free, and wait there.
  let_next_launch_begin();
  const View<float> mean = shared<float>(p.reduction.mean, kClusterChannels);
  reduce(p, image, team, sums, mean);
  if (p.mean_wanted) add_mean_gradient(pass.grad_image, slots, mean.template as<const float>());
}

template <typename T, int kSlotBlocks, bool kChannelsLast, bool kAttention>
KVMEM_KERNEL(kClusterThreads, 1) cluster_backward_kernel(KVMEM_PARAMETER(ClusterBackward<T>) p) {
  if constexpr (kClusters) cluster_backward_block<T, kSlotBlocks, kChannelsLast, kAttention>(p);
}

struct ClusterBackwardShared {
  int keys_table, values_table, key_rows_table, response, exchange, tiles;
  ReductionShared reduction;
};

template <typename T, int kSlotBlocks>
ClusterBackwardShared backward_shared_layout(const Sizes& s, int& bytes) {
  constexpr int columns = kColumns<kSlotBlocks>, warps = kClusterThreads / kWarp;
  const int slots = static_cast<int>(s.T), C = kClusterChannels;
  SharedLayout layout;
  ClusterBackwardShared shared{};
  shared.keys_table = layout.take(KeysTable<T, kSlotBlocks>::kBytes);
  shared.values_table = layout.take(ValueColumnsTable<T, kSlotBlocks>::kBytes);
  shared.key_rows_table = layout.take(KeyRowsTable<T, kSlotBlocks>::kBytes);
  // One group's sums are staged when the tables are done with, and dk and dv come when those have been sent.
  shared.reduction.staged = shared.reduction.board = shared.keys_table;
  layout.reach(shared.reduction.staged + C * 2 * columns * 4);
  layout.reach(shared.reduction.board + 2 * C * slots * 4);
  shared.response = layout.take(columns * 4);
  shared.exchange = layout.take(kGroups * 2 * kExchangeNumbers<kSlotBlocks> * sizeof(T));
  // Sums come when the last tile is done with, and what follows them when they are.
  shared.reduction.records = shared.exchange;
  shared.reduction.scratch = shared.exchange;
  layout.reach(shared.exchange + C * 2 * columns * 4);
  layout.reach(shared.exchange + memory_backward_scratch(C, slots, warps) * 4);
  shared.reduction.warp_responses = layout.take(warps * columns * 4);
  shared.reduction.responses = layout.take((kLargestCluster + 1) * columns * 4);
  shared.reduction.gate_parts = layout.take(kLargestCluster * slots * 4);
  shared.reduction.mean = layout.take(C * 4);
  shared.reduction.arrivals = layout.take(2 * sizeof(ByteCounter));
  shared.tiles = layout.bytes;
  bytes = layout.bytes;
  return shared;
}

// Calls body with the kernel for these arguments.
template <typename T, typename Body>
auto with_backward_kernel(const BackwardArguments& a, Body body) {
  return with_slot_blocks<T>(a.sizes, [&](auto blocks) {
    return with_flags(a.channels_last, a.grad_attention != nullptr, [&](auto channels_last, auto attention) {
      return body.template operator()<cluster_backward_kernel<T, blocks, channels_last, attention>, blocks>();
    });
  });
}

template <typename T>
ClusterPlan cluster_backward_plan(const BackwardArguments& a) {
  if (!suits_cluster<T>(a.sizes, a.channels_last, {a.inputs[kImage], a.grad_out, a.gradients[kImage]})) return {};
  return with_backward_kernel<T>(a, [&]<auto kernel, int blocks>() {
    int fixed = 0;
    backward_shared_layout<T, blocks>(a.sizes, fixed);
    const Costs costs{.instructions = sizeof(T) == 2 ? (blocks > kFewSlotBlocks ? 1120 : 887) : 2567,
                      .reads = 2,
                      .writes = 1,
                      .reads_first = false,
                      .slots_a_tile = 2,
                      .serial = 15000};
    return plan_cluster<kernel>(a.sizes, fixed, kTileNumbers * sizeof(T), costs, 1);
  });
}

inline bool wants_mean_gradient(const BackwardArguments& a) { return a.gradients[kImage] && !a.options.detach_mean; }

// Whether anything needs the sums over positions: a parameter, the words, or the image through its mean.
inline bool wants_sums(const BackwardArguments& a) {
  for (int input = kWords; input < kInputs; ++input) {
    if (a.gradients[input]) return true;
  }
  return wants_mean_gradient(a);
}

inline size_t cluster_backward_workspace(const BackwardArguments& a) {
  return wants_sums(a) ? a.sizes.B * gradient_layout(a.sizes).size * sizeof(float) : 0;
}

template <typename T, int kSlotBlocks>
ClusterBackward<T> cluster_backward_parameters(const BackwardArguments& a, const ClusterPlan& plan) {
  const Sizes& s = a.sizes;
  const int64_t image = s.B * s.C * s.N;
  int fixed = 0;
  const ClusterBackwardShared shared = backward_shared_layout<T, kSlotBlocks>(s, fixed);
  float* gradients = wants_sums(a) ? static_cast<float*>(a.workspace) : nullptr;
  return {.side = memory_side<T>(a),
          .out = gradient_layout(s),
          .image = view(static_cast<const T*>(a.inputs[kImage]), image),
          .grad_out = view(static_cast<const T*>(a.grad_out), image),
          .grad_attention = view(static_cast<const T*>(a.grad_attention), s.B * s.T * s.N),
          .grad_image = view(static_cast<T*>(a.gradients[kImage]), image),
          .kept = view(static_cast<const float*>(a.memory), s.B * memory_layout(s).size),
          .gradients = view(gradients, s.B * gradient_layout(s).size),
          .N = static_cast<int>(s.N),
          .group_tiles = plan.group_tiles,
          .tile_slots = plan.tile_slots,
          .mean_wanted = wants_mean_gradient(a),
          .keys_table = shared.keys_table,
          .values_table = shared.values_table,
          .key_rows_table = shared.key_rows_table,
          .response = shared.response,
          .exchange = shared.exchange,
          .tiles = shared.tiles,
          .reduction = shared.reduction};
}

template <typename T>
const char* cluster_backward(const BackwardArguments& a, void* stream) {
  const ClusterPlan plan = cluster_backward_plan<T>(a);
  if (!a.gradients[kImage] && !wants_sums(a)) return nullptr;
  const char* error = with_backward_kernel<T>(a, [&]<auto kernel, int blocks>() {
    const Launch how{a.sizes.B * plan.cluster, kClusterThreads, plan.cluster, plan.shared_bytes, stream};
    return launch<kernel>(how, cluster_backward_parameters<T, blocks>(a, plan));
  });
  if (error || !wants_sums(a)) return error;
  return parameter_gradients<T>(a, static_cast<const float*>(a.workspace), stream, true);
}

}  // namespace kvmem::cuda
