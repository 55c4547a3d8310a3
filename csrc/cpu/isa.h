// The table of kernels that each instruction set's file fills.
#pragma once

#include "kv_memory.h"

namespace kvmem::cpu {

struct Kernels {
  size_t (*forward_workspace)(const ForwardArguments&);
  size_t (*backward_workspace)(const BackwardArguments&);
  void (*forward)(const ForwardArguments&);
  void (*backward)(const BackwardArguments&);
};

extern const Kernels generic_kernels;
#ifdef KVMEM_X86
extern const Kernels avx2_kernels;
extern const Kernels avx512_kernels;
extern const Kernels avx512_bf16_kernels;
#endif

}  // namespace kvmem::cpu
