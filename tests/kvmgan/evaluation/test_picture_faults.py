"""tools/picture_faults.py sees each fault in pictures that have it, and it alone."""

from __future__ import annotations

import numpy as np
import pytest
from picture_faults import FAULTS

SIDE = 64


@pytest.fixture
def drawings() -> np.ndarray:
    """Four pictures of a dark disc on a flat ground."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    discs = [np.hypot(rows - 32, columns - 32) < radius for radius in (10, 14, 18, 22)]
    return np.stack([np.where(disc[..., None], 60.0, 200.0) * np.ones(3) for disc in discs])


def changed(before: np.ndarray, after: np.ndarray) -> dict[str, float]:
    return {name: fault(after) / fault(before) for name, fault in FAULTS.items() if fault(before)}


@pytest.mark.parametrize("axis", [1, 2])
def test_a_grid(drawings, axis):
    """Lines of two pixels' period, sixteen levels high, along one axis."""
    lines = 8.0 * (-1.0) ** np.arange(SIDE)
    found = changed(drawings, drawings + lines.reshape([-1 if place == axis else 1 for place in range(4)]))
    assert found["grid"] > 5 and found["flat"] < 0.05
    assert FAULTS["rim"](drawings) == 0


def test_a_rim(drawings):
    framed = drawings.copy()
    framed[:, :2] = framed[:, -2:] = framed[:, :, :2] = framed[:, :, -2:] = 240.0
    assert FAULTS["rim"](framed) == pytest.approx(40.0)
    assert FAULTS["grid"](framed) == pytest.approx(FAULTS["grid"](drawings), rel=0.1)


def test_washed_out_outlines(drawings):
    """Blurred over nine pixels along one axis: edges go, no grid appears."""
    blurred = np.mean([np.roll(drawings, shift, axis=2) for shift in range(-4, 5)], axis=0)
    found = changed(drawings, blurred)
    assert found["edges"] < 0.8 and found["grid"] < 1.0 and found["flat"] < 1.0


def test_nothing(drawings):
    assert set(changed(drawings, drawings).values()) == {1.0}
