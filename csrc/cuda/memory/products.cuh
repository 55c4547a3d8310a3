// Gradients of the parameters and of the words: products of what backward left of every image, all in one launch.
//
//   dA = Σ dgate_t w_t^T,  dBm = Σ dgate r^T,  dW_w = Σ dword_t w_t^T,  dW_r = Σ dimage r^T,  dK = Σ dk_t m_t^T,
//   dV = Σ dv_t m_t^T,  dW_g = [Σ dz h^T, Σ_t (Σ_n α_t dz) v_t^T],  for biases the sums of the left factors;
//   dw_t = W_w^T dword_t + A^T dgate_t
#pragma once

#include "cuda/memory/side.cuh"

namespace kvmem::cuda {

constexpr int kProductTile = 32;                 // rows and columns that a block computes, and the depth of a step
constexpr int kProductPitch = kProductTile + 1;  // rows of factors then start in different banks
constexpr int kProductThreads = 256;
constexpr int kProductWarps = kProductThreads / kWarp;
constexpr int kFactorNumbers = kProductTile * kProductPitch;
constexpr int kProductBytes = kProductWarps * 2 * kFactorNumbers * 4;
constexpr int kFetched = kProductTile / 4;         // lines of a factor that are under way together
constexpr int kMaxProducts = 10;

// x[k, i], where k counts through an outer and an inner index, of one batch: number
// origin + batch · batch_stride + outer · outer_stride + inner · inner_stride + i · column_stride.
template <typename T>
struct Factor {
  View<const float> floats;
  View<const T> numbers;  // in place of floats
  View<const bool> mask;  // (outer, inner); null: all count
  int64_t origin, batch_stride, outer_stride, inner_stride, column_stride;
};

// left^T right; no depth: nothing.
template <typename T>
struct Product {
  Factor<T> left, right;
  int64_t outer, inner;
};

// out (batches, rows, columns), the sum of two products, and the sums of the first one's left columns, for biases.
template <typename T>
struct ProductJob {
  Product<T> products[2];
  int64_t batches;
  int rows, columns;
  View<T> out;  // null: not wanted
  int64_t out_origin, out_pitch;
  View<const bool> out_mask;  // (batches, rows); null: all count
  bool wide;                  // out and row_sums are in float32
  View<T> row_sums;           // number i is at i / row_sums_width * row_sums_pitch + i % row_sums_width
  int row_sums_width, row_sums_pitch;
};

template <typename T>
struct ProductsParameters {
  int count;
  ProductJob<T> jobs[kMaxProducts];
};

KVMEM_BOTH int product_tiles(int n) { return n > kProductTile ? (n + kProductTile - 1) / kProductTile : 1; }

// The part of a factor that one step takes.
struct FactorStep {
  int64_t batch, outer, first;
  int count;            // of depth, from `first`
  int column, columns;  // from `column`; there are `columns` in all
};

// Lines [line, line + kFetched) of a step. Lanes run along what lies together in memory, depth or columns, lines along
// the other; zeros beyond the ends.
template <typename T, typename U>
KVMEM_DEVICE void fetch_numbers(const Factor<T>& f, View<const U> numbers, const FactorStep& s, int64_t inner, int line,
                                float (&x)[kFetched]) {
  const bool deep = f.inner_stride == 1;
  const int64_t along = deep ? f.inner_stride : f.column_stride, across = deep ? f.column_stride : f.inner_stride;
  const View<const U> from = numbers + (f.origin + s.batch * f.batch_stride + s.outer * f.outer_stride +
                                        s.first * f.inner_stride + s.column * f.column_stride + lane() * along);
  KVMEM_UNROLL
  for (int i = 0; i < kFetched; ++i) {
    const int k = deep ? lane() : line + i, column = s.column + (deep ? line + i : lane());
    bool valid = k < s.count && column < s.columns;
    if (valid && f.mask) valid = f.mask[s.outer * inner + s.first + k];
    x[i] = valid ? to_float(from[(line + i) * across]) : 0.0f;
  }
}

template <typename T>
KVMEM_DEVICE void fetch(const Factor<T>& f, const FactorStep& step, int64_t inner, int line, float (&x)[kFetched]) {
  if (f.numbers) {
    fetch_numbers(f, f.numbers, step, inner, line, x);
  } else {
    fetch_numbers(f, f.floats, step, inner, line, x);
  }
}

// As (depth, column).
template <typename T>
KVMEM_DEVICE void put(const Factor<T>& f, const float (&x)[kFetched], int line, View<float> to) {
  const bool deep = f.inner_stride == 1;
  const int first = lane() * (deep ? kProductPitch : 1), across = deep ? 1 : kProductPitch;
  KVMEM_UNROLL
  for (int i = 0; i < kFetched; ++i) to[first + (line + i) * across] = x[i];
}

// A lane's part of a tile: rows lane / 4 + 8 i, columns lane % 4 + 4 j.
struct ProductPart {
  float x[4][8];
  float row_sums[4];
};

// total += left^T right of one step, whose sum is taken apart: long chains of additions lose digits.
KVMEM_DEVICE void multiply_step(View<float> left, View<float> right, int count, bool row_sums, ProductPart& total) {
  ProductPart step = {};
  KVMEM_NO_UNROLL
  for (int k = 0; k < count; ++k) {
    float a[4], b[8];
    KVMEM_UNROLL
    for (int i = 0; i < 4; ++i) a[i] = left[k * kProductPitch + lane() / 4 + 8 * i];
    KVMEM_UNROLL
    for (int j = 0; j < 8; ++j) b[j] = right[k * kProductPitch + lane() % 4 + 4 * j];
    KVMEM_UNROLL
    for (int i = 0; i < 4; ++i) {
      KVMEM_UNROLL
      for (int j = 0; j < 8; ++j) step.x[i][j] += a[i] * b[j];
      step.row_sums[i] += a[i];
    }
  }
  KVMEM_UNROLL
  for (int i = 0; i < 4; ++i) {
    KVMEM_UNROLL
    for (int j = 0; j < 8; ++j) total.x[i][j] += step.x[i][j];
    if (row_sums) total.row_sums[i] += step.row_sums[i];
  }
}

// The left (0) or right (1) factor of a warp's step.
KVMEM_DEVICE View<float> factor_memory(int warp_index, int factor) {
  return shared<float>((warp_index * 2 + factor) * kFactorNumbers * 4, kFactorNumbers);
}

// Steps are dealt out to the warps.
template <typename T>
KVMEM_DEVICE void multiply_tile(const ProductJob<T>& job, int64_t batch, int row, int column, ProductPart& part) {
  const int w = warp();
  const View<float> left = factor_memory(w, 0), right = factor_memory(w, 1);
  KVMEM_NO_UNROLL
  for (int index = 0; index < 2; ++index) {
    const Product<T>& product = job.products[index];
    const int64_t inner = (product.inner + kProductTile - 1) / kProductTile;
    for (int64_t step = w; step < product.outer * inner; step += kProductWarps) {
      const int64_t outer = step / inner, first = step % inner * kProductTile, rest = product.inner - first;
      const int count = static_cast<int>(rest < kProductTile ? rest : kProductTile);
      KVMEM_NO_UNROLL
      for (int line = 0; line < kProductTile; line += kFetched) {
        float x[kFetched], y[kFetched];
        fetch(product.left, {batch, outer, first, count, row, job.rows}, product.inner, line, x);
        fetch(product.right, {batch, outer, first, count, column, job.columns}, product.inner, line, y);
        put(product.left, x, line, left);
        put(product.right, y, line, right);
      }
      warp_barrier();
      multiply_step(left, right, count, index == 0, part);
      warp_barrier();
    }
  }
}

// The sum of the warps' parts, in their order.
KVMEM_DEVICE float sum_of_parts(int factor, int at) {
  float sum = 0.0f;
  KVMEM_UNROLL
  for (int i = 0; i < kProductWarps; ++i) sum += factor_memory(i, factor)[at];
  return sum;
}

// The gradient of a word in a masked slot is zero, whatever stands there.
template <typename T>
KVMEM_DEVICE void write_tile(const ProductJob<T>& job, int64_t batch, int row, int column, const ProductPart& part) {
  const View<float> numbers = factor_memory(warp(), 0), row_sums = factor_memory(warp(), 1);
  KVMEM_UNROLL
  for (int i = 0; i < 4; ++i) {
    KVMEM_UNROLL
    for (int j = 0; j < 8; ++j) numbers[(lane() / 4 + 8 * i) * kProductPitch + lane() % 4 + 4 * j] = part.x[i][j];
    if (lane() % 4 == 0) row_sums[lane() / 4 + 8 * i] = part.row_sums[i];
  }
  block_barrier();
  for (int i = warp(); i < kProductTile && row + i < job.rows; i += kProductWarps) {
    const int64_t line = batch * job.rows + row + i;
    if (job.out && column + lane() < job.columns) {
      const float x = sum_of_parts(0, i * kProductPitch + lane());
      const bool masked = job.out_mask && !job.out_mask[line];
      put_gradient(job.out, job.wide, job.out_origin + line * job.out_pitch + column + lane(), masked ? 0.0f : x);
    }
  }
  const int i = row + lane();
  if (!job.row_sums || column > 0 || thread() >= kWarp || i >= job.rows) return;
  put_gradient(job.row_sums, job.wide, int64_t{i / job.row_sums_width} * job.row_sums_pitch + i % job.row_sums_width,
               sum_of_parts(1, lane()));
}

template <typename T>
KVMEM_KERNEL(kProductThreads, 2) multiply_products(KVMEM_PARAMETER(ProductsParameters<T>) p) {
  int64_t tile = block();
  int index = 0;
  while (true) {
    const ProductJob<T>& job = p.jobs[index];
    const int64_t tiles = job.batches * product_tiles(job.rows) * product_tiles(job.columns);
    if (tile < tiles) break;
    tile -= tiles;
    ++index;
  }
  const ProductJob<T>& job = p.jobs[index];
  const int rows = product_tiles(job.rows), columns = product_tiles(job.columns);
  const int64_t batch = tile / (rows * columns);
  const int rest = static_cast<int>(tile % (rows * columns));
  const int row = rest / columns * kProductTile, column = rest % columns * kProductTile;
  // Up to here nothing has been read that another launch wrote.
  wait_for_launch_before();
  ProductPart part = {};
  multiply_tile(job, batch, row, column, part);
  write_tile(job, batch, row, column, part);
}

// Names the factors of one backward call.
template <typename T>
struct ProductFactors {
  const BackwardArguments& a;
  const Sizes& s;
  View<const float> gradients, memory, mean;
  MemoryLayout memory_layout;
  GradientLayout gradient_layout;

  // Rows `features` of a table (features, T) that every image has, depth (image, slot).
  Factor<T> slots(View<const float> tables, int size, int at) const {
    return {tables, {}, {}, at, 0, size, 1, s.T};
  }
  Factor<T> gradient(int at) const { return slots(gradients, gradient_layout.size, at); }
  // The same as (T, features), a batch an image.
  Factor<T> turned(int at) const { return {gradients, {}, {}, at, gradient_layout.size, 0, s.T, 1}; }
  // A vector that every image has, depth (image).
  Factor<T> vectors(View<const float> tables, int64_t size, int at) const {
    return {tables, {}, {}, at, 0, 0, size, 1};
  }
  Factor<T> gradient_vector(int at) const { return vectors(gradients, gradient_layout.size, at); }
  Factor<T> means() const { return vectors(mean, s.C, 0); }
  Factor<T> words() const {
    return input(kWords, s.B * s.T * s.D, a.wide_words, view(a.mask, s.B * s.T), s.T * s.D);
  }
  Factor<T> weight(int which, int64_t rows) const { return input(which, rows * s.D, a.wide_weights, {}, 0); }
  // Rows of D numbers, which the caller gave.
  Factor<T> input(int which, int64_t count, bool wide, View<const bool> mask, int64_t outer_stride) const {
    const void* numbers = a.inputs[which];
    if (wide) return {view(static_cast<const float*>(numbers), count), {}, mask, 0, 0, outer_stride, s.D, 1};
    return {{}, view(static_cast<const T*>(numbers), count), mask, 0, 0, outer_stride, s.D, 1};
  }
};

// Appends the jobs whose results are wanted.
template <typename T>
struct ProductsPlan {
  const BackwardArguments& a;
  ProductsParameters<T> parameters{};
  int64_t blocks = 0;

  View<T> gradient(int input, int64_t count) const {
    return gradient_view<T>(a.gradients[input], count, input == kWords ? a.wide_words : a.wide_weights);
  }

  // out (rows, columns) with lines `pitch` apart from number `origin` on; row sums into lines of `width`.
  void add(const Product<T>& product, int64_t rows, int64_t columns, int out, int64_t origin, int64_t pitch,
           int row_sums, int64_t width, int64_t row_sums_pitch) {
    ProductJob<T> job{};
    job.products[0] = product;
    job.batches = 1;
    job.wide = a.wide_weights;
    job.rows = static_cast<int>(rows);
    if (out >= 0) job.out = gradient(out, (rows - 1) * pitch + origin + columns);
    if (job.out) job.columns = static_cast<int>(columns);
    job.out_origin = origin;
    job.out_pitch = pitch;
    if (row_sums >= 0) job.row_sums = gradient(row_sums, (rows - 1) / width * row_sums_pitch + width);
    job.row_sums_width = static_cast<int>(width);
    job.row_sums_pitch = static_cast<int>(row_sums_pitch);
    append(job);
  }

  // A weight's gradient (rows, columns) and, if `bias` is not negative, its bias's.
  void add_weight(const Product<T>& product, int64_t rows, int64_t columns, int weight, int bias) {
    add(product, rows, columns, weight, 0, columns, bias, rows, 0);
  }

  void append(const ProductJob<T>& job) {
    if (!job.out && !job.row_sums) return;
    blocks += job.batches * product_tiles(job.rows) * product_tiles(job.columns);
    parameters.jobs[parameters.count++] = job;
  }
};

// W_g's halves, and its bias: sums over images alone, and one product.
template <typename T>
void plan_gate(const ProductFactors<T>& f, ProductsPlan<T>& plan) {
  const Sizes& s = f.s;
  const GradientLayout& g = f.gradient_layout;
  const Factor<T> values = f.slots(f.memory, f.memory_layout.size, f.memory_layout.values);
  const Factor<T> gate_image = f.gradient_vector(g.gate_image), gate_bias = f.gradient_vector(g.gate_bias);
  plan.add({gate_image, gate_image, 1, s.B}, s.R * s.C, 0, -1, 0, 0, kResponseGateWeight, s.C, 2 * s.C);
  plan.add({f.gradient(g.response), values, s.B, s.T}, s.R, s.C, kResponseGateWeight, s.C, 2 * s.C, -1, 1, 0);
  plan.add({gate_bias, gate_bias, 1, s.B}, s.R, 0, -1, 0, 0, kResponseGateBias, s.R, 0);
}

template <typename T>
void plan_weights(const ProductFactors<T>& f, ProductsPlan<T>& plan) {
  const Sizes& s = f.s;
  const GradientLayout& g = f.gradient_layout;
  const Factor<T> words = f.words(), means = f.means(), memory = f.gradient(g.memory);
  plan.add_weight({f.gradient(g.gate), words, s.B, s.T}, s.G, s.D, kGateWord, -1);
  plan.add_weight({f.gradient_vector(g.gate_sum), means, 1, s.B}, s.G, s.C, kGateImage, -1);
  plan.add_weight({f.gradient(g.word_part), words, s.B, s.T}, s.M, s.D, kWriteWordWeight, kWriteWordBias);
  plan.add_weight({f.gradient_vector(g.image_part), means, 1, s.B}, s.M, s.C, kWriteImageWeight, kWriteImageBias);
  plan.add_weight({f.gradient(g.keys), memory, s.B, s.T}, s.C, s.M, kKeyWeight, kKeyBias);
  plan.add_weight({f.gradient(g.values), memory, s.B, s.T}, s.C, s.M, kValueWeight, kValueBias);
  plan_gate(f, plan);
}

template <typename T>
void plan_words(const ProductFactors<T>& f, ProductsPlan<T>& plan) {
  const Sizes& s = f.s;
  ProductJob<T> job{};
  job.products[0] = {f.turned(f.gradient_layout.word_part), f.weight(kWriteWordWeight, s.M), 1, s.M};
  job.products[1] = {f.turned(f.gradient_layout.gate), f.weight(kGateWord, s.G), 1, s.G};
  job.batches = s.B;
  job.rows = static_cast<int>(s.T);
  job.columns = static_cast<int>(s.D);
  job.out = plan.gradient(kWords, s.B * s.T * s.D);
  job.out_pitch = s.D;
  job.out_mask = view(f.a.mask, s.B * s.T);
  job.wide = f.a.wide_words;
  plan.append(job);
}

template <typename T>
ProductFactors<T> product_factors(const BackwardArguments& a, const float* gradients) {
  const Sizes& s = a.sizes;
  const MemoryLayout m = memory_layout(s);
  const GradientLayout g = gradient_layout(s);
  return {a,
          s,
          view(gradients, s.B * g.size),
          view(static_cast<const float*>(a.memory), s.B * m.size),
          view(static_cast<const float*>(a.mean), s.B * s.C),
          m,
          g};
}

template <typename T>
const char* launch_products(const ProductsPlan<T>& plan, void* stream, bool early = false) {
  const Launch how{plan.blocks, kProductThreads, 1, kProductBytes, stream, early};
  return launch<multiply_products<T>>(how, plan.parameters);
}

// `gradients` (B, gradient_layout.size) -> every gradient that is wanted but the image's. `early`: as a launch's.
template <typename T>
const char* parameter_gradients(const BackwardArguments& a, const float* gradients, void* stream, bool early = false) {
  const auto factors = product_factors<T>(a, gradients);
  ProductsPlan<T> plan{a};
  plan_weights(factors, plan);
  if (a.sizes.B > 0) plan_words(factors, plan);
  return launch_products(plan, stream, early);
}

// Of a memory that is given: the response gate's gradients, where they are wanted.
template <typename T>
const char* gate_gradients(const BackwardArguments& a, const float* gradients, void* stream) {
  if (a.sizes.R == 0) return nullptr;
  ProductsPlan<T> plan{a};
  plan_gate(product_factors<T>(a, gradients), plan);
  return launch_products(plan, stream);
}

}  // namespace kvmem::cuda
