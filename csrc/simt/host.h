// The primitives of simt.cuh on the host: see host_engine.h for how the threads run. Included by simt.cuh alone.
//
// Programs link every host_*.cpp but host_module.cpp.
#pragma once

#include <memory>
#include <string_view>

#include "host_numbers.h"
#include "host_engine.h"
#ifdef KVMEM_RECORDED_LAUNCHES
#include "host_plain_view.h"
#else
#include "host_view.h"
#endif
#include "host_matrix.h"

#define KVMEM_DEVICE inline
#define KVMEM_BOTH inline
#define KVMEM_KERNEL(threads, blocks) inline void
#define KVMEM_PARAMETER(...) const __VA_ARGS__&
#define KVMEM_UNROLL
#define KVMEM_NO_UNROLL

namespace kvmem::simt {

constexpr bool kClusters = true;

inline int thread() { return host::current->index; }
inline int lane() { return host::current->lane; }
inline int block_threads() { return host::current_launch.threads; }
inline int64_t block() { return host::current->block->index; }
inline int cluster_rank() { return host::current->block->rank; }
inline int cluster_blocks() { return host::current_launch.cluster; }

inline int warp() { return thread() / kWarp; }

inline void commit_copies() { host::close_copies(); }

template <int n>
void wait_copies() {
  host::finish_copies(n);
}

inline void warp_barrier() { host::gather(host::Wait::warp_barrier, nullptr, nullptr); }
inline void block_barrier() { host::wait_at_barrier(0, block_threads()); }
inline void group_barrier(int id, int threads) {
  if (id == 0) host::fail("group_barrier(0): that is the block's barrier");
  host::wait_at_barrier(id, threads);
}
inline void cluster_arrive() { host::arrive_at_cluster(true); }
inline void cluster_arrive_relaxed() { host::arrive_at_cluster(false); }
inline void cluster_wait() { host::wait_for_cluster(); }
inline void cluster_barrier() {
  cluster_arrive();
  cluster_wait();
}

inline void expect_bytes(View<ByteCounter> counter, int bytes) {
  host::expect_bytes(host::own_shared(counter, sizeof(ByteCounter)), bytes);
}
template <typename T, typename I>
void send(View<T> to, I i, T x, View<ByteCounter> counter, int rank) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  host::send(host::own_shared(to + i, sizeof(T)), reinterpret_cast<const char*>(&x), sizeof(T),
             host::own_shared(counter, sizeof(ByteCounter)), rank);
}
inline void wait_for_bytes(View<ByteCounter> counter) {
  host::wait_for_bytes(host::own_shared(counter, sizeof(ByteCounter)));
}

// An early launch may begin whether or not it is let.
inline void let_next_launch_begin() {}
inline void wait_for_launch_before() { host::wait_for_launch_before(); }

namespace host {

template <typename T>
struct Shuffle {
  T x;
  int from;
  T result;
};

template <typename T>
void complete_shuffle(void* const* lanes) {
  for (int i = 0; i < kWarp; ++i) {
    Shuffle<T>& mine = *static_cast<Shuffle<T>*>(lanes[i]);
    mine.result = static_cast<Shuffle<T>*>(lanes[mine.from & (kWarp - 1)])->x;
  }
}

}  // namespace host

template <typename T>
T shuffle(T x, int from) {
  host::Shuffle<T> mine{x, from, x};
  host::gather(host::Wait::shuffle, &mine, host::complete_shuffle<T>);
  return mine.result;
}

template <typename T>
T shuffle_xor(T x, int mask) {
  host::Shuffle<T> mine{x, lane() ^ mask, x};
  host::gather(host::Wait::shuffle_xor, &mine, host::complete_shuffle<T>);
  return mine.result;
}

inline const char* select_device(int) { return nullptr; }
inline Device device() { return host::device_in_use(); }
inline int64_t device_key() { return host::devices_set(); }

template <auto kernel>
int clusters_that_fit(const Launch& launch) {
  return host::clusters_that_fit(launch);
}

namespace host {

// The name of `kernel`, as the compiler spells it.
template <auto kernel>
std::string kernel_name() {
  const std::string_view text = __PRETTY_FUNCTION__;
  const size_t begin = text.find("kernel = ") + 9;
  const std::string_view name = text.substr(begin, text.find_first_of(";]", begin) - begin);
  return std::string(name.substr(name.find_first_not_of("&")));
}

template <auto kernel, typename Parameters>
void call(const void* parameters) {
  kernel(*static_cast<const Parameters*>(parameters));
}

}  // namespace host

// Null; what goes wrong is thrown.
template <auto kernel, typename Parameters>
const char* launch(const Launch& launch, const Parameters& parameters) {
  if (launch.blocks == 0) return nullptr;
  host::run(launch, host::kernel_name<kernel>(), host::call<kernel, Parameters>,
            std::make_shared<const Parameters>(parameters), sizeof(Parameters));
  return nullptr;
}

}  // namespace kvmem::simt
