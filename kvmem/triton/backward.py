"""The backward pass: `kv_memory_read_backward` over the positions, `kv_memory_write_backward` over the slots.

The letters are those of kvmem/reference.py; a gradient is called d and the letter. Images of one block of channels are
TUNED, as in forward.py; of more, each program takes one block of dh and of the sums over positions, and reads the
others for the scores.
"""

import triton
import triton.language as tl

from kvmem.triton.arithmetic import (
    channels,
    column,
    load_matrix,
    load_pixels,
    load_slots,
    load_vector,
    pixels,
    product,
    product32,
    rounded,
    sigmoid,
    through_phi,
    write_gate,
)
from kvmem.triton.forward import addressing, vector_gate
from kvmem.triton.tables import (
    gradients_size,
    keys_of,
    load_keys,
    load_response,
    load_values,
    memory_size,
    sums_size,
    written_gradients,
)


@triton.jit
def through_values(image, grad_out, memory, h, dout, v, start, sizes, L: tl.constexpr, BLOCK_N: tl.constexpr):
    """p = dout v (positions, slots) and q = dout h (positions): what a scalar response gate needs of the channels."""
    p = tl.full((BLOCK_N, L.BLOCK_T), 0, tl.float32)
    q = tl.full((BLOCK_N,), 0, tl.float32)
    for block in range(0, channels(sizes, L), L.BLOCK_C):
        c = block + tl.arange(0, L.BLOCK_C)
        x = h if L.TUNED else load_pixels(image, start, c, sizes, L, BLOCK_N)
        dx = dout if L.TUNED else load_pixels(grad_out, start, c, sizes, L, BLOCK_N)
        p = product(dx, tl.trans(v if L.TUNED else load_values(memory, c, sizes, L)), p, L)
        q += tl.sum(x.to(tl.float32) * dx.to(tl.float32), 1)
    return p, q


@triton.jit
def through_vector_gate(
    image, grad_out, memory, h, dout, v, u, alpha, start, i, weights, sizes, L: tl.constexpr, BLOCK_N: tl.constexpr
):
    """γ and dz (positions, gates i), with what they were made of: dout, v and u of these channels."""
    x, dx, v_i, u_i = h, dout, v, u
    if not L.TUNED:
        x = load_pixels(image, start, i, sizes, L, BLOCK_N)
        dx = load_pixels(grad_out, start, i, sizes, L, BLOCK_N)
        v_i = load_values(memory, i, sizes, L)
        u_i = rounded(load_response(memory, i, sizes, L), L.DTYPE)
    o = product(alpha, v_i, tl.full((BLOCK_N, L.BLOCK_C), 0, tl.float32), L)
    gamma = vector_gate(image, x, start, alpha, u_i, i, weights, sizes, L, BLOCK_N)
    dx = dx.to(tl.float32)
    return gamma, gamma * (1 - gamma) * dx * (o - x.to(tl.float32)), dx, v_i, u_i


@triton.jit
def store_slots(at, x, c, T, L: tl.constexpr):
    """x (channels c, slots) into a matrix (C, T)."""
    t = tl.arange(0, L.BLOCK_T)
    tl.store(at + c[:, None] * T + t[None, :], x, mask=(c[:, None] < L.C) & (t[None, :] < T))


@triton.jit
def kv_memory_read_backward(
    image, mask, weights, memory, grad_out, grad_attention, grad_image, sums, sizes, L: tl.constexpr,
    BLOCK_N: tl.constexpr,
):  # fmt: skip
    """dh but for the mean's part, and the sums over positions: a program for every chunk and block j of channels.

    A vector gate of more than one block has a program for every pair of blocks: those of i = 0 do the same as above,
    and each does its block of Σ dz_i h_j.
    """
    N, T = sizes.N, sizes.T
    c_blocks: tl.constexpr = (L.C + L.BLOCK_C - 1) // L.BLOCK_C
    pairs: tl.constexpr = c_blocks if L.R == 1 else c_blocks * c_blocks
    chunk = tl.program_id(0) // pairs
    i_block = 0 if L.TUNED or L.R == 1 else tl.program_id(0) % pairs // c_blocks
    j_block = 0 if L.TUNED else tl.program_id(0) % c_blocks
    b = (chunk // sizes.chunks).to(tl.int64)
    first = (chunk % sizes.chunks).to(tl.int64) * sizes.span
    image += b * sizes.stride_b
    grad_out += b * sizes.stride_b
    memory += b * memory_size(sizes, L)
    t = tl.arange(0, L.BLOCK_T)
    c = j_block * L.BLOCK_C + tl.arange(0, L.BLOCK_C)
    i = i_block * L.BLOCK_C + tl.arange(0, L.BLOCK_C)
    slots = load_slots(mask, b, t, T)
    k = load_keys(memory, c, weights, sizes, L)
    v = load_values(memory, c, sizes, L)
    dk = tl.full((L.BLOCK_C, L.BLOCK_T), 0, tl.float32)
    dv = tl.full((L.BLOCK_C, L.BLOCK_T), 0, tl.float32)
    if L.R == 1:
        u = tl.sum(load_response(memory, tl.full((1,), 0, tl.int32), sizes, L), 1)
        bias = tl.load(weights.response_gate_bias).to(tl.float32)
        w_h = load_vector(weights.response_gate, c, L.C)
        dw = tl.full((L.BLOCK_C,), 0, tl.float32)
        # Summed up over the positions at the end.
        du = tl.full((BLOCK_N, L.BLOCK_T), 0, tl.float32)
        db = tl.full((BLOCK_N,), 0, tl.float32)
    else:
        u = rounded(load_response(memory, c, sizes, L), L.DTYPE)
        dw = tl.full((L.BLOCK_C, L.BLOCK_C), 0, tl.float32)
        du = tl.full((L.BLOCK_C, L.BLOCK_T), 0, tl.float32)
        db = tl.full((BLOCK_N, L.BLOCK_C), 0, tl.float32)
    for start in range(first, tl.minimum(first + sizes.span, N), BLOCK_N):
        h = load_pixels(image, start, c, sizes, L, BLOCK_N)
        dout = load_pixels(grad_out, start, c, sizes, L, BLOCK_N)
        alpha, z = addressing(image, h, k, memory, start, slots, weights, sizes, L, BLOCK_N)
        dalpha = tl.full((BLOCK_N, L.BLOCK_T), 0, tl.float32)
        dh = tl.full((BLOCK_N, L.BLOCK_C), 0, tl.float32)
        if L.R == 1:
            p, q = through_values(image, grad_out, memory, h, dout, v, start, sizes, L, BLOCK_N)
            gamma = sigmoid(z + tl.sum(alpha * u[None, :], 1) + bias)
            dz = gamma * (1 - gamma) * (tl.sum(alpha * p, 1) - q)
            dalpha = gamma[:, None] * p + dz[:, None] * u[None, :]
            du += alpha * dz[:, None]
            db += dz
            dx, gamma = dout.to(tl.float32), gamma[:, None]
        else:
            gamma, dz, dx = dh, dh, dh
            if i_block == 0:
                for block in range(0, channels(sizes, L), L.BLOCK_C):
                    x = block + tl.arange(0, L.BLOCK_C)
                    gamma, dz, dx, v_x, u_x = through_vector_gate(
                        image, grad_out, memory, h, dout, v, u, alpha, start, x, weights, sizes, L, BLOCK_N
                    )
                    dalpha = product(gamma * dx, tl.trans(v_x), dalpha, L)
                    dalpha = product(dz, tl.trans(u_x), dalpha, L)
                    w_h = load_matrix(weights.response_gate, x, c, L.C, L.C, 2 * L.C, 1)
                    dh = product(dz, w_h, dh, L)
            if not L.TUNED:
                _, dz, _, _, _ = through_vector_gate(
                    image, grad_out, memory, h, dout, v, u, alpha, start, i, weights, sizes, L, BLOCK_N
                )
                gamma, _, dx, _, _ = through_vector_gate(
                    image, grad_out, memory, h, dout, v, u, alpha, start, c, weights, sizes, L, BLOCK_N
                )
        if grad_attention is not None:
            n = start + tl.arange(0, BLOCK_N)
            inside = (n[:, None] < N) & (t[None, :] < T)
            at = grad_attention + (b * T + t[None, :]) * N + n[:, None]
            dalpha += tl.load(at, mask=inside, other=0.0).to(tl.float32)
        ds = alpha * (dalpha - tl.sum(alpha * dalpha, 1)[:, None])
        if L.GATE_IS_KEY:
            ds = tl.where(t[None, :] == T, dz[:, None], ds)
        elif L.R == 1:
            dh += dz[:, None] * w_h[None, :]
            dw += tl.sum(dz[:, None] * h.to(tl.float32), 0)
        if grad_image is not None:
            dh = product(ds, k, dh, L) + (1 - gamma) * dx
            offsets, inside = pixels(start, c, sizes, L, BLOCK_N)
            if i_block == 0:
                tl.store(grad_image + b * sizes.stride_b + offsets, rounded(dh, L.DTYPE), mask=inside)
        if L.DTYPE == tl.float32 and L.TUNED:
            # Its halves of h and dout together would not fit into the registers.
            h = load_pixels(image, start, c, sizes, L, BLOCK_N)
            dout = load_pixels(grad_out, start, c, sizes, L, BLOCK_N)
        dk = product(tl.trans(h), ds, dk, L)
        if L.R == 1:
            dv = product(tl.trans(dout), alpha * gamma, dv, L)
        else:
            dv = product(tl.trans(gamma * dx), alpha, dv, L)
            dw = product(tl.trans(dz), h, dw, L)
            du = product(tl.trans(dz), alpha, du, L)
            db += dz
    sums += chunk.to(tl.int64) * sums_size(sizes, L)
    of_gates = sums + 2 * L.C * T
    if i_block == 0:
        store_slots(sums, dk, c, T, L)
        store_slots(sums + L.C * T, dv, c, T, L)
    if L.R == 1:
        tl.store(of_gates + c, column(dk, t, T) if L.GATE_IS_KEY else dw, mask=c < L.C)
        if j_block == 0:
            tl.store(of_gates + L.C + t, tl.sum(du, 0), mask=t < T)
            tl.store(of_gates + L.C + T, tl.sum(db, 0))
    else:
        tl.store(of_gates + i[:, None] * L.C + c[None, :], dw, mask=(i[:, None] < L.C) & (c[None, :] < L.C))
        if j_block == 0:
            store_slots(of_gates + L.R * L.C, du, i, T, L)
            tl.store(of_gates + L.R * (L.C + T) + i, tl.sum(db, 0), mask=i < L.C)


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
    else:
        for start in range(0, sizes.C, L.WIDTH):
            i = start + tl.arange(0, L.WIDTH)
            du = load_matrix(response, t, i, T, L.C, 1, T)
            dv = product32(du, load_matrix(weights.response_gate + L.C, i, c, L.C, L.C, 2 * L.C, 1), dv, L)
    k = load_matrix(keys_of(memory, sizes, L), t, c, T, L.C, 1, T)
    v = load_matrix(keys_of(memory, sizes, L) + L.C * T, t, c, T, L.C, 1, T)
    store_slots(gradients, tl.trans(through_phi(dk, k, L)), c, T, L)
    store_slots(gradients + L.C * T, tl.trans(through_phi(dv, v, L)), c, T, L)
