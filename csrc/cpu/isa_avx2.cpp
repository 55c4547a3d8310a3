#define KVMEM_ISA avx2_isa
#define KVMEM_VECTOR_BYTES 32
#include "kernels.h"

namespace kvmem::cpu {
const Kernels avx2_kernels = {KVMEM_ISA::forward_workspace, KVMEM_ISA::backward_workspace, KVMEM_ISA::forward,
                             KVMEM_ISA::backward};
}
