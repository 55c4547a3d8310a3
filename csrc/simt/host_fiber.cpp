#include "host_fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <new>

#if defined(__SANITIZE_ADDRESS__)
#define KVMEM_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define KVMEM_ASAN 1
#endif
#endif

#ifdef KVMEM_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if defined(__ELF__) && (defined(__x86_64__) || defined(__aarch64__)) && !defined(KVMEM_UCONTEXT)
#define KVMEM_ASSEMBLY 1
#else
#include <ucontext.h>
#endif

#ifdef KVMEM_ASSEMBLY
// Keeps the registers that a call keeps on the stack, the stack pointer in *save, and takes both up again from `to`.
// (swapcontext does the same, but asks the kernel about signals every time.)
extern "C" void kvmem_switch_stack(void** save, void* to);

#ifdef __x86_64__
asm(R"(
.text
.p2align 4
.globl kvmem_switch_stack
.hidden kvmem_switch_stack
.type kvmem_switch_stack, @function
kvmem_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size kvmem_switch_stack, .-kvmem_switch_stack
)");
constexpr int kSavedWords = 8, kReturnWord = 6;
#else
asm(R"(
.text
.p2align 4
.globl kvmem_switch_stack
.hidden kvmem_switch_stack
.type kvmem_switch_stack, %function
kvmem_switch_stack:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size kvmem_switch_stack, .-kvmem_switch_stack
)");
constexpr int kSavedWords = 20, kReturnWord = 11;
#endif
#endif

namespace kvmem::simt::host {
namespace {

constexpr size_t kPage = 65536;  // the largest page of the systems this runs on
#ifdef KVMEM_ASAN
constexpr size_t kStackBytes = 16 * kPage;
#else
constexpr size_t kStackBytes = 4 * kPage;
#endif
constexpr size_t kGroup = 256, kGroupBytes = kGroup * (kPage + kStackBytes);

Fiber* left = nullptr;

void before_switch([[maybe_unused]] void** fake_stack, [[maybe_unused]] Fiber& from, [[maybe_unused]] Fiber& to) {
  left = &from;
#ifdef KVMEM_ASAN
  __sanitizer_start_switch_fiber(fake_stack, to.stack, to.bytes);
#endif
}

void exchange(Fiber& from, Fiber& to) {
#ifdef KVMEM_ASSEMBLY
  kvmem_switch_stack(&from.state, to.state);
#else
  if (!from.state) from.state = new ucontext_t;
  swapcontext(static_cast<ucontext_t*>(from.state), static_cast<ucontext_t*>(to.state));
#endif
}

}  // namespace

void entered_fiber([[maybe_unused]] Fiber& fiber) {
#ifdef KVMEM_ASAN
  // Tells where the stack lies that was left: the only way to learn it of the host thread's own.
  const void* bottom = nullptr;
  size_t bytes = 0;
  __sanitizer_finish_switch_fiber(fiber.fake_stack, &bottom, &bytes);
  left->stack = static_cast<char*>(const_cast<void*>(bottom));
  left->bytes = bytes;
#endif
}

void prepare(Fiber& fiber, size_t offset, void (*entry)()) {
  fiber.fake_stack = nullptr;
#ifdef KVMEM_ASSEMBLY
  void** top = reinterpret_cast<void**>(fiber.stack + fiber.bytes - offset);
  void** saved = top - kSavedWords;
  for (int i = 0; i < kSavedWords; ++i) saved[i] = nullptr;
  saved[kReturnWord] = reinterpret_cast<void*>(entry);
  fiber.state = saved;
#else
  if (!fiber.state) fiber.state = new ucontext_t;
  ucontext_t* context = static_cast<ucontext_t*>(fiber.state);
  getcontext(context);
  context->uc_stack.ss_sp = fiber.stack;
  context->uc_stack.ss_size = fiber.bytes - offset;
  context->uc_link = nullptr;
  makecontext(context, entry, 0);
#endif
}

void switch_fiber(Fiber& from, Fiber& to) {
  before_switch(&from.fake_stack, from, to);
  exchange(from, to);
  entered_fiber(from);
}

void leave_fiber(Fiber& from, Fiber& to) {
  before_switch(nullptr, from, to);
  exchange(from, to);
  __builtin_unreachable();
}

Stacks::~Stacks() {
  for (char* group : groups_) munmap(group, kGroupBytes);
}

void Stacks::give(size_t index, Fiber& fiber) {
  while (groups_.size() <= index / kGroup) {
    constexpr int kKind = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void* memory = mmap(nullptr, kGroupBytes, PROT_READ | PROT_WRITE, kKind, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    groups_.push_back(static_cast<char*>(memory));
    for (size_t i = 0; i < kGroup; ++i) mprotect(groups_.back() + i * (kPage + kStackBytes), kPage, PROT_NONE);
  }
  fiber.stack = groups_[index / kGroup] + index % kGroup * (kPage + kStackBytes) + kPage;
  fiber.bytes = kStackBytes;
}

void Stacks::forget_frames() {
#ifdef KVMEM_ASAN
  for (char* group : groups_) __asan_unpoison_memory_region(group, kGroupBytes);
#endif
}

}  // namespace kvmem::simt::host
