"""The shapes of a bird that faces right, in units of its own frame: the body's centre is (0, 0), y grows downwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from kvmgan.data.procedural.outlines import Points, Shape, band, ellipse, rotation, smooth
from kvmgan.data.procedural.palette import COLOURS, CREAM, INK, Colour, brightness, mix, scale, vary

# Maps positions along (0 to 1) and across (-1 to 1) a wing to points.
Placing = Callable[[np.ndarray, np.ndarray], Points]

_RIM = 0.017
_LEG = Colour(96, 74, 60)


@dataclass(frozen=True)
class Proportions:
    """What tells a small bird (round, big head, short tail) from a large one (long, small head, long tail)."""

    body: tuple[float, float]
    lean: float
    head: tuple[float, float]
    head_radius: float
    tail: tuple[float, float]
    tail_width: float
    wing: tuple[tuple[float, float], tuple[float, float]]
    wing_width: float
    leg: float
    beak_height: float


PROPORTIONS = {
    "small": Proportions(
        body=(0.250, 0.215),
        lean=-16.0,
        head=(0.185, -0.215),
        head_radius=0.175,
        tail=(-0.475, 0.055),
        tail_width=0.20,
        wing=((0.125, -0.075), (-0.300, 0.110)),
        wing_width=0.250,
        leg=0.10,
        beak_height=0.165,
    ),
    "large": Proportions(
        body=(0.315, 0.210),
        lean=-31.0,
        head=(0.255, -0.335),
        head_radius=0.150,
        tail=(-0.580, 0.330),
        tail_width=0.21,
        wing=((0.175, -0.135), (-0.380, 0.190)),
        wing_width=0.235,
        leg=0.17,
        beak_height=0.145,
    ),
}
_BEAK_LENGTH = {"short": 0.120, "long": 0.280}


@dataclass(frozen=True)
class Bird:
    """shapes: back to front. feet: (2, 2) the points where the legs end."""

    shapes: list[Shape]
    feet: Points


def build_bird(attributes: Mapping[str, str], rng: np.random.Generator) -> Bird:
    """Return the shapes of a bird with the given attribute values; `rng` varies shades and proportions a little."""
    frame = PROPORTIONS[attributes["size"]]
    colours = {part: vary(COLOURS[attributes[part]], rng) for part in ("crown", "wing", "belly", "tail", "beak")}
    plump, spread, droop, gape = rng.uniform(-1.0, 1.0, size=4)
    body_radii = (frame.body[0], frame.body[1] * (1.0 + 0.05 * plump))
    legs, feet = _legs(frame, body_radii[1])
    shapes = [
        *legs,
        *_tail(frame, colours["tail"], 4.0 * droop, 1.0 + 0.12 * spread),
        *_body(frame, body_radii, colours["belly"]),
        *_wing(frame, colours["wing"], attributes["pattern"], 4.0 * droop),
        *_beak(frame, colours["beak"], _BEAK_LENGTH[attributes["beak_length"]] * (1.0 + 0.06 * gape)),
        *_crown(frame, colours["crown"]),
        *_eye(frame),
    ]
    return Bird(shapes, feet)


def _rim(colour: Colour) -> Colour:
    return mix(scale(colour, 0.45), INK, 0.35)


def _part(points: Points, colour: Colour) -> Shape:
    return Shape(points, colour, _rim(colour), _RIM)


def _legs(frame: Proportions, body_height: float) -> tuple[list[Shape], Points]:
    """Two thin legs under the body, with toes that clasp the ground."""
    ground = body_height + frame.leg
    feet = np.array(((-0.045, ground), (0.075, ground)))
    shapes = []
    for foot in feet:
        hip = foot - (0.02, frame.leg + 0.05)
        shapes.append(Shape(band(hip, foot, 0.032, 0.026), _LEG))
        shapes.append(Shape(ellipse(foot + np.array((0.015, 0.0)), (0.05, 0.018), count=12), _LEG))
    return shapes, feet


def _tail(frame: Proportions, colour: Colour, droop: float, spread: float) -> list[Shape]:
    """A fan of feathers that widens towards its end, with two darker lines between them."""
    root, tip = np.array((-0.08, 0.02)), np.array(frame.tail)
    along = tip - root
    length = float(np.hypot(*along))
    turn = rotation(float(np.degrees(np.arctan2(along[1], along[0]))) + droop)
    half = frame.tail_width * spread / 2.0
    fan = np.array(
        ((0, -0.55), (0.9, -1.0), (1.0, -0.55), (0.97, -0.2), (1.02, 0.15), (0.96, 0.5), (0.94, 1.0), (0, 0.55))
    )
    outline = (fan * (length, half)) @ turn + root
    lines = []
    for side in (-0.3, 0.38):
        start, end = (np.array(((0.3, 0.7 * side), (0.95, side))) * (length, half)) @ turn + root
        lines.append(Shape(band(start, end, 0.004, 0.016), scale(colour, 0.72)))
    return [_part(outline, colour), *lines]


def _body(frame: Proportions, radii: tuple[float, float], colour: Colour) -> list[Shape]:
    """Body, neck and head in one colour: rims first, so that no line runs between them; then a soft shade below."""
    head, radius = np.array(frame.head), frame.head_radius
    trunk = ellipse((0.0, 0.0), radii, frame.lean)
    side = np.array((-head[1], head[0])) / float(np.hypot(*head))
    narrow, wide = 0.92 * radius * side, 0.88 * radii[1] * side
    neck = np.stack((head + narrow, wide, -wide, head - narrow))
    skull = ellipse(head, (radius, radius))
    outlines = (trunk, neck, skull)
    lit = ellipse((0.012, -0.022), (radii[0] * 0.94, radii[1] * 0.88), frame.lean)
    return [
        *(_part(outline, colour) for outline in outlines),
        Shape(trunk, mix(scale(colour, 0.84), INK, 0.04)),
        *(Shape(outline, colour) for outline in (lit, neck, skull)),
    ]


def _wing(frame: Proportions, colour: Colour, pattern: str, droop: float) -> list[Shape]:
    """A folded wing from the shoulder to its tip, with bars or spots across it where the pattern wants them."""
    shoulder, tip = (np.array(point) for point in frame.wing)
    along = tip - shoulder
    length = float(np.hypot(*along))
    turn = rotation(float(np.degrees(np.arctan2(along[1], along[0]))) + droop)

    def place(u: np.ndarray, v: np.ndarray) -> Points:
        """u: 0 at the shoulder, 1 at the tip. v: -1 at the lower edge, 1 at the upper edge."""
        profile = 1.9 * np.sqrt(np.maximum(u, 0.0)) * (1.0 - u) ** 0.72
        # The tip points left, so positive v, turned by about 180 degrees, lies above the axis: the back is flatter.
        across = profile * v * np.where(v > 0, 0.40, 0.62) * frame.wing_width
        return np.stack(((u - 0.06) * length, across), axis=-1) @ turn + shoulder

    u = np.linspace(0.0, 1.0, 20) ** 1.5
    outline = np.concatenate((place(u, np.ones_like(u)), place(u[::-1], -np.ones_like(u))))
    marks = {"plain": _feathers, "striped": _stripes, "spotted": _spots}[pattern](place, colour)
    return [_part(outline, colour), *marks]


def _mark_colour(colour: Colour) -> Colour:
    return mix(colour, INK, 0.88) if brightness(colour) > 125 else mix(colour, CREAM, 0.92)


def _feathers(place: Placing, colour: Colour) -> list[Shape]:
    """Two faint lines along a plain wing."""
    shade = scale(colour, 0.8) if brightness(colour) > 60 else mix(colour, CREAM, 0.18)
    u = np.linspace(0.35, 0.86, 6)
    shapes = []
    for level in (-0.42, 0.12):
        v = np.full_like(u, level)
        shapes.append(Shape(np.concatenate((place(u, v - 0.05), place(u[::-1], v + 0.05))), shade))
    return shapes


def _stripes(place: Placing, colour: Colour) -> list[Shape]:
    """Three bars across the wing, of the length of its width."""
    mark = _mark_colour(colour)
    v = np.array((-0.93, -0.4, 0.2, 0.93))
    # The bars bend towards the tip at the lower edge, as rows of covert feathers do.
    bend = 0.05 * (1.0 - v)
    return [
        Shape(np.concatenate((place(start + bend, v), place(start + 0.095 + bend[::-1], v[::-1]))), mark)
        for start in (0.13, 0.35, 0.57)
    ]


def _spots(place: Placing, colour: Colour) -> list[Shape]:
    """Round spots in two rows."""
    mark = _mark_colour(colour)
    upper = ((0.14, 0.25, 0.033), (0.36, 0.30, 0.036), (0.59, 0.30, 0.033))
    lower = ((0.17, -0.50, 0.037), (0.40, -0.46, 0.040), (0.63, -0.46, 0.036), (0.80, -0.10, 0.027))
    return [
        Shape(ellipse(place(np.array(u), np.array(v)), (radius, radius), count=16), mark)
        for u, v, radius in (*upper, *lower)
    ]


def _beak(frame: Proportions, colour: Colour, length: float) -> list[Shape]:
    """A wedge at the front of the head, its lower half a little darker."""
    base = np.array(frame.head) + np.array((0.80, 0.16)) * frame.head_radius
    half = frame.beak_height / 2.0
    reach = length + frame.head_radius * 0.20
    upper = np.array(((0.0, -half), (reach * 0.5, -half * 0.72), (reach, half * 0.42), (0.0, half * 0.25)))
    lower = np.array(((0.0, half * 0.25), (reach * 0.92, half * 0.42), (reach * 0.45, half * 0.95), (0.0, half)))
    whole = np.concatenate((upper[:3], lower[1:]))
    return [
        _part(whole + base, colour),
        Shape(upper + base, colour),
        Shape(lower + base, scale(colour, 0.84) if brightness(colour) > 60 else mix(colour, CREAM, 0.12)),
    ]


def _crown(frame: Proportions, colour: Colour) -> list[Shape]:
    """A cap over the upper half of the head that runs down the nape, with a short crest."""
    head, radius = np.array(frame.head), frame.head_radius
    front = ((0.05, -0.18), (0.60, -0.20), (0.98, -0.28), (0.80, -0.74), (0.38, -1.08), (-0.15, -1.20))
    crest = ((-0.75, -1.22), (-1.42, -1.12), (-1.14, -0.62), (-1.06, -0.10), (-0.92, 0.34), (-0.55, 0.06))
    return [_part(smooth(np.array(front + crest) * radius + head, steps=6), colour)]


def _eye(frame: Proportions) -> list[Shape]:
    """A dark eye with a pale ring and a glint."""
    radius = 0.27 * frame.head_radius
    centre = np.array(frame.head) + np.array((0.36, -0.10)) * frame.head_radius
    return [
        Shape(ellipse(centre, (radius, radius), count=20), CREAM),
        Shape(ellipse(centre, (radius * 0.72, radius * 0.72), count=20), INK),
        Shape(ellipse(centre + np.array((0.25, -0.28)) * radius, (radius * 0.24, radius * 0.24), count=10), CREAM),
    ]
