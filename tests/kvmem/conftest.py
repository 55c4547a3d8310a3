"""What the tests of kvmem share: random problems, the backends, and a record of the operators that a call reached."""

import os
from collections.abc import Callable, Iterator

import pytest
import torch
from kvmem_problems import Problem
from kvmem_problems import make_problem as make_random_problem

import kvmem

ISAS = ("generic", "avx2", "avx512", "avx512_bf16")


@pytest.fixture
def make_problem() -> Callable[..., Problem]:
    return make_random_problem


def _need_extension() -> None:
    """Without the compiled extension a test of it fails, unless the environment says that none is wanted."""
    if not kvmem.backends()["cpu"].available:
        if os.environ.get("KVMEM_PURE_PYTHON") == "1":
            pytest.skip("KVMEM_PURE_PYTHON=1: kvmem without its compiled extension")
        pytest.fail(f"cpu backend {kvmem.backends()['cpu']}")


@pytest.fixture
def extension() -> None:
    """The test needs the compiled extension."""
    _need_extension()


@pytest.fixture(params=["eager", "cpu"])
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "cpu":
        _need_extension()
    return request.param


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Forces one instruction set of the CPU kernels for the length of the test."""
    _need_extension()
    runnable = torch.ops.kvmem.cpu_isas().split(",")
    if request.param not in runnable:
        pytest.skip(f"this build and machine run {', '.join(runnable)}")
    before = torch.ops.kvmem.cpu_isa("")
    assert torch.ops.kvmem.cpu_isa(request.param) == request.param
    yield request.param
    torch.ops.kvmem.cpu_isa(before)


@pytest.fixture
def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Image (3, 4, 3, 2), words (3, 7, 5) and a mask of which each image has a word, in float64."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(3, 4, 3, 2, generator=generator, dtype=torch.float64)
    words = torch.randn(3, 7, 5, generator=generator, dtype=torch.float64)
    mask = torch.rand(3, 7, generator=generator) < 0.7
    mask[:, 0] = True
    return image, words, mask
