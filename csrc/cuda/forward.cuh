// The forward pass for one data type, by the path that the arguments take.
#pragma once

#include "cuda/cluster/forward.cuh"
#include "cuda/general/forward.cuh"
#include "cuda/kernels.h"

namespace kvmem::cuda {

template <typename T>
Path Kernels<T>::forward_path(const ForwardArguments& a) {
  // A memory that is given is the general path's.
  return !always_general() && !a.options.given && cluster_forward_plan<T>(a).fits ? Path::cluster : Path::general;
}

template <typename T>
size_t Kernels<T>::forward_workspace(const ForwardArguments& a) {
  return forward_path(a) == Path::cluster ? 0 : general_forward_workspace<T>(a);
}

template <typename T>
const char* Kernels<T>::forward(const ForwardArguments& a, void* stream) {
  return forward_path(a) == Path::cluster ? cluster_forward<T>(a, stream) : general_forward<T>(a, stream);
}

}  // namespace kvmem::cuda
