"""The wrong captions that pictures choose among: of other classes, different, uniform, in little memory."""

from __future__ import annotations

import itertools
import time
import tracemalloc
from collections import Counter

import numpy as np
import pytest

from kvmgan.metrics.candidates import draw_mismatched

SEEDS = (0, 1, 12345, 2**32, 2**63 - 1)
# Sizes of classes: even, uneven, each caption its own class, one class of all but three, fewer others than wanted.
LAYOUTS = {
    "even": np.arange(2000) % 200,
    "uneven": np.repeat([7, 3, 11, 5], [400, 20, 100, 80]),
    "singles": np.arange(300),
    "dominating": np.r_[0, np.ones(500, int), 2, 3],
    "few": np.array([4, 4, 9, 9, 9]),
}


def _expected_width(class_ids: np.ndarray, count: int) -> int:
    return min(count, len(class_ids) - max(Counter(class_ids.tolist()).values()))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("count", [1, 30, 99])
def test_different_captions_of_other_classes(layout, count):
    """As many as wanted or as the caption with the fewest others has, never twice the same, never of the own class."""
    class_ids = LAYOUTS[layout]
    drawn = draw_mismatched(class_ids, count, seed=3)
    assert drawn.shape == (len(class_ids), _expected_width(class_ids, count))
    assert (class_ids[drawn] != class_ids[:, None]).all()
    assert all(len(set(row)) == drawn.shape[1] for row in drawn.tolist())


@pytest.mark.parametrize("layout", ["even", "uneven", "singles"])
def test_every_eligible_caption_is_equally_likely(layout):
    """Chi-square of how often each caption is drawn, over the captions that may draw it."""
    class_ids = LAYOUTS[layout]
    count = 40
    found = np.bincount(draw_mismatched(class_ids, count, seed=3).ravel(), minlength=len(class_ids))
    eligible = class_ids[:, None] != class_ids
    expected = (count / eligible.sum(axis=1, keepdims=True) * eligible).sum(axis=0)
    statistic = ((found - expected) ** 2 / expected).sum()
    # Its mean is the number of captions, its deviation about the root of twice that: five of them either way.
    assert abs(statistic - len(class_ids)) < 5 * np.sqrt(2 * len(class_ids)) + 0.1 * len(class_ids)


def test_every_set_is_equally_likely():
    """20,000 captions of one class choose two of five others: each of the ten pairs comes up equally often."""
    class_ids = np.r_[np.zeros(20_000, int), 1:6]
    rows = np.sort(draw_mismatched(class_ids, 2, seed=0)[:20_000], axis=1)
    found = Counter(map(tuple, rows.tolist()))
    assert set(found) == set(itertools.combinations(range(20_000, 20_005), 2))
    # The deviation of each is sqrt(20000 * 0.1 * 0.9) = 42.
    assert all(abs(times - 2000) < 5 * 43 for times in found.values())


def test_the_few_others_of_a_dominating_class_are_all_taken():
    """Each caption of the large class gets exactly the three others."""
    drawn = draw_mismatched(LAYOUTS["dominating"], 99, seed=0)
    assert (np.sort(drawn[1:501], axis=1) == [0, 501, 502]).all()
    assert len(np.unique(drawn[[0, 501, 502]])) > 3


def test_one_class_leaves_nothing_to_choose():
    assert draw_mismatched(np.full(8, 5), 99, seed=0).shape == (8, 0)


def test_a_seed_decides_and_large_seeds_differ():
    drawn = [draw_mismatched(LAYOUTS["even"], 9, seed) for seed in (*SEEDS, *SEEDS)]
    assert all((first == again).all() for first, again in zip(drawn[:5], drawn[5:], strict=True))
    assert all((a != b).any() for a, b in itertools.combinations(drawn[:5], 2))


@pytest.mark.parametrize("class_ids", [np.arange(30_000), np.r_[np.zeros(29_900, int), 1:101]])
def test_memory_is_linear_in_the_captions(class_ids):
    """30,000 captions with 99 others each, every one its own class or nearly all of one, in 200 MB and seconds."""
    tracemalloc.start()
    began = time.perf_counter()
    drawn = draw_mismatched(class_ids, 99, seed=0)
    seconds, peak = time.perf_counter() - began, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert drawn.shape == (30_000, 99)
    assert peak < 200e6
    assert seconds < 20
