// Hands out aligned pieces of one block of workspace; with a null block it only measures.
#pragma once

#include "kv_memory.h"
#include "simd.h"

namespace kvmem::cpu::KVMEM_ISA {

struct Arena {
  char* base;
  size_t used = 0;

  template <typename T>
  __attribute__((always_inline)) T* take(int64_t count) {
    T* piece = base ? reinterpret_cast<T*>(base + used) : nullptr;
    used += (static_cast<size_t>(count) * sizeof(T) + 63) / 64 * 64;
    return piece;
  }
};

}  // namespace kvmem::cpu::KVMEM_ISA
