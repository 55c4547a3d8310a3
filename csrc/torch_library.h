// Under which name the operators are registered, and what the build says of itself: CMakeLists.txt says it by
// definitions; kernel-builder (build.toml) gives every build another name and defines only which backend it is for.
#pragma once

#include <torch/csrc/stable/library.h>

#ifndef TORCH_EXTENSION_NAME
#define TORCH_EXTENSION_NAME kvmem
#endif

// torch's macros make a string of the name: these put in what it stands for first.
#define KVMEM_LIBRARY(name, m) STABLE_TORCH_LIBRARY(name, m)
#define KVMEM_LIBRARY_IMPL(name, key, m) STABLE_TORCH_LIBRARY_IMPL(name, key, m)

#ifndef KVMEM_CUDA_ARCHITECTURES
#ifdef CUDA_KERNEL
#include <cuda_runtime_api.h>
#define KVMEM_CUDA_ARCHITECTURES "sm_80,sm_90,compute_90"  // as in build.toml
#define KVMEM_CUDA_VERSION CUDART_VERSION
#else
#define KVMEM_CUDA_ARCHITECTURES ""
#define KVMEM_CUDA_VERSION 0
#endif
#endif
