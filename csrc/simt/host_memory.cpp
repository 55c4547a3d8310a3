// Shared memory and asynchronous copies: what may be used when.
#include <algorithm>

#include "simt.cuh"

namespace kvmem::simt::host {
namespace {

void deliver(Copy& copy, bool read_only) {
  if (!copy.read) {
    if (copy.from) {
      std::copy_n(copy.from, 16, copy.bytes);
    } else {
      std::fill_n(copy.bytes, 16, char(0));
    }
    copy.read = true;
  }
  if (read_only || copy.delivered) return;
  std::copy_n(copy.bytes, 16, copy.to);
  copy.delivered = true;
}

}  // namespace

void start_copy(char* to, const char* from) {
  current->copies.push_back({to, from, false, false, current->copy_groups, {}});
  // Until the data is there, what stands there is no number.
  std::fill_n(to, 16, char(-1));
  if (one_in(2)) deliver(current->copies.back(), one_in(2));
}

void close_copies() {
  if (!current) fail("commit_copies");
  ++current->copy_groups;
  for (Copy& copy : current->copies) {
    if (one_in(4)) deliver(copy, one_in(2));
  }
}

void finish_copies(int open_groups) {
  if (!current) fail("wait_copies");
  std::vector<Copy>& copies = current->copies;
  const int first_open = current->copy_groups - open_groups;
  size_t kept = 0;
  for (Copy& copy : copies) {
    if (copy.group < first_open) {
      deliver(copy, false);
    } else {
      copies[kept++] = copy;
    }
  }
  copies.resize(kept);
}

char* shared_memory(int byte, int64_t bytes, size_t alignment) {
  if (!current) fail("shared memory");
  if (byte < 0 || bytes < 0 || byte + bytes > current_launch.shared_bytes || byte % alignment) {
    fail("shared memory from byte " + std::to_string(byte) + " to " + std::to_string(byte + bytes) + ", aligned to " +
         std::to_string(alignment) + ": the block has " + std::to_string(current_launch.shared_bytes));
  }
  return current->block->shared + byte;
}

void use_shared_memory_of(Block* owner) {
  if (!current) fail("shared memory of a kernel");
  if (owner->running == 0) fail("uses shared memory of block " + std::to_string(owner->index) + ", which has ended");
  if (current->cluster_waits == 0) {
    fail("uses shared memory of block " + std::to_string(owner->index) +
         " before a cluster barrier: it may not have started");
  }
  owner->in_use_until = std::max(owner->in_use_until, current->cluster_arrives + 1);
}

void refuse_access(uintptr_t address, uintptr_t begin, uintptr_t end, size_t size, size_t alignment,
                   const Block* owner) {
  const std::string element = std::to_string(size) + " bytes of ";
  const std::string where = owner ? "shared memory of block " + std::to_string(owner->index) : "global memory";
  if (begin == 0) fail("access of " + element + where + " through a null view");
  const int64_t offset = static_cast<int64_t>(address - begin);
  if (address < begin || address + size > end) {
    fail("access of " + element + where + " outside its view: byte " + std::to_string(offset) + " of " +
         std::to_string(end - begin) + " (element " + std::to_string(offset / static_cast<int64_t>(size)) + " of " +
         std::to_string((end - begin) / size) + ")");
  }
  fail("access of " + element + where + " at byte " + std::to_string(offset) + " of its view, not aligned to " +
       std::to_string(alignment));
}

}  // namespace kvmem::simt::host
