// Fibers: functions with stacks of their own, between which one thread of the host switches by hand.
#pragma once

#include <cstddef>
#include <vector>

namespace kvmem::simt::host {

struct Fiber {
  void* state = nullptr;  // where it stopped: a stack pointer, or a ucontext_t
  char* stack = nullptr;
  size_t bytes = 0;
  void* fake_stack = nullptr;  // AddressSanitizer's
};

// Lets `fiber` begin with `entry`, which must not return, at the top of its stack (less `offset` bytes).
void prepare(Fiber& fiber, size_t offset, void (*entry)());

// Goes on with `to`, until something goes on with `from`.
void switch_fiber(Fiber& from, Fiber& to);

// The same from a fiber that is done.
[[noreturn]] void leave_fiber(Fiber& from, Fiber& to);

// What a fiber's entry calls first.
void entered_fiber(Fiber& fiber);

// Stacks, touched only as far as they are used, each with a page below it that may not be touched.
class Stacks {
 public:
  ~Stacks();
  // Gives `fiber` stack number `index`.
  void give(size_t index, Fiber& fiber);
  // To be called where fibers were given up halfway, before their stacks are used again.
  void forget_frames();

 private:
  std::vector<char*> groups_;
};

}  // namespace kvmem::simt::host
