"""Decoding stored images, and the crops and smaller scales that training takes of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from kvmgan.data.image_file import open_image, shown_size, to_rgb
from kvmgan.data.tar_member import TarMember

# What Pillow raises for files that are no image, cut short or damaged (SyntaxError: broken PNG chunks).
DECODING_ERRORS = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)

# Raise it when `decode` comes to return other pixels: what was prepared, or trained on them, is then made anew.
DECODING_VERSION = 2

# Images are kept this much larger than the largest training size, to leave room for random crops (AttnGAN).
_MARGIN_NUMERATOR, _MARGIN_DENOMINATOR = 76, 64

Box = tuple[float, float, float, float]


def stored_side(size: int) -> int:
    """Return the shorter side in pixels at which images are kept for crops of `size`: 76/64 of it, rounded down."""
    return size * _MARGIN_NUMERATOR // _MARGIN_DENOMINATOR


def crop_limits(box: Box, width: int, height: int) -> tuple[int, int, int, int]:
    """Return left, top, right, bottom of the square around the centre of `box` that AttnGAN crops CUB images to.

    Its half side is int(0.75 * max(box width, box height)); it is clipped to the image of `width` x `height` pixels.
    Raises ValueError when nothing of it lies inside the image.
    """
    half = int(0.75 * max(box[2], box[3]))
    centre_x, centre_y = int(box[0] + box[2] / 2.0), int(box[1] + box[3] / 2.0)
    left, top = max(0, centre_x - half), max(0, centre_y - half)
    right, bottom = min(width, centre_x + half), min(height, centre_y + half)
    if left >= right or top >= bottom:
        raise ValueError(f"the box {box} lies outside the image of {width} x {height} pixels")
    return left, top, right, bottom


def kept_shape(width: int, height: int, box: Box | None, side: int) -> tuple[int, int]:
    """Return the height and width at which `decode` keeps an image that is shown at `width` x `height` pixels."""
    if box is not None:
        left, top, right, bottom = crop_limits(box, width, height)
        width, height = right - left, bottom - top
    zoom = side / min(width, height)
    return max(side, round(height * zoom)), max(side, round(width * zoom))


def decode(path: Path | TarMember | BinaryIO, box: Box | None, side: int) -> NDArray[np.uint8]:
    """Return the RGB pixels (H, W, 3) of `path`, cropped to `box` and resized so that the shorter side is `side`.

    An image without a box is turned upright by its EXIF orientation; boxes are in the pixels as they are stored.
    Raises one of `DECODING_ERRORS` when the file is missing or damaged.
    """
    with open_image(path) as image:
        pixels = to_rgb(image, upright=box is None)
    height, width = kept_shape(*pixels.size, box, side)
    limits = crop_limits(box, *pixels.size) if box is not None else None
    return np.asarray(pixels.resize((width, height), Image.Resampling.BILINEAR, box=limits))


def read_kept_shape(path: Path | TarMember, box: Box | None, side: int) -> tuple[int, int]:
    """Return the height and width of what `decode` returns, from the file's header. Raises as `decode` does."""
    with open_image(path) as image:
        return kept_shape(*shown_size(image, upright=box is None), box, side)


def reason(error: Exception) -> str:
    """Return in words why an image can't be used; `error` is one of `DECODING_ERRORS`."""
    return "the file is missing" if isinstance(error, FileNotFoundError) else f"the image cannot be decoded ({error})"


def crop(pixels: NDArray[np.uint8], size: int, vertical: float, horizontal: float) -> NDArray[np.uint8]:
    """Return a view (size, size, 3) of `pixels`; 0 to 1 moves it from the top to the bottom, from left to right."""
    top = round(vertical * (pixels.shape[0] - size))
    left = round(horizontal * (pixels.shape[1] - size))
    return pixels[top : top + size, left : left + size]


def to_scales(pixels: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """Return `pixels` (B, 3, S, S) uint8 as float32 tensors (B, 3, s, s) in [-1, 1], one for each of `sizes`.

    sizes: sides in pixels, ascending; the last is S. All is done on the device of `pixels`.
    A scale is the area average of the next larger one where the ratio is whole, else its antialiased bilinear resize.
    Raises ValueError when `pixels` are of another type or shape.
    """
    if pixels.dtype != torch.uint8 or pixels.shape[1:] != (3, sizes[-1], sizes[-1]):
        found = f"{tuple(pixels.shape)} {pixels.dtype}"
        raise ValueError(f"pixels is {found}, expected (B, 3, {sizes[-1]}, {sizes[-1]}) torch.uint8")
    whole = pixels.to(torch.float32, memory_format=torch.contiguous_format)
    scales = [whole.mul_(2.0 / 255.0).sub_(1.0)]
    for size in reversed(sizes[:-1]):
        scales.append(_shrink(scales[-1], size))
    return scales[::-1]


def to_bytes(images: Tensor, *, truncate: bool = False) -> Tensor:
    """Return `images` in [-1, 1] as uint8, as a PNG file keeps them: each level the nearest, or that below.

    truncate: as the released AttnGAN and DM-GAN code saves pictures.
    """
    levels = (images.detach().float().clamp(-1, 1) + 1) * 127.5
    return (levels if truncate else levels.round()).to(torch.uint8)


def _shrink(images: Tensor, size: int) -> Tensor:
    """Return `images` (B, 3, S, S) at the smaller side `size`."""
    ratio, rest = divmod(images.shape[-1], size)
    if rest == 0:
        return torch.nn.functional.avg_pool2d(images, ratio)
    return torch.nn.functional.interpolate(images, size=(size, size), mode="bilinear", antialias=True)
