// What a call launches, for its plan alone: of the layer's usual options, both scalar gates, all gradients.
#include <type_traits>

#include "host_python.h"

namespace py = pybind11;

namespace kvmem {
namespace {

// No tensor is made: every pointer is one that nobody may follow.
template <typename Arguments>
Arguments planned_arguments(const Sizes& sizes, const std::string& dtype, bool channels_last) {
  void* const somewhere = reinterpret_cast<void*>(uintptr_t{1} << 32);
  Arguments a{};
  a.sizes = sizes;
  a.options.relu = true;
  a.type = data_type(dtype);
  a.channels_last = channels_last;
  for (int i = 0; i < kInputs; ++i) a.inputs[i] = somewhere;
  a.mean = static_cast<float*>(somewhere);
  a.memory = somewhere;
  a.workspace = somewhere;
  if constexpr (std::is_same_v<Arguments, ForwardArguments>) {
    a.out = somewhere;
  } else {
    a.grad_out = somewhere;
    for (int i = 0; i < kInputs; ++i) a.gradients[i] = somewhere;
  }
  return a;
}

py::list plan(const std::string& direction, const std::string& dtype, int64_t B, int64_t C, int64_t N, int64_t T,
              int64_t D, bool channels_last) {
  const Sizes sizes{B, C, N, T, D, 2 * C, 1, 1};
  struct Recording {
    Recording() { simt::host::record_only(true); }
    ~Recording() { simt::host::record_only(false); }
  } recording;
  simt::host::launched().clear();
  const char* error =
      direction == "forward"
          ? cuda::forward(planned_arguments<ForwardArguments>(sizes, dtype, channels_last), nullptr)
          : cuda::backward(planned_arguments<BackwardArguments>(sizes, dtype, channels_last), nullptr);
  if (error) throw std::runtime_error(error);
  return launches();
}

}  // namespace

void add_plan(py::module_& module) {
  module.def("plan", plan, py::arg("direction"), py::arg("dtype"), py::arg("B"), py::arg("C"), py::arg("N"),
             py::arg("T"), py::arg("D"), py::arg("channels_last") = false);
}

}  // namespace kvmem
