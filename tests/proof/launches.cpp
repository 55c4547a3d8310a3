// What a call launches on a device, and with which bytes: the kernels' own launch code with views that are pointers alone.
//
// A tensor's address holds its number in the list of names: whoever reads the bytes sees which tensor is meant.
#include <pybind11/stl.h>

#include "simt/host_python.h"

namespace py = pybind11;

namespace kvmem {
namespace {

// Addresses of tensors that nobody may follow: 16 bits that say so, 8 of the tensor, 40 of the place in it.
class Addresses {
 public:
  void* operator()(const std::string& name) {
    names_.push_back(name);
    return reinterpret_cast<void*>(uint64_t{0x5e7a} << 48 | (names_.size() - 1) << 40);
  }
  const std::vector<std::string>& names() const { return names_; }

 private:
  std::vector<std::string> names_;
};

// Whether the operator of a memory that is given, or of one that is written, has this input.
bool has_input(const Sizes& sizes, bool given, int i) {
  const bool gate = i == kResponseGateWeight || i == kResponseGateBias;
  if (given) return i == kImage || i >= kKeys || (gate && sizes.R > 0);
  return i < kKeys;
}

template <typename Arguments>
Arguments arguments_of(const py::dict& call, Addresses& address) {
  const auto flag = [&](const char* name) { return call[name].cast<bool>(); };
  const auto size = [&](const char* name) { return call[name].cast<int64_t>(); };
  Arguments a{};
  a.sizes = {size("B"), size("C"), size("N"), size("T"), size("D"), size("M"), size("G"), size("R")};
  a.options = {flag("linear_write_gate"), flag("relu"), flag("detach_mean"), flag("given")};
  a.type = data_type(call["dtype"].cast<std::string>());
  a.wide_words = flag("wide_words");
  a.wide_weights = flag("wide_weights");
  a.channels_last = flag("channels_last");
  for (int i = 0; i < kAllInputs; ++i) {
    if (has_input(a.sizes, a.options.given, i)) a.inputs[i] = address(kInputNames[i]);
  }
  if (flag("mask")) a.mask = static_cast<const bool*>(address("mask"));
  if (!a.options.given) a.mean = address("mean");
  a.memory = static_cast<float*>(address("memory"));
  a.workspace = address("workspace");
  return a;
}

ForwardArguments forward_arguments(const py::dict& call, Addresses& address) {
  auto a = arguments_of<ForwardArguments>(call, address);
  a.out = address("out");
  if (call["attention"].cast<bool>()) a.attention = address("attention");
  return a;
}

// All gradients, or that of the image alone.
BackwardArguments backward_arguments(const py::dict& call, Addresses& address) {
  auto a = arguments_of<BackwardArguments>(call, address);
  a.grad_out = address("grad_out");
  if (call["attention"].cast<bool>()) a.grad_attention = address("grad_attention");
  const bool all = call["all_gradients"].cast<bool>();
  for (int i = 0; i < kAllInputs; ++i) {
    if (a.inputs[i] && (all || i == kImage)) a.gradients[i] = address(std::string("grad of ") + kInputNames[i]);
  }
  return a;
}

// The launches of a call, in order, each with the bytes of its parameters, and the names of the call's tensors.
py::tuple record(const std::string& direction, const py::dict& call) {
  simt::host::record_only(true);
  simt::host::launched().clear();
  cuda::use_general_path(call["general"].cast<bool>());
  Addresses address;
  const char* error = direction == "forward" ? cuda::forward(forward_arguments(call, address), nullptr)
                                             : cuda::backward(backward_arguments(call, address), nullptr);
  if (error) throw std::runtime_error(error);
  py::list list;
  for (const simt::host::Launched& launched : simt::host::launched()) {
    py::dict entry = described(launched);
    entry["parameters"] = py::bytes(launched.parameters);
    list.append(entry);
  }
  return py::make_tuple(list, address.names());
}

}  // namespace
}  // namespace kvmem

PYBIND11_MODULE(kvmem_launches, module) {
  using namespace kvmem;
  module.def("record", record, py::arg("direction"), py::arg("call"));
  module.def(
      "set_device",
      [](int block_shared, int largest_cluster) {
        simt::host::set_device({90, 132, block_shared, block_shared + 1024}, largest_cluster);
      },
      py::arg("block_shared"), py::arg("largest_cluster"));
}
