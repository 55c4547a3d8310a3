"""Resizing for feature extractors as clean-fid does it (Parmar et al., 2022)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def resized(pictures: Tensor, side: int) -> Tensor:
    """Pictures (b, 3, s, s) uint8 as float32 (b, 3, side, side) in [0, 255]: bicubic, antialiased, not rounded.

    What Pillow's BICUBIC makes of each channel as floating-point numbers.
    """
    pixels = pictures.float()
    if pixels.shape[-2:] == (side, side):
        return pixels
    return F.interpolate(pixels, size=(side, side), mode="bicubic", antialias=True, align_corners=False).clamp_(0, 255)
