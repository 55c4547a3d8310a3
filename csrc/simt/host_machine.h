// The state of the machine of host_engine.h, for its own sources alone.
#pragma once

#include <exception>
#include <unordered_map>
#include <unordered_set>

#include "simt.cuh"

namespace kvmem::simt::host {

constexpr int kBarriers = 16;
constexpr uint32_t kAllLanes = ~0u;

// A warp waits as a whole: its lanes first gather, then the barrier (if it is one) counts them.
struct Warp {
  Thread* lanes;
  Block* block;
  uint32_t runnable, arrived, done;  // a bit a lane
  Wait wait;
  int barrier, barrier_threads;
  bool queued;
  void* brought[kWarp];
};

struct Barrier {
  int threads, arrived;
  std::vector<Warp*> waiting;
};

struct Random {
  uint64_t state = 0;
  uint32_t next() {
    uint64_t z = state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    return static_cast<uint32_t>((z ^ z >> 27) >> 16);
  }
  uint32_t below(size_t n) { return static_cast<uint32_t>(static_cast<uint64_t>(next()) * n >> 32); }
  bool one_in(int n) { return n && below(n) == 0; }
};

// A write that other blocks may not see yet.
struct Written {
  const Thread* writer;
  int arrivals;  // of the writer at cluster barriers before it
};

struct Work {
  Launch launch;
  std::string kernel;
  Body body;
  std::shared_ptr<const void> parameters;
};

struct Machine {
  Work work;
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  std::vector<Block> blocks;
  std::vector<Barrier> barriers;  // kBarriers a block
  std::vector<char> shared;
  std::vector<Warp*> queue;  // those with lanes that can run
  Warp* running = nullptr;
  int running_threads = 0;
  int cluster_arrived = 0, cluster_barriers = 0;
  std::vector<Warp*> cluster_waiting;
  std::unordered_map<uintptr_t, Written> written;
  std::unordered_set<uintptr_t> streamed;
  bool early = false;  // what was launched before isn't done
  std::vector<Thread*> held;  // by wait_for_launch_before
  Stacks stacks;
  Fiber caller;
  std::exception_ptr error;
  bool ordered = true;
  Random random;
  int leave_one_in = 0;  // how often a warp that could go on makes way for another
};

// The one in use: an early launch begins on another one.
Machine& machine();
void use(Machine& machine);

// Of the kernel, where no thread is to blame.
[[noreturn]] void fail_in_kernel(const std::string& what);

// Makes the next thread the current one: its fiber, or the caller's when all are done.
Fiber& next_fiber();

// Holds the current thread until let_run.
void hold(Wait wait);
void let_run(Thread& thread);

// The block ends: it has what it was sent.
void check_messages(const Block& block);

// The current thread's kernel has returned.
void end_thread();

}  // namespace kvmem::simt::host
