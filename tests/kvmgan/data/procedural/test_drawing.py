"""Drawings show the colours they should, at every size, and their box is the bird's."""

import numpy as np
import pytest

from kvmgan.data.procedural.attributes import ATTRIBUTES, make_species
from kvmgan.data.procedural.drawing import draw_bird, draw_bird_with_box
from kvmgan.data.procedural.palette import COLOURS

BASE = {"crown": "green", "wing": "blue", "belly": "red", "tail": "purple", "beak": "yellow"}
BASE |= {"beak_length": "long", "pattern": "plain", "size": "small", "background": "sky"}


def is_near(image: np.ndarray, colour: str) -> np.ndarray:
    """Return (H, W) bool: which pixels of `image` are close to a named colour."""
    return np.abs(image.astype(int) - np.array(COLOURS[colour])).sum(axis=-1) < 60


def near(image: np.ndarray, colour: str) -> int:
    """Return how many pixels of `image` are close to a named colour."""
    return int(is_near(image, colour).sum())


def draw(seed: int = 0, pixels: int = 64, **changed: str) -> np.ndarray:
    """Return the pixels of a bird."""
    return np.asarray(draw_bird({**BASE, **changed}, pixels, np.random.default_rng(seed)))


@pytest.mark.parametrize("size_name", ATTRIBUTES["size"])
@pytest.mark.parametrize("part", ["crown", "wing", "belly", "tail", "beak"])
def test_every_part_shows_its_colour(part: str, size_name: str) -> None:
    """At 64 pixels each part has a dozen pixels of its colour or more, and they go when the colour changes."""
    colour = BASE[part]
    shown = np.mean([near(draw(seed, size=size_name), colour) for seed in range(8)])
    gone = np.mean([near(draw(seed, size=size_name, **{part: "black"}), colour) for seed in range(8)])
    assert shown >= 12
    assert gone < 0.1 * shown


@pytest.mark.parametrize("background", ATTRIBUTES["background"])
def test_no_background_has_a_plumage_colour(background: str) -> None:
    """A black bird leaves next to no pixel of another plumage colour, whatever stands behind it.

    Counted: what turns up on pale backgrounds by a cloud or an eye may look white; no other colour may.
    """
    parts = dict.fromkeys(("crown", "wing", "belly", "tail", "beak"), "black")
    image = draw(1, pixels=96, background=background, **parts)
    for colour in set(COLOURS) - {"black", "white", "brown"}:
        assert near(image, colour) < 10


def test_colours_stay_apart() -> None:
    """Any two colours differ by far more than their shades vary."""
    names = list(COLOURS)
    for number, first in enumerate(names):
        for second in names[number + 1 :]:
            assert np.abs(np.array(COLOURS[first]) - np.array(COLOURS[second])).sum() > 90


@pytest.mark.parametrize(
    ("name", "first", "second"), [("beak_length", "short", "long"), ("pattern", "plain", "striped")]
)
def test_other_attributes_can_be_seen(name: str, first: str, second: str) -> None:
    """Beak length changes the beak's pixels, a pattern covers part of the wing."""
    part = {"beak_length": "beak", "pattern": "wing"}[name]
    low, high = (np.mean([near(draw(seed, **{name: v}), BASE[part]) for seed in range(8)]) for v in (first, second))
    assert (high > 1.4 * low) if name == "beak_length" else (high < 0.85 * low)


def test_small_birds_are_round_and_large_ones_long() -> None:
    """The share of the crown tells the sizes apart even when the image is cropped to the bird."""
    ratios = []
    for size_name in ("small", "large"):
        image = draw(2, pixels=128, size=size_name)
        ratios.append(near(image, "green") / (near(image, "red") + near(image, "purple")))
    assert ratios[0] > 1.3 * ratios[1]


def test_every_size_shows_the_same_bird() -> None:
    """The same random state drawn larger and averaged is the smaller drawing, but for rounding."""
    large = draw(4, pixels=256).astype(float).reshape(64, 4, 64, 4, 3).mean(axis=(1, 3))
    assert np.abs(large - draw(4, pixels=64)).mean() < 2.0


@pytest.mark.parametrize("size", [16, 33, 300])
def test_any_size(size: int) -> None:
    """Odd, tiny and large sizes work, and edges are anti-aliased (many different colours)."""
    image = draw_bird(BASE, size, np.random.default_rng(0))
    assert image.size == (size, size)
    assert image.mode == "RGB"
    assert len(np.unique(np.asarray(image).reshape(-1, 3), axis=0)) > 60


def test_the_box_holds_the_bird_tightly() -> None:
    """Outside the box the picture doesn't change with the plumage; at each of its sides it does nearby."""
    for seed in range(6):
        attributes = dict(BASE, size=("small", "large")[seed % 2])
        drawing = draw_bird_with_box(attributes, 128, np.random.default_rng(seed))
        recoloured = dict(attributes, crown="white", wing="black", belly="white", tail="black", beak="black")
        other = draw_bird(recoloured, 128, np.random.default_rng(seed))
        changed = (np.asarray(drawing.image).astype(int) != np.asarray(other)).any(axis=-1)
        x, y, width, height = drawing.box
        ys, xs = np.nonzero(changed)
        assert xs.min() >= x - 3
        assert xs.max() <= x + width + 3
        assert ys.min() >= y - 3
        assert ys.max() <= y + height + 3
        assert xs.min() <= x + 4
        assert xs.max() >= x + width - 4
        assert ys.min() <= y + 4


def test_both_facings_occur() -> None:
    """The beak is left or right of the tail, about as often."""
    left = 0
    for seed in range(30):
        image = draw(seed)
        beak, tail = (np.nonzero(is_near(image, colour))[1].mean() for colour in ("yellow", "purple"))
        left += beak < tail
    assert 8 <= left <= 22


@pytest.mark.parametrize("broken", [{"wing": "beige"}, {"size": ""}])
def test_unknown_value_raises(broken: dict[str, str]) -> None:
    """The message names the attribute and its choices."""
    with pytest.raises(ValueError, match=f"attributes\\['{next(iter(broken))}'\\]"):
        draw(**broken)


def test_missing_attribute_raises() -> None:
    """A species without a background cannot be drawn."""
    with pytest.raises(ValueError, match="background"):
        draw_bird(make_species(2, 1, 0)[0].attributes, 32, np.random.default_rng(0))
