"""Image files of any mode, depth and orientation as the RGB pixels that a viewer shows."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image

from kvmgan.data.tar_member import TarMember

# What turns an image upright, by the orientation that its EXIF data names; 1 is upright.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_FIRST_LYING = 5
_BROKEN_EXIF = (SyntaxError, ValueError, TypeError, KeyError, OSError, OverflowError, struct.error)


def open_image(source: Path | TarMember | BinaryIO) -> Image.Image:
    """Open an image file by its path, in its archive or as a file; its header alone is read. Raise as Pillow does."""
    return Image.open(source.open() if isinstance(source, TarMember) else source)


def shown_size(image: Image.Image, *, upright: bool) -> tuple[int, int]:
    """Return width and height of an opened image, turned `upright` or as stored; its pixels aren't read."""
    width, height = image.size
    return (height, width) if upright and _orientation(image) >= _FIRST_LYING else (width, height)


def to_rgb(image: Image.Image, *, upright: bool) -> Image.Image:
    """Return an opened image as 8-bit RGB: transparent parts on white, 16-bit grey by its full range.

    upright: turned as its EXIF orientation says, else as stored.
    Raises ValueError for grey values whose range isn't known, such as floats.
    """
    turn = _TURNS.get(_orientation(image)) if upright else None
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _eight_bits(image)
    elif image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    image = image.convert("RGB")
    return image if turn is None else image.transpose(turn)


def _orientation(image: Image.Image) -> int:
    """Return 1 to 8; 1 where none is named, or one that doesn't exist, or in EXIF data that is damaged."""
    try:
        named = image.getexif().get(ExifTags.Base.Orientation, 1)
    except _BROKEN_EXIF:
        return 1
    return named if named in _TURNS else 1


def _eight_bits(image: Image.Image) -> Image.Image:
    """Return grey values of 16 bits, which Pillow would cut off at 255, as 8 bits."""
    values = np.asarray(image)
    if values.dtype.kind not in "iu" or values.min() < 0 or values.max() > 0xFFFF:
        raise ValueError(f"its grey values are {values.dtype} beyond 16 bits, of no known range")
    return Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))
