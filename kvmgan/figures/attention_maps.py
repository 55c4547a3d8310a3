"""Where each word of a caption is looked at: a tile a word and refinement, its attention laid over the picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kvmgan.data.function_words import content_first
from kvmgan.figures.pictures import BACKGROUND, MARGIN, line_height, wrap, write_lines
from kvmgan.figures.tile_sheet import LABEL_SIZE, Section, tile_sheet

TEXT_SIZE = 16
BAR = (240, 14)
_DIM = 0.25
# A word whose shares differ by less is looked at alike everywhere: its tile is dark instead of showing rounding errors.
_LEAST_RANGE = 0.02
_GLOW = np.array([255, 160, 0], np.float32)


def attention_maps(
    picture: Image.Image,
    attention: Sequence[NDArray[np.float32]],
    words: Sequence[str],
    caption: str,
    *,
    columns: int = 7,
    side: int = 128,
) -> Image.Image:
    """Draw the caption, a section a refinement with the picture and a tile a word, and what the colours mean.

    Words that say something come first, then "a", "with" and their like. Each word is scaled by itself, from where it
    has its least share of the attention (dark) to where it has its most (glowing); the shares stand below the tile.

    Args:
        picture: (s, s), the finished picture.
        attention: a refinement each, (T, h, w); at each position the T words' shares sum to one.
        words: the T words, in their order in the caption.

    Raises:
        ValueError: a refinement has another number of maps than there are words, or there is none.
    """
    for maps in attention:
        if len(maps) != len(words):
            raise ValueError(f"words has {len(words)} entries, expected {len(maps)} (the maps of a refinement)")
    order = content_first(words)
    sections = []
    for number, maps in enumerate(attention, start=1):
        tiles = [("picture", picture)]
        for place in order:
            low, high = float(maps[place].min()), float(maps[place].max())
            label = f"{words[place]} {_percent(low)} to {_percent(high)} %"
            tiles.append((label, _overlay(picture, maps[place])))
        heading = f"refinement {number}, at {maps.shape[2]} x {maps.shape[1]} positions"
        sections.append(Section(heading, tiles))
    sheet = tile_sheet(sections, columns=columns, side=side)
    head = wrap(caption, sheet.width - 2 * MARGIN, TEXT_SIZE)
    top = MARGIN + len(head) * line_height(TEXT_SIZE)
    canvas = Image.new("RGB", (sheet.width, top + sheet.height + _bar_height(sheet.width)), BACKGROUND)
    write_lines(canvas, head, MARGIN, MARGIN, TEXT_SIZE)
    canvas.paste(sheet, (0, top))
    _draw_bar(canvas, top + sheet.height)
    return canvas


def _percent(share: float) -> str:
    """A share in percent, with a digit behind the point below ten."""
    return f"{100 * share:.1f}" if share < 0.0995 else f"{100 * share:.0f}"


def _overlay(picture: Image.Image, shares: NDArray[np.float32]) -> Image.Image:
    """The picture darkened where the shares (h, w) are least and glowing where they are most."""
    span = float(shares.max() - shares.min())
    heat = np.zeros_like(shares) if span < _LEAST_RANGE else (shares - shares.min()) / span
    fine = Image.fromarray(heat.astype(np.float32)).resize(picture.size, Image.Resampling.BILINEAR)
    return _coloured(np.asarray(picture.convert("RGB"), np.float32), np.asarray(fine)[..., None])


def _coloured(pixels: NDArray[np.float32], heat: NDArray[np.float32]) -> Image.Image:
    """Pixels (h, w, 3) of 0 to 255 as they look at heat (h, w, 1) of 0 to 1."""
    dimmed = pixels * (_DIM + (1 - _DIM) * heat)
    return Image.fromarray((dimmed + (_GLOW - dimmed) * 0.5 * heat).round().astype(np.uint8))


def _bar_text(width: int) -> list[str]:
    return wrap("dark: a word's least share of the attention; glowing: its most", width - 2 * MARGIN, LABEL_SIZE)


def _bar_height(width: int) -> int:
    return BAR[1] + len(_bar_text(width)) * line_height(LABEL_SIZE) + 3 * MARGIN


def _draw_bar(canvas: Image.Image, top: int) -> None:
    """The colours of a grey pixel from the least to the most, and what they mean."""
    width = min(BAR[0], canvas.width - 2 * MARGIN)
    heat = np.broadcast_to(np.linspace(0, 1, width, dtype=np.float32), (BAR[1], width))[..., None]
    grey = np.full((BAR[1], width, 3), 150, np.float32)
    canvas.paste(_coloured(grey, heat), (MARGIN, top + MARGIN))
    write_lines(canvas, _bar_text(canvas.width), MARGIN, top + 3 * MARGIN // 2 + BAR[1], LABEL_SIZE)
