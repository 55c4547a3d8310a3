// Numbers on their way between the blocks of a cluster, and the counters of bytes that say when they have come.
#include <algorithm>

#include "host_machine.h"

namespace kvmem::simt::host {
namespace {

Counter* counter_at(Block& block, const char* place) {
  const auto found = std::find_if(block.counters.begin(), block.counters.end(),
                                  [=](const Counter& counter) { return counter.place == place; });
  return found == block.counters.end() ? nullptr : &*found;
}

void deliver(const Block& block, Counter& counter, const Message& message) {
  std::copy_n(message.bytes, message.size, message.to);
  counter.come += message.size;
  if (counter.come > counter.expected) {
    fail("sends block " + std::to_string(block.index) + " more than the " + std::to_string(counter.expected) +
         " bytes that it expects");
  }
}

void deliver_all(const Block& block, Counter& counter) {
  for (const Message& message : counter.under_way) deliver(block, counter, message);
  counter.under_way.clear();
}

}  // namespace

void expect_bytes(char* counter, int bytes) {
  if (current->cluster_arrives) fail("expect_bytes after cluster_arrive: other blocks may have sent before");
  if (counter_at(*current->block, counter)) fail("expect_bytes twice at one counter");
  current->block->counters.push_back({counter, bytes, 0, false, {}, {}});
}

void send(char* to, const char* bytes, int size, char* counter, int rank) {
  Block& there = *block_of_cluster(rank);
  if (there.running == 0) fail("sends to block " + std::to_string(there.index) + ", which has ended");
  if (current->cluster_waits == 0) {
    fail("sends to block " + std::to_string(there.index) + " before a cluster barrier: it may not have started");
  }
  const auto moved = [&](char* own) { return there.shared + (own - current->block->shared); };
  Counter* const counts = counter_at(there, moved(counter));
  if (!counts) fail("sends to block " + std::to_string(there.index) + ", which expects nothing at that counter");
  Message message{moved(to), size, {}};
  std::copy_n(bytes, size, message.bytes);
  // As late as it may come, unless the seed draws otherwise: when somebody waits for it.
  if (!counts->waiting.empty() || one_in(2)) {
    deliver(there, *counts, message);
  } else {
    counts->under_way.push_back(message);
  }
  if (counts->come < counts->expected) return;
  for (Thread* thread : counts->waiting) let_run(*thread);
  counts->waiting.clear();
}

void wait_for_bytes(char* counter) {
  Counter* const counts = counter_at(*current->block, counter);
  if (!counts) fail("wait_for_bytes at a counter without expect_bytes");
  deliver_all(*current->block, *counts);
  counts->waited = true;
  if (counts->come < counts->expected) {
    counts->waiting.push_back(current);
    hold(Wait::bytes);
  } else {
    for (Thread* thread : counts->waiting) let_run(*thread);
    counts->waiting.clear();
  }
}

void check_messages(const Block& block) {
  for (const Counter& counter : block.counters) {
    if (counter.waited && counter.come == counter.expected && counter.under_way.empty()) continue;
    fail_in_kernel("block " + std::to_string(block.index) + " ends with " + std::to_string(counter.come) + " of " +
                   std::to_string(counter.expected) + " bytes come" + (counter.waited ? "" : ", not waited for"));
  }
}

}  // namespace kvmem::simt::host
