"""The stages of a picture side by side, from coarse to fine."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image
from torch import Tensor

from kvmgan.figures.pictures import BACKGROUND, MARGIN, line_height, to_picture, write_lines

TEXT_SIZE = 13


def stage_strip(stages: Sequence[Tensor], *, side: int = 192) -> Image.Image:
    """Draw stages (B, 3, s, s) in [-1, 1], one row an image, one column a stage, all enlarged to one size.

    ``side`` is that size [pixels], or the last stage's own if that is larger.
    """
    side = max(side, stages[-1].shape[-1])
    top = MARGIN + line_height(TEXT_SIZE)
    canvas = Image.new(
        "RGB", (len(stages) * (side + MARGIN) + MARGIN, top + len(stages[0]) * (side + MARGIN)), BACKGROUND
    )
    for column, images in enumerate(stages):
        left = MARGIN + column * (side + MARGIN)
        write_lines(canvas, [f"{images.shape[-1]} x {images.shape[-1]} pixels"], left, MARGIN // 2, TEXT_SIZE)
        for row, image in enumerate(images):
            canvas.paste(to_picture(image, side), (left, top + row * (side + MARGIN)))
    return canvas
