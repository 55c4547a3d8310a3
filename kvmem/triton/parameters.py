"""The backward pass from the sums over positions on: k, v, u and m, then words, parameters and the mean's part of dh.

The letters are those of kvmem/reference.py. `kv_memory_write_backward` has a program for some rows of every image's
memory, `kv_memory_parameters_backward` one for every block of every result. A memory that is given ends at k and v: the
two kernels named after it.
"""

import triton
import triton.language as tl

from kvmem.triton.arithmetic import (
    channels,
    load_matrix,
    load_pixels,
    load_slots,
    load_vector,
    locate,
    memory_product,
    product32,
    store_pixels,
    store_rounded,
    through_phi,
    write_gate,
)
from kvmem.triton.tables import gradients_size, keys_of, memory_size, store_sums, sums_size, written_gradients

BLOCK = tl.constexpr(64)  # rows and columns of a block of a parameter's gradient
BLOCK_K = tl.constexpr(32)  # slots, of all images, that are added to it at once
ADDED = tl.constexpr(512)  # numbers of the response gate that a program adds up


@triton.jit
def rows_of_program(program, blocks: tl.constexpr, L: tl.constexpr):
    """The image of a program, and its ROWS of that image's, of so many blocks."""
    return (program // blocks).to(tl.int64), program % blocks * L.ROWS + tl.arange(0, L.ROWS)


@triton.jit
def kv_memory_tables_backward(weights, memory, sums, gradients, sum_chunks, sizes, L: tl.constexpr):
    """dk and dv before φ where one block doesn't hold the channels: a program for every ROWS of them of an image.

    Further programs add up the chunks' sums of the response gate.
    """
    blocks: tl.constexpr = (L.C + L.ROWS - 1) // L.ROWS
    program = tl.program_id(0)
    if program < sizes.B * blocks:
        b, c = rows_of_program(program, blocks, L)
        dk, dv = keys_and_values_backward(weights, memory, sums, b, c, sum_chunks, sizes, L)
        store_sums(gradients + b * gradients_size(sizes, L), tl.trans(dk), tl.trans(dv), c, sizes, L)
    else:
        add_chunks_of_gates(program - sizes.B * blocks, sums, gradients, sum_chunks, sizes, L)


@triton.jit
def kv_memory_write_backward(weights, memory, sums, gradients, sizes, L: tl.constexpr):
    """The gradients of what lies before φ and σ of memory writing: a program for every ROWS of m of an image.

    Where one block holds the channels, each of them begins with dk and dv, which the first of an image keeps, and
    further programs add up the chunks' sums of the response gate: as `kv_memory_tables_backward`.
    """
    blocks: tl.constexpr = (L.M + L.ROWS - 1) // L.ROWS
    program = tl.program_id(0)
    if program < sizes.B * blocks:
        write_rows_backward(
            (program // blocks).to(tl.int64), program % blocks, weights, memory, sums, gradients, sizes, L
        )
    elif L.TUNED:
        add_chunks_of_gates(program - sizes.B * blocks, sums, gradients, sizes.chunks, sizes, L)


@triton.jit
def write_rows_backward(b, block, weights, memory, sums, gradients, sizes, L: tl.constexpr):
    """The block of ROWS of m of image b."""
    T = sizes.T
    STEP: tl.constexpr = L.ROWS if L.TUNED else L.WIDTH
    of_words, of_image, of_gates, of_memory = written_gradients(gradients, b, sizes, L)
    gradients += b * gradients_size(sizes, L)
    t = tl.arange(0, L.BLOCK_T)
    m = block * L.ROWS + tl.arange(0, L.ROWS)
    g = m if L.G != 1 else tl.full((1,), 0, tl.int32)
    dm = tl.full((L.BLOCK_T, L.ROWS), 0, tl.float32)
    for start in range(0, channels(sizes, L), STEP):
        c = start + tl.arange(0, STEP)
        if L.TUNED:
            dk, dv = keys_and_values_backward(weights, memory, sums, b, c, sizes.chunks, sizes, L)
            if block == 0:
                store_sums(gradients, tl.trans(dk), tl.trans(dv), c, sizes, L)
        else:
            dk = load_matrix(gradients, t, c, T, L.C, 1, T)
            dv = load_matrix(gradients + L.C * T, t, c, T, L.C, 1, T)
        dm = product32(dk, load_matrix(weights.key, c, m, L.C, L.M, L.M, 1), dm, L)
        dm = product32(dv, load_matrix(weights.value, c, m, L.C, L.M, L.M, 1), dm, L)
    memory += b * memory_size(sizes, L)
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
        tl.store(of_gates + block * T + t, tl.sum(dg, 1), mask=t < T)
    else:
        tl.store(of_gates + at, dg, mask=inside)


@triton.jit
def add_chunks_of_gates(program, sums, gradients, sum_chunks, sizes, L: tl.constexpr):
    """What needs no more than that: Σ dz h (R, C), Σ α dz (R, T), Σ dz (R). A program for every ADDED of an image's."""
    if L.R != 0:
        end = sums_size(sizes, L)
        first = 2 * L.C * sizes.T
        programs = tl.cdiv(end - first, ADDED)
        b = (program // programs).to(tl.int64)
        sums += b * sum_chunks * end
        x = first + program % programs * ADDED + tl.arange(0, ADDED)
        total = tl.full((ADDED,), 0, tl.float32)
        for chunk in tl.range(0, sum_chunks, loop_unroll_factor=4):
            total += load_vector(sums + chunk * end, x, end)
        tl.store(gradients + b * gradients_size(sizes, L) + x, total, mask=x < end)


@triton.jit
def keys_and_values_backward(weights, memory, sums, b, c, sum_chunks, sizes, L: tl.constexpr):
    """dk and dv (slots, channels c) before φ of image b. v is also what the response gate's u = W_g v is made of."""
    T = sizes.T
    size = sums_size(sizes, L)
    sums += b * sum_chunks * size
    memory += b * memory_size(sizes, L)
    response = sums + 2 * L.C * T + L.R * L.C
    t = tl.arange(0, L.BLOCK_T)
    dk = tl.full((L.BLOCK_T, c.shape[0]), 0, tl.float32)
    dv = tl.full((L.BLOCK_T, c.shape[0]), 0, tl.float32)
    du = tl.full((L.BLOCK_T,), 0, tl.float32)
    for chunk in tl.range(0, sum_chunks, loop_unroll_factor=4):
        dk += load_matrix(sums + chunk * size, t, c, T, L.C, 1, T)
        dv += load_matrix(sums + chunk * size + L.C * T, t, c, T, L.C, 1, T)
        if L.R == 1:
            du += load_vector(response + chunk * size, t, T)
    if L.R == 1:
        dv += du[:, None] * load_vector(weights.response_gate + L.C, c, L.C)[None, :]
    elif L.R > 1:
        for start in range(0, sizes.C, L.WIDTH):
            i = start + tl.arange(0, L.WIDTH)
            du_i = tl.full((L.BLOCK_T, L.WIDTH), 0, tl.float32)
            for chunk in tl.range(0, sum_chunks, loop_unroll_factor=4):
                du_i += load_matrix(response + chunk * size, t, i, T, L.C, 1, T)
            dv = product32(du_i, load_matrix(weights.response_gate + L.C, i, c, L.C, L.C, 2 * L.C, 1), dv, L)
    k = load_matrix(keys_of(memory, sizes, L), t, c, T, L.C, 1, T)
    v = load_matrix(keys_of(memory, sizes, L) + L.C * T, t, c, T, L.C, 1, T)
    return through_phi(dk, k, L), through_phi(dv, v, L)


@triton.jit
def kv_memory_parameters_backward(
    words, mask, weights, memory, mean, gradients, grad_image, grad_words, grads, programs, sizes, L: tl.constexpr,
    BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Adds the mean's part to dh; the gradients of words and parameters that are there (not None)."""
    T, D = sizes.T, sizes.D
    C: tl.constexpr = L.C
    M: tl.constexpr = L.M
    PARTS: tl.constexpr = L.GATE_ROWS if L.G == 1 else 1
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
        outer_sum(x, grads.gate_word, None, D, of_gates, T, words, T * D, D, 1, mask, L.G, D, sizes, L, PARTS)
    x -= programs.gate_word
    if (x >= 0) & (x < programs.gate_image):
        outer_sum(x, grads.gate_image, None, C, of_gates, T, mean, C, 0, 1, None, L.G, C, sizes, L, PARTS)
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
def kv_memory_given_backward(
    weights, memory, sums, gradients, grad_keys, grad_values, sum_chunks, sizes, L: tl.constexpr
):
    """The gradients (B, T, C) of keys and values that are there (not None): programs as `kv_memory_tables_backward`."""
    T = sizes.T
    blocks: tl.constexpr = (L.C + L.ROWS - 1) // L.ROWS
    program = tl.program_id(0)
    if program < sizes.B * blocks:
        b, c = rows_of_program(program, blocks, L)
        dk, dv = keys_and_values_backward(weights, memory, sums, b, c, sum_chunks, sizes, L)
        t = tl.arange(0, L.BLOCK_T)
        at = (b * T + t[:, None]) * L.C + c[None, :]
        inside = (t[:, None] < T) & (c[None, :] < L.C)
        if grad_keys is not None:
            store_rounded(grad_keys + at, dk, inside)
        if grad_values is not None:
            store_rounded(grad_values + at, dv, inside)
    else:
        add_chunks_of_gates(program - sizes.B * blocks, sums, gradients, sum_chunks, sizes, L)


@triton.jit
def kv_memory_given_gate_backward(memory, gradients, grads, programs, sizes, L: tl.constexpr):
    """The gradients of a response gate over a memory that is given: a program for every block of each."""
    response_gate_backward(tl.program_id(0), memory, gradients, grads, programs, sizes, L)


@triton.jit
def outer_sum(
    program, out, bias, out_stride, a, slots, b, b_image, b_slot, b_column, mask, rows, columns, sizes, L: tl.constexpr,
    PARTS: tl.constexpr = 1,
):  # fmt: skip
    """A block of out (rows, columns) = Σ a_t b_tᵀ over the slots of all images, and of bias (rows) = Σ a_t.

    a: (rows, slots) in every image's gradients, or a row in PARTS that add up to it. b: strides to the next image, slot
    and column; not read in a slot that mask says holds no word.
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
        for part in range(1, PARTS):
            a_t += tl.load(at + part * slots, mask=inside, other=0.0)
        inside = held[:, None] & (j[None, :] < columns)
        at = b + image[:, None] * b_image + t[:, None] * b_slot + j[None, :] * b_column
        total = memory_product(a_t, tl.load(at, mask=inside, other=0.0), total, L)
        row_total += tl.sum(a_t, 1)
    if out is not None:
        inside = (i[:, None] < rows) & (j[None, :] < columns)
        store_rounded(out + i[:, None] * out_stride + j[None, :], total, inside)
    if bias is not None:
        if program % blocks == 0:
            store_rounded(bias + i, row_total, i < rows)


@triton.jit
def sum_images(program, out, out_stride, x, rows, columns, sizes, L: tl.constexpr):
    """A block of out (rows, columns) = Σ x over the images' gradients."""
    blocks = tl.cdiv(columns, BLOCK)
    i = program // blocks * BLOCK + tl.arange(0, BLOCK)
    j = program % blocks * BLOCK + tl.arange(0, BLOCK)
    total = tl.full((BLOCK, BLOCK), 0, tl.float32)
    for b in range(0, sizes.B):
        total += load_matrix(x + tl.cast(b, tl.int64) * gradients_size(sizes, L), i, j, rows, columns, columns, 1)
    inside = (i[:, None] < rows) & (j[None, :] < columns)
    store_rounded(out + i[:, None] * out_stride + j[None, :], total, inside)


@triton.jit
def load_scalar_gate(of_gates, t, T, L: tl.constexpr):
    """dg (slots t) of a scalar write gate, of the parts that add up to it."""
    total = load_vector(of_gates, t, T)
    for part in range(1, L.GATE_ROWS):
        total += load_vector(of_gates + part * T, t, T)
    return total


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
        dw = memory_product(part, load_matrix(weights.write_word, m, d, L.M, D, D, 1), dw, L)
        if L.G != 1:
            gate = load_matrix(of_gates, t, m, T, L.M, 1, T)
            dw = memory_product(gate, load_matrix(weights.gate_word, m, d, L.M, D, D, 1), dw, L)
    if L.G == 1:
        dw += load_scalar_gate(of_gates, t, T, L)[:, None] * load_vector(weights.gate_word, d, D)[None, :]
    inside = (t[:, None] < T) & (d[None, :] < D)
    store_rounded(grad_words + b * T * D + t[:, None] * D + d[None, :], dw, inside)


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
        dr += tl.sum(load_scalar_gate(of_gates, t, T, L), 0) * load_vector(weights.gate_image, c, L.C)
    dr = dr / sizes.N
    for start in tl.range(first, tl.minimum(first + sizes.span, sizes.N), BLOCK_N, num_stages=3):
        dh = load_pixels(grad_image + b * sizes.stride_b, start, c, sizes, L, BLOCK_N).to(tl.float32)
        store_pixels(grad_image + b * sizes.stride_b, dh + dr[None, :], start, c, sizes, L, BLOCK_N)
