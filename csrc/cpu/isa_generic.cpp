#define KVMEM_ISA generic_isa
#define KVMEM_VECTOR_BYTES 16
#include "kernels.h"

namespace kvmem::cpu {
const Kernels generic_kernels = {KVMEM_ISA::forward_workspace, KVMEM_ISA::backward_workspace, KVMEM_ISA::forward,
                             KVMEM_ISA::backward};
}
