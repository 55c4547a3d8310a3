"""The forward pass: memory writing begins in `kv_memory_write`, the rest is `kv_memory_read`.

The letters are those of kvmem/reference.py. In every product the rows are positions or slots, and the columns slots or
channels. Where an image's channels fit into one block (TUNED), each program that reads an image computes k, v and u by
itself and holds them; more channels go block by block, and take two more launches before.
"""

import triton
import triton.language as tl

from kvmem.triton.arithmetic import (
    channels,
    column,
    load_matrix,
    load_mean,
    load_pixels,
    load_slots,
    load_vector,
    locate,
    memory_product,
    phi,
    product,
    product32,
    rounded,
    sigmoid,
    softmax,
    store_pixels,
    write_gate,
)
from kvmem.triton.tables import keys_of, load_keys, load_response, load_values, memory_size, with_gate


@triton.jit
def kv_memory_write(
    image, words, mask, weights, sums, memory, word_programs, sizes, L: tl.constexpr, BLOCK_N: tl.constexpr
):
    """What doesn't wait for the mean: φ(W_w w + b_w) and A w, and the sums of h (B, chunks, C) over the chunks."""
    if tl.program_id(0) < word_programs:
        write_words(tl.program_id(0), words, mask, weights, memory, sizes, L)
    else:
        sum_pixels(tl.program_id(0) - word_programs, image, sums, sizes, L, BLOCK_N)


@triton.jit
def write_words(program, words, mask, weights, memory, sizes, L: tl.constexpr):
    """A program for every block of M of an image."""
    T, D = sizes.T, sizes.D
    m_blocks: tl.constexpr = (L.M + L.WIDTH - 1) // L.WIDTH
    b = (program // m_blocks).to(tl.int64)
    m = program % m_blocks * L.WIDTH + tl.arange(0, L.WIDTH)
    t = tl.arange(0, L.BLOCK_T)
    slots = load_slots(mask, b, t, T)
    part = tl.full((L.BLOCK_T, L.WIDTH), 0, tl.float32)
    gate = tl.full((L.BLOCK_T, L.WIDTH if L.G != 1 else 1), 0, tl.float32)
    for start in range(0, D, L.WIDTH):
        d = start + tl.arange(0, L.WIDTH)
        # What stands in a slot that holds no word is never read.
        inside = slots[:, None] & (d[None, :] < D)
        w = tl.load(words + b * T * D + t[:, None] * D + d[None, :], mask=inside, other=0.0)
        part = memory_product(w, load_matrix(weights.write_word, d, m, D, L.M, 1, D), part, L)
        if L.G != 1:
            gate = memory_product(w, load_matrix(weights.gate_word, d, m, D, L.M, 1, D), gate, L)
        else:
            gate += tl.sum(w.to(tl.float32) * load_vector(weights.gate_word, d, D)[None, :], 1)[:, None]
    part = phi(part + load_vector(weights.write_word_bias, m, L.M)[None, :], L)
    memory += b * memory_size(sizes, L)
    tl.store(memory + m[None, :] * T + t[:, None], part, mask=(t[:, None] < T) & (m[None, :] < L.M))
    g = m if L.G != 1 else tl.full((1,), 0, tl.int32)
    # With a scalar gate all blocks write the same.
    tl.store(memory + (L.M + g[None, :]) * T + t[:, None], gate, mask=(t[:, None] < T) & (g[None, :] < L.G))


@triton.jit
def sum_pixels(program, image, sums, sizes, L: tl.constexpr, BLOCK_N: tl.constexpr):
    """A program for every chunk and block of channels of an image."""
    c_blocks: tl.constexpr = (L.C + L.BLOCK_C - 1) // L.BLOCK_C
    c = program % c_blocks * L.BLOCK_C + tl.arange(0, L.BLOCK_C)
    chunk = program // c_blocks
    b, first = locate(chunk, sizes)
    image += b * sizes.stride_b
    total = tl.full((BLOCK_N, L.BLOCK_C), 0, tl.float32)
    for start in tl.range(first, tl.minimum(first + sizes.span, sizes.N), BLOCK_N, num_stages=3):
        total += load_pixels(image, start, c, sizes, L, BLOCK_N).to(tl.float32)
    tl.store(sums + chunk.to(tl.int64) * L.C + c, tl.sum(total, 0), mask=c < L.C)


@triton.jit
def write_slots(weights, sums, memory, r, b, m, t, store, sizes, L: tl.constexpr):
    """m_t = g_t φ(W_w w_t + b_w) + (1 - g_t) φ(W_r r + b_r) (slots t, channels m); keeps r's part if told to."""
    T = sizes.T
    g = m if L.G != 1 else tl.full((1,), 0, tl.int32)
    part = load_vector(weights.write_image_bias, m, L.M)
    gate = tl.full(g.shape, 0, tl.float32)
    for start in range(0, channels(sizes, L), L.BLOCK_C):
        c = start + tl.arange(0, L.BLOCK_C)
        x = r if L.TUNED else load_mean(sums, b, c, sizes, L)
        part += tl.sum(load_matrix(weights.write_image, m, c, L.M, L.C, L.C, 1).to(tl.float32) * x[None, :], 1)
        gate += tl.sum(load_matrix(weights.gate_image, g, c, L.G, L.C, L.C, 1).to(tl.float32) * x[None, :], 1)
    part = phi(part, L)
    of_image = memory + (L.M + L.G) * T
    if store:
        tl.store(of_image + g, gate, mask=g < L.G)
        tl.store(of_image + L.G + m, part, mask=m < L.M)
    gate = write_gate(load_matrix(memory + L.M * T, t, g, T, L.G, 1, T) + gate[None, :], L)
    return gate * load_matrix(memory, t, m, T, L.M, 1, T) + (1 - gate) * part[None, :]


@triton.jit
def keys_and_values(weights, sums, memory, mean, b, c, store, sizes, L: tl.constexpr):
    """k_t = φ(K m_t + b_k) and v_t = φ(V m_t + b_v) (slots, channels c); keeps them and r if told to store."""
    T = sizes.T
    t = tl.arange(0, L.BLOCK_T)
    r = load_mean(sums, b, c, sizes, L)
    k = tl.full((L.BLOCK_T, L.BLOCK_C), 0, tl.float32)
    v = tl.full((L.BLOCK_T, L.BLOCK_C), 0, tl.float32)
    for start in range(0, L.M, L.STEP_M):
        m = start + tl.arange(0, L.STEP_M)
        slots = write_slots(weights, sums, memory, r, b, m, t, store, sizes, L)
        k = product32(slots, load_matrix(weights.key, m, c, L.M, L.C, 1, L.M), k, L)
        v = product32(slots, load_matrix(weights.value, m, c, L.M, L.C, 1, L.M), v, L)
    k = phi(k + load_vector(weights.key_bias, c, L.C)[None, :], L)
    v = phi(v + load_vector(weights.value_bias, c, L.C)[None, :], L)
    if store:
        at = keys_of(memory, sizes, L) + c[None, :] * T + t[:, None]
        inside = (t[:, None] < T) & (c[None, :] < L.C)
        tl.store(at, k, mask=inside)
        tl.store(at + L.C * T, v, mask=inside)
        tl.store(mean + b * L.C + c, r, mask=c < L.C)
    return k, v


@triton.jit
def kv_memory_tables(weights, sums, memory, mean, sizes, L: tl.constexpr):
    """k and v where one block doesn't hold the channels: a program for every block of an image."""
    c_blocks: tl.constexpr = (L.C + L.BLOCK_C - 1) // L.BLOCK_C
    b = (tl.program_id(0) // c_blocks).to(tl.int64)
    c = tl.program_id(0) % c_blocks * L.BLOCK_C + tl.arange(0, L.BLOCK_C)
    keys_and_values(weights, sums, memory + b * memory_size(sizes, L), mean, b, c, True, sizes, L)


@triton.jit
def response_of(v, c, i, total, weights, L: tl.constexpr):
    """total + the part of u = W_g v (slots, gates i) that the channels c of v give."""
    if L.R == 1:
        return total + tl.sum(v * load_vector(weights.response_gate + L.C, c, L.C)[None, :], 1)[:, None]
    return product32(v, load_matrix(weights.response_gate + L.C, c, i, L.C, L.C, 1, 2 * L.C), total, L)


@triton.jit
def kv_memory_response(weights, memory, sizes, L: tl.constexpr):
    """u where one block doesn't hold the channels: a program for every WIDTH gates of an image."""
    T = sizes.T
    GATES: tl.constexpr = 1 if L.R == 1 else L.WIDTH
    blocks: tl.constexpr = (L.R + GATES - 1) // GATES
    values = keys_of(memory + (tl.program_id(0) // blocks).to(tl.int64) * memory_size(sizes, L), sizes, L) + L.C * T
    i = tl.program_id(0) % blocks * GATES + tl.arange(0, GATES)
    t = tl.arange(0, L.BLOCK_T)
    u = tl.full((L.BLOCK_T, GATES), 0, tl.float32)
    for start in range(0, sizes.C, L.WIDTH):
        c = start + tl.arange(0, L.WIDTH)
        u = response_of(load_matrix(values, t, c, T, L.C, 1, T), c, i, u, weights, L)
    tl.store(values + (L.C + i[None, :]) * T + t[:, None], u, mask=(t[:, None] < T) & (i[None, :] < L.R))


@triton.jit
def kv_memory_take(keys, values, mask, weights, memory, sizes, L: tl.constexpr):
    """k and v that are given (B, T, C) into memory, and u where one block holds the channels: as `kv_memory_tables`.

    What stands in a slot that holds nothing is never read.
    """
    T = sizes.T
    c_blocks: tl.constexpr = (L.C + L.BLOCK_C - 1) // L.BLOCK_C
    b = (tl.program_id(0) // c_blocks).to(tl.int64)
    c = tl.program_id(0) % c_blocks * L.BLOCK_C + tl.arange(0, L.BLOCK_C)
    t = tl.arange(0, L.BLOCK_T)
    held = load_slots(mask, b, t, T)[:, None] & (c[None, :] < L.C)
    from_given = (b * T + t[:, None]) * L.C + c[None, :]
    memory += b * memory_size(sizes, L)
    at = keys_of(memory, sizes, L) + c[None, :] * T + t[:, None]
    inside = (t[:, None] < T) & (c[None, :] < L.C)
    v = tl.load(values + from_given, mask=held, other=0.0).to(tl.float32)
    tl.store(at, tl.load(keys + from_given, mask=held, other=0.0).to(tl.float32), mask=inside)
    tl.store(at + L.C * T, v, mask=inside)
    if L.TUNED and L.R > 0:
        i = tl.full((1,), 0, tl.int32) if L.R == 1 else c
        u = response_of(v, c, i, tl.full((L.BLOCK_T, 1 if L.R == 1 else L.BLOCK_C), 0, tl.float32), weights, L)
        at = keys_of(memory, sizes, L) + (2 * L.C + i[None, :]) * T + t[:, None]
        tl.store(at, u, mask=(t[:, None] < T) & (i[None, :] < L.R))


@triton.jit
def addressing(image, h, k, memory, start, slots, weights, sizes, L: tl.constexpr, BLOCK_N: tl.constexpr):
    """α (positions, slots), and the image's part of a scalar response gate before σ (positions)."""
    s = tl.full((BLOCK_N, L.BLOCK_T), 0, tl.float32)
    z = tl.full((BLOCK_N,), 0, tl.float32)
    for block in range(0, channels(sizes, L), L.BLOCK_C):
        c = block + tl.arange(0, L.BLOCK_C)
        x = h if L.TUNED else load_pixels(image, start, c, sizes, L, BLOCK_N)
        s = product(x, tl.trans(k if L.TUNED else load_keys(memory, c, weights, sizes, L)), s, L)
        if L.R == 1 and not L.GATE_IS_KEY:
            z += tl.sum(x.to(tl.float32) * load_vector(weights.response_gate, c, L.C)[None, :], 1)
    if L.GATE_IS_KEY:
        z = column(s, tl.arange(0, L.BLOCK_T), sizes.T)
    return softmax(s, slots), z


@triton.jit
def vector_gate(image, h, start, alpha, u, i, weights, sizes, L: tl.constexpr, BLOCK_N: tl.constexpr):
    """γ (positions, gates i); h is read where one block doesn't hold it."""
    z = product(alpha, u, tl.full((BLOCK_N, L.BLOCK_C), 0, tl.float32), L)
    for other in range(0, channels(sizes, L), L.BLOCK_C):
        c = other + tl.arange(0, L.BLOCK_C)
        x = h if L.TUNED else load_pixels(image, start, c, sizes, L, BLOCK_N)
        z = product(x, load_matrix(weights.response_gate, c, i, L.C, L.C, 1, 2 * L.C), z, L)
    return sigmoid(z + load_vector(weights.response_gate_bias, i, L.C)[None, :])


@triton.jit
def tables(weights, sums, memory, mean, b, store, sizes, L: tl.constexpr):
    """k, v and u of an image whose channels fit into one block, as the products take them; kept if told to store."""
    c, t = tl.arange(0, L.BLOCK_C), tl.arange(0, L.BLOCK_T)
    i = tl.full((1,), 0, tl.int32) if L.R == 1 else c
    k, v = keys_and_values(weights, sums, memory, mean, b, c, store, sizes, L)
    u = response_of(v, c, i, tl.full((L.BLOCK_T, 1 if L.R == 1 else L.BLOCK_C), 0, tl.float32), weights, L)
    if store:
        at = keys_of(memory, sizes, L) + (2 * L.C + i[None, :]) * sizes.T + t[:, None]
        tl.store(at, u, mask=(t[:, None] < sizes.T) & (i[None, :] < L.R))
    return with_gate(k, c, weights, sizes, L), rounded(v, L.DTYPE), u


@triton.jit
def kept_tables(memory, weights, sizes, L: tl.constexpr):
    """As `tables`, of a memory that is given, which `kv_memory_take` has put into its place."""
    c = tl.arange(0, L.BLOCK_C)
    i = tl.full((1,), 0, tl.int32) if L.R <= 1 else c
    return load_keys(memory, c, weights, sizes, L), load_values(memory, c, sizes, L), load_response(memory, i, sizes, L)


@triton.jit
def kv_memory_read(
    image, mask, weights, sums, memory, mean, out, attention, sizes, L: tl.constexpr, BLOCK_N: tl.constexpr
):
    """α, o, γ and the response: a program for every chunk of an image, the images in reverse.

    The last ones were read last by `kv_memory_write`, and may still be in the cache.
    """
    N, T = sizes.N, sizes.T
    b, first = locate(tl.program_id(0), sizes)
    b = sizes.B - 1 - b
    image += b * sizes.stride_b
    out += b * sizes.stride_b
    memory += b * memory_size(sizes, L)
    t = tl.arange(0, L.BLOCK_T)
    slots = load_slots(mask, b, t, T)
    if L.TUNED:
        if L.M == 0:
            k, v, u = kept_tables(memory, weights, sizes, L)
        else:
            k, v, u = tables(weights, sums, memory, mean, b, first == 0, sizes, L)
    else:
        k, v = 0, 0  # read block by block
        u = load_response(memory, tl.full((1,), 0, tl.int32), sizes, L)
    for start in range(first, tl.minimum(first + sizes.span, N), BLOCK_N):
        h = load_pixels(image, start, tl.arange(0, L.BLOCK_C), sizes, L, BLOCK_N)
        alpha, z = addressing(image, h, k, memory, start, slots, weights, sizes, L, BLOCK_N)
        if attention is not None:
            n = start + tl.arange(0, BLOCK_N)
            inside = (n[:, None] < N) & (t[None, :] < T)
            tl.store(attention + (b * T + t[None, :]) * N + n[:, None], rounded(alpha, L.DTYPE), mask=inside)
        if L.R == 1:
            bias = tl.load(weights.response_gate_bias).to(tl.float32)
            gamma = sigmoid(z + tl.sum(alpha * tl.sum(u, 1)[None, :], 1) + bias)[:, None]
        for block in range(0, channels(sizes, L), L.BLOCK_C):
            c = block + tl.arange(0, L.BLOCK_C)
            x = h if L.TUNED else load_pixels(image, start, c, sizes, L, BLOCK_N)
            o = tl.full((BLOCK_N, L.BLOCK_C), 0, tl.float32)
            o = product(alpha, v if L.TUNED else load_values(memory, c, sizes, L), o, L)
            if L.R == 0:
                store_pixels(out, o, start, c, sizes, L, BLOCK_N)
            else:
                if L.R != 1:
                    w_o = u if L.TUNED else load_response(memory, c, sizes, L)
                    gamma = vector_gate(image, h, start, alpha, w_o, c, weights, sizes, L, BLOCK_N)
                x = x.to(tl.float32)
                store_pixels(out, x + gamma * (o - x), start, c, sizes, L, BLOCK_N)
