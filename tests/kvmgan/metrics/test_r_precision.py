"""R-precision on features whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kvmgan.metrics import r_precision as module
from kvmgan.metrics.candidates import draw_mismatched
from kvmgan.metrics.r_precision import r_precision


@pytest.fixture(scope="module")
def mismatched() -> np.ndarray:
    return draw_mismatched(np.arange(2000) % 200, 99, seed=3)


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


def test_a_thousand_pictures_score_as_in_a_straightforward_loop():
    """By AttnGAN's description: cosines with the own caption and 99 others, the first must be the largest."""
    source = torch.Generator().manual_seed(5)
    captions = torch.randn(1000, 12, generator=source)
    pictures = captions + 1.2 * torch.randn(1000, 12, generator=source)
    mismatched = draw_mismatched(np.arange(1000) % 50, 99, seed=4)
    hits = []
    for number, others in enumerate(mismatched.tolist()):
        cosines = []
        for caption in [number, *others]:
            product = float(pictures[number].double() @ captions[caption].double())
            lengths = float(pictures[number].double().norm() * captions[caption].double().norm())
            cosines.append(product / lengths)
        hits.append(cosines.index(max(cosines)) == 0)
    folds = [100 * sum(hits[start : start + 100]) / 100 for start in range(0, 1000, 100)]
    assert 20 < np.mean(folds) < 90
    assert r_precision(pictures, captions, mismatched, 10) == pytest.approx((np.mean(folds), np.std(folds)))


@pytest.mark.parametrize("chunk", [1, 99, 1000])
def test_parts_in_which_pictures_are_judged_do_not_matter(mismatched, monkeypatch, chunk):
    """However few candidates fit at once, every picture is judged by its own: every second one is right."""
    captions = torch.randn(2000, 16, generator=torch.Generator().manual_seed(0))
    pictures = captions * torch.tensor([1.0, -1.0]).repeat(1000)[:, None]
    monkeypatch.setattr(module, "_CHUNK", chunk)
    assert r_precision(pictures, captions, mismatched, 10) == (50.0, 0.0)
