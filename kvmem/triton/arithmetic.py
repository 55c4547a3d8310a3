"""What the kernels of both directions share: rounding, products, activations, softmax, blocks of matrices."""

import triton
import triton.language as tl

# Triton reads the environment when a kernel is defined, as here.
INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))
LOG2_E = tl.constexpr(1.4426950408889634)
# Below every score, and still finite: the difference of two of them is no NaN.
LEAST = tl.constexpr(-3.0e38)


@triton.jit
def rounded(x, DTYPE: tl.constexpr):
    """x, float32, to the nearest number of DTYPE."""
    if INTERPRETED and DTYPE == tl.bfloat16:
        # The interpreter cuts digits off; after this there are none left to cut off.
        bits = x.to(tl.int32, bitcast=True)
        nearest = (bits + 0x7FFF + ((bits >> 16) & 1)) & -0x10000
        x = tl.where(x == x, nearest.to(tl.float32, bitcast=True), x)
    return x.to(DTYPE)


@triton.jit
def product(a, b, total, L: tl.constexpr):
    """total + a b of matrices rounded to the image's type, summed up in float32."""
    return rounded_product(a, b, total, L.DTYPE, L)


@triton.jit
def memory_product(a, b, total, L: tl.constexpr):
    """The same on the memory side, where no operand is of the image: rounded to the weights' type."""
    return rounded_product(a, b, total, L.WEIGHTS, L)


@triton.jit
def rounded_product(a, b, total, DTYPE: tl.constexpr, L: tl.constexpr):
    """total + a b of matrices rounded to DTYPE, summed up in float32."""
    if DTYPE == tl.float32:
        return product32(a, b, total, L)
    if a.dtype != DTYPE:
        a = rounded(a, DTYPE)
    if b.dtype != DTYPE:
        b = rounded(b, DTYPE)
    if INTERPRETED:
        # Its products would take the bits of a bfloat16 for a whole number.
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, total)


@triton.jit
def product32(a, b, total, L: tl.constexpr):
    """total + a b, with the precision of float32."""
    # Matrix units cut digits off where they add; Triton adds total to a product in tf32x3 by itself, rounded.
    return tl.dot(a.to(tl.float32), b.to(tl.float32), total, input_precision=L.PRECISION)


@triton.jit
def phi(x, L: tl.constexpr):
    if L.RELU:
        x = tl.where(x < 0, 0.0, x)
    return x


@triton.jit
def through_phi(gradient, y, L: tl.constexpr):
    """The gradient of x from that of y = φ(x)."""
    if L.RELU:
        gradient = tl.where(y > 0, gradient, 0.0)
    return gradient


@triton.jit
def sigmoid(x):
    return 1 / (1 + tl.exp2(x * -LOG2_E))


@triton.jit
def write_gate(x, L: tl.constexpr):
    if not L.LINEAR:
        x = sigmoid(x)
    return x


@triton.jit
def softmax(s, slots):
    """α (positions, slots) of the scores s, over the slots that hold a word; 0 where none does."""
    s = tl.where(slots[None, :], s * LOG2_E, LEAST)
    alpha = tl.where(slots[None, :], tl.exp2(s - tl.max(s, 1)[:, None]), 0.0)
    total = tl.sum(alpha, 1)
    return alpha / tl.where(total == 0, 1.0, total)[:, None]


@triton.jit
def column(x, j, at):
    """Column `at` of x, whose columns are numbered j."""
    return tl.sum(tl.where(j[None, :] == at, x, 0.0), 1)


@triton.jit
def channels(sizes, L: tl.constexpr):
    """Where a loop over blocks of channels ends: unrolled, those over many blocks would take too many registers."""
    return L.C if L.TUNED else sizes.C


@triton.jit
def load_slots(mask, b, t, T):
    """Which of the slots t of image b hold a word."""
    slots = t < T
    if mask is not None:
        slots = slots & (tl.load(mask + b * T + t, mask=slots, other=0) != 0)
    return slots


@triton.jit
def load_vector(vector, i, size):
    """vector[i] in float32, zero outside of it."""
    return tl.load(vector + i, mask=i < size, other=0.0).to(tl.float32)


@triton.jit
def store_rounded(at, x, inside):
    """x, float32, as the nearest numbers of the type that lies there."""
    tl.store(at, rounded(x, at.dtype.element_ty), mask=inside)


@triton.jit
def load_matrix(matrix, i, j, rows, columns, stride_i, stride_j):
    """matrix[i, j], zero outside of it."""
    inside = (i[:, None] < rows) & (j[None, :] < columns)
    return tl.load(matrix + i[:, None] * stride_i + j[None, :] * stride_j, mask=inside, other=0.0)


@triton.jit
def locate(chunk, sizes):
    """Image and first position of a chunk, which are numbered image by image."""
    return (chunk // sizes.chunks).to(tl.int64), (chunk % sizes.chunks).to(tl.int64) * sizes.span


@triton.jit
def pixels(start, c, sizes, L: tl.constexpr, BLOCK_N: tl.constexpr):
    """Where the positions from start on and the channels c lie in an image: offsets (positions, channels), inside."""
    n = tl.arange(0, BLOCK_N)
    offsets = start * sizes.stride_n + (n[:, None] * sizes.stride_n + c[None, :].to(tl.int64) * sizes.stride_c)
    return offsets, (start + n[:, None] < sizes.N) & (c[None, :] < L.C)


@triton.jit
def load_pixels(image, start, c, sizes, L: tl.constexpr, BLOCK_N: tl.constexpr):
    """(positions, channels) of one image, zero outside of it."""
    offsets, inside = pixels(start, c, sizes, L, BLOCK_N)
    return tl.load(image + offsets, mask=inside, other=0.0)


@triton.jit
def store_pixels(image, x, start, c, sizes, L: tl.constexpr, BLOCK_N: tl.constexpr):
    """x, float32 (positions, channels), into one image."""
    offsets, inside = pixels(start, c, sizes, L, BLOCK_N)
    tl.store(image + offsets, rounded(x, L.DTYPE), mask=inside)


@triton.jit
def load_mean(sums, b, c, sizes, L: tl.constexpr):
    """r (channels c), from the sums of h (B, chunks, C) over chunks of positions."""
    chunk = tl.arange(0, L.CHUNKS)
    chunks = load_matrix(sums + b * sizes.chunks * L.C, chunk, c, sizes.chunks, L.C, L.C, 1)
    return tl.sum(chunks, 0) / sizes.N
