"""The fused layer under torch.func: gradients by grad, vjp and jacrev, batches by vmap, and the two within each other.

Forward-mode derivatives (jvp, jacfwd, hessian, dual numbers) are the eager form's, and so is the second derivative.
"""

import sys
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._C import _functorch
from torch.autograd import forward_ad

from kvmem.reference import kv_memory_eager
from kvmem.tracing import traced_as_constant

_FUSED = {_functorch.TransformType.Grad, _functorch.TransformType.Vmap}
# Of a call's fourteen inputs that can have a gradient, image and words come before the weights.
_WEIGHTS = ~0b11


@traced_as_constant
def transform() -> str | None:
    """What a call takes part in: None, "fused" for transforms that this module knows, "eager" for all others.

    Forward-mode derivatives are the eager form's, which torch differentiates; so are all transforms within
    torch.compile, which takes an operator's tangent for zero; and ONNX has no operators but its own.
    """
    if forward_ad._current_level >= 0 or _exported_to_onnx():
        return "eager"
    stack = _functorch.get_interpreter_stack()
    if not stack:
        return None
    known = all(level.key() in _FUSED for level in stack)
    return "fused" if known and not torch.compiler.is_compiling() else "eager"


def _exported_to_onnx() -> bool:
    """Whether the call is one of `torch.onnx.export`, of either kind."""
    # Without importing torch.onnx, which nothing else here needs: who exports has imported it.
    onnx = sys.modules.get("torch.onnx")
    return onnx is not None and onnx.is_in_onnx_export()


def kv_memory_transformed(
    operators: str,
    image: Tensor,
    words: Tensor,
    mask: Tensor | None,
    weights: tuple[Tensor, ...],
    options: tuple[bool, bool, bool],
    return_attention: bool,
) -> tuple[Tensor, Tensor]:
    """`kvmem.ops.kv_memory` as torch.func can differentiate and batch it."""
    out, attention, *_ = _Layer.apply(operators, options, return_attention, mask, image, words, *weights)
    return out, attention


class _Layer(torch.autograd.Function):
    """Outputs of the operator `kv_memory`."""

    @staticmethod
    def forward(operators, options, return_attention, mask, image, words, *weights) -> tuple[Tensor, ...]:
        run = getattr(torch.ops, operators).kv_memory
        return run(image, words, mask, *weights, *options, return_attention)

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: tuple) -> None:
        ctx.operators, ctx.options, return_attention, mask, *tensors = inputs
        _, attention, *kept = output
        ctx.mark_non_differentiable(*kept, *(() if return_attention else (attention,)))
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(mask, *tensors, *kept)

    @staticmethod
    def backward(ctx, grad_out, grad_attention, *_) -> tuple[Tensor | None, ...]:
        mask, *saved = ctx.saved_tensors
        needed = ctx.needs_input_grad[4:]
        if grad_out is None and grad_attention is None:
            return (None,) * (4 + len(needed))
        grad_out = torch.zeros_like(saved[0]) if grad_out is None else grad_out
        bits = sum(1 << place for place, one in enumerate(needed) if one)
        found = _Gradients.apply(ctx.operators, ctx.options, bits, grad_out, grad_attention, mask, *saved)
        return *(None,) * 4, *(gradient if one else None for gradient, one in zip(found, needed, strict=True))

    @staticmethod
    def vmap(info, in_dims, operators, options, return_attention, mask, *inputs):
        apply = partial(_Layer.apply, operators, options, return_attention)
        dims = in_dims[3:]
        if any(dim is not None for dim in dims[3:]):
            return _one_by_one(apply, info.batch_size, dims, (mask, *inputs))
        # With one set of weights, images of all places are a batch.
        batched = zip((mask, *inputs[:2]), dims[:3], strict=True)
        merged = [_merged(one, dim, info.batch_size) for one, dim in batched]
        return _split(apply(*merged, *inputs[2:]), info.batch_size)


class _Gradients(torch.autograd.Function):
    """Outputs of the operator `kv_memory_backward`: fourteen, empty where `bits` doesn't ask for one."""

    @staticmethod
    def forward(operators, options, bits, grad_out, grad_attention, mask, image, words, *weights_and_kept):
        run = getattr(torch.ops, operators).kv_memory_backward
        return tuple(run(grad_out, grad_attention, image, words, mask, *weights_and_kept, *options, bits))

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: tuple) -> None:
        _, ctx.options, ctx.bits, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        grad_out, grad_attention, mask, *saved = ctx.saved_tensors
        inputs, kept = saved[:14], saved[14:]
        places = [place for place in range(14) if ctx.bits >> place & 1]
        with_attention = grad_attention is not None

        def first(grads: tuple[Tensor, ...], *inputs: Tensor) -> list[Tensor]:
            def layer(*inputs: Tensor) -> tuple[Tensor, ...]:
                outputs = kv_memory_eager(*inputs[:2], mask, inputs[2:], ctx.options)
                return outputs if with_attention else outputs[:1]

            found = torch.func.vjp(layer, *inputs)[1](grads)
            return [found[place] for place in places]

        grads = (grad_out, grad_attention) if with_attention else (grad_out,)
        _, pull = torch.func.vjp(first, grads, *inputs)
        of_grads, *of_inputs = pull([cotangents[place] for place in places])
        of_attention = of_grads[1] if with_attention else None
        return None, None, None, of_grads[0], of_attention, None, *of_inputs, *(None for _ in kept)

    @staticmethod
    def vmap(info, in_dims, operators, options, bits, *tensors):
        apply = partial(_Gradients.apply, operators, options, bits)
        dims = in_dims[3:]
        of_weights = range(5, 17)
        # Of weights that all places share, each place has its own gradient: their sum isn't what is asked for.
        if bits & _WEIGHTS or any(dims[place] is not None for place in of_weights):
            return _one_by_one(apply, info.batch_size, dims, tensors)
        merged = [
            one if place in of_weights else _merged(one, dim, info.batch_size)
            for place, (one, dim) in enumerate(zip(tensors, dims, strict=True))
        ]
        return _split(apply(*merged), info.batch_size)


def _one_by_one(apply: Any, count: int, dims: tuple, tensors: tuple) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """Calls for one place after the other, and what they return side by side."""
    calls = [
        apply(*(one if dim is None else one.select(dim, place) for one, dim in zip(tensors, dims, strict=True)))
        for place in range(count)
    ]
    outputs = tuple(torch.stack(places) for places in zip(*calls, strict=True))
    return outputs, (0,) * len(outputs)


def _merged(tensor: Tensor | None, dim: int | None, count: int) -> Tensor | None:
    """A tensor (B, ...) of every place as one (count * B, ...); one that all places share is repeated, an empty not."""
    if tensor is None or (dim is None and tensor.numel() == 0):
        return tensor
    places = tensor.expand(count, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
    return places.flatten(0, 1)


def _split(outputs: tuple[Tensor, ...], count: int) -> tuple[tuple[Tensor, ...], tuple[int | None, ...]]:
    """What `_merged` put together, apart again; what is empty (0,) is every place's."""
    split = tuple(one if one.shape == (0,) else one.unflatten(0, (count, -1)) for one in outputs)
    return split, tuple(None if one.shape == (0,) else 0 for one in outputs)
