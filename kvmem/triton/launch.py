"""The operators over the kernels: dense inputs, outputs and scratch memory, launches."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from kvmem.checks import check_tensors, gpu_limit
from kvmem.kept import layer_memory
from kvmem.triton.arguments import Layer, Programs, Scratch, Sizes, Weights
from kvmem.triton.backward import kv_memory_blocks_backward, kv_memory_read_backward, kv_memory_sums_backward
from kvmem.triton.chips import chip_and_precision
from kvmem.triton.forward import kv_memory_read, kv_memory_response, kv_memory_tables, kv_memory_write
from kvmem.triton.parameters import (
    ADDED,
    BLOCK,
    kv_memory_parameters_backward,
    kv_memory_tables_backward,
    kv_memory_write_backward,
)
from kvmem.triton.status import interpreted
from kvmem.triton.tiles import backward_layer, cut_image, launch, make_layer, multiprocessors

DTYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


class Call(NamedTuple):
    """What both directions are called with, dense."""

    image: Tensor
    words: Tensor
    mask: Tensor | None
    weights: Weights
    sizes: Sizes
    layer: Layer

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.sizes.stride_c == 1 and self.layer.C > 1 else torch.contiguous_format


def prepare(
    image: Tensor, words: Tensor, mask: Tensor | None, weights: tuple[Tensor, ...], linear_write_gate: bool, relu: bool
) -> Call:
    # Without these, a call of the operator from elsewhere could read out of bounds.
    check_tensors(image, words, mask, weights)
    check_runs(image, gpu_limit(image, words))
    packed = Weights(*(weight.contiguous() for weight in weights))
    rows = packed.write_word.shape[0], packed.gate_word.shape[0], packed.response_gate.shape[0]
    return make_call(
        image, words, mask, packed, words.shape[2], *rows,
        linear_write_gate=linear_write_gate, relu=relu, dtype=packed.key.dtype,
    )  # fmt: skip


def make_call(
    image: Tensor, words: Tensor, mask: Tensor | None, weights: Weights, word_channels: int, memory_channels: int,
    write_gates: int, response_gates: int, *, linear_write_gate: bool, relu: bool, dtype: torch.dtype,
) -> Call:  # fmt: skip
    """Of what has been checked; words are whatever is (B, T, ...), of which word_channels count as D.

    dtype: the weights'.
    """
    channels_last = image.is_contiguous(memory_format=torch.channels_last) and not image.is_contiguous()
    image = image if channels_last else image.contiguous()
    B, C, H, W = image.shape
    N, T = H * W, words.shape[1]
    chunks, span = cut_image(B, N, multiprocessors(image.device))
    strides = (C * N, C, 1) if channels_last else (C * N, 1, N)
    with on(image):
        chip, precision = chip_and_precision()
    layer = make_layer(
        C, memory_channels, write_gates, response_gates, T, chunks,
        linear_write_gate=linear_write_gate, relu=relu, dtype=DTYPES[image.dtype], weights=DTYPES[dtype], chip=chip,
        precision=precision,
    )  # fmt: skip
    mask = None if mask is None else mask.contiguous().view(torch.uint8)
    return Call(
        image, words.contiguous(), mask, weights, Sizes(B, C, N, T, word_channels, chunks, span, *strides), layer
    )


def check_runs(image: Tensor, limit: str | None) -> None:
    """Raises RuntimeError where there is a limit that the call goes beyond, or the kernels can't run on its device."""
    if limit:
        raise RuntimeError(f"kvmem: the Triton kernels don't take {limit}")
    if not (image.is_cuda or interpreted()):
        raise RuntimeError("kvmem: on the CPU the Triton kernels run in its interpreter alone (TRITON_INTERPRET=1)")


def on(tensor: Tensor) -> AbstractContextManager[None]:
    """Triton launches on the current device."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def forward(
    image: Tensor, words: Tensor, mask: Tensor | None, *weights_and_options: Tensor | bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`kv_memory` of kvmem/ops.py: out, attention, mean, memory."""
    weights, (linear_write_gate, relu, _, return_attention) = weights_and_options[:12], weights_and_options[12:]
    call = prepare(image, words, mask, weights, linear_write_gate, relu)
    image, sizes, layer = call.image, call.sizes, call.layer
    B, T = sizes.B, sizes.T
    numbers = {"dtype": torch.float32, "device": image.device}
    out = torch.empty_like(image)
    attention = image.new_empty((B, T, *image.shape[2:]) if return_attention else (0,))
    mean = torch.empty((B, layer.C), **numbers)
    memory = torch.empty((B, layer_memory(T, layer.C, *call.weights)), **numbers)
    sums = torch.empty((B, sizes.chunks, layer.C), **numbers)
    blocks = triton.cdiv(layer.C, layer.BLOCK_C)
    word_programs = B * triton.cdiv(layer.M, layer.WIDTH)
    with on(image):
        launch(
            kv_memory_write, word_programs + B * sizes.chunks * blocks,
            image, call.words, call.mask, call.weights, sums, memory, word_programs, sizes, layer,
        )  # fmt: skip
        if not layer.TUNED:
            launch(kv_memory_tables, B * blocks, call.weights, sums, memory, mean, sizes, layer)
            launch(kv_memory_response, B * triton.cdiv(layer.R, layer.WIDTH), call.weights, memory, sizes, layer)
        launch(
            kv_memory_read, B * sizes.chunks,
            image, call.mask, call.weights, sums, memory, mean, out, attention if return_attention else None,
            sizes, layer, tunable=True,
        )  # fmt: skip
    return out, attention, mean, memory


def check_kept(name: str, tensor: Tensor | None, shape: tuple[int, ...], dtype: torch.dtype, call: Call) -> None:
    """Raises ValueError unless a tensor that forward kept, or a gradient, is what this call would have made."""
    device = call.image.device
    if tensor is not None and (tensor.shape != shape or tensor.dtype != dtype or tensor.device != device):
        raise ValueError(
            f"{name}: got shape {tuple(tensor.shape)}, {tensor.dtype} on {tensor.device}, "
            f"expected {tuple(shape)}, {dtype} on {device}"
        )


def check_outputs(grad_out: Tensor, grad_attention: Tensor | None, call: Call) -> None:
    """The gradients of what forward returned."""
    image, sizes = call.image, call.sizes
    check_kept("grad_out", grad_out, image.shape, image.dtype, call)
    check_kept("grad_attention", grad_attention, (sizes.B, sizes.T, *image.shape[2:]), image.dtype, call)


def count_programs(grad_words: Tensor | None, grads: Weights, mean: bool, sizes: Sizes, layer: Layer) -> Programs:
    """For the gradients that are there, and the mean's where it is asked for."""

    def blocks(rows: int, columns: int, *results: Tensor | None) -> int:
        needed = any(result is not None for result in results)
        return triton.cdiv(rows, BLOCK.value) * triton.cdiv(columns, BLOCK.value) if needed else 0

    B, D, (C, M, G, R, *_) = sizes.B, sizes.D, layer
    return Programs(
        mean=B * sizes.chunks * triton.cdiv(C, layer.BLOCK_C) if mean else 0,
        words=0 if grad_words is None else B * triton.cdiv(D, layer.WIDTH),
        gate_word=blocks(G, D, grads.gate_word),
        gate_image=blocks(G, C, grads.gate_image),
        write_word=blocks(M, D, grads.write_word, grads.write_word_bias),
        write_image=blocks(M, C, grads.write_image, grads.write_image_bias),
        key=blocks(C, M, grads.key, grads.key_bias),
        value=blocks(C, M, grads.value, grads.value_bias),
        response_gate_of_image=blocks(R, C, grads.response_gate),
        response_gate_of_values=blocks(R, C, grads.response_gate),
        response_gate_bias=blocks(R, 1, grads.response_gate_bias),
    )


def read_backward(
    call: Call, memory: Tensor, grad_out: Tensor, grad_attention: Tensor | None, grad_image: Tensor | None,
    needs_sums: bool,
) -> tuple[Tensor, int]:  # fmt: skip
    """dh but for the mean's part. Returns the sums over positions, and of how many chunks an image they are."""
    image, weights, sizes, layer = call.image, call.weights, call.sizes, call.layer
    sum_layer, sum_sizes = backward_layer(layer), sizes
    blocks = triton.cdiv(layer.C, sum_layer.BLOCK_C)
    sum_blocks = blocks if layer.R <= 1 else blocks**2
    if not layer.TUNED and layer.R > 1:
        # No other kernel's chunks count here, and pairs of blocks are programs enough: fewer chunks to add up.
        chunks, span = cut_image(sizes.B * sum_blocks, sizes.N, multiprocessors(image.device))
        sum_sizes = sizes._replace(chunks=chunks, span=span)
    sums = image.new_empty((sizes.B, sum_sizes.chunks, of_chunk(layer, sizes)), dtype=torch.float32)
    arguments = (image, call.mask, weights, memory, grad_out, grad_attention, grad_image, sums)
    programs = sizes.B * sizes.chunks
    if layer.TUNED:
        launch(kv_memory_read_backward, programs, *arguments, sizes, layer, tunable=True)
        return sums, sizes.chunks
    slots = (sizes.B, sizes.N, layer.BLOCK_T)
    if layer.R <= 1:
        scratch = Scratch(image.new_empty(slots), image.new_empty(slots), image.new_empty(sizes.B, sizes.N), None)
    else:
        like_image = torch.empty_like(image), torch.empty_like(image)
        scratch = Scratch(image.new_empty(slots), image.new_empty(slots), *like_image)
    launch(kv_memory_blocks_backward, programs, *arguments, scratch, sizes, sum_layer, tunable=True)
    if needs_sums:
        launch(
            kv_memory_sums_backward, sizes.B * sum_sizes.chunks * sum_blocks,
            image, grad_out, scratch, sums, sum_sizes, sum_layer, tunable=True,
        )  # fmt: skip
    return sums, sum_sizes.chunks


def of_chunk(layer: Layer, sizes: Sizes) -> int:
    """Numbers in the sums of a chunk."""
    return 2 * layer.C * sizes.T + layer.R * (layer.C + sizes.T + 1)


def count_rows(rows: int, layer: Layer, sizes: Sizes, *, adds_gates: bool) -> int:
    """Programs over the rows of k, v or m of all images, and those that add up the response gate's chunks."""
    of_gates = triton.cdiv(layer.R * (layer.C + sizes.T + 1), ADDED.value) if adds_gates else 0
    return sizes.B * (triton.cdiv(rows, layer.ROWS) + of_gates)


def backward(
    grad_out: Tensor,
    grad_attention: Tensor | None,
    image: Tensor,
    words: Tensor,
    mask: Tensor | None,
    *weights_kept_and_options: Tensor | bool | int,
) -> tuple[Tensor, ...]:
    """`kv_memory_backward` of kvmem/ops.py: the gradients whose bits are set in the last argument, else empty ones."""
    weights, (mean, memory) = weights_kept_and_options[:12], weights_kept_and_options[12:14]
    linear_write_gate, relu, detach_mean, needs = weights_kept_and_options[14:]
    call = prepare(image, words, mask, weights, linear_write_gate, relu)
    image, sizes, layer = call.image, call.sizes, call.layer
    check_outputs(grad_out, grad_attention, call)
    check_kept("mean", mean, (sizes.B, layer.C), torch.float32, call)
    check_kept("memory", memory, (sizes.B, layer_memory(sizes.T, layer.C, *call.weights)), torch.float32, call)
    grad_out = grad_out.contiguous(memory_format=call.memory_format)
    grad_attention = None if grad_attention is None else grad_attention.contiguous()
    mean, memory = mean.contiguous(), memory.contiguous()
    inputs = (image, call.words, *call.weights)
    grads = [torch.empty_like(tensor) if needs >> i & 1 else None for i, tensor in enumerate(inputs)]
    grad_image, grad_words, grad_weights = grads[0], grads[1], Weights(*grads[2:])
    of_writing = (2 * layer.M + layer.GATE_ROWS) * sizes.T + layer.M
    gradients = image.new_empty((sizes.B, of_chunk(layer, sizes) + of_writing), dtype=torch.float32)
    programs = count_programs(grad_words, grad_weights, grad_image is not None and not detach_mean, sizes, layer)
    with on(image):
        sums, chunks = read_backward(call, memory, grad_out, grad_attention, grad_image, sum(programs) > 0)
        if sum(programs):
            tables = (call.weights, memory, sums, gradients)
            if not layer.TUNED:
                of_tables = count_rows(layer.C, layer, sizes, adds_gates=True)
                launch(kv_memory_tables_backward, of_tables, *tables, chunks, sizes, layer)
            of_rows = count_rows(layer.M, layer, sizes, adds_gates=layer.TUNED)
            launch(kv_memory_write_backward, of_rows, *tables, sizes, layer)
        launch(
            kv_memory_parameters_backward, sum(programs),
            call.words, call.mask, call.weights, memory, mean, gradients, grad_image if programs.mean else None,
            grad_words, grad_weights, programs, sizes, layer,
        )  # fmt: skip
    return tuple(like.new_empty((0,)) if grad is None else grad for like, grad in zip(inputs, grads, strict=True))
