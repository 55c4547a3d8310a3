// The operators: schemas, allocation, dispatch. The only file that knows torch, through its stable ABI alone.
//
// Shapes, types and devices are checked in kvmem/functional.py, where the messages can name the arguments; here stand the
// checks without which a call from elsewhere would read out of bounds.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include <array>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "kv_memory.h"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using kvmem::DataType;
using kvmem::kInputs;

// The operators' parameters behind image and words, in the order of kvmem::Input.
constexpr int kWeights = kInputs - kvmem::kGateWord;
using Weights = std::array<Tensor, kWeights>;

void run_parallel(int64_t count, kvmem::Parallel::Body body, const void* context) {
  torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    uint32_t thread = 0;
    torch_get_thread_idx(&thread);
    for (int64_t index = begin; index < end; ++index) body(index, thread, context);
  });
}

kvmem::Parallel framework_threads() { return {run_parallel, static_cast<int64_t>(torch::stable::get_num_threads())}; }

DataType data_type(const Tensor& tensor) {
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

ScalarType arithmetic_type(DataType type) { return type == DataType::float64 ? ScalarType::Double : ScalarType::Float; }

bool is_channels_last(const Tensor& image) {
  const int64_t C = image.size(1), H = image.size(2), W = image.size(3);
  const auto fits = [&](int64_t dimension, int64_t stride) {
    return image.size(dimension) == 1 || image.stride(dimension) == stride;
  };
  return fits(1, 1) && fits(3, C) && fits(2, C * W) && fits(0, C * H * W);
}

// channels_last only where the tensor isn't contiguous as well, as in torch's own operators.
bool lies_channels_last(const Tensor& image) { return !image.is_contiguous() && is_channels_last(image); }

// Memory that the allocator has just got from the system is handed out page by page while the kernel writes it, which can
// cost more than the kernel itself. Asks for large pages inside the tensor, as torch does under THP_MEM_ALLOC_ENABLE=1.
void ask_for_large_pages(const Tensor& tensor) {
#ifdef __linux__
  constexpr uintptr_t page = 2 << 20;
  const auto begin = reinterpret_cast<uintptr_t>(tensor.mutable_data_ptr());
  const uintptr_t end = begin + tensor.numel() * tensor.element_size();
  const uintptr_t first = (begin + page - 1) / page * page, last = end / page * page;
  // A hint: where the system knows no large pages, nothing changes.
  if (last > first) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
}

Tensor empty_image(const Tensor& like, bool channels_last) {
  const auto format = channels_last ? torch::headeronly::MemoryFormat::ChannelsLast
                                    : torch::headeronly::MemoryFormat::Contiguous;
  Tensor image =
      torch::stable::empty(like.sizes(), like.scalar_type(), std::nullopt, like.device(), std::nullopt, format);
  ask_for_large_pages(image);
  return image;
}

Tensor empty(std::vector<int64_t> sizes, ScalarType type, const Tensor& like) {
  return torch::stable::empty(sizes, type, std::nullopt, like.device());
}

Tensor as_image(const Tensor& tensor, bool channels_last) {
  if (channels_last ? is_channels_last(tensor) : tensor.is_contiguous()) return tensor;
  const auto format = channels_last ? torch::headeronly::MemoryFormat::ChannelsLast
                                    : torch::headeronly::MemoryFormat::Contiguous;
  return torch::stable::contiguous(tensor, format);
}

Tensor dense(const Tensor& tensor) { return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor); }

kvmem::Sizes sizes_of(const Tensor& image, const Tensor& words, const Weights& weights) {
  STD_TORCH_CHECK(image.dim() == 4 && words.dim() == 3, "kvmem: image must be (B, C, H, W) and words (B, T, D)");
  kvmem::Sizes s;
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

void check_shape(const Tensor& tensor, const char* name, std::vector<int64_t> shape, ScalarType type) {
  bool right = tensor.dim() == static_cast<int64_t>(shape.size()) && tensor.is_cpu() && tensor.scalar_type() == type;
  for (size_t i = 0; right && i < shape.size(); ++i) right = tensor.size(i) == shape[i];
  STD_TORCH_CHECK(right, "kvmem: ", name, " has the wrong shape, type or device for the other arguments");
}

void check(const kvmem::Sizes& s, const Tensor& image, const Tensor& words, const std::optional<Tensor>& mask,
           const Weights& weights) {
  const ScalarType type = image.scalar_type();
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
  check_shape(image, "image", {s.B, s.C, image.size(2), image.size(3)}, type);
  check_shape(words, "words", {s.B, s.T, s.D}, type);
  if (mask) check_shape(*mask, "mask", {s.B, s.T}, ScalarType::Bool);
  for (int i = 0; i < kWeights; ++i) check_shape(weights[i], expected[i].first, expected[i].second, type);
  STD_TORCH_CHECK(s.G == 1 || s.G == s.M, "kvmem: gate_word must have 1 or M rows");
  STD_TORCH_CHECK(s.R == 1 || s.R == s.C, "kvmem: response_gate_weight must have 1 or C rows");
}

// What both directions read; holds the contiguous copies alive while the kernel runs.
struct Prepared {
  kvmem::Sizes sizes;
  DataType type;
  bool channels_last;
  Tensor image, words;
  std::optional<Tensor> mask;
  Weights weights;

  template <typename Arguments>
  void fill(Arguments& arguments) const {
    arguments.sizes = sizes;
    arguments.type = type;
    arguments.channels_last = channels_last;
    arguments.inputs[kvmem::kImage] = image.const_data_ptr();
    arguments.inputs[kvmem::kWords] = words.const_data_ptr();
    for (int i = 0; i < kWeights; ++i) arguments.inputs[kvmem::kGateWord + i] = weights[i].const_data_ptr();
    arguments.mask = mask ? static_cast<const bool*>(mask->const_data_ptr()) : nullptr;
    arguments.parallel = framework_threads();
  }
};

Prepared prepare(const Tensor& image, const Tensor& words, const std::optional<Tensor>& mask, const Weights& weights) {
  Prepared p{sizes_of(image, words, weights), data_type(image), lies_channels_last(image), image, words, mask, weights};
  check(p.sizes, image, words, mask, weights);
  p.image = as_image(image, p.channels_last);
  p.words = dense(words);
  if (mask) p.mask = dense(*mask);
  for (Tensor& weight : p.weights) weight = dense(weight);
  return p;
}

// 64-byte alignment, whatever the allocator gives.
void* aligned(const Tensor& bytes) {
  const auto address = reinterpret_cast<uintptr_t>(bytes.mutable_data_ptr());
  return reinterpret_cast<void*>((address + 63) / 64 * 64);
}

Tensor workspace(size_t bytes, const Tensor& like) {
  return empty({static_cast<int64_t>(bytes + 64)}, ScalarType::Byte, like);
}

std::tuple<Tensor, Tensor, Tensor> kv_memory(
    Tensor image, Tensor words, std::optional<Tensor> mask, Tensor gate_word, Tensor gate_image,
    Tensor write_word_weight, Tensor write_word_bias, Tensor write_image_weight, Tensor write_image_bias,
    Tensor key_weight, Tensor key_bias, Tensor value_weight, Tensor value_bias, Tensor response_gate_weight,
    Tensor response_gate_bias, bool linear_write_gate, bool relu, bool detach_mean, bool return_attention) {
  const Prepared p = prepare(image, words, mask,
                             {gate_word, gate_image, write_word_weight, write_word_bias, write_image_weight,
                              write_image_bias, key_weight, key_bias, value_weight, value_bias, response_gate_weight,
                              response_gate_bias});
  const kvmem::Sizes& s = p.sizes;
  Tensor out = empty_image(image, p.channels_last);
  Tensor attention = empty(return_attention ? std::vector<int64_t>{s.B, s.T, image.size(2), image.size(3)}
                                            : std::vector<int64_t>{0},
                           image.scalar_type(), image);
  Tensor mean = empty({s.B, s.C}, arithmetic_type(p.type), image);
  kvmem::ForwardArguments arguments{};
  p.fill(arguments);
  arguments.options = {linear_write_gate, relu, detach_mean};
  arguments.out = out.mutable_data_ptr();
  arguments.attention = return_attention ? attention.mutable_data_ptr() : nullptr;
  arguments.mean = mean.mutable_data_ptr();
  const Tensor space = workspace(kvmem::cpu::forward_workspace(arguments), image);
  arguments.workspace = aligned(space);
  kvmem::cpu::forward(arguments);
  return {out, attention, mean};
}

using Gradients = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor,
                             Tensor, Tensor, Tensor>;

template <size_t... i>
Gradients as_tuple(const std::vector<Tensor>& tensors, std::index_sequence<i...>) {
  return {tensors[i]...};
}

Gradients kv_memory_backward(
    Tensor grad_out, std::optional<Tensor> grad_attention, Tensor image, Tensor words, std::optional<Tensor> mask,
    Tensor gate_word, Tensor gate_image, Tensor write_word_weight, Tensor write_word_bias, Tensor write_image_weight,
    Tensor write_image_bias, Tensor key_weight, Tensor key_bias, Tensor value_weight, Tensor value_bias,
    Tensor response_gate_weight, Tensor response_gate_bias, Tensor mean, bool linear_write_gate, bool relu,
    bool detach_mean, int64_t needs) {
  const Prepared p = prepare(image, words, mask,
                             {gate_word, gate_image, write_word_weight, write_word_bias, write_image_weight,
                              write_image_bias, key_weight, key_bias, value_weight, value_bias, response_gate_weight,
                              response_gate_bias});
  const kvmem::Sizes& s = p.sizes;
  check_shape(grad_out, "grad_out", {s.B, s.C, image.size(2), image.size(3)}, image.scalar_type());
  check_shape(mean, "mean", {s.B, s.C}, arithmetic_type(p.type));
  const Tensor grad = as_image(grad_out, p.channels_last), mean_dense = dense(mean);
  std::optional<Tensor> attention;
  if (grad_attention) {
    check_shape(*grad_attention, "grad_attention", {s.B, s.T, image.size(2), image.size(3)}, image.scalar_type());
    attention = dense(*grad_attention);
  }
  kvmem::BackwardArguments arguments{};
  p.fill(arguments);
  arguments.options = {linear_write_gate, relu, detach_mean};
  arguments.mean = mean_dense.const_data_ptr();
  arguments.grad_out = grad.const_data_ptr();
  arguments.grad_attention = attention ? attention->const_data_ptr() : nullptr;
  std::vector<Tensor> gradients;
  for (int i = 0; i < kInputs; ++i) {
    if ((needs >> i & 1) == 0) {
      gradients.push_back(empty({0}, image.scalar_type(), image));
      continue;
    }
    const Tensor& input = i == kvmem::kImage ? image : i == kvmem::kWords ? words : p.weights[i - kvmem::kGateWord];
    gradients.push_back(i == kvmem::kImage
                            ? empty_image(image, p.channels_last)
                            : empty({input.sizes().begin(), input.sizes().end()}, image.scalar_type(), image));
    arguments.gradients[i] = gradients.back().mutable_data_ptr();
  }
  const Tensor space = workspace(kvmem::cpu::backward_workspace(arguments), image);
  arguments.workspace = aligned(space);
  kvmem::cpu::backward(arguments);
  return as_tuple(gradients, std::make_index_sequence<kInputs>{});
}

constexpr kvmem::cpu::Isa kAllIsas[] = {kvmem::cpu::Isa::generic, kvmem::cpu::Isa::avx2, kvmem::cpu::Isa::avx512};

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

}  // namespace

#define KVMEM_PARAMETERS                                                                                             \
  "Tensor gate_word, Tensor gate_image, Tensor write_word_weight, Tensor write_word_bias, Tensor write_image_weight, " \
  "Tensor write_image_bias, Tensor key_weight, Tensor key_bias, Tensor value_weight, Tensor value_bias, "             \
  "Tensor response_gate_weight, Tensor response_gate_bias, "

STABLE_TORCH_LIBRARY(kvmem, m) {
  m.def("kv_memory(Tensor image, Tensor words, Tensor? mask, " KVMEM_PARAMETERS
        "bool linear_write_gate, bool relu, bool detach_mean, bool return_attention)"
        " -> (Tensor out, Tensor attention, Tensor mean)");
  m.def("kv_memory_backward(Tensor grad_out, Tensor? grad_attention, Tensor image, Tensor words, Tensor? mask, "
        KVMEM_PARAMETERS "Tensor mean, bool linear_write_gate, bool relu, bool detach_mean, int needs)"
        " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor,"
        " Tensor)");
  m.def("cpu_isa(str request) -> str");
  m.def("cpu_isas() -> str");
}

STABLE_TORCH_LIBRARY_IMPL(kvmem, CPU, m) {
  m.impl("kv_memory", TORCH_BOX(&kv_memory));
  m.impl("kv_memory_backward", TORCH_BOX(&kv_memory_backward));
}

STABLE_TORCH_LIBRARY_IMPL(kvmem, CompositeExplicitAutograd, m) {
  m.impl("cpu_isa", TORCH_BOX(&cpu_isa));
  m.impl("cpu_isas", TORCH_BOX(&cpu_isas));
}
