#include "cuda/backward.cuh"

namespace kvmem::cuda {

template Path Kernels<float>::backward_path(const BackwardArguments&);
template size_t Kernels<float>::backward_workspace(const BackwardArguments&);
template const char* Kernels<float>::backward(const BackwardArguments&, void*);

}  // namespace kvmem::cuda
