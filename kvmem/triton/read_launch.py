"""The operators of `kvmem.memory_read` over the kernels, as kvmem/triton/launch.py has the layer's."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from kvmem.checks import check_read_tensors, gpu_limit
from kvmem.kept import given_memory
from kvmem.triton.arguments import Programs, Weights
from kvmem.triton.forward import kv_memory_read, kv_memory_response, kv_memory_take
from kvmem.triton.launch import (
    Call,
    check_kept,
    check_outputs,
    check_runs,
    count_rows,
    make_call,
    of_chunk,
    on,
    read_backward,
)
from kvmem.triton.parameters import BLOCK, kv_memory_given_backward, kv_memory_given_gate_backward
from kvmem.triton.tiles import launch


def prepare(
    image: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, gate: Tensor | None, bias: Tensor | None
) -> tuple[Call, Tensor]:
    """The call, with the keys in the words' place, and the values, dense."""
    # Without these, a call of the operator from elsewhere could read out of bounds.
    check_read_tensors(image, keys, values, mask, gate, bias)
    check_runs(image, gpu_limit(image, keys))
    weights = Weights(*10 * (None,), *(None if one is None else one.contiguous() for one in (gate, bias)))
    gates = 0 if gate is None else gate.shape[0]
    dtype = image.dtype if gate is None else gate.dtype
    call = make_call(image, keys, mask, weights, 0, 0, 0, gates, linear_write_gate=False, relu=False, dtype=dtype)
    return call, values.contiguous()


def forward(
    image: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None,
    gate: Tensor | None,
    bias: Tensor | None,
    return_attention: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """`memory_read` of kvmem/read_ops.py: out, attention, memory."""
    call, values = prepare(image, keys, values, mask, gate, bias)
    image, sizes, layer = call.image, call.sizes, call.layer
    B, T = sizes.B, sizes.T
    out = torch.empty_like(image)
    attention = image.new_empty((B, T, *image.shape[2:]) if return_attention else (0,))
    memory = torch.empty((B, given_memory(T, layer.C, gate)), dtype=torch.float32, device=image.device)
    with on(image):
        launch(
            kv_memory_take, B * triton.cdiv(layer.C, layer.BLOCK_C),
            call.words, values, call.mask, call.weights, memory, sizes, layer,
        )  # fmt: skip
        if not layer.TUNED:
            launch(kv_memory_response, B * triton.cdiv(layer.R, layer.WIDTH), call.weights, memory, sizes, layer)
        launch(
            kv_memory_read, B * sizes.chunks,
            image, call.mask, call.weights, None, memory, None, out, attention if return_attention else None,
            sizes, layer, tunable=True,
        )  # fmt: skip
    return out, attention, memory


def backward(
    grad_out: Tensor,
    grad_attention: Tensor | None,
    image: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None,
    gate: Tensor | None,
    bias: Tensor | None,
    memory: Tensor,
    needs: int,
) -> tuple[Tensor, ...]:
    """`memory_read_backward` of kvmem/read_ops.py: the gradients whose bits are set, else empty ones."""
    call, values = prepare(image, keys, values, mask, gate, bias)
    image, sizes, layer = call.image, call.sizes, call.layer
    check_outputs(grad_out, grad_attention, call)
    check_kept("memory", memory, (sizes.B, given_memory(sizes.T, layer.C, gate)), torch.float32, call)
    if gate is None and needs >> 3:
        raise ValueError("needs: asks for the gradient of a response gate, and there is none")
    memory, grad_out = memory.contiguous(), grad_out.contiguous(memory_format=call.memory_format)
    grad_attention = None if grad_attention is None else grad_attention.contiguous()
    inputs = (image, call.words, values, call.weights.response_gate, call.weights.response_gate_bias)
    grads = [torch.empty_like(tensor) if needs >> i & 1 else None for i, tensor in enumerate(inputs)]
    grad_image, grad_keys, grad_values, *grad_gate = grads
    gradients = image.new_empty((sizes.B, of_chunk(layer, sizes)), dtype=torch.float32)
    programs = _gate_programs(*grad_gate, layer.R, layer.C)
    needs_sums = needs >> 1 != 0
    with on(image):
        sums, chunks = read_backward(call, memory, grad_out, grad_attention, grad_image, needs_sums)
        if needs_sums:
            launch(
                kv_memory_given_backward, count_rows(layer.C, layer, sizes, adds_gates=True),
                call.weights, memory, sums, gradients, grad_keys, grad_values, chunks, sizes, layer,
            )  # fmt: skip
        launch(
            kv_memory_given_gate_backward, sum(programs),
            memory, gradients, Weights(*10 * (None,), *grad_gate), programs, sizes, layer,
        )  # fmt: skip
    like = (image if one is None else one for one in inputs)
    return tuple(one.new_empty((0,)) if grad is None else grad for one, grad in zip(like, grads, strict=True))


def _gate_programs(gate: Tensor | None, bias: Tensor | None, gates: int, channels: int) -> Programs:
    """For the gradients that are there."""
    rows, columns = triton.cdiv(gates, BLOCK.value), triton.cdiv(channels, BLOCK.value)
    of_gate = 0 if gate is None else rows * columns
    return Programs(*8 * (0,), of_gate, of_gate, 0 if bias is None else rows)
