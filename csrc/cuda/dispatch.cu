// The functions of kv_memory.h, by data type.
#include <atomic>

#include "cuda/kernels.h"
#include "cuda/layout.h"

namespace kvmem::cuda {

namespace {

std::atomic<bool> general_forced{false};

// Calls body with the kernels of the data type, which is none of float64.
template <typename Body>
auto with_kernels(DataType type, Body body) {
  switch (type) {
    case DataType::bfloat16:
      return body(Kernels<simt::Bfloat16>{});
    case DataType::float16:
      return body(Kernels<simt::Float16>{});
    default:
      return body(Kernels<float>{});
  }
}

// Null, or why these kernels don't take the arguments. What comes from kvmem's own functions has been checked there.
const char* refusal(const Sizes& s, DataType type) {
  if (type == DataType::float64) return "the CUDA kernels take float32, bfloat16 and float16, not float64";
  if (s.T > kMaxSlots) return "the CUDA kernels take at most 128 slots";
  if (s.C > kMaxImageChannels) return "the CUDA kernels take at most 512 image channels";
  return nullptr;
}

}  // namespace

bool always_general() { return general_forced.load(std::memory_order_relaxed); }
void use_general_path(bool always) { general_forced.store(always, std::memory_order_relaxed); }

int64_t kept_memory(const Sizes& sizes) { return memory_layout(sizes).size; }

const char* select_device(int index) { return simt::select_device(index); }

Path forward_path(const ForwardArguments& a) {
  return with_kernels(a.type, [&](auto kernels) { return kernels.forward_path(a); });
}

Path backward_path(const BackwardArguments& a) {
  return with_kernels(a.type, [&](auto kernels) { return kernels.backward_path(a); });
}

size_t forward_workspace(const ForwardArguments& a) {
  if (refusal(a.sizes, a.type)) return 0;
  return with_kernels(a.type, [&](auto kernels) { return kernels.forward_workspace(a); });
}

size_t backward_workspace(const BackwardArguments& a) {
  if (refusal(a.sizes, a.type)) return 0;
  return with_kernels(a.type, [&](auto kernels) { return kernels.backward_workspace(a); });
}

const char* forward(const ForwardArguments& a, void* stream) {
  if (const char* reason = refusal(a.sizes, a.type)) return reason;
  return with_kernels(a.type, [&](auto kernels) { return kernels.forward(a, stream); });
}

const char* backward(const BackwardArguments& a, void* stream) {
  if (const char* reason = refusal(a.sizes, a.type)) return reason;
  return with_kernels(a.type, [&](auto kernels) { return kernels.backward(a, stream); });
}

}  // namespace kvmem::cuda
