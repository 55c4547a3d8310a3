// What a thread wrote, outside its block's shared memory, other blocks of the cluster see only where the writer has since
// arrived at a cluster barrier in a way that publishes, and they have passed it. What is stored past the caches is not used
// again. Accesses are followed by element; one by a view of constants reads, any other may write.
#include "host_machine.h"

namespace kvmem::simt::host {
namespace {

bool published(const Written& written) {
  const uint64_t passed = (uint64_t{1} << current->cluster_waits) - 1;
  return (written.writer->released & passed) >> written.arrivals != 0;
}

void check_published(uintptr_t address) {
  const Machine& m = machine();
  const auto found = m.written.find(address);
  if (found == m.written.end() || found->second.writer->block == current->block || published(found->second)) return;
  fail("uses what thread " + std::to_string(found->second.writer->index) + " of block " +
       std::to_string(found->second.writer->block->index) + " wrote, without a cluster barrier that publishes it");
}

}  // namespace

bool following = false;

void follow(uintptr_t address, size_t size, Block* owner, bool constant) {
  if (!current) return;
  Machine& m = machine();
  if (!owner && m.streamed.count(address & ~uintptr_t{15})) fail("uses what it has stored past the caches");
  if (current_launch.cluster == 1) return;
  const bool own = owner == current->block;
  if (own && !owner->peers_wrote) return;
  for (uintptr_t at = address; at < address + size; at += 4) check_published(at);
  if (own || constant || size > 8) return;
  m.written[address] = {current, current->cluster_arrives};
  if (owner) owner->peers_wrote = true;
}

void note_streamed(uintptr_t address) {
  machine().streamed.insert(address);
  following = true;
}

}  // namespace kvmem::simt::host
