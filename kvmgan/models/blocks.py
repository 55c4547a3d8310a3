"""Convolution blocks of the generator (AttnGAN and DM-GAN, released code) and of the small encoders."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kvmgan.models.glu import gated


def conv3x3(in_channels: int, out_channels: int) -> nn.Conv2d:
    """3x3 convolution without bias that keeps the size."""
    return nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False)


# Below this, adding the weights of a 3x3 convolution up costs more than the products that it spares.
FEW_POSITIONS = 256


def enlarging_conv(features: Tensor, weight: Tensor) -> Tensor:
    """Nearest-neighbour x2, then a 3x3 convolution: (B, in, H, W) -> (B, out, 2H, 2W).

    From ``FEW_POSITIONS`` positions B*H*W on, both are one transposed convolution. Each of the 2x2 copies of a pixel
    meets some of the nine weights, so weights that meet the same pixel are added beforehand: 4 products an output
    instead of 9, and no enlarged copy of the features.

    Args:
        features: (B, in, H, W).
        weight: (out, in, 3, 3).
    """
    batch, _, height, width = features.shape
    if batch * height * width < FEW_POSITIONS:
        return F.conv2d(F.interpolate(features, scale_factor=2.0, mode="nearest"), weight, padding=1)
    flipped = weight.flip(2, 3).transpose(0, 1)
    kernel = F.avg_pool2d(flipped, kernel_size=2, stride=1, padding=1, divisor_override=1)
    return F.conv_transpose2d(features, kernel, stride=2, padding=1)


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


def halving_block(in_channels: int, out_channels: int) -> nn.Sequential:
    """Half the size: conv3x3 with stride 2, batch normalisation, leaky ReLU. (B, in, H, W) -> (B, out, H/2, W/2)."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.LeakyReLU(0.2),
    )
