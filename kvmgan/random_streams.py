"""Random numbers by purpose: every draw of the package is a function of (seed, purpose, position) alone.

The seed, the purpose's name and the position (a step, an epoch, a record, a rank) are mixed by numpy's `SeedSequence`,
all 64 bits of each, so that streams of other seeds, purposes or positions have nothing in common, and no state
has to be saved for a resume.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from kvmgan.bounds import SEED_LIMIT


def numpy_stream(seed: int, purpose: str, *position: int) -> np.random.Generator:
    """Numpy's generator for one purpose at one position.

    Raises:
        ValueError: the seed or a part of the position is outside 0 ... 2**63 - 1.
    """
    return np.random.default_rng(_sequence(seed, purpose, position))


def normal_noise(shape: tuple[int, ...], seed: int, purpose: str, *position: int) -> Tensor:
    """Standard normal float32 numbers of this shape, on the CPU.

    Drawn by numpy: torch's CPU generator keeps 32 bits of a seed, too few to tell the steps of a long run apart.
    Raises as `numpy_stream` does.
    """
    return torch.from_numpy(numpy_stream(seed, purpose, *position).standard_normal(shape, dtype=np.float32))


@contextmanager
def torch_stream(device: torch.device, seed: int, purpose: str, *position: int) -> Iterator[None]:
    """Context in which torch's own generators (initial weights, dropout) draw from this stream; restored at its end.

    Raises as `numpy_stream` does.
    """
    drawn = int(_sequence(seed, purpose, position).generate_state(1, np.uint64)[0])
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        # Not torch.manual_seed, which seeds every GPU: those not named here would keep it.
        torch.default_generator.manual_seed(drawn)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(drawn)
        yield


def _sequence(seed: int, purpose: str, position: tuple[int, ...]) -> np.random.SeedSequence:
    for name, number in (("seed", seed), *(("position", part) for part in position)):
        if not 0 <= number < SEED_LIMIT:
            raise ValueError(f"{name} is {number}, expected 0 to 2**63 - 1")
    name = int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:8], "little")
    # Two words of 32 bits each, whatever the number: SeedSequence itself would take (2**32,) and (0, 1) for the same.
    words = [word for number in (seed, name, *position) for word in (number & 0xFFFFFFFF, number >> 32)]
    return np.random.SeedSequence(words)
