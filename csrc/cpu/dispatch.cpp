// Chooses the instruction set when the process first asks, and sends calls there.
#include <atomic>
#include <cstdlib>
#include <cstring>

#include "isa.h"

namespace kvmem::cpu {
namespace {

const Kernels* kernels_for(Isa isa) {
  switch (isa) {
#ifdef KVMEM_X86
    case Isa::avx512_bf16:
      return &avx512_bf16_kernels;
    case Isa::avx512:
      return &avx512_kernels;
    case Isa::avx2:
      return &avx2_kernels;
#endif
    case Isa::generic:
      return &generic_kernels;
    default:
      return nullptr;
  }
}

Isa widest_available() {
  if (isa_available(Isa::avx512_bf16)) return Isa::avx512_bf16;
  if (isa_available(Isa::avx512)) return Isa::avx512;
  if (isa_available(Isa::avx2)) return Isa::avx2;
  return Isa::generic;
}

std::atomic<Isa>& chosen() {
  static std::atomic<Isa> isa{widest_available()};
  return isa;
}

const Kernels& kernels() { return *kernels_for(isa_in_use()); }

}  // namespace

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::avx512_bf16:
      return "avx512_bf16";
    case Isa::avx512:
      return "avx512";
    case Isa::avx2:
      return "avx2";
    default:
      return "generic";
  }
}

bool isa_available(Isa isa) {
#ifdef KVMEM_X86
  // What the files of each instruction set are compiled with: see CMakeLists.txt.
  if (isa == Isa::avx512_bf16) return isa_available(Isa::avx512) && __builtin_cpu_supports("avx512bf16");
  if (isa == Isa::avx512) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("fma") && __builtin_cpu_supports("avx2");
  }
  if (isa == Isa::avx2) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  }
#endif
  return isa == Isa::generic;
}

Isa isa_in_use() { return chosen().load(std::memory_order_relaxed); }
void use_isa(Isa isa) { chosen().store(isa, std::memory_order_relaxed); }

int64_t kept_memory(const Sizes& s) { return s.M == 0 ? 0 : (s.G + s.M + 2 * s.C + s.R) * s.T + s.M; }
size_t forward_workspace(const ForwardArguments& arguments) { return kernels().forward_workspace(arguments); }
size_t backward_workspace(const BackwardArguments& arguments) { return kernels().backward_workspace(arguments); }
void forward(const ForwardArguments& arguments) { kernels().forward(arguments); }
void backward(const BackwardArguments& arguments) { kernels().backward(arguments); }

}  // namespace kvmem::cpu
