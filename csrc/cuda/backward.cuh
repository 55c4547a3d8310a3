// The backward pass for one data type, by the path that the arguments take.
#pragma once

#include "cuda/cluster/backward.cuh"
#include "cuda/general/backward.cuh"
#include "cuda/kernels.h"

namespace kvmem::cuda {

template <typename T>
Path Kernels<T>::backward_path(const BackwardArguments& a) {
  return !always_general() && !a.options.given && cluster_backward_plan<T>(a).fits ? Path::cluster : Path::general;
}

template <typename T>
size_t Kernels<T>::backward_workspace(const BackwardArguments& a) {
  return backward_path(a) == Path::cluster ? cluster_backward_workspace(a) : general_backward_workspace<T>(a);
}

template <typename T>
const char* Kernels<T>::backward(const BackwardArguments& a, void* stream) {
  return backward_path(a) == Path::cluster ? cluster_backward<T>(a, stream) : general_backward<T>(a, stream);
}

}  // namespace kvmem::cuda
