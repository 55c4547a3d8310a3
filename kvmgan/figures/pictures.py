"""Tensors to pictures, text beside pictures, and PNG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from kvmgan.data.pixels import to_bytes
from kvmgan.errors import UserError
from kvmgan.files import atomic_file

BACKGROUND = (255, 255, 255)
INK = (20, 20, 20)
MARGIN = 8


def to_picture(image: Tensor, side: int | None = None) -> Image.Image:
    """A picture from (3, s, s) in [-1, 1], enlarged to ``side`` pixels as :func:`enlarged` does."""
    picture = Image.fromarray(to_bytes(image).cpu().permute(1, 2, 0).contiguous().numpy())
    return picture if side is None else enlarged(picture, side)


def to_pictures(images: Tensor) -> list[Image.Image]:
    """Pictures from (B, 3, s, s) in [-1, 1]."""
    return [to_picture(image) for image in images]


def enlarged(picture: Image.Image, side: int) -> Image.Image:
    """A square picture at ``side`` pixels by repeating pixels: what the model drew, nothing smoothed over it."""
    return picture.resize((side, side), Image.Resampling.NEAREST)


def save_png(picture: Image.Image, path: Path, text: Mapping[str, str] | None = None) -> None:
    """Write a PNG file atomically.

    Args:
        text: what the file says of itself, by keyword: those of the PNG specification, or one's own.

    Raises:
        UserError: if it can't be written.
    """
    said = PngInfo()
    for keyword, value in (text or {}).items():
        said.add_text(keyword, value)
    try:
        with atomic_file(path) as temporary:
            picture.save(temporary, format="PNG", pnginfo=said)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from None


def png_text(path: Path) -> dict[str, str]:
    """What a PNG file says of itself, by keyword; nothing if it says nothing or is no PNG file."""
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            return dict(picture.text)
    except (OSError, SyntaxError, ValueError):
        return {}


@cache
def font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """Pillow's own font at ``size`` pixels."""
    return ImageFont.load_default(size)


def wrap(text: str, width: int, size: int) -> list[str]:
    """Break text into lines of at most ``width`` pixels; a longer word is cut where the line ends."""
    lines: list[str] = []
    for word in (piece for whole in text.split() for piece in _pieces(whole, width, size)):
        joined = f"{lines[-1]} {word}" if lines else word
        if lines and font(size).getlength(joined) <= width:
            lines[-1] = joined
        else:
            lines.append(word)
    return lines


def write_lines(canvas: Image.Image, lines: Sequence[str], left: int, top: int, size: int) -> None:
    """Write lines of text downwards from a corner."""
    draw = ImageDraw.Draw(canvas)
    for number, line in enumerate(lines):
        draw.text((left, top + number * line_height(size)), line, fill=INK, font=font(size))


def line_height(size: int) -> int:
    """Distance of lines of text [pixels]."""
    return round(size * 1.25)


def _pieces(word: str, width: int, size: int) -> list[str]:
    """The word, or its stretches that fit into ``width`` pixels, one letter at least."""
    pieces = [""]
    for letter in word:
        if pieces[-1] and font(size).getlength(pieces[-1] + letter) > width:
            pieces.append("")
        pieces[-1] += letter
    return pieces
