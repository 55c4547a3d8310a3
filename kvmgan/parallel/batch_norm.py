"""Batch normalisation whose statistics span all processes."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from kvmgan.parallel import processes
from kvmgan.parallel.exchange import gathered_for_all


def spanning(network: nn.Module) -> nn.Module:
    """The network with batch normalisations over the batches of all processes; in one process it stays as it is.

    Parameters and buffers keep their names. By NCCL torch's SyncBatchNorm does it; torch has none for CPUs.
    """
    if processes.count() == 1:
        return network
    if dist.get_backend() == "nccl":
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.__class__ = _SPANNING[type(module)]
    return network


class _Spanning:
    """Overrides the forward pass of torch's batch normalisations; every process has as many images."""

    def forward(self, features: Tensor) -> Tensor:
        if not self.training:
            return super().forward(features)
        self._check_input_dim(features)
        over = [dim for dim in range(features.ndim) if dim != 1]
        shape = [1, -1] + [1] * (features.ndim - 2)
        # In 32 bits at least: autocast runs no batch normalisation in 16 either.
        wide = features if features.dtype == torch.float64 else features.float()
        own = torch.stack(torch.var_mean(wide, dim=over, correction=0))
        variances, means = gathered_for_all(own[None]).unbind(dim=1)
        mean = means.mean(dim=0)
        # Of the parts' variances and of their means' distances: a difference of large squares would lose digits.
        variance = (variances + (means - mean).square()).mean(dim=0)
        self._remember(mean.detach(), variance.detach(), len(means) * features.numel() // features.shape[1])
        scale = self.weight * (variance + self.eps).rsqrt()
        shifted = wide * scale.view(shape) + (self.bias - mean * scale).view(shape)
        return shifted.to(features.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, positions: int) -> None:
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        unbiased = variance * (positions / max(positions - 1, 1))
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)


class _SpanningBatchNorm1d(_Spanning, nn.BatchNorm1d):
    pass


class _SpanningBatchNorm2d(_Spanning, nn.BatchNorm2d):
    pass


_SPANNING = {nn.BatchNorm1d: _SpanningBatchNorm1d, nn.BatchNorm2d: _SpanningBatchNorm2d}
