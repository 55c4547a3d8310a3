// The CUDA kernels' source on the host for pytest: both directions of kv_memory and memory_read on numpy arrays.
//
// Numbers of 16 bits come and go as uint16 arrays of their bits; words and weights may then be float32. The image and what is shaped like it are (B, C, N)
// arrays, or (B, N, C) if channels_last. Everything else has the shapes of csrc/kv_memory.h.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstring>
#include <memory>
#include <optional>
#include <stdexcept>

#include "host_python.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, bytes)
#define ASAN_UNPOISON_MEMORY_REGION(address, bytes)
#endif

namespace py = pybind11;

namespace kvmem {
namespace {

using Array = py::array;
using Inputs = std::vector<Array>;

// Device memory: exactly so many bytes, NaN in them and around them, `skew` bytes past an alignment of 512.
class Buffer {
 public:
  Buffer(size_t bytes, size_t skew) : bytes_(bytes), storage_(new unsigned char[bytes + 3 * kMargin]) {
    std::memset(storage_.get(), 0xff, bytes + 3 * kMargin);
    const uintptr_t first = reinterpret_cast<uintptr_t>(storage_.get()) + kMargin;
    data_ = storage_.get() + kMargin + (kMargin - first % kMargin) % kMargin + skew;
    ASAN_POISON_MEMORY_REGION(data_ - kMargin, kMargin);
    ASAN_POISON_MEMORY_REGION(data_ + bytes_, kMargin - skew);
  }
  Buffer(const Buffer&) = delete;
  ~Buffer() { ASAN_UNPOISON_MEMORY_REGION(storage_.get(), bytes_ + 3 * kMargin); }

  unsigned char* data() const { return data_; }
  size_t bytes() const { return bytes_; }

  void check_margins(const char* name) const {
    ASAN_UNPOISON_MEMORY_REGION(storage_.get(), bytes_ + 3 * kMargin);
    for (size_t i = 0; i < kMargin / 2; ++i) {
      if (data_[-1 - static_cast<ptrdiff_t>(i)] != 0xff || data_[bytes_ + i] != 0xff) {
        throw std::runtime_error(std::string("written beyond ") + name);
      }
    }
  }

 private:
  static constexpr size_t kMargin = 512;
  size_t bytes_;
  std::unique_ptr<unsigned char[]> storage_;
  unsigned char* data_;
};

// The buffers of one call. Pointers stay valid as long as it lives.
class Memory {
 public:
  Memory(std::string type, int misalignment) : type_(std::move(type)), misalignment_(misalignment) {}

  // What a caller may have cut out of a larger tensor, unlike what the framework allocated.
  const void* input(const char* name, const Array& array) {
    return copy(name, array, misalignment_ * array.itemsize());
  }

  const void* copy(const char* name, const Array& array, size_t skew = 0) {
    const Buffer& buffer = make(name, array.nbytes(), skew);
    const Array packed = Array::ensure(array, Array::c_style);
    std::memcpy(buffer.data(), packed.data(), packed.nbytes());
    return buffer.data();
  }

  void* output(const char* name, size_t bytes) { return make(name, bytes, 0).data(); }

  // A copy of what stands at `data`, which output() gave.
  Array array(const void* data, std::vector<int64_t> shape, bool float32) const {
    Array result(float32 || type_ == "float32" ? py::dtype::of<float>() : py::dtype::of<uint16_t>(), shape);
    std::memcpy(result.mutable_data(), data, result.nbytes());
    return result;
  }

  void check_margins() const {
    for (const auto& [name, buffer] : buffers_) buffer->check_margins(name);
  }

  size_t item() const { return type_ == "float32" ? 4 : 2; }
  DataType type() const { return data_type(type_); }

 private:
  Buffer& make(const char* name, size_t bytes, size_t skew) {
    buffers_.emplace_back(name, std::make_unique<Buffer>(bytes, skew));
    return *buffers_.back().second;
  }

  std::string type_;
  int misalignment_;
  std::vector<std::pair<const char*, std::unique_ptr<Buffer>>> buffers_;
};

std::vector<int64_t> shape_of(const Array& array) { return {array.shape(), array.shape() + array.ndim()}; }

// How a call is made: everything that isn't a tensor.
struct Settings {
  std::string dtype;
  bool linear_write_gate, relu, detach_mean, channels_last;
  uint64_t seed;     // of the order of the threads
  int misalignment;  // of what comes from the caller, in elements
};

Settings settings_of(const py::kwargs& given) {
  return {given["dtype"].cast<std::string>(), given["linear_write_gate"].cast<bool>(), given["relu"].cast<bool>(),
          given["detach_mean"].cast<bool>(),  given["channels_last"].cast<bool>(),     given["seed"].cast<uint64_t>(),
          given["misalignment"].cast<int>()};
}

bool is_wide(const Array& array, const Memory& memory) { return memory.item() == 2 && array.itemsize() == 4; }

// The kernels' pointer to one of a call's inputs, which are wide or not.
const void* take_input(Input input, const Array& array, bool wide, Memory& memory) {
  if (static_cast<size_t>(array.itemsize()) != (wide ? 4 : memory.item())) throw std::invalid_argument(kInputNames[input]);
  return memory.input(kInputNames[input], array);
}

template <typename Arguments>
Arguments arguments_of(const Inputs& inputs, const std::optional<Array>& mask, const Settings& settings,
                       Memory& memory) {
  if (inputs.size() != kInputs) throw std::invalid_argument("expected the image, the words and twelve weights");
  Arguments a{};
  const Array &image = inputs[kImage], &words = inputs[kWords];
  const int channels = settings.channels_last ? 2 : 1;
  a.sizes = {image.shape(0), image.shape(channels), image.shape(3 - channels), words.shape(1), words.shape(2),
             inputs[kWriteWordWeight].shape(0), inputs[kGateWord].shape(0), inputs[kResponseGateWeight].shape(0)};
  a.options = {settings.linear_write_gate, settings.relu, settings.detach_mean};
  a.type = memory.type();
  a.channels_last = settings.channels_last;
  a.wide_words = is_wide(words, memory);
  a.wide_weights = is_wide(inputs[kGateWord], memory);
  for (int i = 0; i < kInputs; ++i) {
    const bool wide = i == kWords ? a.wide_words : i > kWords && a.wide_weights;
    a.inputs[i] = take_input(static_cast<Input>(i), inputs[i], wide, memory);
  }
  if (mask) a.mask = static_cast<const bool*>(memory.input("mask", *mask));
  return a;
}

// Image, keys and values, and weight and bias of a response gate where there is one.
constexpr Input kReadInputs[] = {kImage, kKeys, kValues, kResponseGateWeight, kResponseGateBias};

template <typename Arguments>
Arguments read_arguments_of(const Inputs& inputs, const std::optional<Array>& mask, const Settings& settings,
                            Memory& memory) {
  if (inputs.size() != 3 && inputs.size() != 5) throw std::invalid_argument("expected three inputs, or five");
  Arguments a{};
  const Array &image = inputs[0], &keys = inputs[1];
  const int channels = settings.channels_last ? 2 : 1;
  a.sizes = {.B = image.shape(0), .C = image.shape(channels), .N = image.shape(3 - channels), .T = keys.shape(1),
             .D = 0, .M = 0, .G = 0, .R = inputs.size() == 5 ? inputs[3].shape(0) : 0};
  a.options = {.linear_write_gate = false, .relu = false, .detach_mean = true, .given = true};
  a.type = memory.type();
  a.channels_last = settings.channels_last;
  a.wide_words = is_wide(keys, memory);
  a.wide_weights = inputs.size() == 5 && is_wide(inputs[3], memory);
  for (size_t i = 0; i < inputs.size(); ++i) {
    const bool wide = i > 2 ? a.wide_weights : i > 0 && a.wide_words;
    a.inputs[kReadInputs[i]] = take_input(kReadInputs[i], inputs[i], wide, memory);
  }
  if (mask) a.mask = static_cast<const bool*>(memory.input("mask", *mask));
  return a;
}

void run(const char* (*work)(const void*, void*), const void* arguments, const Settings& settings,
         const Memory& memory) {
  simt::host::set_seed(settings.seed);
  simt::host::launched().clear();
  if (const char* error = work(arguments, nullptr)) throw std::runtime_error(error);
  simt::host::synchronize();
  memory.check_margins();
}

const char* name_of(cuda::Path path) { return path == cuda::Path::cluster ? "cluster" : "general"; }

py::dict forward(const Inputs& inputs, const std::optional<Array>& mask, bool attention, const Settings& settings) {
  Memory memory(settings.dtype, settings.misalignment);
  auto a = arguments_of<ForwardArguments>(inputs, mask, settings, memory);
  const auto [B, C, N, T, D, M, G, R] = a.sizes;
  const int64_t kept = cuda::kept_memory(a.sizes);
  a.out = memory.output("out", B * C * N * memory.item());
  if (attention) a.attention = memory.output("attention", B * T * N * memory.item());
  a.mean = memory.output("mean", B * C * 4);
  a.memory = memory.output("memory", B * kept * 4);
  const size_t workspace = cuda::forward_workspace(a);
  a.workspace = memory.output("workspace", workspace);
  const char* path = name_of(cuda::forward_path(a));
  run([](const void* p, void* stream) { return cuda::forward(*static_cast<const ForwardArguments*>(p), stream); }, &a,
      settings, memory);

  py::dict result;
  result["out"] = memory.array(a.out, shape_of(inputs[kImage]), false);
  if (attention) result["attention"] = memory.array(a.attention, {B, T, N}, false);
  result["mean"] = memory.array(a.mean, {B, C}, true);
  result["memory"] = memory.array(a.memory, {B, kept}, true);
  result["path"] = path;
  result["workspace"] = workspace;
  result["launches"] = launches();
  return result;
}

py::dict backward(const Inputs& inputs, const std::optional<Array>& mask, const py::dict& saved, const Array& grad_out,
                  const std::optional<Array>& grad_attention, const std::vector<bool>& needs,
                  const Settings& settings) {
  Memory memory(settings.dtype, settings.misalignment);
  auto a = arguments_of<BackwardArguments>(inputs, mask, settings, memory);
  a.mean = memory.copy("mean", saved["mean"].cast<Array>());
  a.memory = memory.copy("memory", saved["memory"].cast<Array>());
  a.grad_out = memory.input("grad_out", grad_out);
  if (grad_attention) a.grad_attention = memory.input("grad_attention", *grad_attention);
  if (needs.size() != kInputs) throw std::invalid_argument("needs: expected a truth value for every input");
  for (int i = 0; i < kInputs; ++i) {
    if (needs[i]) a.gradients[i] = memory.output("a gradient", inputs[i].nbytes());
  }
  const size_t workspace = cuda::backward_workspace(a);
  a.workspace = memory.output("workspace", workspace);
  const char* path = name_of(cuda::backward_path(a));
  run([](const void* p, void* stream) { return cuda::backward(*static_cast<const BackwardArguments*>(p), stream); }, &a,
      settings, memory);

  py::dict result, gradients;
  for (int i = 0; i < kInputs; ++i) {
    if (!needs[i]) continue;
    gradients[kInputNames[i]] = memory.array(a.gradients[i], shape_of(inputs[i]), is_wide(inputs[i], memory));
  }
  result["gradients"] = gradients;
  result["path"] = path;
  result["workspace"] = workspace;
  result["launches"] = launches();
  return result;
}

py::dict read(const Inputs& inputs, const std::optional<Array>& mask, bool attention, const Settings& settings) {
  Memory memory(settings.dtype, settings.misalignment);
  auto a = read_arguments_of<ForwardArguments>(inputs, mask, settings, memory);
  const auto [B, C, N, T, D, M, G, R] = a.sizes;
  const int64_t kept = cuda::kept_memory(a.sizes);
  a.out = memory.output("out", B * C * N * memory.item());
  if (attention) a.attention = memory.output("attention", B * T * N * memory.item());
  a.memory = memory.output("memory", B * kept * 4);
  a.workspace = memory.output("workspace", cuda::forward_workspace(a));
  run([](const void* p, void* stream) { return cuda::forward(*static_cast<const ForwardArguments*>(p), stream); }, &a,
      settings, memory);

  py::dict result;
  result["out"] = memory.array(a.out, shape_of(inputs[0]), false);
  if (attention) result["attention"] = memory.array(a.attention, {B, T, N}, false);
  result["memory"] = memory.array(a.memory, {B, kept}, true);
  result["launches"] = launches();
  return result;
}

py::dict read_backward(const Inputs& inputs, const std::optional<Array>& mask, const py::dict& saved,
                       const Array& grad_out, const std::optional<Array>& grad_attention,
                       const std::vector<bool>& needs, const Settings& settings) {
  Memory memory(settings.dtype, settings.misalignment);
  auto a = read_arguments_of<BackwardArguments>(inputs, mask, settings, memory);
  a.memory = memory.copy("memory", saved["memory"].cast<Array>());
  a.grad_out = memory.input("grad_out", grad_out);
  if (grad_attention) a.grad_attention = memory.input("grad_attention", *grad_attention);
  if (needs.size() != inputs.size()) throw std::invalid_argument("needs: expected a truth value for every input");
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (needs[i]) a.gradients[kReadInputs[i]] = memory.output("a gradient", inputs[i].nbytes());
  }
  a.workspace = memory.output("workspace", cuda::backward_workspace(a));
  run([](const void* p, void* stream) { return cuda::backward(*static_cast<const BackwardArguments*>(p), stream); }, &a,
      settings, memory);

  py::dict result, gradients;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const Input input = kReadInputs[i];
    if (!needs[i]) continue;
    gradients[kInputNames[input]] = memory.array(a.gradients[input], shape_of(inputs[i]), is_wide(inputs[i], memory));
  }
  result["gradients"] = gradients;
  result["launches"] = launches();
  return result;
}

}  // namespace
}  // namespace kvmem

PYBIND11_MODULE(kvmem_simt, module) {
  using namespace kvmem;
  module.def(
      "forward",
      [](const Inputs& inputs, const std::optional<Array>& mask, bool attention, const py::kwargs& settings) {
        return forward(inputs, mask, attention, settings_of(settings));
      },
      py::arg("inputs"), py::arg("mask"), py::arg("attention"));
  module.def(
      "backward",
      [](const Inputs& inputs, const std::optional<Array>& mask, const py::dict& saved, const Array& grad_out,
         const std::optional<Array>& grad_attention, const std::vector<bool>& needs, const py::kwargs& settings) {
        return backward(inputs, mask, saved, grad_out, grad_attention, needs, settings_of(settings));
      },
      py::arg("inputs"), py::arg("mask"), py::arg("saved"), py::arg("grad_out"), py::arg("grad_attention"),
      py::arg("needs"));
  module.def(
      "read",
      [](const Inputs& inputs, const std::optional<Array>& mask, bool attention, const py::kwargs& settings) {
        return read(inputs, mask, attention, settings_of(settings));
      },
      py::arg("inputs"), py::arg("mask"), py::arg("attention"));
  module.def(
      "read_backward",
      [](const Inputs& inputs, const std::optional<Array>& mask, const py::dict& saved, const Array& grad_out,
         const std::optional<Array>& grad_attention, const std::vector<bool>& needs, const py::kwargs& settings) {
        return read_backward(inputs, mask, saved, grad_out, grad_attention, needs, settings_of(settings));
      },
      py::arg("inputs"), py::arg("mask"), py::arg("saved"), py::arg("grad_out"), py::arg("grad_attention"),
      py::arg("needs"));
  add_plan(module);
  module.def("set_room", simt::host::set_room, py::arg("parts") = std::vector<int>{}, py::arg("most_blocks") = 2);
  module.def("use_general_path", cuda::use_general_path);
  module.def(
      "set_device",
      [](int capability, int multiprocessors, int block_shared, int shared, int largest_cluster, int cache) {
        simt::host::set_device({capability, multiprocessors, block_shared, shared, cache}, largest_cluster);
      },
      py::arg("capability") = 90, py::arg("multiprocessors") = 132, py::arg("block_shared") = 232448,
      py::arg("shared") = 233472, py::arg("largest_cluster") = 16, py::arg("cache") = 50 << 20);
}
