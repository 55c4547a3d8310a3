"""Closed outlines as point arrays, from which birds and their scenery are put together."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kvmgan.data.procedural.palette import Colour

Points = NDArray[np.float64]


@dataclass(frozen=True)
class Shape:
    """A filled outline. points: (N, 2) x and y; y grows downwards. edge: colour and width of its rim, if any."""

    points: Points
    fill: Colour
    edge: Colour | None = None
    edge_width: float = 0.0


@lru_cache(maxsize=8)
def _circle(count: int) -> Points:
    angles = np.linspace(0.0, 2.0 * np.pi, count, endpoint=False)
    return np.stack((np.cos(angles), np.sin(angles)), axis=1)


def rotation(degrees: float) -> Points:
    """Return the (2, 2) matrix that turns row vectors, clockwise on the screen for positive angles."""
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array(((cosine, sine), (-sine, cosine)))


def ellipse(centre: ArrayLike, radii: ArrayLike, degrees: float = 0.0, count: int = 48) -> Points:
    """Return `count` points (count, 2) of a turned ellipse."""
    points = _circle(count) * np.asarray(radii)
    return (points @ rotation(degrees) if degrees else points) + np.asarray(centre)


def band(start: ArrayLike, end: ArrayLike, start_width: float, end_width: float) -> Points:
    """Return the four corners of a straight band from `start` to `end`."""
    first, last = np.asarray(start, dtype=float), np.asarray(end, dtype=float)
    along = last - first
    across = np.array((-along[1], along[0])) / max(float(np.hypot(*along)), 1e-9) / 2.0
    near, far = across * start_width, across * end_width
    return np.stack((first + near, last + far, last - far, first - near))


@lru_cache(maxsize=8)
def _spline_weights(steps: int) -> Points:
    """Catmull-Rom weights (steps, 4) of the points before, at, after and next after."""
    t = np.linspace(0.0, 1.0, steps, endpoint=False)
    square, cube = t**2, t**3
    weights = (-t + 2 * square - cube, 2 - 5 * square + 3 * cube, t + 4 * square - 3 * cube, cube - square)
    return 0.5 * np.stack(weights, axis=1)


def smooth(corners: ArrayLike, steps: int = 8) -> Points:
    """Return a closed Catmull-Rom curve through `corners` (K, 2) as K * steps points."""
    points = np.asarray(corners, dtype=float)
    neighbours = np.stack((np.roll(points, 1, 0), points, np.roll(points, -1, 0), np.roll(points, -2, 0)), axis=1)
    return np.einsum("sw,kwc->ksc", _spline_weights(steps), neighbours).reshape(-1, 2)


def grow(points: Points, width: float) -> Points:
    """Return the outline `points` (N, 2) moved outwards by `width`, whichever way round it runs."""
    ahead, behind = np.roll(points, -1, 0), np.roll(points, 1, 0)
    twice_area = float((points[:, 0] * ahead[:, 1] - ahead[:, 0] * points[:, 1]).sum())
    across = (ahead - behind)[:, ::-1] * (np.sign(twice_area), -np.sign(twice_area))
    return points + across * (width / np.maximum(np.hypot(across[:, 0], across[:, 1]), 1e-12))[:, None]
