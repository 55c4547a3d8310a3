"""The captions that a picture chooses among in R-precision, beside its own."""

from __future__ import annotations

import numpy as np

from kvmgan.random_streams import numpy_stream


def draw_mismatched(class_ids: np.ndarray, count: int, seed: int) -> np.ndarray:
    """For each of N captions, different captions of other classes, every choice of them equally likely.

    Args:
        class_ids: (N,) class of each caption.
        count: captions that are wanted for each.
        seed: of :mod:`kvmgan.random_streams`.

    Returns:
        (N, K) int64, positions in ``class_ids``. K is ``count``, or what the caption with the fewest others has if
        that is less: 0 where all captions are of one class.
    """
    _, classes, sizes = np.unique(class_ids, return_inverse=True, return_counts=True)
    # Sorted by class, a caption's own class is one block to step over: no list of the others is needed.
    by_class = np.argsort(classes, kind="stable")
    starts, sizes = (np.cumsum(sizes) - sizes)[classes], sizes[classes]
    others = len(class_ids) - sizes
    drawn = _distinct(others, min(count, int(others.min())), numpy_stream(seed, "evaluation candidates"))
    np.add(drawn, sizes, out=drawn, where=drawn >= starts)
    return by_class[drawn].T


def _distinct(limits: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """For each of N limits, ``count`` different numbers from 0 to below it, every set equally likely, (count, N).

    Robert Floyd's algorithm: a number that is taken already gives way to the largest one allowed so far, so that
    nothing is drawn twice however few numbers there are.
    """
    drawn = np.empty((count, len(limits)), np.int64)
    for place in range(count):
        largest = limits - count + place
        number = rng.integers(largest, endpoint=True)
        taken = (drawn[:place] == number).any(axis=0)
        drawn[place] = np.where(taken, largest, number)
    return drawn
