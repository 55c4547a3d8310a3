"""The colours of the procedural birds: how a colour word looks, and its small variations."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Colour(NamedTuple):
    """8-bit red, green, blue."""

    red: int
    green: int
    blue: int


COLOURS: dict[str, Colour] = {
    "red": Colour(208, 28, 38),
    "orange": Colour(246, 132, 18),
    "yellow": Colour(252, 222, 40),
    "green": Colour(38, 146, 54),
    "blue": Colour(32, 84, 212),
    "purple": Colour(136, 46, 166),
    "brown": Colour(116, 68, 34),
    "black": Colour(34, 34, 40),
    "white": Colour(248, 248, 246),
}
CREAM = Colour(252, 244, 222)
INK = Colour(40, 34, 40)


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """Return `first` with `share` (0 to 1) of `second` in it."""
    return Colour(*(round(a + (b - a) * share) for a, b in zip(first, second, strict=True)))


def scale(colour: Colour, factor: float) -> Colour:
    """Return `colour` brighter (factor > 1) or darker, clipped."""
    return Colour(*(min(255, max(0, round(channel * factor))) for channel in colour))


def brightness(colour: Colour) -> float:
    """Return the luma of `colour` (ITU-R BT.601), 0 to 255."""
    return 0.299 * colour.red + 0.587 * colour.green + 0.114 * colour.blue


def vary(colour: Colour, rng: np.random.Generator) -> Colour:
    """Return a shade of `colour` that still goes by its name: 8 % brighter or darker, each channel off by up to 5."""
    factor = rng.uniform(0.92, 1.08)
    shift = rng.uniform(-5.0, 5.0, size=3)
    return Colour(*(min(255, max(0, round(c * factor + s))) for c, s in zip(colour, shift, strict=True)))
