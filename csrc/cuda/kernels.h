// What dispatch.cu calls: both directions for one data type, each compiled in a file of its own.
#pragma once

#include "kv_memory.h"
#include "simt/simt.cuh"

namespace kvmem::cuda {

template <typename T>
struct Kernels {
  static Path forward_path(const ForwardArguments& arguments);
  static size_t forward_workspace(const ForwardArguments& arguments);
  static const char* forward(const ForwardArguments& arguments, void* stream);
  static Path backward_path(const BackwardArguments& arguments);
  static size_t backward_workspace(const BackwardArguments& arguments);
  static const char* backward(const BackwardArguments& arguments, void* stream);
};

}  // namespace kvmem::cuda
