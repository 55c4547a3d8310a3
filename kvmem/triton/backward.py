"""The backward pass over the positions: dh but for the mean's part, and the sums that k, v, u and W_g take from them.

The letters are those of kvmem/reference.py; a gradient is called d and the letter. Images of one block of channels are
TUNED, as in forward.py, and take `kv_memory_read_backward`. Of more, `kv_memory_blocks_backward` goes over the blocks
and leaves what `kv_memory_sums_backward` makes the sums of.
"""

import triton
import triton.language as tl

from kvmem.triton.arithmetic import (
    column,
    load_matrix,
    load_pixels,
    load_slots,
    load_vector,
    locate,
    product,
    rounded,
    sigmoid,
    store_pixels,
)
from kvmem.triton.forward import addressing, vector_gate
from kvmem.triton.tables import (
    load_keys,
    load_response,
    load_values,
    memory_size,
    store_scalar_gate,
    store_scalar_response,
    store_sums,
    store_vector_gate,
    store_vector_response,
    sums_size,
)


@triton.jit
def scalar_gate_backward(alpha, z, p, q, u, weights, L: tl.constexpr):
    """dα (positions, slots) through o and u, γ and dz (positions), from p = dout v and q = dout h.

    Without a gate γ is 1.
    """
    if L.R == 0:
        dalpha = p
        gamma = tl.full(q.shape, 1, tl.float32)
        dz = tl.full(q.shape, 0, tl.float32)
    else:
        gamma = sigmoid(z + tl.sum(alpha * u[None, :], 1) + tl.load(weights.response_gate_bias).to(tl.float32))
        dz = gamma * (1 - gamma) * (tl.sum(alpha * p, 1) - q)
        dalpha = gamma[:, None] * p + dz[:, None] * u[None, :]
    return dalpha, gamma, dz


@triton.jit
def vector_gate_backward(
    image, h, dout, v, u, alpha, dalpha, start, i, weights, sizes, L: tl.constexpr, BLOCK_N: tl.constexpr
):
    """Adds to dα (positions, slots) what comes through o and u of the gates i; γ and dz (positions, gates i)."""
    o = product(alpha, v, tl.full((BLOCK_N, L.BLOCK_C), 0, tl.float32), L)
    gamma = vector_gate(image, h, start, alpha, u, i, weights, sizes, L, BLOCK_N)
    do = gamma * dout.to(tl.float32)
    dz = (1 - gamma) * do * (o - h.to(tl.float32))
    dalpha = product(do, tl.trans(v), dalpha, L)
    return product(dz, tl.trans(u), dalpha, L), gamma, dz


@triton.jit
def addressing_backward(alpha, dalpha, grad_attention, dz, b, start, sizes, L: tl.constexpr, BLOCK_N: tl.constexpr):
    """ds (positions, slots); behind the slots, dz of a scalar gate where the gate's weights are one more key."""
    N, T = sizes.N, sizes.T
    t = tl.arange(0, L.BLOCK_T)
    if grad_attention is not None:
        n = start + tl.arange(0, BLOCK_N)
        inside = (n[:, None] < N) & (t[None, :] < T)
        at = grad_attention + (b * T + t[None, :]) * N + n[:, None]
        dalpha += tl.load(at, mask=inside, other=0.0).to(tl.float32)
    ds = alpha * (dalpha - tl.sum(alpha * dalpha, 1)[:, None])
    if L.GATE_IS_KEY:
        ds = tl.where(t[None, :] == T, dz[:, None], ds)
    return ds


@triton.jit
def kv_memory_read_backward(
    image, mask, weights, memory, grad_out, grad_attention, grad_image, sums, sizes, L: tl.constexpr,
    BLOCK_N: tl.constexpr,
):  # fmt: skip
    """dh but for the mean's part, and the sums over positions: a program for every chunk of an image."""
    T = sizes.T
    chunk = tl.program_id(0)
    b, first = locate(chunk, sizes)
    image += b * sizes.stride_b
    grad_out += b * sizes.stride_b
    memory += b * memory_size(sizes, L)
    t, c = tl.arange(0, L.BLOCK_T), tl.arange(0, L.BLOCK_C)
    slots = load_slots(mask, b, t, T)
    k = load_keys(memory, c, weights, sizes, L)
    v = load_values(memory, c, sizes, L)
    dk = tl.full((L.BLOCK_C, L.BLOCK_T), 0, tl.float32)
    dv = tl.full((L.BLOCK_C, L.BLOCK_T), 0, tl.float32)
    if L.R <= 1:
        u = tl.sum(load_response(memory, tl.full((1,), 0, tl.int32), sizes, L), 1)
        if L.R == 1:
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
    for start in range(first, tl.minimum(first + sizes.span, sizes.N), BLOCK_N):
        h = load_pixels(image, start, c, sizes, L, BLOCK_N)
        dout = load_pixels(grad_out, start, c, sizes, L, BLOCK_N)
        alpha, z = addressing(image, h, k, memory, start, slots, weights, sizes, L, BLOCK_N)
        dh = tl.full((BLOCK_N, L.BLOCK_C), 0, tl.float32)
        if L.R <= 1:
            p = product(dout, tl.trans(v), tl.full((BLOCK_N, L.BLOCK_T), 0, tl.float32), L)
            q = tl.sum(h.to(tl.float32) * dout.to(tl.float32), 1)
            dalpha, gamma, dz = scalar_gate_backward(alpha, z, p, q, u, weights, L)
            du += alpha * dz[:, None]
            gate = gamma[:, None]
        else:
            dalpha = tl.full((BLOCK_N, L.BLOCK_T), 0, tl.float32)
            dalpha, gate, dz = vector_gate_backward(
                image, h, dout, v, u, alpha, dalpha, start, c, weights, sizes, L, BLOCK_N
            )
            dh = product(dz, load_matrix(weights.response_gate, c, c, L.C, L.C, 2 * L.C, 1), dh, L)
        db += dz
        ds = addressing_backward(alpha, dalpha, grad_attention, dz, b, start, sizes, L, BLOCK_N)
        if L.R == 1 and not L.GATE_IS_KEY:
            dh += dz[:, None] * w_h[None, :]
            dw += tl.sum(dz[:, None] * h.to(tl.float32), 0)
        if grad_image is not None:
            dh = product(ds, k, dh, L)
            if L.R != 0:
                dh += (1 - gate) * dout.to(tl.float32)
            store_pixels(grad_image + b * sizes.stride_b, dh, start, c, sizes, L, BLOCK_N)
        if L.DTYPE == tl.float32:
            # Its halves of h and dout together would not fit into the registers.
            h = load_pixels(image, start, c, sizes, L, BLOCK_N)
            dout = load_pixels(grad_out, start, c, sizes, L, BLOCK_N)
        dk = product(tl.trans(h), ds, dk, L)
        if L.R <= 1:
            dv = product(tl.trans(dout), alpha * gate, dv, L)
        else:
            dv = product(tl.trans(gate * dout.to(tl.float32)), alpha, dv, L)
            dw = product(tl.trans(dz), h, dw, L)
            du = product(tl.trans(dz), alpha, du, L)
    sums += chunk.to(tl.int64) * sums_size(sizes, L)
    store_sums(sums, dk, dv, c, sizes, L)
    if L.R == 1:
        store_scalar_gate(sums, column(dk, t, T) if L.GATE_IS_KEY else dw, c, sizes, L)
        store_scalar_response(sums, tl.sum(du, 0), tl.sum(db, 0), sizes, L)
    elif L.R > 1:
        store_vector_gate(sums, dw, c, c, sizes, L)
        store_vector_response(sums, du, tl.sum(db, 0), c, sizes, L)


@triton.jit
def scratch_rows(b, start, sizes, L: tl.constexpr, BLOCK_N: tl.constexpr):
    """Where ds and α of the positions from start on lie in scratch (B, N, BLOCK_T), and which are inside."""
    n, t = start + tl.arange(0, BLOCK_N), tl.arange(0, L.BLOCK_T)
    return (b * sizes.N + n[:, None]) * L.BLOCK_T + t[None, :], (n < sizes.N)[:, None]


@triton.jit
def values_backward(
    image, grad_out, memory, alpha, scratch, b, start, weights, sizes, L: tl.constexpr, BLOCK_N: tl.constexpr
):
    """Block by block: of a scalar gate, p = dout v and q = dout h; of a vector gate dα, and dz and do into scratch."""
    p = tl.full((BLOCK_N, L.BLOCK_T), 0, tl.float32)
    q = tl.full((BLOCK_N,), 0, tl.float32)
    for block in range(0, sizes.C, L.BLOCK_C):
        c = block + tl.arange(0, L.BLOCK_C)
        h = load_pixels(image, start, c, sizes, L, BLOCK_N)
        dout = load_pixels(grad_out, start, c, sizes, L, BLOCK_N)
        v = load_values(memory, c, sizes, L)
        if L.R <= 1:
            p = product(dout, tl.trans(v), p, L)
            q += tl.sum(h.to(tl.float32) * dout.to(tl.float32), 1)
        else:
            u = rounded(load_response(memory, c, sizes, L), L.DTYPE)
            p, gamma, dz = vector_gate_backward(image, h, dout, v, u, alpha, p, start, c, weights, sizes, L, BLOCK_N)
            store_pixels(scratch.dz + b * sizes.stride_b, dz, start, c, sizes, L, BLOCK_N)
            store_pixels(scratch.do + b * sizes.stride_b, gamma * dout.to(tl.float32), start, c, sizes, L, BLOCK_N)
    return p, q


@triton.jit
def image_backward(
    grad_out, grad_image, memory, ds, gamma, dz, scratch, b, start, weights, sizes, L: tl.constexpr,
    BLOCK_N: tl.constexpr,
):  # fmt: skip
    """dh = ds k + W_hᵀ dz + (1 - γ) dout, block by block."""
    for block in range(0, sizes.C, L.BLOCK_C):
        c = block + tl.arange(0, L.BLOCK_C)
        dh = tl.full((BLOCK_N, L.BLOCK_C), 0, tl.float32)
        dh = product(ds, load_keys(memory, c, weights, sizes, L), dh, L)
        dout = load_pixels(grad_out, start, c, sizes, L, BLOCK_N).to(tl.float32)
        if L.R == 1:
            dh += (1 - gamma)[:, None] * dout
            if not L.GATE_IS_KEY:
                dh += dz[:, None] * load_vector(weights.response_gate, c, L.C)[None, :]
        elif L.R > 1:
            dh += dout - load_pixels(scratch.do + b * sizes.stride_b, start, c, sizes, L, BLOCK_N).to(tl.float32)
            for other in range(0, sizes.C, L.BLOCK_C):
                i = other + tl.arange(0, L.BLOCK_C)
                dz_i = load_pixels(scratch.dz + b * sizes.stride_b, start, i, sizes, L, BLOCK_N)
                dh = product(dz_i, load_matrix(weights.response_gate, i, c, L.C, L.C, 2 * L.C, 1), dh, L)
        store_pixels(grad_image + b * sizes.stride_b, dh, start, c, sizes, L, BLOCK_N)


@triton.jit
def kv_memory_blocks_backward(
    image, mask, weights, memory, grad_out, grad_attention, grad_image, sums, scratch, sizes, L: tl.constexpr,
    BLOCK_N: tl.constexpr,
):  # fmt: skip
    """dh but for the mean's part, the sums of a scalar dz, and what is in scratch: a program for every chunk."""
    chunk = tl.program_id(0)
    b, first = locate(chunk, sizes)
    image += b * sizes.stride_b
    grad_out += b * sizes.stride_b
    memory += b * memory_size(sizes, L)
    t = tl.arange(0, L.BLOCK_T)
    slots = load_slots(mask, b, t, sizes.T)
    if L.R <= 1:
        u = tl.sum(load_response(memory, tl.full((1,), 0, tl.int32), sizes, L), 1)
        du = tl.full((L.BLOCK_T,), 0, tl.float32)
        db = tl.full((BLOCK_N,), 0, tl.float32)
    for start in range(first, tl.minimum(first + sizes.span, sizes.N), BLOCK_N):
        alpha, z = addressing(image, None, None, memory, start, slots, weights, sizes, L, BLOCK_N)
        dalpha, q = values_backward(image, grad_out, memory, alpha, scratch, b, start, weights, sizes, L, BLOCK_N)
        gamma, dz = q, q
        if L.R <= 1:
            dalpha, gamma, dz = scalar_gate_backward(alpha, z, dalpha, q, u, weights, L)
            du += tl.sum(alpha * dz[:, None], 0)
            db += dz
        ds = addressing_backward(alpha, dalpha, grad_attention, dz, b, start, sizes, L, BLOCK_N)
        rows, inside = scratch_rows(b, start, sizes, L, BLOCK_N)
        tl.store(scratch.ds + rows, rounded(ds, L.DTYPE), mask=inside)
        if L.R <= 1:
            if L.R == 1:
                n = start + tl.arange(0, BLOCK_N)
                tl.store(scratch.dz + b * sizes.N + n, rounded(dz, L.DTYPE), mask=n < sizes.N)
            tl.store(scratch.alpha + rows, rounded(alpha * gamma[:, None], L.DTYPE), mask=inside)
        else:
            tl.store(scratch.alpha + rows, rounded(alpha, L.DTYPE), mask=inside)
            # dz is read by other threads than stored it.
            tl.debug_barrier()
        if grad_image is not None:
            image_backward(grad_out, grad_image, memory, ds, gamma, dz, scratch, b, start, weights, sizes, L, BLOCK_N)
    if L.R == 1:
        store_scalar_response(sums + chunk.to(tl.int64) * sums_size(sizes, L), du, tl.sum(db, 0), sizes, L)


@triton.jit
def kv_memory_sums_backward(image, grad_out, scratch, sums, sizes, L: tl.constexpr, BLOCK_N: tl.constexpr):
    """The sums over positions that scratch is for: a program for every chunk and block of channels c.

    A vector gate has one for every pair of blocks, of its gates i and of channels c.
    """
    c_blocks: tl.constexpr = (L.C + L.BLOCK_C - 1) // L.BLOCK_C
    i_blocks: tl.constexpr = 1 if L.R <= 1 else c_blocks
    chunk = tl.program_id(0) // (c_blocks * i_blocks)
    c_block, i_block = tl.program_id(0) % c_blocks, tl.program_id(0) // c_blocks % i_blocks
    b, first = locate(chunk, sizes)
    c = c_block * L.BLOCK_C + tl.arange(0, L.BLOCK_C)
    i = i_block * L.BLOCK_C + tl.arange(0, L.BLOCK_C)
    dk = tl.full((L.BLOCK_C, L.BLOCK_T), 0, tl.float32)
    dv = tl.full((L.BLOCK_C, L.BLOCK_T), 0, tl.float32)
    if L.R <= 1:
        dw = tl.full((L.BLOCK_C,), 0, tl.float32)
    else:
        dw = tl.full((L.BLOCK_C, L.BLOCK_C), 0, tl.float32)
        du = tl.full((L.BLOCK_C, L.BLOCK_T), 0, tl.float32)
        db = tl.full((BLOCK_N, L.BLOCK_C), 0, tl.float32)
    for start in range(first, tl.minimum(first + sizes.span, sizes.N), BLOCK_N):
        h = load_pixels(image + b * sizes.stride_b, start, c, sizes, L, BLOCK_N)
        rows, inside = scratch_rows(b, start, sizes, L, BLOCK_N)
        alpha = tl.load(scratch.alpha + rows, mask=inside, other=0.0)
        if i_block == 0:
            ds = tl.load(scratch.ds + rows, mask=inside, other=0.0)
            do = (grad_out if L.R <= 1 else scratch.do) + b * sizes.stride_b
            dk = product(tl.trans(h), ds, dk, L)
            dv = product(tl.trans(load_pixels(do, start, c, sizes, L, BLOCK_N)), alpha, dv, L)
        if L.R > 1:
            dz = load_pixels(scratch.dz + b * sizes.stride_b, start, i, sizes, L, BLOCK_N)
            dw = product(tl.trans(dz), h, dw, L)
            if c_block == 0:
                du = product(tl.trans(dz), alpha, du, L)
                db += dz.to(tl.float32)
        elif L.R == 1 and not L.GATE_IS_KEY:
            dz = load_vector(scratch.dz + b * sizes.N, start + tl.arange(0, BLOCK_N), sizes.N)
            dw += tl.sum(dz[:, None] * h.to(tl.float32), 0)
    sums += chunk.to(tl.int64) * sums_size(sizes, L)
    if i_block == 0:
        store_sums(sums, dk, dv, c, sizes, L)
    if L.R == 1:
        store_scalar_gate(sums, column(dk, tl.arange(0, L.BLOCK_T), sizes.T) if L.GATE_IS_KEY else dw, c, sizes, L)
    elif L.R > 1:
        store_vector_gate(sums, dw, i, c, sizes, L)
        if c_block == 0:
            store_vector_response(sums, du, tl.sum(db, 0), i, sizes, L)
