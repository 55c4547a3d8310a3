// The general path's tile of positions, chosen by the shape alone, so that sums don't depend on the device.
#pragma once

#include "cuda/general/tile.cuh"

namespace kvmem::cuda {

// What every device of compute capability 8.0 and later gives a block, and what lets several blocks share one that has
// more.
constexpr int kLeastBlockShared = 99 * 1024, kWantedBlockShared = 72 * 1024;

constexpr size_t round_up_256(size_t n) { return (n + 255) / 256 * 256; }

struct GeneralShape {
  TileShape tile;
  int slots, R;
  int scores;        // columns of scores: the slots and the scalar gate
  int number_bytes;  // of T
  int slot_pitch;    // of α and ds, positions innermost
  int score_pitch;   // of scores, slots innermost
};

// Hands out shared memory.
struct SharedPlan {
  int bytes = 0;

  int take(int n) {
    const int start = bytes;
    bytes += (n + 15) / 16 * 16;
    return start;
  }
};

// The largest tile whose shared memory, by bytes_of(shape), is small enough. Lines are padded by 16 bytes, so that 8 of
// them one below the other lie in different banks, except where there is no room for that.
template <typename T, typename Bytes>
GeneralShape general_shape(const Sizes& s, bool channels_last, bool wide, Bytes bytes_of) {
  GeneralShape g{};
  g.slots = static_cast<int>(s.T);
  g.R = static_cast<int>(s.R);
  g.scores = g.slots + (g.R == 1);
  g.number_bytes = sizeof(T);
  // An odd multiple of 8, so that the lanes of four positions meet different banks.
  g.score_pitch = (g.scores + 7) / 8 * 8;
  g.score_pitch += g.score_pitch % 16 == 0 ? 8 : 0;
  const auto shape = [&](int positions, int padding) {
    const int channels = round_up_16(static_cast<int>(s.C));
    g.tile = {s.N, static_cast<int>(s.C), channels, positions, (channels_last ? channels : positions) + padding,
              channels_last, wide};
    g.slot_pitch = positions + padding;
    return bytes_of(g);
  };
  constexpr int padding = 16 / sizeof(T);
  // A vector gate's sums over positions are long, so that larger tiles, which add to them less often, matter more.
  const int wanted = g.R > 1 ? kLeastBlockShared : kWantedBlockShared;
  for (int positions = 128; positions > 16; positions /= 2) {
    if (positions < 2 * s.N && shape(positions, padding) <= wanted) return g;
  }
  if (shape(16, padding) > kLeastBlockShared) shape(16, 0);
  return g;
}

}  // namespace kvmem::cuda
