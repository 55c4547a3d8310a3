"""A short training with the backend that the environment names, whatever the device."""

from __future__ import annotations

import json
import os
from pathlib import Path
from unittest import mock

import pytest
from kvmem_problems import CalledOperators

TIMES = ("time", "images_per_second")


def losses(backend: str, arguments: list[str], runs: Path) -> list[dict[str, float]]:
    """Of every step of a training with KVMEM_BACKEND set."""
    # Where what it needs isn't installed, as on a machine with a GPU and without a network, there is nothing to test.
    main = pytest.importorskip("kvmgan.train").main
    with mock.patch.dict(os.environ, KVMEM_BACKEND=backend):
        assert main([*arguments, "--training.log-interval", "1", "--runs-dir", str(runs / backend)]) == 0
    (folder,) = (runs / backend).iterdir()
    steps = [json.loads(line) for line in (folder / "stats.jsonl").read_text().splitlines()]
    return [{name: value for name, value in step.items() if name not in TIMES} for step in steps if "g" in step]


def assert_trains_as_eager(
    backend: str, namespace: str, steps: int, arguments: list[str], runs: Path, tolerance: dict[str, float]
) -> CalledOperators:
    """A model with one memory layer: its training and evaluation run the backend's operators alone, to the same losses.

    Returns the operators that were called.
    """
    arguments = [*arguments, "--training.steps", str(steps)]
    expected = losses("eager", arguments, runs)
    with CalledOperators() as called:
        found = losses(backend, arguments, runs)
    assert called.names.count(f"{namespace}::kv_memory") > steps
    assert called.names.count(f"{namespace}::kv_memory_backward") == steps
    assert {name.split("::")[0] for name in called.names if "::kv_memory" in name} == {namespace}
    assert [step["step"] for step in found] == list(range(1, steps + 1))
    for step, reference in zip(found, expected, strict=True):
        assert step == pytest.approx(reference, **tolerance)
    return called
