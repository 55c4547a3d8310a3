"""Sections of labelled pictures under headings: a caption over time, from several seeds, with a word changed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from kvmgan.figures.pictures import BACKGROUND, MARGIN, enlarged, line_height, wrap, write_lines

HEADING_SIZE = 16
LABEL_SIZE = 13


@dataclass(frozen=True)
class Section:
    """Square pictures, each with the label below it, under a heading."""

    heading: str
    tiles: Sequence[tuple[str, Image.Image]]


def tile_sheet(sections: Sequence[Section], *, columns: int = 8, side: int = 128) -> Image.Image:
    """Draw the sections below one another.

    Args:
        columns: pictures in a row at most; a section with more takes several rows.
        side: size of every picture [pixels], or the largest one's own if that is larger.

    Raises:
        ValueError: there is no section, or one without pictures.
    """
    if not sections or not all(section.tiles for section in sections):
        raise ValueError("sections is empty or has an empty one, expected pictures in each")
    side = max(side, *(picture.width for section in sections for _, picture in section.tiles))
    columns = min(columns, max(len(section.tiles) for section in sections))
    width = MARGIN + columns * (side + MARGIN)
    parts = [_section(section, columns, side, width) for section in sections]
    canvas = Image.new("RGB", (width, sum(part.height for part in parts)), BACKGROUND)
    top = 0
    for part in parts:
        canvas.paste(part, (0, top))
        top += part.height
    return canvas


def _section(section: Section, columns: int, side: int, width: int) -> Image.Image:
    heading = wrap(section.heading, width - 2 * MARGIN, HEADING_SIZE)
    labels = [wrap(label, side, LABEL_SIZE) for label, _ in section.tiles]
    top = MARGIN + len(heading) * line_height(HEADING_SIZE) + MARGIN // 2
    # The labels of a row decide its height, not those of the whole section.
    heights = [
        side + MARGIN + max(map(len, labels[start : start + columns])) * line_height(LABEL_SIZE)
        for start in range(0, len(labels), columns)
    ]
    canvas = Image.new("RGB", (width, top + sum(heights)), BACKGROUND)
    write_lines(canvas, heading, MARGIN, MARGIN, HEADING_SIZE)
    for number, (label, (_, picture)) in enumerate(zip(labels, section.tiles, strict=True)):
        row, column = divmod(number, columns)
        left, above = MARGIN + column * (side + MARGIN), top + sum(heights[:row])
        canvas.paste(enlarged(picture, side), (left, above))
        write_lines(canvas, label, left, above + side + 2, LABEL_SIZE)
    return canvas


def spread(count: int, most: int) -> list[int]:
    """At most ``most`` places of ``count``, evenly spread, the first and the last among them."""
    kept = min(count, most)
    return [math.floor(number * (count - 1) / max(kept - 1, 1) + 0.5) for number in range(kept)]
