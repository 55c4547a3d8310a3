// Packs what the pixel passes multiply with, k, v, u and W_g, as right operands of the tensor cores.
//
// Every pixel block reads all of its image's tables: packed, 16 x 16 numbers are one or two accesses of 16 bytes.
#pragma once

#include "cuda/general/product.cuh"
#include "cuda/memory/types.cuh"

namespace kvmem::cuda {

// Matrices of the memory and of the weights, as (channels, slots) and (R, C).
enum class Source : int {
  keys,      // k (C, T), where the gate is a scalar with W_g's first half as column T
  values,    // v (C, T)
  response,  // u (R, T)
  gate       // W_g's first half (R, C)
};

constexpr int kMaxTables = 8;

struct TableJob {
  Source source;
  bool transposed;
  TablePlace place;
  int64_t images;  // 1 where all images share it
  int depth;       // in units
};

template <typename T>
struct TablesParameters {
  View<const float> memory;
  Parameters<T> response_gate;
  View<T> tables;
  int C, slots, R;
  MemoryLayout layout;
  int count;
  TableJob jobs[kMaxTables];
};

template <typename T>
KVMEM_DEVICE float source_number(const TablesParameters<T>& p, Source source, View<const float> memory, int i, int j) {
  const bool slot = j < p.slots;
  switch (source) {
    case Source::keys:
      if (i < p.C && slot) return memory[p.layout.keys + i * p.slots + j];
      return i < p.C && j == p.slots && p.R == 1 ? p.response_gate[i] : 0.0f;
    case Source::values:
      return i < p.C && slot ? memory[p.layout.values + i * p.slots + j] : 0.0f;
    case Source::response:
      return i < p.R && slot ? memory[p.layout.response + i * p.slots + j] : 0.0f;
    default:
      return i < p.R && j < p.C ? p.response_gate[i * 2 * p.C + j] : 0.0f;
  }
}

// A warp packs one unit of 16 x 16 numbers.
template <typename T>
KVMEM_KERNEL(kGeneralThreads, 1) pack_tables(KVMEM_PARAMETER(TablesParameters<T>) p) {
  int64_t item = block() * kGeneralWarps + warp();
  int index = 0;
  while (index < p.count) {
    const int64_t items = p.jobs[index].images * p.jobs[index].depth * p.jobs[index].place.pairs;
    if (item < items) break;
    item -= items;
    ++index;
  }
  if (index == p.count) return;
  const TableJob job = p.jobs[index];
  const int units = job.depth * job.place.pairs;
  const int64_t b = item / units;
  const int unit = static_cast<int>(item % units);
  const int row = unit / job.place.pairs * 16, column = unit % job.place.pairs * 16;
  const View<const float> memory = p.memory + b * p.layout.size;
  const View<T> table = p.tables + (job.place.first + b * job.place.image_stride + unit * kTableUnit);
  Right<T> x[4];
  KVMEM_UNROLL
  for (int part = 0; part < 4; ++part) {
    const int i = row + part % 2 * 8 + 2 * (lane() % 4), j = column + part / 2 * 8 + lane() / 4;
    const float low = source_number(p, job.source, memory, job.transposed ? j : i, job.transposed ? i : j);
    const float high = source_number(p, job.source, memory, job.transposed ? j : i + 1, job.transposed ? i + 1 : j);
    x[part] = make_right<T>(low, high);
  }
  if constexpr (sizeof(T) == 4) {
    KVMEM_UNROLL
    for (int half = 0; half < 2; ++half) {
      const Right<T>&a = x[2 * half], &b = x[2 * half + 1];
      store16(table, half * (kTableUnit / 2) + lane() * 4,
              Words4{{bits_of(a.x[0]), bits_of(a.x[1]), bits_of(b.x[0]), bits_of(b.x[1])}});
    }
  } else {
    store16(table, lane() * 8, Words4{{x[0].x[0], x[1].x[0], x[2].x[0], x[3].x[0]}});
  }
}

// The tables that a pass wants, planned one after another.
struct TablesPlan {
  Sizes sizes{};
  int count = 0;
  TableJob jobs[kMaxTables] = {};
  int64_t numbers = 0;

  // `source` as right operand: its channels along the depth and its slots (or W_g's columns) along the columns, or
  // `transposed` the other way round.
  TablePlace add(Source source, bool transposed) {
    const int C = static_cast<int>(sizes.C), T = static_cast<int>(sizes.T), R = static_cast<int>(sizes.R);
    const int channels = source == Source::keys || source == Source::values ? C : R;
    const int others = source == Source::gate ? C : T + (source == Source::keys && R == 1);
    const int depth = round_up_16(transposed ? others : channels) / 16;
    const int pairs = round_up_16(transposed ? channels : others) / 16;
    const int64_t images = source == Source::gate ? 1 : sizes.B, size = int64_t{depth} * pairs * kTableUnit;
    const TablePlace place{numbers, source == Source::gate ? 0 : size, pairs};
    jobs[count++] = {source, transposed, place, images, depth};
    numbers += images * size;
    return place;
  }
};

template <typename T, typename Arguments>
const char* launch_pack_tables(const TablesPlan& plan, const Arguments& a, T* tables, void* stream) {
  const Sizes& s = plan.sizes;
  const MemoryLayout layout = memory_layout(s);
  TablesParameters<T> p{view(static_cast<const float*>(a.memory), s.B * layout.size),
                        {parameter_view<T>(a.inputs[kResponseGateWeight], s.R * 2 * s.C, a.wide_weights), a.wide_weights},
                        view(tables, plan.numbers),
                        static_cast<int>(s.C),
                        static_cast<int>(s.T),
                        static_cast<int>(s.R),
                        layout,
                        plan.count,
                        {}};
  for (int i = 0; i < plan.count; ++i) p.jobs[i] = plan.jobs[i];
  const int64_t units = plan.numbers / kTableUnit;
  return launch<pack_tables<T>>(Launch{(units + kGeneralWarps - 1) / kGeneralWarps, kGeneralThreads, 1, 0, stream}, p);
}

}  // namespace kvmem::cuda
