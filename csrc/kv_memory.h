// What a key-value memory kernel is given: sizes, options and pointers, nothing of torch and nothing of CUDA.
//
// Letters as in docs/layer.md: B images, C image channels, N positions, T memory slots, D word channels,
// M memory channels, G = 1 or M rows of the write gate, R = 1 or C rows of the response gate. Where the memory is given
// instead of written (Options::given), D = M = G = 0, and R = 0 where there is no response gate.
// These structs have no member functions: the kernel files are compiled for several instruction sets, and an inline
// function shared between them could be linked in its widest form and then run on a machine without it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace kvmem {

enum class DataType { float32, float64, bfloat16, float16 };

struct Sizes {
  int64_t B, C, N, T, D, M, G, R;
};

struct Options {
  bool linear_write_gate;
  bool relu;
  bool detach_mean;
  bool given = false;  // the memory, as keys and values
};

// Bit i of `needs` asks for gradient i, in the order of the operator's arguments. A memory that is given has keys and
// values in place of words and all that writes and reads them out; it has no mean, and options that don't matter are set
// as they cost nothing: relu false, detach_mean true.
enum Input : int {
  kImage,
  kWords,
  kGateWord,           // (G, D)
  kGateImage,          // (G, C)
  kWriteWordWeight,    // (M, D)
  kWriteWordBias,      // (M)
  kWriteImageWeight,   // (M, C)
  kWriteImageBias,     // (M)
  kKeyWeight,          // (C, M)
  kKeyBias,            // (C)
  kValueWeight,        // (C, M)
  kValueBias,          // (C)
  kResponseGateWeight, // (R, 2C): the first C columns meet h, the last C meet o
  kResponseGateBias,   // (R)
  kInputs,
  kKeys = kInputs,     // (B, T, C), of a memory that is given
  kValues,             // (B, T, C)
  kAllInputs
};

// The framework's thread pool: calls body(index, thread, context) for every index below count.
struct Parallel {
  using Body = void (*)(int64_t index, int64_t thread, const void* context);
  void (*run)(int64_t count, Body body, const void* context);
  int64_t threads;
};

// The image and what is shaped like it, attention too, are in `type`. So are words (or keys and values) and weights, but
// where `type` has 16 bits and `wide_words` or `wide_weights` says that they are in float32; gradients are in the types of
// what they are gradients of. `mean`, `memory` and the workspace are in the type of the arithmetic: float64 where `type` is
// float64, else float32. The image and what is shaped like it lie as (B, C, N), or (B, N, C) if channels_last; all else is
// contiguous.
struct ForwardArguments {
  Sizes sizes;
  Options options;
  DataType type;
  bool wide_words, wide_weights;
  bool channels_last;
  const void* inputs[kAllInputs];
  const bool* mask;  // (B, T), null: every slot holds a word
  void* out;
  void* attention;     // (B, T, N) or null
  void* mean;          // (B, C); null where the memory is given
  void* memory;        // (B, kept_memory of the backend)
  void* workspace;
  Parallel parallel;   // cpu alone
};

struct BackwardArguments {
  Sizes sizes;
  Options options;
  DataType type;
  bool wide_words, wide_weights;
  bool channels_last;
  const void* inputs[kAllInputs];
  const bool* mask;
  const void* mean;
  const void* memory;
  const void* grad_out;
  const void* grad_attention;  // (B, T, N) or null
  void* gradients[kAllInputs]; // null: not needed
  void* workspace;
  Parallel parallel;
};

namespace cpu {

// Numbers an image that the forward pass keeps for backward: none of a memory that is given.
int64_t kept_memory(const Sizes& sizes);

// Bytes of workspace, 64-byte aligned, that a call with these arguments needs (its workspace pointer is not read).
size_t forward_workspace(const ForwardArguments& arguments);
size_t backward_workspace(const BackwardArguments& arguments);
void forward(const ForwardArguments& arguments);
void backward(const BackwardArguments& arguments);

enum class Isa { generic, avx2, avx512, avx512_bf16 };
constexpr int kIsas = 4;
const char* isa_name(Isa isa);
bool isa_available(Isa isa);  // compiled in, and this machine runs it
Isa isa_in_use();
void use_isa(Isa isa);  // the caller has checked isa_available

}  // namespace cpu

namespace cuda {

constexpr int64_t kMaxSlots = 128, kMaxImageChannels = 512;

// How an image is worked on: by the blocks of a cluster in one launch, or in a launch for every step.
enum class Path { cluster, general };

// Makes a device the current one of the calling thread. Null, or what went wrong.
const char* select_device(int index);

// Which path these arguments take on the current device, and the means to force the general one, for tests.
Path forward_path(const ForwardArguments& arguments);
Path backward_path(const BackwardArguments& arguments);
void use_general_path(bool always);
bool always_general();

// Numbers an image that the forward pass keeps for backward.
int64_t kept_memory(const Sizes& sizes);

// Bytes of workspace, 256-byte aligned; then the work itself, on a stream of the current device, without waiting for it.
// Types are float32, bfloat16 and float16. Null, or what went wrong.
size_t forward_workspace(const ForwardArguments& arguments);
size_t backward_workspace(const BackwardArguments& arguments);
const char* forward(const ForwardArguments& arguments, void* stream);
const char* backward(const BackwardArguments& arguments, void* stream);

}  // namespace cuda
}  // namespace kvmem
