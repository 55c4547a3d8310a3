// Which thread runs next, and what happens where threads meet.
#include <algorithm>
#include <stdexcept>

#include "host_machine.h"

namespace kvmem::simt::host {

Thread* current = nullptr;
Launch current_launch{};

namespace {

Machine* in_use = nullptr;

}  // namespace

Machine& machine() {
  static Machine first;
  return in_use ? *in_use : first;
}

void use(Machine& machine) {
  in_use = &machine;
  current_launch = machine.work.launch;
}

void fail_in_kernel(const std::string& what) {
  throw std::runtime_error("kernel " + machine().work.kernel + ": " + what);
}

namespace {

constexpr const char* kWaitNames[] = {"nothing",
                                      "shuffle",
                                      "shuffle_xor",
                                      "warp_barrier",
                                      "matrix_load",
                                      "matrix_load_transposed",
                                      "matrix_store",
                                      "matrix_store_transposed",
                                      "matrix_multiply",
                                      "matrix_multiply_tf32",
                                      "block_barrier",
                                      "group_barrier",
                                      "cluster_wait",
                                      "wait_for_bytes",
                                      "wait_for_launch_before"};

std::string name_of(Wait wait) { return kWaitNames[static_cast<int>(wait)]; }

std::string describe(const Thread& thread) {
  const Warp& warp = *thread.warp;
  if (warp.done >> thread.lane & 1) return "done";
  if (thread.wait == Wait::nothing) return "can run";
  std::string text = "in " + name_of(thread.wait);
  if (thread.wait == Wait::group_barrier) {
    text += "(" + std::to_string(warp.barrier) + ", " + std::to_string(warp.barrier_threads) + ")";
  }
  return text;
}

// Every thread of the cluster and what it waits in, neighbours that wait in the same taken together.
std::string describe_cluster() {
  constexpr int kLines = 24;
  const std::vector<Thread>& threads = machine().threads;
  std::string text;
  for (size_t first = 0, end = 0, lines = 0; first < threads.size(); first = end, ++lines) {
    if (lines == kLines) return text + "\n  and so on";
    const std::string what = describe(threads[first]);
    do {
      ++end;
    } while (end % current_launch.threads && describe(threads[end]) == what);
    text += "\n  block " + std::to_string(threads[first].block->index) + ", threads " +
            std::to_string(threads[first].index) + " to " + std::to_string(threads[end - 1].index) + ": " + what;
  }
  return text;
}

void make_runnable(Warp& warp) {
  warp.runnable = kAllLanes & ~warp.done;
  for (int i = 0; i < kWarp; ++i) warp.lanes[i].wait = Wait::nothing;
  if (!warp.queued) {
    warp.queued = true;
    machine().queue.push_back(&warp);
  }
}

Warp* draw_warp() {
  Machine& m = machine();
  while (!m.queue.empty()) {
    const auto at = m.queue.begin() + (m.ordered ? 0 : m.random.below(m.queue.size()));
    if ((*at)->runnable) return *at;
    (*at)->queued = false;
    if (m.ordered) {
      m.queue.erase(at);
    } else {
      *at = m.queue.back();
      m.queue.pop_back();
    }
  }
  return nullptr;
}

int draw_lane(uint32_t runnable) {
  Machine& m = machine();
  if (m.ordered) return __builtin_ctz(runnable);
  const int turn = m.random.next() % kWarp;
  const uint32_t turned = runnable >> turn | runnable << (kWarp - turn) % kWarp;
  return (__builtin_ctz(turned) + turn) % kWarp;
}

void let_others_run() {
  Fiber& mine = current->fiber;
  Fiber& next = next_fiber();
  if (&next != &mine) switch_fiber(mine, next);
}

void pass_cluster_barrier(Warp& warp) {
  for (int i = 0; i < kWarp; ++i) ++warp.lanes[i].cluster_waits;
  warp.block->cluster_waits = std::max(warp.block->cluster_waits, warp.lanes[0].cluster_waits);
  make_runnable(warp);
}

void complete_cluster_barrier() {
  Machine& m = machine();
  if (m.cluster_arrived < m.running_threads || m.running_threads == 0) return;
  m.cluster_arrived = 0;
  ++m.cluster_barriers;
  for (Warp* warp : m.cluster_waiting) pass_cluster_barrier(*warp);
  m.cluster_waiting.clear();
}

void count_at_barrier(Warp& warp) {
  Machine& m = machine();
  Barrier& barrier = m.barriers[warp.block->rank * kBarriers + warp.barrier];
  if (barrier.arrived && barrier.threads != warp.barrier_threads) {
    fail("group_barrier " + std::to_string(warp.barrier) + " for " + std::to_string(warp.barrier_threads) +
         " threads, while others wait in it for " + std::to_string(barrier.threads));
  }
  barrier.threads = warp.barrier_threads;
  barrier.arrived += kWarp;
  barrier.waiting.push_back(&warp);
  if (barrier.arrived < barrier.threads) return;
  for (Warp* other : barrier.waiting) make_runnable(*other);
  barrier.waiting.clear();
  barrier.arrived = 0;
}

// The lanes of a warp meet: true for the last one.
bool arrive_in_warp(Wait wait, int barrier, int barrier_threads, void* mine) {
  Thread& thread = *current;
  Warp& warp = *thread.warp;
  thread.wait = wait;
  if (warp.done) {
    fail_in_kernel("lanes of a warp have ended before " + name_of(wait) + " of the others" + describe_cluster());
  }
  if (warp.arrived && (warp.wait != wait || warp.barrier != barrier || warp.barrier_threads != barrier_threads)) {
    fail("in " + name_of(wait) + " where other lanes of its warp are elsewhere" + describe_cluster());
  }
  warp.wait = wait;
  warp.barrier = barrier;
  warp.barrier_threads = barrier_threads;
  warp.brought[thread.lane] = mine;
  warp.arrived |= 1u << thread.lane;
  warp.runnable &= ~(1u << thread.lane);
  if (warp.arrived != kAllLanes) return false;
  warp.arrived = 0;
  return true;
}

}  // namespace

Fiber& next_fiber() {
  Machine& m = machine();
  if (!m.running || !m.running->runnable || m.random.one_in(m.leave_one_in)) m.running = draw_warp();
  if (!m.running) {
    if (m.running_threads == 0 || !m.held.empty()) return m.caller;
    fail_in_kernel("deadlock: no thread can go on" + describe_cluster());
  }
  current = &m.running->lanes[draw_lane(m.running->runnable)];
  return current->fiber;
}

void end_thread() {
  Machine& m = machine();
  Thread& thread = *current;
  Warp& warp = *thread.warp;
  Block& block = *thread.block;
  if (!thread.copies.empty()) fail("ends without having waited for its asynchronous copies");
  if (thread.cluster_arrives != thread.cluster_waits) fail("ends between cluster_arrive and cluster_wait");
  if (warp.arrived) fail("ends while other lanes of its warp are in " + name_of(warp.wait) + describe_cluster());
  warp.done |= 1u << thread.lane;
  warp.runnable &= ~(1u << thread.lane);
  --m.running_threads;
  if (--block.running == 0) {
    if (block.cluster_waits < block.in_use_until) {
      fail_in_kernel("block " + std::to_string(block.index) +
                     " ends without a cluster barrier after which no other block uses its shared memory");
    }
    check_messages(block);
  }
  complete_cluster_barrier();
}

void fail(const std::string& what) {
  if (!current) throw std::runtime_error("outside a kernel: " + what);
  fail_in_kernel("block " + std::to_string(current->block->index) + ", thread " + std::to_string(current->index) +
                 ": " + what);
}

void gather(Wait wait, void* mine, Complete complete) {
  if (!current) fail(name_of(wait));
  Warp& warp = *current->warp;
  if (arrive_in_warp(wait, 0, 0, mine)) {
    if (complete) complete(warp.brought);
    make_runnable(warp);
  }
  let_others_run();
}

void wait_at_barrier(int id, int threads) {
  if (!current) fail("barrier");
  if (id < 0 || id >= kBarriers || threads <= 0 || threads > current_launch.threads || threads % kWarp) {
    fail("group_barrier(" + std::to_string(id) + ", " + std::to_string(threads) + ")");
  }
  Warp& warp = *current->warp;
  if (arrive_in_warp(id ? Wait::group_barrier : Wait::block_barrier, id, threads, nullptr)) count_at_barrier(warp);
  let_others_run();
}

void arrive_at_cluster(bool publishes) {
  if (!current) fail("cluster_arrive");
  if (current->cluster_arrives != current->cluster_waits) fail("cluster_arrive twice without cluster_wait");
  if (current->cluster_arrives == 63) fail("more cluster barriers than this machine follows");
  if (publishes) current->released |= uint64_t{1} << current->cluster_arrives;
  ++current->cluster_arrives;
  ++machine().cluster_arrived;
  complete_cluster_barrier();
}

void wait_for_cluster() {
  if (!current) fail("cluster_wait");
  if (current->cluster_arrives == current->cluster_waits) fail("cluster_wait without cluster_arrive");
  Warp& warp = *current->warp;
  if (arrive_in_warp(Wait::cluster_wait, 0, 0, nullptr)) {
    if (machine().cluster_barriers > warp.lanes[0].cluster_waits) {
      pass_cluster_barrier(warp);
    } else {
      machine().cluster_waiting.push_back(&warp);
    }
  }
  let_others_run();
}

void hold(Wait wait) {
  current->wait = wait;
  current->warp->runnable &= ~(1u << current->lane);
  let_others_run();
}

void let_run(Thread& thread) {
  Warp& warp = *thread.warp;
  thread.wait = Wait::nothing;
  warp.runnable |= 1u << thread.lane;
  if (warp.queued) return;
  warp.queued = true;
  machine().queue.push_back(&warp);
}

void wait_for_launch_before() {
  if (!current) fail("wait_for_launch_before");
  if (!machine().early) return;
  machine().held.push_back(current);
  hold(Wait::launch_before);
}

bool one_in(int n) { return !machine().ordered && machine().random.one_in(n); }

Block* block_of_cluster(int rank) {
  if (!current) fail("store_peer");
  if (rank < 0 || rank >= current_launch.cluster) {
    fail("peer " + std::to_string(rank) + " of a cluster of " + std::to_string(current_launch.cluster));
  }
  return &machine().blocks[rank];
}

}  // namespace kvmem::simt::host
