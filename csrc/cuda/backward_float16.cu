#include "cuda/backward.cuh"

namespace kvmem::cuda {

template Path Kernels<Float16>::backward_path(const BackwardArguments&);
template size_t Kernels<Float16>::backward_workspace(const BackwardArguments&);
template const char* Kernels<Float16>::backward(const BackwardArguments&, void*);

}  // namespace kvmem::cuda
