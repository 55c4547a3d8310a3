// Gradients of the parameters: sums over all images of products of what the earlier passes left.
#pragma once

#include "memory_backward.h"

namespace kvmem::cpu::KVMEM_ISA {

template <typename F>
struct ImageState {
  Memory<F> memory;
  MemoryGradients<F> gradients;
};

// Everything the parameters' gradients are computed from. state_at() gives an image's tables.
template <typename F>
struct WeightGradientInputs {
  Sizes sizes;
  char* states;
  size_t state_bytes;
  const F* means;   // (B, Cp)
  F* rows;          // scratch of a thread: (kRows, widest row)
  size_t row_bytes;
};

template <typename F>
static ImageState<F> state_at(const Sizes& s, char* states, size_t bytes, int64_t image) {
  Arena arena{states ? states + image * bytes : nullptr};
  Memory<F> memory = take_memory<F>(s, arena);
  return {memory, take_memory_gradients<F>(s, arena)};
}

// Rows [row, row + count) of the gradient of one parameter, summed over images into out (count, pitch).
template <typename F>
static void parameter_rows(const WeightGradientInputs<F>& in, Input input, int64_t row, int64_t count, F* out) {
  const Sizes& s = in.sizes;
  const int64_t Cp = round_up(s.C, kLanes<F>), Dp = round_up(s.D, kLanes<F>), Mp = round_up(s.M, kLanes<F>);
  if (s.B == 0) memset(out, 0, sizeof(F) * count * larger(larger(Dp, Mp), 2 * Cp));
  for (int64_t image = 0; image < s.B; ++image) {
    const ImageState<F> state = state_at<F>(s, in.states, in.state_bytes, image);
    const Memory<F>& m = state.memory;
    const MemoryGradients<F>& g = state.gradients;
    const int64_t slots = m.slots[0], Tp = m.Tp;
    const F* mean = in.means + image * Cp;
    const bool add = image > 0;
    switch (input) {
      case kGateWord:
        gemm<F>(count, Dp, slots, {g.gate + row * Tp, Tp, 1}, m.words, Dp, out, Dp, add);
        break;
      case kGateImage:
        gemm<F>(count, Cp, 1, {g.gate_sum + row, 1, 0}, mean, Cp, out, Cp, add);
        break;
      case kWriteWordWeight:
        gemm<F>(count, Dp, slots, {g.word_part + row * Tp, Tp, 1}, m.words, Dp, out, Dp, add);
        break;
      case kWriteImageWeight:
        gemm<F>(count, Cp, 1, {g.image_part + row, 1, 0}, mean, Cp, out, Cp, add);
        break;
      case kKeyWeight:
        gemm<F>(count, Mp, slots, {g.keys + row * Tp, Tp, 1}, g.memory_t, Mp, out, Mp, add);
        break;
      case kValueWeight:
        gemm<F>(count, Mp, slots, {g.values + row * Tp, Tp, 1}, g.memory_t, Mp, out, Mp, add);
        break;
      default: {
        const TableGradients<F>& tables = g.tables;
        // dW_g's two halves side by side, each padded: Σ dz h, and Σ_t (Σ_n α_t dz) v_t.
        for (int64_t r = 0; r < count; ++r) {
          const F* line = tables.addressing + (slots + row + r) * Cp;
          F* half = out + r * 2 * Cp;
          for (int64_t c = 0; c < Cp; c += kLanes<F>) {
            store<F>(half + c, add ? load<F>(half + c) + load<F>(line + c) : load<F>(line + c));
          }
        }
        gemm<F>(count, Cp, slots, {tables.response + row, 1, tables.response_pitch}, g.values_t, Cp, out + Cp, 2 * Cp,
                add);
      }
    }
  }
}

template <typename F>
static F sum_row(const F* row, int64_t n) {
  F sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += row[i];
  return sum;
}

// Element `row` of the gradient of one bias.
template <typename F>
static F bias_element(const WeightGradientInputs<F>& in, Input input, int64_t row) {
  double sum = 0;
  for (int64_t image = 0; image < in.sizes.B; ++image) {
    const ImageState<F> state = state_at<F>(in.sizes, in.states, in.state_bytes, image);
    const MemoryGradients<F>& g = state.gradients;
    const int64_t slots = state.memory.slots[0], Tp = state.memory.Tp;
    switch (input) {
      case kWriteWordBias:
        sum += sum_row(g.word_part + row * Tp, slots);
        break;
      case kWriteImageBias:
        sum += g.image_part[row];
        break;
      case kKeyBias:
        sum += sum_row(g.keys + row * Tp, slots);
        break;
      case kValueBias:
        sum += sum_row(g.values + row * Tp, slots);
        break;
      default:
        sum += sum_row(g.tables.gate_bias + row * kLanes<F>, kLanes<F>);
    }
  }
  return static_cast<F>(sum);
}

struct Shape {
  int64_t rows, columns;  // columns = 0: a bias
};

KVMEM_INLINE Shape parameter_shape(const Sizes& s, int input) {
  switch (input) {
    case kGateWord:
      return {s.G, s.D};
    case kGateImage:
      return {s.G, s.C};
    case kWriteWordWeight:
      return {s.M, s.D};
    case kWriteImageWeight:
      return {s.M, s.C};
    case kKeyWeight:
    case kValueWeight:
      return {s.C, s.M};
    case kResponseGateWeight:
      return {s.R, 2 * s.C};
    case kWriteWordBias:
    case kWriteImageBias:
      return {s.M, 0};
    case kKeyBias:
    case kValueBias:
      return {s.C, 0};
    default:
      return {s.R, 0};
  }
}

template <typename T, typename F = Arithmetic<T>>
static void write_parameter_rows(const WeightGradientInputs<F>& in, Input input, int64_t row, int64_t count, void* out,
                                 bool wide, F* rows) {
  const Shape shape = parameter_shape(in.sizes, input);
  if (shape.columns == 0) {
    for (int64_t i = 0; i < count; ++i) rows[i] = bias_element(in, input, row + i);
    write_stored<T>(rows, count, out, wide, row);
    return;
  }
  parameter_rows(in, input, row, count, rows);
  // The response gate's rows are two padded halves, all others one padded row.
  const int64_t halves = input == kResponseGateWeight ? 2 : 1;
  const int64_t width = shape.columns / halves, pitch = round_up(width, kLanes<F>);
  for (int64_t i = 0; i < count * halves; ++i) {
    write_stored<T>(rows + i * pitch, width, out, wide, row * shape.columns + i * width);
  }
}

constexpr int64_t kRowsOfTask = 2 * kRows;

// Every parameter whose gradient is wanted, a few rows a task.
template <typename T, typename F = Arithmetic<T>>
static void weight_gradients(const WeightGradientInputs<F>& in, void* const* gradients, bool wide,
                             const Parallel& parallel) {
  int64_t tasks[kInputs + 1] = {};
  for (int input = 0; input < kInputs; ++input) {
    const bool wanted = input >= kGateWord && gradients[input];
    const int64_t blocks = (parameter_shape(in.sizes, input).rows + kRowsOfTask - 1) / kRowsOfTask;
    tasks[input + 1] = tasks[input] + (wanted ? blocks : 0);
  }
  for_each(parallel, tasks[kInputs], [&](int64_t task, int64_t thread) {
    int input = 0;
    while (tasks[input + 1] <= task) ++input;
    const int64_t row = (task - tasks[input]) * kRowsOfTask;
    const int64_t count = smaller(kRowsOfTask, parameter_shape(in.sizes, input).rows - row);
    F* rows = reinterpret_cast<F*>(reinterpret_cast<char*>(in.rows) + thread * in.row_bytes);
    write_parameter_rows<T>(in, static_cast<Input>(input), row, count, gradients[input], wide, rows);
  });
}

}  // namespace kvmem::cpu::KVMEM_ISA
