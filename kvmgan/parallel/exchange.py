"""Tensors that processes exchange: sums, and batches put together, with their gradients."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from kvmgan.parallel import processes


class GradientSum:
    """Adds the gradients of some parameters up over all processes, as one flat tensor, while other work goes on.

    Parameters without a gradient, the same ones in every process, are left out.
    """

    def __init__(self, parameters: Iterable[Tensor], scale: float = 1.0):
        """Start adding; each process's gradients count ``scale`` times."""
        self._gradients = [one.grad for one in parameters if one.grad is not None] if processes.count() > 1 else []
        if self._gradients:
            self._flat = torch.cat([gradient.flatten() for gradient in self._gradients]).mul_(scale)
            self._work = dist.all_reduce(self._flat, async_op=True)

    def finish(self) -> None:
        """Put the sums in the place of the gradients."""
        if self._gradients:
            self._work.wait()
            parts = self._flat.split([gradient.numel() for gradient in self._gradients])
            sums = [part.view(gradient.shape) for part, gradient in zip(parts, self._gradients, strict=True)]
            torch._foreach_copy_(self._gradients, sums)


def summed(tensor: Tensor) -> Tensor:
    """The sum over all processes, without a gradient."""
    if processes.count() == 1:
        return tensor
    total = tensor.detach().clone()
    dist.all_reduce(total)
    return total


def gathered(tensor: Tensor) -> Tensor:
    """The batches (n, ...) of all processes, one after the other, (processes * n, ...).

    Its gradient is that by the process's own batch: it serves a loss that every process computes whole, from which the
    gradients by all batches then add up to the gradient of that one loss.
    """
    return tensor if processes.count() == 1 else _Gathered.apply(tensor, False)


def gathered_for_all(tensor: Tensor) -> Tensor:
    """The same; its gradient is the sum of all processes' gradients: they go on to compute different things by it."""
    return tensor if processes.count() == 1 else _Gathered.apply(tensor, True)


def gathered_on_host(tensor: Tensor) -> Tensor:
    """The same of a tensor (n, ...) that lies on the host whatever the processes' devices are."""
    return tensor if processes.count() == 1 else _put_together(tensor, processes.control())


@torch.no_grad()
def take_buffers_of_leader(network: nn.Module) -> None:
    """Give every process the leader's buffers, such as running statistics that each has taken of its own batches."""
    if processes.count() > 1:
        for buffer in network.buffers():
            dist.broadcast(buffer, src=0)


def own_batch(whole: Tensor) -> Tensor:
    """This process's (n, ...) of what :func:`gathered` put together."""
    return whole.chunk(processes.count())[processes.rank()]


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, tensor: Tensor, for_all: bool) -> Tensor:
        ctx.for_all = for_all
        return _put_together(tensor)

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, None]:
        return own_batch(summed(gradient) if ctx.for_all else gradient), None


def _put_together(tensor: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """As a sum of batches that stand in a place of their own, each among zeros: gloo gathers nothing on GPUs."""
    carried = torch.uint8 if tensor.dtype == torch.bool else tensor.dtype
    whole = torch.zeros((processes.count() * len(tensor), *tensor.shape[1:]), dtype=carried, device=tensor.device)
    own_batch(whole).copy_(tensor)
    dist.all_reduce(whole, group=group)
    return whole.to(tensor.dtype)
