// The operators' CUDA side: device, stream and limits of the kernels in csrc/cuda. Part of the build where nvcc is.
#include "torch_library.h"

#include <dlfcn.h>
#include <torch/csrc/stable/accelerator.h>

#include <string>

#include "torch_memory_read.h"

namespace {

using CurrentStream = AOTITorchError (*)(int32_t device, void** stream);

// torch's CUDA library has this function and its CPU library hasn't. It is looked up instead of linked, so that the
// extension can be loaded into a torch without CUDA too.
CurrentStream find_current_stream() {
  void* library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
  return reinterpret_cast<CurrentStream>(dlsym(library ? library : RTLD_DEFAULT, "aoti_torch_get_current_cuda_stream"));
}

void* current_stream(int32_t device) {
  static const CurrentStream function = find_current_stream();
  STD_TORCH_CHECK(function != nullptr, "kvmem: this torch has no CUDA library to ask for the current stream");
  void* stream = nullptr;
  STD_TORCH_CHECK(function(device, &stream) == AOTI_TORCH_SUCCESS, "kvmem: torch doesn't say the current stream of device ",
                  device);
  return stream;
}

// The fused CUDA kernels. They run on the image's device, on torch's current stream there.
class Cuda {
 public:
  static constexpr size_t kInputAlignment = 16, kAlignment = 256;

  Cuda(const torch::stable::Tensor& image, const kvmem::Sizes& s)
      : guard_(checked_device(image, s)), stream_(current_stream(image.get_device_index())) {
    check(kvmem::cuda::select_device(image.get_device_index()));
  }

  kvmem::Parallel parallel() const { return {}; }
  int64_t kept_memory(const kvmem::Sizes& s) const { return kvmem::cuda::kept_memory(s); }
  size_t workspace(const kvmem::ForwardArguments& arguments) const { return kvmem::cuda::forward_workspace(arguments); }
  size_t workspace(const kvmem::BackwardArguments& arguments) const {
    return kvmem::cuda::backward_workspace(arguments);
  }
  void run(const kvmem::ForwardArguments& arguments) const { check(kvmem::cuda::forward(arguments, stream_)); }
  void run(const kvmem::BackwardArguments& arguments) const { check(kvmem::cuda::backward(arguments, stream_)); }

 private:
  static int32_t checked_device(const torch::stable::Tensor& image, const kvmem::Sizes& s) {
    STD_TORCH_CHECK(image.is_cuda(), "kvmem: image must be on a CUDA device");
    STD_TORCH_CHECK(image.scalar_type() != torch::headeronly::ScalarType::Double,
                    "kvmem: the CUDA kernels take float32, bfloat16 and float16, not float64");
    STD_TORCH_CHECK(s.T <= kvmem::cuda::kMaxSlots, "kvmem: the CUDA kernels take at most ", kvmem::cuda::kMaxSlots,
                    " slots, not ", s.T);
    STD_TORCH_CHECK(s.C <= kvmem::cuda::kMaxImageChannels, "kvmem: the CUDA kernels take at most ",
                    kvmem::cuda::kMaxImageChannels, " image channels, not ", s.C);
    return image.get_device_index();
  }

  static void check(const char* error) {
    STD_TORCH_CHECK(error == nullptr, "kvmem: the CUDA kernels could not be started: ", error);
  }

  torch::stable::accelerator::DeviceGuard guard_;
  void* stream_;
};

// "" asks, "general" takes the general path always, "auto" the cluster path where it applies, for the whole process.
std::string cuda_path(std::string request) {
  STD_TORCH_CHECK(request.empty() || request == "auto" || request == "general", "kvmem: path '", request,
                  "' doesn't exist; expected auto or general");
  if (!request.empty()) kvmem::cuda::use_general_path(request == "general");
  return kvmem::cuda::always_general() ? "general" : "auto";
}

}  // namespace

KVMEM_LIBRARY_IMPL(TORCH_EXTENSION_NAME, CUDA, m) {
  m.impl("kv_memory", TORCH_BOX(&kvmem::ops::kv_memory<Cuda>));
  m.impl("kv_memory_backward", TORCH_BOX(&kvmem::ops::kv_memory_backward<Cuda>));
  m.impl("memory_read", TORCH_BOX(&kvmem::ops::memory_read<Cuda>));
  m.impl("memory_read_backward", TORCH_BOX(&kvmem::ops::memory_read_backward<Cuda>));
}

KVMEM_LIBRARY_IMPL(TORCH_EXTENSION_NAME, CompositeExplicitAutograd, m) { m.impl("cuda_path", TORCH_BOX(&cuda_path)); }
