#define KVMEM_ISA avx512_isa
#define KVMEM_VECTOR_BYTES 64
#include "kernels.h"

namespace kvmem::cpu {
const Kernels avx512_kernels = {KVMEM_ISA::forward_workspace, KVMEM_ISA::backward_workspace, KVMEM_ISA::forward,
                             KVMEM_ISA::backward};
}
