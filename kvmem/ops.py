"""The operators in PyTorch: those of the compiled extension and Triton's, with one schema, fake kernels and autograd.

First derivatives run fused. Where the caller wants to differentiate them again (create_graph), they run through the
eager form instead: correct to any order, not fast.
"""

import importlib
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from kvmem import library
from kvmem.kept import layer_memory, layer_memory_on_cpu
from kvmem.library import AVAILABLE, COMPILED, TRITON
from kvmem.reference import kv_memory_eager

PARAMETERS = (
    "Tensor gate_word, Tensor gate_image, Tensor write_word_weight, Tensor write_word_bias, Tensor write_image_weight, "
    "Tensor write_image_bias, Tensor key_weight, Tensor key_bias, Tensor value_weight, Tensor value_bias, "
    "Tensor response_gate_weight, Tensor response_gate_bias"
)
# As in csrc/torch_ops.cpp, which defines them where there is no Python too.
SCHEMAS = (
    f"kv_memory(Tensor image, Tensor words, Tensor? mask, {PARAMETERS}, bool linear_write_gate, bool relu, "
    "bool detach_mean, bool return_attention) "
    "-> (Tensor out, Tensor attention, Tensor mean, Tensor memory)",
    "kv_memory_backward(Tensor grad_out, Tensor? grad_attention, Tensor image, Tensor words, Tensor? mask, "
    f"{PARAMETERS}, Tensor mean, Tensor memory, bool linear_write_gate, bool relu, "
    f"bool detach_mean, int needs) -> ({', '.join(14 * ['Tensor'])})",
)

TRITON_LIBRARY = torch.library.Library(TRITON, "DEF")

Options = tuple[bool, bool, bool]  # linear_write_gate, relu, detach_mean


def kv_memory(
    operators: str,
    image: Tensor,
    words: Tensor,
    mask: Tensor | None,
    weights: tuple[Tensor, ...],
    options: Options,
    return_attention: bool,
) -> tuple[Tensor, Tensor]:
    """The fused layer: response (B, C, H, W) and attention (B, T, H, W), the latter empty where not asked for.

    operators: the namespace of the operators that compute it, COMPILED or TRITON.
    """
    if takes_gradients():
        run = _DIRECT[operators]
    else:
        run = library.triton.kv_memory if operators == TRITON else library.compiled.kv_memory
    out, attention, *_ = run(image, words, mask, *weights, *options, return_attention)
    return out, attention


def takes_gradients() -> bool:
    """Whether an operator is called for its derivatives, and not for a graph that a compiler makes of it."""
    return torch.is_grad_enabled() and not torch.compiler.is_compiling()


def direct(
    operators: str, operator: str, setup_context: Callable[..., None], backward: Callable[..., tuple]
) -> Callable[..., tuple[Tensor, ...]]:
    """An operator with the derivatives that are registered for it, for callers that need no compiler.

    torch.library's own way to them is by the dispatcher to Python and back, which takes three times the time.
    """

    class Direct(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *inputs: Tensor | bool | None) -> tuple[Tensor, ...]:
            outputs = getattr(getattr(torch.ops, operators), operator)(*inputs)
            setup_context(ctx, inputs, outputs)
            return outputs

        @staticmethod
        def backward(ctx, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
            return backward(operators, ctx, *gradients)

    return Direct.apply


def cuda_architectures() -> list[str]:
    """What the CUDA kernels were compiled to, as ["sm_80", "sm_90", "compute_90"]; empty in a build without them."""
    return list(filter(None, library.compiled.cuda_architectures().split(",")))


def cuda_version() -> int:
    """The CUDA that the kernels were built with, as 13000 for 13.0; 0 in a build without them."""
    return library.compiled.cuda_version()


def _fake_forward(
    operators: str, image: Tensor, words: Tensor, mask: Tensor | None, *weights_and_options: Tensor | bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Shapes, dtypes and strides of what the forward operator returns: out, attention, mean, memory.

    The last is what the kernels keep for backward beyond the mean: what the large products gave.
    """
    batch, channels, height, width = image.shape
    slots, return_attention = words.shape[1], weights_and_options[-1]
    attention = image.new_empty((batch, slots, height, width) if return_attention else (0,))
    count = layer_memory if for_gpus(operators, image) else layer_memory_on_cpu
    mean, memory = (
        image.new_empty((batch, numbers), dtype=arithmetic_type(image))
        for numbers in (channels, count(slots, channels, *weights_and_options[:12]))
    )
    return empty_like_image(image), attention, mean, memory


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
    like = (empty_like_image(image), *(tensor.new_empty(tensor.shape) for tensor in (words, *weights)))
    return tuple(full if needs >> i & 1 else full.new_empty((0,)) for i, full in enumerate(like))


def for_gpus(operators: str, image: Tensor) -> bool:
    """Whether an operator's kernels are those for GPUs; Triton's are in its interpreter, too."""
    return image.device.type == "cuda" or operators == TRITON


def arithmetic_type(image: Tensor) -> torch.dtype:
    """The type in which the kernels compute, and keep what backward reads."""
    return torch.float64 if image.dtype == torch.float64 else torch.float32


def empty_like_image(image: Tensor) -> Tensor:
    """Uninitialised, as the kernels make a tensor of the image's shape: contiguous or channels_last."""
    channels_last = image.is_contiguous(memory_format=torch.channels_last) and not image.is_contiguous()
    return torch.empty(
        image.shape,
        dtype=image.dtype,
        device=image.device,
        memory_format=torch.channels_last if channels_last else torch.contiguous_format,
    )


def _setup_context(ctx, inputs: tuple, output: tuple) -> None:
    *tensors, linear_write_gate, relu, detach_mean, return_attention = inputs
    _, attention, *kept = output
    ctx.mark_non_differentiable(*kept, *(() if return_attention else (attention,)))
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, *kept)
    ctx.options = (linear_write_gate, relu, detach_mean)


def _backward(
    operators: str, ctx, grad_out: Tensor | None, grad_attention: Tensor | None, *_: None
) -> tuple[Tensor | None, ...]:
    image, words, mask, *weights_and_kept = ctx.saved_tensors
    weights, kept = weights_and_kept[:12], weights_and_kept[12:]
    needs = [needed for i, needed in enumerate(ctx.needs_input_grad[:15]) if i != 2]  # of image, words, weights
    if torch.is_grad_enabled():

        def form(image: Tensor, words: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
            return kv_memory_eager(image, words, mask, weights, ctx.options)

        gradients = differentiable_gradients(form, (image, words, *weights), needs, (grad_out, grad_attention))
    elif grad_out is None and grad_attention is None:
        gradients = [None] * len(needs)
    else:
        grad_out = torch.zeros_like(image) if grad_out is None else grad_out
        bits = sum(1 << i for i, needed in enumerate(needs) if needed)
        run = getattr(torch.ops, operators).kv_memory_backward
        gradients = run(grad_out, grad_attention, image, words, mask, *weights, *kept, *ctx.options, bits)
        gradients = [gradient if needed else None for gradient, needed in zip(gradients, needs, strict=True)]
    return *gradients[:2], None, *gradients[2:], None, None, None, None


def differentiable_gradients(
    form: Callable[..., tuple[Tensor, Tensor]],
    inputs: tuple[Tensor, ...],
    needs: list[bool],
    grad_outputs: tuple[Tensor | None, Tensor | None],
) -> list[Tensor | None]:
    """The gradients of inputs through an eager form of them, as functions that can be differentiated again."""
    # Aliases, so that a gradient stops at this call's inputs even where one of them was computed from another.
    aliases = [tensor.view_as(tensor) for tensor in inputs]
    outputs = form(*aliases)
    used = [(output, grad) for output, grad in zip(outputs, grad_outputs, strict=True) if grad is not None]
    wanted = [alias for alias, needed in zip(aliases, needs, strict=True) if needed]
    if not used:
        return [None] * len(inputs)
    found = torch.autograd.grad(
        [output for output, _ in used], wanted, [grad for _, grad in used], create_graph=True, allow_unused=True
    )
    remaining = iter(found)
    return [next(remaining) if needed else None for needed in needs]


def _register(operators: str) -> None:
    """Fake kernels and autograd of a namespace's operators."""
    torch.library.register_fake(f"{operators}::kv_memory", partial(_fake_forward, operators))
    torch.library.register_fake(f"{operators}::kv_memory_backward", _fake_backward)
    torch.library.register_autograd(
        f"{operators}::kv_memory", partial(_backward, operators), setup_context=_setup_context
    )


def triton_function(module: str, name: str) -> Callable[..., tuple[Tensor, ...]]:
    """A function of a module of kvmem/triton, which is imported with Triton when it is first called."""

    def run(*arguments: Tensor | bool | int | None) -> tuple[Tensor, ...]:
        return getattr(importlib.import_module(f"{__package__}.triton.{module}"), name)(*arguments)

    return run


def define_triton(schemas: tuple[str, str], module: str) -> None:
    """Operators over the functions `forward` and `backward` of a module of kvmem/triton."""
    for schema, name in zip(schemas, ("forward", "backward"), strict=True):
        operator = TRITON_LIBRARY.define(schema)
        # On a CPU they run in Triton's interpreter.
        for key in ("CPU", "CUDA"):
            TRITON_LIBRARY.impl(operator, triton_function(module, name), key)


if AVAILABLE:
    library.load()
    _register(COMPILED)

define_triton(SCHEMAS, "launch")
_register(TRITON)
_DIRECT = {name: direct(name, "kv_memory", _setup_context, _backward) for name in (COMPILED, TRITON)}
