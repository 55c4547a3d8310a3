"""Convolution blocks of the generator (AttnGAN and DM-GAN, released code) and of the small encoders."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kvmgan.models.enlargement import enlarging_conv
from kvmgan.models.glu import gated


def conv3x3(in_channels: int, out_channels: int) -> nn.Conv2d:
    """3x3 convolution without bias that keeps the size."""
    return nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False)


def folded(weight: Tensor) -> Tensor:
    """The weight (out, C, 3, 3) that makes of h what ``weight`` (out, 2C, 3, 3) makes of (h, h): its halves added."""
    first, second = weight.chunk(2, dim=1)
    return first + second


class UpsampleBlock(nn.Module):
    """Double the size: nearest x2, conv3x3, batch normalisation, GLU. (B, in, H, W) -> (B, out, 2H, 2W)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = conv3x3(in_channels, 2 * out_channels)
        self.norm = nn.BatchNorm2d(2 * out_channels)

    def forward(self, features: Tensor, *, doubled: bool = False) -> Tensor:
        """``doubled``: features are (B, in / 2, H, W) and stand for themselves twice over."""
        weight = folded(self.conv.weight) if doubled else self.conv.weight
        return gated(self.norm(enlarging_conv(features, weight)))


class ResidualBlock(nn.Module):
    """x + (conv3x3, batch normalisation, GLU, conv3x3, batch normalisation)(x), shape (B, channels, H, W) kept."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(channels, 2 * channels)
        self.norm1 = nn.BatchNorm2d(2 * channels)
        self.conv2 = conv3x3(channels, channels)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, features: Tensor, *, doubled: bool = False) -> Tensor:
        """``doubled``: features are (B, channels / 2, H, W) and stand for themselves twice over."""
        weight = folded(self.conv1.weight) if doubled else self.conv1.weight
        hidden = gated(self.norm1(F.conv2d(features, weight, padding=1)))
        change = self.norm2(self.conv2(hidden))
        if not doubled:
            return features + change
        # Added to both halves at once: the doubled features never stand in memory.
        return (change.unflatten(1, (2, -1)) + features.unsqueeze(1)).flatten(1, 2)


class ImageHead(nn.Module):
    """Features to an image in [-1, 1]: conv3x3, tanh. (B, C, H, W) -> (B, 3, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv3x3(channels, 3)

    def forward(self, features: Tensor) -> Tensor:
        return torch.tanh(self.conv(features))


def halving_block(in_channels: int, out_channels: int, *, kernel_size: int = 3) -> nn.Sequential:
    """Half the size: convolution of stride 2, batch normalisation, leaky ReLU. (B, in, H, W) -> (B, out, H/2, W/2).

    Args:
        kernel_size: 3 or 4. By 4x4 every input reaches as many outputs as any other, so that gradients by the input
            have no grid of their own (Odena et al. 2016); by 3x3 some reach one, some four.
    """
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.LeakyReLU(0.2),
    )
