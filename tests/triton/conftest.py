"""What the tests of the Triton kernels share: Triton's interpreter, and a record of the kernels that were launched."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from kvmem_accuracy import results
from kvmem_problems import Problem
from torch import Tensor

KERNELS = {
    "tuned": {
        "forward": ["kv_memory_write", "kv_memory_read"],
        "backward": ["kv_memory_read_backward", "kv_memory_write_backward", "kv_memory_parameters_backward"],
    },
    "general": {
        "forward": ["kv_memory_write", "kv_memory_tables", "kv_memory_response", "kv_memory_read"],
        "backward": [
            "kv_memory_blocks_backward",
            "kv_memory_sums_backward",
            "kv_memory_tables_backward",
            "kv_memory_write_backward",
            "kv_memory_parameters_backward",
        ],
    },
}


class Launched(NamedTuple):
    """A kernel that was launched: its name, whether as the tuned branch, and how many programs of it."""

    name: str
    tuned: bool
    programs: int


class WithBranch:
    """Forward and backward through the interpreter, for assert_accurate; asserts the branch that both took."""

    def __init__(self, branch: str, launches: list[Launched]) -> None:
        self.branch, self.launches = branch, launches

    def __call__(self, problem: Problem, attention: bool, grads: list[Tensor]) -> dict[str, Tensor]:
        self.launches.clear()
        found = results(problem, "triton", attention, grads)
        kernels = KERNELS[self.branch]
        assert [launch.name for launch in self.launches] == kernels["forward"] + kernels["backward"]
        assert {launch.tuned for launch in self.launches} == {self.branch == "tuned"}
        return found


@pytest.fixture
def triton_installed() -> None:
    """The test needs Triton."""
    pytest.importorskip("triton", reason="triton isn't installed")


@pytest.fixture(scope="session", autouse=True)
def language_patched_once_a_launch() -> Iterator[None]:
    """Triton's interpreter replaces the functions of its language when a kernel is launched and, though that is done by
    then, at every function that a kernel calls: a third of its time."""
    try:
        from triton.runtime import interpreter
    except ImportError:
        yield
        return
    patch, languages = interpreter._patch_lang, (interpreter.tl, interpreter.tl.core)
    scopes = {}  # of the launch, by the languages that a function's module has

    def restore() -> None:
        while scopes:
            scopes.popitem()[1].restore()

    def patched(function: Callable) -> object:
        seen = frozenset(id(value) for value in function.__globals__.values() if any(value is one for one in languages))
        if seen not in scopes:
            scopes[seen] = patch(function)
        return SimpleNamespace(restore=restore)

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(interpreter, "_patch_lang", patched)
        yield


@pytest.fixture
def interpreter(triton_installed: None) -> None:
    """The test runs kernels in Triton's interpreter, on the CPU."""
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("there is a GPU (tests/gpu runs the kernels on it), and TRITON_INTERPRET isn't 1")


def record(module: ModuleType, monkeypatch: pytest.MonkeyPatch, launches: list[Launched]) -> None:
    """Adds what a module launches from now on."""
    run = module.launch

    def recorded(kernel: object, programs: int, *arguments: object, **settings: bool) -> None:
        run(kernel, programs, *arguments, **settings)
        # Where there are no programs, nothing is launched.
        if programs:
            launches.append(Launched(kernel.__name__, arguments[-1].TUNED, programs))

    monkeypatch.setattr(module, "launch", recorded)


@pytest.fixture
def launches(interpreter: None, monkeypatch: pytest.MonkeyPatch) -> list[Launched]:
    """What the layer launches during the test, in order."""
    from kvmem.triton import launch

    launches = []
    record(launch, monkeypatch, launches)
    return launches


@pytest.fixture
def read_launches(launches: list[Launched], monkeypatch: pytest.MonkeyPatch) -> list[Launched]:
    """What `memory_read` launches during the test, in order."""
    from kvmem.triton import read_launch

    record(read_launch, monkeypatch, launches)
    return launches


@pytest.fixture
def with_branch(launches: list[Launched]) -> Callable[[str], WithBranch]:
    return lambda branch: WithBranch(branch, launches)


@pytest.fixture
def extension() -> None:
    """The test needs the compiled extension."""
    if not hasattr(torch.ops.kvmem, "kv_memory"):
        pytest.skip("kvmem is built without its compiled extension")
