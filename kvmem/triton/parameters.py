"""The backward pass from the sums over positions on: k, v, u and m, then words, parameters and the mean's part of dh.

The letters are those of kvmem/reference.py. `kv_memory_write_backward` has a program for every image,
`kv_memory_parameters_backward` one for every block of every result. A memory that is given ends at k and v: the two
kernels named after it.
"""

import triton
import triton.language as tl

from kvmem.triton.arithmetic import (
    load_matrix,
    load_pixels,
    load_slots,
    load_vector,
    locate,
    product,
    product32,
    rounded,
    store_pixels,
    through_phi,
    write_gate,
)
from kvmem.triton.tables import gradients_size, keys_of, memory_size, store_slots, sums_size, written_gradients

BLOCK = tl.constexpr(64)  # rows and columns of a block of a parameter's gradient
BLOCK_K = tl.constexpr(32)  # slots, of all images, that are added to it at once


@triton.jit
def kv_memory_write_backward(weights, memory, sums, gradients, sizes, L: tl.constexpr):
    """The gradients of k, v and of what lies before φ and σ of memory writing: a program for every image."""
    T = sizes.T
    b = tl.program_id(0).to(tl.int64)
    of_words, of_image, of_gates, of_memory = written_gradients(gradients, b, sizes, L)
    memory += b * memory_size(sizes, L)
    sums += b * sizes.chunks * sums_size(sizes, L)
    gradients += b * gradients_size(sizes, L)
    t = tl.arange(0, L.BLOCK_T)
    # Each step reads what the one before has written.
    add_chunks_of_gates(sums, gradients, sizes, L)
    tl.debug_barrier()
    for start in range(0, sizes.C, L.WIDTH):
        keys_and_values_backward(weights, memory, sums, gradients, start + tl.arange(0, L.WIDTH), sizes, L)
    tl.debug_barrier()
    dgate = tl.full((L.BLOCK_T,), 0, tl.float32)
    for start in range(0, L.M, L.WIDTH):
        m = start + tl.arange(0, L.WIDTH)
        g = m if L.G != 1 else tl.full((1,), 0, tl.int32)
        dm = tl.full((L.BLOCK_T, L.WIDTH), 0, tl.float32)
        for block in range(0, sizes.C, L.WIDTH):
            c = block + tl.arange(0, L.WIDTH)
            dk = load_matrix(gradients, t, c, T, L.C, 1, T)
            dv = load_matrix(gradients + L.C * T, t, c, T, L.C, 1, T)
            dm = product32(dk, load_matrix(weights.key, c, m, L.C, L.M, L.M, 1), dm, L)
            dm = product32(dv, load_matrix(weights.value, c, m, L.C, L.M, L.M, 1), dm, L)
        words_part = load_matrix(memory, t, m, T, L.M, 1, T)
        gate_of_image = memory + (L.M + L.G) * T
        image_part = load_vector(gate_of_image + L.G, m, L.M)[None, :]
        gate = load_matrix(memory + L.M * T, t, g, T, L.G, 1, T) + load_vector(gate_of_image, g, L.G)[None, :]
        gate = write_gate(gate, L)
        dg = dm * (words_part - image_part)
        if not L.LINEAR:
            dg *= gate * (1 - gate)
        inside = (t[:, None] < T) & (m[None, :] < L.M)
        at = m[None, :] * T + t[:, None]
        tl.store(of_words + at, through_phi(gate * dm, words_part, L), mask=inside)
        tl.store(of_image + m, tl.sum(through_phi((1 - gate) * dm, image_part, L), 0), mask=m < L.M)
        tl.store(of_memory + at, gate * words_part + (1 - gate) * image_part, mask=inside)
        if L.G == 1:
            dgate += tl.sum(dg, 1)
        else:
            tl.store(of_gates + at, dg, mask=inside)
    if L.G == 1:
        tl.store(of_gates + t, dgate, mask=t < T)


@triton.jit
def add_chunks_of_gates(sums, gradients, sizes, L: tl.constexpr):
    """What needs no more than that: Σ dz h (R, C), Σ α dz (R, T) and Σ dz (R), one behind the other."""
    end = sums_size(sizes, L)
    for start in range(2 * L.C * sizes.T, end, 1024):
        x = start + tl.arange(0, 1024)
        total = tl.full((1024,), 0, tl.float32)
        for chunk in tl.range(0, sizes.chunks, loop_unroll_factor=4):
            total += load_vector(sums + chunk * end, x, end)
        tl.store(gradients + x, total, mask=x < end)


@triton.jit
def keys_and_values_backward(weights, memory, sums, gradients, c, sizes, L: tl.constexpr):
    """dk and dv (slots, channels c) before φ. v is also what the response gate's u = W_g v is made of."""
    T = sizes.T
    t = tl.arange(0, L.BLOCK_T)
    dk = tl.full((L.BLOCK_T, L.WIDTH), 0, tl.float32)
    dv = tl.full((L.BLOCK_T, L.WIDTH), 0, tl.float32)
    for chunk in tl.range(0, sizes.chunks, loop_unroll_factor=4):
        of_chunk = sums + chunk * sums_size(sizes, L)
        dk += load_matrix(of_chunk, t, c, T, L.C, 1, T)
        dv += load_matrix(of_chunk + L.C * T, t, c, T, L.C, 1, T)
    response = gradients + 2 * L.C * T + L.R * L.C
    if L.R == 1:
        w_o = load_vector(weights.response_gate + L.C, c, L.C)
        dv += load_vector(response, t, T)[:, None] * w_o[None, :]
    elif L.R > 1:
        for start in range(0, sizes.C, L.WIDTH):
            i = start + tl.arange(0, L.WIDTH)
            du = load_matrix(response, t, i, T, L.C, 1, T)
            dv = product32(du, load_matrix(weights.response_gate + L.C, i, c, L.C, L.C, 2 * L.C, 1), dv, L)
    k = load_matrix(keys_of(memory, sizes, L), t, c, T, L.C, 1, T)
    v = load_matrix(keys_of(memory, sizes, L) + L.C * T, t, c, T, L.C, 1, T)
    store_slots(gradients, tl.trans(through_phi(dk, k, L)), c, T, L)
    store_slots(gradients + L.C * T, tl.trans(through_phi(dv, v, L)), c, T, L)


@triton.jit
def kv_memory_parameters_backward(
    words, mask, weights, memory, mean, gradients, grad_image, grad_words, grads, programs, sizes, L: tl.constexpr,
    BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Adds the mean's part to dh; the gradients of words and parameters that are there (not None)."""
    T, D = sizes.T, sizes.D
    C: tl.constexpr = L.C
    M: tl.constexpr = L.M
    of_words, of_image, of_gates, m = written_gradients(gradients, 0, sizes, L)
    m_image = gradients_size(sizes, L)
    x = tl.program_id(0)
    if grad_image is not None:
        if x < programs.mean:
            mean_backward(x, weights, gradients, grad_image, sizes, L, BLOCK_N)
    x -= programs.mean
    if grad_words is not None:
        if (x >= 0) & (x < programs.words):
            words_backward(x, weights, gradients, grad_words, sizes, L)
    x -= programs.words
    if (x >= 0) & (x < programs.gate_word):
        outer_sum(x, grads.gate_word, None, D, of_gates, T, words, T * D, D, 1, mask, L.G, D, sizes, L)
    x -= programs.gate_word
    if (x >= 0) & (x < programs.gate_image):
        outer_sum(x, grads.gate_image, None, C, of_gates, T, mean, C, 0, 1, None, L.G, C, sizes, L)
    x -= programs.gate_image
    if (x >= 0) & (x < programs.write_word):
        outer_sum(x, grads.write_word, grads.write_word_bias, D, of_words, T, words, T * D, D, 1, mask, M, D, sizes, L)
    x -= programs.write_word
    if (x >= 0) & (x < programs.write_image):
        outer_sum(x, grads.write_image, grads.write_image_bias, C, of_image, 1, mean, C, 0, 1, None, M, C, sizes, L)
    x -= programs.write_image
    if (x >= 0) & (x < programs.key):
        outer_sum(x, grads.key, grads.key_bias, M, gradients, T, m, m_image, 1, T, None, C, M, sizes, L)
    x -= programs.key
    if (x >= 0) & (x < programs.value):
        outer_sum(x, grads.value, grads.value_bias, M, gradients + C * T, T, m, m_image, 1, T, None, C, M, sizes, L)
    response_gate_backward(x - programs.value, memory, gradients, grads, programs, sizes, L)


@triton.jit
def response_gate_backward(x, memory, gradients, grads, programs, sizes, L: tl.constexpr):
    """The gradients of the response gate's weights and bias that are there, by the last programs of a launch."""
    T = sizes.T
    C: tl.constexpr = L.C
    v = keys_of(memory, sizes, L) + C * T
    of_responses = gradients + 2 * C * T
    du, of_bias = of_responses + L.R * C, of_responses + L.R * (C + T)
    if grads.response_gate is not None:
        if (x >= 0) & (x < programs.response_gate_of_image):
            sum_images(x, grads.response_gate, 2 * C, of_responses, L.R, C, sizes, L)
        x -= programs.response_gate_of_image
        if (x >= 0) & (x < programs.response_gate_of_values):
            v_image = memory_size(sizes, L)
            outer_sum(x, grads.response_gate + C, None, 2 * C, du, T, v, v_image, 1, T, None, L.R, C, sizes, L)
        x -= programs.response_gate_of_values
    if grads.response_gate_bias is not None:
        if (x >= 0) & (x < programs.response_gate_bias):
            sum_images(x, grads.response_gate_bias, 1, of_bias, L.R, 1, sizes, L)


@triton.jit
def kv_memory_given_backward(weights, memory, sums, gradients, grad_keys, grad_values, sizes, L: tl.constexpr):
    """The gradients (B, T, C) of keys and values that are there (not None), and the chunks' sums added up.

    A program for every image.
    """
    T = sizes.T
    b = tl.program_id(0).to(tl.int64)
    memory += b * memory_size(sizes, L)
    sums += b * sizes.chunks * sums_size(sizes, L)
    gradients += b * gradients_size(sizes, L)
    # Each step reads what the one before has written.
    add_chunks_of_gates(sums, gradients, sizes, L)
    tl.debug_barrier()
    for start in range(0, sizes.C, L.WIDTH):
        keys_and_values_backward(weights, memory, sums, gradients, start + tl.arange(0, L.WIDTH), sizes, L)
    tl.debug_barrier()
    t = tl.arange(0, L.BLOCK_T)
    for start in range(0, sizes.C, L.WIDTH):
        c = start + tl.arange(0, L.WIDTH)
        at = (b * T + t[:, None]) * L.C + c[None, :]
        inside = (t[:, None] < T) & (c[None, :] < L.C)
        if grad_keys is not None:
            dk = load_matrix(gradients, t, c, T, L.C, 1, T)
            tl.store(grad_keys + at, rounded(dk, L.DTYPE), mask=inside)
        if grad_values is not None:
            dv = load_matrix(gradients + L.C * T, t, c, T, L.C, 1, T)
            tl.store(grad_values + at, rounded(dv, L.DTYPE), mask=inside)


@triton.jit
def kv_memory_given_gate_backward(memory, gradients, grads, programs, sizes, L: tl.constexpr):
    """The gradients of a response gate over a memory that is given: a program for every block of each."""
    response_gate_backward(tl.program_id(0), memory, gradients, grads, programs, sizes, L)


@triton.jit
def outer_sum(
    program, out, bias, out_stride, a, slots, b, b_image, b_slot, b_column, mask, rows, columns, sizes, L: tl.constexpr
):
    """A block of out (rows, columns) = Σ a_t b_tᵀ over the slots of all images, and of bias (rows) = Σ a_t.

    a: (rows, slots) in every image's gradients. b: strides to the next image, slot and column; not read in a slot that
    mask says holds no word.
    """
    blocks = tl.cdiv(columns, BLOCK)
    i = program // blocks * BLOCK + tl.arange(0, BLOCK)
    j = program % blocks * BLOCK + tl.arange(0, BLOCK)
    total = tl.full((BLOCK, BLOCK), 0, tl.float32)
    row_total = tl.full((BLOCK,), 0, tl.float32)
    for start in range(0, sizes.B * slots, BLOCK_K):
        x = start + tl.arange(0, BLOCK_K)
        image, t = (x // slots).to(tl.int64), x % slots
        held = load_slots(mask, 0, x, sizes.B * slots)
        inside = (i[:, None] < rows) & (x < sizes.B * slots)[None, :]
        at = a + image[None, :] * gradients_size(sizes, L) + i[:, None] * slots + t[None, :]
        a_t = tl.load(at, mask=inside, other=0.0)
        inside = held[:, None] & (j[None, :] < columns)
        at = b + image[:, None] * b_image + t[:, None] * b_slot + j[None, :] * b_column
        total = product(a_t, tl.load(at, mask=inside, other=0.0), total, L)
        row_total += tl.sum(a_t, 1)
    if out is not None:
        at = out + i[:, None] * out_stride + j[None, :]
        tl.store(at, rounded(total, L.DTYPE), mask=(i[:, None] < rows) & (j[None, :] < columns))
    if bias is not None:
        if program % blocks == 0:
            tl.store(bias + i, rounded(row_total, L.DTYPE), mask=i < rows)


@triton.jit
def sum_images(program, out, out_stride, x, rows, columns, sizes, L: tl.constexpr):
    """A block of out (rows, columns) = Σ x over the images' gradients."""
    blocks = tl.cdiv(columns, BLOCK)
    i = program // blocks * BLOCK + tl.arange(0, BLOCK)
    j = program % blocks * BLOCK + tl.arange(0, BLOCK)
    total = tl.full((BLOCK, BLOCK), 0, tl.float32)
    for b in range(0, sizes.B):
        total += load_matrix(x + tl.cast(b, tl.int64) * gradients_size(sizes, L), i, j, rows, columns, columns, 1)
    at = out + i[:, None] * out_stride + j[None, :]
    tl.store(at, rounded(total, L.DTYPE), mask=(i[:, None] < rows) & (j[None, :] < columns))


@triton.jit
def words_backward(program, weights, gradients, grad_words, sizes, L: tl.constexpr):
    """dw_t = W_wᵀ d(W_w w_t) + Aᵀ d(A w_t) (slots, channels d): a program for every block of an image."""
    T, D = sizes.T, sizes.D
    blocks = tl.cdiv(D, L.WIDTH)
    b = (program // blocks).to(tl.int64)
    t = tl.arange(0, L.BLOCK_T)
    d = program % blocks * L.WIDTH + tl.arange(0, L.WIDTH)
    of_words, _, of_gates, _ = written_gradients(gradients, b, sizes, L)
    dw = tl.full((L.BLOCK_T, L.WIDTH), 0, tl.float32)
    for start in range(0, L.M, L.WIDTH):
        m = start + tl.arange(0, L.WIDTH)
        part = load_matrix(of_words, t, m, T, L.M, 1, T)
        dw = product(part, load_matrix(weights.write_word, m, d, L.M, D, D, 1), dw, L)
        if L.G != 1:
            gate = load_matrix(of_gates, t, m, T, L.M, 1, T)
            dw = product(gate, load_matrix(weights.gate_word, m, d, L.M, D, D, 1), dw, L)
    if L.G == 1:
        dw += load_vector(of_gates, t, T)[:, None] * load_vector(weights.gate_word, d, D)[None, :]
    inside = (t[:, None] < T) & (d[None, :] < D)
    tl.store(grad_words + b * T * D + t[:, None] * D + d[None, :], rounded(dw, L.DTYPE), mask=inside)


@triton.jit
def mean_backward(program, weights, gradients, grad_image, sizes, L: tl.constexpr, BLOCK_N: tl.constexpr):
    """Adds dr / N to dh: a program for every chunk and block of channels, the images that were written last first."""
    T = sizes.T
    c_blocks: tl.constexpr = (L.C + L.BLOCK_C - 1) // L.BLOCK_C
    c = program % c_blocks * L.BLOCK_C + tl.arange(0, L.BLOCK_C)
    chunk = program // c_blocks
    b, first = locate(chunk, sizes)
    b = sizes.B - 1 - b
    _, of_image, of_gates, _ = written_gradients(gradients, b, sizes, L)
    t = tl.arange(0, L.BLOCK_T)
    dr = tl.full((L.BLOCK_C,), 0, tl.float32)
    for start in range(0, L.M, L.WIDTH):
        m = start + tl.arange(0, L.WIDTH)
        w_r = load_matrix(weights.write_image, m, c, L.M, L.C, L.C, 1).to(tl.float32)
        dr += tl.sum(load_vector(of_image, m, L.M)[:, None] * w_r, 0)
        if L.G != 1:
            gate = tl.sum(load_matrix(of_gates, m, t, L.M, T, T, 1), 1)
            dr += tl.sum(gate[:, None] * load_matrix(weights.gate_image, m, c, L.M, L.C, L.C, 1).to(tl.float32), 0)
    if L.G == 1:
        dr += tl.sum(load_vector(of_gates, t, T), 0) * load_vector(weights.gate_image, c, L.C)
    dr = dr / sizes.N
    for start in tl.range(first, tl.minimum(first + sizes.span, sizes.N), BLOCK_N, num_stages=3):
        dh = load_pixels(grad_image + b * sizes.stride_b, start, c, sizes, L, BLOCK_N).to(tl.float32)
        store_pixels(grad_image + b * sizes.stride_b, dh + dr[None, :], start, c, sizes, L, BLOCK_N)
