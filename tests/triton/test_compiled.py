"""What Triton compiles the kernels to for GPUs that aren't here: spills, shared memory, matrix instructions, launches.

A kernel that spills, or whose matrix products went to scalar units, is as right as before and several times slower: no
other test on a machine without a GPU would show it. Compiling takes no GPU, and for AMD's no ROCm.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).parents[2]
CACHE = ROOT / "build" / "triton"
MACHINE = ROOT / "tests" / "support" / "triton_machine.py"
# What a program may have of shared memory, in bytes: what is compiled for 8.0 is also to run on 8.6, 8.9 and 12.0.
SHARED_MEMORY = {"cuda:80": 101376, "cuda:90": 232448, "hip:gfx942": 65536}
MIXED = "bfloat16 beside float32"  # an image beside words and weights
# What is compiled by which branch; one target has all types, and vector gates that are tuned.
CASES = {
    "the paper's": ("float32", "bfloat16", MIXED),
    "general": ("float32", "bfloat16"),
    "large": ("float32", "bfloat16"),
}
MORE_ON_HOPPER = {"the paper's": (*CASES["the paper's"], "float16"), "vector gates": ("bfloat16",)}
TUNED = ("the paper's", "vector gates")
FORWARD = ["kv_memory_write", "kv_memory_read"]
GENERAL_FORWARD = ["kv_memory_write", "kv_memory_tables", "kv_memory_response", "kv_memory_read"]
BACKWARD = ["kv_memory_read_backward", "kv_memory_write_backward", "kv_memory_parameters_backward"]
GENERAL_BACKWARD = [
    "kv_memory_blocks_backward",
    "kv_memory_sums_backward",
    "kv_memory_tables_backward",
    *BACKWARD[1:],
]
READING = ["kv_memory_take", "kv_memory_read", "kv_memory_read_backward", "kv_memory_given_backward"]
# A scalar gate has no products there, no gate none at all.
WITHOUT_PRODUCTS = (
    "kv_memory_response",
    "kv_memory_tables_backward",
    "kv_memory_take",
    "kv_memory_given_backward",
)


def pretend(target: str, *arguments: str) -> list[dict] | dict:
    """What tests/support/triton_machine.py prints, from a process of its own: this one's kernels are interpreted."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    # Kept between runs, and compiled anew in a fresh clone.
    environment = {"PYTHONPATH": path, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(CACHE)}
    command = [sys.executable, str(MACHINE), target, *arguments]
    CACHE.mkdir(parents=True, exist_ok=True)
    # Processes of `pytest -n` wait for the first one that compiles for a target, and then find all in the cache.
    with FileLock(CACHE / f"{target.replace(':', '-')}.lock"):
        done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"compiling for {target} failed:\n{done.stderr}"
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def reports() -> Iterator[dict[str, Future]]:
    """Of every target; two are compiled at a time."""
    pytest.importorskip("triton", reason="triton isn't installed")
    pool = ThreadPoolExecutor(2)
    yield {target: pool.submit(pretend, target) for target in SHARED_MEMORY}
    pool.shutdown(cancel_futures=True)


@pytest.fixture(params=SHARED_MEMORY)
def target(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def compiled(reports: dict[str, Future], target: str) -> list[dict]:
    return reports[target].result()


def test_every_kernel_is_compiled_in_every_type(compiled: list[dict], target: str) -> None:
    """At the paper's shape, two launches forward and three backward."""
    cases = {**CASES, **(MORE_ON_HOPPER if target == "cuda:90" else {})}
    for case, dtypes in cases.items():
        for dtype in dtypes:
            names = [one["name"] for one in compiled if one["case"] == case and one["dtype"] == dtype]
            assert names == (FORWARD + BACKWARD if case in TUNED else GENERAL_FORWARD + GENERAL_BACKWARD), (case, dtype)
    for dtype in ("float32", "bfloat16"):
        assert [one["name"] for one in compiled if (one["case"], one["dtype"]) == ("reading", dtype)] == READING


def test_no_program_asks_for_more_shared_memory_than_there_is(compiled: list[dict], target: str) -> None:
    too_much = [one for one in compiled if one["shared_memory"] > SHARED_MEMORY[target]]
    assert not too_much, describe(too_much)


def test_nothing_spills_on_hopper(reports: dict[str, Future]) -> None:
    """No stack frame, no local memory, in any kernel."""
    spilled = [one for one in reports["cuda:90"].result() if one["spills"]]
    assert not spilled, describe(spilled)


def test_words_and_weights_in_float32_spill_no_more(compiled: list[dict]) -> None:
    """Beside an image of 16 bits no more than beside one of 32 bits, or than in 16 bits themselves."""
    spills: dict[tuple[str, str], dict[str, int]] = {}
    for one in compiled:
        spills.setdefault((one["case"], one["name"]), {})[one["dtype"]] = one["spills"]
    mixed = {kernel: found for kernel, found in spills.items() if MIXED in found}
    assert len(mixed) == len(FORWARD + BACKWARD)
    more = {kernel: found for kernel, found in mixed.items() if found[MIXED] > max(found["float32"], found["bfloat16"])}
    assert not more


def test_products_of_16_bit_types_run_on_matrix_units(compiled: list[dict]) -> None:
    kernels = [one for one in compiled if one["dtype"] != "float32" and one["name"] not in WITHOUT_PRODUCTS]
    slow = [one for one in kernels if not one["matrix_instructions"]]
    assert kernels
    assert not slow, describe(slow)


def test_tuning_times_some_tiles_once_and_launches_the_fastest() -> None:
    """The machine's times are made up, but for them it is Triton's own tuner."""
    pytest.importorskip("triton", reason="triton isn't installed")
    found = pretend("cuda:90", "tune")
    assert 2 <= len(found["timed"]) <= 7
    fastest = [min(found["timed"]), 4]
    assert found["launched"] == [fastest, fastest]


def describe(launches: list[dict]) -> str:
    return "\n".join(", ".join(f"{name}: {value}" for name, value in one.items()) for one in launches)
