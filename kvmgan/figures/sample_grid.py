"""A grid of pictures, each with its caption below."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image

from kvmgan.figures.pictures import BACKGROUND, MARGIN, enlarged, line_height, wrap, write_lines

TEXT_SIZE = 13


def sample_grid(
    images: Sequence[Image.Image], captions: Sequence[str], *, columns: int = 4, side: int = 192
) -> Image.Image:
    """Draw square pictures row by row, enlarged to ``side`` pixels or the largest one's own size if that is larger.

    Raises:
        ValueError: if there isn't one caption an image.
    """
    if len(images) != len(captions):
        raise ValueError(f"captions has {len(captions)} entries, expected one for each of {len(images)} images")
    side = max(side, *(image.width for image in images))
    texts = [wrap(caption, side, TEXT_SIZE) for caption in captions]
    text_height = max(map(len, texts)) * line_height(TEXT_SIZE)
    width, height = side + MARGIN, side + text_height + 2 * MARGIN
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    canvas = Image.new("RGB", (columns * width + MARGIN, rows * height + MARGIN), BACKGROUND)
    for number, (image, lines) in enumerate(zip(images, texts, strict=True)):
        left, top = MARGIN + number % columns * width, MARGIN + number // columns * height
        canvas.paste(enlarged(image, side), (left, top))
        write_lines(canvas, lines, left, top + side + MARGIN // 2, TEXT_SIZE)
    return canvas
