"""A generator made ready to draw with: normalisation in the weights, sums of weights added up once."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

from kvmgan.models.blocks import ResidualBlock, UpsampleBlock, folded
from kvmgan.models.enlargement import enlarging_kernel
from kvmgan.models.generator import Generator, InitialStage
from kvmgan.models.glu import gated
from kvmgan.models.refinement import RefinementStage


def for_inference(generator: Generator) -> Generator:
    """A copy of a generator that draws what it draws in evaluation mode, to rounding, in less time.

    Batch normalisation, which is a scale and a shift then, goes into the weights before it; weights that meet the
    same pixel, or the same channel twice, are added beforehand; weights lie in channels_last. The copy is in evaluation
    mode, without gradients, on the generator's device and in its type; the arithmetic on the weights is in float32 or
    their own type, whichever is wider. Its state has other names and shapes than a generator's.
    """
    made = copy.deepcopy(generator).eval().requires_grad_(False)
    _fold_initial(made.initial)
    for stage in made.refinements:
        _fold_refinement(stage)
    return made.to(memory_format=torch.channels_last)


class _Upsample(nn.Module):
    """:class:`UpsampleBlock` in evaluation mode."""

    def __init__(self, block: UpsampleBlock, *, doubled: bool) -> None:
        super().__init__()
        weight, bias = _fused(block.conv, block.norm, doubled=doubled)
        self.register_buffer("kernel", enlarging_kernel(weight).to(block.conv.weight.dtype))
        self.register_buffer("bias", bias.to(block.conv.weight.dtype))

    def forward(self, features: Tensor, *, doubled: bool = False) -> Tensor:
        return gated(F.conv_transpose2d(features, self.kernel, self.bias, stride=2, padding=1))


class _Residual(nn.Module):
    """:class:`ResidualBlock` in evaluation mode."""

    def __init__(self, block: ResidualBlock, *, doubled: bool) -> None:
        super().__init__()
        parts = {"1": (block.conv1, block.norm1, doubled), "2": (block.conv2, block.norm2, False)}
        for number, (conv, norm, twice) in parts.items():
            weight, bias = _fused(conv, norm, doubled=twice)
            self.register_buffer(f"weight{number}", weight.to(conv.weight.dtype))
            self.register_buffer(f"bias{number}", bias.to(conv.weight.dtype))

    def forward(self, features: Tensor, *, doubled: bool = False) -> Tensor:
        hidden = gated(F.conv2d(features, self.weight1, self.bias1, padding=1))
        change = F.conv2d(hidden, self.weight2, self.bias2, padding=1)
        if not doubled:
            return change.add_(features)
        for half in change.chunk(2, dim=1):
            half.add_(features)
        return change


def _fused(conv: nn.Conv2d, norm: nn.BatchNorm2d, *, doubled: bool) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution followed by its normalisation."""
    weight = _wide(conv.weight)
    if doubled:
        weight = folded(weight)
    return fuse_conv_bn_weights(weight, None, *_statistics(norm))


def _statistics(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> tuple[Tensor, Tensor, float, Tensor, Tensor]:
    mean, variance, scale, shift = map(_wide, (norm.running_mean, norm.running_var, norm.weight, norm.bias))
    return mean, variance, norm.eps, scale, shift


def _wide(tensor: Tensor) -> Tensor:
    return tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32))


def _fold_initial(initial: InitialStage) -> None:
    fc, dtype = initial.fc, initial.fc.weight.dtype
    weight, bias = fuse_linear_bn_weights(_wide(fc.weight), None, *_statistics(initial.norm))
    fc.weight, fc.bias = (nn.Parameter(part.to(dtype), requires_grad=False) for part in (weight, bias))
    initial.norm = nn.Identity()
    initial.blocks = nn.ModuleList(_Upsample(block, doubled=False) for block in initial.blocks)


def _fold_refinement(stage: RefinementStage) -> None:
    doubled = stage.refinement != "attention"
    stage.residual = nn.ModuleList(
        _Residual(block, doubled=doubled and number == 0) for number, block in enumerate(stage.residual)
    )
    stage.upsample = _Upsample(stage.upsample, doubled=doubled and not len(stage.residual))
