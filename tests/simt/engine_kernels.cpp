// Small kernels for the tests of the host build itself, some of them with a bug planted by `choice`.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "cuda/fragment.cuh"
#include "simt/simt.cuh"

namespace py = pybind11;

namespace kvmem {
namespace {

using namespace simt;

struct Parameters {
  View<const float> in;
  View<float> out;
  int choice;
};

KVMEM_DEVICE int64_t grid_thread() { return block() * block_threads() + thread(); }

// out[i] = in[n - 1 - i] within a block. choice 0: without the barrier.
KVMEM_KERNEL(1024, 1) reverse(KVMEM_PARAMETER(Parameters) p) {
  const View<float> row = shared<float>(0, block_threads());
  row[thread()] = p.in[grid_thread()];
  if (p.choice) block_barrier();
  p.out[grid_thread()] = row[block_threads() - 1 - thread()];
}

// The same within a warp, over the warp's barrier.
KVMEM_KERNEL(1024, 1) reverse_in_warp(KVMEM_PARAMETER(Parameters) p) {
  const View<float> row = shared<float>(0, block_threads());
  row[thread()] = p.in[grid_thread()];
  if (p.choice) warp_barrier();
  p.out[grid_thread()] = row[thread() - lane() + 31 - lane()];
}

// Every group of 64 threads turns its own part around, over a barrier of its own.
KVMEM_KERNEL(1024, 1) reverse_in_group(KVMEM_PARAMETER(Parameters) p) {
  const View<float> row = shared<float>(0, block_threads());
  const int group = thread() / 64;
  row[thread()] = p.in[grid_thread()];
  if (p.choice) group_barrier(1 + group, 64);
  p.out[grid_thread()] = row[64 * group + 63 - thread() % 64];
}

// out = in of the same thread of the next block of the cluster, by its shared memory.
// choice bit 0: a barrier before the exchange, bit 1: one after it, bit 2: in two halves.
KVMEM_KERNEL(1024, 1) exchange(KVMEM_PARAMETER(Parameters) p) {
  const View<float> row = shared<float>(0, block_threads());
  if (p.choice & 4) {
    cluster_arrive();
    cluster_wait();
  } else if (p.choice & 1) {
    cluster_barrier();
  }
  store_peer(row, thread(), (cluster_rank() + cluster_blocks() - 1) % cluster_blocks(), p.in[grid_thread()]);
  if (p.choice & 2) cluster_barrier();
  p.out[grid_thread()] = row[thread()];
}

// The same, where the next block pushes: into shared memory or, with choice bit 3, global memory. choice bit 0: the barrier
// after the writes is a relaxed one.
KVMEM_KERNEL(1024, 1) push(KVMEM_PARAMETER(Parameters) p) {
  const View<float> row = shared<float>(0, block_threads());
  const int before = (cluster_rank() + cluster_blocks() - 1) % cluster_blocks(), distance = before - cluster_rank();
  const View<float> there = p.choice & 8 ? p.out + (distance * block_threads() + grid_thread()) : View<float>{};
  cluster_arrive_relaxed();
  cluster_wait();
  if (there) {
    there[0] = p.in[grid_thread()];
  } else {
    store_peer(row, thread(), before, p.in[grid_thread()]);
  }
  if (p.choice & 1) {
    cluster_arrive_relaxed();
  } else {
    cluster_arrive();
  }
  cluster_wait();
  const float x = there ? p.out.as<const float>()[grid_thread()] : row[thread()];
  block_barrier();
  p.out[grid_thread()] = x;
}

// The same by messages, turned around. choice 0: as it should; 1: 4 bytes too few expected; 2: 4 too many; 3: without a
// wait; 4: some wait, and the others not for them; 5: expected after the barrier; 6: sent before a barrier; 7: into memory
// that is still read; 8: to a block that expects nothing; 9: expected twice.
KVMEM_KERNEL(1024, 1) post(KVMEM_PARAMETER(Parameters) p) {
  const int n = block_threads();
  const View<float> row = shared<float>(0, n);
  const View<ByteCounter> counter = shared<ByteCounter>(4 * n, 1);
  const auto expect = [&] {
    if (thread() == 0) expect_bytes(counter, 4 * n - 4 * (p.choice == 1) + 4 * (p.choice == 2));
  };
  if (p.choice != 5 && p.choice != 8) expect();
  if (p.choice == 9) expect();
  row[thread()] = p.in[grid_thread()];
  const int next = (cluster_rank() + cluster_blocks() - 1) % cluster_blocks();
  const float x = p.choice == 7 ? 0 : row[thread()];
  block_barrier();
  if (p.choice != 6) {
    cluster_arrive_relaxed();
    cluster_wait();
  }
  if (p.choice == 5) expect();
  send(row, thread(), p.choice == 7 ? p.in[grid_thread()] : x, counter, next);
  if (p.choice == 7) p.out[grid_thread()] = row[n - 1 - thread()];
  if (p.choice != 3 && (p.choice != 4 || thread() < 32)) wait_for_bytes(counter);
  if (p.choice != 4) block_barrier();
  if (p.choice != 7) p.out[grid_thread()] = row[n - 1 - thread()];
}

// Two launches, the second of which reads what the first leaves in the second half of out: out[i] = in[i] + 1.
// choice 0: it doesn't wait; 1: as it should; 2: it reads before it waits; 3: some threads alone wait, and a barrier holds
// the others; 4: before it waits it writes what the first reads.
KVMEM_KERNEL(1024, 1) hand_over_first(KVMEM_PARAMETER(Parameters) p) {
  const int64_t n = 64 * 4, i = grid_thread();
  let_next_launch_begin();
  p.out[n + n - 1 - i] = p.in[n - 1 - i] + (p.choice == 4 ? p.out[i] : 0);
}

KVMEM_KERNEL(1024, 1) hand_over_second(KVMEM_PARAMETER(Parameters) p) {
  const int64_t n = 64 * 4, i = grid_thread();
  float x = 0;
  if (p.choice == 2) x = p.out[n + i];
  if (p.choice == 4) p.out[i] = 100;
  if (p.choice != 0 && (p.choice != 3 || thread() < 32)) wait_for_launch_before();
  block_barrier();
  if (p.choice != 2) x = p.out[n + i];
  p.out[i] = x + 1;
}

// out = in, 16 bytes a thread past the caches. choice 1: reads it again; 2: to shared memory.
KVMEM_KERNEL(1024, 1) stream(KVMEM_PARAMETER(Parameters) p) {
  const int64_t at = 4 * grid_thread();
  const View<float> own = shared<float>(0, 4 * block_threads()) + 4 * thread();
  store16_streaming(p.choice == 2 ? own : p.out + at, 0, load16(p.in, at));
  if (p.choice == 1) p.out[at] += 1;
}

// out[i] = in[4 (i / 4)]: a quarter of the threads copies. choice 0: reads before it waits; 1: as it should;
// 2: never waits; 3: waits, but other threads don't wait for it; 4: leaves the last group open; 5: copies zeros.
KVMEM_KERNEL(1024, 1) copy(KVMEM_PARAMETER(Parameters) p) {
  const View<float> row = shared<float>(0, block_threads());
  if (thread() % 4 == 0) {
    copy16_async(row + thread(), p.in + grid_thread(), p.choice != 5);
    commit_copies();
    if (p.choice == 4) {
      wait_copies<1>();
    } else if (p.choice != 0 && p.choice != 2) {
      wait_copies<0>();
    }
  }
  if (p.choice != 3) block_barrier();
  p.out[grid_thread()] = row[thread() / 4 * 4];
  if (p.choice == 0 || p.choice == 4) wait_copies<0>();
}

// Reads element `choice` of the shared row, of which there are block_threads().
KVMEM_KERNEL(1024, 1) read_shared(KVMEM_PARAMETER(Parameters) p) {
  const View<float> row = shared<float>(0, block_threads());
  row[thread()] = p.in[grid_thread()];
  block_barrier();
  p.out[grid_thread()] = row[p.choice];
}

KVMEM_KERNEL(1024, 1) read_global(KVMEM_PARAMETER(Parameters) p) { p.out[grid_thread()] = p.in[p.choice]; }

KVMEM_KERNEL(1024, 1) write_global(KVMEM_PARAMETER(Parameters) p) { p.out[p.choice] = p.in[grid_thread()]; }

KVMEM_KERNEL(1024, 1) read_global16(KVMEM_PARAMETER(Parameters) p) {
  p.out[grid_thread()] = float_of(load16(p.in, p.choice).x[0]);
}

KVMEM_KERNEL(1024, 1) read_null(KVMEM_PARAMETER(Parameters) p) { p.out[grid_thread()] = View<const float>{}[0]; }

KVMEM_KERNEL(1024, 1) reserve(KVMEM_PARAMETER(Parameters) p) { shared<float>(0, p.choice); }

KVMEM_KERNEL(1024, 1) name_peer(KVMEM_PARAMETER(Parameters) p) { store_peer(shared<float>(0, 1), 0, p.choice, 0.0f); }

// What only some of the threads do: 0: a warp misses the block's barrier; 1: lanes miss the warp's barrier;
// 2: lanes end before a shuffle; 3: lanes are in another operation; 4: a block misses the cluster's barrier and waits
// in its own for a warp that doesn't come; 5: cluster_wait is missing; 6: groups of different sizes.
KVMEM_KERNEL(1024, 1) diverge(KVMEM_PARAMETER(Parameters) p) {
  if (p.choice == 0 && thread() >= 32) block_barrier();
  if (p.choice == 1 && lane() != 3) warp_barrier();
  if (p.choice == 2 && lane() < 16) shuffle(0.0f, 0);
  if (p.choice == 3) {
    if (lane() < 16) {
      shuffle(0.0f, 0);
    } else {
      warp_barrier();
    }
  }
  if (p.choice == 4) {
    if (cluster_rank() != 1) {
      cluster_barrier();
    } else if (thread() < 32) {
      block_barrier();
    }
  }
  if (p.choice == 5) cluster_arrive();
  if (p.choice == 6) group_barrier(1, 32 * (1 + thread() / 32));
}

// The order in which threads run: each takes the next number.
KVMEM_KERNEL(1024, 1) take_turns(KVMEM_PARAMETER(Parameters) p) {
  p.out[0] += 1;
  p.out[1 + grid_thread()] = p.out[0];
}

// Sums over the warp, `choice` times.
KVMEM_KERNEL(1024, 1) sum_often(KVMEM_PARAMETER(Parameters) p) {
  float x = 0;
  for (int round = 0; round < p.choice; ++round) {
    x = p.in[grid_thread()];
    for (int mask = 16; mask; mask /= 2) x += shuffle_xor(x, mask);
  }
  p.out[grid_thread()] = shuffle(x, warp() % 32);
}

// in: (32, 8) 16-bit numbers, given as (32, 4) floats; out: what lane l gets of matrix i, at 4 l + i.
// choice bit 0: transposed, bit 1: without a barrier after lane l wrote row 31 - l.
KVMEM_KERNEL(32, 1) load_matrices(KVMEM_PARAMETER(Parameters) p) {
  const View<float> rows = shared<float>(0, 128);
  for (int i = 0; i < 4; ++i) rows[4 * (31 - lane()) + i] = p.in[4 * (31 - lane()) + i];
  if (!(p.choice & 2)) warp_barrier();
  uint32_t x[4];
  if (p.choice & 1) {
    matrix_load_transposed(x, rows + 4 * lane());
  } else {
    matrix_load(x, rows + 4 * lane());
  }
  for (int i = 0; i < 4; ++i) p.out.as<uint32_t>()[4 * thread() + i] = x[i];
}

// The inverse. choice 4: two matrices, transposed; what the other lanes name stays as it was.
KVMEM_KERNEL(32, 1) store_matrices(KVMEM_PARAMETER(Parameters) p) {
  const View<float> rows = shared<float>(0, 128);
  uint32_t x[4];
  for (int i = 0; i < 4; ++i) x[i] = p.in.as<const uint32_t>()[4 * thread() + i];
  if (p.choice & 4) {
    for (int i = 0; i < 4; ++i) rows[4 * lane() + i] = 0.0f;
    warp_barrier();
    const uint32_t two[2] = {x[0], x[1]};
    matrix_store_transposed(two, rows + 4 * lane());
  } else if (p.choice & 1) {
    matrix_store_transposed(x, rows + 4 * lane());
  } else {
    matrix_store(x, rows + 4 * lane());
  }
  if (!(p.choice & 2)) warp_barrier();
  for (int i = 0; i < 4; ++i) p.out[4 * (31 - lane()) + i] = rows[4 * (31 - lane()) + i];
}

KVMEM_KERNEL(32, 1) load_misaligned(KVMEM_PARAMETER(Parameters) p) {
  uint32_t x[4];
  matrix_load(x, shared<float>(0, 256) + (4 * lane() + p.choice));
}

// in: left (16, 16), right (16, 8), sum (16, 8); out: sum + left right, in `T`.
template <typename T>
KVMEM_KERNEL(32, 1) multiply(KVMEM_PARAMETER(Parameters) p) {
  const View<const float> left = p.in, right = p.in + 256, sum = p.in + 384;
  const int outer = lane() / 4, inner = 2 * (lane() % 4);
  uint32_t a[4], b[2];
  float d[4];
  for (int i = 0; i < 4; ++i) {
    const int at = 16 * (outer + 8 * (i % 2)) + inner + 8 * (i / 2);
    a[i] = pack<T>(left[at], left[at + 1]);
  }
  for (int i = 0; i < 2; ++i) {
    const int at = 8 * (inner + 8 * i) + outer;
    b[i] = pack<T>(right[at], right[at + 8]);
  }
  for (int i = 0; i < 4; ++i) d[i] = sum[8 * (outer + 8 * (i / 2)) + inner + i % 2];
  matrix_multiply<T>(d, a, b);
  for (int i = 0; i < 4; ++i) p.out[8 * (outer + 8 * (i / 2)) + inner + i % 2] = d[i];
}

// in: left (16, 8), right (8, 8), sum (16, 8).
KVMEM_KERNEL(32, 1) multiply_tf32(KVMEM_PARAMETER(Parameters) p) {
  const View<const float> left = p.in, right = p.in + 128, sum = p.in + 192;
  const int outer = lane() / 4, inner = 2 * (lane() % 4);
  float a[4], b[2], d[4];
  for (int i = 0; i < 4; ++i) a[i] = left[8 * (outer + 8 * (i / 2)) + inner + i % 2];
  for (int i = 0; i < 2; ++i) b[i] = right[8 * (inner + i) + outer];
  for (int i = 0; i < 4; ++i) d[i] = sum[8 * (outer + 8 * (i / 2)) + inner + i % 2];
  matrix_multiply_tf32(d, a, b);
  for (int i = 0; i < 4; ++i) p.out[8 * (outer + 8 * (i / 2)) + inner + i % 2] = d[i];
}

// choice 0, 1: to bfloat16 and float16 and back; 2 and 6: the halves of a float32; 3: exp2; 4: log2; 5: bits of 16-bit floats to floats.
KVMEM_KERNEL(1024, 1) convert(KVMEM_PARAMETER(Parameters) p) {
  const float x = p.in[grid_thread()];
  float y = 0;
  if (p.choice == 0) y = to_float(from_float<Bfloat16>(x));
  if (p.choice == 1) y = to_float(from_float<Float16>(x));
  if (p.choice == 2 || p.choice == 6) {
    float high[1], low[1];
    cuda::split({x}, high, low);
    y = p.choice == 2 ? high[0] : low[0];
  }
  if (p.choice == 3) y = exp2(x);
  if (p.choice == 4) y = log2(x);
  if (p.choice == 5) y = unpack<Float16>(bits_of(x)).x;
  p.out[grid_thread()] = y;
}

using Floats = py::array_t<float, py::array::c_style>;

// fn(in, out, choice, blocks, threads, cluster, shared_bytes, seed), with `in` and `out` as global memory.
template <auto kernel>
void define(py::module_& module, const char* name) {
  module.def(
      name,
      [](const Floats& in, Floats out, int choice, int blocks, int threads, int cluster, int shared_bytes, int seed) {
        host::set_seed(seed);
        const Parameters p{view(in.data(), in.size()), view(out.mutable_data(), out.size()), choice};
        launch<kernel>(Launch{blocks, threads, cluster, shared_bytes, nullptr}, p);
        host::synchronize();
      },
      py::arg("in_"), py::arg("out"), py::arg("choice") = 0, py::arg("blocks") = 1, py::arg("threads") = 32,
      py::arg("cluster") = 1, py::arg("shared_bytes") = 8192, py::arg("seed") = 0);
}

}  // namespace
}  // namespace kvmem

PYBIND11_MODULE(engine_kernels, module) {
  using namespace kvmem;
  define<reverse>(module, "reverse");
  define<reverse_in_warp>(module, "reverse_in_warp");
  define<reverse_in_group>(module, "reverse_in_group");
  define<exchange>(module, "exchange");
  define<push>(module, "push");
  define<post>(module, "post");
  define<stream>(module, "stream");
  define<copy>(module, "copy");
  define<read_shared>(module, "read_shared");
  define<read_global>(module, "read_global");
  define<write_global>(module, "write_global");
  define<read_global16>(module, "read_global16");
  define<read_null>(module, "read_null");
  define<reserve>(module, "reserve");
  define<name_peer>(module, "name_peer");
  define<diverge>(module, "diverge");
  define<take_turns>(module, "take_turns");
  define<sum_often>(module, "sum_often");
  define<load_matrices>(module, "load_matrices");
  define<store_matrices>(module, "store_matrices");
  define<load_misaligned>(module, "load_misaligned");
  define<multiply<Bfloat16>>(module, "multiply_bfloat16");
  define<multiply<Float16>>(module, "multiply_float16");
  define<multiply_tf32>(module, "multiply_tf32");
  define<convert>(module, "convert");
  module.def(
      "hand_over",
      [](const Floats& in, Floats out, int choice, bool early, int seed) {
        host::set_seed(seed);
        const Parameters p{view(in.data(), in.size()), view(out.mutable_data(), out.size()), choice};
        launch<hand_over_first>(Launch{4, 64, 1, 0, nullptr}, p);
        launch<hand_over_second>(Launch{4, 64, 1, 0, nullptr, early}, p);
        host::synchronize();
      },
      py::arg("in_"), py::arg("out"), py::arg("choice"), py::arg("early") = true, py::arg("seed") = 0);
  module.def("set_device", [](int capability, int block_shared, int largest_cluster) {
    host::set_device({capability, 132, block_shared, block_shared + 1024}, largest_cluster);
  });
  module.def("clusters_that_fit", [](int cluster, int shared_bytes) {
    return clusters_that_fit<reverse>(Launch{cluster, 32, cluster, shared_bytes, nullptr});
  });
}
