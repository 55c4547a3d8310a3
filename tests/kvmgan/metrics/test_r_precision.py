"""R-precision on features whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kvmgan.errors import UserError
from kvmgan.metrics.r_precision import draw_mismatched, r_precision

CLASSES = np.arange(2000) % 200


@pytest.fixture(scope="module")
def mismatched() -> np.ndarray:
    return draw_mismatched(CLASSES, 99, seed=3)


def test_candidates_are_different_captions_of_other_classes(mismatched):
    assert mismatched.shape == (2000, 99)
    assert (CLASSES[mismatched] != CLASSES[:, None]).all()
    assert all(len(set(row)) == 99 for row in mismatched)
    assert (draw_mismatched(CLASSES, 99, seed=3) == mismatched).all()


def test_pictures_equal_to_their_captions_score_100(mismatched):
    captions = torch.randn(2000, 16, generator=torch.Generator().manual_seed(0))
    # Cosine: a picture's length doesn't matter.
    assert r_precision(7 * captions, captions, mismatched, 10) == (100.0, 0.0)


def test_random_pictures_score_one_percent(mismatched):
    source = torch.Generator().manual_seed(0)
    pictures, captions = torch.randn(2, 2000, 16, generator=source).unbind()
    mean, deviation = r_precision(pictures, captions, mismatched, 10)
    assert 0.4 < mean < 1.8
    assert 0 < deviation < 2


def test_a_tie_does_not_score(mismatched):
    """Features that say nothing score nothing."""
    same = torch.ones(2000, 16)
    assert r_precision(same, same, mismatched, 10) == (0.0, 0.0)


def test_folds_give_the_spread():
    """First half right, second half wrong: 50 ± 50 over two folds."""
    captions = torch.eye(4)
    pictures = captions[[0, 1, 3, 2]]
    mismatched = np.array([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])
    assert r_precision(pictures, captions, mismatched, 2) == (50.0, 50.0)


def test_too_few_captions_of_other_classes():
    with pytest.raises(UserError, match=r"--evaluation\.candidates is 4, but only 2 captions"):
        draw_mismatched(np.array([0, 0, 1, 1]), 3, seed=0)
