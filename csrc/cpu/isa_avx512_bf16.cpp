// AVX-512 with products of pairs of bfloat16: images of that type. The others are left to AVX-512 as it is.
#define KVMEM_ISA avx512_bf16_isa
#define KVMEM_VECTOR_BYTES 64
#define KVMEM_PAIRS
#include "backward.h"
#include "isa.h"

namespace kvmem::cpu {
namespace {

template <auto typed, typename Arguments, typename Result>
Result of_bfloat16(const Arguments& a, Result (*others)(const Arguments&)) {
  return a.type == DataType::bfloat16 ? typed(a) : others(a);
}

}  // namespace

using KVMEM_ISA::bfloat16;
const Kernels avx512_bf16_kernels = {
    [](const ForwardArguments& a) {
      return of_bfloat16<KVMEM_ISA::forward_workspace_typed<bfloat16>>(a, avx512_kernels.forward_workspace);
    },
    [](const BackwardArguments& a) {
      return of_bfloat16<KVMEM_ISA::backward_workspace_typed<bfloat16>>(a, avx512_kernels.backward_workspace);
    },
    [](const ForwardArguments& a) { of_bfloat16<KVMEM_ISA::forward_typed<bfloat16>>(a, avx512_kernels.forward); },
    [](const BackwardArguments& a) { of_bfloat16<KVMEM_ISA::backward_typed<bfloat16>>(a, avx512_kernels.backward); }};

}  // namespace kvmem::cpu
