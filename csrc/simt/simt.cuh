// The few device primitives that the kernels in csrc/cuda are written in.
//
// nvcc compiles them to intrinsics (device.cuh; launching: device_launch.cuh). g++ compiles the same kernels against
// host.h, where every thread is a fiber, shared memory starts as NaN, every access is checked against its bounds and
// threads run in a seeded random order: so the tests run the kernels' own source on any machine, and a wrong index or a
// missing barrier fails them.
//
// Both sides define, in namespace kvmem::simt:
//
//   Who am I        thread(), lane(), warp(), block_threads(); block() within the grid; cluster_rank(), cluster_blocks();
//                   kClusters: whether the chip that is compiled for has clusters of more than one block
//   Memory          View<T>: a pointer whose accesses the host checks. v[i], v + n, v.as<U>(); false where null.
//                   view(pointer, count) makes one of global memory, shared<T>(byte, count) one of the block's shared
//                   memory; store_peer(v, i, rank, x): x, of 4 or 8 bytes, to the place of v[i] in the shared memory of
//                   another block of the cluster
//   16 bytes        load16(v, i), store16(v, i, x): one access of 128 bits at v[i], which must be aligned to 16 bytes;
//                   store16_streaming(v, i, x): to global memory that the kernel doesn't read again, so that the caches
//                   give it up first. prefetch(v, i) asks for the line of v[i], of global memory, ahead
//   Asynchronous    copy16_async(to, from, valid): 16 bytes from global to shared memory, zeros if not valid;
//                   commit_copies() closes a group, wait_copies<n>() waits until at most n groups are under way. Only the
//                   thread that copied may read afterwards; the others after a barrier
//   Barriers        warp_barrier(); group_barrier(id, threads): the `threads` threads that name the same id, 1 to 15;
//                   block_barrier(); cluster_barrier(), which cluster_arrive() and cluster_wait() split in two;
//                   cluster_arrive_relaxed() says that the thread has come so far, and is done with reading what others will
//                   write to; it publishes nothing that the thread wrote
//   Between blocks  send(to, i, x, counter, rank): x, of 4 or 8 bytes, becomes to[i] in the shared memory of a block of the
//                   cluster, and is counted there; wait_for_bytes(counter): until all bytes that are expected are there, and
//                   may be read by this thread; expect_bytes(counter, n): by one thread, before the block's first arrival
//                   at the cluster. A counter counts once
//   Launches        wait_for_launch_before(): until all that the launch before this one did is done and can be read, where
//                   this one is `early`; let_next_launch_begin(): this block is as good as done
//   Within a warp   shuffle(x, lane), shuffle_xor(x, mask)
//   Matrices        see matrix_load and below: all lanes of a warp together
//   Numbers         Bfloat16, Float16; to_float(x), from_float<T>(x), pack<T>(low, high), unpack<T>(bits);
//                   larger(x, y), which is no NaN where one of them is none;
//                   exp2(x), log2(x), reciprocal(x): errors up to 2^-22, subnormal numbers are zero
//   Launching       launch<kernel>(Launch, parameters), clusters_that_fit<kernel>(Launch); select_device(index), device(),
//                   device_key(), a number of its own for each device
//
// A matrix of 8 rows of 16 bytes lies over a warp as the tensor cores want it: lane l holds, of row l / 4, elements
// 2 (l % 4) and the next. Operands of a product (16, k) x (k, 8) are such blocks:
//
//   left   rows l / 4 and l / 4 + 8, columns 2 (l % 4) and the next, for every 8 columns
//   right  rows 2 (l % 4) and the next, column l / 4, for every 8 rows
//   sum    rows l / 4 (elements 0, 1) and l / 4 + 8 (elements 2, 3), columns 2 (l % 4) and the next; in float32
#pragma once

#include <cstddef>
#include <cstdint>

namespace kvmem::simt {

constexpr int kWarp = 32;

// A grid of `blocks` blocks, `cluster` of which run together. A block has `shared_bytes` of shared memory.
struct Launch {
  int64_t blocks;
  int threads;
  int cluster;
  int shared_bytes;
  void* stream;
  bool early = false;  // its blocks may begin before the launch before it is done: they wait by wait_for_launch_before()
};

// What the kernels' plans depend on.
struct Device {
  int capability;       // 10 x major + minor
  int multiprocessors;
  int block_shared;     // bytes of shared memory that a block can have
  int shared;           // bytes of shared memory of a multiprocessor
  int cache = 50 << 20; // bytes of the second-level cache
};

struct alignas(16) Words4 {
  uint32_t x[4];
};

struct alignas(8) ByteCounter {
  uint64_t state;
};

struct alignas(8) Float2 {
  float x, y;
};

}  // namespace kvmem::simt

#ifdef __CUDACC__
#include "device.cuh"
#include "device_launch.cuh"
#else
#include "host.h"
#endif
