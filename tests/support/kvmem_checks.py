"""What the tests of the fused backends check alike."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.utils.deterministic
from kvmem_problems import Problem
from torch import Tensor


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """New tensors are filled with NaN before anything is written to them."""
    before = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(before[0])
    torch.utils.deterministic.fill_uninitialized_memory = before[1]


def assert_only_needed_gradients(problem: Problem, attention: bool, namespace: str = "kvmem") -> None:
    """A gradient whose bit is not set comes back empty; the others don't change by a bit.

    attention: whether the attention is returned, and its gradient given; namespace: the operators'.
    """
    operators = getattr(torch.ops, namespace)
    arguments = problem.operator_arguments(return_attention=attention)
    out, maps, *kept = operators.kv_memory(*arguments)

    def gradients(needs: int) -> tuple[Tensor, ...]:
        tensors, options = arguments[:15], arguments[15:18]
        grad_attention = maps if attention else None
        return operators.kv_memory_backward(out, grad_attention, *tensors, *kept, *options, needs)

    everything = gradients(2**14 - 1)
    for needs in (0, 1, 2, 3, *(1 << i for i in range(2, 14)), 2**14 - 2):
        for i, (found, expected) in enumerate(zip(gradients(needs), everything, strict=True)):
            if needs >> i & 1:
                assert torch.equal(found, expected), (needs, i)
            else:
                assert found.shape == (0,), (needs, i)
