"""What stands behind a bird: a soft gradient with a few pale shapes, and the perch it stands on.

The image is the unit square; y grows downwards.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from kvmgan.data.procedural.outlines import Shape, band, ellipse, smooth
from kvmgan.data.procedural.palette import Colour, mix, scale, vary

# Top and bottom of each gradient: pale or greyish, so that no plumage colour can be taken for them.
_GRADIENTS: dict[str, tuple[Colour, Colour]] = {
    "sky": (Colour(150, 196, 236), Colour(220, 236, 246)),
    "forest": (Colour(150, 176, 140), Colour(186, 204, 168)),
    "sand": (Colour(240, 228, 200), Colour(222, 198, 150)),
    "water": (Colour(132, 186, 190), Colour(92, 158, 170)),
    "sunset": (Colour(196, 160, 190), Colour(250, 204, 170)),
}
_BARK = Colour(122, 104, 90)
_LEAF = Colour(126, 156, 104)


def gradient(background: str, size: int, rng: np.random.Generator) -> Image.Image:
    """Return the gradient of `background`, (size, size) RGB."""
    top, bottom = (np.array(vary(colour, rng), dtype=float) for colour in _GRADIENTS[background])
    share = np.linspace(0.0, 1.0, size)[:, None]
    column = np.rint(top + (bottom - top) * share).astype(np.uint8)
    return Image.fromarray(column[:, None]).resize((size, size), Image.Resampling.NEAREST)


def backdrop(background: str, rng: np.random.Generator) -> list[Shape]:
    """Return the pale shapes of `background`, back to front."""
    return {"sky": _clouds, "forest": _trees, "sand": _dunes, "water": _ripples, "sunset": _sun}[background](rng)


def _clouds(rng: np.random.Generator) -> list[Shape]:
    white = Colour(244, 249, 253)
    shapes = []
    for y in (0.16, 0.74):
        x, y = rng.uniform(0.1, 0.9), y + rng.uniform(-0.08, 0.08)
        for dx, dy, r in ((-0.13, 0.01, 0.07), (0.0, -0.03, 0.10), (0.13, 0.01, 0.075)):
            shapes.append(Shape(ellipse((x + dx, y + dy), (r * 1.3, r * 0.75), count=28), white))
    return shapes


def _trees(rng: np.random.Generator) -> list[Shape]:
    shapes = []
    for x in np.linspace(0.06, 0.94, 5) + rng.uniform(-0.06, 0.06, size=5):
        trunk = Colour(128, 140, 116)
        width = rng.uniform(0.03, 0.06)
        shapes.append(Shape(band((x, -0.1), (x + rng.uniform(-0.03, 0.03), 1.1), width, width * 1.5), trunk))
        top = Colour(132, 162, 122)
        shapes.append(Shape(ellipse((x, rng.uniform(-0.04, 0.06)), (0.15, 0.11), count=24), top))
    return shapes


def _dunes(rng: np.random.Generator) -> list[Shape]:
    shapes = []
    for y, colour in ((0.60, Colour(230, 208, 164)), (0.78, Colour(214, 188, 138))):
        x = rng.uniform(0.2, 0.8)
        shapes.append(Shape(ellipse((x, y + 0.35), (0.9, 0.36 + rng.uniform(-0.03, 0.03)), count=40), colour))
    return shapes


def _ripples(rng: np.random.Generator) -> list[Shape]:
    pale = Colour(172, 214, 214)
    shapes = []
    for y in np.linspace(0.08, 0.94, 7) + rng.uniform(-0.03, 0.03, size=7):
        shapes.append(Shape(ellipse((rng.uniform(0.0, 1.0), y), (rng.uniform(0.14, 0.26), 0.012), count=20), pale))
    return shapes


def _sun(rng: np.random.Generator) -> list[Shape]:
    centre = (rng.choice((0.14, 0.86)), rng.uniform(0.14, 0.26))
    hills = ellipse((rng.uniform(0.2, 0.8), 1.05), (0.8, 0.24), count=40)
    return [Shape(ellipse(centre, (0.12, 0.12), count=40), Colour(255, 238, 200)), Shape(hills, Colour(190, 150, 160))]


def ground(size_name: str, feet: np.ndarray, rng: np.random.Generator) -> list[Shape]:
    """Return the perch under `feet` (2, 2): a leafy twig for a small bird, a stout branch for a large one."""
    thickness = 0.026 if size_name == "small" else 0.060
    bark = vary(_BARK, rng)
    centre = feet.mean(axis=0)
    across = feet[1] - feet[0]
    slope = across[1] / across[0] if abs(across[0]) > 1e-6 else 0.0
    y = centre[1] + slope * (np.array((-0.1, 1.1)) - centre[0]) + thickness * 0.45
    left, right, lit = np.array((-0.1, y[0])), np.array((1.1, y[1])), np.array((0.0, -0.15 * thickness))
    shapes = [
        Shape(band(left, right, thickness, thickness), scale(bark, 0.72)),
        Shape(band(left + lit, right + lit, 0.7 * thickness, 0.7 * thickness), bark),
    ]
    if size_name == "small":
        for x in rng.uniform(0.04, 0.22), rng.uniform(0.78, 0.96):
            shapes.extend(_leaf((x, y[0] + (y[1] - y[0]) * (x + 0.1) / 1.2), rng))
    return shapes


def _leaf(stem: tuple[float, float], rng: np.random.Generator) -> list[Shape]:
    """A leaf that hangs from `stem`."""
    lean = rng.uniform(-0.04, 0.04)
    blade = ((0.0, 0.0), (0.042, 0.05), (lean, 0.14), (-0.042, 0.05))
    colour = mix(vary(_LEAF, rng), Colour(190, 190, 170), 0.2)
    return [Shape(smooth(np.array(blade) + stem, steps=4), colour, scale(colour, 0.7), 0.006)]
