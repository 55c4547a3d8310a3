"""Draws a bird with given attributes, anti-aliased, at any size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw

from kvmgan.data.procedural.anatomy import build_bird
from kvmgan.data.procedural.attributes import ATTRIBUTES
from kvmgan.data.procedural.outlines import Points, Shape, grow, rotation
from kvmgan.data.procedural.scenery import backdrop, gradient, ground

# The longer side of the bird as a share of the image.
_EXTENT = {"small": 0.62, "large": 0.70}
_MAX_TILT_DEGREES = 7.0
_MIN_CANVAS = 256


@dataclass(frozen=True)
class Drawing:
    """image: RGB. box: x, y, width, height of the bird (without its perch) in pixels of the image."""

    image: Image.Image
    box: tuple[float, float, float, float]


def draw_bird(attributes: Mapping[str, str], size: int, rng: np.random.Generator) -> Image.Image:
    """Return an RGB image (size, size) of a bird with the given value of every attribute in `ATTRIBUTES`.

    `rng` decides what no caption names: the facing direction, a small tilt and shift, shades and proportions.
    The same state of `rng` gives the same bird at every size. Raises ValueError for a missing or unknown value.
    """
    return draw_bird_with_box(attributes, size, rng).image


def draw_bird_with_box(attributes: Mapping[str, str], size: int, rng: np.random.Generator) -> Drawing:
    """Draw as `draw_bird` does and return the bird's bounding box, too."""
    for name, values in ATTRIBUTES.items():
        if attributes.get(name) not in values:
            raise ValueError(f"attributes[{name!r}] is {attributes.get(name)!r}, expected one of {', '.join(values)}")
    bird = build_bird(attributes, rng)
    shapes, feet = _pose(bird.shapes, bird.feet, _EXTENT[attributes["size"]], rng)
    factor = max(2, -(-_MIN_CANVAS // size))
    canvas = gradient(attributes["background"], size * factor, rng)
    _paint(canvas, backdrop(attributes["background"], rng))
    _paint(canvas, ground(attributes["size"], feet, rng))
    _paint(canvas, shapes)
    return Drawing(canvas.reduce(factor), _bounding_box(shapes, size))


def _pose(shapes: list[Shape], feet: Points, extent: float, rng: np.random.Generator) -> tuple[list[Shape], Points]:
    """Turn, mirror, scale and shift from the bird's frame to the image's unit square."""
    turn = rotation(rng.uniform(-_MAX_TILT_DEGREES, _MAX_TILT_DEGREES))
    if rng.random() < 0.5:
        turn = turn * (-1.0, 1.0)
    turned = [shape.points @ turn for shape in shapes]
    low, high = _limits(turned)
    zoom = extent * rng.uniform(0.96, 1.04) / float((high - low).max())
    shift = 0.5 - zoom * (low + high) / 2.0 + rng.uniform(-0.02, 0.02, size=2)
    posed = [
        replace(shape, points=points * zoom + shift, edge_width=shape.edge_width * zoom)
        for shape, points in zip(shapes, turned, strict=True)
    ]
    feet = feet @ turn * zoom + shift
    return posed, feet


def _limits(outlines: Iterable[Points]) -> tuple[Points, Points]:
    """Return the smallest and the largest x and y of `outlines`."""
    points = np.concatenate(list(outlines))
    return points.min(axis=0), points.max(axis=0)


def _paint(canvas: Image.Image, shapes: Iterable[Shape]) -> None:
    """Fill `shapes`, given in the unit square, on `canvas`, in order."""
    pen = ImageDraw.Draw(canvas)
    for shape in shapes:
        if shape.edge is not None:
            rim = grow(shape.points, shape.edge_width) * canvas.width
            pen.polygon(rim.ravel().tolist(), fill=tuple(shape.edge))
        pen.polygon((shape.points * canvas.width).ravel().tolist(), fill=tuple(shape.fill))


def _bounding_box(shapes: list[Shape], size: int) -> tuple[float, float, float, float]:
    """Return x, y, width, height in pixels of all shapes, clipped to the image."""
    low, high = _limits(shape.points for shape in shapes)
    low, high = np.clip(low * size, 0, size), np.clip(high * size, 0, size)
    x, y, width, height = (round(float(value), 1) for value in (*low, *(high - low)))
    return x, y, width, height
