"""The operators of the compiled extension in PyTorch: loading, fake kernels, autograd.

First derivatives run fused. Where the caller wants to differentiate them again (create_graph), they run through the
eager form instead: correct to any order, not fast.
"""

from pathlib import Path

import torch
from torch import Tensor

from kvmem.reference import kv_memory_reference

LIBRARY = Path(__file__).with_name("_kernels.so")
AVAILABLE = LIBRARY.exists()

Options = tuple[bool, bool, bool]  # linear_write_gate, relu, detach_mean


def kv_memory(
    image: Tensor,
    words: Tensor,
    mask: Tensor | None,
    weights: tuple[Tensor, ...],
    options: Options,
    return_attention: bool,
) -> tuple[Tensor, Tensor]:
    """The fused layer: response (B, C, H, W) and attention (B, T, H, W), the latter empty where not asked for."""
    out, attention, _ = torch.ops.kvmem.kv_memory(image, words, mask, *weights, *options, return_attention)
    return out, attention


def _fake_forward(
    image: Tensor, words: Tensor, mask: Tensor | None, *weights_and_options: Tensor | bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Shapes, dtypes and strides of what the forward operator returns."""
    batch, channels, height, width = image.shape
    return_attention = weights_and_options[-1]
    attention = image.new_empty((batch, words.shape[1], height, width) if return_attention else (0,))
    mean = image.new_empty((batch, channels), dtype=torch.float64 if image.dtype == torch.float64 else torch.float32)
    return _empty_like_image(image), attention, mean


def _fake_backward(
    grad_out: Tensor,
    grad_attention: Tensor | None,
    image: Tensor,
    words: Tensor,
    mask: Tensor | None,
    *weights_and_more: Tensor | bool | int,
) -> tuple[Tensor, ...]:
    """Shapes, dtypes and strides of what the backward operator returns: empty (0,) for a gradient not needed."""
    weights, needs = weights_and_more[:12], weights_and_more[-1]
    like = (_empty_like_image(image), *(tensor.new_empty(tensor.shape) for tensor in (words, *weights)))
    return tuple(full if needs >> i & 1 else full.new_empty((0,)) for i, full in enumerate(like))


def _empty_like_image(image: Tensor) -> Tensor:
    channels_last = image.is_contiguous(memory_format=torch.channels_last) and not image.is_contiguous()
    return torch.empty(
        image.shape,
        dtype=image.dtype,
        device=image.device,
        memory_format=torch.channels_last if channels_last else torch.contiguous_format,
    )


def _setup_context(ctx, inputs: tuple, output: tuple) -> None:
    *tensors, linear_write_gate, relu, detach_mean, return_attention = inputs
    _, attention, mean = output
    ctx.mark_non_differentiable(mean, *(() if return_attention else (attention,)))
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, mean)
    ctx.options = (linear_write_gate, relu, detach_mean)


def _backward(ctx, grad_out: Tensor | None, grad_attention: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    image, words, mask, *weights, mean = ctx.saved_tensors
    needs = [needed for i, needed in enumerate(ctx.needs_input_grad[:15]) if i != 2]  # of image, words, weights
    if torch.is_grad_enabled():
        outputs = (grad_out, grad_attention)
        gradients = _differentiable_gradients((image, words, *weights), mask, ctx.options, needs, outputs)
    elif grad_out is None and grad_attention is None:
        gradients = [None] * len(needs)
    else:
        grad_out = torch.zeros_like(image) if grad_out is None else grad_out
        bits = sum(1 << i for i, needed in enumerate(needs) if needed)
        gradients = torch.ops.kvmem.kv_memory_backward(
            grad_out, grad_attention, image, words, mask, *weights, mean, *ctx.options, bits
        )
        gradients = [gradient if needed else None for gradient, needed in zip(gradients, needs, strict=True)]
    return *gradients[:2], None, *gradients[2:], None, None, None, None


def _differentiable_gradients(
    inputs: tuple[Tensor, ...],
    mask: Tensor | None,
    options: Options,
    needs: list[bool],
    grad_outputs: tuple[Tensor | None, Tensor | None],
) -> list[Tensor | None]:
    """The gradients through the eager form, as functions that can be differentiated again."""
    # Aliases, so that a gradient stops at this call's inputs even where one of them was computed from another.
    aliases = [tensor.view_as(tensor) for tensor in inputs]
    image, words, *weights = aliases
    outputs = kv_memory_reference(image, words, mask, *weights, *options)
    used = [(output, grad) for output, grad in zip(outputs, grad_outputs, strict=True) if grad is not None]
    wanted = [alias for alias, needed in zip(aliases, needs, strict=True) if needed]
    if not used:
        return [None] * len(inputs)
    found = torch.autograd.grad(
        [output for output, _ in used], wanted, [grad for _, grad in used], create_graph=True, allow_unused=True
    )
    remaining = iter(found)
    return [next(remaining) if needed else None for needed in needs]


def _load_library() -> None:
    try:
        torch.ops.load_library(LIBRARY)
    except OSError as error:
        remedy = f"reinstall kvmem to build it anew, or delete {LIBRARY} to run without it"
        raise ImportError(f"kvmem's compiled extension can't be loaded: {remedy} ({error})") from error


if AVAILABLE:
    _load_library()
    torch.library.register_fake("kvmem::kv_memory", _fake_forward)
    torch.library.register_fake("kvmem::kv_memory_backward", _fake_backward)
    torch.library.register_autograd("kvmem::kv_memory", _backward, setup_context=_setup_context)
