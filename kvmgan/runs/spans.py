"""Named stretches of time, for Nsight (NVTX) and for torch's profiler alike."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import nvtx
from torch.profiler import record_function


@contextmanager
def span(name: str) -> Iterator[None]:
    """Context that shows as ``name`` in a profile."""
    with nvtx.annotate(name), record_function(name):
        yield
