"""Faint details of pictures made as strong as outlines, for a discriminator to see."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FineDetails(nn.Module):
    """Pictures (B, 3, s, s) in [-1, 1] and, as three channels more, how far each pixel is from the 3x3 around it; in
    float32 at least.

    tanh(gain * (x - mean of 3x3)), the mean at the border of the pixels that there are. A grid of two levels of 255 on
    a flat ground weighs next to nothing in convolutions over pictures whose outlines are a hundred times as strong, so
    that discriminators hardly learn to see it (``docs/training.md``, "What discriminators don't see").

    Args:
        gain: what the differences are multiplied by.
    """

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.gain = gain

    def forward(self, images: Tensor) -> Tensor:
        # Differences of 16-bit numbers that are nearly equal, amplified, would be those of their rounding.
        images = images.to(torch.promote_types(images.dtype, torch.float32))
        means = F.avg_pool2d(images, 3, stride=1, padding=1, count_include_pad=False)
        return torch.cat((images, torch.tanh(self.gain * (images - means))), dim=1)

    def extra_repr(self) -> str:
        return f"gain={self.gain}"
