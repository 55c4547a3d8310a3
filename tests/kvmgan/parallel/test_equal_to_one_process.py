"""Two processes, joined by gloo on the CPU, compute what one does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "tests" / "support" / "parallel_checks.py"
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]


Found = dict[str, Any]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[Found]]:
    """By the number of processes, what each of them found in all checks."""
    found = {}
    for count in (1, 2):
        folder = tmp_path_factory.mktemp("checks")
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        launcher = [sys.executable] if count == 1 else [*TORCHRUN, str(count)]
        done = subprocess.run(
            [*launcher, str(SCRIPT), str(folder)], env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr[-3000:]
        found[count] = [torch.load(folder / f"{rank}.pt") for rank in range(count)]
    return found


@pytest.fixture
def run(results: dict[int, list[Found]]) -> Callable[[str, int], list[Found]]:
    """What each of so many processes found in a check."""
    return lambda name, count: [one[name] for one in results[count]]


def assert_near(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    """Each tensor within the tolerance of its own largest value."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        largest = value.abs().max().item() if value.numel() else 0.0
        torch.testing.assert_close(found[name], value, rtol=0, atol=tolerance * max(largest, 1e-3), msg=name)


def assert_losses(found: list[Found], expected: Found, tolerance: float) -> None:
    """The losses of every step, in each process."""
    for one in found:
        for mine, theirs in zip(one["losses"], expected["losses"], strict=True):
            assert mine == pytest.approx(theirs, rel=tolerance)


def assert_tensors(found: list[Found], expected: Found) -> None:
    """Those of one process, and the same bit for bit in both."""
    for one in found:
        assert_near(one["tensors"], expected["tensors"], 1e-6)
    for key, value in found[0]["tensors"].items():
        assert torch.equal(value, found[1]["tensors"][key]), key


def test_what_processes_exchange(run):
    found = run("exchange", 2)
    for rank, one in enumerate(found):
        assert one["gathered"].tolist() == [1, 2, 11, 12]
        # Of sum (i x_i)²: 2 i² x_i, each by the process that has x_i.
        assert one["gradient"].tolist() == [0, 4, 88, 216]
        assert one["of_all"] == 1 + 2
        assert one["mask"].tolist() == [True, True, False, True]
        assert (one["agreed"], one["of_leader"]) == (6, {"from": 0})
        assert one["together"].tolist() == list(range(7))
        # Parts of four: each process has two rows of every part.
        assert one["rows"].tolist() == [[0, 1, 4, 5, 8, 9], [2, 3, 6, 7, 10, 11]][rank]


def test_batch_normalisation_spans_the_processes(run):
    """Outputs, gradients and running statistics of torch's own, with means a thousand times the deviation."""
    (expected,) = run("batch_norm", 1)
    for one in run("batch_norm", 2):
        assert one.keys() == expected.keys()
        for name, tensors in expected.items():
            assert one[name]["dtype"] == tensors["dtype"]
            # Digits of float32 that are left of a thousand; of bfloat16, of the normalised output.
            tolerance = {"torch.float64": 1e-9, "torch.float32": 2e-3, "torch.bfloat16": 2e-2}[name.split()[1]]
            without = {key: value for key, value in tensors.items() if key != "dtype"}
            assert_near({key: one[name][key] for key in without}, without, tolerance)
            # Statistics are taken in 32 bits, whatever the features have.
            if "bfloat16" in name:
                statistics = {key: value for key, value in without.items() if "running" in key}
                assert_near({key: one[name][key] for key in statistics}, statistics, 1e-5)


KINDS = ("memory", "attention", "none", "accumulation", "penalty", "checkpointing", "compiled")


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_of_two_processes_is_that_of_one(run, kind):
    """Every gradient, weight, running statistic and average in float64, losses in their float32; both have the same."""
    (expected,), found = run(f"step {kind}", 1), run(f"step {kind}", 2)
    assert expected["skipped"] == 0
    assert [one["skipped"] for one in found] == [0, 0]
    assert_losses(found, expected, 1e-6)
    assert_tensors(found, expected)


def test_batch_statistics_of_each_process(run):
    """By option: weights stay one, statistics are each process's own; evaluation sees the leader's."""
    first, second = run("unsynchronised", 2)
    differing = {name for name, value in first["own"].items() if not torch.equal(value, second["own"][name])}
    assert differing and all("running" in name for name in differing)
    assert any(name.startswith("average") for name in differing)
    for name, value in first["average"].items():
        assert torch.equal(value, second["average"][name]) and torch.equal(value, first["own"][name])


def test_twenty_steps_have_the_losses_of_one_process(run):
    (expected,), found = run("twenty steps", 1), run("twenty steps", 2)
    assert len(expected["losses"]) == 20
    assert_losses(found, expected, 1e-4)


def test_pretraining_has_the_negatives_and_the_dropout_of_one_process(run):
    (expected,), found = run("pretraining", 1), run("pretraining", 2)
    assert_losses(found, expected, 1e-7)
    assert_tensors(found, expected)


def test_a_picture_that_is_not_finite_in_one_process_is_skipped_by_all(run):
    for one in run("not_finite", 2):
        assert one == {"skipped": 1, "same": True, "finite": True}
