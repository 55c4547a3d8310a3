"""The fused operators as operators of PyTorch: for exported programs that go where kvmem's library doesn't."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch._ops import OpOverload

from kvmem import library
from kvmem.reference import kv_memory_eager, memory_read_eager


def decompositions() -> dict[OpOverload, Callable[..., tuple[Tensor, ...]]]:
    """Operator -> its eager form, for `exported_program.run_decompositions(kvmem.decompositions())`.

    The program then holds operators of PyTorch alone: for runtimes and compilers that know no others, and for processes
    without kvmem's library. Of programs that infer: what the operator keeps for a fused backward is left empty.
    """
    namespaces = [library.TRITON, *([library.COMPILED] if library.AVAILABLE else [])]
    forms = {"kv_memory": _kv_memory, "memory_read": _memory_read}
    return {
        getattr(getattr(torch.ops, namespace), name).default: form
        for namespace in namespaces
        for name, form in forms.items()
    }


def _kv_memory(
    image: Tensor, words: Tensor, mask: Tensor | None, *weights_and_options: Tensor | bool
) -> tuple[Tensor, ...]:
    """What the operator `kv_memory` returns: out, attention, mean, memory."""
    weights, (*options, return_attention) = weights_and_options[:12], weights_and_options[12:]
    return _outputs(kv_memory_eager(image, words, mask, weights, tuple(options)), return_attention, kept=2)


def _memory_read(image: Tensor, *rest: Tensor | bool | None) -> tuple[Tensor, ...]:
    """What the operator `memory_read` returns: out, attention, memory."""
    *inputs, return_attention = rest
    return _outputs(memory_read_eager(image, *inputs), return_attention, kept=1)


def _outputs(found: tuple[Tensor, Tensor], return_attention: bool, kept: int) -> tuple[Tensor, ...]:
    """An operator's: empty are the attention where it wasn't asked for, and what backward would read."""
    out, attention = found
    empty = [out.new_empty((0,)) for _ in range(kept)]
    return out, attention if return_attention else out.new_empty((0,)), *empty
