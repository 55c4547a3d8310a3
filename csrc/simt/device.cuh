// The primitives of simt.cuh as CUDA intrinsics, for kernels; launching is device_launch.cuh's. Included by simt.cuh alone.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#define KVMEM_DEVICE __device__ __forceinline__
#define KVMEM_BOTH __host__ __device__ __forceinline__
#define KVMEM_KERNEL(threads, blocks) __global__ void __launch_bounds__(threads, blocks)
#define KVMEM_PARAMETER(...) const __grid_constant__ __VA_ARGS__
#define KVMEM_UNROLL _Pragma("unroll")
#define KVMEM_NO_UNROLL _Pragma("unroll 1")

namespace kvmem::simt {

// Kernels that need clusters have no body where there are none.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
constexpr bool kClusters = false;
#else
constexpr bool kClusters = true;
#endif

using Bfloat16 = __nv_bfloat16;
using Float16 = __half;

KVMEM_DEVICE int thread() { return threadIdx.x; }
KVMEM_DEVICE int lane() { return threadIdx.x % kWarp; }
KVMEM_DEVICE int warp() { return threadIdx.x / kWarp; }
KVMEM_DEVICE int block_threads() { return blockDim.x; }
KVMEM_DEVICE int64_t block() { return blockIdx.x; }

KVMEM_DEVICE int cluster_rank() {
#if __CUDA_ARCH__ >= 900
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
#else
  return 0;
#endif
}

KVMEM_DEVICE int cluster_blocks() {
#if __CUDA_ARCH__ >= 900
  uint32_t blocks;
  asm volatile("mov.u32 %0, %%cluster_nctarank;" : "=r"(blocks));
  return blocks;
#else
  return 1;
#endif
}

template <typename T>
struct View {
  T* data;

  template <typename I>
  KVMEM_DEVICE T& operator[](I i) const {
    return data[i];
  }
  template <typename I>
  KVMEM_DEVICE View operator+(I i) const {
    return {data + i};
  }
  template <typename U>
  KVMEM_BOTH View<U> as() const {
    return {reinterpret_cast<U*>(data)};
  }
  KVMEM_BOTH explicit operator bool() const { return data != nullptr; }
};

template <typename T>
View<T> view(T* data, int64_t) {
  return {data};
}

template <typename T>
KVMEM_DEVICE View<T> shared(int byte, int) {
  extern __shared__ __align__(128) char block_memory[];
  return {reinterpret_cast<T*>(block_memory + byte)};
}

template <typename T, typename I>
KVMEM_DEVICE Words4 load16(View<T> v, I i) {
  return *reinterpret_cast<const Words4*>(v.data + i);
}

template <typename T, typename I>
KVMEM_DEVICE void store16(View<T> v, I i, Words4 x) {
  *reinterpret_cast<Words4*>(v.data + i) = x;
}

template <typename T, typename I>
KVMEM_DEVICE void store16_streaming(View<T> v, I i, Words4 x) {
  __stcs(reinterpret_cast<uint4*>(v.data + i), make_uint4(x.x[0], x.x[1], x.x[2], x.x[3]));
}

template <typename T, typename I>
KVMEM_DEVICE void prefetch(View<T> v, I i) {
  asm volatile("prefetch.global.L1 [%0];" ::"l"(__cvta_generic_to_global(v.data + i)));
}

KVMEM_DEVICE uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

KVMEM_DEVICE uint32_t peer_address(const void* p, int bytes, int rank) {
  uint32_t there;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(shared_address(p)), "r"(rank));
  return there + bytes;
}

// By an address of the cluster's shared memory, not by a generic one: what writes where can then be read off the code.
template <typename I>
KVMEM_DEVICE void store_peer(View<float> v, I i, int rank, float x) {
#if __CUDA_ARCH__ >= 900
  asm volatile("st.shared::cluster.f32 [%0], %1;" ::"r"(peer_address(v.data, i * 4, rank)), "f"(x) : "memory");
#else
  v[i] = x;
#endif
}

template <typename I>
KVMEM_DEVICE void store_peer(View<Float2> v, I i, int rank, Float2 x) {
#if __CUDA_ARCH__ >= 900
  asm volatile("st.shared::cluster.v2.f32 [%0], {%1, %2};" ::"r"(peer_address(v.data, i * 8, rank)), "f"(x.x), "f"(x.y)
               : "memory");
#else
  v[i] = x;
#endif
}

template <typename T, typename U>
KVMEM_DEVICE void copy16_async(View<T> to, View<U> from, bool valid) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;"
               :
               : "r"(shared_address(to.data)), "l"(__cvta_generic_to_global(from.data)), "r"(valid ? 16 : 0)
               : "memory");
}

KVMEM_DEVICE void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

template <int n>
KVMEM_DEVICE void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(n) : "memory");
}

KVMEM_DEVICE void warp_barrier() { __syncwarp(); }
KVMEM_DEVICE void block_barrier() { __syncthreads(); }
KVMEM_DEVICE void group_barrier(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

KVMEM_DEVICE void cluster_arrive() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
#endif
}

KVMEM_DEVICE void cluster_arrive_relaxed() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
#endif
}

KVMEM_DEVICE void cluster_wait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#else
  __syncthreads();
#endif
}

KVMEM_DEVICE void cluster_barrier() {
  cluster_arrive();
  cluster_wait();
}

// An mbarrier. Its phase ends when this thread has arrived, as it does at once, and all bytes have.
KVMEM_DEVICE void expect_bytes(View<ByteCounter> counter, int bytes) {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "mbarrier.init.shared.b64 [%0], 1;\n\t"
      "mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;\n\t"
      "fence.mbarrier_init.release.cluster;" ::"r"(shared_address(counter.data)),
      "r"(bytes)
      : "memory");
#endif
}

// No fence and no barrier of the cluster is needed to see what comes this way: the counter's phase publishes it.
template <typename T, typename I>
KVMEM_DEVICE void send(View<T> to, I i, T x, View<ByteCounter> counter, int rank) {
#if __CUDA_ARCH__ >= 900
  const uint32_t there = peer_address(to.data, static_cast<int>(i) * static_cast<int>(sizeof(T)), rank);
  const uint32_t counted = peer_address(counter.data, 0, rank);
  if constexpr (sizeof(T) == 4) {
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.b32 [%0], %1, [%2];" ::"r"(there),
                 "r"(__builtin_bit_cast(uint32_t, x)), "r"(counted)
                 : "memory");
  } else {
    static_assert(sizeof(T) == 8);
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.b64 [%0], %1, [%2];" ::"r"(there),
                 "l"(__builtin_bit_cast(uint64_t, x)), "r"(counted)
                 : "memory");
  }
#endif
}

// The loop is the assembler's, in the form that a prover of schedules knows as a wait.
KVMEM_DEVICE void wait_for_bytes(View<ByteCounter> counter) {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "{\n\t"
      ".reg .pred done;\n\t"
      "WAIT:\n\t"
      "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%0], 0;\n\t"
      "@done bra DONE;\n\t"
      "bra WAIT;\n\t"
      "DONE:\n\t"
      "}" ::"r"(shared_address(counter.data))
      : "memory");
#endif
}

KVMEM_DEVICE void let_next_launch_begin() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

KVMEM_DEVICE void wait_for_launch_before() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

template <typename T>
KVMEM_DEVICE T shuffle(T x, int from) {
  return __shfl_sync(~0u, x, from);
}
template <typename T>
KVMEM_DEVICE T shuffle_xor(T x, int mask) {
  return __shfl_xor_sync(~0u, x, mask);
}

// Four matrices of 8 rows of 16 bytes: lane l names row l % 8 of matrix l / 8, and gets its part of each.
template <typename T>
KVMEM_DEVICE void matrix_load(uint32_t (&x)[4], View<T> row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
               : "r"(shared_address(row.data))
               : "memory");
}

template <typename T>
KVMEM_DEVICE void matrix_load_transposed(uint32_t (&x)[4], View<T> row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
               : "r"(shared_address(row.data))
               : "memory");
}

// The inverses, from compute capability 9.0.
template <typename T>
KVMEM_DEVICE void matrix_store(const uint32_t (&x)[4], View<T> row) {
#if __CUDA_ARCH__ >= 900
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared_address(row.data)),
               "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3])
               : "memory");
#endif
}

template <typename T>
KVMEM_DEVICE void matrix_store_transposed(const uint32_t (&x)[4], View<T> row) {
#if __CUDA_ARCH__ >= 900
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(
                   shared_address(row.data)),
               "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3])
               : "memory");
#endif
}

// Two matrices alone, whose rows lanes 0 to 15 name.
template <typename T>
KVMEM_DEVICE void matrix_store_transposed(const uint32_t (&x)[2], View<T> row) {
#if __CUDA_ARCH__ >= 900
  asm volatile("stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%0], {%1, %2};" ::"r"(shared_address(row.data)),
               "r"(x[0]), "r"(x[1])
               : "memory");
#endif
}

// d += left (16, 16) x right (16, 8), of 16-bit numbers.
template <typename T>
KVMEM_DEVICE void matrix_multiply(float (&d)[4], const uint32_t (&left)[4], const uint32_t (&right)[2]);

template <>
KVMEM_DEVICE void matrix_multiply<Bfloat16>(float (&d)[4], const uint32_t (&left)[4], const uint32_t (&right)[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right[0]), "r"(right[1]));
}

template <>
KVMEM_DEVICE void matrix_multiply<Float16>(float (&d)[4], const uint32_t (&left)[4], const uint32_t (&right)[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right[0]), "r"(right[1]));
}

// d += left (16, 8) x right (8, 8), of numbers rounded to tf32. `left` and `right` hold blocks as 16-bit operands do, as
// numbers of their own instead of pairs: the inner index is permuted alike in both, which leaves the sum the same.
KVMEM_DEVICE void matrix_multiply_tf32(float (&d)[4], const float (&left)[4], const float (&right)[2]) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(__float_as_uint(left[0])), "r"(__float_as_uint(left[2])), "r"(__float_as_uint(left[1])),
        "r"(__float_as_uint(left[3])), "r"(__float_as_uint(right[0])), "r"(__float_as_uint(right[1])));
}

KVMEM_DEVICE float to_float(float x) { return x; }
KVMEM_DEVICE float to_float(Bfloat16 x) { return __bfloat162float(x); }
KVMEM_DEVICE float to_float(Float16 x) { return __half2float(x); }

template <typename T>
KVMEM_DEVICE T from_float(float x);
template <>
KVMEM_DEVICE float from_float<float>(float x) {
  return x;
}
template <>
KVMEM_DEVICE Bfloat16 from_float<Bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}
template <>
KVMEM_DEVICE Float16 from_float<Float16>(float x) {
  return __float2half_rn(x);
}

template <typename T>
KVMEM_DEVICE uint32_t pack(float low, float high);
template <>
KVMEM_DEVICE uint32_t pack<Bfloat16>(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}
template <>
KVMEM_DEVICE uint32_t pack<Float16>(float low, float high) {
  const __half2 pair = __floats2half2_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

template <typename T>
KVMEM_DEVICE Float2 unpack(uint32_t bits);
template <>
KVMEM_DEVICE Float2 unpack<Bfloat16>(uint32_t bits) {
  return {__uint_as_float(bits << 16), __uint_as_float(bits & 0xffff0000u)};
}
template <>
KVMEM_DEVICE Float2 unpack<Float16>(uint32_t bits) {
  const float2 pair = __half22float2(*reinterpret_cast<const __half2*>(&bits));
  return {pair.x, pair.y};
}

KVMEM_DEVICE float float_of(uint32_t bits) { return __uint_as_float(bits); }
KVMEM_DEVICE uint32_t bits_of(float x) { return __float_as_uint(x); }

KVMEM_DEVICE float larger(float x, float y) { return fmaxf(x, y); }

KVMEM_DEVICE float exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

KVMEM_DEVICE float log2(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

KVMEM_DEVICE float reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace kvmem::simt
