"""tools/count_heads.py draws birds that lack what it says, and counts heads by halves."""

from __future__ import annotations

import numpy as np
import torch
from count_heads import count_heads, draw_birds, drawn_without, halves
from torch import Tensor

from kvmgan.data.procedural import anatomy, drawing
from kvmgan.data.procedural.attributes import ATTRIBUTES

ATTRIBUTES_OF_ALL = {name: values[0] for name, values in ATTRIBUTES.items()}


def drawn(part: str, seed: int) -> np.ndarray:
    with drawn_without(part):
        return np.asarray(drawing.draw_bird(ATTRIBUTES_OF_ALL, 64, np.random.default_rng(seed))).astype(int)


def shapes_without(part: str) -> list[drawing.Shape]:
    with drawn_without(part):
        return anatomy.build_bird(ATTRIBUTES_OF_ALL, np.random.default_rng(0)).shapes


def test_birds_lack_a_beak_or_a_head():
    """A beak is three shapes; crown and eye are four more, neck and skull two each; what is left is the same."""
    whole, beakless, headless = (shapes_without(part) for part in ("nothing", "beak", "head"))
    assert (len(whole) - len(beakless), len(beakless) - len(headless)) == (3, 8)
    kept = {shape.points.tobytes() for shape in whole}
    assert all(shape.points.tobytes() in kept for shape in [*beakless, *headless])
    assert len({drawn(part, 0).tobytes() for part in ("nothing", "beak", "head")}) == 3


def eye_of(seed: int) -> float:
    """Where a bird's eye is, from the left border at 0 to the right one at 1."""
    rng = np.random.default_rng(seed)
    bird = anatomy.build_bird(ATTRIBUTES_OF_ALL, rng)
    return drawing._pose(bird.shapes, bird.feet, 0.6, rng)[0][-1].points[:, 0].mean()


def test_all_face_right_and_those_drawn_later_either_way():
    with drawn_without("nothing"):
        assert min(eye_of(seed) for seed in range(12)) > 0.55
    later = [eye_of(seed) for seed in range(12)]
    assert min(later) < 0.45 and max(later) > 0.55


def test_every_second_drawing_is_whole():
    pictures, whole = draw_birds(8, seed=3)
    assert pictures.shape == (8, 3, 64, 64) and pictures.dtype == torch.uint8
    assert whole.tolist() == [True, True, False, False] * 2


def test_heads_are_counted_by_halves():
    """A head is a white pixel at the outer edge; mirrored pictures have as many."""
    pictures = torch.zeros(4, 3, 64, 64, dtype=torch.uint8)
    pictures[1, :, 20, -1] = pictures[2, :, 20, 0] = 255
    pictures[3, :, 20, [0, -1]] = 255

    def judge(half: Tensor) -> dict[str, Tensor]:
        seen = half[:, 0, 20, -1]
        return {"head": torch.stack((-seen, seen), dim=1)}

    assert count_heads(judge, pictures).tolist() == count_heads(judge, pictures.flip(3)).tolist() == [0, 1, 1, 2]
    assert [torch.equal(a, b) for a, b in zip(halves(pictures), halves(pictures.flip(3))[::-1], strict=True)] == [
        True
    ] * 2
