#include "cuda/forward.cuh"

namespace kvmem::cuda {

template Path Kernels<float>::forward_path(const ForwardArguments&);
template size_t Kernels<float>::forward_workspace(const ForwardArguments&);
template const char* Kernels<float>::forward(const ForwardArguments&, void*);

}  // namespace kvmem::cuda
