// The machine that the host build runs kernels on: fibers for threads, and rules that a GPU doesn't check.
//
// The blocks of a cluster run side by side, the clusters one after another. A thread runs until a collective operation
// of its warp or a barrier holds it; which warp and lane goes on then is drawn by the seed. A launch is carried out when
// the next one comes or synchronize() is called, so that an early one may begin before it. Errors are exceptions,
// std::runtime_error, of launch() or synchronize(). Included by host.h alone.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "host_fiber.h"

namespace kvmem::simt::host {

// What a thread can wait in. The names are in host_engine.cpp.
enum class Wait : uint8_t {
  nothing,
  shuffle,
  shuffle_xor,
  warp_barrier,
  matrix_load,
  matrix_load_transposed,
  matrix_store,
  matrix_store_transposed,
  matrix_multiply,
  matrix_multiply_tf32,
  block_barrier,
  group_barrier,
  cluster_wait,
  bytes,
  launch_before
};

struct Block;
struct Warp;

// One asynchronous copy of 16 bytes.
struct Copy {
  char* to;
  const char* from;  // null: zeros
  bool read, delivered;
  int group;
  char bytes[16];
};

// Up to 8 bytes on their way to a block of the cluster.
struct Message {
  char* to;
  int size;
  char bytes[8];
};

struct Thread;

// What a block expects to be sent.
struct Counter {
  const char* place;
  int expected, come;
  bool waited;  // for all of it
  std::vector<Message> under_way;
  std::vector<Thread*> waiting;
};

struct Thread {
  Fiber fiber;
  Block* block;
  Warp* warp;
  int index, lane;
  Wait wait;
  int cluster_arrives, cluster_waits;
  uint64_t released;  // a bit a cluster barrier: that the thread's arrival published what it had written
  int copy_groups;  // closed ones
  std::vector<Copy> copies;
};

struct Block {
  int64_t index;
  int rank;
  char* shared;
  int running;         // threads that aren't done
  int cluster_waits;   // cluster barriers that a thread of it has passed
  int in_use_until;    // the cluster barrier that it may not end before, as others use its shared memory
  bool peers_wrote;    // to its shared memory
  std::vector<Counter> counters;
};

extern Thread* current;  // null outside a kernel
extern Launch current_launch;

[[noreturn]] void fail(const std::string& what);
bool one_in(int n);  // drawn by the seed, never where threads run in their order

// All lanes of the warp meet here with what they bring; the last to come completes the operation for all.
using Complete = void (*)(void* const* lanes);
void gather(Wait wait, void* mine, Complete complete);
void wait_at_barrier(int id, int threads);
void arrive_at_cluster(bool publishes);
void wait_for_cluster();

// Counters and places are of the current block; `rank` is the block that is meant instead.
void expect_bytes(char* counter, int bytes);
void send(char* to, const char* bytes, int size, char* counter, int rank);
void wait_for_bytes(char* counter);

// Holds a thread of an early launch until what was launched before is done.
void wait_for_launch_before();

// Whether accesses are to be followed, and an access: of shared memory of `owner` or of global memory. `constant`: a read.
extern bool following;
void follow(uintptr_t address, size_t size, Block* owner, bool constant);
void note_streamed(uintptr_t address);

void start_copy(char* to, const char* from);
void close_copies();
void finish_copies(int open_groups);

char* shared_memory(int byte, int64_t bytes, size_t alignment);
Block* block_of_cluster(int rank);
// The current thread is about to use the shared memory of another block.
void use_shared_memory_of(Block* owner);
// An access of `size` bytes at `address`, outside [begin, end) or not aligned. `owner` is null for global memory.
[[noreturn]] void refuse_access(uintptr_t address, uintptr_t begin, uintptr_t end, size_t size, size_t alignment,
                                const Block* owner);

using Body = void (*)(const void* parameters);
// `parameters`: so many bytes.
void run(const Launch& launch, const std::string& kernel, Body body, std::shared_ptr<const void> parameters,
         size_t bytes);
// Until all that was launched is done.
void synchronize();

// What was launched since the list was last cleared.
struct Launched {
  std::string kernel;
  Launch launch;
  std::string parameters;  // the bytes of its struct
};
std::vector<Launched>& launched();
// Whether launches are only noted down, for their plans: nothing then reads or writes what they are given.
void record_only(bool only);

// 0: lanes and warps in their order, copies as late as possible; else a random order, the same for the same seed. Forgets
// what was launched and not carried out.
void set_seed(uint64_t seed);
void set_device(const Device& device, int largest_cluster);
// Where clusters of blocks lie: the multiprocessors of each part of the device that a cluster doesn't reach beyond (none:
// it has no parts), and the most blocks that a multiprocessor's registers have room for.
void set_room(std::vector<int> parts, int most_blocks);
const Device& device_in_use();
int64_t devices_set();  // how often one of these two was called
int clusters_that_fit(const Launch& launch);

}  // namespace kvmem::simt::host
