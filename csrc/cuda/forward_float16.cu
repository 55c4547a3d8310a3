#include "cuda/forward.cuh"

namespace kvmem::cuda {

template Path Kernels<Float16>::forward_path(const ForwardArguments&);
template size_t Kernels<Float16>::forward_workspace(const ForwardArguments&);
template const char* Kernels<Float16>::forward(const ForwardArguments&, void*);

}  // namespace kvmem::cuda
