#include "cuda/forward.cuh"

namespace kvmem::cuda {

template Path Kernels<Bfloat16>::forward_path(const ForwardArguments&);
template size_t Kernels<Bfloat16>::forward_workspace(const ForwardArguments&);
template const char* Kernels<Bfloat16>::forward(const ForwardArguments&, void*);

}  // namespace kvmem::cuda
