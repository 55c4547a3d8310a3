"""Rows of pictures, each row behind its caption: real beside generated, the stages of a picture, its neighbours."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image

from kvmgan.figures.pictures import BACKGROUND, MARGIN, enlarged, line_height, wrap, write_lines

TEXT_SIZE = 14
TEXT_WIDTH = 180
HEADING_SIZE = 13


def captioned_rows(
    captions: Sequence[str],
    rows: Sequence[Sequence[Image.Image]],
    headings: Sequence[str],
    *,
    blocks: int = 1,
    side: int = 160,
) -> Image.Image:
    """Draw a row a caption: the caption, then its pictures under the headings.

    Args:
        rows: the square pictures of each caption, as many as there are headings.
        blocks: stretches of rows that stand side by side.
        side: size of every picture [pixels], or the largest one's own if that is larger.

    Raises:
        ValueError: there isn't one caption a row, or one heading a picture.
    """
    if len(captions) != len(rows) or not rows:
        raise ValueError(f"captions has {len(captions)} entries, expected one for each of {len(rows)} rows, 1 or more")
    for pictures in rows:
        if len(pictures) != len(headings):
            raise ValueError(f"a row has {len(pictures)} pictures, expected one for each of {len(headings)} headings")
    side = max(side, *(picture.width for pictures in rows for picture in pictures))
    texts = [wrap(caption, TEXT_WIDTH, TEXT_SIZE) for caption in captions]
    titles = [wrap(heading, side, HEADING_SIZE) for heading in headings]
    top = MARGIN + max(map(len, titles)) * line_height(HEADING_SIZE)
    per_block = math.ceil(len(rows) / blocks)
    blocks = math.ceil(len(rows) / per_block)
    # A caption that is longer than its picture is high makes its own row higher, in every block.
    heights = [
        MARGIN + max(side, max(len(text) for text in texts[place::per_block]) * line_height(TEXT_SIZE))
        for place in range(per_block)
    ]
    width = TEXT_WIDTH + MARGIN + len(headings) * (side + MARGIN)
    # Between blocks a gap, so that no caption leans on the pictures before it.
    gap = 2 * MARGIN
    canvas = Image.new("RGB", (MARGIN + blocks * width + (blocks - 1) * gap, top + sum(heights)), BACKGROUND)
    for number, (text, pictures) in enumerate(zip(texts, rows, strict=True)):
        block, place = divmod(number, per_block)
        left, above = MARGIN + block * (width + gap), top + sum(heights[:place])
        write_lines(canvas, text, left, above, TEXT_SIZE)
        for column, (title, picture) in enumerate(zip(titles, pictures, strict=True)):
            edge = left + TEXT_WIDTH + MARGIN + column * (side + MARGIN)
            canvas.paste(enlarged(picture, side), (edge, above))
            if place == 0:
                write_lines(canvas, title, edge, MARGIN // 2, HEADING_SIZE)
    return canvas
