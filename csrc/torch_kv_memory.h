// The operators kv_memory and kv_memory_backward over any backend: checks, allocation, arguments. On torch's stable ABI.
//
// Shapes, types and devices are checked in kvmem/checks.py, where the messages can name the arguments; here stand the
// checks without which a call from elsewhere would read out of bounds.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include <array>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "kv_memory.h"

namespace kvmem::ops {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// The operators' parameters behind image and words, in the order of kvmem::Input.
constexpr int kWeights = kInputs - kGateWord;
using Weights = std::array<Tensor, kWeights>;

inline DataType data_type(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return DataType::float32;
    case ScalarType::Double:
      return DataType::float64;
    case ScalarType::BFloat16:
      return DataType::bfloat16;
    case ScalarType::Half:
      return DataType::float16;
    default:
      STD_TORCH_CHECK(false, "kvmem: image must be float32, float64, bfloat16 or float16");
  }
}

inline ScalarType arithmetic_type(DataType type) {
  return type == DataType::float64 ? ScalarType::Double : ScalarType::Float;
}

inline bool is_channels_last(const Tensor& image) {
  const int64_t C = image.size(1), H = image.size(2), W = image.size(3);
  const auto fits = [&](int64_t dimension, int64_t stride) {
    return image.size(dimension) == 1 || image.stride(dimension) == stride;
  };
  return fits(1, 1) && fits(3, C) && fits(2, C * W) && fits(0, C * H * W);
}

// channels_last only where the tensor isn't contiguous as well, as in torch's own operators.
inline bool lies_channels_last(const Tensor& image) { return !image.is_contiguous() && is_channels_last(image); }

// Memory that the allocator has just got from the system is handed out page by page while the kernel writes it, which can
// cost more than the kernel itself. Asks for large pages inside the tensor, as torch does under THP_MEM_ALLOC_ENABLE=1.
inline void ask_for_large_pages([[maybe_unused]] const Tensor& tensor) {
#ifdef __linux__
  constexpr uintptr_t page = 2 << 20;
  const auto begin = reinterpret_cast<uintptr_t>(tensor.mutable_data_ptr());
  const uintptr_t end = begin + tensor.numel() * tensor.element_size();
  const uintptr_t first = (begin + page - 1) / page * page, last = end / page * page;
  // A hint: where the system knows no large pages, nothing changes.
  if (last > first) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
}

inline torch::headeronly::MemoryFormat memory_format(bool channels_last) {
  return channels_last ? torch::headeronly::MemoryFormat::ChannelsLast : torch::headeronly::MemoryFormat::Contiguous;
}

inline Tensor empty_image(const Tensor& like, bool channels_last) {
  Tensor image = torch::stable::empty(like.sizes(), like.scalar_type(), std::nullopt, like.device(), std::nullopt,
                                      memory_format(channels_last));
  if (image.is_cpu()) ask_for_large_pages(image);
  return image;
}

inline Tensor empty(std::vector<int64_t> sizes, ScalarType type, const Tensor& like) {
  return torch::stable::empty(sizes, type, std::nullopt, like.device());
}

// A view may begin anywhere in its memory; memory of its own begins where the allocator aligns it.
inline Tensor aligned(const Tensor& tensor, size_t alignment) {
  const bool is = reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % alignment == 0;
  return is ? tensor : torch::stable::clone(tensor);
}

inline Tensor as_image(const Tensor& tensor, bool channels_last, size_t alignment) {
  if (channels_last ? is_channels_last(tensor) : tensor.is_contiguous()) return aligned(tensor, alignment);
  return torch::stable::contiguous(tensor, memory_format(channels_last));
}

inline Tensor dense(const Tensor& tensor, size_t alignment) {
  return tensor.is_contiguous() ? aligned(tensor, alignment) : torch::stable::contiguous(tensor);
}

inline Sizes sizes_of(const Tensor& image, const Tensor& words, const Weights& weights) {
  STD_TORCH_CHECK(image.dim() == 4 && words.dim() == 3, "kvmem: image must be (B, C, H, W) and words (B, T, D)");
  Sizes s;
  s.B = image.size(0);
  s.C = image.size(1);
  s.N = image.size(2) * image.size(3);
  s.T = words.size(1);
  s.D = words.size(2);
  s.G = weights[0].size(0);
  s.M = weights[2].size(0);
  s.R = weights[10].size(0);
  return s;
}

// The type of a call's words or weights, of which `tensor` is one: the image's, or float32 where that has 16 bits.
inline ScalarType parameter_type(const Tensor& tensor, const Tensor& image) {
  const ScalarType type = image.scalar_type();
  const bool half = type == ScalarType::BFloat16 || type == ScalarType::Half;
  return half && tensor.scalar_type() == ScalarType::Float ? ScalarType::Float : type;
}

inline bool is_wide(const Tensor& tensor, const Tensor& image) {
  return parameter_type(tensor, image) != image.scalar_type();
}

inline void check_shape(const Tensor& tensor, const char* name, std::vector<int64_t> shape, ScalarType type,
                        const Tensor& image) {
  bool right = tensor.dim() == static_cast<int64_t>(shape.size()) && tensor.scalar_type() == type &&
               tensor.device() == image.device();
  for (size_t i = 0; right && i < shape.size(); ++i) right = tensor.size(i) == shape[i];
  STD_TORCH_CHECK(right, "kvmem: ", name, " has the wrong shape, type or device for the other arguments");
}

inline void check(const Sizes& s, const Tensor& image, const Tensor& words, const std::optional<Tensor>& mask,
                  const Weights& weights) {
  const ScalarType type = parameter_type(weights[0], image);
  const std::array<std::pair<const char*, std::vector<int64_t>>, kWeights> expected = {{
      {"gate_word", {s.G, s.D}},
      {"gate_image", {s.G, s.C}},
      {"write_word_weight", {s.M, s.D}},
      {"write_word_bias", {s.M}},
      {"write_image_weight", {s.M, s.C}},
      {"write_image_bias", {s.M}},
      {"key_weight", {s.C, s.M}},
      {"key_bias", {s.C}},
      {"value_weight", {s.C, s.M}},
      {"value_bias", {s.C}},
      {"response_gate_weight", {s.R, 2 * s.C}},
      {"response_gate_bias", {s.R}},
  }};
  check_shape(words, "words", {s.B, s.T, s.D}, is_wide(words, image) ? type : image.scalar_type(), image);
  if (mask) check_shape(*mask, "mask", {s.B, s.T}, ScalarType::Bool, image);
  for (int i = 0; i < kWeights; ++i) check_shape(weights[i], expected[i].first, expected[i].second, type, image);
  STD_TORCH_CHECK(s.G == 1 || s.G == s.M, "kvmem: gate_word must have 1 or M rows");
  STD_TORCH_CHECK(s.R == 1 || s.R == s.C, "kvmem: response_gate_weight must have 1 or C rows");
}

// What both directions read; holds the contiguous copies alive while the kernel runs.
struct Prepared {
  Sizes sizes;
  Options options;
  DataType type;
  bool wide_words, wide_weights, channels_last;
  Tensor image, words;
  std::optional<Tensor> mask;
  Weights weights;

  template <typename Arguments>
  void fill(Arguments& arguments) const {
    arguments.sizes = sizes;
    arguments.options = options;
    arguments.type = type;
    arguments.wide_words = wide_words;
    arguments.wide_weights = wide_weights;
    arguments.channels_last = channels_last;
    arguments.inputs[kImage] = image.const_data_ptr();
    arguments.inputs[kWords] = words.const_data_ptr();
    for (int i = 0; i < kWeights; ++i) arguments.inputs[kGateWord + i] = weights[i].const_data_ptr();
    arguments.mask = mask ? static_cast<const bool*>(mask->const_data_ptr()) : nullptr;
  }
};

inline Prepared prepare(const Tensor& image, const Tensor& words, const std::optional<Tensor>& mask,
                        const Weights& weights, Options options, size_t alignment) {
  Prepared p{.sizes = sizes_of(image, words, weights),
             .options = options,
             .type = data_type(image),
             .wide_words = is_wide(words, image),
             .wide_weights = is_wide(weights[0], image),
             .channels_last = lies_channels_last(image),
             .image = image,
             .words = words,
             .mask = mask,
             .weights = weights};
  check(p.sizes, image, words, mask, weights);
  p.image = as_image(image, p.channels_last, alignment);
  p.words = dense(words, alignment);
  if (mask) p.mask = dense(*mask, alignment);
  for (Tensor& weight : p.weights) weight = dense(weight, alignment);
  return p;
}

// Scratch memory of a call, aligned whatever the allocator gives.
class Workspace {
 public:
  Workspace(size_t bytes, size_t alignment, const Tensor& like)
      : bytes_(empty({static_cast<int64_t>(bytes + alignment)}, ScalarType::Byte, like)), alignment_(alignment) {}

  void* data() const {
    const auto address = reinterpret_cast<uintptr_t>(bytes_.mutable_data_ptr());
    return reinterpret_cast<void*>((address + alignment_ - 1) / alignment_ * alignment_);
  }

 private:
  Tensor bytes_;
  size_t alignment_;
};

// A Backend is made for the image of a call. It has kInputAlignment and kAlignment (of its workspace), in bytes,
// parallel(), kept_memory(Sizes) (how many numbers of the memory side an image forward keeps for backward), and for both directions workspace(arguments) and run(arguments).
template <typename Backend>
std::tuple<Tensor, Tensor, Tensor, Tensor> kv_memory(
    Tensor image, Tensor words, std::optional<Tensor> mask, Tensor gate_word, Tensor gate_image,
    Tensor write_word_weight, Tensor write_word_bias, Tensor write_image_weight, Tensor write_image_bias,
    Tensor key_weight, Tensor key_bias, Tensor value_weight, Tensor value_bias, Tensor response_gate_weight,
    Tensor response_gate_bias, bool linear_write_gate, bool relu, bool detach_mean, bool return_attention) {
  const Prepared p = prepare(image, words, mask,
                             {gate_word, gate_image, write_word_weight, write_word_bias, write_image_weight,
                              write_image_bias, key_weight, key_bias, value_weight, value_bias, response_gate_weight,
                              response_gate_bias},
                             {linear_write_gate, relu, detach_mean}, Backend::kInputAlignment);
  const Sizes& s = p.sizes;
  const Backend backend(image, s);
  const int64_t H = image.size(2), W = image.size(3), kept = backend.kept_memory(s);
  using Shape = std::vector<int64_t>;
  Tensor out = empty_image(image, p.channels_last);
  Tensor attention = empty(return_attention ? Shape{s.B, s.T, H, W} : Shape{0}, image.scalar_type(), image);
  Tensor mean = empty({s.B, s.C}, arithmetic_type(p.type), image);
  Tensor memory = empty({s.B, kept}, arithmetic_type(p.type), image);
  ForwardArguments arguments{};
  p.fill(arguments);
  arguments.parallel = backend.parallel();
  arguments.out = out.mutable_data_ptr();
  arguments.attention = return_attention ? attention.mutable_data_ptr() : nullptr;
  arguments.mean = mean.mutable_data_ptr();
  arguments.memory = memory.mutable_data_ptr();
  const Workspace workspace(backend.workspace(arguments), Backend::kAlignment, image);
  arguments.workspace = workspace.data();
  backend.run(arguments);
  return {out, attention, mean, memory};
}

using Gradients = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor,
                             Tensor, Tensor, Tensor>;

template <size_t... i>
Gradients as_tuple(const std::vector<Tensor>& tensors, std::index_sequence<i...>) {
  return {tensors[i]...};
}

// An operator's tensor that has a gradient, and which of the kernels' inputs it is. Null: not there.
struct Differentiable {
  Input input;
  const Tensor* tensor;
};

// Tensors for the gradients whose bit is set in `needs`, bit i for inputs[i], and empty ones for the others. The first is
// the image's.
template <size_t n>
std::vector<Tensor> make_gradients(const std::array<Differentiable, n>& inputs, bool channels_last, int64_t needs,
                                   void* (&pointers)[kAllInputs]) {
  const Tensor& image = *inputs[0].tensor;
  std::vector<Tensor> gradients;
  for (size_t i = 0; i < n; ++i) {
    std::vector<int64_t> shape = {0};
    const bool needed = needs >> i & 1;
    if (needed) shape.assign(inputs[i].tensor->sizes().begin(), inputs[i].tensor->sizes().end());
    const ScalarType type = (inputs[i].tensor ? *inputs[i].tensor : image).scalar_type();
    gradients.push_back(needed && i == 0 ? empty_image(image, channels_last) : empty(shape, type, image));
    if (needed) pointers[inputs[i].input] = gradients.back().mutable_data_ptr();
  }
  return gradients;
}

template <typename Backend>
Gradients kv_memory_backward(
    Tensor grad_out, std::optional<Tensor> grad_attention, Tensor image, Tensor words, std::optional<Tensor> mask,
    Tensor gate_word, Tensor gate_image, Tensor write_word_weight, Tensor write_word_bias, Tensor write_image_weight,
    Tensor write_image_bias, Tensor key_weight, Tensor key_bias, Tensor value_weight, Tensor value_bias,
    Tensor response_gate_weight, Tensor response_gate_bias, Tensor mean, Tensor memory,
    bool linear_write_gate, bool relu, bool detach_mean, int64_t needs) {
  const Prepared p = prepare(image, words, mask,
                             {gate_word, gate_image, write_word_weight, write_word_bias, write_image_weight,
                              write_image_bias, key_weight, key_bias, value_weight, value_bias, response_gate_weight,
                              response_gate_bias},
                             {linear_write_gate, relu, detach_mean}, Backend::kInputAlignment);
  const Sizes& s = p.sizes;
  const Backend backend(image, s);
  const int64_t H = image.size(2), W = image.size(3), kept = backend.kept_memory(s);
  check_shape(grad_out, "grad_out", {s.B, s.C, H, W}, image.scalar_type(), image);
  check_shape(mean, "mean", {s.B, s.C}, arithmetic_type(p.type), image);
  check_shape(memory, "memory", {s.B, kept}, arithmetic_type(p.type), image);
  if (grad_attention) check_shape(*grad_attention, "grad_attention", {s.B, s.T, H, W}, image.scalar_type(), image);
  constexpr size_t alignment = Backend::kInputAlignment;
  const Tensor grad = as_image(grad_out, p.channels_last, alignment), mean_dense = dense(mean, alignment),
               memory_dense = dense(memory, alignment);
  std::optional<Tensor> attention;
  if (grad_attention) attention = dense(*grad_attention, alignment);
  BackwardArguments arguments{};
  p.fill(arguments);
  arguments.parallel = backend.parallel();
  arguments.mean = mean_dense.const_data_ptr();
  arguments.memory = memory_dense.const_data_ptr();
  arguments.grad_out = grad.const_data_ptr();
  arguments.grad_attention = attention ? attention->const_data_ptr() : nullptr;
  std::array<Differentiable, kInputs> inputs;
  for (int i = 0; i < kInputs; ++i) {
    const Tensor& input = i == kImage ? p.image : i == kWords ? p.words : p.weights[i - kGateWord];
    inputs[i] = {static_cast<Input>(i), &input};
  }
  const std::vector<Tensor> gradients = make_gradients(inputs, p.channels_last, needs, arguments.gradients);
  const Workspace workspace(backend.workspace(arguments), Backend::kAlignment, image);
  arguments.workspace = workspace.data();
  backend.run(arguments);
  return as_tuple(gradients, std::make_index_sequence<kInputs>{});
}

}  // namespace kvmem::ops
