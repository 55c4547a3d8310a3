"""The geometry that birds are made of."""

import numpy as np
import pytest

from kvmgan.data.procedural.outlines import band, ellipse, grow, rotation, smooth


def test_rotation_is_clockwise_on_the_screen() -> None:
    """With y downwards, a quarter turn takes right to below."""
    np.testing.assert_allclose(np.array((1.0, 0.0)) @ rotation(90.0), (0.0, 1.0), atol=1e-12)


@pytest.mark.parametrize("order", [1, -1])
def test_grow_moves_outwards_in_both_directions_of_rotation(order: int) -> None:
    """A circle of radius 2 grown by 0.5 has radius 2.5."""
    circle = ellipse((1.0, 1.0), (2.0, 2.0))[::order]
    np.testing.assert_allclose(np.hypot(*(grow(circle, 0.5) - 1.0).T), 2.5, atol=1e-9)


def test_smooth_passes_through_its_corners() -> None:
    """A Catmull-Rom curve interpolates."""
    corners = np.array(((0.0, 0.0), (2.0, 0.5), (1.5, 2.0), (-0.5, 1.0)))
    curve = smooth(corners, steps=6)
    assert curve.shape == (24, 2)
    np.testing.assert_allclose(curve[::6], corners, atol=1e-12)


def test_band_has_its_widths() -> None:
    """The ends are as wide as asked and stand square to the axis."""
    corners = band((0.0, 0.0), (4.0, 0.0), 1.0, 2.0)
    np.testing.assert_allclose(np.sort(corners[:, 1]), (-1.0, -0.5, 0.5, 1.0))
