// The operators memory_read and memory_read_backward over any backend: keys and values are given instead of written.
//
// The kernels are those of kv_memory. As there, messages for users are kvmem/checks.py's.
#pragma once

#include "torch_kv_memory.h"

namespace kvmem::ops {

// keys, values, and W_g and b_g where there is a gate.
struct Given {
  Tensor keys, values;
  std::optional<Tensor> gate_weight, gate_bias;
};

inline Sizes sizes_of(const Tensor& image, const Given& given) {
  STD_TORCH_CHECK(image.dim() == 4 && given.keys.dim() == 3, "kvmem: image must be (B, C, H, W) and keys (B, T, C)");
  STD_TORCH_CHECK(given.gate_weight.has_value() == given.gate_bias.has_value(),
                  "kvmem: a response gate has a weight and a bias");
  Sizes s{};
  s.B = image.size(0);
  s.C = image.size(1);
  s.N = image.size(2) * image.size(3);
  s.T = given.keys.size(1);
  s.R = given.gate_weight ? given.gate_weight->size(0) : 0;
  return s;
}

inline void check(const Sizes& s, const Tensor& image, const Given& given, const std::optional<Tensor>& mask) {
  const ScalarType type = parameter_type(given.keys, image);
  check_shape(given.keys, "keys", {s.B, s.T, s.C}, type, image);
  check_shape(given.values, "values", {s.B, s.T, s.C}, type, image);
  if (mask) check_shape(*mask, "mask", {s.B, s.T}, ScalarType::Bool, image);
  if (!given.gate_weight) return;
  const ScalarType gate_type = parameter_type(*given.gate_weight, image);
  check_shape(*given.gate_weight, "response_gate_weight", {s.R, 2 * s.C}, gate_type, image);
  check_shape(*given.gate_bias, "response_gate_bias", {s.R}, gate_type, image);
  STD_TORCH_CHECK(s.R == 1 || s.R == s.C, "kvmem: response_gate_weight must have 1 or C rows");
}

// What both directions read; holds the contiguous copies alive while the kernel runs.
struct PreparedRead {
  Sizes sizes;
  DataType type;
  bool channels_last;
  Tensor image;
  Given given;
  std::optional<Tensor> mask;

  template <typename Arguments>
  void fill(Arguments& arguments) const {
    arguments.sizes = sizes;
    arguments.options = {.linear_write_gate = false, .relu = false, .detach_mean = true, .given = true};
    arguments.type = type;
    arguments.wide_words = is_wide(given.keys, image);
    arguments.wide_weights = given.gate_weight && is_wide(*given.gate_weight, image);
    arguments.channels_last = channels_last;
    arguments.inputs[kImage] = image.const_data_ptr();
    arguments.inputs[kKeys] = given.keys.const_data_ptr();
    arguments.inputs[kValues] = given.values.const_data_ptr();
    if (given.gate_weight) arguments.inputs[kResponseGateWeight] = given.gate_weight->const_data_ptr();
    if (given.gate_bias) arguments.inputs[kResponseGateBias] = given.gate_bias->const_data_ptr();
    arguments.mask = mask ? static_cast<const bool*>(mask->const_data_ptr()) : nullptr;
  }
};

inline PreparedRead prepare(const Tensor& image, const Given& given, const std::optional<Tensor>& mask,
                            size_t alignment) {
  PreparedRead p{sizes_of(image, given), data_type(image), lies_channels_last(image), image, given, mask};
  check(p.sizes, image, given, mask);
  p.image = as_image(image, p.channels_last, alignment);
  p.given.keys = dense(given.keys, alignment);
  p.given.values = dense(given.values, alignment);
  if (mask) p.mask = dense(*mask, alignment);
  if (given.gate_weight) p.given.gate_weight = dense(*given.gate_weight, alignment);
  if (given.gate_bias) p.given.gate_bias = dense(*given.gate_bias, alignment);
  return p;
}

template <typename Backend>
std::tuple<Tensor, Tensor, Tensor> memory_read(Tensor image, Tensor keys, Tensor values, std::optional<Tensor> mask,
                                               std::optional<Tensor> response_gate_weight,
                                               std::optional<Tensor> response_gate_bias, bool return_attention) {
  const PreparedRead p =
      prepare(image, {keys, values, response_gate_weight, response_gate_bias}, mask, Backend::kInputAlignment);
  const Sizes& s = p.sizes;
  const Backend backend(image, s);
  const int64_t H = image.size(2), W = image.size(3), kept = backend.kept_memory(s);
  using Shape = std::vector<int64_t>;
  Tensor out = empty_image(image, p.channels_last);
  Tensor attention = empty(return_attention ? Shape{s.B, s.T, H, W} : Shape{0}, image.scalar_type(), image);
  Tensor memory = empty({s.B, kept}, arithmetic_type(p.type), image);
  ForwardArguments arguments{};
  p.fill(arguments);
  arguments.parallel = backend.parallel();
  arguments.out = out.mutable_data_ptr();
  arguments.attention = return_attention ? attention.mutable_data_ptr() : nullptr;
  arguments.memory = memory.mutable_data_ptr();
  const Workspace workspace(backend.workspace(arguments), Backend::kAlignment, image);
  arguments.workspace = workspace.data();
  backend.run(arguments);
  return {out, attention, memory};
}

// Gradients in the order of the bits of `needs`: image, keys, values, response_gate_weight, response_gate_bias.
template <typename Backend>
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> memory_read_backward(
    Tensor grad_out, std::optional<Tensor> grad_attention, Tensor image, Tensor keys, Tensor values,
    std::optional<Tensor> mask, std::optional<Tensor> response_gate_weight, std::optional<Tensor> response_gate_bias,
    Tensor memory, int64_t needs) {
  constexpr size_t alignment = Backend::kInputAlignment;
  const PreparedRead p = prepare(image, {keys, values, response_gate_weight, response_gate_bias}, mask, alignment);
  const Sizes& s = p.sizes;
  const Backend backend(image, s);
  const int64_t H = image.size(2), W = image.size(3);
  check_shape(grad_out, "grad_out", {s.B, s.C, H, W}, image.scalar_type(), image);
  if (grad_attention) check_shape(*grad_attention, "grad_attention", {s.B, s.T, H, W}, image.scalar_type(), image);
  check_shape(memory, "memory", {s.B, backend.kept_memory(s)}, arithmetic_type(p.type), image);
  STD_TORCH_CHECK(response_gate_weight || needs >> 3 == 0, "kvmem: no response gate, whose gradient is asked for");
  const Tensor grad = as_image(grad_out, p.channels_last, alignment), memory_dense = dense(memory, alignment);
  std::optional<Tensor> attention;
  if (grad_attention) attention = dense(*grad_attention, alignment);
  BackwardArguments arguments{};
  p.fill(arguments);
  arguments.parallel = backend.parallel();
  arguments.memory = memory_dense.const_data_ptr();
  arguments.grad_out = grad.const_data_ptr();
  arguments.grad_attention = attention ? attention->const_data_ptr() : nullptr;
  const Given& given = p.given;
  const std::array<Differentiable, 5> inputs = {{{kImage, &p.image},
                                                 {kKeys, &given.keys},
                                                 {kValues, &given.values},
                                                 {kResponseGateWeight, given.gate_weight ? &*given.gate_weight : nullptr},
                                                 {kResponseGateBias, given.gate_bias ? &*given.gate_bias : nullptr}}};
  const std::vector<Tensor> gradients = make_gradients(inputs, p.channels_last, needs, arguments.gradients);
  const Workspace workspace(backend.workspace(arguments), Backend::kAlignment, image);
  arguments.workspace = workspace.data();
  backend.run(arguments);
  return {gradients[0], gradients[1], gradients[2], gradients[3], gradients[4]};
}

}  // namespace kvmem::ops
