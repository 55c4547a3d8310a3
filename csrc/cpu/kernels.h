// The kernels of one instruction set for every data type. Each isa_*.cpp defines KVMEM_ISA and KVMEM_VECTOR_BYTES first.
#pragma once

#include "backward.h"
#include "isa.h"

namespace kvmem::cpu::KVMEM_ISA {

static size_t forward_workspace(const ForwardArguments& a) {
  switch (a.type) {
    case DataType::float32:
      return forward_workspace_typed<float>(a);
    case DataType::float64:
      return forward_workspace_typed<double>(a);
    case DataType::bfloat16:
      return forward_workspace_typed<bfloat16>(a);
    default:
      return forward_workspace_typed<float16>(a);
  }
}

static size_t backward_workspace(const BackwardArguments& a) {
  switch (a.type) {
    case DataType::float32:
      return backward_workspace_typed<float>(a);
    case DataType::float64:
      return backward_workspace_typed<double>(a);
    case DataType::bfloat16:
      return backward_workspace_typed<bfloat16>(a);
    default:
      return backward_workspace_typed<float16>(a);
  }
}

static void forward(const ForwardArguments& a) {
  switch (a.type) {
    case DataType::float32:
      return forward_typed<float>(a);
    case DataType::float64:
      return forward_typed<double>(a);
    case DataType::bfloat16:
      return forward_typed<bfloat16>(a);
    default:
      return forward_typed<float16>(a);
  }
}

static void backward(const BackwardArguments& a) {
  switch (a.type) {
    case DataType::float32:
      return backward_typed<float>(a);
    case DataType::float64:
      return backward_typed<double>(a);
    case DataType::bfloat16:
      return backward_typed<bfloat16>(a);
    default:
      return backward_typed<float16>(a);
  }
}

}  // namespace kvmem::cpu::KVMEM_ISA
