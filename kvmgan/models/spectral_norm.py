"""Spectral normalisation (Miyato et al., 2018) whose backward reads and writes the weight as seldom as it can."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn.utils import parametrize

# torch.nn.utils.parametrizations.spectral_norm has these, too.
EPSILON = 1e-12
FIRST_ITERATIONS = 15


def spectral_norm(conv: nn.Conv2d) -> nn.Conv2d:
    """Divide the convolution's weight by its greatest singular value, estimated by one power iteration a read.

    The same numbers and the same keys in ``state_dict`` as `torch.nn.utils.parametrizations.spectral_norm`; the
    derivative can't be differentiated once more. Returns ``conv``.
    """
    parametrize.register_parametrization(conv, "weight", SpectralNorm(conv.weight))
    return conv


class SpectralNorm(nn.Module):
    """W / sigma with sigma = uᵀWv; u and v follow the weight in training mode, by one power iteration a call.

    Args:
        weight: (out, in, height, width), which is read as the matrix (out, in * height * width).
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        rows, columns = weight.detach().flatten(1).shape
        self.register_buffer("_u", F.normalize(weight.new_empty(rows).normal_(), dim=0, eps=EPSILON))
        self.register_buffer("_v", F.normalize(weight.new_empty(columns).normal_(), dim=0, eps=EPSILON))
        self._iterate(weight, FIRST_ITERATIONS)

    def forward(self, weight: Tensor) -> Tensor:
        """The weight over its greatest singular value, of the same shape, in its own type under autocast, too."""
        # On GPUs autocast would run mv in 16 bits, and dot is given one result of it and one float32 vector.
        with torch.autocast(weight.device.type, enabled=False):
            if self.training:
                self._iterate(weight, 1)
            # Copied: the next call moves u and v on, and backward of this one needs what they were.
            u, v = self._u.clone(), self._v.clone()
            order = _order(weight)
            (row,) = _matrix(v.view_as(weight[:1]), order)
            sigma = torch.dot(u, torch.mv(_matrix(weight.detach(), order), row))
            return _DividedBySigma.apply(weight, u, v, sigma)

    def right_inverse(self, value: Tensor) -> Tensor:
        """What an assigned weight is kept as: itself."""
        return value

    @torch.no_grad()
    def _iterate(self, weight: Tensor, times: int) -> None:
        order = _order(weight)
        matrix = _matrix(weight, order)
        (v,) = _matrix(self._v.view_as(weight[:1]), order)
        for _ in range(times):
            F.normalize(torch.mv(matrix, v), dim=0, eps=EPSILON, out=self._u)
            v = F.normalize(torch.mv(matrix.T, self._u), dim=0, eps=EPSILON)
        self._v.copy_(_from_matrix(v, weight.shape[1:], order).flatten())


class _DividedBySigma(torch.autograd.Function):
    """W / sigma. Its gradient by W is (G - <G, W / sigma> u vᵀ) / sigma."""

    @staticmethod
    def forward(ctx: FunctionCtx, weight: Tensor, u: Tensor, v: Tensor, sigma: Tensor) -> Tensor:
        normalised = weight / sigma
        ctx.save_for_backward(normalised, u, v, sigma)
        return normalised

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        normalised, u, v, sigma = ctx.saved_tensors
        order = _order(normalised)
        # In the order of the other, so that neither's matrix is a copy; were it one, it would be right all the same.
        rows = _matrix((gradient / sigma).contiguous(memory_format=order), order)
        along = torch.dot(rows.flatten(), _matrix(normalised, order).flatten())
        (row,) = _matrix(v.view_as(normalised[:1]), order)
        rows.addr_(-along * u, row)
        return _from_matrix(rows, normalised.shape[1:], order), None, None, None


def _order(weight: Tensor) -> torch.memory_format:
    """The order in which a matrix of the weight is read without being copied."""
    side_by_side = weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
    return torch.channels_last if side_by_side else torch.contiguous_format


def _matrix(tensor: Tensor, order: torch.memory_format) -> Tensor:
    """(N, in, height, width) as (N, in * height * width), columns as they lie in memory in this order."""
    return (tensor.permute(0, 2, 3, 1) if order == torch.channels_last else tensor).flatten(1)


def _from_matrix(matrix: Tensor, shape: torch.Size, order: torch.memory_format) -> Tensor:
    """What `_matrix` made of a tensor (N, *shape), back in its shape."""
    if order == torch.channels_last:
        channels, height, width = shape
        return matrix.view(-1, height, width, channels).permute(0, 3, 1, 2)
    return matrix.view(-1, *shape)
