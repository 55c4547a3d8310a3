// How a launch becomes clusters of fibers.
#include <algorithm>
#include <mutex>
#include <numeric>
#include <optional>
#include <utility>

#include "host_machine.h"

namespace kvmem::simt::host {
namespace {

constexpr size_t kSharedAlignment = 1024;

std::mutex one_at_a_time;

Device chosen_device{90, 132, 232448, 233472};
int64_t times_chosen = 0;
int chosen_largest_cluster = 16;
std::vector<int> chosen_parts;
int chosen_most_blocks = 2;
bool recording_only = false;
std::optional<Work> launched_last;  // and not carried out

void run_thread() {
  Machine& m = machine();
  Fiber& mine = current->fiber;
  entered_fiber(mine);
  Fiber* next = &m.caller;
  try {
    m.work.body(m.work.parameters.get());
    end_thread();
    next = &next_fiber();
  } catch (...) {
    m.error = std::current_exception();
  }
  leave_fiber(mine, *next);
}

void start_block(int rank, int64_t index) {
  Machine& m = machine();
  const int n = current_launch.threads;
  const size_t pitch = m.shared.size() / (current_launch.cluster + 1);
  char* base = m.shared.data();
  base += (kSharedAlignment - reinterpret_cast<uintptr_t>(base) % kSharedAlignment) % kSharedAlignment;
  Block& block = m.blocks[rank];
  block = {index, rank, base + rank * pitch, n, 0, 0, false, {}};
  // 0xff in all bytes is NaN in every type.
  std::fill_n(block.shared, pitch, char(-1));
  for (int i = 0; i < kBarriers; ++i) m.barriers[rank * kBarriers + i] = {0, 0, {}};
  for (int t = 0; t < n; ++t) {
    const size_t number = static_cast<size_t>(rank) * n + t;
    Thread& thread = m.threads[number];
    Warp& warp = m.warps[number / kWarp];
    if (t % kWarp == 0) warp = {&thread, &block, kAllLanes, 0, 0, Wait::nothing, 0, 0, true, {}};
    thread.block = &block;
    thread.warp = &warp;
    thread.index = t;
    thread.lane = t % kWarp;
    thread.wait = Wait::nothing;
    thread.cluster_arrives = thread.cluster_waits = thread.copy_groups = 0;
    thread.released = 0;
    thread.copies.clear();
    m.stacks.give(number, thread.fiber);
    // Tops of stacks at different places of a page: else they would all fall into the same sets of the cache.
    prepare(thread.fiber, number % 64 * 64, run_thread);
  }
}

// Until all threads have ended, or wait for the launch before.
void run_threads() {
  Machine& m = machine();
  Fiber& first = next_fiber();
  switch_fiber(m.caller, first);
  current = nullptr;
  if (m.error) {
    m.stacks.forget_frames();
    std::rethrow_exception(m.error);
  }
}

void run_cluster(int64_t number) {
  Machine& m = machine();
  m.queue.clear();
  m.cluster_waiting.clear();
  m.written.clear();
  m.streamed.clear();
  m.held.clear();
  following = current_launch.cluster > 1;
  m.cluster_arrived = m.cluster_barriers = 0;
  m.running = nullptr;
  m.running_threads = current_launch.cluster * current_launch.threads;
  m.error = nullptr;
  for (int rank = 0; rank < current_launch.cluster; ++rank) {
    start_block(rank, number * current_launch.cluster + rank);
  }
  for (Warp& warp : m.warps) m.queue.push_back(&warp);
  run_threads();
}

// Threads that waited for the launch before, which is now done, go on.
void go_on() {
  Machine& m = machine();
  m.early = false;
  if (m.held.empty()) return;
  for (Thread* thread : m.held) let_run(*thread);
  m.held.clear();
  m.running = nullptr;
  run_threads();
}

void set_up(Machine& m, const Work& work) {
  m.work = work;
  use(m);
  const Launch& launch = work.launch;
  const size_t threads = static_cast<size_t>(launch.cluster) * launch.threads;
  m.threads.resize(threads);
  m.warps.resize(threads / kWarp);
  m.blocks.resize(launch.cluster);
  m.barriers.resize(launch.cluster * kBarriers);
  const size_t pitch = (launch.shared_bytes / kSharedAlignment + 1) * kSharedAlignment;
  m.shared.resize(pitch * (launch.cluster + 1));
  constexpr int kLeaveOneIn[] = {0, 64, 8};
  m.leave_one_in = m.ordered ? 0 : kLeaveOneIn[m.random.below(3)];
}

std::vector<int64_t> order_of_clusters(const Launch& launch) {
  Machine& m = machine();
  std::vector<int64_t> order(launch.blocks / launch.cluster);
  std::iota(order.begin(), order.end(), 0);
  for (size_t i = order.size(); !m.ordered && i > 1; --i) std::swap(order[i - 1], order[m.random.below(i)]);
  return order;
}

void carry_out(const Work& work) {
  set_up(machine(), work);
  for (const int64_t cluster : order_of_clusters(work.launch)) run_cluster(cluster);
}

// One cluster of the early launch begins before the other is carried out, the others after it.
void carry_out(const Work& before, const Work& early) {
  static Machine second;
  Machine& first = machine();
  second.ordered = first.ordered;
  second.random.state = first.random.next();
  try {
    set_up(second, early);
    second.early = true;
    const std::vector<int64_t> order = order_of_clusters(early.launch);
    run_cluster(order[0]);
    use(first);
    carry_out(before);
    use(second);
    go_on();
    for (size_t i = 1; i < order.size(); ++i) run_cluster(order[i]);
    use(first);
  } catch (...) {
    second.stacks.forget_frames();
    current = nullptr;
    use(first);
    throw;
  }
}

void check_launch(const Launch& l) {
  const Device& d = chosen_device;
  const auto refuse = [](const std::string& what) { fail_in_kernel("can't be launched with " + what); };
  if (l.threads <= 0 || l.threads > 1024 || l.threads % kWarp) refuse(std::to_string(l.threads) + " threads a block");
  if (l.cluster < 1 || l.blocks < 0 || l.blocks > INT32_MAX || l.blocks % l.cluster) {
    refuse(std::to_string(l.blocks) + " blocks in clusters of " + std::to_string(l.cluster));
  }
  if (clusters_that_fit(l) == 0) {
    refuse("clusters of " + std::to_string(l.cluster) + " and " + std::to_string(l.shared_bytes) +
           " bytes of shared memory on a device of compute capability " + std::to_string(d.capability) + " with " +
           std::to_string(d.block_shared));
  }
}

}  // namespace

void run(const Launch& launch, const std::string& kernel, Body body, std::shared_ptr<const void> parameters,
         size_t bytes) {
  const std::lock_guard<std::mutex> lock(one_at_a_time);
  machine().work.kernel = kernel;
  check_launch(launch);
  launched().push_back({kernel, launch, std::string(static_cast<const char*>(parameters.get()), bytes)});
  if (recording_only) return;
  Work work{launch, kernel, body, std::move(parameters)};
  const std::optional<Work> before = std::exchange(launched_last, std::nullopt);
  if (before && launch.early) return carry_out(*before, work);
  if (before) carry_out(*before);
  launched_last = std::move(work);
}

void synchronize() {
  const std::lock_guard<std::mutex> lock(one_at_a_time);
  if (const std::optional<Work> last = std::exchange(launched_last, std::nullopt)) carry_out(*last);
}

std::vector<Launched>& launched() {
  static std::vector<Launched> list;
  return list;
}

void record_only(bool only) { recording_only = only; }

void set_seed(uint64_t seed) {
  launched_last.reset();
  machine().ordered = seed == 0;
  machine().random.state = seed;
}

void set_device(const Device& device, int largest_cluster) {
  chosen_device = device;
  ++times_chosen;
  chosen_largest_cluster = largest_cluster;
}

void set_room(std::vector<int> parts, int most_blocks) {
  chosen_parts = std::move(parts);
  chosen_most_blocks = most_blocks;
  ++times_chosen;
}

const Device& device_in_use() { return chosen_device; }

int64_t devices_set() { return times_chosen; }

int clusters_that_fit(const Launch& launch) {
  const Device& d = chosen_device;
  if (launch.shared_bytes > d.block_shared || launch.cluster > chosen_largest_cluster) return 0;
  if (launch.cluster > 1 && d.capability < 90) return 0;
  // One block a multiprocessor, or two where shared memory and, by set_room, registers have room for them.
  constexpr int reserved = 1024;
  const int blocks = std::min(2 * (launch.shared_bytes + reserved) <= d.shared ? 2 : 1, chosen_most_blocks);
  if (chosen_parts.empty()) return d.multiprocessors / launch.cluster * blocks;
  int clusters = 0;
  for (const int multiprocessors : chosen_parts) clusters += multiprocessors * blocks / launch.cluster;
  return clusters;
}

}  // namespace kvmem::simt::host
