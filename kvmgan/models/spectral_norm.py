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
        """The weight over its greatest singular value, of the same shape."""
        if self.training:
            self._iterate(weight, 1)
        # Copied: the next call moves u and v on, and backward of this one needs what they were.
        u, v = self._u.clone(), self._v.clone()
        sigma = torch.dot(u, torch.mv(_matrix(weight.detach()), _as_row(v, weight)))
        return _DividedBySigma.apply(weight, u, v, sigma)

    def right_inverse(self, value: Tensor) -> Tensor:
        """What an assigned weight is kept as: itself."""
        return value

    @torch.no_grad()
    def _iterate(self, weight: Tensor, times: int) -> None:
        matrix, v = _matrix(weight), _as_row(self._v, weight)
        for _ in range(times):
            F.normalize(torch.mv(matrix, v), dim=0, eps=EPSILON, out=self._u)
            v = F.normalize(torch.mv(matrix.T, self._u), dim=0, eps=EPSILON)
        self._v.copy_(_from_row(v, weight))


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
        # Alike, so that neither's matrix is a copy; were it one, it would be right all the same.
        scaled = (gradient / sigma).contiguous(memory_format=_order(normalised))
        rows = _matrix(scaled)
        along = torch.dot(rows.flatten(), _matrix(normalised).flatten())
        rows.addr_(-along * u, _as_row(v, normalised))
        return _from_matrix(rows, normalised), None, None, None


def _order(weight: Tensor) -> torch.memory_format:
    """The order in which a matrix of the weight is read without being copied."""
    side_by_side = weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
    return torch.channels_last if side_by_side else torch.contiguous_format


def _matrix(weight: Tensor) -> Tensor:
    """(out, in, height, width) as (out, in * height * width), columns in the order in which they lie in memory."""
    last = _order(weight) == torch.channels_last
    return (weight.permute(0, 2, 3, 1) if last else weight).flatten(1)


def _from_matrix(rows: Tensor, weight: Tensor) -> Tensor:
    """What `_matrix` made of a tensor like ``weight``, back in its shape."""
    count, channels, height, width = weight.shape
    if _order(weight) == torch.contiguous_format:
        return rows.view(weight.shape)
    return rows.view(count, height, width, channels).permute(0, 3, 1, 2)


def _as_row(v: Tensor, weight: Tensor) -> Tensor:
    """A vector in the order (in, height, width) in that of the columns of ``_matrix(weight)``."""
    if _order(weight) == torch.contiguous_format:
        return v
    return v.view(weight.shape[1:]).permute(1, 2, 0).flatten()


def _from_row(row: Tensor, weight: Tensor) -> Tensor:
    """What `_as_row` made of a vector, back in the order (in, height, width)."""
    if _order(weight) == torch.contiguous_format:
        return row
    channels, height, width = weight.shape[1:]
    return row.view(height, width, channels).permute(2, 0, 1).flatten()
