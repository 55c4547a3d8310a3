"""Where each word of a caption is used: one tile a word, its attention laid over the picture."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from kvmgan.figures.pictures import BACKGROUND, MARGIN, line_height, to_picture, write_lines

TEXT_SIZE = 14
_DIM = 0.25
# A share this far above even glows fully at least: an even attention stays dark instead of showing its rounding errors.
_LEAST_SCALE = 0.02
_GLOW = (1.0, 0.25, -1.0)


def attention_maps(
    image: Tensor, attention: Tensor, words: Sequence[str], *, columns: int = 6, side: int = 160
) -> Image.Image:
    """Draw the picture itself, then a tile a word: the picture glows orange where the word has more than an even share
    of the attention, and is dark elsewhere.

    Args:
        image: (3, s, s) in [-1, 1].
        attention: (T, h, w), one map a slot, T >= number of words; the slots with words sum to one at each position.
            One scale serves all words, so that tiles can be compared.
        words: the words of the first slots.

    Raises:
        ValueError: if there are more words than maps.
    """
    if len(words) > len(attention):
        raise ValueError(f"words has {len(words)} entries, expected at most {len(attention)} (the slots of attention)")
    shares = attention[: len(words)].float() - 1 / len(words)
    heat = (shares / shares.max().clamp(min=_LEAST_SCALE)).clamp(0, 1)
    tiles = [("", image), *((word, _overlay(image, heat[t])) for t, word in enumerate(words))]
    side = max(side, image.shape[-1])
    columns = min(columns, len(tiles))
    width, height = side + MARGIN, side + line_height(TEXT_SIZE) + MARGIN
    canvas = Image.new("RGB", (columns * width + MARGIN, math.ceil(len(tiles) / columns) * height + MARGIN), BACKGROUND)
    for number, (word, tile) in enumerate(tiles):
        left, top = MARGIN + number % columns * width, MARGIN + number // columns * height
        canvas.paste(to_picture(tile, side), (left, top))
        write_lines(canvas, [word], left, top + side, TEXT_SIZE)
    return canvas


def _overlay(image: Tensor, heat: Tensor) -> Tensor:
    """The picture (3, s, s) darkened where heat (h, w) is 0 and tinted where it is 1."""
    heat = F.interpolate(heat[None, None], image.shape[-2:], mode="bilinear", align_corners=False)[0]
    dark = (image + 1) * (_DIM + (1 - _DIM) * heat) - 1
    glow = torch.tensor(_GLOW, device=image.device)[:, None, None]
    return torch.lerp(dark, glow.expand_as(dark), 0.45 * heat)
