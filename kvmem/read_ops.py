"""The operators of `kvmem.memory_read` in PyTorch, with fake kernels and autograd, as kvmem/ops.py has the layer's."""

from functools import partial

import torch
from torch import Tensor

from kvmem import library, ops
from kvmem.kept import given_memory
from kvmem.reference import memory_read_eager

_GIVEN = "Tensor keys, Tensor values, Tensor? mask, Tensor? response_gate_weight, Tensor? response_gate_bias"
# As in csrc/torch_ops.cpp.
SCHEMAS = (
    f"memory_read(Tensor image, {_GIVEN}, bool return_attention) -> (Tensor out, Tensor attention, Tensor memory)",
    f"memory_read_backward(Tensor grad_out, Tensor? grad_attention, Tensor image, {_GIVEN}, Tensor memory, int needs) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)


def memory_read(
    operators: str,
    image: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None,
    gate: tuple[Tensor | None, Tensor | None],
    return_attention: bool,
) -> tuple[Tensor, Tensor]:
    """The fused reading: response (B, C, H, W) and attention (B, T, H, W), the latter empty where not asked for.

    operators: the namespace of the operators that compute it, library.COMPILED or library.TRITON.
    """
    if ops.takes_gradients():
        run = _DIRECT[operators]
    else:
        run = library.triton.memory_read if operators == library.TRITON else library.compiled.memory_read
    out, attention, *_ = run(image, keys, values, mask, *gate, return_attention)
    return out, attention


def _fake_forward(
    operators: str,
    image: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None,
    gate_weight: Tensor | None,
    gate_bias: Tensor | None,
    return_attention: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Shapes, dtypes and strides of out, attention, and memory, which the kernels for GPUs keep for backward."""
    batch, channels, height, width = image.shape
    slots = keys.shape[1]
    attention = image.new_empty((batch, slots, height, width) if return_attention else (0,))
    kept = given_memory(slots, channels, gate_weight) if ops.for_gpus(operators, image) else 0
    memory = image.new_empty((batch, kept), dtype=ops.arithmetic_type(image))
    return ops.empty_like_image(image), attention, memory


def _fake_backward(
    grad_out: Tensor,
    grad_attention: Tensor | None,
    image: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None,
    gate_weight: Tensor | None,
    gate_bias: Tensor | None,
    memory: Tensor,
    needs: int,
) -> tuple[Tensor, ...]:
    """Shapes, dtypes and strides of the gradients: empty (0,) for one not needed."""
    like = [ops.empty_like_image(image)]
    like += [
        image.new_empty((0,)) if x is None else x.new_empty(x.shape) for x in (keys, values, gate_weight, gate_bias)
    ]
    return tuple(full if needs >> i & 1 else full.new_empty((0,)) for i, full in enumerate(like))


def _setup_context(ctx, inputs: tuple, output: tuple) -> None:
    *tensors, return_attention = inputs
    _, attention, *kept = output
    ctx.mark_non_differentiable(*kept, *(() if return_attention else (attention,)))
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, *kept)


def _backward(
    operators: str, ctx, grad_out: Tensor | None, grad_attention: Tensor | None, *_: None
) -> tuple[Tensor | None, ...]:
    image, keys, values, mask, gate_weight, gate_bias, *kept = ctx.saved_tensors
    needs = [needed for i, needed in enumerate(ctx.needs_input_grad[:6]) if i != 3]  # all but the mask
    if torch.is_grad_enabled():
        inputs = [one for one in (image, keys, values, gate_weight, gate_bias) if one is not None]

        def form(image: Tensor, keys: Tensor, values: Tensor, *gate: Tensor) -> tuple[Tensor, Tensor]:
            return memory_read_eager(image, keys, values, mask, *(gate or (None, None)))

        gradients = ops.differentiable_gradients(form, inputs, needs[: len(inputs)], (grad_out, grad_attention))
        gradients += [None] * (5 - len(inputs))
    elif grad_out is None and grad_attention is None:
        gradients = [None] * 5
    else:
        grad_out = torch.zeros_like(image) if grad_out is None else grad_out
        bits = sum(1 << i for i, needed in enumerate(needs) if needed)
        run = getattr(torch.ops, operators).memory_read_backward
        found = run(grad_out, grad_attention, image, keys, values, mask, gate_weight, gate_bias, *kept, bits)
        gradients = [gradient if needed else None for gradient, needed in zip(found, needs, strict=True)]
    return *gradients[:3], None, *gradients[3:], None


def _register(operators: str) -> None:
    torch.library.register_fake(f"{operators}::memory_read", partial(_fake_forward, operators))
    torch.library.register_fake(f"{operators}::memory_read_backward", _fake_backward)
    torch.library.register_autograd(
        f"{operators}::memory_read", partial(_backward, operators), setup_context=_setup_context
    )


if library.AVAILABLE:
    _register(library.COMPILED)
ops.define_triton(SCHEMAS, "read_launch")
_register(library.TRITON)
_DIRECT = {
    name: ops.direct(name, "memory_read", _setup_context, _backward) for name in (library.COMPILED, library.TRITON)
}
