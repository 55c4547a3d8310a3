"""How tests call the small kernels of tests/simt/engine_kernels.cpp."""

from collections.abc import Callable

import numpy as np

SEEDS = range(1, 9)


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def run(kernel: Callable[..., None], values: np.ndarray, count: int | None = None, **launch) -> np.ndarray:
    """What the kernel writes, given `values`; 0 where it writes nothing."""
    out = np.zeros(values.size if count is None else count, np.float32)
    kernel(values.reshape(-1), out, **launch)
    return out


def outcomes(kernel: Callable[..., None], values: np.ndarray, expected: np.ndarray, **launch) -> list[bool]:
    """Whether the result is right, for every seed."""
    return [np.array_equal(run(kernel, values, seed=seed, **launch), expected) for seed in SEEDS]
