"""Where the parts of an image's memory lie, and the tables that the pixel passes read.

All float32, slots innermost, in this order (as csrc/cuda/layout.h has them):
- memory, of an image: φ(W_w w + b_w) (M, T), A w (G, T), B r (G), φ(W_r r + b_r) (M), k (C, T), v (C, T), u = W_g v
  (R, T)
- sums, of a chunk of an image's positions: Σ ds h (C, T), Σ α γ dout (C, T), Σ dz h (R, C), Σ α dz (R, T), Σ dz (R)
- gradients, of an image: dk (C, T), dv (C, T), Σ dz h (R, C), Σ α dz (R, T), Σ dz (R), and of what lies before φ and σ
  φ(W_w w + b_w) (M, T), φ(W_r r + b_r) (M), g (M, T), of which a scalar gate's is in parts, one for every block of rows
  of m; and m itself (M, T)
"""

import triton
import triton.language as tl

from kvmem.triton.arithmetic import load_matrix, load_vector, rounded


@triton.jit
def memory_size(sizes, L: tl.constexpr):
    """Numbers an image in memory."""
    return (L.M + L.G + 2 * L.C + L.R) * sizes.T + L.M + L.G


@triton.jit
def keys_of(memory, sizes, L: tl.constexpr):
    """Where k begins in an image's memory; v follows, then u."""
    return memory + (L.M + L.G) * sizes.T + L.M + L.G


@triton.jit
def with_gate(k, c, weights, sizes, L: tl.constexpr):
    """The keys as the products take them: behind the slots, the response gate's weights of h may be one more."""
    if L.GATE_IS_KEY:
        w_h = load_vector(weights.response_gate, c, L.C)
        k = tl.where(tl.arange(0, L.BLOCK_T)[:, None] == sizes.T, w_h[None, :], k)
    return rounded(k, L.DTYPE)


@triton.jit
def load_keys(memory, c, weights, sizes, L: tl.constexpr):
    k = load_matrix(keys_of(memory, sizes, L), tl.arange(0, L.BLOCK_T), c, sizes.T, L.C, 1, sizes.T)
    return with_gate(k, c, weights, sizes, L)


@triton.jit
def load_values(memory, c, sizes, L: tl.constexpr):
    values = keys_of(memory, sizes, L) + L.C * sizes.T
    return rounded(load_matrix(values, tl.arange(0, L.BLOCK_T), c, sizes.T, L.C, 1, sizes.T), L.DTYPE)


@triton.jit
def load_response(memory, i, sizes, L: tl.constexpr):
    """u (slots, gates i)."""
    response = keys_of(memory, sizes, L) + 2 * L.C * sizes.T
    return load_matrix(response, tl.arange(0, L.BLOCK_T), i, sizes.T, L.R, 1, sizes.T)


@triton.jit
def sums_size(sizes, L: tl.constexpr):
    """Numbers in the sums of a chunk, with which an image's gradients begin."""
    return 2 * L.C * sizes.T + L.R * (L.C + sizes.T + 1)


@triton.jit
def store_slots(at, x, c, T, L: tl.constexpr):
    """x (channels c, slots) into a matrix (C, T)."""
    t = tl.arange(0, L.BLOCK_T)
    tl.store(at + c[:, None] * T + t[None, :], x, mask=(c[:, None] < L.C) & (t[None, :] < T))


@triton.jit
def store_sums(sums, dk, dv, c, sizes, L: tl.constexpr):
    """Σ ds h and Σ α γ dout (channels c, slots)."""
    store_slots(sums, dk, c, sizes.T, L)
    store_slots(sums + L.C * sizes.T, dv, c, sizes.T, L)


@triton.jit
def store_scalar_gate(sums, dw, c, sizes, L: tl.constexpr):
    """Σ dz h (channels c)."""
    tl.store(sums + 2 * L.C * sizes.T + c, dw, mask=c < L.C)


@triton.jit
def store_scalar_response(sums, du, db, sizes, L: tl.constexpr):
    """Σ α dz (slots) and Σ dz."""
    t = tl.arange(0, L.BLOCK_T)
    response = sums + 2 * L.C * sizes.T + L.C
    tl.store(response + t, du, mask=t < sizes.T)
    tl.store(response + sizes.T, db)


@triton.jit
def store_vector_gate(sums, dw, i, c, sizes, L: tl.constexpr):
    """Σ dz h (gates i, channels c)."""
    at = sums + 2 * L.C * sizes.T + i[:, None] * L.C + c[None, :]
    tl.store(at, dw, mask=(i[:, None] < L.C) & (c[None, :] < L.C))


@triton.jit
def store_vector_response(sums, du, db, i, sizes, L: tl.constexpr):
    """Σ α dz (gates i, slots) and Σ dz (gates i)."""
    response = sums + 2 * L.C * sizes.T + L.C * L.C
    store_slots(response, du, i, sizes.T, L)
    tl.store(response + L.C * sizes.T + i, db, mask=i < L.C)


@triton.jit
def gradients_size(sizes, L: tl.constexpr):
    return sums_size(sizes, L) + (2 * L.M + L.GATE_ROWS) * sizes.T + L.M


@triton.jit
def written_gradients(gradients, b, sizes, L: tl.constexpr):
    """Where the gradients of memory writing begin: those of an image's words, of its mean, of the gates; and m."""
    of_words = gradients + b * gradients_size(sizes, L) + sums_size(sizes, L)
    of_image = of_words + L.M * sizes.T
    of_gates = of_image + L.M
    return of_words, of_image, of_gates, of_gates + L.GATE_ROWS * sizes.T
