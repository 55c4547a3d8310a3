// The operators' schemas, their CPU side, and what the build says of itself.
#include "torch_library.h"

#include <string>

#include "torch_memory_read.h"

namespace {

void run_parallel(int64_t count, kvmem::Parallel::Body body, const void* context) {
  torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    uint32_t thread = 0;
    torch_get_thread_idx(&thread);
    for (int64_t index = begin; index < end; ++index) body(index, thread, context);
  });
}

kvmem::Parallel framework_threads() { return {run_parallel, static_cast<int64_t>(torch::stable::get_num_threads())}; }

// The fused CPU kernels.
class Cpu {
 public:
  static constexpr size_t kInputAlignment = 1, kAlignment = 64;

  Cpu(const torch::stable::Tensor& image, const kvmem::Sizes&) {
    STD_TORCH_CHECK(image.is_cpu(), "kvmem: image must be on the CPU");
  }

  kvmem::Parallel parallel() const { return framework_threads(); }
  int64_t kept_memory(const kvmem::Sizes& s) const { return kvmem::cpu::kept_memory(s); }
  size_t workspace(const kvmem::ForwardArguments& arguments) const { return kvmem::cpu::forward_workspace(arguments); }
  size_t workspace(const kvmem::BackwardArguments& arguments) const {
    return kvmem::cpu::backward_workspace(arguments);
  }
  void run(const kvmem::ForwardArguments& arguments) const { kvmem::cpu::forward(arguments); }
  void run(const kvmem::BackwardArguments& arguments) const { kvmem::cpu::backward(arguments); }
};

constexpr kvmem::cpu::Isa kAllIsas[] = {kvmem::cpu::Isa::generic, kvmem::cpu::Isa::avx2, kvmem::cpu::Isa::avx512,
                                        kvmem::cpu::Isa::avx512_bf16};

std::string cpu_isas() {
  std::string names;
  for (const auto isa : kAllIsas) {
    if (kvmem::cpu::isa_available(isa)) names.append(names.empty() ? "" : ",").append(kvmem::cpu::isa_name(isa));
  }
  return names;
}

// "" asks, "auto" takes the widest, a name forces that one for the whole process.
std::string cpu_isa(std::string request) {
  bool known = request.empty();
  for (const auto isa : kAllIsas) {
    if (!kvmem::cpu::isa_available(isa) || (request != "auto" && request != kvmem::cpu::isa_name(isa))) continue;
    kvmem::cpu::use_isa(isa);
    known = true;
  }
  STD_TORCH_CHECK(known, "kvmem: instruction set '", request, "' can't run here; expected auto or one of ", cpu_isas());
  return kvmem::cpu::isa_name(kvmem::cpu::isa_in_use());
}

// What the CUDA kernels were compiled to, as "sm_80,sm_90,compute_90" (the last is code for later GPUs), and by which
// CUDA, as 13000; "" and 0 without CUDA.
std::string cuda_architectures() { return KVMEM_CUDA_ARCHITECTURES; }
int64_t cuda_version() { return KVMEM_CUDA_VERSION; }

}  // namespace

#define KVMEM_PARAMETERS                                                                                             \
  "Tensor gate_word, Tensor gate_image, Tensor write_word_weight, Tensor write_word_bias, Tensor write_image_weight, " \
  "Tensor write_image_bias, Tensor key_weight, Tensor key_bias, Tensor value_weight, Tensor value_bias, "             \
  "Tensor response_gate_weight, Tensor response_gate_bias, "

KVMEM_LIBRARY(TORCH_EXTENSION_NAME, m) {
  m.def("kv_memory(Tensor image, Tensor words, Tensor? mask, " KVMEM_PARAMETERS
        "bool linear_write_gate, bool relu, bool detach_mean, bool return_attention)"
        " -> (Tensor out, Tensor attention, Tensor mean, Tensor memory)");
  m.def("kv_memory_backward(Tensor grad_out, Tensor? grad_attention, Tensor image, Tensor words, Tensor? mask, "
        KVMEM_PARAMETERS "Tensor mean, Tensor memory, bool linear_write_gate, bool relu, "
        "bool detach_mean, int needs)"
        " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor,"
        " Tensor)");
  m.def("memory_read(Tensor image, Tensor keys, Tensor values, Tensor? mask, Tensor? response_gate_weight, "
        "Tensor? response_gate_bias, bool return_attention)"
        " -> (Tensor out, Tensor attention, Tensor memory)");
  m.def("memory_read_backward(Tensor grad_out, Tensor? grad_attention, Tensor image, Tensor keys, Tensor values, "
        "Tensor? mask, Tensor? response_gate_weight, Tensor? response_gate_bias, Tensor memory, "
        "int needs) -> (Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def("cpu_isa(str request) -> str");
  m.def("cpu_isas() -> str");
  m.def("cuda_architectures() -> str");
  m.def("cuda_version() -> int");
  m.def("cuda_path(str request) -> str");
}

KVMEM_LIBRARY_IMPL(TORCH_EXTENSION_NAME, CPU, m) {
  m.impl("kv_memory", TORCH_BOX(&kvmem::ops::kv_memory<Cpu>));
  m.impl("kv_memory_backward", TORCH_BOX(&kvmem::ops::kv_memory_backward<Cpu>));
  m.impl("memory_read", TORCH_BOX(&kvmem::ops::memory_read<Cpu>));
  m.impl("memory_read_backward", TORCH_BOX(&kvmem::ops::memory_read_backward<Cpu>));
}

KVMEM_LIBRARY_IMPL(TORCH_EXTENSION_NAME, CompositeExplicitAutograd, m) {
  m.impl("cpu_isa", TORCH_BOX(&cpu_isa));
  m.impl("cpu_isas", TORCH_BOX(&cpu_isas));
  m.impl("cuda_architectures", TORCH_BOX(&cuda_architectures));
  m.impl("cuda_version", TORCH_BOX(&cuda_version));
}

#if defined(CPU_KERNEL) || defined(CUDA_KERNEL)
// kernel-builder's: lets Python import the library, where ours is loaded by torch.
#include "registration.h"
REGISTER_EXTENSION(TORCH_EXTENSION_NAME)
#endif
